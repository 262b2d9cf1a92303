"""The page of a reader study, and its sealed key."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, write_csv, write_json
from histoprompt.metrics import load_features, nearest_centroid
from histoprompt.pages import assemble, json_in_html, text_of
from histoprompt.patches import Images, Labels, PatchFile
from histoprompt.reader_study.shares import check_shares
from histoprompt.sources import ImageSource, ImageTable
from histoprompt.subset import keyed_generator

PAGE = Path(__file__).with_name("page")
_SCRIPTS = ("order.js", "answers.js", "session.js", "viewer.js", "page.js")
_AGAIN = "delete it and run the same command again"


@dataclass(frozen=True)
class Cell:
    """Images of one kind: of one label, real (`arm` is None) or an arm's."""

    arm: str | None
    label: int


@dataclass(frozen=True)
class Pool:
    """Where the images of a source come from.

    Attributes
    ----------
    path : the patch file, named in messages.
    file : its name in the key.
    rows : of the file, that may be shown.
    labels, clusters : of the rows.
    read : the pixels of a row, uint8 (side, side, 3).
    """

    path: Path
    file: str
    rows: npt.NDArray[np.int64]
    labels: Labels
    clusters: npt.NDArray[np.int64]
    read: Callable[[int], Images]


@dataclass(frozen=True)
class Drawn:
    """An image that was drawn for the study."""

    token: str
    pixels: Images
    entry: dict[str, Any]


def count_cells(
    arms: Sequence[str], classes: int, *, images: int, training: int, generator: np.random.Generator
) -> dict[Cell, tuple[int, int]]:
    """How many images of each kind the main part and the training round show.

    The main part has equal numbers: half of it real, that half shared by the labels; the other half by arms and labels. The
    training round, which has fewer images than there may be kinds, is half real, and as even as it can be beyond.

    Parameters
    ----------
    images : of the main part, a multiple of 2 * arms * classes.
    training : of the training round, even.
    """
    counts: dict[Cell, tuple[int, int]] = {}
    for of in ([None], list(arms)):
        cells = [Cell(arm, label) for label in range(classes) for arm in of]
        # Arms and labels take turns, so that even two images differ in both.
        order = generator.permutation(len(of))
        period = int(np.lcm(len(of), classes))
        turns = [Cell(of[order[(i + i // period) % len(of)]], i % classes) for i in range(len(cells))]
        first = Counter((turns * training)[: training // 2])
        counts |= {cell: (images // 2 // len(cells), first[cell]) for cell in cells}
    return counts


def deal(cells: Sequence[Sequence[Drawn]], blocks: int) -> list[list[Drawn]]:
    """Share out the images of one source among blocks: of every cell each block gets equally many, give or take one."""
    every = [image for cell in cells for image in cell]
    return [every[block::blocks] for block in range(blocks)]


def check_reader_study(
    test_h5: str | Path,
    clusters_csv: str | Path,
    needed_csv: str | Path,
    *,
    seed: int,
    arms: Sequence[str],
    images: int,
    blocks: int,
    training: int,
) -> None:
    """Say how many test patches of each class the study will show, once it is known how many there are, before any training.

    Parameters
    ----------
    needed_csv : written: `label,class,needed,there`.
    test_h5, clusters_csv, seed, arms, images, blocks, training : as `make_reader_study`.

    Raises
    ------
    InputError : there are fewer than needed, or the numbers do not share out.
    """
    generator = keyed_generator(seed, "reader study")
    with PatchFile(test_h5) as test:
        classes = list(test.classes)
        check_shares("config key `reader_study.images`", images, arms=len(arms), classes=len(classes), blocks=blocks)
        pool = _real(test, clusters_csv)
    counts = count_cells(arms, len(classes), images=images, training=training, generator=generator)
    rows = []
    for label, word in enumerate(classes):
        needed, there = sum(counts[Cell(None, label)]), int((pool.labels == label).sum())
        if there < needed:
            raise _too_few(pool, Cell(None, label), there, needed)
        rows.append({"label": label, "class": word, "needed": needed, "there": there})
    write_csv(needed_csv, pd.DataFrame(rows))


def make_reader_study(
    test_h5: str | Path,
    clusters_csv: str | Path,
    centroids_npy: str | Path,
    samples_h5: Sequence[str | Path],
    samples_csv: Sequence[str | Path],
    features_npy: Sequence[str | Path],
    page_html: str | Path,
    key_json: str | Path,
    *,
    study: str,
    seed: int,
    arms: Sequence[str],
    images: int,
    blocks: int,
    repeats: int,
    training: int,
    display: str,
    size: int,
    diagnosis: bool,
) -> None:
    """Draw the images of a reader study, and write the page that shows them and the key that knows them.

    Real images come from the test split, which no generator has seen, and only from patches that passed the outlier filter:
    the generators learnt from such patches alone, so that a blank or blurred one would give itself away as real. No image is
    drawn twice, and no two of the same pixels. Of the arms' images no number is drawn twice: image n begins from the same
    noise in every arm, and two alike would give themselves away as synthetic.

    Everything in the page but the pixels says nothing of an image: pixels are uncompressed, an image's name is a keyed digest
    of its pixels, and images are sorted by it. The answers of the training round are there, and those images never recur.

    Parameters
    ----------
    test_h5, clusters_csv, centroids_npy : the test split, the clusters of its kept patches, and the centroids.
    samples_h5, samples_csv, features_npy : of each arm: its images at the patch size, their table, and their features in the
        space of the centroids. A synthetic image's cluster is that of its nearest centroid, as a real one's is.
    page_html : written: one self-contained page.
    key_json : written: what each image is.
    arms : their names.
    images, blocks, repeats, training : counts; `images` is a multiple of 2 * arms * classes and of 2 * blocks.
    display : `matched` shows every image at the patch size; `native` shows synthetic ones at the generator's own size.
    size : pixels on the screen.
    diagnosis : ask for the class too.

    Raises
    ------
    InputError : there are fewer images of a kind than the study shows, the numbers do not share out, or files do not belong
        together.
    """
    generator = keyed_generator(seed, "reader study")
    with PatchFile(test_h5) as test:
        classes = list(test.classes)
        check_shares("config key `reader_study.images`", images, arms=len(arms), classes=len(classes), blocks=blocks)
        centroids = load_features(centroids_npy)
        counts = count_cells(arms, len(classes), images=images, training=training, generator=generator)
        pools: dict[str | None, Pool] = {None: _real(test, clusters_csv)}
        files = [PatchFile(path) for path in samples_h5]
        try:
            for arm, file, table, features in zip(arms, files, samples_csv, features_npy, strict=True):
                pools[arm] = _synthetic(file, table, features, centroids, arm=arm, native=display == "native")
            drawn = _draw(pools, counts, seed=seed, generator=generator)
        finally:
            for file in files:
                file.close()

    entries, ordered = _arrange(drawn, counts, blocks)
    shown = {
        "study": study,
        "classes": classes,
        "diagnosis": diagnosis,
        "size": size,
        "display": display,
        "training": [
            {"image": entry["image"], "source": entry["source"], "label": entry["label"]}
            for entry in entries
            if entry["part"] == "training"
        ],
        "blocks": [[e["image"] for e in entries if e["block"] == block] for block in range(blocks)],
        "repeats": repeats,
        "images": [[image.token, len(image.pixels)] for image in ordered],
    }
    page, content = assemble_page(shown, b"".join(image.pixels.tobytes() for image in ordered))
    with atomic(page_html) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")
    sealed = {"study": study, "page": page, "seed": seed, "classes": classes, "blocks": blocks, "repeats": repeats}
    write_json(key_json, sealed | {"training": training, "images": entries})


def assemble_page(shown: Mapping[str, Any], pixels: bytes) -> tuple[str, str]:
    """The page's identifier, 16 hexadecimal digits that change with anything it shows, and its HTML.

    Parameters
    ----------
    shown : what the page's program reads: names, numbers, order, nothing of the answers to be given.
    pixels : of all images, in the order of `shown["images"]`: rows of red, green and blue bytes.
    """
    text = text_of(PAGE)
    digest = hashlib.sha256(json.dumps([shown, text], sort_keys=True).encode())
    digest.update(pixels)
    page = digest.hexdigest()[:16]
    content = assemble(
        PAGE,
        _SCRIPTS,
        title=text["title"],
        images="data: blob:",
        study=json_in_html({"page": page, **shown}),
        pixels=base64.b64encode(pixels).decode(),
    )
    return page, content


def _real(test: PatchFile, clusters_csv: str | Path) -> Pool:
    table = read_csv(clusters_csv, ("row", "label", "cluster"))
    rows, labels = table["row"].to_numpy(np.int64), table["label"].to_numpy(np.int64)
    if rows.max(initial=-1) >= len(test) or (test.labels[rows] != labels).any():
        raise InputError(
            clusters_csv, found=f"rows or labels that are not those of {test.path}", expected="its kept patches", remedy=_AGAIN
        )
    return Pool(test.path, "patches/test.h5", rows, labels, table["cluster"].to_numpy(np.int64), _reader_of(test))


def _synthetic(
    file: PatchFile,
    table_csv: str | Path,
    features_npy: str | Path,
    centroids: npt.NDArray[np.floating[Any]],
    *,
    arm: str,
    native: bool,
) -> Pool:
    table, features = read_csv(table_csv, ("label", "file", "sha256")), load_features(features_npy)
    for path, length in ((table_csv, len(table)), (features_npy, len(features))):
        if length != len(file):
            raise InputError(path, found=f"{length} rows", expected=f"{len(file)}, as {file.path} has images", remedy=_AGAIN)
    return Pool(
        file.path,
        f"samples/{arm}.h5",
        np.arange(len(file)),
        file.labels,
        nearest_centroid(features, centroids),
        _reader_of(ImageTable(table_csv, file.classes) if native else file),
    )


def _reader_of(images: ImageSource) -> Callable[[int], Images]:
    def read(row: int) -> Images:
        return cast(Images, images.read(row, row + 1)[0])

    return read


def _draw(
    pools: Mapping[str | None, Pool],
    counts: Mapping[Cell, tuple[int, int]],
    *,
    seed: int,
    generator: np.random.Generator,
) -> dict[Cell, list[Drawn]]:
    """As many images of each cell as it needs, all different."""
    tokens: set[str] = set()
    numbers: set[int] = set()
    drawn: dict[Cell, list[Drawn]] = {}
    for cell, needed in counts.items():
        pool = pools[cell.arm]
        found: list[Drawn] = []
        own = np.flatnonzero(pool.labels == cell.label)
        for at in generator.permutation(own):
            row = int(pool.rows[at])
            if len(found) == sum(needed):
                break
            if cell.arm is not None and row in numbers:
                continue
            pixels = pool.read(row)
            token = hashlib.blake2b(pixels.tobytes(), digest_size=6, key=str(seed).encode()).hexdigest()
            if token in tokens:
                continue
            tokens.add(token)
            if cell.arm is not None:
                numbers.add(row)
            entry = {
                "image": token,
                "part": "main",
                "source": "real" if cell.arm is None else "synthetic",
                "arm": cell.arm,
                "label": cell.label,
                "cluster": int(pool.clusters[at]),
                "file": pool.file,
                "row": row,
                "block": -1,
            }
            found.append(Drawn(token, pixels, entry))
        if len(found) < sum(needed):
            raise _too_few(pool, cell, len(found), sum(needed))
        drawn[cell] = found
    return drawn


def _too_few(pool: Pool, cell: Cell, found: int, needed: int) -> InputError:
    return InputError(
        pool.path,
        found=f"{found} different images of label {cell.label}"
        + (" that passed the outlier filter" if cell.arm is None else " whose numbers no other arm's images have"),
        expected=f"at least {needed}, for `reader_study.images` and `reader_study.training`",
        remedy="show fewer images, or "
        + ("give more test patches" if cell.arm is None else "raise `generator.sampling.images`"),
    )


def _arrange(
    drawn: Mapping[Cell, Sequence[Drawn]], counts: Mapping[Cell, tuple[int, int]], blocks: int
) -> tuple[list[dict[str, Any]], list[Drawn]]:
    """The key's entries, by part, block and token; and all images by their token, the order of the page's pixels."""
    trained = [image for cell, images in drawn.items() for image in images[: counts[cell][1]]]
    entries = [image.entry | {"part": "training"} for image in trained]
    for real in (True, False):
        cells = [images[counts[cell][1] :] for cell, images in drawn.items() if (cell.arm is None) == real]
        for block, dealt in enumerate(deal(cells, blocks)):
            entries += [image.entry | {"block": block} for image in dealt]
    entries.sort(key=lambda entry: (entry["part"] == "main", entry["block"], entry["image"]))
    return entries, sorted((image for images in drawn.values() for image in images), key=lambda image: image.token)
