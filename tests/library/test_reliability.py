"""The table and the figure of calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histoprompt.reliability import draw_reliability
from histoprompt.scores import score


def report(folder: Path, mix: str, classes: int, sharpness: float) -> Path:
    generator = np.random.default_rng(len(mix))
    labels = np.arange(300) % classes
    logits = generator.normal(0, 1, (2, 300, classes)) + np.eye(classes)[labels]
    p = np.exp(sharpness * logits)
    words = ["healthy", "cancer", "other"][:classes]
    content = {"mix": mix, **score(p / p.sum(2, keepdims=True), labels, [1, 2]), "seeds": [1, 2]}
    path = folder / f"{mix}.json"
    path.write_text(json.dumps(content | {"test": {"images": 300, "by_class": dict.fromkeys(words, 100)}}))
    return path


@pytest.mark.parametrize("classes", [2, 3])
def test_every_mix_is_in_the_table_and_drawn(tmp_path: Path, classes: int) -> None:
    arms = ["one", "two", "three", "four", "five"]
    mixes = ["real", *(mix for arm in arms for mix in (arm, f"real+{arm}"))]
    files = [report(tmp_path, mix, classes, 1 + (mix in arms)) for mix in mixes]
    outputs = [(tmp_path / f"{n}.csv", tmp_path / f"{n}.png") for n in range(2)]
    for table_csv, figure_png in outputs:
        draw_reliability(files, table_csv, figure_png, titles={"one": "one: untuned"})
    table = pd.read_csv(outputs[0][0])
    assert table["mix"].tolist() == mixes and table["seeds"].eq(2).all()
    assert table["calibration_error"].tolist() == [json.loads(file.read_text())["calibration_error"] for file in files]
    width, height = Image.open(outputs[0][1]).size
    assert width > 1400 and height > 800  # four panels and a second row
    assert outputs[0][1].read_bytes() == outputs[1][1].read_bytes()
