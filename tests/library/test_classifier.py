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
from sklearn.metrics import brier_score_loss

from histoprompt.classifier import AdamW, augment, batch_rows, build_model, normalise, score, train_classifier
from histoprompt.errors import InputError
from histoprompt.intervals import delong
from histoprompt.patches import write_patches

SETTINGS: dict[str, Any] = {"model": "small_cnn", "weights": None, "steps": 40, "batch_size": 16, "learning_rate": 5e-3}
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


def run(files: list[Path], test: Path, report: Path, *, seed: int = 0, **change: Any) -> dict[str, Any]:
    train_classifier(files, test, report, mix="real", settings=SETTINGS | change, seed=seed, device="cpu", threads=1)
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
    moved = augment(images.copy(), ("flips", "rotations"), seed=seed, step=3)
    turns = [np.rot90(side, k, (1, 2)) for k in range(4) for side in (images, images[:, ::-1])]
    assert all(any(np.array_equal(new, turn[i]) for turn in turns) for i, new in enumerate(moved))
    assert np.array_equal(moved, augment(images.copy(), ("flips", "rotations"), seed=seed, step=3))
    assert not np.array_equal(moved, augment(images.copy(), ("flips", "rotations"), seed=seed, step=4))


def test_augmentations_act_only_where_they_are_named() -> None:
    images = np.full((20, 4, 4, 3), 100, np.uint8)
    assert np.array_equal(augment(images.copy(), (), seed=0, step=0), images)
    changed = augment(images.copy(), ("colour",), seed=0, step=0)
    assert changed.std(axis=(1, 2)).max() == 0 and 60 < changed.min() < 95 and 105 < changed.max() < 140


def test_pixels_are_scaled_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(
        normalise(images, torch.device("cpu")).numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-6
    )


def test_scores_of_two_classes() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    p = np.clip(0.4 * labels + 0.3 + generator.normal(0, 0.2, 200), 0.01, 0.99)
    scores = score(np.column_stack([1 - p, p]), labels, seed=0)
    auc = scores["auc"]
    assert (auc["value"], auc["low"], auc["high"]) == delong(p[labels == 1], p[labels == 0])
    assert scores["accuracy"]["value"] == ((p > 0.5) == labels).mean()
    assert scores["brier"] == pytest.approx(brier_score_loss(labels, p))


def test_calibration_error_of_honest_and_of_boastful_probabilities() -> None:
    labels = (np.arange(1000) % 10 < 7).astype(int)
    honest, boastful = (score(np.tile([1 - p, p], (1000, 1)), labels, seed=0) for p in (0.7, 0.95))
    assert honest["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert boastful["calibration_error"] == pytest.approx(0.25)


def test_it_learns_and_reports(image_set: ImageSet, tmp_path: Path) -> None:
    report = run([image_set("a", 120)], image_set("test", 80, seed=1), tmp_path / "report.json")
    assert report["auc"]["value"] > 0.95 and report["auc"]["interval"] == "DeLong"
    assert report["train"]["images"] == 120 and report["train"]["by_class"] == {"healthy": 60, "cancer": 60}
    assert report["test"]["images"] == 80
    assert report["settings"] == SETTINGS | {"augment": ["flips", "rotations"]}


def test_the_same_seed_gives_the_same_bytes_and_files_share_every_batch(image_set: ImageSet, tmp_path: Path) -> None:
    files, test = [image_set("a", 60), image_set("b", 24, seed=2)], image_set("test", 40, seed=1)
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        report = run(files, test, tmp_path / name, seed=seed, steps=4)
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

    refused([one_class], test, "one.h5", "no image of class healthy", "to train")
    refused([good], one_class, "one.h5", "no image of class healthy", "to test")
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
