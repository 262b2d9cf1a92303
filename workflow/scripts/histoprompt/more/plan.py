"""The prompts of more images: balanced over those of the arm, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import read_csv, write_csv
from histoprompt.more.request import images_of_request
from histoprompt.patches import PatchFile

_NO_CLUSTER = -1
_COLUMNS = ["number", "label", "cluster", "prompt"]


def plan_more_images(
    train_csv: str | Path,
    wishes_csv: str | Path | None,
    patches_h5: str | Path,
    prompts_csv: str | Path,
    *,
    request: str,
) -> None:
    """Write the prompts of the images that a request is for.

    Parameters
    ----------
    train_csv : the arm's training prompts, `label,cluster,prompt`.
    wishes_csv : prompts of the user's own: `prompt`, and if wished `images` (of that prompt, else one), `label` (a number or a
        class's word) and `cluster`. Label and cluster of a prompt that the arm was trained on need not be said. None for a
        request of a number of images, balanced over the classes and over the morphologies of each.
    patches_h5 : a patch file, for the words of its classes.
    prompts_csv : written: `number,label,cluster,prompt`; no cluster is -1.
    request : its name.

    Raises
    ------
    InputError : no image is asked for, or a prompt's class is unknown.
    """
    train = read_csv(train_csv, ("label", "cluster", "prompt"))
    with PatchFile(patches_h5) as patches:
        classes = patches.classes
    if wishes_csv is not None:
        table = _wished(Path(wishes_csv), train, classes)
    else:
        images = images_of_request(request)
        if not images:
            raise InputError(
                f"the request {request}",
                found="no image",
                expected="a number of images, as in more/morphology/500",
                remedy="ask for one image or more",
            )
        table = balanced_prompts(train, images)
    write_csv(prompts_csv, table.assign(number=np.arange(len(table)))[_COLUMNS])


def balanced_prompts(train: pd.DataFrame, images: int) -> pd.DataFrame:
    """Prompts for `images` images: labels take turns, and within each label its clusters, and within these their prompts.

    Parameters
    ----------
    train : `label,cluster,prompt`, a row a training image.

    Returns
    -------
    `label,cluster,prompt`; the first n rows are those of n images.
    """
    labels = sorted(set(train["label"]))
    cells = {
        label: [
            (cluster, sorted(set(of_cluster["prompt"])))
            for cluster, of_cluster in train[train["label"] == label].groupby("cluster")
        ]
        for label in labels
    }
    rows = []
    for number in range(images):
        turn, place = divmod(number, len(labels))
        label = labels[place]
        again, which = divmod(turn, len(cells[label]))
        cluster, prompts = cells[label][which]
        rows.append((label, cluster, prompts[again % len(prompts)]))
    return pd.DataFrame(rows, columns=["label", "cluster", "prompt"])


def _wished(path: Path, train: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    wishes = read_csv(path, ("prompt",)).astype(str)
    known = train[["label", "cluster", "prompt"]].drop_duplicates()
    rows = []
    for line, wish in enumerate(wishes.to_dict("records"), start=2):
        where = f"{path}, line {line}"
        if not wish["prompt"].strip():
            raise InputError(where, found="no prompt", expected="a sentence", remedy="write one, or take the line out")
        same = known[known["prompt"] == wish["prompt"]]
        label = _label(where, wish.get("label", ""), classes, same)
        cluster = _number(where, "cluster", wish.get("cluster", ""), least=0)
        if cluster is None:
            cluster = int(same["cluster"].iloc[0]) if len(same) == 1 else _NO_CLUSTER
        images = _number(where, "images", wish.get("images", ""), least=1)
        rows += [(label, cluster, wish["prompt"])] * (1 if images is None else images)
    if not rows:
        raise InputError(path, found="no prompt", expected="a line or more below `prompt`", remedy="add the prompts")
    return pd.DataFrame(rows, columns=["label", "cluster", "prompt"])


def _label(where: str, given: str, classes: Sequence[str], same: pd.DataFrame) -> int:
    """The label that a line names; else the one with which the arm was taught this very prompt."""
    if given in classes:
        return list(classes).index(given)
    if given.isdecimal() and int(given) < len(classes):
        return int(given)
    taught = sorted(set(same["label"]))
    if not given and len(taught) == 1:
        return int(taught[0])
    raise InputError(
        where,
        found=f"the label {given!r}" if given else "no label, and a prompt that the arm was not trained on",
        expected=f"one of {', '.join(classes)}, or its number, in the column `label`",
        remedy="say which class the image shall be filed under",
    )


def _number(where: str, column: str, given: str, *, least: int) -> int | None:
    if not given:
        return None
    if not given.isdecimal() or int(given) < least:
        raise InputError(
            where,
            found=f"{column} {given!r}",
            expected=f"a whole number, {least} or more",
            remedy=f"correct the column `{column}`",
        )
    return int(given)
