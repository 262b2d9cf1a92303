"""The state of a run on disk, from which the same command goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from histoprompt.diffusion import Images
from histoprompt.files import atomic, folder_manifest, read_json, remove, sha256
from histoprompt.job import say

_DIGESTS = "sha256.json"  # of a state's own files, and of the grids drawn before it


class StateFolder:
    """States and sample grids of one run, kept apart from those of any other settings, inputs or code."""

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.root = Path(folder)
        self.folder = self.root / identity[:32]

    def tidy(self) -> None:
        """Remove what other runs left here, what was only half written, and what has changed since it was written."""
        if self.root.is_dir():
            for other in self.root.iterdir():
                if other != self.folder and re.fullmatch("[0-9a-f]{32}", other.name):
                    shutil.rmtree(other)
            for partial in self.folder.glob(".*.partial*"):
                remove(partial)
        for saved in reversed(self._saved()):
            damaged = self._damaged(saved)
            if damaged is None:
                break
            say(f"{damaged} was damaged after it was written: it is not gone on from")
            shutil.rmtree(saved)

    def step(self) -> int:
        """The step of the last state, 0 if there is none."""
        saved = self._saved()
        return int(saved[-1].name.removeprefix("step-")) if saved else 0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of the last state, if there is one."""
        saved = self._saved()
        return (load_file(saved[-1] / "state.safetensors"), read_json(saved[-1] / "state.json")) if saved else None

    def save(self, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Write a state whole, then drop the ones before it."""
        name = f"step-{step:09d}"
        with atomic(self.folder / name) as temporary:
            temporary.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps(numbers))
            digests = {f"{name}/{file}": digest for file, digest in folder_manifest(temporary).items()}
            digests |= {grid.name: sha256(grid) for grid in self._grids()}
            (temporary / _DIGESTS).write_text(json.dumps(digests))
        for older in self._saved()[:-1]:
            shutil.rmtree(older)

    def save_grid(self, step: int, grid: Images) -> None:
        """Keep the samples of a checkpoint."""
        with atomic(self.folder / f"grid-{step:09d}.png") as temporary:
            Image.fromarray(grid).save(temporary)

    def grids(self) -> dict[int, Images]:
        """Step -> samples, in order."""
        return {int(path.stem.split("-")[1]): np.asarray(Image.open(path)) for path in self._grids()}

    def discard(self) -> None:
        """Remove everything: the run is complete."""
        shutil.rmtree(self.folder)
        if not any(self.root.iterdir()):
            self.root.rmdir()

    def _damaged(self, saved: Path) -> Path | None:
        """The first file of a state that is not what it was when it was written, if there is one."""
        try:
            expected = dict(json.loads((saved / _DIGESTS).read_text()))
        except (OSError, ValueError):
            return saved / _DIGESTS
        files = {self.folder / name: digest for name, digest in expected.items()}
        return next((file for file, digest in files.items() if not file.is_file() or sha256(file) != digest), None)

    def _grids(self) -> list[Path]:
        return sorted(self.folder.glob("grid-*.png"))

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
