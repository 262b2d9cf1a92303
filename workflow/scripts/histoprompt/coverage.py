"""Which morphologies the generator misses: the coverage of each cluster by each image set, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, read_json, write_csv
from histoprompt.patches import PatchFile
from histoprompt.subset import COLUMNS


def draw_coverage(
    metrics: Sequence[str | Path],
    patches_h5: str | Path,
    assignments_csv: str | Path,
    table_csv: str | Path,
    figure_png: str | Path,
) -> None:
    """Put the clusters of several image sets side by side.

    Parameters
    ----------
    metrics : files of `metrics.compute_metrics` of image sets that are judged by one clustering, in the order of the rows.
    patches_h5, assignments_csv : the held-out patches and their clusters, `row,id,label,cluster,distance`; the patch nearest
        to a cluster's centre stands for it.
    table_csv : written: `name,protocol,encoder,cluster,images,reference,coverage,low,high,distance`.
    figure_png : written: a panel an encoder, a row an image set, a column a cluster; under the protocol the study names first.

    Raises
    ------
    InputError : patches and clusters that do not belong together.
    """
    assigned = read_csv(assignments_csv, (*COLUMNS, "distance"))
    examples = assigned.sort_values(["distance", "row"]).drop_duplicates("cluster").set_index("cluster")["row"]
    with PatchFile(patches_h5) as patches:
        if len(patches) <= assigned["row"].max():
            raise InputError(
                assignments_csv,
                found=f"clusters of a patch {assigned['row'].max()}",
                expected=f"rows of the {len(patches)} patches of {patches_h5}",
                remedy="delete both files and run the same command again",
            )
        pictures = dict(zip(examples.index, patches.take(examples.to_numpy()), strict=True))
    rows = [
        {"name": report["name"], "protocol": protocol, "encoder": encoder, **entry, **_flat(entry["coverage"])}
        for report in map(read_json, metrics)
        for protocol, encoders in report["protocols"].items()
        for encoder, values in encoders.items()
        for entry in values.get("clusters", ())
    ]
    columns = ("name", "protocol", "encoder", "cluster", "images", "reference", "coverage", "low", "high", "distance")
    table = pd.DataFrame(rows, columns=list(columns))
    write_csv(table_csv, table)
    with atomic(figure_png) as temporary:
        _figure(table[table["protocol"] == table["protocol"].iloc[0]], pictures).savefig(temporary, metadata={"Software": None})


def _flat(cell: Mapping[str, float | None]) -> dict[str, float | None]:
    return {"coverage": cell["value"], "low": cell["low"], "high": cell["high"]}


def _figure(table: pd.DataFrame, pictures: Mapping[int, np.ndarray]) -> Figure:
    names, encoders, protocol = table["name"].unique(), table["encoder"].unique(), table["protocol"].iloc[0]
    clusters = sorted(table["cluster"].unique())
    height = 0.4 * len(names) + 0.75
    size = (2.6 + 0.62 * len(clusters), 1.1 + height * len(encoders))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(encoders), 1, height_ratios=[0.75] + [height] * len(encoders), squeeze=False)[:, 0]
    axes[0].set(xlim=(-0.5, len(clusters) - 0.5), ylim=(1, 0))
    axes[0].axis("off")
    for place, cluster in enumerate(clusters):
        if cluster in pictures:
            axes[0].inset_axes((place - 0.46, 0.04, 0.92, 0.92), transform=axes[0].transData).imshow(pictures[cluster])
    for inset in axes[0].child_axes:
        inset.axis("off")
    for axis, encoder in zip(axes[1:], encoders, strict=True):
        part = table[table["encoder"] == encoder]
        values = part.pivot(index="name", columns="cluster", values="coverage").reindex(index=names, columns=clusters)
        shares = values.to_numpy(float)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            text = "–" if np.isnan(share) else f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
        counts = part.drop_duplicates("cluster").set_index("cluster")["reference"]
        axis.set_xticks(range(len(clusters)), [f"{cluster}\n{counts[cluster]}" for cluster in clusters], fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_title(
            f"Held-out patches covered, in per cent, in the space of {encoder} ({protocol})", fontsize=10, loc="left"
        )
    axes[-1].set_xlabel("cluster, and how many held-out patches it has", fontsize=9)
    return figure
