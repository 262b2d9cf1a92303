"""The order in which a reader sees the images: the page computes it by `page/order.js`, the analysis by this module, alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_WORD = 2**32 - 1


@dataclass(frozen=True)
class Presentation:
    """One showing of one image.

    Attributes
    ----------
    position : 1, 2, … within the training round, and again within the main part and its repeats.
    image : the image's token.
    repeat : it has been shown before.
    part : `training` or `main`.
    """

    position: int
    image: str
    repeat: bool
    part: str


def fnv1a(text: str) -> int:
    """FNV-1a, 32 bit, of a text's UTF-8 bytes (Fowler, Noll and Vo)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & _WORD
    return value


def mulberry32(seed: int) -> Callable[[], int]:
    """A generator of 32-bit integers that is the same in every language (T. Ettinger's mulberry32)."""
    state = seed

    def draw() -> int:
        nonlocal state
        state = state + 0x6D2B79F5 & _WORD
        mixed = (state ^ state >> 15) * (state | 1) & _WORD
        mixed ^= mixed + ((mixed ^ mixed >> 7) * (mixed | 61) & _WORD) & _WORD
        return mixed ^ mixed >> 14

    return draw


def shuffled(items: list[T], draw: Callable[[], int]) -> list[T]:
    """The items in a random order, by Fisher and Yates from the last place down."""
    items = list(items)
    for last in range(len(items) - 1, 0, -1):
        other = draw() * (last + 1) >> 32
        items[last], items[other] = items[other], items[last]
    return items


def presentation(key: Mapping[str, Any], reader: str) -> list[Presentation]:
    """What a reader sees, in order.

    The training images come first, in the key's order. Blocks follow in an order of the reader's own, each shuffled; then
    repeats. They are drawn from the first half of what the reader has seen (or from more, where more are asked for), so that
    at least half a study lies between two showings and nobody answers from memory.

    Parameters
    ----------
    key : of the study, as `make_reader_study` writes it: `page`, `blocks`, `repeats` and the `images` with part and block.
    reader : the code; upper case and spaces around it do not count.
    """
    images = key["images"]
    draw = mulberry32(fnv1a(f"{key['page']}:{reader.strip().lower()}"))
    blocks = [
        sorted(entry["image"] for entry in images if entry["part"] == "main" and entry["block"] == block)
        for block in range(key["blocks"])
    ]
    main = [image for block in shuffled(blocks, draw) for image in shuffled(block, draw)]
    seen_early = main[: max(key["repeats"], len(main) // 2)]
    repeats = shuffled(seen_early, draw)[: key["repeats"]]
    training = [entry["image"] for entry in images if entry["part"] == "training"]
    return [
        *(Presentation(i, image, False, "training") for i, image in enumerate(training, start=1)),
        *(Presentation(i, image, i > len(main), "main") for i, image in enumerate([*main, *repeats], start=1)),
    ]
