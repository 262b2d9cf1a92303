"""Full-size models with random weights, for measuring speed where the real ones are not at hand: they draw nothing.

python benchmarks/stand_in.py stable-diffusion FOLDER      # the architecture of Stable Diffusion 1.5, 4.1 GB
python benchmarks/stand_in.py dino-vitb8 FOLDER            # the architecture of DINO ViT-B/8, 0.3 GB
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, ViTConfig, ViTImageProcessor, ViTModel

EMBEDDED = Path(__file__).parents[1] / "resources/foundation/diffusion"


def stable_diffusion(folder: Path) -> None:
    """U-Net (860 M parameters), autoencoder (84 M) and text encoder (123 M), with the embedded model's tokenizer."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        )
    )
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text), ("scheduler", scheduler)):
        part.save_pretrained(folder / name)
    shutil.copytree(EMBEDDED / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    index = json.loads((EMBEDDED / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]}, indent=2))


def dino_vitb8(folder: Path) -> None:
    """A ViT of 86 M parameters on patches of 8 pixels, with the processor of facebook/dino-vitb8."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(patch_size=8, image_size=224, qkv_bias=True), add_pooling_layer=False).save_pretrained(folder)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ViTImageProcessor(size={"height": 224, "width": 224}, resample=2, image_mean=mean, image_std=std).save_pretrained(folder)


if __name__ == "__main__":
    {"stable-diffusion": stable_diffusion, "dino-vitb8": dino_vitb8}[sys.argv[1]](Path(sys.argv[2]))
