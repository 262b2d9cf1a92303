"""What synthetic images are worth in real ones: learning curves of classifiers, as a table, a page and a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from histoprompt.errors import InputError
from histoprompt.figures import PALETTE
from histoprompt.files import atomic, read_array, read_json, write_csv
from histoprompt.intervals import Floats, auc_interval, macro_auc, mean_interval, normal_reach, sampling_error
from histoprompt.markdown import markdown_table
from histoprompt.patches import Labels, PatchFile
from histoprompt.scores import score

_WIDTH = 120
_COLOURS = (PALETTE[1], PALETTE[0], *PALETTE[2:6])  # without yellow, and black is for real patches
_MARKERS = ("o", "^", "D", "v", "P", "X")
_REAL = "#000000"


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """Classifiers of one point of a curve, one a seed: trained on `real` real patches and `synthetic` images."""

    curve: str
    real: int
    synthetic: int
    saw: int  # real patches that the generator of the synthetic images was trained on
    aucs: Floats  # (seeds,)
    contributions: Floats  # (N,), mean over seeds: of each test image to the AUC
    scores: Mapping[str, Any]


def in_quadrature(value: float, *intervals: tuple[float, float], low: float = -np.inf, high: float = np.inf) -> Interval:
    """A value whose error has several independent sources, from its interval for each: arms added as squares, side by side."""
    below = float(np.sqrt(sum((value - interval[0]) ** 2 for interval in intervals)))
    above = float(np.sqrt(sum((interval[1] - value) ** 2 for interval in intervals)))
    return Interval(value, max(value - below, low), min(value + above, high))


def auc_of(point: Point, labels: Labels) -> Interval:
    """Mean AUC over seeds, with an interval over test images and, where there are several, over seeds."""
    value = float(point.aucs.mean())
    intervals = [auc_interval(value, point.contributions, labels)]
    return in_quadrature(value, *intervals, *_over_seeds(point.aucs), low=0.0, high=1.0)


def difference(one: Point, other: Point, labels: Labels) -> Interval:
    """Mean AUC of one point less that of another, paired by test image and by seed, with an interval over both."""
    differences = one.aucs - other.aucs
    value = float(differences.mean())
    reach = normal_reach(sampling_error(one.contributions - other.contributions, labels))
    return in_quadrature(value, (value - reach, value + reach), *_over_seeds(differences))


def _over_seeds(values: Floats) -> list[tuple[float, float]]:
    return [mean_interval(values)] if values.size > 1 else []


def crossing(sizes: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """Where a falling curve reaches zero, linear in log size; 0 below the first size, infinite beyond the last.

    Parameters
    ----------
    sizes : ascending, positive.
    values : not rising.
    """
    sizes, values = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if values[0] < 0:
        return 0.0
    if values[-1] > 0:
        return float("inf")
    right = int(np.argmax(values <= 0))
    if right == 0 or values[right] == 0:
        return float(sizes[right])
    left = right - 1
    share = values[left] / (values[left] - values[right])
    return float(np.exp(np.log(sizes[left]) + share * np.log(sizes[right] / sizes[left])))


def worth(sizes: Sequence[int], gains: Sequence[Interval]) -> Interval:
    """How many real patches train as well as a synthetic set: where its gain over n of them vanishes.

    The value is where the gains, made monotone by isotonic regression, cross zero. The interval holds every n at which the gain
    cannot be told from zero: a test inverted, so that it is right where it is open too. 0 stands for fewer than the first size,
    infinity for more than the last.

    Parameters
    ----------
    sizes : numbers of real patches, ascending.
    gains : AUC of the synthetic set less that of each number of real patches.
    """
    value = crossing(sizes, isotonic_regression([gain.value for gain in gains], increasing=False).x)
    low = crossing(sizes, np.minimum.accumulate([gain.low for gain in gains]))
    high = crossing(sizes, np.maximum.accumulate([gain.high for gain in gains][::-1])[::-1])
    return Interval(value, min(low, value), max(high, value))


def summarise_learning_curve(
    reports: Sequence[str | Path],
    predictions: Sequence[str | Path],
    test_h5: str | Path,
    table_csv: str | Path,
    text_md: str | Path,
    figure_png: str | Path,
    *,
    study: str,
    titles: Mapping[str, str],
) -> None:
    """Score every point of the learning curves, and say what each synthetic set is worth.

    Parameters
    ----------
    reports, predictions : files of `classifier.train_learning_curve`, curve after curve, the curve `real` among them, each with
        the same seeds.
    test_h5 : the real test split.
    table_csv : written: a row a point: `curve,real,synthetic,generator_saw,saw_more`, the mean `auc` with `low` and `high`
        (test images and seeds), `test_low`, `test_high`, `seeds_low`, `seeds_high`, `compared_with` (real patches) and the
        paired `difference`, accuracy and calibration, and every seed's AUC.
    text_md : written: the same as a table to read, below what each synthetic set is worth in real patches.
    figure_png : written: AUC over the number of real patches.
    study : its name.
    titles : what an arm is called, where it is not its name.

    Raises
    ------
    InputError : predictions that are not of this test split.
    """
    with PatchFile(test_h5) as test:
        labels = test.labels
    files = [(read_json(report), report, path) for report, path in zip(reports, predictions, strict=True)]
    points: dict[str, list[Point]] = {}
    for curve in dict.fromkeys(report["curve"] for report, _, _ in files):
        own = [(report, path) for report, _, path in files if report["curve"] == curve]
        points[curve] = _points([report for report, _ in own], [path for _, path in own], labels, test_h5)
    settings, everything = files[0][0]["settings"], files[0][0]["all_real"]
    seeds = list(dict.fromkeys(report["seed"] for report, _, _ in files))
    real = {point.real: point for point in points["real"]}
    rows = [_row(point, _reference(point, real), labels, seeds) for curve in points.values() for point in curve]
    table = pd.DataFrame(rows).astype({"generator_saw": "Int64", "compared_with": "Int64"})  # whole, where there are any
    write_csv(table_csv, table)
    worths = {
        curve: worth(list(real), [difference(own[0], point, labels) for point in real.values()])
        for curve, own in points.items()
        if curve != "real"
    }
    page = _page(study, titles, rows, worths, settings, len(labels), seeds, everything)
    with atomic(text_md) as temporary:
        temporary.write_text(page)
    with atomic(figure_png) as temporary:
        _figure(table, titles, everything).savefig(temporary, metadata={"Software": None})


def _points(
    reports: Sequence[Mapping[str, Any]], predictions: Sequence[str | Path], labels: Labels, test_h5: str | Path
) -> list[Point]:
    """The points of one curve, from the predictions of every seed."""
    arrays = [read_array(path, mapped=True) for path in predictions]
    for path, array in zip(predictions, arrays, strict=True):
        if array.shape[1] != len(labels):
            raise InputError(
                path,
                found=f"predictions for {array.shape[1]} images",
                expected=f"{len(labels)}, as {test_h5} has",
                remedy="delete it and run the same command again",
            )
    first = reports[0]
    seeds = [report["seed"] for report in reports]
    points = []
    for i, real in enumerate(first["real"]):
        probabilities = np.stack([array[i] for array in arrays])
        each = [macro_auc(p, labels) for p in probabilities]
        points.append(
            Point(
                curve=first["curve"],
                real=real,
                synthetic=first["synthetic"],
                saw=first["generator_saw"].get(first["curve"], 0),
                aucs=np.array([auc for auc, _ in each]),
                contributions=np.mean([parts for _, parts in each], axis=0),
                scores=score(probabilities, labels, seeds),
            )
        )
    return points


def _reference(point: Point, real: Mapping[int, Point]) -> Point | None:
    """Real patches alone, as many as a point's classifier or its generator has had; none where neither has had any."""
    patches = max(point.real, min(point.saw, max(real)))
    return None if point.curve == "real" or patches == 0 else real[patches]


def _row(point: Point, reference: Point | None, labels: Labels, seeds: Sequence[int]) -> dict[str, Any]:
    auc, scores = auc_of(point, labels), point.scores
    gain = None if reference is None else difference(point, reference, labels)
    return {
        "curve": point.curve,
        "real": point.real,
        "synthetic": point.synthetic,
        "generator_saw": point.saw if point.synthetic else None,
        "saw_more": point.saw > point.real,
        "auc": auc.value,
        "low": auc.low,
        "high": auc.high,
        "test_low": scores["auc"]["low"],
        "test_high": scores["auc"]["high"],
        "seeds_low": scores["auc_over_seeds"]["low"],
        "seeds_high": scores["auc_over_seeds"]["high"],
        "compared_with": reference and reference.real,
        "difference": gain and gain.value,
        "difference_low": gain and gain.low,
        "difference_high": gain and gain.high,
        "accuracy": scores["accuracy"]["value"],
        **{key: scores[key] for key in ("brier", "calibration_error", "calibration_floor")},
        **{f"auc seed {seed}": value for seed, value in zip(seeds, point.aucs.tolist(), strict=True)},
    }


def number_of_patches(value: float, sizes: Sequence[int]) -> str:
    """A number of patches in words, open at either end."""
    if value == 0:
        return f"fewer than {min(sizes):,}"
    return f"more than {max(sizes):,}" if np.isinf(value) else f"{value:,.0f}"


def _page(
    study: str,
    titles: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    worths: Mapping[str, Interval],
    settings: Mapping[str, Any],
    test_images: int,
    seeds: Sequence[int],
    everything: int,
) -> str:
    real = {row["real"]: row for row in rows if row["curve"] == "real"}
    lines = [f"# Learning curves of study {study}", ""]
    for curve, amount in worths.items():
        own = {row["real"]: row for row in rows if row["curve"] == curve}
        low, value, high = (number_of_patches(n, list(real)) for n in (amount.low, amount.value, amount.high))
        around = "about " if 0 < amount.value < np.inf else ""
        interval = "all of the 95 % interval" if low == high else f"95 % interval: {low} to {high}"
        sentence = (
            f"- **{titles.get(curve, curve)}**: its {own[0]['synthetic']:,} synthetic patches alone are worth {around}"
            f"**{value}** real ones [{interval}]: AUC {_triple(own[0])}, where all {everything:,} real "
            f"ones give {_triple(real[everything])}. {_generator(own[0]['generator_saw'])} Added to all {everything:,} real "
            f"patches they change the AUC by {_gain(own[everything])}."
        )
        lines.append(textwrap.fill(sentence, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    head = ["trained on", "real", "synthetic", "generator saw", "AUC", "over seeds", "beside real alone", "Brier", "ECE"]
    body = [
        [
            titles.get(row["curve"], row["curve"]),
            f"{row['real']:,}",
            f"{row['synthetic']:,}",
            "" if row["curve"] == "real" else f"{row['generator_saw']:,}{' †' if row['saw_more'] else ''}",
            _triple(row),
            "" if len(seeds) == 1 else f"[{row['seeds_low']:.3f}, {row['seeds_high']:.3f}]",
            "" if row["compared_with"] is None else f"{row['compared_with']:,}: {_gain(row)}",
            f"{row['brier']:.3f}",
            f"{row['calibration_error']:.3f}",
        ]
        for row in rows
    ]
    lines += ["", *markdown_table(head, body), ""]
    floors = [row["calibration_floor"] for row in rows]
    legend = [
        f"- A {settings['model']} trained for {settings['steps']} steps at every point, with synthetic images in half of every "
        f"batch where there are both kinds; tested on all {test_images:,} real test patches. Augmentations: "
        f"{', '.join(settings['augmentations']) or 'none'}.",
        "- **†** The generator saw more real patches than the classifier did. Such a row says nothing about a laboratory that "
        "has only so many: it is compared with real patches as many as the generator saw.",
        f"- **AUC**: mean over seeds {', '.join(map(str, seeds))}, each with its own nested draw of real patches, stratified "
        "by label [95 % interval over test patches and seeds together]. **Beside real alone**: the number of real patches "
        "compared with, and the paired difference with such an interval. No interval covers another training of the generator.",
        "- **Worth**: where the AUC of real patches alone, made monotone, reaches that of the synthetic ones; the interval "
        "holds every number of real patches whose AUC cannot be told from it. The real patches are those of the study's "
        "training subset.",
        "- **ECE**: expected calibration error, ten bins of equal mass; honest probabilities would have "
        f"{min(floors):.3f} to {max(floors):.3f} here.",
    ]
    lines += [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in legend]
    return "\n".join([*lines, ""])


def _triple(row: Mapping[str, float]) -> str:
    return f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _gain(row: Mapping[str, float]) -> str:
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"


def _generator(saw: int) -> str:
    if saw == 0:
        return "Its generator was not trained on the study's patches."
    return f"Its generator was trained on {saw:,} real patches."


def _figure(table: pd.DataFrame, titles: Mapping[str, str], everything: int) -> Figure:
    figure = Figure(figsize=(8.2, 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    sizes = sorted(table.loc[table["curve"] == "real", "real"])
    nothing = sizes[0] / 2  # where a log axis shows 0
    curves = list(dict.fromkeys(table["curve"]))
    best = table[(table["curve"] == "real") & (table["real"] == everything)].iloc[0]
    axis.axhspan(best["low"], best["high"], color="#000000", alpha=0.08, linewidth=0)
    label = f"all {everything:,} real patches alone, with their 95 % interval"
    axis.axhline(best["auc"], color=_REAL, linestyle="--", linewidth=1, label=label)
    for i, curve in enumerate(curves):
        own = table[table["curve"] == curve]
        colour, marker = (_REAL, "s") if curve == "real" else (_COLOURS[(i - 1) % 6], _MARKERS[(i - 1) % 6])
        aside = 1.07 ** (i - (len(curves) - 1) / 2)  # else bars of several curves hide each other
        places = np.where(own["real"] > 0, own["real"], nothing) * aside
        label = "real patches alone" if curve == "real" else f"with {own['synthetic'].iloc[0]:,} of {titles.get(curve, curve)}"
        errors = [own["auc"] - own["low"], own["high"] - own["auc"]]
        drawn = own["real"].to_numpy() > 0
        axis.plot(places[drawn], own["auc"][drawn], color=colour, linewidth=1.6)
        axis.errorbar(places, own["auc"], yerr=errors, color=colour, fmt="none", elinewidth=1, capsize=3)
        for seed in own.filter(like="auc seed "):
            axis.plot(places * 0.97, own[seed], ".", color=colour, markersize=4)
        seen = own["saw_more"].to_numpy()
        axis.plot(places[~seen], own["auc"][~seen], marker, color=colour, markersize=6)
        axis.plot(places[seen], own["auc"][seen], marker, color=colour, markersize=6, markerfacecolor="white")
        axis.plot([], [], color=colour, marker=marker, label=label)
    if table["saw_more"].any():
        text = "open: the generator saw more real patches than\nthe classifier; compare with the dashed line only"
        axis.plot([], [], "o", color="#555555", markerfacecolor="white", label=text)
    axis.plot([], [], ".", color="#555555", markersize=4, label="single seeds; bars: 95 % interval of their mean")
    axis.set_xscale("log")
    axis.axvline(nothing * np.sqrt(2), color="#BBBBBB", linewidth=1, linestyle=":")
    axis.set_xticks([nothing, *sizes], ["0", *(f"{n:,}" for n in sizes)])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("real patches the classifier learned from")
    axis.set_ylabel("AUC on real test patches")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
