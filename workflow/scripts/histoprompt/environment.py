"""What the machine has, found without importing torch."""

from __future__ import annotations

import shutil
from pathlib import Path


def gpus_for(device: str) -> int:
    """Number of GPUs a heavy job asks for: 0 where the study's `device` ends up on the CPU, else 1.

    A job that asks for a GPU it does not use would wait for the one that the local limit allows.
    """
    if device == "auto":
        return int(Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None)
    return int(device == "cuda")
