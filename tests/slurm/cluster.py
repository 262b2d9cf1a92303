"""A SLURM cluster of one node on this machine: `cluster.py start FOLDER`, `cluster.py stop FOLDER`.

The node pretends to have 4 processors, 200 GB of memory and two GPUs. Everything lies in FOLDER save one link,
/etc/slurm/slurm.conf, since the step executor takes SLURM_CONF from the environment of what it starts. A machine with a SLURM
of its own is left alone.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CONFIG = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
# Without control groups: a container may have none.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/task_prolog
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
# squeue must remember what has ended.
MinJobAge=3600
KillWait=10
# A job that the node does not know is not being started any more, but lost.
BatchStartTimeout=2
CompleteWait=0
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# More processors than there are.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
# Its jobs take the GPUs of others.
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
# What every job saw, for the tests: job, partition, devices.
TASK_PROLOG = """\
#!/bin/sh
echo "$SLURM_JOB_ID $SLURM_JOB_PARTITION ${{CUDA_VISIBLE_DEVICES-none}}" >> {folder}/tasks
"""


def obstacle() -> str | None:
    """Why no cluster can be started here, or nothing."""
    missing = [program for program in PROGRAMS if not find(program)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "SLURM's daemons are started by root"
    if CONFIG.exists():
        return f"{CONFIG} exists: this machine has a SLURM of its own"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return f"the name of this machine, {socket.gethostname()}, is not in /etc/hosts"
    return None


def find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin")


class Cluster:
    """The cluster whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]

    def start(self) -> None:
        """Start everything and wait until the node is idle."""
        for name in ("state", "spool", "log", "dev", "munge"):
            (self.folder / name).mkdir(parents=True)
        for gpu in range(2):
            (self.folder / f"dev/gpu{gpu}").symlink_to("/dev/null")
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(folder=self.folder, host=self.host))
        (self.folder / "gres.conf").write_text(f"NodeName={self.host} Name=gpu File={self.folder}/dev/gpu[0-1]\n")
        prolog = self.folder / "task_prolog"
        prolog.write_text(TASK_PROLOG.format(folder=self.folder))
        prolog.chmod(0o755)
        (self.folder / "tasks").touch()
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "log", "pid", "seed")]
        # Forced, since a temporary folder may be closed to other users.
        self._spawn("munged", "--foreground", "--force", *files, f"--socket={self.folder}/munge/socket")
        CONFIG.parent.mkdir(parents=True, exist_ok=True)
        CONFIG.unlink(missing_ok=True)  # a dangling link of a cluster that was never stopped
        CONFIG.symlink_to(self.folder / "slurm.conf")
        wait_until((self.folder / "munge/socket").exists, 10)
        self._spawn("slurmctld", "-D", "-i", "-c", "-f", str(self.folder / "slurm.conf"))
        self.start_node()

    def start_node(self) -> None:
        """Start the node's daemon; jobs that it left behind are found again."""
        self._spawn("slurmd", "-D", "-N", self.host, "-f", str(self.folder / "slurm.conf"))
        wait_until(lambda: self.ask("sinfo", "-h", "-o", "%T", "-p", "cpu").strip() in ("idle", "mixed", "allocated"), 60)

    def ask_node_for_its_jobs(self) -> None:
        """As the controller does by itself, much later: jobs that were sent while nobody listened are found to be missing."""
        time.sleep(13)  # a job counts as being started for BatchStartTimeout and ten seconds more
        self.ask("scontrol", "reconfigure")

    def kill_node(self, *, with_jobs: bool) -> None:
        """Kill the node's daemon, and as a power cut does, every process of its jobs."""
        pid = int((self.folder / "slurmd.daemon").read_text())
        doomed = [pid]
        while with_jobs and (found := set(descendants([pid, *step_daemons()])) - set(doomed)):
            # What is stopped starts nothing more; else a job that is just beginning would outlive the power cut.
            for process in (pid, *found):
                kill(process, signal.SIGSTOP)
            doomed += found
        for process in doomed:
            kill(process, signal.SIGKILL)
        wait_until(lambda: not any(alive(process) for process in doomed), 10)

    def stop(self) -> None:
        """End all jobs, then the daemons; take the link away."""
        self.ask("scancel", "-u", "root")
        with suppress(TimeoutError):
            wait_until(lambda: not self.ask("squeue", "-h"), 30)
        steps = descendants(step_daemons())
        for name in ("slurmd", "slurmctld", "munged"):
            pid_file = self.folder / f"{name}.daemon"
            if pid_file.exists():
                pid = int(pid_file.read_text())
                kill(pid, signal.SIGTERM)
                try:
                    wait_until(lambda pid=pid: not alive(pid), 10)
                except TimeoutError:
                    kill(pid, signal.SIGKILL)
        for pid in steps:
            kill(pid, signal.SIGKILL)
        if CONFIG.is_symlink() and CONFIG.readlink().parent == self.folder:
            CONFIG.unlink()

    def ask(self, *command: str) -> str:
        """What a SLURM command prints, or nothing where there is no answer: a dead controller never gives one."""
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
        except subprocess.TimeoutExpired:
            return ""

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start, the oldest first; its `rule` is named with its wildcards."""
        names = ("id", "state", "rule", "partition", "memory", "restarts")
        fields = "JobID:|,State:|,Comment:200|,Partition:|,MinMemory:|,RestartCnt:|"
        lines = self.ask("squeue", "-h", "--states=all", "--sort=i", "-O", fields).splitlines()
        return [dict(zip(names, map(str.strip, line.split("|")), strict=False)) for line in lines]

    def devices(self) -> dict[str, str]:
        """What the steps of every job saw in CUDA_VISIBLE_DEVICES."""
        return {job: devices for job, _, devices in map(str.split, (self.folder / "tasks").read_text().splitlines())}

    def _spawn(self, program: str, *arguments: str) -> None:
        path = find(program)
        assert path
        with open(self.folder / f"log/{program}.out", "ab") as log:
            process = subprocess.Popen(
                [path, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.folder / f"{program}.daemon").write_text(str(process.pid))


def wait_until(true, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.1)


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def alive(pid: int) -> bool:
    """A zombie is dead, whatever `kill -0` says."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes() -> Iterator[tuple[int, int, str]]:
    """Process, parent and command line of everything that runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue


def step_daemons() -> list[int]:
    """One for every step of every job. They outlive the node's daemon."""
    # Its command is a path at first, and says its step after a colon later.
    return [pid for pid, _, command in processes() if re.match(r"(\S*/)?slurmstepd\b", command)]


def descendants(pids: list[int]) -> list[int]:
    """These processes and all that they started."""
    parents = {pid: parent for pid, parent, _ in processes()}
    found = list(pids)
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


if __name__ == "__main__":
    action, folder = sys.argv[1:]
    if action == "start" and (reason := obstacle()):
        raise SystemExit(reason)
    getattr(Cluster(Path(folder).resolve()), action)()
