"""The drawing surface of a patch: pigments that tissue layers are painted and cells are placed on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histoprompt.phantom.textures import ANGLES, FIELD, Bank, Floats, Sprite

MARGIN = 16  # pixels around the patch, so that cells may lie across its border
Points = NDArray[np.float64]


class Canvas:
    """Pigments of one patch while it is drawn.

    Attributes: `pigments` (3, S, S), amounts of haematoxylin, eosin and red cell pigment; `y`, `x` (S, S) pixel coordinates;
    `rng`, the patch's own generator; `bank`, the domain's textures.
    """

    def __init__(self, bank: Bank, rng: np.random.Generator, size: int) -> None:
        self.bank, self.rng, self.size = bank, rng, size
        self._padded = np.zeros((3, size + 2 * MARGIN, size + 2 * MARGIN), np.float32)
        self.pigments = self._padded[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        self.y, self.x = np.ogrid[:size, :size]

    def cut(self, texture: Floats) -> Floats:
        """A piece (S, S) of a texture, from anywhere."""
        top, left = self.rng.integers(0, FIELD - self.size, 2)
        return texture[top : top + self.size, left : left + self.size]

    def field(self, name: str) -> Floats:
        """A piece (S, S) of a noise field of the bank."""
        return self.cut(self.bank.fields[name])

    def paint(self, cover: Floats | None, haematoxylin: Floats | float, eosin: Floats | float) -> None:
        """Replace what is there by a tissue, as far as `cover` (S, S) in [0, 1] says; everywhere if it is None."""
        share = np.float32(1) if cover is None else cover
        self.pigments *= 1 - share
        self.pigments[0] += share * haematoxylin
        self.pigments[1] += share * eosin

    def lattice(self, spacing: float, jitter: float) -> Points:
        """Points (n, 2) of a jittered hexagonal lattice that covers the patch and a little more; `jitter` is in spacings."""
        reach = MARGIN / 2
        y = np.arange(-reach, self.size + reach, spacing * 0.866) + self.rng.uniform(0, spacing)
        x = np.arange(-reach - spacing, self.size + reach, spacing) + self.rng.uniform(0, spacing)
        points = np.empty((len(y), len(x), 2))
        points[..., 0] = y[:, None]
        points[..., 1] = x + (np.arange(len(y)) % 2 * spacing / 2)[:, None]
        points += self.rng.normal(0, jitter * spacing, points.shape)
        return points.reshape(-1, 2)

    def within(self, points: Points, where: NDArray[np.bool_] | None, share: float = 1.0) -> Points:
        """A random `share` of the points in the region; outside the patch, the region goes on as at its border."""
        keep = self.rng.random(len(points)) < share
        if where is not None:
            nearest = np.clip(points, 0, self.size - 1).astype(int)
            keep &= where[nearest[:, 0], nearest[:, 1]]
        return points[keep]

    def place(self, cells: list[Sprite], points: Points) -> None:
        """Lay randomly chosen cells at the points, in their order; those beyond the margin are left out."""
        chosen = self.rng.integers(0, len(cells), len(points)).tolist()
        for (y, x), which in zip(np.floor(points).astype(int).tolist(), chosen, strict=True):
            self._lay(cells[which], y, x)

    def place_turned(self, cells: list[list[Sprite]], points: Points, angles: Points) -> None:
        """Lay cells whose long axes follow `angles` (n,), radians from x towards y."""
        turns = np.rint(angles * ANGLES / np.pi).astype(int) % ANGLES
        chosen = self.rng.integers(0, len(cells[0]), len(points)).tolist()
        for (y, x), turn, which in zip(np.floor(points).astype(int).tolist(), turns.tolist(), chosen, strict=True):
            self._lay(cells[turn][which], y, x)

    def _lay(self, cell: Sprite, y: int, x: int) -> None:
        side = cell.keep.shape[0]
        top, left = y + MARGIN - side // 2, x + MARGIN - side // 2
        if top < 0 or left < 0 or max(top, left) + side > self._padded.shape[1]:
            return
        under = self._padded[:, top : top + side, left : left + side]
        under *= cell.keep
        under += cell.add
