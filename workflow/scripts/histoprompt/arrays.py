"""Arrays on disk that are written part by part, by one job or by several shards of one stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from histoprompt.errors import InputError
from histoprompt.files import atomic, link, read_csv, seal, write_csv

Shard = tuple[int, int]  # number, from 0, and how many there are

WHOLE: Shard = (0, 1)


def batches_of_shard(items: int, batch_size: int, shard: Shard) -> range:
    """The first item of every batch of a shard: consecutive batches, whose borders no number of shards moves.

    So an item is computed beside the same others whatever the shards, and has the same bytes. With more shards than batches
    some have none.
    """
    number, shards = shard
    batches = -(-items // batch_size)
    start, stop = (batches * part // shards for part in (number, number + 1))
    return range(start * batch_size, min(stop * batch_size, items), batch_size)


def rows_of_shard(items: int, batch_size: int, shard: Shard) -> int:
    """How many items the batches of a shard hold."""
    starts = batches_of_shard(items, batch_size, shard)
    return min(starts.stop, items) - starts.start if starts else 0


def write_rows(path: str | Path, parts: Iterable[npt.NDArray[Any]], *, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """Write an .npy file part by part, atomically. Not through a memory map: on a full disk that ends the process by a signal.

    Parameters
    ----------
    parts : consecutive rows, (n, *shape[1:]) each.
    shape, dtype : of the whole.
    """
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        _write_header(stream, shape, np.dtype(dtype))
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype).data)


def gather_rows(parts_npy: Sequence[str | Path], path: str | Path) -> None:
    """Put the rows of several .npy files into one, in the order given, without holding them in memory, and seal it.

    A single part is copied, too, and not linked: Snakemake touches outputs one by one, and with a link to one of its inputs
    another output of the same job would be older than that.

    Raises
    ------
    InputError : a part is damaged or cut off, or has rows of another shape or type than the first.
    """
    headers = [_read_header(part) for part in parts_npy]
    first = headers[0]
    for part, header in zip(parts_npy, headers, strict=True):
        if (header.shape[1:], header.dtype) != (first.shape[1:], first.dtype):
            raise _damaged(
                part,
                found=f"rows of shape {header.shape[1:]}, {header.dtype}",
                expected=f"rows of shape {first.shape[1:]}, {first.dtype}, as in {parts_npy[0]}",
            )
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        _write_header(stream, (sum(header.shape[0] for header in headers), *first.shape[1:]), first.dtype)
        for part, header in zip(parts_npy, headers, strict=True):
            with open(part, "rb") as source:
                source.seek(header.offset)
                shutil.copyfileobj(source, stream, 2**24)
    seal(path)


def gather_each(parts_npy: Sequence[Sequence[str | Path]], paths: Sequence[str | Path]) -> None:
    """`gather_rows` for several arrays; those whose parts are the same files become one file under several names.

    Parameters
    ----------
    parts_npy : the parts of each array.
    paths : written, one an array.
    """
    made: dict[tuple[tuple[int, int], ...], str | Path] = {}
    for parts, path in zip(parts_npy, paths, strict=True):
        places = [Path(part).stat() for part in parts]
        content = tuple((place.st_dev, place.st_ino) for place in places)
        if content in made:
            with atomic(path) as temporary:
                link(made[content], temporary)
            seal(path)
        else:
            gather_rows(parts, path)
            made[content] = path


def gather_latents(
    parts_npy: Sequence[str | Path], parts_csv: Sequence[str | Path], latents_npy: str | Path, rows_csv: str | Path
) -> None:
    """Put the shards of `latents.encode_latents` together, in their order, as if one job had made them.

    Raises
    ------
    InputError : as `gather_rows`.
    """
    import pandas as pd  # takes longer than all else here, and features have no table

    gather_rows(parts_npy, latents_npy)
    write_csv(rows_csv, pd.concat([read_csv(part, ("row",)) for part in parts_csv]))


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int  # bytes before the rows


def _read_header(path: str | Path) -> _Header:
    """What a file written by `write_rows` holds, once its length is what its header says."""
    with open(path, "rb") as stream:
        try:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        except ValueError as error:
            raise _damaged(path, found=f"no array ({error})", expected="an .npy file") from error
        header = _Header(shape, dtype, stream.tell())
    expected, found = header.offset + int(np.prod(shape)) * dtype.itemsize, Path(path).stat().st_size
    if found != expected:
        raise _damaged(path, found=f"{found} bytes", expected=f"{expected}, as its header says")
    return header


def _write_header(stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _damaged(path: str | Path, *, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, remedy="delete it and run the same command again")
