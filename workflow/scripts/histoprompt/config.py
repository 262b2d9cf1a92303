"""What a study's configuration means: checks that end in one message, and the settings of each arm."""

from __future__ import annotations

import errno
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonschema import Draft202012Validator, ValidationError

from histoprompt.encoders import INCEPTION, no_inception
from histoprompt.errors import InputError
from histoprompt.files import check_digest, read_json, with_advice
from histoprompt.reader_study.shares import check_shares
from histoprompt.schedulers import check_scheduler
from histoprompt.templates import PLACEHOLDERS, fill, names_cluster, template_of
from histoprompt.words import check_classes

DOWNLOADED_PCAM = "resources/pcam"
FOUNDATION = "resources/foundation"
_REPLICATE = re.compile(r"(?P<arm>.+)-seed(?P<seed>[0-9]+)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_IMAGE_SETS = ("real", "resampled", "vae", "train", "valid", "test")
_LARGEST_PAGE = 200  # MB: browsers hold a page of some 500 MB in one text, and tablets less
_TYPES = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
    "boolean": ("true or false", "true or false"),
    "null": ("null", "nulls"),
    "array": ("a list", "lists"),
    "object": ("a section", "sections"),
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of"}
_PCAM_FILES = tuple(f"camelyonpatch_level_2_split_{split}_{part}.h5" for split in ("train", "valid", "test") for part in "xy")


def check_config(config: Mapping[str, Any], *, schema: str | Path, study_file: str | Path) -> None:
    """Refuse a study that cannot run, before anything is computed.

    Parameters
    ----------
    config : the whole configuration.
    schema : the JSON schema (as YAML) it must fit.
    study_file : named in messages.

    Raises
    ------
    InputError : the first thing at fault, with the key, what was found, what was expected and what to do.
    """
    _Checker(config, Path(schema), str(study_file)).check()


def arm_entries(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(config key, name, entry) of every arm: the study's own first, then those of its ablations."""
    sections = {"arms": config["arms"]}
    sections |= {f"ablations.{name}.arms": ablation["arms"] for name, ablation in config["ablations"].items()}
    for section, arms in sections.items():
        for name, entry in arms.items():
            yield f"{section}.{name}", name, entry


def all_arms(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entry of every arm, by name: the study's own and those of its ablations."""
    return {name: entry for _, name, entry in arm_entries(config)}


def arm_settings(config: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """Everything that tells one arm from another.

    `{arm}-seed{s}` is a replicate: the arm with s for both of its seeds and, with `replicates.recluster`, for its clusters.

    Returns
    -------
    `model` (the arm whose fine-tuned model is sampled), `prompts`, `index` (how their clusters are written), `encoder`, `k`,
    `clusters_seed` (of their k-means and of the subset drawn; None: the study's), `train` (training images),
    `finetune` (None: the base model is sampled), `sampling`, `seed` (of the fine-tuning) and `image_seed` (of labels, clusters
    and noise of the generated images: the study's in every arm, so that image n differs between arms by nothing but the model
    and the prompt's words).
    """
    replicate = _REPLICATE.fullmatch(arm)
    name, suffix = (replicate["arm"], f"-seed{replicate['seed']}") if replicate else (arm, "")
    arms = all_arms(config)
    entry = arms[name]
    model = entry.get("model", name)
    finetune = arms[model].get("finetune", {})
    return {
        "model": model + suffix,
        "prompts": entry["prompts"],
        "index": entry.get("index", "words"),
        "encoder": entry.get("encoder", config["morphology"]["encoder"]),
        "k": entry.get("k", config["morphology"]["k"]),
        "clusters_seed": int(replicate["seed"]) if replicate and config["replicates"]["recluster"] else None,
        "train": arms[model].get("train", config["subset"]["train"]),
        "finetune": None if finetune is False else {**config["generator"]["finetune"], **finetune},
        "sampling": {**config["generator"]["sampling"], **entry.get("sampling", {})},
        "seed": int(replicate["seed"]) if replicate else arms[model].get("seed", config["seed"]),
        "image_seed": int(replicate["seed"]) if replicate else config["seed"],
    }


def varied_setting(config: Mapping[str, Any], arm: str, setting: str) -> Any:
    """The value of a dotted setting of `arm_settings`, such as `finetune.steps`; None where the arm has no such section."""
    value: Any = arm_settings(config, arm)
    for name in setting.split("."):
        value = None if value is None else value[name]
    return value


def ablation_arms(config: Mapping[str, Any], ablation: str) -> list[str]:
    """The arms of an ablation's table: the study's own that stand beside it, then its own."""
    entry = config["ablations"][ablation]
    return [*entry["beside"], *entry["arms"]]


def morphology_of(config: Mapping[str, Any], images: str) -> dict[str, Any]:
    """`encoder`, `k` and `clusters_seed` of the clusters by which an image set is judged: its arm's, else the study's."""
    settings = {**config["morphology"], "clusters_seed": None} if images in _IMAGE_SETS else arm_settings(config, images)
    return {key: settings[key] for key in ("encoder", "k", "clusters_seed")}


def missing_encoders(config: Mapping[str, Any]) -> dict[str, str]:
    """Encoders of the evaluation whose weights are not there, and why: their columns say so, and all else is computed."""
    encoders = {name: config["encoders"][name] for name in config["evaluation"]["encoders"]}
    return {
        name: f"no file {encoder['model']}: put {INCEPTION} there and run the same command again"
        for name, encoder in encoders.items()
        if encoder["kind"] == "inception" and not Path(encoder["model"]).is_file()
    }


def arm_titles(config: Mapping[str, Any], arms: Iterable[str]) -> dict[str, str]:
    """What tables and figures call those arms of which the study says what they are; the others go by their names."""
    entries = all_arms(config)
    return {name: f"{name}: {entries[name]['title']}" for name in arms if "title" in entries[name]}


def mixes_with(arms: Sequence[str]) -> list[str]:
    """Training sets of the classifier that contain an arm: each alone, and each with the real images."""
    return [mix for arm in arms for mix in (arm, f"real+{arm}")]


def check_embedded(folder: Path) -> None:
    """Refuse an embedded model that is not the repository's: with damaged weights a study would run all the same."""
    manifest = Path(FOUNDATION) / "manifest.json"
    for name, expected in read_json(manifest).items():
        if (Path(FOUNDATION) / name).is_relative_to(folder):
            remedy = f"`git checkout {FOUNDATION}`; for a model of your own, name another folder in the study file"
            check_digest(Path(FOUNDATION) / name, expected, by=manifest, remedy=remedy)


class _Checker:
    def __init__(self, config: Mapping[str, Any], schema: Path, study_file: str) -> None:
        self.config, self.study_file = config, study_file
        self.schema = yaml.load(schema.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def refuse(self, key: str, *, found: str, expected: str, remedy: str) -> NoReturn:
        raise InputError(f"config key `{key}` of {self.study_file}", found=found, expected=expected, remedy=remedy)

    def check(self) -> None:
        self.check_schema()
        self.check_names()
        self.check_data()
        self.check_templates()
        self.check_numbers()
        self.check_reader_study()
        self.check_models()

    def check_schema(self) -> None:
        errors = sorted(Draft202012Validator(self.schema).iter_errors(self.config), key=lambda e: [str(p) for p in e.path])
        if errors:
            self.refuse_schema_error(_deepest(errors[0]), more=len(errors) - 1)

    def refuse_schema_error(self, error: ValidationError, more: int) -> NoReturn:
        key = ".".join(str(part) for part in error.absolute_path)
        others = f" ({more} more to correct after this one)" if more else ""
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(name for name in error.instance if name not in known)
            self.refuse(
                f"{key}.{unknown}".lstrip("."),
                found="a key that does not exist",
                expected=f"one of {', '.join(known)}",
                remedy=f"correct its spelling or take it out; config/README.md describes every key{others}",
            )
        if error.validator == "required":
            missing = next(name for name in error.schema["required"] if name not in error.instance)
            self.refuse(
                f"{key}.{missing}".lstrip("."),
                found="no such key",
                expected="a study file that states every key",
                remedy=f"add it; config/README.md describes it and config/config.yaml shows it{others}",
            )
        if (
            error.parent is None
            and error.schema is not None
            and "pattern" in error.schema
            and list(error.schema) == ["pattern"]
        ):
            self.refuse(
                f"{key}.{error.instance}".lstrip("."),
                found=f"the name {error.instance!r}",
                expected="a name of lower-case letters, digits and underscores that begins with a letter",
                remedy=f"rename it{others}",
            )
        hint = ""
        if isinstance(error.instance, str) and re.fullmatch(r"[0-9.]+[eE][+-]?[0-9]+", error.instance):
            hint = "; YAML reads 1e-5 as text, so write 1.0e-5"
        elif isinstance(error.instance, str) and re.fullmatch(r"-?[0-9.]+|null|true|false", error.instance):
            hint = "; inside braces --config gives text alone, so set this key in the study file"
        elif isinstance(error.instance, bool) and "no" in error.schema.get("enum", []):
            hint = '; YAML reads no as false, so write "no" in quotes'
        self.refuse(
            key,
            found=_short(error.instance),
            expected=expectation(error.schema) or error.message,
            remedy=f"{error.schema.get('description', 'correct it')}{hint}{others}",
        )

    def check_names(self) -> None:
        config, seen = self.config, set(_IMAGE_SETS)
        for key, arm, _ in arm_entries(config):
            if arm in seen:
                self.refuse(
                    key,
                    found=f"an arm named {arm}",
                    expected=f"a name other than {', '.join(_IMAGE_SETS)}, which name image sets of every study"
                    if arm in _IMAGE_SETS
                    else "a name that no other arm of the study or of its ablations has",
                    remedy="rename the arm",
                )
            seen.add(arm)
        named = [("morphology.encoder", config["morphology"]["encoder"])]
        named += [("evaluation.encoders", name) for name in config["evaluation"]["encoders"]]
        named += [("evaluation.map.encoder", config["evaluation"]["map"]["encoder"])]
        named += [(f"{key}.encoder", entry["encoder"]) for key, _, entry in arm_entries(config) if "encoder" in entry]
        for key, name in named:
            self.check_known(key, name, config["encoders"], "encoders")
        for section in ("replicates", "reader_study", "learning_curve"):
            for arm in config[section]["arms"]:
                self.check_known(f"{section}.arms", arm, config["arms"], "arms")
        for key, _, entry in arm_entries(config):
            if "model" in entry:
                self.check_sampled_model(key, entry)
        for name, ablation in config["ablations"].items():
            for arm in ablation["beside"]:
                self.check_known(f"ablations.{name}.beside", arm, config["arms"], "arms")
            self.check_varied(f"ablations.{name}.varies", ablation["varies"])

    def check_varied(self, key: str, setting: str) -> None:
        sections = {name: self.config["generator"][name] for name in ("finetune", "sampling")}
        known = [name for name in arm_settings(self.config, next(iter(self.config["arms"]))) if name not in sections]
        known += [f"{section}.{name}" for section, settings in sections.items() for name in settings]
        if setting not in known:
            self.refuse(
                key, found=repr(setting), expected=f"a setting of an arm: {', '.join(known)}", remedy="name what its arms vary"
            )

    def check_sampled_model(self, key: str, entry: Mapping[str, Any]) -> None:
        """An arm that samples another one's model changes nothing about its training."""
        arms = all_arms(self.config)
        self.check_known(f"{key}.model", entry["model"], arms, "arms")
        if "model" in arms[entry["model"]]:
            self.refuse(
                f"{key}.model",
                found=f"{entry['model']!r}, which samples the model of {arms[entry['model']]['model']!r}",
                expected="an arm with a model of its own",
                remedy="name that arm",
            )
        trained = [name for name in ("finetune", "seed", "train") if name in entry]
        if trained:
            self.refuse(
                f"{key}.{trained[0]}",
                found=f"a setting of the training, where the model of {entry['model']!r} is sampled",
                expected="none, since that arm decides how its model is trained",
                remedy=f"take out this key, or `{key}.model`",
            )

    def check_known(self, key: str, name: str, known: Iterable[str], section: str) -> None:
        if name not in known:
            self.refuse(
                key,
                found=repr(name),
                expected=f"a name under `{section}`: {', '.join(known)}",
                remedy=f"correct the name, or describe {name!r} under `{section}`",
            )

    def check_data(self) -> None:
        data = self.config["data"]
        source, root, classes = data["source"], data["root"], data["classes"]
        own_names = source in ("folders", "table")
        if (source in ("phantom", "pcam") and len(classes) != 2) or len(classes) == 1:
            self.refuse(
                "data.classes",
                found=_short(classes),
                expected="two or more words" + (", or [] for the data's own names" if own_names else "")
                if own_names
                else "two words, those of label 0 and label 1",
                remedy="give one word for every label",
            )
        check_classes(f"config key `data.classes` of {self.study_file}", classes)
        for key, needed in (("phantom", source == "phantom"), ("holdout", own_names)):
            if needed and data[key] is None:
                self.refuse(
                    f"data.{key}",
                    found="null",
                    expected=f"a section, since `data.source` is {source}",
                    remedy="fill it in as config/README.md says",
                )
        if own_names and sum(data["holdout"].values()) >= 1:
            self.refuse(
                "data.holdout",
                found=_short(data["holdout"]),
                expected="shares that leave something to train on",
                remedy="lower them",
            )
        if source == "phantom":
            if root is not None:
                self.refuse(
                    "data.root",
                    found=_short(root),
                    expected="null, since the phantom is computed",
                    remedy="set `data.source` to what the root is (pcam, folders or table), or set the root to null",
                )
        elif root is None:
            self.refuse(
                "data.root",
                found="null",
                expected={"table": "a CSV file"}.get(source, "a folder"),
                remedy="name it in the study file or on the command line: --config data='{root: PATH}'"
                + (f"; `{DOWNLOADED_PCAM}` downloads PCam" if source == "pcam" else ""),
            )
        elif root != DOWNLOADED_PCAM or source != "pcam":
            self.check_root(source, Path(root))

    def check_root(self, source: str, root: Path) -> None:
        place = f"{root} (config key `data.root` of {self.study_file})"
        wanted = {
            "pcam": f"a folder with {_PCAM_FILES[0]} and its five sisters",
            "folders": "a folder with one folder of images a class",
            "table": "a CSV file with the columns path and label",
        }[source]
        if not (root.is_file() if source == "table" else root.is_dir()):
            what = "a folder" if root.is_dir() else "a file" if root.is_file() else "nothing there"
            remedy = "correct the path; it is relative to the folder in which Snakemake runs"
            raise InputError(place, found=what, expected=wanted, remedy=remedy)
        missing = [name for name in _PCAM_FILES if source == "pcam" and not (root / name).is_file()]
        if missing:
            raise InputError(
                place,
                found=f"no {', no '.join(missing)}",
                expected=wanted,
                remedy="put the missing files there, under exactly these names, unpacked",
            )

    def check_templates(self) -> None:
        for kind, fields in PLACEHOLDERS.items():
            template = self.config["prompts"][kind]
            try:
                found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
            except ValueError as error:
                found = {f"a broken brace ({error})"}
            if found != fields:
                self.refuse(
                    f"prompts.{kind}",
                    found=f"{template!r}, whose fields are {', '.join(sorted(found)) or 'none'}",
                    expected="the fields "
                    + " and ".join(f"{{{name}}}" for name in sorted(fields, reverse=True))
                    + ", and no other",
                    remedy="write the template with these fields",
                )

    def check_numbers(self) -> None:
        config = self.config
        subset, images = config["subset"], config["generator"]["sampling"]["images"]
        self.check_at_least(
            "subset.train",
            subset["train"],
            images,
            "generator.sampling.images",
            "the real row draws as many real images as an arm has",
        )
        self.check_at_least(
            "generator.sampling.images",
            images,
            config["evaluation"]["neighbours"] + 1,
            "evaluation.neighbours + 1",
            "an image is not its own neighbour",
        )
        drawn = config["evaluation"]["map"]["images"]
        for least, other, why in (
            (config["evaluation"]["neighbours"] + 1, "evaluation.neighbours + 1", "an image is not its own neighbour"),
            (config["evaluation"]["map"]["regions"], "evaluation.map.regions", "every region has a patch"),
        ):
            self.check_at_least("evaluation.map.images", drawn, least, other, why)
        self.check_at_least(
            "subset.train",
            subset["train"],
            max(config["learning_curve"]["real"]),
            "learning_curve.real",
            "the curve's real patches are those the generators saw",
        )
        if config["data"]["source"] == "phantom":
            patches, slides = config["data"]["phantom"]["patches"], config["data"]["phantom"]["slides"]
            for split in patches:
                self.check_at_least(
                    f"data.phantom.patches.{split}",
                    patches[split],
                    slides[split],
                    f"data.phantom.slides.{split}",
                    "every slide has a patch",
                )
            for split in ("train", "valid"):
                self.check_at_least(
                    f"data.phantom.patches.{split}",
                    patches[split],
                    subset[split],
                    f"subset.{split}",
                    "the subset is drawn from the split, without repeats",
                )
            of_arms = [arm_settings(config, arm)["k"] for arm in all_arms(config)]
            largest = max([config["morphology"]["k"], *config["morphology"]["sweep"], *of_arms])
            self.check_at_least(
                "data.phantom.patches.train", patches["train"], largest, "the largest k", "every cluster has a patch"
            )
        for where, arm, entry in arm_entries(config):
            if "train" in entry:
                self.check_at_least(
                    "subset.train", subset["train"], entry["train"], f"{where}.train", "an arm trains on a part of the subset"
                )
            settings = arm_settings(config, arm)["finetune"]
            key = f"{where}.finetune" if "finetune" in entry else "generator.finetune"
            if settings and settings["text_gain"] is not None and settings["lora"] is not None:
                self.refuse(
                    f"{key}.text_gain",
                    found=f"a gain of {settings['text_gain']} beside lora",
                    expected="one of the two: adapters are loaded onto the base as it is, not as the gain left it",
                    remedy="set text_gain or lora to null",
                )
            if settings and settings["warmup_steps"] >= settings["steps"]:
                self.refuse(
                    f"{key}.warmup_steps",
                    found=f"{settings['warmup_steps']} warm-up steps of {settings['steps']} in all",
                    expected="a warm-up shorter than the training",
                    remedy="lower warmup_steps or raise steps",
                )

    def check_reader_study(self) -> None:
        study, data = self.config["reader_study"], self.config["data"]
        check_shares(
            f"config key `reader_study.images` of {self.study_file}",
            study["images"],
            arms=len(study["arms"]),
            classes=len(data["classes"]),  # those of a folder or table are looked at once they are known
            blocks=study["blocks"],
        )
        self.check_at_least(
            "reader_study.images",
            study["images"],
            study["repeats"],
            "reader_study.repeats",
            "an image is shown a second time once",
        )
        half = (study["images"] + study["training"]) // 2
        self.check_at_least(
            "generator.sampling.images",
            self.config["generator"]["sampling"]["images"],
            half,
            "half of reader_study.images + reader_study.training",
            "no two synthetic images have one number",
        )
        if data["source"] == "phantom":
            self.check_at_least(
                "data.phantom.patches.test",
                data["phantom"]["patches"]["test"],
                half,
                "half of reader_study.images + reader_study.training",
                "the real images are test patches",
            )
        side = data["patch_size"] if study["display"] == "matched" else self.config["generator"]["resolution"]
        size = half * 2 * 4 * side**2 / 1e6
        if size > _LARGEST_PAGE:
            self.refuse(
                "reader_study.images",
                found=f"{half * 2} images of up to {side} pixels a side, a page of {size:.0f} MB",
                expected=f"at most {_LARGEST_PAGE} MB, which every browser opens",
                remedy="show fewer images"
                + ("" if study["display"] == "matched" else ", or set `reader_study.display` to matched"),
            )
        if study["answers"] is not None and not Path(study["answers"]).is_dir():
            self.refuse(
                "reader_study.answers",
                found=f"no folder {study['answers']}",
                expected="the folder of the CSV files that readers sent back",
                remedy="correct the path (relative to the folder in which Snakemake runs), or set it to null",
            )

    def check_at_least(self, key: str, value: int, least: int, other: str, why: str) -> None:
        if value < least:
            self.refuse(
                key,
                found=str(value),
                expected=f"at least {least}, as `{other}`: {why}",
                remedy=f"raise `{key}` or lower `{other}`",
            )

    def check_models(self) -> None:
        for name, encoder in self.config["encoders"].items():
            key, kind = f"encoders.{name}", encoder["kind"]
            if kind == "inception":
                self.check_inception(name, encoder)
            elif kind == "timm":
                plain = encoder | {"model": encoder["model"].removeprefix("hf-hub:")}
                self.check_model(key, plain, "config.json", "a folder saved by timm")
            else:
                self.check_model(key, encoder, "config.json", "a folder saved by transformers")
        generator = self.config["generator"]
        folder = self.check_model("generator", generator, "model_index.json", "a folder saved by StableDiffusionPipeline")
        if folder is not None:
            self.check_pipeline(folder, generator["resolution"])
            self.check_schedulers(folder)
            self.check_prompt_lengths(folder)
        weights = self.config["classifier"]["weights"]
        if weights is not None and not Path(weights).is_file():
            self.refuse(
                "classifier.weights",
                found=f"no file {weights}",
                expected="a safetensors file",
                remedy="correct the path, or set it to null",
            )

    def check_inception(self, name: str, encoder: Mapping[str, Any]) -> None:
        """Only the evaluation can do without its weights, and only float32 gives the features of FID."""
        key = f"encoders.{name}"
        if encoder["revision"] is not None:
            found = _short(encoder["revision"])
            self.refuse(f"{key}.revision", found=found, expected="null, since the model is a file", remedy="set it to null")
        if encoder["dtype"] != "float32":
            found = encoder["dtype"]
            self.refuse(f"{key}.dtype", found=found, expected="float32, in which FID is defined", remedy="set it to float32")
        path = Path(encoder["model"])
        clustering = {self.config["morphology"]["encoder"], *(arm.get("encoder") for arm in self.config["arms"].values())}
        if path.is_dir() or (name in clustering and not path.is_file()):
            found = "a folder" if path.is_dir() else "no file of this name"
            raise no_inception(path, f"{found} (config key `{key}.model` of {self.study_file})")

    def check_model(self, key: str, entry: Mapping[str, Any], index: str, kind: str) -> Path | None:
        """The model's folder, if it is one and holds what it should."""
        model, revision = entry["model"], entry["revision"]
        folder = Path(model)
        if not folder.is_dir():
            if folder.is_relative_to(FOUNDATION) and revision is None:
                return None  # the target `foundation` makes it, and must not be refused for its absence
            if not _HUB_ID.fullmatch(model) or revision is None:
                self.refuse(
                    f"{key}.model",
                    found=f"{model!r}: no such folder" + ("" if revision else ", and no revision that would make it a hub id"),
                    expected=f"{kind}, or a hub id (owner/name) with its 40-digit commit as `{key}.revision`",
                    remedy="correct the path (relative to the folder in which Snakemake runs), or state the revision",
                )
            return None
        if revision is not None:
            self.refuse(
                f"{key}.revision",
                found=_short(revision),
                expected=f"null, since {model} is a folder",
                remedy="set it to null",
            )
        if not (folder / index).is_file():
            raise InputError(
                f"{folder} (config key `{key}.model` of {self.study_file})",
                found=f"no {index} in it",
                expected=kind,
                remedy="name the folder that holds this file",
            )
        for file in folder.rglob("*"):
            if not os.access(file, os.R_OK):
                raise with_advice(file, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        if folder.is_relative_to(FOUNDATION):
            check_embedded(folder)
        return folder

    def check_pipeline(self, folder: Path, resolution: int) -> None:
        parts = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
        missing = [part for part in parts if not (folder / part).is_dir()]
        if missing:
            raise InputError(
                f"{folder} (config key `generator.model` of {self.study_file})",
                found=f"no {', no '.join(missing)} in it",
                expected=f"a text-to-image pipeline with the folders {', '.join(parts)}",
                remedy="name the folder of a whole StableDiffusionPipeline",
            )
        vae = folder / "vae/config.json"
        channels = _model_config(vae).get("block_out_channels")
        if not isinstance(channels, list):
            raise _unreadable(vae, "no block_out_channels")
        factor = 2 ** (len(channels) - 1)
        if resolution % factor:
            self.refuse(
                "generator.resolution",
                found=str(resolution),
                expected=f"a multiple of {factor}, the factor by which {folder / 'vae'} shrinks an image",
                remedy=f"set it to {max(1, round(resolution / factor)) * factor}",
            )

    def check_schedulers(self, folder: Path) -> None:
        """Stable Diffusion's own scheduler does not know every kind of model; the others do."""
        scheduler = folder / "scheduler/scheduler_config.json"
        base = _model_config(scheduler) if scheduler.is_file() else {}
        for where, arm, entry in arm_entries(self.config):
            key = f"{where}.sampling" if "scheduler" in entry.get("sampling", {}) else "generator.sampling"
            name = arm_settings(self.config, arm)["sampling"]["scheduler"]
            check_scheduler(name, base, f"config key `{key}.scheduler` of {self.study_file}, for {folder}")

    def check_prompt_lengths(self, folder: Path) -> None:
        """Every arm's prompts against a local pipeline's text encoder; for other models training checks them first."""
        file, encoder = folder / "tokenizer/tokenizer.json", folder / "text_encoder/config.json"
        if not (file.is_file() and encoder.is_file()):
            return
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise _unreadable(file, str(error)) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        limit = int(_model_config(encoder).get("max_position_embeddings", 77))  # what CLIP's configuration may leave out

        def tokens(text: str) -> int:
            return len(tokenizer.encode(text).ids)

        # Commas part the phrases, so the longest of each together are the longest that a prompt may have to say.
        descriptors = ", ".join(max(phrases, key=tokens) for phrases in self.config["descriptors"].values())
        for arm in all_arms(self.config):
            settings = arm_settings(self.config, arm)
            kind = template_of(settings["prompts"])
            for label in self.config["data"]["classes"]:
                for cluster in range(settings["k"] if names_cluster(kind) else 1):
                    template, index = self.config["prompts"][kind], settings["index"]
                    prompt = fill(template, label=label, cluster=cluster, index=index, descriptors=descriptors)
                    if tokens(prompt) > limit:
                        self.refuse(
                            f"prompts.{kind}",
                            found=f"a prompt of {tokens(prompt)} tokens: {prompt!r}",
                            expected=f"at most {limit} tokens, beginning and end included: the rest would be cut off",
                            remedy="shorten the template, the words of `data.classes`, or the phrases of `descriptors`",
                        )


def _model_config(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(path, f"a {type(content).__name__}")
    return content


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        path,
        found=f"no usable configuration ({why})",
        expected="this file as `save_pretrained` of a StableDiffusionPipeline writes it",
        remedy="save the pipeline again, or name another folder as `generator.model`",
    )


def _deepest(error: ValidationError) -> ValidationError:
    """The error of the alternative that was meant: of `false` or an object, the object's, if an object was given."""
    if error.validator == "anyOf" and isinstance(error.instance, Mapping) and error.context:
        return next(e for e in error.context if e.validator != "const")
    return error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def expectation(schema: Mapping[str, Any]) -> str:
    """A schema's type and bounds in words, for messages and for config/README.md."""
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(expectation(option) for option in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"]).lower()
    types = schema.get("type", [])
    words = " or ".join(_TYPES[name][0] for name in ([types] if isinstance(types, str) else types))
    bounds = [f"{sign} {schema[name]}" for name, sign in _BOUNDS.items() if name in schema]
    if "items" in schema:
        words += f" of {', '.join(schema['items'].get('enum', [_TYPES[schema['items']['type']][1]]))}"
        bounds += [f"each {sign} {schema['items'][name]}" for name, sign in _BOUNDS.items() if name in schema["items"]]
    if "minItems" in schema:
        bounds.append("not empty")
    if schema.get("uniqueItems"):
        bounds.append("none twice")
    if "pattern" in schema:
        bounds.append(f"matching {schema['pattern']}")
    return f"{words} ({', '.join(bounds)})" if bounds else words
