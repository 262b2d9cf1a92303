"""The grid of arms: the right patches in the right places, aligned by image number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histoprompt.errors import InputError
from histoprompt.grids import draw_arms
from histoprompt.patches import write_patches


def image_set(folder: Path, name: str, numbers: list[int], grey: int) -> tuple[Path, Path]:
    """Patches whose red channel tells the number, whose other channels tell the set."""
    x = np.full((len(numbers), 16, 16, 3), grey, np.uint8)
    x[..., 0] = np.array(numbers)[:, None, None]
    labels = np.array(numbers) % 2
    write_patches(folder / f"{name}.h5", [(x, labels, [f"{name}{n}" for n in numbers])], classes=["healthy", "cancer"], size=16)
    pd.DataFrame({"number": numbers, "label": labels, "cluster": 0}).to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.h5", folder / f"{name}.csv"


def draw(folder: Path, sets: dict[str, tuple[list[int], int]], columns: int) -> np.ndarray:
    made = {name: image_set(folder, name, *content) for name, content in sets.items()}
    draw_arms(
        {n: m[0] for n, m in made.items()}, {n: m[1] for n, m in made.items()}, folder / "arms.png", titles={}, columns=columns
    )
    return np.asarray(Image.open(folder / "arms.png"))


def test_columns_show_one_number_in_every_arm_at_native_size(tmp_path: Path) -> None:
    page = draw(tmp_path, {"real": ([0, 1, 2, 3, 4, 5], 77), "label": ([5, 4, 3, 1, 0], 99)}, columns=2)
    for grey, rows in ((77, ([0, 4], [1, 3])), (99, ([0, 4], [1, 3]))):
        place = (page[..., 1] == grey) & (page[..., 2] == grey) & (page[..., 0] != grey)
        top, left = np.argwhere(place).min(axis=0)
        for r, numbers in enumerate(rows):  # number 2 is not in `label`, so no column shows it
            for c, number in enumerate(numbers):
                patch = page[top + 18 * r : top + 18 * r + 16, left + 18 * c : left + 18 * c + 16]
                assert (patch == [number, grey, grey]).all()
        assert place.sum() == 4 * 16 * 16


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    sets = {"real": ([0, 1, 2, 3], 77)}
    first = draw(tmp_path, sets, columns=8)
    before = (tmp_path / "arms.png").read_bytes()
    assert np.array_equal(draw(tmp_path, sets, columns=8), first)
    assert (tmp_path / "arms.png").read_bytes() == before


def test_sets_that_share_no_image_of_a_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        draw(tmp_path, {"real": ([0, 1, 2], 7), "label": ([0, 2, 3], 9)}, columns=2)
    assert all(part in str(caught.value) for part in ("real.csv", "label.csv", "no image number of class cancer"))


def test_a_table_of_another_length_is_refused(tmp_path: Path) -> None:
    images, _ = image_set(tmp_path, "real", [0, 1, 2], 7)
    _, other = image_set(tmp_path, "other", [0, 1], 7)
    with pytest.raises(InputError, match=r"2 rows[\s\S]*3 images"):
        draw_arms({"real": images}, {"real": other}, tmp_path / "arms.png", titles={}, columns=2)
