"""Patches from outside: PCam's files, class folders, or a table of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import write_csv
from histoprompt.fingerprints import fingerprint
from histoprompt.folders import list_folders, list_table, read_image, split_images
from histoprompt.job import progress
from histoprompt.patches import SPLITS, Images, write_patches
from histoprompt.pcam import download_pcam, open_pcam
from histoprompt.words import check_classes

__all__ = ["download_pcam", "fingerprint", "import_patches"]


def import_patches(
    patches_h5: str | Path,
    table_csv: str | Path,
    *,
    source: str,
    root: str | Path,
    split: str,
    patch_size: int,
    classes: list[str],
    holdout: dict[str, float],
    seed: int,
) -> None:
    """Write one split of a source as a patch file and its table `id,label,slide`; an unknown slide is empty.

    Parameters
    ----------
    source : `pcam` (PCam's six HDF5 files), `folders` (`{class}/…` or `{split}/{class}/…`) or `table` (CSV: `path,label` and
        optionally `split`, `slide`).
    root : the folder, or the CSV file.
    patch_size : pixels a side; images of another size are cropped to their central square and resized (`folders.fit_patch`).
    classes : the word of label 0, 1, …; for folders and tables, [] takes their own names, sorted.
    holdout : shares of `valid` and `test` of each class, for folders and tables without splits of their own. Where slides are
        known, whole slides are held out, and the shares are met as nearly as the slides allow.
    seed : of that split.

    Raises
    ------
    InputError : see `pcam.open_pcam`, `folders.list_folders`, `folders.list_table` and `folders.read_image`; also fewer than
        two classes, classes that differ from the config's, or a class without images in some split.
    """
    if source == "pcam":
        if len(classes) != 2:
            raise InputError(
                "config key `data.classes`",
                found=f"{classes}",
                expected="two words for PCam's labels 0 and 1",
                remedy="set `classes: [healthy, cancer]`",
            )
        names: Sequence[str] = classes
        table, patches = open_pcam(root, split, classes=classes, size=patch_size)
        _check_every_class(root, split, table["label"].map(dict(enumerate(classes))), classes)
    else:
        rows = list_folders(root) if source == "folders" else list_table(root)
        names = _agreed_classes(root, rows["class"], classes)
        if "split" not in rows:
            rows = rows.assign(split=split_images(rows, holdout=holdout, seed=seed))
        for name in SPLITS:
            _check_every_class(root, name, rows["class"][rows["split"] == name], names)
        rows = rows[rows["split"] == split]
        absent = [path for path in rows["path"] if not path.is_file()]
        if absent:
            raise InputError(
                root,
                found=f"{len(absent)} images of the split {split} that do not exist, the first {absent[0]}",
                expected="every path to name an image file; relative paths start at the table's own folder",
                remedy="correct the paths",
            )
        label_of = {name: label for label, name in enumerate(names)}
        table = pd.DataFrame({"id": rows["id"], "label": rows["class"].map(label_of), "slide": rows.get("slide", "")})
        patches = (read_image(path, patch_size) for path in rows["path"])
    write_patches(patches_h5, _labelled(table, patches, split), classes=names, size=patch_size)
    write_csv(table_csv, table)


def _labelled(table: pd.DataFrame, patches: Iterator[Images], split: str) -> Iterator[tuple[Images, list[int], list[str]]]:
    bar = progress(patches, f"importing {split}", total=len(table), unit="patch")
    for patch, label, identifier in zip(bar, table["label"], table["id"], strict=True):
        yield patch[None], [label], [identifier]


def _agreed_classes(root: str | Path, found: pd.Series, classes: Sequence[str]) -> list[str]:
    present = sorted(set(found))
    check_classes(root, present)
    if len(present) < 2 or len(present) > 256:
        raise InputError(
            root,
            found=f"{len(present)} classes: {present[:5]}",
            expected="2 to 256 classes",
            remedy="give images of at least two classes, a folder or a label each",
        )
    if classes and sorted(classes) != present:
        raise InputError(
            root,
            found=f"the classes {present}",
            expected=f"the classes {sorted(classes)} of the config key `data.classes`",
            remedy="make the two agree, or set `classes: []` to take the names found",
        )
    return list(classes) or present


def _check_every_class(root: str | Path, split: str, found: pd.Series, classes: Sequence[str]) -> None:
    absent = [name for name in classes if not (found == name).any()]
    if absent:
        raise InputError(
            root,
            found=f"no patch of {', '.join(absent)} in the split {split} ({len(found)} patches)",
            expected="every class in every split",
            remedy="add images of these classes (on more slides, if slides are known), or change the split or `data.holdout`",
        )
