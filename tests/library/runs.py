"""Short fine-tunings of the tiny pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny import PROMPTS

from histoprompt.files import folder_manifest, seal
from histoprompt.finetune import finetune_diffusion

SETTINGS: dict[str, Any] = {
    "steps": 14,
    "batch_size": 4,
    "accumulation": 1,
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "warmup_steps": 3,
    "optimizer": "adamw",
    "weight_decay": 1e-3,
    "max_grad_norm": 1.0,
    "lora": None,
    "min_snr_gamma": None,
    "text_gain": None,
    "ema_decay": 0.9,
    "caption_dropout": 0.2,
    "flip": True,
    "precision": "no",
    "gradient_checkpointing": False,
    "compile": False,
    "validate_every": 6,
    "grid_every": 7,
    "save_every": 4,
}


class Stopped(BaseException):
    """What ends a run in the middle of it."""


def write_inputs(folder: Path) -> Path:
    """Prompts and latents of 11 training and 5 validation images."""
    for seed, (split, count) in enumerate((("train", 11), ("valid", 5))):
        generator = np.random.default_rng(seed)
        moments = generator.standard_normal((count + 2, 2, 8, 4, 4)) * 0.5
        np.save(folder / f"{split}.npy", moments.astype(np.float16))
        seal(folder / f"{split}.npy")
        rows = np.arange(3, count + 5)  # the table's rows begin at 5: two of the latents are of no use to it
        pd.DataFrame({"row": rows}).to_csv(folder / f"{split}.rows.csv", index=False)
        table = pd.DataFrame({"row": rows[2:], "label": 0, "cluster": 0})
        table.assign(prompt=[PROMPTS[i % 4] for i in range(count)]).to_csv(folder / f"{split}.prompts.csv", index=False)
    return folder


def arguments(inputs: Path, out: Path, files: Path | None = None) -> list[Path]:
    """The paths a fine-tuning takes; those that are in `files` from there."""
    names = ("train.prompts.csv", "valid.prompts.csv", "train.npy", "train.rows.csv", "valid.npy", "valid.rows.csv")
    given = [files / name if files and (files / name).exists() else inputs / name for name in names]
    return [*given, *(out / name for name in ("manifest.json", "history.csv", "training.png", "timing.json"))]


def run(
    inputs: Path,
    model: Path,
    out: Path,
    *,
    seed: int = 5,
    key: str = "",
    files: Path | None = None,
    board: Path | None = None,
    **changes: Any,
) -> Path:
    finetune_diffusion(
        *arguments(inputs, out, files),
        model=model,
        revision=None,
        settings=SETTINGS | changes,
        seed=seed,
        state_folder=out.parent / f"{out.name}-state",
        board_folder=board,
        device="cpu",
        threads=1,
        key=key,
    )
    return out


def content(out: Path) -> dict[str, str]:
    """Digests of everything a run writes, but its timing."""
    return {name: digest for name, digest in folder_manifest(out).items() if name != "timing.json"}
