"""What the comparisons share: how long a process takes, and how a result is said."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "workflow/scripts"
sys.path.insert(0, str(LIBRARY))


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
