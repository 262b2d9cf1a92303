"""Nothing that is loaded can run a program, and nothing is written outside a study's folders."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import run, write_inputs
from test_bad_inputs import refused
from test_embedding import IMAGENET
from test_importing import make_folders, make_table, take
from tiny import write_generate, write_patch_file
from transformers import ViTConfig, ViTModel

from histoprompt.classifier import build_model
from histoprompt.clustering import read_kept
from histoprompt.diffusion import load_tokenizer, load_unet, load_vae, open_pipeline
from histoprompt.embedding import embed_images
from histoprompt.encoders import inception
from histoprompt.errors import InputError
from histoprompt.export import export_dataset
from histoprompt.files import folder_manifest, read_array, read_csv, read_json, seal
from histoprompt.folders import read_image
from histoprompt.patches import PatchFile, write_patches
from histoprompt.sampling import generate_images
from histoprompt.training.state import StateFolder

SCRIPTS = Path(__file__).parents[2] / "workflow"
CPU = torch.device("cpu")


class Payload:
    """What runs a program when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def pickled(proof: Path) -> bytes:
    content = pickle.dumps(Payload(proof))
    pickle.loads(content)
    assert proof.exists(), "the payload works, where anybody runs it"
    proof.unlink()
    return content


@pytest.fixture
def checkpoint(proof: Path, tmp_path: Path) -> bytes:
    """The same as `torch.save` writes it."""
    torch.save({"weight": Payload(proof)}, tmp_path / "checkpoint.pt")
    return (tmp_path / "checkpoint.pt").read_bytes()


def encoder(folder: Path) -> Path:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, **IMAGENET}))
    return folder


def embed(folder: Path, tmp_path: Path, kind: str = "transformers") -> None:
    patches = write_patch_file(tmp_path / "p.h5", 2)
    settings: dict[str, Any] = {"revision": None, "batch_size": 2, "dtype": "float32", "device": "cpu", "threads": 1}
    embed_images(patches, tmp_path / "f.npy", model=folder, kind=kind, **settings)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", ["transformers", "clip", "timm"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("form", ["pickled", "checkpoint"])
def test_encoders(kind: str, name: str, form: str, request: pytest.FixtureRequest, proof: Path, tmp_path: Path) -> None:
    content = request.getfixturevalue(form)
    folder = encoder(tmp_path / "model")
    if kind == "timm":
        change(folder / "config.json", architecture="vit_tiny_patch16_224", pretrained_cfg={"file": name, "custom_load": True})
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        embed(folder, tmp_path, kind)
    assert not proof.exists()
    assert str(folder) in str(caught.value) and "safetensors" in str(caught.value)


def test_a_pickle_beside_safetensors_is_not_read(pickled: bytes, proof: Path, tmp_path: Path) -> None:
    folder = encoder(tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes(pickled)
    embed(folder, tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("end", [".bin", ".safetensors"])
def test_pipelines(part: str, end: str, pickled: bytes, proof: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    (weights,) = (folder / part).glob("*.safetensors")
    weights.unlink()
    weights.with_suffix(end).write_bytes(pickled)
    prompts = write_generate(tmp_path / "generate.csv", 2)
    settings: dict[str, Any] = {
        "images": 2, "steps": 2, "guidance": 2.0, "scheduler": "ddim", "batch_size": 2, "dtype": "float32", "compile": False,
    }  # fmt: skip
    refused(
        lambda: generate_images(
            prompts, None, tmp_path / "out/manifest.csv", tmp_path / "out/timing.json",
            model=folder, revision=None, settings=settings, shard=(0, 1), seed=1, device="cpu", threads=1,
        ),
        tmp_path / "pipeline",
        str(folder),
    )  # fmt: skip
    assert not proof.exists()


def test_code_beside_a_model_is_never_imported(proof: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n"
    folder = encoder(tmp_path / "model")
    (folder / "modeling_own.py").write_text(code)
    change(folder / "config.json", model_type="own_kind", auto_map={"AutoModel": "modeling_own.Own"})
    with pytest.raises(InputError, match="cannot be loaded"):
        embed(folder, tmp_path)
    change(folder / "config.json", model_type="vit", auto_map={"AutoModel": "modeling_own.Own"})
    embed(folder, tmp_path)  # the library's own class

    custom = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    for name in ("pipeline.py", "unet/own.py", "tokenizer/own.py"):
        (custom / name).write_text(code)
    index = json.loads((custom / "model_index.json").read_text())
    change(custom / "model_index.json", unet=["own", "UNet2DConditionModel"])
    change(custom / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    opened = open_pipeline(custom, None)
    load_tokenizer(opened), load_unet(opened, CPU), load_vae(opened, CPU)
    for changed, named in (
        ({"_class_name": ["pipeline", "Own"]}, "Own"),
        ({"unet": ["own", "OwnUNet"]}, "OwnUNet"),
        ({"safety_checker": ["own", "Own"], "vae": ["own", "Own"]}, "Own"),
    ):
        (custom / "model_index.json").write_text(json.dumps(index | changed))
        refused(lambda: open_pipeline(custom, None), custom, str(custom))
        with pytest.raises(InputError, match=named):
            open_pipeline(custom, None)
    assert not proof.exists()


def test_weights_of_the_classifier(pickled: bytes, checkpoint: bytes, proof: Path, tmp_path: Path) -> None:
    for content in (pickled, checkpoint):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        refused(lambda: build_model("small_cnn", tmp_path / "weights.safetensors", 2, seed=0), tmp_path, str(path))
    assert not proof.exists()


def test_inception_runs_after_its_digest_matched_alone(
    checkpoint: bytes, proof: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    path.write_bytes(checkpoint)
    error = refused(lambda: inception.load(path), tmp_path, str(path))
    assert hashlib.sha256(checkpoint).hexdigest() in error.found and inception.INCEPTION_SHA256 in error.expected
    opened = []

    def load(path: Path, **arguments: Any) -> None:
        opened.append(path)
        raise RuntimeError("enough")

    monkeypatch.setattr("torch.jit.load", load)
    refused(lambda: inception.load(path), tmp_path, str(path))
    assert not opened
    monkeypatch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(checkpoint).hexdigest())
    with pytest.raises(RuntimeError, match="enough"):
        inception.load(path)
    assert opened == [path] and not proof.exists()


def objects(path: Path, proof: Path) -> Path:
    """An array that is a pickle."""
    np.save(path, np.array([Payload(proof)], dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("end", [".npy", ".npz", ".joblib", ".pkl"])
def test_arrays(end: str, pickled: bytes, proof: Path, tmp_path: Path) -> None:
    path = tmp_path / f"array{end}"
    if end == ".npy":
        objects(path, proof)
    elif end == ".npz":
        np.savez(path, array=np.array([Payload(proof)], dtype=object))
    else:
        path.write_bytes(pickled)
    for mapped in (False, True):
        refused(lambda mapped=mapped: read_array(path, mapped=mapped), tmp_path, str(path))
    pd.DataFrame({"id": ["a"], "label": [0], "kept": [1]}).to_csv(tmp_path / "kept.csv", index=False)
    refused(lambda: read_kept(path, tmp_path / "kept.csv"), tmp_path, str(path))
    assert not proof.exists()


def test_latents(proof: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inputs = write_inputs(tmp_path / "in")
    seal(objects(inputs / "train.npy", proof))
    with pytest.raises(InputError, match=r"train\.npy"):
        run(inputs, pipeline_folder, tmp_path / "arm")
    assert not proof.exists()


@pytest.mark.parametrize("read", [read_csv, read_json, PatchFile, lambda path: read_image(path, 8)])
def test_files_of_other_kinds(read: Callable[[Path], Any], pickled: bytes, proof: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickled)
    refused(lambda: read(tmp_path / "file"), tmp_path, "file")
    assert not proof.exists()


@pytest.mark.parametrize("form", ["pickled", "checkpoint"])
def test_a_state_that_is_a_pickle(
    form: str, request: pytest.FixtureRequest, proof: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever can write states can write digests: the format itself must not run anything."""
    state = StateFolder(tmp_path / "state", "a" * 64)
    state.save(3, {"unet.weight": torch.ones(2)}, {"step": 3})
    (weights,) = tmp_path.glob("state/*/*/state.safetensors")
    weights.write_bytes(request.getfixturevalue(form))
    step = weights.parent
    (step / "sha256.json").unlink()
    digests = {f"{step.name}/{name}": digest for name, digest in folder_manifest(step).items()}
    (step / "sha256.json").write_text(json.dumps(digests))
    state.tidy()
    with pytest.raises(Exception, match=r"(?i)header"):
        state.load()
    assert not proof.exists()
    weights.write_bytes(b"x")
    state.tidy()
    assert state.load() is None and str(weights) in capfd.readouterr().err


FORBIDDEN = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "imp", "torch.hub")
CALLS = ("eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "pd.read_pickle", "np.fromfile")


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def faults_of(path: Path) -> list[str]:
    """Calls and imports in a program by which a file could become code."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in FORBIDDEN or name in FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wrong = name in CALLS
        wrong |= name == "np.load" and keywords.get("allow_pickle") != "False"
        wrong |= name.startswith("yaml.") and "load" in name and "Safe" not in keywords.get("Loader", "") and "safe" not in name
        wrong |= keywords.get("shell") == "True" or keywords.get("trust_remote_code") == "True"
        wrong |= name.endswith(".from_pretrained") and path.parent.name != "foundation" and "local_files_only" not in keywords
        wrong |= name == "torch.jit.load" and path.name != "inception.py"
        if wrong:
            found.append(f"{node.lineno}: {name}")
    return found


def test_no_program_of_ours_loads_code_from_data(tmp_path: Path) -> None:
    programs = sorted(SCRIPTS.rglob("*.py"))
    assert len(programs) > 100
    assert {path.name: faults for path in programs if (faults := faults_of(path))} == {}
    for line in (
        "import pickle",
        "torch.load(p)",
        "np.load(p)",
        "yaml.load(t)",
        "eval(t)",
        "f(shell=True)",
        "from joblib import load",
    ):
        (tmp_path / "program.py").write_text(line)
        assert faults_of(tmp_path / "program.py"), line


@pytest.mark.parametrize("word", ["../evil", "..", "/tmp/evil", "a/../../evil", ".hidden", "a\nb", "a\\b", "", "x" * 101])
def test_no_class_leaves_the_folder_of_its_images(word: str, tmp_path: Path) -> None:
    """Words of classes are folders of exported images, and a folder that is there already is replaced."""
    precious = tmp_path / "study/samples/precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("the study's")
    table = make_table(tmp_path / "in", label=["a", word or " "] * 10)
    refused(lambda: take(tmp_path, source="table", root=table), tmp_path, str(table))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    write_patches(tmp_path / "train.h5", [(images, [0, 1], ["a", "b"])], classes=["a", word], size=8)
    shard = tmp_path / "study/samples/arm/0"
    shard.mkdir(parents=True)
    columns = {"number": [0], "label": [0], "cluster": [0], "prompt": ["p"], "seed": [1], "file": ["0.png"], "sha256": ["0"]}
    pd.DataFrame(columns).to_csv(shard / "manifest.csv", index=False)
    out = tmp_path / "study/samples"
    refused(
        lambda: export_dataset(
            [shard / "manifest.csv"], tmp_path / "train.h5", out / "arm.h5", out / "arm.csv",
            out / "arm/dataset/metadata.csv", patch_size=8,
        ),
        tmp_path,
        "train.h5",
    )  # fmt: skip
    assert precious.read_text() == "the study's"


def test_links_among_images_are_read_and_never_followed_when_writing(tmp_path: Path) -> None:
    make_folders(tmp_path / "root", {"a": 10, "b": 10})
    outside = tmp_path / "outside.png"
    link = sorted((tmp_path / "root/a").iterdir())[0]
    link.rename(outside)
    link.symlink_to(outside)
    before = outside.read_bytes()
    patches, _, _ = take(tmp_path, source="folders", root=tmp_path / "root")
    assert len(patches) and outside.read_bytes() == before
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").write_text("x")
    (tmp_path / "out.h5").symlink_to(outside)
    write_patch_file(tmp_path / "out.h5", 2)
    assert not (tmp_path / "out.h5").is_symlink() and outside.read_bytes() == before
