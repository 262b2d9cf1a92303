"""The regions that an image set misses are found in the features, and the map is the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import write_patch_file

from histoprompt.coverage_map import draw_coverage_map, expected_coverage, find_regions, missed_regions
from histoprompt.errors import InputError
from histoprompt.metrics import prdc

BLOBS, D = 4, 8
OUTPUTS = ("map_csv", "regions_csv", "map_png", "regions_png")


def blobs(counts: list[int], seed: int) -> np.ndarray:
    """Points of Gaussians whose centres lie far apart, in a mixed order."""
    generator = np.random.default_rng(seed)
    centres = 12 * np.eye(BLOBS, D)
    mixed = generator.permutation(np.repeat(centres, counts, axis=0))
    return (mixed + generator.normal(size=mixed.shape)).astype(np.float32)


def test_expected_coverage_is_that_of_samples_of_one_distribution() -> None:
    """Over 200 pairs of samples, within four standard errors of their mean."""
    for real, fake, k in ((60, 60, 5), (60, 25, 3), (40, 200, 1)):
        generator = np.random.default_rng(0)
        pairs = ((generator.normal(size=(real, D)), generator.normal(size=(fake, D))) for _ in range(200))
        values = [prdc(*pair, k)["coverage"] for pair in pairs]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(expected_coverage(real, fake, k), abs=4 * error)
    assert expected_coverage(2, 1, 1) == 0.5
    assert expected_coverage(1000, 1000, 5) == pytest.approx(1 - 0.5**5, abs=0.001)


def test_regions_are_the_blobs_and_the_largest_comes_first() -> None:
    points = blobs([50, 20, 30, 40], 0)
    regions, centres = find_regions(points, BLOBS, seed=3)
    assert np.bincount(regions).tolist() == [50, 40, 30, 20]
    nearest_axis = centres.argmax(axis=1)
    assert nearest_axis.tolist() == [0, 3, 2, 1]
    assert np.array_equal(nearest_axis[regions], points[:, :BLOBS].argmax(axis=1))


def test_an_absent_mode_is_the_missed_region_and_a_complete_set_misses_none() -> None:
    real = blobs([50, 20, 30, 40], 0)
    regions, centres = find_regions(real, BLOBS, seed=0)
    sets = {"complete": blobs([35] * 4, 1), "without_third": blobs([47, 46, 0, 47], 2), "rare_third": blobs([46, 46, 3, 45], 3)}
    table = missed_regions(real, regions, sets, centres, k=5)
    missed = {name: "".join(part.loc[part["missed"], "region"]) for name, part in table.groupby("images")}
    assert missed == {"complete": "", "without_third": "C", "rare_third": "C"}
    third = table[table["region"] == "C"].set_index("images")
    assert third["held_out"].tolist() == [30] * 3 and third["inside"].tolist() == [35, 0, 3]
    assert third.loc["without_third", "coverage"] == 0 and third.loc["complete", "coverage"] > 0.8
    for name, part in table.groupby("images"):
        whole = prdc(real, sets[str(name)], 5)["coverage"]
        assert (part["coverage"] * part["held_out"]).sum() / len(real) == pytest.approx(whole)


def test_no_complete_set_misses_a_region() -> None:
    """Small regions, where chance is large: none in 100 sets of four regions is called missed."""
    real = blobs([12] * 4, 0)
    regions, centres = find_regions(real, BLOBS, seed=0)
    sets = {f"{seed}": blobs([12] * 4, seed) for seed in range(1, 101)}
    assert not missed_regions(real, regions, sets, centres, k=5)["missed"].any()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of `draw_coverage_map`: 70 kept patches of 80, a complete set and an arm without the third blob."""
    folder = tmp_path_factory.mktemp("map")
    sets = {"real": blobs([25] * 4, 1), "arm": blobs([34, 33, 0, 33], 2)}
    np.save(folder / "test.npy", blobs([20] * 4, 0))
    kept = np.flatnonzero(np.arange(80) % 8)
    pd.DataFrame({"row": kept, "id": "p", "label": kept % 2, "cluster": kept % 3}).to_csv(folder / "test.csv", index=False)
    for seed, (name, features) in enumerate(sets.items()):
        np.save(folder / f"{name}.npy", features)
        number = np.arange(100)
        pd.DataFrame({"number": number, "label": number % 2, "cluster": number % 3}).to_csv(folder / f"{name}.csv", index=False)
        write_patch_file(folder / f"{name}.h5", 100, 16, seed)
    return {
        **{key: {name: folder / f"{name}.{end}" for name in sets} for key, end in (("features", "npy"), ("images", "h5"))},
        "tables": {name: folder / f"{name}.csv" for name in sets},
        "held_out_npy": folder / "test.npy",
        "held_out_csv": folder / "test.csv",
        "held_out_h5": write_patch_file(folder / "test.h5", 80, 16, 9),
        "encoder": "dino",
        "sample": 60,
        "regions": 4,
        "neighbours": 10,
        "min_dist": 0.1,
        "coverage_neighbours": 5,
        "seed": 7,
    }


def outputs(folder: Path) -> dict[str, Path]:
    return {name: folder / name.replace("_", ".") for name in OUTPUTS}


def test_map_table_and_figures_belong_together_and_are_the_same_twice(study: dict[str, Any], tmp_path: Path) -> None:
    files = [outputs(tmp_path / part) for part in ("once", "again")]
    for paths in files:
        draw_coverage_map(**study, **paths)
    for name in OUTPUTS:
        assert files[0][name].read_bytes() == files[1][name].read_bytes(), name
    points = pd.read_csv(files[0]["map_csv"])
    assert points["images"].value_counts().to_dict() == {"test": 60, "real": 60, "arm": 60}
    patches = points[points["images"] == "test"].set_index("number")
    assert (patches.index % 8 > 0).all() and patches.index.is_unique
    assert (patches["label"] == patches.index % 2).all() and (patches["cluster"] == patches.index % 3).all()
    truth = np.load(study["held_out_npy"])[patches.index][:, :BLOBS].argmax(axis=1)
    assert (pd.crosstab(truth, patches["region"]) > 0).sum().tolist() == [1] * 4
    regions = pd.read_csv(files[0]["regions_csv"])
    third = patches.loc[truth == 2, "region"].iloc[0]
    assert regions.loc[regions["missed"], ["images", "region"]].to_numpy().tolist() == [["arm", third]]
    # Blobs that lie far apart in the features are islands of the map.
    centres = patches.groupby("region")[["x", "y"]].mean()
    nearest = ((points[["x", "y"]].to_numpy()[:, None] - centres.to_numpy()) ** 2).sum(axis=2).argmin(axis=1)
    assert (centres.index[nearest] == points["region"]).mean() > 0.95
    assert min(Image.open(files[0]["map_png"]).size) > 600
    assert Image.open(files[0]["regions_png"]).width == 96 + 3 * (3 * 66 + 14)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"sample": 5}, ["test.csv", "5 images for 5 neighbours", "more than 5"]),
        ({"neighbours": 180}, ["`evaluation.map.neighbours`", "180 images for 180 neighbours"]),
        (
            {"regions": 26, "sample": 20},
            ["`evaluation.map.regions`", "26 regions for 20 held-out patches, 20"],
        ),
    ],
)
def test_too_little_is_refused(study: dict[str, Any], tmp_path: Path, change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        draw_coverage_map(**study | change, **outputs(tmp_path))
    assert [part for part in parts if part not in str(caught.value)] == []


def test_one_picture_all_over_has_no_regions(study: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "constant.npy", np.ones((80, D), np.float32))
    with pytest.raises(InputError, match="4 regions for 60 held-out patches, 1 of them different"):
        draw_coverage_map(**study | {"held_out_npy": tmp_path / "constant.npy"}, **outputs(tmp_path))


def test_what_does_not_belong_together_is_refused(study: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", blobs([25, 25, 25, 24], 1))
    np.save(tmp_path / "narrow.npy", blobs([25] * 4, 1)[:, :5])
    patterns = {"short": r"(?s)short\.npy.*99 images.*100, as .*arm\.h5", "narrow": "width 5, but .*test.npy of width 8"}
    for name, pattern in patterns.items():
        features = study["features"] | {"arm": tmp_path / f"{name}.npy"}
        with pytest.raises(InputError, match=pattern):
            draw_coverage_map(**study | {"features": features}, **outputs(tmp_path))
    pd.DataFrame({"number": np.arange(99), "label": 0, "cluster": 0}).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)arm\.npy.*100 images.*99, as .*short\.csv"):
        draw_coverage_map(**study | {"tables": study["tables"] | {"arm": tmp_path / "short.csv"}}, **outputs(tmp_path))
    pd.DataFrame({"row": [3, 80], "id": "p", "label": 0, "cluster": 0}).to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)test\.npy.*80 images.*81, as .*far\.csv"):
        draw_coverage_map(**study | {"held_out_csv": tmp_path / "far.csv"}, **outputs(tmp_path))
    write_patch_file(tmp_path / "short.h5", 79, 16)
    with pytest.raises(InputError, match=r"(?s)test\.npy.*80 images.*79, as .*short\.h5"):
        draw_coverage_map(**study | {"held_out_h5": tmp_path / "short.h5"}, **outputs(tmp_path))
    write_patch_file(tmp_path / "few.h5", 99, 16)
    with pytest.raises(InputError, match=r"(?s)100 images.*99, as .*few\.h5"):
        draw_coverage_map(**study | {"images": study["images"] | {"arm": tmp_path / "few.h5"}}, **outputs(tmp_path))
    assert not any(path.exists() for path in outputs(tmp_path).values())
