"""Cards: the hub reads them, what they tell users to type works, and nothing in them is made up."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from report_files import ARMS, SHA, arm, write_judged_study

from histoprompt.hub_cards.write import code, plain, size_category, write_cards, write_dataset_card

BASE = {"model": "resources/base", "revision": None, "digest": SHA}
HOSTILE = "a|b `c` [d](http://e) <img src=x> *f*\n# g: {{ 7 * 7 }}"


def write(folder: Path, arguments: dict[str, Any], base: dict[str, Any] = BASE) -> tuple[dict[str, Path], dict[str, Path]]:
    arms = arguments["arms"]
    models = {name: folder / f"models/{name}/README.md" for name in arms if arms[name]["finetune"]}
    datasets = {name: folder / f"samples/{name}/dataset/README.md" for name in arms}
    keys = ("study", "source", "sizes", "arms", "mixes")
    shared = {key: arguments[key] for key in keys}
    write_cards(folder, models, datasets, **shared, images=["real", *arms], generator=base)
    return models, datasets


def snippet(card: Path) -> str:
    """The code a card tells users to type."""
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Path]]:
    folder = tmp_path_factory.mktemp("study")
    return write(folder, write_judged_study(folder))


def test_the_hub_reads_a_models_card(cards: tuple[dict[str, Path], dict[str, Path]]) -> None:
    assert list(cards[0]) == ["label", "morphology", "shuffled"]
    card = ModelCard.load(cards[0]["morphology"])
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "text-to-image")
    assert card.data.license is None and card.data.base_model is None
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["FD-dino matched"] == 1.2 and found["AUC alone"] == 0.8
    assert "FD-dino paper" not in found  # the same pixels under another name
    text = " ".join(card.text.split())
    assert "| FD-dino matched | 1.20 [0.90, 1.50] | 0.50 [0.20, 0.80] |" in text
    assert "| near copies | 0.003 [0.002, 0.004] | 0.010 |" in text  # held-out patches', since training patches are copies
    assert f"`pipeline/unet`, SHA-256 {SHA}" in text and "pipeline/vae" not in text
    assert "on 20 training patches of the user's own" in text
    assert "not for diagnosis" in text and "Not stated" in text


def test_a_base_model_of_the_hub_is_named(tmp_path: Path) -> None:
    models, _ = write(tmp_path, write_judged_study(tmp_path), {"model": "owner/sd", "revision": "b" * 40, "digest": None})
    card = ModelCard.load(models["label"])
    assert card.data.base_model == "owner/sd" and f"`owner/sd`, revision {'b' * 40}" in card.text


def test_the_hub_reads_a_data_sets_card(cards: tuple[dict[str, Path], dict[str, Path]]) -> None:
    assert list(cards[1]) == list(ARMS)
    card = DatasetCard.load(cards[1]["pretrained"])
    assert card.data.task_categories == ["image-classification", "text-to-image"]
    assert card.data.size_categories == ["n<1K"] and card.data.license is None
    assert "the base model `resources/base` as it is" in card.text and "| cancer | 10 |" in card.text
    assert "- `cancer tissue`" in card.text and "`samples/pretrained.h5`" in card.text


def test_more_images_have_a_card_of_their_own(tmp_path: Path) -> None:
    arguments = write_judged_study(tmp_path)
    folder = tmp_path / "more/label/500-b/dataset"
    shutil.copytree(tmp_path / "samples/label/dataset", folder)
    shared = {key: arguments[key] for key in ("study", "source", "sizes")}
    write_dataset_card(
        tmp_path, folder / "README.md", **shared, generator=BASE, arm="label", settings=ARMS["label"], request="500-b"
    )
    card = DatasetCard.load(folder / "README.md")
    assert card.data.pretty_name == "tiny label 500-b"
    assert "beyond the study's own images: arm label, request 500-b" in card.text
    assert "measured on the study's own images of this arm, not on these" in card.text
    assert "`more/label/500-b/label-500-b.h5`" in card.text


def test_odd_names_stay_text(tmp_path: Path) -> None:
    arguments = write_judged_study(tmp_path, classes=(HOSTILE, "ü: -"), study="odd_name")
    models, datasets = write(tmp_path, arguments)
    for card in (ModelCard.load(models["label"]), DatasetCard.load(datasets["label"])):
        assert "<img" not in re.sub("`[^\n]*`|'[^\n]*'", "", card.text).replace(r"\<img", "")
        assert "\n# g" not in card.text and "49" not in card.text
    assert r"| a\|b \`c\` \[d\](http://e) \<img src=x\> \*f\* \# g: {{ 7 \* 7 }} | 10 |" in datasets["label"].read_text()
    assert yaml.safe_load(datasets["label"].read_text().split("---")[1])["pretty_name"] == "odd_name label"
    compile(snippet(models["label"]), "card", "exec")


def test_escapes() -> None:
    assert plain("a_b\n*") == r"a\_b \*" and plain(5) == 5
    assert [str(code(text)) for text in ("x", "a`b", "a``b`")] == ["`x`", "`` a`b ``", "``` a``b` ```"]


@pytest.mark.parametrize(
    ("images", "word"), [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**7, "n>10M")]
)
def test_the_hubs_words_for_sizes(images: int, word: str) -> None:
    assert size_category(images) == word


def test_three_lines_draw_an_image(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = write_judged_study(tmp_path, arms={"label": arm("label", "label")}, prompt="{label} tissue type one")
    models, _ = write(tmp_path, arguments | {"sizes": {"patch": 32, "generator": 32}})
    shutil.copytree(undisturbed / "pipeline", models["label"].parent / "pipeline")
    monkeypatch.chdir(models["label"].parent)
    text = snippet(models["label"])
    assert len(text.splitlines()) == 3
    exec(text.replace(").images[0]", ", num_inference_steps=2).images[0]"), {})
    assert Image.open("patch.png").size == (32, 32)


def test_a_data_set_is_read_with_its_card_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    from datasets import load_dataset

    classes = ("healthy", "Grade 1 & é")
    _, datasets = write(tmp_path, write_judged_study(tmp_path, classes=classes))
    folder = datasets["label"].parent
    table = (folder / "metadata.csv").read_text().splitlines()
    rows = ["file_name," + table[0]]
    for number, line in enumerate(table[1:]):
        name = f"{classes[number % 2]}/{number:06d}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
        rows.append(f"{name},{line}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(snippet(datasets["label"]).replace('split="train"', f'split="train", cache_dir={os.fspath(tmp_path / "c")!r}'), found)
    assert len(found["patches"]) == 20 and set(found["patches"]["class"]) == set(classes)
    whole = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "d"))
    assert set(whole["prompt"]) == {f"{word} tissue" for word in classes}
