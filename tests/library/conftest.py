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


@pytest.fixture(scope="session")
def image_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image-predicting pipeline."""
    from tiny import tiny_pipeline

    return tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "image", prediction_type="sample")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fine-tuning learns from: prompts and latents of 11 training and 5 validation images."""
    from runs import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning from its first step to its last."""
    from accelerate.state import AcceleratorState
    from runs import run

    out = run(inputs, pipeline_folder, tmp_path_factory.mktemp("undisturbed") / "arm")
    AcceleratorState._reset_state(reset_partial_state=True)
    return out
