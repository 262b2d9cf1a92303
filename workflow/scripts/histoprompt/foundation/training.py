"""What the four training recipes share: batches on the device, colour augmentation of tissue, a schedule, fp16 weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from histoprompt.job import progress


def load_images(path: str | Path, device: torch.device) -> Tensor:
    """uint8 (N,3,S,S) on the device; the foundation sets fit there by design."""
    return torch.from_numpy(np.load(path, allow_pickle=False)).permute(0, 3, 1, 2).contiguous().to(device)


def steps(total: int, description: str, seconds: float | None) -> Iterator[tuple[int, float]]:
    """Yield (step, share done); ends after `total` steps or, where a time limit is set, when it has passed.

    The share follows whichever limit is nearer, so that a schedule built on it comes to its end in either case.
    """
    started = time.monotonic()
    for step in progress(range(total), description, total=total, unit="step"):
        share = step / total if seconds is None else max(step / total, (time.monotonic() - started) / seconds)
        if share >= 1:
            return
        yield step, share


def anneal(optimiser: torch.optim.Optimizer, peak: float, share: float, step: int, warmup: int) -> None:
    """Set this step's learning rate: a warm-up to the peak, then a cosine down to one per cent of it."""
    rate = peak * (min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))))
    for group in optimiser.param_groups:
        group["lr"] = rate


def matrix_optimisers(model: nn.Module, learning_rate: float, ends: Collection[str]) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for every weight that is a matrix, AdamW for biases, norms and the layers named in `ends`.

    A convolution's (out, in, h, w) counts as out x (in h w): torch's Muon takes two dimensions only, so it is given a view of
    the same memory, whose gradient is set as soon as the weight's own is there.
    """
    views, others = [], []
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or name.rpartition(".")[0] in ends:
            others.append(weight)
            continue
        view = nn.Parameter(weight.data.view(len(weight), -1))

        def pass_on(whole: Tensor, view: nn.Parameter = view) -> None:
            assert whole.grad is not None
            view.grad = whole.grad.view(view.shape)

        weight.register_post_accumulate_grad_hook(pass_on)
        views.append(view)
    return [
        torch.optim.Muon(views, learning_rate, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.99), weight_decay=1e-3),
    ]


def restain(images: Tensor, generator: torch.Generator, *, strength: float = 1.0, grey: float = 0.0) -> Tensor:
    """Random stains: optical densities are mixed by a matrix near the identity and scaled a channel at a time.

    `images` float (B,3,H,W) in 0-1. A `grey` share of the batch loses its colour altogether.
    """
    count, device = len(images), images.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    density = -torch.log(images.clamp(1 / 255, 1))
    mixing = torch.eye(3, device=device) + 0.08 * strength * normal(count, 3, 3)
    gain = torch.exp(strength * (0.15 * normal(count, 3, 1, 1) + 0.3 * normal(count, 1, 1, 1)))
    density = torch.einsum("bij,bjhw->bihw", mixing, density) * gain
    white = 1 + 0.03 * strength * normal(count, 3, 1, 1)
    result = (torch.exp(-density.clamp(0, 6)) * white).clamp(0, 1)
    if grey:
        lost = (torch.rand(count, 1, 1, 1, generator=generator, device=device) < grey).float()
        result = result * (1 - lost) + result.mean(1, keepdim=True) * lost
    return result


def flips(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image in one of the eight orientations of the square."""
    chance = torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    images = torch.where(chance[0], images.flip(-1), images)
    images = torch.where(chance[1], images.flip(-2), images)
    return torch.where(chance[2], images.transpose(-1, -2), images)


@torch.no_grad()
def follow(averages: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Exponential moving average, in place."""
    torch._foreach_lerp_(list(averages), list(values), 1 - decay)


def save_half(model: nn.Module, folder: str | Path) -> None:
    """Save a transformers or diffusers model as float16 safetensors: half the bytes, loaded as float32 again."""
    model.half().save_pretrained(folder, safe_serialization=True)
    config = Path(folder) / "config.json"
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)  # where the model was loaded from here is nobody's concern
    config.write_text(json.dumps(content, indent=2) + "\n")


def device_name(device: torch.device) -> str:
    """The name that a model card can quote."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
