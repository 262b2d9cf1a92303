"""Every job gets cards of its own. The cards are pretended: their names are all that is shared out."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from histoprompt.cards import own_cards, visible_cards
from histoprompt.errors import InputError

# Says which cards it got, and keeps them until it is told to go, or killed.
JOB = """
import os, sys
from histoprompt.cards import own_cards
with own_cards(int(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""
SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
LIBRARY = str(SCRIPTS)


@pytest.fixture
def start(tmp_path):
    """Start a job; cards of other tests, running at the same time, have other names."""
    jobs = []

    def job(count, cards=("a", "b"), **environment):
        names = ",".join(f"{tmp_path.name}-{os.getpid()}-{card}" for card in cards)
        variables = os.environ | {"CUDA_VISIBLE_DEVICES": names, "PYTHONPATH": LIBRARY} | environment
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(count)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        jobs.append(process)
        return process

    yield job
    for process in jobs:
        process.kill()
        process.wait()


def cards_of(process):
    return [name.rpartition("-")[2] for name in process.stdout.readline().strip().split(",")]


def has_cards(process, seconds=1.5):
    """Does it get any within this time? Jobs look for them every half second."""
    os.set_blocking(process.stdout.fileno(), False)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.stdout.readline():
            return True
        time.sleep(0.05)
    os.set_blocking(process.stdout.fileno(), True)
    return False


def test_jobs_started_at_once_get_different_cards(start):
    cards = ("a", "b", "c")
    assert sorted(cards_of(job)[0] for job in [start(1, cards) for _ in cards]) == ["a", "b", "c"]


def test_a_job_that_wants_two_gets_two(start):
    assert cards_of(start(2)) == ["a", "b"]


def test_a_job_waits_for_a_card_until_one_is_free(start):
    first, second = start(1), start(1)
    before = {cards_of(first)[0], cards_of(second)[0]}
    third = start(1)
    assert before == {"a", "b"} and not has_cards(third)
    first.communicate("go\n")
    assert cards_of(third)[0] in before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_job_frees_its_cards(start, number):
    first = start(2)
    assert cards_of(first) == ["a", "b"]
    waiting = start(2)
    assert not has_cards(waiting)
    first.send_signal(number)
    assert cards_of(waiting) == ["a", "b"]


def test_jobs_that_want_all_cards_do_not_wait_for_each_other(start):
    first = start(1)
    cards_of(first)
    greedy = [start(2), start(2)]
    time.sleep(1)
    first.communicate("go\n")
    deadline = time.monotonic() + 20
    while not (happy := [job for job in greedy if has_cards(job, 0.2)]):
        assert time.monotonic() < deadline
    happy[0].communicate("go\n")
    (other,) = (job for job in greedy if job is not happy[0])
    assert cards_of(other) == ["a", "b"]


def test_a_killed_job_that_waited_does_not_block_the_next(start):
    first = start(1)
    cards_of(first)
    waiting = start(2)
    assert not has_cards(waiting)
    waiting.kill()
    assert cards_of(start(1)) != []


def test_allocations_of_slurm_do_not_compete(start):
    jobs = [start(1, ("0",), SLURM_JOB_ID=job) for job in ("11", "12", "12")]
    assert cards_of(jobs[0]) == ["0"]
    assert sum(has_cards(job) for job in jobs[1:]) == 1


def test_more_cards_than_there_are_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5a1c")
    with pytest.raises(InputError, match=r"(?s)gpu: 3, where this job can see 2 \(2,GPU-5a1c\).*set-resources"), own_cards(3):
        pass


def test_the_variable_is_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before-4,before-5")
    with own_cards(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "before-4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "before-4,before-5"


@pytest.mark.parametrize("visible", ["", "-1", None])
def test_without_cards_nothing_changes(visible, monkeypatch):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("histoprompt.cards.visible_cards", lambda: [])
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with own_cards(1):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    with own_cards(0):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(
    ("visible", "cards"), [("0,1", ["0", "1"]), ("GPU-1f, 3", ["GPU-1f", "3"]), ("", []), ("-1", []), (None, ["0", "1"])]
)
def test_cards_are_found_without_starting_anything(visible, cards, tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_cards(tmp_path) == cards


IMPORTS = """
import os, sys
import histoprompt
import torch
started = []
torch._C._cuda_getDeviceCount = lambda: started.append("asked") or 2
torch._C._cuda_init = lambda: started.append("started")
torch.cuda._raw_device_count_nvml = lambda: 2
for name in sys.argv[1:]:
    __import__(name)
assert not started, started
assert torch.cuda.is_available() and torch.cuda.device_count() == 2
os.environ["CUDA_VISIBLE_DEVICES"] = "1"
assert torch.cuda.device_count() == 1 and not started
"""


def scripts_on_gpus():
    """The scripts of every rule that asks for GPUs."""
    rules = "".join(path.read_text() for path in sorted((SCRIPTS.parent / "rules").glob("*.smk")))
    blocks = re.split(r"\nrule ", rules)[1:]
    return [
        SCRIPTS / re.search(r"scripts/(\w+\.py)", block)[1] for block in blocks if re.search(r"^ +gpu=", block, re.MULTILINE)
    ]


def test_every_rule_that_asks_for_gpus_takes_cards_of_its_own():
    scripts = scripts_on_gpus()
    assert len(scripts) >= 12
    for script in scripts:
        cards = ast.parse(script.read_text()).body[-1].body[0].items[1]
        assert ast.unparse(cards).startswith("own_cards(snakemake.resources.gpu"), script
    others = {path for path in SCRIPTS.glob("*.py") if "own_cards" in path.read_text()}
    assert others == set(scripts)


def test_what_jobs_import_does_not_start_cuda():
    modules = {
        node.module
        for script in scripts_on_gpus()
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.ImportFrom)
    }
    encoders = [f"histoprompt.encoders.{kind}" for kind in ("inception", "timm", "transformers")]
    environment = os.environ | {"PYTHONPATH": LIBRARY, "HF_HUB_OFFLINE": "1"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-c", IMPORTS, *sorted(modules), *encoders]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
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

from histoprompt.cards.write import code, plain, size_category, write_cards, write_dataset_card

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
