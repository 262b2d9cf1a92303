"""Numbered patches, each drawn from its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histoprompt.errors import InputError
from histoprompt.files import write_csv
from histoprompt.job import progress
from histoprompt.patches import SPLITS, write_patches
from histoprompt.phantom.canvas import Canvas
from histoprompt.phantom.morphologies import DRAWINGS, MORPHOLOGIES
from histoprompt.phantom.stains import Slide, draw_slide, scan
from histoprompt.phantom.textures import Bank, build_bank

DOMAINS = {"study": 0x73747564, "foundation": 0x666F756E}  # entropy words: the two never share a slide, patch or texture
SLIDE, PATCH = 0x736C6964, 0x70617463
SIZES = (48, 256)


@dataclass(frozen=True)
class PhantomBatch:
    """Consecutive patches and their truth.

    Attributes
    ----------
    images : uint8 (n, S, S, 3), about 1 µm a pixel.
    labels : (n,), 1 where tumour lies in the central third of both sides (PCam's rule: 32 of 96 pixels).
    morphology : (n,) indices into `MORPHOLOGIES`.
    slide : (n,) the slides' numbers within the split.
    stain : n names of `STAIN_NAMES`.
    tumour : bool (n, S, S), where tumour is.
    start : the first patch's number.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    morphology: NDArray[np.int64]
    slide: NDArray[np.int64]
    stain: list[str]
    tumour: NDArray[np.bool_]
    start: int


def phantom_batches(
    count: int,
    *,
    domain: Literal["study", "foundation"],
    split: str,
    slides: int,
    seed: int,
    size: int = 96,
    start: int = 0,
    batch: int = 64,
) -> Iterator[PhantomBatch]:
    """Yield patches `start` to `start + count - 1` of a split, `batch` at a time.

    Patch i depends on (domain, seed, split, slides, size, i) alone. Raises `InputError` on settings that cannot be drawn, when
    the first batch is asked for.
    """
    _check(count, domain=domain, split=split, slides=slides, seed=seed, size=size, start=start, batch=batch)
    bank = build_bank(DOMAINS[domain])
    words = [DOMAINS[domain], seed, SPLITS.index(split)]
    glass = [draw_slide(number, _generator(SLIDE, *words, number)) for number in range(slides)]
    for first in range(start, start + count, batch):
        numbers = range(first, min(first + batch, start + count))
        yield _draw_batch([_generator(PATCH, *words, number) for number in numbers], glass, bank, size, first)


def make_phantom(
    patches_h5: str | Path,
    table_csv: str | Path,
    *,
    split: str,
    patches: int,
    slides: int,
    seed: int,
    patch_size: int,
    classes: Sequence[str],
) -> None:
    """Write one split of a study's phantom: patches in PCam's layout, and the table `id,label,slide,morphology,stain`."""
    if len(classes) != 2:
        raise InputError(
            "config: data.classes",
            found=f"{len(classes)} classes {list(classes)}",
            expected="two, the words for tissue without and with tumour",
            remedy="give two words, such as [healthy, cancer]",
        )
    _check(patches, domain="study", split=split, slides=slides, seed=seed, size=patch_size, start=0, batch=64)
    rows: list[dict[str, str | int]] = []

    def chunks() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]]:
        drawn = phantom_batches(patches, domain="study", split=split, slides=slides, seed=seed, size=patch_size)
        for part in progress(drawn, f"phantom {split}", total=-(-patches // 64), unit="batch"):
            ids = [f"phantom-{seed}-{split}-{part.start + k:06d}" for k in range(len(part.labels))]
            kinds = [MORPHOLOGIES[k] for k in part.morphology]
            names = [f"{split}-{number:02d}" for number in part.slide]
            for name, label, slide, kind, stain in zip(ids, part.labels.tolist(), names, kinds, part.stain, strict=True):
                rows.append({"id": name, "label": label, "slide": slide, "morphology": kind, "stain": stain})
            yield part.images, part.labels, ids

    write_patches(patches_h5, chunks(), classes=classes, size=patch_size)
    write_csv(table_csv, pd.DataFrame(rows, columns=["id", "label", "slide", "morphology", "stain"]))


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _draw_batch(generators: list[np.random.Generator], glass: list[Slide], bank: Bank, size: int, first: int) -> PhantomBatch:
    count = len(generators)
    images = np.empty((count, size, size, 3), np.uint8)
    tumour = np.empty((count, size, size), np.bool_)
    kinds, slide = np.empty(count, np.int64), np.empty(count, np.int64)
    edges = np.cumsum([weight for _, weight in DRAWINGS.values()])
    drawings = [drawing for drawing, _ in DRAWINGS.values()]
    for row, rng in enumerate(generators):
        slide[row] = rng.integers(len(glass))
        kinds[row] = min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(drawings) - 1)
        canvas = Canvas(bank, rng, size)
        truth = drawings[kinds[row]](canvas)
        canvas.pigments *= 1 + 0.13 * canvas.field("fine")  # no tissue is smooth
        canvas.pigments *= rng.uniform(0.9, 1.1, (3, 1, 1)).astype(np.float32)  # the section's thickness varies
        image = scan(np.clip(canvas.pigments, 0, 5), glass[slide[row]], canvas.field("grain"))
        images[row], tumour[row] = _turn(image, truth, int(rng.integers(8)))
    third = size // 3
    labels = np.asarray(tumour[:, third : size - third, third : size - third].any(axis=(1, 2)))
    return PhantomBatch(images, labels.astype(np.int64), kinds, slide, [glass[k].stain for k in slide], tumour, first)


def _turn(image: NDArray[np.uint8], truth: NDArray[np.bool_], how: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One of the eight symmetries of the square: tissue has no up."""
    image, truth = np.rot90(image, how % 4), np.rot90(truth, how % 4)
    return (image[:, ::-1], truth[:, ::-1]) if how >= 4 else (image, truth)


def _check(count: int, *, domain: str, split: str, slides: int, seed: int, size: int, start: int, batch: int) -> None:
    low, high = SIZES
    checks = [
        (domain in DOMAINS, "domain", domain, f"one of {list(DOMAINS)}"),
        (split in SPLITS, "split", split, f"one of {list(SPLITS)}"),
        (count >= 1, "patches", count, "at least 1"),
        (slides >= 1, "slides", slides, "at least 1"),
        (seed >= 0, "seed", seed, "0 or more"),
        (low <= size <= high, "patch_size", size, f"{low} to {high} pixels"),
        (start >= 0, "start", start, "0 or more"),
        (batch >= 1, "batch", batch, "at least 1"),
    ]
    for valid, name, found, expected in checks:
        if not valid:
            raise InputError(
                f"phantom: {name}", found=str(found), expected=expected, remedy=f"correct {name} in the study's configuration"
            )
