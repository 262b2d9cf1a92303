"""Intervals that hold for the metrics of this project: half-samples without replacement, proportions, paired differences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LEVEL = 0.95


def half_samples(n: int, count: int, *, seed: int, side: int) -> list[Rows]:
    """Draw `count` random halves of n items, each without replacement.

    Resampling *with* replacement repeats items, which shrinks covariances and neighbour radii: a Fréchet distance or a recall
    computed on such a sample is another quantity, and its bootstrap interval may not even hold the value (METHOD.md).

    Parameters
    ----------
    n : number of items.
    count : number of halves; the first halves do not change when more are asked for.
    seed : of the draw.
    side : which of several independent draws under one seed (0: reference, 1: images).

    Returns
    -------
    `count` ascending arrays of n // 2 row numbers.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, side))))
    return [np.sort(generator.permutation(n)[: n // 2]) for _ in range(count)]


def half_sample_interval(value: float, halves: npt.ArrayLike, *, low: float = 0.0, high: float = np.inf) -> tuple[float, float]:
    """95 % interval of a statistic from its values on random halves of the data (the delete-half jackknife).

    A statistic on m of n items, drawn without replacement, varies about its value on all n with variance s² (1/m - 1/n), where
    s²/n is the variance sought: the scaling m / (n - m) is one for halves. The interval is value ± t s/√n with Student's t, as
    s comes from few halves. Only the *spread* of the halves enters, never their level, so a bias that depends on n (the
    Fréchet distance's, the neighbour radii's) does not shift the interval: it is the interval of the statistic at this n.
    Where image set and reference share one distribution, the Fréchet distance is degenerate and its interval too wide.
    (Politis, Romano & Wolf, Subsampling, 1999; Shao & Wu, Ann. Stat. 17, 1989.)

    Parameters
    ----------
    value : the statistic on all data.
    halves : its values on at least two halves.
    low, high : the range of the statistic, to which the interval is clipped.
    """
    halves = np.asarray(halves, dtype=np.float64)
    return _about(value, float(halves.std(ddof=1)), halves.size - 1, low, high)


def mean_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """95 % interval of the mean of at least two independent values (Student's t): of paired differences over seeds, say."""
    values = np.asarray(values, dtype=np.float64)
    return _about(float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size)), values.size - 1, -np.inf, np.inf)


def _about(value: float, error: float, freedom: int, low: float, high: float) -> tuple[float, float]:
    reach = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    return min(max(value - reach, low), high), max(min(value + reach, high), low)


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion, hits of n > 0 independent trials (Wilson, JASA 22, 1927)."""
    z = float(ndtri(0.5 + LEVEL / 2))
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(max(centre - reach, 0.0)), float(min(centre + reach, 1.0))


def midranks(values: npt.ArrayLike) -> Floats:
    """Ranks from one, ties sharing their mean rank."""
    values = np.asarray(values)
    ascending = np.sort(values)
    ranks: Floats = (np.searchsorted(ascending, values, "left") + np.searchsorted(ascending, values, "right") + 1) / 2.0
    return ranks


def roc_auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Area under the ROC curve of the scores of both classes: P(positive > negative) + P(equal) / 2."""
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    ranks = midranks(np.concatenate([positive, negative]))[: positive.size]
    return float((ranks.sum() - positive.size * (positive.size + 1) / 2) / (positive.size * negative.size))


def delong(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[float, float, float]:
    """AUC and its 95 % interval by DeLong's variance, in O(N log N) (DeLong 1988; Sun & Xu, IEEE SPL 21, 2014).

    Perfect separation has no variance to estimate; the interval is then Wilson's for the smaller class without a miss.

    Parameters
    ----------
    positive, negative : scores of at least two items a class.

    Returns
    -------
    AUC, low, high.
    """
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    m, n = positive.size, negative.size
    together = midranks(np.concatenate([positive, negative]))
    above = (together[:m] - midranks(positive)) / n  # share of the negatives below each positive
    below = 1 - (together[m:] - midranks(negative)) / m  # share of the positives above each negative
    auc = float(above.mean())
    error = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    if error == 0:
        low, high = wilson_interval(min(m, n), min(m, n))
        return (auc, low, high) if auc > 0.5 else (auc, 1 - high, 1 - low)
    reach = float(ndtri(0.5 + LEVEL / 2)) * error
    return auc, max(auc - reach, 0.0), min(auc + reach, 1.0)


def bootstrap_macro_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, *, draws: int, seed: int) -> tuple[float, float, float]:
    """Mean one-against-rest AUC over the classes, with a 95 % percentile interval of a bootstrap stratified by class.

    The bootstrap is sound here: an AUC is a rank statistic of independent test images, with ties counted half.

    Parameters
    ----------
    scores : (N, classes), higher for more likely.
    labels : (N,), each class present.
    draws : number of resamples.
    seed : of the resamples.

    Returns
    -------
    macro AUC, low, high.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    classes = range(scores.shape[1])
    members = [np.flatnonzero(labels == c) for c in classes]
    groups = [np.unique(scores[:, c], return_inverse=True)[1] for c in classes]

    def macro(weights: Floats) -> float:
        """AUC of weighted items: every pair counts by the product of its weights."""
        areas = []
        for c, group in zip(classes, groups, strict=True):
            at = np.bincount(group[members[c]], weights[members[c]], group.max() + 1)
            rest = np.bincount(group, weights, group.max() + 1) - at
            areas.append(at @ (np.cumsum(rest) - 0.5 * rest) / (at.sum() * rest.sum()))
        return float(np.mean(areas))

    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 0))))
    values = []
    for _ in range(draws):
        weights = np.zeros(labels.size)
        for rows in members:
            weights[rows] = np.bincount(generator.integers(rows.size, size=rows.size), minlength=rows.size)
        values.append(macro(weights))
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return macro(np.ones(labels.size)), float(low), float(high)
