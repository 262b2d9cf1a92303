"""A whole study on tiny models, and what runs again after which change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from harness import ENVIRONMENT, ROOT, copy_project, mini_study, write_models

from histoprompt.cards import own_cards
from histoprompt.patches import PatchFile
from histoprompt.reader_study.answers import read_key, write_answers
from histoprompt.reader_study.order import presentation

STUDY = ("--configfile", "config/mini.yaml")
ARM = {
    *(
        "build_prompts morphology",
        "finetune_diffusion morphology",
        "generate_images morphology, 1-of-2",
        "generate_images morphology, 2-of-2",
    ),
    *(
        "extract_features tiny, morphology, 1-of-2",
        "extract_features tiny, morphology, 2-of-2",
        "gather_features tiny, morphology",
    ),
    *("export_dataset morphology", "compute_metrics morphology"),
    *("find_copies morphology", "draw_coverage", "draw_reliability"),
    *("train_classifier morphology", "train_classifier real+morphology", "draw_arms", "summarise_study"),
    *("write_cards", "write_report"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("a folder with spaces"))
    environment = tmp_path_factory.mktemp("an environment in such a folder") / "venv"
    environment.symlink_to(sys.prefix)
    project.python = str(environment / "bin/python")
    write_models(project)
    project.edit("mini.yaml", mini_study)
    result = project.run("--cores", "2", *STUDY)
    assert result.returncode == 0, result.stdout
    assert "# Study mini" in result.stdout and "Done. Results: results/mini/" in result.stdout
    assert "results/mini/report.html " in result.stdout and "results/mini/more/morphology/500/" in result.stdout
    return project


@pytest.fixture
def edited(project):
    """Change files for one test."""
    before = {}

    def edit(name, change):
        path = project.folder / name
        before[path] = path.read_text()
        path.write_text(change(before[path]))

    yield edit
    for path, text in before.items():
        path.write_text(text)


def test_the_results_are_there(project):
    results = project.folder / "results/mini"
    for name in (
        "report.html",
        "figures/losses.png",
        "models/morphology/README.md",
        "samples/pretrained/dataset/README.md",
        "summary.csv",
        "summary.md",
        "figures/arms.png",
        "copies/resampled.png",
        "samples/vae.native.h5",
        "coverage.csv",
        "figures/coverage.png",
        "reader_study/page/index.html",
        "reader_study/key.json",
        "calibration.csv",
        "figures/reliability.png",
        "reader_study/simulated_analysis/analysis.md",
        "reader_study/simulated_analysis/figures/patches.png",
        "clusters/tiny/k3/atlas.png",
        "clusters/tiny/sweep.png",
        "samples/morphology/dataset/metadata.csv",
        "patches/train.dropped.csv",
        "models/morphology/pipeline/model_index.json",
    ):
        assert (results / name).stat().st_size > 0, name
    assert not (results / "models/pretrained").exists()
    assert len(list((results / "samples/morphology").glob("*/images/*.png"))) == 16
    assert {path.parent.parent.name for path in results.glob("logs/*/*.log")} == {"logs"}


def test_ablations_are_tables_and_figures(project):
    result = project.run("ablations", "--cores", "2", *STUDY)
    assert result.returncode == 0, result.stdout
    assert "finetune_diffusion/unguided" not in result.stdout
    results = project.folder / "results/mini"
    table = pd.read_csv(results / "ablations/guidance.csv", index_col="name")
    assert table["sampling.guidance"].dropna().to_dict() == {"unguided": 1, "morphology": 2}
    table = pd.read_csv(results / "ablations/patches.csv", index_col="name")
    assert table["train"].dropna().to_dict() == {"few": 8, "some": 16, "morphology": 32}
    rows = {arm: set(pd.read_csv(results / f"prompts/{arm}.train.csv")["row"]) for arm in ("few", "some", "morphology")}
    assert len(rows["few"]) <= 8 and rows["few"] < rows["some"] < rows["morphology"]
    assert json.loads((results / "copies/few.json").read_text())["train"] == len(rows["few"])
    for form in ("md", "png"):
        assert (results / f"ablations/patches.{form}").stat().st_size > 0
    the_report_takes_it_up(project, "ablations/patches.png")


def the_report_takes_it_up(project, figure):
    """Only the report is written again for what was made on request, and that once."""
    page = project.folder / "results/mini/report.html"
    assert f'href="{figure}"' not in page.read_text()
    assert project.planned(*STUDY) == {"write_report"}
    assert project.run("--cores", "1", *STUDY).returncode == 0
    assert f'href="{figure}"' in page.read_text()
    assert project.planned(*STUDY) == set()


def test_an_ablations_setting_reruns_that_arm(project):
    def change(config):
        mini_study(config)
        config["ablations"]["patches"]["arms"]["few"]["finetune"] = {"learning_rate": 1.0e-4}

    shards = {
        f"{stage}, {shard}" for stage in ("generate_images few", "extract_features tiny, few") for shard in ("1-of-2", "2-of-2")
    }
    own = ("finetune_diffusion few", *shards, "export_dataset few", "gather_features tiny, few")
    study = ("--configfile", project.edit("few.yaml", change))
    after = ("compute_metrics few", "find_copies few", "summarise_ablation patches")
    assert project.planned("ablations", *study) == {*own, *after}
    assert project.planned(*study) == set()


def test_a_learning_curve_says_what_synthetic_patches_are_worth(project):
    result = project.run("learning_curve", "--cores", "2", *STUDY)
    assert result.returncode == 0, result.stdout
    assert "finetune_diffusion" not in result.stdout
    table = pd.read_csv(project.folder / "results/mini/learning_curve.csv")
    everything = table["real"].max()
    assert table["curve"].tolist() == ["real"] * 3 + ["pretrained"] * 4 + ["morphology"] * 4
    assert table["real"].tolist() == [4, 8, everything] + [0, 4, 8, everything] * 2
    assert table["generator_saw"].dropna().tolist() == [0] * 4 + [everything] * 4
    assert {"auc seed 1", "auc seed 2"} <= set(table.columns)
    assert (project.folder / "results/mini/figures/learning_curve.png").stat().st_size > 0
    the_report_takes_it_up(project, "figures/learning_curve.png")


def test_more_images_of_a_finished_study(project):
    def asked(arm, request):
        result = project.run("--cores", "2", f"results/mini/more/{arm}/{request}/dataset/README.md", *STUDY)
        assert result.returncode == 0, result.stdout
        assert "rule finetune_diffusion:" not in result.stdout and "rule generate_images:" not in result.stdout
        return pd.read_csv(project.folder / f"results/mini/more/{arm}/{request}/{arm}-{request}.csv")

    results = project.folder / "results/mini"
    more = asked("morphology", "6")
    assert more["label"].tolist() == [0, 1] * 3 and len(list((results / "more/morphology/6").glob("*/manifest.csv"))) == 2
    with PatchFile(results / "more/morphology/6/morphology-6.h5") as patches:
        assert patches.ids == [f"morphology-6-{number:06d}" for number in range(6)] and patches.size == 96
    assert len(list((results / "more/morphology/6/dataset").glob("*/*.png"))) == 6
    folder = project.folder / "config/more"
    folder.mkdir()
    (folder / "mine.csv").write_text("prompt,label,images\nhealthy,,1\nsomething else,cancer,2\n")
    mine = asked("pretrained", "mine")
    assert mine["prompt"].tolist() == ["healthy", "something else", "something else"] and mine["label"].tolist() == [0, 1, 1]
    study = {seed for arm in ("pretrained", "morphology") for seed in pd.read_csv(results / f"samples/{arm}.csv")["seed"]}
    assert not {*more["seed"]} & study and not {*mine["seed"]} & (study | {*more["seed"]})
    assert project.planned(*STUDY) == set()


def test_an_explorer_shows_all_images(project):
    result = project.run("explorer", "--cores", "2", *STUDY)
    assert result.returncode == 0, result.stdout
    explorer = project.folder / "results/mini/explorer"
    assert "mini" in (explorer / "index.html").read_text(encoding="utf-8")
    sheets = {path.name for path in explorer.glob("sheets/*.webp")}
    assert sheets == {"real-0.webp", "pretrained-0.webp", "morphology-0.webp", "train-0.webp"}
    assert project.planned("explorer", *STUDY) == set()


def test_answers_that_came_back_are_analysed(project):
    results = project.folder / "results/mini/reader_study"
    answers = project.folder / "answers"
    answers.mkdir()
    shutil.copy(results / "simulated/simulated-sharp-1.csv", answers / "one.csv")

    def answered(config):
        mini_study(config)
        config["reader_study"]["answers"] = "answers"

    study = ("--configfile", project.edit("answered.yaml", answered))
    result = project.run("--cores", "1", *study)
    assert result.returncode != 0 and "'simulated-sharp-1' is a simulated reader among people" in result.stdout

    key = read_key(results / "key.json")
    entries = {entry["image"]: entry["source"] for entry in key["images"]}
    shown = [place for place in presentation(key, "One") if place.part == "main"]
    rows = [
        (key["study"], key["page"], "One", str(p.position), p.image, str(int(p.repeat)), entries[p.image], "4", "", "", "2.5")
        for p in shown
    ]
    write_answers(answers / "one.csv", rows)
    result = project.run("--cores", "1", *study)
    assert result.returncode == 0 and "rule analyse_reader_study:" in result.stdout
    text = (results / "analysis.md").read_text()
    assert text.startswith("# reader study mini") and "1 reader judged 4 real and 4 synthetic images" in text
    assert "Simulated readers" not in (project.folder / "results/mini/report.html").read_text()
    assert project.planned(*STUDY) == {"write_report"}
    assert project.run("--cores", "1", *STUDY).returncode == 0
    assert "Simulated readers" in (project.folder / "results/mini/report.html").read_text()


def test_a_second_run_has_nothing_to_do(project):
    result = project.run("--cores", "2", *STUDY)
    assert result.returncode == 0 and "Nothing to be done" in result.stdout


def test_time_stamps_and_comments_rerun_nothing(project, edited):
    edited("workflow/scripts/histoprompt/metrics.py", lambda text: text + "\n\n# A thought.\n")
    edited("workflow/scripts/finetune_diffusion.py", lambda text: text.replace('"""', '"""Again: ', 1))
    for folder in ("workflow", "config", "models", "envs", "resources", "profiles"):
        for path in (project.folder / folder).rglob("*"):
            os.utime(path)
    os.utime(project.folder / "Snakefile")
    assert project.planned(*STUDY) == set()


def test_a_new_arm_runs_that_arm(project):
    def more(config):
        mini_study(config)
        config["arms"]["shuffled"] = {"prompts": "shuffled"}

    plan = project.planned("--configfile", project.edit("more.yaml", more))
    assert plan == {job.replace("morphology", "shuffled") for job in ARM}


def setting(key, value):
    """A change of one setting of a study."""

    def change(config):
        *path, last = key.split(".")
        section = config
        for name in path:
            section = section[name]
        section[last] = value

    return change


def other_embedder(config):
    config["encoders"]["other"] = config["encoders"]["tiny"] | {"batch_size": 32}
    config["morphology"]["encoder"] = "other"


# The lines of docs/reruns.md: a change of the study, or of a file.
CHANGES = {
    "the study's `seed`": setting("seed", 1),
    "a limit of `outliers`": setting("outliers.value_mean_below", 71),
    "another embedder (`morphology.encoder`)": other_embedder,
    "`morphology.k`": setting("morphology.k", 2),
    "`morphology.sweep`": setting("morphology.sweep", [2, 4]),
    "`subset.train`": setting("subset.train", 34),
    "a template of `prompts`": setting("prompts.morphology", "{label} of type {index}"),
    "`generator.sampling.images`": setting("generator.sampling.images", 18),
    "an arm's `finetune.steps`": setting("arms.morphology.finetune", {"steps": 7}),
    "an arm's `seed`": setting("arms.morphology.seed", 5),
    "an arm's `sampling.guidance`": setting("arms.morphology.sampling", {"guidance": 1.0}),
    "an arm's `title`": setting("arms.morphology.title", "another"),
    "a new arm": setting("arms.shuffled", {"prompts": "shuffled"}),
    "`evaluation.neighbours`, k of the metrics": setting("evaluation.neighbours", 4),
    "`classifier.steps`": setting("classifier.steps", 4),
    "`reader_study.size`": setting("reader_study.size", 500),
    "`threads`": setting("threads", 2),
    "a caption in `workflow/report`": ("workflow/report/summary.rst", "\nAnd more.\n"),
    "a comment or docstring of the library": ("workflow/scripts/histoprompt/outliers.py", "\n# A thought.\n"),
    "a program in the library: `summary.py`": ("workflow/scripts/histoprompt/summary.py", "\n_EDIT = 1\n"),
    "a program in the library: `outliers.py`": ("workflow/scripts/histoprompt/outliers.py", "\n_EDIT = 1\n"),
}


def table_of_reruns():
    """Change -> (rules that run again, of what), as docs/reruns.md has it."""
    parts = (ROOT / "docs/reruns.md").read_text().split("## ")[0].split("\n\n")
    lines = [part.strip().splitlines()[2:] for part in parts if part.startswith("|")]
    groups, changes = ([line.strip("| ").split(" | ") for line in table] for table in lines)
    rules_of = {name: re.findall(r"`(\w+)`", rules) for name, rules in groups}
    found = {}
    for change, rules, *of in changes:
        named = {rule for group in re.findall(r"\*\w+\*", rules) for rule in rules_of[group]} | set(
            re.findall(r"`(\w+)`", rules)
        )
        assert named or rules == "nothing", change
        found[change] = (named, of[0] if of else "")
    return found


def test_every_line_of_the_documented_reruns_is_tested():
    assert list(table_of_reruns()) == list(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_what_runs_again_is_what_the_documentation_says(change, project, edited):
    expected, of = table_of_reruns()[change]
    what = CHANGES[change]
    if isinstance(what, tuple):
        edited(what[0], lambda text: text + what[1])
        jobs = project.planned(*STUDY)
    else:
        jobs = project.planned("--configfile", project.edit("changed.yaml", lambda config: (mini_study(config), what(config))))
    assert {job.split()[0] for job in jobs} == expected
    others = [job for job in jobs if re.search(r"\b(pretrained|real|resampled|vae)$", job) or " pretrained," in job]
    if of.startswith(("the arm", "arms with")):
        assert not [job for job in others if "real+" not in job]


def test_settings_of_other_stages_rerun_nothing(project):
    def others(config):
        mini_study(config)
        config["threads"] = 2
        config["replicates"] = {"arms": [], "seeds": [], "recluster": True}
        config["encoders"]["spare"] = dict(config["encoders"]["tiny"])

    assert project.planned("--configfile", project.edit("others.yaml", others)) == set()


def test_another_protocol_computes_no_features(project):
    def paper_alone(config):
        mini_study(config)
        config["evaluation"]["protocols"] = ["paper"]

    images = ("real", "resampled", "vae", "pretrained", "morphology")
    assert project.planned("--configfile", project.edit("paper.yaml", paper_alone)) == {
        "summarise_study",
        "draw_coverage",
        "write_cards",
        "write_report",
        *(f"compute_metrics {name}" for name in images),
    }


def test_features_are_kept_by_encoder_protocol_and_image_set(project):
    results = project.folder / "results/mini"
    for images in ("test", "real", "resampled", "vae", "pretrained", "morphology"):
        matched, paper = (results / f"features/tiny/{protocol}/{images}.npy" for protocol in ("matched", "paper"))
        assert matched.stat().st_size == paper.stat().st_size > 0
    assert {path.stem for path in (results / "embeddings/tiny").iterdir()} > {"train", "valid", "test", "vae"}
    summary = pd.read_csv(results / "summary.csv").set_index("name")
    assert summary.index.tolist() == ["real", "resampled", "vae", "pretrained", "morphology"]
    # Sampled at 32 pixels, the encoder's own size: nothing is resized, and only real patches of 96 tell the protocols apart.
    assert summary.loc["morphology", "KD-tiny matched"] != summary.loc["morphology", "KD-tiny paper"]
    classifier = json.loads((results / "classifier/real+morphology.json").read_text())
    assert classifier["size"] == 32


def test_a_library_edit_reruns_its_stage_and_what_follows(project, edited):
    edited("workflow/scripts/histoprompt/summary.py", lambda text: text + "\n_EDIT = 1\n")
    told = {"summarise_study", "write_cards", "write_report"}
    assert project.planned(*STUDY) == told
    edited("workflow/scripts/histoprompt/reader_study/page/style.css", lambda text: text + "\n")
    readers = {"make_reader_study", "simulate_readers", "analyse_simulated_readers"}
    assert project.planned(*STUDY) == {*told, *readers}
    edited("workflow/scripts/histoprompt/metrics.py", lambda text: text + "\n_EDIT = 1\n")
    images = ("real", "resampled", "vae", "pretrained", "morphology")
    stages = ("compute_metrics", "find_copies")
    assert project.planned(*STUDY) == {
        *told,
        *readers,
        "check_reader_study",
        "draw_coverage",
        *(f"{stage} {name}" for stage in stages for name in images),
    }


def test_another_base_model_reruns_the_generator_alone(project, edited):
    edited("models/pipeline/unet/config.json", lambda text: text + "\n")
    plan = project.planned(*STUDY)
    assert {
        "encode_latents tiny, 3, 1-of-1",
        "reconstruct_patches",
        "finetune_diffusion morphology",
        "generate_images pretrained, 1-of-2",
    } <= plan
    assert (
        not {"embed_images tiny, train, 1-of-1", "cluster_embeddings tiny, 3", "build_prompts morphology", "draw_real"} & plan
    )


def test_an_interrupted_training_goes_on_to_the_same_bytes(project):
    def slow(config):
        mini_study(config)
        config["ablations"] = {}
        config["reader_study"]["arms"] = ["slow"]
        config["arms"] = {"slow": {"prompts": "label", "finetune": {"steps": 60, "validate_every": 60, "grid_every": 60}}}
        config["replicates"] = {"arms": [], "seeds": [], "recluster": True}
        config["learning_curve"]["arms"] = ["slow"]

    study = ("--configfile", project.edit("slow.yaml", slow))
    target = "results/mini/models/slow/manifest.json"
    state, manifest = project.folder / "results/mini/state/finetune/slow", project.folder / target
    process = subprocess.Popen(
        project.command("--cores", "1", target, *study),
        cwd=project.folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not list(state.rglob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not manifest.exists() and list(state.rglob("*.safetensors"))

    resumed = project.run("--cores", "1", target, *study)
    assert resumed.returncode == 0, resumed.stdout
    content = manifest.read_bytes()

    undisturbed = project.run("--cores", "1", target, *study, "--forcerun", "finetune_diffusion")
    assert undisturbed.returncode == 0, undisturbed.stdout
    assert manifest.read_bytes() == content


def test_a_failing_job_says_how_to_go_on(project, edited):
    edited("models/pipeline/vae/config.json", lambda text: text.replace("AutoencoderKL", "Something"))
    (project.folder / "models/pipeline/vae/diffusion_pytorch_model.safetensors").rename(project.folder / "away")
    result = project.run("--cores", "1", "results/mini/samples/vae.h5", *STUDY)
    (project.folder / "away").rename(project.folder / "models/pipeline/vae/diffusion_pytorch_model.safetensors")
    assert result.returncode != 0
    assert "reconstruct_patches cannot go on" in result.stdout and "to do:" in result.stdout
    assert "then run the same command again" in result.stdout and "Traceback" not in result.stdout


def test_jobs_take_gpus_that_nobody_holds(project, tmp_path, monkeypatch):
    """Two cards, pretended by their names; one is held here, so two jobs that may run at once share the other in turn."""
    cards = [f"{tmp_path.name}-{os.getpid()}-{card}" for card in "ab"]
    (tmp_path / "nvidia-smi").touch(mode=0o755)  # by which the workflow knows that there are GPUs
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(cards))
    shards = [f"results/mini/samples/pretrained/{shard}/manifest.csv" for shard in ("1-of-2", "2-of-2")]
    before = [(project.folder / shard).read_bytes() for shard in shards]
    with own_cards(1):
        held = os.environ["CUDA_VISIBLE_DEVICES"]
        result = project.run(
            *("--cores", "all", "--resources", "gpu=2", *STUDY, "--forcerun", "generate_images", "--", *shards),
            environment={"PATH": path, "CUDA_VISIBLE_DEVICES": ",".join(cards)},
        )
    assert result.returncode == 0 and result.stdout.count("gpu=1") == 2, result.stdout
    (free,) = set(cards) - {held}
    for shard in ("1-of-2", "2-of-2"):
        log = project.folder / f"results/mini/logs/generate_images/pretrained/{shard}.log"
        assert f"CUDA_VISIBLE_DEVICES: {free}\n" in log.read_text()
    assert [(project.folder / shard).read_bytes() for shard in shards] == before
