"""Does an image show what its prompt says of it? Descriptors measured in images, against those asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, read_json, write_csv, write_json
from histoprompt.markdown import markdown_table
from histoprompt.metrics import chance_agreement, share
from histoprompt.vocabulary import bins_of_rows, read_vocabulary

ALL = "all"  # every descriptor of an image at once
_WIDTH = 120  # characters of a line of text


def compare_descriptors(
    asked_csv: str | Path,
    images_csv: str | Path,
    train_csv: str | Path,
    vocabulary_json: str | Path,
    report_json: str | Path,
    *,
    name: str,
    named: bool,
) -> None:
    """Compare what is measured in images with what is measured in the training patches that their prompts describe.

    Parameters
    ----------
    asked_csv : `label,row` of image i in row i: a patch of the train split, whose descriptors the image should have.
    images_csv, train_csv : descriptors of the images and of the train split.
    vocabulary_json : the bins.
    report_json : written: of every descriptor, and of `all` together, the `fidelity` (share of images in the bin asked for,
        with Wilson's interval) and its `floor` (`metrics.chance_agreement`: if the prompts were dealt anew within each
        label); of each descriptor also the `words` and `counts`, images by the bin asked for (rows) and the bin measured.
    name : of the image set.
    named : do the images' prompts name descriptors? Where they do not, the fidelity is what label and cluster alone give.

    Raises
    ------
    InputError : tables that do not belong together.
    """
    vocabulary, table = read_vocabulary(vocabulary_json), read_csv(asked_csv, ("label", "row"))
    measured = bins_of_rows(images_csv, vocabulary)
    if len(measured) != len(table):
        raise InputError(
            images_csv,
            found=f"{len(measured)} images",
            expected=f"{len(table)}, as {asked_csv} says",
            remedy="delete both files and run the same command again",
        )
    asked, labels = bins_of_rows(train_csv, vocabulary, table["row"]), table["label"].to_numpy(np.int64)
    entries: dict[str, Any] = {}
    for descriptor, scale in vocabulary.items():
        wanted, found = asked[descriptor].to_numpy(np.int64), measured[descriptor].to_numpy(np.int64)
        entries[descriptor] = {
            "fidelity": share(wanted == found),
            "floor": chance_agreement(wanted, found, labels),
            "words": list(scale.words),
            "counts": np.histogram2d(wanted, found, [np.arange(len(scale.words) + 1)] * 2)[0].astype(int).tolist(),
        }
    sizes = [len(scale.words) for scale in vocabulary.values()]
    wanted, found = (np.ravel_multi_index(bins.to_numpy(np.int64).T, sizes) for bins in (asked, measured))
    entries[ALL] = {"fidelity": share(wanted == found), "floor": chance_agreement(wanted, found, labels)}
    write_json(report_json, {"name": name, "images": len(table), "named": named, "descriptors": entries})


def summarise_descriptors(
    reports: Sequence[str | Path], table_csv: str | Path, text_md: str | Path, *, study: str, titles: Mapping[str, str]
) -> None:
    """Put the image sets' reports side by side.

    Parameters
    ----------
    reports : files of `compare_descriptors`, in the order of the rows.
    table_csv : written: `name,images,named,descriptor,fidelity,low,high,floor`.
    text_md : written: the same as a table to read.
    study : its name.
    titles : what an arm is called in `text_md`, where it is not its name.
    """
    contents = [read_json(path) for path in reports]
    rows = [
        {
            "name": content["name"],
            "images": content["images"],
            "named": content["named"],
            "descriptor": descriptor,
            "fidelity": entry["fidelity"]["value"],
            "low": entry["fidelity"]["low"],
            "high": entry["fidelity"]["high"],
            "floor": entry["floor"],
        }
        for content in contents
        for descriptor, entry in content["descriptors"].items()
    ]
    write_csv(table_csv, pd.DataFrame(rows))
    descriptors = list(contents[0]["descriptors"])
    body = [
        [
            titles.get(content["name"], content["name"]),
            str(content["images"]),
            "yes" if content["named"] else "no",
            *(_show(content["descriptors"][descriptor]) for descriptor in descriptors),
        ]
        for content in contents
    ]
    legend = [
        "- Share of images in which the descriptor lies in the bin of the training patch drawn for them, with Wilson's "
        "interval; after the stroke what prompts permuted among the images of each label would give, the floor. Image n has "
        "the same patch in every arm.",
        "- `vae` is real patches through the generator's autoencoder, against what is measured in themselves: the ceiling. In "
        "arms whose prompts name no descriptors, what the label and the cluster alone give: the gain is read against them.",
        *(
            f"- `{descriptor}`: {', '.join(entry['words'])}."
            for descriptor, entry in contents[0]["descriptors"].items()
            if "words" in entry
        ),
    ]
    lines = [f"# Do images show the descriptors that their prompts name? Study {study}", ""]
    lines += [*markdown_table(["images of", "N", "named", *descriptors], body), ""]
    lines += [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in legend]
    with atomic(text_md) as temporary:
        temporary.write_text("\n".join([*lines, ""]))


def _show(entry: Mapping[str, Any]) -> str:
    cell = entry["fidelity"]
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] / {entry['floor']:.3f}"
