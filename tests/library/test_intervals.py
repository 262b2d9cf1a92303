"""Intervals against closed forms, reference libraries and their own coverage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from histoprompt.intervals import (
    auc_interval,
    half_sample_interval,
    half_samples,
    macro_auc,
    mean_interval,
    midranks,
    roc_auc,
    sampling_error,
    wilson_interval,
)

scores = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=30)


def test_half_samples_are_halves_without_repeats_and_keyed() -> None:
    halves = half_samples(101, 30, seed=3, side=0)
    assert all(len(np.unique(half)) == 50 and (np.diff(half) > 0).all() and half.max() < 101 for half in halves)
    assert np.array_equal(halves[:4], half_samples(101, 4, seed=3, side=0))
    assert not np.array_equal(halves, half_samples(101, 30, seed=3, side=1))
    assert not np.array_equal(halves, half_samples(101, 30, seed=4, side=0))


def test_half_samples_give_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    halves = [values[rows].mean() for rows in half_samples(400, 4000, seed=0, side=0)]
    low, high = half_sample_interval(values.mean(), halves, low=-np.inf)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.05)


def test_intervals_are_clipped_and_never_leave_the_value() -> None:
    assert half_sample_interval(0.99, [0.8, 0.99], high=1.0) == (0.0, 1.0)
    assert half_sample_interval(0.5, [0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert half_sample_interval(0.0, [0.2, 0.1]) > (0.0, 0.0)


def test_mean_interval_is_students() -> None:
    values = [0.3, 0.1, -0.2, 0.5]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


@given(st.integers(1, 500), st.data())
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(scores)
def test_midranks_are_scipys(values: list[float]) -> None:
    assert np.array_equal(midranks(values), stats.rankdata(values))


@given(scores, scores)
def test_auc_is_scikit_learns_with_ties(positive: list[float], negative: list[float]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(labels, positive + negative)
    assert roc_auc(positive, negative) == pytest.approx(expected)
    two_columns = np.column_stack([-np.array(positive + negative), positive + negative])
    assert macro_auc(two_columns, labels)[0] == pytest.approx(expected)


def two_classes(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    score = np.concatenate([positive, negative])
    return np.column_stack([-score, score]), np.repeat([1, 0], [np.size(positive), np.size(negative)])


def test_the_error_of_an_auc_and_of_a_paired_difference_are_delongs() -> None:
    """Structural components of DeLong, DeLong & Clarke-Pearson 1988, with the full kernel."""
    generator = np.random.default_rng(1)
    base = generator.normal(0, 1, 150) + np.repeat([1, 0], [60, 90])
    classifiers = [two_classes(*np.split((base + generator.normal(0, s, 150)).round(1), [60])) for s in (0.3, 1.0)]
    kernels = []
    for scores_of, _ in classifiers:
        one = scores_of[:, 1]
        kernels.append((one[:60, None] > one[60:]).astype(float) + 0.5 * (one[:60, None] == one[60:]))
    s10, s01 = np.cov([k.mean(1) for k in kernels]), np.cov([k.mean(0) for k in kernels])
    covariance = s10 / 60 + s01 / 90
    labels = classifiers[0][1]
    (auc, parts), (other, others) = (macro_auc(*classifier) for classifier in classifiers)
    assert (auc, other) == pytest.approx([k.mean() for k in kernels])
    assert sampling_error(parts, labels) ** 2 == pytest.approx(covariance[0, 0])
    assert sampling_error(parts - others, labels) ** 2 == pytest.approx(
        covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    )
    reach = 1.959964 * np.sqrt(covariance[0, 0])
    assert auc_interval(auc, parts, labels) == pytest.approx((auc - reach, auc + reach), rel=1e-6)


def test_beyond_two_classes_the_error_is_that_of_a_stratified_bootstrap() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [150, 80, 50])
    probabilities = generator.dirichlet(np.ones(3), 280) + 0.25 * np.eye(3)[labels]
    drawn = []
    for _ in range(500):
        rows = np.concatenate([generator.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in range(3)])
        drawn.append(macro_auc(probabilities[rows], labels[rows])[0])
    assert sampling_error(macro_auc(probabilities, labels)[1], labels) == pytest.approx(np.std(drawn), rel=0.08)


def test_perfect_separation_still_has_an_interval() -> None:
    low = wilson_interval(2, 2)[0]
    for positive, negative, expected in (([3, 4, 5], [0, 1], (low, 1.0)), ([0, 1], [3, 4, 5], (0.0, 1 - low))):
        scores_of, labels = two_classes(positive, negative)
        assert auc_interval(*macro_auc(scores_of, labels), labels) == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_macro_auc_is_scikit_learns_beyond_two_classes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    probabilities = generator.dirichlet(np.ones(3), 60)
    value, parts = macro_auc(probabilities, labels)
    assert value == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    low, high = auc_interval(value, parts, labels)
    assert low < value < high


def test_scores_that_are_all_alike_are_certainly_worth_nothing() -> None:
    labels = np.repeat([0, 1], [5, 7])
    auc, parts = macro_auc(np.full((12, 2), 0.5), labels)
    assert (auc, *auc_interval(auc, parts, labels)) == pytest.approx((0.5, 0.5, 0.5))
