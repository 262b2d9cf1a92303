"""Patches to feature vectors, by image encoders of several libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from histoprompt.arrays import WHOLE, Shard, batches_of_shard, rows_of_shard, write_rows
from histoprompt.devices import resolve_device
from histoprompt.encoders import CONTENTS, FILES, first_line, no_encoder
from histoprompt.errors import InputError
from histoprompt.hub import model_folder
from histoprompt.job import progress
from histoprompt.patches import Images, PatchFile
from histoprompt.sources import ImageSource

_PILLOW_FILTERS = {2: "bilinear", 3: "bicubic"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder does to pixels before its first layer.

    Attributes
    ----------
    height, width : of the model's input, pixels.
    factor : the one factor that uint8 values are multiplied by, 1/255 as a rule.
    mean, std : of each channel, after the factor.
    mode : `bilinear` or `bicubic`.
    whole_levels : resized pixels are rounded to whole grey levels, as image processors do; clean-fid does not.
    antialias : resize as Pillow does, with `mode`, averaging where an image shrinks; else as clean-fid's legacy mode: bilinear
        interpolation of four pixels however far an image shrinks, and no rounding.
    """

    height: int
    width: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str
    whole_levels: bool = True
    antialias: bool = True

    @classmethod
    def from_config(cls, path: Path) -> Preprocessing:
        """Read a `preprocessor_config.json`.

        A patch is resized to the input size as a whole: where the processor would resize to more and cut the margin off, the
        size after the cut is taken, since a patch's margin is tissue as its centre is.
        """
        try:
            config: Mapping[str, Any] = json.loads(path.read_text())
            size = config["crop_size"] if config.get("do_center_crop") else config["size"]
            edges = size if isinstance(size, Mapping) else {"shortest_edge": size}
            height, width = (edges[name] if name in edges else edges["shortest_edge"] for name in ("height", "width"))
            normalize = config.get("do_normalize", True)
            return cls(
                height=int(height),
                width=int(width),
                factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
                mean=tuple(config["image_mean"]) if normalize else (0.0,) * 3,
                std=tuple(config["image_std"]) if normalize else (1.0,) * 3,
                mode=_PILLOW_FILTERS[config.get("resample", 2)],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise no_encoder("transformers", path.parent, f"{path.name} is absent or unusable ({first_line(error)})") from error

    def __call__(self, images: Images, device: torch.device) -> torch.Tensor:
        """uint8 (n, P, P, 3) -> float32 (n, 3, height, width) on `device`."""
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
        if pixels.shape[2:] == (self.height, self.width):
            pixels = pixels.float()
        elif not self.antialias:
            pixels = interpolate(pixels.float(), (self.height, self.width), mode="bilinear", align_corners=False)
        else:
            # Anti-aliasing also chooses Pillow's cubic kernel (a = -0.5), with which these models were trained, also where a
            # patch grows and nothing is averaged. A CPU resizes bytes seven times faster than floats, and like a processor.
            pixels = pixels if device.type == "cpu" and self.whole_levels else pixels.float()
            pixels = interpolate(pixels, (self.height, self.width), mode=self.mode, antialias=True).float().clamp(0, 255)
            pixels = pixels.round() if self.whole_levels else pixels
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return torch.addcmul(-mean / std, pixels, self.factor / std)


@dataclass(frozen=True)
class Encoder:
    """An image encoder, ready to use.

    Attributes
    ----------
    network : from pixels (n, 3, height, width) to features (n, d); in evaluation mode. Where it computes in
        bfloat16 the weights of its matrix products are kept so, and all others in float32.
    preprocessing : of its pixels.
    dimension : of a feature vector, d.
    device, dtype : where, and in which precision (autocast), it computes.
    """

    network: torch.nn.Module
    preprocessing: Preprocessing
    dimension: int
    device: torch.device
    dtype: torch.dtype


def load_encoder(
    model: str | Path, revision: str | None, *, kind: str = "transformers", device: torch.device, dtype: str
) -> Encoder:
    """Load an encoder from a folder or, pinned by its commit, from the hub; safetensors only, never remote code.

    Parameters
    ----------
    model : a folder in its library's format, or a hub id; for `inception` the weight file.
    revision : the 40 hexadecimal digits of a hub model's commit; None for what is on the disk.
    kind : `transformers` (a class token or a pooled map), `clip` (image embeddings of transformers' CLIP), `timm`, or
        `inception` (clean-fid's, with the weights of FID).
    dtype : `float32` or `bfloat16` (autocast).

    Raises
    ------
    InputError : no such folder, a hub id without a commit or that cannot be downloaded, no image encoder, weights that are
        missing, no safetensors or, of Inception, not the known ones.
    """
    library = "timm" if kind == "timm" else "transformers"
    place = Path(model) if kind == "inception" else _folder(library, str(model).removeprefix("hf-hub:"), revision)
    # Each library takes seconds to import, and a job needs one.
    if kind == "inception":
        from histoprompt.encoders import inception

        network, preprocessing = inception.load(place)
    elif kind == "timm":
        from histoprompt.encoders import timm

        network, preprocessing = timm.load(place)
    else:
        from histoprompt.encoders import transformers

        network, preprocessing = transformers.load(place, clip=kind == "clip")
    network = network.eval().requires_grad_(False).to(device)
    if dtype != "float32":
        # Autocast would convert these weights anew for every batch, to the same bits.
        for module in network.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.to(_DTYPES[dtype])
    probe = Encoder(network, preprocessing, 0, device, _DTYPES[dtype])
    try:
        features = embed(probe, np.zeros((1, preprocessing.height, preprocessing.width, 3), np.uint8))
        _, dimension = features.shape
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise no_encoder(
            library, place, f"a model of kind {kind}, which fails on its first image ({first_line(error)})"
        ) from error
    return Encoder(network, preprocessing, dimension, device, _DTYPES[dtype])


def _folder(library: str, model: str, revision: str | None) -> Path:
    files = FILES[library]
    return model_folder(
        model,
        revision,
        key="encoders.*",
        kind="a model folder",
        files=files,
        contents=CONTENTS[library],
        complete=lambda cached: all(any(cached.glob(name)) for name in files if not name.endswith(".index.json")),
    )


@torch.inference_mode()
def embed(encoder: Encoder, images: Images) -> npt.NDArray[np.float32]:
    """Features of uint8 (n, P, P, 3) images, computed as one batch: float32 (n, d)."""
    pixels = encoder.preprocessing(images, encoder.device)
    with torch.autocast(encoder.device.type, encoder.dtype, enabled=encoder.dtype != torch.float32):
        features = encoder.network(pixels)
    return features.float().cpu().numpy()  # type: ignore[no-any-return]


def embed_images(
    images_h5: str | Path,
    embeddings_npy: str | Path,
    *,
    model: str | Path,
    revision: str | None,
    kind: str = "transformers",
    batch_size: int,
    dtype: str,
    device: str,
    threads: int,
    shard: Shard = WHOLE,
) -> None:
    """Write the features of the images of a patch file: float32 (N, d), row i = image i.

    Parameters
    ----------
    images_h5 : a patch file.
    embeddings_npy : written.
    model, revision, kind : as `load_encoder`.
    batch_size : images computed at once. A short last batch is filled up, so that all results come from one batch shape.
    dtype : `float32` or `bfloat16`.
    device : `auto`, `cpu` or `cuda`.
    threads : of the CPU.
    shard : of the batches, which alone are computed; row 0 is then the first image of its first batch.

    Raises
    ------
    InputError : what `load_encoder` raises, or features that are not finite.
    """
    torch.set_num_threads(threads)
    with PatchFile(images_h5) as images:
        encoder = load_encoder(model, revision, kind=kind, device=resolve_device(device), dtype=dtype)
        write_features(encoder, images, embeddings_npy, batch_size=batch_size, shard=shard)


def write_features(
    encoder: Encoder, images: ImageSource, features_npy: str | Path, *, batch_size: int, shard: Shard = WHOLE
) -> None:
    """Write the features of an image set, as `embed_images` does, by an encoder that is loaded.

    Raises
    ------
    InputError : features that are not finite, or an image that cannot be read.
    """
    starts = batches_of_shard(len(images), batch_size, shard)

    def parts() -> Iterator[npt.NDArray[np.float32]]:
        batches = zip(starts, embed_batches(encoder, images, batch_size, starts), strict=True)
        for start, part in progress(batches, "embed images", total=len(starts), unit="batch"):
            if not np.isfinite(part).all():
                row = start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
                raise InputError(
                    images.path,
                    found=f"features of image {row} (id {images.ids[row]}) that are not finite, computed in {encoder.dtype}",
                    expected="finite features",
                    remedy="use `dtype: float32` for this encoder, or another model",
                )
            yield part

    shape = (rows_of_shard(len(images), batch_size, shard), encoder.dimension)
    write_rows(features_npy, parts(), shape=shape, dtype=np.float32)


def embed_batches(
    encoder: Encoder, images: ImageSource, batch_size: int, starts: Sequence[int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the features of the batches that begin at `starts`; the next batch is read while one is computed."""
    chunks = (images.read(start, start + batch_size) for start in starts)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, chunks, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, chunks, None)
            filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            yield embed(encoder, filled)[: len(batch)]
