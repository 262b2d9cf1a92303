"""An arm's images as a data set: HDF5 in PCam's layout, and an image folder that `datasets` reads."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, write_csv
from histoprompt.job import progress
from histoprompt.patches import Images, Labels, PatchFile, write_patches
from histoprompt.resizing import resize_images

_COLUMNS = ("number", "label", "cluster", "prompt", "seed", "file", "sha256")
_CHUNK = 64


def export_dataset(
    shard_csvs: Sequence[str | Path],
    patches_h5: str | Path,
    images_h5: str | Path,
    images_csv: str | Path,
    metadata_csv: str | Path,
    *,
    patch_size: int,
) -> None:
    """Gather an arm's shards.

    Parameters
    ----------
    shard_csvs : the manifests of all shards; their images are verified against the digests.
    patches_h5 : a patch file, for the words of its classes.
    images_h5 : written: a patch file at `patch_size`, averaged over areas where the images are larger; ids are the file's name
        and the image's number.
    images_csv : written: `number,label,cluster,prompt,seed,sha256,file`; `file` is relative to this file's folder.
    metadata_csv : written: `file_name,label,class,cluster,prompt,seed`, beside a folder of full-size PNGs a class:
        `datasets.load_dataset("imagefolder", data_dir=...)` reads it.
    patch_size : pixels a side.

    Raises
    ------
    InputError : an image is missing, changed or of another size than the first, or numbers are missing or repeated.
    """
    shards = []
    for path in shard_csvs:
        table = read_csv(path, _COLUMNS)[list(_COLUMNS)]
        shards.append(table.assign(path=[Path(path).parent / name for name in table["file"]]))
    table = pd.concat([shard for shard in shards if len(shard)] or shards)
    table = table.sort_values("number", kind="stable", ignore_index=True)
    if not len(table) or (table["number"] != np.arange(len(table))).any():
        wrong = int(np.argmax(table["number"] != np.arange(len(table)))) if len(table) else 0
        raise InputError(
            ", ".join(map(str, shard_csvs)),
            found=f"{len(table)} images, among them no or not exactly one image {wrong}",
            expected="the images 0, 1, 2, … once each, from the shards of one arm",
            remedy="give the manifests of all shards, made with one setting of `shards` and `images`",
        )
    with PatchFile(patches_h5) as patches:
        classes = patches.classes
    images_h5, images_csv, metadata_csv = Path(images_h5), Path(images_csv), Path(metadata_csv)
    names = [f"{classes[label]}/{number:06d}.png" for label, number in zip(table["label"], table["number"], strict=True)]
    with ExitStack() as stack:
        folders = {word: stack.enter_context(atomic(metadata_csv.parent / word)) for word in classes}
        for folder in folders.values():
            folder.mkdir(parents=True)

        def chunks() -> Iterator[tuple[Images, Labels, list[str]]]:
            size: int | None = None
            starts = range(0, len(table), _CHUNK)
            for start in progress(starts, "images", total=len(starts), unit="chunk"):
                part = table.iloc[start : start + _CHUNK]
                images = []
                for path, digest, label, number in zip(
                    part["path"], part["sha256"], part["label"], part["number"], strict=True
                ):
                    image = read_image(path, digest, size)
                    size = len(image)
                    images.append(image)
                    _link(path, folders[classes[label]] / f"{number:06d}.png")
                ids = [f"{images_h5.stem}-{number:06d}" for number in part["number"]]
                yield resize_images(np.stack(images), patch_size), part["label"].to_numpy(np.int64), ids

        write_patches(images_h5, chunks(), classes=classes, size=patch_size)
    gathered = table.assign(file=[Path(os.path.relpath(path, images_csv.parent)).as_posix() for path in table["path"]])
    write_csv(images_csv, gathered[["number", "label", "cluster", "prompt", "seed", "sha256", "file"]])
    metadata = table.assign(file_name=names, **{"class": [classes[label] for label in table["label"]]})
    write_csv(metadata_csv, metadata[["file_name", "label", "class", "cluster", "prompt", "seed"]])


def read_image(path: Path, digest: str, size: int | None) -> Images:
    """uint8 (R, R, 3), once the file is what its manifest says and R is `size`, where one is given."""
    remedy = "the images were changed after they were made: delete the shard's manifest and run the same command again"
    if not path.is_file():
        raise InputError(path, found="no such file", expected="the image its manifest lists", remedy=remedy)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise InputError(path, found=f"SHA-256 {found}", expected=f"SHA-256 {digest}, as its manifest says", remedy=remedy)
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    if image.shape[0] != image.shape[1] or size not in (None, len(image)):
        raise InputError(
            path,
            found=f"{image.shape[1]} x {image.shape[0]} pixels",
            expected=f"{size} x {size} pixels, as the images before it" if size else "a square image",
            remedy="give shards that were sampled at one resolution",
        )
    return image


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, which takes no space; a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
