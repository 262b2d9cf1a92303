"""Image encoders of several libraries: what their folders hold, and what is said of folders that do not."""

from __future__ import annotations

from pathlib import Path

from histoprompt.errors import InputError

FILES = {
    "transformers": ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"),
    "timm": ("config.json", "model.safetensors"),
}
CONTENTS = {
    "transformers": "config.json, model.safetensors and preprocessor_config.json",
    "timm": "config.json and model.safetensors",
}
_SAVE = {
    "transformers": "with `save_pretrained` (model and image processor); a model of timm has `kind: timm`",
    "timm": "with `timm.models.save_for_hf(model, FOLDER, safe_serialization=True)`; a model of transformers has "
    "`kind: transformers`",
}

INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION = f"inception-2015-12-05.pt, the weights that FID is defined by (95.6 MB, sha256 {INCEPTION_SHA256})"


def no_encoder(library: str, folder: Path, found: str, remedy: str = "") -> InputError:
    """What to say of a folder that a library cannot load."""
    return InputError(
        folder,
        found=found,
        expected=f"an image encoder in the format of {library}: {CONTENTS[library]}",
        remedy=remedy or f"give another folder, or save the model again {_SAVE[library]}",
    )


def no_inception(path: Path, found: str) -> InputError:
    """What to say where the weights of FID are missing or are others."""
    return InputError(
        path,
        found=found,
        expected=INCEPTION,
        remedy='put this file there (where there is a network, `python -c "from cleanfid.downloads_helper import '
        "check_download_inception as get; get('.')\"` writes it to the current folder), or take the encoder out of "
        "`evaluation.encoders`; no other weights give a FID",
    )


def first_line(error: Exception) -> str:
    """What an error says first, with the line after a heading."""
    text = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
    first, *others = text.strip().split("\n")
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first
