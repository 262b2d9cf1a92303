import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import PROMPTS, TOKENS, patch_images

from histoprompt.diffusion import check_prompts, encode_prompts, load_tokenizer, load_unet, open_pipeline
from histoprompt.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def copy(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "model"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_a_model_is_comes_from_its_configuration(pipeline_folder: Path) -> None:
    pipeline = open_pipeline(pipeline_folder, None)
    assert (pipeline.latent_channels, pipeline.factor, pipeline.scaling, pipeline.shift) == (4, 8, 0.5, 0.0)
    assert (pipeline.sample_size, pipeline.prediction_type, pipeline.latents_at(96)) == (4, "v_prediction", 12)


def test_stable_diffusion_leaves_scaling_and_prediction_type_to_the_defaults(copy: Path) -> None:
    for name, key in (("vae/config.json", "scaling_factor"), ("scheduler/scheduler_config.json", "prediction_type")):
        config = json.loads((copy / name).read_text())
        del config[key]
        (copy / name).write_text(json.dumps(config))
    pipeline = open_pipeline(copy, None)
    assert (pipeline.scaling, pipeline.prediction_type) == (0.18215, "epsilon")


def test_half_precision_weights_load_as_float32(copy: Path) -> None:
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    unet = load_unet(open_pipeline(copy, None), CPU)
    assert {p.dtype for p in unet.parameters()} == {torch.float32}


def test_a_prompt_is_encoded_alone_and_as_the_reference_pipeline_encodes_it(pipeline_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = open_pipeline(pipeline_folder, None)
    ours = encode_prompts(pipeline, ["", *PROMPTS], CPU)
    reference = StableDiffusionPipeline.from_pretrained(pipeline_folder, dtype=torch.float32)
    theirs, empty = reference.encode_prompt(PROMPTS, CPU, 1, True)
    assert ours.shape == (5, TOKENS, 16)
    torch.testing.assert_close(ours[1:], theirs)
    torch.testing.assert_close(ours[:1], empty[:1])
    assert torch.equal(encode_prompts(pipeline, PROMPTS[2:3], CPU)[0], ours[3])
    assert all((ours[i] - ours[j]).abs().max() > 0.1 for i in range(5) for j in range(i))


def test_a_prompt_at_the_limit_passes_and_a_longer_one_is_named(pipeline_folder: Path) -> None:
    pipeline = open_pipeline(pipeline_folder, None)
    fits = " ".join(["tissue"] * (TOKENS - 2))
    assert len(load_tokenizer(pipeline)(fits).input_ids) == TOKENS
    check_prompts(pipeline, [fits, *PROMPTS])
    with pytest.raises(InputError) as caught:
        check_prompts(pipeline, [*PROMPTS, fits + " type"])
    assert "13 tokens" in caught.value.found
    assert fits + " type" in caught.value.found
    assert "at most 12 tokens" in caught.value.expected


def test_the_text_encoder_limits_prompts_where_the_tokenizer_does_not(copy: Path) -> None:
    change(copy / "tokenizer/tokenizer_config.json", model_max_length=10**30)
    assert load_tokenizer(open_pipeline(copy, None)).model_max_length == TOKENS


@pytest.mark.parametrize("resolution", [8, 24, 40])
def test_pixels_are_resized_as_pillow_does(resolution: int) -> None:
    from histoprompt.diffusion import to_pixels

    images = patch_images(2)
    pixels = to_pixels(images, resolution, CPU)
    assert pixels.shape == (2, 3, resolution, resolution)
    expected = [
        torch.tensor(list(Image.fromarray(i).resize((resolution,) * 2, Image.Resampling.BILINEAR).tobytes())) for i in images
    ]
    reference = torch.stack(expected).view(2, resolution, resolution, 3).permute(0, 3, 1, 2) / 127.5 - 1
    assert (pixels - reference).abs().max() <= 1.01 / 127.5  # Pillow rounds to whole values, twice


DEFECTS = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    "other class": (lambda f: change(f / "model_index.json", _class_name="DiTPipeline"), "DiTPipeline"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "no folder tokenizer"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "no scheduler/scheduler_config.json"),
    "component left out": (lambda f: change(f / "model_index.json", vae=[None, None]), "`vae` is missing"),
    "other component": (
        lambda f: change(f / "model_index.json", unet=["diffusers", "UNet2DModel"]),
        "`unet` is UNet2DModel, not UNet2DConditionModel",
    ),
    "bin only": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(f / "unet/diffusion_pytorch_model.bin"),
        "no unet/diffusion_pytorch_model.safetensors, but diffusion_pytorch_model.bin",
    ),
    "channels": (lambda f: change(f / "vae/config.json", latent_channels=8), "4 channels in and 4 out"),
    "text width": (lambda f: change(f / "unet/config.json", cross_attention_dim=24), "text of width 24"),
    "prediction": (
        lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        "type flow_prediction",
    ),
    "broken json": (lambda f: (f / "vae/config.json").write_text("{"), "no readable vae/config.json"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_folder_that_is_no_pipeline_is_refused_before_anything_is_loaded(copy: Path, defect: str) -> None:
    damage, found = DEFECTS[defect]
    damage(copy)
    with pytest.raises(InputError) as caught:
        open_pipeline(copy, None)
    assert found in caught.value.found
    assert str(copy) in caught.value.where


def test_weights_that_are_cut_off_missing_or_of_another_size_are_refused(copy: Path) -> None:
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from the file changed below
    pipeline = open_pipeline(copy, None)
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="unet that cannot be loaded"):
        load_unet(pipeline, CPU)
    save_file({name: t for name, t in tensors.items() if name != "conv_in.bias"}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"(?s)lack 1 of .*conv_in\.bias"):
        load_unet(pipeline, CPU)
    save_file(tensors | {"conv_in.bias": torch.zeros(3)}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="unet that cannot be loaded"):
        load_unet(pipeline, CPU)


def test_a_hub_model_needs_a_commit_and_says_how_to_fetch_it_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    with pytest.raises(InputError, match="40 hexadecimal digits"):
        open_pipeline("owner/name", "main")
    with pytest.raises(InputError, match="no folder of this name"):
        open_pipeline(tmp_path / "absent", None)

    def offline(*args: object, **keywords: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("histoprompt.hub.snapshot_download", offline)
    with pytest.raises(InputError) as caught:
        open_pipeline("owner/name", "0" * 40)
    assert f"hf download owner/name --revision {'0' * 40}" in caught.value.remedy
    assert "cannot be downloaded" in caught.value.found


def test_a_resolution_that_the_autoencoder_cannot_halve_is_refused(pipeline_folder: Path) -> None:
    with pytest.raises(InputError, match="multiple of 8") as caught:
        open_pipeline(pipeline_folder, None).latents_at(100)
    assert caught.value.remedy == "set it to 96"
