"""Pictures of a reader study: who agrees with whom, what each reader could tell, and which patches deceived them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from histoprompt.figures import PALETTE
from histoprompt.files import atomic
from histoprompt.patches import PatchFile
from histoprompt.reader_study.judgements import Judgements

MARK = "SIMULATED READERS, no people"
_ALARM = "#B00020"
_MANY = 16  # readers, from which on numbers in the cells would not be readable
_COLUMNS, _SIZE, _GAP, _TEXT, _HEADING = 10, 96, 6, 13, 18


def short_name(reader: str) -> str:
    """A reader's code, short enough for an axis."""
    return reader if len(reader) <= 24 else f"{reader[:23]}…"


def draw_kappa(report: Mapping[str, Any], kappa_png: str | Path) -> None:
    """Cohen's kappa of every pair of readers on real, on synthetic and on all images (the paper's Figure 5c).

    Parameters
    ----------
    report : of `analysis.analyse`, with `simulated`.
    kappa_png : written.
    """
    names = [row["reader"] for row in report["readers"]]
    side = min(0.5 * len(names) + 1.6, 7.0)
    figure = Figure(figsize=(3 * side + 2.0, side + 1.3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for number, (axis, (source, part)) in enumerate(zip(axes, report["agreement"].items(), strict=True)):
        values = np.full((len(names), len(names)), np.nan)
        for pair in part["pairs"]:
            a, b = (names.index(reader) for reader in pair["pair"])
            values[a, b] = values[b, a] = np.nan if pair["value"] is None else pair["value"]
        picture = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_facecolor("#EEEEEE")
        if len(names) <= _MANY:
            for (row, column), value in np.ndenumerate(values):
                text = "" if row == column else "–" if np.isnan(value) else f"{value:z.2f}"
                ink = "white" if abs(value) > 0.6 else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        axis.set_xticks(range(len(names)), map(short_name, names), fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), map(short_name, names) if number == 0 else [""] * len(names), fontsize=8)
        axis.set_title(f"{source} images (N = {part['images']})\n{_mean_kappa(part)}", fontsize=10)
    figure.colorbar(picture, ax=axes, label="Cohen's kappa", shrink=0.8)
    _title(figure, "Agreement of every pair of readers", report)
    _save(figure, kappa_png)


def _mean_kappa(part: Mapping[str, Any]) -> str:
    mean = part["kappa"]
    if mean["value"] is None:
        return str(mean["reason"])
    spread = "" if mean["deviation"] is None else f" ± {mean['deviation']:.2f}"
    return f"mean {mean['value']:z.2f}{spread} over {mean['pairs']} pair{'s' if mean['pairs'] > 1 else ''}"


def draw_readers(report: Mapping[str, Any], readers_png: str | Path) -> None:
    """Sensitivity and specificity of every reader with their intervals, the median over readers and all readers together.

    Parameters
    ----------
    report : of `analysis.analyse`, with `simulated`.
    readers_png : written.
    """
    rows = [(short_name(row["reader"]), row) for row in report["readers"]]
    places = [*range(len(rows)), len(rows) + 0.6, len(rows) + 1.6]
    figure = Figure(figsize=(9.5, 0.32 * len(rows) + 2.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, measure, of in zip(axes, ("sensitivity", "specificity"), ("synthetic", "real"), strict=True):
        axis.axvline(0.5, color="#777777", linestyle="--", linewidth=1)
        for place, (_, row) in zip(places, rows, strict=False):
            _bar(axis, place, row[measure], PALETTE[0], "o")
            if "put_in" in row:
                axis.plot(row["put_in"][measure], place, "x", color="black", markersize=6, markeredgewidth=1.4, zorder=4)
        _bar(axis, places[-2], report["median"][measure], PALETTE[2], "s")
        _bar(axis, places[-1], report["pooled"][measure], PALETTE[1], "D")
        axis.set(xlim=(-0.02, 1.02), ylim=(places[-1] + 0.7, -0.7))
        axis.set_xlabel(f"{measure}: share of {of} images taken for {of}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(places, [*(name for name, _ in rows), "median of readers", "all readers"], fontsize=8)
    note = "; crosses: what was put in" if report["simulated"] else ""
    _title(figure, f"What readers could tell, with 95 % intervals (dashed: chance{note})", report)
    _save(figure, readers_png)


def _bar(axis: Axes, place: float, cell: Mapping[str, Any], colour: str, marker: str) -> None:
    if cell["value"] is None:
        axis.text(0.5, place, "undefined", ha="center", va="center", fontsize=7, color="#555555")
        return
    if cell["low"] is not None:
        axis.plot([cell["low"], cell["high"]], [place, place], color=colour, linewidth=2)
    axis.plot(cell["value"], place, marker, color=colour, markersize=6, zorder=3)


def _title(figure: Figure, text: str, report: Mapping[str, Any]) -> None:
    if report["simulated"]:
        figure.suptitle(f"{MARK}\n{text}", fontsize=11, color=_ALARM)
    else:
        figure.suptitle(f"{text}: study {report['study']}", fontsize=11)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def draw_patches(found: Judgements, folder: Path, patches_png: str | Path, *, simulated: bool) -> None:
    """The patches most often taken for synthetic and for real, apart for those that are synthetic and those that are real.

    Parameters
    ----------
    found : the answers.
    folder : in which the patch files that the key names are.
    patches_png : written: four rows, each patch with the share of readers who took it for synthetic.
    simulated : the readers are.
    """
    readers = found.answered.sum(axis=0)
    shares = np.divide((found.said & found.answered).sum(axis=0), readers, out=np.full(len(readers), np.nan), where=readers > 0)
    certainty = np.divide(found.scores.sum(axis=0), readers, out=np.zeros(len(readers)), where=readers > 0)
    blocks = []
    for synthetic, towards in ((True, "real"), (True, "synthetic"), (False, "synthetic"), (False, "real")):
        those = np.flatnonzero((found.synthetic == synthetic) & (readers > 0))
        sign = 1 if towards == "real" else -1
        shown = those[np.lexsort((those, sign * certainty[those], sign * shares[those]))][:_COLUMNS]
        deceived = (towards == "synthetic") != synthetic
        heading = f"{'Synthetic' if synthetic else 'Real'} patches most often taken for {towards}"
        blocks.append((f"{heading} ({'deceived' if deceived else 'recognised'})", shown))
    tiles = _tiles(found, folder, sorted({place for _, shown in blocks for place in shown}))
    with atomic(patches_png) as temporary:
        _sheet(found, blocks, tiles, shares, readers, simulated).save(temporary)


def _tiles(found: Judgements, folder: Path, places: Sequence[int]) -> dict[int, Image.Image]:
    tiles = {}
    for name, rows in found.images.iloc[list(places)].groupby("file")["row"]:
        with PatchFile(folder / str(name)) as file:
            for place, patch in zip(rows.index, file.take(rows.to_numpy()), strict=True):
                tiles[int(place)] = Image.fromarray(patch).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return tiles


def _sheet(
    found: Judgements,
    blocks: Sequence[tuple[str, np.ndarray]],
    tiles: Mapping[int, Image.Image],
    shares: np.ndarray,
    readers: np.ndarray,
    simulated: bool,
) -> Image.Image:
    text, heading = ImageFont.load_default(_TEXT), ImageFont.load_default(_HEADING)
    top = 2 * _HEADING + (_HEADING + 10 if simulated else 0)
    height = _HEADING + 12 + _SIZE + 3 * (_TEXT + 3) + 14
    page = Image.new("RGB", (2 * 12 + _COLUMNS * (_SIZE + _GAP), top + len(blocks) * height), "white")
    pen = ImageDraw.Draw(page)
    if simulated:
        pen.text((12, 8), MARK, fill=_ALARM, font=heading)
    note = "Below each patch: readers who took it for synthetic, its label, its arm or cluster"
    pen.text((12, top - _TEXT - 12), note, fill="#444444", font=text)
    for number, (title, shown) in enumerate(blocks):
        y = top + number * height
        pen.text((12, y), title, fill="black", font=heading)
        for column, place in enumerate(map(int, shown)):
            x, below = 12 + column * (_SIZE + _GAP), y + _HEADING + 12 + _SIZE
            image = found.images.iloc[place]
            page.paste(tiles[place], (x, below - _SIZE))
            lines = (
                f"{round(shares[place] * readers[place])} of {readers[place]}",
                found.classes[int(image["label"])],
                image["arm"] if found.synthetic[place] else f"cluster {image['cluster']}",
            )
            for line, words in enumerate(lines):
                pen.text((x, below + 3 + line * (_TEXT + 3)), words, fill="#444444", font=text)
    return page
