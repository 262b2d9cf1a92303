"""Ablations: some arms that differ in one setting, as a table, a figure, and the failures that show in them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from histoprompt.figures import PALETTE
from histoprompt.files import atomic, read_json, write_csv
from histoprompt.intervals import wilson_interval
from histoprompt.markdown import markdown_table
from histoprompt.summary import FLOORS, Cell, Row, copies_of, csv_row, reasons, row_of_protocol, show_cell

HALF = 0.5  # of what real images reach: precision or recall of at least so much is called high, of less low
GAP = 0.1  # of what real images reach: precision and recall that differ by less are called alike
_FIDELITY, _AUTHENTIC, _NEAR = "prompt fidelity", "authentic", "near copies"
_DISTANCES = ("FD", "FID", "KD", "KID", "CMMD")  # heads that keep the encoder's name
_PANELS = {"FD": "Fréchet distance", "precision": "precision", "recall": "recall", "coverage": "coverage"}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH = 120  # characters of a line of text


def failure_signatures(row: Row, real: Row, encoders: Sequence[str], copies_by_chance: float) -> list[str]:
    """The failures that an image set shows, each only if the intervals support it.

    Precision and recall count in shares of what real images reach: the lower end of such a share is the image set's lower end
    over the real images' upper one, and the reverse.

    - too narrow: precision is high (its share's lower end at least `HALF`) and above recall by `GAP` at least, between the
      nearest ends of both;
    - unrealistic samples: recall is high and above precision likewise;
    - neither realistic nor varied: both shares lie below `HALF` with their upper ends;
    - repeats training images: the near copies' lower end is above `copies_by_chance`.

    Parameters
    ----------
    row, real : column -> cell (`summary.row_of`) of the image set and of real images.
    encoders : in whose spaces precision and recall are told.
    copies_by_chance : largest share of near copies where nothing is repeated.
    """
    found = []
    for encoder in encoders:
        shares = [_share_of_real(row[f"{metric}-{encoder}"], real[f"{metric}-{encoder}"]) for metric in ("precision", "recall")]
        if None in shares:
            continue
        (precision, precise_low, precise_high), (recall, recall_low, recall_high) = (share for share in shares if share)
        if precise_low >= HALF and precise_low - recall_high >= GAP:
            name = "too narrow"
        elif recall_low >= HALF and recall_low - precise_high >= GAP:
            name = "unrealistic samples"
        elif max(precise_high, recall_high) < HALF:
            name = "neither realistic nor varied"
        else:
            continue
        found.append(f"{name} in the space of `{encoder}` (precision {precision:.2f}, recall {recall:.2f} of real images')")
    near = row[_NEAR]
    if near["low"] is not None and near["low"] > copies_by_chance:
        found.append(f"repeats training images (near copies {near['value']:.3f}, by chance at most {copies_by_chance:.3f})")
    return found


def _share_of_real(cell: Cell, real: Cell) -> tuple[float, float, float] | None:
    """Value, low and high of a cell over those of real images; None where either has no interval."""
    if cell["low"] is None or real["low"] is None or real["low"] <= 0:
        return None
    return cell["value"] / real["value"], cell["low"] / real["high"], cell["high"] / real["low"]


def summarise_ablation(
    metrics: Sequence[str | Path],
    copies: Sequence[str | Path],
    table_csv: str | Path,
    table_md: str | Path,
    figure_png: str | Path,
    *,
    name: str,
    title: str,
    varies: str,
    arms: Mapping[str, Mapping[str, Any]],
) -> None:
    """Put the arms of an ablation side by side.

    Parameters
    ----------
    metrics : files of `metrics.compute_metrics`: of `real` and its round trips and of every arm.
    copies : files of `memorisation.find_copies`, of every arm.
    table_csv : written: a row an image set: `name,images`, the varied setting, `clusters`, each metric with `low` and `high`,
        `chance` of prompt fidelity, `notes` on what is undefined, and `signatures`.
    table_md : written: the same as tables to read, the failure signatures, and what they mean.
    figure_png : written: metrics over the varied setting.
    name, title : of the ablation.
    varies : the setting that its arms vary.
    arms : name -> `title`, `value` of that setting (None: it has none), `prompts`, and `encoder` and `k` of its clusters; in
        the tables by value, if that is a number.
    """
    reports = {report["name"]: report for report in map(read_json, metrics)}
    found = {report["name"]: report for report in map(read_json, copies)}
    order = [*(floor for floor in FLOORS if floor in reports), *sorted(arms, key=lambda arm: _place(arms, arm))]
    protocol = next(iter(reports["real"]["protocols"]))
    rows = {images: row_of_protocol(reports[images], protocol) | copies_of(found.get(images)) for images in order}
    # Arms with clusters of another encoder have its space too; the table shows the spaces that all of them have.
    columns = [column for column in rows["real"] if all(column in row for row in rows.values())] + [_AUTHENTIC, _NEAR]
    encoders = [encoder for encoder in reports["real"]["protocols"][protocol] if f"recall-{encoder}" in columns]
    signatures = {
        arm: failure_signatures(rows[arm], rows["real"], encoders, copies_by_chance(found[arm])) for arm in order if arm in arms
    }
    flat = []
    for image_set in order:
        entry = arms.get(image_set, {})
        cells = csv_row(image_set, reports[image_set]["images"], rows[image_set], columns)
        head = {key: cells.pop(key) for key in ("name", "images")}
        flat.append(
            head
            | {varies: entry.get("value"), "clusters": _clusters(entry)}
            | cells
            | {"chance": rows[image_set][_FIDELITY].get("chance"), "signatures": "; ".join(signatures.get(image_set, []))}
        )
    write_csv(table_csv, pd.DataFrame(flat))
    with atomic(table_md) as temporary:
        temporary.write_text(_page(name, title, varies, arms, reports, found, rows, encoders, signatures))
    with atomic(figure_png) as temporary:
        near_by_chance = next(iter(found.values()))["near_copies_held_out"]
        _figure(title, varies, arms, rows, encoders, near_by_chance).savefig(temporary, metadata={"Software": None})


def copies_by_chance(report: Mapping[str, Any]) -> float:
    """Largest share of near copies where nothing is repeated: the upper end of Wilson's interval for the held-out patches."""
    return wilson_interval(round(report["near_copies_held_out"] * report["held_out"]), report["held_out"])[1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordinal(arms: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(entry["value"] is None or _is_number(entry["value"]) for entry in arms.values())


def _place(arms: Mapping[str, Mapping[str, Any]], arm: str) -> float:
    """Where an arm stands in the tables: by its value if all have numbers, arms without one first; else as given."""
    value = arms[arm]["value"]
    return 0 if not _ordinal(arms) else float("-inf") if value is None else value


def _word(value: object) -> str:
    return "none" if value is None else f"{value:g}" if _is_number(value) else str(value)


def _clusters(entry: Mapping[str, Any]) -> str:
    return f"{entry['encoder']}, k = {entry['k']}" if entry else ""


def _page(
    name: str,
    title: str,
    varies: str,
    arms: Mapping[str, Mapping[str, Any]],
    reports: Mapping[str, Mapping[str, Any]],
    copies: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Row],
    encoders: Sequence[str],
    signatures: Mapping[str, Sequence[str]],
) -> str:
    def table(columns: Sequence[str], heads: Sequence[str], more: Mapping[str, Sequence[str]]) -> list[str]:
        body = [
            [
                arms[image_set]["title"] if image_set in arms else image_set,
                _word(arms[image_set]["value"]) if image_set in arms else "",
                *more.get(image_set, ()),
                *(show_cell(row.get(column), column) for column in columns),
            ]
            for image_set, row in rows.items()
        ]
        return [*markdown_table(["images of", varies, *heads], body), ""]

    report = reports["real"]
    lines = [f"# Ablation {name}: {title}", ""]
    for encoder in encoders:
        columns = [column for column in rows["real"] if column.endswith(f"-{encoder}")]
        words = [column.removesuffix(f"-{encoder}") for column in columns]
        heads = [column if word in _DISTANCES else word for column, word in zip(columns, words, strict=True)]
        lines += [f"## In the space of `{encoder}`", "", *table(columns, heads, {})]
    others = {
        image_set: [
            _clusters(arms[image_set]) if image_set in arms else f"{report['morphology_encoder']}, the study's",
            f"{row[_FIDELITY]['chance']:.3f}" if "chance" in row[_FIDELITY] else "",
        ]
        for image_set, row in rows.items()
    }
    columns = [_FIDELITY, _AUTHENTIC, _NEAR]
    lines += ["## Prompts and copies", "", *table(columns, ["clusters", "chance", *columns], others)]
    lines += ["## Failure signatures", ""]
    lines += [f"- **{arm}**: {'; '.join(of_arm) or 'none'}" for arm, of_arm in signatures.items()]
    undefined = [f"- {image_set}, {column}: {reason}" for image_set, row in rows.items() for column, reason in reasons(row)]
    lines += ["", *(["Undefined (–):", "", *dict.fromkeys(undefined), ""] if undefined else [])]
    return "\n".join([*lines, *_legend(varies, report, arms, copies), ""])


def _legend(
    varies: str,
    report: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    copies: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    train = ", ".join(f"{arm} {copies[arm]['train']}" for arm in arms)
    lines = [
        f"- **Arms** differ in `{varies}`; whatever else one changes stands in the study file. They have {report['images']} "
        f"images each, one fine-tuning seed, and as reference {report['reference']} held-out real patches, all under the "
        f"study's first protocol, `{next(iter(report['protocols']))}`. `real` and `vae` are real training patches, as they "
        "are and through the autoencoder; `resampled`, where the generator has another size, the same resized there and back.",
        "- **Clusters**: an arm with clusters of its own is trained on a subset balanced by these, and judged by them: its "
        "prompt fidelity is the share of images nearest to their own cluster among its own, and near copies are told in the "
        "space of its encoder. Fidelities of different clusters are comparable with their chance alone. The space that made "
        "an arm's clusters is circular for it.",
        "- **Chance**: prompt fidelity of the same images if the clusters' names were dealt anew among those of each label. It "
        "is more than 1 / k, since the label alone tells which clusters are likely.",
        f"- **Failure signatures**, precision and recall in shares of the row `real`, by the ends of the intervals: *too "
        f"narrow*: precision at least {HALF} and at least {GAP} above recall; *unrealistic samples*: recall at least {HALF} "
        f"and at least {GAP} above precision; *neither realistic nor varied*: both below {HALF}; *repeats training images*: "
        "near copies (nearer to a training image than all but 1 % of held-out patches are) above what that 1 % itself may be "
        "by chance. Each holds for these images, and of many cells some will err: another seed is the test.",
        f"- **Copies** are looked for among the images that each arm's prompts were written for: {train}.",
        f"- **Intervals** [low, high]: {report['interval']} ({report['subsamples']} half-samples, seed {report['seed']}). They "
        "do not cover another training of the generator.",
    ]
    return [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]


def _error(cell: Cell, end: str) -> float:
    """Length of an error bar; an end of Wilson's interval may lie on the value, save for rounding."""
    return 0.0 if cell[end] is None else max(cell["value"] - cell[end] if end == "low" else cell[end] - cell["value"], 0.0)


def _figure(
    title: str,
    varies: str,
    arms: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Row],
    encoders: Sequence[str],
    near_by_chance: float,
) -> Figure:
    """A panel a metric; values of the setting stand in even steps, and arms with the same kind of prompts are joined."""
    ordered = sorted(arms, key=lambda arm: _place(arms, arm))
    words = list(dict.fromkeys(_word(arms[arm]["value"]) for arm in ordered))
    kinds = list(dict.fromkeys(arms[arm]["prompts"] for arm in arms))
    colours = {encoder: PALETTE[i % len(PALETTE)] for i, encoder in enumerate(encoders)}
    markers = {kind: _MARKERS[i % len(_MARKERS)] for i, kind in enumerate(kinds)}
    ordinal = _ordinal(arms)

    def draw(axis: Axes, column: str, colour: str, shift: float) -> None:
        for i, kind in enumerate(kinds):
            points = [arm for arm in ordered if arms[arm]["prompts"] == kind and rows[arm][column]["value"] is not None]
            cells = [rows[arm][column] for arm in points]
            places = [words.index(_word(arms[arm]["value"])) + shift + 0.08 * (i - (len(kinds) - 1) / 2) for arm in points]
            errors = [_error(cell, "low") for cell in cells], [_error(cell, "high") for cell in cells]
            values = [cell["value"] for cell in cells]
            bars = axis.errorbar(
                places, values, yerr=errors, color=colour, marker=markers[kind], markersize=5, capsize=2, clip_on=False
            )
            if not ordinal:
                bars[0].set_linestyle("none")

    figure = Figure(figsize=(10.5, 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    axes = dict(zip((*_PANELS, _FIDELITY, _NEAR), figure.subplots(2, 3).flat, strict=True))
    for metric, label in _PANELS.items():
        for i, encoder in enumerate(encoders):
            column = f"FID-{encoder}" if metric == "FD" and f"FD-{encoder}" not in rows["real"] else f"{metric}-{encoder}"
            draw(axes[metric], column, colours[encoder], 0.03 * (i - (len(encoders) - 1) / 2))
            if rows["real"][column]["value"] is not None:
                axes[metric].axhline(rows["real"][column]["value"], color=colours[encoder], linestyle=":", linewidth=1.3)
        axes[metric].set_ylabel(label)
        if metric == "FD":
            axes[metric].set_yscale("log")
        else:
            axes[metric].set_ylim(0, 1.02)
    for column in (_FIDELITY, _NEAR):
        draw(axes[column], column, "#333333", 0)
        axes[column].set_ylabel(column)
    for arm in ordered:
        chance = rows[arm][_FIDELITY].get("chance")
        if chance is not None:
            place = words.index(_word(arms[arm]["value"]))
            axes[_FIDELITY].hlines(chance, place - 0.2, place + 0.2, color="#888888", linestyles="--", linewidth=1.3)
    axes[_FIDELITY].set_ylim(bottom=0)
    axes[_NEAR].axhline(near_by_chance, color="#888888", linestyle="--", linewidth=1.3)
    axes[_NEAR].set_ylim(bottom=0)
    for axis in axes.values():
        axis.set_xticks(range(len(words)), words)
        axis.set_xlim(-0.5, len(words) - 0.5)
        axis.set_xlabel(varies)
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=colour, label=f"space of {encoder}") for encoder, colour in colours.items()]
    handles += [Line2D([], [], color="#333333", marker=m, linestyle="none", label=f"prompts: {k}") for k, m in markers.items()]
    handles.append(Line2D([], [], color="#333333", linestyle=":", label="real images"))
    handles.append(Line2D([], [], color="#888888", linestyle="--", label="by chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure
