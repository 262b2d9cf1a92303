"""The cluster atlas and the plot of the sweep."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histoprompt.figures import PALETTE, draw_atlas, draw_sweep
from histoprompt.patches import write_patches


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """40 patches of one grey each: cluster 0 of 24, a quarter of them cancer; cluster 1 empty; cluster 2 of 3 patches."""
    images = np.repeat(np.arange(40, dtype=np.uint8) * 5, 96 * 96 * 3).reshape(40, 96, 96, 3)
    write_patches(tmp_path / "p.h5", [(images, [0] * 40, [f"p{i}" for i in range(40)])], classes=["healthy", "cancer"], size=96)
    table = pd.DataFrame({"row": range(27), "cluster": [0] * 24 + [2] * 3, "label": ([0, 0, 0, 1] * 7)[:27]})
    table["id"] = [f"p{i}" for i in table["row"]]
    table.to_csv(tmp_path / "a.csv", index=False)
    return tmp_path


def test_an_atlas_shows_patches_of_the_row_s_cluster_at_their_native_size(study: Path) -> None:
    draw_atlas(study / "p.h5", study / "a.csv", study / "atlas.png", per_cluster=6, seed=1)
    with Image.open(study / "atlas.png") as picture:
        assert picture.info == {}
        pixels = np.array(picture)
    assert pixels.shape == (64 + 3 * 100, 300 + 6 * 100, 3)
    shown = []
    for cluster in range(3):
        for place in range(6):
            tile = pixels[64 + cluster * 100 :, 300 + place * 100 :][:96, :96]
            assert (tile == tile[0, 0]).all()
            shown.append(int(tile[0, 0, 0]))
    assert len(set(shown[:6])) == 6 and all(grey // 5 < 24 for grey in shown[:6])
    assert shown[6:12] == [255] * 6
    assert sorted(shown[12:15]) == [120, 125, 130] and shown[15:] == [255] * 3


def test_the_bar_shows_the_label_mix(study: Path) -> None:
    draw_atlas(study / "p.h5", study / "a.csv", study / "atlas.png", per_cluster=1, seed=1)
    with Image.open(study / "atlas.png") as picture:
        line = np.array(picture)[64 + 59, :300]
    shares = [(line == np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])).all(axis=1).sum() for colour in PALETTE[:2]]
    assert shares[1] / sum(shares) == pytest.approx(0.25, abs=0.01) and sum(shares) >= 230


def test_figures_are_the_same_every_time_and_follow_their_seed(study: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_atlas(study / "p.h5", study / "a.csv", study / f"{name}.png", per_cluster=6, seed=seed)
    first, again, other = ((study / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other


def test_a_sweep_with_an_unknown_value_is_drawn_the_same_every_time(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"k": [4, 6, 8], "silhouette": [0.1, None, 0.3], "davies_bouldin": [2.0, 1.0, 3.0], "s_dbw": [0.5, 0.4, 0.6]}
    )
    for name in ("a", "b"):
        draw_sweep(table, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert "Software" not in picture.info and picture.size == (720, 840)
