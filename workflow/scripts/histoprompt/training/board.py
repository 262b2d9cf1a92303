"""TensorBoard logs of a run, one folder an arm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from histoprompt.diffusion import Images

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Board:
    """Scalars and pictures over steps, for `tensorboard --logdir`; None as the folder writes nothing.

    A run that goes on from a state replaces what was logged after that state.
    """

    def __init__(self, folder: str | Path | None, *, step: int) -> None:
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        if step == 0 and Path(folder).is_dir():
            shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log numbers; None is left out."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def image(self, step: int, name: str, image: Images) -> None:
        """Log a picture, uint8 (H, W, 3)."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
