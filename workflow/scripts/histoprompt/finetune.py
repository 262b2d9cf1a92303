"""Fine-tuning of the U-Net on cached latents, stoppable at any step without a trace in the result.

Everything random is keyed by (seed, step, sample), never drawn from a running stream, so that step n of a resumed run is step
n of an undisturbed one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import mse_loss

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
from histoprompt.files import atomic, read_csv, read_json, sha256, write_csv, write_json
from histoprompt.job import progress, say
from histoprompt.resizing import resize_images
from histoprompt.sampling import image_noise, image_seed, make_scheduler, sample_latents

_HISTORY_EVERY = 10  # steps a row
_GRID_IMAGES, _GRID_STEPS, _GRID_GUIDANCE, _GRID_PIXELS = 8, 8, 2.0, 128
_HISTORY = ("step", "loss", "learning_rate", "valid_right", "valid_shuffled", "valid_empty")
# What a counter-based generator is keyed by beside the seed, so that no two purposes share a stream.
_TRAINING, _VALIDATION, _EPOCH, _SHUFFLE = range(4)


@dataclass(frozen=True)
class FinetuneSettings:
    """The config's `generator.finetune`.

    Attributes
    ----------
    steps, batch_size : optimiser steps, and images in each.
    learning_rate, schedule, warmup_steps : AdamW's peak rate, then `constant` or `cosine` to zero, after a linear warm-up.
    weight_decay, max_grad_norm : of AdamW; gradients are clipped to that norm.
    ema_decay : of the averaged weights, which become the model; None keeps the last weights.
    caption_dropout : share of training prompts replaced by the empty one, which guidance needs.
    flip : mirror half of the images left to right.
    precision : `no`, `bf16` or `fp16` (autocast; the weights are float32).
    validate_every, grid_every, save_every : steps between validation losses, sample grids and saved states.
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    ema_decay: float | None
    caption_dropout: float
    flip: bool
    precision: str
    validate_every: int
    grid_every: int
    save_every: int


class Draw(NamedTuple):
    """The randomness of one sample: two uniform numbers, a time, and the noise of the posterior and of the diffusion."""

    dropout: float
    flip: float
    moment: int
    posterior: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]


def draw_sample(seed: int, step: int, sample: int, *, shape: tuple[int, ...], moments: int, purpose: int = _TRAINING) -> Draw:
    """Draw for one sample of one step, by a counter-based generator (Salmon et al. 2011).

    Parameters
    ----------
    seed, step, sample : the key; `sample` is the place in the global batch, whichever process computes it.
    shape : of the latents, (z, h, w).
    moments : number of diffusion times T.
    """
    generator = _keyed(seed, purpose, step, sample)
    dropout, flip = generator.random(2)
    moment = int(generator.integers(moments))
    posterior, noise = generator.standard_normal((2, *shape), np.float32)
    return Draw(float(dropout), float(flip), moment, posterior, noise)


def rows_of_step(seed: int, step: int, *, batch_size: int, rows: int) -> npt.NDArray[np.int64]:
    """Training rows of a step: the epochs' permutations one after the other, cut into batches.

    A batch may end one epoch and begin the next, so that every row is seen equally often whatever the batch size.
    """
    epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), rows)
    chosen = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        order = _keyed(seed, _EPOCH, int(epoch), 0).permutation(rows)
        chosen[epochs == epoch] = order[places[epochs == epoch]]
    return chosen


def other_prompts(prompts: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64] | None:
    """For every row a prompt that is not its own, drawn evenly from the others; None where there is one prompt only."""
    distinct, own = np.unique(prompts, return_inverse=True)
    if len(distinct) < 2:
        return None
    shift = _keyed(seed, _SHUFFLE, 0, 0).integers(1, len(distinct), size=len(own))
    return np.asarray(distinct[(own + shift) % len(distinct)], np.int64)


def learning_rate(step: int, settings: FinetuneSettings) -> float:
    """Rate of step 0, 1, …: a linear warm-up, then constant, or half a cosine that reaches zero after the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def diffusion_loss(
    unet: Callable[..., Any], schedule: Any, latents: Tensor, noise: Tensor, moments: Tensor, states: Tensor
) -> Tensor:
    """Mean squared error of what the model predicts: the noise (Ho et al. 2020) or the velocity (Salimans and Ho 2022).

    Parameters
    ----------
    schedule : a `DDPMScheduler`, whose prediction type says which.
    latents : scaled, float32 (n, z, h, w); `noise` alike.
    moments : diffusion times, int64 (n,).
    states : text states, (n, tokens, width).
    """
    noisy = schedule.add_noise(latents, noise, moments).contiguous(memory_format=torch.channels_last)
    guess = unet(noisy, moments, states, return_dict=False)[0].float()
    velocity = schedule.config.prediction_type == "v_prediction"
    return mse_loss(guess, schedule.get_velocity(latents, noise, moments) if velocity else noise)


def finetune_diffusion(
    train_csv: str | Path,
    valid_csv: str | Path,
    latents_train: str | Path,
    rows_train: str | Path,
    latents_valid: str | Path,
    rows_valid: str | Path,
    manifest_json: str | Path,
    history_csv: str | Path,
    training_png: str | Path,
    timing_json: str | Path,
    *,
    model: str | Path,
    revision: str | None,
    settings: Mapping[str, Any],
    seed: int,
    state_folder: str | Path,
    device: str,
    threads: int,
    key: str = "",
) -> None:
    """Fine-tune a pipeline's U-Net on prompts and cached latents.

    On SIGTERM the step in progress is finished, the state saved, and the process ends with code 143; after that, or after any
    other end, the same call goes on from the last state to the same weights.

    Parameters
    ----------
    train_csv, valid_csv : `row,prompt`; rows of the split's patches.
    latents_train, latents_valid : moments, float16 (n, 1 or 2, 2z, h, w), as `encode_latents` writes them.
    rows_train, rows_valid : `row` of each.
    manifest_json : written last: settings, base model, and the SHA-256 of every file of the base and of the folder `pipeline`
        beside it, which `StableDiffusionPipeline.from_pretrained` opens. A safety checker is left out: made for photographs of
        other things, it blacks tissue out.
    history_csv : written: `step,loss,learning_rate,valid_right,valid_shuffled,valid_empty`; the loss is the mean since the row
        before, the validation losses are of the averaged weights, with each image's prompt, another one, and none.
    training_png : written: samples from the same prompts and noise, a row a checkpoint.
    timing_json : written: seconds, images a second, peak memory, device, of this process.
    model, revision : of the base model.
    settings : `FinetuneSettings`.
    seed : of everything random.
    state_folder : where state is kept until the end; a state made with other settings, inputs or `key` is discarded.
    key : anything else that the result depends on, such as a digest of the code.

    Raises
    ------
    InputError : an input cannot be used, or the loss is no longer a number.
    """
    torch.set_num_threads(threads)
    options = FinetuneSettings(**settings)
    place = resolve_device(device)
    if options.precision == "fp16" and place.type == "cpu":
        raise InputError(
            "config key `generator.finetune.precision`",
            found="fp16 on a CPU",
            expected="no or bf16 on a CPU",
            remedy='set it to "no" or bf16, or run on a GPU',
        )
    base = open_pipeline(model, revision)
    train = _Examples(train_csv, latents_train, rows_train, base, flip=options.flip)
    valid = _Examples(valid_csv, latents_valid, rows_valid, base, flip=False)
    check_prompts(base, {*train.prompts, *valid.prompts})

    base_files = {name: sha256(base.folder / name) for name in base.files()}
    inputs = (train_csv, valid_csv, latents_train, rows_train, latents_valid, rows_valid)
    identity = {
        "settings": asdict(options),
        "seed": seed,
        "base": base_files,
        "inputs": [sha256(path) for path in inputs],
        "key": key,
    }
    state = _StateFolder(state_folder, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())
    trainer = _Trainer(base, train, valid, options, seed, place, state)
    seconds = trainer.run()

    manifest_json = Path(manifest_json)
    pipeline = manifest_json.parent / "pipeline"
    _write_pipeline(base, trainer.result(), pipeline, train.shape[-1])
    write_csv(history_csv, trainer.history_table())
    _write_training_figure(training_png, state.grids())
    write_json(timing_json, timing_report(seconds, trainer.steps_here * options.batch_size, place))
    write_json(
        manifest_json,
        {
            "model": str(model),
            "revision": revision,
            "settings": asdict(options),
            "seed": seed,
            "steps": options.steps,
            "resolution": train.shape[-1] * base.factor,
            "base": base_files,
            "pipeline": {p.relative_to(pipeline).as_posix(): sha256(p) for p in sorted(pipeline.rglob("*")) if p.is_file()},
        },
    )
    state.discard()


class _Examples:
    """Rows of a prompts table with their latents, read from disk as they are asked for."""

    def __init__(self, table_csv: str | Path, latents: str | Path, rows_csv: str | Path, base: Pipeline, *, flip: bool) -> None:
        table = read_csv(table_csv, ("row", "prompt"))
        if not len(table):
            raise InputError(table_csv, found="no row", expected="a row for every image", remedy="raise the key `subset`")
        self.prompts = table["prompt"].tolist()
        self.latents = _open_latents(latents, base, flip=flip)
        self.shape = (base.latent_channels, *self.latents.shape[3:])
        self.base, self.flip = base, flip
        encoded = read_csv(rows_csv, ("row",))["row"].to_numpy(np.int64)
        place_of = pd.Series(np.arange(len(encoded)), encoded)
        unknown = table.loc[~table["row"].isin(place_of.index), "row"]
        if len(unknown) or len(encoded) != len(self.latents):
            raise InputError(
                rows_csv,
                found=f"{len(encoded)} rows for {len(self.latents)} latents"
                + (f", without row {unknown.iloc[0]} of {table_csv}" if len(unknown) else ""),
                expected="a row for every latent, and every row of the prompts among them",
                remedy="delete it and run the same command again",
            )
        self.places = place_of.loc[table["row"]].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: npt.NDArray[np.int64], draws: Sequence[Draw]) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled latents drawn from their posterior, noise, and diffusion times."""
        flips = np.array([int(self.flip and draw.flip < 0.5) for draw in draws])
        moments = self.latents[self.places[rows], flips].astype(np.float32)
        mean, log_variance = np.split(moments, 2, axis=1)
        drawn = mean + np.exp(0.5 * log_variance) * np.stack([draw.posterior for draw in draws])
        latents = (drawn - np.float32(self.base.shift)) * np.float32(self.base.scaling)
        return (
            torch.from_numpy(latents),
            torch.from_numpy(np.stack([draw.noise for draw in draws])),
            torch.tensor([draw.moment for draw in draws]),
        )


class _StateFolder:
    """States and sample grids of one run, kept apart from those of any other settings, inputs or code."""

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.root = Path(folder)
        self.folder = self.root / identity[:32]
        if self.root.is_dir():
            for other in self.root.iterdir():
                if other != self.folder and re.fullmatch("[0-9a-f]{32}", other.name):
                    shutil.rmtree(other)
            for partial in self.folder.glob(".*.partial*"):
                _remove(partial)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of the last state, if there is one."""
        saved = self._saved()
        return (load_file(saved[-1] / "state.safetensors"), read_json(saved[-1] / "state.json")) if saved else None

    def save(self, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Write a state whole, then drop the ones before it."""
        with atomic(self.folder / f"step-{step:09d}") as temporary:
            temporary.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps(numbers))
        for older in self._saved()[:-1]:
            shutil.rmtree(older)

    def save_grid(self, step: int, grid: Images) -> None:
        """Keep the samples of a checkpoint."""
        with atomic(self.folder / f"grid-{step:09d}.png") as temporary:
            Image.fromarray(grid).save(temporary)

    def grids(self) -> dict[int, Images]:
        """Step -> samples, in order."""
        return {int(path.stem.split("-")[1]): np.asarray(Image.open(path)) for path in sorted(self.folder.glob("grid-*.png"))}

    def discard(self) -> None:
        """Remove everything: the run is complete."""
        shutil.rmtree(self.folder)
        if not any(self.root.iterdir()):
            self.root.rmdir()

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


class _Trainer:
    """The U-Net, its average and its optimiser, at some step."""

    def __init__(
        self,
        base: Pipeline,
        train: _Examples,
        valid: _Examples,
        options: FinetuneSettings,
        seed: int,
        device: torch.device,
        state: _StateFolder,
    ) -> None:
        self.base, self.train, self.valid, self.options, self.seed, self.state = base, train, valid, options, seed, state
        self.device = device
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=options.precision)
        self.schedule = DDPMScheduler.from_config(scheduler_config(base.folder))
        distinct = ["", *sorted({*train.prompts, *valid.prompts} - {""})]
        place_of = {prompt: i for i, prompt in enumerate(distinct)}
        self.states = encode_prompts(base, distinct, device)
        self.train_prompts = np.array([place_of[prompt] for prompt in train.prompts])
        self.valid_prompts = np.array([place_of[prompt] for prompt in valid.prompts])
        self.vae = load_vae(base, device)
        self.unet = load_unet(base, device).train()
        self.average: UNet2DConditionModel | None = None
        if options.ema_decay is not None:
            self.average = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.unet.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.model, self.prepared = self.accelerator.prepare(self.unet, self.optimiser)
        self.step, self.steps_here = 0, 0
        self.history: list[list[float | None]] = []
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        saved = state.load()
        if saved:
            self._restore(*saved)

    def run(self) -> float:
        """Train to the last step; seconds spent in training steps, without validation, grids and states."""
        options, seconds = self.options, 0.0
        with _termination() as asked_to_stop:
            if self.step == 0:
                self._sample_grid()
            steps = range(self.step, options.steps)
            for _ in progress(steps, "fine-tuning", total=options.steps, unit="step", initial=self.step):
                started = time.perf_counter()
                self._train_step()
                last = self.step == options.steps
                validate = last or self.step % options.validate_every == 0
                if validate or self.step % _HISTORY_EVERY == 0:
                    self._record()
                seconds += time.perf_counter() - started
                if validate:
                    self.history[-1][3:] = self._validate()
                if last or self.step % options.grid_every == 0:
                    self._sample_grid()
                if not last and (self.step % options.save_every == 0 or asked_to_stop()):
                    self._save()
                if asked_to_stop() and not last:
                    say(f"asked to stop: step {self.step} of {options.steps} is saved, and the same command goes on from it")
                    raise SystemExit(128 + signal.SIGTERM)
        return seconds

    def result(self) -> dict[str, Tensor]:
        """The weights that become the model: the averaged ones, if there are any."""
        weights = (self.average or self.unet).state_dict()
        return {name: tensor.detach().contiguous() for name, tensor in weights.items()}

    def history_table(self) -> pd.DataFrame:
        """A row every ten steps and at every validation."""
        return pd.DataFrame(self.history, columns=list(_HISTORY)).astype({"step": int})

    def _train_step(self) -> None:
        options, step, size = self.options, self.step, self.options.batch_size
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        rows = rows_of_step(self.seed, step, batch_size=size, rows=len(self.train))
        draws = [self._draw(step, sample, _TRAINING) for sample in range(size)]
        dropped = np.array([draw.dropout < options.caption_dropout for draw in draws])
        loss = self._loss(self.model, self.train, rows, draws, np.where(dropped, 0, self.train_prompts[rows]))
        self.accelerator.backward(loss)
        self.norms.append(self.accelerator.clip_grad_norm_(self.unet.parameters(), options.max_grad_norm).detach())
        self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())
        if self.average is not None and options.ema_decay is not None:
            # The average forgets its beginning at once: the decay grows with the steps done.
            decay = min(options.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.unet.parameters()), 1 - decay)
        self.step += 1
        self.steps_here += 1

    def _draw(self, step: int, sample: int, purpose: int) -> Draw:
        moments = self.schedule.config.num_train_timesteps
        return draw_sample(self.seed, step, sample, shape=self.train.shape, moments=moments, purpose=purpose)

    def _loss(
        self,
        model: Callable[..., Any],
        examples: _Examples,
        rows: npt.NDArray[np.int64],
        draws: Sequence[Draw],
        texts: npt.NDArray[np.int64],
    ) -> Tensor:
        latents, noise, moments = (tensor.to(self.device) for tensor in examples.batch(rows, draws))
        return diffusion_loss(
            model, self.schedule, latents, noise, moments, self.states[torch.from_numpy(texts).to(self.device)]
        )

    def _record(self) -> None:
        """Add a row to the history: the mean loss since the row before."""
        self._check_finite()
        mean = float(np.mean([loss.item() for loss in self.losses]))
        self.history.append([self.step, mean, learning_rate(self.step - 1, self.options), None, None, None])
        self.losses.clear()

    def _check_finite(self) -> None:
        # Loss scaling skips a step whose gradients overflow, and goes on.
        measured = [*self.losses, *([] if self.accelerator.scaler else self.norms)]
        self.norms.clear()
        if measured and not torch.stack(measured).isfinite().all():
            raise InputError(
                "config key `generator.finetune.learning_rate`",
                found=f"{self.options.learning_rate} with precision {self.options.precision}: the loss or its gradient is no "
                f"longer a finite number at step {self.step}",
                expected="a loss that stays finite",
                remedy="lower `learning_rate`, lengthen `warmup_steps`, or set `precision` to bf16 or no; the state saved "
                f"before is kept in {self.state.root} until the settings change",
            )

    @torch.no_grad()
    def _validate(self) -> list[float | None]:
        """Loss on the validation images with their own prompt, with another one, and with none: always the same noise."""
        texts = (self.valid_prompts, other_prompts(self.valid_prompts, self.seed), np.zeros_like(self.valid_prompts))
        sums = [0.0, 0.0, 0.0]
        for start in range(0, len(self.valid), self.options.batch_size):
            rows = np.arange(start, min(start + self.options.batch_size, len(self.valid)))
            draws = [self._draw(0, int(row), _VALIDATION) for row in rows]
            for i, prompts in enumerate(texts):
                if prompts is not None:
                    with self.accelerator.autocast():
                        loss = self._loss(self.average or self.unet, self.valid, rows, draws, prompts[rows])
                    sums[i] += loss.item() * len(rows)
        return [None if prompts is None else total / len(self.valid) for prompts, total in zip(texts, sums, strict=True)]

    @torch.no_grad()
    def _sample_grid(self) -> None:
        """Samples from the averaged weights: always the same prompts, and the noise of the arm's first images."""
        distinct = np.unique(self.valid_prompts)
        texts = distinct[np.linspace(0, len(distinct) - 1, _GRID_IMAGES).round().astype(np.int64)]
        noise = np.stack([image_noise(image_seed(self.seed, number), self.train.shape) for number in range(_GRID_IMAGES)])
        with self.accelerator.autocast():
            latents = sample_latents(
                self.average or self.unet,
                make_scheduler("dpm++", scheduler_config(self.base.folder)),
                torch.from_numpy(noise).to(self.device),
                self.states[torch.from_numpy(texts).to(self.device)],
                self.states[:1],
                steps=_GRID_STEPS,
                guidance=_GRID_GUIDANCE,
            )
            images = decode_latents(self.vae, latents.float() / self.base.scaling + self.base.shift)
        self.state.save_grid(self.step, np.concatenate(resize_images(images, min(_GRID_PIXELS, images.shape[1])), axis=1))

    def _save(self) -> None:
        self._check_finite()
        moments = self.optimiser.state_dict()["state"]
        tensors = {
            **{f"unet.{name}": tensor for name, tensor in self.unet.state_dict().items()},
            **{f"average.{name}": tensor for name, tensor in (self.average.state_dict() if self.average else {}).items()},
            **{f"optimiser.{i}.{name}": tensor for i, fields in moments.items() for name, tensor in fields.items()},
        }
        scaler = self.accelerator.scaler
        numbers = {
            "step": self.step,
            "history": self.history,
            "losses": [loss.item() for loss in self.losses],
            "scaler": scaler.state_dict() if scaler else None,
        }
        self.state.save(self.step, tensors, numbers)

    def _restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}

        self.unet.load_state_dict(part("unet."))
        if self.average is not None:
            self.average.load_state_dict(part("average."))
        parameters = list(self.unet.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part("optimiser.").items():
            place, field = key.split(".")
            # The fused optimiser walks through memory, so its moments must lie in memory as their weights do.
            own = tensor.clone() if field == "step" else torch.empty_like(parameters[int(place)].detach()).copy_(tensor)
            moments.setdefault(int(place), {})[field] = own
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])
        self.step, self.history = numbers["step"], numbers["history"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in numbers["losses"]]


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; only a process's main thread can listen."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _keyed(seed: int, purpose: int, major: int, minor: int) -> np.random.Generator:
    """A counter-based generator: (seed, purpose) is the key, and every (major, minor) has 2^128 numbers of its own."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, minor, major]))


def _open_latents(path: str | Path, base: Pipeline, *, flip: bool) -> npt.NDArray[np.float16]:
    try:
        latents: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            path, found=f"no readable array ({error})", expected="an .npy file of latents", remedy="delete it and run again"
        ) from error
    channels = 2 * base.latent_channels
    if latents.dtype != np.float16 or latents.ndim != 5 or latents.shape[2] != channels or latents.shape[1] < 1 + flip:
        raise InputError(
            path,
            found=f"{latents.dtype} {latents.shape}",
            expected=f"float16 (n, {2 if flip else '1 or 2'}, {channels}, h, w), moments of the autoencoder of {base.folder}"
            + (", as they are and mirrored" if flip else ""),
            remedy="delete it and run the same command again, so that it is made with this model and setting of `flip`",
        )
    return latents


def _write_pipeline(base: Pipeline, weights: Mapping[str, Tensor], folder: Path, side: int) -> None:
    """The base pipeline with other U-Net weights, every file a copy of its own."""
    index = read_json(base.folder / "model_index.json")
    index |= {part: [None, None] for part in ("safety_checker", "feature_extractor", "image_encoder")}
    index["requires_safety_checker"] = False
    with atomic(folder) as temporary:
        for name in base.files():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.startswith("unet/"):
                shutil.copyfile(base.folder / name, temporary / name)
        config = read_json(base.folder / "unet/config.json") | {"sample_size": side}
        for name, content in (("model_index.json", index), ("unet/config.json", config)):
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n")
        save_file(dict(weights), temporary / "unet/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _write_training_figure(path: str | Path, grids: Mapping[int, Images]) -> None:
    """Sample grids below each other, each with its step."""
    margin = 64
    height, width = next(iter(grids.values())).shape[:2]
    figure = Image.new("RGB", (margin + width, height * len(grids)), "white")
    draw = ImageDraw.Draw(figure)
    for i, (step, grid) in enumerate(grids.items()):
        figure.paste(Image.fromarray(grid), (margin, i * height))
        draw.text((margin - 6, i * height + height // 2), str(step), fill="black", anchor="rm")
    with atomic(path) as temporary:
        figure.save(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
