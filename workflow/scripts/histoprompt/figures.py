"""Figures of the morphology stage: the cluster atlas and the sweep over k. Same input, same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from histoprompt.files import atomic, read_csv
from histoprompt.patches import PatchFile
from histoprompt.subset import COLUMNS, keyed_generator
from histoprompt.words import number_words

# Okabe and Ito's palette, which colour-blind readers tell apart; as many classes as it has colours, then again.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_GAP = 4
_LEFT = 300
_HEADER = 64


def draw_atlas(
    patches_h5: str | Path, assignments_csv: str | Path, atlas_png: str | Path, *, per_cluster: int, seed: int
) -> None:
    """Draw the clusters: a row each, with its number, size and label mix at the left and patches at their native size.

    Parameters
    ----------
    patches_h5 : patches of a split.
    assignments_csv : its clusters, `row,id,label,cluster`.
    atlas_png : written.
    per_cluster : patches a row, a seeded draw among all of the cluster; a cluster that has fewer shows what it has.
    seed : of the draw.
    """
    table = read_csv(assignments_csv, COLUMNS).sort_values("row", kind="stable")
    clusters = range(int(table["cluster"].max()) + 1)
    with PatchFile(patches_h5) as patches:
        pitch = max(patches.size, 72) + _GAP
        step = patches.size + _GAP
        sheet = Image.new("RGB", (_LEFT + per_cluster * step, _HEADER + len(clusters) * pitch), "white")
        pen = ImageDraw.Draw(sheet)
        _draw_legend(pen, patches.classes, len(table), len(clusters))
        for cluster in clusters:
            own = table[table["cluster"] == cluster]
            top = _HEADER + cluster * pitch
            counts = np.bincount(own["label"], minlength=len(patches.classes))
            _draw_cluster(pen, cluster, counts, top)
            drawn = keyed_generator(seed, f"atlas {cluster}").permutation(len(own))[:per_cluster]
            for place, patch in enumerate(patches.take(own["row"].to_numpy()[drawn])):
                sheet.paste(Image.fromarray(patch), (_LEFT + place * step, top))
    with atomic(atlas_png) as temporary:
        sheet.save(temporary)


def _draw_legend(pen: ImageDraw.ImageDraw, classes: tuple[str, ...], patches: int, clusters: int) -> None:
    pen.text((12, 8), f"{patches:,} patches in {clusters} clusters", fill="black", font=ImageFont.load_default(18))
    left, font = 12.0, ImageFont.load_default(15)
    for label, word in enumerate(classes):
        pen.rectangle((left, 40, left + 13, 53), fill=PALETTE[label % len(PALETTE)])
        pen.text((left + 19, 37), word, fill="black", font=font)
        left += 19 + font.getlength(word) + 18


def _draw_cluster(pen: ImageDraw.ImageDraw, cluster: int, counts: npt.NDArray[np.int64], top: int) -> None:
    """A cluster's number in digits and words, its size, and a bar whose parts are the labels' shares."""
    total = int(counts.sum())
    pen.text((12, top + 2), str(cluster), fill="black", font=ImageFont.load_default(22))
    pen.text((52, top + 7), number_words(cluster), fill="#444444", font=ImageFont.load_default(15))
    pen.text((52, top + 28), f"{total:,} patches", fill="#444444", font=ImageFont.load_default(15))
    left, width = 52.0, _LEFT - 52 - 16
    pen.rectangle((left, top + 52, left + width, top + 66), fill="#DDDDDD")
    for label, count in enumerate(counts):
        part = width * count / max(total, 1)
        if count:
            pen.rectangle((left, top + 52, left + part, top + 66), fill=PALETTE[label % len(PALETTE)])
        left += part


def draw_sweep(table: pd.DataFrame, sweep_png: str | Path) -> None:
    """Plot three validity indices over k and mark the best k of each.

    Parameters
    ----------
    table : `k,silhouette,davies_bouldin,s_dbw`, a row a k.
    sweep_png : written.
    """
    figure = Figure(figsize=(6.0, 7.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True)
    panels = (
        ("silhouette", "silhouette\n(higher is better)", -1),
        ("davies_bouldin", "Davies–Bouldin\n(lower is better)", 1),
        ("s_dbw", "S_Dbw\n(lower is better)", 1),
    )
    for axis, (column, title, sign) in zip(axes, panels, strict=True):
        known = table.dropna(subset=[column])
        axis.plot(known["k"], known[column], color=PALETTE[0], marker="o", markersize=4)
        if len(known):
            best = known.iloc[int(np.argmin(sign * known[column]))]
            axis.plot(best["k"], best[column], "D", color=PALETTE[1], markersize=9, label=f"best: k = {int(best['k'])}")
            axis.legend(frameon=False)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("number of clusters k")
    axes[-1].set_xticks(table["k"])
    with atomic(sweep_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
