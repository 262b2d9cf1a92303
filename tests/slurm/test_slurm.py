"""A study on a SLURM cluster where everything goes wrong once, and the same study on this machine alone."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import descendants, kill, processes, step_daemons
from harness import ENVIRONMENT, ROOT, copy_project, mini_study, write_models

POLLING = str(Path(__file__).with_name("polling.py"))
STEPS = 150
TARGETS = (
    "results/small/summary.csv",
    "results/small/clusters/tiny/sweep.png",
    "results/small/samples/morphology/dataset/metadata.csv",
)
ARGUMENTS = ("--configfile", "config/small.yaml", "--", *TARGETS)
# Times and what only a computer is told; everything else must be the same.
OWN = ("logs", "benchmarks", "state", "tensorboard", "timing.json")
RULES_ON_GPUS = {"embed_images", "extract_features", "encode_latents", "reconstruct_patches", "finetune_diffusion"}
RULES_ON_GPUS |= {"generate_images", "train_classifier"}


def small_study(config):
    """One arm, trained long enough to be interrupted."""
    mini_study(config)
    config["study"] = "small"
    config["arms"] = {"morphology": {"prompts": "morphology"}}
    config["generator"]["finetune"] |= {"steps": STEPS, "validate_every": STEPS, "grid_every": STEPS, "save_every": 5}
    config["evaluation"]["protocols"] = ["matched"]
    config["ablations"] = {}
    config["replicates"] = {"arms": [], "seeds": [], "recluster": True}
    config["reader_study"]["arms"] = ["morphology"]
    config["learning_curve"]["arms"] = ["morphology"]


def small_project(folder):
    project = copy_project(folder)
    write_models(project)
    project.edit("small.yaml", small_study)
    return project


def digests(project):
    results = project.folder / "results/small"
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        # What was being written when a power cut came stays under a name that nothing reads.
        if path.is_file() and ".partial" not in path.name and not set(path.relative_to(results).parts) & set(OWN)
    }


class Trouble:
    """What goes wrong, each thing once, when the job that it befalls runs."""

    def __init__(self, cluster, project):
        self.cluster, self.project = cluster, project
        self.done = {}
        self.ahead = [self.cancel, self.cut_power, self.run_into_time_limit, self.preempt, self.lose_node]

    def look(self):
        running = {job["rule"]: job for job in self.cluster.jobs() if job["state"] == "RUNNING"}
        for befall in list(self.ahead):
            if befall(running):
                self.ahead.remove(befall)
                return

    def cancel(self, running):
        """Somebody cancels a job."""
        job = running.get("rule_make_phantom_wildcards_small_train")
        if job:
            self.cluster.ask("scancel", job["id"])
            self.done["cancel"] = job["id"]
        return job

    def cut_power(self, running):
        """The node and all its jobs are gone, and the node comes back."""
        jobs = [rule for rule in running if rule.startswith("rule_filter_outliers")]
        if jobs:
            self.cluster.kill_node(with_jobs=True)
            time.sleep(5)
            self.cluster.start_node()
            self.cluster.ask_node_for_its_jobs()
        return jobs

    def lose_node(self, running):
        """The node's daemon is gone for a while; its jobs go on."""
        jobs = [job for rule, job in running.items() if rule.startswith("rule_generate_images")]
        if jobs:
            self.done["lose_node"] = [job["id"] for job in jobs]
            self.cluster.kill_node(with_jobs=False)
            time.sleep(3)
            self.cluster.start_node()
            self.cluster.ask_node_for_its_jobs()
        return jobs

    def run_into_time_limit(self, running):
        """A job hangs, as it may on a file system that does not answer."""
        job = running.get("rule_sweep_clusters_wildcards_small_tiny")
        own = set(descendants(step_daemons()))
        scripts = [pid for pid, _, command in processes() if pid in own and "sweep_clusters.py" in command]
        if job and scripts:
            for pid in scripts:
                os.kill(pid, signal.SIGSTOP)
            self.cluster.ask("scontrol", "update", f"JobId={job['id']}", "TimeLimit=1")
            self.done["run_into_time_limit"] = job["id"]
        return job and scripts

    def preempt(self, running):
        """A job that matters more takes the GPUs of the training, which has saved a state by then."""
        job = running.get("rule_finetune_diffusion_wildcards_small_morphology")
        state = self.project.folder / "results/small/state/finetune/morphology"
        if job and list(state.rglob("*.safetensors")):
            self.cluster.ask("sbatch", "-p", "urgent", "--gpus=2", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 1")
            self.done["preempt"] = job["id"]
            return True
        return False


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study on this machine alone, undisturbed."""
    project = small_project(tmp_path_factory.mktemp("alone"))
    result = project.run("--cores", "2", *ARGUMENTS)
    assert result.returncode == 0, result.stdout
    return project


@pytest.fixture(scope="module")
def troubled(cluster, tmp_path_factory):
    """The study through SLURM, with all that trouble."""
    project = small_project(tmp_path_factory.mktemp("troubled"))
    profile = project.folder / "profiles/slurm/config.yaml"
    # As a site would, too little memory for one rule; its second try gets twice as much.
    text = profile.read_text().replace(
        "\nset-resources:\n", "\nset-resources:\n  resample_patches:\n    mem_mb: attempt * 700\n"
    )
    profile.write_text(text)
    trouble = Trouble(cluster, project)
    with open(project.folder / "output", "w") as output:
        process = subprocess.Popen(
            [sys.executable, POLLING, "--workflow-profile", "profiles/slurm", *ARGUMENTS],
            cwd=project.folder,
            env=ENVIRONMENT | {"HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 1500
        try:
            while process.poll() is None and time.monotonic() < deadline:
                trouble.look()
                time.sleep(0.3)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            # This SLURM tells a job's processes by their parents, and loses sight of what outlives them.
            for pid, _, command in processes():
                if str(project.folder) in command:
                    kill(pid, signal.SIGKILL)
    assert process.returncode == 0, (project.folder / "output").read_text()
    assert not trouble.ahead
    return project, trouble.done, cluster.jobs()


def attempts(jobs, rule):
    """The SLURM jobs of a rule, one after the other."""
    return [job for job in jobs if job["rule"] == rule]


def test_it_ends_with_the_same_bytes(troubled, alone):
    project, _, _ = troubled
    ours, theirs = digests(project), digests(alone)
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} == set()
    assert {"summary.csv", "samples/morphology.h5", "metrics/morphology.json", "models/morphology/manifest.json"} <= set(ours)
    assert any(name.startswith("models/morphology/pipeline/unet/") and name.endswith(".safetensors") for name in ours)


def test_jobs_of_gpu_rules_are_in_the_gpu_partition_and_see_a_gpu_each(troubled, cluster):
    project, _, jobs = troubled
    seen, used = cluster.devices(), set()
    for job in jobs:
        if job["rule"].startswith("rule_"):
            gpu = any(
                job["rule"].startswith(f"rule_{name}_wildcards") or job["rule"] == f"rule_{name}" for name in RULES_ON_GPUS
            )
            assert job["partition"] == ("gpu" if gpu else "cpu"), job
            assert seen[job["id"]] in ("0", "1") if gpu else seen[job["id"]] == "none", job
            used.add(seen[job["id"]])
    assert used == {"0", "1", "none"}
    for log in (project.folder / "results/small/logs").rglob("*.log"):
        rule = log.relative_to(project.folder / "results/small/logs").parts[0].removesuffix(".log")
        assert ("CUDA_VISIBLE_DEVICES: " in log.read_text()) == (rule in RULES_ON_GPUS), log


def test_a_cancelled_job_is_tried_again(troubled):
    _, done, jobs = troubled
    first, second = attempts(jobs, "rule_make_phantom_wildcards_small_train")
    assert (first["id"], first["state"], second["state"]) == (done["cancel"], "CANCELLED", "COMPLETED")


def test_a_job_over_its_memory_gets_more(troubled):
    _, _, jobs = troubled
    first, second = attempts(jobs, "rule_resample_patches_wildcards_small")
    assert first["state"] in ("FAILED", "OUT_OF_MEMORY") and second["state"] == "COMPLETED"
    assert (first["memory"], second["memory"]) == ("700M", "1400M")


def test_a_job_over_its_time_is_tried_again(troubled):
    _, done, jobs = troubled
    first, second = attempts(jobs, "rule_sweep_clusters_wildcards_small_tiny")
    assert (first["id"], first["state"], second["state"]) == (done["run_into_time_limit"], "TIMEOUT", "COMPLETED")


def test_jobs_of_a_node_that_died_are_run_again_by_slurm(troubled):
    _, _, jobs = troubled
    early = tuple(f"rule_{name}" for name in ("make_phantom", "filter_outliers", "embed_images", "extract_features"))
    victims = [job for job in jobs if job["restarts"] != "0" and job["rule"].startswith(early)]
    assert victims
    for job in victims:
        assert job["state"] == "COMPLETED" and attempts(jobs, job["rule"])[-1] == job


def test_jobs_outlive_their_nodes_daemon(troubled):
    _, done, jobs = troubled
    survivors = [job for job in jobs if job["id"] in done["lose_node"]]
    assert survivors and all(job["state"] == "COMPLETED" and job["restarts"] == "0" for job in survivors)


def test_a_preempted_training_goes_on_from_its_state(troubled):
    project, done, jobs = troubled
    (training,) = attempts(jobs, "rule_finetune_diffusion_wildcards_small_morphology")
    assert (training["id"], training["state"]) == (done["preempt"], "COMPLETED") and int(training["restarts"]) >= 1
    timing = json.loads((project.folder / "results/small/models/morphology/timing.json").read_text())
    assert 0 < timing["images"] < 4 * STEPS


def test_nothing_is_left_to_do(troubled):
    project, _, _ = troubled
    assert "Nothing to be done" in project.run("-n", *ARGUMENTS).stdout


def test_the_commands_of_the_documentation(troubled):
    """Each in a shell, as a user types it, in the finished study."""
    project, _, _ = troubled
    shutil.copy(project.folder / "config/small.yaml", project.folder / "config/mine.yaml")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    text = (ROOT / "docs/cluster.md").read_text()
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        words = command.replace("config/mine.yaml", f"config/mine.yaml -- {' '.join(TARGETS)}")
        result = subprocess.run(
            ["bash", "-c", words], cwd=project.folder, env=ENVIRONMENT | {"PATH": path}, capture_output=True, text=True
        )
        said = result.stdout + result.stderr
        assert result.returncode == 0, (command, said)
        expected = {"snakemake": "Nothing to be done", "squeue": "rule_sweep_clusters", "scontrol": "MinJobAge"}
        assert expected[command.split()[0]] in said, (command, said)
