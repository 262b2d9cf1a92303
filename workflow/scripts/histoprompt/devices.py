"""Which device a stage computes on."""

from __future__ import annotations

import torch

from histoprompt.errors import InputError


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; `cuda` without a GPU is an error, never a silent CPU run."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "config key `device`",
            found="cuda, but PyTorch sees no GPU on this machine",
            expected="a machine with a working NVIDIA driver",
            remedy="set `device: auto` (or `cpu`), or run this job on a GPU node",
        )
    return torch.device(name)
