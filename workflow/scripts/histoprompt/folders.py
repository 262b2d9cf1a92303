"""Image files as a source of patches: class folders, or a table of paths and labels."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from histoprompt.errors import InputError
from histoprompt.fingerprints import image_files, is_junk
from histoprompt.patches import SPLITS, Images


def list_folders(root: str | Path) -> pd.DataFrame:
    """The images of `root/{class}/…`, or of `root/{split}/{class}/…`, at any depth below the class folder.

    Returns
    -------
    `id` (path relative to `root`), `path`, `class` and, where `root` has split folders, `split`; sorted by `id`.

    Raises
    ------
    InputError : no such folder, some splits missing or beside class folders, or no class folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            root,
            found="no folder of this name",
            expected="a folder with one folder of images a class",
            remedy="correct the config key `data.root`",
        )
    top = _folders(root)
    if not any(folder.name in SPLITS for folder in top):
        return _images_by_class(root, root)
    if sorted(folder.name for folder in top) != sorted(SPLITS):
        raise InputError(
            root,
            found=f"the folders {[folder.name for folder in top]}",
            expected=f"exactly {list(SPLITS)}, each with a folder a class; or class folders alone",
            remedy="name the three splits so, or take them out and let `data.holdout` split the images",
        )
    return pd.concat([_images_by_class(root / split, root).assign(split=split) for split in SPLITS], ignore_index=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not is_junk(path.name))


def _images_by_class(parent: Path, root: Path) -> pd.DataFrame:
    classes = _folders(parent)
    rows = [(path.relative_to(root).as_posix(), path, folder.name) for folder in classes for path in image_files(folder)]
    empty = {folder.name for folder in classes} - {name for _, _, name in rows}
    if empty:
        raise InputError(
            parent / min(empty),
            found="no image",
            expected="images in every class folder",
            remedy="add images, or remove the folder",
        )
    return pd.DataFrame(rows, columns=["id", "path", "class"])


def list_table(table: str | Path) -> pd.DataFrame:
    """The images of a CSV file with columns `path`, `label` (the class's word) and, optionally, `split` and `slide`.

    Returns
    -------
    `id` (the path as written), `path` (relative ones are relative to the CSV), `class` and, where given, `split` and `slide`.

    Raises
    ------
    InputError : no such table, missing columns, empty or repeated entries, an unknown split, or a slide in two splits.
    """
    table = Path(table)
    if not table.is_file():
        raise InputError(
            table,
            found="no file of this name",
            expected="a CSV file with the columns path,label and, optionally, split and slide",
            remedy="correct the config key `data.root`",
        )
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (UnicodeDecodeError, ValueError) as error:
        raise _bad_table(table, f"no readable CSV ({error})") from error
    rows.columns = rows.columns.str.strip()
    if not {"path", "label"} <= set(rows):
        raise _bad_table(table, f"the columns {list(rows.columns)}")
    names = [name for name in ("path", "label", "split", "slide") if name in rows]
    rows = rows[names].apply(lambda column: column.str.strip())
    for name in names:
        empty = np.flatnonzero(rows[name] == "")
        if empty.size:
            raise _bad_table(table, f"no {name} in line {empty[0] + 2}")
    paths = pd.Series([os.path.normpath(table.parent / path) for path in rows["path"]], dtype=object)
    repeated = rows["path"][paths.duplicated()]
    if len(repeated):
        raise _bad_table(table, f"{len(repeated)} images that occur twice, the first {repeated.iloc[0]}")
    if "split" in rows:
        unknown = sorted(set(rows["split"]) - set(SPLITS))
        if unknown:
            raise _bad_table(table, f"the splits {unknown}")
    if "split" in rows and "slide" in rows:
        splits_of_slide = rows.groupby("slide")["split"].nunique()
        shared = sorted(splits_of_slide.index[splits_of_slide > 1])
        if shared:
            raise InputError(
                table,
                found=f"{len(shared)} slides in more than one split, the first {shared[0]}",
                expected="every slide in one split: patches of one slide look alike, and tests would flatter the model",
                remedy="correct the splits, or take the column `split` out and let `data.holdout` split by slide",
            )
    images: pd.DataFrame = rows.rename(columns={"label": "class"}).assign(id=rows["path"], path=paths.map(Path))
    return images


def _bad_table(table: Path, found: str) -> InputError:
    return InputError(
        table,
        found=found,
        expected="columns path,label and, optionally, split (train, valid, test) and slide; no field empty, no image twice",
        remedy="correct the table",
    )


def split_images(rows: pd.DataFrame, *, holdout: dict[str, float], seed: int) -> pd.Series:
    """A split for every image, by shares of each class; whole slides where `rows` has a column `slide`.

    The order in which images are dealt out is that of a keyed hash of their own identifiers, so the split depends on neither
    the order of the rows nor the file system, and a few images more move few of the others.

    Parameters
    ----------
    rows : `id`, `class` and optionally `slide`.
    holdout : the shares of `valid` and `test`; the rest is `train`.
    seed : another seed gives another split.
    """
    rank = rows["id"].map(lambda text: _keyed(seed, text))
    split = pd.Series("train", index=rows.index)
    if "slide" not in rows:
        for members in rows.groupby("class").groups.values():
            ordered = rank[members].sort_values().index
            start = 0
            for name, share in holdout.items():
                stop = start + round(share * len(ordered))
                split[ordered[start:stop]] = name
                start = stop
        return split

    # Whole slides, dealt out one by one to the split that most lacks the classes the slide has.
    counts = pd.crosstab(rows["slide"], rows["class"])
    shares = dict(zip(counts.index, (counts / counts.sum()).to_numpy(), strict=True))
    targets = {"train": 1 - sum(holdout.values()), **holdout}
    lacking = np.repeat(np.array([*targets.values()])[:, None], counts.shape[1], axis=1)
    split_of_slide = {}
    for slide in sorted(shares, key=lambda text: _keyed(seed, text)):
        chosen = int(np.argmax((lacking * shares[slide]).sum(axis=1)))
        lacking[chosen] -= shares[slide]
        split_of_slide[slide] = [*targets][chosen]
    return rows["slide"].map(split_of_slide)


def _keyed(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()


def read_image(path: str | Path, size: int) -> Images:
    """An image file as a patch: uint8 (size, size, 3), RGB.

    The orientation in its EXIF tags is applied; transparency is laid on white; grey, palette, CMYK and 16-bit grey become
    8-bit RGB (16-bit grey by 255/65535 of its full range); colour profiles are ignored; of several frames the first is read.
    Then `fit_patch`.

    Raises
    ------
    InputError : Pillow cannot read the file, or its pixels are floats or 32-bit integers, whose range nobody knows.
    """
    try:
        with Image.open(path) as image:
            return fit_patch(_to_rgb(ImageOps.exif_transpose(image), path), size)
    except InputError:
        raise
    # Pillow's decoders raise all of these for files that are absent, damaged, cut short, absurdly large or no images.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(
            path,
            found=f"no readable image ({error})",
            expected="an image in a format that Pillow reads (PNG, JPEG, TIFF, BMP, WebP, …), of patch rather than slide size",
            remedy="replace or remove the file",
        ) from error


def _to_rgb(image: Image.Image, path: str | Path) -> Images:
    if image.mode in ("I", "F"):
        raise InputError(
            path,
            found="32-bit pixels" if image.mode == "I" else "floating-point pixels",
            expected="8 or 16 bits a channel",
            remedy="convert the image to 8-bit RGB, choosing yourself which values are black and white",
        )
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def fit_patch(pixels: Images, size: int) -> Images:
    """Crop uint8 (H, W, 3) to its central square, then resize it to (size, size, 3); pixels of the right size stay as they are.

    Pillow's bicubic filter, which widens its support when it shrinks an image: no aliasing.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC))
