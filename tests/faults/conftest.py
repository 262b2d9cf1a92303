"""The undisturbed study, made once for each process of the tests."""

import time

import pytest
from harness import copy_project, digests, mini_study, write_models
from undisturbed import SECRETS, STUDY, TARGETS, Finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    project = copy_project(tmp_path_factory.mktemp("finished"))
    write_models(project)
    project.edit("mini.yaml", mini_study)
    started = time.monotonic()
    result = project.run("--cores", "1", *TARGETS, *STUDY, environment=SECRETS)
    assert result.returncode == 0, result.stdout
    return Finished(project, digests(project.folder / "results/mini"), time.monotonic() - started)
