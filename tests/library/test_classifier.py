"""The classifier of the downstream test: its arithmetic, its keys, its scores, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import hed2rgb

from histoprompt.classifier import (
    AUGMENTATIONS,
    AdamW,
    augment,
    batch_rows,
    build_model,
    nested_order,
    normalise,
    restain,
    train_classifier,
    train_learning_curve,
)
from histoprompt.errors import InputError
from histoprompt.patches import write_patches
from histoprompt.scores import score

SETTINGS: dict[str, Any] = {
    **{"model": "small_cnn", "weights": None, "steps": 40, "batch_size": 16, "learning_rate": 5e-3},
    "augmentations": ["flip", "rotate90"],
}
PCAM = Path(__file__).parents[3] / "shared/data/pcam_mini"
ImageSet = Callable[..., Path]


@pytest.fixture
def image_set(tmp_path: Path) -> ImageSet:
    """Make a patch file of noise whose class is the strength of its stripes, invisible in mean and deviation of colour."""

    def make(name: str, n: int, *, classes: int = 2, size: int = 32, seed: int = 0, labels: np.ndarray | None = None) -> Path:
        generator = np.random.default_rng(seed)
        labels = np.arange(n) % classes if labels is None else labels
        x = generator.normal(128, 40, (n, size, size, 3))
        for image, label in zip(x, labels, strict=True):
            image[:: label + 2] += 60 * (label > 0)
        words = ["healthy", "cancer", "other"][:classes]
        path = tmp_path / f"{name}.h5"
        write_patches(
            path, [(x.clip(0, 255).astype(np.uint8), labels, [f"{name}{i}" for i in range(n)])], classes=words, size=size
        )
        return path

    return make


def run(files: list[Path], test: Path, report: Path, *, seeds: tuple[int, ...] = (0,), **change: Any) -> dict[str, Any]:
    keywords = {"mix": "real", "size": change.pop("size", 96), "settings": SETTINGS | change, "seeds": seeds}
    train_classifier(files, test, report, **keywords, device="cpu", threads=1)
    return dict(json.loads(report.read_text()))


def test_adamw_is_torchs() -> None:
    one, two = (torch.nn.Linear(5, 3) for _ in range(2))
    two.load_state_dict(one.state_dict())
    ours, theirs = AdamW(one), torch.optim.AdamW(two.parameters(), weight_decay=1e-2)
    for step in range(20):
        batch = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        for group in theirs.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for model in (one, two):
            model.zero_grad()
            model(batch).square().mean().backward()
        ours.step(0.01 * (step + 1))
        theirs.step()
    torch.testing.assert_close(one.weight, two.weight)


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 2**31))
def test_batches_pass_through_whole_epochs(n: int, share: int, seed: int) -> None:
    rows = np.concatenate([batch_rows(n, share, step, seed=seed, source=0) for step in range(2 * n)])
    for epoch in range(2 * share):
        assert sorted(rows[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_batches_are_keyed_by_seed_and_source() -> None:
    def rows(seed: int, source: int) -> list[int]:
        return list(batch_rows(50, 20, 7, seed=seed, source=source))

    assert rows(1, 0) == rows(1, 0)
    assert len({tuple(rows(seed, source)) for seed in (1, 2) for source in (0, 1)}) == 4


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_flips_and_rotations_move_pixels_and_change_none(seed: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    moved = augment(images.copy(), ("flip", "rotate90"), seed=seed, step=3)
    turns = [np.rot90(side, k, (1, 2)) for k in range(4) for side in (images, images[:, ::-1])]
    assert all(any(np.array_equal(new, turn[i]) for turn in turns) for i, new in enumerate(moved))
    assert np.array_equal(moved, augment(images.copy(), ("flip", "rotate90"), seed=seed, step=3))
    assert not np.array_equal(moved, augment(images.copy(), ("flip", "rotate90"), seed=seed, step=4))


@given(st.integers(0, 2**31), st.integers(1, 9), st.sets(st.sampled_from(AUGMENTATIONS)))
def test_what_happens_to_an_image_depends_on_seed_step_and_its_number_alone(seed: int, n: int, names: set[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    whole = augment(images.copy(), sorted(names), seed=seed, step=5)
    assert np.array_equal(whole[:n], augment(images[:n].copy(), sorted(names, reverse=True), seed=seed, step=5))


def test_augmentations_act_only_where_they_are_named() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    images = np.repeat(image[None], 400, axis=0)
    assert np.array_equal(augment(images.copy(), (), seed=0, step=0), images)
    for names, forms in ((("flip",), 4), (("rotate90",), 4), (("flip", "rotate90"), 8)):
        found, counts = np.unique(augment(images.copy(), names, seed=0, step=0), axis=0, return_counts=True)
        assert len(found) == forms and counts.min() > 400 / forms / 2


def test_colour_jitter_is_skimages_deconvolution_and_leaves_white_and_identity_alone() -> None:
    amounts = np.random.default_rng(0).uniform(0, 0.06, (6, 4, 4, 3))  # skimage has no negative amounts of stain
    images = np.rint(256 * hed2rgb(amounts) - 1).clip(0, 255).astype(np.uint8)
    ones, factors = np.ones(6), np.array([1.1, 0.9, 1.0])
    assert np.array_equal(restain(images, np.ones((6, 3)), ones), images)
    assert restain(np.full((6, 2, 2, 3), 255, np.uint8), np.full((6, 3), 1.1), ones).min() == 255
    changed = restain(images, np.tile(factors, (6, 1)), ones)
    assert np.abs(changed - (256 * hed2rgb(amounts * factors) - 1)).max() < 2 and np.abs(changed - images.astype(int)).max() > 5
    light = restain(images, np.ones((6, 3)), np.full(6, 0.9))
    np.testing.assert_allclose(light + 1.0, 0.9 * (images + 1.0), atol=0.6)


def test_colour_jitter_is_mild() -> None:
    images = np.full((200, 4, 4, 3), (180, 120, 170), np.uint8)  # eosin pink
    changed = augment(images.copy(), ("colour",), seed=0, step=0).astype(int)
    assert changed.std(axis=(1, 2)).max() == 0
    shift = changed[:, 0, 0] - images[:, 0, 0].astype(int)
    assert np.abs(shift).max() < 40 and np.abs(shift).mean() > 5 and np.abs(shift.mean(0)).max() < 4


def test_pixels_are_scaled_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(
        normalise(images, torch.device("cpu")).numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-6
    )


def test_it_learns_and_reports(image_set: ImageSet, tmp_path: Path) -> None:
    report = run([image_set("a", 120)], image_set("test", 80, seed=1), tmp_path / "report.json")
    assert report["auc"]["value"] > 0.95 and report["auc"]["interval"] == "DeLong"
    assert report["train"]["images"] == 120 and report["train"]["by_class"] == {"healthy": 60, "cancer": 60}
    assert report["test"]["images"] == 80
    assert report["settings"] == SETTINGS and report["seeds"] == [0]


def test_several_seeds_are_several_trainings(image_set: ImageSet, tmp_path: Path) -> None:
    files, test = [image_set("a", 60)], image_set("test", 40, seed=1)
    both = run(files, test, tmp_path / "both", seeds=(1, 2), steps=4)
    one, two = (run(files, test, tmp_path / "one", seeds=(seed,), steps=4) for seed in (1, 2))
    assert both["auc_over_seeds"]["values"] == {"1": one["auc"]["value"], "2": two["auc"]["value"]}
    assert both["brier"] == pytest.approx((one["brier"] + two["brier"]) / 2) and one["brier"] != two["brier"]
    assert both["train"]["losses"] == one["train"]["losses"] + two["train"]["losses"]


def test_the_same_seed_gives_the_same_bytes_and_files_share_every_batch(image_set: ImageSet, tmp_path: Path) -> None:
    files, test = [image_set("a", 60), image_set("b", 24, seed=2)], image_set("test", 40, seed=1)
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        report = run(files, test, tmp_path / name, seeds=(seed,), steps=4, augmentations=list(AUGMENTATIONS))
        assert report["train"]["files"] == [60, 24]
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two and one != three


def test_files_too_large_to_hold_train_alike(image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, test = [image_set("a", 60)], image_set("test", 20, seed=1)
    run(files, test, tmp_path / "held", steps=3)
    monkeypatch.setattr("histoprompt.classifier._HELD_BYTES", 0)
    run(files, test, tmp_path / "read", steps=3)
    assert (tmp_path / "held").read_bytes() == (tmp_path / "read").read_bytes()


def test_more_than_two_classes(image_set: ImageSet, tmp_path: Path) -> None:
    report = run([image_set("a", 90, classes=3)], image_set("test", 60, classes=3, seed=1), tmp_path / "report.json")
    assert "one against rest" in report["auc"]["interval"]
    assert report["auc"]["low"] <= report["auc"]["value"] <= report["auc"]["high"] and report["auc"]["value"] > 0.8


def test_resnet34_runs(image_set: ImageSet, tmp_path: Path) -> None:
    change = {"model": "resnet34", "steps": 2, "batch_size": 4}
    report = run([image_set("a", 8)], image_set("test", 8, seed=1), tmp_path / "report.json", **change)
    assert 0 <= report["auc"]["value"] <= 1


def test_resnet34_takes_weights_of_another_number_of_classes(image_set: ImageSet, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trained = build_model("resnet34", None, 10, seed=3).state_dict()
    save_file(trained, tmp_path / "imagenet.safetensors")
    model = build_model("resnet34", tmp_path / "imagenet.safetensors", 2, seed=1).state_dict()
    assert torch.equal(model["layer4.2.conv2.weight"], trained["layer4.2.conv2.weight"]) and model["fc.weight"].shape[0] == 2
    save_file(trained | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"1 of \d+ tensors .* such as conv1.weight"):
        run([image_set("a", 8)], image_set("t", 8), tmp_path / "r", model="resnet34", weights=tmp_path / "other.safetensors")


def test_weights_come_from_safetensors_without_the_last_layer(image_set: ImageSet, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trained = build_model("small_cnn", None, 5, seed=7)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    model = build_model("small_cnn", tmp_path / "weights.safetensors", 2, seed=1)
    assert torch.equal(model[0].weight, trained[0].weight) and model[-1].out_features == 2
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    for name, part in (
        ("foreign", "missing, unknown or of another shape"),
        ("broken", "no readable weights"),
        ("absent", "absent"),
    ):
        with pytest.raises(InputError, match=part):
            build_model("small_cnn", tmp_path / f"{name}.safetensors", 2, seed=1)


def test_the_initial_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_model("small_cnn", None, 2, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_unusable_image_sets_end_in_one_message(image_set: ImageSet, tmp_path: Path) -> None:
    good, test = image_set("good", 20), image_set("test", 20)
    one_class = image_set("one", 20, labels=np.ones(20, int))

    def refused(files: list[Path], test: Path, *parts: str, **change: Any) -> None:
        with pytest.raises(InputError) as caught:
            run(files, test, tmp_path / "report.json", **change)
        assert all(part in str(caught.value) for part in parts), str(caught.value)

    refused([one_class], test, "one.h5", "no image of class healthy among the 20 to train")
    refused([good], one_class, "one.h5", "no image of class healthy among the 20 to test")
    single = image_set("single", 20, labels=np.arange(20) == 0)
    refused([good], single, "single.h5", "1 image of class cancer among the 20 to test", "at least 2")
    refused([good, image_set("large", 20, size=48)], test, "large.h5", "48 px", "32 px")
    refused([image_set("three", 21, classes=3)], test, "three.h5", "other")
    refused([good], test, "classifier.model", "vgg", "small_cnn, resnet34", model="vgg")
    refused([good], test, "classifier.learning_rate", "nan", "lower it", learning_rate=1e18)
    assert not (tmp_path / "report.json").exists()
    assert run([good, one_class], test, tmp_path / "report.json", steps=1)["train"]["by_class"] == {"healthy": 10, "cancer": 30}


@pytest.mark.skipif(not PCAM.is_dir(), reason="the real patches of pcam_mini are not beside this checkout")
def test_real_tissue_beats_the_colour_baseline(tmp_path: Path) -> None:
    """Logistic regression on the mean and deviation of colour has AUC 0.766 on the whole test split (README of pcam_mini)."""
    files = {}
    for split, n in (("train", 1024), ("test", 512)):
        x, y = (h5py.File(PCAM / f"camelyonpatch_level_2_split_{split}_{part}.h5")[part] for part in "xy")
        rows = slice(0, None, len(x) // n)
        files[split] = tmp_path / f"{split}.h5"
        patches = x[:][rows][:n]
        write_patches(
            files[split], [(patches, y[:].ravel()[rows][:n], [str(i) for i in range(n)])], classes=["a", "b"], size=96
        )
    report = run([files["train"]], files["test"], tmp_path / "report.json", steps=60, batch_size=64, learning_rate=2e-3)
    assert report["auc"]["low"] > 0.766


@given(st.lists(st.integers(0, 1), min_size=2, max_size=60), st.integers(0, 2**31))
def test_nested_draws_are_stratified(labels: list[int], seed: int) -> None:
    order = nested_order(np.array(labels), seed=seed)
    assert sorted(order) == list(range(len(labels)))
    taken = np.cumsum(np.array(labels)[order])
    assert (np.abs(taken - np.mean(labels) * np.arange(1, len(labels) + 1)) < 1).all()


def test_nested_draws_are_keyed_and_shuffled() -> None:
    labels = np.arange(90) % 3
    one = nested_order(labels, seed=1)
    assert np.array_equal(one, nested_order(labels, seed=1)) and not np.array_equal(one, nested_order(labels, seed=2))
    assert all(not np.all(np.diff(one[labels[one] == c]) > 0) for c in range(3))


class Curve:
    """A learning curve on noise: 60 patches of which 40 are the training subset, 24 synthetic images, 30 to test."""

    def __init__(self, image_set: ImageSet, folder: Path) -> None:
        self.folder = folder
        self.train, self.arm, self.test = image_set("train", 60), image_set("arm", 24, seed=2), image_set("test", 30, seed=1)
        self.subset = folder / "subset.csv"
        self.subset.write_text("row,id,label,cluster\n" + "".join(f"{i},train{i},{i % 2},0\n" for i in range(10, 50)))
        self.prompts = folder / "arm.train.csv"
        self.prompts.write_text("row,id,label,cluster,prompt\n" + "".join(f"{i},train{i},{i % 2},0,p\n" for i in range(10, 40)))

    def run(self, curve: str, *, real: tuple[int, ...] = (4, 10), seed: int = 1) -> tuple[dict[str, Any], np.ndarray]:
        report, predictions = self.folder / f"{curve}{seed}.json", self.folder / f"{curve}{seed}.npy"
        train_learning_curve(
            self.train,
            self.subset,
            [self.prompts],
            [] if curve == "real" else [self.arm],
            self.test,
            predictions,
            report,
            curve=curve,
            size=96,
            real=real,
            finetuned=["arm"],
            settings=SETTINGS | {"steps": 3},
            seed=seed,
            device="cpu",
            threads=1,
        )
        return json.loads(report.read_text()), np.load(predictions)


def test_a_learning_curve_has_all_its_points(image_set: ImageSet, tmp_path: Path) -> None:
    curve = Curve(image_set, tmp_path)
    real, predictions = curve.run("real")
    assert real["real"] == [4, 10, 30, 40] and real["synthetic"] == 0  # 30: what the generator saw; 40: the whole subset
    assert predictions.shape == (4, 30, 2) and np.allclose(predictions.sum(2), 1)
    arm, predictions = curve.run("arm")
    assert arm["real"] == [0, 4, 10, 30, 40] and arm["synthetic"] == 24 and predictions.shape == (5, 30, 2)
    assert arm["generator_saw"] == {"arm": 30} and arm["all_real"] == 40 and arm["seed"] == 1


def test_the_ends_of_a_learning_curve_are_ordinary_classifiers(image_set: ImageSet, tmp_path: Path) -> None:
    """Without real patches a point is the arm alone; a point does not change with the others that are asked for."""
    curve = Curve(image_set, tmp_path)
    _, points = curve.run("arm")
    few = SETTINGS | {"steps": 3}
    report = tmp_path / "alone.json"
    train_classifier([curve.arm], curve.test, report, mix="arm", size=96, settings=few, seeds=[1], device="cpu", threads=1)
    alone = json.loads(report.read_text())
    assert score(points[:1], np.arange(30) % 2, [1])["brier"] == alone["brier"]
    before = (tmp_path / "arm1.npy").read_bytes()
    assert np.array_equal(curve.run("arm", real=(10,))[1], points[[0, 2, 3, 4]])
    curve.run("arm")
    assert (tmp_path / "arm1.npy").read_bytes() == before
    assert not np.array_equal(curve.run("arm", seed=2)[1], points)


def test_a_learning_curve_refuses_what_it_cannot_draw(image_set: ImageSet, tmp_path: Path) -> None:
    curve = Curve(image_set, tmp_path)
    with pytest.raises(InputError) as caught:
        curve.run("real", real=(4, 41))
    assert all(part in str(caught.value) for part in ("`learning_curve.real`", "41 real patches", "at most 40", "subset.csv"))
    curve.train = image_set("train3", 60, classes=3)
    curve.test, curve.arm = image_set("test3", 30, classes=3), image_set("arm3", 24, classes=3)
    with pytest.raises(InputError) as caught:
        curve.run("real", real=(2,))
    assert "train3.h5" in str(caught.value) and "among the 2 to train" in str(caught.value)
    assert not list(tmp_path.glob("*.npy"))
