"""Scores of classifiers against scikit-learn, and calibration against what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from histoprompt.intervals import mean_interval
from histoprompt.scores import calibration_error, reliability, score


def example(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return np.clip(0.3 * labels + 0.35 + generator.normal(0, 0.2, n), 0.01, 0.99), labels


def columns(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


def test_scores_of_two_classes() -> None:
    p, labels = example(0)
    scores = score(columns(p)[None], labels, [7])
    assert scores["auc"]["value"] == pytest.approx(roc_auc_score(labels, p)) and scores["auc"]["interval"] == "DeLong"
    assert scores["auc_over_seeds"] == {"values": {"7": scores["auc"]["value"]}, "low": None, "high": None}
    assert scores["accuracy"]["value"] == ((p > 0.5) == labels).mean()
    assert scores["brier"] == pytest.approx(brier_score_loss(labels, p))
    assert list(scores["reliability"]) == ["1"] and sum(scores["reliability"]["1"]["images"]) == 200


def test_several_seeds_are_averaged_and_their_spread_is_told() -> None:
    labels = example(0)[1]
    several = np.stack([columns(example(seed)[0]) for seed in (0, 1, 2)])
    scores, each = score(several, labels, [0, 1, 2]), [score(p[None], labels, [0]) for p in several]
    aucs = [one["auc"]["value"] for one in each]
    assert list(scores["auc_over_seeds"]["values"].values()) == aucs
    assert (scores["auc_over_seeds"]["low"], scores["auc_over_seeds"]["high"]) == pytest.approx(mean_interval(aucs))
    for key in ("brier", "calibration_error", "calibration_floor"):
        assert scores[key] == pytest.approx(np.mean([one[key] for one in each]))
    same = score(np.repeat(several[:1], 3, axis=0), labels, [0, 1, 2])  # seeds are no new test images
    for end in ("value", "low", "high"):
        assert same["auc"][end] == pytest.approx(each[0]["auc"][end]) and same["accuracy"][end] == each[0]["accuracy"][end]


def test_more_than_two_classes_are_told_one_against_the_rest() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    p = generator.dirichlet(np.ones(3), 90)
    scores = score(p[None], labels, [0])
    assert (
        scores["auc"]["value"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"))
        and "rest" in scores["auc"]["interval"]
    )
    assert list(scores["reliability"]) == ["0", "1", "2"]
    assert scores["calibration_error"] == pytest.approx(np.mean([calibration_error(p[:, c], labels == c)[0] for c in range(3)]))


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_reliability_is_scikit_learns(seed: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    p = generator.random(300)
    hits = generator.random(300) < p
    mean, share, _, counts = reliability(p, hits, bins=bins)
    expected_share, expected_mean = calibration_curve(hits, p, n_bins=bins, strategy="quantile")
    assert mean == pytest.approx(expected_mean) and share == pytest.approx(expected_share)
    assert counts.max() - counts.min() <= 1 and counts.sum() == 300


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_calibration_does_not_depend_on_the_order_even_with_ties(pairs: list[tuple[float, bool]]) -> None:
    p, hits = np.array(pairs, float).T
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    first, second = calibration_error(p, hits), calibration_error(p[shuffled], hits[shuffled])
    assert first == pytest.approx(second) and 0 <= first[0] <= 1


def test_calibration_error_of_honest_and_of_boastful_constants() -> None:
    hits = np.arange(1000) % 10 < 7
    assert calibration_error(np.full(1000, 0.7), hits)[0] == pytest.approx(0)
    assert calibration_error(np.full(1000, 0.95), hits)[0] == pytest.approx(0.25)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**31), st.sampled_from([200, 2000]))
def test_the_floor_is_what_honest_probabilities_score(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(80):
        p = generator.beta(0.7, 0.7, n)
        drawn.append(calibration_error(p, generator.random(n) < p))
    errors, floors = np.transpose(drawn)
    assert errors.mean() == pytest.approx(floors.mean(), rel=0.12)
