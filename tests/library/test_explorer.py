"""The explorer shows every image as what it is, and holds its limits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from explorer_files import CLUSTERS, NEAR, colours, write_explored
from PIL import Image

import histoprompt.explorer.make as explorer
from histoprompt.errors import InputError
from histoprompt.explorer.make import cell_of, make_explorer, sheet_of
from histoprompt.files import folder_manifest
from histoprompt.patches import PatchFile, write_patches
from histoprompt.subset import draw_sample


def shown(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the page reads."""
    text = arguments["page_html"].read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def picture(arguments: dict[str, Any], data: dict[str, Any], name: str, place: int) -> np.ndarray:
    """A picture as the page cuts it from its sheet."""
    sheet = Image.open(arguments["sheets_folder"] / f"{name}-{place // 64}.webp").convert("RGB")
    top, left = (data["cell"] * at + data["margin"] for at in divmod(place % 64, data["sheetColumns"]))
    return np.asarray(sheet)[top : top + data["side"], left : left + data["side"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    arguments = write_explored(tmp_path_factory.mktemp("study"))
    make_explorer(**arguments)
    return arguments


def test_every_picture_is_that_of_its_image(study: dict[str, Any]) -> None:
    data = shown(study)
    assert [part["name"] for part in data["sets"]] == ["real", "label", "morphology"]
    for part in data["sets"]:
        with PatchFile(study["images"][part["name"]]) as file:
            pixels = file.read(0, len(file))
        numbers = part["images"]["number"]
        assert sorted(numbers) == list(range(90))
        for place, number in enumerate(numbers):
            cut = picture(study, data, part["name"], place).astype(int)
            assert np.abs(cut - pixels[number]).max() <= 6  # of 15 between two colours
    with PatchFile(study["train_h5"]) as file:
        for place, row in enumerate(data["training"]["row"]):
            assert np.abs(picture(study, data, "train", place).astype(int) - file.read(row, row + 1)[0]).max() <= 6


def test_every_image_is_told_as_its_tables_tell_it(study: dict[str, Any]) -> None:
    data = shown(study)
    places = pd.read_csv(study["map_csv"])
    for part in data["sets"]:
        name, images = part["name"], part["images"]
        table = pd.read_csv(study["tables"][name]).loc[images["number"]]
        assert images["label"] == table["label"].tolist() and images["asked"] == table["cluster"].tolist()
        on_map = places[places["images"] == name].set_index("number").loc[images["number"]]
        assert images["x"] == on_map["x"].tolist() and images["y"] == on_map["y"].tolist()
        assert list(zip(images["label"], images["asked"], images["number"], strict=True)) == sorted(
            zip(images["label"], images["asked"], images["number"], strict=True)
        )
        if name == "real":
            assert (images["row"], images["id"]) == (table["row"].tolist(), table["id"].tolist())
            assert images["found"] == images["asked"] and part["near"] is None
            continue
        expected = np.load(study["features"][name])[images["number"]].argmax(axis=1)
        assert images["found"] == expected.tolist() != images["asked"]
        assert [data["prompts"][place] for place in images["prompt"]] == table["prompt"].tolist()
        assert images["seed"] == [str(2**62 + 2 * number + 1) for number in images["number"]]
        assert images["file"] == table["file"].tolist()
        nearest = pd.read_csv(study["nearest"][name]).loc[images["number"]]
        assert [data["training"]["row"][place] for place in images["nearest"]] == nearest["train_row"].tolist()
        assert images["distance"] == nearest["distance"].round(4).tolist()
        assert images["heldOutNearer"] == nearest["held_out_nearer"].round(4).tolist()
        assert (part["near"], part["space"], part["namesCluster"]) == (NEAR, "dino", name == "morphology")
    assert data["sets"][1]["title"] == "label: prompts of the class" and data["sets"][2]["title"] == "morphology"
    train = pd.read_csv(study["train_csv"]).set_index("row").loc[data["training"]["row"]]
    assert data["training"]["id"] == train["id"].tolist() and data["training"]["cluster"] == train["cluster"].tolist()
    assert len(data["heldOut"]["x"]) == 50


def test_a_cluster_is_shown_by_the_patch_nearest_to_its_centre(study: dict[str, Any]) -> None:
    data, train = shown(study), pd.read_csv(study["train_csv"])
    rows = [None if place is None else data["training"]["row"][place] for place in data["examples"]]
    expected = train.loc[train.groupby("cluster")["distance"].idxmin()].set_index("cluster")["row"]
    assert rows == [*expected.tolist(), None]


def test_the_same_files_make_the_same_bytes(study: dict[str, Any], tmp_path: Path) -> None:
    page, sheets = tmp_path / "explorer/index.html", tmp_path / "explorer/sheets"
    make_explorer(**study | {"page_html": page, "sheets_folder": sheets})
    assert folder_manifest(page.parent) == folder_manifest(study["page_html"].parent)
    assert set(folder_manifest(page.parent)) == {"index.html", *(f"sheets/{p.name}" for p in sheets.iterdir())}


def test_the_policy_names_what_runs_and_nothing_else(study: dict[str, Any]) -> None:
    text = study["page_html"].read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy is not None and policy[1].startswith("default-src 'none'; ") and "unsafe" not in policy[1]
    assert "http" not in policy[1] and "connect-src 'none'" in policy[1]
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        for content in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{directive} 'sha256-{digest}'" in policy[1]
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)


def test_hostile_words_stay_text(tmp_path: Path) -> None:
    hostile = '</script><img src=x onerror="alert(1)">&amp;${page}\u2028\'“'
    arguments = write_explored(tmp_path, classes=(hostile, "b,c.d", "größer 核"), word=hostile)
    arguments |= {"titles": {"label": hostile}, "study": "a<b>&"}
    make_explorer(**arguments)
    data, text = shown(arguments), arguments["page_html"].read_text(encoding="utf-8")
    assert data["classes"] == [hostile, "b,c.d", "größer 核"] and data["sets"][1]["title"] == hostile
    assert "<img" not in text and text.count("</script>") == 3 and "<title>a&lt;b&gt;&amp;: every image</title>" in text


def test_many_images_are_drawn_evenly_and_as_the_map_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_IMAGES", 100)
    arguments = write_explored(tmp_path, images=90)
    make_explorer(**arguments)
    data = shown(arguments)
    drawn = [sorted(part["images"]["number"]) for part in data["sets"]]
    assert [len(numbers) for numbers in drawn] == [33, 33, 33] and drawn[0] == drawn[1] == drawn[2]
    assert drawn[0] == draw_sample(90, 33, seed=3).tolist() != draw_sample(90, 33, seed=4).tolist()
    assert set(draw_sample(90, 20, seed=3)) < set(drawn[0])
    assert set(Counter(data["sets"][1]["images"]["asked"])) == set(range(CLUSTERS))
    assert len(list(arguments["sheets_folder"].glob("label-*"))) == 1


def test_what_the_map_does_not_show_has_no_place(tmp_path: Path) -> None:
    arguments = write_explored(tmp_path, mapped=40)
    make_explorer(**arguments)
    for part in shown(arguments)["sets"]:
        assert [x is None for x in part["images"]["x"]] == [number >= 40 for number in part["images"]["number"]]


@pytest.mark.parametrize(("size", "side", "cell"), [(24, 24, 32), (96, 96, 112), (128, 128, 144), (200, 128, 144)])
def test_pictures_have_a_limit_and_share_no_block(tmp_path: Path, size: int, side: int, cell: int) -> None:
    arguments = write_explored(tmp_path, images=70, size=size)
    make_explorer(**arguments)
    data = shown(arguments)
    assert (data["size"], data["side"], data["cell"]) == (size, side, cell)
    sheets = [Image.open(arguments["sheets_folder"] / f"real-{i}.webp").size for i in (0, 1)]
    assert sheets == [(8 * cell, 8 * cell), (8 * cell, cell)]


def test_a_sheet_is_its_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (11, 21, 21, 3), dtype=np.uint8)
    sheet = np.asarray(sheet_of(pictures))
    assert sheet.shape == (64, 256, 3) and cell_of(21) == 32 and cell_of(30) == 32 and cell_of(31) == 48
    for i, expected in enumerate(pictures):
        top, left = 32 * (i // 8), 32 * (i % 8)
        cell = sheet[top : top + 32, left : left + 32]
        assert np.array_equal(cell[5:26, 5:26], expected)
        assert (cell[:5, 5:26] == expected[0]).all() and (cell[26:, 5:26] == expected[-1]).all()
        assert (cell[5:26, :5] == expected[:, :1]).all() and (cell[5:26, 26:] == expected[:, -1:]).all()


def test_a_study_without_near_copies_to_tell_says_so(tmp_path: Path) -> None:
    arguments = write_explored(tmp_path)
    arguments["reports"]["label"].write_text('{"near_distance": null, "encoder": "other"}')
    make_explorer(**arguments | {"own_clusters": {"label": "other, k = 9"}})
    part = shown(arguments)["sets"][1]
    assert (part["near"], part["space"], part["ownClusters"]) == (None, "other", "other, k = 9")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    arguments = write_explored(tmp_path)
    few = tmp_path / "few.h5"
    write_patches(few, [(colours(3, 24, 0), [0, 1, 0], ["a", "b", "c"])], classes=["healthy", "cancer"], size=24)
    with pytest.raises(InputError, match=r"(?s)label\.csv.*labels that are not those.*few\.h5"):
        make_explorer(**arguments | {"images": arguments["images"] | {"label": few}})
    np.save(tmp_path / "wide.npy", np.ones((90, CLUSTERS + 1), np.float32))
    with pytest.raises(InputError, match=r"(?s)wide\.npy.*width 6, but .*centroids\.npy of width 5"):
        make_explorer(**arguments | {"features": arguments["features"] | {"label": tmp_path / "wide.npy"}})
    np.save(tmp_path / "short.npy", np.ones((89, CLUSTERS), np.float32))
    with pytest.raises(InputError, match=r"(?s)short\.npy.*89 images.*90, as .*label\.csv"):
        make_explorer(**arguments | {"features": arguments["features"] | {"label": tmp_path / "short.npy"}})
    pd.read_csv(arguments["nearest"]["label"]).iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)turned\.csv.*other images.*label\.csv"):
        make_explorer(**arguments | {"nearest": arguments["nearest"] | {"label": tmp_path / "turned.csv"}})
    pd.read_csv(arguments["train_csv"]).head(9).to_csv(tmp_path / "part.csv", index=False)
    with pytest.raises(InputError, match=r"(?s)part\.csv.*nearest to.*all kept training patches"):
        make_explorer(**arguments | {"train_csv": tmp_path / "part.csv"})
    assert not arguments["page_html"].exists() and not arguments["sheets_folder"].exists()
