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


def placements(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[Floats, Floats]:
    """DeLong's structural components of an AUC, in O(N log N); the mean of either is the AUC (Sun & Xu, IEEE SPL 21, 2014).

    Returns
    -------
    For each positive the share of negatives below it, for each negative the share of positives above it; ties count half.
    """
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    m, n = positive.size, negative.size
    together = midranks(np.concatenate([positive, negative]))
    return (together[:m] - midranks(positive)) / n, 1 - (together[m:] - midranks(negative)) / m


def told_classes(classes: int) -> range:
    """The classes whose probabilities tell all: of two the second one alone."""
    return range(1, 2) if classes == 2 else range(classes)


def macro_auc(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, Floats]:
    """AUC of two classes, or the mean one-against-rest AUC of more, and what each item adds to it.

    Parameters
    ----------
    probabilities : (N, classes), higher for more likely; of two classes the second column decides.
    labels : (N,), each class present.

    Returns
    -------
    The AUC, and (N,) contributions. Contributions of several classifiers to the same items may be averaged or subtracted:
    `sampling_error` then gives the error of the mean AUC or of the paired difference.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    areas, parts = [], np.zeros(labels.size)
    for c in told_classes(probabilities.shape[1]):
        own = labels == c
        above, below = placements(probabilities[own, c], probabilities[~own, c])
        areas.append(above.mean())
        parts[own] += above / above.size
        parts[~own] += below / below.size
    return float(np.mean(areas)), parts / len(areas)


def sampling_error(contributions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Standard error over other items of the same classes: DeLong's for an AUC of two classes, the delta method's beyond.

    Parameters
    ----------
    contributions : of `macro_auc`, or a linear combination of several.
    labels : (N,), at least two items a class.
    """
    contributions, labels = np.asarray(contributions, dtype=np.float64), np.asarray(labels)
    members = [contributions[labels == c] for c in np.unique(labels)]
    return float(np.sqrt(sum(own.size * own.var(ddof=1) for own in members)))


def auc_interval(auc: float, contributions: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """95 % interval of an AUC over other test items (DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988).

    Perfect separation has no variance to estimate; the interval is then Wilson's for the smallest class without a miss. Where
    all items score alike, 0.5 is certain.
    """
    reach = normal_reach(sampling_error(contributions, labels))
    if reach < 1e-9 and min(auc, 1 - auc) < 1e-9:  # nothing but rounding
        least = int(np.unique(labels, return_counts=True)[1].min())
        low, high = wilson_interval(least, least)
        return (low, high) if auc > 0.5 else (1 - high, 1 - low)
    return max(auc - reach, 0.0), min(auc + reach, 1.0)


def normal_reach(error: float) -> float:
    """Half the width of a 95 % interval of a normal estimate with this standard error."""
    return float(ndtri(0.5 + LEVEL / 2)) * error
