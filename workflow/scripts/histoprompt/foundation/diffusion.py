"""The embedded base model: a `StableDiffusionPipeline` that has seen tissue, with captions of its stain's tone only."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from histoprompt.devices import resolve_device
from histoprompt.errors import InputError
from histoprompt.files import atomic, write_json
from histoprompt.foundation.captions import stain_captions
from histoprompt.foundation.text import build_text_encoder, build_tokenizer
from histoprompt.foundation.training import anneal, device_name, follow, load_images, matrix_optimisers, save_half, steps
from histoprompt.phantom import MORPHOLOGIES
from histoprompt.precision import attend_in_single_precision
from histoprompt.training.loss import diffusion_errors, diffusion_loss, signal_to_noise

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
def _encode(vae: AutoencoderKL, images: Tensor, channels: int) -> Tensor:
    """Posterior mean and deviation (4,N,2,C,S,S) of the first `channels` of uint8 (N,3,96,96), in four orientations.

    As they are, mirrored, transposed, and both: an autoencoder's latents do not turn with the image.
    """
    turned = []
    for turn in (images, images.flip(-1), images.mT, images.mT.flip(-1)):
        parts = [vae.encode(part.float().contiguous() / 127.5 - 1).latent_dist for part in turn.split(100)]
        turned.append(torch.cat([torch.stack([p.mean[:, :channels], p.std[:, :channels]], 1).half() for p in parts]))
    return torch.stack(turned)


def _frequencies(table_csv: str | Path, draws: Mapping[str, float]) -> Tensor:
    """How often (N) each picture is drawn, beside one drawn once: `draws` by morphology, `pcam` for real patches."""
    names = np.array([*MORPHOLOGIES, "pcam"])  # a real patch has morphology -1
    if unknown := sorted(set(draws) - set(names)):
        raise InputError(
            "diffusion.draws in config/foundation.yaml",
            found=", ".join(unknown),
            expected="names among " + ", ".join(names),
            remedy="Correct the name or remove it.",
        )
    return torch.tensor([float(draws.get(name, 1)) for name in names[pd.read_csv(table_csv)["morphology"].to_numpy()]])


def pretrain_diffusion(
    tissue_npy: str | Path,
    table_csv: str | Path,
    vae_folder: str | Path,
    pipeline_folder: str | Path,
    report_json: str | Path,
    *,
    channels: list[int],
    learned_channels: int,
    draws: Mapping[str, float],
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

    Tissue with a shape of its own, glands above all, is rare and hard to learn; `draws` says how often it comes, beside the
    rest. Captions say nothing of it.

    Of the latents it learns the first `learned_channels`, which restore the image alone; the others, fine detail, stay zero
    until a fine-tuning learns what can be told of them.

    The text encoder stays as it was drawn: trained beside so small a U-Net it pulls the number words together, and prompts that
    differ only there could no longer be told apart.
    """
    frequencies = _frequencies(table_csv, draws)
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator(place).manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).to(place).eval()
    images = load_images(tissue_npy, place)
    moments = _encode(vae, images, learned_channels)
    colours = torch.cat([part.float().mean((2, 3)) for part in images.split(500)])
    tokenizer = build_tokenizer()
    text = build_text_encoder(tokenizer, width=text_width, layers=text_layers, heads=text_width // 32).to(place).eval()
    distinct, which = np.unique(stain_captions(colours.cpu().numpy(), seed), return_inverse=True)
    with torch.no_grad():
        tokens = torch.tensor(tokenizer(["", *distinct], padding="max_length").input_ids, device=place)
        states = text(tokens).last_hidden_state
    caption = torch.from_numpy(1 + which).to(place)  # 0 is the empty one
    unet = build_unet(channels, learned_channels, moments.shape[-1], text_width).to(place)
    average = copy.deepcopy(unet)
    if place.type == "cpu":
        attend_in_single_precision(unet)
    weights = list(unet.parameters())
    optimisers = matrix_optimisers(unet, learning_rate, ["conv_in", "conv_out"])
    schedule = DDPMScheduler(**SCHEDULE)
    held_out = torch.arange(0, len(images), 25, device=place)[:320]
    chances = frequencies.to(place).index_fill(0, held_out, 0)
    started, done, recent = time.monotonic(), 0, 0.0
    for step, share in steps(training_steps, "base diffusion model", seconds):
        for optimiser in optimisers:
            anneal(optimiser, learning_rate, share, step, 100)
        rows = torch.multinomial(chances, batch_size, replacement=True, generator=generator)
        turns = torch.randint(len(moments), (batch_size,), generator=generator, device=place)
        dropped = torch.rand(batch_size, generator=generator, device=place) < 0.1
        words = torch.where(dropped, 0, caption[rows])
        mean, std = moments[turns, rows].float().unbind(1)
        noise, own = (torch.randn(mean.shape, generator=generator, device=place) for _ in range(2))
        times = torch.randint(1000, (batch_size,), generator=generator, device=place)
        with torch.autocast(place.type, torch.bfloat16):
            errors = diffusion_errors(unet, schedule, mean + std * own, noise, times, states[words])
        loss = (errors * _weights(schedule, times)).mean()
        unet.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        follow(average.parameters(), weights, min(0.999, (1 + step) / (10 + step)))
        done = step + 1
        error = errors.mean().item()
        recent = 0.99 * recent + 0.01 * error if step else error
        if done % 100 == 0:
            print(f"step {done} loss {recent:.4f}", flush=True)
    trained = time.monotonic() - started
    unet = average.eval()
    scores = _held_out(unet, states, moments[0, held_out, 0].float(), caption[held_out], schedule)
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


def _weights(schedule: DDPMScheduler, times: Tensor) -> Tensor:
    """SNR + 1 (Salimans and Ho 2022), at most 5: where little noise is left errors are small, and are what one sees."""
    return (signal_to_noise(schedule, times) + 1).clamp(max=5).float()


@torch.no_grad()
def _held_out(
    unet: UNet2DConditionModel, states: Tensor, latents: Tensor, caption: Tensor, schedule: DDPMScheduler
) -> dict[str, float]:
    """Loss on pictures kept out of training, with the right caption, another picture's, and none."""
    generator = torch.Generator(latents.device).manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    times = torch.randint(1000, (len(latents),), generator=generator, device=latents.device)
    losses = {}
    for name, words in (("right", caption), ("shuffled", caption.roll(1)), ("empty", torch.zeros_like(caption))):
        losses[name] = round(diffusion_loss(unet, schedule, latents, noise, times, states[words]).item(), 4)
    return losses
