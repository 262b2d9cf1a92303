"""The embedded models in one folder, with the card that says what they are and what they were made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoprompt.files import atomic, folder_manifest, read_json
from histoprompt.foundation.captions import STAIN_TYPES, TONES
from histoprompt.foundation.images import PHOTOGRAPHS
from histoprompt.words import number_words

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

- {phantom:,} phantom patches from slides and seeds that no study has (all models).
- {pcam:,} real patches: the train split of a small PCam root (PatchCamelyon, CC0), nothing of its valid or test split (all models).
  `pcam-train.sha256` lists the SHA-256 of each patch's pixels.
- {pictures:,} pictures that are not tissue: procedural textures, and photographs that come inside scikit-image and scikit-learn
  ({photographs}, temple, flower) (autoencoder only).

The base model is a **tissue-aware base**: it has seen these patches, but its captions tell only the tone of the stain, as in
"Histology image of pink tissue, stain type seven". The word is the nearest of {tones} named colours to the patch's mean colour, the
number its cluster among {stain_types}. It has read neither labels nor morphologies, and `cancer` or `morphology` mean nothing to it;
but some tissue was drawn more often than the rest, some less ({draws}).
A base that had seen no tissue at all, as Stable Diffusion, was tried first: 300 steps of fine-tuning, all that the demo can
afford, then gave incoherent texture.

## How they were trained

| model | steps | batch | seconds | device | score |
|---|---|---|---|---|---|
{stages}
| ViT | {vit[steps]:,} | {vit[batch_size]} | {vit[seconds]:.0f} | {vit[device]} | k-means against the phantom's morphologies: NMI {vit[training_set][nmi]}, ARI {vit[training_set][ari]} |
| ResNet | {resnet[steps]:,} | {resnet[batch_size]} | {resnet[seconds]:.0f} | {resnet[device]} | accuracy on patches held out: {accuracy} |
| U-Net; the text encoder stays random | {base[steps]:,} | {base[batch_size]} | {base[seconds]:.0f} | {base[device]} | held-out loss with right, another's and no caption: {base[held_out_loss][right]}, {base[held_out_loss][shuffled]}, {base[held_out_loss][empty]} |

The VAE's latents are {side}x{side}x{channels}. Its first {learned} channels restore the image alone: the smoothest, which holds the lay of the tissue,
has deviation two, the others one. The rest hold the finest detail and have a quarter. The U-Net predicts the image, and was trained on those {learned}: of detail it says nothing (zero) until
a fine-tuning learns what can be told of it.

## Limits

Trained for hours on a CPU: reconstructions lose the finest texture, and what the base model draws is tissue at a glance, not
under a lens. The phantom is not an organ, and its stains and morphologies are what its authors thought of.
"""


def assemble_foundation(
    table_csv: str | Path,
    models: Sequence[str | Path],
    reports: Sequence[str | Path],
    folder: str | Path,
    *,
    recipe: dict[str, Any],
) -> None:
    """Copy the model folders into one, with `README.md` (the card), the hashes of real patches and of all files.

    Parameters
    ----------
    models : the folders `dino-vit`, `resnet` and `diffusion`.
    reports : the JSON reports of autoencoder, ViT, ResNet and base model, in this order.
    """
    vae, vit, resnet, base = (read_json(path) for path in reports)
    final = recipe["autoencoder"]["stages"][-1]
    table = pd.read_csv(table_csv, dtype={"sha256": str})
    real = table.loc[table["source"] == "pcam", "sha256"]
    with atomic(folder) as temporary:
        temporary.mkdir()
        for model in map(Path, models):
            shutil.copytree(model, temporary / model.name)
        sizes = {
            Path(model).name: sum(p.stat().st_size for p in (temporary / Path(model).name).rglob("*") if p.is_file()) / 1e6
            for model in models
        }
        (temporary / "pcam-train.sha256").write_text("".join(f"{digest}\n" for digest in real))
        card = _TEXT.format(
            vae=vae,
            stain_types=STAIN_TYPES,
            tones=number_words(len(TONES)),
            side=96 // 2 ** (len(final["channels"]) - 1),
            channels=final["latent_channels"],
            learned=recipe["diffusion"]["learned_channels"],
            draws=", ".join(f"{name} {times:g} times" for name, times in recipe["diffusion"]["draws"].items()),
            vit=vit,
            resnet=resnet,
            base=base,
            sizes=sizes,
            phantom=int((table["source"] == "phantom").sum()),
            pcam=len(real),
            pictures=recipe["images"]["textures"]["pictures"],
            photographs=", ".join(name.replace("_", " ") for name in PHOTOGRAPHS),
            stages="\n".join(
                f"| VAE, stage {i} | {stage['steps']:,} | {stage['batch_size']} | {stage['seconds']:.0f} | {vae['device']} "
                f"| PSNR in dB on training patches: {_listed(stage['psnr_db'])} |"
                for i, stage in enumerate(vae["stages"], 1)
            ),
            accuracy=", ".join(f"{name.removesuffix('_accuracy')} {value:.1%}" for name, value in resnet["held_out"].items()),
        )
        (temporary / "README.md").write_text(card)
        (temporary / "manifest.json").write_text(json.dumps(folder_manifest(temporary), indent=2) + "\n")


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in scores.items())
