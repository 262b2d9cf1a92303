"""Simulated readers, whose answers are known in truth: they show that the analysis finds what was put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from histoprompt.reader_study.answers import STEPS, read_key, write_answers
from histoprompt.reader_study.kinds import kind_of
from histoprompt.reader_study.order import presentation
from histoprompt.subset import keyed_generator

DIAGNOSIS = {"real": 0.9, "synthetic": 0.8}  # share of diagnoses that are right
_LASTING = 0.5  # share of the evidence's variance that is there again when an image is shown again
_STEP = 0.35  # of evidence, between two steps of confidence


def put_in(reader: str) -> tuple[float, float]:
    """Sensitivity and specificity that a simulated reader has on average over a session."""
    kind = kind_of(reader)
    sight = np.linspace(kind.sight, kind.late_sight, 1000)
    return float(ndtr(sight / 2 + kind.bias).mean()), float(ndtr(sight / 2 - kind.bias).mean())


def simulate_readers(key_json: str | Path, answers: Mapping[str, str | Path], *, seed: int, diagnosis: bool) -> None:
    """Write the answers of simulated readers as the page would.

    Parameters
    ----------
    key_json : of the study.
    answers : written: reader code, as `simulated_readers` makes them, -> CSV file.
    seed : of everything they do.
    diagnosis : they also name the class.
    """
    key = read_key(key_json)
    for reader, path in answers.items():
        write_answers(path, _session(key, reader, seed, diagnosis))


def _session(key: Mapping[str, Any], reader: str, seed: int, diagnosis: bool) -> list[Sequence[str]]:
    kind, generator = kind_of(reader), keyed_generator(seed, f"reader {reader}")
    entries = {entry["image"]: entry for entry in key["images"]}
    shown = [place for place in presentation(key, reader) if place.part == "main"]
    first = sum(not place.repeat for place in shown)
    lasting = {image: generator.normal() for image in entries}
    rows: list[Sequence[str]] = []
    for number, place in enumerate(shown):
        entry = entries[place.image]
        progress = min(number / max(first - 1, 1), 1.0)
        sight = kind.sight + (kind.late_sight - kind.sight) * progress
        side = sight / 2 if entry["source"] == "synthetic" else -sight / 2
        noise = np.sqrt(_LASTING) * lasting[place.image] + np.sqrt(1 - _LASTING) * generator.normal()
        evidence = side + kind.bias + noise
        right = generator.random() < DIAGNOSIS[entry["source"]]
        others = [word for label, word in enumerate(key["classes"]) if label != entry["label"]]
        word = key["classes"][entry["label"]] if right else others[int(generator.integers(len(others)))]
        rows.append(
            (
                *(str(key["study"]), key["page"], reader, str(place.position), place.image, str(int(place.repeat))),
                "synthetic" if evidence > 0 else "real",
                str(min(1 + int(abs(evidence) / _STEP), STEPS)),
                word if diagnosis else "",
                "",
                f"{6 * np.exp(0.4 * generator.normal()):.1f}",
            )
        )
    return rows
