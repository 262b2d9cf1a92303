"""Our sampling against a plain loop over `StableDiffusionPipeline`: same model, prompts, steps, scheduler, precision, batch.

    python benchmarks/sampling.py [--model FOLDER --resolution 96 --steps 8 --scheduler dpm++ --dtype bfloat16 …]

Both write PNGs. Each is run with few images and with more; the difference is images alone, without loading.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from measuring import in_turn, options_of, rate_of, report, stage_command

THEIRS = """
import json, sys
from pathlib import Path
import torch
from diffusers import StableDiffusionPipeline
from histoprompt.diffusion import scheduler_config
from histoprompt.sampling import make_scheduler
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
pipeline = StableDiffusionPipeline.from_pretrained(job["model"], torch_dtype=getattr(torch, job["dtype"]), safety_checker=None)
pipeline.scheduler = make_scheduler(job["scheduler"], scheduler_config(job["model"]))
pipeline.to(job["device"]).set_progress_bar_config(disable=True)
Path(job["out"]).mkdir(parents=True)
for start in range(0, job["images"], job["batch_size"]):
    prompts = [f"Histology image of {'cancer' if n % 2 else 'healthy'} tissue" for n in range(start, start + job["batch_size"])]
    made = pipeline(prompts, num_inference_steps=job["steps"], guidance_scale=job["guidance"],
                    height=job["resolution"], width=job["resolution"], generator=torch.Generator().manual_seed(start))
    for number, image in enumerate(made.images, start):
        image.save(Path(job["out"]) / f"{number:06d}.png")
"""


def main() -> None:
    """Measure and print."""
    parser = options_of(__doc__, model="diffusion", batch_size=50)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--batches", type=int, nargs=2, default=(1, 4), help="few and more")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--scheduler", choices=["dpm++", "unipc", "ddim", "pndm"], default="dpm++")
    parser.add_argument("--compile", action="store_true", help="ours; the plain pipeline stays plain")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = in_turn(
            {
                "histoprompt": lambda: rate(options, our_command, Path(folder)),
                "StableDiffusionPipeline": lambda: rate(options, their_command, Path(folder)),
            },
            options.rounds,
        )
    title = f"sampling, {options.model.name}, {options.resolution} px, {options.steps} steps of {options.scheduler}"
    notes = [f"guidance {options.guidance}, {options.dtype}, batch {options.batch_size}, threads: {options.threads}"]
    report(title, found, notes)


def rate(options: argparse.Namespace, command_of, folder: Path) -> float:
    """Images a second."""
    size = options.batch_size
    return rate_of(lambda batches: command_of(options, batches * size, folder), options.batches, size, options.threads)


def our_command(options: argparse.Namespace, images: int, folder: Path) -> list[str]:
    """One shard of images from the base model."""
    out = folder / f"ours-{time.monotonic_ns()}"
    out.mkdir()
    lines = [f"{n},{n % 2},0,Histology image of {'cancer' if n % 2 else 'healthy'} tissue" for n in range(images)]
    (out / "prompts.csv").write_text("\n".join(["number,label,cluster,prompt", *lines]))
    settings = {"images": images, "steps": options.steps, "guidance": options.guidance, "scheduler": options.scheduler}
    settings |= {"batch_size": options.batch_size, "dtype": options.dtype, "compile": options.compile}
    keywords = {"model": str(options.model), "revision": None, "settings": settings, "seed": 1}
    keywords |= {"device": options.device, "threads": options.threads, "resolution": options.resolution}
    paths = [str(out / "prompts.csv"), None, str(out / "manifest.csv"), str(out / "timing.json")]
    return stage_command("histoprompt.sampling", "generate_images", paths, keywords)


def their_command(options: argparse.Namespace, images: int, folder: Path) -> list[str]:
    """The pipeline as its documentation uses it, with the same scheduler."""
    job = {name: getattr(options, name) for name in ("steps", "guidance", "scheduler", "batch_size", "dtype", "device")}
    job |= {"model": str(options.model), "resolution": options.resolution, "threads": options.threads, "images": images}
    return [sys.executable, "-c", THEIRS, json.dumps(job | {"out": str(folder / f"theirs-{time.monotonic_ns()}")})]


if __name__ == "__main__":
    main()
