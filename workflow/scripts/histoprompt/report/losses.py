"""How the fine-tunings went: training and validation losses of every model, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histoprompt.figures import PALETTE
from histoprompt.files import atomic, read_csv

_COLUMNS = 3
_VALIDATION = {
    "valid_right": ("validation, right prompt", PALETTE[0], "o"),
    "valid_shuffled": ("validation, another image's prompt", PALETTE[1], "s"),
    "valid_empty": ("validation, no prompt", PALETTE[2], "^"),
}


def draw_losses(histories: Mapping[str, str | Path], losses_png: str | Path) -> None:
    """Draw a panel a model, all to one scale.

    Where the loss with another image's prompt is no higher than with the right one, the model makes nothing of its prompts.

    Parameters
    ----------
    histories : model -> `history.csv` of its fine-tuning; there may be none.
    losses_png : written.
    """
    rows = max(1, -(-len(histories) // _COLUMNS))
    columns = min(_COLUMNS, max(1, len(histories)))
    figure = Figure(figsize=(0.6 + 3.6 * columns, 0.8 + 2.6 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis in axes[len(histories) :]:
        axis.axis("off")
    for axis, (model, path) in zip(axes, histories.items(), strict=False):
        history = read_csv(path, ("step", "loss", *_VALIDATION))
        axis.plot(history["step"], history["loss"], color="#8a8a8a", linewidth=1, label="training")
        for column, (label, colour, marker) in _VALIDATION.items():
            values = pd.to_numeric(history[column], errors="coerce")  # empty at steps without validation
            known = values.notna()
            axis.plot(
                history["step"][known], values[known], color=colour, marker=marker, markersize=5, linewidth=1.2, label=label
            )
        axis.set_title(model, fontsize=10, loc="left")
        axis.grid(color="#e5e5e5", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    if histories:
        figure.supxlabel("fine-tuning step", fontsize=9)
        figure.supylabel("denoising loss (mean squared error)", fontsize=9)
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    with atomic(losses_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
