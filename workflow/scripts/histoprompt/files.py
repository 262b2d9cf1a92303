"""Files that are whole or absent: atomic writes, digests, JSON and CSV."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoprompt.errors import InputError

if TYPE_CHECKING:  # the library takes a second to import, and half of the jobs have no table
    import numpy.typing as npt
    import pandas as pd


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name once the block ends without an error.

    Works for a file and for a folder alike: what the block makes at the temporary path is what is renamed. A folder already
    at `path` is replaced. The suffix is kept, since libraries choose a format by it. What a killed process left of the same
    file is removed: no two processes write one file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.stem)}.[0-9]*.partial{glob.escape(path.suffix)}"):
            remove(left)
        yield temporary
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    except InputError:
        raise
    except Exception as error:
        if (of_system := _error_of_system(error)) is None:
            raise
        raise with_advice(path, of_system) from error
    finally:
        remove(temporary)


def _error_of_system(error: Exception) -> OSError | None:
    """The error of the system; libraries in other languages (safetensors, HDF5) have its number in the text of theirs."""
    number = re.search(r"\(os error (\d+)\)|errno = (\d+)", str(error))
    if number:
        return OSError(int(number[1] or number[2]), str(error))
    return error if isinstance(error, OSError) else None


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


def with_advice(path: Path, error: OSError) -> Exception:
    """A full disk and missing permissions are the user's to mend; anything else stays as it is."""
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        free = shutil.disk_usage(path.parent if path.parent.is_dir() else ".").free / 2**20
        return InputError(
            path,
            found=f"the disk or quota is full ({free:.0f} MiB free)",
            expected="room for the results of this stage",
            remedy="free some space and run the same command again; nothing already made is lost",
        )
    if error.errno in (13, 30):  # EACCES, EROFS
        return InputError(
            path,
            found=f"no permission ({error.strerror})",
            expected="a file this user may read, or a folder this user may write to",
            remedy="change the permissions or run in a folder of your own, then run the same command again",
        )
    return error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_digest(path: str | Path, expected: str, *, by: str | Path, remedy: str) -> None:
    """Refuse a file that is not there, or whose SHA-256 is not the one that the file `by` says."""
    found = f"SHA-256 {sha256(path)}" if Path(path).is_file() else "no such file"
    if found != f"SHA-256 {expected}":
        raise InputError(path, found=found, expected=f"SHA-256 {expected}, as {by} says", remedy=remedy)


def read_array(path: str | Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """An array from an .npy file, `mapped` into memory rather than read; one of pickled objects is refused, unread."""
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of several arrays")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            path,
            found=f"no readable array ({error})",
            expected="an .npy file",
            remedy="delete it and run the same command again",
        ) from error
    return array


def seal(path: str | Path) -> None:
    """Write a file's SHA-256 beside it, as `sha256sum --check` reads it, for `check_seal`."""
    path = Path(path)
    with atomic(_seal_of(path)) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n")


def check_seal(path: str | Path, digest: str | None = None) -> None:
    """Refuse a file that is not what it was when it was sealed; `digest` is its SHA-256, where that is known already.

    Raises
    ------
    InputError : names the file, or says that nothing vouches for it.
    """
    path = Path(path)
    written = _seal_of(path)
    expected = written.read_text().split(" ")[0] if written.is_file() else None
    found = digest or sha256(path)
    if found != expected:
        raise InputError(
            path,
            found=f"SHA-256 {found}",
            expected=f"SHA-256 {expected}, as {written.name} says" if expected else f"its SHA-256 in {written.name}",
            remedy="the file was changed or damaged after it was made: delete it and run the same command again",
        )


def check_seal_if_any(path: str | Path) -> None:
    """The same, but a file without a seal is let pass: it was not made here."""
    if _seal_of(Path(path)).is_file():
        check_seal(path)


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def folder_manifest(folder: str | Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`, in sorted order."""
    folder = Path(folder)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def changed_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SHA-256 of the files of a fine-tuned model, by its manifest, that are not its base model's."""
    return {name: digest for name, digest in manifest["pipeline"].items() if manifest["base"].get(name) != digest}


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
