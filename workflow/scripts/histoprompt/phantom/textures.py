"""The bank: noise fields, fibres and cells, drawn once a domain and cut, placed and mixed anew for every patch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FIELD = 512  # pixels a side of a noise field
ANGLES = 12  # fibre directions within half a turn
SCALES = {"grain": 0.0, "fine": 0.8, "medium": 2.0, "coarse": 5.0, "broad": 13.0}  # standard deviations in pixels
BANK = 0x62616E6B  # entropy word that keeps banks apart from slides and patches


@dataclass(frozen=True)
class Sprite:
    """A cell to lay over the pigments (3, s, s): `pigments * keep + add`, with keep (s, s) and add (3, s, s)."""

    keep: Floats
    add: Floats


@dataclass(frozen=True)
class Bank:
    """Textures of zero mean and unit variance, and cells by kind; oriented ones are listed by direction."""

    fields: dict[str, Floats]
    fibres: list[Floats]
    cords: list[Floats]
    cells: dict[str, list[Sprite]]
    oriented: dict[str, list[list[Sprite]]]


@lru_cache(maxsize=4)
def build_bank(domain_word: int) -> Bank:
    """Build the bank of a domain. Pure in its argument, which is why one copy may be shared."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([BANK, domain_word])))
    angles = np.arange(ANGLES) * np.pi / ANGLES
    return Bank(
        fields={name: _noise(rng, scale) for name, scale in SCALES.items()},
        fibres=[_fibres(rng, angle, width=0.9, length=14.0) for angle in angles],
        cords=[_fibres(rng, angle, width=5.5, length=15.0) for angle in angles],
        cells={
            "lymphocyte": [_lymphocyte(rng) for _ in range(160)],
            "tumour": [_tumour_cell(rng) for _ in range(320)],
            "debris": [_debris(rng) for _ in range(80)],
            "ghost": [_ghost(rng) for _ in range(60)],
            "red": [_red_cell(rng) for _ in range(100)],
        },
        oriented={
            "spindle": [[_spindle(rng, angle) for _ in range(16)] for angle in angles],
            "epithelium": [[_epithelial_cell(rng, angle) for _ in range(16)] for angle in angles],
        },
    )


def _normalise(field: NDArray[np.number]) -> Floats:
    pixels = np.asarray(field, np.float32)
    return np.asarray((pixels - pixels.mean()) / pixels.std(), np.float32)


def _noise(rng: np.random.Generator, scale: float, size: int = FIELD) -> Floats:
    field = rng.standard_normal((size, size), dtype=np.float32)
    if scale:
        field = np.asarray(cv2.GaussianBlur(field, (0, 0), scale), np.float32)
    return _normalise(field)


def _fibres(rng: np.random.Generator, angle: float, *, width: float, length: float) -> Floats:
    """Noise drawn out along `angle` (radians from the x axis towards y), with the crimp of collagen."""
    straight = rng.standard_normal((FIELD, FIELD), dtype=np.float32)
    bundles = 0.6 * _normalise(cv2.GaussianBlur(straight, (0, 0), length * 1.3, sigmaY=width * 2.6))
    straight = _normalise(cv2.GaussianBlur(straight[::-1], (0, 0), length, sigmaY=width)) + bundles
    y, x = (np.mgrid[:FIELD, :FIELD] - FIELD / 2).astype(np.float32)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    crimp = 2.2 * np.sin(along * (2 * np.pi / rng.uniform(34, 50)) + 1.5 * _noise(rng, 22.0))
    across = across + crimp + 5.0 * _noise(rng, 20.0)
    columns, rows = (np.asarray(offset + FIELD / 2, np.float32) for offset in (along, across))
    return _normalise(cv2.remap(straight, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _grid(rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    """Pixel offsets (y, x) from a centre that lies anywhere within the middle pixel."""
    y, x = np.mgrid[:size, :size].astype(np.float32) - (size - 1) / 2
    return y - np.float32(rng.uniform(-0.5, 0.5)), x - np.float32(rng.uniform(-0.5, 0.5))


def _blob(
    rng: np.random.Generator, grid: tuple[Floats, Floats], radii: tuple[float, float], angle: float, irregular: float
) -> tuple[Floats, Floats]:
    """Coverage in [0, 1] and depth in pixels below the outline of an ellipse with a wobbling outline."""
    y, x = grid
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    turn = np.arctan2(across, along)
    radius = np.hypot(along / radii[0], across / radii[1])
    outline = 1 + irregular * sum(rng.normal() * np.cos(m * turn + rng.uniform(0, 6.28)) / m for m in (2, 3, 4, 5))
    depth = np.asarray((outline - radius) * np.sqrt(radii[0] * radii[1]), np.float32)
    return np.clip(depth + 0.5, 0, 1), depth


def _chromatin(rng: np.random.Generator, depth: Floats, *, clumps: float, rim: float, nucleoli: int) -> Floats:
    """Relative density of a nucleus: clumped, darker under its membrane, with nucleoli."""
    size = depth.shape[0]
    noise = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 1.0) * 3.3
    density = 1 + clumps * noise - 0.4 * rim + rim * np.exp(-(((depth - 0.7) / 0.9) ** 2))
    rows, columns = np.nonzero(depth > 2.0)
    for _ in range(nucleoli if len(rows) else 0):
        pick = rng.integers(len(rows))
        y, x = np.mgrid[:size, :size]
        density = density + rng.uniform(0.7, 1.1) * np.exp(-((y - rows[pick]) ** 2 + (x - columns[pick]) ** 2) / 1.6)
    return np.asarray(np.clip(density, 0.15, 3), np.float32)


def _pigments(h: Floats | float, e: Floats | float, r: Floats | float, shape: tuple[int, ...]) -> Floats:
    return np.stack([np.broadcast_to(np.asarray(p, np.float32), shape) for p in (h, e, r)])


def _sprite(*layers: tuple[Floats, Floats]) -> Sprite:
    """Merge layers (coverage, pigments), lowest first."""
    keep = np.ones_like(layers[0][0])
    add = np.zeros_like(layers[0][1])
    for coverage, pigments in layers:
        keep = keep * (1 - coverage)
        add = add * (1 - coverage) + coverage * pigments
    return Sprite(np.ascontiguousarray(keep, np.float32), np.ascontiguousarray(add, np.float32))


def _lymphocyte(rng: np.random.Generator) -> Sprite:
    """Small, round, dark; a narrow pale seam parts it from its neighbours."""
    grid, angle = _grid(rng, 13), rng.uniform(0, 3.14)
    radius = rng.uniform(2.5, 3.9)
    halo, _ = _blob(rng, grid, (radius + 1.3, radius + 1.2), angle, 0.05)
    cover, depth = _blob(rng, grid, (radius, radius * rng.uniform(0.72, 1)), angle, 0.09)
    h = rng.uniform(1.3, 2.3) * _chromatin(rng, depth, clumps=0.22, rim=0.1, nucleoli=0)
    return _sprite((0.75 * halo, _pigments(0.1, 0.16, 0, halo.shape)), (cover, _pigments(h, 0.2, 0, halo.shape)))


def _tumour_cell(rng: np.random.Generator) -> Sprite:
    """Large cell of its own shape with a pleomorphic nucleus: vesicular with nucleoli, or, now and then, dense."""
    grid, angle = _grid(rng, 29), rng.uniform(0, 3.14)
    long = float(np.clip(rng.lognormal(np.log(6.0), 0.22), 4.3, 9.6))
    short = long * rng.uniform(0.55, 0.95)
    body, edge = _blob(rng, grid, (long + rng.uniform(1.8, 4.2), short + rng.uniform(1.8, 4.2)), angle, 0.14)
    # The nucleus lies off the middle of its cell.
    nucleus = (grid[0] - np.float32(rng.normal(0, 0.9)), grid[1] - np.float32(rng.normal(0, 0.9)))
    cover, depth = _blob(rng, nucleus, (long, short), angle, 0.16)
    dense = rng.random() < 0.18
    tone, clumps, rim = (1.8, 0.2, 0.1) if dense else (rng.uniform(0.85, 1.5), 0.32, 0.5)
    nucleoli = 0 if dense else int(rng.integers(0, 3))
    h = tone * _chromatin(rng, depth, clumps=clumps, rim=rim, nucleoli=nucleoli)
    # Cytoplasm darkens towards the cell border, where membranes of neighbours meet, and ends in a thin light line.
    membrane = 0.08 * np.exp(-(((edge - 1.0) / 0.8) ** 2))
    cytoplasm = _pigments(0.24 + membrane, rng.uniform(0.42, 0.68) + membrane, 0, body.shape)
    return _sprite(
        (0.4 * np.clip(edge + 1.3, 0, 1), _pigments(0.1, 0.2, 0, body.shape)),
        (0.7 * body, cytoplasm),
        (cover, _pigments(h, 0.25, 0, body.shape)),
    )


def _spindle(rng: np.random.Generator, angle: float) -> Sprite:
    """The thin nucleus of a fibroblast, along its fibre."""
    grid = _grid(rng, 19)
    cover, depth = _blob(rng, grid, (rng.uniform(4.2, 7.2), rng.uniform(1.1, 1.9)), angle + rng.normal() * 0.15, 0.07)
    h = rng.uniform(1.2, 1.8) * _chromatin(rng, depth, clumps=0.15, rim=0.1, nucleoli=0)
    return _sprite((cover, _pigments(h, 0.3, 0, cover.shape)))


def _epithelial_cell(rng: np.random.Generator, angle: float) -> Sprite:
    """Regular oval nucleus, its long axis along `angle`."""
    grid = _grid(rng, 15)
    cover, depth = _blob(rng, grid, (rng.uniform(3.5, 4.6), rng.uniform(2.1, 2.8)), angle + rng.normal() * 0.15, 0.04)
    h = rng.uniform(1.1, 1.5) * _chromatin(rng, depth, clumps=0.14, rim=0.3, nucleoli=0)
    return _sprite((cover, _pigments(h, 0.25, 0, cover.shape)))


def _debris(rng: np.random.Generator) -> Sprite:
    """A fragment of a broken nucleus."""
    cover, depth = _blob(rng, _grid(rng, 9), (rng.uniform(0.8, 2.2), rng.uniform(0.7, 1.7)), rng.uniform(0, 3.14), 0.2)
    h = rng.uniform(1.1, 2.1) * _chromatin(rng, depth, clumps=0.1, rim=0.0, nucleoli=0)
    return _sprite((cover, _pigments(h, 0.4, 0, cover.shape)))


def _ghost(rng: np.random.Generator) -> Sprite:
    """The faded outline of a dead cell."""
    radii = (rng.uniform(5, 8), rng.uniform(4.5, 7))
    cover, depth = _blob(rng, _grid(rng, 23), radii, rng.uniform(0, 3.14), 0.12)
    outline = np.exp(-(((depth - 0.8) / 1.0) ** 2)).astype(np.float32)
    return _sprite((0.55 * cover, _pigments(0.12 + 0.2 * outline, 0.5 + 0.35 * outline, 0, cover.shape)))


def _red_cell(rng: np.random.Generator) -> Sprite:
    """Biconcave disc: no nucleus, paler in the middle."""
    radii = (rng.uniform(2.9, 3.7), rng.uniform(2.5, 3.4))
    cover, depth = _blob(rng, _grid(rng, 11), radii, rng.uniform(0, 3.14), 0.06)
    r = rng.uniform(0.75, 1.1) * (0.78 + 0.3 * np.exp(-(((depth - 1.0) / 1.1) ** 2)))
    return _sprite((cover, _pigments(0.02, 0.08, r, cover.shape)))
