"""What surrounds every script: its log, its progress on the terminal, and errors that end in one message."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from histoprompt.errors import InputError
from histoprompt.files import with_advice

T = TypeVar("T")
_TERMINAL_SECONDS = 10.0
_terminal: list[int] = []  # the descriptor of the user's terminal, while a job's own output goes to its log
_name: list[str] = []
_TERMINAL_PATH, _JOB_NAME = "HISTOPROMPT_TERMINAL", "HISTOPROMPT_JOB"


@contextmanager
def job(log: str | Path, name: str) -> Iterator[None]:
    """Send everything this process prints, C libraries and subprocesses included, to `log`; end an `InputError` in one message.

    The user's terminal still receives progress lines and that message.
    """
    log = Path(str(log))
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    _terminal.append(saved_err)
    _name.append(name)
    warnings.simplefilter("default")
    try:
        yield
    except InputError as error:
        _end(error, name)
    except Exception as error:
        advice = with_advice(Path(error.filename or log), error) if isinstance(error, OSError) else error
        if isinstance(advice, InputError):
            _end(advice, name)
        traceback.print_exc()  # into the log; Python repeats it on the terminal
        raise
    finally:
        for output in (sys.stdout, sys.stderr):
            with suppress(OSError):
                output.flush()
        _terminal.pop()
        _name.pop()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)


def job_environment() -> dict[str, str]:
    """What a process started inside a job needs, to reach the user's terminal by `inside_job`."""
    return {_TERMINAL_PATH: f"/proc/{os.getpid()}/fd/{_terminal[-1]}", _JOB_NAME: _name[-1]} if _terminal else {}


@contextmanager
def inside_job(*, speaks: bool) -> Iterator[None]:
    """The job of the process that started this one: same log, same terminal; an `InputError` ends in one message.

    Of several processes one `speaks`; what the others would say is what it says.
    """
    path = os.environ.get(_TERMINAL_PATH)
    if path and speaks and Path(path).exists():  # it does not on another node
        _terminal.append(os.open(path, os.O_WRONLY | os.O_APPEND))
        _name.append(os.environ[_JOB_NAME])
    warnings.simplefilter("default")
    try:
        yield
    except InputError as error:
        _end(error, os.environ.get(_JOB_NAME, "this job") if speaks else None)


def _end(error: InputError, speaker: str | None) -> NoReturn:
    """The message, in the log and, where this process is the one that speaks, on the terminal."""
    # All is said: what a library then fails to put away, on a full disk, is no news to the user.
    sys.unraisablehook = lambda unraisable: None
    if speaker:
        say(f"\n{speaker} cannot go on:\n{error}\n")
    with suppress(OSError):  # the log may be on a full disk
        print(error, file=sys.stderr, flush=True)
    raise SystemExit(1) from None


def duration(seconds: float) -> str:
    """Seconds in words of the size that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """Print a line on the user's terminal, past the log; outside a job it goes to standard error."""
    os.write(_terminal[-1] if _terminal else 2, (line + "\n").encode())


def progress(
    items: Iterable[T], description: str, *, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Iterate with a progress bar in the log and, every ten seconds, a line on the terminal with the time left."""
    label = f"[{_name[-1]}] {description}" if _name else description
    last = time.monotonic()
    bar = tqdm(items, desc=description, total=total, unit=unit, initial=initial, mininterval=2.0, ncols=100)
    for item in bar:
        yield item
        now = time.monotonic()
        if _terminal and now - last >= _TERMINAL_SECONDS:
            last = now
            done, every = bar.format_dict["n"] + 1, bar.total
            rate = bar.format_dict["rate"] or (done - initial) / max(bar.format_dict["elapsed"], 1e-9)
            left = f", {tqdm.format_interval((every - done) / rate)} left" if every and rate else ""
            note = f", {bar.postfix}" if bar.postfix else ""
            say(f"{label}: {done}{f'/{every}' if every else ''} {unit}{left}{note}")
