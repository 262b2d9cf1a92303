"""Encoders: preprocessing and features against the reference library, and every way a model folder can be wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from histoprompt.embedding import Preprocessing, embed, embed_images, load_encoder
from histoprompt.errors import InputError
from histoprompt.patches import write_patches

MINI = Path(__file__).parents[3] / "shared/data/pcam_mini"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of 48-pixel inputs, saved without a pooler, as DINO models are."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=48, patch_size=8
    )
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 48, "width": 48}, **IMAGENET).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ResNet of 32-pixel inputs."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
    folder = tmp_path_factory.mktemp("resnet")
    ResNetModel(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0, **IMAGENET).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth colour fields and noise, 9 of 40 pixels a side."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (9, 5, 5, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + generator.integers(-40, 41, (9, 40, 40, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def patches(tmp_path: Path, images: np.ndarray) -> Path:
    return write(tmp_path / "patches.h5", images)


def write(path: Path, images: np.ndarray) -> Path:
    ids = [f"p{i}" for i in range(len(images))]
    write_patches(path, [(images, np.arange(len(images)) % 2, ids)], classes=["a", "b"], size=images.shape[1])
    return path


def features_of(path: Path, model: Path, out: Path, **changes) -> np.ndarray:
    arguments = {"revision": None, "batch_size": 4, "dtype": "float32", "device": "cpu", "threads": 1} | changes
    embed_images(path, out, model=model, **arguments)
    return np.load(out, allow_pickle=False)


@pytest.mark.parametrize("size", [40, 48, 64, 96])
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_the_reference_processor_s(tmp_path: Path, size: int, resample: int) -> None:
    """The reference rounds to whole grey levels after each of two passes of resizing, we do not: one level at most.

    Greys keep away from 0 and 255, at which the reference cuts off after each pass.
    """
    processor = ViTImageProcessor(size={"height": 48, "width": 48}, resample=resample, **IMAGENET)
    processor.save_pretrained(tmp_path)
    batch = np.random.default_rng(1).integers(80, 180, (3, size, size, 3), dtype=np.uint8)
    reference = processor(list(batch), return_tensors="pt")["pixel_values"]
    ours = Preprocessing.from_config(tmp_path / "preprocessor_config.json")(batch, CPU)
    levels = (ours - reference).abs() * torch.tensor(IMAGENET["image_std"]).view(3, 1, 1) * 255
    assert levels.max() < (1e-3 if size == 48 else 1.1) and levels.mean() < (1e-3 if size == 48 else 0.4)


def test_vit_features_are_the_class_token_of_the_last_layer(
    vit: Path, patches: Path, images: np.ndarray, tmp_path: Path
) -> None:
    ours = features_of(patches, vit, tmp_path / "f.npy")
    processor, model = AutoImageProcessor.from_pretrained(vit), ViTModel.from_pretrained(vit).eval()
    with torch.no_grad():
        reference = model(**processor(list(images), return_tensors="pt")).last_hidden_state[:, 0].numpy()
    assert ours.shape == (9, 32) and ours.dtype == np.float32
    # The pixels differ by a grey level at most; without resizing, by nothing.
    assert np.abs(ours - reference).max() < 0.02 * reference.std()
    native = np.random.default_rng(2).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        exact = model(**processor(list(native), return_tensors="pt")).last_hidden_state[:, 0].numpy()
    assert np.allclose(features_of(write(tmp_path / "n.h5", native), vit, tmp_path / "n.npy"), exact, atol=1e-5)


def test_convolutional_features_are_the_pooled_map(resnet: Path, tmp_path: Path) -> None:
    native = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    ours = features_of(write(tmp_path / "n.h5", native), resnet, tmp_path / "n.npy")
    processor, model = AutoImageProcessor.from_pretrained(resnet), ResNetModel.from_pretrained(resnet).eval()
    with torch.no_grad():
        reference = model(**processor(list(native), return_tensors="pt")).last_hidden_state.mean(dim=(2, 3)).numpy()
    assert ours.shape == (4, 24) and np.allclose(ours, reference, atol=1e-5)


@pytest.mark.skipif(not MINI.is_dir(), reason="the real patches of pcam_mini are not beside this repository")
def test_pixels_are_scaled_once() -> None:
    """The paper's code divides by 255 twice: its model sees a black image, whose only spread is that of the channels' means."""
    with h5py.File(MINI / "camelyonpatch_level_2_split_valid_x.h5") as file:
        real = file["x"][:64]
    once = Preprocessing(224, 224, 1 / 255, **_constants(), mode="bilinear")(real, CPU)
    twice = Preprocessing(224, 224, 1 / 255**2, **_constants(), mode="bilinear")(real, CPU)
    assert float(twice.std()) == pytest.approx(0.13, abs=0.01)
    assert float(once.std()) == pytest.approx(0.9, abs=0.15)
    assert float((once - twice).abs().mean()) > 2


def _constants() -> dict:
    return {"mean": tuple(IMAGENET["image_mean"]), "std": tuple(IMAGENET["image_std"])}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # A feature extractor of before `rescale_factor`, as DINO's, with one number for the size.
        ({"size": 224, "resample": 2, **IMAGENET}, (224, 224, 1 / 255, "bilinear")),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "resample": 3,
                **IMAGENET,
            },
            (224, 224, 1 / 255, "bicubic"),
        ),
        ({"size": {"height": 96, "width": 64}, "rescale_factor": 0.01, **IMAGENET}, (96, 64, 0.01, "bilinear")),
        ({"size": 32, "do_rescale": False, "do_normalize": False}, (32, 32, 1.0, "bilinear")),
    ],
)
def test_preprocessor_configs_of_all_ages(tmp_path: Path, config: dict, expected: tuple) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    read = Preprocessing.from_config(tmp_path / "preprocessor_config.json")
    assert (read.height, read.width, read.factor, read.mode) == expected
    assert read.std == ((0.229, 0.224, 0.225) if "image_std" in config else (1.0, 1.0, 1.0))


def test_bfloat16_is_close_to_float32(vit: Path, patches: Path, tmp_path: Path) -> None:
    full = features_of(patches, vit, tmp_path / "a.npy")
    half = features_of(patches, vit, tmp_path / "b.npy", dtype="bfloat16")
    assert half.dtype == np.float32 and not np.array_equal(full, half)
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_weights_kept_in_bfloat16_are_what_autocast_makes_of_them(
    model: str, images: np.ndarray, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    full, half = (load_encoder(folder, None, device=CPU, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {p.dtype for p in half.network.parameters()} == {torch.bfloat16, torch.float32}
    assert np.array_equal(embed(replace(full, dtype=torch.bfloat16), images), embed(half, images))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_image_s_features_do_not_depend_on_how_many_there_are(
    vit: Path, images: np.ndarray, tmp_path: Path, dtype: str
) -> None:
    whole = features_of(write(tmp_path / "9.h5", images), vit, tmp_path / "9.npy", dtype=dtype)
    for count in (1, 4, 6):
        part = features_of(write(tmp_path / "n.h5", images[:count]), vit, tmp_path / "n.npy", dtype=dtype)
        assert part.tobytes() == whole[:count].tobytes()
    other = features_of(tmp_path / "9.h5", vit, tmp_path / "o.npy", dtype=dtype, batch_size=5)
    assert np.allclose(other, whole, atol=1e-5 if dtype == "float32" else 0.05)


def test_the_same_images_give_the_same_bytes(vit: Path, patches: Path, tmp_path: Path) -> None:
    features_of(patches, vit, tmp_path / "a.npy")
    features_of(patches, vit, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_pooled_image_models_need_no_class_token(resnet: Path, images: np.ndarray) -> None:
    encoder = load_encoder(resnet, None, device=CPU, dtype="float32")
    assert encoder.dimension == 24 and embed(encoder, images).shape == (9, 24)


def test_features_that_are_not_finite_are_refused(vit: Path, patches: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(vit, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["layernorm.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        features_of(patches, broken, tmp_path / "f.npy")
    assert "image 0 (id p0)" in caught.value.found and "float32" in caught.value.remedy
    assert not (tmp_path / "f.npy").exists()


def _pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text("{}")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def _no_mean(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"size": 48}')


def _other_size(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 40, **IMAGENET}))


def _unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "own_kind"}')


def _text_model(folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    CLIPTextModel(config).save_pretrained(folder)


BAD_ENCODERS = [
    (_pipeline, "a diffusers pipeline"),
    (_no_config, "no config.json"),
    (_pickled, "no *.safetensors file"),
    (_truncated, "cannot be loaded"),
    (_lacking, "weights without 1 of the model's tensors, layernorm.weight the first"),
    (_no_processor, "preprocessor_config.json is absent or unusable"),
    (_no_mean, "preprocessor_config.json is absent or unusable (KeyError 'image_mean')"),
    (_other_size, "fails on its first image"),
    (_unknown_type, "cannot be loaded"),
    (_text_model, "CLIPTextModel, which takes no images"),
]


@pytest.mark.parametrize(("spoil", "found"), BAD_ENCODERS)
def test_folders_that_hold_no_encoder(vit: Path, patches: Path, tmp_path: Path, spoil, found: str) -> None:
    folder = shutil.copytree(vit, tmp_path / "model")
    spoil(folder)
    with pytest.raises(InputError) as caught:
        features_of(patches, folder, tmp_path / "f.npy")
    assert found in caught.value.found and caught.value.where == str(folder)
    assert "config.json, model.safetensors and preprocessor_config.json" in caught.value.expected
    assert not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize(
    ("model", "revision", "parts"),
    [
        ("models/of/mine", None, ["no folder of this name", "a model folder, or a hub id"]),
        ("owner/name", None, ["encoders.*.revision", "no folder owner/name", "40 hexadecimal digits"]),
        ("owner/name", "main", ["'main'", "pin the model"]),
    ],
)
def test_models_that_are_nowhere(patches: Path, tmp_path: Path, model: str, revision: str | None, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        features_of(patches, model, tmp_path / "f.npy", revision=revision)
    assert all(part in str(caught.value) for part in parts)


def test_a_hub_model_out_of_reach_says_what_to_fetch(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **settings: object) -> str:
        raise LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr("histoprompt.hub.snapshot_download", offline)
    with pytest.raises(InputError) as caught:
        features_of(patches, "owner/name", tmp_path / "f.npy", revision=COMMIT)
    assert f"hf download owner/name --revision {COMMIT} --include 'config.json'" in caught.value.remedy
    assert "(no network)" in caught.value.found and "model.safetensors" in caught.value.expected


def test_a_hub_model_in_the_cache_is_used_and_a_part_of_one_is_completed(
    vit: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(vit / "config.json", part)
    asked = []

    def cache(model: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        assert "config.json" in allow_patterns and not any("bin" in pattern for pattern in allow_patterns)
        asked.append((model, revision, local_files_only))
        return str(part if local_files_only else vit)

    monkeypatch.setattr("histoprompt.hub.snapshot_download", cache)
    encoder = load_encoder("owner/name", COMMIT, device=CPU, dtype="float32")
    assert asked == [("owner/name", COMMIT, True), ("owner/name", COMMIT, False)] and encoder.dimension == 32
    for file in vit.iterdir():
        shutil.copy(file, part)
    load_encoder("owner/name", COMMIT, device=CPU, dtype="float32")
    assert asked[2:] == [("owner/name", COMMIT, True)]
