"""Fine-tuning of the U-Net on cached latents, stoppable at any step without a trace in the result."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from histoprompt.devices import resolve_device
from histoprompt.diffusion import Images, Pipeline, check_prompts, open_pipeline, timing_report
from histoprompt.errors import InputError
from histoprompt.files import atomic, check_seal, folder_manifest, read_json, sha256, write_csv, write_json
from histoprompt.training.board import Board
from histoprompt.training.examples import Examples
from histoprompt.training.settings import FinetuneSettings
from histoprompt.training.state import StateFolder
from histoprompt.training.trainer import Trainer


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
    board_folder: str | Path | None,
    device: str,
    threads: int,
    key: str = "",
) -> None:
    """Fine-tune a pipeline's U-Net on prompts and cached latents.

    On SIGTERM the step in progress is finished, the state saved, and the process ends with code 143; after that, or after any
    other end, the same call goes on from the last state to the same weights.

    Called by every process that `accelerate launch` started, it trains on all of them together; the number of processes changes
    the result within float tolerance only, and a run may go on with another number of them.

    Parameters
    ----------
    train_csv, valid_csv : `row,prompt`; rows of the split's patches.
    latents_train, latents_valid : moments, float16 (n, 1 or 2, 2z, h, w), as `encode_latents` writes them.
    rows_train, rows_valid : `row` of each.
    manifest_json : written last: settings, base model, and the SHA-256 of every file of the base and of the folder `pipeline`
        beside it, which `StableDiffusionPipeline.from_pretrained` opens. A safety checker is left out: made for photographs of
        other things, it blacks tissue out. Where adapters were trained, they are merged into that pipeline, and beside it lies
        `lora/`, which `pipeline.load_lora_weights` reads.
    history_csv : written: `step,loss,learning_rate,valid_right,valid_shuffled,valid_empty`; the loss is the mean since the row
        before, the validation losses are of the averaged weights, with each image's prompt, another one, and none.
    training_png : written: samples from the same prompts and noise, a row a checkpoint.
    timing_json : written: seconds, images a second, peak memory, device, of this process.
    model, revision : of the base model.
    settings : `FinetuneSettings`.
    seed : of everything random.
    state_folder : where state is kept until the end; a state made with other settings, inputs or `key` is discarded.
    board_folder : of TensorBoard logs; None for none.
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
    train = Examples(train_csv, latents_train, rows_train, base, flip=options.flip)
    valid = Examples(valid_csv, latents_valid, rows_valid, base, flip=False)
    check_prompts(base, {*train.prompts, *valid.prompts})

    base_files = {name: sha256(base.folder / name) for name in base.files()}
    inputs = {path: sha256(path) for path in (train_csv, valid_csv, latents_train, rows_train, latents_valid, rows_valid)}
    for latents in (latents_train, latents_valid):
        check_seal(latents, inputs[latents])
    identity = {
        "settings": asdict(options),
        "seed": seed,
        "base": base_files,
        "inputs": list(inputs.values()),
        "key": key,
    }
    state = StateFolder(state_folder, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())
    accelerator = Accelerator(cpu=place.type == "cpu", mixed_precision=options.precision)
    first = accelerator.is_main_process
    if first:
        state.tidy()
    accelerator.wait_for_everyone()
    board = Board(board_folder if first else None, step=state.step())
    try:
        trainer = Trainer(base, train, valid, options, seed, accelerator, state, board)
        seconds = trainer.run()
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(options, train.shape[-1] * base.factor, state, error) from error
    finally:
        board.close()
    if not first:
        return

    manifest_json = Path(manifest_json)
    pipeline, adapters = manifest_json.parent / "pipeline", manifest_json.parent / "lora"
    unet = trainer.result()
    if options.lora is not None:
        from histoprompt.training.adapters import merge_adapters, save_adapters

        with atomic(adapters) as temporary:
            save_adapters(unet, temporary)
        merge_adapters(unet)
    elif adapters.is_dir():
        shutil.rmtree(adapters)  # of an earlier run with other settings
    _write_pipeline(base, {name: t.detach().contiguous() for name, t in unet.state_dict().items()}, pipeline, train.shape[-1])
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
            "pipeline": folder_manifest(pipeline),
        },
    )
    state.discard()


def _out_of_memory(options: FinetuneSettings, resolution: int, state: StateFolder, error: Exception) -> InputError:
    rest = {
        "gradient_checkpointing: true": options.gradient_checkpointing,
        "precision: bf16": options.precision != "no",
        f"accumulation: {2 * options.accumulation} (the same batch in smaller parts)": False,
        "optimizer: adamw8bit": options.optimizer == "adamw8bit" or options.lora is not None,
        "lora: {rank: 16, alpha: 16}": options.lora is not None,
    }
    return InputError(
        "config key `generator.finetune`",
        found=f"{options.batch_size} images of {resolution} pixels in {options.accumulation} parts, more than the GPU's memory "
        f"holds ({str(error).splitlines()[0]})",
        expected="a training step that fits; docs/PERFORMANCE.md says what fits on which card",
        remedy="set, in this order, "
        + ", then ".join(f"`{setting}`" for setting, done in rest.items() if not done)
        + f", or lower `generator.resolution`; the state saved before is kept in {state.root} until the settings change",
    )


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
