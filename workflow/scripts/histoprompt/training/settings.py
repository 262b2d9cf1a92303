"""The settings of a fine-tuning, and what follows from them alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoprompt.errors import InputError


@dataclass(frozen=True)
class FinetuneSettings:
    """The config's `generator.finetune`.

    Attributes
    ----------
    steps, batch_size : optimiser steps, and images in each, whatever the number of processes.
    accumulation : parts that a process computes its share of a batch in, one after another.
    learning_rate, schedule, warmup_steps : the peak rate, then `constant` or `cosine` to zero, after a linear warm-up.
    optimizer : `adamw`, or `adamw8bit`, whose moments take a quarter of the memory (Dettmers et al. 2022).
    weight_decay, max_grad_norm : of the optimiser; gradients are clipped to that norm.
    lora : `rank` and `alpha` of low-rank adapters on the attention (Hu et al. 2022), trained instead of the U-Net's own weights
        and merged into them at the end; None trains all weights.
    min_snr_gamma : cap of the loss's weight by signal-to-noise ratio (Hang et al. 2023); None weighs all times alike.
    text_gain : factor of `amplify_differences` before the first step; None leaves the base as it is.
    ema_decay : of the averaged weights, which become the model; None keeps the last weights.
    caption_dropout : share of training prompts replaced by the empty one, which guidance needs.
    flip : mirror half of the images left to right.
    precision : `no`, `bf16` or `fp16` (autocast; trained weights are float32).
    gradient_checkpointing : compute activations again in the backward pass instead of keeping them.
    compile : `torch.compile` the U-Net.
    validate_every, grid_every, save_every : steps between validation losses, sample grids and saved states.
    """

    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    optimizer: str
    weight_decay: float
    max_grad_norm: float
    lora: Mapping[str, Any] | None
    min_snr_gamma: float | None
    text_gain: float | None
    ema_decay: float | None
    caption_dropout: float
    flip: bool
    precision: str
    gradient_checkpointing: bool
    compile: bool
    validate_every: int
    grid_every: int
    save_every: int

    def part_size(self, processes: int) -> int:
        """Images that a process computes at once.

        Raises
        ------
        InputError : the batch cannot be shared evenly.
        """
        parts = processes * self.accumulation
        if self.batch_size % parts:
            raise InputError(
                "config key `generator.finetune.batch_size`",
                found=f"{self.batch_size} images for {processes} processes that take {self.accumulation} parts each",
                expected=f"a multiple of {parts}",
                remedy="change `batch_size` or `accumulation`, or the number of GPUs",
            )
        return self.batch_size // parts


def learning_rate(step: int, settings: FinetuneSettings) -> float:
    """Rate of step 0, 1, …: a linear warm-up, then constant, or half a cosine that reaches zero after the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
