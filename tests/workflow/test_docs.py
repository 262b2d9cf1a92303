"""Every Snakemake command that the documentation gives is one that Snakemake can plan, and every link leads somewhere."""

import re
import shlex

import pytest
import yaml
from harness import ROOT, copy_project

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "config").glob("*.md")),
]
NOT_PLANNED = ("--report", "--unlock", "--lint", "--sdm", "--executor")  # of these no dry run exists
FLAGS = {"-n", "-np", "--dry-run"}


def commands():
    """Lines of code blocks and inline code that call Snakemake, without comments and pipes."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        for line in lines + re.findall(r"`(snakemake [^`]+)`", text):
            command = re.sub(r" --cores \w+", "", line.split(" #")[0]).strip()
            if command.startswith("snakemake ") and not re.search(r"[…{](?!answers|data|root)", command.split("--config ")[0]):
                found.setdefault(command, page.name)
    return found


COMMANDS = {command: page for command, page in commands().items() if not any(flag in command for flag in NOT_PLANNED)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("project"))
    mine = yaml.safe_load((project.folder / "config/pcam_mini.yaml").read_text())
    mine["study"], mine["data"]["root"] = "mine", "pcam"
    (project.folder / "config/mine.yaml").write_text(yaml.safe_dump(mine))
    (project.folder / "pcam").mkdir()
    for split in ("train", "valid", "test"):
        for part in "xy":
            (project.folder / f"pcam/camelyonpatch_level_2_split_{split}_{part}.h5").write_bytes(b"enough for a plan")
    (project.folder / "FOLDER").mkdir()
    (project.folder / "FOLDER/reader.csv").touch()
    return project


def test_there_are_commands():
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_of_the_documentation_can_be_planned(project, command):
    arguments = [argument for argument in shlex.split(command)[1:] if argument not in FLAGS]
    result = project.run("-n", *(argument.replace("PATH", "pcam") for argument in arguments), "--quiet", "rules")
    assert result.returncode == 0, f"{command}, in {COMMANDS[command]}\n{result.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"
