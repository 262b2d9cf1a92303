"""The training loop: a U-Net, its average and its optimiser, on one process or several."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from histoprompt.diffusion import Pipeline, decode_latents, encode_prompts, load_unet, load_vae, scheduler_config
from histoprompt.errors import InputError
from histoprompt.job import progress, say
from histoprompt.precision import attend_in_single_precision
from histoprompt.resizing import resize_images
from histoprompt.sampling import image_noise, image_seed, make_scheduler, sample_latents
from histoprompt.training.board import Board
from histoprompt.training.examples import TRAINING, VALIDATION, Draw, Examples, draw_sample, other_prompts, rows_of_step
from histoprompt.training.loss import diffusion_loss
from histoprompt.training.optimisers import make_optimiser
from histoprompt.training.settings import FinetuneSettings, learning_rate
from histoprompt.training.state import StateFolder
from histoprompt.training.text_gain import amplify_differences

_HISTORY_EVERY = 10  # steps a row
_GRID_IMAGES, _GRID_STEPS, _GRID_GUIDANCE, _GRID_PIXELS = 8, 8, 2.0, 128
_HISTORY = ("step", "loss", "learning_rate", "valid_right", "valid_shuffled", "valid_empty")
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """The U-Net, its average and its optimiser, at some step."""

    def __init__(
        self,
        base: Pipeline,
        train: Examples,
        valid: Examples,
        options: FinetuneSettings,
        seed: int,
        accelerator: Accelerator,
        state: StateFolder,
        board: Board,
    ) -> None:
        self.base, self.train, self.valid, self.options, self.seed = base, train, valid, options, seed
        self.accelerator, self.state, self.board = accelerator, state, board
        self.device = accelerator.device
        self.part_size = options.part_size(accelerator.num_processes)
        self.schedule = DDPMScheduler.from_config(scheduler_config(base.folder))
        distinct = ["", *sorted({*train.prompts, *valid.prompts} - {""})]
        place_of = {prompt: i for i, prompt in enumerate(distinct)}
        self.states = encode_prompts(base, distinct, self.device)
        self.train_prompts = np.array([place_of[prompt] for prompt in train.prompts])
        self.valid_prompts = np.array([place_of[prompt] for prompt in valid.prompts])
        self.unet = self._make_unet()
        self.trained = {name: weight for name, weight in self.unet.named_parameters() if weight.requires_grad}
        self.average: UNet2DConditionModel | None = None
        if options.ema_decay is not None:
            # Frozen weights are shared; the average has its own copy of those that are trained.
            shared: dict[int, Any] = {id(weight): weight for weight in self.unet.parameters() if not weight.requires_grad}
            self.average = copy.deepcopy(self.unet, shared).eval().requires_grad_(False)
        self.averaged = self._trained_of(self.average) if self.average is not None else {}
        if self.device.type == "cpu" and options.precision == "bf16":
            for model in filter(None, (self.unet, self.average)):
                attend_in_single_precision(model)
        if options.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.model, self.optimiser = accelerator.prepare(self.unet, make_optimiser(list(self.trained.values()), options))
        if options.compile:
            self.unet.compile()
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
        with _termination() as terminated:
            if self.step == 0:
                self._sample_grid()
            steps: Iterable[int] = range(self.step, options.steps)
            if self.accelerator.is_main_process:
                steps = progress(steps, "fine-tuning", total=options.steps, unit="step", initial=self.step)
            for _ in steps:
                started = time.perf_counter()
                self._train_step()
                last = self.step == options.steps
                validate = last or self.step % options.validate_every == 0
                if validate or self.step % _HISTORY_EVERY == 0:
                    self._record()
                seconds += time.perf_counter() - started
                if validate:
                    self.history[-1][3:] = self._validate()
                if validate or self.step % _HISTORY_EVERY == 0:
                    self.board.scalars(self.step, dict(zip(_HISTORY[1:], self.history[-1][1:], strict=True)))
                if last or self.step % options.grid_every == 0:
                    self._sample_grid()
                stop = not last and self._any(terminated())
                if not last and (self.step % options.save_every == 0 or stop):
                    self._save()
                if stop:
                    if self.accelerator.is_main_process:
                        say(
                            f"asked to stop: step {self.step} of {options.steps} is saved, and the same command goes on from it"
                        )
                    raise SystemExit(128 + signal.SIGTERM)
        return seconds

    def result(self) -> UNet2DConditionModel:
        """The U-Net that is the run's result, float32, averaged if there is an average; adapters are not merged yet."""
        if self.options.lora is None:
            return self.average or self.unet
        # Merged into weights of half precision, small adapters would be rounded away.
        unet = self._add_adapters(load_unet(self.base, self.device))
        weights = self._trained_of(unet)
        with torch.no_grad():
            for name, trained in (self.averaged or self.trained).items():
                weights[name].copy_(trained)
        return unet

    def history_table(self) -> pd.DataFrame:
        """A row every ten steps and at every validation."""
        return pd.DataFrame(self.history, columns=list(_HISTORY)).astype({"step": int})

    def _make_unet(self) -> UNet2DConditionModel:
        unet = load_unet(self.base, self.device).train()
        if self.options.text_gain is not None:
            amplify_differences(unet, self.states[np.unique(self.train_prompts)], self.options.text_gain)
        if self.options.lora is None:
            return unet
        # Frozen weights need no more digits than autocast would leave them.
        for weight in unet.parameters():
            weight.data = weight.data.to(_HALF.get(self.options.precision, torch.float32))
        return self._add_adapters(unet)

    def _add_adapters(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        from histoprompt.training.adapters import add_adapters

        assert self.options.lora is not None
        add_adapters(unet, self.options.lora, self.seed)
        return unet

    def _trained_of(self, unet: UNet2DConditionModel) -> dict[str, Tensor]:
        return {name: weight for name, weight in unet.named_parameters() if name in self.trained}

    def _train_step(self) -> None:
        options, step = self.options, self.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        rows = rows_of_step(self.seed, step, batch_size=options.batch_size, rows=len(self.train))
        # Which process computes a sample changes nothing but the order of a sum.
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        parts = np.arange(options.batch_size).reshape(options.accumulation, processes, self.part_size)[:, process]
        losses = []
        for i, samples in enumerate(parts):
            draws = [self._draw(step, int(sample), TRAINING) for sample in samples]
            dropped = np.array([draw.dropout < options.caption_dropout for draw in draws])
            texts = np.where(dropped, 0, self.train_prompts[rows[samples]])
            with nullcontext() if i == len(parts) - 1 else self.accelerator.no_sync(self.model):
                loss = self._loss(self.model, self.train, rows[samples], draws, texts) / len(parts)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        self.norms.append(self.accelerator.clip_grad_norm_(self.trained.values(), options.max_grad_norm).detach())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(torch.stack(losses).sum())
        if options.ema_decay is not None:
            # The average forgets its beginning at once: the decay grows with the steps done.
            decay = min(options.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.values()), list(self.trained.values()), 1 - decay)
        self.step += 1
        self.steps_here += 1

    def _draw(self, step: int, sample: int, purpose: int) -> Draw:
        moments = self.schedule.config.num_train_timesteps
        return draw_sample(self.seed, step, sample, shape=self.train.shape, moments=moments, purpose=purpose)

    def _loss(
        self,
        model: Callable[..., Any],
        examples: Examples,
        rows: npt.NDArray[np.int64],
        draws: Sequence[Draw],
        texts: npt.NDArray[np.int64],
    ) -> Tensor:
        latents, noise, moments = (tensor.to(self.device) for tensor in examples.batch(rows, draws))
        states = self.states[torch.from_numpy(texts).to(self.device)]
        gamma = self.options.min_snr_gamma
        return diffusion_loss(model, self.schedule, latents, noise, moments, states, min_snr_gamma=gamma)

    def _record(self) -> None:
        """Add a row to the history: the mean loss since the row before."""
        losses = self._check_finite()
        self.history.append([self.step, float(np.mean(losses)), learning_rate(self.step - 1, self.options), None, None, None])
        self.losses.clear()

    def _check_finite(self) -> list[float]:
        """Losses since the last row of the history, over all processes."""
        losses = self.accelerator.reduce(torch.stack(self.losses), "mean") if self.losses else torch.empty(0)
        # Loss scaling skips a step whose gradients overflow, and goes on.
        norms = [] if self.accelerator.scaler else self.norms
        finite = bool(losses.isfinite().all()) and all(bool(norm.isfinite()) for norm in norms)
        self.norms.clear()
        if not finite:
            raise InputError(
                "config key `generator.finetune.learning_rate`",
                found=f"{self.options.learning_rate} with precision {self.options.precision}: the loss or its gradient is no "
                f"longer a finite number at step {self.step}",
                expected="a loss that stays finite",
                remedy="lower `learning_rate`, lengthen `warmup_steps`, or set `precision` to bf16 or no; the state saved "
                f"before is kept in {self.state.root} until the settings change",
            )
        return [float(loss) for loss in losses]

    @torch.no_grad()
    def _validate(self) -> list[float | None]:
        """Loss on the validation images with their own prompt, with another one, and with none: always the same noise."""
        texts = (self.valid_prompts, other_prompts(self.valid_prompts, self.seed), np.zeros_like(self.valid_prompts))
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        size = self.part_size
        starts = range(0, len(self.valid), size)
        for start in starts[self.accelerator.process_index :: self.accelerator.num_processes]:
            rows = np.arange(start, min(start + size, len(self.valid)))
            draws = [self._draw(0, int(row), VALIDATION) for row in rows]
            for i, prompts in enumerate(texts):
                if prompts is not None:
                    with self.accelerator.autocast():
                        loss = self._loss(self.average or self.unet, self.valid, rows, draws, prompts[rows])
                    sums[i] += loss.double() * len(rows)
        totals = self.accelerator.reduce(sums, "sum").tolist()
        return [None if prompts is None else total / len(self.valid) for prompts, total in zip(texts, totals, strict=True)]

    @torch.no_grad()
    def _sample_grid(self) -> None:
        """Samples from the averaged weights: always the same prompts, and the noise of the arm's first images."""
        if not self.accelerator.is_main_process:
            return
        distinct = np.unique(self.valid_prompts)
        texts = distinct[np.linspace(0, len(distinct) - 1, _GRID_IMAGES).round().astype(np.int64)]
        noise = np.stack([image_noise(image_seed(self.seed, number), self.train.shape) for number in range(_GRID_IMAGES)])
        vae = load_vae(self.base, self.device)  # loaded when needed: in between its memory is the U-Net's
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
            images = decode_latents(vae, latents.float() / self.base.scaling + self.base.shift)
        grid = np.concatenate(resize_images(images, min(_GRID_PIXELS, images.shape[1])), axis=1)
        self.state.save_grid(self.step, grid)
        self.board.image(self.step, "samples", grid)

    def _save(self) -> None:
        losses = self._check_finite()
        if self.accelerator.is_main_process:
            tensors = {
                **{f"unet.{name}": tensor.detach() for name, tensor in self.trained.items()},
                **{f"average.{name}": tensor for name, tensor in self.averaged.items()},
                **{
                    f"optimiser.{i}.{name}": torch.as_tensor(value)
                    for i, weight in enumerate(self.trained.values())
                    for name, value in self.optimiser.state[weight].items()
                },
            }
            scaler = self.accelerator.scaler
            numbers = {
                "step": self.step,
                "history": self.history,
                "losses": losses,
                "scaler": scaler.state_dict() if scaler else None,
            }
            self.state.save(self.step, tensors, numbers)
        self.accelerator.wait_for_everyone()  # a process that ends while the first one still writes would end that one too

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        for part, weights in (("unet", self.trained), ("average", self.averaged)):
            for name, weight in weights.items():
                weight.copy_(tensors[f"{part}.{name}"])
        parameters = list(self.trained.values())
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            part, _, rest = key.partition(".")
            if part == "optimiser":
                place, field = rest.split(".")
                own = parameters[int(place)]
                # The fused optimiser walks through memory, so its moments must lie in memory as their weights do.
                alike = tensor.shape == own.shape and tensor.is_floating_point()
                value = torch.empty_like(own.detach()).copy_(tensor) if alike else tensor.clone()
                moments.setdefault(int(place), {})[field] = (
                    value.item() if field == "step" and not value.is_floating_point() else value
                )
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])
        self.step, self.history = numbers["step"], numbers["history"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in numbers["losses"]]

    def _any(self, flag: bool) -> bool:
        """Whether it is so in any process: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)


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
