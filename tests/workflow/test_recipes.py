"""The recipes of CONTRIBUTING.md: each patch applies to the project as it is, and does what is said of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT, copy_project
from PIL import Image

RECIPES = dict(re.findall(r"### An? ([\w ]+)\n.*?```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL))


@pytest.fixture
def patched(tmp_path):
    def apply(recipe):
        project = copy_project(tmp_path)
        result = subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=RECIPES[recipe], text=True, capture_output=True)
        assert result.returncode == 0, result.stderr
        return project

    return apply


def test_all_recipes_are_tested():
    assert set(RECIPES) == {"arm", "encoder", "metric", "data set"}


def test_an_arm(patched):
    jobs = patched("arm").planned()
    assert {"finetune_diffusion longer", "compute_metrics longer", "train_classifier real+longer"} <= jobs


def test_an_encoder(patched):
    jobs = patched("encoder").planned("results/demo/metrics/label.json")
    assert {"gather_features dinov2, label", "gather_features dinov2, test"} <= jobs
    assert not {job for job in jobs if job.startswith(("cluster_embeddings dinov2", "embed_images dinov2"))}


def test_a_metric(patched, tmp_path):
    patched("metric")
    program = """
import json, sys
import numpy as np
from histoprompt.metrics import compare_features
from histoprompt.summary import row_of
features = np.random.default_rng(0).normal(size=(2, 30, 4))
cells = compare_features(features[0] + 3, features[1], k=3, subsamples=4, seed=0)
row = row_of({"name": "arm", "protocols": {"matched": {"tiny": {"kind": "clip", **cells}}}, "prompt_fidelity": {}}, {})
print(json.dumps(row["distance of centres-tiny matched"]))
"""
    environment = {"PYTHONPATH": str(tmp_path / "workflow/scripts"), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["value"] == pytest.approx(6, abs=1)


def test_a_data_set(patched, tmp_path_factory):
    project, root = patched("data set"), tmp_path_factory.mktemp("patches")
    for tissue in ("stroma", "tumour"):
        (root / tissue).mkdir()
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / tissue / f"{number}.png")
    study = ("--configfile", "config/pcam_mini.yaml", "--config", f"data={{root: {root}}}")
    result = project.run("results/pcam_mini/patches/train.h5", "--cores", "1", *study)
    assert result.returncode == 0, result.stdout
    assert Path(project.folder / "results/pcam_mini/patches/train.csv").read_text().count("tumour") > 0
