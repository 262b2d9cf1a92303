"""One arm of a tiny study, finished and undisturbed: what every disturbed one is compared with."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import Project

EVERYTHING = bool(os.environ.get("HISTOPROMPT_ALL_FAULTS"))
STUDY = ("--configfile", "config/mini.yaml")
# By default one arm up to its images, which has a job of every long stage; where all faults are asked for, the whole study.
TARGETS = ("all",) if EVERYTHING else ("results/mini/samples/morphology/dataset/metadata.csv",)
SECRETS = {"HF_TOKEN": "hf_ThisIsNoTokenButMustNotBeLogged", "WANDB_API_KEY": "NorIsThisOne0123456789"}


@dataclass
class Finished:
    """A finished study, which tests copy and never change."""

    project: Project
    digests: dict[str, str]
    seconds: float

    def copy(self, folder: Path, *, results: bool = True) -> Project:
        """A copy in another folder, with or without what was made."""
        ignore = None if results else shutil.ignore_patterns("results", ".snakemake")
        shutil.copytree(self.project.folder, folder, ignore=ignore, dirs_exist_ok=True, symlinks=True)
        return Project(folder)
