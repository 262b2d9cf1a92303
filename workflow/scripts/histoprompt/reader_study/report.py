"""The analysis of a reader study as a page to read: a sentence a claim, then every number with its N and its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoprompt.files import atomic
from histoprompt.markdown import markdown_table

Cell = Mapping[str, Any]

_WIDTH = 120
_LEVEL = 0.05  # of tests
_MEASURES = ("sensitivity", "specificity", "accuracy", "auc")
_WORDS = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy", "auc": "AUC"}


def analysis_page(report: Mapping[str, Any], page_md: str | Path) -> None:
    """Write `analysis.md`.

    Parameters
    ----------
    report : of `analysis.analyse`, with `simulated` (and what was put in, if so).
    page_md : written.
    """
    title = "SIMULATED READERS, no people: " if report["simulated"] else ""
    lines = [f"# {title}reader study {report['study']}", "", *_opening(report), ""]
    lines += ["## In plain words", "", *_paragraphs(_claims(report)), ""]
    for heading, part in (
        ("What was put in, and what was found", _put_in),
        ("All readers", _together),
        ("Each reader", _readers),
        ("Chance", _chance),
        ("Agreement", _agreement),
        ("By arm, label and cluster", _groups),
        ("Diagnosis", _diagnosis),
        ("Confidence, fatigue and time", _course),
        ("Undefined", _undefined),
        ("How to read this", _legend),
    ):
        content = part(report)
        if content:
            lines += [f"## {heading}", "", *content, ""]
    with atomic(page_md) as temporary:
        temporary.write_text("\n".join(lines))


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [textwrap.fill(f"- {text}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for text in sentences]


def _show(cell: Cell, digits: int = 2, *, signed: bool = False) -> str:
    """`0.55 [0.48, 0.62]`; a dash where it is undefined."""
    if cell["value"] is None:
        return "–"
    form = f"{'+' if signed else ''}z.{digits}f"
    value, low, high = (None if cell[name] is None else format(cell[name], form) for name in ("value", "low", "high"))
    return str(value) if low is None else f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _opening(report: Mapping[str, Any]) -> list[str]:
    rows, images = report["readers"], report["images"]
    unfinished = [f"{row['reader']} ({row['missing']} missing)" for row in rows if row["missing"]]
    text = (
        f"{_plural(len(rows), 'reader')} judged {images['real']} real and {images['synthetic']} synthetic images "
        f"({sum(row['answers'] for row in rows)} answers, those to repeated images among them) on page {report['page']}. "
        "Positive is synthetic: sensitivity is the share of synthetic images taken for synthetic, specificity that of real "
        "images taken for real."
    )
    if report["simulated"]:
        text = "No person gave these answers. They were drawn from models of readers, to show that the analysis finds what " + (
            "was put in. " + text
        )
    lines = [textwrap.fill(text, _WIDTH, break_on_hyphens=False)]
    if unfinished:
        text = f"**Unfinished sessions**, analysed with the answers that are there: {', '.join(unfinished)}."
        lines += ["", textwrap.fill(text, _WIDTH, break_on_hyphens=False)]
    return lines


def _claims(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that can be claimed, or why it cannot."""
    chance, pooled, median = report["chance"], report["pooled"], report["median"]
    n = len(report["readers"])
    who = "The simulated readers" if report["simulated"] else "Readers"
    claims = [_verdict(chance, who)]
    claims.append(
        f"Median sensitivity and specificity over {_plural(n, 'reader')}: {_show(median['sensitivity'])} and "
        f"{_show(median['specificity'])}; all answers together: {_show(pooled['sensitivity'])} and "
        f"{_show(pooled['specificity'])}."
    )
    kappa = report["agreement"]["all"]["kappa"]
    if kappa["value"] is not None:
        claims.append(
            f"Pairs of readers agree with a mean Cohen's kappa of {_show(kappa)}; guessers have 0 and full agreement is 1 "
            f"({_plural(kappa['pairs'], 'pair')}, {report['agreement']['all']['images']} images)."
        )
    again = report["same_reader"]["share"]
    if again["value"] is not None:
        claims.append(
            f"Shown an image again, readers gave the same answer in {again['hits']} of {again['answers']} cases: "
            f"{_show(again)}."
        )
    for pair in report["between_arms"]:
        if pair["low"] is not None:
            a, b = pair["pair"]
            low, high = pair["low"] > 0, pair["high"] < 0
            words = f"more often than images of arm {b}" if low else f"less often than images of arm {b}"
            text = words if low or high else f"neither clearly more nor clearly less often than images of arm {b}"
            claims.append(
                f"Images of arm {a} were recognised {text} (difference in sensitivity {_show(pair, signed=True)}, "
                f"{pair['answers']} answers)."
            )
    change = report["halves"]["difference"]
    if change["low"] is not None:
        verb = "rose" if change["low"] > 0 else "fell" if change["high"] < 0 else "did not clearly change"
        claims.append(f"From the first to the second half of a session accuracy {verb} ({_show(change, signed=True)}).")
    named = report["diagnosis"]["difference"]
    if named["low"] is not None:
        verb = "more" if named["low"] > 0 else "less" if named["high"] < 0 else "neither clearly more nor clearly less"
        claims.append(
            f"The diagnosis was {verb} often right on real than on synthetic images (difference {_show(named, signed=True)}, "
            f"{named['answers']} diagnoses)."
        )
    return claims


def _verdict(chance: Mapping[str, Any], who: str) -> str:
    test, margin = chance["both"], f"{chance['margin']:g}"
    if "reason" in test:
        return f"Whether readers are at chance cannot be tested: {test['reason']}."
    equal, different = test["p_equivalence"] < _LEVEL, test["p_difference"] < _LEVEL
    words = {
        (True, False): f"cannot tell synthetic from real images: their accuracy is equivalent to chance within ± {margin}",
        (True, True): f"do better or worse than chance, but by less than the margin of {margin}",
        (False, True): f"tell synthetic from real images {'better' if test['value'] > 0.5 else 'worse'} than chance",
        (False, False): f"may or may not be at chance: these data show neither a difference nor equivalence within ± {margin}",
    }[equal, different]
    return (
        f"{who} {words} (accuracy {test['value']:.2f}, 90 % interval [{test['low']:.2f}, {test['high']:.2f}]; "
        f"equivalence {_p(test['p_equivalence'])}, difference {_p(test['p_difference'])})."
    )


def _put_in(report: Mapping[str, Any]) -> list[str]:
    if not report["simulated"]:
        return []
    head = ["reader", "sensitivity put in", "found", "specificity put in", "found", "what it is"]
    rows = []
    for row in report["readers"]:
        cells = [cell for m in ("sensitivity", "specificity") for cell in (f"{row['put_in'][m]:.2f}", _show(row[m]))]
        rows.append([row["reader"], *cells, row["kind"]])
    pairs = [(row[m], row["put_in"][m]) for row in report["readers"] for m in ("sensitivity", "specificity")]
    held = [cell["low"] <= truth <= cell["high"] for cell, truth in pairs if cell["low"] is not None]
    text = (
        f"{sum(held)} of {len(held)} intervals hold what was put in; 95 % of them should. What was put in to a tired reader is "
        "the mean over a session."
    )
    return [*markdown_table(head, rows), "", textwrap.fill(text, _WIDTH)]


def _together(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for measure in _MEASURES:
        cell, median = report["pooled"][measure], report["median"][measure]
        spread = "–" if median["value"] is None else f"{median['least']:.2f} to {median['most']:.2f}"
        numbers = [str(cell[name]) for name in ("readers", "images", "answers")]
        rows.append([_WORDS[measure], _show(cell), *numbers, _show(median), spread])
    return markdown_table(
        ["measure", "all answers", "readers", "images", "answers", "median over readers", "least to most"], rows
    )


def _readers(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in report["readers"]:
        again = row["repeats"]
        rows.append(
            [
                row["reader"],
                f"{row['answers']}" + (f" ({row['missing']} missing)" if row["missing"] else ""),
                *(_counted(row[measure]) for measure in ("sensitivity", "specificity", "accuracy")),
                _show(row["auc"]),
                f"{again['hits']} of {again['answers']}",
                f"{row['seconds']['value']:.1f} ({row['seconds']['low']:.1f}–{row['seconds']['high']:.1f})",
            ]
        )
    head = ["reader", "answers", "sensitivity", "specificity", "accuracy", "AUC", "same again", "seconds an image"]
    return markdown_table(head, rows)


def _counted(cell: Cell) -> str:
    return "–" if cell["value"] is None else f"{_show(cell)} {cell['hits']}/{cell['answers']}"


def _chance(report: Mapping[str, Any]) -> list[str]:
    chance = report["chance"]
    rows = []
    for name, words in (("both", "other readers, other images"), ("readers", "other readers, these images (statsmodels)")):
        test = chance[name]
        if "reason" in test:
            rows.append([words, "–", "–", "–", "–"])
        else:
            tests = (_p(test["p_equivalence"]), _p(test["p_difference"]))
            rows.append([words, f"{test['value']:.3f}", f"[{test['low']:.3f}, {test['high']:.3f}]", *tests])
    text = (
        f"Equivalent means: nearer to {chance['chance']:g} than the margin of {chance['margin']:g}, to be set before answers "
        "come in; two one-sided t-tests at 5 %, which is the 90 % interval within the margin. A difference test that finds "
        "nothing shows no equivalence. The first row is the one to quote; the second counts every reader alike."
    )
    head = ["what it speaks of", "accuracy", "90 % interval", "equivalence to chance", "difference from chance"]
    return [*markdown_table(head, rows), "", *textwrap.wrap(text, _WIDTH)]


def _agreement(report: Mapping[str, Any]) -> list[str]:
    rows = []
    for source, part in report["agreement"].items():
        kappa = part["kappa"]
        deviation = "–" if kappa["deviation"] is None else f"{kappa['deviation']:.2f}"
        rows.append([source, str(part["images"]), str(kappa["pairs"]), _show(kappa), deviation, _show(part["alpha"])])
    head = ["images", "N", "pairs of readers", "mean Cohen's kappa", "deviation over pairs", "Krippendorff's alpha"]
    again = report["same_reader"]
    text = (
        f"Readers with themselves, on images shown twice: the same answer in {_counted(again['share'])}, Cohen's kappa "
        f"{_show(again['kappa'])}. Guessers are at kappa 0 on all images; so are readers who agree only in how often they say "
        "synthetic. Within real or synthetic images alone, agreement is about which images look so, not about being right."
    )
    return [*markdown_table(head, rows), "", *textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]


def _groups(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind, groups in (("arm", report["arms"]), ("label", report["labels"]), ("cluster", report["clusters"])):
        rows = []
        for name, cells in groups.items():
            numbers = [str(cells[measure]["images"]) for measure in ("sensitivity", "specificity")]
            rows.append([name, *numbers, *(_show(cells[measure]) for measure in _MEASURES)])
        head = [kind, "synthetic", "real", *_WORDS.values()]
        lines += [*markdown_table(head, rows), ""]
    text = (
        "The images of every arm stand against all real images, so that the arms share their specificity. Clusters have few "
        "images each, so read them as hints: a dash where there is no image of a kind, no interval below five of one."
    )
    return [*lines, *textwrap.wrap(text, _WIDTH)]


def _diagnosis(report: Mapping[str, Any]) -> list[str]:
    cells = report["diagnosis"]
    if cells["real"]["value"] is None and cells["synthetic"]["value"] is None:
        return []
    rows = [
        [words, str(cells[name]["answers"]), _show(cells[name], signed=name == "difference")]
        for name, words in (("real", "real images"), ("synthetic", "synthetic images"), ("difference", "difference"))
    ]
    return markdown_table(["diagnosis", "answers", "share right"], rows)


def _course(report: Mapping[str, Any]) -> list[str]:
    steps = [[step, str(cell["answers"]), _show(cell)] for step, cell in report["confidence"].items()]
    halves = [
        [name, str(report["halves"][name]["answers"]), _show(report["halves"][name], signed=name == "difference")]
        for name in ("first", "second", "difference")
    ]
    seconds = report["seconds"]
    text = (
        f"Median time an image: {seconds['value']:.1f} s, the median over {_plural(seconds['readers'], 'reader')} "
        f"({seconds['least']:.1f} to {seconds['most']:.1f} s); each reader's quartiles stand above."
    )
    return [
        *markdown_table(["confidence", "answers", "share right"], steps),
        "",
        *markdown_table(["half of the session", "answers", "share right"], halves),
        "",
        text,
    ]


def _undefined(report: Mapping[str, Any]) -> list[str]:
    """Every cell without a value or an interval, by its reason."""
    found: dict[str, list[str]] = {}

    def visit(content: Any, path: tuple[str, ...]) -> None:
        if path[:1] == ("clusters",):
            return  # most have few images: said below their table
        if isinstance(content, Mapping):
            if "reason" in content:
                found.setdefault(content["reason"], []).append(" ".join(path))
            for name, part in content.items():
                visit(part, (*path, name))
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, Mapping):
                    visit(part, (*path, part.get("reader") or " and ".join(part["pair"])))

    visit(report, ())
    return _paragraphs([f"{reason}: {', '.join(names)}." for reason, names in found.items()])


def _legend(report: Mapping[str, Any]) -> list[str]:
    draws = report["resampling"]
    return _paragraphs(
        [
            "**Intervals** [low, high] hold in 95 % of studies. One reader's shares: Wilson; one reader's AUC: DeLong. All "
            "readers together: readers and images are both resampled, and the variance is put together from draws of readers, "
            f"of images within real and synthetic, and of both ({draws['draws']} draws, seed {draws['seed']}; Beiden, Wagner & "
            "Campbell 2000), so they speak of other readers and other images. Medians over readers: order statistics. Kappa "
            "and alpha: images resampled, for these readers.",
            "**Accuracy** of all readers is the mean of sensitivity and specificity: 0.5 for guessers, whatever they say most. "
            "Each reader's is the share of right answers.",
            "**AUC** is from confidence, counted negative for `real`; for all readers, the mean over readers.",
            "**Repeats** enter nothing but the agreement of readers with themselves; the training round enters nothing.",
            "An interval over a handful of readers cannot know readers of another kind: state who they were.",
        ]
    )
