import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import PROMPTS, write_generate

from histoprompt.arrays import WHOLE, Shard
from histoprompt.diffusion import (
    decode_latents,
    encode_prompts,
    load_unet,
    load_vae,
    open_pipeline,
    scheduler_config,
)
from histoprompt.errors import InputError
from histoprompt.files import folder_manifest, read_csv, read_json, sha256, write_json
from histoprompt.precision import attend_in_single_precision
from histoprompt.sampling import generate_images, image_noise, image_seed, make_scheduler, sample_latents, verify_model

CPU = torch.device("cpu")
SETTINGS = {
    "images": 10,
    "steps": 3,
    "guidance": 2.0,
    "scheduler": "dpm++",
    "batch_size": 4,
    "dtype": "float32",
    "compile": False,
}


def generate(
    folder: Path,
    model: Path,
    table: Path,
    *,
    shard: Shard = WHOLE,
    seed: int = 3,
    manifest: Path | None = None,
    resolution: int | None = None,
    **changes: object,
) -> pd.DataFrame:
    settings = SETTINGS | changes
    csv = folder / str(shard[0]) / "manifest.csv"
    generate_images(
        table,
        manifest,
        csv,
        folder / str(shard[0]) / "timing.json",
        model=model,
        revision=None,
        settings=settings,
        shard=shard,
        seed=seed,
        device="cpu",
        threads=1,
        resolution=resolution,
    )
    return read_csv(csv)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_generate(tmp_path_factory.mktemp("prompts") / "generate.csv", 10)


@pytest.fixture(scope="module")
def reference(pipeline_folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """SHA-256 of every image, from one shard."""
    made = generate(tmp_path_factory.mktemp("reference"), pipeline_folder, prompts)
    return dict(zip(made["number"], made["sha256"], strict=True))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["pndm", "ddim"])
@pytest.mark.parametrize("kind", ["velocity", "noise"])
def test_the_reference_pipeline_gives_the_same_images(
    pipeline_folder: Path, noise_pipeline_folder: Path, kind: str, name: str, guidance: float
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    folder = pipeline_folder if kind == "velocity" else noise_pipeline_folder
    theirs = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    if name == "ddim":
        theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    pipeline = open_pipeline(folder, None)
    noise = torch.from_numpy(np.stack([image_noise(image_seed(1, n), (4, 4, 4)) for n in range(4)]))
    states = encode_prompts(pipeline, ["", *PROMPTS], CPU)
    scheduler = make_scheduler(name, scheduler_config(folder))
    latents = sample_latents(load_unet(pipeline, CPU), scheduler, noise, states[1:], states[:1], steps=6, guidance=guidance)
    keywords = {"num_inference_steps": 6, "guidance_scale": guidance, "latents": noise.clone()}
    torch.testing.assert_close(latents, theirs(PROMPTS, output_type="latent", **keywords).images, atol=1e-4, rtol=1e-4)
    images = decode_latents(load_vae(pipeline, CPU), latents / pipeline.scaling)
    expected = np.stack([np.asarray(image) for image in theirs(PROMPTS, **keywords).images])
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_compiled_model_draws_the_same_images(pipeline_folder: Path, prompts: Path, tmp_path: Path) -> None:
    plain, compiled = (generate(tmp_path / str(flag), pipeline_folder, prompts, compile=flag) for flag in (False, True))
    for name in plain["file"]:
        pair = [np.asarray(Image.open(tmp_path / folder / "0" / name)).astype(int) for folder in ("False", "True")]
        assert np.abs(pair[0] - pair[1]).max() <= 1
    assert compiled["seed"].tolist() == plain["seed"].tolist()


def test_guidance_of_one_calls_the_network_once_an_image_and_any_other_in_one_batch(pipeline_folder: Path) -> None:
    pipeline = open_pipeline(pipeline_folder, None)
    unet, states = load_unet(pipeline, CPU), encode_prompts(pipeline, ["", *PROMPTS], CPU)
    batches: list[int] = []
    unet.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    for guidance in (1.0, 2.0):
        scheduler = make_scheduler("dpm++", scheduler_config(pipeline_folder))
        sample_latents(unet, scheduler, torch.zeros(4, 4, 4, 4), states[1:], states[:1], steps=2, guidance=guidance)
    assert batches == [4, 4, 8, 8]


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_an_image_has_the_same_bytes_for_any_number_of_shards_and_order_of_rows(
    pipeline_folder: Path, prompts: Path, reference: dict[int, str], tmp_path: Path, shards: int
) -> None:
    table = tmp_path / "shuffled.csv"
    pd.read_csv(prompts).sample(frac=1, random_state=shards).to_csv(table, index=False)
    parts = [generate(tmp_path, pipeline_folder, table, shard=(shard, shards)) for shard in range(shards)]
    made = pd.concat([part for part in parts if len(part)])
    assert sorted(made["number"]) == list(range(10))
    assert dict(zip(made["number"], made["sha256"], strict=True)) == reference
    for part, shard in zip(parts, range(shards), strict=True):
        assert {number // 4 % shards for number in part["number"]} <= {shard}


def test_an_image_depends_neither_on_its_neighbours_nor_on_the_arms_size(
    pipeline_folder: Path, prompts: Path, reference: dict[int, str], tmp_path: Path
) -> None:
    table = pd.read_csv(prompts)
    few = table[table["number"].isin([1, 6, 9])]
    few.to_csv(tmp_path / "few.csv", index=False)
    made = generate(tmp_path, pipeline_folder, tmp_path / "few.csv", images=3)
    assert dict(zip(made["number"], made["sha256"], strict=True)) == {n: reference[n] for n in (1, 6, 9)}


def test_arms_share_the_noise_and_differ_by_the_prompt(
    pipeline_folder: Path, prompts: Path, reference: dict[int, str], tmp_path: Path
) -> None:
    table = pd.read_csv(prompts)
    table.loc[table["number"] == 2, "prompt"] = "cancer tissue"
    table.to_csv(tmp_path / "arm.csv", index=False)
    made = generate(tmp_path, pipeline_folder, tmp_path / "arm.csv").set_index("number")
    assert {n for n in range(10) if made.loc[n, "sha256"] != reference[n]} == {2}
    assert made["seed"].tolist() == [image_seed(3, n) for n in range(10)]


def test_seeds_and_noise_are_keyed_by_seed_and_number_alone() -> None:
    seeds = {image_seed(seed, number) for seed in range(20) for number in range(200)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)
    noise = np.stack([image_noise(seed, (4, 8, 8)) for seed in sorted(seeds)[:500]])
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    np.testing.assert_array_equal(image_noise(5, (4, 8, 8)), image_noise(5, (4, 8, 8)))


def test_the_manifest_lists_what_is_there(pipeline_folder: Path, prompts: Path, tmp_path: Path) -> None:
    made = generate(tmp_path, pipeline_folder, prompts, dtype="bfloat16", guidance=1.0)
    assert list(made.columns) == ["number", "label", "cluster", "prompt", "seed", "file", "sha256"]
    for file, digest in zip(made["file"], made["sha256"], strict=True):
        assert sha256(tmp_path / "0" / file) == digest
        assert Image.open(tmp_path / "0" / file).size == (32, 32)
    assert len(list((tmp_path / "0/images").iterdir())) == 10
    timing = read_json(tmp_path / "0/timing.json")
    assert timing["images"] == 10
    assert timing["peak_memory_bytes"] > 2**20
    assert timing["device"] == "CPU, 1 threads"


def test_half_precision_is_close_to_single(pipeline_folder: Path, prompts: Path, tmp_path: Path) -> None:
    def pixels(name: str, dtype: str) -> np.ndarray:
        made = generate(tmp_path / name, pipeline_folder, prompts, dtype=dtype)
        return np.stack([np.asarray(Image.open(tmp_path / name / "0" / file)) for file in made["file"]]).astype(float)

    difference = np.abs(pixels("full", "float32") - pixels("half", "bfloat16"))
    assert 0 < difference.mean() < 4


def test_another_resolution_than_the_models_own(pipeline_folder: Path, prompts: Path, tmp_path: Path) -> None:
    generate(tmp_path, pipeline_folder, prompts, resolution=48)
    assert Image.open(tmp_path / "0/images/000000.png").size == (48, 48)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("dpm++", "unipc", "ddim", "pndm") for kind in ("epsilon", "v_prediction", "sample")][:-1],
)
def test_every_scheduler_removes_known_noise(pipeline_folder: Path, name: str, kind: str) -> None:
    """A model that always sees the true image leads every scheduler to it, whatever it predicts."""
    truth = torch.full((1, 4, 4, 4), 0.3)
    scheduler = make_scheduler(name, scheduler_config(pipeline_folder) | {"prediction_type": kind})

    def oracle(noisy: torch.Tensor, moment: torch.Tensor, states: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        kept = scheduler.alphas_cumprod[int(moment)]
        noise = (noisy - kept.sqrt() * truth) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * truth
        return ({"epsilon": noise, "v_prediction": velocity, "sample": truth}[kind],)

    noise = torch.from_numpy(image_noise(1, (1, 4, 4, 4)))
    latents = sample_latents(oracle, scheduler, noise, torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), steps=20, guidance=1.0)
    # DDIM and PNDM end at the first time of Stable Diffusion's schedule, where noise of 0.03 is left.
    assert (latents - truth).abs().max() < (0.01 if name in ("dpm++", "unipc") else 0.1)


def test_a_model_that_is_not_what_its_manifest_says_is_refused(pipeline_folder: Path, prompts: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "arm/pipeline")
    manifest = tmp_path / "arm/manifest.json"
    write_json(manifest, {"pipeline": folder_manifest(tmp_path / "arm/pipeline")})
    assert verify_model(manifest) == tmp_path / "arm/pipeline"
    weights = tmp_path / "arm/pipeline/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors"):
        generate(tmp_path, pipeline_folder, prompts, manifest=manifest)
    weights.unlink()
    with pytest.raises(InputError, match="no such file"):
        verify_model(manifest)
    assert not (tmp_path / "0").exists()


@pytest.mark.parametrize("name", ["dpm++", "unipc", "ddim"])
def test_a_schedule_that_ends_in_pure_noise_is_followed(name: str) -> None:
    base = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert make_scheduler(name, base).alphas_cumprod[-1] < 1e-6
    with pytest.raises(InputError, match=r"pure noise(.|\n)*dpm\+\+, unipc or ddim"):
        make_scheduler("pndm", base)
    with pytest.raises(InputError, match="predicts images"):
        make_scheduler("pndm", {"prediction_type": "sample"})


def test_attention_in_single_precision_loses_nothing(pipeline_folder: Path) -> None:
    unet = load_unet(open_pipeline(pipeline_folder, None), CPU).eval()
    sample, states = torch.randn(2, 4, 4, 4), torch.randn(2, 12, 16)
    with torch.no_grad():
        exact = unet(sample, 500, states).sample
        with torch.autocast("cpu", torch.bfloat16):
            plain = unet(sample, 500, states).sample
            attend_in_single_precision(unet)
            ours = unet(sample, 500, states).sample
        torch.testing.assert_close(unet(sample, 500, states).sample, exact)
    assert (ours - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()


def test_bad_settings_prompts_and_tables_are_refused_before_sampling(
    pipeline_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"(?s)'euler'.*dpm\+\+, unipc, ddim, pndm"):
        generate(tmp_path, pipeline_folder, prompts, scheduler="euler")
    table = pd.read_csv(prompts)
    table.assign(prompt=" ".join(["tissue"] * 11)).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(InputError, match="13 tokens"):
        generate(tmp_path, pipeline_folder, tmp_path / "long.csv")
    table.assign(number=0).to_csv(tmp_path / "same.csv", index=False)
    with pytest.raises(InputError, match="repeated"):
        generate(tmp_path, pipeline_folder, tmp_path / "same.csv")
    assert not (tmp_path / "0").exists()


def test_nothing_is_left_behind_when_sampling_is_interrupted(
    pipeline_folder: Path, prompts: Path, reference: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histoprompt import sampling

    calls: list[int] = []

    def fail(*arguments: object, **keywords: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample_latents(*arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampling, "sample_latents", fail)
        generate(tmp_path, pipeline_folder, prompts)
    assert list((tmp_path / "0").iterdir()) == []
    made = generate(tmp_path, pipeline_folder, prompts)
    assert dict(zip(made["number"], made["sha256"], strict=True)) == reference
