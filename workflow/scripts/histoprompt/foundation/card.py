"""The embedded models in one folder, with the card that says what they are and what they were made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoprompt.files import atomic, folder_manifest, read_json
from histoprompt.foundation.images import PHOTOGRAPHS

_TEXT = """# Embedded foundation models

Tiny models in the formats of the real ones, so that the whole study runs from a fresh clone with no network. They know one
synthetic organ and a few thousand real patches: they are for learning, testing and teaching, not for results about real tissue,
and never for diagnosis. Made by `snakemake foundation` (recipe: `config/foundation.yaml`).

| folder | what it is | format | parameters | size |
|---|---|---|---|---|
| `dino-vit/` | embedder: ViT, patch 8, trained by self-distillation (DINO) without labels | `transformers.ViTModel` | {vit[parameters]:,} | {sizes[dino-vit]:.1f} MB |
| `resnet/` | evaluation only: a supervised ResNet, another family and training than the embedder | `transformers.ResNetModel` | {resnet[parameters]:,} | {sizes[resnet]:.1f} MB |
| `diffusion/` | base model: VAE ({vae[parameters]:,}), CLIP text encoder ({base[parameters][text_encoder]:,}), U-Net ({base[parameters][unet]:,}) | `diffusers.StableDiffusionPipeline` | | {sizes[diffusion]:.1f} MB |

Weights are float16 safetensors; every stage loads them as float32.

## What they saw

- {phantom:,} phantom patches from slides and seeds that no study has (embedder, evaluation encoder, autoencoder).
- {pcam:,} real patches: the train split of a small PCam root (PatchCamelyon, CC0), nothing of its valid or test split (embedder,
  evaluation encoder, autoencoder). `pcam-train.sha256` lists the SHA-256 of each patch's pixels.
- {pictures:,} pictures that are not tissue: procedural textures, and photographs that come inside scikit-image and scikit-learn
  ({photographs}, temple, flower) (autoencoder, base model).

The base model has seen **no tissue**: out of the box it draws coloured textures, as an out-of-the-box model should. In its captions
the words of a study (`healthy`, `cancer`, `tissue`, `morphology type twelve`) name palettes and patterns like any other word.

## How they were trained

| model | steps | batch | seconds | device | score |
|---|---|---|---|---|---|
| VAE | {vae[steps]:,} | {vae[batch_size]} | {vae[seconds]:.0f} | {vae[device]} | PSNR in dB on training patches: {psnr} |
| its decoder, alone | {decoder[steps]:,} | {decoder[batch_size]} | {decoder[seconds]:.0f} | {decoder[device]} | PSNR in dB on training patches: {refined} |
| ViT | {vit[steps]:,} | {vit[batch_size]} | {vit[seconds]:.0f} | {vit[device]} | k-means against the phantom's morphologies: NMI {vit[training_set][nmi]}, ARI {vit[training_set][ari]} |
| ResNet | {resnet[steps]:,} | {resnet[batch_size]} | {resnet[seconds]:.0f} | {resnet[device]} | accuracy on patches held out: {accuracy} |
| U-Net and text encoder | {base[steps]:,} | {base[batch_size]} | {base[seconds]:.0f} | {base[device]} | held-out loss with right, another's and no caption: {base[held_out_loss][right]}, {base[held_out_loss][shuffled]}, {base[held_out_loss][empty]} |

The VAE's latents are 24x24x{channels}, mixed and scaled so that they run from coarse to fine (`align_latents`); deviations of the
channels: {deviations}.

## Limits

Trained for minutes on a CPU: reconstructions lose the finest texture, and the base model draws simple patterns. The phantom is not
an organ, and its stains and morphologies are what its authors thought of.
"""


def assemble_foundation(
    table_csv: str | Path,
    models: Sequence[str | Path],
    vae_folder: str | Path,
    reports: Sequence[str | Path],
    folder: str | Path,
    *,
    recipe: dict[str, Any],
) -> None:
    """Copy the model folders into one, with `README.md` (the card), the hashes of real patches and of all files.

    Parameters
    ----------
    models : the folders `dino-vit`, `resnet` and `diffusion`.
    vae_folder : the autoencoder with its refined decoder, which takes the place of the base model's.
    reports : the JSON reports of autoencoder, decoder, ViT, ResNet and base model, in this order.
    """
    vae, decoder, vit, resnet, base = (read_json(path) for path in reports)
    table = pd.read_csv(table_csv, dtype={"sha256": str})
    real = table.loc[table["source"] == "pcam", "sha256"]
    with atomic(folder) as temporary:
        temporary.mkdir()
        for model in map(Path, models):
            shutil.copytree(model, temporary / model.name)
        shutil.copytree(vae_folder, temporary / "diffusion/vae", dirs_exist_ok=True)
        sizes = {
            Path(model).name: sum(p.stat().st_size for p in (temporary / Path(model).name).rglob("*") if p.is_file()) / 1e6
            for model in models
        }
        (temporary / "pcam-train.sha256").write_text("".join(f"{digest}\n" for digest in real))
        card = _TEXT.format(
            vae=vae,
            decoder=decoder,
            vit=vit,
            resnet=resnet,
            base=base,
            sizes=sizes,
            phantom=int((table["source"] == "phantom").sum()),
            pcam=len(real),
            pictures=recipe["images"]["textures"]["pictures"],
            photographs=", ".join(name.replace("_", " ") for name in PHOTOGRAPHS),
            psnr=_listed(vae["psnr_db"]),
            refined=_listed(decoder["psnr_db"]),
            accuracy=", ".join(f"{name.removesuffix('_accuracy')} {value:.1%}" for name, value in resnet["held_out"].items()),
            channels=len(vae["latent_deviations"]),
            deviations=", ".join(f"{value:.2f}" for value in vae["latent_deviations"]),
        )
        (temporary / "README.md").write_text(card)
        (temporary / "manifest.json").write_text(json.dumps(folder_manifest(temporary), indent=2) + "\n")


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in scores.items())
