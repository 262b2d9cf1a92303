"""Intervals against closed forms, reference libraries and their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from histoprompt.intervals import (
    bootstrap_macro_auc,
    delong,
    half_sample_interval,
    half_samples,
    mean_interval,
    midranks,
    roc_auc,
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
    assert delong(positive, negative)[0] == pytest.approx(expected)
    two_columns = np.column_stack([-np.array(positive + negative), positive + negative])
    assert bootstrap_macro_auc(two_columns, labels, draws=2, seed=0)[0] == pytest.approx(expected)


def test_delong_is_the_published_formula() -> None:
    generator = np.random.default_rng(1)
    positive, negative = generator.normal(1, 1, 60).round(1), generator.normal(0, 1, 90).round(1)
    kernel = (positive[:, None] > negative).astype(float) + 0.5 * (positive[:, None] == negative)
    s10 = ((kernel.mean(1) - kernel.mean()) ** 2).sum() / 59  # DeLong, DeLong & Clarke-Pearson 1988, structural components
    s01 = ((kernel.mean(0) - kernel.mean()) ** 2).sum() / 89
    error = np.sqrt(s10 / 60 + s01 / 90)
    expected = (kernel.mean(), kernel.mean() - 1.959964 * error, kernel.mean() + 1.959964 * error)
    assert delong(positive, negative) == pytest.approx(expected, rel=1e-6)


def test_delong_and_bootstrap_agree() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat([0, 1], [300, 200])
    score = generator.normal(size=500) + labels
    exact = delong(score[labels == 1], score[labels == 0])
    drawn = bootstrap_macro_auc(np.column_stack([-score, score]), labels, draws=600, seed=0)
    assert drawn == pytest.approx(exact, abs=0.006)


def test_perfect_separation_still_has_an_interval() -> None:
    assert delong([3.0, 4.0, 5.0], [0.0, 1.0]) == pytest.approx((1.0, wilson_interval(2, 2)[0], 1.0))
    assert delong([0.0, 1.0], [3.0, 4.0, 5.0]) == pytest.approx((0.0, 0.0, 1 - wilson_interval(2, 2)[0]))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_macro_auc_is_scikit_learns_beyond_two_classes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    probabilities = generator.dirichlet(np.ones(3), 60)
    value, low, high = bootstrap_macro_auc(probabilities, labels, draws=50, seed=seed)
    assert value == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    assert low < value < high
