"""The workflow as a module of another one, in another folder."""

import pytest
import yaml
from harness import Project, copy_project, mini_study, write_models

SNAKEFILE = """
configfile: "other.yaml"

rule all:
    input:
        "lines.txt",

module histoprompt:
    snakefile:
        "../histo prompt/Snakefile"
    config:
        config["synthetic"]
    {prefix}

use rule * from histoprompt as hp_*

rule count_lines:
    input:
        "{folder}results/mini/prompts/morphology.train.csv",
        "{folder}results/mini/models/morphology/manifest.json",
        "{folder}results/mini/reader_study/page/index.html",
    output:
        "lines.txt",
    shell:
        "wc -l {{input:q}} > {{output}}"
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A workflow of its own beside the project, and what writes its files."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "histo prompt").mkdir()
    project = copy_project(folder / "histo prompt")
    write_models(project)
    other = Project(folder / "other")
    other.folder.mkdir()
    study = yaml.safe_load((project.folder / project.edit("mini.yaml", mini_study)).read_text())
    for section in (study["generator"], study["encoders"]["tiny"]):
        section["model"] = f"../histo prompt/{section['model']}"

    def write(prefix, change=lambda study: None):
        changed = yaml.safe_load(yaml.safe_dump(study))
        change(changed)
        text = SNAKEFILE.format(prefix=f'prefix: "{prefix}"' if prefix else "", folder=f"{prefix}/" if prefix else "")
        (other.folder / "Snakefile").write_text(text)
        (other.folder / "other.yaml").write_text(yaml.safe_dump({"synthetic": changed}))
        return other

    return write


def test_a_study_runs_as_a_module(other):
    workflow = other("synthetic")
    result = workflow.run("--cores", "2")
    assert result.returncode == 0, result.stdout
    assert "hp_finetune_diffusion" in result.stdout and "total" in (workflow.folder / "lines.txt").read_text()
    made = workflow.folder / "synthetic/results/mini"
    for name in ("tensorboard/morphology", "state/finetune", "logs/make_reader_study.log"):
        assert (made / name).exists(), name
    assert {path.name for path in workflow.folder.iterdir() if path.is_dir()} == {".snakemake", "synthetic"}
    again = workflow.run("-n", "--workflow-profile", "../histo prompt/profiles/default")
    assert "Nothing to be done" in again.stdout, again.stdout


def test_a_module_needs_no_prefix(other):
    plan = other("").run("-n").stdout
    assert "output: results/mini/reader_study/page/index.html" in plan and "synthetic" not in plan.replace("synthetic.", "")


def test_a_wrong_config_is_refused_with_its_key(other):
    result = other("", lambda study: study.update(seed="x")).run("-n")
    assert result.returncode != 0
    assert "config key `seed` of other.yaml" in result.stdout and "a whole number" in result.stdout


def test_the_users_own_files_have_no_prefix(other, tmp_path):
    def own(study):
        study["data"] |= {"source": "pcam", "root": "resources/pcam", "phantom": None}
        study["reader_study"]["answers"] = "answers"

    workflow = other("synthetic", own)
    (workflow.folder / "answers").mkdir()
    (workflow.folder / "answers/one.csv").write_text("reader\n")
    plan = workflow.run("-n", "synthetic/results/mini/reader_study/analysis.md").stdout
    assert "output: resources/pcam/manifest.json" in plan and "synthetic/resources" not in plan
    assert "answers/one.csv" in plan and "synthetic/answers" not in plan
