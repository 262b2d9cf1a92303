"""What a study will cost: operations against closed forms and known models, and what is made of them."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from histoprompt.config import arm_settings
from histoprompt.costs import Generator, count_flop, count_generator, disk_of, estimate_cost, stages_of
from histoprompt.errors import InputError

ROOT = Path(__file__).parents[2]
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
COUNTED = Generator(forward=10.0, backward=20.0, encode=3.0, decode=5.0, parameters=1000, latents=64)


def test_operations_are_those_of_closed_forms() -> None:
    linear, convolution = torch.nn.Linear(7, 5, device="meta"), torch.nn.Conv2d(3, 4, 3, padding=1, device="meta")
    assert count_flop(lambda: linear(torch.empty(11, 7, device="meta"))) == 2 * 11 * 7 * 5
    assert count_flop(lambda: convolution(torch.empty(2, 3, 6, 6, device="meta"))) == 2 * 2 * 36 * 4 * 3 * 9


@pytest.mark.parametrize(
    ("resolution", "expected"), [(512, (0.80, 2.41 - 0.80, 1.12, 2.52)), (256, (0.18, 0.54 - 0.18, 0.27, 0.62))]
)
def test_stable_diffusion_costs_what_others_counted(tmp_path: Path, resolution: int, expected: tuple[float, ...]) -> None:
    """From the architecture's configuration alone: 860 million parameters, none of which is there."""
    for part, config in (("unet", UNET), ("vae", VAE)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    found = count_generator(tmp_path, resolution, 77)
    counted = tuple(value / 1e12 for value in (found.forward, found.backward, found.encode, found.decode))
    assert counted == pytest.approx(expected, rel=0.05, abs=0.01)
    assert found.parameters == 859_520_964 and found.latents == 4 * (resolution // 8) ** 2


def arm(**finetune: object) -> dict[str, object]:
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    settings = arm_settings(config, "label")
    plain = {"steps": 100, "batch_size": 8, "validate_every": 50, "flip": True}
    sampling = {**settings["sampling"], "images": 50, "steps": 7, "guidance": 2.0}
    return {"finetune": {**settings["finetune"], **plain, **finetune}, "sampling": sampling}


def work(arms: dict[str, dict[str, object]]) -> dict[str, float]:
    stages = stages_of(COUNTED, {"dino": 2.0}, arms, train=30, valid=6, sets=2)
    return {stage.name: stage.images * stage.flop for stage in stages}


def test_every_stage_is_counted_once() -> None:
    base = {**arm(), "finetune": None}
    assert work({"base": base, "label": arm()}) == {
        "encode the subset": 36 * 2 * 3.0,
        "train label": 100 * 8 * 30.0,
        "validate label": 3 * 6 * 3 * 10.0,
        "sample base": 50 * (14 * 10.0 + 5.0),
        "sample label": 50 * (14 * 10.0 + 5.0),
        "autoencoder's own error": 50 * 8.0,
        "features, dino": 2 * 50 * 4 * 2.0,
        "each 100,000 patches, dino": 2e5,
    }
    unguided = arm()
    unguided["sampling"] = {**unguided["sampling"], "guidance": 1}  # type: ignore[dict-item]
    assert work({"label": unguided})["sample label"] == 50 * (7 * 10.0 + 5.0)
    assert work({"label": arm(gradient_checkpointing=True)})["train label"] == 100 * 8 * 40.0
    assert work({"label": arm(lora={"rank": 4, "alpha": 4})})["train label"] == 100 * 8 * 20.0


def test_room_on_the_disk() -> None:
    room = disk_of(COUNTED, {"label": arm(ema_decay=None)}, train=30, valid=6, resolution=32, patch_size=16)
    assert list(room.values()) == [4000, 12000, 4 * 36 * 2 * 64, 3 * 50 * (32**2 + 16**2)]


def test_the_page(pipeline_folder: Path, tmp_path: Path) -> None:
    encoder = {"kind": "transformers", "model": str(ROOT / "resources/foundation/dino-vit"), "revision": None}
    arguments = {
        "study": "mine", "model": pipeline_folder, "revision": None, "resolution": 32, "patch_size": 96,
        "arms": {"label": arm()}, "train": 30, "valid": 6, "sets": 2,
    }  # fmt: skip
    encoders = {"dino": encoder, "absent": {**encoder, "model": "no/where", "revision": "0" * 40}}
    estimate_cost(tmp_path / "cost.md", encoders=encoders, **arguments)  # type: ignore[arg-type]
    page = (tmp_path / "cost.md").read_text()
    for text in (
        "# What study mine will cost",
        "not measured",
        "train label",
        "features, dino",
        "GiB",
        "- absent is left out: not in",
    ):
        assert text in page
    assert max(map(len, page.splitlines())) < 400
    with pytest.raises(InputError, match="no folder of this name"):
        estimate_cost(tmp_path / "no.md", encoders={}, **{**arguments, "model": tmp_path / "none"})  # type: ignore[arg-type]
