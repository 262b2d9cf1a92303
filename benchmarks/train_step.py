"""Our fine-tuning against diffusers' example script: same model, images, batch, precision and device.

    python benchmarks/train_step.py --peer PATH/train_text_to_image.py [--model FOLDER --resolution 256 --batch-size 1 …]

The script is `examples/text_to_image/train_text_to_image.py` of the diffusers repository. Both run as processes of their own,
with few steps and with more; the difference is steps alone, without imports, loading and saving. Ours has encoded the images
before, once for all arms; what that took is said beside the ratio.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from measuring import ROOT, in_turn, options_of, rate_of, report, stage_command, write_phantom
from PIL import Image


def main() -> None:
    """Measure and print."""
    parser = options_of(__doc__, model="diffusion", batch_size=32)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--patches", type=int, default=64, help="phantom patches to train on")
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 16), help="few and more")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Prepare phantom patches for both, then let them take turns."""
    from histoprompt.files import seal
    from histoprompt.latents import encode_latents

    write_phantom(folder, options.patches)
    images = prepare(folder)
    started = time.perf_counter()
    encode_latents(
        [folder / "train.h5"],
        [folder / "prompts.csv"],
        [folder / "latents.npy"],
        [folder / "rows.csv"],
        model=options.model,
        revision=None,
        resolution=options.resolution,
        flip=False,
        batch_size=min(16, options.batch_size),
        device=options.device,
        threads=options.threads,
    )
    encoding = time.perf_counter() - started
    seal(folder / "latents.npy")

    def rate(command_of) -> float:
        return rate_of(lambda steps: command_of(options, folder, steps), options.steps, options.batch_size, options.threads)

    found = in_turn(
        {"histoprompt": lambda: rate(our_command), "train_text_to_image.py": lambda: rate(their_command)},
        options.rounds,
    )
    report(
        f"training step, {options.model.name}, {options.resolution} px, batch {options.batch_size}, {options.precision}",
        found,
        [
            f"encoded before, once: {len(images)} images in {encoding:.1f} s ({encoding / len(images):.3f} s each)",
            f"threads: {options.threads}; gradient checkpointing: {options.gradient_checkpointing}",
        ],
    )


def prepare(folder: Path) -> list[Path]:
    """The patches as an image folder with captions, and as the tables that our stages read."""
    import pandas as pd

    from histoprompt.patches import PatchFile

    (folder / "images").mkdir()
    with PatchFile(folder / "train.h5") as patches:
        pixels, labels = patches.read(0, len(patches)), patches.labels
    captions = [f"Histology image of {'cancer' if label else 'healthy'} tissue" for label in labels]
    images = []
    for number, image in enumerate(pixels):
        images.append(folder / f"images/{number:03d}.png")
        Image.fromarray(image).save(images[-1])
    lines = [json.dumps({"file_name": image.name, "text": text}) for image, text in zip(images, captions, strict=True)]
    (folder / "images/metadata.jsonl").write_text("\n".join(lines))
    rows = np.arange(len(images))
    pd.DataFrame({"row": rows, "prompt": captions}).to_csv(folder / "prompts.csv", index=False)
    pd.DataFrame({"row": rows[:1], "prompt": captions[:1]}).to_csv(folder / "valid.csv", index=False)
    return images


def our_command(options: argparse.Namespace, folder: Path, steps: int) -> list[str]:
    """A fine-tuning with the settings of the peer, which has neither EMA nor validation nor grids by default."""
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())["generator"]["finetune"]
    settings |= {"steps": steps, "batch_size": options.batch_size, "precision": options.precision, "learning_rate": 1e-6}
    settings |= {"schedule": "constant", "warmup_steps": 0, "ema_decay": None, "caption_dropout": 0.0}
    settings |= {"gradient_checkpointing": options.gradient_checkpointing}
    settings |= dict.fromkeys(("validate_every", "grid_every", "save_every"), 10**9)
    out = folder / f"ours-{time.monotonic_ns()}"
    tables = [folder / name for name in ("prompts.csv", "valid.csv", "latents.npy", "rows.csv", "latents.npy", "rows.csv")]
    outputs = [out / name for name in ("manifest.json", "history.csv", "training.png", "timing.json")]
    keywords = {"model": str(options.model), "revision": None, "settings": settings, "seed": 1, "device": options.device}
    keywords |= {"state_folder": str(out / "state"), "board_folder": None, "threads": options.threads}
    return stage_command("histoprompt.finetune", "finetune_diffusion", [*tables, *outputs], keywords)


def their_command(options: argparse.Namespace, folder: Path, steps: int) -> list[str]:
    """The peer as its documentation runs it."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes=1",
        "--num_machines=1",
        "--dynamo_backend=no",
    ]
    launch += [f"--mixed_precision={options.precision}", f"--num_cpu_threads_per_process={options.threads}"]
    launch += ["--cpu"] if options.device == "cpu" else []
    words = [*launch, str(options.peer), f"--pretrained_model_name_or_path={options.model}"]
    words += [f"--train_data_dir={folder / 'images'}", "--image_column=image", "--caption_column=text"]
    words += [f"--resolution={options.resolution}", f"--train_batch_size={options.batch_size}", f"--max_train_steps={steps}"]
    words += [f"--mixed_precision={options.precision}", "--learning_rate=1e-6", "--lr_scheduler=constant", "--seed=1"]
    words += ["--checkpointing_steps=1000000", f"--output_dir={folder / 'theirs'}", f"--cache_dir={folder / 'cache'}"]
    # It knows no model that predicts images; what is predicted does not change the work.
    words += ["--prediction_type=epsilon"]
    return words + (["--gradient_checkpointing"] if options.gradient_checkpointing else [])


if __name__ == "__main__":
    main()
