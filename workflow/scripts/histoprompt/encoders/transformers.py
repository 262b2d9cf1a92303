"""Vision models of transformers: class tokens, pooled maps, and the image side of CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModel, CLIPVisionModelWithProjection

from histoprompt.embedding import Preprocessing
from histoprompt.encoders import first_line, no_encoder

_CLIP = ("clip", "clip_vision_model")


class _ClassToken(torch.nn.Module):
    """The class token of the last layer, after the final layer norm: of DINO, DINOv2 and other vision transformers."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -> features (n, d)."""
        features: torch.Tensor = self.network(pixel_values=pixels).last_hidden_state[:, 0]
        return features


class _PooledMap(_ClassToken):
    """The pooled map of a convolutional network."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -> features (n, d)."""
        features: torch.Tensor = self.network(pixel_values=pixels).pooler_output.flatten(1)
        return features


class _ImageEmbedding(_ClassToken):
    """CLIP's projection of an image into the space it shares with texts."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -> features (n, d), not of unit length."""
        features: torch.Tensor = self.network(pixel_values=pixels).image_embeds
        return features


def load(folder: Path, *, clip: bool) -> tuple[torch.nn.Module, Preprocessing]:
    """Load an image encoder; safetensors only, never remote code.

    Parameters
    ----------
    clip : the folder holds a CLIP model, whole or its image side, and features are its image embeddings.

    Raises
    ------
    InputError : the folder is not in transformers' format, holds another kind of model, or lacks weights.
    """
    if (folder / "model_index.json").is_file():
        raise no_encoder("transformers", folder, "a diffusers pipeline (model_index.json)")
    if not (folder / "config.json").is_file():
        raise no_encoder("transformers", folder, "no config.json")
    if not any(folder.glob("*.safetensors")):
        raise no_encoder("transformers", folder, "no *.safetensors file")
    preprocessing = Preprocessing.from_config(folder / "preprocessor_config.json")
    library_class = CLIPVisionModelWithProjection if clip else AutoModel
    try:
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
        loaded = None if (model_type in _CLIP) != clip else _from_pretrained(library_class, folder)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise no_encoder("transformers", folder, f"a model that cannot be loaded ({first_line(error)})") from error
    if loaded is None:
        wanted = "transformers" if clip else "clip"
        raise no_encoder("transformers", folder, f"a model of type {model_type!r}", f"set the encoder's `kind` to {wanted}")
    network, missing = loaded
    if getattr(network, "main_input_name", None) != "pixel_values":
        raise no_encoder("transformers", folder, f"{type(network).__name__}, which takes no images")
    class_token = any(name.split(".")[-1] == "cls_token" for name, _ in network.named_parameters())
    # The library fills weights that a file lacks with random numbers. The pooler behind a class token is not used here.
    missing = sorted(name for name in missing if not (class_token and "pooler" in name.split(".")))
    if missing:
        raise no_encoder(
            "transformers", folder, f"weights without {len(missing)} of the model's tensors, {missing[0]} the first"
        )
    features = _ImageEmbedding if clip else _ClassToken if class_token else _PooledMap
    return features(network), preprocessing


def _from_pretrained(library_class: Any, folder: Path) -> tuple[torch.nn.Module, list[str]]:
    """The network, and the names of tensors that its files lack."""
    network, report = library_class.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,  # whatever the file holds: autocast mixes float32 weights with the compute dtype only
    )
    return network, list(report["missing_keys"])
