"""The embedded base model: a `StableDiffusionPipeline` that has seen tissue, with captions of its stain's tone only."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from histoprompt.devices import resolve_device
from histoprompt.files import atomic, write_json
from histoprompt.foundation.captions import stain_captions
from histoprompt.foundation.text import build_text_encoder, build_tokenizer
from histoprompt.foundation.training import anneal, device_name, follow, load_images, save_half, steps
from histoprompt.precision import attend_in_single_precision

# Stable Diffusion's noise schedule, but its last moment is pure noise (Lin et al. 2024): on latents as small as these the tail
# of the original still shows the mean colour of a patch, so that a model learns to copy it and draws every patch in the same
# one. Noise cannot be predicted then; the image is, which gave better samples than velocity (docs/RESULTS.md).
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "sample",
    "rescale_betas_zero_snr": True,
}


def build_unet(channels: list[int], latent_channels: int, sample_size: int, text_width: int) -> UNet2DConditionModel:
    """A text-conditioned U-Net that reads text at all levels but the outermost.

    Text at the two innermost of four levels only is not read at all after as many steps as suffice with three.
    """
    inner = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * inner,
        up_block_types=("CrossAttnUpBlock2D",) * inner + ("UpBlock2D",),
        cross_attention_dim=text_width,
        attention_head_dim=[max(1, c // 32) for c in channels],
        norm_num_groups=16,
    )


@torch.no_grad()
def widen(unet: UNet2DConditionModel, latent_channels: int) -> UNet2DConditionModel:
    """The same model for more latent channels: the first as before, of the others it reads nothing and says zero."""
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": latent_channels, "out_channels": latent_channels})
    weights = wide.state_dict()
    for name, tensor in unet.state_dict().items():
        if tensor.shape != weights[name].shape:  # the first convolution's inputs, the last one's outputs
            weights[name].zero_()
            weights[name][tuple(map(slice, tensor.shape))] = tensor
        else:
            weights[name].copy_(tensor)
    wide.load_state_dict(weights)
    return wide


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and deviation of uint8 (N,3,96,96)."""
    parts = [vae.encode(part.float() / 127.5 - 1).latent_dist for part in images.split(100)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def pretrain_diffusion(
    tissue_npy: str | Path,
    vae_folder: str | Path,
    pipeline_folder: str | Path,
    report_json: str | Path,
    *,
    channels: list[int],
    learned_channels: int,
    text_width: int,
    text_layers: int,
    training_steps: int,
    batch_size: int,
    learning_rate: float,
    seconds: float | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train the U-Net on tissue with stain-tone captions; write the whole pipeline folder.

    Of the latents it learns the first `learned_channels`, which restore the image alone; the others, fine detail, stay zero
    until a fine-tuning learns what can be told of them.

    The text encoder stays as it was drawn: trained beside so small a U-Net it pulls the number words together, and prompts that
    differ only there could no longer be told apart.
    """
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator(place).manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).to(place).eval()
    images = load_images(tissue_npy, place)
    mean, std = (moments[:, :learned_channels] for moments in _encode(vae, images))
    colours = torch.cat([part.float().mean((2, 3)) for part in images.split(500)])
    tokenizer = build_tokenizer()
    text = build_text_encoder(tokenizer, width=text_width, layers=text_layers, heads=text_width // 32).to(place).eval()
    distinct, which = np.unique(stain_captions(colours.cpu().numpy(), seed), return_inverse=True)
    with torch.no_grad():
        tokens = torch.tensor(tokenizer(["", *distinct], padding="max_length").input_ids, device=place)
        states = text(tokens).last_hidden_state
    caption = torch.from_numpy(1 + which).to(place)  # 0 is the empty one
    unet = build_unet(channels, mean.shape[1], mean.shape[-1], text_width).to(place)
    average = copy.deepcopy(unet)
    if place.type == "cpu":
        attend_in_single_precision(unet)
    weights = list(unet.parameters())
    optimiser = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=place.type == "cuda")
    schedule = DDPMScheduler(**SCHEDULE)
    held_out = torch.arange(0, len(mean), 25, device=place)[:320]
    train = torch.tensor(np.setdiff1d(np.arange(len(mean)), held_out.cpu().numpy()), device=place)
    started, done, recent = time.monotonic(), 0, 0.0
    for step, share in steps(training_steps, "base diffusion model", seconds):
        anneal(optimiser, learning_rate, share, step, 100)
        rows = train[torch.randint(len(train), (batch_size,), generator=generator, device=place)]
        dropped = torch.rand(batch_size, generator=generator, device=place) < 0.1
        words = torch.where(dropped, 0, caption[rows])
        noise = torch.randn(mean[rows].shape, generator=generator, device=place)
        latents = mean[rows] + std[rows] * torch.randn(noise.shape, generator=generator, device=place)
        moments = torch.randint(1000, (batch_size,), generator=generator, device=place)
        with torch.autocast(place.type, torch.bfloat16):
            loss = _loss(unet, states[words], latents, noise, moments, schedule)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        follow(average.parameters(), weights, min(0.999, (1 + step) / (10 + step)))
        done = step + 1
        recent = 0.99 * recent + 0.01 * loss.item() if step else loss.item()
        if done % 100 == 0:
            print(f"step {done} loss {recent:.4f}", flush=True)
    trained = time.monotonic() - started
    unet = average.eval()
    scores = _held_out(unet, states, mean[held_out], caption[held_out], schedule)
    parameters = {"unet": sum(p.numel() for p in unet.parameters()), "text_encoder": sum(p.numel() for p in text.parameters())}
    with atomic(pipeline_folder) as temporary:
        tokenizer.save_pretrained(temporary / "tokenizer")
        save_half(text, temporary / "text_encoder")
        save_half(widen(unet.cpu(), int(vae.config["latent_channels"])), temporary / "unet")
        save_half(vae, temporary / "vae")
        DDIMScheduler(**SCHEDULE, clip_sample=False, timestep_spacing="trailing").save_pretrained(temporary / "scheduler")
        index = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.30.0",
            "requires_safety_checker": False,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_json(
        report_json,
        {
            "steps": done,
            "seconds": round(trained, 1),
            "device": device_name(place),
            "batch_size": batch_size,
            "held_out_loss": scores,
            "parameters": parameters,
        },
    )


def _loss(
    unet: UNet2DConditionModel, states: Tensor, latents: Tensor, noise: Tensor, moments: Tensor, schedule: DDPMScheduler
) -> Tensor:
    noisy = schedule.add_noise(latents, noise, moments)
    guess = unet(noisy, moments, states, return_dict=False)[0]
    return F.mse_loss(guess.float(), latents)


@torch.no_grad()
def _held_out(
    unet: UNet2DConditionModel, states: Tensor, latents: Tensor, caption: Tensor, schedule: DDPMScheduler
) -> dict[str, float]:
    """Loss on pictures kept out of training, with the right caption, another picture's, and none."""
    generator = torch.Generator(latents.device).manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    moments = torch.randint(1000, (len(latents),), generator=generator, device=latents.device)
    losses = {}
    for name, words in (("right", caption), ("shuffled", caption.roll(1)), ("empty", torch.zeros_like(caption))):
        losses[name] = round(_loss(unet, states[words], latents, noise, moments, schedule).item(), 4)
    return losses
