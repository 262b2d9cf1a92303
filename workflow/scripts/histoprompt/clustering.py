"""Morphologies: k-means clusters of the training patches' features, and how good their number is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score, normalized_mutual_info_score, silhouette_score
from threadpoolctl import threadpool_limits

from histoprompt.errors import InputError
from histoprompt.figures import draw_sweep
from histoprompt.files import atomic, check_seal_if_any, read_array, read_csv, write_csv, write_json
from histoprompt.job import progress
from histoprompt.subset import keyed_generator

Features = npt.NDArray[np.float32]
_BLOCK = 4096  # rows of features whose distances to all centroids are held at once


def s_dbw(features: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> float:
    """Validity index S_Dbw = Scat + Dens_bw of a clustering; lower is better.

    Halkidi and Vazirgiannis, Clustering validity assessment: finding the optimal partitioning of a data set, ICDM 2001,
    equations 1 to 5. Scat is the mean, over clusters, of the norm of the variance vector over that of the whole set. Dens_bw is
    the mean, over ordered pairs of clusters, of the density at the midpoint of their centres over the larger density at the two
    centres. A density counts the pair's points within `stdev` of a place, the closed ball; where no point is near either
    centre, the pair counts 0. In many dimensions hardly a point lies within `stdev` of a centre, and S_Dbw tends to Scat.

    Parameters
    ----------
    features : (n, d).
    labels : (n,), the cluster of every row; at least two clusters.
    """
    clusters, of = np.unique(labels, return_inverse=True)
    count = len(clusters)
    parts = [np.asarray(features[of == c], np.float64) for c in range(count)]
    centres = np.stack([part.mean(axis=0) for part in parts])
    spreads = np.array([np.linalg.norm(part.var(axis=0)) for part in parts])
    scatter = spreads.mean() / np.linalg.norm(np.var(features, axis=0, dtype=np.float64))
    radius = np.sqrt(spreads.sum()) / count

    at_centre = np.empty((count, count))  # [i, j]: points of cluster i near centre j
    at_middle = np.empty((count, count))  # [i, j]: points of cluster i near the midpoint of centres i and j
    for i, part in enumerate(parts):
        at_centre[i] = (cdist(part, centres) <= radius).sum(axis=0)
        at_middle[i] = (cdist(part, (centres + centres[i]) / 2) <= radius).sum(axis=0)
    own = np.diag(at_centre)
    pair_at_centre = own[:, None] + at_centre.T  # [i, j]: points of clusters i and j near centre i
    dense = np.maximum(pair_at_centre, pair_at_centre.T)
    between = at_middle + at_middle.T
    ratio = np.divide(between, dense, out=np.zeros_like(dense), where=dense > 0)
    np.fill_diagonal(ratio, 0.0)
    return float(scatter + ratio.sum() / (count * (count - 1)))


def fit_kmeans(features: Features, *, k: int, n_init: int, seed: int) -> KMeans:
    """K-means on raw features, best of `n_init` starts.

    On one thread: with more, the order of the sums, and with it the result's last bits, would follow the machine.

    Raises
    ------
    InputError : `k` below 2, above the number of patches, or above that of distinct features.
    """
    if not 2 <= k <= 1000:
        raise InputError(
            "config key `morphology.k`", found=str(k), expected="2 to 1000 clusters", remedy="set it within those bounds"
        )
    distinct = len(features)
    if distinct >= k:
        with threadpool_limits(limits=1):
            fit = KMeans(n_clusters=k, n_init=n_init, random_state=seed).fit(features)
        distinct = len(np.unique(fit.labels_))
        if distinct == k:
            return fit
    raise InputError(
        "config key `morphology.k`",
        found=f"{k} clusters for {len(features)} kept training patches, at most {distinct} of them distinct",
        expected="at least as many distinct patches as clusters",
        remedy="lower `morphology.k`, give more patches, or relax `outliers`",
    )


def nearest_centroid(
    features: npt.NDArray[Any], centroids: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The nearest centroid of every row and its Euclidean distance, both (n,), computed in float64 block by block."""
    clusters, distances = np.empty(len(features), np.int64), np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        to_all = cdist(features[part], centroids)
        clusters[part] = to_all.argmin(axis=1)
        distances[part] = to_all.min(axis=1)
    return clusters, distances


def cluster_embeddings(
    embeddings: Mapping[str, str | Path],
    kept: Mapping[str, str | Path],
    tables: Mapping[str, str | Path],
    centroids_npy: str | Path,
    assignments: Mapping[str, str | Path],
    quality_json: str | Path,
    *,
    k: int,
    n_init: int,
    seed: int,
) -> None:
    """Fit clusters on the kept training patches, all labels together, and assign the kept patches of every split.

    Parameters
    ----------
    embeddings : split -> features, float32 (N, d), row i = patch i.
    kept : split -> what the outlier filter kept, `id,label,kept`.
    tables : split -> `id,label,slide` and, on the phantom, `morphology`: the truth that clusters are compared with.
    centroids_npy : written: float32 (k, d), in k-means' order, which the seed fixes.
    assignments : split -> written: kept patches' `row,id,label,cluster,distance` to the nearest centroid.
    quality_json : written: sizes, label mix and agreement with morphology and slide.
    k, n_init, seed : of k-means; `n_init` starts.

    Raises
    ------
    InputError : `k` out of bounds, too few kept patches, or files of different lengths.
    """
    features, own = read_kept(embeddings["train"], kept["train"])
    fit = fit_kmeans(features, k=k, n_init=n_init, seed=seed)
    centroids = fit.cluster_centers_.astype(np.float32)
    quality: dict[str, Any] = {
        "k": k,
        "n": len(features),
        "dimension": centroids.shape[1],
        "n_init": n_init,
        "seed": seed,
        "iterations": int(fit.n_iter_),
        "inertia": float(fit.inertia_),
    }
    for split in embeddings:
        if split != "train":
            features, own = read_kept(embeddings[split], kept[split])
        clusters, distances = nearest_centroid(features, centroids)
        truth = read_csv(tables[split], ("id",))
        _check_length(tables[split], len(truth), own.attrs["patches"])
        quality[split] = describe_clusters(clusters, own["label"].to_numpy(), truth.iloc[own["row"]], k)
        write_csv(assignments[split], own.assign(cluster=clusters, distance=distances.round(6)))
    with atomic(centroids_npy) as temporary:
        np.save(temporary, centroids, allow_pickle=False)
    write_json(quality_json, quality)


def describe_clusters(
    clusters: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], truth: pd.DataFrame, k: int
) -> dict[str, Any]:
    """Sizes and label mix of the clusters, and their agreement with what else is known of the patches.

    Parameters
    ----------
    clusters, labels : (n,).
    truth : n rows; its columns `morphology` and `slide` are compared with, where they are there and not empty.
    k : clusters, of which some may be empty.

    Returns
    -------
    `n`, `sizes` (k), `labels` (label -> k counts), and, None where there is no truth, the normalised mutual information and the
    adjusted Rand index with the morphology and the normalised mutual information with the slide.
    """

    def column(name: str) -> list[str] | None:
        values = [str(value) for value in truth[name]] if name in truth else []
        return values if any(values) else None

    morphology, slide = column("morphology"), column("slide")
    return {
        "n": len(clusters),
        "sizes": np.bincount(clusters, minlength=k).tolist(),
        "labels": {str(c): np.bincount(clusters[labels == c], minlength=k).tolist() for c in np.unique(labels)},
        "nmi_morphology": morphology and float(normalized_mutual_info_score(morphology, clusters)),
        "ari_morphology": morphology and float(adjusted_rand_score(morphology, clusters)),
        "nmi_slide": slide and float(normalized_mutual_info_score(slide, clusters)),
    }


def sweep_clusters(
    embeddings_npy: str | Path,
    kept_csv: str | Path,
    sweep_csv: str | Path,
    sweep_png: str | Path,
    *,
    ks: Sequence[int],
    n_init: int,
    silhouette_sample: int,
    seed: int,
) -> None:
    """Internal validity of k-means on the kept training patches over a sweep of k, as a table and a plot.

    Parameters
    ----------
    embeddings_npy, kept_csv : of the train split.
    sweep_csv : written: `k,silhouette,davies_bouldin,s_dbw,inertia`, one row a k, ascending. The silhouette is that of a seeded
        sample, the same for every k, and empty where the sample falls into one cluster.
    sweep_png : written: the three indices over k, the best k of each marked.
    ks : numbers of clusters.
    n_init, seed : of k-means.
    silhouette_sample : patches that the silhouette is computed on at most.

    Raises
    ------
    InputError : a k below 2, or not below the number of patches the silhouette has.
    """
    features, _ = read_kept(embeddings_npy, kept_csv)
    sample = np.sort(keyed_generator(seed, "silhouette").permutation(len(features))[:silhouette_sample])
    if not 2 <= min(ks) <= max(ks) < len(sample):
        raise InputError(
            "config key `morphology.sweep`",
            found=f"k from {min(ks)} to {max(ks)}, with {len(features)} kept patches and a silhouette of {len(sample)}",
            expected="every k at least 2 and below the number of patches of the silhouette",
            remedy="correct `morphology.sweep`, raise `morphology.silhouette_sample`, or give more patches",
        )

    def measures() -> Iterator[dict[str, float | None]]:
        for k in progress(sorted(set(ks)), "sweep k", unit="k"):
            fit = fit_kmeans(features, k=k, n_init=n_init, seed=seed)
            several = len(np.unique(fit.labels_[sample])) > 1
            yield {
                "k": k,
                "silhouette": float(silhouette_score(features[sample], fit.labels_[sample])) if several else None,
                "davies_bouldin": float(davies_bouldin_score(features, fit.labels_)),
                "s_dbw": s_dbw(features, fit.labels_),
                "inertia": float(fit.inertia_),
            }

    with threadpool_limits(limits=1):
        table = pd.DataFrame(measures())
    write_csv(sweep_csv, table)
    draw_sweep(table, sweep_png)


def read_kept(embeddings_npy: str | Path, kept_csv: str | Path) -> tuple[Features, pd.DataFrame]:
    """Features (n, d) of the kept patches and their `row,id,label`; `attrs["patches"]` is the number before the filter."""
    check_seal_if_any(embeddings_npy)
    features = read_array(embeddings_npy, mapped=True)
    table = read_csv(kept_csv, ("id", "label", "kept"))
    _check_length(kept_csv, len(table), len(features))
    rows = np.flatnonzero(table["kept"].astype(bool))
    kept = table.iloc[rows][["id", "label"]].reset_index(drop=True)
    kept.insert(0, "row", rows)
    kept.attrs["patches"] = len(table)
    return features[rows], kept


def _check_length(where: str | Path, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            where,
            found=f"{found} rows",
            expected=f"{expected}, one a patch of the same split",
            remedy="delete the file and run the same command again",
        )
