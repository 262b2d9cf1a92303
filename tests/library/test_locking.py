"""A study's lock lives as long as its process, and Snakemake's locks are removed when nobody can need them."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from histoprompt.errors import InputError
from histoprompt.locking import hold_lock, remove_stale_locks

LIBRARY = Path(__file__).parents[2] / "workflow/scripts"
HOLD = "import sys, time; from histoprompt.locking import hold_lock; hold_lock(sys.argv[1]); print('held', flush=True); {}"


def holder(path, then="time.sleep(60)"):
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then), str(path)],
        env=os.environ | {"PYTHONPATH": str(LIBRARY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def locks(tmp_path):
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.output.lock").write_text("results/a/b\n")
    return tmp_path / ".snakemake/locks"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, locks, number):
    path = tmp_path / "results/study/.lock"
    process = holder(path)
    assert path.read_text() == f"process {process.pid} on {platform.node()}\n"
    with pytest.raises(InputError, match=f"another run of this study, still at work .process {process.pid} on") as caught:
        hold_lock(path)
    assert caught.value.where == str(path.parent) and "wait until it has ended" in caught.value.remedy
    remove_stale_locks(locks, [path])
    assert list(locks.iterdir()), "its run is alive"
    process.send_signal(number)
    process.wait()
    remove_stale_locks(locks, [path])
    assert not locks.exists()
    other = holder(path, "")
    assert other.wait() == 0 and path.read_text() == "", "a process that ends properly leaves no name"


def test_two_studies_do_not_meet(tmp_path):
    first, second = (holder(tmp_path / name / ".lock") for name in "ab")
    for process in (first, second):
        process.kill()
        process.wait()


def test_locks_are_kept_while_anybody_may_need_them(tmp_path, locks):
    free, foreign = tmp_path / "free.lock", tmp_path / "foreign.lock"
    free.write_text(f"process 1 on {platform.node()}\n")
    foreign.write_text("process 1 on another\n")
    remove_stale_locks(locks, [free, foreign])
    assert list(locks.iterdir())
    foreign.write_text("")
    remove_stale_locks(locks, [free, foreign])
    assert not locks.exists()
    remove_stale_locks(locks, [free])


def test_file_systems_without_locks_do_without(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    hold_lock(tmp_path / ".lock")
    assert str(os.getpid()) in (tmp_path / ".lock").read_text()
