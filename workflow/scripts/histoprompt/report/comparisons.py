"""What a study's numbers say about its arms, in sentences that their intervals bear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from histoprompt.intervals import mean_interval
from histoprompt.report.text import joined
from histoprompt.summary import Row, digits_of, lower_is_better, show_cell

BETTER, WORSE, EVEN = "better", "worse", "no difference"


@dataclass(frozen=True)
class Finding:
    """One measure of two image sets.

    Attributes
    ----------
    measure : a column of the summary.
    verdict : BETTER or WORSE where the intervals lie apart, else EVEN.
    one, other : value and interval, as the tables show them.
    difference : one less other, in words.
    """

    measure: str
    verdict: str
    one: str
    other: str
    difference: str


@dataclass(frozen=True)
class Replicated:
    """The same over several trainings of both arms, paired by seed: mean difference, 95 % interval, and counts of its sign."""

    measure: str
    verdict: str
    difference: float
    low: float
    high: float
    below: int
    above: int
    seeds: int


F = TypeVar("F", Finding, Replicated)


def baselines_of(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The arms that others are held against: the first fine-tuned one of plain label prompts, and that of shuffled ones.

    Parameters
    ----------
    arms : name -> `config.arm_settings`.
    """
    found = []
    for prompts in ("label", "shuffled"):
        found += [name for name, arm in arms.items() if arm["prompts"] == prompts and arm["finetune"] is not None][:1]
    return found


def compare(one: Row, other: Row, measures: Iterable[str]) -> list[Finding]:
    """Compare two image sets measure by measure, where both have a value with an interval.

    The two share reference patches, and their images begin from the same noise, so that their errors go together and
    intervals that lie apart are more than 95 % sure; those that overlap say nothing. No interval of a difference can be had
    from them.
    """
    findings = []
    for measure in measures:
        cells = [row.get(measure) for row in (one, other)]
        if any(cell is None or cell["value"] is None or cell["low"] is None for cell in cells):
            continue
        a, b = (cell for cell in cells if cell is not None)
        below, above = a["high"] < b["low"], a["low"] > b["high"]
        findings.append(
            Finding(
                measure,
                _verdict(below, above, measure),
                show_cell(a, measure),
                show_cell(b, measure),
                _difference(a["value"] - b["value"], measure),
            )
        )
    return findings


def compare_replicates(
    values: Mapping[tuple[str, str], Mapping[int, float]], arm: str, baseline: str, measures: Iterable[str]
) -> list[Replicated]:
    """Compare two arms over the fine-tuning seeds that both have, two at least: mean paired differences (Student's t).

    Parameters
    ----------
    values : (arm, measure) -> seed -> value.
    """
    findings = []
    for measure in measures:
        one, other = values.get((arm, measure), {}), values.get((baseline, measure), {})
        differences = np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])
        if differences.size < 2:
            continue
        low, high = mean_interval(differences)
        findings.append(
            Replicated(
                measure,
                _verdict(high < 0, low > 0, measure),
                float(differences.mean()),
                low,
                high,
                int((differences < 0).sum()),
                int((differences > 0).sum()),
                differences.size,
            )
        )
    return findings


def sentence(arm: str, baseline: str, findings: Sequence[Finding]) -> str:
    """What the findings of an arm against a baseline say."""
    if not findings:
        return f"Nothing that {arm} and {baseline} can be compared by is defined."
    clauses = _clauses(arm, baseline, findings, _described)
    said = [clause + (": intervals overlap" if verdict == EVEN else ": intervals apart") for verdict, clause in clauses]
    return ". ".join([said[0], *(clause[0].upper() + clause[1:] for clause in said[1:])]) + "."


def replicated_sentence(arm: str, baseline: str, findings: Sequence[Replicated]) -> str:
    """What several seeds say of an arm against a baseline."""
    clauses = [clause for _, clause in _clauses(arm, baseline, findings, _paired)]
    return f"Over {findings[0].seeds} seeds {'; '.join(clauses)}."


def _clauses(arm: str, baseline: str, findings: Sequence[F], describe: Callable[[F], str]) -> list[tuple[str, str]]:
    """Verdict and clause: in what the arm is better, in what it is worse, and where no difference shows."""
    openings = {
        BETTER: ("", f"{arm} beats {baseline}"),
        WORSE: (f"{arm} does not beat {baseline}: ", "it is worse"),
        EVEN: (f"{arm} cannot be told from {baseline}: ", "no difference shows"),
    }
    clauses: list[tuple[str, str]] = []
    for verdict, (first, opening) in openings.items():
        found = [describe(finding) for finding in findings if finding.verdict == verdict]
        if found:
            clauses.append((verdict, f"{'' if clauses else first}{opening} in {joined(found)}"))
    return clauses


def _described(finding: Finding) -> str:
    if finding.verdict == EVEN:
        return f"{finding.measure} ({_value(finding.one)} against {_value(finding.other)})"
    return f"{finding.measure} ({finding.one} against {finding.other}, {finding.difference})"


def _paired(finding: Replicated) -> str:
    digits = digits_of(finding.measure)
    low, high = _signed(finding.low, digits), _signed(finding.high, digits)
    counts = f"lower in {finding.below} and higher in {finding.above}"
    return f"{finding.measure} ({_signed(finding.difference, digits)} [{low}, {high}], {counts})"


def headline(measure: str, baseline: str, rows: Mapping[str, Row]) -> str:
    """Which of the other image sets beat the baseline in one measure, and which do not; empty where it is undefined.

    Parameters
    ----------
    rows : name -> row of every arm, the baseline's among them.
    """
    found = {
        name: finding[0]
        for name, row in rows.items()
        if name != baseline and (finding := compare(row, rows[baseline], [measure]))
    }
    if not found:
        return ""
    beat = {name: finding for name, finding in found.items() if finding.verdict == BETTER}
    rest = [f"{name} ({finding.one})" for name, finding in found.items() if finding.verdict != BETTER]
    other = next(iter(found.values())).other
    if not beat:
        return f"Nothing beats {baseline} in {measure} ({other}): not {joined(rest, 'nor')}."
    if len(beat) == 1:
        name, only = next(iter(beat.items()))
        said = f"{name} beats {baseline} in {measure}: {only.one} against {other}, {only.difference}"
    else:
        values = [f"{name} {finding.one}, {finding.difference}" for name, finding in beat.items()]
        said = f"{joined(list(beat))} beat {baseline} in {measure} ({other}): {'; '.join(values)}"
    return said + (f"; {joined(rest)} {'does' if len(rest) == 1 else 'do'} not." if rest else ".")


def _verdict(below: bool, above: bool, measure: str) -> str:
    if not below and not above:
        return EVEN
    return BETTER if below == lower_is_better(measure) else WORSE


def _difference(difference: float, measure: str) -> str:
    return f"{abs(difference):.{digits_of(measure)}f} {'lower' if difference < 0 else 'higher'}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _value(cell: str) -> str:
    return cell.partition(" ")[0]
