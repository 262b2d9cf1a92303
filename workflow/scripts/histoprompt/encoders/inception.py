"""Inception-v3 with the weights of FID, as clean-fid runs it: the only encoder whose distances are called FID and KID."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from histoprompt.embedding import Preprocessing
from histoprompt.encoders import INCEPTION_SHA256, no_inception

_EDGE, _FEATURES = 299, 2048
_CENTRE = 128.0  # grey levels; also the scale


class _Pooled(torch.nn.Module):
    """The layers up to the last average pooling."""

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] -> features (n, 2048)."""
        features: torch.Tensor = self.layers(pixels)
        return features.reshape(-1, _FEATURES)


def load(path: Path) -> tuple[torch.nn.Module, Preprocessing]:
    """Load the TorchScript file, after its content proved to be the known one: a script may hold any program.

    Raises
    ------
    InputError : there is no such file, or it is another one.
    """
    if not path.is_file():
        raise no_inception(path, "no file of this name")
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != INCEPTION_SHA256:
        raise no_inception(path, f"a file of {path.stat().st_size} bytes with sha256 {found}")
    scale = (_CENTRE,) * 3
    preprocessing = Preprocessing(_EDGE, _EDGE, 1.0, scale, scale, mode="bicubic", whole_levels=False)
    return _Pooled(torch.jit.load(path, map_location="cpu").layers), preprocessing
