import hashlib
import json
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histoprompt.errors import InputError
from histoprompt.patches import PatchFile, write_patches

SIZE = 8
CLASSES = ("healthy", "cancer", "other")
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(count, seed=0):
    draw = np.random.Generator(np.random.Philox(seed))
    images = draw.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return images, draw.integers(0, len(CLASSES), count), [f"patch-é-{i}" for i in range(count)]


def write(path, images, labels, ids, cuts=()):
    bounds = [0, *sorted(cuts), len(images)]
    chunks = [(images[a:b], labels[a:b], ids[a:b]) for a, b in pairwise(bounds)]
    write_patches(path, chunks, classes=CLASSES, size=SIZE)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@quick
@given(count=st.integers(1, 200), cuts=st.lists(st.integers(0, 200), max_size=6), step=st.integers(1, 90))
def test_what_is_written_is_read_whatever_the_chunks(tmp_path, count, cuts, step):
    images, labels, ids = make(count)
    whole = write(tmp_path / "whole.h5", images, labels, ids)
    assert write(tmp_path / "cut.h5", images, labels, ids, [min(cut, count) for cut in cuts]) == whole
    with PatchFile(tmp_path / "cut.h5") as patches:
        assert len(patches) == count and patches.size == SIZE and patches.classes == CLASSES and patches.ids == ids
        assert patches.labels.dtype == np.int64 and np.array_equal(patches.labels, labels)
        starts, blocks = zip(*patches.chunks(step), strict=True)
        assert list(starts) == list(range(0, count, step)) and max(map(len, blocks)) <= step
        assert np.array_equal(np.concatenate(blocks), images)


@quick
@given(rows=st.lists(st.integers(0, 69), max_size=100))
def test_take_is_indexing(tmp_path, rows):
    images, labels, ids = make(70)
    path = tmp_path / "patches.h5"
    if not path.exists():
        write(path, images, labels, ids)
    with PatchFile(path) as patches:
        taken = patches.take(rows)
    assert taken.dtype == np.uint8 and np.array_equal(taken, images[np.array(rows, int)])


def test_take_and_read_refuse_rows_that_do_not_exist(tmp_path):
    write(tmp_path / "p.h5", *make(5))
    with PatchFile(tmp_path / "p.h5") as patches:
        for rows in ([5], [-1, 2]):
            with pytest.raises(IndexError, match="of 5 patches"):
                patches.take(rows)


def test_layout_is_that_of_pcam(tmp_path):
    write(tmp_path / "p.h5", *make(5))
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["x"].shape == (5, SIZE, SIZE, 3) and file["x"].dtype == np.uint8
        assert file["y"].shape == (5, 1, 1, 1) and file["y"].dtype == np.uint8
        assert json.loads(file.attrs["classes"]) == list(CLASSES)


def test_no_patch_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="no patch to write"):
        write_patches(tmp_path / "p.h5", [], classes=CLASSES, size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_nothing(tmp_path):
    images, labels, ids = make(100)

    def chunks():
        yield images, labels, ids
        raise KeyError("the source broke")

    with pytest.raises(KeyError):
        write_patches(tmp_path / "p.h5", chunks(), classes=CLASSES, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_is_said_to_be_one(tmp_path, kind):
    """HDF5 says it in its own words: in an `OSError` while it writes, in a `RuntimeError` when it closes."""

    def chunks():
        yield make(100)
        raise kind("Can't decrement id ref count (unable to close file, errno = 28, error message = 'No space left on device')")

    with pytest.raises(InputError, match="the disk or quota is full"):
        write_patches(tmp_path / "p.h5", chunks(), classes=CLASSES, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["size", "labels", "ids"])
def test_chunks_that_do_not_fit_together_are_refused(tmp_path, number):
    images, labels, ids = make(4)
    chunk = {
        "size": (images[:, 1:], labels, ids),
        "labels": (images, labels + 3, ids),
        "ids": (images, labels, ids[1:]),
    }[number]
    with pytest.raises(ValueError):
        write_patches(tmp_path / "p.h5", [chunk], classes=CLASSES, size=SIZE)


def damage(path, kind):
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-400])
        return
    if kind == "no hdf5":
        path.write_bytes(b"x" * 4000)
        return
    with h5py.File(path, "a") as file:
        if kind == "pcam":
            del file["id"]
            del file.attrs["classes"]
        elif kind == "no x":
            del file["x"]
        elif kind == "no y":
            del file["y"]
        elif kind == "dtype":
            x = file["x"][:] / np.float32(255)
            del file["x"]
            file["x"] = x
        elif kind == "channels first":
            x = file["x"][:].transpose(0, 3, 1, 2)
            del file["x"]
            file["x"] = x
        elif kind == "short y":
            y = file["y"][:-1]
            del file["y"]
            file["y"] = y
        elif kind == "float y":
            y = file["y"][:].astype(float)
            del file["y"]
            file["y"] = y
        elif kind == "scalar y":
            del file["y"]
            file["y"] = np.uint8(1)
        elif kind == "one-hot y":
            del file["y"]
            file["y"] = np.zeros((len(file["x"]), 2), np.uint8)
        elif kind == "label":
            file["y"][3] = 9
        elif kind == "empty":
            for name in ("x", "y", "id"):
                data = file[name][:0]
                del file[name]
                file[name] = data


BAD_FILES = [
    ("truncated", ["truncated HDF5", "a whole HDF5 file"]),
    ("no hdf5", ["no readable HDF5"]),
    ("pcam", ["not a histoprompt patch file", "data.source: pcam"]),
    ("no x", ["no data set `x`"]),
    ("no y", ["no data set `y`"]),
    ("dtype", ["float32", "dtype uint8"]),
    ("channels first", ["(6, 3, 8, 8)", "channels last"]),
    ("short y", ["5 labels for 6 patches"]),
    ("float y", ["float64"]),
    ("scalar y", ["`y` of shape ()"]),
    ("one-hot y", ["(6, 2)"]),
    ("label", ["1 labels outside the classes", "row 3: 9", "{0, 1, 2}"]),
    ("empty", ["(0, 8, 8, 3)", "N > 0"]),
]


@pytest.mark.parametrize(("kind", "parts"), BAD_FILES)
def test_bad_files_are_named(tmp_path, kind, parts):
    path = tmp_path / "p.h5"
    write(path, *make(6))
    damage(path, kind)
    with pytest.raises(InputError) as caught:
        PatchFile(path)
    for part in [str(path), "found:", "expected:", "to do:", *parts]:
        assert part in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.h5\n  found:    no file"):
        PatchFile(tmp_path / "absent.h5")


def test_a_damaged_block_is_found_when_it_is_read(tmp_path):
    path = tmp_path / "p.h5"
    write(path, *make(6))
    with h5py.File(path) as file:
        block = file["x"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[block.byte_offset : block.byte_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    with PatchFile(path) as patches:
        patches.read(0, 4)
        with pytest.raises(InputError, match="a block of `x` that cannot be read"):
            patches.read(0, 6)
