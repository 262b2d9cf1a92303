"""Disks that are full, folders that may not be written to, results that move: one message, nothing lost, nothing half made."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from harness import ENVIRONMENT, Project, digests
from undisturbed import EVERYTHING, SECRETS, STUDY, TARGETS, Finished

from histoprompt.files import read_csv
from histoprompt.patches import PatchFile
from histoprompt.sampling import verify_model
from histoprompt.sources import ImageTable

STAGES = {
    "generate_images": ("samples/morphology/1-of-2/manifest.csv", "samples/morphology/1-of-2/images"),
    "encode_latents": ("latents/tiny/k3/train.npy",),
    "make_phantom": ("patches/train.h5",),
    "finetune_diffusion": ("models/morphology/manifest.json", "models/morphology/pipeline"),
    "gather_embeddings": ("embeddings/tiny/train.npy",),
    "cluster_embeddings": tuple(
        f"clusters/tiny/k3/{name}" for name in ("train.csv", "valid.csv", "test.csv", "centroids.npy", "quality.json")
    ),
    "export_dataset": ("samples/morphology.h5", "samples/morphology.csv", "samples/morphology/dataset"),
    "reconstruct_patches": ("samples/vae.h5", "samples/vae.native.h5"),
    "extract_features": ("features/tiny/matched/morphology.npy",),
    "draw_arms": ("figures/arms.png",),
    "make_reader_study": ("reader_study/page/index.html",),
}
TESTED = list(STAGES) if EVERYTHING else list(STAGES)[:3]
# What Snakemake, the lock and a log need; no stage's files fit into it.
LEFT = 3 * 4096


@pytest.fixture(scope="module")
def full_disk(finished: Finished, tmp_path_factory: pytest.TempPathFactory):
    """A copy of the finished study whose results lie on a small disk of their own."""
    project = finished.copy(tmp_path_factory.mktemp("full") / "project")
    results = project.folder / "results"
    shutil.move(results, project.folder / "kept")
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(results)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of 64 MiB cannot be mounted here: that needs root and the right to mount")
    try:
        shutil.copytree(project.folder / "kept", results, dirs_exist_ok=True)
        yield project
    finally:
        subprocess.run(["umount", "--lazy", str(results)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a disk but for so many bytes."""
    filler = folder / "filler"
    with open(filler, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(folder).free - left)
    return filler


@pytest.mark.parametrize("stage", TESTED)
def test_a_full_disk_ends_in_one_message_and_the_run_goes_on_once_there_is_space(
    stage: str, full_disk: Project, finished: Finished
):
    results = full_disk.folder / "results/mini"
    for name in STAGES[stage]:
        shutil.rmtree(results / name) if (results / name).is_dir() else (results / name).unlink()
    target = f"results/mini/{STAGES[stage][0]}"
    filler = fill(full_disk.folder / "results", LEFT)
    result = full_disk.run("--cores", "1", target, *STUDY)
    filler.unlink()
    assert result.returncode != 0
    assert f"{stage} cannot go on" in result.stdout and "the disk or quota is full" in result.stdout, result.stdout
    for part in ("expected: room", "free some space", "then run the same command again"):
        assert part in result.stdout
    assert "Traceback" not in result.stdout
    assert not (full_disk.folder / target).exists()
    assert not [path for path in results.rglob("*") if ".partial" in path.name]
    # Beside what was there: shards and states from which the next run goes on.
    left = digests(results)
    assert not [name for name, digest in finished.digests.items() if left.get(name, digest) != digest]
    result = full_disk.run("--cores", "1", target, *TARGETS, *STUDY)
    assert result.returncode == 0, result.stdout
    assert digests(results) == finished.digests


def test_no_space_at_all_is_said_before_anything_begins(full_disk: Project, finished: Finished):
    results = full_disk.folder / "results/mini"
    filler = fill(full_disk.folder / "results", 0)
    result = full_disk.run("--cores", "1", *TARGETS, *STUDY, "--forcerun", "make_phantom")
    filler.unlink()
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert "results/mini/.lock" in result.stdout and "the disk or quota is full" in result.stdout
    assert "make_phantom" not in result.stdout.split("WorkflowError")[1]
    assert digests(results) == finished.digests


class Unprivileged(Project):
    """A project of a user whom permissions bind, as they do not bind root."""

    def command(self, *arguments: str) -> list[str]:
        bound = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
        return [*bound, *super().command(*arguments)]


@pytest.fixture
def bound(finished: Finished, tmp_path):
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root passes every permission, and setpriv (util-linux) is not there to lay that down")
    project = Unprivileged(finished.copy(tmp_path / "project").folder)
    yield project
    subprocess.run(["chmod", "-R", "u+rwX", str(project.folder)], check=True)


def read_only(folder: Path) -> None:
    """Take away the right to write below a folder."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def test_read_only_results_are_read_and_never_changed(bound: Unprivileged, finished: Finished):
    results = bound.folder / "results/mini"
    read_only(results)
    result = bound.run("--cores", "1", *TARGETS, *STUDY)
    assert result.returncode == 0 and "Nothing to be done" in result.stdout
    result = bound.run("--cores", "1", *TARGETS, *STUDY, "--forcerun", "make_phantom")
    # Snakemake looks at the outputs before anything of ours begins.
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert "Write-protected output files" in result.stdout and "results/mini/" in result.stdout
    (results / "patches").chmod(0o755)
    for path in (results / "patches").iterdir():
        path.chmod(0o644)
    result = bound.run("--cores", "1", *TARGETS, *STUDY, "--forcerun", "make_phantom", "--until", "make_phantom")
    assert result.returncode != 0 and "Traceback" not in result.stdout
    for part in ("results/mini/.lock", "no permission", "expected:", "change the permissions"):
        assert part in result.stdout
    assert digests(results) == finished.digests


def test_a_stages_folder_without_permission(bound: Unprivileged, finished: Finished):
    folder = bound.folder / "results/mini/clusters/tiny/k3"
    for path in (folder / name for name in ("centroids.npy", "quality.json", "train.csv", "valid.csv", "test.csv")):
        path.unlink()
    folder.chmod(0o555)
    arguments = ("--cores", "1", "results/mini/clusters/tiny/k3/train.csv", *STUDY)
    result = bound.run(*arguments)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    for part in ("cluster_embeddings cannot go on", "results/mini/clusters/tiny/k3", "no permission", "change the permissions"):
        assert part in result.stdout
    folder.chmod(0o755)
    result = bound.run(*arguments)
    assert result.returncode == 0, result.stdout
    assert digests(bound.folder / "results/mini") == finished.digests


def test_inputs_without_permission(bound: Unprivileged):
    weights = bound.folder / "models/pipeline/unet/diffusion_pytorch_model.safetensors"
    weights.chmod(0)
    result = bound.run("-n", *STUDY)
    assert result.returncode != 0 and "Traceback" not in result.stdout
    for part in (str(weights.relative_to(bound.folder)), "no permission", "expected:", "to do:"):
        assert part in result.stdout
    assert len(result.stdout.splitlines()) < 12


def test_results_that_were_copied_elsewhere_are_complete(finished: Finished, tmp_path):
    moved = finished.copy(tmp_path / "another place" / "project")
    assert moved.planned(*TARGETS, *STUDY) == set()
    # A fresh clone that was given the results alone knows nothing of how they were made.
    clone = finished.copy(tmp_path / "clone", results=False)
    subprocess.run(["cp", "-a", str(moved.folder / "results"), str(clone.folder)], check=True)
    shutil.rmtree(moved.folder)
    assert clone.planned(*TARGETS, *STUDY) == set()
    results = clone.folder / "results/mini"
    assert digests(results) == finished.digests
    assert verify_model(results / "models/morphology/manifest.json").is_relative_to(clone.folder)
    images = ImageTable(results / "samples/morphology.csv", ["healthy", "cancer"])
    assert len(images.read(0, 16)) == 16
    with PatchFile(results / "samples/morphology.h5") as patches:
        assert len(patches) == 16
    dataset = results / "samples/morphology/dataset"
    assert all((dataset / name).is_file() for name in read_csv(dataset / "metadata.csv", ("file_name",))["file_name"])


def test_no_secret_of_the_environment_is_written_anywhere(finished: Finished):
    """The undisturbed run had tokens in its environment."""
    read = 0
    for path in finished.project.folder.rglob("*"):
        if path.is_file() and ("results" in path.parts or ".snakemake" in path.parts):
            content = path.read_bytes()
            read += 1
            assert not [secret for secret in SECRETS.values() if secret.encode() in content], path
    assert read > 50 and not set(SECRETS.values()) & set(ENVIRONMENT.values())
