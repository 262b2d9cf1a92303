import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import SETTINGS, Stopped, content, run
from safetensors.torch import load_file
from tiny import PROMPTS

from histoprompt import finetune as stage
from histoprompt.diffusion import encode_prompts, open_pipeline
from histoprompt.errors import InputError
from histoprompt.files import folder_manifest, read_csv, read_json, seal
from histoprompt.sampling import verify_model
from histoprompt.training.examples import draw_sample, other_prompts, rows_of_step
from histoprompt.training.settings import FinetuneSettings, learning_rate
from histoprompt.training.trainer import Trainer

RUN = """
import os, signal, sys
from histoprompt.training.trainer import Trainer
from runs import run
from pathlib import Path
step = Trainer._train_step
def killed(trainer):
    step(trainer)
    if trainer.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._train_step = killed
run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate allows one precision a process; a job is a process of its own, these tests are not."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_result_opens_as_a_pipeline_and_moves_the_unet_alone(pipeline_folder: Path, undisturbed: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(undisturbed / "pipeline", dtype=torch.float32)
    images = pipeline(PROMPTS[:1], num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 32, 32, 3)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        assert folder_manifest(undisturbed / "pipeline" / part) == folder_manifest(pipeline_folder / part)
    name = "unet/diffusion_pytorch_model.safetensors"
    base, tuned = load_file(pipeline_folder / name), load_file(undisturbed / "pipeline" / name)
    assert {k: v.shape for k, v in base.items()} == {k: v.shape for k, v in tuned.items()}
    assert sum(not torch.equal(base[k], tuned[k]) for k in base) > 0.9 * len(base)


def test_the_manifest_says_what_made_the_model(pipeline_folder: Path, undisturbed: Path) -> None:
    manifest = read_json(undisturbed / "manifest.json")
    assert (manifest["seed"], manifest["steps"], manifest["resolution"]) == (5, 14, 32)
    assert manifest["settings"] == SETTINGS
    assert manifest["pipeline"] == folder_manifest(undisturbed / "pipeline")
    assert set(manifest["base"].items()) <= set(folder_manifest(pipeline_folder).items())
    assert verify_model(undisturbed / "manifest.json") == undisturbed / "pipeline"


def test_history_grids_and_timing(undisturbed: Path) -> None:
    history = pd.read_csv(undisturbed / "history.csv")
    assert history["step"].tolist() == [6, 10, 12, 14]
    assert list(history.columns) == ["step", "loss", "learning_rate", "valid_right", "valid_shuffled", "valid_empty"]
    assert history["valid_right"].notna().tolist() == [True, False, True, True]
    assert history["loss"].between(0.1, 5).all()
    assert history["learning_rate"].tolist() == pytest.approx(
        [learning_rate(s, FinetuneSettings(**SETTINGS)) for s in (5, 9, 11, 13)]
    )
    assert Image.open(undisturbed / "training.png").size == (64 + 8 * 32, 3 * 32)  # steps 0, 7 and 14
    assert read_json(undisturbed / "timing.json")["images"] == 14 * 4
    assert not (undisturbed.parent / "arm-state").exists()


@pytest.mark.parametrize("kind", ["velocity", "noise", "image"])
def test_three_steps_equal_a_plain_loop_over_diffusers_classes(
    inputs: Path, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    folder = request.getfixturevalue({"velocity": "", "noise": "noise_", "image": "image_"}[kind] + "pipeline_folder")
    changes: dict[str, Any] = {"steps": 3, "ema_decay": None, "caption_dropout": 0.5, "schedule": "constant", "warmup_steps": 0}
    ours = load_file(run(inputs, folder, tmp_path / "arm", **changes) / "pipeline/unet/diffusion_pytorch_model.safetensors")

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
    schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    optimiser = torch.optim.AdamW(unet.parameters(), lr=1e-2, weight_decay=1e-3, foreach=False)
    texts = ["", *PROMPTS]
    states = encode_prompts(open_pipeline(folder, None), texts, torch.device("cpu"))
    moments = torch.from_numpy(np.load(inputs / "train.npy")).float()
    dropped = 0
    for step in range(3):
        rows = rows_of_step(5, step, batch_size=4, rows=11)
        draws = [draw_sample(5, step, i, shape=(4, 4, 4), moments=1000) for i in range(4)]
        latents, noises, times, context = [], [], [], []
        for row, draw in zip(rows, draws, strict=True):
            mean, log_variance = moments[row + 2, int(draw.flip < 0.5)].chunk(2)
            latents.append(0.5 * (mean + torch.exp(log_variance / 2) * torch.from_numpy(draw.posterior)))
            noises.append(torch.from_numpy(draw.noise))
            times.append(draw.moment)
            context.append(states[0 if draw.dropout < 0.5 else texts.index(PROMPTS[row % 4])])
            dropped += draw.dropout < 0.5
        z, noise, moment = torch.stack(latents), torch.stack(noises), torch.tensor(times)
        guess = unet(schedule.add_noise(z, noise, moment), moment, torch.stack(context)).sample
        target = {"noise": noise, "image": z, "velocity": schedule.get_velocity(z, noise, moment)}[kind]
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(guess, target).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
    assert 0 < dropped < 12
    for name, weight in unet.state_dict().items():
        # Adam divides by the gradient's own size, so that rounding shows where a gradient is nearly zero.
        assert (ours[name] - weight).abs().quantile(0.99) < 1e-4, name


@pytest.mark.parametrize("step", [1, 4, 11, 13])
def test_a_run_stopped_at_any_step_ends_in_the_same_bytes(
    inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    train_step, steps = Trainer._train_step, []

    def stopped(trainer: Any) -> None:
        if trainer.step == step:
            raise Stopped
        train_step(trainer)

    def counted(trainer: Any) -> None:
        steps.append(trainer.step)
        train_step(trainer)

    with pytest.raises(Stopped), monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopped)
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert not (tmp_path / "arm").exists()
    monkeypatch.setattr(Trainer, "_train_step", counted)
    run(inputs, pipeline_folder, tmp_path / "arm")
    assert steps == list(range(step // 4 * 4, 14))
    assert content(tmp_path / "arm") == content(undisturbed)
    assert not (tmp_path / "arm-state").exists()


def test_a_killed_process_ends_in_the_same_bytes(
    inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1] / 'workflow/scripts'}"}
    arguments = [sys.executable, "-c", RUN, str(inputs), str(pipeline_folder), str(tmp_path / "arm")]
    assert subprocess.run(arguments, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "arm-state").glob("*/step-000000004"))) == 1
    run(inputs, pipeline_folder, tmp_path / "arm")
    assert content(tmp_path / "arm") == content(undisturbed)


def test_sigterm_saves_the_step_it_finds_and_ends_with_an_error(
    inputs: Path,
    pipeline_folder: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train_step = Trainer._train_step

    def terminated(trainer: Any) -> None:
        if trainer.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(trainer)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", terminated)
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert caught.value.code == 143
    assert "step 7 of 14 is saved" in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "arm-state").glob("*/step-*")] == ["step-000000007"]
    assert signal.getsignal(signal.SIGTERM) is before
    run(inputs, pipeline_folder, tmp_path / "arm")
    assert content(tmp_path / "arm") == content(undisturbed)


@pytest.mark.parametrize("change", [{"seed": 6}, {"key": "other code"}, {"learning_rate": 2e-2}])
def test_a_state_of_other_settings_is_not_gone_on_from(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    train_step, steps = Trainer._train_step, []

    def counted(trainer: Any) -> None:
        steps.append(trainer.step)
        train_step(trainer)
        if len(steps) == 6:
            raise Stopped

    monkeypatch.setattr(Trainer, "_train_step", counted)
    with pytest.raises(Stopped):
        run(inputs, pipeline_folder, tmp_path / "arm")
    (tmp_path / "arm-state/notes").mkdir()
    run(inputs, pipeline_folder, tmp_path / "arm", **change)
    assert steps == [*range(6), *range(14)]
    assert [p.name for p in (tmp_path / "arm-state").iterdir()] == ["notes"]


def test_the_seed_the_average_and_the_precision_matter(
    inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    name = "pipeline/unet/diffusion_pytorch_model.safetensors"
    weights = [load_file(undisturbed / name)]
    for i, change in enumerate(({"seed": 6}, {"ema_decay": None}, {"precision": "bf16"})):
        weights.append(load_file(run(inputs, pipeline_folder, tmp_path / str(i), **change) / name))
        AcceleratorState._reset_state(reset_partial_state=True)
    flat = [torch.cat([tensor.flatten() for tensor in w.values()]) for w in weights]
    assert all(not torch.equal(flat[i], flat[j]) for i in range(4) for j in range(i))
    assert {tensor.dtype for tensor in weights[3].values()} == {torch.float32}
    assert (flat[3] - flat[0]).abs().mean() < 0.2 * (flat[1] - flat[0]).abs().mean()


def test_the_loss_falls_and_prompts_are_learned(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    """Every prompt has one image of its own, without posterior noise: only the prompt tells which."""
    for split in ("train", "valid"):
        images = np.random.default_rng(9).choice([-2.0, 2.0], (4, 1, 4, 4, 4))
        moments = np.concatenate([images, np.full_like(images, -20)], axis=2).astype(np.float16)
        np.save(tmp_path / f"{split}.npy", moments)
        seal(tmp_path / f"{split}.npy")
        pd.DataFrame({"row": range(4)}).to_csv(tmp_path / f"{split}.rows.csv", index=False)
        pd.DataFrame({"row": range(4), "prompt": PROMPTS}).to_csv(tmp_path / f"{split}.prompts.csv", index=False)
    changes = {"steps": 250, "flip": False, "batch_size": 16, "validate_every": 250, "grid_every": 250, "save_every": 250}
    out = run(inputs, pipeline_folder, tmp_path / "arm", files=tmp_path, **changes)
    history = pd.read_csv(out / "history.csv")
    assert history["loss"].iloc[-1] < 0.6 * history["loss"].iloc[0]
    last = history.iloc[-1]
    assert last["valid_right"] < last["valid_empty"]
    assert last["valid_right"] < last["valid_shuffled"]


def test_one_prompt_only_has_no_shuffled_loss(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        table = pd.read_csv(inputs / f"{split}.prompts.csv")
        table.assign(prompt=PROMPTS[0]).to_csv(tmp_path / f"{split}.prompts.csv", index=False)
    out = run(inputs, pipeline_folder, tmp_path / "arm", files=tmp_path, steps=2)
    history = pd.read_csv(out / "history.csv")
    assert history["valid_shuffled"].isna().all()
    assert history["valid_right"].notna().all()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer._train_step

    def broken(trainer: Any) -> None:
        if trainer.step == 5:
            with torch.no_grad():
                next(trainer.unet.parameters()).fill_(float("nan"))
        train_step(trainer)

    monkeypatch.setattr(Trainer, "_train_step", broken)
    with pytest.raises(InputError) as caught:
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert "learning_rate" in caught.value.where
    assert "precision" in caught.value.remedy
    assert len(list((tmp_path / "arm-state").glob("*/step-000000004/state.safetensors"))) == 1
    assert not (tmp_path / "arm").exists()


def test_a_learning_rate_that_explodes_is_named(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1e\+30 with precision no"):
        run(inputs, pipeline_folder, tmp_path / "arm", learning_rate=1e30)


def test_inputs_that_do_not_fit_are_refused_before_training(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Trainer", None)

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=match):
            run(inputs, pipeline_folder, tmp_path / "arm", files=tmp_path / "bad", **changes)
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        (tmp_path / "bad").mkdir()

    refused("fp16 on a CPU", precision="fp16")
    np.save(tmp_path / "bad/train.npy", np.zeros((13, 2, 16, 4, 4), np.float16))
    refused(r"(?s)\(13, 2, 16, 4, 4\).*8, h, w")
    np.save(tmp_path / "bad/train.npy", np.zeros((13, 1, 8, 4, 4), np.float16))
    refused("setting of `flip`")
    (tmp_path / "bad/train.npy").write_bytes((inputs / "train.npy").read_bytes()[:500])
    refused("no readable array")
    pd.DataFrame({"row": range(4, 17)}).assign(row=lambda t: t["row"] + 2).to_csv(tmp_path / "bad/train.rows.csv", index=False)
    refused("without row 5 of")
    table = pd.read_csv(inputs / "valid.prompts.csv")
    table.assign(prompt=" ".join(["tissue"] * 11)).to_csv(tmp_path / "bad/valid.prompts.csv", index=False)
    refused("13 tokens")
    table[:0].to_csv(tmp_path / "bad/valid.prompts.csv", index=False)
    refused("no row")


@given(seed=st.integers(0, 2**63), rows=st.integers(1, 40), batch_size=st.integers(1, 50), epochs=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_every_row_is_seen_once_an_epoch_whatever_the_batch_size(seed: int, rows: int, batch_size: int, epochs: int) -> None:
    steps = -(-epochs * rows // batch_size)
    seen = np.concatenate([rows_of_step(seed, step, batch_size=batch_size, rows=rows) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    np.testing.assert_array_equal(
        seen[: rows * epochs], np.concatenate([rows_of_step(seed, s, batch_size=1, rows=rows) for s in range(rows * epochs)])
    )


@given(prompts=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_a_shuffled_prompt_is_never_the_rows_own(prompts: list[int], seed: int) -> None:
    own = np.array(prompts)
    others = other_prompts(own, seed)
    if len(set(prompts)) == 1:
        assert others is None
    else:
        assert others is not None
        assert (others != own).all()
        assert set(others.tolist()) <= set(prompts)


def test_draws_are_keyed_standard_and_unlike_each_other() -> None:
    keys = [(seed, step, i) for seed in range(3) for step in range(40) for i in range(20)]
    draws = [draw_sample(*key, shape=(4, 4, 4), moments=1000) for key in keys]
    noise = np.stack([draw.noise for draw in draws])
    posterior = np.stack([draw.posterior for draw in draws])
    for values in (noise, posterior):
        assert abs(values.mean()) < 0.01
        assert abs(values.std() - 1) < 0.01
        assert len(np.unique(values[:, 0, 0, 0])) == len(keys)
    assert abs(np.corrcoef(noise.ravel(), posterior.ravel())[0, 1]) < 0.01
    moments = np.array([draw.moment for draw in draws])
    assert 0 <= moments.min() < 10
    assert 990 <= moments.max() < 1000
    assert abs(np.mean([draw.flip for draw in draws]) - 0.5) < 0.03
    again = draw_sample(*keys[-1], shape=(4, 4, 4), moments=1000)
    np.testing.assert_array_equal(again.noise, draws[-1].noise)


def test_learning_rates() -> None:
    options = FinetuneSettings(**SETTINGS | {"steps": 20, "warmup_steps": 4, "learning_rate": 1.0})
    rates = [learning_rate(step, options) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[12] == pytest.approx(0.5)
    assert 0 < rates[19] < 0.02
    constant = FinetuneSettings(**SETTINGS | {"schedule": "constant", "warmup_steps": 0, "learning_rate": 1.0})
    assert {learning_rate(step, constant) for step in range(20)} == {1.0}
    warm_all_along = FinetuneSettings(**SETTINGS | {"steps": 4, "warmup_steps": 4, "learning_rate": 1.0})
    assert learning_rate(3, warm_all_along) == 1.0


def test_the_undisturbed_history_reads_back(undisturbed: Path) -> None:
    assert len(read_csv(undisturbed / "history.csv", ("step", "valid_empty"))) == 4
