"""The generator as a `StableDiffusionPipeline` folder: checked before use, and loaded part by part.

Nothing about a model is assumed. Latent channels, the autoencoder's factor and scaling, the prediction type and the token
limit are read from the folder's own configuration, so that the embedded model and Stable Diffusion differ by a path only.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from histoprompt.errors import InputError
from histoprompt.hub import model_folder

Images = npt.NDArray[np.uint8]

_PARTS = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
}
_WEIGHTS = {"vae": "diffusion_pytorch_model", "text_encoder": "model", "unet": "diffusion_pytorch_model"}
_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *(f"{part}/config.json" for part in _WEIGHTS),
    *(f"{part}/{stem}{end}" for part, stem in _WEIGHTS.items() for end in (".safetensors", ".safetensors.index.json")),
    *(f"{part}/{stem}-*-of-*[0-9].safetensors" for part, stem in _WEIGHTS.items()),
)
_CANNOT_LOAD = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
# Decoded at a time: four images of 512 x 512 on a GPU, whose memory this bounds; on a CPU fewer stay in its cache.
_DECODED_PIXELS = {"cuda": 2**20, "cpu": 2**17}


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline folder; no weight is loaded yet.

    Attributes
    ----------
    folder : with `model_index.json` and a folder a component.
    latent_channels : z.
    factor : pixels a side for one latent.
    scaling, shift : the U-Net works on (z - shift) * scaling.
    sample_size : the U-Net's own latents a side.
    prediction_type : `epsilon`, `v_prediction` or `sample`.
    positions : longest text the text encoder takes, in tokens.
    """

    folder: Path
    latent_channels: int
    factor: int
    scaling: float
    shift: float
    sample_size: int
    prediction_type: str
    positions: int

    def files(self) -> list[str]:
        """Relative paths of all files that a stage may read, sorted; other formats and precisions are left out."""
        found = {path.relative_to(self.folder).as_posix() for pattern in _FILES for path in self.folder.glob(pattern)}
        return sorted(found)

    def latents_at(self, resolution: int) -> int:
        """Latents a side of an image of `resolution` pixels a side.

        Raises
        ------
        InputError : `resolution` is no multiple of the autoencoder's factor.
        """
        if resolution <= 0 or resolution % self.factor:
            raise InputError(
                "config key `generator.resolution`",
                found=f"{resolution} pixels",
                expected=f"a multiple of {self.factor}, by which the autoencoder of {self.folder} shrinks an image",
                remedy=f"set it to {max(1, round(resolution / self.factor)) * self.factor}",
            )
        return resolution // self.factor


def open_pipeline(model: str | Path, revision: str | None) -> Pipeline:
    """Find a generator and check that its parts are there and fit together, without loading any.

    Parameters
    ----------
    model : a `StableDiffusionPipeline` folder, or a hub id.
    revision : the 40 hexadecimal digits of a hub model's commit; None for a folder.

    Raises
    ------
    InputError : no such folder, a hub id that is not pinned or not within reach, no such pipeline, weights that are absent or
        no safetensors, parts that do not fit together.
    """
    folder = model_folder(
        model,
        revision,
        key="generator",
        kind="a StableDiffusionPipeline folder",
        files=_FILES,
        contents="model_index.json and the folders scheduler, tokenizer, text_encoder, unet and vae",
        complete=lambda cached: all(any(cached.glob(f"{part}/*.safetensors")) for part in _WEIGHTS),
    )
    index = _config(folder, "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise _no_pipeline(folder, f"model_index.json of a {index.get('_class_name')}")
    for part, classes in _PARTS.items():
        given = (index.get(part) or (None, None))[1]
        if given not in classes:
            raise _no_pipeline(folder, f"the component `{part}` is {given or 'missing'}, not {' or '.join(classes)}")
    configs = {part: _config(folder, f"{part}/config.json") for part in _WEIGHTS}
    scheduler = scheduler_config(folder)
    if not (folder / "tokenizer").is_dir():
        raise _no_pipeline(folder, "no folder tokenizer")
    for part, stem in _WEIGHTS.items():
        if not any((folder / part / f"{stem}{end}").is_file() for end in (".safetensors", ".safetensors.index.json")):
            others = sorted(p.name for p in (folder / part).iterdir() if p.suffix in (".bin", ".safetensors", ".ckpt", ".pt"))
            raise _no_pipeline(folder, f"no {part}/{stem}.safetensors" + (f", but {', '.join(others)}" if others else ""))
    # What a configuration leaves out has diffusers' default; Stable Diffusion 1.5 leaves out scaling and prediction type.
    vae, unet, text = configs["vae"], configs["unet"], configs["text_encoder"]
    channels = int(vae.get("latent_channels", 4))
    prediction_type = str(scheduler.get("prediction_type", "epsilon"))
    width, context = int(text.get("hidden_size", 512)), unet.get("cross_attention_dim", 1280)
    for fits, found, expected in (
        (
            unet.get("in_channels", 4) == unet.get("out_channels", 4) == channels,
            f"a U-Net of {unet.get('in_channels', 4)} channels in and {unet.get('out_channels', 4)} out for an autoencoder of "
            f"{channels} latent channels",
            "as many channels in the U-Net as latent channels in the autoencoder",
        ),
        (
            context == width,
            f"a U-Net that takes text of width {context} and a text encoder of width {width}",
            "a U-Net made for this text encoder (cross_attention_dim equal to hidden_size)",
        ),
        (
            prediction_type in ("epsilon", "v_prediction", "sample"),
            f"a scheduler of prediction type {prediction_type}",
            "prediction type epsilon, v_prediction or sample",
        ),
    ):
        if not fits:
            raise InputError(
                folder, found=found, expected=expected, remedy="give a folder whose components were made for each other"
            )
    size = unet.get("sample_size") or 64
    return Pipeline(
        folder=folder,
        latent_channels=channels,
        factor=2 ** (len(vae.get("block_out_channels", (64,))) - 1),
        scaling=float(vae.get("scaling_factor", 0.18215)),
        shift=float(vae.get("shift_factor") or 0.0),
        sample_size=int(size if isinstance(size, int) else size[0]),
        prediction_type=prediction_type,
        positions=int(text.get("max_position_embeddings", 77)),
    )


def scheduler_config(folder: str | Path) -> dict[str, Any]:
    """The noise schedule of a pipeline folder, as its scheduler saved it."""
    return _config(Path(folder), "scheduler/scheduler_config.json")


def load_vae(pipeline: Pipeline, device: torch.device) -> AutoencoderKL:
    """The autoencoder, float32, frozen."""
    vae = _load(AutoencoderKL, pipeline, "vae")
    return cast(AutoencoderKL, vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last))


def load_unet(pipeline: Pipeline, device: torch.device) -> UNet2DConditionModel:
    """The U-Net, float32, trainable."""
    # A GPU's convolutions are faster on channels-last weights; on a CPU the group norms between them are far slower.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    return cast(UNet2DConditionModel, _load(UNet2DConditionModel, pipeline, "unet").to(device, memory_format=layout))


def load_tokenizer(pipeline: Pipeline) -> CLIPTokenizer:
    """The tokenizer; its `model_max_length` is never more than the text encoder takes."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(pipeline.folder / "tokenizer", local_files_only=True)
    except _CANNOT_LOAD as error:
        raise _no_pipeline(pipeline.folder, f"a tokenizer that cannot be loaded ({_first_line(error)})") from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, pipeline.positions)
    return cast(CLIPTokenizer, tokenizer)


def check_prompts(pipeline: Pipeline, prompts: Iterable[str]) -> None:
    """Refuse a prompt that the text encoder would cut short.

    Raises
    ------
    InputError : names the prompt, its number of tokens and the limit, beginning and end marks included (77 for CLIP).
    """
    tokenizer = load_tokenizer(pipeline)
    for prompt in sorted(set(prompts)):
        tokens = len(tokenizer(prompt, truncation=False).input_ids)
        if tokens > tokenizer.model_max_length:
            raise InputError(
                "config key `prompts`",
                found=f"a prompt of {tokens} tokens: {prompt!r}",
                expected=f"at most {tokenizer.model_max_length} tokens, beginning and end included: the rest would be cut off",
                remedy="shorten the template, or the words of the classes",
            )


@torch.no_grad()
def encode_prompts(pipeline: Pipeline, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Hidden states of the text encoder, float32 (prompts, tokens, width), computed as `StableDiffusionPipeline` does.

    Prompts are encoded one by one: what a prompt becomes does not depend on the others.
    """
    tokenizer = load_tokenizer(pipeline)
    encoder = _load(CLIPTextModel, pipeline, "text_encoder").eval().to(device)
    masked = bool(getattr(encoder.config, "use_attention_mask", False))
    states = []
    for prompt in prompts:
        tokens = tokenizer(
            prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).to(device)
        states.append(encoder(tokens.input_ids, attention_mask=tokens.attention_mask if masked else None)[0])
    return torch.cat(states).float()


def to_pixels(images: Images, resolution: int, device: torch.device) -> Tensor:
    """uint8 (n, P, P, 3) -> float32 (n, 3, resolution, resolution) in [-1, 1], bilinear, anti-aliased where it shrinks."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels.shape[-1] != resolution:
        pixels = interpolate(
            pixels, (resolution, resolution), mode="bilinear", align_corners=False, antialias=resolution < pixels.shape[-1]
        )
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Images:
    """Latents of the autoencoder (n, z, h, w), unscaled, to uint8 (n, h * factor, w * factor, 3)."""
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    part = max(1, _DECODED_PIXELS[latents.device.type] // (latents.shape[-1] * latents.shape[-2] * factor**2))
    pixels = [
        vae.decode(z.to(vae.dtype, memory_format=torch.channels_last), return_dict=False)[0].float()
        for z in latents.split(part)
    ]
    return to_bytes(torch.cat(pixels))


def to_bytes(pixels: Tensor) -> Images:
    """float32 (n, 3, R, R) in [-1, 1] -> uint8 (n, R, R, 3)."""
    bytes_ = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def timing_report(seconds: float, images: int, device: torch.device) -> dict[str, Any]:
    """What a heavy job took: seconds, images a second, peak memory in bytes, and on what."""
    gpu = device.type == "cuda"
    return {
        "seconds": round(seconds, 3),
        "images": images,
        "images_per_second": round(images / seconds, 3) if seconds > 0 else None,
        # Linux counts a process's resident memory in KiB.
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device)
        if gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads",
    }


def _load(kind: Any, pipeline: Pipeline, part: str) -> Any:
    """One component in float32; weights that are absent, damaged or of another size are refused, never made up."""
    try:
        model, report = kind.from_pretrained(
            pipeline.folder / part,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except _CANNOT_LOAD as error:
        raise _no_pipeline(pipeline.folder, f"a {part} that cannot be loaded ({_first_line(error)})") from error
    wrong = sorted(map(str, [*report["missing_keys"], *report.get("mismatched_keys", ())]))
    if wrong:
        raise _no_pipeline(
            pipeline.folder, f"{part} weights that lack {len(wrong)} of the configured tensors, or have other sizes: {wrong[0]}"
        )
    return model


def _config(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise _no_pipeline(folder, f"no {name}")
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise _no_pipeline(folder, f"no readable {name} ({error})") from error
    if not isinstance(content, Mapping):
        raise _no_pipeline(folder, f"no JSON object in {name}")
    return dict(content)


def _no_pipeline(folder: Path, found: str) -> InputError:
    return InputError(
        folder,
        found=found,
        expected="a StableDiffusionPipeline in diffusers' format: model_index.json and the folders scheduler, tokenizer, "
        "text_encoder, unet and vae, weights as safetensors",
        remedy="give another folder under `generator.model`, or save the pipeline again with "
        "`save_pretrained(folder, safe_serialization=True)`",
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]
