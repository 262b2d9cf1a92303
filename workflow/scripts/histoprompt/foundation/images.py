"""The training images of the embedded models: foundation phantom, train patches of a PCam root, textures and photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images

from histoprompt.files import atomic, write_csv
from histoprompt.foundation.textures import draw_texture
from histoprompt.job import progress
from histoprompt.phantom import phantom_batches

Images = NDArray[np.uint8]
_CHUNK = 250

# Photographs that come inside scikit-image; its pictures of tissue are left out on purpose.
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "rocket",
)


def make_foundation_images(
    tissue_npy: str | Path,
    table_csv: str | Path,
    textures_npy: str | Path,
    *,
    tissue: dict[str, int],
    textures: dict[str, float],
    seed: int,
    pcam_root: str | None,
    workers: int,
) -> None:
    """Draw both sets: tissue for all models, textures for the autoencoder."""
    make_tissue(tissue_npy, table_csv, **tissue, seed=seed, pcam_root=pcam_root, workers=workers)
    make_textures(
        textures_npy,
        pictures=int(textures["pictures"]),
        photograph_share=textures["photograph_share"],
        seed=seed,
        workers=workers,
    )


def make_tissue(
    images_npy: str | Path, table_csv: str | Path, *, patches: int, slides: int, seed: int, pcam_root: str | None, workers: int
) -> None:
    """Write uint8 (N,96,96,3) tissue patches and the table `source,morphology,label,sha256`.

    `patches` phantom patches come from the foundation's own slides, disjoint from every study's. With a `pcam_root`, all
    patches of its *train* file follow (morphology -1), each with the SHA-256 of its pixels; valid and test are never opened.
    """
    jobs = [(start, min(_CHUNK, patches - start), slides, seed) for start in range(0, patches, _CHUNK)]
    with atomic(images_npy) as temporary:
        real = _pcam_train(pcam_root)
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(patches + len(real[1]), 96, 96, 3))
        tables = []
        with ProcessPoolExecutor(workers) as pool:
            done = pool.map(_phantom_chunk, jobs)
            for (start, count, _, _), (images, table) in progress(zip(jobs, done, strict=True), "phantom", total=len(jobs)):
                out[start : start + count] = images
                tables.append(table)
        if len(real[1]):
            out[patches:] = real[0]
            digests = [hashlib.sha256(patch.tobytes()).hexdigest() for patch in real[0]]
            tables.append(pd.DataFrame({"source": "pcam", "morphology": -1, "label": real[1], "sha256": digests}))
        out.flush()
        del out
    write_csv(table_csv, pd.concat(tables, ignore_index=True))


def _phantom_chunk(job: tuple[int, int, int, int]) -> tuple[Images, pd.DataFrame]:
    start, count, slides, seed = job
    batches = list(phantom_batches(count, domain="foundation", split="train", slides=slides, seed=seed, start=start, batch=50))
    table = pd.DataFrame(
        {
            "source": "phantom",
            "morphology": np.concatenate([b.morphology for b in batches]),
            "label": np.concatenate([b.labels for b in batches]),
            "sha256": "",
        }
    )
    return np.concatenate([b.images for b in batches]), table


def _pcam_train(root: str | None) -> tuple[Images, NDArray[np.int64]]:
    if root is None:
        return np.empty((0, 96, 96, 3), np.uint8), np.empty(0, np.int64)
    stem = Path(root) / "camelyonpatch_level_2_split_train"
    with h5py.File(f"{stem}_x.h5") as x, h5py.File(f"{stem}_y.h5") as y:
        return x["x"][:], y["y"][:].reshape(-1).astype(np.int64)


def make_textures(images_npy: str | Path, *, pictures: int, seed: int, photograph_share: float, workers: int) -> None:
    """Write uint8 (N,96,96,3) pictures that are not tissue."""
    chunks = [np.arange(start, min(start + _CHUNK, pictures)) for start in range(0, pictures, _CHUNK)]
    with atomic(images_npy) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(pictures, 96, 96, 3))
        with ProcessPoolExecutor(workers) as pool:
            done = pool.map(_texture_chunk, [(chunk, seed, photograph_share) for chunk in chunks])
            for chunk, drawn in progress(zip(chunks, done, strict=True), "textures", total=len(chunks)):
                out[chunk] = np.stack(drawn)
        out.flush()
        del out


def _texture_chunk(job: tuple[NDArray[np.int64], int, float]) -> list[Images]:
    numbers, seed, share = job
    photos = list(_photographs())
    pictures = []
    for n in numbers:
        photograph = _photograph(photos, (seed, 1, int(n)), share)
        pictures.append(draw_texture((seed, 0, int(n)), 96) if photograph is None else photograph)
    return pictures


def _photographs() -> Iterator[Image.Image]:
    for name in PHOTOGRAPHS:
        yield Image.fromarray(getattr(photographs, name)()).convert("RGB")
    for picture in load_sample_images().images:
        yield Image.fromarray(picture)


def _photograph(photos: list[Image.Image], seed: tuple[int, ...], share: float) -> Images | None:
    """A random crop of a photograph, 96 to 256 pixels a side before it is reduced, or nothing with probability 1 - share."""
    rng = np.random.default_rng(seed)
    if rng.random() >= share:
        return None
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.integers(96, min(256, *photo.size) + 1))
    left, top = int(rng.integers(photo.width - side + 1)), int(rng.integers(photo.height - side + 1))
    crop = photo.resize((96, 96), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
