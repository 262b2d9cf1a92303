"""The reader study is balanced, seeded, and says nothing of an image but its pixels."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from collections import Counter
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_files import noise, write_study
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from histoprompt.errors import InputError
from histoprompt.files import read_json
from histoprompt.patches import PatchFile, write_patches
from histoprompt.reader_study.make import PAGE, Drawn, check_reader_study, count_cells, deal, make_reader_study
from histoprompt.reader_study.order import fnv1a, mulberry32, presentation, shuffled
from histoprompt.reader_study.shares import check_shares


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    return write_study(tmp_path)


def part(page: str, element: str) -> str:
    """The content of a script element of the page."""
    found = re.findall(rf'<script[^>]* id="{element}">(.*?)</script>', page, flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def made(files: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], str]:
    make_reader_study(**files | changes)
    return read_json(files["key_json"]), Path(files["page_html"]).read_text()


def checked(files: dict[str, Any], needed_csv: Path, **changes: Any) -> pd.DataFrame:
    names = ("test_h5", "clusters_csv", "seed", "arms", "images", "blocks", "training")
    check_reader_study(needed_csv=needed_csv, **{name: (files | changes)[name] for name in names})
    return pd.read_csv(needed_csv)


# --- Balance -------------------------------------------------------------------------------------------------------------


def test_sources_arms_labels_and_blocks_are_balanced(study: dict[str, Any]) -> None:
    key, _ = made(study, images=40, blocks=4)
    main = [entry for entry in key["images"] if entry["part"] == "main"]
    training = [entry for entry in key["images"] if entry["part"] == "training"]
    assert Counter((e["source"], e["arm"], e["label"]) for e in main) == {
        **{("real", None, label): 10 for label in (0, 1)},
        **{("synthetic", arm, label): 5 for arm in ("label", "morphology") for label in (0, 1)},
    }
    blocks = Counter((e["block"], e["source"]) for e in main)
    assert blocks == {(block, source): 5 for block in range(4) for source in ("real", "synthetic")}
    assert all(2 <= n <= 3 for n in Counter((e["block"], e["label"]) for e in main if e["source"] == "real").values())
    assert Counter(e["source"] for e in training) == {"real": 2, "synthetic": 2}
    assert {(e["arm"], e["label"]) for e in training} in (
        {(None, 0), (None, 1), ("label", 0), ("morphology", 1)},
        {(None, 0), (None, 1), ("label", 1), ("morphology", 0)},
    )


def test_nothing_is_shown_twice_and_no_outlier_at_all(study: dict[str, Any]) -> None:
    key, _ = made(study, images=48)
    images = key["images"]
    assert len({e["image"] for e in images}) == len(images) == 52
    assert len({(e["file"], e["row"]) for e in images}) == 52
    assert all(e["row"] % 7 for e in images if e["source"] == "real")
    numbers = [e["row"] for e in images if e["source"] == "synthetic"]
    assert len(set(numbers)) == len(numbers), "image n of two arms begins from the same noise"


def test_the_key_knows_every_image(study: dict[str, Any]) -> None:
    key, page = made(study)
    pixels = base64.b64decode(part(page, "pixels"))
    shown = json.loads(part(page, "study"))
    places = {image: i for i, (image, side) in enumerate(shown["images"]) if side == 8}
    clusters = pd.read_csv(study["clusters_csv"]).set_index("row")["cluster"]
    files = dict(zip((f"samples/{arm}.h5" for arm in study["arms"]), study["samples_h5"], strict=True))
    files["patches/test.h5"] = study["test_h5"]
    assert len(pixels) == len(places) * 192 == len(key["images"]) * 192
    for entry in key["images"]:
        with PatchFile(files[entry["file"]]) as file:
            start = 192 * places[entry["image"]]
            assert pixels[start : start + 192] == file.take([entry["row"]]).tobytes()
            assert entry["label"] == file.labels[entry["row"]]
        if entry["source"] == "synthetic":
            assert entry["file"] == f"samples/{entry['arm']}.h5" and entry["cluster"] == entry["row"] % 5
        else:
            assert entry["arm"] is None and entry["cluster"] == clusters[entry["row"]]


@settings(deadline=None)
@given(
    arms=st.integers(1, 5),
    classes=st.integers(1, 5),
    factor=st.integers(1, 3),
    training=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_any_numbers_share_out_evenly(arms: int, classes: int, factor: int, training: int, seed: int) -> None:
    names = [f"arm{i}" for i in range(arms)]
    images = 2 * arms * classes * factor
    counts = count_cells(names, classes, images=images, training=2 * training, generator=np.random.default_rng(seed))
    for real, kinds in ((True, classes), (False, arms * classes)):
        own = {cell: n for cell, n in counts.items() if (cell.arm is None) == real}
        assert len(own) == kinds and {main for main, _ in own.values()} == {images // 2 // kinds}
        assert sum(extra for _, extra in own.values()) == training
        assert max(extra for _, extra in own.values()) - min(extra for _, extra in own.values()) <= 1
        labels = Counter(dict.fromkeys(range(classes), 0))
        for cell, (_, extra) in own.items():
            labels[cell.label] += extra
        assert max(labels.values()) - min(labels.values()) <= 1


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), blocks=st.integers(1, 7))
def test_a_cell_is_dealt_to_all_blocks(sizes: list[int], blocks: int) -> None:
    empty = np.zeros((1, 1, 3), np.uint8)
    cells = [[Drawn(f"{c}.{i}", empty, {}) for i in range(n)] for c, n in enumerate(sizes)]
    dealt = deal(cells, blocks)
    assert sorted(image.token for block in dealt for image in block) == sorted(i.token for cell in cells for i in cell)
    for members in [*cells, list(itertools.chain(*cells))]:
        names = {image.token for image in members}
        shares = [sum(image.token in names for image in block) for block in dealt]
        assert max(shares) - min(shares) <= 1


@settings(deadline=None)
@given(images=st.integers(1, 300), arms=st.integers(1, 4), classes=st.integers(0, 4), blocks=st.integers(1, 12))
def test_what_cannot_be_shared_out_is_refused_with_numbers_that_can(images: int, arms: int, classes: int, blocks: int) -> None:
    step = lcm(2 * arms * max(classes, 1), 2 * blocks)
    if images % step == 0:
        return check_shares("here", images, arms=arms, classes=classes, blocks=blocks)
    with pytest.raises(InputError, match=f"here(.|\n)*{images} images(.|\n)*a multiple of {step}") as caught:
        check_shares("here", images, arms=arms, classes=classes, blocks=blocks)
    for number in map(int, re.findall(r"\d+", caught.value.remedy)):
        check_shares("here", number, arms=arms, classes=classes, blocks=blocks)


# --- Seeds ---------------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bytes_and_another_gives_another_study(study: dict[str, Any]) -> None:
    key, page = made(study)
    assert made(study) == (key, page)
    other, other_page = made(study, seed=8)
    assert other["page"] != key["page"] and other_page != page
    assert not {e["image"] for e in key["images"]} & {e["image"] for e in other["images"]}
    rows = [{(e["file"], e["row"]) for e in k["images"]} for k in (key, other)]
    assert rows[0] != rows[1]


@pytest.mark.parametrize("change", [{"size": 321}, {"repeats": 2}, {"diagnosis": False}, {"study": "other"}, {"training": 2}])
def test_the_pages_name_follows_what_it_shows(study: dict[str, Any], change: dict[str, Any]) -> None:
    assert made(study)[0]["page"] != made(study, **change)[0]["page"]


# --- Order ---------------------------------------------------------------------------------------------------------------


def test_the_generators_are_the_published_ones() -> None:
    assert [fnv1a(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]
    draw = mulberry32(1)
    assert [draw() for _ in range(3)] == [2693262067, 11749833, 2265367787]


def some_key(page: str, blocks: list[int], repeats: int, training: int) -> dict[str, Any]:
    images = [{"image": f"t{i}", "part": "training", "block": -1} for i in range(training)]
    images += [{"image": f"{b}.{i}", "part": "main", "block": b} for b, n in enumerate(blocks) for i in range(n)]
    return {"page": page, "blocks": len(blocks), "repeats": min(repeats, sum(blocks)), "images": images}


@settings(deadline=None)
@given(
    page=st.text("0123456789abcdef", min_size=1),
    reader=st.text(min_size=1),
    blocks=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    repeats=st.integers(0, 50),
    training=st.integers(0, 6),
)
def test_every_reader_sees_every_image_once_and_repeats_late(
    page: str, reader: str, blocks: list[int], repeats: int, training: int
) -> None:
    key = some_key(page, blocks, repeats, training)
    order = presentation(key, reader)
    main = [p for p in order if p.part == "main"]
    assert order[:training] == [p for p in order if p.part == "training"]
    assert [p.image for p in order[:training]] == [f"t{i}" for i in range(training)]
    assert [p.position for p in order] == [*range(1, training + 1), *range(1, len(main) + 1)]
    first, again = [p.image for p in main if not p.repeat], [p.image for p in main if p.repeat]
    assert main[: len(first)] == [p for p in main if not p.repeat]
    assert sorted(first) == sorted(e["image"] for e in key["images"] if e["part"] == "main")
    assert len(again) == len(set(again)) == key["repeats"] and set(again) <= set(first)
    seen = [block for block, _ in itertools.groupby(image.split(".")[0] for image in first)]
    assert len(seen) == len(set(seen)), "a block is shown as a whole"
    if key["repeats"] <= len(first) // 2:
        assert all(len(first) + i - first.index(image) >= len(first) // 2 for i, image in enumerate(again))
    if reader == reader.strip().lower():
        assert presentation(key, f"  {reader} ") == order


def test_readers_differ_and_orders_are_uniform() -> None:
    key = some_key("0123456789abcdef", [6, 6], 2, 0)
    orders = [[p.image for p in presentation(key, f"reader-{i:02d}")] for i in range(2000)]
    assert len({tuple(order) for order in orders}) == 2000
    for place in (0, 5, 11):
        counts = Counter(order[place] for order in orders)
        assert len(counts) == 12 and max(abs(n - 2000 / 12) for n in counts.values()) < 4 * np.sqrt(2000 / 12 * 11 / 12)
    draw = mulberry32(5)
    permutations = Counter(tuple(shuffled([0, 1, 2], draw)) for _ in range(6000))
    assert len(permutations) == 6 and sum((n - 1000) ** 2 / 1000 for n in permutations.values()) < 20.5  # p = 0.001


# --- What the page gives away --------------------------------------------------------------------------------------------


def clues(page: str) -> dict[str, list[float]]:
    """Everything that the page says of each main image but its pixels."""
    shown = json.loads(part(page, "study"))
    places: dict[str, list[float]] = {}
    for block, images in enumerate(shown["blocks"]):
        for i, image in enumerate(images):
            places[image] = [block, i, page.index(image), page.rindex(image)]
    every = {image: (i, side) for i, (image, side) in enumerate(shown["images"])}
    return {image: [*clue, *every[image], *(int(digit, 16) for digit in image)] for image, clue in places.items()}


def detection(clue: np.ndarray, synthetic: np.ndarray, seed: int) -> float:
    model = RandomForestClassifier(50, min_samples_leaf=3, random_state=seed)
    return float(roc_auc_score(synthetic, cross_val_predict(model, clue, synthetic, cv=5, method="predict_proba")[:, 1]))


def test_nothing_but_pixels_tells_real_from_synthetic(tmp_path: Path) -> None:
    study = write_study(tmp_path, test=300, samples=160, full_size=8)
    found = []
    for seed in range(4):
        key, page = made(study, images=200, blocks=10, repeats=20, training=8, seed=seed)
        truth = {e["image"]: e["source"] == "synthetic" for e in key["images"] if e["part"] == "main"}
        values = np.array(list(clues(page).values()))
        synthetic = np.array([truth[image] for image in clues(page)])
        found.append(detection(values, synthetic, seed))
    assert abs(np.mean(found) - 0.5) < 0.06, found  # the mean of four deviates by 0.02
    # Would it see a leak? Real images a little more often in the first half of the page.
    values[:, 4] += 60 * synthetic
    assert detection(values, synthetic, 0) > 0.7


def test_the_page_holds_no_word_of_the_key(study: dict[str, Any]) -> None:
    key, page = made(study, study="s")
    shown = json.loads(part(page, "study"))
    assert set(shown) == {"page", "study", "classes", "diagnosis", "size", "display", "training", "blocks", "repeats", "images"}
    assert {side for _, side in shown["images"]} == {8}
    training = {e["image"] for e in key["images"] if e["part"] == "training"}
    assert {entry["image"] for entry in shown["training"]} == training
    assert not training & set(itertools.chain(*shown["blocks"]))
    assert all(set(entry) == {"image", "source", "label"} for entry in shown["training"])
    assert [image for image, _ in shown["images"]] == sorted(image for image, _ in shown["images"])
    text = part(page, "study")
    for secret in ("morphology", "test.h5", "samples", "cluster", "arm", "seed", "row"):
        assert secret not in text


def test_a_name_says_nothing_without_the_pixels(study: dict[str, Any]) -> None:
    """Names drawn from the seed alone could be drawn again by anybody who guesses it."""
    key, _ = made(study)
    for path in (study["test_h5"], *study["samples_h5"]):
        with PatchFile(path) as file:
            images, labels, ids = file.read(0, len(file)), file.labels, file.ids
        write_patches(path, [(255 - images, labels, ids)], classes=["healthy", "cancer"], size=8)
    other, _ = made(study)
    by_row = [{(e["file"], e["row"]): e["image"] for e in k["images"]} for k in (key, other)]
    assert by_row[0].keys() == by_row[1].keys() and not set(by_row[0].values()) & set(by_row[1].values())


def test_the_page_is_one_file_that_can_ask_for_nothing(study: dict[str, Any]) -> None:
    _, page = made(study)
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[0])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    script = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert len(script) == len(style) == 1

    def digest(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "script-src": digest(script[0]),
        "style-src": digest(style[0]),
        "img-src": "data: blob:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "require-trusted-types-for": "'script'",
    }
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", page)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp", script[0])
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_names_from_the_data_are_never_markup(tmp_path: Path) -> None:
    hostile = ('</script><script>alert("&amp;")</script>', "<!--<script>${title}")
    study = write_study(tmp_path, classes=hostile)
    key, page = made(study)
    assert page.count("<script") == 4 and page.count("</script>") == 4
    assert json.loads(part(page, "study"))["classes"] == key["classes"] == list(hostile)


def test_two_hundred_patches_are_ten_megabytes_at_most(tmp_path: Path) -> None:
    study = write_study(tmp_path, test=300, samples=130, size=96, full_size=8)
    made(study, images=200, blocks=10, repeats=20, training=8)
    assert Path(study["page_html"]).stat().st_size < 10e6


def test_the_native_display_keeps_the_generators_size(study: dict[str, Any], tmp_path: Path) -> None:
    key, page = made(study, display="native")
    sides = dict(json.loads(part(page, "study"))["images"])
    assert {(e["source"], sides[e["image"]]) for e in key["images"]} == {("real", 8), ("synthetic", 16)}
    pixels = base64.b64decode(part(page, "pixels"))
    assert len(pixels) == sum(3 * side**2 for side in sides.values())
    entry = next(e for e in key["images"] if e["arm"] == "label")
    start = sum(3 * side**2 for image, side in sides.items() if image < entry["image"])
    assert pixels[start : start + 768] == noise(80, 16, len("label"))[entry["row"]].tobytes()
    (tmp_path / f"label/{entry['row']}.png").write_bytes(b"other")
    with pytest.raises(InputError, match=r"(?s)label/\d+\.png.*SHA-256"):
        made(study, display="native")


def test_the_text_has_the_same_fields_as_the_program() -> None:
    """Every text that the program asks for is there, and none that it does not."""
    texts = json.loads((PAGE / "text.json").read_text())
    program = "".join(path.read_text() for path in PAGE.glob("*.js")) + (PAGE / "index.html").read_text()
    patterned = {
        "confidence_1",
        "confidence_2",
        "confidence_3",
        "confidence_4",
        "confidence_5",
        "source_real",
        "source_synthetic",
    }
    assert {name for name in texts if not re.search(rf"\b{name}\b", program)} == patterned
    asked = set(re.findall(r'\bsay\("(\w+)"', program)) | set(re.findall(r"\bwords\.(\w+)", program))
    assert asked <= set(texts)


def test_what_is_needed_is_known_before_any_image_is_made(study: dict[str, Any], tmp_path: Path) -> None:
    table = checked(study, tmp_path / "needed.csv")
    shown = pd.DataFrame(made(study)[0]["images"])
    shown = shown[shown["source"] == "real"].groupby("label").size()
    assert table["needed"].tolist() == shown.tolist() and table["class"].tolist() == ["healthy", "cancer"]
    assert table["there"].tolist() == pd.read_csv(study["clusters_csv"]).groupby("label").size().tolist()


# --- Bad input -----------------------------------------------------------------------------------------------------------


def test_images_of_the_same_pixels_are_drawn_once(study: dict[str, Any]) -> None:
    with PatchFile(study["test_h5"]) as file:
        images, labels, ids = file.read(0, len(file)), file.labels, file.ids
    images[8:] = images[:8].repeat(9, axis=0)
    write_patches(study["test_h5"], [(images, labels, ids)], classes=["healthy", "cancer"], size=8)
    with pytest.raises(InputError, match="different images of label"):
        made(study)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 12}, r"reader_study\.images(.|\n)*12 images, for 2 arms, 2 classes and 2 blocks(.|\n)*a multiple of 8"),
        ({"images": 16, "blocks": 3}, r"a multiple of 24"),
        ({"images": 160}, r"test\.h5\n(.|\n)*different images of label \d that passed the outlier filter(.|\n)*at least 41"),
    ],
)
def test_too_few_images_are_refused(study: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        made(study, **changes)
    with pytest.raises(InputError, match=message):
        checked(study, tmp_path / "needed.csv", **changes)
    assert not (tmp_path / "needed.csv").exists()
    assert not Path(study["page_html"]).exists() and not Path(study["key_json"]).exists()


def test_too_few_synthetic_images_are_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path, samples=12)
    with pytest.raises(InputError, match=r"morphology\.h5\n(.|\n)*numbers no other arm's(.|\n)*generator\.sampling\.images"):
        made(study, images=24)


def test_a_class_without_kept_patches_is_refused(study: dict[str, Any]) -> None:
    table = pd.read_csv(study["clusters_csv"])
    table[table["label"] == 0].to_csv(study["clusters_csv"], index=False)
    with pytest.raises(InputError, match=r"test\.h5\n(.|\n)*0 different images of label 1"):
        made(study)


def test_files_that_do_not_belong_together_are_refused(study: dict[str, Any]) -> None:
    table = pd.read_csv(study["clusters_csv"])
    for wrong in (table.assign(label=1 - table["label"]), table.assign(row=table["row"] + 40)):
        wrong.to_csv(study["clusters_csv"], index=False)
        with pytest.raises(InputError, match=r"clusters\.csv\n(.|\n)*not those of"):
            made(study)
    table.to_csv(study["clusters_csv"], index=False)
    np.save(study["features_npy"][1], np.zeros((79, 5), np.float32))
    with pytest.raises(InputError, match=r"morphology\.npy\n(.|\n)*79 rows(.|\n)*80, as"):
        made(study)
