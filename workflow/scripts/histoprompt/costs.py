"""What a study will cost, before anything of it is computed: arithmetic, time on a GPU, and room on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from histoprompt.diffusion import open_pipeline
from histoprompt.embedding import embed, load_encoder
from histoprompt.errors import InputError
from histoprompt.files import atomic
from histoprompt.job import duration, say
from histoprompt.markdown import markdown_table

CARDS = {"RTX 4090": 165.0, "A100": 312.0, "H100": 989.0}  # dense bfloat16 TFLOP/s with float32 sums, by their maker
UTILISATION = 0.4  # of that, where the arithmetic is dense; an assumption
_PATCHES = 100_000  # how many there are is known once they are imported


@dataclass(frozen=True)
class Generator:
    """Floating-point operations of a latent diffusion model, for one image, a multiplication and an addition being two.

    Attributes
    ----------
    forward, backward : of the U-Net; the backward pass of all its weights.
    encode, decode : of the autoencoder.
    parameters : of the U-Net.
    latents : numbers of an image's latents.
    """

    forward: float
    backward: float
    encode: float
    decode: float
    parameters: int
    latents: int


@dataclass(frozen=True)
class Stage:
    """One line of the estimate: `images` times `flop` operations."""

    name: str
    images: int
    flop: float


def count_flop(compute: Callable[[], Any]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in what `compute` does."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())


def count_generator(folder: Path, resolution: int, positions: int) -> Generator:
    """Count what the models of a pipeline folder compute for an image, from their configurations alone.

    Parameters
    ----------
    folder : a `StableDiffusionPipeline` folder.
    resolution : pixels a side.
    positions : tokens of a prompt.
    """
    configs = {part: json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae")}
    with torch.device("meta"):  # shapes without numbers: nothing is loaded and nothing is computed
        unet: Any = UNet2DConditionModel.from_config(configs["unet"])
        vae: Any = AutoencoderKL.from_config(configs["vae"])
        pixels = torch.empty(1, 3, resolution, resolution)
        with torch.no_grad():
            encode = count_flop(lambda: vae.encode(pixels))
            latents = vae.encode(pixels).latent_dist.mean
            decode = count_flop(lambda: vae.decode(latents))
            context = torch.empty(1, positions, unet.config.cross_attention_dim)
            forward = count_flop(lambda: unet(latents, torch.zeros(1), context))
        both = count_flop(lambda: unet(latents, torch.zeros(1), context).sample.sum().backward())
    parameters = sum(weight.numel() for weight in unet.parameters())
    return Generator(forward, both - forward, encode, decode, parameters, latents.numel())


def stages_of(
    generator: Generator,
    encoders: Mapping[str, float],
    arms: Mapping[str, Mapping[str, Any]],
    *,
    train: int,
    valid: int,
    sets: int,
) -> Iterator[Stage]:
    """What a study computes on a GPU.

    Parameters
    ----------
    encoders : name -> operations an image.
    arms : name -> its `finetune` (None: not trained) and `sampling` settings.
    train, valid : images of the balanced subset.
    sets : image sets besides the arms.
    """
    trained = {name: arm["finetune"] for name, arm in arms.items() if arm["finetune"] is not None}
    flipped = any(settings["flip"] for settings in trained.values())
    if trained:
        yield Stage("encode the subset", (train + valid) * (1 + flipped), generator.encode)
    for name, settings in trained.items():
        # Adapters need no gradients of the weights they adapt, and checkpointing repeats the forward pass.
        step = generator.forward * (1 + settings["gradient_checkpointing"])
        step += generator.backward * (0.5 if settings["lora"] else 1)
        yield Stage(f"train {name}", settings["steps"] * settings["batch_size"], step)
        validations = -(-settings["steps"] // settings["validate_every"]) + 1
        yield Stage(f"validate {name}", 3 * valid * validations, generator.forward)
    for name, arm in arms.items():
        sampling = arm["sampling"]
        calls = sampling["steps"] * (1 if sampling["guidance"] == 1 else 2)
        yield Stage(f"sample {name}", sampling["images"], calls * generator.forward + generator.decode)
    images = next(iter(arms.values()))["sampling"]["images"]
    yield Stage("autoencoder's own error", images, generator.encode + generator.decode)
    for name, flop in encoders.items():
        yield Stage(f"features, {name}", 2 * images * (sets + len(arms)), flop)
        yield Stage(f"each {_PATCHES:,} patches, {name}", _PATCHES, flop)


def disk_of(
    generator: Generator, arms: Mapping[str, Mapping[str, Any]], *, train: int, valid: int, resolution: int, patch_size: int
) -> dict[str, float]:
    """Bytes that a study takes at most, by what takes them; images as if PNG saved nothing."""
    trained = [arm["finetune"] for arm in arms.values() if arm["finetune"] is not None]
    weights = 4.0 * generator.parameters
    images = next(iter(arms.values()))["sampling"]["images"]
    views = 1 + any(settings["flip"] for settings in trained)
    return {
        "models of the arms": weights * len(trained),
        # Weights, two moments each and, where there is one, their average.
        "states to resume from, while arms train": sum(weights * (4 if settings["ema_decay"] else 3) for settings in trained),
        "latents of the subset, mean and variance in float16": 4.0 * (train + valid) * views * generator.latents,
        "images of the arms": 3.0 * len(arms) * images * (resolution**2 + patch_size**2),
    }


def estimate_cost(
    cost_md: str | Path,
    *,
    study: str,
    model: str | Path,
    revision: str | None,
    resolution: int,
    patch_size: int,
    encoders: Mapping[str, Mapping[str, Any]],
    arms: Mapping[str, Mapping[str, Any]],
    train: int,
    valid: int,
    sets: int,
) -> None:
    """Write, and say, what a study's stages on a GPU compute, how long some cards take for it, and what it leaves on the disk.

    Parameters
    ----------
    cost_md : written.
    study : its name.
    model, revision, resolution : of the generator.
    patch_size : pixels a side of a patch.
    encoders : name -> `kind`, `model` and `revision`.
    arms, train, valid, sets : as `stages_of`.

    Raises
    ------
    InputError : the generator is neither a folder nor a pinned hub model within reach. Encoders that are missing are left out,
        and the page says why.
    """
    pipeline = open_pipeline(model, revision)
    pipeline.latents_at(resolution)
    generator = count_generator(pipeline.folder, resolution, pipeline.positions)
    counted, left_out = {}, {}
    for name, encoder in encoders.items():
        try:
            counted[name] = _flop_of_encoder(encoder)
        except InputError as error:
            left_out[name] = error.found
    stages = list(stages_of(generator, counted, arms, train=train, valid=valid, sets=sets))
    disk = disk_of(generator, arms, train=train, valid=valid, resolution=resolution, patch_size=patch_size)
    page = _page(study, stages, disk, left_out)
    with atomic(cost_md) as temporary:
        temporary.write_text(page)
    say(page)


def _flop_of_encoder(encoder: Mapping[str, Any]) -> float:
    loaded = load_encoder(
        encoder["model"], encoder["revision"], kind=encoder["kind"], device=torch.device("cpu"), dtype="float32"
    )
    shape = (1, loaded.preprocessing.height, loaded.preprocessing.width, 3)
    return count_flop(lambda: embed(loaded, np.zeros(shape, np.uint8)))


def _page(study: str, stages: list[Stage], disk: Mapping[str, float], left_out: Mapping[str, str]) -> str:
    def seconds(flop: float) -> list[float]:
        return [flop / (rate * 1e12 * UTILISATION) for rate in CARDS.values()]

    def hours(flop: float) -> list[str]:
        return [f"{time / 3600:.2g}" for time in seconds(flop)]

    def work(stage: Stage) -> float:
        return stage.images * stage.flop

    rows = [
        [stage.name, f"{stage.images:,}", f"{stage.flop / 1e12:.3g}", f"{work(stage) / 1e15:.3g}", *hours(work(stage))]
        for stage in stages
    ]
    total = sum(map(work, stages))
    times = [f"{duration(time)} on one {card}" for card, time in zip(CARDS, seconds(total), strict=True)]
    rows.append(["all", "", "", f"{total / 1e15:.3g}", *hours(total)])
    head = ["stage", "images", "TFLOP an image", "PFLOP", *(f"hours, {card}" for card in CARDS)]
    room = [[name, f"{size / 2**30:.2f}"] for name, size in disk.items()]
    room.append(["all", f"{sum(disk.values()) / 2**30:.2f}"])
    missing = [f"- {name} is left out: {found}" for name, found in left_out.items()]
    return "\n".join(
        [
            f"# What study {study} will cost",
            "",
            f"In all {', or '.join(times)}; {sum(disk.values()) / 2**30:.1f} GiB of disk at most.",
            "",
            f"Planned, not measured: operations are counted on the models themselves; hours assume {UTILISATION:.0%} of a",
            "card's dense bfloat16 rate ("
            + ", ".join(f"{card} {rate:.0f} TFLOP/s" for card, rate in CARDS.items())
            + "). Classifiers,",
            "clustering and the reading of files are not in them.",
            "",
            *markdown_table(head, rows),
            "",
            *missing,
            *([""] if missing else []),
            "Room on the disk, at most, besides the patches:",
            "",
            *markdown_table(["what", "GiB"], room),
            "",
        ]
    )
