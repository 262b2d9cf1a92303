"""Patches as latents: encoded once for every arm, and the autoencoder's own error, which no arm can undercut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from histoprompt.arrays import WHOLE, Shard, batches_of_shard, write_rows
from histoprompt.devices import resolve_device
from histoprompt.diffusion import decode_latents, load_vae, open_pipeline, to_bytes, to_pixels
from histoprompt.errors import InputError
from histoprompt.files import read_csv, write_csv, write_json
from histoprompt.job import progress
from histoprompt.patches import Images, Labels, PatchFile, write_patches
from histoprompt.resizing import resize_images

_PERFECT = 100.0  # dB, for a patch that comes back without any error, where PSNR is infinite


def encode_latents(
    patches_h5: Sequence[str | Path],
    subset_csv: Sequence[str | Path],
    latents_npy: Sequence[str | Path],
    rows_csv: Sequence[str | Path],
    *,
    model: str | Path,
    revision: str | None,
    resolution: int,
    flip: bool,
    batch_size: int,
    device: str,
    threads: int,
    shard: Shard = WHOLE,
) -> None:
    """Encode the training images of some splits into the moments of the autoencoder's posterior, before the U-Net's scaling.

    Training draws from the posterior anew in every step, so caching the moments changes nothing statistically. Of a large data
    set only what is trained on is encoded: 20,000 of PCam's 262,144 patches in the paper's study.

    Parameters
    ----------
    patches_h5, subset_csv : each split's patches, and a table whose column `row` says which of them to encode.
    latents_npy : written, one a split: float16 (rows, 1 or 2, 2z, h, w); mean and log variance, as the patch is and, with
        `flip`, mirrored left to right.
    rows_csv : written, one a split: `row`, the row of `patches_h5` behind each entry of `latents_npy`.
    model, revision : of the pipeline; its autoencoder alone is loaded.
    resolution : pixels a side that the generator works at.
    batch_size : images a batch; a short batch is padded, so that an image's latents do not depend on its neighbours.
    shard : of the batches, which alone are encoded.

    Raises
    ------
    InputError : the model or the resolution cannot be used, or a table names no patch or one that is not there.
    """
    torch.set_num_threads(threads)
    pipeline = open_pipeline(model, revision)
    side = pipeline.latents_at(resolution)
    vae = load_vae(pipeline, resolve_device(device))

    def batches(patches: PatchFile, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float16]]:
        starts = range(0, len(rows), batch_size)
        for start in progress(starts, "encoding patches", total=len(starts), unit="batch"):
            images = patches.take(rows[start : start + batch_size])
            views = [images, np.ascontiguousarray(images[:, :, ::-1])] if flip else [images]
            moments = [torch.cat(_moments(vae, view, resolution, batch_size), 1) for view in views]
            yield torch.stack(moments, 1).half().cpu().numpy()

    for source, table, latents, written in zip(patches_h5, subset_csv, latents_npy, rows_csv, strict=True):
        with PatchFile(source) as patches:
            rows = _rows_of(table, patches, source)
            starts = batches_of_shard(len(rows), batch_size, shard)
            rows = rows[starts.start : starts.stop]
            shape = (len(rows), 2 if flip else 1, 2 * pipeline.latent_channels, side, side)
            write_rows(latents, batches(patches, rows), shape=shape, dtype=np.float16)
        write_csv(written, pd.DataFrame({"row": rows}))


def _rows_of(subset_csv: str | Path, patches: PatchFile, patches_h5: str | Path) -> npt.NDArray[np.int64]:
    rows = np.unique(read_csv(subset_csv, ("row",))["row"].to_numpy(np.int64))
    if not len(rows) or rows[0] < 0 or rows[-1] >= len(patches):
        raise InputError(
            subset_csv,
            found=f"rows {rows[0]} to {rows[-1]}" if len(rows) else "no row",
            expected=f"rows of {patches_h5}, which has {len(patches)} patches",
            remedy="delete it and run the same command again",
        )
    return rows


def reconstruct_patches(
    images_h5: str | Path,
    reconstructed_h5: str | Path,
    native_h5: str | Path | None,
    report_json: str | Path,
    *,
    model: str | Path,
    revision: str | None,
    resolution: int,
    batch_size: int,
    device: str,
    threads: int,
) -> None:
    """Send patches through the autoencoder and back: the floor of any latent diffusion model.

    Parameters
    ----------
    images_h5 : patches.
    reconstructed_h5 : written: the decoded posterior means, averaged back to the patch size, with the same labels and ids.
    native_h5 : written: the same at `resolution`; None where that is the patch size.
    report_json : written: `psnr_mean`, the mean of the patches' PSNR (a patch without error counts 100), `psnr_of_mean_mse`,
        the PSNR of the mean squared error over all patches, both in dB on 8-bit values, and `images`.
    model, revision, resolution, batch_size : as for `encode_latents`.

    Raises
    ------
    InputError : the model or the resolution cannot be used.
    """
    torch.set_num_threads(threads)
    place = resolve_device(device)
    pipeline = open_pipeline(model, revision)
    pipeline.latents_at(resolution)
    with PatchFile(images_h5) as patches:
        vae = load_vae(pipeline, place)

        def round_trip(images: Images) -> Images:
            mean, _ = _moments(vae, images, resolution, batch_size)
            padded = torch.cat([mean, mean[-1:].expand(batch_size - len(mean), -1, -1, -1)])
            return decode_latents(vae, padded)[: len(images)]

        _write_changed(patches, round_trip, native_h5, reconstructed_h5, resolution=resolution, batch_size=batch_size)
        with PatchFile(reconstructed_h5) as reconstructed:
            pairs = zip(patches.chunks(), reconstructed.chunks(), strict=True)
            mse = np.concatenate([((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3)) for (_, a), (_, b) in pairs])
    report = {"psnr_mean": float(psnr(mse).mean()), "psnr_of_mean_mse": float(psnr(mse.mean())), "images": len(mse)}
    write_json(report_json, report)


def resample_patches(
    images_h5: str | Path, resampled_h5: str | Path, native_h5: str | Path, *, resolution: int, batch_size: int, threads: int
) -> None:
    """Bring patches to the generator's resolution as training does, and back: what resampling alone makes of real patches.

    Parameters
    ----------
    images_h5 : patches.
    resampled_h5 : written: the same at the patch size again, averaged over areas where they had grown.
    native_h5 : written: the same at `resolution`.
    resolution : pixels a side at which the generator works, other than the patch size.
    batch_size : patches at once.
    """
    torch.set_num_threads(threads)

    def resample(images: Images) -> Images:
        return to_bytes(to_pixels(images, resolution, torch.device("cpu")))

    with PatchFile(images_h5) as patches:
        _write_changed(patches, resample, native_h5, resampled_h5, resolution=resolution, batch_size=batch_size)


def _write_changed(
    patches: PatchFile,
    change: Callable[[Images], Images],
    native_h5: str | Path | None,
    images_h5: str | Path,
    *,
    resolution: int,
    batch_size: int,
) -> None:
    """Write what `change` makes of patches, at its own resolution and, averaged back, at the patch size."""

    def changed() -> Iterator[tuple[Images, Labels, list[str]]]:
        starts = range(0, len(patches), batch_size)
        for start in progress(starts, "round trip", total=len(starts), unit="batch"):
            part = slice(start, start + batch_size)
            yield change(patches.read(start, start + batch_size)), patches.labels[part], patches.ids[part]

    if native_h5 is None:
        write_patches(images_h5, changed(), classes=patches.classes, size=patches.size)
        return
    write_patches(native_h5, changed(), classes=patches.classes, size=resolution)
    with PatchFile(native_h5) as native:
        back = (
            (
                resize_images(images, patches.size),
                native.labels[start : start + len(images)],
                native.ids[start : start + len(images)],
            )
            for start, images in native.chunks(batch_size)
        )
        write_patches(images_h5, back, classes=patches.classes, size=patches.size)


def psnr(mse: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of a mean squared error on 8-bit values, 100 at most."""
    floor = 255.0**2 / 10 ** (_PERFECT / 10)
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(mse, floor)))


@torch.no_grad()
def _moments(vae: AutoencoderKL, images: Images, resolution: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Posterior mean and log variance, (n, z, h, w) each, computed on a batch of `batch_size`."""
    padded = np.concatenate([images, np.repeat(images[-1:], batch_size - len(images), axis=0)])
    posterior = vae.encode(to_pixels(padded, resolution, next(vae.parameters()).device)).latent_dist
    return posterior.mean[: len(images)], posterior.logvar[: len(images)]
