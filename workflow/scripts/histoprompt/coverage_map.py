"""Where the arms are on a map of the held-out patches, and the regions of real tissue that they miss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from histoprompt.clustering import fit_kmeans
from histoprompt.errors import InputError
from histoprompt.figures import PALETTE
from histoprompt.files import atomic, read_csv, write_csv
from histoprompt.intervals import Floats, Rows, wilson_interval
from histoprompt.memorisation import nearest_rows
from histoprompt.metrics import Features, check_count, check_width, load_features, nearest_centroid, prdc_of_samples
from histoprompt.patches import Images, PatchFile
from histoprompt.subset import COLUMNS, draw_sample

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the regions, the largest first; clusters have numbers
HELD_OUT = "test"
_EXAMPLES = 3  # patches that stand for a region
_TILE = 64  # pixels a side of a drawn patch
_GRID = 160  # cells a side of the background's density
_BLUR = 2.0  # cells
_MARGIN = 0.24  # of the large panel, where example patches stand around the map
_PANEL, _TITLE, _SPACE = 3.0, 0.5, 0.12  # inches: a small panel, the lines above it, the gap between two


def expected_coverage(real: int, fake: int, k: int) -> float:
    """Mean coverage by images of the real points' own distribution: 1 - Π (N - 1 - i) / (N + M - 1 - i), i = 0 … k - 1.

    A real point is missed when its k nearest among all others are real; without a difference, every order is equally likely.
    (Naeem et al. 2020, lemma 2.)

    Parameters
    ----------
    real, fake : N > k and M.
    k : neighbours, the point itself not counted.
    """
    places = np.arange(k)
    return float(1 - np.prod((real - 1 - places) / (real + fake - 1 - places)))


def find_regions(features: Features, count: int, *, seed: int) -> tuple[Rows, Floats]:
    """Parts of the feature space that hold the real patches: k-means, the largest part first.

    Parameters
    ----------
    features : (N, d), at least `count` different ones.

    Returns
    -------
    Region of each patch, int64 (N,), and the centres, (count, d).
    """
    fit = fit_kmeans(features, k=count, n_init=10, seed=seed)
    order = np.argsort(-np.bincount(fit.labels_, minlength=count), kind="stable")
    return np.argsort(order)[fit.labels_].astype(np.int64), fit.cluster_centers_[order].astype(np.float64)


def missed_regions(
    real: Features, regions: Rows, images: Mapping[str, Features], centres: npt.ArrayLike, *, k: int
) -> pd.DataFrame:
    """Coverage of each region by each image set, and whether that is less than half of what a complete set would cover.

    A region is missed by a set where the upper limit of its coverage lies below half of `expected_coverage`. Both are taken in
    the space of the features: a map's distances are not distances.

    Parameters
    ----------
    real : (N, d), N > k.
    regions : of the real patches, (N,).
    images : name -> (M, d), M > k.
    centres : of the regions, (regions, d).
    k : neighbours of a real patch that make its neighbourhood, itself not counted.

    Returns
    -------
    `images,region,held_out,inside,coverage,low,high,expected,missed`: a row an image set and region. `inside` counts the set's
    images that are nearest to this region's centre; `coverage` is the share of the region's real patches with an image in their
    neighbourhood, with Wilson's interval.
    """
    rows = []
    for name, features in images.items():
        covered = prdc_of_samples(real, features, k, [])[1]
        expected = expected_coverage(len(real), len(features), k)
        inside = np.bincount(nearest_centroid(features, centres), minlength=len(np.asarray(centres)))
        for region, placed in enumerate(inside):
            own = regions == region
            hits, n = int(covered[own].sum()), int(own.sum())
            low, high = wilson_interval(hits, n)
            rows.append((name, LETTERS[region], n, int(placed), hits / n, low, high, expected, high < expected / 2))
    columns = ("images", "region", "held_out", "inside", "coverage", "low", "high", "expected", "missed")
    return pd.DataFrame(rows, columns=list(columns))


def place_on_map(features: Features, *, neighbours: int, min_dist: float, seed: int) -> Floats:
    """UMAP of all points together, Euclidean, on one thread: same input, same coordinates (McInnes et al. 2018).

    Together, because points that are added to a finished map are drawn among those that are nearest to them, however far they
    are: images unlike any real patch would land on real tissue, and the map would show them as coverage. Euclidean, because
    the coverage is.

    Parameters
    ----------
    features : (N, d), N > neighbours.
    neighbours, min_dist : UMAP's `n_neighbors` and `min_dist`.

    Returns
    -------
    float64 (N, 2).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # its optional parts want TensorFlow
        from umap import UMAP
    with threadpool_limits(limits=1):
        mapper = UMAP(n_neighbors=neighbours, min_dist=min_dist, metric="euclidean", random_state=seed, n_jobs=1)
        return np.asarray(mapper.fit_transform(features), dtype=np.float64)


@dataclass(frozen=True)
class _Sample:
    """Some images of a set: their rows in its files, features, numbers, labels and clusters."""

    rows: Rows
    features: Features
    numbers: Rows
    labels: Rows
    clusters: Rows


def draw_coverage_map(
    features: Mapping[str, str | Path],
    tables: Mapping[str, str | Path],
    images: Mapping[str, str | Path],
    held_out_npy: str | Path,
    held_out_csv: str | Path,
    held_out_h5: str | Path,
    map_csv: str | Path,
    regions_csv: str | Path,
    map_png: str | Path,
    regions_png: str | Path,
    *,
    encoder: str,
    sample: int,
    regions: int,
    neighbours: int,
    min_dist: float,
    coverage_neighbours: int,
    seed: int,
) -> None:
    """Map held-out patches and every image set together, and name the regions of real tissue that a set misses.

    Parameters
    ----------
    features, tables, images : image set -> its features (N, d), its `number,label,cluster` and its patch file.
    held_out_npy, held_out_csv, held_out_h5 : features of the held-out split, its kept patches' `row,id,label,cluster`, and its
        patch file.
    map_csv : written: `images,number,x,y,label,cluster,region`, a row a point. `images` is an image set or `test`; `number` is
        that of the image, or the patch's row; `cluster` is the study's for patches, and what was drawn for an image.
    regions_csv : written: `missed_regions`.
    map_png : written: the held-out patches with an example of each region, and a panel an image set.
    regions_png : written: a row a region, its patches beside the nearest images of each set.
    encoder : whose features these are.
    sample : images of each set, and held-out patches, at most; a seeded draw, the same rows of sets of the same size.
    regions : how many parts the held-out patches are divided into.
    neighbours, min_dist : of `place_on_map`.
    coverage_neighbours : k of `missed_regions`.
    seed : of draws, regions and map.

    Raises
    ------
    InputError : files that do not belong together, fewer images than neighbours, fewer different patches than regions.
    """
    kept = read_csv(held_out_csv, COLUMNS)
    rows = kept["row"].to_numpy(np.int64)
    limits = {"sample": sample, "neighbours": coverage_neighbours, "seed": seed}
    held_out = _read_sample(held_out_npy, kept.assign(number=rows), held_out_csv, rows, held_out_h5, **limits)
    different = len(np.unique(held_out.features, axis=0))
    if different < regions:
        raise InputError(
            "config key `evaluation.map.regions`",
            found=f"{regions} regions for {len(held_out.rows)} held-out patches, {different} of them different",
            expected="at least as many different held-out patches as regions",
            remedy="lower it, or give more held-out patches",
        )
    samples = {}
    for name, path in features.items():
        table = read_csv(tables[name], ("number", "label", "cluster"))
        samples[name] = _read_sample(path, table, tables[name], None, images[name], **limits)
        check_width(path, samples[name].features, held_out_npy, held_out.features)
    points = {HELD_OUT: held_out, **samples}
    together = np.concatenate([part.features for part in points.values()])
    _check_number("config key `evaluation.map.neighbours`", len(together), neighbours)

    of_patches, centres = find_regions(held_out.features, regions, seed=seed)
    of_images = [nearest_centroid(part.features, centres) for part in samples.values()]
    by_name = {name: part.features for name, part in samples.items()}
    coverage = missed_regions(held_out.features, of_patches, by_name, centres, k=coverage_neighbours)
    places = place_on_map(together, neighbours=neighbours, min_dist=min_dist, seed=seed)
    table = pd.DataFrame(
        {
            "images": np.repeat(list(points), [len(part.rows) for part in points.values()]),
            "number": np.concatenate([part.numbers for part in points.values()]),
            "x": places[:, 0].round(4),
            "y": places[:, 1].round(4),
            "label": np.concatenate([part.labels for part in points.values()]),
            "cluster": np.concatenate([part.clusters for part in points.values()]),
            "region": [LETTERS[region] for region in np.concatenate([of_patches, *of_images])],
        }
    )
    typical = _typical(held_out.features, of_patches, centres)
    with PatchFile(held_out_h5) as file:
        classes = file.classes
        examples = [file.take(held_out.rows[those]) for those in typical]
    with atomic(map_png) as temporary:
        _map(table, coverage, examples, classes, encoder).savefig(temporary, metadata={"Software": None})
    with atomic(regions_png) as temporary:
        _regions(held_out, of_patches, samples, images, coverage, typical, examples, encoder).save(temporary)
    write_csv(regions_csv, coverage)
    write_csv(map_csv, table)


def _read_sample(
    features_npy: str | Path,
    table: pd.DataFrame,
    table_csv: str | Path,
    rows: Rows | None,
    patches_h5: str | Path,
    *,
    sample: int,
    neighbours: int,
    seed: int,
) -> _Sample:
    """A seeded draw of `sample` images at most from a table of some `rows` of the features and of the patch file, or of all."""
    features = load_features(features_npy)
    with PatchFile(patches_h5) as file:
        patches = len(file)
    check_count(features_npy, len(features), patches_h5, patches)
    expected = len(table) if rows is None else max(patches, int(rows.max(initial=-1)) + 1)
    check_count(features_npy, len(features), table_csv, expected)
    rows = np.arange(patches) if rows is None else rows
    drawn = draw_sample(len(table), sample, seed=seed)
    _check_number(table_csv, len(drawn), neighbours)
    numbers, labels, clusters = (table[name].to_numpy(np.int64)[drawn] for name in ("number", "label", "cluster"))
    return _Sample(rows[drawn], features[rows[drawn]], numbers, labels, clusters)


def _check_number(where: str | Path, found: int, neighbours: int) -> None:
    if found <= neighbours:
        raise InputError(
            where,
            found=f"{found} images for {neighbours} neighbours",
            expected=f"more than {neighbours} images: none is its own neighbour",
            remedy="give more images, or lower `evaluation.neighbours` or `evaluation.map.neighbours`",
        )


def _typical(features: Features, regions: Rows, centres: Floats) -> list[Rows]:
    """The patches nearest to the centre of their region, a few each, nearest first."""
    chosen = []
    for region, centre in enumerate(centres):
        own = np.flatnonzero(regions == region)
        distances = np.linalg.norm(features[own].astype(np.float64) - centre, axis=1)
        chosen.append(own[np.argsort(distances, kind="stable")[:_EXAMPLES]])
    return chosen


def _map(
    table: pd.DataFrame, coverage: pd.DataFrame, examples: Sequence[Images], classes: Sequence[str], encoder: str
) -> Figure:
    """The held-out patches in a large panel and each image set in a small one, all with the same axes."""
    names = list(coverage["images"].unique())
    columns = 2 if len(names) <= 4 else 3
    rows = max(2, -(-len(names) // columns))
    pitch, foot = _PANEL + _TITLE, 0.65
    width, height = 2 * pitch + columns * (_PANEL + _SPACE) + 0.1, rows * pitch + foot
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    held_out = table[table["images"] == HELD_OUT]
    frame = [(table[axis].min(), table[axis].max()) for axis in ("x", "y")]
    regions = {str(letter): part[["x", "y"]].to_numpy() for letter, part in held_out.groupby("region")}

    def panel(left: float, top: float, side: float) -> Axes:
        return figure.add_axes((left / width, (height - top - side) / height, side / width, side / height))

    large = panel(0.1, _TITLE, 2 * _PANEL + _TITLE)
    large.set_title(f"Held-out real patches (N = {len(held_out):,}) and their regions", fontsize=11, loc="left")
    _limits(large, frame, _MARGIN)
    _around(large, regions, examples)
    _scatter(large, held_out, classes, 9)
    large.legend(
        loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=len(classes), fontsize=10, markerscale=2.5,
        frameon=False, handletextpad=0.1, columnspacing=0.8,
    )  # fmt: skip
    for place, name in enumerate(names):
        row, column = divmod(place, columns)
        axis = panel(2 * pitch + _SPACE + column * (_PANEL + _SPACE), _TITLE + row * pitch, _PANEL)
        part, found = table[table["images"] == name], coverage[coverage["images"] == name]
        missed = set(found.loc[found["missed"], "region"])
        share = (found["coverage"] * found["held_out"]).sum() / found["held_out"].sum()
        heading = f"{name} (N = {len(part):,})\n{100 * share:.0f} % covered, {len(missed)} of {len(found)} regions missed"
        axis.set_title(heading, fontsize=9, loc="left")
        _limits(axis, frame, 0.07)
        _background(axis, held_out)
        _scatter(axis, part, classes, float(np.clip(3500 / len(part), 3.5, 14)))
        _letters(axis, regions, missed)
    expected = coverage["expected"].iloc[0]
    figure.text(
        0.1 / width,
        0.1 / height,
        f"UMAP of the features of {encoder}, all images together. Its distances are no distances; coverage is measured in the "
        f"features. Grey: where held-out patches are.\nWhite on black: regions that are missed, less than half as well covered "
        f"as by as many images of the same distribution ({100 * expected:.0f} %).",
        fontsize=9.5,
        linespacing=1.4,
    )
    return figure


def _limits(axis: Axes, frame: Sequence[tuple[float, float]], margin: float) -> None:
    """The same part of the plane in every panel; the margin is a share of the frame."""
    x, y = ((low - margin * (high - low), high + margin * (high - low)) for low, high in frame)
    axis.set(xlim=x, ylim=y, xticks=[], yticks=[])


def _scatter(axis: Axes, part: pd.DataFrame, classes: Sequence[str], size: float) -> None:
    """Points in the colour of their label, in the order of the table, so that no class covers the other."""
    colours = np.array(PALETTE)[part["label"].to_numpy() % len(PALETTE)]
    axis.scatter(part["x"], part["y"], s=size, c=colours, linewidths=0, zorder=2)
    for label, word in enumerate(classes):
        axis.scatter([], [], s=size, c=PALETTE[label % len(PALETTE)], linewidths=0, label=word)


def _background(axis: Axes, held_out: pd.DataFrame) -> None:
    """Where the held-out patches are, in grey: their density, cut off where two lie together, so that sparse regions show."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    counts = np.histogram2d(held_out["y"], held_out["x"], bins=_GRID, range=((bottom, top), (left, right)))[0]
    two = 2 / (2 * np.pi * _BLUR**2)
    density = np.minimum(gaussian_filter(counts, _BLUR), two)
    extent = (left, right, bottom, top)
    axis.imshow(density, extent=extent, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=2.6 * two, zorder=0)


def _letters(axis: Axes, regions: Mapping[str, Floats], missed: set[str]) -> None:
    """Letters beside their regions, on the side away from the middle of the map: white on black where missed."""
    to_axes = axis.transData + axis.transAxes.inverted()
    for letter, points in regions.items():
        places = to_axes.transform(points)
        middle = _middle(places)
        outward = (middle - 0.5) / max(float(np.linalg.norm(middle - 0.5)), 1e-9)
        reach = np.quantile((places - middle) @ outward, 0.9) + 0.032
        x, y = np.clip(middle + reach * outward, 0.04, 0.96)
        ink, paper = ("white", "black") if letter in missed else ("black", "white")
        axis.text(
            x, y, letter, fontsize=8, fontweight="bold", ha="center", va="center", color=ink, zorder=4,
            transform=axis.transAxes,
            bbox={"boxstyle": "circle,pad=0.18", "facecolor": paper, "edgecolor": "black", "linewidth": 0.7},
        )  # fmt: skip


def _middle(points: Floats) -> Floats:
    """The point nearest to the median of all: a place where there is something, also of a region in two parts."""
    nearest: Floats = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
    return nearest


def _around(axis: Axes, regions: Mapping[str, Floats], examples: Sequence[Images]) -> None:
    """An example patch of each region at the edge of the panel, with a short line to where the region is."""
    steps = (np.arange(8) + 0.5) / 8
    slots = [(a, b) for a in steps for b in steps if a in steps[[0, -1]] or b in steps[[0, -1]]]
    to_axes = axis.transData + axis.transAxes.inverted()
    ends = np.array([_middle(to_axes.transform(points)) for points in regions.values()])
    lengths = ((ends[:, None] - np.array(slots)) ** 2).sum(axis=2)
    for region, slot in zip(*linear_sum_assignment(lengths), strict=True):
        (x, y), (end_x, end_y), letter = slots[slot], ends[region], list(regions)[region]
        axis.plot([x, end_x], [y, end_y], color="#555555", linewidth=0.8, transform=axis.transAxes, zorder=1)
        axis.plot(end_x, end_y, "o", color="black", markersize=4, transform=axis.transAxes, zorder=4)
        inset = axis.inset_axes((x - 0.056, y - 0.056, 0.112, 0.112), zorder=3)
        inset.imshow(examples[LETTERS.index(letter)][0])
        inset.axis("off")
        inset.text(
            0.03, 0.97, letter, fontsize=10, fontweight="bold", ha="left", va="top", transform=inset.transAxes,
            bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip


def _regions(
    held_out: _Sample,
    of_patches: Rows,
    samples: Mapping[str, _Sample],
    images: Mapping[str, str | Path],
    coverage: pd.DataFrame,
    typical: Sequence[Rows],
    examples: Sequence[Images],
    encoder: str,
) -> Image.Image:
    """A row a region: its typical patches, then, for each image set, the image nearest to each of them."""
    font, small, bold = (ImageFont.load_default(size) for size in (15, 13, 22))
    step, group, left, top, pitch = _TILE + 2, _EXAMPLES * (_TILE + 2) + 14, 96, 66, _TILE + 26
    sheet = Image.new("RGB", (left + (1 + len(samples)) * group, top + len(typical) * pitch), "white")
    pen = ImageDraw.Draw(sheet)
    heading = f"Regions of the held-out patches, and the image of each set nearest to each patch (features of {encoder})"
    pen.text((8, 8), heading, fill="black", font=font)
    pen.text((left, 36), "held-out patches", fill="black", font=font)
    for region, patches in enumerate(examples):
        y = top + region * pitch + 20
        count = int((of_patches == region).sum())
        pen.text((12, y + 6), LETTERS[region], fill="black", font=bold)
        pen.text((12, y + 34), f"{count} real", fill="#444444", font=small)
        _paste(sheet, patches, left, y, step)
    for place, (name, pixels) in enumerate(_nearest_images(held_out, samples, images, typical)):
        x = left + (1 + place) * group
        pen.text((x, 36), name, fill="black", font=font)
        part = coverage[coverage["images"] == name]
        for region, (share, missed, own) in enumerate(zip(part["coverage"], part["missed"], pixels, strict=True)):
            y = top + region * pitch
            text = f"{100 * share:.0f} % covered" + (", missed" if missed else "")
            if missed:
                pen.rectangle((x, y, x + _EXAMPLES * step - 3, y + 18), fill="black")
            pen.text((x + 4, y + 1), text, fill="white" if missed else "black", font=small)
            _paste(sheet, own, x, y + 20, step)
    return sheet


def _nearest_images(
    held_out: _Sample, samples: Mapping[str, _Sample], images: Mapping[str, str | Path], typical: Sequence[Rows]
) -> Iterator[tuple[str, list[Images]]]:
    """For each image set and region the images nearest to the region's typical patches."""
    for name, part in samples.items():
        nearest = part.rows[nearest_rows(held_out.features[np.concatenate(typical)], part.features)[0]]
        with PatchFile(images[name]) as file:
            pixels = file.take(nearest)
        yield name, np.split(pixels, np.cumsum([len(those) for those in typical])[:-1])


def _paste(sheet: Image.Image, patches: Images, x: int, y: int, step: int) -> None:
    for place, patch in enumerate(patches):
        tile = Image.fromarray(patch).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
        sheet.paste(tile, (x + place * step, y))
