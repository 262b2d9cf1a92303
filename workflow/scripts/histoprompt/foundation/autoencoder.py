"""The embedded VAE: diffusers' `AutoencoderKL`, 96 px patches to 24x24 latents."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from histoprompt.devices import resolve_device
from histoprompt.files import atomic, write_json
from histoprompt.foundation.training import cosine, device_name, flips, follow, load_images, restain, save_half, steps


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
    channels: list[int],
    latent_channels: int,
    layers: int,
    training_steps: int,
    batch_size: int,
    crop: int,
    learning_rate: float,
    kl_weight: float,
    seconds: float | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train on crops of real patches (half of each batch), phantom (a third) and textures, with squared error and a little KL.

    Real tissue is the hardest to restore, so it is seen most; without a PCam root its share goes to the others. `crop` pixels
    a side are enough for a convolutional model and make four small steps out of a large one. Afterwards the latents are put on
    the scale that `align_latents` describes.
    """
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator(place).manual_seed(seed)
    pools = _pools(tissue_npy, table_csv, textures_npy, place)
    model = build(channels, latent_channels, layers).to(place, memory_format=torch.channels_last)
    average = build(channels, latent_channels, layers).to(place)
    average.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    started, done = time.monotonic(), 0
    for step, share in steps(training_steps, "autoencoder", seconds):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * cosine(share, step, 100)
        images = _batch(pools, batch_size, crop, generator)
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            loss, error = _losses(model, images, generator, kl_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        follow(average.parameters(), model.parameters(), min(0.999, (1 + step) / (10 + step)))
        done = step + 1
        if done % 250 == 0:
            scores = {name: _score(average, pool[:: max(1, len(pool) // 50)]) for name, pool in pools.items()}
            print(
                f"step {done} seconds {time.monotonic() - started:.0f} squared error {error.item():.5f} psnr {scores}",
                flush=True,
            )
    trained = time.monotonic() - started
    average.eval()
    spectrum = align_latents(average, _batch(pools, 120, 96, generator))
    scores = {name: _score(average, pool[:: max(1, len(pool) // 500)]) for name, pool in pools.items()}
    with atomic(model_folder) as temporary:
        save_half(average, temporary)
    write_json(
        report_json,
        {
            "steps": done,
            "seconds": round(trained, 1),
            "device": device_name(place),
            "batch_size": batch_size,
            "psnr_db": scores,
            "latent_deviations": [round(float(s), 3) for s in spectrum],
            "parameters": sum(p.numel() for p in average.parameters()),
        },
    )


def refine_decoder(
    tissue_npy: str | Path,
    table_csv: str | Path,
    textures_npy: str | Path,
    autoencoder_folder: str | Path,
    model_folder: str | Path,
    report_json: str | Path,
    *,
    training_steps: int,
    batch_size: int,
    crop: int,
    learning_rate: float,
    seconds: float | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train the decoder alone on what it finds hardest, real tissue; the latents, and all that is built on them, stay."""
    place = resolve_device(device)
    torch.set_num_threads(threads)
    generator = torch.Generator(place).manual_seed(seed + 1)
    pools = _pools(tissue_npy, table_csv, textures_npy, place)
    model = AutoencoderKL.from_pretrained(autoencoder_folder, torch_dtype=torch.float32)
    model = model.to(place, memory_format=torch.channels_last)
    before = {name: _score(model, pool[:: max(1, len(pool) // 200)]) for name, pool in pools.items()}
    average = copy.deepcopy(model)
    model.requires_grad_(False)
    trained = [model.decoder, model.post_quant_conv]
    weights = [p.requires_grad_(True) for part in trained for p in part.parameters()]
    averages = [p for part in (average.decoder, average.post_quant_conv) for p in part.parameters()]
    optimiser = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    started, done = time.monotonic(), 0
    for step, share in steps(training_steps, "decoder", seconds):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * cosine(share, step, 100)
        images = _batch(pools, batch_size, crop, generator, weights={"pcam": 6.0, "phantom": 2.0, "textures": 0.5})
        with torch.no_grad():
            posterior = model.encode(images).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator, device=place)
        loss = F.mse_loss(model.decode(latents).sample, images)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        follow(averages, weights, min(0.999, (1 + step) / (10 + step)))
        done = step + 1
    seconds_taken = time.monotonic() - started
    after = {name: _score(average, pool[:: max(1, len(pool) // 200)]) for name, pool in pools.items()}
    with atomic(model_folder) as temporary:
        save_half(average, temporary)
    write_json(
        report_json,
        {
            "steps": done,
            "seconds": round(seconds_taken, 1),
            "device": device_name(place),
            "batch_size": batch_size,
            "psnr_db_before": before,
            "psnr_db": after,
        },
    )


def _pools(tissue_npy: str | Path, table_csv: str | Path, textures_npy: str | Path, device: torch.device) -> dict[str, Tensor]:
    """The training images by source; without a PCam root there are no real ones."""
    sources = pd.read_csv(table_csv)["source"].to_numpy()
    tissue = load_images(tissue_npy, device)
    named = {name: tissue[torch.from_numpy(np.flatnonzero(sources == name)).to(device)] for name in ("pcam", "phantom")}
    return {name: pool for name, pool in {**named, "textures": load_images(textures_npy, device)}.items() if len(pool)}


_SHARES = {"pcam": 3.0, "phantom": 2.0, "textures": 1.0}


def _batch(
    pools: dict[str, Tensor], size: int, crop: int, generator: torch.Generator, weights: dict[str, float] = _SHARES
) -> Tensor:
    """Float (B,3,crop,crop) in -1…1; a third of the tissue is restained."""
    total = sum(weights[name] for name in pools)
    parts = []
    for name, pool in pools.items():
        count = max(1, round(size * weights[name] / total))
        rows = torch.randint(len(pool), (count,), generator=generator, device=pool.device).tolist()
        corners = torch.randint(pool.shape[-1] - crop + 1, (count, 2), generator=generator, device=pool.device).tolist()
        cut = [pool[row, :, top : top + crop, left : left + crop] for row, (top, left) in zip(rows, corners, strict=True)]
        images = flips(torch.stack(cut).float() / 255, generator)
        if name != "textures":
            third = (count + 2) // 3
            images = torch.cat([restain(images[:third], generator), images[third:]])
        parts.append(images)
    return (torch.cat(parts) * 2 - 1).contiguous(memory_format=torch.channels_last)


def _losses(model: AutoencoderKL, images: Tensor, generator: torch.Generator, kl_weight: float) -> tuple[Tensor, Tensor]:
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
    error = F.mse_loss(model.decode(posterior.mean + posterior.std * noise).sample.float(), images)
    kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return error + kl_weight * kl, error


@torch.no_grad()
def align_latents(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Give the latent channels a scale that means something, inside the 1x1 convolutions around them; return their deviations.

    A trained autoencoder's channels are an arbitrary mixture. Here they are mixed into the principal axes of what a change of
    the latent does to the *image*: the mean squared response of the decoder to small noise is a quadratic form G, and in the
    coordinates G^(1/2) z equal steps in latent space cost equal error in pixels. Along the principal axes of the latents there
    the deviations fall from coarse colour to fine detail, as the spectrum of images does; each is taken to the power 1/2, so
    that diffusion learns coarse before fine and still sees all of it. What is restored does not change, `scaling_factor` is 1.
    """
    posterior = [model.encode(part).latent_dist for part in images.split(20)]
    means = torch.cat([p.mean for p in posterior])
    noise_variance = torch.cat([p.var for p in posterior]).mean((0, 2, 3))
    count = means.shape[1]
    shift = means.mean((0, 2, 3))
    sample, restored = means[:24], model.decode(means[:24]).sample
    step = 0.1 * means.std((0, 2, 3))
    responses = []
    generator = torch.Generator(images.device).manual_seed(0)
    sign = torch.randint(2, sample[:, :1].shape, generator=generator, device=images.device) * 2.0 - 1
    for channel in range(count):
        moved = sample.clone()
        moved[:, channel : channel + 1] += sign * step[channel]
        responses.append(((model.decode(moved).sample - restored) / step[channel]).flatten())
    response = torch.stack(responses)
    form = (response @ response.T / response.shape[1]).double()
    values, vectors = torch.linalg.eigh(form)
    root = vectors @ torch.diag(values.clamp(min=values.max() * 1e-6).sqrt()) @ vectors.T
    centred = (means - shift[None, :, None, None]).transpose(0, 1).flatten(1).double()
    weighted = root @ centred
    variances, axes = torch.linalg.eigh(weighted @ weighted.T / weighted.shape[1])
    order = variances.argsort(descending=True)
    deviations = variances[order].sqrt()
    mixing = axes[:, order].T @ root  # to principal axes in units of pixels
    mixing = torch.diag(deviations**-0.5) @ mixing / deviations.mean().sqrt()  # mean variance one
    inverse = torch.linalg.inv(mixing).float()
    forward = mixing.float()
    outer, inner = model.quant_conv, model.post_quant_conv
    assert outer is not None and inner is not None and outer.bias is not None and inner.bias is not None
    inner.bias += inner.weight[:, :, 0, 0] @ shift
    inner.weight.copy_((inner.weight[:, :, 0, 0] @ inverse)[:, :, None, None])
    outer.bias[:count] = forward @ (outer.bias[:count] - shift)
    outer.weight[:count] = (forward @ outer.weight[:count, :, 0, 0])[:, :, None, None]
    # A mixture of channels has no diagonal posterior of its own any more: its mean variance a channel stands for it.
    outer.weight[count:] = 0
    outer.bias[count:] = (forward.square() @ noise_variance).log()
    return torch.cat([model.encode(part).latent_dist.mean for part in images.split(20)]).std((0, 2, 3))


@torch.no_grad()
def _score(model: AutoencoderKL, pool: Tensor) -> float:
    """Mean PSNR in dB of uint8 (N,3,96,96)."""
    images = pool.float() / 255
    restored = torch.cat([model.decode(model.encode(part * 2 - 1).latent_dist.mean).sample for part in images.split(50)])
    return round(psnr(images, (restored / 2 + 0.5).clamp(0, 1)).mean().item(), 2)
