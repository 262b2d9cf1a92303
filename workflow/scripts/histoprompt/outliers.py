"""The outlier filter: patches without tissue, out of focus or nearly black are dropped, each with its reasons."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import read_csv, write_csv
from histoprompt.job import progress
from histoprompt.patches import Images, PatchFile

MEASUREMENTS = ("value_mean", "saturation_mean", "value_std", "saturation_std", "hue_std", "laplacian_variance", "contours")

_CONTOUR_GREY = 150  # contours are those of grey > 150, the paper's level


def measure_patch(patch: Images) -> dict[str, float]:
    """The seven measurements of a patch, by the names in `MEASUREMENTS`.

    Means and standard deviations are over all pixels, of OpenCV's 8-bit HSV with hue on 0-255 too; the Laplacian is OpenCV's
    3 x 3 on 8-bit grey; contours count outlines *and* holes of (grey > 150). A count of connected components alone would call
    dense tissue, one bright component full of dark nuclei, empty. Source: the outlier filter of Osorio et al. 2023.

    Parameters
    ----------
    patch : uint8 (P, P, 3), RGB.
    """
    mean, std = (moment.ravel() for moment in cv2.meanStdDev(cv2.cvtColor(patch, cv2.COLOR_RGB2HSV_FULL)))
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    _, laplacian_std = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_64F))
    bright = (grey > _CONTOUR_GREY).astype(np.uint8)
    contours, _ = cv2.findContours(bright, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "value_mean": float(mean[2]),
        "saturation_mean": float(mean[1]),
        "value_std": float(std[2]),
        "saturation_std": float(std[1]),
        "hue_std": float(std[0]),
        "laplacian_variance": float(laplacian_std.item() ** 2),
        "contours": float(len(contours)),
    }


def filter_outliers(
    patches_h5: str | Path,
    table_csv: str | Path,
    kept_csv: str | Path,
    dropped_csv: str | Path,
    *,
    thresholds: dict[str, float],
) -> None:
    """Measure every patch, and keep those that no threshold catches.

    Parameters
    ----------
    patches_h5, table_csv : a split's patches and their table.
    kept_csv : row i = patch i: `id,label,kept,reasons` and the seven measurements; reasons are threshold names joined by `;`.
    dropped_csv : `group,name,patches,dropped`: over all patches, by label, by morphology where the table has one, and by
        reason (a patch may have several).
    thresholds : `{measurement}_below` -> bound; a patch whose measurement is below it is dropped.

    Raises
    ------
    InputError : the table is not that of the patches, or a label has no patch left.
    """
    table = read_csv(table_csv, ("id", "label"))
    with PatchFile(patches_h5) as patches:
        if table["id"].tolist() != patches.ids or table["label"].tolist() != patches.labels.tolist():
            raise InputError(
                table_csv,
                found=f"{len(table)} rows that do not match the {len(patches)} patches of {patches_h5}",
                expected="the id and label of patch i in row i",
                remedy="delete both files and run the same command again",
            )
        classes = patches.classes
        measured = pd.DataFrame(
            [
                measure_patch(patch)
                for patch in progress(
                    (patch for _, images in patches.chunks() for patch in images),
                    "measuring patches",
                    total=len(patches),
                    unit="patch",
                )
            ],
            columns=list(MEASUREMENTS),
        )

    below = {name: measured[name.removesuffix("_below")] < bound for name, bound in thresholds.items()}
    hits = pd.DataFrame(below, index=measured.index)
    kept = ~hits.any(axis=1)
    reasons = [";".join(hits.columns[row]) for row in hits.to_numpy(dtype=bool)]

    def dropped(group: str, name: str, members: pd.Series) -> tuple[str, str, int, int]:
        return group, name, int(members.sum()), int((members & ~kept).sum())

    counts = [("all", "all", len(kept), int((~kept).sum()))]
    counts += [dropped("label", word, table["label"] == label) for label, word in enumerate(classes)]
    if "morphology" in table:
        counts += [dropped("morphology", name, table["morphology"] == name) for name in sorted(set(table["morphology"]))]
    counts += [("reason", name, len(kept), int(hits[name].sum())) for name in below]

    for group, name, present, lost in counts:
        if group == "label" and present == lost:
            raise InputError(
                patches_h5,
                found=f"no patch of {name} left: all {present} were dropped as outliers",
                expected="patches of every class after the outlier filter",
                remedy="look at the patches; if they are good, lower the bounds under the config key `outliers`",
            )

    result = table[["id", "label"]].assign(kept=kept, reasons=reasons)
    write_csv(dropped_csv, pd.DataFrame(counts, columns=["group", "name", "patches", "dropped"]))
    write_csv(kept_csv, pd.concat([result, measured.astype({"contours": int})], axis=1))
