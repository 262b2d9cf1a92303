"""Pictures that are not tissue, so that the autoencoder learns to restore shapes and colours it will meet in no phantom.

Pattern families (dots, rings, nets, …) of a hundred fixed types in the colours of fifty palettes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Field = NDArray[np.float32]
TYPES = 100

# Names from which the palettes are drawn; a name and its colours have nothing in common.
PALETTES = [
    "healthy",
    "cancer",
    "tumour",
    "normal",
    "benign",
    "malignant",
    "amber",
    "azure",
    "beige",
    "black",
    "blue",
    "bronze",
    "brown",
    "copper",
    "coral",
    "cream",
    "crimson",
    "cyan",
    "emerald",
    "golden",
    "green",
    "grey",
    "indigo",
    "ivory",
    "jade",
    "lemon",
    "lilac",
    "lime",
    "magenta",
    "maroon",
    "mint",
    "navy",
    "ochre",
    "olive",
    "orange",
    "pale",
    "pink",
    "purple",
    "red",
    "rose",
    "ruby",
    "rust",
    "sand",
    "scarlet",
    "silver",
    "teal",
    "turquoise",
    "violet",
    "white",
    "yellow",
]


@dataclass(frozen=True)
class PatternType:
    """The geometry that a type number stands for."""

    scale: float  # pixels between repeats
    angle: float  # radians
    stretch: float  # length over width of an element
    density: float  # share of the plane an element fills, 0-1
    disorder: float  # 0 regular, 1 random
    second: int  # family that fills the gaps
    islands: float  # threshold of the mask between first and second family


def pattern_type(number: int) -> PatternType:
    """The fixed meaning of a type number."""
    rng = np.random.default_rng([0x7E97, number])
    return PatternType(
        scale=float(rng.choice([6, 8, 11, 15, 21, 30])),
        angle=float(rng.choice(np.arange(8)) * np.pi / 8),
        stretch=float(rng.choice([1, 1, 1.6, 3])),
        density=float(rng.choice([0.3, 0.5, 0.7, 0.9])),
        disorder=float(rng.choice([0.1, 0.3, 0.6])),
        second=int(rng.integers(len(FAMILIES))),
        islands=float(rng.choice([-9, -9, -1.2, -0.5, 0.3])),
    )


def palette(word: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Five RGB colours in 0-1 for a palette word, from ground to figure, varied a little from picture to picture."""
    fixed = np.random.default_rng([0xC0102, *word.encode()])
    hue, spread = fixed.uniform(0, 1), fixed.uniform(0.05, 0.3)
    hues = hue + spread * fixed.uniform(-1, 1, 5) + rng.normal(0, 0.02, 5)
    saturations = np.clip(fixed.uniform(0.1, 0.9, 5) + rng.normal(0, 0.06, 5), 0, 1)
    lights = np.linspace(fixed.uniform(0.75, 1.0), fixed.uniform(0.1, 0.45), 5) + rng.normal(0, 0.04, 5)
    if fixed.random() < 0.25:
        lights = lights[::-1]
    sector = (hues[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6
    pure = np.clip(np.abs(sector - 3) - 1, 0, 1)
    lights = np.clip(lights, 0.03, 1)
    return (lights[:, None] * (1 - saturations[:, None] * (1 - pure))).astype(np.float32)


def _noise(rng: np.random.Generator, sigma: float | tuple[float, float], size: int) -> Field:
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)).astype(np.float32), sigma, mode="wrap")
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def _plane(p: PatternType, rng: np.random.Generator, size: int) -> tuple[Field, Field]:
    """Pixel coordinates in the pattern's own frame: turned, and bent by its disorder."""
    y, x = np.mgrid[:size, :size].astype(np.float32) - size / 2
    angle = p.angle + rng.normal(0, 0.15)
    bend = p.disorder * p.scale * 0.5
    u = np.cos(angle) * x + np.sin(angle) * y + bend * _noise(rng, size / 8, size)
    v = -np.sin(angle) * x + np.cos(angle) * y + bend * _noise(rng, size / 8, size)
    return u.astype(np.float32), v.astype(np.float32)


def _nearest(p: PatternType, rng: np.random.Generator, size: int, count: int) -> tuple[Field, NDArray[np.int64]]:
    """Distances in stretched pixels to the `count` nearest elements of a jittered grid, and the number of the nearest."""
    u, v = _plane(p, rng, size)
    spacing = p.scale
    reach = np.arange(-size, size + spacing, spacing)
    grid_v, grid_u = np.meshgrid(reach, reach * p.stretch, indexing="ij")
    grid_u = grid_u + (np.arange(len(reach))[:, None] % 2) * spacing * p.stretch / 2
    points = np.stack([grid_v.ravel(), grid_u.ravel() / p.stretch], 1)
    points = points + rng.normal(0, p.disorder * spacing * 0.35, points.shape)
    distance, index = cKDTree(points).query(np.stack([v.ravel(), u.ravel() / p.stretch], 1), k=count)
    distance, index = np.asarray(distance).reshape(size, size, count), np.asarray(index).reshape(size, size, count)
    return distance.astype(np.float32), index[..., 0]


def _per_element(index: NDArray[np.int64], rng: np.random.Generator, low: float, high: float) -> Field:
    return np.asarray(rng.uniform(low, high, int(index.max()) + 1)[index], np.float32)


def _dots(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    distance, index = _nearest(p, rng, size, 1)
    radius = 0.5 * p.scale * np.sqrt(p.density) * _per_element(index, rng, 0.7, 1.15)
    shade = _per_element(index, rng, 0.7, 1.0) * (1 + 0.15 * _noise(rng, 1.0, size))
    return np.clip(radius - distance[..., 0] + 0.5, 0, 1) * shade


def _rings(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    distance, index = _nearest(p, rng, size, 1)
    radius = 0.42 * p.scale * _per_element(index, rng, 0.75, 1.1)
    width = np.maximum(1.2, radius * p.density * 0.5)
    inside = np.clip(radius - distance[..., 0] + 0.5, 0, 1)
    return np.asarray(inside * (0.15 + 0.85 * np.clip(distance[..., 0] - radius + width + 0.5, 0, 1)), np.float32)


def _nets(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    distance, _ = _nearest(p, rng, size, 2)
    edge = distance[..., 1] - distance[..., 0]
    return np.asarray(np.clip(1 + p.scale * p.density * 0.12 - edge, 0, 1), np.float32)


def _tiles(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    distance, index = _nearest(p, rng, size, 2)
    grout = np.clip(distance[..., 1] - distance[..., 0], 0, 1)
    return _per_element(index, rng, 1 - p.density, 1.0) * (0.5 + 0.5 * grout)


def _stripes(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    _, v = _plane(p, rng, size)
    wave = np.sin(2 * np.pi * v / p.scale) - np.cos(np.pi * p.density)
    return np.asarray(np.clip(0.5 + wave * p.scale / 4, 0, 1), np.float32)


def _fibres(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    u, v = _plane(p, rng, size)
    bank = ndimage.gaussian_filter(
        rng.standard_normal((2 * size, 2 * size)).astype(np.float32), (p.scale / 8, p.scale * 1.2), mode="wrap"
    )
    strand = ndimage.map_coordinates(bank, [v + size, u + size], order=1, mode="wrap")
    strand = strand / strand.std()
    return np.asarray(np.clip(0.25 + 0.6 * p.density + 0.35 * strand, 0, 1), np.float32)


def _clouds(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    field = _noise(rng, p.scale / 2, size) + 0.4 * _noise(rng, p.scale / 6, size)
    return np.asarray(np.clip(0.5 * p.density + 0.3 + 0.3 * field, 0, 1), np.float32)


def _grains(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    field = _noise(rng, p.scale / 5, size)
    return np.asarray(np.clip((field + 2 * p.density - 1) * 2 + 0.5, 0, 1) * (0.8 + 0.2 * _noise(rng, 0.8, size)), np.float32)


def _spindles(p: PatternType, rng: np.random.Generator, size: int) -> Field:
    slim = PatternType(max(p.scale, 8.0) * 0.8, p.angle, 4.0, p.density * 0.25, p.disorder, p.second, p.islands)
    return np.asarray(0.25 * _fibres(p, rng, size) + _dots(slim, rng, size) * 0.9, np.float32)


FAMILIES: dict[str, Callable[[PatternType, np.random.Generator, int], Field]] = {
    "dots": _dots,
    "rings": _rings,
    "nets": _nets,
    "tiles": _tiles,
    "stripes": _stripes,
    "fibres": _fibres,
    "clouds": _clouds,
    "grains": _grains,
    "spindles": _spindles,
}


def draw_texture(seed: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """One picture, uint8 (size,size,3), which depends on `seed` alone."""
    rng = np.random.default_rng(seed)
    number, word = int(rng.integers(TYPES)), str(rng.choice(PALETTES))
    names = tuple(FAMILIES)
    drawn = str(rng.choice((*names, "")))
    p = pattern_type(number)
    figure = np.clip(FAMILIES[drawn or names[number % len(names)]](p, rng, size), 0, 1)
    other = np.clip(0.6 * FAMILIES[names[p.second]](p, rng, size), 0, 1)
    mask = np.clip((_noise(rng, size / 8, size) - p.islands) * 6 + 0.5, 0, 1)
    level = np.clip(mask * figure + (1 - mask) * other, 0, 1)
    colours = palette(word, rng)
    position = level * (len(colours) - 1)
    low = np.minimum(position.astype(int), len(colours) - 2)
    share = (position - low)[..., None]
    image = colours[low] * (1 - share) + colours[low + 1] * share
    image = ndimage.gaussian_filter(image, (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), 0))
    image = image * rng.uniform(0.85, 1.1) + rng.normal(0, rng.uniform(0, 0.015), image.shape)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
