"""Snakemake that looks at its SLURM jobs every second, so that tests are short: `python polling.py ARGUMENTS`."""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = second
    main(sys.argv[1:])
