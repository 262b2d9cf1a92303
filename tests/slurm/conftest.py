"""A SLURM cluster for all tests of this folder; where it cannot be started, they are skipped and say why."""

import os

import pytest
from cluster import Cluster, obstacle


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    reason = obstacle()
    if reason and os.environ.get("HISTOPROMPT_REQUIRE_SLURM"):
        pytest.fail(f"HISTOPROMPT_REQUIRE_SLURM is set, but {reason}")
    if reason:
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
