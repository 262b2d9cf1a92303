"""Encoders of every kind, tiny and random but of the true classes, against the libraries' own transforms and models."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from histoprompt.embedding import embed, load_encoder
from histoprompt.encoders import inception
from histoprompt.errors import InputError

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def load(model: Path | str, kind: str, revision: str | None = None):
    return load_encoder(model, revision, kind=kind, device=CPU, dtype="float32")


def refused(model: Path | str, kind: str, *parts: str, revision: str | None = None) -> None:
    with pytest.raises(InputError) as caught:
        load(model, kind, revision)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth fields of mid greys, 5 of 40 pixels a side: what is compared is resizing, not cutting off at 0 and 255."""
    coarse = np.random.default_rng(0).integers(80, 180, (5, 10, 10, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def close(ours: np.ndarray, reference: np.ndarray) -> None:
    """Pixels that differ by a grey level at most, since both round after resizing, once or twice."""
    assert ours.shape == reference.shape and np.abs(ours - reference).max() < 0.03 * reference.std()


# --- transformers


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As facebook/dinov2-base: positions for more pixels than the processor gives, which cuts off a margin."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    BitImageProcessor(size={"shortest_edge": 64}, crop_size=crop, resample=3, **IMAGENET).save_pretrained(folder)
    return folder


def test_dinov2_gives_its_class_token_of_the_whole_patch(dinov2: Path, images: np.ndarray) -> None:
    processor = BitImageProcessor(size={"height": 56, "width": 56}, do_center_crop=False, resample=3, **IMAGENET)
    with torch.no_grad():
        pixels = processor(list(images), return_tensors="pt")
        reference = Dinov2Model.from_pretrained(dinov2).eval()(**pixels).last_hidden_state[:, 0].numpy()
    close(embed(load(dinov2, "transformers"), images), reference)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP, both sides, as openai/clip-vit-large-patch14 is."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    side = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**side, "vocab_size": 20},
        vision_config={**side, "image_size": 48, "patch_size": 8, "projection_dim": 24},
        projection_dim=24,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        model.vision_model.pre_layrnorm.weight.mul_(3)
    model.save_pretrained(folder)
    size = {"crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 48}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def test_clip_gives_its_image_embeddings(clip: Path, images: np.ndarray, tmp_path: Path) -> None:
    pixels = CLIPImageProcessor.from_pretrained(clip)(list(images), return_tensors="pt")
    with torch.no_grad():
        reference = CLIPModel.from_pretrained(clip).eval().get_image_features(**pixels)
    reference = getattr(reference, "pooler_output", reference).numpy()
    assert reference.shape == (5, 24)
    encoder = load(clip, "clip")
    close(embed(encoder, images), reference)
    CLIPVisionModelWithProjection.from_pretrained(clip).save_pretrained(tmp_path)  # the image side alone
    shutil.copy(clip / "preprocessor_config.json", tmp_path)
    assert np.array_equal(embed(load(tmp_path, "clip"), images), embed(encoder, images))


def test_clip_is_not_what_it_is_not(clip: Path, dinov2: Path, tmp_path: Path) -> None:
    refused(clip, "transformers", "type 'clip'", "set the encoder's `kind` to clip")
    refused(dinov2, "clip", "type 'dinov2'", "set the encoder's `kind` to transformers")
    folder = shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "clip", "weights without 1 of the model's tensors, visual_projection.weight the first")


# --- timm


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer as timm shares them, with a classifier, a filter and a normalisation of its own."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    arguments = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 7}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    data = {"interpolation": "bicubic", "mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2], "crop_pct": 0.9}
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True, data_config=data)
    return folder


@pytest.fixture(scope="module")
def timm_convnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model("test_resnet", num_classes=0)
    save_for_hf(model, str(folder), model_args={"num_classes": 0}, safe_serialization=True)
    return folder


@pytest.mark.parametrize("name", ["timm_vit", "timm_convnet"])
def test_timm_models_give_what_their_classifier_would_see(
    name: str, images: np.ndarray, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    config = resolve_model_data_config(model)
    transform = create_transform(**config | {"crop_pct": 1.0, "crop_mode": "squash"}, is_training=False)
    with torch.no_grad():
        reference = model(torch.stack([transform(Image.fromarray(image)) for image in images])).numpy()
    encoder = load(folder, "timm")
    assert (encoder.preprocessing.height, encoder.dimension) == (config["input_size"][1], reference.shape[1])
    close(embed(encoder, images), reference)


def test_a_timm_model_keeps_its_own_normalisation(timm_vit: Path) -> None:
    preprocessing = load(timm_vit, "timm").preprocessing
    assert (preprocessing.mean, preprocessing.std, preprocessing.mode) == ((0.7, 0.6, 0.7), (0.2, 0.25, 0.2), "bicubic")


def _without(name: str):
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors")

    return spoil


def _edit(**changes):
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"] |= changes.pop("pretrained_cfg", {})
        (folder / "config.json").write_text(json.dumps(config | changes))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["no config.json", "kind: transformers"]),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            ["no model.safetensors", "weights_only=True"],
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 50), ["cannot be loaded"]),
        (_without("norm.weight"), ["cannot be loaded", "Missing key"]),
        (_without("head.weight"), ["cannot be loaded", "Missing key"]),
        (_edit(architecture="own_kind"), ["Unknown model", "own_kind"]),
        (_edit(pretrained_cfg={"interpolation": "lanczos"}), ["'lanczos'", "bilinear or bicubic"]),
    ],
)
def test_folders_that_hold_no_model_of_timm(timm_vit: Path, tmp_path: Path, spoil, parts: list[str]) -> None:
    folder = shutil.copytree(timm_vit, tmp_path / "model")
    spoil(folder)
    refused(folder, "timm", str(folder), "config.json and model.safetensors", *parts)


def test_a_timm_model_of_the_hub_is_pinned_and_safe(timm_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cache(model: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((model, revision, allow_patterns))
        return str(timm_vit)

    monkeypatch.setattr("histoprompt.hub.snapshot_download", cache)
    for name in ("hf-hub:owner/name", "owner/name"):
        assert load(name, "timm", COMMIT).dimension == 32
    assert asked == [("owner/name", COMMIT, ["config.json", "model.safetensors"])] * 2
    refused("hf-hub:owner/name", "timm", "40 hexadecimal digits", "pin the model")


# --- inception


class _Stand(torch.nn.Module):
    """What clean-fid's TorchScript file offers, with another network inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 2048, 13, 60), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of FID's weights, by whose own digest it is known."""
    torch.manual_seed(0)
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(_Stand()).save(str(path))
    monkeypatch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.mark.parametrize("edge", [40, 299, 512])
def test_inception_sees_and_gives_what_clean_fid_does(stand_in: Path, edge: int) -> None:
    batch = np.random.default_rng(edge).integers(0, 256, (2, edge // 8 + 1, edge // 8 + 1, 3), dtype=np.uint8)
    batch = np.ascontiguousarray(batch.repeat(8, axis=1).repeat(8, axis=2)[:, :edge, :edge])
    resize = build_resizer("clean")
    pixels = torch.from_numpy(np.stack([resize(image) for image in batch])).permute(0, 3, 1, 2)
    reference = InceptionV3W(str(stand_in.parent), download=False)(pixels).detach().numpy()
    encoder = load(stand_in, "inception")
    assert encoder.dimension == 2048
    grey_levels = encoder.preprocessing(batch, CPU) * 128 + 128
    assert (grey_levels - pixels).abs().max() < 1e-2 and (grey_levels - pixels).abs().mean() < 1e-3
    np.testing.assert_allclose(embed(encoder, batch), reference, atol=1e-5 * reference.max(), rtol=1e-3)


def test_only_the_known_weights_are_ever_run(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an unknown program was run"))
    known = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
    refused(stand_in, "inception", str(stand_in), f"{stand_in.stat().st_size} bytes with sha256", known, "95.6 MB")
    missing = stand_in.parent / "none.pt"
    refused(missing, "inception", str(missing), "no file", "inception-2015-12-05.pt", known, "95.6 MB", "put this file there")


# --- the hub


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (GatedRepoError, ["a gated model", "accept the terms", "hf auth login", "`encoders.*`"]),
        (RepositoryNotFoundError, ["a private model, or none that the hub knows", "check the id", "hf auth login"]),
    ],
)
@pytest.mark.parametrize("token", [None, "secret"])
def test_gated_models_need_the_users_own_login(
    error: type[Exception], parts: list[str], token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*args: object, local_files_only: bool, **settings: object) -> str:
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        raise error("403", response=SimpleNamespace(headers={}, request=None, status_code=403))

    monkeypatch.setattr("histoprompt.hub.snapshot_download", denied)
    monkeypatch.setattr("histoprompt.hub.get_token", lambda: token)
    login = "(logged in)" if token else "(not logged in)"
    refused("owner/name", "timm", "owner/name", COMMIT, login, *parts, revision=COMMIT)
    if token:
        with pytest.raises(InputError) as caught:
            load("owner/name", "timm", COMMIT)
        assert token not in str(caught.value)
