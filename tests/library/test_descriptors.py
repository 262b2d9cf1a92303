"""What is measured in a patch, its words, and whether images show them."""

import json
import time
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.color import rgb2hed

from histoprompt.descriptors import (
    coarseness,
    describe_images,
    measure_patches,
    nuclear_areas,
    separate_haematoxylin_and_eosin,
)
from histoprompt.errors import InputError
from histoprompt.intervals import roc_auc
from histoprompt.metrics import chance_agreement
from histoprompt.patches import write_patches
from histoprompt.phantom import generate
from histoprompt.phantom.morphologies import MORPHOLOGIES
from histoprompt.vocabulary import DESCRIPTORS, Scale, bin_descriptors, bins_of_rows, equal_bins, phrases_of, read_vocabulary
from histoprompt.wording import compare_descriptors, summarise_descriptors

HAEMATOXYLIN, EOSIN = (np.array(stain) / np.linalg.norm(stain) for stain in ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)))


def stained(haematoxylin, eosin):
    """A picture of these amounts of the two stains, by Beer and Lambert's law."""
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.rint(255 * np.exp(-density)).astype(np.uint8)


def discs(centres, radius, size=96):
    y, x = np.mgrid[:size, :size]
    return np.any([np.hypot(y - cy, x - cx) <= radius for cy, cx in centres], axis=0)


@pytest.fixture(scope="module")
def phantom():
    """Images of the phantom, their descriptors, their morphologies, and the mean amounts (N, 2) of both stains drawn."""
    truth = []

    def scan(pigments, slide, grain):
        truth.append(pigments.mean(axis=(1, 2))[:2] * np.linalg.norm(slide.absorption, axis=0)[:2])
        return phantom_scan(pigments, slide, grain)

    phantom_scan = generate.scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "scan", scan)
        parts = list(generate.phantom_batches(400, domain="study", split="train", slides=24, seed=5))
    images = np.concatenate([part.images for part in parts])
    kinds = np.array(MORPHOLOGIES)[np.concatenate([part.morphology for part in parts])]
    return images, pd.DataFrame(measure_patches(images), columns=list(DESCRIPTORS)), kinds, np.array(truth)


def test_deconvolution_gives_the_amounts_back():
    generator = np.random.default_rng(0)
    haematoxylin, eosin = generator.uniform(0, 1.2, (2, 40, 40))
    found = separate_haematoxylin_and_eosin(stained(haematoxylin, eosin))
    assert np.abs(found[..., 0] - haematoxylin).max() < 0.05 and np.abs(found[..., 1] - eosin).max() < 0.05
    assert (separate_haematoxylin_and_eosin(np.full((2, 2, 3), 255, np.uint8)) == 0).all()


def test_a_black_pixel_counts_no_more_than_the_darkest_grey():
    black = separate_haematoxylin_and_eosin(np.zeros((1, 3), np.uint8))
    assert np.array_equal(black, separate_haematoxylin_and_eosin(np.ones((1, 3), np.uint8)))


def test_amounts_rank_as_the_phantoms_pigments_do_and_better_than_with_a_third_stain(phantom):
    images, measured, _, truth = phantom
    third = np.array([rgb2hed(np.maximum(image, 1))[..., :2].mean(axis=(0, 1)) for image in images])
    for stain, (name, least) in enumerate({"haematoxylin": 0.93, "eosin": 0.68}.items()):
        rank, rank_third = (spearmanr(values, truth[:, stain])[0] for values in (measured[name], third[:, stain]))
        assert rank > least and rank > rank_third


def test_nuclei_are_counted_and_measured():
    apart = [(y, x) for y in (20, 48, 76) for x in (20, 48, 76)]
    for radius in (3.0, 5.0, 7.0):
        areas = nuclear_areas((1.6 * discs(apart, radius)).astype(np.float32))
        assert len(areas) == 9 and abs(np.sqrt(np.median(areas) / np.pi) - radius) < 0.5  # pixels
    touching = nuclear_areas((1.6 * discs([(48, 40), (48, 51)], 6.0)).astype(np.float32))
    assert len(touching) == 2 and touching[0] == pytest.approx(touching[1], rel=0.05)


def test_no_nuclei_where_nothing_is_dense():
    noise = np.random.default_rng(0).uniform(0, 0.5, (96, 96)).astype(np.float32)
    assert len(nuclear_areas(noise)) == len(nuclear_areas(np.zeros((96, 96), np.float32))) == 0
    row = dict(zip(DESCRIPTORS, measure_patches(np.full((1, 96, 96, 3), 255, np.uint8))[0], strict=True))
    assert row["cellularity"] == row["nuclear_size"] == row["haematoxylin"] == row["eosin"] == 0


def test_texture_is_the_size_of_grains_and_not_the_contrast():
    generator = np.random.default_rng(0)

    def grains(size, strength):
        field = np.kron(generator.choice([-1, 1], (96 // size, 96 // size)), np.ones((size, size)))
        return (128 + strength * field).astype(np.uint8)

    sizes = [coarseness(grains(size, 60)) for size in (2, 8, 16, 32)]
    assert sizes == sorted(sizes) and abs(sizes[0]) < 0.1 and sizes[-1] > 0.7
    fields = np.kron(generator.choice([-1, 1], (12, 12)), np.ones((8, 8)))
    strong, weak = ((128 + strength * fields).astype(np.uint8) for strength in (80, 40))
    assert coarseness(strong) == pytest.approx(coarseness(weak))


def test_the_phantoms_morphologies_are_told_as_they_are_drawn(phantom):
    _, measured, kinds, _ = phantom
    order = measured["cellularity"].groupby(kinds).median().sort_values()
    assert set(order.index[:3]) == {"background", "adipose", "blood"} and set(order.index[-2:]) == {"mixed", "lymphocytes"}
    dense = pd.Series(kinds).map({"background": 0, "adipose": 0, "stroma": 1, "solid": 2, "lymphocytes": 3})
    known = dense.notna().to_numpy()
    assert spearmanr(dense[known], measured["cellularity"][known])[0] > 0.85
    tumour, lymphocytes = (measured["nuclear_size"][kinds == kind] for kind in ("solid", "lymphocytes"))
    assert roc_auc(tumour, lymphocytes) > 0.9
    eosin = measured["eosin"].groupby(kinds).median().sort_values()
    assert set(eosin.index[:2]) == {"background", "adipose"} and eosin.index[-1] == "necrosis"


def test_descriptors_say_different_things(phantom):
    table = phantom[1].corr(method="spearman").abs().to_numpy()
    assert table[~np.eye(len(DESCRIPTORS), dtype=bool)].max() < 0.85


def test_a_hundred_patches_a_second(phantom):
    images = phantom[0][:100]
    started = time.process_time()
    measure_patches(images)
    assert time.process_time() - started < 1


def test_tables_of_descriptors_do_not_depend_on_chunks(phantom, tmp_path):
    images, measured, *_ = phantom
    write_patches(tmp_path / "p.h5", [(images[:70], [0] * 70, list(map(str, range(70))))], classes=["a", "b"], size=96)
    describe_images(tmp_path / "p.h5", tmp_path / "d.csv")
    first = (tmp_path / "d.csv").read_bytes()
    assert np.allclose(pd.read_csv(tmp_path / "d.csv"), measured[:70], atol=1e-5)
    describe_images(tmp_path / "p.h5", tmp_path / "d.csv")
    assert (tmp_path / "d.csv").read_bytes() == first


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=60, unique=True), count=st.integers(2, 4))
def test_bins_hold_equally_many(values, count):
    scale = Scale(tuple("abcd"[:count]), equal_bins(values, count))
    counts = np.bincount(scale.bins(values), minlength=count)
    assert len(counts) == count and np.ptp(counts) <= 1
    order = np.argsort(values)
    assert (np.diff(scale.bins(values)[order]) >= 0).all()


WORDS = {"cellularity": ["few", "some", "many"], "eosin": ["pale", "dark"]}


@pytest.fixture
def binned(tmp_path):
    """Descriptors of ten training patches, of which nine are kept, and of four images."""
    values = np.arange(10.0)
    train = pd.DataFrame(dict.fromkeys(DESCRIPTORS, values)).assign(eosin=values[::-1])
    train.to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"kept": [True] * 9 + [False]}).to_csv(tmp_path / "kept.csv", index=False)
    bin_descriptors(tmp_path / "train.csv", tmp_path / "kept.csv", tmp_path / "descriptors.json", words=WORDS)
    return tmp_path


def test_bins_are_fitted_on_kept_patches_and_written(binned):
    content = json.loads((binned / "descriptors.json").read_text())
    assert list(content) == ["cellularity", "eosin"]
    assert content["cellularity"]["patches"] == [3, 3, 3] and sum(content["eosin"]["patches"]) == 9
    assert content["cellularity"]["edges"] == pytest.approx(np.quantile(np.arange(9.0), [1 / 3, 2 / 3]))
    vocabulary = read_vocabulary(binned / "descriptors.json")
    phrases = phrases_of(bins_of_rows(binned / "train.csv", vocabulary, [0, 9, 4]), vocabulary)
    assert phrases == ["few, dark", "many, pale", "some, dark"]


def test_too_few_values_for_the_bins_and_absent_rows(binned):
    train = pd.read_csv(binned / "train.csv").assign(cellularity=[1.0] * 9 + [2.0])
    train.to_csv(binned / "flat.csv", index=False)
    with pytest.raises(InputError, match="1 different values in 9 kept training patches") as caught:
        bin_descriptors(binned / "flat.csv", binned / "kept.csv", binned / "x.json", words=WORDS)
    assert caught.value.where == "config key `descriptors.cellularity`" and not (binned / "x.json").exists()
    train[:4].to_csv(binned / "short.csv", index=False)
    with pytest.raises(InputError, match="4 rows"):
        bin_descriptors(binned / "short.csv", binned / "kept.csv", binned / "x.json", words=WORDS)
    with pytest.raises(InputError, match="a row 7"):
        bins_of_rows(binned / "short.csv", read_vocabulary(binned / "descriptors.json"), [7])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 6))
def test_chance_is_the_mean_over_all_permutations_within_labels(data, size):
    asked, measured, labels = (
        np.array(data.draw(st.lists(st.integers(0, high), min_size=size, max_size=size))) for high in (2, 2, 1)
    )
    shares = [
        np.mean(asked[list(order)] == measured) for order in permutations(range(size)) if (labels[list(order)] == labels).all()
    ]
    assert chance_agreement(asked, measured, labels) == pytest.approx(np.mean(shares))


def compared(folder, images, rows, **changes):
    pd.DataFrame({"number": range(len(rows)), "label": np.arange(len(rows)) % 2, "row": rows}).to_csv(
        folder / "asked.csv", index=False
    )
    images.to_csv(folder / "images.csv", index=False)
    arguments = {"name": "descriptor", "named": True} | changes
    compare_descriptors(
        folder / "asked.csv",
        folder / "images.csv",
        folder / "train.csv",
        folder / "descriptors.json",
        folder / f"{arguments['name']}.json",
        **arguments,
    )
    return json.loads((folder / f"{arguments['name']}.json").read_text())


def test_fidelity_is_the_share_of_images_in_the_bin_asked_for(binned):
    train = pd.read_csv(binned / "train.csv")
    rows = [0, 4, 8, 8]
    same = compared(binned, train.iloc[rows], rows, name="same")["descriptors"]
    assert [entry["fidelity"]["value"] for entry in same.values()] == [1, 1, 1]
    assert same["cellularity"]["counts"] == [[1, 0, 0], [0, 1, 0], [0, 0, 2]]
    # Two images have the cellularity of another patch, one of them also its eosin.
    other = train.iloc[rows].reset_index(drop=True)
    other.loc[0, "cellularity"], other.loc[3, ["cellularity", "eosin"]] = 8.0, [0.0, 9.0]
    found = compared(binned, other, rows)["descriptors"]
    values = {name: entry["fidelity"]["value"] for name, entry in found.items()}
    assert values == {"cellularity": 0.5, "eosin": 0.75, "all": 0.5}
    assert found["cellularity"]["counts"] == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    # Label 0 asks for bins 0 and 2 and shows 2 and 2: a half by chance; label 1 asks for 1 and 2 and shows 1 and 0: a quarter.
    assert found["cellularity"]["floor"] == pytest.approx((0.5 + 0.25) / 2)
    summarise_descriptors(
        [binned / "same.json", binned / "descriptor.json"],
        binned / "t.csv",
        binned / "t.md",
        study="tiny",
        titles={"same": "same: a mirror"},
    )
    table = pd.read_csv(binned / "t.csv")
    assert len(table) == 6 and table["floor"].between(0, 1).all()
    text = (binned / "t.md").read_text()
    assert "Study tiny" in text and "same: a mirror" in text and "0.500 [0.150, 0.850] / 0.375" in text
    assert "- `cellularity`: few, some, many." in text


def test_images_that_nobody_asked_for(binned):
    with pytest.raises(InputError, match="3 images"):
        compared(binned, pd.read_csv(binned / "train.csv")[:3], [0, 1])
