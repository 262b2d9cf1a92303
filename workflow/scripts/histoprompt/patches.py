"""The one image file of a study: HDF5 in PCam's layout, with identifiers and class names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

import h5py
import numpy as np
import numpy.typing as npt

from histoprompt.errors import InputError
from histoprompt.files import atomic

SPLITS = ("train", "valid", "test")
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# What h5py raises on a file some bytes of which have changed.
_DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError)
_BLOCK = 64  # patches written at once, whatever the size of the chunks handed in: the file's bytes must not depend on it


def open_hdf5(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading; a file that is absent, truncated or of another format raises `InputError`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            path,
            found="no file of this name",
            expected="an HDF5 file",
            remedy="correct the path, or make or download the file first",
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        kind = "a truncated HDF5 file" if "truncated" in str(error) else "no readable HDF5 file"
        raise _damaged(path, f"{kind} of {path.stat().st_size} bytes", error) from error


def check_images(path: str | Path, images: h5py.Dataset) -> None:
    """Refuse a data set that is not uint8 (N, P, P, 3) with at least one patch."""
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or 0 in shape:
        raise InputError(
            path,
            found=f"`x` of shape {shape}, dtype {images.dtype}",
            expected="`x` of shape (N, P, P, 3), dtype uint8: N > 0 square RGB patches, channels last",
            remedy="convert the patches to 8-bit RGB in that layout",
        )


def check_labels(path: str | Path, labels: h5py.Dataset, *, images: int, classes: int) -> Labels:
    """Labels as int64 (N,), once their number, shape, dtype and values are right.

    Parameters
    ----------
    labels : the data set `y`: integers of shape (N,) or (N, 1, 1, 1).
    images : N.
    classes : labels lie in [0, classes).
    """
    shape = labels.shape
    if not np.issubdtype(labels.dtype, np.integer) or not shape or shape[1:] not in ((), (1, 1, 1)):
        raise InputError(
            path,
            found=f"`y` of shape {shape}, dtype {labels.dtype}",
            expected="`y` of shape (N, 1, 1, 1), dtype uint8",
            remedy="store one integer label a patch in that layout",
        )
    if shape[0] != images:
        raise InputError(
            path,
            found=f"{shape[0]} labels for {images} patches",
            expected="as many labels `y` as patches `x`",
            remedy="use the x and y of one split of one data set",
        )
    values = _read(path, labels, slice(None)).reshape(-1).astype(np.int64)
    outside = np.flatnonzero((values < 0) | (values >= classes))
    if outside.size:
        raise InputError(
            path,
            found=f"{outside.size} labels outside the classes, the first at row {outside[0]}: {values[outside[0]]}",
            expected="labels in {" + ", ".join(str(i) for i in range(classes)) + "}",
            remedy="correct the labels, or name every class under the config key `data.classes`",
        )
    return values


def read_images(path: str | Path, images: h5py.Dataset, start: int, stop: int) -> Images:
    """Patches [start, stop) of `x`; a damaged block raises `InputError`."""
    return cast(Images, _read(path, images, slice(start, stop)))


def _read(path: str | Path, data: h5py.Dataset, rows: slice) -> npt.NDArray[np.generic]:
    try:
        return cast("npt.NDArray[np.generic]", data[rows])
    except _DAMAGED as error:
        raise _damaged(path, f"a block of `{data.name.lstrip('/')}` that cannot be read", error) from error


def _damaged(path: str | Path, found: str, error: Exception) -> InputError:
    return InputError(
        path,
        found=f"{found} ({error})",
        expected="a whole HDF5 file",
        remedy="delete it, then make, copy or download it again",
    )


class PatchFile:
    """A patch file, open for reading; a context manager.

    Opening checks everything but the pixels: that the file is whole, the layout, the dtype, the lengths and the labels.

    Attributes
    ----------
    classes : the word of label 0, 1, …
    size : pixels a side, P.
    labels : int64 (N,).
    ids : N unique identifiers.
    """

    classes: tuple[str, ...]
    size: int
    labels: Labels
    ids: list[str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open_hdf5(path)
        try:
            for name in ("x", "y", "id"):
                if not isinstance(self._file.get(name), h5py.Dataset):
                    raise self._foreign(f"no data set `{name}`")
            if "classes" not in self._file.attrs:
                raise self._foreign("no attribute `classes`")
            self.classes = tuple(json.loads(self._file.attrs["classes"]))
            self._images: h5py.Dataset = self._file["x"]
            check_images(path, self._images)
            self.size = int(self._images.shape[1])
            self.labels = check_labels(path, self._file["y"], images=len(self), classes=len(self.classes))
            self.ids = [text.decode() for text in _read(path, self._file["id"], slice(None)).tolist()]
            if len(self.ids) != len(self):
                raise self._foreign(f"{len(self.ids)} identifiers for {len(self)} patches")
        except InputError:
            self.close()
            raise
        except _DAMAGED as error:
            self.close()
            raise _damaged(path, "a damaged HDF5 file", error) from error

    def _foreign(self, found: str) -> InputError:
        return InputError(
            self.path,
            found=f"{found}: not a histoprompt patch file",
            expected="data sets `x`, `y` and `id`, and an attribute `classes`",
            remedy="import it: give PCam's files under `data.source: pcam`, image files under `folders` or `table`",
        )

    def __len__(self) -> int:
        return int(self._images.shape[0])

    def __enter__(self) -> PatchFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int, stop: int) -> Images:
        """Patches [start, stop): uint8 (n, P, P, 3)."""
        return read_images(self.path, self._images, start, stop)

    def take(self, rows: npt.ArrayLike) -> Images:
        """Patches at `rows`, in that order, repeats allowed: uint8 (n, P, P, 3). Neighbouring rows are read together."""
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} … {wanted.max()} of {len(self)} patches")
        images = np.empty((wanted.size, self.size, self.size, 3), np.uint8)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        for run in np.split(np.arange(wanted.size), np.flatnonzero(np.diff(ascending) > 1) + 1):
            if run.size:
                first, last = ascending[run[0]], ascending[run[-1]]
                images[order[run]] = self.read(first, last + 1)[ascending[run] - first]
        return images

    def chunks(self, size: int = 256) -> Iterator[tuple[int, Images]]:
        """(number of the first patch, patches) over the whole file, at most `size` patches at a time."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))


def write_patches(
    path: str | Path,
    chunks: Iterable[tuple[Images, npt.ArrayLike, Sequence[str]]],
    *,
    classes: Sequence[str],
    size: int,
) -> None:
    """Write a patch file as its patches come, atomically; the bytes depend on the patches, never on the chunks.

    Everything in it has a checksum, so that a changed byte is noticed by whoever reads it: the patches, labels and identifiers
    by a filter, all else by the format of HDF5 1.10, whose headers and indices have checksums of their own.

    Parameters
    ----------
    chunks : (patches uint8 (n, size, size, 3), labels (n,), ids (n)); n may differ from chunk to chunk.
    classes : the word of label 0, 1, …
    size : pixels a side.

    Raises
    ------
    InputError : there is no patch at all, or the disk is full.
    """
    labels: list[int] = []
    ids: list[str] = []

    def blocks() -> Iterator[Images]:
        held: list[Images] = []
        for images, chunk_labels, chunk_ids in chunks:
            numbers = np.asarray(chunk_labels)
            if (
                images.dtype != np.uint8
                or images.shape != (len(chunk_ids), size, size, 3)
                or numbers.shape != (len(chunk_ids),)
            ):
                raise ValueError(f"images {images.dtype} {images.shape}, labels {numbers.shape}, {len(chunk_ids)} ids")
            if numbers.size and (numbers.min() < 0 or numbers.max() >= len(classes)):
                raise ValueError(f"labels {numbers.min()} … {numbers.max()} of {len(classes)} classes")
            labels.extend(numbers.tolist())
            ids.extend(chunk_ids)
            held.append(images)
            if sum(map(len, held)) >= _BLOCK:
                joined = np.concatenate(held)
                whole = len(joined) // _BLOCK * _BLOCK
                for start in range(0, whole, _BLOCK):
                    yield joined[start : start + _BLOCK]
                held = [joined[whole:]]
        rest = np.concatenate(held) if held else np.empty((0, size, size, 3), np.uint8)
        if len(rest):
            yield rest

    with atomic(path) as temporary, _create(temporary) as file:
        # One patch a block: random rows are read without their neighbours, and no block is ever written twice.
        data = file.create_dataset(
            "x",
            shape=(0, size, size, 3),
            maxshape=(None, size, size, 3),
            dtype=np.uint8,
            chunks=(1, size, size, 3),
            compression="gzip",
            compression_opts=1,
            fletcher32=True,
            track_times=False,
        )
        for block in blocks():
            data.resize(len(data) + len(block), axis=0)
            data[-len(block) :] = block
        if not ids:
            raise InputError(
                path,
                found="no patch to write",
                expected="at least one patch in every split",
                remedy="give this split some images, or a larger share under the config key `data.holdout`",
            )
        encoded = [text.encode() for text in ids]
        for name, values in (
            ("y", np.array(labels, np.uint8).reshape(-1, 1, 1, 1)),
            ("id", np.array(encoded, dtype=f"S{max(map(len, encoded))}")),
        ):
            file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True, track_times=False)
        # Of a fixed length: texts of any length lie in a heap, which has no checksum.
        file.attrs["classes"] = np.bytes_(json.dumps(list(classes), ensure_ascii=False).encode())


def _create(path: Path) -> h5py.File:
    """A new file in the format of HDF5 1.10, without a time stamp."""
    creation, access = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    creation.set_obj_track_times(False)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, creation, access))
