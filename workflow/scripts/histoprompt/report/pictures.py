"""Pictures that a page carries within itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_WIDEST, _HIGHEST = 2000, 8000  # pixels: more than a screen shows
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image to be shown at `width` by `height` pixels; `source` is a data URI."""

    source: str
    width: int
    height: int


def picture(path: str | Path, *, plot: bool) -> Picture:
    """Encode a picture file anew as WebP: plots without loss, which is small for them; patches with little.

    Larger ones are made smaller: the file itself stays as it is.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((_WIDEST, _HIGHEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if plot:
        image.save(buffer, "WEBP", lossless=True, quality=30, method=1)
    else:
        image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, *image.size)
