"""Image sets as they are read: a patch file, or the PNGs a table lists, as they are or averaged down to a smaller size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from histoprompt.errors import InputError
from histoprompt.files import read_csv
from histoprompt.patches import Images, Labels, PatchFile
from histoprompt.resizing import resize_images

_REMAKE = "the images were changed after they were made: delete the shard's manifest and run the same command again"


class ImageSource(Protocol):
    """What all image sets have in common.

    Attributes
    ----------
    path : the file that says what the images are.
    size : pixels a side, S.
    classes : the word of label 0, 1, …
    labels : int64 (N,).
    ids : N unique identifiers.
    """

    path: Path
    size: int
    classes: tuple[str, ...]
    labels: Labels
    ids: list[str]

    def __len__(self) -> int: ...

    def take(self, rows: npt.ArrayLike) -> Images:
        """Images at `rows`, in that order: uint8 (n, S, S, 3)."""
        ...

    def read(self, start: int, stop: int) -> Images:
        """Images [start, stop): uint8 (n, S, S, 3)."""
        return self.take(np.arange(start, min(stop, len(self))))

    def chunks(self, size: int = 256) -> Iterator[tuple[int, Images]]:
        """(number of the first image, images) over the whole set, at most `size` images at a time."""
        for start in range(0, len(self), size):
            yield start, self.read(start, start + size)


class ImageTable(ImageSource):
    """Sampled images at their own size: the PNGs that an arm's table lists.

    Opening checks that every file is there and reads the first; reading one checks its digest, its format and its size.

    Parameters
    ----------
    path : `number,label,file,sha256`; `file` is relative to the table's folder.
    classes : the word of label 0, 1, …
    """

    def __init__(self, path: str | Path, classes: Sequence[str]) -> None:
        self.path, self.classes = Path(path), tuple(classes)
        table = read_csv(path, ("number", "label", "file", "sha256"))
        self._files = [self.path.parent / name for name in table["file"]]
        self._digests = table["sha256"].tolist()
        self.labels = table["label"].to_numpy(np.int64)
        self.ids = [f"{self.path.stem}-{number:06d}" for number in table["number"]]
        outside = not len(table) or self.labels.min() < 0 or self.labels.max() >= len(self.classes)
        if outside:
            raise InputError(
                path,
                found=f"labels {self.labels.min()} to {self.labels.max()}" if len(table) else "no image",
                expected=f"images with labels 0 to {len(self.classes) - 1}: {', '.join(self.classes)}",
                remedy="delete it and run the same command again",
            )
        missing = [file for file in self._files if not file.is_file()]
        if missing:
            found = "no such file" if len(missing) == 1 else f"no such file, nor {len(missing) - 1} more of {path}"
            raise InputError(missing[0], found=found, expected="the image its manifest lists", remedy=_REMAKE)
        self.size = len(read_image(self._files[0], self._digests[0]))

    def __len__(self) -> int:
        return len(self._files)

    def take(self, rows: npt.ArrayLike) -> Images:
        """Images at `rows`, in that order: uint8 (n, S, S, 3)."""
        return np.stack([read_image(self._files[row], self._digests[row], self.size) for row in np.asarray(rows)])


class Averaged(ImageSource):
    """Another image set at a smaller size, each pixel the mean of the area it covers."""

    def __init__(self, source: ImageSource, size: int) -> None:
        self._source, self.size = source, size
        self.path, self.classes, self.labels, self.ids = source.path, source.classes, source.labels, source.ids

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: npt.ArrayLike) -> Images:
        """Images at `rows`, in that order: uint8 (n, S, S, 3)."""
        return resize_images(self._source.take(rows), self.size)


def open_images(path: str | Path, classes: Sequence[str]) -> AbstractContextManager[ImageSource]:
    """Open a patch file (`.h5`), which names its classes itself, or a table of PNGs (`.csv`) with these classes."""
    return nullcontext(ImageTable(path, classes)) if Path(path).suffix == ".csv" else PatchFile(path)


def at_most(source: ImageSource, size: int) -> ImageSource:
    """The image set itself where its images are no larger than `size` pixels a side, else averaged down to that."""
    return source if source.size <= size else Averaged(source, size)


def read_image(path: Path, digest: str, size: int | None = None) -> Images:
    """A PNG as uint8 (S, S, 3), once the file is what its manifest says and S is `size`, where one is given."""
    if not path.is_file():
        raise InputError(path, found="no such file", expected="the image its manifest lists", remedy=_REMAKE)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise InputError(path, found=f"SHA-256 {found}", expected=f"SHA-256 {digest}, as its manifest says", remedy=_REMAKE)
    try:
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises depends on which part of a file is broken
        found = f"no readable image ({error})"
        raise InputError(path, found=found, expected="a PNG file", remedy=_REMAKE) from error
    if image.shape[0] != image.shape[1] or size not in (None, len(image)):
        raise InputError(
            path,
            found=f"{image.shape[1]} x {image.shape[0]} pixels",
            expected=f"{size} x {size} pixels, as the images before it" if size else "a square image",
            remedy="give shards that were sampled at one resolution",
        )
    return image
