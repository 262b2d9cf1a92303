"""Numbers in words. Imports nothing heavy: the study's check of its prompts uses it before any job runs."""

from __future__ import annotations

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
