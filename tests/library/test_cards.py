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
