"""The optimisers a U-Net can be trained with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from histoprompt.errors import InputError
from histoprompt.training.settings import FinetuneSettings

# bitsandbytes lies in a folder of its own: wherever it is installed beside them, peft and with it diffusers import it, which
# costs every job five seconds.
_APART = Path(sys.prefix) / "adamw8bit"


def make_optimiser(weights: Sequence[nn.Parameter], settings: FinetuneSettings) -> torch.optim.Optimizer:
    """AdamW, fused, or with 8-bit moments.

    Raises
    ------
    InputError : `adamw8bit` without bitsandbytes.
    """
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    if _APART.is_dir() and str(_APART) not in sys.path:
        sys.path.append(str(_APART))
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            "config key `generator.finetune.optimizer`",
            found=f"adamw8bit, but bitsandbytes cannot be imported ({error})",
            expected="the package bitsandbytes, which only this optimiser needs",
            remedy="run `make install`, or `pip install --no-deps --require-hashes -r envs/adamw8bit.txt` into another "
            "environment than the Makefile's, or set `optimizer: adamw`",
        ) from error
    optimiser: torch.optim.Optimizer = AdamW8bit(weights, settings.learning_rate, weight_decay=settings.weight_decay)
    return optimiser
