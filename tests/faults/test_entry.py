"""Bad studies and inputs through the command that users give: an exit code, one message, and nothing made or lost."""

import time

import h5py
import numpy as np
import pytest
from harness import Project, copy_project

from histoprompt.files import folder_manifest


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_project(tmp_path_factory.mktemp("entry"))


def pcam(folder, spoil):
    """PCam's six files, one of them spoilt."""
    for split in ("train", "valid", "test"):
        for part, shape in (("x", (6, 96, 96, 3)), ("y", (6, 1, 1, 1))):
            with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_{part}.h5", "w") as file:
                file[part] = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8) % 2
    spoil(folder / "camelyonpatch_level_2_split_train_x.h5")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-999])


def table(folder, text):
    (folder / "table.csv").write_text(text)


CASES = {
    "a truncated HDF5 file": (
        lambda folder: pcam(folder, truncated),
        {"source": "pcam", "root": "input"},
        ["camelyonpatch_level_2_split_train_x.h5", "a truncated HDF5 file", "a whole HDF5 file", "download it again"],
    ),
    "an HDF5 file of something else": (
        lambda folder: pcam(folder, lambda path: path.write_bytes(b"<html>")),
        {"source": "pcam", "root": "input"},
        ["camelyonpatch_level_2_split_train_x.h5", "no readable HDF5 file", "a whole HDF5 file"],
    ),
    "a class that leaves its folder": (
        lambda folder: table(folder, "path,label\na.png,../../../../escaped\nb.png,benign\n"),
        {"source": "table", "root": "input/table.csv", "classes": []},
        ["input/table.csv", "'../../../../escaped'", "no slash", "rename the class"],
    ),
    "a table of images that are not there": (
        lambda folder: table(folder, "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(40))),
        {"source": "table", "root": "input/table.csv", "classes": []},
        ["input/table.csv", "do not exist", "relative paths start at the table's own folder", "correct the paths"],
    ),
    "an empty class folder": (
        lambda folder: (folder / "benign").mkdir(),
        {"source": "folders", "root": "input", "classes": []},
        ["input/benign", "no image", "images in every class folder", "add images"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_inputs_that_cannot_be_used(case: str, project: Project, tmp_path):
    make, data, parts = CASES[case]
    folder = project.folder / "input"
    (tmp_path / "input").mkdir()
    folder.unlink(missing_ok=True)
    folder.symlink_to(tmp_path / "input")
    make(tmp_path / "input")

    def use(config):
        config["data"] |= data | {"phantom": None}

    study = ("--configfile", project.edit("bad.yaml", use))
    before, started = folder_manifest(tmp_path), time.monotonic()
    result = project.run("--cores", "1", "results/demo/patches/train.h5", *study)
    assert result.returncode != 0 and time.monotonic() - started < 90
    assert [part for part in [*parts, "found:", "expected:", "to do:"] if part not in result.stdout] == [], result.stdout
    assert "Traceback" not in result.stdout
    assert folder_manifest(tmp_path) == before
    made = [path for path in (project.folder / "results/demo").rglob("*") if path.is_file()]
    assert {path.relative_to(project.folder / "results/demo").parts[0] for path in made} <= {"logs", "benchmarks", ".lock"}


@pytest.mark.parametrize("text", ["study: [", "", "study: !!python/object/apply:os.system ['touch it-ran']"])
def test_study_files_that_are_none(text: str, project: Project):
    """Snakemake reads them before anything of ours runs, and says so in its own words."""
    (project.folder / "config/bad.yaml").write_text(text)
    result = project.run("-n", "--configfile", "config/bad.yaml")
    assert result.returncode != 0 and "Config file" in result.stdout
    assert "Traceback" not in result.stdout and len(result.stdout.splitlines()) < 6
    assert not (project.folder / "it-ran").exists()
