"""Shards: every item once, in order, beside the same others; and their files put together as if one job had written them."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprompt.arrays import batches_of_shard, gather_each, gather_latents, gather_rows, rows_of_shard, write_rows
from histoprompt.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(11, 3, 2)).astype(np.float16)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 30))
def test_shards_hold_every_batch_of_one_job_once_and_in_order(items: int, batch_size: int, shards: int) -> None:
    parts = [batches_of_shard(items, batch_size, (number, shards)) for number in range(shards)]
    assert [start for part in parts for start in part] == list(range(0, items, batch_size))
    assert sum(rows_of_shard(items, batch_size, (number, shards)) for number in range(shards)) == items
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def write(path: Path, rows: np.ndarray) -> Path:
    write_rows(path, [rows[:2], rows[2:]], shape=rows.shape, dtype=rows.dtype)
    return path


def test_rows_are_numpys(tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.load(write(tmp_path / "rows.npy", ROWS), allow_pickle=False), ROWS)
    assert np.load(write(tmp_path / "none.npy", ROWS[:0]), allow_pickle=False).shape == (0, 3, 2)


@pytest.mark.parametrize("cuts", [[4], [0, 4], [4, 4, 11], list(range(1, 11))])
def test_gathered_shards_have_the_bytes_of_one_job(tmp_path: Path, cuts: list[int]) -> None:
    parts = [write(tmp_path / f"{i}.npy", part) for i, part in enumerate(np.split(ROWS, cuts))]
    gather_rows(parts, tmp_path / "all.npy")
    assert (tmp_path / "all.npy").read_bytes() == write(tmp_path / "whole.npy", ROWS).read_bytes()


def test_what_is_gathered_is_no_link_to_a_shard_and_equal_arrays_are_one_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.npy", ROWS)
    gather_rows([one], tmp_path / "all.npy")
    assert (tmp_path / "all.npy").stat().st_ino != one.stat().st_ino
    assert (tmp_path / "all.npy").read_bytes() == one.read_bytes()

    halves = [write(tmp_path / "a.npy", ROWS[:5]), write(tmp_path / "b.npy", ROWS[5:])]
    again = [tmp_path / "c.npy", tmp_path / "d.npy"]
    for half, name in zip(halves, again, strict=True):
        os.link(half, name)
    other = [write(tmp_path / "e.npy", ROWS[:5]), write(tmp_path / "f.npy", ROWS[5:])]
    written = [tmp_path / f"{name}.npy" for name in ("first", "second", "third")]
    gather_each([halves, again, other], written)
    assert written[0].stat().st_ino == written[1].stat().st_ino != written[2].stat().st_ino
    assert written[0].read_bytes() == written[2].read_bytes()


def test_gathering_does_not_hold_the_rows(tmp_path: Path) -> None:
    large = np.zeros((2**20, 32), np.float32)  # 128 MiB
    parts = [write(tmp_path / f"{i}.npy", large[::2]) for i in range(2)]
    tracemalloc.start()
    gather_rows(parts, tmp_path / "all.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.load(tmp_path / "all.npy", mmap_mode="r", allow_pickle=False).shape == large.shape
    assert peak < 2**26


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), ["bytes", "as its header says"]),
        (lambda path: path.write_bytes(b"nothing"), ["no array"]),
        (lambda path: write(path, ROWS[:, :2]), ["rows of shape (2, 2), float16", "(3, 2), float16"]),
        (lambda path: write(path, ROWS.astype(np.float32)), ["float32", "float16"]),
    ],
)
def test_a_damaged_or_foreign_shard_is_named(tmp_path: Path, damage, found: list[str]) -> None:
    parts = [write(tmp_path / f"{i}.npy", ROWS) for i in range(2)]
    damage(parts[1])
    with pytest.raises(InputError) as caught:
        gather_rows(parts, tmp_path / "all.npy")
    for text in (str(parts[1]), "delete it", *found):
        assert text in str(caught.value)
    assert not (tmp_path / "all.npy").exists()


def test_tables_of_latents_are_put_together_too(tmp_path: Path) -> None:
    arrays = [write(tmp_path / f"{i}.npy", part) for i, part in enumerate(np.split(ROWS, [4, 4]))]
    tables = [tmp_path / f"{i}.rows.csv" for i in range(3)]
    for table, rows in zip(tables, ([0, 2, 5, 6], [], range(10, 17)), strict=True):
        table.write_text("row\n" + "".join(f"{row}\n" for row in rows))
    gather_latents(arrays, tables, tmp_path / "train.npy", tmp_path / "train.rows.csv")
    assert len(np.load(tmp_path / "train.npy", allow_pickle=False)) == 11
    assert (tmp_path / "train.rows.csv").read_text() == "row\n" + "".join(f"{row}\n" for row in [0, 2, 5, 6, *range(10, 17)])
