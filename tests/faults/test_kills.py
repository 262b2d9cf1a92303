"""Whatever dies in the middle, the same command again ends in the same bytes."""

import signal
import time

import numpy as np
from harness import digests
from undisturbed import EVERYTHING, STUDY, TARGETS, Finished

KILLS = 30 if EVERYTHING else 4
TRAINING = "results/mini/models/morphology/manifest.json"


def at_work(run):
    """Whether the first job has begun."""
    return run.wait_for(lambda: "rule " in run.log.read_text())


def test_killed_at_random_moments_the_same_command_ends_in_the_same_bytes(finished: Finished, tmp_path):
    """The moments: seconds of work that each run is left. The more kills, the more of them have to be done again."""
    project = finished.copy(tmp_path / "project", results=False)
    moments = np.random.default_rng(20260).uniform(0, (3.0 if EVERYTHING else 1.5) * finished.seconds / KILLS, KILLS)
    killed = 0
    for moment in moments:
        with project.start("--cores", "1", *TARGETS, *STUDY) as run:
            if at_work(run):
                time.sleep(moment)
            killed += run.process.poll() is None
        print(f"{moment:.1f} s, {len(digests(project.folder / 'results/mini'))} of {len(finished.digests)} files", flush=True)
        assert not run.processes()
        assert "Traceback" not in run.log.read_text() and "locked" not in run.log.read_text()
    result = project.run("--cores", "1", *TARGETS, *STUDY)
    assert result.returncode == 0, result.stdout
    assert killed >= KILLS / 2, f"{killed} of {KILLS}"
    assert digests(project.folder / "results/mini") == finished.digests


def test_a_terminated_run_goes_on(finished: Finished, tmp_path):
    project = finished.copy(tmp_path / "project", results=False)
    with project.start("--cores", "1", *TARGETS, *STUDY) as run:
        state = project.folder / "results/mini/state"
        assert run.wait_for(lambda: bool(list(state.rglob("*.safetensors"))))
        run.send(signal.SIGTERM)
        assert run.process.wait(300) != 0 and not run.processes()
    assert not (project.folder / TRAINING).exists() and list(state.rglob("*.safetensors"))
    result = project.run("--cores", "1", *TARGETS, *STUDY)
    assert result.returncode == 0, result.stdout
    assert digests(project.folder / "results/mini") == finished.digests


def test_of_two_runs_of_a_study_the_second_is_refused_and_the_first_not_harmed(finished: Finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    force = ("--forcerun", "finetune_diffusion", "encode_latents")
    with project.start("--cores", "1", TRAINING, *STUDY, *force) as first:
        assert at_work(first)
        lock = project.folder / "results/mini/.lock"
        assert lock.read_text().startswith(f"process {first.process.pid} on ")
        first.send(signal.SIGSTOP)  # so that it is at work for as long as this takes
        second = project.run("--cores", "1", TRAINING, *STUDY, *force)
        assert second.returncode != 0 and "lock" in second.stdout
        assert "Traceback" not in second.stdout and len(second.stdout.splitlines()) < 30
        # Whoever unlocks the folder all the same, as Snakemake says, is still kept off.
        assert project.run("--unlock", *STUDY).returncode == 0
        second = project.run("--cores", "1", TRAINING, *STUDY, *force)
        assert second.returncode != 0 and "Traceback" not in second.stdout
        for part in ("another run of this study", f"process {first.process.pid} on ", "expected:", "to do:"):
            assert part in second.stdout
        assert project.run("-n", *STUDY).returncode == 0
        first.send(signal.SIGCONT)
        assert first.process.wait(300) == 0, first.log.read_text()
    assert lock.read_text() == ""
    assert digests(project.folder / "results/mini") == finished.digests


def test_a_lock_of_another_machine_is_left_alone(finished: Finished, tmp_path):
    """Its run may be alive, though this machine cannot see it."""
    project = finished.copy(tmp_path / "project")
    (project.folder / "results/mini/.lock").write_text("process 1 on another\n")
    target = "results/mini/prompts/morphology.train.csv"
    locks = project.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text(f"{target}\n")
    arguments = ("--cores", "1", target, *STUDY, "--forcerun", "build_prompts")
    result = project.run(*arguments)
    assert result.returncode != 0 and "--unlock" in result.stdout and "Traceback" not in result.stdout
    (project.folder / "results/mini/.lock").write_text("")
    result = project.run(*arguments)
    assert result.returncode == 0, result.stdout
