from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from histoprompt.errors import InputError
from histoprompt.outliers import measure_patch
from histoprompt.patches import SPLITS, PatchFile
from histoprompt.phantom import MORPHOLOGIES, STAIN_NAMES, PhantomBatch, make_phantom, phantom_batches
from histoprompt.phantom.generate import DOMAINS, SLIDE, _generator
from histoprompt.phantom.stains import STAINS, Slide, beer_lambert, draw_slide, scan
from histoprompt.phantom.textures import build_bank

TUMOUR = ("solid", "infiltrating", "cribriform", "mixed")
THRESHOLDS = {
    "value_mean": 70,
    "saturation_mean": 3,
    "value_std": 4,
    "saturation_std": 4,
    "hue_std": 1.5,
    "laplacian_variance": 100,
    "contours": 10,
}
REAL = Path(__file__).parents[3] / "shared/data/pcam_mini/camelyonpatch_level_2_split_train_x.h5"


def draw(count: int, **changes) -> PhantomBatch:
    """All patches in one batch."""
    arguments = {"domain": "study", "split": "train", "slides": 14, "seed": 5, "batch": count} | changes
    (batch,) = phantom_batches(count, **arguments)
    return batch


@dataclass
class Sample:
    batch: PhantomBatch
    kinds: np.ndarray


@pytest.fixture(scope="module")
def sample() -> Sample:
    batch = draw(1000)
    return Sample(batch, np.array(MORPHOLOGIES)[batch.morphology])


@settings(max_examples=6, deadline=None)
@given(start=st.integers(0, 40), count=st.integers(1, 9), batch=st.integers(1, 7))
def test_a_patch_depends_on_its_number_alone(sample: Sample, start: int, count: int, batch: int) -> None:
    parts = list(phantom_batches(count, domain="study", split="train", slides=14, seed=5, start=start, batch=batch))
    assert [part.start for part in parts] == list(range(start, start + count, batch))
    for name in ("images", "labels", "morphology", "slide", "tumour"):
        drawn = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(drawn, getattr(sample.batch, name)[start : start + count]), name


def test_label_is_tumour_in_the_central_square(sample: Sample) -> None:
    batch = sample.batch
    centre = batch.tumour[:, 32:64, 32:64]
    assert np.array_equal(batch.labels, centre.any(axis=(1, 2)))
    missed = batch.tumour.any(axis=(1, 2)) & (batch.labels == 0)
    assert 0.02 < missed.mean() < 0.15  # tumour off the centre is label 0, and such patches are drawn
    assert not batch.tumour[~np.isin(sample.kinds, TUMOUR)].any()


def test_labels_are_about_even_and_every_morphology_comes(sample: Sample) -> None:
    assert 0.46 < sample.batch.labels.mean() < 0.54
    assert len(MORPHOLOGIES) >= 11
    counts = pd.Series(sample.kinds).value_counts()
    assert set(counts.index) == set(MORPHOLOGIES)
    assert counts.min() >= 0.02 * len(sample.kinds)


def test_tumour_shows_by_its_structure(sample: Sample) -> None:
    """Within every slide alike, tumour pixels hold more haematoxylin than stroma: they absorb more red light."""
    batch = sample.batch
    red = batch.images[..., 0].mean(axis=(1, 2))
    contrasts = [
        red[(batch.slide == slide) & (sample.kinds == "stroma")].mean()
        - red[(batch.slide == slide) & (sample.kinds == "solid")].mean()
        for slide in range(14)
    ]
    assert np.mean(np.array(contrasts) > 0) > 0.9


def test_stain_tells_nothing_about_label_or_morphology(sample: Sample) -> None:
    for truth in (sample.batch.labels, sample.batch.morphology):
        table = pd.crosstab(np.array(sample.batch.stain), truth)
        assert chi2_contingency(table).pvalue > 0.01
    assert set(sample.batch.stain) == set(STAIN_NAMES)


def test_no_slide_is_in_two_splits_or_domains() -> None:
    slides = [
        draw_slide(number, _generator(SLIDE, domain, seed, split, number)).absorption.tobytes()
        for domain in DOMAINS.values()
        for seed in (0, 1)
        for split in range(len(SPLITS))
        for number in range(20)
    ]
    assert len(set(slides)) == len(slides)


def test_domains_share_no_texture_and_splits_no_patch() -> None:
    study, foundation = (build_bank(word) for word in DOMAINS.values())
    for name, field in study.fields.items():
        assert abs(np.corrcoef(field.ravel(), foundation.fields[name].ravel())[0, 1]) < 0.2, name
    drawn = [
        image.tobytes()
        for domain in DOMAINS
        for split in SPLITS
        for seed in (0, 1)
        for image in draw(4, domain=domain, split=split, seed=seed).images
    ]
    assert len(set(drawn)) == len(drawn)


def test_beer_lambert_of_uniform_tissue() -> None:
    slide = draw_slide(0, np.random.default_rng(0))
    amounts = np.array([0.4, 0.7, 0.1], np.float32)
    pigments = np.broadcast_to(amounts[:, None, None], (3, 20, 20)).copy()
    expected = slide.white * np.exp(-slide.absorption.astype(np.float64) @ amounts)
    light = beer_lambert(pigments, slide.absorption, slide.white)
    assert np.allclose(light, expected[:, None, None], rtol=1e-5)
    thick = beer_lambert(2 * pigments, slide.absorption, slide.white)
    assert np.allclose(thick * slide.white[:, None, None], light**2, rtol=1e-4)  # twice the tissue, transmittance squared
    image = scan(pigments, slide, np.zeros((20, 20), np.float32))
    assert np.abs(image - expected).max() <= 0.51  # blur, sharpening and no noise leave an even picture alone


def test_styles_take_turns_and_keep_their_direction() -> None:
    glass: list[Slide] = [draw_slide(number, np.random.default_rng(number)) for number in range(14)]
    assert [slide.stain for slide in glass] == list(STAIN_NAMES) * 2
    for slide in glass:
        for column, dye in enumerate((STAINS[slide.stain].haematoxylin, STAINS[slide.stain].eosin)):
            cosine = slide.absorption[:, column] @ dye / np.linalg.norm(slide.absorption[:, column]) / np.linalg.norm(dye)
            assert cosine > 0.98


def test_good_tissue_passes_the_outlier_filter(sample: Sample) -> None:
    dropped = np.array(
        [any(measure_patch(image)[name] < low for name, low in THRESHOLDS.items()) for image in sample.batch.images]
    )
    assert dropped[sample.kinds != "background"].mean() < 0.01
    assert dropped[sample.kinds == "background"].mean() < 0.4


@pytest.mark.skipif(not REAL.is_file(), reason="the sample of real PCam patches is not beside this checkout")
def test_colours_span_those_of_real_patches(sample: Sample) -> None:
    with h5py.File(REAL) as file:
        real = file["x"][::20].mean(axis=(1, 2))
    phantom = sample.batch.images.mean(axis=(1, 2))
    low, high = np.percentile(phantom, [0.5, 99.5], axis=0)
    inside = ((real >= low - 8) & (real <= high + 8)).all(axis=1)
    assert inside.mean() > 0.85
    violet = [(colours[:, 2] - colours[:, 0] > 10).mean() for colours in (real, phantom)]
    assert min(violet) > 0.1


def test_files_of_a_split(tmp_path: Path) -> None:
    def make(folder: str) -> tuple[bytes, bytes]:
        patches, table = tmp_path / folder / "valid.h5", tmp_path / folder / "valid.csv"
        make_phantom(patches, table, split="valid", patches=70, slides=3, seed=9, patch_size=48, classes=["healthy", "cancer"])
        return patches.read_bytes(), table.read_bytes()

    assert make("a") == make("b")
    table = pd.read_csv(tmp_path / "a/valid.csv")
    assert list(table.columns) == ["id", "label", "slide", "morphology", "stain"]
    truth = draw(70, split="valid", slides=3, seed=9, size=48)
    with PatchFile(tmp_path / "a/valid.h5") as file:
        assert file.classes == ("healthy", "cancer")
        assert np.array_equal(file.read(0, 70), truth.images)
        assert file.ids == table["id"].tolist()
        assert np.array_equal(file.labels, table["label"])
    assert np.array_equal(table["label"], truth.labels)
    assert table["morphology"].tolist() == [MORPHOLOGIES[k] for k in truth.morphology]
    assert table["id"][69] == "phantom-9-valid-000069"
    assert set(table["slide"]) == {"valid-00", "valid-01", "valid-02"}
    assert table.groupby("slide")["stain"].nunique().max() == 1


@pytest.mark.parametrize("size", [48, 96, 200])
def test_any_size_in_range(size: int) -> None:
    batch = draw(8, size=size)
    assert batch.images.shape == (8, size, size, 3)
    assert batch.images.std(axis=(1, 2, 3)).max() > 10


@pytest.mark.parametrize(
    ("changes", "part", "expected"),
    [
        ({"domain": "clinic"}, "domain", "one of ['study', 'foundation']"),
        ({"split": "dev"}, "split", "one of ['train', 'valid', 'test']"),
        ({"slides": 0}, "slides", "at least 1"),
        ({"seed": -1}, "seed", "0 or more"),
        ({"size": 20}, "patch_size", "48 to 256 pixels"),
        ({"size": 600}, "patch_size", "48 to 256 pixels"),
        ({"start": -3}, "start", "0 or more"),
        ({"batch": 0}, "batch", "at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict, part: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        draw(4, **changes)
    assert part in caught.value.where
    assert str(next(iter(changes.values()))) in caught.value.found
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("patches", "classes", "where"), [(0, ["healthy", "cancer"], "patches"), (4, ["a", "b", "c"], "classes")]
)
def test_bad_study_writes_nothing(tmp_path: Path, patches: int, classes: list[str], where: str) -> None:
    with pytest.raises(InputError) as caught:
        make_phantom(
            tmp_path / "x.h5",
            tmp_path / "x.csv",
            split="test",
            patches=patches,
            slides=2,
            seed=1,
            patch_size=96,
            classes=classes,
        )
    assert where in caught.value.where
    assert not any(tmp_path.iterdir())
