"""Random models of a few thousand weights in the libraries' own formats, and inputs for them: whole stages in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from histoprompt.patches import write_patches

Z, FACTOR, RESOLUTION, TOKENS = 4, 8, 32, 12
WORDS = ["healthy", "cancer", "tissue", "type", "zero", "one"]
PROMPTS = [f"{kind} tissue type {index}" for kind in ("healthy", "cancer") for index in ("zero", "one")]


def tiny_pipeline(folder: Path, *, prediction_type: str = "v_prediction", scaling: float = 0.5) -> Path:
    """A `StableDiffusionPipeline` folder: f=8 and 4 latent channels, 32-px images, prompts of at most 12 tokens."""
    torch.manual_seed(0)
    _tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    with torch.no_grad():
        text.get_input_embeddings().weight.mul_(50)  # else a random encoder says nearly the same of every prompt
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=Z,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=scaling,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // FACTOR,
        in_channels=Z,
        out_channels=Z,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    for name, part in (("text_encoder", text), ("vae", vae), ("unet", unet), ("scheduler", scheduler)):
        part.save_pretrained(folder / name)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {part: [None, None] for part in ("feature_extractor", "image_encoder", "safety_checker")}
    index |= {
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _tokenizer() -> CLIPTokenizer:
    """Letters, and merges that make one token of every word in `WORDS`."""
    letters = [chr(c) for c in range(97, 123)]
    tokens, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        head = word[0]
        for i, letter in enumerate(word[1:], start=2):
            tail = letter + ("</w>" if i == len(word) else "")
            if (head, tail) not in merges:
                merges.append((head, tail))
                tokens.append(head + tail)
            head += tail
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


def patch_images(count: int, size: int = RESOLUTION, seed: int = 0) -> np.ndarray:
    """Smooth random patches, uint8 (count, size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size // 8, size // 8, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


def write_patch_file(path: Path, count: int, size: int = RESOLUTION, seed: int = 0) -> Path:
    """A patch file of two classes, labels alternating."""
    ids = [f"p{i}" for i in range(count)]
    write_patches(
        path, [(patch_images(count, size, seed), np.arange(count) % 2, ids)], classes=["healthy", "cancer"], size=size
    )
    return path


def write_generate(path: Path, count: int) -> Path:
    """Prompts of `count` images to generate."""
    numbers = np.arange(count)
    table = pd.DataFrame({"number": numbers, "label": numbers % 2, "cluster": numbers // 2 % 2})
    prompts = [PROMPTS[2 * label + cluster] for label, cluster in zip(table["label"], table["cluster"], strict=True)]
    table.assign(prompt=prompts).to_csv(path, index=False)
    return path
