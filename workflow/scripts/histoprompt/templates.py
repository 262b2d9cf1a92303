"""Templates of prompts. Imports nothing heavy: the study's check of its prompts uses it before any job runs."""

from __future__ import annotations

from collections.abc import Callable

from histoprompt.words import number_words

# Placeholders of each template, all of them required: a prompt without its label, its cluster or its descriptors says less than
# the arm's name claims.
PLACEHOLDERS = {
    "label": {"label"},
    "morphology": {"label", "index"},
    "descriptor": {"label", "descriptors"},
    "morphology_descriptor": {"label", "index", "descriptors"},
}
# How `{index}` is written.
INDICES: dict[str, Callable[[int], str]] = {"words": number_words, "digits": str}


def template_of(prompts: str) -> str:
    """The template that a kind of prompts fills; shuffled prompts are sentences about morphology as the true ones are."""
    return "morphology" if prompts == "shuffled" else prompts


def names_descriptors(prompts: str) -> bool:
    """Do prompts of this kind say what is measured in the image?"""
    return "descriptors" in PLACEHOLDERS[template_of(prompts)]


def names_cluster(prompts: str) -> bool:
    """Do prompts of this kind say which cluster the image should be of?"""
    return "index" in PLACEHOLDERS[template_of(prompts)]


def fill(template: str, *, label: str, cluster: int, index: str, descriptors: str) -> str:
    """The prompt of an image.

    Parameters
    ----------
    label : the word of its class.
    cluster, index : its cluster, to be written in `words` or `digits`.
    descriptors : its phrases, with commas between them.
    """
    return template.format(label=label, index=INDICES[index](cluster), descriptors=descriptors)
