"""Metrics over the scale of guidance, of one model and the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histoprompt.files import atomic, read_json, write_csv

_FIDELITY = "prompt fidelity"
_METRICS = {
    "fd": "Fréchet distance",
    "kd": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_PANELS = ("Fréchet distance", "precision", "recall", _FIDELITY)


def summarise_guidance(
    metrics: Sequence[str | Path],
    table_csv: str | Path,
    figure_png: str | Path,
    *,
    arms: Sequence[str],
    scales: Sequence[float],
) -> None:
    """Write every metric of every arm and scale of guidance, and plot them.

    Parameters
    ----------
    metrics : files of `metrics.compute_metrics`, of the image sets `{arm}-guidance{scale}`: for each arm every scale.
    table_csv : written: `arm,guidance,encoder,metric,value,low,high`; prompt fidelity has no encoder.
    figure_png : written: a panel a metric, a line an arm and encoder, with intervals.
    """
    rows = []
    pairs = [(arm, float(scale)) for arm in arms for scale in scales]
    for (arm, scale), report in zip(pairs, map(read_json, metrics), strict=True):
        cells = {("", _FIDELITY): report["prompt_fidelity"]}
        for encoder, values in report["encoders"].items():
            cells |= {(encoder, name): values[key] for key, name in _METRICS.items()}
        for (encoder, metric), cell in cells.items():
            measured = {key: cell.get(key) for key in ("value", "low", "high")}
            rows.append({"arm": arm, "guidance": scale, "encoder": encoder, "metric": metric, **measured})
    table = pd.DataFrame(rows)
    write_csv(table_csv, table)
    _draw(table, figure_png)


def _draw(table: pd.DataFrame, figure_png: str | Path) -> None:
    figure = Figure(figsize=(9.0, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, metric in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        part = table[(table["metric"] == metric) & table["value"].notna()]
        for (arm, encoder), line in part.groupby(["arm", "encoder"], sort=False):
            line = line.sort_values("guidance")
            errors = [line["value"] - line["low"], line["high"] - line["value"]]
            label = f"{arm}, {encoder}" if encoder else arm
            axis.errorbar(line["guidance"], line["value"], yerr=[e.fillna(0) for e in errors], label=label, capsize=3)
        if metric == _PANELS[0]:
            axis.set_yscale("log")
        axis.set_ylabel(metric)
        axis.set_xlabel("guidance")
        axis.grid(alpha=0.3)
        if len(part):
            axis.legend(frameon=False, fontsize=8)
    with atomic(figure_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
