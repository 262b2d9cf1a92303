"""Low-rank adapters on a U-Net's attention, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


def add_adapters(unet: UNet2DConditionModel, lora: Mapping[str, Any], seed: int) -> None:
    """Freeze the U-Net and add adapters, float32, that change nothing yet."""
    unet.requires_grad_(False)
    device = next(unet.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        unet.add_adapter(
            LoraConfig(
                r=lora["rank"], lora_alpha=lora["alpha"], target_modules=_ATTENTION, init_lora_weights="gaussian", bias="none"
            )
        )
    for weight in unet.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def merge_adapters(unet: UNet2DConditionModel) -> None:
    """Add the adapters' product to the weights and remove them: the U-Net has its own tensors again, under their own names."""
    unet.fuse_lora()
    unet.unload_lora()


def save_adapters(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights(folder)` reads."""
    layers: dict[str, nn.Module | Tensor] = {name: t.detach().cpu() for name, t in get_peft_model_state_dict(unet).items()}
    config = {key: sorted(v) if isinstance(v, set) else v for key, v in unet.peft_config["default"].to_dict().items()}
    # Without the metadata alpha is lost, and every reader takes it for the rank.
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=config)
    # safetensors writes several entries of metadata in any order; one entry alone gives the same bytes every time.
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as saved:
        metadata = saved.metadata()
    save_file(load_file(file), file, {LORA_ADAPTER_METADATA_KEY: metadata[LORA_ADAPTER_METADATA_KEY]})
