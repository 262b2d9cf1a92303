"""Whether a study's source has changed: told by its content, cheaply, since time stamps lie after a copy or a checkout."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

_BLOCKS, _BLOCK_BYTES = 16, 4096
_READ_FILES = 64  # of a folder of images; of the others, name and size count


def fingerprint(source: str, root: str | Path | None) -> str:
    """A digest of a source's file names, sizes and sampled blocks; `missing` where there is nothing to read at `root`.

    Quick at any size: no file is read whole but a table. What it can miss is an edit that keeps a file's size and lies outside
    the sampled blocks (sixteen of 4 KiB a file; of a folder or table of images, in 64 files). Time stamps do not enter.

    Parameters
    ----------
    source : `pcam`, `folders` or `table`.
    root : the folder, or the table's CSV file.
    """
    root = Path(root or "")
    there = root.is_file() if source == "table" else root.is_dir() and root != Path()
    if not there or not os.access(root, os.R_OK):
        return "missing"
    digest = hashlib.sha256()
    if source == "pcam":
        files = sorted(path for path in root.iterdir() if path.is_file() and not is_junk(path.name))
        files = [path for path in files if path.suffix in (".h5", ".csv")]
        read = files
    else:
        if source == "table":
            digest.update(root.read_bytes())
            files = _files_of_table(root)
        else:
            files = image_files(root)
        read = files[:: -(-len(files) // _READ_FILES)] if files else []
    for path in files:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{os.path.relpath(path, root)}\0{size}\n".encode())
    for path in read:
        if os.access(path, os.R_OK):
            digest.update(_sampled(path))
    return digest.hexdigest()[:16]


def image_files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted, without what operating systems leave behind."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(name)]
        found += [Path(parent, name) for name in names if not is_junk(name)]
    return sorted(found)


def is_junk(name: str) -> bool:
    """Hidden files, and what macOS and Windows leave in folders."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def sampled_blocks(size: int) -> list[tuple[int, int]]:
    """(offset, length) of the blocks that are read of a file of `size` bytes: evenly spread, first and last included."""
    if size <= _BLOCKS * _BLOCK_BYTES:
        return [(0, size)]
    last = size - _BLOCK_BYTES
    return [(last * block // (_BLOCKS - 1), _BLOCK_BYTES) for block in range(_BLOCKS)]


def _sampled(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for offset, length in sampled_blocks(path.stat().st_size):
            stream.seek(offset)
            digest.update(stream.read(length))
    return digest.digest()


def _files_of_table(table: Path) -> list[Path]:
    """The images a table names. A table that cannot be read has none: its bytes are in the digest, the import says the rest."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            return sorted(table.parent / row["path"] for row in csv.DictReader(stream) if row.get("path"))
    except (UnicodeDecodeError, csv.Error):
        return []
