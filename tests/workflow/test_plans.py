"""Plans: what would run, for every shipped study, and what is refused."""

import os
import re
import shutil

import pytest
import yaml
from harness import ROOT, Project


def small(config):
    config["study"] = "small"
    config["arms"] = {"label": {"prompts": "label"}}
    config["replicates"] = {"arms": ["label"], "seeds": [4], "recluster": True}
    config["ablations"] = {}
    config["reader_study"]["arms"] = ["label"]
    config["learning_curve"]["arms"] = ["label"]


def test_the_demo(project):
    jobs = project.planned()
    assert {job for job in jobs if job.startswith("finetune")} == {
        f"finetune_diffusion {a}" for a in ("label", "morphology", "shuffled")
    }
    assert {"make_phantom train", "compute_metrics real", "compute_metrics vae", "train_classifier real+label"} <= jobs
    assert not {job for job in jobs if "seed" in job or "pcam" in job}


def test_the_papers_ablations(project):
    assert "summarise_ablation patches" in project.planned("ablations", "--configfile", "config/pcam.yaml")


def test_the_papers_study_downloads_pcam_and_needs_neither_data_nor_models(project):
    result = project.run("-n", "--configfile", "config/pcam.yaml")
    assert result.returncode == 0, result.stdout
    assert "rule download_pcam:" in result.stdout and "results/pcam/clusters/dino/k33/" in result.stdout
    assert "results/demo" not in result.stdout and "make_phantom" not in result.stdout


def test_a_root_comes_from_the_command_line(project, tmp_path):
    for split in ("train", "valid", "test"):
        for part in "xy":
            (tmp_path / f"camelyonpatch_level_2_split_{split}_{part}.h5").write_bytes(b"real enough for a plan")
    arguments = ("--configfile", "config/pcam_mini.yaml", "--config", f"data={{root: {tmp_path}}}")
    jobs = project.planned(*arguments, "--", "results/pcam_mini/patches/test.kept.csv")
    assert jobs == {"import_patches test", "filter_outliers test"}


def test_no_study_file_takes_anything_from_the_default_one(project):
    study = project.edit("incomplete.yaml", lambda config: config.pop("evaluation"))
    result = project.run("-n", "--configfile", study)
    assert result.returncode != 0
    assert "`evaluation` of config/incomplete.yaml" in result.stdout and "no such key" in result.stdout
    study = project.edit("small.yaml", small)
    jobs = project.planned("--configfile", study)
    assert {job for job in jobs if job.startswith("build_prompts")} == {"build_prompts label"}


def test_replicates_are_made_on_request_alone(project):
    study = project.edit("small.yaml", small)
    jobs = project.planned("replicate", "--configfile", study)
    assert {"finetune_diffusion label-seed4", "generate_images label-seed4, 1-of-1", "summarise_replicates"} <= jobs
    assert "finetune_diffusion label" not in jobs
    # The study's own clusters are there for the real patches that every classifier is also given.
    assert {job for job in jobs if job.startswith("cluster")} == {f"cluster_embeddings dino, 12{own}" for own in ("", "-seed4")}


def test_replicates_may_keep_the_studys_clusters(project):
    def shared(config):
        small(config)
        config["replicates"]["recluster"] = False

    study = project.edit("small.yaml", shared)
    jobs = project.planned("replicate", "--configfile", study)
    assert {job for job in jobs if job.startswith("cluster")} == {"cluster_embeddings dino, 12"}


def test_an_ablation_runs_its_own_arms_and_those_beside_it(project):
    jobs = project.planned("results/demo/ablations/guidance.md")
    assert {job for job in jobs if job.startswith("finetune_diffusion")} == {
        "finetune_diffusion label",
        "finetune_diffusion morphology",
    }
    assert {job for job in jobs if job.startswith("generate_images")} == {
        f"generate_images {arm}, 1-of-1"
        for arm in ("label", "label_w1", "label_w5", "morphology", "morphology_w1", "morphology_w3", "morphology_w5")
    }
    assert not {"draw_arms", "summarise_study", "train_classifier label"} & jobs


def test_ablations_are_no_part_of_the_study(project):
    assert "summarise_ablation clusters" in project.planned("ablations")
    assert not {job for job in project.planned() if "ablation" in job or "steps_" in job or "k33" in job}


def test_an_ablations_arm_has_replicates(project):
    jobs = project.planned("results/demo/metrics/steps_25-seed3.json")
    assert "finetune_diffusion steps_25-seed3" in jobs
    jobs = project.planned("results/demo/metrics/morphology_w5-seed3.json")
    assert {job for job in jobs if job.startswith("finetune")} == {"finetune_diffusion morphology-seed3"}


def test_a_dry_run_that_would_train_says_what_that_costs(project):
    command = "snakemake --cores 1 estimate --configfile config/small.yaml"
    config = ("--config", "threads=1", "seed=7")
    study = project.edit("small.yaml", small)
    assert project.run("-n", "--configfile", study).stdout.splitlines()[-1].endswith(f"in disk: {command}")
    assert command not in project.run("-n", "results/small/patches/train.h5", "--configfile", study).stdout
    made = project.run("--cores", "1", "estimate", "--configfile", study)
    assert made.returncode == 0, made.stdout
    last = project.run("-n", "--configfile", study).stdout.splitlines()[-1]
    assert re.match(r"In all .* on one A100.* GiB of disk at most\. Estimated on 20\d\d-", last) and last.endswith(
        f"again: {command}"
    )
    assert "Traceback" not in project.run("-n", "nowhere", "--configfile", study).stdout
    last = project.run("-n", "--configfile", study, *config).stdout.splitlines()[-1]
    assert last.endswith(f"{command} --config threads=1 seed=7")


def test_more_images_train_nothing_more(project):
    jobs = project.planned("results/demo/more/morphology/500-b/dataset/README.md")
    assert {job.split()[0] for job in jobs} >= {"plan_more_images", "generate_more_images", "export_more_images"}
    assert {job for job in jobs if job.startswith("finetune")} == {"finetune_diffusion morphology"}
    assert not {job.split()[0] for job in jobs} & {"train_classifier", "write_report", "write_cards"}
    result = project.run("-n", "results/demo/more/label/mine/prompts.csv")
    assert result.returncode != 0 and "config/more/mine.csv" in result.stdout


def test_the_report_asks_for_nothing_that_is_made_on_request(project):
    jobs = project.planned("results/demo/report.html")
    assert "write_report" in jobs
    assert not {job.split()[0] for job in jobs} & {"draw_coverage_map", "summarise_learning_curve", "summarise_ablation"}


def test_a_coverage_map_is_made_on_request_alone(project):
    assert "draw_coverage_map" in project.planned("coverage_map") - project.planned()


def test_an_explorer_is_made_on_request_alone(project):
    def own_clusters(config):
        small(config)
        config["arms"]["own"] = {"prompts": "morphology", "encoder": "resnet", "k": 16}
        config["evaluation"]["encoders"] = ["resnet"]

    assert {"make_explorer", "draw_coverage_map"} <= project.planned("explorer") - project.planned()
    study = ("--configfile", project.edit("own.yaml", own_clusters))
    # Its images are placed among the study's clusters, though the study measures nothing in that encoder's space.
    assert "gather_features dino, own" in project.planned("explorer", *study) - project.planned(*study)


def test_a_learning_curve_is_a_job_a_curve_and_seed(project):
    jobs = project.planned("learning_curve")
    assert {job for job in jobs if "learning_curve" in job} == {"summarise_learning_curve"} | {
        f"train_learning_curve {curve}, {seed}" for curve in ("real", "label", "morphology") for seed in (1, 2, 3)
    }
    assert not {job for job in jobs if job.startswith(("train_classifier", "compute_metrics"))}
    assert "finetune_diffusion shuffled" not in jobs


def test_descriptors_are_measured_where_prompts_name_them(project):
    def described(config):
        small(config)
        config["arms"]["both"] = {"prompts": "morphology_descriptor"}

    def about_descriptors(*arguments):
        return {job for job in project.planned(*arguments) if "descri" in job.split()[0]}

    assert about_descriptors() == set()
    study = ("--configfile", project.edit("described.yaml", described))
    assert about_descriptors("results/small/prompts/both.train.csv", *study) == {
        *("describe_images train", "describe_images valid", "bin_descriptors")
    }
    images = ("vae", "label", "both")
    assert about_descriptors(*study) == {
        *(f"describe_images {name}" for name in ("train", "valid", *images)),
        *(f"compare_descriptors {name}" for name in images),
        *("bin_descriptors", "summarise_descriptors"),
    }


def test_any_file_is_a_target(project):
    jobs = project.planned("results/demo/metrics/morphology.json")
    assert {job.split()[0] for job in jobs} == {
        *(
            "make_phantom",
            "filter_outliers",
            "embed_images",
            "gather_embeddings",
            "extract_features",
            "gather_features",
            "cluster_embeddings",
            "balance_subset",
            "build_prompts",
        ),
        *("encode_latents", "gather_latents", "finetune_diffusion", "generate_images", "export_dataset", "compute_metrics"),
    }
    assert {job for job in jobs if job.startswith("finetune")} == {"finetune_diffusion morphology"}


def test_the_study_and_the_command_line_set_the_shards(project):
    def shards(*arguments):
        jobs = project.planned(
            "results/demo/features/dino/paper/label.npy", "results/demo/latents/dino/k12/train.npy", *arguments
        )
        stages = ("embed_images dino, train", "encode_latents dino, 12", "extract_features dino, test",
                  "generate_images label", "extract_features dino, label")  # fmt: skip
        return [sum(job.startswith(f"{stage}, ") for job in jobs) for stage in stages]

    assert shards() == [1, 1, 1, 1, 1]
    assert shards("--set-scatter", "patches=3", "images=2") == [3, 3, 3, 2, 2]

    def change(config):
        config["shards"] = {"patches": 2, "images": 4}

    assert shards("--configfile", project.edit("shards.yaml", change)) == [2, 2, 2, 4, 4]


def test_an_arm_may_use_other_clusters(project):
    def other(config):
        small(config)
        config["arms"]["other"] = {"prompts": "morphology", "encoder": "resnet", "k": 7, "sampling": {"guidance": 1.0}}

    jobs = project.planned("results/small/metrics/other.json", "--configfile", project.edit("other.yaml", other))
    assert "cluster_embeddings resnet, 7" in jobs and "cluster_embeddings dino, 12" not in jobs


@pytest.mark.parametrize(
    ("resolution", "native", "train"),
    [
        (96, "samples/label.h5", "samples/label.h5"),
        (192, "samples/label.csv", "samples/label.h5"),  # a classifier sees them averaged down to patches
        (48, "samples/label.csv", "samples/label.csv"),
    ],
)
def test_images_are_compared_at_their_own_size(project, resolution, native, train):
    def other(config):
        config["generator"]["resolution"] = resolution

    arguments = ("--configfile", project.edit("size.yaml", other))
    result = project.run("-n", "results/demo/features/dino/paper/label.npy", *arguments)
    assert result.returncode == 0, result.stdout
    assert f"input: results/demo/samples/label.h5, results/demo/{native}\n" in result.stdout
    result = project.run("-n", "results/demo/classifier/label.json", *arguments)
    assert f"input: results/demo/{train}, results/demo/patches/test.h5\n" in result.stdout
    controls = {job for job in project.planned(*arguments) if job.split()[0] in ("resample_patches", "reconstruct_patches")}
    assert controls == {"reconstruct_patches"} | ({"resample_patches"} if resolution != 96 else set())


def rules_of_the_workflow():
    """The text of every rule, by name; a rule made from another has that one's text too."""
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = {}
    for block in re.split(r"^(?:use )?rule ", text, flags=re.MULTILINE)[1:]:
        base, name = re.match(r"(\w+)(?: as (\w+))?", block).groups()
        rules[name or base] = block if name is None else rules[base] + block
    return rules


def test_the_slurm_profile_says_which_rules_want_gpus():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    wanting = {name for name, block in rules_of_the_workflow().items() if re.search(r"^ +gpu=", block, re.MULTILINE)}
    assert wanting and wanting == set(profile["set-resources"])
    for name, resources in profile["set-resources"].items():
        assert resources["slurm_partition"] == "gpu" and resources["gpu"] == 1, name
        assert resources["mem_mb"].startswith("attempt * "), name
    assert profile["default-resources"]["slurm_partition"] == "cpu" and profile["retries"] > 0


def test_rules_know_nothing_of_clusters():
    for name, block in rules_of_the_workflow().items():
        # Rules' own retries would be repeated within the SLURM job, with the memory it was given.
        assert not re.search(r"partition|account|slurm|gres|qos|^ +retries", block, re.MULTILINE), name


def test_every_job_gets_more_memory_with_every_try(project):
    def memory(*arguments):
        result = project.run("-n", "--workflow-profile", "profiles/slurm", *arguments)
        assert result.returncode == 0, result.stdout
        jobs = re.findall(r"^rule (\w+):\n(?: .*\n)*? +resources: .*mem_mb=(\d+).*$", result.stdout, re.MULTILINE)
        assert len({rule for rule, _ in jobs}) > 20
        return dict(jobs), result.stdout

    (first, plan), (second, _) = memory(), memory("--attempt", "2")
    assert {rule: int(megabytes) * 2 for rule, megabytes in first.items()} == {rule: int(more) for rule, more in second.items()}
    trainings = [block for block in plan.split("\n\n") if "rule finetune_diffusion:" in block]
    assert trainings and all("gpu=1" in block and "slurm_partition=gpu" in block for block in trainings)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gpus_are_asked_for_where_one_is_used(project, device):
    result = project.run("-n", "--config", f"device={device}", "--", "results/demo/latents/dino/k12/train.npy")
    assert result.returncode == 0, result.stdout
    assert ("gpu=1" in result.stdout) == (device == "cuda")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["seed=-1"], ["`seed` of config/config.yaml", "found:    -1", "expected:", "to do:"]),
        (["data={source: pcam, root: nowhere}"], ["nowhere (config key `data.root`", "nothing there"]),
    ],
)
def test_a_bad_study_ends_in_one_message(project, arguments, parts):
    result = project.run("-n", "--config", *arguments)
    assert result.returncode != 0
    assert [part for part in parts if part not in result.stdout] == []
    assert "Traceback" not in result.stdout
    assert len(result.stdout.splitlines()) < 12


def test_a_model_folder_that_is_no_pipeline(project, tmp_path):
    def broken(config):
        config["generator"]["model"] = str(tmp_path)

    result = project.run("-n", "--configfile", project.edit("broken.yaml", broken))
    assert result.returncode != 0 and "no model_index.json in it" in result.stdout and "Traceback" not in result.stdout


def test_the_workflow_parses_without_torch(project, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('the Snakefile must not import torch')\n")
    result = project.run("-n", environment={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 0, result.stdout


def test_a_copy_elsewhere_plans_the_same(project, tmp_path):
    shutil.copytree(project.folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".snakemake"))
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path)
    assert Project(tmp_path / "copy").planned() == project.planned()


def test_readers_are_simulated_until_answers_come_back(project, tmp_path):
    jobs = project.planned()
    assert {"simulate_readers", "analyse_simulated_readers"} <= jobs
    assert "plan_reader_study" not in jobs and "analyse_reader_study" not in jobs
    result = project.run("-n", "--", "results/demo/reader_study/analysis.md")
    assert result.returncode != 0
    assert "config key `reader_study.answers`" in result.stdout and "put the CSV files" in result.stdout

    def answered(config):
        config["reader_study"]["answers"] = str(tmp_path)

    (tmp_path / "one.csv").touch()
    jobs = project.planned("--configfile", project.edit("answered.yaml", answered))
    assert "analyse_reader_study" in jobs and "simulate_readers" not in jobs


def test_a_reader_study_is_planned_by_name(project):
    result = project.run("-n", "plan_reader_study")
    assert result.returncode == 0 and "results/demo/reader_study/power.md" in result.stdout
    assert "make_phantom" not in result.stdout
