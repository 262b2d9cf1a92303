"""What fine-tuning offers beyond its plain loop: each option against what it must equal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import Stopped, content, run
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from histoprompt.errors import InputError
from histoprompt.files import read_json
from histoprompt.finetune import finetune_diffusion
from histoprompt.launching import launch_command, run_stage
from histoprompt.training.loss import diffusion_loss, min_snr_weights
from histoprompt.training.state import StateFolder
from histoprompt.training.text_gain import amplify_differences
from histoprompt.training.trainer import Trainer

UNET = "pipeline/unet/diffusion_pytorch_model.safetensors"
LORA = {"rank": 2, "alpha": 4}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def weights(out: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(out / UNET).items())])


def losses(out: Path) -> np.ndarray:
    return pd.read_csv(out / "history.csv")[["loss", "valid_right", "valid_shuffled", "valid_empty"]].to_numpy(float)


@pytest.mark.parametrize("change", [{"accumulation": 2}, {"accumulation": 4}, {"gradient_checkpointing": True}])
def test_what_saves_memory_changes_no_result(
    inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = run(inputs, pipeline_folder, tmp_path / "arm", **change)
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-3)
    assert (weights(out) - weights(undisturbed)).abs().quantile(0.99) < 1e-3


@torch.no_grad()
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 10.0]), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_a_gain_multiplies_differences_between_prompts_and_nothing_that_they_share(
    seed: int, gain: float, prompts: int
) -> None:
    torch.manual_seed(seed)
    attention = torch.nn.ModuleDict({name: torch.nn.Linear(16, 8, bias=False) for name in ("to_q", "to_k", "to_v")})
    unet = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"attn2": attention})})
    before = {name: weight.clone() for name, weight in unet.named_parameters()}
    states = torch.randn(1, 6, 16) + 0.3 * torch.randn(prompts, 6, 16)
    amplify_differences(unet, states, gain)
    after = dict(unet.named_parameters())
    mean = states.mean(0)
    difference = torch.randn(16)
    difference -= torch.linalg.lstsq(mean.T, difference[:, None]).solution[:, 0] @ mean  # orthogonal to all that is shared
    assert torch.equal(after["block.attn2.to_q.weight"], before["block.attn2.to_q.weight"])
    for name in ("block.attn2.to_k.weight", "block.attn2.to_v.weight"):
        torch.testing.assert_close(mean @ after[name].T, mean @ before[name].T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after[name] @ difference, gain * (before[name] @ difference), atol=1e-5, rtol=1e-4)


def test_a_gain_changes_the_training_and_a_stopped_run_with_one_ends_in_the_same_bytes(
    inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    as_it_is = run(inputs, pipeline_folder, tmp_path / "one", text_gain=1.0)
    np.testing.assert_allclose(losses(as_it_is), losses(undisturbed), rtol=1e-3)
    louder = run(inputs, pipeline_folder, tmp_path / "louder", text_gain=10.0)
    assert (weights(louder) - weights(undisturbed)).abs().max() > 0.1
    train_step = Trainer._train_step

    def stopped(trainer: Any) -> None:
        if trainer.step == 9:
            raise Stopped
        train_step(trainer)

    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopped)
        run(inputs, pipeline_folder, tmp_path / "again", text_gain=10.0)
    assert content(run(inputs, pipeline_folder, tmp_path / "again", text_gain=10.0)) == content(louder)


def test_a_batch_that_cannot_be_shared_is_refused(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)4 images for 1 processes that take 3 parts.*a multiple of 3"):
        run(inputs, pipeline_folder, tmp_path / "arm", accumulation=3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_are_those_of_diffusers_example(kind: str) -> None:
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=kind)
    moments = torch.arange(1000)
    snr = compute_snr(schedule, moments)
    capped = torch.stack([snr, 5 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[kind]
    torch.testing.assert_close(min_snr_weights(schedule, moments, 5.0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_capped_loss_is_the_images_error_whatever_is_predicted(kind: str) -> None:
    """Below the cap all three predictions weigh an error of the image by its SNR."""
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    latents, noise, wrong = (torch.randn(6, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    moments = torch.tensor([300, 450, 600, 700, 850, 999])
    share = schedule.alphas_cumprod[moments].double()[:, None, None, None]
    noisy = schedule.add_noise(latents, noise, moments)

    def unet(sample: torch.Tensor, *rest: Any, **options: Any) -> list[torch.Tensor]:
        said = (noisy - share.sqrt() * wrong) / (1 - share).sqrt()  # the noise that goes with the wrong image
        return [{"sample": wrong, "epsilon": said, "v_prediction": share.sqrt() * said - (1 - share).sqrt() * wrong}[kind]]

    loss = diffusion_loss(unet, schedule, latents, noise, moments, latents, min_snr_gamma=1e9)
    expected = (share / (1 - share) * (wrong - latents).square()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_adapters_train_alone_and_are_merged(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    out = run(inputs, pipeline_folder, tmp_path / "arm", lora=LORA)
    base, merged = (
        load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (pipeline_folder, out / "pipeline")
    )
    assert base.keys() == merged.keys()
    changed = {name for name, tensor in merged.items() if not torch.allclose(tensor, base[name])}
    attention = [name for name in base if "attn" in name and name.split(".")[-2] in ("to_q", "to_k", "to_v", "0")]
    assert changed == {name for name in attention if name.endswith("weight")}
    pipeline = StableDiffusionPipeline.from_pretrained(out / "pipeline", torch_dtype=torch.float32)
    other = StableDiffusionPipeline.from_pretrained(pipeline_folder, torch_dtype=torch.float32)
    other.load_lora_weights(out / "lora")
    sample, states = torch.randn(2, 4, 4, 4), torch.randn(2, 12, 16)
    with torch.no_grad():
        ours, theirs = (p.unet(sample, 500, states).sample for p in (pipeline, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"lora": LORA},
        {"lora": LORA, "precision": "bf16", "ema_decay": None},
        {"accumulation": 2},
        {"optimizer": "adamw8bit", "learning_rate": 1e-3},
    ],
)
def test_every_kind_of_run_goes_on_to_the_same_bytes(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    run(inputs, pipeline_folder, tmp_path / "whole", **change)
    AcceleratorState._reset_state(reset_partial_state=True)
    train_step = Trainer._train_step

    def stopped(trainer: Any) -> None:
        if trainer.step == 6:
            raise Stopped
        train_step(trainer)

    with pytest.raises(Stopped), monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopped)
        run(inputs, pipeline_folder, tmp_path / "arm", **change)
    AcceleratorState._reset_state(reset_partial_state=True)
    run(inputs, pipeline_folder, tmp_path / "arm", **change)
    assert content(tmp_path / "arm") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not any(os.access(f"{p}/g++", os.X_OK) for p in os.environ["PATH"].split(":")), reason="no C++ compiler")
def test_a_compiled_model_learns_the_same(inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = run(inputs, pipeline_folder, tmp_path / "arm", compile=True)
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-3)


def test_tensorboard_shows_the_history_also_of_a_run_that_went_on(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer._train_step

    def stopped(trainer: Any) -> None:
        if trainer.step == 13 and trainer.steps_here > 6:
            raise Stopped
        train_step(trainer)

    with pytest.raises(Stopped), monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopped)
        run(inputs, pipeline_folder, tmp_path / "arm", board=tmp_path / "board")
    run(inputs, pipeline_folder, tmp_path / "arm", board=tmp_path / "board")
    events = EventAccumulator(str(tmp_path / "board"), purge_orphaned_data=True).Reload()
    history = pd.read_csv(tmp_path / "arm/history.csv")
    assert [event.step for event in events.Scalars("loss")] == history["step"].tolist()
    np.testing.assert_allclose([event.value for event in events.Scalars("loss")], history["loss"], rtol=1e-6)
    valid = history.dropna(subset="valid_right")
    np.testing.assert_allclose([event.value for event in events.Scalars("valid_right")], valid["valid_right"], rtol=1e-6)
    assert [event.step for event in events.Images("samples")] == [0, 7, 14]


def test_a_full_gpu_is_answered_with_the_settings_to_change(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trainer: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    monkeypatch.setattr(Trainer, "_train_step", full)
    with pytest.raises(
        InputError, match=r"(?s)4 images of 32 pixels.*Tried to allocate.*gradient_checkpointing: true.*lora"
    ) as caught:
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert "more" not in str(caught.value).split("holds")[1].split("expected")[0]
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(InputError) as caught:
        run(inputs, pipeline_folder, tmp_path / "arm", lora=LORA, gradient_checkpointing=True, precision="bf16")
    assert "gradient_checkpointing: true" not in str(caught.value) and "accumulation: 2" in str(caught.value)


def test_the_eight_bit_optimiser_says_what_it_needs(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match=r"adamw8bit\.txt"):
        run(inputs, pipeline_folder, tmp_path / "arm", optimizer="adamw8bit")


def test_the_eight_bit_optimiser_learns_nearly_the_same(
    inputs: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"learning_rate": 1e-3, "save_every": 13}
    states = []

    def kept(folder: StateFolder, step: int, tensors: dict[str, torch.Tensor], numbers: Any) -> None:
        states.append({t.dtype for name, t in tensors.items() if name.startswith("optimiser") and t.numel() >= 4096})

    monkeypatch.setattr(StateFolder, "save", kept)
    found = [
        losses(run(inputs, pipeline_folder, tmp_path / name, optimizer=name, **changes)) for name in ("adamw", "adamw8bit")
    ]
    assert states == [{torch.float32}, {torch.uint8}]
    np.testing.assert_allclose(found[1], found[0], rtol=2e-2)


LAUNCHED = """
import sys
from pathlib import Path
from runs import SETTINGS, arguments
from histoprompt.finetune import finetune_diffusion
from histoprompt.launching import run_stage
inputs, model, out, processes, steps = sys.argv[1:]
changes = {"steps": int(steps), "save_every": 4}
run_stage(finetune_diffusion, *arguments(Path(inputs), Path(out)), processes=int(processes), nodes=1,
          job_file=Path(out).parent / "job.json", model=model, revision=None, settings=SETTINGS | changes, seed=5,
          state_folder=Path(out).parent / "state", board_folder=None, device="cpu", threads=1)
"""


def launched(inputs: Path, model: Path, out: Path, processes: int, steps: int = 14) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1] / 'workflow/scripts'}"}
    words = [sys.executable, "-c", LAUNCHED, str(inputs), str(model), str(out), str(processes), str(steps)]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)


def test_two_processes_learn_what_one_does(inputs: Path, pipeline_folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = launched(inputs, pipeline_folder, tmp_path / "arm", 2)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    np.testing.assert_allclose(losses(tmp_path / "arm"), losses(undisturbed), rtol=1e-3)
    assert (weights(tmp_path / "arm") - weights(undisturbed)).abs().quantile(0.99) < 1e-3
    assert read_json(tmp_path / "arm/timing.json")["images"] == 14 * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arm"]


def saved_steps(state: Path) -> list[int]:
    return [read_json(path)["step"] for path in state.glob("*/step-*/state.json")]


def test_two_processes_stop_together_and_one_goes_on(inputs: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    def run_until_saved(processes: int, after: int) -> int:
        process = launched(inputs, pipeline_folder, tmp_path / "arm", processes, steps=4000)
        for _ in range(3000):
            if any(step > after for step in saved_steps(tmp_path / "state")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1].decode()
        assert process.returncode not in (0, None)
        assert "the same command goes on from it" in errors
        (step,) = saved_steps(tmp_path / "state")
        return step

    both = run_until_saved(2, after=0)
    assert both >= 4
    assert run_until_saved(1, after=both) > both


def test_processes_are_shared_among_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3 processes on 2 nodes"):
        run_stage(finetune_diffusion, processes=3, nodes=2, job_file=tmp_path / "job.json")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="outside a SLURM job"):
        launch_command(4, 2, tmp_path / "job.json", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "20017")
    *srun, script = launch_command(4, 2, tmp_path / "a job.json", 3)
    assert srun[:4] == ["srun", "--overlap", "--nodes=2", "--ntasks=2"]
    assert "--num_processes=4" in script and "--main_process_port=20017" in script and "--machine_rank=$SLURM_NODEID" in script
    assert f"'{tmp_path}/a job.json'" in script
