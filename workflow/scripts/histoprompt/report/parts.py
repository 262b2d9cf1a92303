"""Which parts of the report are made on request, and which of them are there. Imports nothing heavy: every command asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A part of the report that the study itself does not make.

    Attributes
    ----------
    name : of the part.
    target : what Snakemake is asked for.
    files : relative to the study's folder; the part is there once all of them are.
    """

    name: str
    target: str
    files: tuple[str, ...]


def parts_on_request(study: str, ablations: Iterable[str]) -> list[Part]:
    """Every such part of a study, in the order of the report.

    Parameters
    ----------
    study : its name.
    ablations : the names of its ablations.
    """
    return [
        Part("coverage_map", "coverage_map", ("regions.csv", "figures/coverage_map.png", "figures/regions.png")),
        Part("learning_curve", "learning_curve", ("learning_curve.md", "figures/learning_curve.png")),
        Part("replicates", "replicate", ("replicates.csv", "replicates.md")),
        Part("explorer", "explorer", ("explorer/index.html",)),
        *(
            Part(f"ablations/{name}", f"results/{study}/ablations/{name}.md", (f"ablations/{name}.md", f"ablations/{name}.png"))
            for name in ablations
        ),
    ]


def files_on_request(folder: str | Path, study: str, ablations: Iterable[str]) -> dict[str, int]:
    """The files of those parts that are there, and when each was written (nanoseconds).

    A parameter of the report's rule, not an input: an input would be made, and made again with whatever it rests on, whenever
    the report is, and what is here takes minutes or GPU hours.
    """
    folder = Path(folder)
    there = [part for part in parts_on_request(study, ablations) if is_there(folder, part)]
    return {file: (folder / file).stat().st_mtime_ns for part in there for file in part.files}


def is_there(folder: Path, part: Part) -> bool:
    """Has the part been made?"""
    return all((folder / file).is_file() for file in part.files)


def is_older(folder: Path, part: Part, images: Iterable[str]) -> bool:
    """Was the part made before any of these files of the study?"""
    made = min((folder / file).stat().st_mtime_ns for file in part.files)
    return any((folder / file).stat().st_mtime_ns > made for file in images)
