"""Image sets side by side: the same image numbers in every arm (the paper's Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv
from histoprompt.patches import PatchFile

_GAP = 2  # pixels between patches
_MARGIN = 12
_TEXT = 14
_HEADING = 20


def draw_arms(
    image_files: Mapping[str, str | Path],
    tables: Mapping[str, str | Path],
    arms_png: str | Path,
    *,
    titles: Mapping[str, str],
    columns: int,
) -> None:
    """Draw a block of rows an image set and a row a class, at the patches' own size.

    A column shows one image number: in every arm it has the same label, the same drawn cluster and the same noise, so that
    arms differ by their training and prompts alone.

    Parameters
    ----------
    image_files : name -> patch file, in the order of the blocks.
    tables : name -> `number,label` of its images, row i = image i.
    arms_png : output.
    titles : heading of a block, where it is not the name.
    columns : images of each class; fewer where there are not that many.

    Raises
    ------
    InputError : a table that does not fit its images, or a class that no image number of all sets has.
    """
    numbers = {}
    for name, path in tables.items():
        table = read_csv(path, ("number", "label"))
        numbers[name] = dict(zip(zip(table["number"], table["label"], strict=True), range(len(table)), strict=True))
    common = reduce(lambda a, b: a & b, (set(rows) for rows in numbers.values()))
    blocks = {}
    for name, path in image_files.items():
        with PatchFile(path) as file:
            if len(file) != len(numbers[name]):
                raise InputError(
                    tables[name],
                    found=f"{len(numbers[name])} rows",
                    expected=f"one for each of the {len(file)} images of {path}",
                    remedy="delete both files and run the same command again",
                )
            classes, size = file.classes, file.size
            shown = [sorted(number for number, label in common if label == c)[:columns] for c in range(len(classes))]
            if not all(shown):
                empty = classes[[bool(row) for row in shown].index(False)]
                raise InputError(
                    ", ".join(map(str, tables.values())),
                    found=f"no image number of class {empty} that all of them have",
                    expected="image sets of one study, whose image n has one label in all of them",
                    remedy="make all of them again with the same command, with at least one image a class",
                )
            blocks[titles.get(name, name)] = [
                file.take([numbers[name][number, c] for number in row]) for c, row in enumerate(shown)
            ]
    with atomic(arms_png) as temporary:
        _compose(blocks, classes, size).save(temporary, optimize=False)


def _compose(blocks: Mapping[str, list[np.ndarray]], classes: tuple[str, ...], size: int) -> Image.Image:
    text, heading = ImageFont.load_default(_TEXT), ImageFont.load_default(_HEADING)
    indent = _MARGIN + int(max(text.getlength(word) for word in classes)) + 8
    step = size + _GAP
    widest = max(len(row) for rows in blocks.values() for row in rows)
    title = 2 * _HEADING
    page = Image.new(
        "RGB", (indent + widest * step + _MARGIN, len(blocks) * (title + len(classes) * step) + _MARGIN), (255, 255, 255)
    )
    draw = ImageDraw.Draw(page)
    y = 0
    for name, rows in blocks.items():
        draw.text((_MARGIN, y + title - 6), name, fill=(0, 0, 0), font=heading, anchor="ls")
        y += title
        for word, row in zip(classes, rows, strict=True):
            draw.text((indent - 8, y + size // 2), word, fill=(90, 90, 90), font=text, anchor="rm")
            for i, patch in enumerate(row):
                page.paste(Image.fromarray(patch), (indent + i * step, y))
            y += step
    return page
