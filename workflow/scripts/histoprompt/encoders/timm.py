"""Vision models of timm, from a folder in the format in which timm shares them."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config

from histoprompt.embedding import Preprocessing
from histoprompt.encoders import first_line, no_encoder


def load(folder: Path) -> tuple[torch.nn.Module, Preprocessing]:
    """Load a model without its classifier: features are what the classifier would see, pooled as the model's config says.

    A patch is resized to the input size as a whole: of timm's own transform, the size, the filter, the mean and the standard
    deviation are taken, and the margin that it would cut off is kept.

    Raises
    ------
    InputError : the folder is not in timm's format, or its weights are not the architecture's.
    """
    if not (folder / "config.json").is_file():
        raise no_encoder("timm", folder, "no config.json")
    if not (folder / "model.safetensors").is_file():
        raise no_encoder(
            "timm",
            folder,
            "no model.safetensors",
            "if there is a pytorch_model.bin that you trust, write its tensors once as safetensors into a folder of your own: "
            "`save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors')` with safetensors.torch",
        )
    try:
        # As saved, classifier included: timm lets tensors be missing where the number of classes is another.
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
        network.reset_classifier(0)  # type: ignore[operator]
        config = resolve_model_data_config(network)
        _, height, width = config["input_size"]
        preprocessing = Preprocessing(
            height, width, 1 / 255, tuple(config["mean"]), tuple(config["std"]), mode=config["interpolation"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError, SafetensorError) as error:
        raise no_encoder("timm", folder, f"a model that cannot be loaded ({first_line(error)})") from error
    if preprocessing.mode not in ("bilinear", "bicubic"):
        found = f"the interpolation {preprocessing.mode!r}"
        raise no_encoder("timm", folder, found, "set it to bilinear or bicubic in config.json")
    return network, preprocessing
