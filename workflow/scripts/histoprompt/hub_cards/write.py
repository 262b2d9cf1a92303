"""Cards that go with what a user takes away: each fine-tuned model, and each synthetic data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from histoprompt.files import atomic, changed_files, read_csv, read_json
from histoprompt.summary import Results, columns_of_space, copies_of_held_out, distinct_spaces, show_cell

_TEMPLATES = Path(__file__).with_name("templates")
_SHOWN_PROMPTS = 100
# The hub's words for how many rows a data set has, by the first number that is too many.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_TAGS = ["histopathology", "synthetic", "histoprompt"]  # and no licence: none is known here, and a guess is worse than none
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")
_TISSUE = {"phantom": "of the phantom (drawn, with known truth: no tissue)", "pcam": "in PatchCamelyon's layout"}


def write_cards(
    folder: str | Path,
    model_cards: Mapping[str, str | Path],
    dataset_cards: Mapping[str, str | Path],
    *,
    study: str,
    source: str,
    sizes: Mapping[str, int],
    generator: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    images: Sequence[str],
    mixes: Sequence[str],
) -> None:
    """Write the card of every fine-tuned model and every data set of a study. Same results, same bytes.

    Parameters
    ----------
    folder : of the study's results; its files have the names that docs/architecture.md gives them.
    model_cards : model -> written.
    dataset_cards : arm -> written.
    study, source : its name, and where its patches come from (`data.source`).
    sizes : `patch` and `generator`, pixels a side.
    generator : `model` and `revision` of the base model, and `digest` where it is a folder.
    arms : name -> `config.arm_settings`.
    images, mixes : image sets and training sets of the classifier that were judged.
    """
    folder = Path(folder)
    shared = _shared(study, source, sizes, generator)
    results = Results.read(folder, images, mixes)
    judged = shared | {"reference": results.any_report["reference"]}
    for model, path in model_cards.items():
        judges = model if model in arms else next(arm for arm, settings in arms.items() if settings["model"] == model)
        _write(
            path,
            "model.jinja",
            judged | _model(folder, model, arms[judges]) | _scores(judges, results),
            _model_header,
        )
    for arm, path in dataset_cards.items():
        table = read_csv(Path(path).with_name("metadata.csv"), ("label", "class", "cluster", "prompt"))
        about = {"name": f"{study} {arm}", "arm": arm, "settings": arms[arm], "more": None, "hdf5": code(f"samples/{arm}.h5")}
        _write(path, "dataset.jinja", judged | about | _images(table) | _scores(arm, results), _dataset_header)


def write_dataset_card(
    folder: str | Path,
    card_md: str | Path,
    *,
    study: str,
    source: str,
    sizes: Mapping[str, int],
    generator: Mapping[str, Any],
    arm: str,
    settings: Mapping[str, Any],
    request: str,
) -> None:
    """Write the card of a data set that was generated beyond the study's own, beside its `metadata.csv`.

    Parameters
    ----------
    folder, study, source, sizes, generator : as in `write_cards`.
    card_md : written.
    arm, settings : the arm whose model was sampled, and its `config.arm_settings`.
    request : the name under which the images were asked for.
    """
    table = read_csv(Path(card_md).with_name("metadata.csv"), ("label", "class", "cluster", "prompt"))
    metrics = {name: read_json(Path(folder) / f"metrics/{name}.json") for name in ("real", arm)}
    content = {
        **_shared(study, source, sizes, generator),
        "reference": metrics[arm]["reference"],
        "name": f"{study} {arm} {request}",
        "arm": arm,
        "settings": settings,
        "more": request,
        "hdf5": code(f"more/{arm}/{request}/{arm}-{request}.h5"),
    }
    _write(card_md, "dataset.jinja", content | _images(table) | _scores(arm, Results(metrics, {}, {})), _dataset_header)


def _shared(study: str, source: str, sizes: Mapping[str, int], generator: Mapping[str, Any]) -> dict[str, Any]:
    return {"study": study, "data": _TISSUE.get(source, "of the user's own"), "sizes": sizes, "generator": generator}


def _write(
    path: str | Path, template: str, content: Mapping[str, Any], header: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=plain,
    )
    front = yaml.safe_dump(header(content), sort_keys=False, allow_unicode=True)
    with atomic(path) as temporary:
        text = environment.get_template(template).render(content, base=code(content["generator"]["model"]))
        temporary.write_text(f"---\n{front}---\n\n{text}", encoding="utf-8", newline="\n")


def plain(value: object) -> object:
    """A value as Markdown that shows it as it is, on one line; `Markup` is Markdown already."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))


def code(value: object) -> Markup:
    """A value as code, whatever backticks are in it."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return Markup(fence + pad + text + pad + fence)


def size_category(images: int) -> str:
    """The hub's word for a data set of so many images."""
    return next((word for limit, word in _SIZES.items() if images < limit), "n>10M")


def _model(folder: Path, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    manifest = read_json(folder / f"models/{model}/manifest.json")
    table = read_csv(folder / f"prompts/{model}.train.csv", ("label", "cluster", "prompt"))
    prompts = _prompts(table)
    return {
        "model": model,
        "settings": settings,
        "manifest": manifest,
        "changed": [(code(f"pipeline/{name}"), sha) for name, sha in changed_files(manifest).items()],
        "patches": len(table),
        "prompts": [code(prompt) for prompt in prompts[:_SHOWN_PROMPTS]],
        "all_prompts": len(prompts),
        "example": Markup(repr(prompts[0])),
    }


def _prompts(table: pd.DataFrame) -> list[str]:
    """The different prompts, by label and cluster."""
    return list(dict.fromkeys(table.sort_values(["label", "cluster", "prompt"])["prompt"]))


def _images(table: pd.DataFrame) -> dict[str, Any]:
    prompts = _prompts(table)
    return {
        "images": len(table),
        "by_class": sorted(Counter(table["class"]).items()),
        "prompts": [code(prompt) for prompt in prompts[:_SHOWN_PROMPTS]],
        "all_prompts": len(prompts),
    }


def _scores(name: str, results: Results) -> dict[str, Any]:
    """Every defined value of an image set beside that of real patches; spaces that repeat another are left out."""
    row, floors = results.rows.get(name, {}), results.rows["real"]
    if name in results.copies:  # real training patches are copies of themselves
        floors = floors | copies_of_held_out(results.copies[name])
    repeated = {
        column
        for encoder, protocols in distinct_spaces(list(results.metrics.values())).items()
        for twins in protocols.values()
        for twin in twins
        for column in columns_of_space(row, encoder, twin)
    }
    return {
        "scores": [
            (column, Markup(show_cell(cell, column)), Markup(show_cell(floors.get(column), column)), cell["value"])
            for column, cell in row.items()
            if column not in repeated and cell["value"] is not None
        ]
    }


def _model_header(content: Mapping[str, Any]) -> dict[str, Any]:
    hub = content["generator"]["revision"] is not None
    scores = content["scores"]
    results = {
        "task": {"type": "text-to-image"},
        "dataset": {"type": content["study"], "name": f"held-out real patches of study {content['study']}"},
        "metrics": [{"type": column, "value": value} for column, _, _, value in scores],
    }
    return {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **({"base_model": content["generator"]["model"]} if hub else {}),
        "tags": _TAGS,
        **({"model-index": [{"name": f"{content['study']} {content['model']}", "results": [results]}]} if scores else {}),
    }


def _dataset_header(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pretty_name": content["name"],
        "task_categories": ["image-classification", "text-to-image"],
        "size_categories": [size_category(content["images"])],
        "tags": _TAGS,
    }
