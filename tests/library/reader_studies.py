"""Small reader studies: a key, patches, and sessions answered at will."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histoprompt.patches import write_patches
from histoprompt.reader_study.answers import write_answers
from histoprompt.reader_study.order import Presentation, presentation

ARMS = ("label", "morphology")
CLASSES = ("healthy", "cancer")


def make_key(*, images: int = 40, repeats: int = 4, training: int = 4, blocks: int = 4, study: str = "tiny") -> dict[str, Any]:
    """A key as `make_reader_study` writes it: half of the images are real, the others equally many of either arm."""
    generator = np.random.default_rng(7)
    entries: list[dict[str, Any]] = []
    for number in range(images + training):
        part = "main" if number < images else "training"
        synthetic = number % 2 == 1
        arm = ARMS[number // 2 % 2] if synthetic else None
        entries.append(
            {
                "image": generator.bytes(6).hex(),
                "part": part,
                "source": "synthetic" if synthetic else "real",
                "arm": arm,
                "label": number // 4 % 2,
                "cluster": number // 8 % 3,
                "file": f"samples/{arm}.h5" if synthetic else "patches/test.h5",
                "row": number,
                "block": number // 2 % blocks if part == "main" else -1,
            }
        )
    return {
        "study": study,
        "page": "0123456789abcdef",
        "seed": 5,
        "classes": list(CLASSES),
        "blocks": blocks,
        "repeats": repeats,
        "training": training,
        "images": entries,
    }


def write_key(folder: Path, key: Mapping[str, Any]) -> Path:
    """The key, and patch files that hold what it names."""
    rows = max(entry["row"] for entry in key["images"]) + 1
    for number, name in enumerate(("patches/test.h5", *(f"samples/{arm}.h5" for arm in ARMS))):
        images = np.random.default_rng(number).integers(0, 256, (rows, 8, 8, 3), np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        write_patches(folder / name, [(images, np.arange(rows) % 2, [f"{i}" for i in range(rows)])], classes=CLASSES, size=8)
    path = folder / "key.json"
    path.write_text(json.dumps(key))
    return path


Judge = Callable[[Mapping[str, Any], Presentation], dict[str, str]]


def session_rows(key: Mapping[str, Any], reader: str, judge: Judge) -> list[list[str]]:
    """The rows of a whole session; `judge` gives the fields of an answer that differ from `real`, certain, 3.25 s."""
    entries = {entry["image"]: entry for entry in key["images"]}
    rows = []
    for place in presentation(key, reader):
        if place.part == "main":
            given = {"answer": "real", "confidence": "5", "diagnosis": "", "remark": "", "seconds": "3.25"}
            given |= judge(entries[place.image], place)
            shown = (str(place.position), place.image, str(int(place.repeat)))
            rows.append([key["study"], key["page"], reader, *shown, *given.values()])
    return rows


def write_session(path: Path, key: Mapping[str, Any], reader: str, judge: Judge) -> Path:
    """A whole session as the page would write it."""
    write_answers(path, session_rows(key, reader, judge))
    return path
