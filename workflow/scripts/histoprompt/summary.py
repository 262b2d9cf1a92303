"""The tables at the end of a study: one row an image set, and every replicate of every arm."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_json, write_csv
from histoprompt.intervals import mean_interval
from histoprompt.markdown import markdown_table

Cell = Mapping[str, Any]
Row = dict[str, Cell]

FLOORS = ("real", "resampled", "vae")
BASELINE = "label"  # the paper's baseline: arms are compared with it, seed by seed
_METRICS = {
    "fd": "FD", "kd": "KD", "cmmd": "CMMD", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage",
}  # fmt: skip
_OF_INCEPTION = {"fd": "FID", "kd": "KID"}  # names that Inception's FID weights alone may give
_FIDELITY, _ALONE, _WITH_REAL = "prompt fidelity", "AUC alone", "AUC with real"
_OVER_SEEDS = " over seeds"
_AUTHENTIC, _NEAR = "authentic", "near copies"
_LOWER_IS_BETTER = ("FD-", "KD-", "FID-", "KID-", "CMMD-")
_WIDTH = 120  # characters of a line of text


@dataclass(frozen=True)
class Results:
    """What a study's files say of its image sets, and of the classifier's training sets: reports by name."""

    metrics: dict[str, dict[str, Any]]
    tests: dict[str, dict[str, Any]]
    copies: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, images: Iterable[str], mixes: Iterable[str]) -> Results:
        """The reports of these image sets and training sets, from the folder of the study's results."""
        images = list(images)
        return cls(
            {name: read_json(folder / f"metrics/{name}.json") for name in images},
            {mix: read_json(folder / f"classifier/{mix}.json") for mix in mixes},
            {name: read_json(folder / f"copies/{name}.json") for name in images},
        )

    @property
    def any_report(self) -> dict[str, Any]:
        """The metrics of an image set, for what is the same in all."""
        return next(iter(self.metrics.values()))

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Name -> row of every image set, real patches and their round trips first."""
        names = [name for name in FLOORS if name in self.metrics] + [name for name in self.metrics if name not in FLOORS]
        return {
            name: row_of(self.metrics[name], self.tests) | _over_seeds(name, self.tests) | copies_of(self.copies.get(name))
            for name in names
        }

    @property
    def columns(self) -> list[str]:
        """Every column of the rows, in the order of the tables."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))


def summarise_study(
    metrics: Sequence[str | Path],
    classifiers: Sequence[str | Path],
    copies: Sequence[str | Path],
    summary_csv: str | Path,
    summary_md: str | Path,
    *,
    study: str,
    titles: Mapping[str, str],
) -> None:
    """Write one row an image set: `real` and its round trips first, then the arms in the order of their files.

    Parameters
    ----------
    metrics : files of `metrics.compute_metrics`.
    classifiers : files of `classifier.train_classifier`; mixes are `real`, the arms' names and `real+{arm}`.
    copies : files of `memorisation.find_copies`.
    summary_csv : output: for each metric its value, `low` and `high` (empty: undefined), and `notes` that say why.
    summary_md : output: the same as a table to read, and what it means.
    study : name of the study.
    titles : what an arm is called in `summary_md`, where it is not its name.
    """
    results = Results(
        {report["name"]: report for report in map(read_json, metrics)},
        {report["mix"]: report for report in map(read_json, classifiers)},
        {report["name"]: report for report in map(read_json, copies)},
    )
    rows = [csv_row(name, results.metrics[name]["images"], row, results.columns) for name, row in results.rows.items()]
    write_csv(summary_csv, pd.DataFrame(rows))
    with atomic(summary_md) as temporary:
        temporary.write_text(_study_page(study, titles, results))


def row_of(report: Mapping[str, Any], tests: Mapping[str, Mapping[str, Any]]) -> Row:
    """Column -> cell of one image set. Columns of one encoder stand together, and of it those of one protocol."""
    row: Row = {}
    for encoder, protocol in _spaces(report):
        cells = _cells_of_space(report["protocols"][protocol][encoder])
        row |= {column_of(word, encoder, protocol): cell for word, cell in cells.items()}
    row[_FIDELITY] = report["prompt_fidelity"]
    return row | {column: tests[mix]["auc"] for column, mix in _mixes(report["name"]).items() if mix in tests}


def row_of_protocol(report: Mapping[str, Any], protocol: str) -> Row:
    """`{metric}-{encoder}` -> cell of one image set under one protocol, and its prompt fidelity."""
    row: Row = {}
    for encoder, values in report["protocols"][protocol].items():
        row |= {f"{word}-{encoder}": cell for word, cell in _cells_of_space(values).items()}
    return row | {_FIDELITY: report["prompt_fidelity"]}


def _cells_of_space(values: Mapping[str, Any]) -> Row:
    words = _METRICS | (_OF_INCEPTION if values.get("kind") == "inception" else {})
    return {word: values[metric] for metric, word in words.items() if metric in values}


def _mixes(name: str) -> dict[str, str]:
    return {_ALONE: name, _WITH_REAL: f"real+{name}"}


def _over_seeds(name: str, tests: Mapping[str, Mapping[str, Any]]) -> Row:
    """The same means with their intervals over the classifier's seeds, where there are several."""
    found = {column: tests[mix] for column, mix in _mixes(name).items() if mix in tests}
    return {
        column + _OVER_SEEDS: {"value": test["auc"]["value"], **{end: test["auc_over_seeds"][end] for end in ("low", "high")}}
        for column, test in found.items()
        if len(test["seeds"]) > 1
    }


def _spaces(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every encoder with every protocol, an encoder's together."""
    protocols = report["protocols"]
    encoders = dict.fromkeys(encoder for of_protocol in protocols.values() for encoder in of_protocol)
    return [(encoder, protocol) for encoder in encoders for protocol in protocols if encoder in protocols[protocol]]


def distinct_spaces(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Encoder -> protocol -> protocols under which all reports have the same features, so that one table shows them all."""
    found: dict[str, dict[str, list[str]]] = {}
    for encoder, protocol in _spaces(reports[0]):
        same = {report["protocols"][protocol][encoder].get("same_as") for report in reports}
        of_encoder = found.setdefault(encoder, {})
        if len(same) == 1 and None not in same:
            of_encoder[same.pop()].append(protocol)
        else:
            of_encoder[protocol] = []
    return found


def heading_of(protocol: str, twins: Sequence[str]) -> str:
    """What the table of a protocol is called, and of others that show the encoder the same pixels."""
    if not twins:
        return f"Protocol `{protocol}`"
    return "Protocols " + " and ".join(f"`{name}`" for name in (protocol, *twins)) + ": the encoder sees the same pixels"


def column_of(word: str, encoder: str, protocol: str) -> str:
    """The summary's name of a metric in one space."""
    return f"{word}-{encoder} {protocol}"


def columns_of_space(columns: Iterable[str], encoder: str, protocol: str) -> dict[str, str]:
    """Columns of one space, each with its name in a table of that space alone."""
    possible = [column_of(word, encoder, protocol) for word in (*_METRICS.values(), *_OF_INCEPTION.values())]
    words = {column: column.removesuffix(f" {protocol}") for column in columns if column in possible}
    return {
        column: word if word.startswith(("FD-", "KD-")) else word.removesuffix(f"-{encoder}") for column, word in words.items()
    }


def columns_of_use(columns: Iterable[str]) -> list[str]:
    """Columns that belong to no space: what prompts do, what classifiers learn, and what is copied."""
    return [column for column in columns if column in (_FIDELITY, _AUTHENTIC, _NEAR) or column.startswith((_ALONE, _WITH_REAL))]


def copies_of(report: Mapping[str, Any] | None) -> Row:
    """Column -> cell of one report of `memorisation.find_copies`; no column without one."""
    return {} if report is None else {_AUTHENTIC: report["authentic"], _NEAR: report["near_copies"]}


def copies_of_held_out(report: Mapping[str, Any]) -> Row:
    """The same of the held-out patches that the report compares with."""
    return {
        _AUTHENTIC: report["authentic_held_out"],
        _NEAR: {"value": report["near_copies_held_out"], "low": None, "high": None},
    }


def csv_row(name: str, images: int, row: Row, columns: Iterable[str]) -> dict[str, Any]:
    """A row of a CSV table: name, images, each column with `low` and `high`, and notes on what is undefined."""
    flat: dict[str, Any] = {"name": name, "images": images}
    for column in columns:
        cell = row.get(column, {})
        flat |= {column: cell.get("value"), f"{column} low": cell.get("low"), f"{column} high": cell.get("high")}
    flat["notes"] = "; ".join(f"{column}: {reason}" for column, reason in reasons(row))
    return flat


def lower_is_better(column: str) -> bool:
    """Is less of this more like real patches?"""
    return column.startswith(_LOWER_IS_BETTER)


def reasons(row: Row) -> list[tuple[str, str]]:
    """Columns that are undefined, or have no interval, and why."""
    return [(column, cell["reason"]) for column, cell in row.items() if "reason" in cell]


def _study_page(study: str, titles: Mapping[str, str], results: Results) -> str:
    reports, rows, columns = results.metrics, results.rows, results.columns
    lines = [f"# Study {study}", ""]
    for encoder, protocols in distinct_spaces(list(reports.values())).items():
        lines += [f"## In the space of `{encoder}`" + _circular(encoder, results.any_report), ""]
        for protocol, twins in protocols.items():
            of_space = columns_of_space(columns, encoder, protocol)
            lines += [f"### {heading_of(protocol, twins)}", ""]
            lines += [*markdown_table(["images of", "N", *of_space.values()], _cells(titles, reports, rows, of_space)), ""]
    others = columns_of_use(columns)
    cells = _cells(titles, reports, rows, others)
    lines += ["## Prompts, use and copies", "", *markdown_table(["images of", "N", *others], cells), ""]
    notes = notes_on(rows)
    if notes:
        lines += ["Undefined (–):", "", *notes, ""]
    return "\n".join([*lines, *_legend(results.any_report, results.tests, results.copies), ""])


def notes_on(rows: Mapping[str, Row]) -> list[str]:
    """Why cells are undefined: a line for each reason, with the image sets and columns it holds for."""
    columns_of: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        for column, reason in reasons(row):
            columns_of.setdefault((name, reason), []).append(column)
    names_of: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (name, reason), columns in columns_of.items():
        names_of.setdefault((tuple(columns), reason), []).append(name)
    return [f"- {', '.join(names)}; {', '.join(columns)}: {reason}" for (columns, reason), names in names_of.items()]


def _circular(encoder: str, report: Mapping[str, Any]) -> str:
    if encoder == report["morphology_encoder"]:
        return " (it made the clusters: circular for arms prompted with them)"
    return " (independent of the clusters)"


def _cells(
    titles: Mapping[str, str], reports: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Row], columns: Iterable[str]
) -> list[list[str]]:
    return [
        [titles.get(name, name), str(reports[name]["images"]), *(show_cell(row.get(column), column) for column in columns)]
        for name, row in rows.items()
    ]


def show_cell(cell: Cell | None, column: str) -> str:
    """A cell as a table shows it: value and interval, – where it is undefined."""
    if cell is None:
        return ""
    if cell["value"] is None:
        return "–"
    digits = digits_of(column)
    text = f"{cell['value']:.{digits}f}"
    return text if cell["low"] is None else f"{text} [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"


def digits_of(column: str) -> int:
    """Decimals that a column is shown with."""
    return 2 if column.startswith(("FD-", "FID-")) else 3


def _names_of_distances(report: Mapping[str, Any]) -> str:
    kinds = {values.get("kind") for encoders in report["protocols"].values() for values in encoders.values()}
    names = "FID and KID are those of clean-fid's Inception." if "inception" in kinds else "They are no FID and no KID."
    return names + (" CMMD is that of CLIP's image embeddings, as its authors compute it." if "clip" in kinds else "")


def _protocol(name: str, patch: int, generator: int) -> str:
    """What a protocol does, at the sizes of this study."""
    if name == "matched":
        return (
            f"real and synthetic images are averaged over areas to {min(patch, generator)} px, the smaller of patch and "
            "generator, and anti-aliased to the encoder's input. No difference of size is left in its distances."
        )
    return (
        f"real patches at {patch} px and synthetic images at the generator's {generator} px are each resized to the encoder's "
        "input without anti-aliasing, as the paper's were. Its distances also hold what resizing makes of each side."
    )


def _legend(
    report: Mapping[str, Any], tests: Mapping[str, Mapping[str, Any]], copies: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    k = sorted({values["k"] for encoders in report["protocols"].values() for values in encoders.values()})
    patch, generator = report["sizes"]["patch"], report["sizes"]["generator"]
    resampled = (
        f"`resampled` is the same patches resized to the generator's {generator} px, as for training, and back: what it has "
        "more than `real` is made by resampling alone, and a generator that had learned its training images perfectly would "
        "stand here. "
        if patch != generator
        else ""
    )
    lines = [
        f"- **Reference**: {report['reference']} held-out real test patches that pass the outlier filter. FD-x is the Fréchet "
        "distance in the features of encoder x, KD-x the kernel distance (unbiased, zero on average for two samples of one "
        f"distribution). {_names_of_distances(report)} Of all these, lower is better; of all others, higher, up to the row "
        "`real`.",
        *(f"- **Protocol `{protocol}`**: {_protocol(protocol, patch, generator)}" for protocol in report["protocols"]),
        "- **Rows**: `real` is real training patches, as many and with the same labels as an arm's images: the floor of every "
        f"number. {resampled}`vae` is the same patches through the generator's autoencoder: the best any arm can reach. The "
        "others are arms.",
        f"- **Precision, recall, density, coverage** with k = {', '.join(map(str, k))} neighbours. **Prompt fidelity**: share "
        "of images nearest to the cluster drawn for them; at chance level where the prompt does not name it.",
        f"- **Intervals** [low, high]: {report['interval']} ({report['subsamples']} half-samples, seed {report['seed']}). They "
        "do not cover another training of the generator: only several fine-tuning seeds do.",
    ]
    if tests:
        test = next(iter(tests.values()))
        model, steps, seeds = test["settings"]["model"], test["settings"]["steps"], len(test["seeds"])
        over_seeds = f"; means of {seeds} seeds, over which `over seeds` is a 95 % interval by Student's t" if seeds > 1 else ""
        trained = ", ".join(f"{mix} {report['train']['images']}" for mix, report in tests.items())
        lines.append(
            f"- **AUC** on all {test['test']['images']} real test patches ({test['auc']['interval']}{over_seeds}) of a {model} "
            f"trained for {steps} steps at {test['size']} px whatever the mix: on the row's images alone, and on them and real "
            f"ones in equal shares. Training images: {trained}. What its probabilities are worth: `calibration.csv`."
        )
    if copies:
        any_copies = next(iter(copies.values()))
        lines.append(
            f"- **Copies** of the {any_copies['train']} training images, in the space of `{any_copies['encoder']}`. "
            "Authentic: share of images farther from their nearest training image than that is from its own nearest one "
            f"(held-out patches: {any_copies['authentic_held_out']['value']:.3f}). Near copies: share nearer to a training "
            "image than all but 1 % of the held-out patches are; 0.010 where nothing is repeated. The row `real` and "
            "its round trips are copies: they show what would be found. The closest pairs: `copies/*.png`."
        )
    return [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]


def summarise_replicates(
    metrics: Sequence[str | Path],
    classifiers: Sequence[str | Path],
    replicates_csv: str | Path,
    replicates_md: str | Path,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    recluster: bool,
) -> None:
    """Write every value of every arm and seed, and each arm's paired difference from the baseline `label`.

    Parameters
    ----------
    metrics, classifiers : as in `summarise_study`; image sets are named `{arm}-seed{seed}`.
    replicates_csv : output: `arm,seed,metric,value,low,high,reason`, a row a value.
    replicates_md : output: a table a metric; a row an arm, a column a seed.
    arms, seeds : of the replicates; every pair must be among the files.
    recluster : each seed has clusters and training images of its own.
    """
    reports = {report["name"]: report for report in map(read_json, metrics)}
    tests = {report["mix"]: report for report in map(read_json, classifiers)}
    missing = [name for arm in arms for seed in seeds if (name := f"{arm}-seed{seed}") not in reports]
    if missing:
        raise InputError(
            "metrics of the replicates",
            found=f"none for {', '.join(missing)}",
            expected=f"a file for each of {len(arms)} arms and {len(seeds)} seeds",
            remedy="correct the config key `replicates`, or run these replicates first",
        )
    cells = {(arm, seed): row_of(reports[f"{arm}-seed{seed}"], tests) for arm in arms for seed in seeds}
    write_csv(
        replicates_csv,
        pd.DataFrame(
            [
                {
                    "arm": arm,
                    "seed": seed,
                    "metric": metric,
                    **{key: cell.get(key) for key in ("value", "low", "high", "reason")},
                }
                for (arm, seed), row in cells.items()
                for metric, cell in row.items()
            ]
        ),
    )
    with atomic(replicates_md) as temporary:
        temporary.write_text(_replicates_page(cells, list(reports.values()), arms, seeds, recluster))


def _replicates_page(
    cells: Mapping[tuple[str, int], Row],
    reports: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    seeds: Sequence[int],
    recluster: bool,
) -> str:
    report = reports[0]
    circular = report["morphology_encoder"]
    lines = [
        f"# {len(seeds)} replicates",
        "",
        f"Each column is one seed {'of clusters, of training images, ' if recluster else ''}of fine-tuning and of noise; "
        f"{report['images']} images an arm against {report['reference']} held-out real patches.",
        *([] if recluster else ["All have the same clusters: with others the differences may be others."]),
        f"The space of `{circular}` made the clusters: read it as circular for arms prompted with them.",
        *(
            f"Protocol `{protocol}`: {_protocol(protocol, report['sizes']['patch'], report['sizes']['generator'])}"
            for protocol in report["protocols"]
        ),
    ]
    if BASELINE in arms:
        lines.append(
            f"Differences are from `{BASELINE}` at the same seed: their mean with a 95 % interval (Student's t over seeds), "
            "and in how many seeds the arm lies below and above it."
        )
    lines.append("")
    twins = {
        column_of(word, encoder, twin): column_of(word, encoder, protocol)
        for encoder, protocols in distinct_spaces(reports).items()
        for protocol, names in protocols.items()
        for twin in names
        for word in _METRICS.values()
    }
    for metric in dict.fromkeys(metric for row in cells.values() for metric in row):
        if metric in twins:
            lines += [f"## {metric}", "", f"As {twins[metric]}: the encoder sees the same pixels.", ""]
            continue
        values = {arm: _values(cells, arm, seeds, metric) for arm in arms}
        digits = digits_of(metric)
        body = [
            [
                arm,
                *(_number(value, digits) for value in of_arm),
                _number(_mean(of_arm), digits),
                *_difference(of_arm, values, arm, digits),
            ]
            for arm, of_arm in values.items()
        ]
        head = [metric, *(f"seed {seed}" for seed in seeds), "mean", "difference", "below / above"]
        lines += [f"## {metric} ({'lower' if lower_is_better(metric) else 'higher'} is better)", ""]
        lines += [*markdown_table(head, body), ""]
    return "\n".join(lines)


def _values(cells: Mapping[tuple[str, int], Row], arm: str, seeds: Sequence[int], metric: str) -> list[float]:
    found = (cells[arm, seed].get(metric, {}).get("value") for seed in seeds)
    return [np.nan if value is None else float(value) for value in found]


def _number(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))  # undefined as soon as one value is: a mean over fewer seeds could not be compared


def _difference(of_arm: Sequence[float], values: Mapping[str, Sequence[float]], arm: str, digits: int) -> tuple[str, str]:
    """Mean paired difference with its interval, and the count of its signs; empty for the baseline itself."""
    if arm == BASELINE or BASELINE not in values:
        return "", ""
    differences = np.subtract(of_arm, values[BASELINE])
    if np.isnan(differences).any():
        return "–", "–"
    text = f"{differences.mean():+.{digits}f}"
    if differences.size > 1:
        low, high = mean_interval(differences)
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return text, f"{(differences < 0).sum()} / {(differences > 0).sum()} of {differences.size}"
