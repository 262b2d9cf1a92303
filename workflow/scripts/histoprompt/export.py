"""An arm's images as a data set: HDF5 in PCam's layout, and an image folder that `datasets` reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import atomic, link, read_csv, write_csv
from histoprompt.job import progress
from histoprompt.patches import Images, Labels, PatchFile, write_patches
from histoprompt.resizing import resize_images
from histoprompt.sources import read_image
from histoprompt.words import check_classes

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
    InputError : an image is missing, changed, damaged or of another size than the first, numbers are missing or repeated, or
        a label has no class.
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
    check_classes(patches_h5, classes)
    foreign = sorted(set(table["label"]) - set(range(len(classes))))
    if foreign:
        raise InputError(
            ", ".join(map(str, shard_csvs)),
            found=f"images of label {foreign[0]}",
            expected=f"labels 0 to {len(classes) - 1}, those of the classes {', '.join(classes)} of {patches_h5}",
            remedy="delete these manifests and run the same command again",
        )
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
                    link(path, folders[classes[label]] / f"{number:06d}.png")
                ids = [f"{images_h5.stem}-{number:06d}" for number in part["number"]]
                yield resize_images(np.stack(images), patch_size), part["label"].to_numpy(np.int64), ids

        write_patches(images_h5, chunks(), classes=classes, size=patch_size)
    gathered = table.assign(file=[Path(os.path.relpath(path, images_csv.parent)).as_posix() for path in table["path"]])
    write_csv(images_csv, gathered[["number", "label", "cluster", "prompt", "seed", "sha256", "file"]])
    metadata = table.assign(file_name=names, **{"class": [classes[label] for label in table["label"]]})
    write_csv(metadata_csv, metadata[["file_name", "label", "class", "cluster", "prompt", "seed"]])
