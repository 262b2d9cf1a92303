from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from histoprompt.errors import InputError
from histoprompt.files import read_csv
from histoprompt.outliers import MEASUREMENTS, filter_outliers, measure_patch
from histoprompt.patches import write_patches

PCAM_MINI = Path(__file__).parents[3] / "shared/data/pcam_mini"
THRESHOLDS = {
    "value_mean_below": 70,
    "saturation_mean_below": 3,
    "value_std_below": 4,
    "saturation_std_below": 4,
    "hue_std_below": 1.5,
    "laplacian_variance_below": 100,
    "contours_below": 10,
}


def noise(seed=0, size=96):
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_measurements_of_noise_are_those_of_their_definitions():
    patch = noise()
    measured = measure_patch(patch)
    assert tuple(measured) == MEASUREMENTS
    rgb = patch.astype(float)
    value = rgb.max(axis=2)
    saturation = np.where(value > 0, 255 * (value - rgb.min(axis=2)) / np.maximum(value, 1), 0)
    assert measured["value_mean"] == pytest.approx(value.mean()) and measured["value_std"] == pytest.approx(value.std())
    assert measured["saturation_mean"] == pytest.approx(saturation.mean(), abs=0.5)
    assert measured["saturation_std"] == pytest.approx(saturation.std(), abs=0.5)
    grey = np.round(rgb @ [0.299, 0.587, 0.114])
    laplacian = ndimage.convolve(grey, [[0, 1, 0], [1, -4, 1], [0, 1, 0]], mode="mirror")
    assert measured["laplacian_variance"] == pytest.approx(laplacian.var(), rel=0.01)


def test_hue_is_on_a_scale_of_256():
    patch = np.zeros((32, 32, 3), np.uint8)
    patch[:16, :, 0], patch[16:, :, 2] = 200, 200  # red, hue 0; blue, hue 240 of 360 degrees
    assert measure_patch(patch)["hue_std"] == pytest.approx(255 * 240 / 360 / 2, abs=0.5)


def test_contours_count_outlines_and_holes():
    patch = np.full((96, 96, 3), 100, np.uint8)
    patch[8:88, 8:88] = 200
    assert measure_patch(patch)["contours"] == 1
    for hole in range(5):
        patch[12 + 14 * hole : 20 + 14 * hole, 20:30] = 100
    assert measure_patch(patch)["contours"] == 6
    patch[16, 25] = 200  # an island in a hole
    assert measure_patch(patch)["contours"] == 7
    assert cv2.connectedComponents((patch[:, :, 0] > 150).astype(np.uint8))[0] - 1 == 2


def test_the_grey_level_itself_is_dark():
    patch = np.full((32, 32, 3), 150, np.uint8)
    assert measure_patch(patch)["contours"] == 0
    patch[:] = 151
    assert measure_patch(patch)["contours"] == 1


@pytest.mark.parametrize(
    ("patch", "reasons"),
    [
        (np.full((96, 96, 3), 240, np.uint8), set(THRESHOLDS) - {"value_mean_below"}),  # an empty slide
        (np.zeros((96, 96, 3), np.uint8), set(THRESHOLDS)),
        ((noise() // 4), {"value_mean_below", "contours_below"}),
        (np.repeat(noise()[:, :, :1], 3, axis=2), {"saturation_mean_below", "saturation_std_below", "hue_std_below"}),
        (cv2.GaussianBlur(noise(), (0, 0), 6), {"laplacian_variance_below", "contours_below", "value_std_below"}),
        (noise(), set()),
    ],
)
def test_each_kind_of_outlier_has_its_reasons(tmp_path, patch, reasons):
    patches = np.stack([patch, noise(1), noise(2)])
    kept, _ = run(tmp_path, patches, [0, 0, 1], THRESHOLDS)
    found = set(filter(None, kept["reasons"][0].split(";")))
    assert found == reasons
    assert kept["kept"].tolist() == [not reasons, True, True]


def run(folder, patches, labels, thresholds, **columns):
    ids = [f"p{i}" for i in range(len(patches))]
    write_patches(folder / "p.h5", [(patches, labels, ids)], classes=["healthy", "cancer"], size=patches.shape[1])
    pd.DataFrame({"id": ids, "label": labels, "slide": "", **columns}).to_csv(folder / "p.csv", index=False)
    filter_outliers(folder / "p.h5", folder / "p.csv", folder / "kept.csv", folder / "dropped.csv", thresholds=thresholds)
    return read_csv(folder / "kept.csv"), pd.read_csv(folder / "dropped.csv").set_index(["group", "name"])


def test_tables(tmp_path):
    patches = np.stack([noise(0), np.zeros((96, 96, 3), np.uint8), noise(2), np.full((96, 96, 3), 240, np.uint8), noise(3)])
    kept, dropped = run(
        tmp_path, patches, [0, 0, 1, 0, 1], THRESHOLDS, morphology=["stroma", "blood", "stroma", "none", "solid"]
    )
    assert kept.columns.tolist() == ["id", "label", "kept", "reasons", *MEASUREMENTS]
    assert kept["kept"].dtype == bool and kept["id"].tolist() == ["p0", "p1", "p2", "p3", "p4"]
    assert kept["reasons"][1] == ";".join(THRESHOLDS)
    for name, bound in THRESHOLDS.items():  # the table explains itself
        hit = kept["reasons"].str.split(";").map(lambda reasons, name=name: name in reasons)
        assert (hit == (kept[name.removesuffix("_below")] < bound)).all()
        assert dropped.loc[("reason", name), "dropped"] == hit.sum()
    counts = dropped.apply(tuple, axis=1).to_dict()
    assert counts[("all", "all")] == (5, 2)
    assert counts[("label", "healthy")] == (3, 2) and counts[("label", "cancer")] == (2, 0)
    assert counts[("morphology", "stroma")] == (2, 0) and counts[("morphology", "blood")] == (1, 1)


def test_same_bytes_twice(tmp_path):
    patches = np.stack([noise(0), noise(1)])
    contents = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        run(folder, patches, [0, 1], THRESHOLDS)
        contents.append([(folder / file).read_bytes() for file in ("kept.csv", "dropped.csv")])
    assert contents[0] == contents[1]


def test_a_class_that_vanishes_is_an_error(tmp_path):
    patches = np.stack([noise(0), np.zeros((96, 96, 3), np.uint8)])
    with pytest.raises(InputError, match=r"no patch of cancer left: all 1 were dropped.*[\s\S]*config key `outliers`"):
        run(tmp_path, patches, [0, 1], THRESHOLDS)
    assert not (tmp_path / "kept.csv").exists()


def test_a_table_of_other_patches_is_an_error(tmp_path):
    run(tmp_path, np.stack([noise(0), noise(1)]), [0, 1], THRESHOLDS)
    pd.DataFrame({"id": ["p1", "p0"], "label": [0, 1]}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match="do not match"):
        filter_outliers(*(tmp_path / name for name in ("p.h5", "p.csv", "k.csv", "d.csv")), thresholds=THRESHOLDS)


@pytest.mark.skipif(not PCAM_MINI.is_dir(), reason="the real patches of pcam_mini are not beside this checkout")
def test_real_patches(tmp_path):
    with (
        h5py.File(PCAM_MINI / "camelyonpatch_level_2_split_valid_x.h5") as x,
        h5py.File(PCAM_MINI / "camelyonpatch_level_2_split_valid_y.h5") as y,
    ):
        patches, labels = x["x"][:], y["y"][:].ravel()
    kept, dropped = run(tmp_path, patches, labels, THRESHOLDS)
    constant = patches.reshape(len(patches), -1).std(axis=1) < 5
    assert constant.sum() == 3 and not kept["kept"][constant].any()
    # Nearly all real tissue stays: an eager filter would take the fat and the pale stroma out of the study.
    assert dropped.loc[("label", "healthy"), "dropped"] <= 0.05 * 384
    assert dropped.loc[("label", "cancer"), "dropped"] <= 0.01 * 384
