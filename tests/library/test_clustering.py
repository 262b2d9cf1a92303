"""Clusters, their validity indices, and the sweep over k."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.datasets import make_blobs
from sklearn.metrics import davies_bouldin_score, silhouette_score

from histoprompt.clustering import cluster_embeddings, fit_kmeans, nearest_centroid, s_dbw, sweep_clusters
from histoprompt.errors import InputError


def s_dbw_by_definition(x: np.ndarray, labels: np.ndarray) -> float:
    """Equations 1 to 5 of the paper, one loop a sum."""
    names = sorted(set(labels.tolist()))
    groups = [x[labels == name] for name in names]
    centres = [g.mean(0) for g in groups]
    sigma = [np.linalg.norm(((g - v) ** 2).mean(0)) for g, v in zip(groups, centres, strict=True)]
    stdev = np.sqrt(sum(sigma)) / len(names)

    def density(place: np.ndarray, i: int, j: int) -> int:
        return sum(np.linalg.norm(point - place) <= stdev for point in [*groups[i], *groups[j]])

    between = 0.0
    for i in range(len(names)):
        for j in range(len(names)):
            largest = max(density(centres[i], i, j), density(centres[j], i, j)) if i != j else 0
            if largest:
                between += density((centres[i] + centres[j]) / 2, i, j) / largest
    scatter = np.mean(sigma) / np.linalg.norm(((x - x.mean(0)) ** 2).mean(0))
    return scatter + between / (len(names) * (len(names) - 1))


def test_s_dbw_of_a_tiny_example_by_hand() -> None:
    # Variances 1 and 1 within, 26 of the whole: Scat = 1/26. stdev = sqrt(2)/2: no point within it of the centres 1 and 11.
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    assert s_dbw(x, np.array([0, 0, 1, 1])) == pytest.approx(1 / 26)
    # Centres 3.4 and 11, variances 9.14 and 2/3, 19.5 of the whole; stdev = sqrt(9.14 + 2/3) / 2 = 1.57. Near 3.4 lies 2,
    # near 11 the whole second cluster, near the middle 7.2 lie 6.5 and 7.5: the ratio is 2/3 for both orders of the pair.
    x = np.array([[0.0], [1.0], [2.0], [6.5], [7.5], [10.0], [11.0], [12.0]])
    assert s_dbw(x, np.array([0, 0, 0, 0, 0, 1, 1, 1])) == pytest.approx((9.14 + 2 / 3) / 2 / 19.5 + 2 / 3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), clusters=st.integers(2, 5), dimension=st.integers(1, 4), spread=st.floats(0.1, 3))
def test_s_dbw_is_its_definition_whatever_the_order_the_names_the_place_and_the_scale(
    seed: int, clusters: int, dimension: int, spread: float
) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(clusters), generator.integers(0, clusters, 30)])
    x = generator.normal(size=(clusters, dimension))[labels] + spread * generator.normal(size=(len(labels), dimension))
    value = s_dbw(x, labels)
    assert value == pytest.approx(s_dbw_by_definition(x, labels))
    order = generator.permutation(len(x))
    assert value == pytest.approx(s_dbw(x[order], generator.permutation(100)[labels][order]))
    assert value == pytest.approx(s_dbw(3 * x + 7, labels))


def test_s_dbw_prefers_separation_and_the_true_number_of_clusters() -> None:
    def blobs(spread: float) -> tuple[np.ndarray, np.ndarray]:
        centres = [[0, 0], [10, 0], [0, 10], [10, 10]]
        return make_blobs(800, centers=centres, cluster_std=spread, random_state=0)

    apart, near, overlapping = (s_dbw(*blobs(spread)) for spread in (0.5, 1.5, 4.0))
    assert apart < near < overlapping
    x, _ = blobs(1.0)
    by_k = {k: s_dbw(x, fit_kmeans(x, k=k, n_init=10, seed=0).labels_) for k in (2, 3, 4, 5, 6)}
    assert min(by_k, key=by_k.__getitem__) == 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 30, 4096, 5000]))
def test_the_nearest_centroid_is_the_nearest(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    x, centroids = generator.normal(size=(n, 3)).astype(np.float32), generator.normal(size=(4, 3)).astype(np.float32)
    clusters, distances = nearest_centroid(x, centroids)
    to_all = np.sqrt(((x.astype(float)[:, None] - centroids) ** 2).sum(-1))
    assert np.array_equal(clusters, to_all.argmin(1)) and np.allclose(distances, to_all.min(1))


SPLITS = {"train": 400, "valid": 90, "test": 60}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Five well separated morphologies in six dimensions; every seventh patch dropped."""
    centres = np.random.default_rng(3).normal(scale=20, size=(5, 6))
    for split, count in SPLITS.items():
        x, morphology = make_blobs(count, centers=centres, cluster_std=1.0, random_state=count)
        np.save(tmp_path / f"{split}.npy", x.astype(np.float32))
        ids = [f"{split}{i}" for i in range(count)]
        label = morphology % 2
        kept = np.arange(count) % 7 != 0
        pd.DataFrame({"id": ids, "label": label, "kept": kept}).to_csv(tmp_path / f"{split}.kept.csv", index=False)
        names = [f"m{m}" for m in morphology]
        slides = np.arange(count) % 3
        pd.DataFrame({"id": ids, "label": label, "slide": slides, "morphology": names}).to_csv(
            tmp_path / f"{split}.csv", index=False
        )
    return tmp_path


def cluster(folder: Path, **changes) -> dict:
    files = {
        name: {split: folder / f"{split}{suffix}" for split in SPLITS}
        for name, suffix in (
            ("embeddings", ".npy"),
            ("kept", ".kept.csv"),
            ("tables", ".csv"),
            ("assignments", ".clusters.csv"),
        )
    }
    arguments = {"k": 5, "n_init": 3, "seed": 1} | changes
    cluster_embeddings(
        files["embeddings"],
        files["kept"],
        files["tables"],
        folder / "centroids.npy",
        files["assignments"],
        folder / "quality.json",
        **arguments,
    )
    return json.loads((folder / "quality.json").read_text())


def test_clusters_recover_separate_morphologies_in_every_split(study: Path) -> None:
    quality = cluster(study)
    centroids = np.load(study / "centroids.npy")
    assert centroids.shape == (5, 6) and centroids.dtype == np.float32
    for split, count in SPLITS.items():
        table = pd.read_csv(study / f"{split}.clusters.csv")
        assert list(table.columns) == ["row", "id", "label", "cluster", "distance"]
        assert table["row"].tolist() == [i for i in range(count) if i % 7]
        assert table["id"].tolist() == [f"{split}{row}" for row in table["row"]]
        distances = cdist(np.load(study / f"{split}.npy")[table["row"]], centroids)
        assert np.array_equal(table["cluster"], distances.argmin(1))
        assert np.allclose(table["distance"], distances.min(1), atol=1e-5)
        told = quality[split]
        assert told["n"] == len(table) and told["sizes"] == np.bincount(table["cluster"], minlength=5).tolist()
        assert np.array_equal(np.sum(list(told["labels"].values()), axis=0), told["sizes"])
        assert told["nmi_morphology"] == pytest.approx(1) and told["ari_morphology"] == pytest.approx(1)
        assert told["nmi_slide"] < 0.1
    assert quality["n"] == quality["train"]["n"] and quality["k"] == 5
    inertia = (pd.read_csv(study / "train.clusters.csv")["distance"] ** 2).sum()
    assert quality["inertia"] == pytest.approx(inertia, rel=1e-4)


def test_only_kept_training_patches_make_the_clusters(study: Path) -> None:
    cluster(study)
    first = (study / "centroids.npy").read_bytes()
    x = np.load(study / "train.npy")
    x[::7] = 1e4
    np.save(study / "train.npy", x)
    for split in ("valid", "test"):
        np.save(study / f"{split}.npy", np.load(study / f"{split}.npy") + 1)
    cluster(study)
    assert (study / "centroids.npy").read_bytes() == first
    cluster(study, seed=2)
    assert (study / "centroids.npy").read_bytes() != first


def test_the_same_features_give_the_same_bytes(study: Path) -> None:
    cluster(study)
    written = ["centroids.npy", "quality.json", *(f"{split}.clusters.csv" for split in SPLITS)]
    first = [(study / name).read_bytes() for name in written]
    cluster(study)
    assert [(study / name).read_bytes() for name in written] == first


def test_agreement_is_null_without_a_truth(study: Path) -> None:
    for split in SPLITS:
        pd.read_csv(study / f"{split}.csv").drop(columns="morphology").assign(slide="").to_csv(
            study / f"{split}.csv", index=False
        )
    quality = cluster(study)
    assert {quality[s][key] for s in SPLITS for key in ("nmi_morphology", "ari_morphology", "nmi_slide")} == {None}


@pytest.mark.parametrize(("k", "found"), [(1, "1"), (1001, "1001"), (343, "343 clusters for 342 kept training patches")])
def test_impossible_numbers_of_clusters(study: Path, k: int, found: str) -> None:
    with pytest.raises(InputError) as caught:
        cluster(study, k=k)
    assert caught.value.where == "config key `morphology.k`" and found in caught.value.found
    assert not (study / "centroids.npy").exists()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fewer_distinct_patches_than_clusters(study: Path) -> None:
    np.save(study / "train.npy", np.repeat(np.eye(6, dtype=np.float32)[:4], 100, axis=0))
    with pytest.raises(InputError, match="at most 4 of them distinct"):
        cluster(study)


def test_files_of_different_lengths(study: Path) -> None:
    np.save(study / "valid.npy", np.load(study / "valid.npy")[:-1])
    with pytest.raises(InputError) as caught:
        cluster(study)
    assert caught.value.where.endswith("valid.kept.csv") and (caught.value.found, "89" in caught.value.expected) == (
        "90 rows",
        True,
    )


def sweep(folder: Path, **changes) -> pd.DataFrame:
    arguments = {"ks": [3, 8, 5], "n_init": 3, "silhouette_sample": 1000, "seed": 1} | changes
    sweep_clusters(folder / "train.npy", folder / "train.kept.csv", folder / "sweep.csv", folder / "sweep.png", **arguments)
    return pd.read_csv(folder / "sweep.csv")


def test_the_sweep_finds_the_number_of_morphologies(study: Path) -> None:
    table = sweep(study)
    assert list(table.columns) == ["k", "silhouette", "davies_bouldin", "s_dbw", "inertia"] and table["k"].tolist() == [3, 5, 8]
    assert table["silhouette"].idxmax() == table["davies_bouldin"].idxmin() == 1
    assert table["inertia"].is_monotonic_decreasing
    features = np.load(study / "train.npy")[[i for i in range(400) if i % 7]]
    labels = fit_kmeans(features, k=5, n_init=3, seed=1).labels_
    assert table["silhouette"][1] == pytest.approx(silhouette_score(features, labels))
    assert table["davies_bouldin"][1] == pytest.approx(davies_bouldin_score(features, labels))
    assert table["s_dbw"][1] == pytest.approx(s_dbw(features, labels))


def test_the_sweep_is_the_same_every_time_and_samples_by_its_seed(study: Path) -> None:
    sweep(study, silhouette_sample=100)
    first = [(study / name).read_bytes() for name in ("sweep.csv", "sweep.png")]
    sweep(study, silhouette_sample=100)
    assert [(study / name).read_bytes() for name in ("sweep.csv", "sweep.png")] == first


@pytest.mark.parametrize("changes", [{"ks": [1, 4]}, {"ks": [4, 342]}, {"ks": [4, 50], "silhouette_sample": 50}])
def test_impossible_sweeps(study: Path, changes: dict) -> None:
    with pytest.raises(InputError, match=r"morphology\.sweep"):
        sweep(study, **changes)
