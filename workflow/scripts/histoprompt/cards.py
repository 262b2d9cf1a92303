"""GPUs that several jobs of one machine share: each gets cards of its own and sees no others."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from histoprompt.errors import InputError
from histoprompt.job import say

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS = 0.5


@contextmanager
def own_cards(count: int) -> Iterator[None]:
    """Let this process, and those it starts, compute on cards that no other job holds; wait until there are enough.

    The cards are those of `CUDA_VISIBLE_DEVICES` where SLURM or the user has set it, else all of the machine; the variable
    then names the ones that were free. CUDA reads it once, at its first use: torch may be imported before, not asked.

    Parameters
    ----------
    count : cards on this machine; with none, or where the machine has none, nothing changes.

    Raises
    ------
    InputError : more cards are asked for than there are.
    """
    cards = visible_cards() if count else []
    if not cards:
        yield
        return
    if count > len(cards):
        raise InputError(
            "resources of the rule",
            found=f"gpu: {count}, where this job can see {len(cards)} ({','.join(cards)})",
            expected="no more GPUs than there are",
            remedy=f"lower `gpu` under `set-resources` of the profile, or give this job more in {_VISIBLE}",
        )
    before = os.environ.get(_VISIBLE)
    with ExitStack() as held:
        # Only one job at a time gathers cards: two that each hold half of what they want would wait for ever.
        with _claims(["turn"], 1, "its turn to take a GPU"):
            own = held.enter_context(_claims(cards, count, f"{count} of the GPUs {','.join(cards)}"))
        os.environ[_VISIBLE] = ",".join(own)
        print(f"{_VISIBLE}: {os.environ[_VISIBLE]}", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            if before is None:
                del os.environ[_VISIBLE]
            else:
                os.environ[_VISIBLE] = before


def visible_cards(devices: str | Path = "/dev") -> list[str]:
    """The cards that a process here may use, by names that `CUDA_VISIBLE_DEVICES` takes; nothing is started to find them."""
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [card for name in named.split(",") if (card := name.strip()) and not card.startswith("-")]
    # CUDA counts the cards it sees, whatever their numbers: a container that was given card 3 alone calls it 0.
    files = [path for path in Path(devices).glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [str(number) for number in range(len(files))]


@contextmanager
def _claims(names: Sequence[str], count: int, what: str) -> Iterator[list[str]]:
    """Hold `count` of these names against every other process, from when they are free until the block or the process ends."""
    claims: dict[str, socket.socket] = {}
    waits = False
    try:
        while True:
            for name in names:
                if name not in claims and len(claims) < count and (claim := _claim(name)):
                    claims[name] = claim
            if len(claims) == count:
                break
            if not waits:
                say(f"Waiting for {what}: other jobs hold them")
                waits = True
            time.sleep(_POLL_SECONDS)
        yield [name for name in names if name in claims]
    finally:
        for claim in claims.values():
            claim.close()


def _claim(name: str) -> socket.socket | None:
    """The name, unless another process holds it.

    A socket bound to a name that is no file: the kernel gives it to one process and takes it back when that process ends,
    however it ends. Nothing lies about afterwards, no cleaner of temporary folders can remove it while it is held, and no
    network file system hands it to other machines.
    """
    # Where SLURM fences cards in, every job calls its first one 0: jobs of different allocations do not compete.
    allocation = os.environ.get("SLURM_JOB_ID", "")
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0histoprompt/gpu/{allocation}/{name}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return claim
