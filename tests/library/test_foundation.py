"""The recipe of the embedded models, in two steps each, and the shipped models themselves."""

import copy
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from histoprompt.errors import InputError
from histoprompt.files import folder_manifest, read_json
from histoprompt.foundation.autoencoder import (
    DETAIL,
    STRUCTURE,
    _losses,
    build,
    carry_over,
    psnr,
    scale_latents,
    train_autoencoder,
)
from histoprompt.foundation.captions import TONES, stain_captions
from histoprompt.foundation.diffusion import _encode, _frequencies, build_unet, pretrain_diffusion, widen
from histoprompt.foundation.images import make_textures, make_tissue
from histoprompt.foundation.residual_network import train_residual_network
from histoprompt.foundation.text import LENGTH, NUMBERS, VOCABULARY, build_tokenizer
from histoprompt.foundation.textures import draw_texture
from histoprompt.foundation.training import matrix_optimisers
from histoprompt.foundation.vision_transformer import train_vision_transformer
from histoprompt.phantom import MORPHOLOGIES
from histoprompt.templates import fill
from histoprompt.words import number_words

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "resources/foundation"
PCAM = REPOSITORY.parent / "shared/data/pcam_mini"
needs_pcam = pytest.mark.skipif(not PCAM.is_dir(), reason="no folder shared/data/pcam_mini beside the repository")
BRIEF = {"training_steps": 2, "seconds": None, "seed": 0, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A few training images, with a few rows renamed to real ones so that every branch of the recipe runs."""
    folder = tmp_path_factory.mktemp("images")
    make_tissue(folder / "tissue.npy", folder / "tissue.csv", patches=60, slides=8, seed=1, pcam_root=None, workers=1)
    table = pd.read_csv(folder / "tissue.csv")
    table.loc[table.index >= 40, ["source", "morphology"]] = ["pcam", -1]
    table.to_csv(folder / "tissue.csv", index=False)
    make_textures(folder / "textures.npy", pictures=30, seed=1, photograph_share=0.3, workers=1)
    return folder


def test_a_texture_depends_on_its_seed_alone():
    first, again, other = draw_texture((1, 2), 96), draw_texture((1, 2), 96), draw_texture((1, 3), 96)
    assert (first == again).all() and (first != other).any()


def test_captions_tell_the_tone_of_the_stain():
    rng = np.random.default_rng(0)
    references = np.array(list(TONES.values()), np.float64)
    captions = stain_captions(np.repeat(references, 5, 0) + rng.normal(0, 1, (40, 3)), 0)
    assert [caption.split()[3] for caption in captions] == [tone for tone in TONES for _ in range(5)]
    same = stain_captions(np.repeat(references, 5, 0), 0)
    assert len(set(same)) == len(TONES)  # equal colours, equal captions
    assert all(caption.startswith("Histology image of ") and ", stain type " in caption for caption in captions)


def test_every_word_of_a_prompt_is_one_token():
    tokenizer = build_tokenizer()
    for word in {*VOCABULARY, *TONES}:
        assert len(tokenizer(word).input_ids) == 3, word
    for number in range(NUMBERS):
        assert len(tokenizer(number_words(number)).input_ids) - 2 == (3 if "-" in number_words(number) else 1)
    prompt = "Histology image of cancer tissue, morphology type thirty-two"
    assert len(tokenizer(prompt).input_ids) == 13
    assert tokenizer.model_max_length == LENGTH


@torch.no_grad()
@pytest.mark.parametrize("nested", [None, 2])
def test_scaled_latents_restore_the_same_image(images, nested):
    torch.manual_seed(0)
    model = build([8, 16, 16], 6, 1).eval()
    pixels = torch.from_numpy(np.load(images / "tissue.npy")[:40]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def first_alone(latents):
        return torch.cat([latents[:, : nested or 6], torch.zeros_like(latents[:, nested or 6 :])], 1)

    before = model.encode(pixels).latent_dist
    relative = before.std / before.mean.std((0, 2, 3), keepdim=True)
    restored, rough = model.decode(before.mean).sample, model.decode(first_alone(before.mean)).sample
    scale_latents(model, pixels, nested)
    after = model.encode(pixels).latent_dist
    deviations = torch.tensor([1.0] * (nested or 6) + [DETAIL] * (6 - (nested or 6)))
    if nested:  # the one that is left most of when blurred
        left = F.avg_pool2d(before.mean[:, :nested], 4).var((0, 2, 3)) / before.mean[:, :nested].var((0, 2, 3))
        deviations[left.argmax()] = STRUCTURE
    assert torch.allclose(model.decode(after.mean).sample, restored, atol=1e-4)
    assert torch.allclose(model.decode(first_alone(after.mean)).sample, rough, atol=1e-4)
    assert torch.allclose(after.mean[:, : nested or 6].mean((0, 2, 3)), torch.zeros(nested or 6), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), deviations, atol=1e-4)
    assert torch.allclose(after.std, relative * deviations[:, None, None], rtol=1e-4)


@torch.no_grad()
def test_a_nested_autoencoder_learns_to_restore_from_the_first_channels(images):
    torch.manual_seed(0)
    pixels = torch.from_numpy(np.load(images / "tissue.npy")[:16]).permute(0, 3, 1, 2).float() / 127.5 - 1
    errors = {}
    for kept in (None, 1):
        model = build([8, 8], 2, 1)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(150):
            with torch.enable_grad():
                loss, _ = _losses(model, pixels[:, :, ::3, ::3].contiguous(), generator, 1e-6, kept)
                loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        latents = model.encode(pixels[:, :, ::3, ::3]).latent_dist.mean
        latents[:, 1:] = 0
        errors[kept] = (model.decode(latents).sample - pixels[:, :, ::3, ::3]).square().mean().item()
    assert errors[1] < errors[None]


@torch.no_grad()
def test_a_widened_unet_draws_the_same_and_says_zero_of_the_rest():
    torch.manual_seed(0)
    narrow = build_unet([16, 16, 32], 3, 12, 16).eval()
    wide = widen(narrow, 5).eval()
    sample, states = torch.randn(2, 5, 12, 12), torch.randn(2, 4, 16)
    said = wide(sample, 300, states).sample
    assert torch.allclose(said[:, :3], narrow(sample[:, :3], 300, states).sample, atol=1e-5)
    assert said[:, :3].abs().max() > 0.01 and (said[:, 3:] == 0).all()


def test_a_base_sees_tissue_in_four_orientations_each_as_the_autoencoder_reads_it(images):
    torch.manual_seed(0)
    vae = build([8, 8, 16], 4, 1).eval()
    pixels = torch.from_numpy(np.load(images / "tissue.npy")[:3]).permute(0, 3, 1, 2)
    found = _encode(vae, pixels, 2)
    assert found.shape == (4, 3, 2, 2, 24, 24)
    for turn, image in enumerate((pixels, pixels.flip(-1), pixels.transpose(-1, -2), pixels.rot90(-1, (-2, -1)))):
        with torch.no_grad():
            posterior = vae.encode(image.float() / 127.5 - 1).latent_dist
        assert torch.allclose(found[turn, :, 0].float(), posterior.mean[:, :2], atol=1e-2)
        assert torch.allclose(found[turn, :, 1].float(), posterior.std[:, :2], atol=1e-2)


def test_pictures_are_drawn_as_often_as_the_recipe_says(images):
    table = pd.read_csv(images / "tissue.csv")
    found = _frequencies(images / "tissue.csv", {"pcam": 0.5, "glands": 4}).numpy()
    glands = (table.morphology == MORPHOLOGIES.index("glands")).to_numpy()
    real = (table.source == "pcam").to_numpy()
    assert glands.any() and (found[glands] == 4).all() and (found[real] == 0.5).all() and (found[~glands & ~real] == 1).all()
    with pytest.raises(InputError, match=r"(?s)foundation\.yaml.*found: +gland\n.*glands.*pcam"):
        _frequencies(images / "tissue.csv", {"gland": 4})


def test_matrices_take_orthogonal_steps_and_everything_else_those_of_adamw():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 6))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    other = copy.deepcopy(model)
    optimisers = matrix_optimisers(model, 0.01, ["0"])
    adamw = torch.optim.AdamW(other.parameters(), 0.01, betas=(0.9, 0.99), weight_decay=1e-3)
    images = torch.randn(5, 3, 6, 6)
    for net, steppers in ((model, optimisers), (other, [adamw])):
        net(images).square().mean().backward()
        for stepper in steppers:
            stepper.step()
    steps = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    same = {name: weight.detach() - before[name] for name, weight in other.named_parameters()}
    for name in ("0.weight", "0.bias", "2.bias"):  # the first layer is one of the ends
        assert torch.allclose(steps[name], same[name], atol=1e-7)
    # Jordan et al. 2024: five Newton-Schulz steps bring singular values near one; 0.2 times the root of the longer side
    # gives the step AdamW's size
    values = torch.linalg.svdvals(steps["2.weight"] + 0.01 * 1e-3 * before["2.weight"]) / (0.01 * 0.2 * 128**0.5)
    assert ((values > 0.3) & (values < 1.3)).all()


def test_a_kernel_is_a_matrix_of_its_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    before = model[0].weight.detach().clone()
    muon, _ = matrix_optimisers(model, 0.1, [])
    for _ in range(2):  # a second step after gradients were dropped
        model.zero_grad(set_to_none=True)
        model(torch.randn(5, 2, 6, 6)).square().mean().backward()
        assert muon.param_groups[0]["params"][0].grad.shape == (4, 18)
        muon.step()
    assert (model[0].weight != before).all()


def test_a_deeper_autoencoder_starts_with_the_outer_levels_of_the_other():
    torch.manual_seed(0)
    shallow, deep, same = build([8, 8, 16], 4, 1), build([8, 8, 16, 16], 6, 1), build([8, 8, 16], 4, 1)
    fresh = {name: tensor.clone() for name, tensor in deep.state_dict().items()}
    carry_over(shallow, deep)
    kept = {name for name, tensor in deep.state_dict().items() if not tensor.equal(fresh[name])}
    assert deep.decoder.up_blocks[-1].resnets[0].conv1.weight.equal(shallow.decoder.up_blocks[-1].resnets[0].conv1.weight)
    assert deep.encoder.down_blocks[0].resnets[0].conv1.weight.equal(shallow.encoder.down_blocks[0].resnets[0].conv1.weight)
    assert not any("mid_block" in name or "quant" in name for name in kept)
    carry_over(shallow, same)
    assert all(tensor.equal(shallow.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_the_recipe_makes_models_that_their_libraries_open(images, tmp_path):
    tissue, table, textures = images / "tissue.npy", images / "tissue.csv", images / "textures.npy"
    train_vision_transformer(
        tissue,
        table,
        tmp_path / "vit",
        tmp_path / "vit.json",
        image_size=48,
        width=24,
        depth=1,
        heads=1,
        prototypes=16,
        local_views=2,
        batch_size=4,
        learning_rate=1e-3,
        **BRIEF,
    )
    train_residual_network(
        tissue,
        table,
        tmp_path / "resnet",
        tmp_path / "resnet.json",
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        batch_size=4,
        learning_rate=1e-3,
        **BRIEF,
    )
    stage = {
        "channels": [8, 8, 16],
        "latent_channels": 4,
        "training_steps": 2,
        "seconds": None,
        "batch_size": 6,
        "learning_rate": 1e-3,
        "kl_weight": 1e-5,
        "shares": {"pcam": 3, "phantom": 2, "textures": 1},
        "nested": None,
    }
    train_autoencoder(
        tissue,
        table,
        textures,
        tmp_path / "vae",
        tmp_path / "vae.json",
        layers=1,
        crop=32,
        stages=[stage, stage, {**stage, "channels": [8, 8, 16, 16], "latent_channels": 6, "nested": 2}],
        seed=0,
        device="cpu",
        threads=1,
    )
    assert [stage["steps"] for stage in read_json(tmp_path / "vae.json")["stages"]] == [2, 2, 2]
    pretrain_diffusion(
        tissue,
        table,
        tmp_path / "vae",
        tmp_path / "diffusion",
        tmp_path / "diffusion.json",
        channels=[16, 16, 32],
        learned_channels=2,
        draws={"pcam": 0.5, "glands": 4},
        text_width=32,
        text_layers=1,
        batch_size=4,
        learning_rate=1e-3,
        **BRIEF,
    )
    assert read_json(tmp_path / "diffusion.json")["steps"] == 2
    assert AutoModel.from_pretrained(tmp_path / "vit").config.hidden_size == 24
    assert AutoModel.from_pretrained(tmp_path / "resnet").config.hidden_sizes == [8, 8, 8, 8]
    assert not [path for path in tmp_path.glob("*/**/config.json") if "_name_or_path" in path.read_text()]
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "diffusion", torch_dtype=torch.float32)
    picture = pipeline("Histology image of pink tissue", num_inference_steps=2, height=96, width=96).images[0]
    assert picture.size == (96, 96)


def test_shipped_models_are_small_and_are_what_their_manifest_says():
    manifest = read_json(SHIPPED / "manifest.json")
    found = {name: digest for name, digest in folder_manifest(SHIPPED).items() if name != "manifest.json"}
    assert found == manifest
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 24e6
    assert {path.suffix for path in SHIPPED.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".txt", ".md", ".sha256"}
    assert not [path for path in SHIPPED.rglob("*.json") if "_name_or_path" in path.read_text()]


@pytest.mark.parametrize("kind", ["morphology", "descriptor", "morphology_descriptor"])
def test_the_shipped_text_encoder_tells_all_prompts_apart(kind):
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED / "diffusion", torch_dtype=torch.float32)
    demo = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    clusters = {"morphology": 33, "descriptor": 1, "morphology_descriptor": demo["morphology"]["k"]}[kind]
    described = [", ".join(words) for words in product(*demo["descriptors"].values())] if "descriptor" in kind else [""]
    prompts = [
        fill(demo["prompts"][kind], label=label, cluster=cluster, index="words", descriptors=words)
        for label, cluster, words in product(demo["data"]["classes"], range(clusters), described)
    ]
    tokens = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(tokens)[0].flatten(1)
    distances = torch.cdist(states, states) / states.norm(dim=1).mean()
    assert distances[~torch.eye(len(prompts), dtype=torch.bool)].min() > 0.15


@needs_pcam
def test_the_shipped_autoencoder_restores_real_patches_it_never_saw():
    with h5py.File(PCAM / "camelyonpatch_level_2_split_test_x.h5") as file:
        pixels = torch.from_numpy(file["x"][::4]).permute(0, 3, 1, 2).float() / 255
    vae = StableDiffusionPipeline.from_pretrained(SHIPPED / "diffusion", torch_dtype=torch.float32).vae
    with torch.no_grad():
        restored = torch.cat([vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample for x in pixels.split(48)])
    assert psnr(pixels, (restored / 2 + 0.5).clamp(0, 1)).mean() >= 24
