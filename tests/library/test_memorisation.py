"""Copies are found where there are some, and not where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from tiny import write_patch_file

import histoprompt.metrics as metrics
from histoprompt.errors import InputError
from histoprompt.files import read_json
from histoprompt.memorisation import authentic, find_copies, nearest_rows


def points(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_nearest_rows_are_those_of_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 8 * 90 * 7)  # blocks of 7 rows
    a, b = points(50, 0), points(90, 1)
    expected = cKDTree(b.astype(np.float64)).query(a.astype(np.float64))
    rows, distances = nearest_rows(a, b)
    assert np.array_equal(rows, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-6)
    second = cKDTree(b.astype(np.float64)).query(b.astype(np.float64), k=2)
    rows, distances = nearest_rows(b, b, but_itself=True)
    assert np.array_equal(rows, second[1][:, 1])
    np.testing.assert_allclose(distances, second[0][:, 1], rtol=1e-6)


def test_what_lies_within_its_neighbours_reach_is_not_authentic() -> None:
    train = np.array([[0.0], [1.0], [5.0]])
    own = nearest_rows(train, train, but_itself=True)[1]
    rows, distances = nearest_rows(np.array([[0.4], [2.5], [8.9], [9.1]]), train)
    assert own.tolist() == [1, 1, 4]
    assert authentic(rows, distances, own).tolist() == [False, True, False, True]


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """Twenty of 200 images repeat a training image, almost; arguments of `find_copies`."""
    train, test = points(300, 0), points(400, 1)
    subset = np.arange(0, 300, 2)
    images = points(200, 2)
    images[:20] = train[subset[30:50]] + 1e-3
    for name, features in (("train", train), ("test", test), ("images", images)):
        np.save(tmp_path / f"{name}.npy", features)
    pd.DataFrame({"number": np.arange(200) + 1000}).to_csv(tmp_path / "images.csv", index=False)
    pd.DataFrame({"row": subset}).to_csv(tmp_path / "subset.csv", index=False)
    pd.DataFrame({"kept": np.arange(400) % 10 > 0}).to_csv(tmp_path / "kept.csv", index=False)
    return {
        "features_npy": tmp_path / "images.npy",
        "images_csv": tmp_path / "images.csv",
        "images_h5": write_patch_file(tmp_path / "images.h5", 200, 16, 1),
        "train_npy": tmp_path / "train.npy",
        "subset_csv": tmp_path / "subset.csv",
        "train_h5": write_patch_file(tmp_path / "train.h5", 300, 16),
        "held_out_npy": tmp_path / "test.npy",
        "held_out_kept_csv": tmp_path / "kept.csv",
        "report_json": tmp_path / "copies.json",
        "nearest_csv": tmp_path / "copies.csv",
        "pairs_png": tmp_path / "pairs.png",
        "name": "arm",
        "encoder": "dino",
        "pairs": 5,
    }


def test_copies_are_found_and_named(study: dict[str, Any]) -> None:
    find_copies(**study)
    report = read_json(study["report_json"])
    assert (report["images"], report["train"], report["held_out"]) == (200, 150, 360)
    assert 0.1 <= report["near_copies"]["value"] <= 0.13
    assert report["near_copies"]["low"] <= 0.1 and report["near_copies"]["high"] >= 0.1
    train, held_out = (np.load(study[name]).astype(np.float64) for name in ("train_npy", "held_out_npy"))
    expected = np.median(cKDTree(train[::2]).query(held_out[np.arange(400) % 10 > 0])[0])
    assert report["median_distance_held_out"] == pytest.approx(expected, rel=1e-6)
    assert report["authentic"]["value"] < report["authentic_held_out"]["value"]
    closest = {pair["number"]: pair["train_row"] for pair in report["closest"]}
    assert len(closest) == 5 and all(row == 2 * (number - 1000 + 30) for number, row in closest.items())
    assert Image.open(study["pairs_png"]).size == (84 + 5 * 76 + 4, 46 + 2 * 76 + 4)


def test_every_image_has_its_nearest_training_patch(study: dict[str, Any]) -> None:
    find_copies(**study)
    table, report = pd.read_csv(study["nearest_csv"]), read_json(study["report_json"])
    assert list(table) == ["number", "train_row", "distance", "held_out_nearer"]
    train, images, held_out = (np.load(study[n]).astype(float) for n in ("train_npy", "features_npy", "held_out_npy"))
    tree = cKDTree(train[::2])
    distances, rows = tree.query(images)
    assert table["number"].tolist() == list(range(1000, 1200)) and table["train_row"].tolist() == (2 * rows).tolist()
    np.testing.assert_allclose(table["distance"], distances, rtol=1e-6)
    of_held_out = tree.query(held_out[np.arange(400) % 10 > 0])[0]
    assert table["held_out_nearer"].tolist() == [round((of_held_out < d).mean(), 6) for d in table["distance"]]
    assert (table["held_out_nearer"][:20] == 0).all()
    assert (table["distance"] < report["near_distance"]).mean() == report["near_copies"]["value"]
    closest = table.sort_values("distance", kind="stable").head(5)
    assert closest["number"].tolist() == [pair["number"] for pair in report["closest"]]


def test_fresh_images_are_as_near_as_held_out_ones(study: dict[str, Any]) -> None:
    values = []
    for seed in range(10, 30):
        np.save(study["features_npy"], points(200, seed))
        find_copies(**study)
        values.append(read_json(study["report_json"])["near_copies"]["value"])
    assert np.mean(values) == pytest.approx(0.01, abs=0.006)


def test_what_does_not_belong_together_is_refused(study: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", points(199, 0))
    with pytest.raises(InputError, match=r"(?s)short\.npy.*199 images.*200, as .*images\.csv"):
        find_copies(**study | {"features_npy": tmp_path / "short.npy"})
    pd.DataFrame({"row": [3, 300]}).to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)features of 300 images.*301"):
        find_copies(**study | {"subset_csv": tmp_path / "far.csv"})
    pd.DataFrame({"row": [3]}).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)one\.csv.*1 patches.*at least 2.*`subset\.train`"):
        find_copies(**study | {"subset_csv": tmp_path / "one.csv"})
    pd.DataFrame({"kept": [False] * 400}).to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)none\.csv.*0 patches.*`outliers`"):
        find_copies(**study | {"held_out_kept_csv": tmp_path / "none.csv"})
    for key, rows, at_fault in (("features_npy", 200, "images"), ("held_out_npy", 400, "test")):
        wide = tmp_path / f"wide.{at_fault}.npy"
        np.save(wide, points(rows, 0, 7))
        with pytest.raises(InputError, match=rf"(?s)wide\.{at_fault}\.npy.*width 7, but .*train\.npy of width 6"):
            find_copies(**study | {key: wide})
    few = write_patch_file(tmp_path / "few.h5", 3, 16)
    for key, text in (("images_h5", "200 images.*3, as .*few"), ("train_h5", "300 images.*3, as .*few")):
        with pytest.raises(InputError, match=f"(?s){text}"):
            find_copies(**study | {key: few})
    assert not study["report_json"].exists()


def test_what_cannot_be_told_says_why(study: dict[str, Any], tmp_path: Path) -> None:
    pd.DataFrame({"kept": np.arange(400) < 99}).to_csv(tmp_path / "few.csv", index=False)
    find_copies(**study | {"held_out_kept_csv": tmp_path / "few.csv"})
    report = read_json(study["report_json"])
    assert report["near_copies"]["value"] is None and "at least 100" in report["near_copies"]["reason"]
    assert report["authentic"]["value"] is not None and report["near_distance"] is None
    assert Image.open(study["pairs_png"]).width == 84 + 5 * 76 + 4
    held_out = np.load(study["held_out_npy"])
    held_out[:40] = np.load(study["train_npy"])[:80:2]
    np.save(tmp_path / "twins.npy", held_out)
    find_copies(**study | {"held_out_npy": tmp_path / "twins.npy"})
    assert "are themselves training patches" in read_json(study["report_json"])["near_copies"]["reason"]
    np.save(tmp_path / "constant.npy", np.ones((300, 6), np.float32))
    find_copies(**study | {"train_npy": tmp_path / "constant.npy"})
    report = read_json(study["report_json"])
    assert report["authentic"]["value"] is None and "the same one" in report["authentic"]["reason"]
    assert report["near_copies"]["value"] is not None
