"""Files that are whole or absent: atomic writes, digests, JSON and CSV."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoprompt.errors import InputError

if TYPE_CHECKING:  # the library takes a second to import, and half of the jobs have no table
    import pandas as pd


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name once the block ends without an error.

    Works for a file and for a folder alike: what the block makes at the temporary path is what is renamed. A folder already
    at `path` is replaced. The suffix is kept, since libraries choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    except OSError as error:
        raise _with_advice(path, error) from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: str | Path, target: str | Path) -> None:
    """The same file under a second name, which takes no space; a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _with_advice(path: Path, error: OSError) -> Exception:
    """A full disk and a read-only folder are the user's to mend; anything else stays as it is."""
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        free = shutil.disk_usage(path.parent).free / 2**20
        return InputError(
            path,
            found=f"the disk or quota is full ({free:.0f} MiB free)",
            expected="room for the results of this stage",
            remedy="free some space and run the same command again; nothing already made is lost",
        )
    if error.errno in (13, 30):  # EACCES, EROFS
        return InputError(
            path,
            found=f"no permission to write here ({error.strerror})",
            expected="a folder this user may write to",
            remedy="change the permissions or run in a folder of your own, then run the same command again",
        )
    return error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_manifest(folder: str | Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`, in sorted order."""
    folder = Path(folder)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN is refused, since JSON has none (write null and a reason instead)."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            path, found=f"no readable JSON ({error})", expected="a JSON file", remedy="delete it and run the same command again"
        ) from error
    return dict(content)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without an index, with a byte form that does not depend on the platform."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(path: str | Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table; `columns` must be there. Identifiers and prompts stay text, and an empty field is empty text."""
    import pandas as pd

    text = dict.fromkeys(("id", "slide", "reasons", "prompt", "file", "sha256", "morphology", "stain"), str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={c: [""] for c in ("distance",)})
    except (OSError, ValueError) as error:
        raise InputError(
            path, found=f"no readable CSV ({error})", expected="a CSV file", remedy="delete it and run the same command again"
        ) from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(
            path,
            found=f"columns {list(table.columns)}",
            expected=f"the columns {list(columns)}",
            remedy="delete it and run the same command again, or correct the file if it is yours",
        )
    return table
