"""Tissues, and the eleven morphologies that they make up. Each drawing returns where tumour is (S, S)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from histoprompt.phantom.canvas import Canvas, Points
from histoprompt.phantom.textures import ANGLES, Floats

Mask = NDArray[np.bool_]


def _soft(level: Floats, width: float) -> Floats:
    """Coverage of the region where `level` is positive, its border `width` levels wide."""
    return np.asarray(np.clip(level / width + 0.5, 0, 1), np.float32)


def _inside(cover: Floats | None) -> Mask | None:
    return None if cover is None else cover > 0.5


def _from_centre(canvas: Canvas) -> Floats:
    """Distance of every pixel from the middle, in thirds of the side (the central square reaches to 0.5)."""
    middle = (canvas.size - 1) / 2
    return np.asarray(np.hypot(canvas.y - middle, canvas.x - middle) * 3 / canvas.size, np.float32)


def _steer(canvas: Canvas, level: Floats, hit: bool) -> Floats:
    """Push a region over the patch's middle, or out of its central square altogether."""
    distance = _from_centre(canvas)
    push = 1.5 * np.exp(-((distance / 0.6) ** 2)) if hit else -7.0 * np.exp(-((distance / 0.92) ** 6))
    return np.asarray(level + push, np.float32)


def _stroma(canvas: Canvas, cover: Floats | None, *, cells: float = 1.0, loose: float = 0.0) -> int:
    """Wavy collagen with clefts and fibroblasts; returns the fibres' direction."""
    rng = canvas.rng
    turn = int(rng.integers(ANGLES))
    fibre, patchy = canvas.cut(canvas.bank.fibres[turn]), canvas.field("coarse")
    strands = 0.17 * canvas.cut(canvas.bank.fibres[turn]) + 0.1 * canvas.field("fine")
    eosin = np.clip(rng.uniform(0.5, 0.8) + 0.17 * fibre + 0.1 * patchy + strands, 0.06, 1.6)
    eosin *= 1 - 0.88 * _soft(-fibre - rng.uniform(1.1, 1.9) + loose, 0.35)  # clefts between bundles
    canvas.paint(cover, 0.16 * eosin, eosin)
    points = canvas.within(canvas.lattice(13, 0.35), _inside(cover), 0.45 * cells)
    canvas.place_turned(canvas.bank.oriented["spindle"], points, np.full(len(points), turn * np.pi / ANGLES))
    return turn


def _lymphocytes(canvas: Canvas, cover: Floats | None, *, density: float = 1.0, share: float = 0.92) -> None:
    """A crowd of lymphocytes with little between them."""
    mesh = canvas.field("medium")
    ground = 0.3 + 0.14 * mesh
    ground *= 1 - 0.85 * _soft(mesh - 1.1, 0.5)
    canvas.paint(cover, 0.7 * ground, ground)
    points = canvas.within(canvas.lattice(7.8 / density**0.5, 0.24), _inside(cover), share)
    canvas.place(canvas.bank.cells["lymphocyte"], points)


def _tumour(canvas: Canvas, cover: Floats, *, spacing: float) -> None:
    """A sheet of tumour cells."""
    rough, clear = canvas.field("medium"), canvas.field("coarse")
    eosin = np.clip(0.5 + 0.1 * rough, 0.08, 1.2) * (1 - 0.8 * _soft(clear - 1.5, 0.6))
    canvas.paint(cover, 0.5 * eosin, eosin)
    points = canvas.within(canvas.lattice(spacing, 0.24), cover > 0.6, 0.97)
    canvas.place(canvas.bank.cells["tumour"], canvas.rng.permutation(points))


def _scatter(canvas: Canvas, kind: str, where: Mask | None, spacing: float, share: float) -> None:
    canvas.place(canvas.bank.cells[kind], canvas.within(canvas.lattice(spacing, 0.35), where, share))


def _gland(canvas: Canvas, centre: Points, radius: float) -> None:
    """One layer of columnar cells, nuclei at its foot, around a lumen."""
    rng = canvas.rng
    phases, waves = rng.uniform(0, 6.28, 3), rng.normal(0, 0.07, 3)

    def outline(turn: NDArray[np.float64]) -> NDArray[np.float64]:
        wobble = sum(w * np.cos(m * turn + p) for m, w, p in zip((2, 3, 4), waves, phases, strict=True))
        return np.asarray(radius * (1 + wobble))

    dy, dx = canvas.y - centre[0], canvas.x - centre[1]
    outside = np.hypot(dy, dx) - outline(np.arctan2(dy, dx))
    height = float(np.clip(rng.uniform(8.5, 11.5), 0, 0.75 * radius))
    canvas.paint(_soft(1.5 - outside, 1.5), 0.08, 0.3)  # basement membrane, set off from the stroma
    streaks = canvas.field("medium")
    canvas.paint(_soft(-outside, 1.0), 0.32 + 0.06 * streaks, 0.6 + 0.08 * streaks)
    lumen = _soft(-outside - height + 0.6 * streaks, 1.0)
    secretion = np.clip(0.12 * canvas.field("coarse"), 0.03, 0.5)
    canvas.paint(lumen, 0.02, secretion)
    around = np.arange(int(2 * np.pi * radius / 5.0)) * (5.0 / radius)
    around = around + rng.normal(0, 0.5 / radius, len(around))
    reach = outline(around) - 4.1 + rng.normal(0, 0.6, len(around))
    points = centre + reach[:, None] * np.stack([np.sin(around), np.cos(around)], 1)
    canvas.place_turned(canvas.bank.oriented["epithelium"], points, around)


def _nowhere(canvas: Canvas) -> Mask:
    return np.zeros((canvas.size, canvas.size), np.bool_)


def draw_background(canvas: Canvas) -> Mask:
    """Bare glass beside a rim of tissue, or nothing but glass."""
    rng = canvas.rng
    canvas.pigments[1] = 0.02
    if rng.random() < 0.85:
        turn = rng.uniform(0, 6.28)
        across = np.cos(turn) * (canvas.x / canvas.size - 0.5) + np.sin(turn) * (canvas.y / canvas.size - 0.5)
        cover = _soft(across * canvas.size + 6 * canvas.field("broad") - rng.uniform(12, 34), 1.5)
        if rng.random() < 0.7:
            _stroma(canvas, cover, cells=1.6)
        else:
            _lymphocytes(canvas, cover, share=0.8)
        loosened = _soft(across * canvas.size - 5, 20) < 0.5
        _scatter(canvas, "debris", loosened, 17, 0.1)
    else:
        canvas.pigments[1] += np.clip(0.04 * canvas.field("broad"), 0, 1)
    return _nowhere(canvas)


def draw_adipose(canvas: Canvas) -> Mask:
    """Fat cells: large empty vacuoles, thin membranes, flat nuclei pressed into the corners."""
    rng = canvas.rng
    centres = canvas.lattice(rng.uniform(25, 38), 0.24)
    sway = 2.2 * canvas.field("broad")
    distances = np.hypot(canvas.y + sway - centres[:, 0, None, None], canvas.x + sway - centres[:, 1, None, None])
    nearest, second, third = np.partition(distances, 2, axis=0)[:3]
    thickness = rng.uniform(1.1, 2.2)
    # The third-nearest centre is as near as the first only where three cells meet: membranes widen there.
    corner = np.exp(-(((third - nearest) / 7.0) ** 2))
    wall = thickness * (1 + 0.25 * canvas.field("medium")) + 4.5 * corner - (second - nearest)
    cover = _soft(wall.astype(np.float32), 1.6)
    canvas.pigments[1] = 0.02
    eosin = np.clip(0.8 + 0.25 * canvas.field("fine"), 0.2, 1.5)
    canvas.paint(cover, 0.25 * eosin, eosin)
    points = canvas.within(canvas.lattice(8, 0.3), cover > 0.6, 0.3)
    canvas.place_turned(canvas.bank.oriented["spindle"], points, rng.uniform(0, np.pi, len(points)))
    if rng.random() < 0.4:
        strip = _soft(canvas.field("broad") - 1.0, 0.1)
        _stroma(canvas, strip)
        _scatter(canvas, "lymphocyte", strip > 0.5, 10, 0.25)
    return _nowhere(canvas)


def draw_stroma(canvas: Canvas) -> Mask:
    """Connective tissue, dense or loose, with a few wandering lymphocytes."""
    rng = canvas.rng
    _stroma(canvas, None, cells=rng.uniform(0.6, 1.7), loose=rng.uniform(-0.2, 0.7))
    _scatter(canvas, "lymphocyte", canvas.field("broad") > 0.9, 11, rng.uniform(0, 0.5))
    return _nowhere(canvas)


def draw_lymphocytes(canvas: Canvas) -> Mask:
    """Lymph node cortex: crowds of lymphocytes, now and then with a strand of stroma."""
    rng = canvas.rng
    if rng.random() < 0.55:
        _lymphocytes(canvas, None, density=rng.uniform(0.8, 1.25))
    else:
        _stroma(canvas, None, cells=0.8)
        _lymphocytes(canvas, _soft(canvas.field("broad") + rng.uniform(0.5, 1.3), 0.1), density=rng.uniform(0.8, 1.2))
    return _nowhere(canvas)


def draw_glands(canvas: Canvas) -> Mask:
    """Benign glands, apart from each other, in stroma."""
    rng = canvas.rng
    _stroma(canvas, None, cells=0.9)
    scale = canvas.size / 96
    placed: list[tuple[Points, float]] = []
    for attempt in range(12):
        radius = rng.uniform(15, 27) if attempt else rng.uniform(19, 30)
        centre = rng.uniform(8, 88, 2) * scale if attempt else rng.uniform(28, 68, 2) * scale
        if all(np.hypot(*(centre - other)) > 1.2 * (radius + reach) for other, reach in placed):
            placed.append((centre, radius))
            _gland(canvas, centre, radius)
    return _nowhere(canvas)


def draw_necrosis(canvas: Canvas) -> Mask:
    """Granular dead tissue: ghosts of cells, broken nuclei, holes."""
    rng = canvas.rng
    grains = 0.2 * canvas.field("fine") + 0.16 * canvas.field("medium") + 0.12 * canvas.field("broad")
    eosin = np.clip(rng.uniform(0.65, 0.95) + grains, 0.08, 1.7)
    eosin *= 1 - 0.9 * _soft(canvas.field("coarse") - rng.uniform(1.1, 1.7), 0.5)
    canvas.paint(None, 0.22 * eosin, eosin)
    _scatter(canvas, "ghost", None, 17, 0.5)
    _scatter(canvas, "debris", canvas.field("broad") > -0.6, 7, rng.uniform(0.25, 0.6))
    return _nowhere(canvas)


def draw_blood(canvas: Canvas) -> Mask:
    """Red cells, free or in a vessel whose wall shows."""
    rng = canvas.rng
    _stroma(canvas, None)
    level = canvas.field("broad") + (2.2 if rng.random() < 0.4 else 0.9)
    inside = _soft(level, 0.06)
    canvas.paint(_soft(level + 0.18, 0.1), 0.22, 0.8)
    canvas.paint(inside, 0.03, np.clip(0.1 + 0.05 * canvas.field("coarse"), 0, 1))
    _scatter(canvas, "red", inside > 0.6, rng.uniform(6.0, 7.4), 0.93)
    canvas.place(canvas.bank.cells["lymphocyte"], canvas.within(canvas.lattice(18, 0.4), inside > 0.6, 0.15))
    return _nowhere(canvas)


def draw_solid(canvas: Canvas) -> Mask:
    """A sheet of tumour that fills the patch or ends against stroma."""
    rng = canvas.rng
    _stroma(canvas, None)
    if rng.random() < 0.88:
        level = _steer(canvas, canvas.field("broad") + rng.uniform(0.8, 2.6), hit=True)
    else:
        level = _steer(canvas, canvas.field("broad") + 1.2, hit=False)
    cover = _soft(level, 0.08)
    _tumour(canvas, cover, spacing=rng.uniform(11.0, 13.5))
    return cover > 0.5


def draw_infiltrating(canvas: Canvas) -> Mask:
    """Cords and small nests of tumour that follow the fibres, each in a narrow cleft."""
    rng = canvas.rng
    turn = _stroma(canvas, None, cells=1.2)
    level = _steer(canvas, canvas.cut(canvas.bank.cords[turn]) - rng.uniform(0.1, 0.5), hit=rng.random() < 0.82)
    canvas.paint(_soft(level + 0.35, 0.3), 0.03, 0.12)
    cover = _soft(level, 0.15)
    _tumour(canvas, cover, spacing=rng.uniform(10.5, 12.5))
    _scatter(canvas, "lymphocyte", level < -0.8, 14, 0.12)
    return cover > 0.5


def draw_cribriform(canvas: Canvas) -> Mask:
    """A tumour sheet punched through by round lumina, cells lined up around each."""
    rng = canvas.rng
    _stroma(canvas, None)
    sheet = _soft(canvas.field("broad") + rng.uniform(0.8, 2.8), 0.08)
    centres = canvas.lattice(rng.uniform(26, 33), 0.12)
    radii = rng.uniform(4.0, 10.5, len(centres))
    sway = 1.6 * canvas.field("coarse")
    gaps = np.hypot(canvas.y - centres[:, 0, None, None], canvas.x - centres[:, 1, None, None]) - radii[:, None, None]
    depth = (-(gaps.min(0)) + sway).astype(np.float32)
    lumen = _soft(depth, 1.2) * sheet
    _tumour(canvas, sheet * (depth < -3.5), spacing=rng.uniform(10.0, 11.5))
    around = rng.uniform(0, 6.28, (len(centres), 9))
    rim = centres[:, None] + (radii + 4.0)[:, None, None] * np.stack([np.sin(around), np.cos(around)], -1)
    canvas.place(canvas.bank.cells["tumour"], canvas.within(rim.reshape(-1, 2), (sheet > 0.6) & (depth < -2), 0.9))
    canvas.paint(lumen, 0.03, np.clip(0.06 + 0.07 * canvas.field("coarse"), 0.02, 0.5))
    return (sheet > 0.5) & (lumen < 0.5)


def draw_mixed(canvas: Canvas) -> Mask:
    """Nests of tumour among lymphocytes, some of which have wandered into the nests."""
    rng = canvas.rng
    _lymphocytes(canvas, None, density=rng.uniform(0.8, 1.1))
    level = _steer(canvas, canvas.field("broad") - rng.uniform(0.0, 0.5), hit=rng.random() < 0.82)
    cover = _soft(level, 0.1)
    _tumour(canvas, cover, spacing=rng.uniform(11.0, 13.0))
    _scatter(canvas, "lymphocyte", cover > 0.6, 12, 0.16)
    return cover > 0.5


# Name -> drawing and how often it comes. The weights make about half of all patches tumour in the central square.
DRAWINGS: dict[str, tuple[Callable[[Canvas], Mask], float]] = {
    "background": (draw_background, 0.035),
    "adipose": (draw_adipose, 0.055),
    "stroma": (draw_stroma, 0.085),
    "lymphocytes": (draw_lymphocytes, 0.09),
    "glands": (draw_glands, 0.065),
    "necrosis": (draw_necrosis, 0.06),
    "blood": (draw_blood, 0.05),
    "solid": (draw_solid, 0.15),
    "infiltrating": (draw_infiltrating, 0.15),
    "cribriform": (draw_cribriform, 0.12),
    "mixed": (draw_mixed, 0.14),
}
MORPHOLOGIES = tuple(DRAWINGS)
