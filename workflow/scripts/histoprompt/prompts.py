"""Prompts: what an arm tells the model about every image."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import adjusted_mutual_info_score

from histoprompt.errors import InputError
from histoprompt.files import read_csv, write_csv
from histoprompt.patches import PatchFile
from histoprompt.subset import COLUMNS, keyed_generator, part_of_subset
from histoprompt.templates import INDICES, PLACEHOLDERS, fill, names_descriptors, template_of
from histoprompt.vocabulary import bins_of_rows, phrases_of, read_vocabulary

Clusters = npt.NDArray[np.int64]

# Below this many patches of a label, a chance agreement of a permutation with the truth is not rare enough to be an error.
_ENOUGH_FOR_AGREEMENT = 500
_CHANCE_AGREEMENT = 0.1


@dataclass(frozen=True)
class PromptKind:
    """How an arm's prompts are built.

    Attributes
    ----------
    named : (labels, true clusters, generator) -> the clusters that the training prompts name.
    meaningless : a control: within a label, the named clusters must tell nothing about the true ones.
    """

    named: Callable[[Clusters, Clusters, np.random.Generator], Clusters]
    meaningless: bool = False


def true_clusters(labels: Clusters, clusters: Clusters, generator: np.random.Generator) -> Clusters:
    """Every patch is told its own cluster."""
    return clusters


def shuffled_clusters(labels: Clusters, clusters: Clusters, generator: np.random.Generator) -> Clusters:
    """Clusters permuted among the patches of each label: every prompt keeps its count and loses its meaning."""
    named = clusters.copy()
    for label in np.unique(labels):
        own = labels == label
        named[own] = generator.permutation(clusters[own])
    return named


KINDS = {
    "label": PromptKind(true_clusters),
    "morphology": PromptKind(true_clusters),
    "shuffled": PromptKind(shuffled_clusters, meaningless=True),
    "descriptor": PromptKind(true_clusters),
    "morphology_descriptor": PromptKind(true_clusters),
}


def check_template(name: str, template: str) -> None:
    """Refuse a template that lacks a placeholder, has one that nothing fills, or is no format string."""
    key, needed = f"config key `prompts.{name}`", PLACEHOLDERS[name]
    expected = (
        "the placeholder" + ("s " if len(needed) > 1 else " ") + " and ".join(f"{{{p}}}" for p in sorted(needed, reverse=True))
    )
    try:
        fields = [
            field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            for _, field, spec, conversion in string.Formatter().parse(template)
            if field is not None
        ]
    except ValueError as error:
        raise InputError(key, found=f"{template!r} ({error})", expected=expected, remedy="close every brace") from error
    unknown, missing = sorted(set(fields) - needed), sorted(needed - set(fields))
    if unknown or missing:
        fault = [f"the unknown placeholder {{{p}}}" for p in unknown] + [f"no placeholder {{{p}}}" for p in missing]
        raise InputError(
            key,
            found=f"{template!r}: {', '.join(fault)}",
            expected=f"{expected}, and no other",
            remedy="correct the template",
        )


def check_meaningless(where: str | Path, labels: Clusters, clusters: Clusters, named: Clusters) -> None:
    """Raise unless the named clusters of a control are independent of the true ones, given the label.

    Measured within each label by adjusted mutual information (Vinh, Epps and Bailey 2010), which is 0 in expectation for a
    permutation: over all labels together it is not, where a cluster is more frequent under one label than under another.
    """
    for label in np.unique(labels):
        own = labels == label
        if len(np.unique(clusters[own])) < 2:
            raise InputError(
                where,
                found=f"one cluster only for label {label}: its shuffled prompts are the true ones",
                expected="two prompts or more of every label, so that shuffling them takes their meaning",
                remedy="raise `subset.min_prompts_per_label` to 2 or more, or leave out the arms with shuffled prompts",
            )
        if np.count_nonzero(own) >= _ENOUGH_FOR_AGREEMENT:
            agreement = adjusted_mutual_info_score(clusters[own], named[own])
            if agreement > _CHANCE_AGREEMENT:
                raise RuntimeError(f"named and true clusters of label {label} agree: AMI {agreement:.3f}")


def draw_clusters(labels: Clusters, subset_labels: Clusters, subset_clusters: Clusters, seed: int) -> Clusters:
    """A cluster for every image to generate, from the subset's frequencies given the label.

    Image n's draw depends on the seed, on n and on the subset alone: not on how many images there are, nor on the arm.
    """
    uniform = keyed_generator(seed, "generate").random(len(labels))
    drawn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        clusters, counts = np.unique(subset_clusters[subset_labels == label], return_counts=True)
        own = labels == label
        drawn[own] = clusters[np.searchsorted(np.cumsum(counts), uniform[own] * counts.sum(), side="right")]
    return drawn


def draw_patches(labels: Clusters, clusters: Clusters, subset: pd.DataFrame, seed: int) -> Clusters:
    """A training patch of its label and cluster for every image to generate: the one whose descriptors its prompt names.

    Whole patches are drawn, so that descriptors are named together as often as they are found together. Image n's draw depends
    on the seed, on n and on the subset alone.

    Parameters
    ----------
    labels, clusters : of the images.
    subset : `row,label,cluster`; every label and cluster wanted is there.
    """
    uniform = keyed_generator(seed, "describe").random(len(labels))
    drawn = np.empty(len(labels), np.int64)
    for (label, cluster), members in subset.sort_values("row").groupby(["label", "cluster"]):
        own = (labels == label) & (clusters == cluster)
        drawn[own] = members["row"].to_numpy(np.int64)[(uniform[own] * len(members)).astype(np.int64)]
    return drawn


def build_prompts(
    patches_h5: str | Path,
    subset_train_csv: str | Path,
    subset_valid_csv: str | Path,
    descriptors_train_csv: str | Path | None,
    descriptors_valid_csv: str | Path | None,
    vocabulary_json: str | Path | None,
    train_csv: str | Path,
    valid_csv: str | Path,
    generate_csv: str | Path,
    *,
    prompts: str,
    templates: dict[str, str],
    index: str,
    train: int,
    images: int,
    seed: int,
) -> None:
    """Write the prompts an arm is trained on, validated on, and generated from.

    Parameters
    ----------
    patches_h5 : a patch file, for the words of its classes.
    subset_train_csv, subset_valid_csv : the balanced subsets, `row,id,label,cluster`.
    descriptors_train_csv, descriptors_valid_csv, vocabulary_json : the splits' descriptors and the words for them, where
        prompts name them; else None.
    train_csv, valid_csv : written: `row,id,label,cluster,prompt,true_cluster`; `cluster` is the one that the prompt names (or
        would name: the arm `label` keeps the column), `true_cluster` the patch's own.
    generate_csv : written: `number,label,cluster,prompt,row`. Image n has label n % (number of classes) and, in every arm, the
        same cluster, drawn from the training subset's frequencies, and the same `row` of the train split, a patch of that label
        and cluster: the prompt names its descriptors, if it names any.
    prompts : a name of `KINDS`.
    templates : that of these prompts (`template_of`), by its name under the config key `prompts`; others are not used.
    index : how clusters are written, in `words` or `digits`.
    train : how many images the arm trains on at most: the whole subset, or equally many of every prompt.
    images : how many images the arm generates.
    seed : the study's seed.

    Raises
    ------
    InputError : an unknown kind of prompt, a template that cannot be filled, or a class without training images.
    """
    for key, name, known in (("prompts", prompts, KINDS), ("index", index, INDICES)):
        if name not in known:
            raise InputError(
                f"config key `arms.*.{key}`", found=repr(name), expected=f"one of {', '.join(known)}", remedy="correct the name"
            )
    kind, template = KINDS[prompts], templates[template_of(prompts)]
    check_template(template_of(prompts), template)
    with PatchFile(patches_h5) as patches:
        classes = patches.classes
    subset, valid = read_csv(subset_train_csv, COLUMNS), read_csv(subset_valid_csv, COLUMNS)
    for label, word in enumerate(classes):
        if not (subset["label"] == label).any():
            raise InputError(
                subset_train_csv,
                found=f"no training image of the class `{word}`",
                expected=f"images of every class: {', '.join(classes)}",
                remedy="give patches of that class, or take it out of `data.classes`",
            )

    part = subset if train >= len(subset) else part_of_subset(subset, train, seed)
    vocabulary = None
    if names_descriptors(prompts):
        assert vocabulary_json is not None
        vocabulary = read_vocabulary(vocabulary_json)

    def write(path: str | Path, table: pd.DataFrame, descriptors_csv: str | Path | None, columns: tuple[str, ...]) -> None:
        said = [""] * len(table)
        if vocabulary is not None:
            assert descriptors_csv is not None
            said = phrases_of(bins_of_rows(descriptors_csv, vocabulary, table["row"]), vocabulary)
        sentences = [
            fill(template, label=classes[label], cluster=cluster, index=index, descriptors=phrases)
            for label, cluster, phrases in zip(table["label"], table["cluster"], said, strict=True)
        ]
        write_csv(path, table.assign(prompt=sentences)[list(columns)])

    for path, table, split, descriptors_csv in (
        (train_csv, part, "train", descriptors_train_csv),
        (valid_csv, valid, "valid", descriptors_valid_csv),
    ):
        labels, clusters = table["label"].to_numpy(np.int64), table["cluster"].to_numpy(np.int64)
        named = kind.named(labels, clusters, keyed_generator(seed, f"named clusters {split}"))
        if kind.meaningless and split == "train":
            check_meaningless(subset_train_csv, labels, clusters, named)
        columns = (*COLUMNS, "prompt", "true_cluster")
        write(path, table.assign(cluster=named, true_cluster=clusters), descriptors_csv, columns)

    numbers = np.arange(images)
    labels = numbers % len(classes)
    drawn = draw_clusters(labels, subset["label"].to_numpy(np.int64), subset["cluster"].to_numpy(np.int64), seed)
    generate = {"number": numbers, "label": labels, "cluster": drawn, "row": draw_patches(labels, drawn, subset, seed)}
    write(generate_csv, pd.DataFrame(generate), descriptors_train_csv, ("number", "label", "cluster", "prompt", "row"))
