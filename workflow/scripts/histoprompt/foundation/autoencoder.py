"""The embedded VAE: diffusers' `AutoencoderKL`, grown in stages."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from histoprompt.devices import resolve_device
from histoprompt.files import atomic, write_json
from histoprompt.foundation.training import anneal, device_name, flips, follow, load_images, restain, save_half, steps

# Deviation of the latent channels that hold what the first leave over. A diffusion model that predicts the image errs less
# where there is less to predict, so that fine detail, most of which cannot be predicted, does not drown structure.
DETAIL = 0.25

# Deviation of the smoothest channel, which holds the lay of the tissue: a diffusion model settles first what stands farthest
# above the noise, and with all channels alike the others, white as noise themselves, hide it (docs/RESULTS.md).
STRUCTURE = 2.0


def build(channels: list[int], latent_channels: int, layers: int) -> AutoencoderKL:
    """An f = 2**(len(channels) - 1) autoencoder."""
    depth = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=96,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def psnr(original: Tensor, restored: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image; both (B,3,H,W) in 0-1."""
    return -10 * torch.log10((original - restored).square().mean((1, 2, 3)).clamp(min=1e-10))


def train_autoencoder(
    tissue_npy: str | Path,
    table_csv: str | Path,
    textures_npy: str | Path,
    model_folder: str | Path,
    report_json: str | Path,
    *,
    layers: int,
    crop: int,
    stages: Sequence[Mapping[str, Any]],
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train on crops of real patches, phantom patches and textures, with squared error and a little KL.

    `crop` pixels a side are enough for a convolutional model and make four small steps out of a large one.

    Parameters
    ----------
    stages : one after another, each with a learning rate that warms up and decays:
        `channels`, `latent_channels` : from the outermost level to the innermost; a stage goes on from the one before,
            which has the same levels or lacks the innermost (`carry_over`).
        `training_steps`, `seconds` : whichever comes first; null seconds are no limit.
        `batch_size`, `learning_rate`, `kl_weight`.
        `shares` : of `pcam`, `phantom` and `textures` in a batch; without a PCam root its share goes to the others.
        `nested` : null, or the number of first latent channels that must restore the image alone in every third step.
    """
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    pools = _pools(tissue_npy, table_csv, textures_npy, place)
    done: list[dict[str, Any]] = []
    model: AutoencoderKL | None = None
    for number, stage in enumerate(map(dict, stages)):
        generator = torch.Generator(place).manual_seed(seed + number)
        start = build(stage.pop("channels"), stage.pop("latent_channels"), layers)
        if model is not None:
            carry_over(model.cpu(), start)
        start = start.to(place, memory_format=torch.channels_last)
        model, report = _train_stage(start, pools, crop, generator, place, **stage)
        scale_latents(model, _batch(pools, stage["shares"], 120, 96, generator), stage["nested"])
        scores = {name: _score(model, pool[:: max(1, len(pool) // 500)]) for name, pool in pools.items()}
        done.append({**report, "psnr_db": scores})
    assert model is not None
    parameters = sum(p.numel() for p in model.parameters())
    with atomic(model_folder) as temporary:
        save_half(model, temporary)
    write_json(report_json, {"stages": done, "device": device_name(place), "parameters": parameters})


def _train_stage(
    model: AutoencoderKL,
    pools: dict[str, Tensor],
    crop: int,
    generator: torch.Generator,
    place: torch.device,
    *,
    training_steps: int,
    seconds: float | None,
    batch_size: int,
    learning_rate: float,
    kl_weight: float,
    shares: Mapping[str, float],
    nested: int | None,
) -> tuple[AutoencoderKL, dict[str, float]]:
    """The average of the trained weights, and what it took."""
    average = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    started, done = time.monotonic(), 0
    for step, share in steps(training_steps, "autoencoder", seconds):
        anneal(optimiser, learning_rate, share, step, 100)
        images = _batch(pools, shares, batch_size, crop, generator)
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            loss, error = _losses(model, images, generator, kl_weight, nested if step % 3 == 0 else None)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        follow(average.parameters(), model.parameters(), min(0.999, (1 + step) / (10 + step)))
        done = step + 1
        if done % 250 == 0:
            scores = {name: _score(average, pool[:: max(1, len(pool) // 50)]) for name, pool in pools.items()}
            print(f"step {done} squared error {error.item():.5f} psnr {scores}", flush=True)
    return average.eval(), {"steps": done, "batch_size": batch_size, "seconds": round(time.monotonic() - started, 1)}


@torch.no_grad()
def carry_over(old: AutoencoderKL, new: AutoencoderKL) -> None:
    """Start a new autoencoder from a trained one of the same shape, or from one without its innermost level.

    Outer levels restore pixels whatever lies within, so a deeper autoencoder need not learn them again: its innermost level
    and the latents begin anew, everything else where shapes agree is the old one's.
    """
    deeper = len(new.config["block_out_channels"]) - len(old.config["block_out_channels"])
    weights = new.state_dict()
    for name, tensor in old.state_dict().items():
        part, block, *rest = name.split(".")
        inside = block == "mid_block" or "quant_conv" in part or (part == "encoder" and block in ("conv_norm_out", "conv_out"))
        if deeper and inside:
            continue
        if block == "up_blocks":  # counted from within
            name = ".".join([part, block, str(int(rest[0]) + deeper), *rest[1:]])
        if weights[name].shape == tensor.shape:
            weights[name].copy_(tensor)
    new.load_state_dict(weights)


def _pools(tissue_npy: str | Path, table_csv: str | Path, textures_npy: str | Path, device: torch.device) -> dict[str, Tensor]:
    """The training images by source; without a PCam root there are no real ones."""
    sources = pd.read_csv(table_csv)["source"].to_numpy()
    tissue = load_images(tissue_npy, device)
    named = {name: tissue[torch.from_numpy(np.flatnonzero(sources == name)).to(device)] for name in ("pcam", "phantom")}
    return {name: pool for name, pool in {**named, "textures": load_images(textures_npy, device)}.items() if len(pool)}


def _batch(pools: dict[str, Tensor], shares: Mapping[str, float], size: int, crop: int, generator: torch.Generator) -> Tensor:
    """Float (B,3,crop,crop) in -1…1; a third of the tissue is restained."""
    total = sum(shares[name] for name in pools)
    parts = []
    for name, pool in pools.items():
        count = max(1, round(size * shares[name] / total))
        rows = torch.randint(len(pool), (count,), generator=generator, device=pool.device).tolist()
        corners = torch.randint(pool.shape[-1] - crop + 1, (count, 2), generator=generator, device=pool.device).tolist()
        cut = [pool[row, :, top : top + crop, left : left + crop] for row, (top, left) in zip(rows, corners, strict=True)]
        images = flips(torch.stack(cut).float() / 255, generator)
        if name != "textures":
            third = (count + 2) // 3
            images = torch.cat([restain(images[:third], generator), images[third:]])
        parts.append(images)
    return (torch.cat(parts) * 2 - 1).contiguous(memory_format=torch.channels_last)


def _losses(
    model: AutoencoderKL, images: Tensor, generator: torch.Generator, kl_weight: float, kept: int | None
) -> tuple[Tensor, Tensor]:
    """Loss and squared error, with all latent channels or the first `kept` of them.

    Those that must do alone get a tenth of their deviation as noise: they are for a diffusion model, which errs as much.
    """
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
    if kept is None:
        latents = posterior.mean + posterior.std * noise
    else:
        first = posterior.mean[:, :kept]
        first = first + 0.1 * first.std((0, 2, 3), keepdim=True).detach() * noise[:, :kept]
        latents = torch.cat([first, torch.zeros_like(posterior.mean[:, kept:])], 1)
    error = F.mse_loss(model.decode(latents).sample.float(), images)
    kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return error + kl_weight * kl, error


@torch.no_grad()
def scale_latents(model: AutoencoderKL, images: Tensor, nested: int | None) -> None:
    """Give every latent channel a known deviation on these images (N,3,H,W), inside the 1x1 convolutions around it.

    It is one, `STRUCTURE` for the smoothest of the `nested` first, and `DETAIL` behind them. The first are centred; zero stays
    zero in the others, since with zeros there the first restore the image alone. What is restored does not change, and the
    model's `scaling_factor` stays 1.
    """
    means = torch.cat([model.encode(part).latent_dist.mean for part in images.split(20)])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    count = len(shift)
    first = nested or count
    shift[first:] = 0
    scale[first:] /= DETAIL
    if nested:
        coarse = F.avg_pool2d(means[:, :nested], 4)
        scale[(coarse.var((0, 2, 3)) / means[:, :nested].var((0, 2, 3))).argmax()] /= STRUCTURE
    outer, inner = model.quant_conv, model.post_quant_conv
    assert outer is not None and inner is not None and outer.bias is not None and inner.bias is not None
    inner.bias += inner.weight[:, :, 0, 0] @ shift
    inner.weight *= scale[None, :, None, None]
    outer.bias[:count] -= shift
    outer.bias[:count] /= scale
    outer.weight[:count] /= scale[:, None, None, None]
    outer.bias[count:] -= 2 * scale.log()


@torch.no_grad()
def _score(model: AutoencoderKL, pool: Tensor) -> float:
    """Mean PSNR in dB of uint8 (N,3,96,96)."""
    images = pool.float() / 255
    restored = torch.cat([model.decode(model.encode(part * 2 - 1).latent_dist.mean).sample for part in images.split(50)])
    return round(psnr(images, (restored / 2 + 0.5).clamp(0, 1)).mean().item(), 2)
