"""How much sooner our sampling reaches the Fréchet distance of many steps: same model, prompts and noise, fewer steps.

    python benchmarks/equal_quality.py results/demo --arm morphology [--reference ddim:50 --candidates unipc:8 unipc:12 …]

Takes an arm of a finished study. Every way samples all its images, from the same noise; the Fréchet distance is taken to the
study's held-out patches. The interval of a difference is that of paired half-samples: the same halves of image numbers and of
reference patches for both ways. Seconds are those of sampling and decoding, without loading the model.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import yaml
from measuring import ROOT, in_turn, report, seconds_of, stage_command

HALVES = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a finished study, its `config` being --config")
    parser.add_argument("--config", type=Path, default=ROOT / "config/config.yaml")
    parser.add_argument("--arm", default="morphology")
    parser.add_argument("--encoder", default="resnet")
    parser.add_argument("--reference", default="ddim:50", help="scheduler:steps")
    parser.add_argument("--candidates", nargs="+", default=["unipc:8", "unipc:12", "dpm++:12", "unipc:16"])
    parser.add_argument("--images", type=int, help="fewer than the arm has")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ways = [*options.candidates, options.reference]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = in_turn({way: lambda way=way: sample(options, way, folder / way) for way in ways}, options.rounds)
        notes = distances(options, {way: embed(options, folder / way) for way in ways})
    for way in options.candidates:
        rates = {way: found[way], options.reference: found[options.reference]}
        report(f"{options.study.name}, {options.arm}: {way} beside {options.reference}", rates, [notes[way]])


def sample(options: argparse.Namespace, way: str, folder: Path) -> float:
    """Images a second of one way; the images stay in its folder."""
    scheduler, steps = way.split(":")
    config = yaml.safe_load(options.config.read_text())
    generator = config["generator"]
    settings = generator["sampling"] | {"scheduler": scheduler, "steps": int(steps)}
    folder.mkdir(parents=True, exist_ok=True)
    prompts = (options.study / f"prompts/{options.arm}.generate.csv").read_text().splitlines()
    (folder / "prompts.csv").write_text("\n".join(prompts[: options.images + 1 if options.images else None]))
    paths = [folder / "prompts.csv", options.study / f"models/{options.arm}/manifest.json"]
    keywords = {"model": generator["model"], "revision": generator["revision"], "resolution": generator["resolution"]}
    keywords |= {"settings": settings, "seed": config["seed"]}
    keywords |= {"device": options.device, "threads": options.threads}
    outputs = [folder / "manifest.csv", folder / "timing.json"]
    seconds_of(stage_command("histoprompt.sampling", "generate_images", [*paths, *outputs], keywords), options.threads)
    return float(json.loads((folder / "timing.json").read_text())["images_per_second"])


def embed(options: argparse.Namespace, folder: Path) -> np.ndarray:
    """Features of the images of one way, at the patch size, as the study takes them."""
    config = yaml.safe_load(options.config.read_text())
    images = folder / "images.h5"
    paths = [
        [folder / "manifest.csv"],
        options.study / "patches/train.h5",
        images,
        folder / "images.csv",
        folder / "dataset/metadata.csv",
    ]
    size = {"patch_size": config["data"]["patch_size"]}
    seconds_of(stage_command("histoprompt.export", "export_dataset", paths, size), options.threads)
    keywords = config["encoders"][options.encoder] | {"device": options.device, "threads": options.threads}
    features = folder / "features.npy"
    seconds_of(stage_command("histoprompt.embedding", "embed_images", [images, features], keywords), options.threads)
    return np.load(features)


def distances(options: argparse.Namespace, features: dict[str, np.ndarray]) -> dict[str, str]:
    """Each candidate's Fréchet distance, and its paired difference from that of the reference."""
    from histoprompt.intervals import half_sample_interval, half_samples
    from histoprompt.metrics import frechet_distance, moments

    with (options.study / "patches/test.kept.csv").open() as file:
        kept = np.array([row["kept"] in ("1", "True") for row in csv.DictReader(file)])
    real = np.load(options.study / f"embeddings/{options.encoder}/test.npy")[kept]
    count = len(features[options.reference])
    halves = [
        (moments(real, rows), others)
        for rows, others in zip(
            half_samples(len(real), HALVES, seed=1, side=0), half_samples(count, HALVES, seed=1, side=1), strict=True
        )
    ]
    whole = moments(real)
    values = {way: frechet_distance(*whole, *moments(part)) for way, part in features.items()}
    of_halves = {
        way: np.array([frechet_distance(*half, *moments(part, rows)) for half, rows in halves])
        for way, part in features.items()
    }
    notes, base, of_reference = {}, values[options.reference], of_halves[options.reference]
    for way in options.candidates:
        gap = values[way] - base
        low, high = half_sample_interval(gap, of_halves[way] - of_reference, low=-np.inf)
        notes[way] = (
            f"FD-{options.encoder}: {way} {values[way]:.2f}, {options.reference} {base:.2f}, paired difference {gap:+.2f} "
            f"[{low:+.2f}, {high:+.2f}], {gap / base:+.1%} [{low / base:+.1%}, {high / base:+.1%}], N = {count}"
        )
    return notes


if __name__ == "__main__":
    main()
