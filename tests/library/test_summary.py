"""The tables at the end: every value where it belongs, what is undefined explained."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histoprompt.errors import InputError
from histoprompt.intervals import mean_interval
from histoprompt.summary import summarise_replicates, summarise_study


def cell(value: float | None, reason: str = "") -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "reason": reason}
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def metrics_file(folder: Path, name: str, value: float, *, fd: float | None = None) -> Path:
    encoder = {"dimension": 8, "k": 5, "n": 1000, "reference": 1900}
    encoder |= {metric: cell(value + i / 10) for i, metric in enumerate(("precision", "recall", "density", "coverage"))}
    resnet = encoder | {"fd": cell(fd, "too few images"), "kd": cell(0.2)}
    content = {
        "name": name,
        "images": 1000,
        "reference": 1900,
        "sizes": {"patch": 96, "generator": 512},
        "protocols": {
            "matched": {"dino": encoder | {"fd": cell(10 * value), "kd": cell(value / 10)}, "resnet": resnet},
            "paper": {"dino": encoder | {"fd": cell(50 * value), "kd": cell(value)}, "resnet": {"same_as": "matched"} | resnet},
        },
        "morphology_encoder": "dino",
        "prompt_fidelity": cell(value),
        "seed": 3,
        "subsamples": 20,
        "interval": "half-samples",
    }
    path = folder / f"{name}.metrics.json"
    path.write_text(json.dumps(content))
    return path


def classifier_file(folder: Path, mix: str, auc: float, seeds: Sequence[int] = (7,)) -> Path:
    content = {
        "mix": mix,
        "size": 96,
        "auc": cell(auc) | {"interval": "DeLong"},
        "auc_over_seeds": {"values": {}, "low": auc - 0.05, "high": auc + 0.05},
        "seeds": seeds,
        "train": {"images": 1000},
        "test": {"images": 2000},
        "settings": {"model": "small_cnn", "steps": 150},
    }
    path = folder / f"{mix}.classifier.json"
    path.write_text(json.dumps(content))
    return path


def copies_file(folder: Path, name: str, near: float) -> Path:
    content = {"name": name, "encoder": "dino", "train": 1600, "authentic": cell(1 - near), "near_copies": cell(near)}
    path = folder / f"{name}.copies.json"
    path.write_text(json.dumps(content | {"authentic_held_out": cell(0.55)}))
    return path


@pytest.fixture
def page(tmp_path: Path) -> tuple[list[dict[str, str]], str]:
    names = ["label", "morphology", "vae", "real", "resampled"]
    metrics = [metrics_file(tmp_path, name, 0.1 * i, fd=None if name == "vae" else 30.0) for i, name in enumerate(names)]
    mixes = {"real": 0.9, "label": 0.7, "real+label": 0.92, "morphology": 0.8, "real+morphology": 0.93}
    classifiers = [classifier_file(tmp_path, mix, auc) for mix, auc in mixes.items()]
    copies = [copies_file(tmp_path, name, near) for name, near in (("real", 1.0), ("label", 0.012))]
    summarise_study(
        metrics,
        classifiers,
        copies,
        tmp_path / "s.csv",
        tmp_path / "s.md",
        study="demo",
        titles={"label": "label: the baseline"},
    )
    with open(tmp_path / "s.csv") as stream:
        return list(csv.DictReader(stream)), (tmp_path / "s.md").read_text()


def test_floors_come_first_then_arms_in_their_order(page: tuple[list[dict[str, str]], str]) -> None:
    rows, _ = page
    assert [row["name"] for row in rows] == ["real", "resampled", "vae", "label", "morphology"]


def test_only_inception_gives_a_fid_and_only_clip_a_cmmd(tmp_path: Path) -> None:
    files = [metrics_file(tmp_path, name, 0.5) for name in ("real", "label")]
    for file in files:
        report = json.loads(file.read_text())
        distances = {metric: cell(None, "no weights") for metric in ("fd", "kd")}
        matched = report["protocols"]["matched"]
        matched["inception"] = matched["dino"] | {"kind": "inception"} | distances
        matched["clip"] = matched["dino"] | {"kind": "clip", "cmmd": cell(0.25)}
        file.write_text(json.dumps(report))
    summarise_study(files, [], [], tmp_path / "s.csv", tmp_path / "s.md", study="demo", titles={})
    columns = pd.read_csv(tmp_path / "s.csv").columns
    assert {"FID-inception matched", "KID-inception matched", "FD-clip matched", "CMMD-clip matched"} <= set(columns)
    assert not {f"{name} matched" for name in ("FD-inception", "KD-inception", "FID-clip", "CMMD-dino")} & set(columns)
    text = (tmp_path / "s.md").read_text()
    words = " ".join(text.split())
    assert "- real, label; FID-inception matched, KID-inception matched: no weights" in words
    assert "| FID | KID | precision |" in words and "| KD-clip | CMMD | precision |" in words
    assert "FID and KID are those of clean-fid's Inception. CMMD is that of CLIP" in words and "no FID" not in words


def test_an_arm_with_a_title_is_called_by_it(page: tuple[list[dict[str, str]], str]) -> None:
    rows, text = page
    assert text.count("| label: the baseline ") == 4 and "| morphology " in text
    assert rows[3]["name"] == "label"


def test_several_classifier_seeds_have_an_interval_of_their_own(tmp_path: Path) -> None:
    metrics = [metrics_file(tmp_path, name, 0.1) for name in ("real", "label")]
    mixes = {"real": 0.9, "label": 0.7, "real+label": 0.92}
    classifiers = [classifier_file(tmp_path, mix, auc, seeds=[1, 2, 3]) for mix, auc in mixes.items()]
    summarise_study(metrics, classifiers, [], tmp_path / "s.csv", tmp_path / "s.md", study="demo", titles={})
    label = pd.read_csv(tmp_path / "s.csv").set_index("name").loc["label"]
    assert (label["AUC alone low"], label["AUC alone over seeds low"]) == pytest.approx((0.69, 0.65))
    text = (tmp_path / "s.md").read_text()
    assert "AUC with real over seeds" in text and "means of 3 seeds" in " ".join(text.split())


def test_every_value_stands_in_its_column(page: tuple[list[dict[str, str]], str]) -> None:
    rows, _ = page
    real, _, vae, label, morphology = rows
    assert float(morphology["FD-dino matched"]) == pytest.approx(1.0)
    assert float(morphology["FD-dino matched low"]) == pytest.approx(0.99)
    assert float(morphology["FD-dino paper"]) == pytest.approx(5.0)
    assert float(morphology["recall-resnet matched"]) == pytest.approx(0.2)
    assert (morphology["AUC alone"], morphology["AUC with real"], morphology["images"]) == ("0.8", "0.93", "1000")
    assert real["AUC alone"] == "0.9" and real["AUC with real"] == "" and vae["AUC alone"] == ""
    assert (real["near copies"], label["near copies"], morphology["near copies"]) == ("1.0", "0.012", "")
    assert vae["FD-resnet matched"] == "" and "FD-resnet matched: too few images" in vae["notes"]
    assert not any(column.startswith("FID") for column in real)


def test_the_page_reads_in_a_terminal(page: tuple[list[dict[str, str]], str]) -> None:
    _, text = page
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4 and all(len({len(line) for line in table}) == 1 for table in tables)
    assert "0.200 [0.190, 0.210]" in text and "- vae; FD-resnet matched" in text and ": too few images" in text
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [
        "### Protocol `matched`",
        "### Protocol `paper`",
        "### Protocols `matched` and `paper`: the encoder sees the same pixels",
    ]
    text = " ".join(text.split())
    for part in (
        "1900 held-out",
        "k = 5",
        "half-samples",
        "circular",
        "independent",
        "floor",
        "seed 3",
        "DeLong",
        "150 steps at 96 px",
        "1600 training",
        "held-out patches: 0.550",
        "averaged over areas to 96 px",
        "real patches at 96 px and synthetic images at the generator's 512 px",
        "made by resampling alone",
    ):
        assert part in text


def test_replicates_show_every_value_and_paired_differences(tmp_path: Path) -> None:
    base = {"label": [0.50, 0.60, 0.55], "morphology": [0.52, 0.61, 0.59]}
    metrics = [metrics_file(tmp_path, f"{arm}-seed{s}", v[s - 1], fd=5.0) for arm, v in base.items() for s in (1, 2, 3)]
    classifiers = [classifier_file(tmp_path, f"{arm}-seed{s}", v[s - 1]) for arm, v in base.items() for s in (1, 2, 3)]
    made = tmp_path / "r.csv", tmp_path / "r.md"
    summarise_replicates(metrics, classifiers, *made, arms=["label", "morphology"], seeds=[1, 2, 3], recluster=True)
    table = pd.read_csv(tmp_path / "r.csv")
    assert len(table) == 2 * 3 * 26 and list(table.columns) == ["arm", "seed", "metric", "value", "low", "high", "reason"]
    found = table[(table.metric == "AUC alone") & (table.arm == "morphology")].sort_values("seed")
    assert found.value.tolist() == base["morphology"]
    text = (tmp_path / "r.md").read_text()
    assert "one seed of clusters, of training images, of fine-tuning and of noise" in text
    low, high = mean_interval(np.subtract(base["morphology"], base["label"]))
    row = next(line for line in text.split("## AUC alone")[1].splitlines() if line.startswith("| morphology"))
    cells = [part.strip() for part in row.strip("|").split("|")]
    assert "## FD-dino paper" in text and "As FD-resnet matched: the encoder sees the same pixels" in text
    assert cells == ["morphology", "0.520", "0.610", "0.590", "0.573", f"+0.023 [{low:+.3f}, {high:+.3f}]", "0 / 3 of 3"]
    assert "0 / 0 of 3" in text.split("## FD-resnet matched")[1] and "lower is better" in text and "circular" in text


def test_replicates_without_a_baseline_or_with_undefined_values(tmp_path: Path) -> None:
    files = [metrics_file(tmp_path, f"{arm}-seed{s}", 0.5, fd=None) for arm in ("a", "b") for s in (1, 2)]
    summarise_replicates(files, [], tmp_path / "r.csv", tmp_path / "r.md", arms=["a", "b"], seeds=[1, 2], recluster=False)
    text = (tmp_path / "r.md").read_text()
    assert "one seed of fine-tuning and" in text and "All have the same clusters" in text
    assert "too few images" in (tmp_path / "r.csv").read_text() and "–" in text and "Differences" not in text


def test_a_missing_replicate_is_named(tmp_path: Path) -> None:
    files = [metrics_file(tmp_path, "label-seed1", 0.5)]
    with pytest.raises(InputError, match="label-seed2"):
        summarise_replicates(files, [], tmp_path / "r.csv", tmp_path / "r.md", arms=["label"], seeds=[1, 2], recluster=True)
