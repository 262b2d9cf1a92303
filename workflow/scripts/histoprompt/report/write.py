"""The report: everything a study found, on one page that needs nothing but itself."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from histoprompt.files import atomic, changed_files, read_csv, read_json
from histoprompt.job import duration
from histoprompt.pages import csp_hash
from histoprompt.report.comparisons import (
    BETTER,
    EVEN,
    WORSE,
    Finding,
    baselines_of,
    compare,
    compare_replicates,
    headline,
    replicated_sentence,
    sentence,
)
from histoprompt.report.losses import draw_losses
from histoprompt.report.parts import is_older, is_there, parts_on_request
from histoprompt.report.pictures import picture
from histoprompt.report.text import html_of, joined
from histoprompt.summary import (
    FLOORS,
    Results,
    columns_of_space,
    columns_of_use,
    copies_of,
    copies_of_held_out,
    distinct_spaces,
    heading_of,
    notes_on,
    show_cell,
)

PAGE = Path(__file__).with_name("page")
_SPLITS = ("train", "valid", "test")
_LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "timm", "scikit-learn", "scipy", "numpy", "pandas", "h5py"),
    *("pillow", "opencv-python-headless", "umap-learn", "matplotlib", "snakemake"),
)
# What a metric is called, how its columns begin, and how to read it.
_GLOSSARY = (
    (
        "FD-x",
        "FD-",
        "Fréchet distance: how far the cloud of the images lies from that of held-out real patches, in the eyes of encoder x. "
        "Lower is better; the row real says what real patches themselves reach.",
    ),
    (
        "KD-x",
        "KD-",
        "Kernel distance: the same question without taking the clouds for ellipsoids. Lower is better; zero on average for "
        "two samples of one kind, and may fall below.",
    ),
    ("FID, KID", "FID-", "Fréchet and kernel distance in the eyes of Inception, the measures most papers report."),
    ("CMMD", "CMMD-", "Kernel distance in the eyes of CLIP. Lower is better."),
    ("precision", "precision-", "Share of the images that lie among real patches: are they realistic?"),
    ("recall", "recall-", "Share of held-out real patches that lie among the images: are they varied?"),
    (
        "density",
        "density-",
        "As precision, but counting how many real patches are near each image, so that strays weigh little; may exceed 1.",
    ),
    ("coverage", "coverage-", "Share of held-out real patches that have an image nearby: what is missing?"),
    (
        "prompt fidelity",
        "prompt fidelity",
        "Share of the images that lie nearest to the cluster that was drawn for them. Arms whose prompts do not name it are at "
        "chance.",
    ),
    (
        "AUC alone",
        "AUC alone",
        "How well a classifier trained on the row’s images alone tells the classes of real test patches: 0.5 is guessing, 1 is "
        "perfect.",
    ),
    ("AUC with real", "AUC with real", "The same, trained on these images and as many real ones."),
    (
        "authentic",
        "authentic",
        "Share of the images that are farther from their nearest training patch than that patch is from its own nearest one.",
    ),
    (
        "near copies",
        "near copies",
        "Share of the images nearer to a training patch than all but 1 % of held-out real patches are; 0.010 where nothing is "
        "repeated.",
    ),
)
_MARKS = {BETTER: "▲ better", WORSE: "▼ worse", EVEN: "≈ no difference"}


def write_report(
    folder: str | Path,
    report_html: str | Path,
    losses_png: str | Path,
    *,
    study: str,
    seed: int,
    source: str,
    sizes: Mapping[str, int],
    morphology: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    images: Sequence[str],
    mixes: Sequence[str],
    models: Sequence[Mapping[str, Any]],
    ablations: Mapping[str, str],
    readers: str,
    descriptors: bool,
    on_request: Iterable[str],
) -> None:
    """Write the page. Parts that are made on request are in it if their files are there.

    Its timings are those of the study's benchmarks, and its versions those of the environment it is written in; all else has
    the same bytes for the same results.

    Parameters
    ----------
    folder : of the study's results; its files have the names that docs/architecture.md gives them.
    report_html : written: one page, which loads nothing and needs no program.
    losses_png : written: the fine-tunings' losses.
    study, seed : its name and seed.
    source : a name of `data.source`.
    sizes : `patch` and `generator`, pixels a side.
    morphology : `encoder` and `k` of the study's clusters.
    arms : name -> `config.arm_settings`, and `title` where the arm has one.
    images, mixes : the image sets, and the training sets of the classifier, in the order of the tables.
    models : of every foundation model its `use`, `name`, `model`, `revision` and `digest`.
    ablations : name -> title.
    readers : folder of the readers' analysis: `simulated_analysis` or nothing, for that of people.
    descriptors : do prompts of the study's own arms name descriptors, so that there is a table of them?
    on_request : files of `parts.parts_on_request` that may be shown.
    """
    folder = Path(folder)
    results = Results.read(folder, images, mixes)
    tuned = list(dict.fromkeys(arm["model"] for arm in arms.values() if arm["finetune"] is not None))
    draw_losses({model: folder / f"models/{model}/history.csv" for model in tuned}, losses_png)
    shown = set(on_request)
    parts = {
        part.name: {
            "target": part.target,
            "there": shown.issuperset(part.files) and is_there(folder, part),
            "older": is_there(folder, part) and is_older(folder, part, [f"samples/{arm}.csv" for arm in arms]),
        }
        for part in parts_on_request(study, ablations)
    }
    clusters = f"clusters/{morphology['encoder']}"
    readers_folder = Path("reader_study", readers)
    baselines = baselines_of(arms)

    def figure(file: str | Path, *, plot: bool = False) -> dict[str, Any]:
        return {"file": Path(file).as_posix(), "picture": picture(folder / file, plot=plot)}

    def markdown(file: str | Path, level: int) -> Markup:
        return html_of((folder / file).read_text(), level=level)

    style = (PAGE / "style.css").read_text(encoding="utf-8")
    content = {
        "style": Markup(style),
        "policy": f"default-src 'none'; style-src '{csp_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'",
        "study": study,
        "seed": seed,
        "source": source,
        "sizes": sizes,
        "morphology": morphology,
        "quality": read_json(folder / clusters / f"k{morphology['k']}/quality.json"),
        "data": _data(folder),
        "arms": [_arm(folder, name, arm) for name, arm in arms.items()],
        "tuned": tuned,
        "pretrained": [name for name, arm in arms.items() if arm["finetune"] is None],
        "models": models,
        "finetuned": [_finetuned(folder, model) for model in tuned],
        "versions": _versions(),
        "times": _times(folder),
        "report": results.any_report,
        "tables": list(_tables(results, arms)),
        "notes": [note.removeprefix("- ") for note in notes_on(results.rows)],
        "glossary": _glossary(results),
        "headlines": _headlines(results, arms, baselines, morphology["encoder"]),
        "comparisons": _comparisons(results, arms, baselines),
        "replicated": _replicated(folder / "replicates.csv", arms, baselines, results) if parts["replicates"]["there"] else [],
        "vae": read_json(folder / "samples/vae.json"),
        "copies": {name: _copies(results.copies[name]) for name in arms},
        "resampled": "resampled" in results.rows,
        "tests": results.tests,
        "parts": parts,
        "ablations": ablations,
        "simulated": bool(readers),
        "readers_folder": readers_folder.as_posix(),
        "descriptors": descriptors,
        "figure": figure,
        "markdown": markdown,
        "clusters": clusters,
        "losses": {"file": "figures/losses.png", "picture": picture(losses_png, plot=True)} if tuned else None,
        "marks": _MARKS,
    }
    with atomic(report_html) as temporary:
        temporary.write_text(_environment().get_template("index.html").render(content), encoding="utf-8", newline="\n")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: dict[str, Callable[..., str]] = {"count": lambda n: f"{n:,}", "duration": duration, "and_list": joined}
    environment.filters |= filters
    return environment


def _data(folder: Path) -> dict[str, Any]:
    """Of every split its patches, what the filter dropped by class, and why."""
    splits: dict[str, Any] = {}
    for split in _SPLITS:
        counts: dict[str, list[Any]] = {"label": [], "reason": [], "all": []}
        for entry in read_csv(folder / f"patches/{split}.dropped.csv").to_dict("records"):
            counts.setdefault(entry["group"], []).append(entry)
        whole = counts["all"][0]
        splits[split] = {
            "patches": whole["patches"],
            "kept": whole["patches"] - whole["dropped"],
            "labels": counts["label"],
            "reasons": [entry for entry in counts["reason"] if entry["dropped"]],
        }
    return {"splits": splits, "classes": [entry["name"] for entry in splits["train"]["labels"]]}


def _arm(folder: Path, name: str, arm: Mapping[str, Any]) -> dict[str, Any]:
    prompts = read_csv(folder / f"prompts/{name}.generate.csv", ("prompt", "label"))
    files = read_csv(folder / f"samples/{name}.csv", ("file",))["file"]
    shards = sorted({Path(file).parents[1] for file in files})  # not those that other numbers of shards have left
    sampled = [read_json(folder / "samples" / shard / "timing.json") for shard in shards]
    trained = read_json(folder / f"models/{arm['model']}/timing.json") if arm["finetune"] is not None else None
    return {
        "name": name,
        "title": arm.get("title"),
        "own_model": arm["model"] == name,
        "settings": arm,
        "images": len(prompts),
        "prompts": prompts["prompt"].nunique(),
        "example": prompts["prompt"].iloc[min(1, len(prompts) - 1)],
        "sampling_seconds": sum(timing["seconds"] for timing in sampled),
        "training_seconds": trained["seconds"] if trained else None,
        "device": joined(dict.fromkeys(timing["device"] for timing in sampled)),
    }


def _finetuned(folder: Path, model: str) -> dict[str, Any]:
    """The files of a model that its training changed."""
    manifest = read_json(folder / f"models/{model}/manifest.json")
    return {"name": model, "seed": manifest["seed"], "steps": manifest["steps"], "changed": changed_files(manifest)}


def _copies(report: Mapping[str, Any]) -> dict[str, str]:
    """Shares of copies and of authentic images, and the same of held-out patches."""
    own, held_out = copies_of(report), copies_of_held_out(report)
    return {
        "near": show_cell(own["near copies"], "near copies"),
        "near_held_out": show_cell(held_out["near copies"], "near copies"),
        "authentic": show_cell(own["authentic"], "authentic"),
        "authentic_held_out": show_cell(held_out["authentic"], "authentic"),
        "why": report["near_copies"].get("reason", ""),
    }


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue  # an environment of fewer parts, which then took no part either
    return found


def _times(folder: Path) -> dict[str, Any]:
    """The last run of every job, by rule: jobs, seconds on the clock and of CPU, and the largest memory in MB."""
    rules: dict[str, Counter[str]] = {}
    for path in sorted((folder / "benchmarks").rglob("*.tsv")):
        rule = path.relative_to(folder / "benchmarks").parts[0].removesuffix(".tsv")
        for row in pd.read_csv(path, sep="\t", na_values=["-", "NA"]).fillna(0.0).to_dict("records"):
            found = rules.setdefault(rule, Counter())
            found["jobs"] += 1
            found["seconds"] += row["s"]
            found["cpu"] += row["cpu_time"]
            found["memory"] = max(found["memory"], row["max_rss"])
    longest = sorted(rules.items(), key=lambda item: (-item[1]["seconds"], item[0]))
    total = Counter({key: sum(of_rule[key] for of_rule in rules.values()) for key in ("jobs", "seconds", "cpu")})
    return {"rules": longest, "total": total}


def _tables(results: Results, arms: Mapping[str, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    columns = results.columns
    encoder_of_clusters = results.any_report["morphology_encoder"]
    for encoder, protocols in distinct_spaces(list(results.metrics.values())).items():
        about = (
            "made the clusters: circular for arms prompted with them"
            if encoder == encoder_of_clusters
            else "knows nothing of the clusters"
        )
        for protocol, twins in protocols.items():
            title = f"In the space of {encoder}, which {about}"
            yield {
                "title": title,
                "heading": heading_of(protocol, twins).replace("`", ""),
                **_table(results, arms, columns_of_space(columns, encoder, protocol)),
            }
    of_use = {column: column for column in columns_of_use(columns)}
    yield {"title": "Prompts, use and copies", "heading": "", **_table(results, arms, of_use)}


def _table(results: Results, arms: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> dict[str, Any]:
    body = []
    for name, row in results.rows.items():
        cells = [show_cell(row.get(column), column).partition(" ") for column in columns]
        body.append(
            {
                "name": name,
                "title": arms[name].get("title") if name in arms else None,
                "floor": name in FLOORS,
                "images": results.metrics[name]["images"],
                "cells": [{"value": value, "interval": interval} for value, _, interval in cells],
            }
        )
    return {"head": list(columns.values()), "body": body}


def _headline_measures(results: Results) -> list[str]:
    """Fréchet distances of every encoder as the protocol named first sees it, what prompts ask for, and what it is good for."""
    protocol = next(iter(results.any_report["protocols"]))
    distances = [name for name in results.columns if name.startswith(("FD-", "FID-")) and name.endswith(f" {protocol}")]
    return [*distances, "prompt fidelity", "AUC alone", "AUC with real"]


def _headlines(
    results: Results, arms: Mapping[str, Mapping[str, Any]], baselines: Sequence[str], circular: str
) -> list[dict[str, Any]]:
    rows = {name: results.rows[name] for name in arms}
    distances = [name for name in _headline_measures(results) if name.startswith(("FD-", "FID-"))]
    found = [
        {"text": said, "circular": measure.partition(" ")[0].partition("-")[2] == circular}
        for measure in distances
        for baseline in baselines
        if (said := headline(measure, baseline, rows))
    ]
    return sorted(found, key=lambda line: bool(line["circular"]))


def _comparisons(results: Results, arms: Mapping[str, Mapping[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Every arm against every baseline: a sentence, and a verdict a measure."""
    measures = _headline_measures(results)
    found = []
    for place, baseline in enumerate(baselines):
        for arm in arms:
            if arm not in baselines[: place + 1]:  # two baselines need no more than one comparison
                findings = compare(results.rows[arm], results.rows[baseline], measures)
                by_measure: dict[str, Finding] = {finding.measure: finding for finding in findings}
                found.append(
                    {
                        "arm": arm,
                        "baseline": baseline,
                        "sentence": sentence(arm, baseline, findings),
                        "verdicts": [(m, by_measure[m].verdict if m in by_measure else None) for m in measures],
                    }
                )
    return found


def _replicated(
    replicates_csv: Path, arms: Mapping[str, Mapping[str, Any]], baselines: Sequence[str], results: Results
) -> list[str]:
    table = read_csv(replicates_csv, ("arm", "seed", "metric", "value"))
    table = table.assign(value=pd.to_numeric(table["value"], errors="coerce")).dropna(subset=["value"])
    values: dict[tuple[str, str], dict[int, float]] = {}
    for arm, seed, metric, value in zip(table["arm"], table["seed"], table["metric"], table["value"], strict=True):
        values.setdefault((arm, metric), {})[int(seed)] = float(value)
    sentences = []
    for place, baseline in enumerate(baselines):
        for arm in arms:
            if arm in baselines[: place + 1]:
                continue
            if findings := compare_replicates(values, arm, baseline, _headline_measures(results)):
                sentences.append(replicated_sentence(arm, baseline, findings))
    return sentences


def _glossary(results: Results) -> list[tuple[str, str]]:
    """A plain sentence for every metric that the tables hold."""
    return [(term, text) for term, begins, text in _GLOSSARY if any(column.startswith(begins) for column in results.columns)]
