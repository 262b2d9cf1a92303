import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import patch_images, write_patch_file

from histoprompt.errors import InputError
from histoprompt.export import export_dataset
from histoprompt.files import read_csv, sha256
from histoprompt.patches import PatchFile


def shard(folder: Path, numbers: list[int], size: int = 32) -> Path:
    """A shard's manifest with its images."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in numbers:
        file = f"images/{number:06d}.png"
        Image.fromarray(patch_images(1, size, seed=number)[0]).save(folder / file)
        rows.append(
            {
                "number": number,
                "label": number % 2,
                "cluster": number // 2,
                "prompt": f"tissue, type {number // 2}",
                "seed": 2**62 + number,
                "file": file,
                "sha256": sha256(folder / file),
            }
        )
    columns = ["number", "label", "cluster", "prompt", "seed", "file", "sha256"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def export(folder: Path, shards: list[Path], patch_size: int = 16) -> None:
    patches = write_patch_file(folder / "patches.h5", 2)
    samples = folder / "samples"
    export_dataset(
        shards, patches, samples / "arm.h5", samples / "arm.csv", samples / "arm/dataset/metadata.csv", patch_size=patch_size
    )


def test_shards_become_one_data_set(tmp_path: Path) -> None:
    arm = tmp_path / "samples/arm"
    export(tmp_path, [shard(arm / "1", [2, 3]), shard(arm / "0", [4, 1, 0]), shard(arm / "2", [])])
    with PatchFile(tmp_path / "samples/arm.h5") as patches:
        assert patches.ids == [f"arm-{n:06d}" for n in range(5)]
        assert patches.classes == ("healthy", "cancer")
        assert patches.labels.tolist() == [0, 1, 0, 1, 0]
        for number in range(5):
            blocks = patch_images(1, 32, seed=number)[0].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
            assert np.abs(patches.read(number, number + 1)[0] - blocks).max() <= 0.5
    table = read_csv(tmp_path / "samples/arm.csv")
    assert list(table.columns) == ["number", "label", "cluster", "prompt", "seed", "sha256", "file"]
    assert table["number"].tolist() == list(range(5))
    assert table["seed"].tolist() == [2**62 + n for n in range(5)]
    assert [sha256(tmp_path / "samples" / file) for file in table["file"]] == table["sha256"].tolist()


def test_the_folder_is_what_the_datasets_library_reads(tmp_path: Path) -> None:
    """`imagefolder` wants metadata.csv at the top, with a column `file_name` that names every image below it once."""
    arm = tmp_path / "samples/arm"
    export(tmp_path, [shard(arm / "0", [0, 1, 2])])
    with open(arm / "dataset/metadata.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file_name", "label", "class", "cluster", "prompt", "seed"]
    assert [row["file_name"] for row in rows] == ["healthy/000000.png", "cancer/000001.png", "healthy/000002.png"]
    assert {p.relative_to(arm / "dataset").as_posix() for p in (arm / "dataset").rglob("*.png")} == {
        row["file_name"] for row in rows
    }
    assert rows[1] | {"seed": ""} == {
        "file_name": "cancer/000001.png",
        "label": "1",
        "class": "cancer",
        "cluster": "0",
        "prompt": "tissue, type 0",
        "seed": "",
    }
    assert Image.open(arm / "dataset/healthy/000002.png").size == (32, 32)


def test_a_second_export_replaces_the_first_with_the_same_bytes(tmp_path: Path) -> None:
    manifest = shard(tmp_path / "samples/arm/0", [0, 1, 2])
    export(tmp_path, [manifest])
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "samples/arm/dataset/cancer/000009.png").touch()
    export(tmp_path, [manifest])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_missing_changed_or_unlike_images_are_named(tmp_path: Path) -> None:
    manifest = shard(tmp_path / "samples/arm/0", [0, 1, 2])
    image = manifest.parent / "images/000001.png"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    with pytest.raises(InputError, match=r"000001\.png\n  found:    SHA-256"):
        export(tmp_path, [manifest])
    image.unlink()
    with pytest.raises(InputError, match=r"000001\.png\n  found:    no such file"):
        export(tmp_path, [manifest])
    assert not (tmp_path / "samples/arm.h5").exists()
    assert not list((tmp_path / "samples/arm").glob("dataset/*"))
    image.write_bytes(content)
    larger = shard(tmp_path / "samples/arm/1", [3], size=64)
    with pytest.raises(InputError, match=r"(?s)000003\.png.*64 x 64.*32 x 32"):
        export(tmp_path, [manifest, larger])


@pytest.mark.parametrize(
    "damage", [lambda content: b"no image", lambda content: b"", lambda content: content[: len(content) // 2]]
)
def test_images_that_were_damaged_when_they_were_made_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    manifest = shard(tmp_path / "samples/arm/0", [0, 1, 2])
    image = manifest.parent / "images/000001.png"
    image.write_bytes(damage(image.read_bytes()))
    table = read_csv(manifest)
    table.loc[table["number"] == 1, "sha256"] = sha256(image)
    table.to_csv(manifest, index=False)
    with pytest.raises(InputError, match=r"000001\.png\n  found:    no readable image"):
        export(tmp_path, [manifest])
    assert not (tmp_path / "samples/arm.h5").exists()


def test_labels_without_a_class_are_refused(tmp_path: Path) -> None:
    manifest = shard(tmp_path / "samples/arm/0", [0, 1])
    read_csv(manifest).assign(label=[0, 2]).to_csv(manifest, index=False)
    with pytest.raises(InputError, match=r"(?s)label 2.*0 to 1.*healthy, cancer"):
        export(tmp_path, [manifest])


@pytest.mark.parametrize("numbers", [[0, 2], [0, 1, 1], [1, 2], []])
def test_missing_or_repeated_numbers_are_refused(tmp_path: Path, numbers: list[int]) -> None:
    with pytest.raises(InputError, match="once each"):
        export(tmp_path, [shard(tmp_path / "samples/arm/0", numbers)])


def test_the_image_folder_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    arm = tmp_path / "samples/arm"
    export(tmp_path, [shard(arm / "0", [0, 1, 2])])
    data = load_dataset("imagefolder", data_dir=str(arm / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(zip(data["label"], data["prompt"], strict=True)) == [
        (0, "tissue, type 0"),
        (0, "tissue, type 1"),
        (1, "tissue, type 0"),
    ]
    assert {image.size for image in data["image"]} == {(32, 32)}
