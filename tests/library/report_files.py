"""Files of a judged study, small and without any model; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

SHA = "a" * 64
FINETUNE = {"steps": 200, "batch_size": 32, "accumulation": 1, "learning_rate": 1.0e-3}


def arm(name: str, prompts: str, *, tuned: bool = True, title: str | None = None) -> dict[str, Any]:
    """`config.arm_settings` of an arm, as far as it is shown."""
    return {
        "model": name,
        "prompts": prompts,
        "encoder": "dino",
        "k": 3,
        "finetune": FINETUNE if tuned else None,
        "sampling": {"steps": 8, "guidance": 2.0, "scheduler": "unipc"},
        "seed": 5,
        "title": title,
    }


ARMS = {
    "pretrained": arm("pretrained", "label", tuned=False, title="untuned base"),
    "label": arm("label", "label"),
    "morphology": arm("morphology", "morphology"),
    "shuffled": arm("shuffled", "shuffled"),
}
# Fréchet distances that part: morphology beats label and shuffled, which cannot be told apart, and pretrained is worse.
DISTANCES = {"real": 0.5, "vae": 0.6, "pretrained": 18.0, "label": 2.3, "morphology": 1.2, "shuffled": 2.4}


def cell(value: float | None, reach: float = 0.3, reason: str = "no file of weights") -> dict[str, Any]:
    """A cell with its interval; undefined for a reason where there is no value."""
    if value is None:
        return {"value": None, "low": None, "high": None, "reason": reason}
    return {"value": value, "low": value - reach, "high": value + reach}


def write_judged_study(
    folder: Path,
    *,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    classes: Sequence[str] = ("healthy", "cancer"),
    distances: Mapping[str, float | None] = DISTANCES,
    study: str = "tiny",
    prompt: str = "{label} tissue",
) -> dict[str, Any]:
    """Write what the report reads; returns its arguments beyond the paths."""
    images = ["real", "vae", *arms]
    mixes = ["real", *(mix for name in arms for mix in (name, f"real+{name}"))]
    tuned = [name for name, settings in arms.items() if settings["finetune"]]
    for split, patches in (("train", 4000), ("valid", 600), ("test", 2000)):
        rows = [("all", "all", patches, 12), *(("label", word, patches // len(classes), 4) for word in classes)]
        rows += [("reason", "value_mean_below", patches, 0), ("reason", "hue_std_below", patches, 12)]
        _csv(folder / f"patches/{split}.dropped.csv", pd.DataFrame(rows, columns=["group", "name", "patches", "dropped"]))
    _json(folder / "clusters/dino/k3/quality.json", {"test": {"nmi_morphology": None, "nmi_slide": 0.02}})
    _json(folder / "samples/vae.json", {"psnr_mean": 30.9})
    for name in images:
        value = distances[name]
        encoder = {"kind": "transformers", "k": 5, "fd": cell(value), "kd": cell(None if value is None else value / 10)}
        encoder |= {metric: cell(0.8, 0.1) for metric in ("precision", "recall", "density", "coverage")}
        matched = {"dino": encoder, "resnet": encoder | {"fd": cell(None if value is None else 10 * value, 3.0)}}
        report = {
            "name": name,
            "images": 1000,
            "reference": 1982,
            "protocols": {"matched": matched, "paper": {key: value | {"same_as": "matched"} for key, value in matched.items()}},
            "morphology_encoder": "dino",
            "prompt_fidelity": cell(0.2, 0.05),
            "subsamples": 20,
            "interval": "95 % interval of the value at this N: Student's t",
        }
        _json(folder / f"metrics/{name}.json", report)
        found = {"authentic": cell(0.6, 0.03), "near_copies": cell(0.003, 0.001), "near_copies_held_out": 0.01}
        _json(folder / f"copies/{name}.json", found | {"authentic_held_out": cell(0.57, 0.02)})
        picture(folder / f"copies/{name}.png")
    for mix in mixes:
        _json(folder / f"classifier/{mix}.json", {"mix": mix, "auc": cell(0.8, 0.02), "seeds": [5]})
    for name in arms:
        labels = np.arange(20) % len(classes)
        table = pd.DataFrame({"label": labels, "cluster": labels, "prompt": [prompt.format(label=classes[i]) for i in labels]})
        _csv(folder / f"prompts/{name}.generate.csv", table)
        _csv(folder / f"prompts/{name}.train.csv", table)
        _csv(folder / f"samples/{name}.csv", table.assign(file=[f"{name}/{i % 2 + 1}-of-2/images/{i}.png" for i in range(20)]))
        _csv(folder / f"samples/{name}/dataset/metadata.csv", table.assign(**{"class": [classes[i] for i in labels]}))
        # That of one shard is stale: these images were sampled in two.
        for shard, seconds in {"1-of-2": 95.5, "2-of-2": 95.9, "1-of-1": 400.0}.items():
            _json(folder / f"samples/{name}/{shard}/timing.json", {"seconds": seconds, "device": "CPU, 1 threads"})
    for name in tuned:
        manifest = {"seed": 5, "steps": 200, "settings": FINETUNE, "base": {"unet": "b", "vae": SHA}}
        _json(folder / f"models/{name}/manifest.json", manifest | {"pipeline": {"unet": SHA, "vae": SHA}})
        _json(folder / f"models/{name}/timing.json", {"seconds": 124.0})
        history = pd.DataFrame({"step": [10, 20], "loss": [0.3, 0.2], "valid_right": [None, 0.18]})
        _csv(folder / f"models/{name}/history.csv", history.assign(valid_shuffled=[None, 0.2], valid_empty=[None, 0.19]))
        picture(folder / f"models/{name}/training.png")
    for file in ("figures/arms", "figures/coverage", "figures/reliability", "clusters/dino/sweep", "clusters/dino/k3/atlas"):
        picture(folder / f"{file}.png", width=900)
    for file in ("readers", "kappa", "patches"):
        picture(folder / f"reader_study/simulated_analysis/figures/{file}.png", width=900)
    text = "# SIMULATED READERS\n\n## In plain words\n\n- Nobody.\n\n## Each\n\n| reader | found |\n|---|--:|\n| one | 0.5 |\n"
    (folder / "reader_study/simulated_analysis/analysis.md").write_text(text)
    benchmark = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    rows = {"draw_arms.tsv": "1.5\t0:00:01\t120.5\t1\t1\t1\t0\t0\t90\t1.25", "train/a.tsv": "-\t-\tNA" + 7 * "\t-"}
    for name, row in rows.items():
        (folder / "benchmarks" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "benchmarks" / name).write_text(benchmark + row + "\n")
    return {
        "study": study,
        "seed": 5,
        "source": "folders",
        "sizes": {"patch": 96, "generator": 96},
        "morphology": {"encoder": "dino", "k": 3},
        "arms": arms,
        "images": images,
        "mixes": mixes,
        "models": [
            {"name": "generator", "use": "base", "model": "resources/base", "revision": None, "digest": SHA, "missing": None},
            {"name": "inception", "use": "evaluation", "model": "x.pt", "revision": None, "digest": None, "missing": "no file"},
        ],
        "ablations": {"guidance": "Does guidance narrow it?"},
        "readers": "simulated_analysis",
        "descriptors": False,
        "on_request": [],
    }


def write_parts_on_request(folder: Path, ablation: str = "guidance") -> None:
    """Write the files that other targets make."""
    for file in ("figures/coverage_map", "figures/regions", "figures/learning_curve", f"ablations/{ablation}"):
        picture(folder / f"{file}.png", width=900)
    _csv(folder / "regions.csv", pd.DataFrame({"region": [1]}))
    (folder / "learning_curve.md").write_text("# Learning curves\n\n- **label**: worth **26** real ones.\n")
    table = "| arm | FD |\n|---|--:|\n| a | 1 |\n"
    (folder / f"ablations/{ablation}.md").write_text(f"# Ablation\n\n## In the space of `dino`\n\n{table}")
    (folder / "replicates.md").write_text("# 3 replicates\n\n## FD\n\n| FD | seed 1 |\n|---|--:|\n| label | 2.0 |\n")
    rows = [
        (name, seed, "FD-dino matched", value + seed / 10 * (name == "morphology"))
        for name, value in (("label", 2.0), ("morphology", 1.0), ("shuffled", 2.0))
        for seed in (1, 2, 3)
    ]
    _csv(folder / "replicates.csv", pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"]))


def picture(path: Path, *, width: int = 120, height: int = 60) -> None:
    """A file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _csv(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
