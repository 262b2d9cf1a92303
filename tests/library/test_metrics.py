"""Metrics against closed forms, scipy's matrix square root, the `prdc` package, and the coverage of their intervals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid import fid as clean_fid
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_poly, kernel_rbf, kid_features_to_metric, mmd2

import histoprompt.metrics as module
from histoprompt.errors import InputError
from histoprompt.intervals import half_samples, wilson_interval
from histoprompt.metrics import (
    PRDC,
    chance_agreement,
    cmmd,
    cmmd_of_samples,
    compare_features,
    compute_metrics,
    frechet_distance,
    kernel_distance,
    kernel_distances_of_samples,
    moments,
    nearest_centroid,
    neighbour_radii,
    prdc,
    prdc_of_samples,
    prompt_fidelity,
)

seeds = st.integers(0, 2**31)
laws = settings(deadline=None, max_examples=25)


def gaussian(n: int, d: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) * scale + shift).astype(np.float32)


def tissue_like(n: int, d: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Features as encoders give them: strongly correlated, with a decaying spectrum, away from the origin."""
    mixing = np.random.default_rng(99).normal(size=(d, d)) * (1 / np.arange(1, d + 1))[:, None]
    return (gaussian(n, d, seed, shift=shift) @ mixing + 3).astype(np.float32)


@pytest.mark.parametrize("rows", [None, np.array([0, 5, 6, 7, 9, 4999])])
def test_moments_are_numpys(rows: np.ndarray | None) -> None:
    features = tissue_like(5000, 6, 0)
    mean, cov = moments(features, rows)
    chosen = features.astype(np.float64)[... if rows is None else rows]
    np.testing.assert_allclose(mean, chosen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(chosen, rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [1, 5, 64, 200])
def test_frechet_is_the_matrix_square_root_formula(d: int) -> None:
    """clean-fid's formula, with scipy's square root of the non-symmetric product."""
    mean1, cov1 = moments(tissue_like(600, d, 1))
    mean2, cov2 = moments(tissue_like(500, d, 2, shift=0.2))
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * np.real(sqrtm(cov1 @ cov2)))
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def clean_fid_of_this_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """clean-fid asks for the error of the matrix root (`disp=False`), an argument that SciPy 1.18 no longer has."""
    wanted = SimpleNamespace(sqrtm=lambda matrix, disp=True: sqrtm(matrix) if disp else (sqrtm(matrix), None))
    monkeypatch.setattr(clean_fid, "linalg", wanted)


@pytest.mark.usefixtures("clean_fid_of_this_scipy")
@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_frechet_is_clean_fids_and_torch_fidelitys(shift: float) -> None:
    real, fake = (tissue_like(700, 96, seed, shift=seed * shift).astype(np.float64) for seed in (0, 1))
    ours = frechet_distance(*moments(real), *moments(fake))
    assert ours == pytest.approx(clean_fid.fid_from_feats(real, fake), rel=1e-4)
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (real, fake)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-4)


@laws
@given(seeds)
def test_frechet_of_commuting_gaussians_is_in_closed_form(seed: int) -> None:
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(7, 7)))
    a, b = generator.uniform(0, 3, (2, 7))
    mean1, mean2 = generator.normal(size=(2, 7))
    expected = ((mean1 - mean2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    value = frechet_distance(mean1, (basis * a) @ basis.T, mean2, (basis * b) @ basis.T)
    assert value == pytest.approx(expected, rel=1e-6)


@laws
@given(seeds)
def test_frechet_is_symmetric_zero_of_itself_and_the_same_in_every_rotation(seed: int) -> None:
    one, two = moments(gaussian(40, 6, seed)), moments(gaussian(50, 6, seed + 1, shift=0.3))
    value = frechet_distance(*one, *two)
    assert frechet_distance(*two, *one) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-9 * np.trace(one[1]))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    turned = [part for mean, cov in (one, two) for part in (turn @ mean, turn @ cov @ turn.T)]
    assert frechet_distance(*turned) == pytest.approx(value, rel=1e-9)


def test_frechet_of_constant_images_is_finite() -> None:
    constant, spread = moments(np.full((50, 4), 2.0, np.float32)), moments(gaussian(50, 4, 0))
    expected = ((constant[0] - spread[0]) ** 2).sum() + np.trace(spread[1])
    assert frechet_distance(*constant, *spread) == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_kernel_distance_is_clean_fids(shift: float) -> None:
    """On one subset that is everything; clean-fid draws many small ones and takes their mean."""
    real, fake = tissue_like(300, 32, 0), tissue_like(300, 32, 1, shift=shift)
    theirs = clean_fid.kernel_distance(real.astype(np.float64), fake.astype(np.float64), num_subsets=1, max_subset_size=300)
    assert kernel_distance(real, fake) == pytest.approx(theirs, rel=1e-6)


def test_the_kernel_distance_is_torch_fidelitys() -> None:
    """One subset of 300 of 300 is everything."""
    real, fake = (torch.from_numpy(tissue_like(300, 32, seed, shift=seed * 0.3)).double() for seed in (0, 1))
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    theirs = kid_features_to_metric(real, fake, kid_subsets=1, kid_subset_size=300, rng_seed=0, verbose=False, **kernel)
    assert kernel_distance(real, fake) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    x, y = real.numpy(), fake[:200].numpy()  # sets of two sizes: their kernel, our sums
    one, two, both = (kernel_poly(a, b, **kernel) for a, b in ((x, x), (y, y), (x, y)))
    pairs = [(matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1)) for matrix in (one, two)]
    assert kernel_distance(x, y) == pytest.approx(sum(pairs) - 2 * both.mean(), rel=1e-4)


def test_cmmd_in_closed_form() -> None:
    """Two directions at an angle: k = 1 within, exp(-|x - y|² / 200) between, whatever the lengths."""
    real, fake = np.zeros((6, 4), np.float32), np.zeros((9, 4), np.float32)
    real[:, 0], fake[:, 0], fake[:, 1] = np.arange(1, 7), 3.0, 3.0
    gap = (1 - 0.5**0.5) ** 2 + 0.5
    assert cmmd(real, fake) == pytest.approx(1000 * 2 * (1 - np.exp(-gap / 200)), rel=1e-6)
    assert cmmd(real, 5 * real) == pytest.approx(0, abs=1e-9)
    own = np.eye(8, dtype=np.float32)  # each point and itself are among the pairs: 1000 * 2 (1 - exp(-1/100)) (1 - 1/n) between
    within = (1 + 3 * np.exp(-0.01)) / 4
    assert cmmd(own[:4], own[4:]) == pytest.approx(1000 * 2 * (within - np.exp(-0.01)), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_cmmd_is_its_authors_formula_with_reference_kernels(shift: float) -> None:
    """Means over all pairs, as in their program; torch-fidelity's Gaussian kernel needs sets of one size."""
    real, fake = (tissue_like(250, 48, seed, shift=seed * shift).astype(np.float64) for seed in (0, 1))
    x, y = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (real, fake))
    kernels = [rbf_kernel(a, b, gamma=1 / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    assert cmmd(real, fake) == pytest.approx(1000 * (kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-4)
    matrices = [kernel_rbf(a, b, kid_kernel_rbf_sigma=10.0) for a, b in ((x, x), (x, y), (y, y))]
    assert cmmd(real, fake) == pytest.approx(1000 * mmd2(*matrices, mmd_est="biased"), rel=1e-4)
    assert cmmd(real.astype(np.float32), fake.astype(np.float32)) == pytest.approx(cmmd(real, fake), rel=1e-4)


def test_cmmd_of_samples_is_cmmd_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = tissue_like(120, 6, 0), tissue_like(150, 6, 1, shift=0.2)
    samples = list(zip(half_samples(len(real), 4, seed=0, side=0), half_samples(len(fake), 4, seed=0, side=1), strict=True))
    expected = [cmmd(real, fake), *(cmmd(real[rows], fake[others]) for rows, others in samples)]
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 150 * 20)
    monkeypatch.setattr(module, "_TILE", 64)
    np.testing.assert_allclose(cmmd_of_samples(real, fake, samples), expected, rtol=1e-9)


@laws
@given(seeds)
def test_cmmd_is_symmetric_never_negative_and_ignores_length(seed: int) -> None:
    real, fake = gaussian(20, 5, seed), gaussian(30, 5, seed + 1, shift=0.3)
    value = cmmd(real, fake)
    assert value >= 0
    assert cmmd(fake, real) == pytest.approx(value, rel=1e-9)
    lengths = np.random.default_rng(seed).uniform(0.1, 10, (20, 1))
    assert cmmd(real * lengths, fake) == pytest.approx(value, rel=1e-4)


def test_kernel_distances_of_samples_are_those_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 150 * 20)  # blocks of 20 rows
    monkeypatch.setattr(module, "_TILE", 64)
    real, fake = tissue_like(120, 6, 0), tissue_like(150, 6, 1, shift=0.2)
    samples = list(zip(half_samples(len(real), 4, seed=0, side=0), half_samples(len(fake), 4, seed=0, side=1), strict=True))
    found = kernel_distances_of_samples(real, fake, samples)
    expected = [kernel_distance(real, fake), *(kernel_distance(real[rows], fake[others]) for rows, others in samples)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    kernel = polynomial_kernel(real.astype(np.float64), fake.astype(np.float64), degree=3, gamma=1 / 6, coef0=1)
    within = [polynomial_kernel(x.astype(np.float64), degree=3, gamma=1 / 6, coef0=1) for x in (real, fake)]
    pairs = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    assert found[0] == pytest.approx(sum(pairs) - 2 * kernel.mean(), rel=1e-9)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    values = [kernel_distance(gaussian(40, 5, 2 * i), gaussian(60, 5, 2 * i + 1)) for i in range(200)]
    assert min(values) < 0 and abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_prdc_is_the_package_of_its_authors(k: int, shift: float) -> None:
    real, fake = tissue_like(300, 24, 1), tissue_like(220, 24, 2, shift=shift)
    expected = compute_prdc(real, fake, k)
    assert prdc(real, fake, k) == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)


def test_prdc_of_samples_is_prdc_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = tissue_like(161, 12, 1), tissue_like(120, 12, 2, shift=0.3)
    samples = list(zip(half_samples(161, 6, seed=0, side=0), half_samples(120, 6, seed=0, side=1), strict=True))
    whole, covered = prdc_of_samples(real, fake, 4, samples)
    assert covered.mean() == whole["coverage"][0]
    for s, (rows, others) in enumerate([(np.arange(161), np.arange(120)), *samples]):
        expected = compute_prdc(real[rows], fake[others], 4)
        assert {name: whole[name][s] for name in PRDC} == pytest.approx({name: float(v) for name, v in expected.items()})
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 161 * 7)
    monkeypatch.setattr(module, "_TILE", 13)
    again, covered_again = prdc_of_samples(real, fake, 4, samples)
    assert np.array_equal(covered_again, covered)
    for name, values in again.items():
        assert np.array_equal(values, whole[name])


def test_radii_of_samples_are_exact_where_the_list_of_neighbours_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    points = gaussian(90, 5, 0)
    samples = half_samples(90, 5, seed=1, side=0)
    monkeypatch.setattr(module, "_SPARE_NEIGHBOURS", -7)  # 4 k - 7 = 1 neighbour listed
    radii = neighbour_radii(points, 2, samples)
    for rows, of_sample in zip(samples, radii, strict=True):
        distances, _ = NearestNeighbors(n_neighbors=3).fit(points[rows]).kneighbors(points[rows])
        np.testing.assert_allclose(np.sqrt(of_sample[rows]), distances[:, 2], rtol=1e-6)
        assert (np.delete(of_sample, rows) == -1).all()


@laws
@given(seeds, st.floats(0.01, 100), st.floats(-50, 50))
def test_prdc_ignores_order_scale_and_place(seed: int, scale: float, shift: float) -> None:
    real, fake = gaussian(40, 3, seed), gaussian(35, 3, seed + 1, shift=0.4)
    generator = np.random.default_rng(seed)
    moved = [(generator.permutation(points).astype(np.float64) * scale + shift) for points in (real, fake)]
    assert prdc(*moved, 3) == pytest.approx(prdc(real, fake, 3))


def test_prdc_of_one_set_with_itself_and_of_sets_far_apart() -> None:
    real = gaussian(60, 4, 0)
    assert prdc(real, real, 5) == pytest.approx({"precision": 1, "recall": 1, "density": 1, "coverage": 1}, abs=0.02)
    assert prdc(real, gaussian(60, 4, 1, shift=100), 5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_a_constant_generator_is_precise_and_recalls_nothing() -> None:
    real = tissue_like(200, 8, 0)
    values = prdc(real, np.repeat(real[:1], 50, axis=0), 5)
    assert values["precision"] == 1 and values["recall"] == 0


def test_nearest_centroid_and_prompt_fidelity() -> None:
    features, centroids = gaussian(5000, 5, 0), gaussian(7, 5, 1)
    expected = ((features[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert np.array_equal(nearest_centroid(features, centroids), expected)
    named = expected.copy()
    named[:1000] = (named[:1000] + 1) % 7
    low, high = wilson_interval(4000, 5000)
    assert prompt_fidelity(features, centroids, named, np.zeros(len(named))) == {
        **{"value": 0.8, "low": low, "high": high},
        "chance": chance_agreement(nearest_centroid(features, centroids), named, np.zeros(len(named))),
    }


def test_chance_agreement_is_the_mean_over_permutations_within_labels() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 6)
    found = labels * 3 + generator.integers(0, 3, 12)
    named = labels * 3 + generator.integers(0, 3, 12)
    shares = []
    for first in itertools.permutations(range(6)):
        permuted = np.concatenate([named[:6][list(first)], named[6:][list(first)]])
        shares.append((found == permuted).mean())
    assert chance_agreement(found, named, labels) == pytest.approx(np.mean(shares))
    assert chance_agreement(found, named, np.zeros(12)) < chance_agreement(found, named, labels)


def test_intervals_hold_the_value_of_the_metric_at_this_size() -> None:
    """Simulated on Gaussians of known distance; the target is the estimator's mean at this N."""
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in ("fd", "kd", "cmmd", *PRDC)}
    for repetition in range(200):
        compared = compare_features(
            gaussian(500, 8, 2 * repetition, shift=0.3),
            gaussian(500, 8, 2 * repetition + 1),
            k=5,
            subsamples=20,
            seed=repetition,
            clip=True,
        )
        for name, found in cells.items():
            found.append(compared[name])
    for name, found in cells.items():
        target = np.mean([cell["value"] for cell in found])
        covered = np.mean([cell["low"] <= target <= cell["high"] for cell in found])
        assert 0.88 <= covered <= 0.995, (name, covered)


def test_resampling_with_replacement_would_be_the_trap() -> None:
    """Why there is no bootstrap here: repeated rows shrink covariance and radii, and the interval excludes the value itself."""
    images, reference = tissue_like(300, 64, 0, shift=0.1), tissue_like(300, 64, 1)
    value = frechet_distance(*moments(reference), *moments(images))
    recall = prdc(reference, images, 5)["recall"]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(60):
        rows, others = generator.integers(300, size=(2, 300))
        drawn.append(
            (
                frechet_distance(*moments(reference, rows), *moments(images, others)),
                prdc(reference[rows], images[others], 5)["recall"],
            )
        )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert not low[0] <= value <= high[0]
    assert not low[1] <= recall <= high[1]
    cells = compare_features(images, reference, k=5, subsamples=20, seed=0)
    assert cells["fd"]["low"] <= value <= cells["fd"]["high"]
    assert cells["recall"]["low"] <= recall <= cells["recall"]["high"]


def test_undefined_metrics_say_why_and_leave_the_others() -> None:
    few = compare_features(gaussian(20, 20, 0), gaussian(100, 20, 1), k=5, subsamples=5, seed=0)
    assert few["fd"] == {"value": None, "low": None, "high": None, "reason": few["fd"]["reason"]}
    assert "20 images and 100 reference images" in few["fd"]["reason"] and "more than 20" in few["fd"]["reason"]
    assert few["precision"]["low"] <= few["precision"]["value"] <= few["precision"]["high"]
    halves = compare_features(gaussian(30, 20, 0), gaussian(100, 20, 1), k=5, subsamples=5, seed=0)
    assert halves["fd"]["value"] > 0 and halves["fd"]["low"] is None and "halves" in halves["fd"]["reason"]
    tiny = compare_features(gaussian(5, 2, 0), gaussian(100, 2, 1), k=5, subsamples=5, seed=0)
    assert all(tiny[name]["value"] is None and "more than 5 of each" in tiny[name]["reason"] for name in PRDC)
    assert tiny["fd"]["value"] > 0
    one = compare_features(gaussian(1, 2, 0), gaussian(100, 2, 1), k=5, subsamples=5, seed=0)
    assert one["kd"]["value"] is None and "two of each" in one["kd"]["reason"]
    assert tiny["kd"]["low"] is not None
    small = compare_features(gaussian(10, 2, 0), gaussian(100, 2, 1), k=5, subsamples=5, seed=0)
    assert small["recall"]["value"] is not None and small["recall"]["low"] is None


def test_constant_images_leave_every_metric_defined() -> None:
    """A generator that draws one image is far from the tissue, precise at best, and recalls nothing."""
    reference = tissue_like(200, 8, 0)
    constant = np.repeat(reference[:1], 100, axis=0)
    cells = compare_features(constant, reference, k=5, subsamples=6, seed=0, clip=True)
    mean, covariance = moments(reference)
    gap = constant[0].astype(np.float64) - mean
    assert cells["fd"]["value"] == pytest.approx(gap @ gap + np.trace(covariance), rel=1e-4)
    assert cells["precision"]["value"] == 1 and cells["recall"]["value"] == 0 and cells["coverage"]["value"] < 0.1
    for name in ("fd", "kd", "cmmd", *PRDC):
        assert np.isfinite(cells[name]["value"]) and cells[name]["low"] <= cells[name]["value"] <= cells[name]["high"]
    same = compare_features(constant, constant, k=5, subsamples=6, seed=0, clip=True)
    assert same["fd"]["value"] == pytest.approx(0, abs=1e-6) and same["cmmd"]["value"] == pytest.approx(0, abs=1e-9)
    black = compare_features(np.zeros_like(constant), reference, k=5, subsamples=6, seed=0, clip=True)
    assert black["cmmd"]["value"] is None and "no direction" in black["cmmd"]["reason"] and black["kd"]["value"] is not None


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """Files of a small image set: arguments of `compute_metrics`."""
    np.save(tmp_path / "images.npy", gaussian(60, 6, 0))
    np.save(tmp_path / "other.npy", gaussian(60, 3, 5))
    np.save(tmp_path / "test.npy", gaussian(90, 6, 1))
    np.save(tmp_path / "test_other.npy", gaussian(90, 3, 6))
    np.save(tmp_path / "centroids.npy", gaussian(4, 6, 2))
    pd.DataFrame({"id": [f"t{i}" for i in range(90)], "label": 0, "kept": np.arange(90) % 9 > 0}).to_csv(
        tmp_path / "kept.csv", index=False
    )
    clusters = nearest_centroid(np.load(tmp_path / "images.npy"), np.load(tmp_path / "centroids.npy"))
    pd.DataFrame({"number": range(60), "label": np.arange(60) % 2, "cluster": clusters}).to_csv(
        tmp_path / "images.csv", index=False
    )
    return {
        "features_npy": [tmp_path / "images.npy", tmp_path / "other.npy"],
        "reference_npy": [tmp_path / "test.npy", tmp_path / "test_other.npy"],
        "embeddings_npy": tmp_path / "images.npy",
        "reference_embeddings_npy": tmp_path / "test.npy",
        "reference_kept_csv": tmp_path / "kept.csv",
        "images_csv": tmp_path / "images.csv",
        "centroids_npy": tmp_path / "centroids.npy",
        "metrics_json": tmp_path / "metrics.json",
        "name": "label",
        "spaces": [("matched", "dino"), ("matched", "other")],
        "kinds": {"dino": "transformers", "other": "clip"},
        "missing": {},
        "morphology_encoder": "dino",
        "sizes": {"patch": 96, "generator": 512},
        "neighbours": 5,
        "subsamples": 6,
        "seed": 1,
    }


def test_compute_metrics_writes_everything_against_the_kept_reference(study: dict[str, Any]) -> None:
    compute_metrics(**study)
    report = json.loads(study["metrics_json"].read_text())
    assert (report["name"], report["images"], report["reference"]) == ("label", 60, 80)
    assert report["sizes"] == {"patch": 96, "generator": 512} and list(report["protocols"]) == ["matched"]
    assert report["prompt_fidelity"]["value"] == 1.0
    assert "without replacement" in report["interval"] and report["subsamples"] == 6 and report["seed"] == 1
    encoders = report["protocols"]["matched"]
    assert [encoder["dimension"] for encoder in encoders.values()] == [6, 3]
    kept = np.load(study["reference_npy"][0])[np.arange(90) % 9 > 0]
    images = np.load(study["features_npy"][0])
    expected = frechet_distance(*moments(kept), *moments(images))
    assert encoders["dino"]["fd"]["value"] == pytest.approx(expected)
    assert encoders["dino"]["recall"]["value"] == pytest.approx(float(compute_prdc(kept, images, 5)["recall"]))
    before = study["metrics_json"].read_bytes()
    compute_metrics(**study)
    assert study["metrics_json"].read_bytes() == before


def test_a_morphology_that_is_missed_is_found_out() -> None:
    centres = 8 * np.eye(3, 5)
    reference_clusters, image_clusters = np.arange(300) % 3, np.arange(200) % 2  # nothing in cluster 2
    reference = (centres[reference_clusters] + gaussian(300, 5, 0)).astype(np.float32)
    images = (centres[image_clusters] + gaussian(200, 5, 1)).astype(np.float32)
    found = compare_features(images, reference, k=5, subsamples=4, seed=0, clusters=(image_clusters, reference_clusters))
    rows = found["clusters"]
    assert [(row["cluster"], row["images"], row["reference"]) for row in rows] == [(0, 100, 100), (1, 100, 100), (2, 0, 100)]
    assert min(rows[0]["coverage"]["value"], rows[1]["coverage"]["value"]) > 0.8
    assert rows[2]["coverage"]["value"] == 0 and 0 < rows[2]["coverage"]["high"] < 0.05 and rows[2]["distance"] is None
    shares = [row["coverage"]["value"] * row["reference"] / 300 for row in rows]
    assert sum(shares) == pytest.approx(found["coverage"]["value"])
    gap = np.linalg.norm(images[image_clusters == 0].mean(0) - reference[reference_clusters == 0].mean(0))
    assert rows[0]["distance"] == pytest.approx(gap / np.sqrt(reference.var(axis=0).sum()), rel=1e-4)
    few = compare_features(images[:3], reference, k=5, subsamples=4, seed=0, clusters=(image_clusters[:3], reference_clusters))
    assert few["clusters"][0]["coverage"]["value"] is None and "undefined" in few["clusters"][0]["coverage"]["reason"]


def test_protocols_stand_side_by_side_and_the_same_features_are_compared_once(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "moved.npy", gaussian(60, 6, 0, shift=1.0))
    both = {
        "spaces": [(protocol, encoder) for encoder in ("dino", "other") for protocol in ("matched", "paper")],
        "features_npy": [study["features_npy"][0], tmp_path / "moved.npy", *[study["features_npy"][1]] * 2],
        "reference_npy": [study["reference_npy"][i] for i in (0, 0, 1, 1)],
    }
    calls = []
    monkeypatch.setattr("histoprompt.metrics.compare_features", lambda *a, **s: calls.append(a) or compare_features(*a, **s))
    compute_metrics(**study | both)
    matched, paper = json.loads(study["metrics_json"].read_text())["protocols"].values()
    assert len(calls) == 3 and list(matched) == list(paper) == ["dino", "other"]
    assert paper["dino"]["fd"]["value"] > matched["dino"]["fd"]["value"] + 3 and "same_as" not in paper["dino"]
    assert paper["other"] == {"same_as": "matched", **matched["other"]}
    # Cells of one protocol do not depend on which others are reported.
    compute_metrics(**study)
    assert json.loads(study["metrics_json"].read_text())["protocols"] == {"matched": matched}


def test_a_protocol_whose_metrics_are_undefined_says_so_and_leaves_the_other_alone(
    study: dict[str, Any], tmp_path: Path
) -> None:
    np.save(tmp_path / "wide.npy", gaussian(60, 70, 0))
    np.save(tmp_path / "wide_test.npy", gaussian(90, 70, 1))
    compute_metrics(
        **study
        | {
            "spaces": [("matched", "dino"), ("paper", "dino")],
            "features_npy": [study["features_npy"][0], tmp_path / "wide.npy"],
            "reference_npy": [study["reference_npy"][0], tmp_path / "wide_test.npy"],
        }
    )
    matched, paper = json.loads(study["metrics_json"].read_text())["protocols"].values()
    assert paper["dino"]["fd"]["value"] is None and "needs more than 70" in paper["dino"]["fd"]["reason"]
    assert matched["dino"]["fd"]["value"] > 0 and paper["dino"]["kd"]["value"] is not None


def test_an_encoder_that_gives_nothing_leaves_the_others(study: dict[str, Any], tmp_path: Path) -> None:
    broken = gaussian(60, 6, 0)
    broken[7, 2] = np.inf
    np.save(tmp_path / "broken.npy", broken)
    study["kinds"] |= {"fid": "inception", "narrow": "timm", "broken": "transformers"}
    study["missing"] = {"fid": "no file weights.pt"}
    study["spaces"] = [("matched", name) for name in ("dino", "other", "narrow", "broken")]
    (dino, other), (real, real_other) = study["features_npy"], study["reference_npy"]
    study |= {"features_npy": [dino, other, other, tmp_path / "broken.npy"], "reference_npy": [real, real_other, real, real]}
    compute_metrics(**study)
    found = json.loads(study["metrics_json"].read_text())["protocols"]["matched"]
    assert {name: encoder["kind"] for name, encoder in found.items()} == study["kinds"]
    reasons = {"fid": "no file weights.pt", "narrow": "width 3, those of the reference of width 6", "broken": "row 7"}
    for name, reason in reasons.items():
        for metric in ("fd", "kd", *PRDC):
            assert found[name][metric]["value"] is None and reason in found[name][metric]["reason"]
        assert (found[name]["n"], found[name]["reference"], found[name]["k"]) == (60, 80, 5) and "cmmd" not in found[name]
    assert found["dino"]["fd"]["value"] > 0 and found["other"]["cmmd"]["low"] <= found["other"]["cmmd"]["value"]
    compute_metrics(**study | {"embeddings_npy": tmp_path / "broken.npy"})
    fidelity = json.loads(study["metrics_json"].read_text())["prompt_fidelity"]
    assert fidelity["value"] is None and "row 7" in fidelity["reason"]


def test_unusable_features_end_in_one_message(study: dict[str, Any], tmp_path: Path) -> None:
    def refused(change: dict[str, Any], *parts: str) -> None:
        with pytest.raises(InputError) as caught:
            compute_metrics(**study | change)
        assert all(part in str(caught.value) for part in parts), str(caught.value)

    np.save(tmp_path / "short.npy", gaussian(59, 6, 0))
    np.save(tmp_path / "flat.npy", np.zeros(60, np.float32))
    (tmp_path / "text.npy").write_text("no array")
    other = study["features_npy"][1]

    def first(name: str | Path) -> dict[str, Any]:
        return {"features_npy": [tmp_path / name, other]}

    refused(first("short.npy"), "short.npy", "59 images", "60, as ")
    refused(first("flat.npy"), "flat.npy", "(60,)", "(N, d)")
    refused(first("text.npy"), "text.npy", ".npy file")
    pair = {"embeddings_npy": other, "reference_embeddings_npy": study["reference_npy"][1]}
    refused(pair, "other.npy", "width 3", "width 6", "centroids.npy")
    pd.DataFrame({"kept": [False] * 90}).to_csv(tmp_path / "none.csv", index=False)
    refused({"reference_kept_csv": tmp_path / "none.csv"}, "none.csv", "no patch is kept", "outliers")
    pd.DataFrame({"kept": [True] * 91}).to_csv(tmp_path / "long.csv", index=False)
    refused({"reference_kept_csv": tmp_path / "long.csv"}, "90 images", "91, as ")
    assert not study["metrics_json"].exists()
