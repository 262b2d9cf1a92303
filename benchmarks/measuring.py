"""What the comparisons share: how long a process takes, and how a result is said."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "workflow/scripts"
sys.path.insert(0, str(LIBRARY))


def options_of(description: str, *, model: str, batch_size: int) -> argparse.ArgumentParser:
    """What every comparison can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "resources/foundation" / model)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def write_phantom(folder: Path, patches: int) -> Path:
    """A file of phantom patches, and their table beside it."""
    from histoprompt.phantom.generate import make_phantom

    wanted = {"split": "train", "slides": 4, "seed": 1, "patch_size": 96, "classes": ["healthy", "cancer"]}
    make_phantom(folder / "train.h5", folder / "train.csv", patches=patches, **wanted)
    return folder / "train.h5"


def stage_command(module: str, function: str, paths: list[Any], keywords: dict[str, Any]) -> list[str]:
    """One of our stages in a process of its own."""
    code = f"import json, sys; from {module} import {function}; job = json.loads(sys.argv[1]); {function}(*job[0], **job[1])"
    return [sys.executable, "-c", code, json.dumps([paths, keywords], default=str)]


def rate_of(command_of: Callable[[int], list[str]], counts: tuple[int, int], images_each: int, threads: int) -> float:
    """Images a second: the same process with few batches and with more; the difference is batches alone."""
    few, more = (seconds_of(command_of(count), threads) for count in counts)
    return (counts[1] - counts[0]) * images_each / (more - few)


def seconds_of(command: list[str], threads: int) -> float:
    """Wall time of a process that must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(LIBRARY)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def in_turn(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each way `rounds` times, one after the other and again, so that a busy machine is busy for all."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, measure in ways.items():
            found[name].append(measure())
            print(f"round {number + 1}/{rounds}, {name}: {found[name][-1]:.3f} images/s", flush=True)
    return found


def report(title: str, found: dict[str, list[float]], notes: list[str]) -> None:
    """Say the ratio of the first way's rate to each other's, round by round, and all rates (images a second)."""
    import torch

    ours, *others = found
    print(f"\n## {title}\n")
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):.3f} images/s (of {', '.join(f'{rate:.3f}' for rate in rates)})")
    for name in others:
        ratios = [a / b for a, b in zip(found[ours], found[name], strict=True)]
        print(f"ratio to {name}: {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {platform.processor() or platform.machine()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "accelerate"))
    print("\n".join([*notes, f"{device}; Python {platform.python_version()}, {packages}"]))
