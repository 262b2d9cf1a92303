"""How far the classifiers' probabilities can be believed: a table, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histoprompt.figures import PALETTE
from histoprompt.files import atomic, read_json, write_csv
from histoprompt.intervals import wilson_interval

_COLUMNS = 4
_COLOURS = {"real": PALETTE[7], "alone": PALETTE[1], "with real": PALETTE[0]}
_MARKERS = {"real": "s", "alone": "o", "with real": "^"}


def draw_reliability(
    classifiers: Sequence[str | Path], table_csv: str | Path, figure_png: str | Path, *, titles: Mapping[str, str]
) -> None:
    """Put the calibration of classifiers trained on several mixes side by side.

    Parameters
    ----------
    classifiers : files of `classifier.train_classifier`: `real`, and each arm alone and with it.
    table_csv : written: `mix,seeds,auc,accuracy,brier,calibration_error,calibration_floor`.
    figure_png : written: a panel an arm with the curves of both its mixes and of `real`, for two classes; for more, the curves
        of all classes' probabilities.
    titles : what an arm is called, where it is not its name.
    """
    reports = {report["mix"]: report for report in map(read_json, classifiers)}
    table = pd.DataFrame(
        [
            {
                "mix": mix,
                "seeds": len(report["seeds"]),
                "auc": report["auc"]["value"],
                "accuracy": report["accuracy"]["value"],
                **{key: report[key] for key in ("brier", "calibration_error", "calibration_floor")},
            }
            for mix, report in reports.items()
        ]
    )
    write_csv(table_csv, table)
    arms = [mix for mix in reports if mix != "real" and not mix.startswith("real+")]
    columns = min(len(arms), _COLUMNS)
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(0.4 + 3.3 * columns, 0.5 + 3.4 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, arm in zip(axes.flat, arms, strict=False):
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
        for label, mix in (("real", "real"), ("alone", arm), ("with real", f"real+{arm}")):
            _curve(axis, reports[mix], label)
        axis.set_title(titles.get(arm, arm), fontsize=10)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid(alpha=0.25)
        legend = {"title": "trained on (ECE, Brier)", "title_fontsize": 8, "edgecolor": "none", "framealpha": 0.8}
        axis.legend(fontsize=8, loc="upper left", **legend)
    for axis in list(axes.flat)[len(arms) :]:
        axis.axis("off")
    classes = list(next(iter(reports.values()))["test"]["by_class"])
    event = classes[1] if len(classes) == 2 else "each class"
    figure.supxlabel(f"predicted probability of {event}", fontsize=10)
    figure.supylabel("share for which it is true", fontsize=10)
    with atomic(figure_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def _curve(axis: Axes, report: Mapping[str, Any], label: str) -> None:
    """A line a told class, the bars being Wilson's interval of the test images in a bin, whatever the number of seeds."""
    seeds = len(report["seeds"])
    words = {"real": "real patches", "alone": "its images", "with real": "both"}
    text = f"{words[label]} ({report['calibration_error']:.3f}, {report['brier']:.3f})"
    for points in report["reliability"].values():
        observed = np.array(points["observed"])
        trials = np.array(points["images"]) / seeds
        ends = [wilson_interval(round(share * n), max(round(n), 1)) for share, n in zip(observed, trials, strict=True)]
        low, high = np.array(ends).T
        axis.errorbar(
            points["predicted"],
            observed,
            yerr=[np.maximum(observed - low, 0), np.maximum(high - observed, 0)],
            color=_COLOURS[label],
            marker=_MARKERS[label],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            alpha=0.85,
            label=text,
        )
        text = "_nolegend_"
