"""One number for all readers and images, with an interval that holds for other readers and other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtr, stdtrit

from histoprompt.intervals import LEVEL, Floats, wilson_interval

Bools = npt.NDArray[np.bool_]
Cell = dict[str, Any]
# Weights of the readers (D or 1, R) and of the images (D or 1, C) -> D values.
Statistic = Callable[[Floats, Floats], Floats]

FEWEST_IMAGES = 5  # below this a resample says nothing of other images


@dataclass(frozen=True)
class Resamples:
    """How often each reader and each image is in each resample: (draws, R) and (draws, C)."""

    readers: Floats
    images: Floats


def resample(readers: int, strata: npt.ArrayLike, *, draws: int, seed: int) -> Resamples:
    """Draw readers and, within each stratum, images; with replacement, n - 1 of n, which makes the variance of a mean unbiased.

    Parameters
    ----------
    readers : R, at least two.
    strata : (C,) of the images, at least two each: real or synthetic, whose numbers the study's design fixes.
    draws, seed : of the resamples.

    Source: Rao & Wu, JASA 83, 1988 (n - 1 of n).
    """
    strata = np.asarray(strata)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 2))))
    images = np.empty((draws, strata.size))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        images[:, members] = _weights(generator, members.size, draws)
    return Resamples(_weights(generator, readers, draws), images)


def _weights(generator: np.random.Generator, n: int, draws: int) -> Floats:
    return generator.multinomial(n - 1, np.full(n, 1 / n), size=draws).astype(np.float64)


def share(hits: npt.ArrayLike, counted: npt.ArrayLike) -> Statistic:
    """The share of hits among the answers that count; both are boolean (R, C)."""
    counted = np.asarray(counted, np.float64)
    found = np.asarray(hits, np.float64) * counted

    def statistic(readers: Floats, images: Floats) -> Floats:
        return _ratio(_total(found, readers, images), _total(counted, readers, images))

    return statistic


def mean_of(first: Statistic, second: Statistic) -> Statistic:
    """The mean of two statistics: of sensitivity and specificity, say."""
    return lambda readers, images: (first(readers, images) + second(readers, images)) / 2


def difference_of(first: Statistic, second: Statistic) -> Statistic:
    """The first statistic minus the second."""
    return lambda readers, images: first(readers, images) - second(readers, images)


def mean_auc(scores: npt.ArrayLike, answered: npt.ArrayLike, positive: npt.ArrayLike, negative: npt.ArrayLike) -> Statistic:
    """The mean over readers of each reader's area under the ROC curve, ties counted half.

    Parameters
    ----------
    scores : (R, C), higher for `positive`.
    answered : boolean (R, C).
    positive, negative : boolean (C,).
    """
    scores, answered = np.asarray(scores, np.float64), np.asarray(answered, np.float64)
    rows, columns = np.flatnonzero(positive), np.flatnonzero(negative)

    def statistic(readers: Floats, images: Floats) -> Floats:
        areas = []
        for score, seen in zip(scores, answered, strict=True):
            above = score[rows, None] - score[columns]
            wins = (above > 0) + 0.5 * (above == 0)
            left, right = images[:, rows] * seen[rows], images[:, columns] * seen[columns]
            areas.append(_ratio(((left @ wins) * right).sum(axis=1), left.sum(axis=1) * right.sum(axis=1)))
        each = np.stack(areas, axis=1)  # (D or 1, R); a reader who saw only one kind has none
        known = np.isfinite(each)
        return _ratio((readers * np.where(known, each, 0)).sum(axis=1), (readers * known).sum(axis=1))

    return statistic


def _total(values: Floats, readers: Floats, images: Floats) -> Floats:
    total: Floats = ((readers @ values) * images).sum(axis=1)
    return total


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio


def pooled(statistic: Statistic, kinds: Sequence[Bools], resamples: Resamples | None, *, bounded: bool = True) -> Cell:
    """A statistic of all readers and images, with its standard error and 95 % interval.

    Readers and images are both samples, and answers depend on both. Resampling both at once counts the variance of the answer
    itself three times (Owen, Ann. Appl. Stat. 1, 2007): for readers who guess its interval is 1.7 times too wide. So the
    variance is put together from three bootstraps, of readers alone (r), of images alone (i) and of both (b):
    r = R + E, i = I + E, b = R + I + 3 E for the components of readers, images and answers, and the sum sought, R + I + E, is
    2 (r + i) - b, but at least r and i (Beiden, Wagner & Campbell, Acad. Radiol. 7, 2000). Student's t with Satterthwaite's
    degrees of freedom, on the logit scale for what lies between 0 and 1.

    Parameters
    ----------
    statistic : of weighted readers and images.
    kinds : boolean (R, C) each: the answers that enter, apart for every kind of image that the statistic needs some of.
    resamples : None for fewer than two readers.
    bounded : the statistic lies between 0 and 1.

    Returns
    -------
    `value`, `low`, `high`, `error`, `freedom`, the numbers of `readers`, `images` and `answers`, and a `reason` where something
    is undefined.
    """
    counted = reduce(np.logical_or, kinds)
    readers, images = int(counted.any(axis=1).sum()), int(counted.any(axis=0).sum())
    cell: Cell = {"value": None, "low": None, "high": None, "error": None, "freedom": None}
    numbers = {"readers": readers, "images": images, "answers": int(counted.sum())}
    one = np.ones((1, counted.shape[0])), np.ones((1, counted.shape[1]))
    value = float(statistic(*one)[0])
    if np.isnan(value):
        return cell | numbers | {"reason": "no answer to an image of this kind"}
    cell["value"] = value
    if min(int(kind.any(axis=0).sum()) for kind in kinds) < FEWEST_IMAGES:
        return cell | numbers | {"reason": f"no interval: fewer than {FEWEST_IMAGES} images of a kind"}
    if resamples is None or readers < 2:
        return cell | numbers | {"reason": "no interval: it takes two readers to speak of others"}
    by_reader, by_image, by_both = (
        float(np.nanvar(statistic(weights, others), ddof=1))
        for weights, others in ((resamples.readers, one[1]), (one[0], resamples.images), (resamples.readers, resamples.images))
    )
    variance = max(2 * (by_reader + by_image) - by_both, by_reader, by_image)
    if variance < 1e-12:  # every answer alike: no more independent trials than readers, nor than images
        if not bounded or value not in (0.0, 1.0):
            return cell | numbers | {"reason": "no interval: readers and images do not differ"}
        n = min(readers, images)
        low, high = wilson_interval(round(value * n), n)
        return cell | numbers | {"low": low, "high": high}
    error = float(np.sqrt(variance))
    freedom = variance**2 / (by_reader**2 / (readers - 1) + (variance - by_reader) ** 2 / (images - 1))
    reach = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    if bounded:
        step = reach / (value * (1 - value))
        low, high = float(expit(logit(value) - step)), float(expit(logit(value) + step))
    else:
        low, high = value - reach, value + reach
    return cell | numbers | {"low": low, "high": high, "error": error, "freedom": float(freedom)}


def equivalence(value: float, error: float, freedom: float, *, chance: float, margin: float) -> dict[str, float]:
    """Is a statistic chance? Two one-sided t-tests against chance ± margin, and the plain test of a difference.

    Parameters
    ----------
    value, error, freedom : the statistic, its standard error and degrees of freedom.
    chance, margin : equivalence is being nearer to `chance` than `margin`.

    Returns
    -------
    `p_equivalence` (the larger of the two), `p_difference` (two-sided), and `low` and `high` of the 90 % interval, which lies
    within chance ± margin exactly when `p_equivalence` is below 0.05 (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987).
    """
    reach = float(stdtrit(freedom, LEVEL)) * error
    above_low = stdtr(freedom, -(value - chance + margin) / error)
    below_high = stdtr(freedom, (value - chance - margin) / error)
    return {
        "p_equivalence": float(max(above_low, below_high)),
        "p_difference": float(2 * stdtr(freedom, -abs(value - chance) / error)),
        "low": value - reach,
        "high": value + reach,
    }


def accuracy_against_chance(accuracy: Cell, *, margin: float) -> dict[str, Any]:
    """`equivalence` of a pooled accuracy to 0.5, on the logit scale of its interval, so that test and interval agree.

    Returns
    -------
    `value`, and what `equivalence` returns, `low` and `high` being accuracies; or a `reason`.
    """
    value, error = accuracy["value"], accuracy["error"]
    if error is None:
        return {"reason": accuracy.get("reason", "no standard error, since all answers are alike")}
    test = equivalence(
        float(logit(value)), error / (value * (1 - value)), accuracy["freedom"], chance=0.0, margin=float(logit(0.5 + margin))
    )
    return {"value": value} | test | {"low": float(expit(test["low"])), "high": float(expit(test["high"]))}
