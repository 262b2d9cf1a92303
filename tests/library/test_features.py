"""What each protocol feeds an encoder: against clean-fid's resizers, and against features computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid.resize import build_resizer, make_resizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import patch_images, write_patch_file
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import histoprompt.features as features
from histoprompt.arrays import gather_each
from histoprompt.embedding import Preprocessing, embed, load_encoder
from histoprompt.errors import InputError
from histoprompt.features import extract_features
from histoprompt.patches import PatchFile
from histoprompt.resizing import resize_images
from histoprompt.sources import ImageTable, at_most

CPU = torch.device("cpu")
GREY = Preprocessing(224, 224, 1.0, (0.0,) * 3, (1.0,) * 3, "bilinear")  # leaves grey levels as they are
sizes = st.tuples(st.integers(16, 130), st.sampled_from([48, 96, 224, 299]))
laws = settings(deadline=None, max_examples=15)


def noise(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@laws
@given(sizes)
def test_without_anti_aliasing_pixels_are_clean_fids_legacy_ones(pair: tuple[int, int]) -> None:
    """Tolerance: a thousandth of a grey level."""
    size, entry = pair
    batch = noise(2, size, size)
    ours = replace(GREY, height=entry, width=entry, antialias=False)(batch, CPU).permute(0, 2, 3, 1).numpy()
    legacy = make_resizer("PyTorch", False, "bilinear", (entry, entry))
    np.testing.assert_allclose(ours, [legacy(image) for image in batch], atol=1e-3)
    if entry == 299:
        np.testing.assert_allclose(ours[0], build_resizer("legacy_pytorch")(batch[0]), atol=1e-3)


@laws
@given(sizes, st.sampled_from(["bilinear", "bicubic"]))
def test_anti_aliased_pixels_are_clean_fids_pillow_ones(pair: tuple[int, int], mode: str) -> None:
    """Tolerance on noise: two grey levels at most, a tenth on average; both round to whole levels after each of two passes."""
    size, entry = pair
    batch = noise(2, size, size)
    ours = replace(GREY, height=entry, width=entry, mode=mode)(batch, CPU).permute(0, 2, 3, 1).numpy()
    pillow = make_resizer("PIL", True, mode, (entry, entry))
    reference = np.stack([pillow(image) for image in batch]).astype(float)
    assert np.abs(ours - reference).max() <= 2 and np.abs(ours - reference).mean() < 0.1
    exact = np.stack([make_resizer("PIL", False, mode, (entry, entry))(image) for image in batch])
    # What rounding costs is what it costs Pillow; a bicubic overshoot is cut off after the first pass too, but by floats not.
    assert np.abs(ours - exact).mean() < np.abs(reference - exact).mean() + 0.01


@laws
@given(st.integers(2, 40), st.integers(41, 130))
def test_averaging_over_areas_is_clean_fids(small: int, large: int) -> None:
    batch = noise(2, large, large)
    area = make_resizer("OpenCV", True, "area", (small, small))
    np.testing.assert_array_equal(resize_images(batch, small), [area(image) for image in batch])


def test_the_two_protocols_differ_where_an_image_shrinks_and_nowhere_else() -> None:
    stripes = np.zeros((1, 96, 96, 3), np.uint8)
    stripes[:, ::4] = 255  # finer than every other pixel of a third of the size
    plain, smooth = (replace(GREY, height=32, width=32, antialias=antialias)(stripes, CPU) for antialias in (False, True))
    assert float(plain.std()) > 5 * float(smooth.std())
    small = noise(3, 40)
    plain, smooth = (replace(GREY, height=48, width=48, antialias=antialias)(small, CPU) for antialias in (False, True))
    assert float((plain - smooth).abs().max()) < 1.1  # rounding after each of two passes
    plain, smooth = (replace(GREY, height=40, width=40, antialias=antialias)(small, CPU) for antialias in (False, True))
    assert torch.equal(plain, smooth)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of 48-pixel inputs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=48, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def write_table(folder: Path, count: int, size: int) -> Path:
    """An arm's PNGs of `size` pixels and its table."""
    images = patch_images(count, size, seed=5) // 2 + noise(count, size) // 2
    rows = []
    (folder / "arm/0/images").mkdir(parents=True)
    for number, image in enumerate(images):
        file = folder / f"arm/0/images/{number:06d}.png"
        Image.fromarray(image).save(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append({"number": number, "label": number % 2, "file": file.relative_to(folder), "sha256": digest})
    pd.DataFrame(rows).to_csv(folder / "arm.csv", index=False)
    return folder / "arm.csv"


def pixels_of(table: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(table.parent.glob("arm/0/images/*.png"))])


def run(folder: Path, vit: Path, images: Path, native: Path, size: int, **change: Any) -> list[Path]:
    outputs = [folder / f"{name}.npy" for name in ("embeddings", "matched", "paper")]
    arguments = {"revision": None, "batch_size": 4, "dtype": "float32", "device": "cpu", "threads": 1} | change
    extract_features(images, native, *outputs, size=size, kind="transformers", model=vit, **arguments)
    return outputs


def by_hand(vit: Path, images: np.ndarray, *, antialias: bool = True) -> np.ndarray:
    encoder = load_encoder(vit, None, device=CPU, dtype="float32")
    encoder = replace(encoder, preprocessing=replace(encoder.preprocessing, antialias=antialias))
    return np.concatenate([embed(encoder, images[i : i + 1]) for i in range(len(images))])


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[tuple[Path, Path, np.ndarray]]:
    """An arm of 192-pixel images, at a patch's 96 pixels and at its own size, and its pixels."""
    from histoprompt.patches import write_patches

    table = write_table(tmp_path, 6, 192)
    pixels = pixels_of(table)
    ids = [f"arm-{i:06d}" for i in range(6)]
    write_patches(tmp_path / "arm.h5", [(resize_images(pixels, 96), np.arange(6) % 2, ids)], classes=["a", "b"], size=96)
    yield tmp_path / "arm.h5", table, pixels


def test_a_generator_above_the_patch_size(tmp_path: Path, vit: Path, arm: tuple[Path, Path, np.ndarray]) -> None:
    images, table, pixels = arm
    embeddings, matched, paper = run(tmp_path, vit, images, table, 96)
    np.testing.assert_allclose(np.load(embeddings), by_hand(vit, resize_images(pixels, 96)), atol=1e-5)
    np.testing.assert_allclose(np.load(paper), by_hand(vit, pixels, antialias=False), atol=1e-5)
    assert matched.samefile(embeddings) and np.abs(np.load(paper) - np.load(matched)).max() > 1e-3


@pytest.mark.parametrize("shards", [2, 3])
def test_features_have_the_same_bytes_for_any_number_of_shards(
    tmp_path: Path, vit: Path, arm: tuple[Path, Path, np.ndarray], shards: int
) -> None:
    images, table, _ = arm
    whole = run(tmp_path, vit, images, table, 96)
    parts = []
    for number in range(shards):
        (tmp_path / str(number)).mkdir()
        parts.append(run(tmp_path / str(number), vit, images, table, 96, shard=(number, shards)))
    gathered = [tmp_path / f"gathered-{path.name}" for path in whole]
    gather_each(list(zip(*parts, strict=True)), gathered)
    assert [path.read_bytes() for path in gathered] == [path.read_bytes() for path in whole]
    assert gathered[0].samefile(gathered[1]) and not gathered[0].samefile(gathered[2])


def test_real_patches_keep_their_size_under_both_protocols(tmp_path: Path, vit: Path) -> None:
    images = write_patch_file(tmp_path / "test.h5", 6, 96)
    embeddings, matched, paper = run(tmp_path, vit, images, images, 96)
    assert matched.samefile(embeddings)
    np.testing.assert_allclose(np.load(paper), by_hand(vit, patch_images(6, 96), antialias=False), atol=1e-5)


def test_a_generator_below_the_patch_size_takes_real_patches_down_to_it(tmp_path: Path, vit: Path) -> None:
    real = write_patch_file(tmp_path / "test.h5", 6, 96)
    embeddings, matched, paper = run(tmp_path, vit, real, real, 32)
    np.testing.assert_allclose(np.load(matched), by_hand(vit, resize_images(patch_images(6, 96), 32)), atol=1e-5)
    np.testing.assert_allclose(np.load(embeddings), by_hand(vit, patch_images(6, 96)), atol=1e-5)
    np.testing.assert_allclose(np.load(paper), by_hand(vit, patch_images(6, 96), antialias=False), atol=1e-5)
    table = write_table(tmp_path, 6, 32)
    _, matched, paper = run(tmp_path, vit, real, table, 32)
    np.testing.assert_allclose(np.load(matched), by_hand(vit, pixels_of(table)), atol=1e-5)
    np.testing.assert_allclose(np.load(paper), by_hand(vit, pixels_of(table), antialias=False), atol=1e-5)


def test_what_needs_no_resizing_is_computed_once(tmp_path: Path, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    original = features.write_features
    monkeypatch.setattr(features, "write_features", lambda *a, **s: written.append(a) or original(*a, **s))
    images = write_patch_file(tmp_path / "test.h5", 6, 48)
    embeddings, matched, paper = run(tmp_path, vit, images, images, 48)
    assert len(written) == 1 and embeddings.samefile(matched) and embeddings.samefile(paper)
    # A second run replaces the files; it does not write into one that has two names.
    before = embeddings.read_bytes()
    run(tmp_path, vit, images, images, 48)
    assert paper.read_bytes() == before and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["bytes", "format", "absent", "size"])
def test_a_corrupt_png_is_named(tmp_path: Path, vit: Path, arm: tuple[Path, Path, np.ndarray], damage: str) -> None:
    images, table, _ = arm
    file = tmp_path / "arm/0/images/000004.png"
    if damage == "absent":
        file.unlink()
    elif damage == "size":
        Image.new("RGB", (64, 64)).save(file)
    else:
        file.write_bytes(file.read_bytes()[:-400])
    if damage in ("format", "size"):  # damaged when it was made: its digest is right
        listed = pd.read_csv(table)
        listed.loc[4, "sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        listed.to_csv(table, index=False)
    with pytest.raises(InputError) as caught:
        run(tmp_path, vit, images, table, 96)
    assert caught.value.where == str(file)
    expected = {"bytes": "SHA-256", "format": "no readable image", "absent": "no such file", "size": "64 x 64 pixels"}
    assert expected[damage] in caught.value.found
    assert not (tmp_path / "paper.npy").exists()


def test_a_table_of_other_classes_is_refused(arm: tuple[Path, Path, np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"(?s)arm\.csv.*labels 0 to 1.*labels 0 to 0: tissue"):
        ImageTable(arm[1], ["tissue"])


def test_all_image_sets_are_read_alike(arm: tuple[Path, Path, np.ndarray]) -> None:
    images, path, pixels = arm
    table = ImageTable(path, ["a", "b"])
    with PatchFile(images) as patches:
        small = at_most(table, 96)
        assert at_most(patches, 96) is patches and (table.size, small.size, len(small)) == (192, 96, 6)
        assert small.ids == patches.ids and small.labels.tolist() == patches.labels.tolist()
        np.testing.assert_array_equal(small.take([4, 1, 4]), patches.take([4, 1, 4]))
        np.testing.assert_array_equal(small.read(2, 9), patches.read(2, 9))
        for (start, part), (expected, whole) in zip(small.chunks(4), patches.chunks(4), strict=True):
            assert start == expected and np.array_equal(part, whole)
    np.testing.assert_array_equal(table.read(0, 6), pixels)
