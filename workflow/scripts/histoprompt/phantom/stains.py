"""Slides: what the laboratory's stain and the scanner's optics make of a piece of tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stain:
    """A staining style: absorption of red, green and blue light by each dye, and how strongly each has taken."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strengths: tuple[float, float]
    white: tuple[float, float, float] = (244.0, 243.0, 245.0)


# Directions and strengths bracket those estimated (Macenko et al. 2009) on the train split of PCam, whose slides run from pale
# pink over brownish violet to nearly black, and from magenta to deep blue, by laboratory and scanner.
STAINS = {
    "classic": Stain((0.55, 0.69, 0.47), (0.22, 0.87, 0.44), (1.15, 1.0)),
    "violet": Stain((0.62, 0.75, 0.24), (0.17, 0.95, 0.26), (1.5, 1.15), (238.0, 234.0, 243.0)),
    "pale": Stain((0.55, 0.67, 0.50), (0.18, 0.87, 0.46), (0.75, 0.55), (247.0, 246.0, 244.0)),
    "dark": Stain((0.53, 0.65, 0.54), (0.25, 0.86, 0.46), (1.8, 1.3)),
    "eosin-rich": Stain((0.55, 0.70, 0.46), (0.13, 0.88, 0.45), (1.0, 1.4)),
    "blue": Stain((0.67, 0.71, 0.22), (0.27, 0.93, 0.24), (1.6, 0.95), (238.0, 236.0, 244.0)),
    "faded": Stain((0.54, 0.71, 0.45), (0.24, 0.86, 0.45), (0.75, 0.75), (234.0, 230.0, 231.0)),
}
STAIN_NAMES = tuple(STAINS)
RED_CELL = (0.06, 0.72, 0.69)  # haemoglobin with eosin: orange-red whatever the laboratory


@dataclass(frozen=True)
class Slide:
    """One stain and one scanner.

    `absorption` (3 channels, 3 pigments) is the optical density, natural logarithm, of a unit of haematoxylin, eosin and red
    cell pigment; `white` (3,) is the scanner's reading of empty glass; `blur` is in pixels; `sharpening` is the weight of an
    unsharp mask; `noise` is in grey levels.
    """

    stain: str
    absorption: Floats
    white: Floats
    blur: float
    sharpening: float
    noise: float


def draw_slide(number: int, rng: np.random.Generator) -> Slide:
    """Draw slide `number` of a split: the styles take turns, so that few slides already span them; the rest is chance."""
    name = STAIN_NAMES[number % len(STAIN_NAMES)]
    style = STAINS[name]
    directions = np.array([style.haematoxylin, style.eosin, RED_CELL])
    directions[2] = 0.6 * directions[2] + 0.4 * directions[1]
    directions = np.clip(directions + rng.normal(0, 0.025, (3, 3)), 0.02, None)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    strengths = np.array([*style.strengths, 0.5 + 0.5 * style.strengths[1]]) * rng.uniform(0.88, 1.14, 3)
    white = np.clip(np.array(style.white) + rng.normal(0, 4, 3), 215, 253)
    return Slide(
        name,
        (directions * strengths[:, None]).T.astype(np.float32),
        white.astype(np.float32),
        blur=float(rng.uniform(0.35, 0.65)),
        sharpening=float(rng.uniform(0.2, 1.2)),
        noise=float(rng.uniform(0.8, 2.6)),
    )


def beer_lambert(pigments: Floats, absorption: Floats, white: Floats) -> Floats:
    """Transmitted light: `white * exp(-absorption @ pigments)`.

    Parameters
    ----------
    pigments : (3, ...) amounts of haematoxylin, eosin and red cell pigment.
    absorption : (3 channels, 3 pigments) optical density of a unit of each.
    white : (3,) light where there is nothing.
    """
    flat = pigments.reshape(3, -1)
    light = white[:, None] * np.exp(-(absorption @ flat))
    return np.asarray(light, np.float32).reshape(pigments.shape)


def scan(pigments: Floats, slide: Slide, grain: Floats) -> NDArray[np.uint8]:
    """The scanner's picture (S, S, 3) of pigments (3, S, S); `grain` (S, S) is its noise in standard deviations."""
    light = beer_lambert(pigments, slide.absorption, slide.white)
    seen = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(light.transpose(1, 2, 0)), (5, 5), slide.blur), np.float32)
    seen += slide.sharpening * (seen - cv2.GaussianBlur(seen, (7, 7), 1.2))
    seen += (slide.noise * grain)[..., None]
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)
