"""What readers could tell: sensitivity, specificity, agreement and equivalence to chance, from returned answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import binom
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.weightstats import DescrStatsW

from histoprompt.files import write_csv, write_json
from histoprompt.intervals import LEVEL, Floats, auc_interval, macro_auc, wilson_interval
from histoprompt.reader_study.answers import STEPS, Session, read_key, read_sessions
from histoprompt.reader_study.figures import draw_kappa, draw_patches, draw_readers
from histoprompt.reader_study.judgements import Judgements, judgements
from histoprompt.reader_study.kinds import kind_of
from histoprompt.reader_study.pooling import (
    FEWEST_IMAGES,
    Bools,
    Cell,
    Resamples,
    accuracy_against_chance,
    difference_of,
    mean_auc,
    mean_of,
    pooled,
    resample,
    share,
)
from histoprompt.reader_study.report import analysis_page
from histoprompt.reader_study.simulate import put_in

CHANCE = 0.5
SOURCES = ("real", "synthetic", "all")


def proportion(hits: int, n: int) -> Cell:
    """A share of one reader's answers with Wilson's interval."""
    if n == 0:
        return {
            "value": None,
            "low": None,
            "high": None,
            "hits": 0,
            "answers": 0,
            "reason": "no answer to an image of this kind",
        }
    low, high = wilson_interval(hits, n)
    return {"value": hits / n, "low": low, "high": high, "hits": hits, "answers": n}


def reader_rows(found: Judgements) -> list[dict[str, Any]]:
    """What each reader did alone."""
    rows = []
    for r, session in enumerate(found.sessions):
        seen, synthetic = found.answered[r], found.synthetic
        row: dict[str, Any] = {
            "reader": session.reader,
            "file": session.file,
            "answers": len(session.answers),
            "missing": session.missing,
            "sensitivity": _proportion(found.right[r], seen & synthetic),
            "specificity": _proportion(found.right[r], seen & ~synthetic),
            "accuracy": _proportion(found.right[r], seen),
            "auc": _auc_of_one(found.scores[r][seen & synthetic], found.scores[r][seen & ~synthetic]),
            "repeats": _repeats_of(session),
        }
        for source, those in (("real", ~synthetic), ("synthetic", synthetic)):
            row[f"diagnosis_{source}"] = _proportion(found.named[r], found.diagnosed[r] & those)
        seconds = [answer.seconds for answer in session.answers if not answer.repeat]
        row["seconds"] = dict(zip(("low", "value", "high"), map(float, np.quantile(seconds, [0.25, 0.5, 0.75])), strict=True))
        rows.append(row)
    return rows


def _proportion(hits: Bools, counted: Bools) -> Cell:
    return proportion(int(hits[counted].sum()), int(counted.sum()))


def _auc_of_one(positive: Floats, negative: Floats) -> Cell:
    numbers = {"synthetic": positive.size, "real": negative.size}
    if min(positive.size, negative.size) < 2:
        reason = "fewer than two images of one kind answered"
        return {"value": None, "low": None, "high": None, **numbers, "reason": reason}
    scores, labels = np.concatenate([negative, positive]), np.repeat([0, 1], [negative.size, positive.size])
    auc, parts = macro_auc(np.stack([-scores, scores], axis=1), labels)
    low, high = auc_interval(auc, parts, labels)
    return {"value": auc, "low": low, "high": high} | numbers


def _twice(session: Session) -> list[tuple[bool, bool]]:
    """First and second answer to every image that was shown again."""
    first = {answer.image: answer.synthetic for answer in session.answers if not answer.repeat}
    return [(first[answer.image], answer.synthetic) for answer in session.answers if answer.repeat]


def _repeats_of(session: Session) -> Cell:
    both = _twice(session)
    return proportion(sum(a == b for a, b in both), len(both))


def kappa(a: Bools, b: Bools) -> Cell:
    """Cohen's kappa of two series of answers, with the interval of its large-sample variance (Fleiss, Cohen & Everitt 1969)."""
    cell: Cell = {"value": None, "low": None, "high": None, "images": int(a.size)}
    if a.size < FEWEST_IMAGES:
        return cell | {"reason": f"fewer than {FEWEST_IMAGES} images to compare"}
    table = np.array([[np.sum(~a & ~b), np.sum(~a & b)], [np.sum(a & ~b), np.sum(a & b)]])
    if a.size in (table[0, 0], table[1, 1]):
        return cell | {"reason": "one answer to every image: chance agreement is perfect too"}
    with np.errstate(invalid="ignore", divide="ignore"):
        result = cohens_kappa(table)
    cell["value"] = float(result.kappa)
    if not np.isfinite(result.kappa_upp):
        return cell | {"reason": "no interval: one reader gave one answer to every image"}
    return cell | {"low": max(float(result.kappa_low), -1.0), "high": min(float(result.kappa_upp), 1.0)}


def _kappas(said: Floats, answered: Floats, weights: Floats) -> Floats:
    """Mean of all pairs' kappas for each row of image weights: (D,). Pairs without one are left out."""
    sums, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for a, b in combinations(range(len(said)), 2):
        both = weights * (answered[a] * answered[b])
        n = both.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            first, second = both @ said[a] / n, both @ said[b] / n
            agree = both @ (said[a] == said[b]) / n
            expected = first * second + (1 - first) * (1 - second)
            value = (agree - expected) / (1 - expected)
        known = np.isfinite(value)
        sums[known] += value[known]
        pairs += known
    mean: Floats = np.divide(sums, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return mean


def agreement(found: Judgements, those: Bools, resamples: Resamples | None) -> dict[str, Any]:
    """Pairwise kappas and Krippendorff's alpha on some of the images.

    Intervals resample the images: they speak of these readers and other images.

    Parameters
    ----------
    those : boolean (C,).

    Returns
    -------
    `images`; `pairs`, a kappa a pair of readers; `kappa`, their mean with `deviation` (over pairs); `alpha`.
    """
    names = [session.reader for session in found.sessions]
    pairs: list[Cell] = []
    for a, b in combinations(range(len(names)), 2):
        both = found.answered[a] & found.answered[b] & those
        pairs.append({"pair": [names[a], names[b]]} | kappa(found.said[a][both], found.said[b][both]))
    values = [pair["value"] for pair in pairs if pair["value"] is not None]
    mean: Cell = {"value": None, "low": None, "high": None, "deviation": None, "pairs": len(values)}
    report: dict[str, Any] = {"images": int(those.sum()), "readers": len(names), "pairs": pairs}
    if len(names) < 2:
        lone = {"reason": "one reader agrees with nobody"}
        return report | {"kappa": mean | lone, "alpha": {"value": None, "low": None, "high": None} | lone}
    if values:
        mean["value"] = float(np.mean(values))
        mean["deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    else:
        mean["reason"] = "no pair of readers has a kappa"
    answers = [(found.answered & (found.said == synthetic))[:, those].sum(axis=0) for synthetic in (False, True)]
    counts = np.stack(answers, axis=1)
    alpha: Cell = {"value": _alpha(counts), "low": None, "high": None}
    if np.isnan(alpha["value"]):
        alpha |= {"value": None, "reason": "one answer to every image: there is nothing to agree on"}
    if resamples is not None and those.sum() >= FEWEST_IMAGES:
        weights = resamples.images[:, those]
        spread = _kappas(found.said[:, those].astype(float), found.answered[:, those].astype(float), weights)
        _interval_by_images(mean, spread, int(those.sum()))
        alphas = [_alpha(np.repeat(counts, row.astype(int), axis=0)) for row in weights]
        _interval_by_images(alpha, np.array(alphas), int(those.sum()))
    return report | {"kappa": mean, "alpha": alpha}


def _alpha(counts: npt.NDArray[np.int64]) -> float:
    """Krippendorff's alpha of the numbers of either answer, (images, 2); NaN where all answers are the same."""
    counts = counts[counts.sum(axis=1) > 1]
    if not (counts.sum(axis=0) > 0).all():
        return float("nan")
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def _interval_by_images(cell: Cell, draws: Floats, images: int) -> None:
    """Add an interval from values on resampled images; nothing where the value itself is undefined."""
    if cell["value"] is not None and np.isfinite(draws).sum() > len(draws) / 2:
        reach = float(stdtrit(images - 1, 0.5 + LEVEL / 2) * np.nanstd(draws, ddof=1))
        cell |= {"low": max(cell["value"] - reach, -1.0), "high": min(cell["value"] + reach, 1.0)}


def median_over(values: Sequence[float]) -> Cell:
    """Median over readers, with the exact interval of order statistics: other readers, these images."""
    ordered = np.sort(values)
    n = ordered.size
    cell: Cell = {"value": float(np.median(ordered)), "low": None, "high": None, "readers": n}
    cell |= {"least": float(ordered[0]), "most": float(ordered[-1])}
    k = int(binom.ppf((1 - LEVEL) / 2, n, 0.5))  # the k smallest and the k largest lie outside
    if k < 1:
        return cell | {"reason": "no interval: a median's takes six readers"}
    return cell | {"low": float(ordered[k - 1]), "high": float(ordered[n - k])}


def analyse(key: Mapping[str, Any], sessions: Sequence[Session], *, margin: float, draws: int, seed: int) -> dict[str, Any]:
    """Everything the answers say, positive being `synthetic`.

    Parameters
    ----------
    key : of the study.
    sessions : as `read_sessions` gives them.
    margin : readers are at chance when their accuracy is within chance ± margin.
    draws, seed : of the resamples of readers and images.
    """
    found = judgements(key, sessions)
    rows = reader_rows(found)
    synthetic, seen = found.synthetic, found.answered
    strata = np.unique(synthetic, return_counts=True)[1]
    resamples = resample(len(sessions), synthetic, draws=draws, seed=seed) if len(sessions) > 1 and strata.min() > 1 else None

    def measures(those: Bools) -> dict[str, Cell]:
        return _measures(found, those, resamples)

    everything = measures(np.ones(len(synthetic), bool))
    arms = list(dict.fromkeys(found.images["arm"][synthetic]))
    of_arm = {arm: (found.images["arm"] == arm).to_numpy() for arm in arms}
    report: dict[str, Any] = {
        "study": key["study"],
        "page": key["page"],
        "images": {"real": int((~synthetic).sum()), "synthetic": int(synthetic.sum())},
        "repeats": key["repeats"],
        "resampling": {"draws": draws, "seed": seed},
        "readers": rows,
        "pooled": everything,
        "median": {name: _median(rows, name) for name in ("sensitivity", "specificity", "accuracy", "auc")},
        "chance": _against_chance(everything["accuracy"], rows, margin),
        "agreement": {
            source: agreement(found, those, resamples)
            for source, those in zip(SOURCES, (~synthetic, synthetic, np.ones_like(synthetic)), strict=True)
        },
        "same_reader": _same_reader(found, sessions),
        "arms": {arm: measures(~synthetic | own) for arm, own in of_arm.items()},
        "between_arms": [
            {"pair": [a, b]}
            | pooled(
                difference_of(share(found.said, seen & of_arm[a]), share(found.said, seen & of_arm[b])),
                [seen & of_arm[a], seen & of_arm[b]],
                resamples,
                bounded=False,
            )
            for a, b in combinations(arms, 2)
        ],
        "labels": {
            word: measures((found.images["label"] == label).to_numpy())
            for label, word in enumerate(found.classes)
            if (found.images["label"] == label).any()
        },
        "clusters": {
            str(cluster): measures((found.images["cluster"] == cluster).to_numpy())
            for cluster in sorted(set(found.images["cluster"]))
        },
        "diagnosis": _diagnosis(found, resamples),
        "confidence": _by_confidence(found, resamples),
        "halves": _halves(found, sessions, resamples),
        "seconds": {"value": float(np.median([row["seconds"]["value"] for row in rows])), "readers": len(rows)}
        | {name: pick(row["seconds"]["value"] for row in rows) for name, pick in (("least", min), ("most", max))},
    }
    return report


def _measures(found: Judgements, those: Bools, resamples: Resamples | None) -> dict[str, Cell]:
    """Sensitivity, specificity, accuracy and AUC of all readers on some of the images."""
    synthetic, real = found.synthetic & those, ~found.synthetic & those
    kinds = [found.answered & synthetic, found.answered & real]
    sensitivity, specificity = (share(found.right, kind) for kind in kinds)
    return {
        "sensitivity": pooled(sensitivity, kinds[:1], resamples),
        "specificity": pooled(specificity, kinds[1:], resamples),
        "accuracy": pooled(mean_of(sensitivity, specificity), kinds, resamples),
        "auc": pooled(mean_auc(found.scores, found.answered, synthetic, real), kinds, resamples),
    }


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> Cell:
    values = [row[name]["value"] for row in rows if row[name]["value"] is not None]
    return median_over(values) if values else {"value": None, "low": None, "high": None, "reason": "no reader has one"}


def _against_chance(accuracy: Cell, rows: Sequence[Mapping[str, Any]], margin: float) -> dict[str, Any]:
    """Is the readers' accuracy chance? For other readers and images, and for other readers of the same images."""
    report: dict[str, Any] = {"margin": margin, "chance": CHANCE, "both": accuracy_against_chance(accuracy, margin=margin)}
    values = [
        (row["sensitivity"]["value"] + row["specificity"]["value"]) / 2
        for row in rows
        if None not in (row["sensitivity"]["value"], row["specificity"]["value"])
    ]
    if len(values) < 2 or np.ptp(values) == 0:
        report["readers"] = {"reason": "fewer than two readers" if len(values) < 2 else "readers do not differ"}
    else:
        readers = DescrStatsW(values)
        low, high = readers.tconfint_mean(alpha=2 * (1 - LEVEL))
        report["readers"] = {
            "value": float(readers.mean),
            "p_equivalence": float(readers.ttost_mean(CHANCE - margin, CHANCE + margin)[0]),
            "p_difference": float(readers.ttest_mean(CHANCE)[1]),
            "low": float(low),
            "high": float(high),
        }
    return report


def _same_reader(found: Judgements, sessions: Sequence[Session]) -> dict[str, Cell]:
    """Agreement of readers with themselves, over all images shown twice."""
    both = np.array([pair for session in sessions for pair in _twice(session)], bool).reshape(-1, 2)
    return {
        "share": proportion(int((both[:, 0] == both[:, 1]).sum()), len(both)),
        "kappa": kappa(both[:, 0], both[:, 1]),
    }


def _diagnosis(found: Judgements, resamples: Resamples | None) -> dict[str, Cell]:
    kinds = [found.diagnosed & those for those in (~found.synthetic, found.synthetic)]
    real, synthetic = (share(found.named, kind) for kind in kinds)
    return {
        "real": pooled(real, kinds[:1], resamples),
        "synthetic": pooled(synthetic, kinds[1:], resamples),
        "difference": pooled(difference_of(real, synthetic), kinds, resamples, bounded=False),
    }


def _by_confidence(found: Judgements, resamples: Resamples | None) -> dict[str, Cell]:
    those = {str(step): np.abs(found.scores) == step for step in range(1, STEPS + 1)}
    return {step: pooled(share(found.right, answers), [answers], resamples) for step, answers in those.items()}


def _halves(found: Judgements, sessions: Sequence[Session], resamples: Resamples | None) -> dict[str, Cell]:
    """Share of right answers in the first and the second half of the sessions: fatigue, or learning."""
    places = {image: place for place, image in enumerate(found.images["image"])}
    late = np.zeros_like(found.answered)
    for reader, session in enumerate(sessions):
        for answer in session.answers:
            if not answer.repeat and answer.position > len(places) / 2:
                late[reader, places[answer.image]] = True
    kinds = [found.answered & ~late, late]
    first, second = (share(found.right, kind) for kind in kinds)
    return {
        "first": pooled(first, kinds[:1], resamples),
        "second": pooled(second, kinds[1:], resamples),
        "difference": pooled(difference_of(second, first), kinds, resamples, bounded=False),
    }


def analyse_reader_study(
    key_json: str | Path,
    answers: Sequence[str | Path],
    report_json: str | Path,
    page_md: str | Path,
    readers_csv: str | Path,
    kappa_png: str | Path,
    readers_png: str | Path,
    patches_png: str | Path,
    *,
    folder: str | Path,
    simulated: bool,
    margin: float,
    draws: int,
    seed: int,
) -> None:
    """Check the answers and write what they say, as numbers, as text and as pictures.

    Parameters
    ----------
    key_json : of the study.
    answers : a CSV file a reader.
    report_json, page_md, readers_csv : written: every number; the same to read; a row a reader.
    kappa_png, readers_png, patches_png : written: agreement of every pair of readers; every reader's sensitivity and
        specificity; the patches most often taken for real and for synthetic.
    folder : of the study, in which the key's patches are.
    simulated : the readers are simulated ones; everything written says so.
    margin, draws, seed : as `analyse` takes them.

    Raises
    ------
    InputError : answers that do not fit the key or each other.
    """
    key = read_key(key_json)
    sessions = read_sessions(answers, key, simulated=simulated)
    report = {"simulated": simulated} | analyse(key, sessions, margin=margin, draws=draws, seed=seed)
    if simulated:
        for row in report["readers"]:
            row["put_in"] = dict(zip(("sensitivity", "specificity"), put_in(row["reader"]), strict=True))
            row["kind"] = kind_of(row["reader"]).words
    draw_kappa(report, kappa_png)
    draw_readers(report, readers_png)
    draw_patches(judgements(key, sessions), Path(folder), patches_png, simulated=simulated)
    write_csv(readers_csv, _reader_table(report))
    analysis_page(report, page_md)
    write_json(report_json, report)


def _reader_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """A row a reader, a value with the ends of its interval in three columns."""
    rows = []
    for row in report["readers"]:
        flat = {name: row[name] for name in ("reader", "file", "answers", "missing")} | {"simulated": report["simulated"]}
        for name in (
            "sensitivity",
            "specificity",
            "accuracy",
            "auc",
            "repeats",
            "diagnosis_real",
            "diagnosis_synthetic",
            "seconds",
        ):
            flat |= {name: row[name]["value"], f"{name} low": row[name]["low"], f"{name} high": row[name]["high"]}
        rows.append(flat)
    return pd.DataFrame(rows)
