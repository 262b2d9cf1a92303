"""A copy of the project in which Snakemake runs as a user runs it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from histoprompt.files import folder_manifest

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "config", "envs", "profiles", "resources", "workflow")
# What took how long, which the report says too, logs, and a study's lock.
NOT_PROMISED = ("logs", "benchmarks", "tensorboard", ".lock", "report.html")
# What the tests' own process was started with must not reach the workflow under test.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "SNAKEMAKE", "OMP_"))}


@dataclass
class Run:
    """A Snakemake in the background, which ends with its block."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: bytes

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def processes(self) -> list[int]:
        """Snakemake and all that it started, whatever group or session they are in: they inherit its environment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self.mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole tree."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """End the whole tree, and whatever it starts meanwhile, with no chance to tidy up."""
        while self.processes():
            self.send(signal.SIGKILL)
        self.process.wait()

    def wait_for(self, happened: Callable[[], bool], seconds: float = 300) -> bool:
        """Wait until something has happened; false if the run ended before."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return True


@dataclass
class Project:
    """A copy of the project."""

    folder: Path
    python: str = sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "snakemake", *arguments]

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the project; standard error is merged into `stdout`."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=ENVIRONMENT | {"HF_HUB_OFFLINE": "1"} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )

    def start(self, *arguments: str) -> Run:
        """Start Snakemake in the background, in a session of its own."""
        mark = f"HISTOPROMPT_TESTS_RUN={uuid.uuid4()}"
        log = self.folder / "run.log"
        with open(log, "w") as stream:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=ENVIRONMENT | {"HF_HUB_OFFLINE": "1"} | dict([mark.split("=")]),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(process, log, mark.encode())

    def planned(self, *arguments: str) -> set[str]:
        """The jobs of a dry run, as `rule wildcards`, without the study and without rules that make no file."""
        result = self.run("-n", *arguments)
        assert result.returncode == 0, result.stdout
        if "Nothing to be done" in result.stdout:
            return set()
        jobs = set()
        for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", result.stdout)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block)
            assert rule
            wildcards = re.search(r"^ +wildcards: study=\w+(?:, )?(.*)$", block, flags=re.MULTILINE)
            if wildcards:
                jobs.add(f"{rule[1]} {re.sub(r'(?:^|(?<=, ))[a-z]+=', '', wildcards[1])}".strip())
        return jobs

    def edit(self, name: str, change: Callable[[dict[str, Any]], None], study: str = "config/config.yaml") -> str:
        """Write a changed copy of a study file; returns its path."""
        config = yaml.safe_load((self.folder / study).read_text())
        change(config)
        (self.folder / "config" / name).write_text(yaml.safe_dump(config, sort_keys=False))
        return f"config/{name}"


def copy_project(folder: Path) -> Project:
    """Copy what a clone holds, save the tests and the documentation."""
    ignore = shutil.ignore_patterns("__pycache__", ".*", "pcam")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, folder / part)
    return Project(folder)


def mini_study(config: dict[str, Any]) -> None:
    """Turn the demo into a study of seconds on tiny models, with two arms."""
    config["study"] = "mini"
    config["shards"] = {"patches": 1, "images": 2}
    config["data"]["phantom"] = {
        "patches": {"train": 160, "valid": 40, "test": 60},
        "slides": {"train": 4, "valid": 2, "test": 2},
    }
    tiny = {"kind": "transformers", "model": "models/encoder", "revision": None, "batch_size": 64, "dtype": "float32"}
    config["encoders"] = {"tiny": tiny}
    config["morphology"] |= {"encoder": "tiny", "k": 3, "n_init": 2, "sweep": [2, 3], "silhouette_sample": 50}
    config["prompts"] = {"label": "{label}", "morphology": "{label} type {index}"}
    config["prompts"] |= {"descriptor": "{label}, {descriptors}", "morphology_descriptor": "{label} {index}, {descriptors}"}
    config["subset"] = {"train": 32, "valid": 8, "min_prompts_per_label": 1}
    config["generator"] |= {"model": "models/pipeline", "resolution": 32, "encode_batch_size": 16}
    config["generator"]["finetune"] |= {
        "steps": 6, "batch_size": 4, "warmup_steps": 1, "validate_every": 3, "grid_every": 3, "save_every": 2,
    }  # fmt: skip
    config["generator"]["sampling"] |= {"images": 16, "steps": 2, "batch_size": 4, "dtype": "float32"}
    config["arms"] = {"pretrained": {"prompts": "label", "finetune": False}, "morphology": {"prompts": "morphology"}}
    config["evaluation"] |= {"encoders": ["tiny"], "neighbours": 3, "subsamples": 4}
    config["evaluation"]["map"] |= {"encoder": "tiny", "regions": 3}
    config["classifier"] |= {"steps": 3, "batch_size": 4}
    config["replicates"] = {"arms": ["morphology"], "seeds": [1], "recluster": True}
    config["ablations"] = {
        "guidance": {
            "title": "Guidance?",
            "varies": "sampling.guidance",
            "beside": ["morphology"],
            "arms": {"unguided": {"prompts": "morphology", "model": "morphology", "sampling": {"guidance": 1}}},
        },
        "patches": {
            "title": "Patches?",
            "varies": "train",
            "beside": ["morphology"],
            "arms": {"few": {"prompts": "morphology", "train": 8}, "some": {"prompts": "morphology", "train": 16}},
        },
    }
    config["reader_study"] |= {"arms": ["pretrained"], "images": 8, "blocks": 2, "repeats": 2, "training": 2}
    config["learning_curve"] = {"arms": ["pretrained", "morphology"], "real": [4, 8], "seeds": [1, 2]}


def write_models(project: Project) -> None:
    """Make the tiny models in a process of their own: they need torch, the tests do not."""
    script = Path(__file__).with_name("tiny_models.py")
    subprocess.run([sys.executable, str(script), str(project.folder / "models")], check=True, env=ENVIRONMENT, timeout=300)


def digests(results: Path) -> dict[str, str]:
    """SHA-256 of everything a study promises the same bytes of."""
    return {
        name: digest
        for name, digest in folder_manifest(results).items()
        if name.split("/")[0] not in ("logs", "benchmarks", "tensorboard", ".lock", "report.html")
        and not name.endswith("timing.json")
    }
