"""What synthetic patches are worth: the arithmetic against simulations and closed forms, the page and the figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

from histoprompt.errors import InputError
from histoprompt.intervals import macro_auc, mean_interval
from histoprompt.learning_curve import (
    Interval,
    Point,
    auc_of,
    crossing,
    difference,
    in_quadrature,
    number_of_patches,
    summarise_learning_curve,
    worth,
)
from histoprompt.patches import write_patches

SIZES = [50, 100, 200, 400]


def test_independent_errors_add_as_squares() -> None:
    joint = in_quadrature(0.5, (0.47, 0.53), (0.46, 0.58), high=0.55)
    assert (joint.value, joint.low, joint.high) == pytest.approx((0.5, 0.45, 0.55))
    alone = in_quadrature(0.9, (0.8, 0.95))
    assert (alone.low, alone.high) == pytest.approx((0.8, 0.95))


def test_a_crossing_is_found_on_a_log_axis() -> None:
    assert crossing(SIZES, [3, 1, -1, -2]) == pytest.approx(np.sqrt(100 * 200))
    assert crossing(SIZES, [3, 1, -3, -4]) == pytest.approx(100 * 2**0.25)
    assert crossing(SIZES, [3, 0, 0, -1]) == 100
    assert crossing(SIZES, [-1, -2, -3, -4]) == 0 and crossing(SIZES, [4, 3, 2, 1]) == np.inf


@given(st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4), st.floats(0, 0.2))
def test_the_worth_lies_in_its_interval_and_grows_with_the_gain(gains: list[float], reach: float) -> None:
    def of(shift: float) -> Interval:
        return worth(SIZES, [Interval(g + shift, g + shift - reach, g + shift + reach) for g in gains])

    one, more = of(0.0), of(0.05)
    assert one.low <= one.value <= one.high
    assert more.low >= one.low and more.value >= one.value and more.high >= one.high


def test_the_worth_of_a_clear_case() -> None:
    gains = [Interval(g, g - 0.05, g + 0.05) for g in (0.1, 0.02, -0.04, -0.2)]
    amount = worth(SIZES, gains)
    assert amount.value == pytest.approx(100 * 2 ** (1 / 3))
    assert 50 < amount.low < 100 < amount.value < 200 < amount.high < 400
    words = [number_of_patches(n, SIZES) for n in (amount.value, 0, np.inf, 1234.4)]
    assert words == ["126", "fewer than 50", "more than 400", "1,234"]


def test_one_hump_of_a_noisy_curve_is_no_crossing() -> None:
    """AUC 0.80, 0.90, 0.86, 0.95 of real patches against 0.87: made monotone they reach 0.88 at 100, so it lies below."""
    gains = [Interval(0.87 - auc, 0.87 - auc - 0.001, 0.87 - auc + 0.001) for auc in (0.80, 0.90, 0.86, 0.95)]
    amount = worth(SIZES, gains)
    assert 50 < amount.low <= amount.value < 100 and 200 < amount.high < 400


def point(predictions: list[np.ndarray], labels: np.ndarray, curve: str = "real", real: int = 50, saw: int = 0) -> Point:
    each = [macro_auc(p, labels) for p in predictions]
    parts = np.mean([parts for _, parts in each], axis=0)
    return Point(curve, real, 0, saw, np.array([auc for auc, _ in each]), parts, {})


def noisy(labels: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    p = norm.cdf(strength * labels + generator.normal(0, 1, labels.size))
    return np.column_stack([1 - p, p])


def test_an_interval_is_of_test_images_and_of_seeds() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    predictions = [noisy(labels, 1.0, generator) for _ in range(3)]
    three, one = point(predictions, labels), point(predictions[:1], labels)
    joint, seeds = auc_of(three, labels), mean_interval(three.aucs)
    alone = auc_of(point([predictions[0]] * 3, labels), labels)
    assert alone.high - alone.low == pytest.approx(auc_of(one, labels).high - auc_of(one, labels).low)
    assert joint.value == three.aucs.mean() and joint.low < seeds[0] and joint.high > seeds[1]


def test_a_difference_is_paired_by_image_and_by_seed() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(300) % 2
    base = [noisy(labels, 1.0, generator) for _ in range(3)]
    near = [np.clip(p + generator.normal(0, 1e-3, p.shape), 0, 1) for p in base]
    apart = difference(point(near, labels), point(base, labels), labels)
    foreign = difference(point([noisy(labels, 1.0, generator) for _ in range(3)], labels), point(base, labels), labels)
    assert apart.high - apart.low < (foreign.high - foreign.low) / 10
    nothing = difference(point(base, labels), point(base, labels), labels)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_intervals_of_differences_cover() -> None:
    """200 pairs of classifiers of one strength on new test images: the true difference, zero, is covered in about 95 %."""
    generator = np.random.default_rng(2)
    labels = np.arange(160) % 2
    hits = 0
    for _ in range(200):
        one, other = ([noisy(labels, 1.0, generator)] for _ in range(2))
        apart = difference(point(one, labels), point(other, labels), labels)
        hits += apart.low <= 0 <= apart.high
    assert 182 <= hits <= 198


@pytest.fixture
def curves(tmp_path: Path) -> tuple[list[Path], list[Path], Path]:
    """Three seeds: real patches of growing worth; `arm`, worth about 150 of them, whose generator saw 400; `raw`, untuned."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 2
    images = np.zeros((600, 8, 8, 3), np.uint8)
    write_patches(tmp_path / "test.h5", [(images, labels, [str(i) for i in range(600)])], classes=["a", "b"], size=8)
    strengths = {
        "real": {50: 0.7, 100: 1.0, 200: 1.4, 400: 2.0},
        "arm": {0: 1.2, 50: 1.2, 100: 1.3, 200: 1.5, 400: 2.0},
        "raw": {0: 0.0, 50: 0.6, 100: 0.8, 200: 1.3, 400: 1.9},
    }
    reports, predictions = [], []
    for curve, of_n in strengths.items():
        for seed in (1, 2, 3):
            reports.append(tmp_path / f"{curve}{seed}.json")
            predictions.append(tmp_path / f"{curve}{seed}.npy")
            settings = {"model": "small_cnn", "steps": 100, "augmentations": ["flip"]}
            content = {"curve": curve, "real": list(of_n), "synthetic": 300 * (curve != "real"), "all_real": 400}
            reports[-1].write_text(json.dumps(content | {"generator_saw": {"arm": 400}, "settings": settings, "seed": seed}))
            np.save(predictions[-1], np.stack([noisy(labels, strength, generator) for strength in of_n.values()]))
    return reports, predictions, tmp_path / "test.h5"


def summarise(curves: tuple[list[Path], list[Path], Path], folder: Path) -> tuple[pd.DataFrame, str, Path]:
    outputs = folder / "c.csv", folder / "c.md", folder / "c.png"
    summarise_learning_curve(*curves, *outputs, study="demo", titles={"raw": "raw: untuned"})
    return pd.read_csv(outputs[0]), outputs[1].read_text(), outputs[2]


def test_every_row_says_what_it_may_be_compared_with(curves: tuple[list[Path], list[Path], Path], tmp_path: Path) -> None:
    table, _, _ = summarise(curves, tmp_path)
    assert len(table) == 4 + 5 + 5
    arm, raw = (table[table["curve"] == curve].set_index("real") for curve in ("arm", "raw"))
    assert arm["compared_with"].tolist() == [400] * 5 and arm["saw_more"].tolist() == [True] * 4 + [False]
    assert raw["compared_with"].tolist()[1:] == [50, 100, 200, 400] and np.isnan(raw["compared_with"][0])
    assert not raw["saw_more"].any() and table.loc[table["curve"] == "real", "compared_with"].isna().all()
    seeds = arm[["auc seed 1", "auc seed 2", "auc seed 3"]]
    np.testing.assert_allclose(seeds.mean(axis=1), arm["auc"])
    best = table[(table["curve"] == "real") & (table["real"] == 400)].iloc[0]
    np.testing.assert_allclose(arm["difference"], arm["auc"] - best["auc"], atol=1e-12)
    assert (table["low"] <= table["test_low"]).all() and (table["high"] >= table["test_high"]).all()


def test_the_page_begins_with_what_synthetic_patches_are_worth(
    curves: tuple[list[Path], list[Path], Path], tmp_path: Path
) -> None:
    _, text, figure = summarise(curves, tmp_path)
    arm, raw = text.split("\n\n")[1].split("\n- ")
    arm, raw = " ".join(arm.split()), " ".join(raw.split())
    amount = int(arm.split("worth about **")[1].split("**")[0])
    assert 100 < amount < 200 and "Its generator was trained on 400 real patches." in arm and "300 synthetic patches" in arm
    assert "raw: untuned" in raw and "worth **fewer than 50** real ones [all of the 95 % interval]" in raw
    assert "was not trained on the study's patches" in raw
    assert text.count("400 † ") == 4 and "compared with real patches as many" in " ".join(text.split())
    assert min(Image.open(figure).size) > 500


def test_the_same_files_give_the_same_bytes(curves: tuple[list[Path], list[Path], Path], tmp_path: Path) -> None:
    before = summarise(curves, tmp_path)[2].read_bytes()
    assert summarise(curves, tmp_path)[2].read_bytes() == before


def test_one_seed_has_no_interval_over_seeds(curves: tuple[list[Path], list[Path], Path], tmp_path: Path) -> None:
    reports, predictions, test = curves
    table, text, _ = summarise((reports[::3], predictions[::3], test), tmp_path)
    assert table["seeds_low"].isna().all() and table["low"].equals(table["test_low"]) and "nan" not in text.lower()


def test_predictions_of_another_test_split_are_refused(curves: tuple[list[Path], list[Path], Path], tmp_path: Path) -> None:
    np.save(curves[1][4], np.zeros((5, 599, 2)))
    with pytest.raises(InputError) as caught:
        summarise(curves, tmp_path)
    assert all(part in str(caught.value) for part in ("arm2.npy", "599 images", "600", "run the same command again"))
