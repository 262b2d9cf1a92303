"""What a stage reads again is what it wrote: a changed byte is noticed, the file named, and nothing goes on from it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from runs import Stopped, content, run, write_inputs
from safetensors import SafetensorError
from safetensors.torch import load

from histoprompt.arrays import gather_each, write_rows
from histoprompt.clustering import read_kept
from histoprompt.errors import InputError
from histoprompt.files import atomic, check_seal, seal, sha256
from histoprompt.metrics import load_features
from histoprompt.training.trainer import Trainer


def flip(path: Path, place: float = 0.6) -> None:
    """Change one bit."""
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= 4
    path.write_bytes(whole)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a training after a step, as a kill does."""
    train = Trainer._train_step

    def train_or_stop(self: Trainer) -> None:
        if self.step == step:
            raise Stopped
        train(self)

    monkeypatch.setattr(Trainer, "_train_step", train_or_stop)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("state.safetensors", "flipped"),
        ("state.json", "truncated"),
        ("sha256.json", "flipped"),
        ("grid-000000007.png", "flipped"),
        ("grid-000000007.png", "gone"),
    ],
)
def test_a_damaged_state_is_named_and_training_begins_again(
    name: str,
    how: str,
    inputs: Path,
    pipeline_folder: Path,
    undisturbed: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 10)
        run(inputs, pipeline_folder, tmp_path / "arm")
    (file,) = (tmp_path / "arm-state").rglob(name)
    if how == "flipped":
        flip(file)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        file.unlink()
    out = run(inputs, pipeline_folder, tmp_path / "arm")
    named = r"\S+" if name == "sha256.json" else re.escape(str(file))
    assert re.search(f"{named} was damaged after it was written", capfd.readouterr().err)
    assert content(out) == content(undisturbed)


@pytest.mark.parametrize("how", ["flipped", "unsealed", "sealed as another"])
def test_damaged_latents_are_refused_before_training(how: str, pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inputs = write_inputs(tmp_path / "in")
    latents = inputs / "train.npy"
    if how == "flipped":
        flip(latents)
    elif how == "unsealed":
        (inputs / "train.npy.sha256").unlink()
    else:
        (inputs / "train.npy.sha256").write_text(f"{'0' * 64}  train.npy\n")
    with pytest.raises(InputError) as caught:
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert caught.value.where == str(latents) and sha256(latents) in caught.value.found
    assert "train.npy.sha256" in caught.value.expected and "delete it" in caught.value.remedy
    assert not (tmp_path / "arm").exists() and not (tmp_path / "arm-state").exists()


@pytest.mark.parametrize("read", ["for distances", "for clusters"])
def test_features_are_sealed_when_they_are_gathered_and_damage_is_named(read: str, tmp_path: Path) -> None:
    features, kept = tmp_path / "train.npy", tmp_path / "kept.csv"
    write_rows(tmp_path / "part.npy", [np.ones((40, 8), np.float32)], shape=(40, 8), dtype=np.float32)
    kept.write_text("id,label,kept\n" + "".join(f"{i},{i % 2},1\n" for i in range(40)))
    linked = tmp_path / "same.npy"
    gather_each([[tmp_path / "part.npy"]] * 2, [features, linked])
    for path in (features, linked):
        load_features(path) if read == "for distances" else read_kept(path, kept)
    flip(features)  # one file under two names
    for path in (features, linked):
        with pytest.raises(InputError) as caught:
            load_features(path) if read == "for distances" else read_kept(path, kept)
        assert caught.value.where == str(path) and sha256(path) in caught.value.found and "delete it" in caught.value.remedy


def test_a_seal_is_what_sha256sum_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    seal(path)
    check_seal(path)
    check_seal(path, sha256(path))
    assert (tmp_path / "a.npy.sha256").read_text() == f"{sha256(path)}  a.npy\n"


def test_a_full_disk_is_said_to_be_one_in_whatever_words_a_library_has_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the disk or quota is full"), atomic(tmp_path / "state"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError, match="header"), atomic(tmp_path / "state"):
        load(b"no such thing, and no full disk")


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".a.1.partial.csv").write_text("half")
    (tmp_path / ".a.2.partial.csv").mkdir()
    (tmp_path / ".a[b].3.partial.csv").write_text("another file's")
    (tmp_path / ".a.3.partial.json").write_text("another file's")
    with atomic(tmp_path / "a.csv") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.3.partial.json", ".a[b].3.partial.csv", "a.csv"]
