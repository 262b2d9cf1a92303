"""One run of a study at a time: a lock that ends with its process, so that none is left after a kill."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from histoprompt.errors import InputError
from histoprompt.files import with_advice

# File systems without such locks, or mounted without them: there Snakemake's own have to do.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def hold_lock(path: str | Path) -> None:
    """Be the one run of a study until this process ends, in whichever way it does.

    The kernel lets the lock go when the process dies (flock(2)); the file stays, and says who held it last.

    Raises
    ------
    InputError : another process has it, or this user may not write there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise with_advice(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            path.parent,
            found=f"another run of this study, still at work ({path.read_text().strip()})",
            expected="one run of a study at a time",
            remedy="wait until it has ended, or end it, then run the same command again",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}\n".encode())
    except OSError as error:
        raise with_advice(path, error) from error
    atexit.register(os.ftruncate, lock, 0)


def remove_stale_locks(snakemakes: str | Path, ours: Iterable[Path]) -> None:
    """Remove the locks that a killed Snakemake left, if no run of ours can be alive: it need not be done by hand.

    A run on another machine may be invisible here, depending on the file system: after one that did not end properly, the locks
    stay, and Snakemake says how to remove them.

    Parameters
    ----------
    snakemakes : the folder of Snakemake's locks.
    ours : the files of `hold_lock`, of all studies.
    """
    if Path(snakemakes).is_dir() and not any(_may_be_alive(path) for path in ours):
        shutil.rmtree(snakemakes, ignore_errors=True)


def _may_be_alive(path: Path) -> bool:
    try:
        with open(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = file.read().strip()
    except OSError:
        return True
    return bool(holder) and not holder.endswith(f" on {platform.node()}")
