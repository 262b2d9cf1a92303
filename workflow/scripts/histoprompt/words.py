"""The words of prompts: classes and numbers. Imports nothing heavy: the study is checked by it before any job runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from histoprompt.errors import InputError

_LONGEST = 100  # bytes of a class's word; of file names, systems take 255

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_words(n: int) -> str:
    """An integer of 0 … 999 in words: `zero`, `thirty-two`, `one hundred twenty-three`."""
    if not 0 <= n < 1000:
        raise ValueError(f"{n} is not in 0 … 999")
    hundreds, rest = divmod(n, 100)
    tens, ones = divmod(rest, 10)
    words = _ONES[rest] if rest < 20 else _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    if not hundreds:
        return words
    return f"{_ONES[hundreds]} hundred" + (f" {words}" if rest else "")


def check_classes(where: str | Path, classes: Iterable[str]) -> None:
    """Refuse words that cannot name a folder: exported images lie in one a class, and none may lie elsewhere."""
    for word in classes:
        if re.search(r"^\.|[/\\\x00-\x1f\x7f]", word) or not 0 < len(word.encode()) <= _LONGEST:
            raise InputError(
                where,
                found=f"the class {word[:_LONGEST]!r}",
                expected=f"words of at most {_LONGEST} bytes that can name folders: no slash, no dot in front, no control sign",
                remedy="rename the class",
            )
