"""Does the generator repeat its training images? Nearest training patches, against those of held-out patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, write_csv, write_json
from histoprompt.intervals import Floats, Rows
from histoprompt.metrics import check_count, check_width, distance_blocks, load_features, share
from histoprompt.patches import Images, PatchFile

NEAR = 0.01  # share of held-out patches that lie as near to a training patch as what is called a near copy
_GAP = 4
_TEXT = 14


def nearest_rows(points: npt.ArrayLike, others: npt.ArrayLike, *, but_itself: bool = False) -> tuple[Rows, Floats]:
    """Nearest of `others` (M, d) to each of `points` (N, d): its row and its Euclidean distance.

    Parameters
    ----------
    but_itself : `others` are the points themselves, and row i is no neighbour of point i.
    """
    points, others = np.asarray(points), np.asarray(others)
    rows, distances = np.empty(len(points), np.int64), np.empty(len(points))
    for start, block in distance_blocks(points, others):
        places = np.arange(len(block))
        if but_itself:
            block[places, start + places] = np.inf
        nearest = block.argmin(axis=1)
        rows[start : start + len(block)] = nearest
        distances[start : start + len(block)] = np.sqrt(block[places, nearest])
    return rows, distances


def authentic(nearest: Rows, distances: Floats, own: Floats) -> npt.NDArray[np.bool_]:
    """Which points lie farther from their nearest training point than that one from its own nearest (Alaa et al. 2022).

    Parameters
    ----------
    nearest, distances : of the points, as `nearest_rows` gives them.
    own : distance of each training point to the nearest other one.
    """
    return np.asarray(distances > own[nearest])


def find_copies(
    features_npy: str | Path,
    images_csv: str | Path,
    images_h5: str | Path,
    train_npy: str | Path,
    subset_csv: str | Path,
    train_h5: str | Path,
    held_out_npy: str | Path,
    held_out_kept_csv: str | Path,
    report_json: str | Path,
    nearest_csv: str | Path,
    pairs_png: str | Path,
    *,
    name: str,
    encoder: str,
    pairs: int,
) -> None:
    """Compare each image's nearest training patch with those of held-out patches, which nobody can have memorised.

    Parameters
    ----------
    features_npy, images_csv, images_h5 : the images: features (N, d), `number,label,cluster`, pixels.
    train_npy, subset_csv, train_h5 : the train split, and the rows of it that the generator was trained on.
    held_out_npy, held_out_kept_csv : the held-out split; rows that are not `kept` are left out.
    report_json : written: `authentic`, the share of images (and of held-out patches) that are farther from their nearest
        training patch than it is from its own nearest; `near_copies`, the share nearer to one than all but 1 % of the held-out
        patches are (so 1 % where nothing is repeated), with Wilson's intervals; median distances; the `closest` pairs. What
        cannot be told from these patches has no value, and a reason.
    nearest_csv : written: `number,train_row,distance,held_out_nearer`, a row an image: its nearest training patch, and the
        share of held-out patches that lie nearer to theirs.
    pairs_png : written: the closest pairs, each image above its nearest training patch.
    name : of the image set.
    encoder : in whose space distances are taken.
    pairs : how many of the closest to list and draw.

    Raises
    ------
    InputError : tables, features and patch files that do not belong together, fewer than two training patches, or no held-out
        patch.
    """
    images, table = load_features(features_npy), read_csv(images_csv, ("number",))
    rows = read_csv(subset_csv, ("row",))["row"].to_numpy(np.int64)
    whole, held_out = load_features(train_npy), load_features(held_out_npy)
    kept = read_csv(held_out_kept_csv, ("kept",))["kept"].to_numpy(bool)
    with PatchFile(images_h5) as file, PatchFile(train_h5) as patches:
        sizes = len(file), len(patches)
    for path, count, what, expected in (
        (features_npy, len(images), images_csv, len(table)),
        (features_npy, len(images), images_h5, sizes[0]),
        (held_out_npy, len(held_out), held_out_kept_csv, len(kept)),
        (train_npy, len(whole), train_h5, sizes[1]),
        (train_npy, len(whole), subset_csv, max(len(whole), int(rows.max(initial=0)) + 1)),
    ):
        check_count(path, count, what, expected)
    for path, features in ((features_npy, images), (held_out_npy, held_out)):
        check_width(path, features, train_npy, whole)
    for path, count, least, remedy in (
        (subset_csv, len(rows), 2, "raise the config key `subset.train`"),
        (held_out_kept_csv, int(kept.sum()), 1, "look at the reasons in this table, and at the config key `outliers`"),
    ):
        if count < least:
            raise InputError(path, found=f"{count} patches to compare with", expected=f"at least {least}", remedy=remedy)
    train, held_out = whole[rows], held_out[kept]
    own = nearest_rows(train, train, but_itself=True)[1]
    nearest, distances = nearest_rows(images, train)
    held_nearest, held_distances = nearest_rows(held_out, train)
    threshold = float(np.quantile(held_distances, NEAR))
    unclear = _why_unclear(len(held_out), threshold)
    closest = np.argsort(distances, kind="stable")[:pairs]
    with PatchFile(images_h5) as file, PatchFile(train_h5) as patches, atomic(pairs_png) as temporary:
        pictures = file.take(closest), patches.take(rows[nearest[closest]])
        _draw_pairs(*pictures, distances[closest], None if unclear else threshold).save(temporary)
    nearer = np.searchsorted(np.sort(held_distances), distances) / len(held_out)
    columns = {"number": table["number"], "train_row": rows[nearest], "distance": distances, "held_out_nearer": nearer.round(6)}
    write_csv(nearest_csv, pd.DataFrame(columns))
    same = "all training patches are the same one in these features" if not own.any() else None
    write_json(
        report_json,
        {
            "name": name,
            "encoder": encoder,
            "images": len(images),
            "train": len(train),
            "held_out": len(held_out),
            "authentic": _unknown(same) if same else share(authentic(nearest, distances, own)),
            "authentic_held_out": share(authentic(held_nearest, held_distances, own)),
            "near_copies": _unknown(unclear) if unclear else share(distances < threshold),
            "near_copies_held_out": NEAR,
            "near_distance": None if unclear else threshold,
            "median_distance": float(np.median(distances)),
            "median_distance_held_out": float(np.median(held_distances)),
            "closest": [
                {"number": int(number), "train_row": int(row), "distance": float(distance)}
                for number, row, distance in zip(
                    table["number"].to_numpy()[closest], rows[nearest[closest]], distances[closest], strict=True
                )
            ],
        },
    )


def _unknown(reason: str) -> dict[str, float | str | None]:
    return {"value": None, "low": None, "high": None, "reason": reason}


def _why_unclear(held_out: int, threshold: float) -> str | None:
    """Why held-out patches do not show how near a copy is, if they do not."""
    if held_out < 1 / NEAR:
        return f"{held_out} held-out patches: their nearest {100 * NEAR:.0f} % need at least {1 / NEAR:.0f}"
    if threshold == 0:
        return f"{100 * NEAR:.0f} % of the held-out patches or more are themselves training patches in these features"
    return None


def _draw_pairs(images: Images, patches: Images, distances: Floats, near: float | None) -> Image.Image:
    """Images above their nearest training patches, each pair with its distance, in units of a near copy's if that is known."""
    font, size = ImageFont.load_default(_TEXT), max(images.shape[1], 72)
    left, step, top = 84, size + _GAP, 46
    sheet = Image.new("RGB", (left + len(images) * step + _GAP, top + 2 * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    heading = "Closest pairs and their distance"
    if near is not None:
        heading = "Closest pairs; their distance, where 1 is that of a near copy (1 % of held-out patches lie nearer)"
    pen.text((8, 6), heading, fill="black", font=font)
    for row, word in enumerate(("image", "training")):
        pen.text((left - 8, top + row * step + size // 2), word, fill="#444444", font=font, anchor="rm")
    for i, (image, patch, distance) in enumerate(zip(images, patches, distances / (near or 1.0), strict=True)):
        pen.text((left + i * step + size // 2, top - 4), f"{distance:.2f}", fill="#444444", font=font, anchor="ms")
        sheet.paste(Image.fromarray(image), (left + i * step, top))
        sheet.paste(Image.fromarray(patch), (left + i * step, top + step))
    return sheet
