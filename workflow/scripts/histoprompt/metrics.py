"""How close images are to real ones: Fréchet, kernel and CLIP distance, precision, recall, density, coverage, fidelity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, eigvalsh

from histoprompt.errors import InputError
from histoprompt.files import check_seal_if_any, read_array, read_csv, write_json
from histoprompt.intervals import Floats, Rows, half_sample_interval, half_samples, wilson_interval

Features = npt.NDArray[np.float32]
Cell = dict[str, Any]

PRDC = ("precision", "recall", "density", "coverage")
INTERVAL = (
    "95 % interval of the value at this N: Student's t on half-samples of images and reference, drawn without replacement; "
    "prompt fidelity: Wilson"
)
_CMMD_WIDTH, _CMMD_SCALE = 10.0, 1000.0
_BLOCK_BYTES = 64 * 2**20  # of one block of distances; memory does not grow with N squared
_SAMPLED = 8  # one of so many columns gives the bound for the smallest of all
_TILE = 4096  # rows turned into float64 at once
_SPARE_NEIGHBOURS = 48  # listed beyond 4 k: a half-sample misses its k-th neighbour in the list about once in 10^12


def moments(features: npt.ArrayLike, rows: Rows | None = None) -> tuple[Floats, Floats]:
    """Mean (d,) and unbiased covariance (d, d) of features (N, d) or of some rows of them, in float64 and in chunks."""
    features = np.asarray(features)
    rows = np.arange(len(features)) if rows is None else rows
    shift = features[rows[:_TILE]].mean(axis=0, dtype=np.float64)  # near the mean, so that the squares do not cancel
    total = np.zeros(features.shape[1])
    squares = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(rows), _TILE):
        chunk = features[rows[start : start + _TILE]].astype(np.float64) - shift
        total += chunk.sum(axis=0)
        squares += chunk.T @ chunk
    mean = total / len(rows)
    return mean + shift, (squares - len(rows) * np.outer(mean, mean)) / (len(rows) - 1)


def frechet_distance(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """Squared Fréchet distance of two Gaussians: |m1 - m2|² + tr C1 + tr C2 - 2 tr (C1 C2)^½.

    The last trace is the sum of the square roots of the eigenvalues of C1 C2, which LAPACK finds from a symmetric matrix: no
    matrix square root of a non-symmetric product, no imaginary parts. (Dowson & Landau 1982; Heusel et al. 2017.)

    Parameters
    ----------
    mean1, mean2 : (d,).
    cov1, cov2 : (d, d), symmetric and positive semi-definite.
    """
    try:
        products = eigvalsh(cov1, cov2, type=2, driver="gv")
    except LinAlgError:  # a singular covariance, as of constant images, has no Cholesky factor but a root
        values, vectors = np.linalg.eigh(cov2)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        products = np.linalg.eigvalsh(root.T @ cov1 @ root)
    cross = np.sqrt(np.clip(products, 0, None)).sum()
    gap = np.asarray(mean1) - np.asarray(mean2)
    return max(float(gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * cross), 0.0)


def kernel_distance(real: npt.ArrayLike, fake: npt.ArrayLike) -> float:
    """Squared maximum mean discrepancy of two sets of features, kernel (x·y / d + 1)³: KID, if they are Inception's.

    The unbiased estimate over all pairs, zero on average for two samples of one distribution, so it may be negative. Where it
    is computed elsewhere as a mean over random subsets, the subsets add noise alone. (Bińkowski et al. 2018.)

    Parameters
    ----------
    real, fake : (N, d) and (M, d), at least two rows each.
    """
    return float(kernel_distances_of_samples(real, fake, [])[0])


def kernel_distances_of_samples(real: npt.ArrayLike, fake: npt.ArrayLike, samples: Sequence[tuple[Rows, Rows]]) -> Floats:
    """`kernel_distance` of all points and of samples of them, with each kernel value computed once, in blocks.

    Parameters
    ----------
    real, fake : as in `kernel_distance`.
    samples : (rows of real, rows of fake), without repeats, at least two of each.

    Returns
    -------
    float64 (1 + samples,): the value of all points, then one a sample.
    """
    real, fake = np.asarray(real), np.asarray(fake)
    dimension = real.shape[1]

    def cubic(products: Floats) -> None:
        products /= dimension
        products += 1
        products *= products * products

    (n, m), (within_real, within_fake, between) = _kernel_sums_of_samples(real, fake, samples, cubic, own=False)
    distances: Floats = within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * between / (n * m)
    return distances


def cmmd(real: npt.ArrayLike, fake: npt.ArrayLike) -> float:
    """Squared maximum mean discrepancy of CLIP's image embeddings, at unit length, Gaussian kernel of width 10, times 1000.

    As its authors compute it, a point is compared with itself too, so the distance is never negative, and of two samples of one
    distribution about 20 (1 - c) / N, with c the mean cosine of two of its images. (Jayasumana et al. 2024.)

    Parameters
    ----------
    real, fake : (N, d) and (M, d), no row of length zero.
    """
    return float(cmmd_of_samples(real, fake, [])[0])


def cmmd_of_samples(real: npt.ArrayLike, fake: npt.ArrayLike, samples: Sequence[tuple[Rows, Rows]]) -> Floats:
    """`cmmd` of all points and of samples of them; parameters and result as in `kernel_distances_of_samples`."""
    real, fake = np.asarray(real), np.asarray(fake)
    unit_real, unit_fake = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (real, fake))

    def gaussian_less_one(products: Floats) -> None:
        # exp(-|x - y|² / 2σ²) - 1, of vectors of unit length: all values are near one, which cancels in the end.
        products -= 1
        products /= _CMMD_WIDTH**2
        np.expm1(products, out=products)

    (n, m), (within_real, within_fake, between) = _kernel_sums_of_samples(
        unit_real, unit_fake, samples, gaussian_less_one, own=True
    )
    distances: Floats = _CMMD_SCALE * (within_real / n**2 + within_fake / m**2 - 2 * between / (n * m))
    return distances


def _kernel_sums_of_samples(
    real: npt.NDArray[Any],
    fake: npt.NDArray[Any],
    samples: Sequence[tuple[Rows, Rows]],
    kernel: Callable[[Floats], None],
    *,
    own: bool,
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Of all points and of each sample: the sizes of both sides, and the kernel's sums within real, within fake and between."""
    all_samples = [(np.arange(len(real)), np.arange(len(fake))), *samples]
    real_members, fake_members = (
        np.ascontiguousarray(_members(len(points), [pair[side] for pair in all_samples]).T, dtype=np.float64)
        for side, points in enumerate((real, fake))
    )
    within_real = _kernel_sums(real, real, real_members, real_members, kernel, own=own)
    within_fake = _kernel_sums(fake, fake, fake_members, fake_members, kernel, own=own)
    between = _kernel_sums(real, fake, real_members, fake_members, kernel, own=True)
    return (real_members.sum(axis=0), fake_members.sum(axis=0)), (within_real, within_fake, between)


def _members(points: int, samples: Sequence[Rows]) -> npt.NDArray[np.bool_]:
    """Which of the points each sample holds, (samples, points)."""
    members = np.zeros((len(samples), points), bool)
    for s, rows in enumerate(samples):
        members[s, rows] = True
    return members


def _kernel_sums(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    a_members: Floats,
    b_members: Floats,
    kernel: Callable[[Floats], None],
    *,
    own: bool,
) -> Floats:
    """Sum of the kernel over each sample's pairs, with or without a point and itself: float64 (samples,).

    The kernel turns a block of products into its values, in place.
    """
    sums = np.zeros(a_members.shape[1])
    for start, block in _product_blocks(a, b, _float64, _float64):
        kernel(block)
        rows = np.arange(len(block))
        if not own:
            block[rows, start + rows] = 0
        sums += np.einsum("is,is->s", a_members[start + rows], block @ b_members)
    return sums


def prdc(real: npt.ArrayLike, fake: npt.ArrayLike, k: int) -> dict[str, float]:
    """Improved precision and recall, density and coverage, with neighbourhoods of k points.

    Precision: share of fake points within the k-th neighbour radius of some real point; recall: the reverse (Kynkäänniemi et
    al. 2019). Density: mean number of real neighbourhoods around a fake point, over k; coverage: share of real points with a
    fake one in their neighbourhood (Naeem et al. 2020). A point on a radius is outside, as in the `prdc` package.

    Parameters
    ----------
    real : (N, d), N > k.
    fake : (M, d), M > k.
    k : neighbours, the point itself not counted.
    """
    return {name: float(values[0]) for name, values in prdc_of_samples(real, fake, k, [])[0].items()}


def prdc_of_samples(
    real: npt.ArrayLike, fake: npt.ArrayLike, k: int, samples: Sequence[tuple[Rows, Rows]]
) -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
    """`prdc` of all points and of samples of them, with each distance computed once, in blocks.

    Parameters
    ----------
    real, fake, k : as in `prdc`.
    samples : (rows of real, rows of fake), ascending and without repeats, more than k of each.

    Returns
    -------
    metric -> float64 (1 + samples,): the value of all points, then one a sample; and which real points are covered, bool (N,).
    """
    real, fake = np.asarray(real), np.asarray(fake)
    all_samples = [(np.arange(len(real)), np.arange(len(fake))), *samples]
    real_radii = neighbour_radii(real, k, [rows for rows, _ in all_samples])
    fake_radii = neighbour_radii(fake, k, [rows for _, rows in all_samples])
    inside = np.zeros((len(all_samples), len(fake)), bool)
    covered, recalled = (np.zeros((len(all_samples), len(real)), bool) for _ in range(2))
    pairs = np.zeros(len(all_samples), np.int64)
    for start, distances in distance_blocks(real, fake):
        # Few pairs are nearer than the radius of either point in any sample, and only these count.
        near_some = distances < real_radii[:, start : start + len(distances)].max(axis=0)[:, None]
        near_some |= distances < fake_radii.max(axis=0)
        places = np.flatnonzero(near_some)
        rows, columns = np.divmod(places, len(fake))
        squared = distances.ravel()[places]
        rows += start
        for s in range(len(all_samples)):
            real_radius, fake_radius = real_radii[s, rows], fake_radii[s, columns]
            chosen = (real_radius >= 0) & (fake_radius >= 0)
            near = chosen & (squared < real_radius)
            pairs[s] += np.count_nonzero(near)
            inside[s, columns[near]] = True
            covered[s, rows[near]] = True
            recalled[s, rows[chosen & (squared < fake_radius)]] = True
    n_real, n_fake = (np.array([len(pair[side]) for pair in all_samples]) for side in (0, 1))
    values = {
        "precision": inside.sum(axis=1) / n_fake,
        "recall": recalled.sum(axis=1) / n_real,
        "density": pairs / (k * n_fake),
        "coverage": covered.sum(axis=1) / n_real,
    }
    return values, covered[0]


def neighbour_radii(points: npt.ArrayLike, k: int, samples: Sequence[Rows]) -> Floats:
    """Squared distance of each point to its k-th neighbour within each sample.

    Parameters
    ----------
    points : (N, d).
    k : neighbours, the point itself not counted.
    samples : ascending rows, more than k each.

    Returns
    -------
    float64 (samples, N); -1 where a point is not in the sample.
    """
    points = np.asarray(points)
    members = _members(len(points), samples)
    radii = np.full(members.shape, -1.0)
    listed = min(len(points) - 1, k if all(len(rows) == len(points) for rows in samples) else 4 * k + _SPARE_NEIGHBOURS)
    for start, distances in distance_blocks(points, points):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        nearest, listed_distances = _smallest(distances, listed)
        for s, sample in enumerate(samples):
            kth = np.cumsum(members[s][nearest], axis=1, dtype=np.int32) >= k
            found = listed_distances[rows, kth.argmax(axis=1)]
            for row in np.flatnonzero(~kth[:, -1] & members[s, start + rows]):
                found[row] = np.partition(distances[row, sample], k - 1)[k - 1]
            radii[s, start + rows] = np.where(members[s, start + rows], found, -1.0)
    return radii


def _smallest(values: Floats, count: int) -> tuple[Rows, Floats]:
    """Columns and values of the `count` smallest of each row, ascending."""
    if values.shape[1] <= _SAMPLED * count:
        columns = np.argpartition(values, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(values, columns, axis=1)
    else:
        # The count-th smallest of some columns is a bound for that of all, and lets few values through.
        bounds = np.partition(values[:, ::_SAMPLED], count - 1, axis=1)[:, count - 1]
        places = np.flatnonzero(values <= bounds[:, None])
        rows, among = np.divmod(places, values.shape[1])
        passed = np.bincount(rows, minlength=len(values))
        slots = np.arange(len(rows)) - np.repeat(np.cumsum(passed) - passed, passed)
        columns, found = np.zeros((len(values), passed.max()), np.int64), np.full((len(values), passed.max()), np.inf)
        columns[rows, slots], found[rows, slots] = among, values.ravel()[places]
    order = np.argsort(found, axis=1)[:, :count]
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(found, order, axis=1)


def _float64(points: npt.NDArray[Any]) -> Floats:
    return points.astype(np.float64)


def _product_blocks(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    left: Callable[[npt.NDArray[Any]], Floats],
    right: Callable[[npt.NDArray[Any]], Floats],
) -> Iterator[tuple[int, Floats]]:
    """(first row, products of some rows of `left(a)` with all of `right(b)`), made chunk by chunk.

    A block is overwritten by the next.
    """
    height = min(max(_BLOCK_BYTES // (8 * len(b)), 1), len(a))
    space = np.empty((height, len(b)))  # one for all blocks: new memory costs a third of the products
    for start in range(0, len(a), height):
        rows = left(a[start : start + height])
        block = space[: len(rows)]
        for i in range(0, len(b), _TILE):
            np.matmul(rows, right(b[i : i + _TILE]).T, out=block[:, i : i + _TILE])
        yield start, block


def distance_blocks(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Iterator[tuple[int, Floats]]:
    """(first row, squared Euclidean distances (rows, len(b)) in float64) over the rows of `a`."""
    centre = b.mean(axis=0, dtype=np.float64)  # distances do not change, but less is lost where squares are subtracted
    longest = sum(max(_centred(x[i : i + _TILE], centre)[1].max() for i in range(0, len(x), _TILE)) for x in (a, b))

    def left(chunk: npt.NDArray[Any]) -> Floats:
        points, lengths = _centred(chunk, centre)
        return np.column_stack([-2 * points, lengths, np.ones(len(points))])

    def right(chunk: npt.NDArray[Any]) -> Floats:
        points, lengths = _centred(chunk, centre)
        return np.column_stack([points, np.ones(len(points)), lengths])

    for start, block in _product_blocks(a, b, left, right):
        # float32 features that differ by less than 1e-7 of their length are the same point; rounding must not tell them apart.
        if block.min() < 1e-14 * longest:
            block[block < 1e-14 * longest] = 0
        yield start, block


def _centred(points: npt.NDArray[Any], centre: Floats) -> tuple[Floats, Floats]:
    """Points less the centre, and their squared lengths."""
    points = points.astype(np.float64) - centre
    return points, np.einsum("ij,ij->i", points, points)


def nearest_centroid(features: npt.ArrayLike, centroids: npt.ArrayLike) -> Rows:
    """Number of the nearest centroid (k, d) of each feature vector (N, d): int64 (N,)."""
    # Centroids minus half their squared length: one product a chunk, as the points' own lengths do not change the order.
    features, centroids = np.asarray(features), np.asarray(centroids, dtype=np.float64)
    offset = 0.5 * np.einsum("ij,ij->i", centroids, centroids)
    chunks = (features[i : i + _TILE].astype(np.float64) for i in range(0, len(features), _TILE))
    return np.concatenate([(chunk @ centroids.T - offset).argmax(axis=1) for chunk in chunks])


def compare_features(
    images: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    k: int,
    subsamples: int,
    seed: int,
    clip: bool = False,
    clusters: tuple[Rows, Rows] | None = None,
) -> dict[str, Any]:
    """Every metric of one encoder: images (N, d) against reference (M, d).

    A metric that is undefined for these sizes has the value None and says why; so does an interval.

    Parameters
    ----------
    k : neighbours of precision, recall, density and coverage.
    subsamples : half-samples behind each interval.
    seed : of the half-samples: equal sizes get equal halves, so image sets can be compared.
    clip : features are CLIP's image embeddings, which have a CMMD.
    clusters : of the images, as their rows name them, and of the reference; None leaves out what is told cluster by cluster.
    """
    images, reference = np.asarray(images), np.asarray(reference)
    smaller, dimension = min(len(images), len(reference)), images.shape[1]
    halves = list(
        zip(
            half_samples(len(reference), subsamples, seed=seed, side=0),
            half_samples(len(images), subsamples, seed=seed, side=1),
            strict=True,
        )
    )
    sizes = f"{len(images)} images and {len(reference)} reference images"
    cells: dict[str, Cell] = {}
    covered: npt.NDArray[np.bool_] | None = None
    if smaller <= dimension:
        cells["fd"] = _undefined(f"{sizes}: a covariance in {dimension} dimensions needs more than {dimension} of each")
    else:
        value = frechet_distance(*moments(reference), *moments(images))
        if smaller // 2 <= dimension:
            cells["fd"] = _without_interval(value, f"{sizes}: halves are not larger than the dimension, {dimension}")
        else:
            values = [frechet_distance(*moments(reference, rows), *moments(images, others)) for rows, others in halves]
            cells["fd"] = _cell(value, *half_sample_interval(value, values))
    of_pairs = {"kd": (kernel_distances_of_samples, -np.inf)} | ({"cmmd": (cmmd_of_samples, 0.0)} if clip else {})
    for name, (distances, low) in of_pairs.items():
        if smaller < 2:
            cells[name] = _undefined(f"{sizes}: pairs need two of each")
        elif name == "cmmd" and not (images.any(axis=1).all() and reference.any(axis=1).all()):
            cells[name] = _undefined("an embedding of length zero has no direction")
        else:
            value, *of_halves = map(float, distances(reference, images, halves if smaller // 2 >= 2 else []))
            cells[name] = (
                _cell(value, *half_sample_interval(value, of_halves, low=low))
                if of_halves
                else _without_interval(value, f"{sizes}: halves are too small for pairs")
            )
    if smaller <= k:
        cells |= {name: _undefined(f"{sizes}: {k} neighbours need more than {k} of each") for name in PRDC}
    else:
        of_samples, covered = prdc_of_samples(reference, images, k, halves if smaller // 2 > k else [])
        for name, (value, *of_halves) in ((name, map(float, found)) for name, found in of_samples.items()):
            high = np.inf if name == "density" else 1.0
            cells[name] = (
                _cell(value, *half_sample_interval(value, of_halves, high=high))
                if of_halves
                else _without_interval(value, f"{sizes}: halves are too small for {k} neighbours")
            )
    sizes_and_cells: dict[str, Any] = {"dimension": dimension, "k": k, "n": len(images), "reference": len(reference), **cells}
    if clusters is not None:
        sizes_and_cells["clusters"] = cluster_by_cluster(images, reference, *clusters, covered)
    return sizes_and_cells


def cluster_by_cluster(
    images: npt.ArrayLike,
    reference: npt.ArrayLike,
    image_clusters: Rows,
    reference_clusters: Rows,
    covered: npt.NDArray[np.bool_] | None,
) -> list[dict[str, Any]]:
    """Which morphologies the generator draws and which it misses.

    Parameters
    ----------
    images, reference : (N, d) and (M, d).
    image_clusters, reference_clusters : int64 (N,) and (M,).
    covered : which reference points have an image in their neighbourhood, (M,); None if that is undefined.

    Returns
    -------
    For each cluster its number, `images` and `reference` in it, `coverage` (the share of its reference points that are covered,
    with Wilson's interval), and `distance`: between the means of both, in units of the reference's own spread (the root of its
    variance summed over dimensions).
    """
    images, reference = np.asarray(images), np.asarray(reference)
    spread = float(np.sqrt(reference.var(axis=0, dtype=np.float64).sum()))
    rows = []
    for cluster in range(int(max(image_clusters.max(), reference_clusters.max())) + 1):
        own, theirs = image_clusters == cluster, reference_clusters == cluster
        n, m = int(own.sum()), int(theirs.sum())
        if m and covered is not None:
            coverage = share(covered[theirs])
        else:
            coverage = _undefined("neighbourhoods are undefined" if m else "no reference patch in it")
        distance = None
        if n and m and spread:
            gap = images[own].mean(axis=0, dtype=np.float64) - reference[theirs].mean(axis=0, dtype=np.float64)
            distance = float(np.linalg.norm(gap)) / spread
        rows.append({"cluster": cluster, "images": n, "reference": m, "coverage": coverage, "distance": distance})
    return rows


def prompt_fidelity(features: npt.ArrayLike, centroids: npt.ArrayLike, clusters: npt.ArrayLike, labels: npt.ArrayLike) -> Cell:
    """Share of images (N, d) whose nearest centroid (k, d) is the cluster (N,) named by their row, with Wilson's interval.

    Its `chance` is what the same images would have if their clusters' names were dealt anew among the images of each label
    (N,). It is more than 1 / k: the label alone tells which clusters are likely.
    """
    found, named, labels = nearest_centroid(features, centroids), np.asarray(clusters), np.asarray(labels)
    return share(found == named) | {"chance": chance_agreement(found, named, labels)}


def chance_agreement(found: Rows, named: Rows, labels: Rows) -> float:
    """Mean share of equal entries of `found` and `named`, both (N,), over all permutations of `named` within each label (N,).

    (The agreement expected by chance of Cohen 1960, label by label.)
    """
    size = int(max(found.max(), named.max())) + 1
    hits = 0.0
    for label in np.unique(labels):
        own = labels == label
        pairs = np.bincount(found[own], minlength=size) @ np.bincount(named[own], minlength=size)
        hits += float(pairs) / np.count_nonzero(own)
    return hits / len(found)


def share(hits: npt.NDArray[np.bool_]) -> Cell:
    """Share of hits among some trials, with Wilson's interval."""
    found = int(hits.sum())
    return _cell(found / len(hits), *wilson_interval(found, len(hits)))


def _cell(value: float, low: float, high: float) -> Cell:
    return {"value": value, "low": low, "high": high}


def _without_interval(value: float, reason: str) -> Cell:
    return {"value": value, "low": None, "high": None, "reason": reason}


def _undefined(reason: str) -> Cell:
    return {"value": None, "low": None, "high": None, "reason": reason}


def compute_metrics(
    features_npy: Sequence[str | Path],
    reference_npy: Sequence[str | Path],
    embeddings_npy: str | Path,
    reference_embeddings_npy: str | Path,
    reference_kept_csv: str | Path,
    images_csv: str | Path,
    centroids_npy: str | Path,
    metrics_json: str | Path,
    *,
    name: str,
    spaces: Sequence[tuple[str, str]],
    kinds: Mapping[str, str],
    missing: Mapping[str, str],
    morphology_encoder: str,
    sizes: Mapping[str, int],
    neighbours: int,
    subsamples: int,
    seed: int,
) -> None:
    """Write every metric of one image set, a key a protocol and in it a key an encoder.

    What one encoder's features cannot give is undefined and says why.

    Parameters
    ----------
    features_npy : features of the images, float32 (N, d), one file for each of `spaces`.
    reference_npy : features of the whole held-out split, float32 (M, d), likewise.
    embeddings_npy, reference_embeddings_npy : both at the patch size, in the space of `morphology_encoder`.
    reference_kept_csv : the split's outlier table; rows that are not `kept` are left out.
    images_csv : `number,label,cluster` of the images.
    centroids_npy : (clusters, d) in the space of `morphology_encoder`.
    metrics_json : output. Where a protocol's features are those of another one, its metrics are that one's, which is named as
        `same_as`.
    name : of the image set.
    spaces : the protocol and the encoder of each pair of files.
    kinds : encoder -> what it is, as `embedding.load_encoder`'s `kind`; also of those that are missing.
    missing : encoders of the evaluation that could not be used -> why.
    morphology_encoder : the encoder that made the clusters; prompt fidelity is measured in its space.
    sizes : pixels a side of a `patch` and of what the `generator` makes.
    neighbours : k of precision, recall, density and coverage.
    subsamples : half-samples behind every interval.
    seed : of the half-samples.

    Raises
    ------
    InputError : files that are no features, or features of other lengths than their tables or other widths than the clusters.
    """
    table = read_csv(images_csv, ("number", "label", "cluster"))
    reference_table = read_csv(reference_kept_csv, ("kept",))
    kept = np.flatnonzero(reference_table["kept"].to_numpy().astype(bool))
    if not kept.size:
        raise InputError(
            reference_kept_csv,
            found="no patch is kept",
            expected="a held-out split with patches that pass the outlier filter",
            remedy="look at the reasons in this table; relax the config key `outliers` if good tissue was dropped",
        )

    def load(path: str | Path, reference_path: str | Path) -> tuple[Features, Features, str | None]:
        """Features of the images and of the kept reference, and what makes them unusable."""
        images, held_out = _read_features(path), _read_features(reference_path)
        check_count(path, len(images), images_csv, len(table))
        check_count(reference_path, len(held_out), reference_kept_csv, len(reference_table))
        held_out = held_out[kept]
        if images.shape[1] != held_out.shape[1]:
            return images, held_out, f"features of width {images.shape[1]}, those of the reference of width {held_out.shape[1]}"
        for what, features in (("images", images), ("reference", held_out)):
            if broken := _not_finite(features):
                return images, held_out, f"features of the {what}: {broken}"
        return images, held_out, None

    embeddings, held_out, fault = load(embeddings_npy, reference_embeddings_npy)
    clusters: tuple[Rows, Rows] | None = None
    if fault:
        fidelity = _undefined(fault)
    else:
        centroids = load_features(centroids_npy)
        check_width(embeddings_npy, embeddings, f"the clusters {centroids_npy}", centroids)
        named = table["cluster"].to_numpy(np.int64)
        fidelity = prompt_fidelity(embeddings, centroids, named, table["label"].to_numpy(np.int64))
        clusters = named, nearest_centroid(held_out, centroids)

    def undefined(encoder: str, reason: str) -> dict[str, Any]:
        names = ("fd", "kd", *(("cmmd",) if kinds[encoder] == "clip" else ()), *PRDC)
        sizes = {"dimension": None, "k": neighbours, "n": len(table), "reference": int(kept.size)}
        return {"kind": kinds[encoder], **sizes, **{metric: _undefined(reason) for metric in names}}

    protocols: dict[str, dict[str, Any]] = {}
    compared: dict[str, list[tuple[str, Features, Features]]] = {}
    for (protocol, encoder), path, reference_path in zip(spaces, features_npy, reference_npy, strict=True):
        images, others, fault = load(path, reference_path)
        known = compared.setdefault(encoder, [])
        same = next((of for of, *both in known if all(map(np.array_equal, both, (images, others)))), None)
        if fault:
            found = undefined(encoder, fault)
        elif same is not None:
            found = {"same_as": same, **protocols[same][encoder]}
        else:
            known.append((protocol, images, others))
            values = compare_features(
                images,
                others,
                k=neighbours,
                subsamples=subsamples,
                seed=seed,
                clip=kinds[encoder] == "clip",
                clusters=clusters,
            )
            found = {"kind": kinds[encoder], **values}
        protocols.setdefault(protocol, {})[encoder] = found
    for of_protocol in protocols.values():
        of_protocol |= {encoder: undefined(encoder, reason) for encoder, reason in missing.items()}
    write_json(
        metrics_json,
        {
            "name": name,
            "images": len(table),
            "reference": int(kept.size),
            "sizes": dict(sizes),
            "protocols": protocols,
            "morphology_encoder": morphology_encoder,
            "prompt_fidelity": fidelity,
            "seed": seed,
            "subsamples": subsamples,
            "interval": INTERVAL,
        },
    )


def load_features(path: str | Path) -> Features:
    """Rows of finite numbers, or an `InputError`."""
    features = _read_features(path)
    if broken := _not_finite(features):
        raise InputError(
            path,
            found=broken,
            expected="finite features",
            remedy="look at that image; an encoder in half precision may overflow: set its `dtype` to float32 and run again",
        )
    return features


def _read_features(path: str | Path) -> Features:
    remedy = "delete it and run the same command again"
    check_seal_if_any(path)
    features = read_array(path)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating) or 0 in features.shape:
        found = f"an array of shape {features.shape}, dtype {features.dtype}"
        raise InputError(path, found=found, expected="float32 features (N, d)", remedy=remedy)
    return cast(Features, features)


def _not_finite(features: Features) -> str:
    """Which rows hold NaN or infinity; empty if none does."""
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    return f"{broken.size} of {len(features)} rows with NaN or infinity, the first at row {broken[0]}" if broken.size else ""


def check_count(path: str | Path, found: int, other: str | Path, expected: int) -> None:
    """Refuse features that are not as many as the file beside them says."""
    if found != expected:
        raise InputError(
            path,
            found=f"features of {found} images",
            expected=f"{expected}, as {other} says",
            remedy="delete both files and run the same command again",
        )


def check_width(path: str | Path, images: Features, other: str | Path, features: Features) -> None:
    """Refuse features that have not the width of others."""
    if images.shape[1] != features.shape[1]:
        raise InputError(
            path,
            found=f"features of width {images.shape[1]}, but {other} of width {features.shape[1]}",
            expected="features of one encoder on both sides",
            remedy="delete both files and run the same command again",
        )
