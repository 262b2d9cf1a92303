"""Sampling: image n is the same image whatever the shards, the order of the prompts and the number of workers."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from histoprompt.arrays import WHOLE, Shard
from histoprompt.devices import resolve_device
from histoprompt.diffusion import (
    Images,
    Pipeline,
    check_prompts,
    decode_latents,
    encode_prompts,
    load_unet,
    load_vae,
    open_pipeline,
    scheduler_config,
    timing_report,
)
from histoprompt.errors import InputError
from histoprompt.files import atomic, check_digest, read_csv, read_json, write_csv, write_json
from histoprompt.job import progress
from histoprompt.schedulers import check_scheduler

_COLUMNS = ("number", "label", "cluster", "prompt")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Few steps need the last of them to end at zero noise and the first to begin at the noisiest time: trailing spacing. DDIM and
# PNDM keep the base model's own spacing, since they are here to reproduce what others did.
_FEW_STEPS = {"solver_order": 2, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}
_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpm++": (DPMSolverMultistepScheduler, {**_FEW_STEPS, "algorithm_type": "dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, _FEW_STEPS),
    # Its default clips to [-1, 1], which is right for pixels and wrong for latents.
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
}


@dataclass(frozen=True)
class SamplingSettings:
    """The config's `generator.sampling`.

    Attributes
    ----------
    images : an arm.
    steps : of the scheduler.
    guidance : w of classifier-free guidance (Ho and Salimans 2022): empty + w * (prompt - empty); 1 is none.
    scheduler : `dpm++`, `unipc`, `ddim` or `pndm`.
    batch_size : images computed together, a constant of the study.
    dtype : of the U-Net and the autoencoder, `float32` or `bfloat16`; latents and scheduler stay in float32.
    compile : `torch.compile` the U-Net.
    """

    images: int
    steps: int
    guidance: float
    scheduler: str
    batch_size: int
    dtype: str
    compile: bool


def make_scheduler(name: str, base: Mapping[str, Any]) -> Any:
    """A scheduler by name, with the noise schedule and the prediction type of the base model's configuration.

    Raises
    ------
    InputError : an unknown name, or one that cannot follow the model's schedule.
    """
    check_scheduler(name, base)
    kind, changes = _SCHEDULERS[name]
    return kind.from_config(dict(base), **changes)


def image_seed(seed: int, number: int) -> int:
    """The seed of image `number`: 63 bits, from the arm's seed and the number alone."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def image_noise(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal noise from which the image of this seed (`image_seed`, or a manifest's `seed`) begins."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, np.float32)


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel, scheduler: Any, noise: Tensor, states: Tensor, empty: Tensor, *, steps: int, guidance: float
) -> Tensor:
    """Denoise a batch of latents, in the U-Net's scaling.

    Parameters
    ----------
    noise : standard normal, (n, z, h, w).
    states, empty : text states of each image's prompt (n, tokens, width) and of the empty prompt (1, tokens, width), in the
        U-Net's number format.
    guidance : 1 calls the U-Net on n inputs a step; anything else on 2n at once.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    latents: Tensor = noise * scheduler.init_noise_sigma
    guided = guidance != 1
    context = torch.cat([empty.expand_as(states), states]) if guided else states
    for moment in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, moment)
        guess = unet(noisy.to(states.dtype), moment, context, return_dict=False)[0].float()
        if guided:
            without, prompted = guess.chunk(2)
            guess = without + guidance * (prompted - without)
        latents = scheduler.step(guess, moment, latents, return_dict=False)[0]
    return latents


def generate_images(
    generate_csv: str | Path,
    manifest_json: str | Path | None,
    shard_csv: str | Path,
    timing_json: str | Path,
    *,
    model: str | Path,
    revision: str | None,
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    threads: int,
    resolution: int | None = None,
    shard: Shard = WHOLE,
) -> None:
    """Sample one shard of an arm's images as PNGs.

    Batches are fixed groups of consecutive numbers, b = number // batch_size, and shard s of S computes the batches with
    b % S == s, each image at place number % batch_size and absent images replaced. So no image depends on the shards.

    Parameters
    ----------
    generate_csv : `number,label,cluster,prompt`, in any order.
    manifest_json : of an arm's fine-tuned model, whose files are verified; None samples from the base model.
    shard_csv : written: `number,label,cluster,prompt,seed,file,sha256`; `file` is relative to this file's folder, which also
        receives the folder `images`. `seed` is what `image_noise` takes.
    timing_json : written: seconds, images a second, peak memory, device.
    model, revision : of the base model.
    settings : `SamplingSettings`.
    seed : of the arm.
    resolution : pixels a side; None is the model's own size.
    shard : s and S.

    Raises
    ------
    InputError : a model, prompt or setting cannot be used, or a fine-tuned model is not what its manifest says.
    """
    torch.set_num_threads(threads)
    options = SamplingSettings(**settings)
    place = resolve_device(device)
    table = _read_prompts(generate_csv)
    pipeline = open_pipeline(verify_model(manifest_json), None) if manifest_json else open_pipeline(model, revision)
    side = pipeline.latents_at(resolution) if resolution else pipeline.sample_size
    scheduler = make_scheduler(options.scheduler, scheduler_config(pipeline.folder))
    number, shards = shard
    own = table[table["number"] // options.batch_size % shards == number]
    prompts = sorted(set(own["prompt"]))
    check_prompts(pipeline, prompts)

    shard_csv = Path(shard_csv)
    started = time.perf_counter()
    with atomic(shard_csv.parent / "images") as folder, ThreadPoolExecutor(threads) as pool:
        folder.mkdir()
        made: list[tuple[int, str, Future[str]]] = []
        if len(own):
            sampler = _Sampler(pipeline, scheduler, options, prompts, side, place)
            groups = own.groupby(own["number"] // options.batch_size)
            for _, group in progress(groups, "sampling", total=groups.ngroups, unit="batch"):
                seeds = [image_seed(seed, int(number)) for number in group["number"]]
                images = sampler.sample(group["number"], group["prompt"], seeds)
                names = [f"{number:06d}.png" for number in group["number"]]
                for _, _, written in made[-options.batch_size :]:
                    written.result()  # one batch at most waits in memory; a full disk is noticed here
                sums = [pool.submit(_write_png, image, folder / name) for image, name in zip(images, names, strict=True)]
                made += zip(seeds, names, sums, strict=True)
        digests = [written.result() for _, _, written in made]
    result = own.assign(
        seed=pd.Series([seed_ for seed_, _, _ in made], own.index, dtype=np.int64),
        file=[f"images/{name}" for _, name, _ in made],
        sha256=digests,
    )
    write_json(timing_json, timing_report(time.perf_counter() - started, len(own), place))
    write_csv(shard_csv, result)


def verify_model(manifest_json: str | Path) -> Path:
    """The pipeline folder beside a fine-tuned model's manifest, once every file has the content that the manifest says.

    Raises
    ------
    InputError : names the file that is missing or has changed.
    """
    folder = Path(manifest_json).parent / "pipeline"
    for name, expected in dict(read_json(manifest_json)["pipeline"]).items():
        remedy = f"the model was changed after it was made: delete {manifest_json} and run the same command again"
        check_digest(folder / name, expected, by=manifest_json, remedy=remedy)
    return folder


class _Sampler:
    """A loaded generator."""

    def __init__(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        options: SamplingSettings,
        prompts: list[str],
        side: int,
        device: torch.device,
    ) -> None:
        self.pipeline, self.scheduler, self.options, self.device = pipeline, scheduler, options, device
        self.shape = (pipeline.latent_channels, side, side)
        self.states = encode_prompts(pipeline, ["", *prompts], device).to(_DTYPES[options.dtype])
        self.place_of = {prompt: i for i, prompt in enumerate(prompts, start=1)}
        parts: tuple[Any, Any] = load_unet(pipeline, device).eval(), load_vae(pipeline, device)
        self.unet, self.vae = (part.to(_DTYPES[options.dtype]) for part in parts)
        if options.compile:
            self.unet.compile()

    def sample(self, numbers: Iterable[int], prompts: Iterable[str], seeds: Iterable[int]) -> Images:
        """Images of one group, uint8 (n, R, R, 3), computed in a batch of the constant size."""
        size = self.options.batch_size
        places = [int(number) % size for number in numbers]
        noise = np.stack([image_noise(seed, self.shape) for seed in seeds])
        texts = np.array([self.place_of[prompt] for prompt in prompts])
        source = np.zeros(size, np.int64)
        source[places] = np.arange(len(places))
        latents = sample_latents(
            self.unet,
            self.scheduler,
            torch.from_numpy(noise[source]).to(self.device),
            self.states[torch.from_numpy(texts[source]).to(self.device)],
            self.states[:1],
            steps=self.options.steps,
            guidance=self.options.guidance,
        )
        return decode_latents(self.vae, latents / self.pipeline.scaling + self.pipeline.shift)[places]


def _read_prompts(path: str | Path) -> pd.DataFrame:
    table = read_csv(path, _COLUMNS)[list(_COLUMNS)]
    if not pd.api.types.is_integer_dtype(table["number"]) or table["number"].duplicated().any() or (table["number"] < 0).any():
        raise InputError(
            path,
            found="image numbers that are not whole, negative or repeated",
            expected="a number of its own for every image: 0, 1, 2, …",
            remedy="delete it and run the same command again, or correct the file if it is yours",
        )
    return table.sort_values("number", ignore_index=True)


def _write_png(image: npt.NDArray[np.uint8], path: Path) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    path.write_bytes(stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()
