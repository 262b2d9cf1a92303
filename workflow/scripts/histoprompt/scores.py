"""How good a classifier is: AUC, accuracy and calibration, of one training or of several seeds together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histoprompt.intervals import Floats, Rows, auc_interval, macro_auc, mean_interval, told_classes, wilson_interval

CALIBRATION_BINS = 10
_DELTA = "one against rest, mean over classes; delta method"


def reliability(
    predicted: npt.ArrayLike, hits: npt.ArrayLike, *, bins: int = CALIBRATION_BINS
) -> tuple[Floats, Floats, Floats, Rows]:
    """Bins of equal mass over the predicted probabilities; equal predictions stay in one bin, so there may be fewer.

    Parameters
    ----------
    predicted : (M,) probabilities of an event.
    hits : (M,) whether it happened.
    bins : at most.

    Returns
    -------
    For each bin the mean prediction, the observed share, the mean of p (1 - p), and the number of items.
    """
    predicted, hits = np.asarray(predicted, dtype=np.float64), np.asarray(hits, dtype=np.float64)
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, predicted)
    counts = np.bincount(bin_of)
    used = counts > 0

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(bin_of, values)[used] / counts[used])

    return mean(predicted), mean(hits), mean(predicted * (1 - predicted)), counts[used]


def calibration_error(predicted: npt.ArrayLike, hits: npt.ArrayLike, *, bins: int = CALIBRATION_BINS) -> tuple[float, float]:
    """Expected calibration error over bins of equal mass, and what honest probabilities would score on as many items.

    The error is the mean of |observed - predicted| over the items (Nixon et al., Measuring calibration in deep learning, 2019).
    It is above zero for honest probabilities too, since the observed share of a bin of n items varies about p with variance
    p (1 - p) / n: the second number is the mean of its absolute value, as if it were normal.
    """
    mean, share, spread, counts = reliability(predicted, hits, bins=bins)
    weights = counts / counts.sum()
    floor = np.sqrt(2 / np.pi * spread / counts)
    return float(weights @ np.abs(share - mean)), float(weights @ floor)


def score(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], seeds: Sequence[int]) -> dict[str, Any]:
    """AUC, accuracy, Brier score and calibration: means over seeds, with intervals over test items and over seeds.

    Parameters
    ----------
    probabilities : (seeds, N, classes), of the same test items.
    labels : (N,), every class present at least twice.
    seeds : names of the trainings.

    Returns
    -------
    `auc` and `accuracy`: value, low and high over other test items. `auc_over_seeds`: every seed's AUC, and low and high over
    other seeds (Student's t; None for a single one). `brier`: half the squared error summed over classes, (p - y)² for two.
    `calibration_error`, `calibration_floor`: of the probability of the last of two classes, or mean over all of more
    (Kull et al. 2019). `reliability`: its points for each such class, all seeds' predictions together.
    """
    _, n, classes = probabilities.shape
    each = [macro_auc(p, labels) for p in probabilities]
    aucs = [auc for auc, _ in each]
    auc = float(np.mean(aucs))
    low, high = auc_interval(auc, np.mean([parts for _, parts in each], axis=0), labels)
    over_seeds = mean_interval(aucs) if len(aucs) > 1 else None
    right = float((probabilities.argmax(2) == labels).mean())
    right_low, right_high = wilson_interval(round(right * n), n)
    truth = np.eye(classes)[labels]
    gaps = [calibration_error(p[:, c], labels == c) for p in probabilities for c in told_classes(classes)]
    curves = {
        str(c): reliability(probabilities[:, :, c].ravel(), np.tile(labels == c, len(probabilities)))
        for c in told_classes(classes)
    }
    return {
        "auc": {"value": auc, "low": low, "high": high, "interval": "DeLong" if classes == 2 else _DELTA},
        "auc_over_seeds": {
            "values": {str(seed): value for seed, value in zip(seeds, aucs, strict=True)},
            "low": over_seeds and max(over_seeds[0], 0.0),
            "high": over_seeds and min(over_seeds[1], 1.0),
        },
        "accuracy": {"value": right, "low": right_low, "high": right_high, "interval": "Wilson"},
        "brier": float(((probabilities - truth) ** 2).sum(2).mean() / 2),
        "calibration_error": float(np.mean([error for error, _ in gaps])),
        "calibration_floor": float(np.mean([floor for _, floor in gaps])),
        "reliability": {
            label: {"predicted": mean.tolist(), "observed": share.tolist(), "images": counts.tolist()}
            for label, (mean, share, _, counts) in curves.items()
        },
    }
