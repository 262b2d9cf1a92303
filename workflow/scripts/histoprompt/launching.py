"""Several processes for one training, by `accelerate launch`."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histoprompt.errors import InputError
from histoprompt.files import atomic
from histoprompt.job import inside_job, job_environment


def run_stage(
    stage: Callable[..., None], *arguments: Any, processes: int, nodes: int, job_file: str | Path, **keywords: Any
) -> None:
    """Call a stage here, or in several processes that `accelerate launch` starts.

    Parameters
    ----------
    stage : a function of this library that uses `accelerate`; its arguments are JSON values and paths.
    processes : in all; one calls the stage in this process.
    nodes : machines of the SLURM allocation this runs in; every one starts an equal share of the processes.
    job_file : written for the processes, removed at the end.

    Raises
    ------
    SystemExit : the processes ended with an error, with their code; a SIGTERM was passed on to them before.
    InputError : the processes cannot be shared evenly among the nodes, or there is no SLURM allocation to find them in.
    """
    if processes == 1 and nodes == 1:
        stage(*arguments, **keywords)
        return
    if processes % nodes:
        raise InputError(
            "resources of the rule",
            found=f"{processes} processes on {nodes} nodes",
            expected="as many on every node",
            remedy="make `gpu` a multiple of `nodes` under `set-resources` of the profile",
        )
    job_file = Path(job_file)
    with atomic(job_file) as temporary:
        content = {"stage": [stage.__module__, stage.__qualname__], "arguments": arguments, "keywords": keywords}
        temporary.write_text(json.dumps(content, default=os.fspath))
    library = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
    environment = os.environ | job_environment() | {"PYTHONPATH": path}
    command = launch_command(processes, nodes, job_file, int(keywords.get("threads", 1)))
    process = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(signal.SIGTERM))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        job_file.unlink(missing_ok=True)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def launch_command(processes: int, nodes: int, job_file: Path, threads: int) -> list[str]:
    """The command that starts the processes; on several nodes one task a node, in the SLURM allocation this runs in."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
    launch += [f"--num_machines={nodes}", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += [f"--num_cpu_threads_per_process={threads}"]
    stage = ["--module", "histoprompt.launching", str(job_file)]
    if nodes == 1:
        return [*launch, "--main_process_port=0", *stage]
    if "SLURM_JOB_ID" not in os.environ:
        raise InputError(
            "resources of the rule",
            found=f"nodes: {nodes}, outside a SLURM job",
            expected="a SLURM job of as many nodes, from which the others can be reached",
            remedy="submit with `--workflow-profile profiles/slurm`, or set `nodes` to 1",
        )
    # The first process listens on this machine. Jobs that share it must not share its port.
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000
    launch += [f"--main_process_ip={socket.gethostname()}", f"--main_process_port={port}", "--machine_rank=$SLURM_NODEID"]
    # Where a task runs is known only there, so a shell puts it in.
    words = " ".join(word if word.endswith("$SLURM_NODEID") else shlex.quote(word) for word in [*launch, *stage])
    return ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "bash", "-c", f"exec {words}"]


def _process(job_file: str) -> None:
    """What each of the processes does."""
    job = json.loads(Path(job_file).read_text())
    module, name = job["stage"]
    with inside_job(speaks=os.environ.get("RANK", "0") == "0"):
        getattr(importlib.import_module(module), name)(*job["arguments"], **job["keywords"])


if __name__ == "__main__":
    _process(sys.argv[1])
