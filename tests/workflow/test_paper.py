"""The paper's study, with small stand-ins for what no test can have: its models, its data, its size."""

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from harness import ROOT, copy_project, write_models


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("project"))
    write_models(project)
    root = project.folder / "pcam"
    root.mkdir()
    generator = np.random.default_rng(0)
    for split, count in (("train", 120), ("valid", 40), ("test", 48)):
        coarse = generator.integers(0, 256, (count, 12, 12, 3))
        for part, values in (
            ("x", np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)),
            ("y", (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)),
        ):
            with h5py.File(root / f"camelyonpatch_level_2_split_{split}_{part}.h5", "w") as file:
                file[part] = values
    return project


def stand_ins(config):
    """Small models and a small PCam by path, small numbers, and a CPU, which knows no fp16; all else is the paper's."""
    config["data"]["root"] = "pcam"
    for encoder in config["encoders"].values():
        if encoder["kind"] != "inception":
            encoder |= {"kind": "transformers", "model": "models/encoder", "revision": None}
    config["generator"] |= {"model": "models/pipeline", "revision": None, "resolution": config["generator"]["resolution"] // 16}
    numbers = {"steps": 6, "batch_size": 4, "validate_every": 3, "grid_every": 3, "save_every": 3}
    config["generator"]["finetune"] |= {**numbers, "precision": "bf16"}
    config["generator"]["sampling"] |= {"images": 20, "steps": 3, "batch_size": 10}
    config["morphology"] |= {"k": 3, "sweep": [2, 3], "silhouette_sample": 50}
    config["subset"] = {"train": 40, "valid": 12, "min_prompts_per_label": 1}
    config["outliers"] = dict.fromkeys(config["outliers"], 0)
    config["evaluation"]["subsamples"] = 4
    config["classifier"] |= {"steps": 2, "batch_size": 4}
    config["threads"] = 1
    config["shards"] = {"patches": 2, "images": 1}
    # The others are made by the same jobs.
    config["arms"] = {name: config["arms"][name] for name in ("pretrained", "morphology")}
    config["replicates"]["arms"] = []
    config["ablations"] = {}
    config["reader_study"] |= {"arms": ["morphology"], "images": 8, "blocks": 2, "repeats": 2, "training": 2}
    config["learning_curve"] |= {"arms": ["morphology"], "real": [10]}


@pytest.mark.slow
def test_the_papers_study_runs_to_its_end(project):
    study = project.edit("small.yaml", stand_ins, study="config/pcam.yaml")
    result = project.run("--cores", "2", "--configfile", study)
    assert result.returncode == 0, result.stdout
    summary = pd.read_csv(project.folder / "results/pcam/summary.csv")
    assert summary["name"].tolist() == ["real", "resampled", "vae", "pretrained", "morphology"]
    assert {"FD-dino matched", "FD-dinov2 paper", "AUC with real"} <= set(summary.columns)
    assert summary["FID-inception matched"].isna().all()
    assert summary["notes"].str.contains("FID-inception matched: no file").all()


def test_the_256_pixel_study_differs_by_its_resolution_alone():
    paper, small = (yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()) for name in ("pcam", "pcam_256"))
    small["study"], small["generator"]["resolution"] = paper["study"], paper["generator"]["resolution"]
    assert small == paper
