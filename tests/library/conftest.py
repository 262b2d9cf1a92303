"""Models that several test files share; nothing writes to them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny velocity-predicting pipeline."""
    from tiny import tiny_pipeline

    return tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "velocity")


@pytest.fixture(scope="session")
def noise_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny noise-predicting pipeline."""
    from tiny import tiny_pipeline

    return tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "noise", prediction_type="epsilon")
