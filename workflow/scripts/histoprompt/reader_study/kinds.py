"""Kinds of simulated readers."""

from __future__ import annotations

from dataclasses import dataclass

from histoprompt.reader_study.answers import SIMULATED


@dataclass(frozen=True)
class Kind:
    """How a simulated reader judges: by signal detection, with evidence of unit variance.

    Attributes
    ----------
    sight : distance of the evidence for synthetic images from that for real ones, at the session's start (d').
    late_sight : the same at its end.
    bias : how far the reader leans to `synthetic`, in the evidence's units.
    words : what the reader is, for tables.
    """

    sight: float
    late_sight: float
    bias: float
    words: str


KINDS = {
    "guessing": Kind(0, 0, 0, "sees no difference"),
    "sharp": Kind(2.5, 2.5, 0, "sees a difference of 2.5 standard deviations"),
    "biased": Kind(0, 0, 1, "sees no difference, and takes most images for synthetic"),
    "tired": Kind(2.5, 0, 0, "begins as the sharp one and ends as the guessing one"),
}


def simulated_readers(each: int) -> list[str]:
    """Codes of simulated readers, `each` of every kind."""
    return [f"{SIMULATED}{kind}-{number}" for kind in KINDS for number in range(1, each + 1)]


def kind_of(reader: str) -> Kind:
    """The kind of a simulated reader, by the code."""
    return KINDS[reader.removeprefix(SIMULATED).rpartition("-")[0]]
