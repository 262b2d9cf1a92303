"""The training images of a study: as many of every prompt and of every label as of any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import read_csv, write_csv
from histoprompt.job import progress, say
from histoprompt.patches import Images, PatchFile, write_patches

COLUMNS = ("row", "id", "label", "cluster")


def keyed_generator(seed: int, purpose: str) -> np.random.Generator:
    """A counter-based generator of the study seed and of what is drawn: no two purposes share a stream."""
    key = np.random.SeedSequence([seed, int.from_bytes(purpose.encode(), "big")])
    return np.random.Generator(np.random.Philox(key))


def draw_sample(count: int, most: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `count` images, ascending: the same in sets of one size; a larger draw holds a smaller."""
    return np.sort(keyed_generator(seed, "coverage map").permutation(count)[:most])


def choose_prompts(counts: npt.NDArray[np.int64], total: int, minimum: int) -> tuple[list[list[int]], int]:
    """The prompts of a balanced subset and how many patches each gives.

    Every label has the same number of prompts P, its P most populated clusters, and every prompt gives the same number of
    patches n = total // (labels * P). P is the largest that all labels have n patches for.

    Parameters
    ----------
    counts : patches per label and cluster, (labels, clusters).
    total : patches wanted at most.
    minimum : P is at least this.

    Returns
    -------
    The chosen clusters of every label, most populated first, and n.

    Raises
    ------
    InputError : no P of at least `minimum` has enough patches; the message gives the largest feasible total.
    """
    labels = len(counts)
    order = np.argsort(-counts, axis=1, kind="stable")
    # scarcest[P - 1]: patches in the least populated of P prompts, over all labels.
    scarcest = np.take_along_axis(counts, order, axis=1).min(axis=0)
    for prompts in range(counts.shape[1], minimum - 1, -1):
        each = total // (labels * prompts)
        if 1 <= each <= scarcest[prompts - 1]:
            return [[int(cluster) for cluster in row[:prompts]] for row in order], each
    if total < labels * minimum:
        raise InputError(
            "config key `subset.train`",
            found=f"{total} patches for at least {labels} labels x {minimum} prompts",
            expected=f"at least {labels * minimum}: one patch a prompt",
            remedy="raise `subset.train` or lower `subset.min_prompts_per_label`",
        )
    feasible = max((largest_total(counts, prompts) for prompts in range(minimum, counts.shape[1] + 1)), default=0)
    if not feasible:
        raise InputError(
            "config key `subset.min_prompts_per_label`",
            found=f"{minimum}, but a label has patches in {int(np.count_nonzero(scarcest))} clusters only",
            expected="every label to have patches in that many clusters",
            remedy=f"lower it to {int(np.count_nonzero(scarcest))} or less, raise `morphology.k`, or give more patches",
        )
    raise InputError(
        "config key `subset.train`",
        found=f"{total} patches wanted, in equal numbers from at least {minimum} prompts of each of {labels} labels",
        expected=f"at most {feasible} patches, which is what the most populated clusters allow",
        remedy=f"set `subset.train` to {feasible} or less, lower `subset.min_prompts_per_label`, or give more patches",
    )


def largest_total(counts: npt.NDArray[np.int64], prompts: int) -> int:
    """The largest balanced subset with this many prompts of every label; 0 where a label has no such many.

    Parameters
    ----------
    counts : patches per label and cluster, (labels, clusters).
    prompts : 1 or more.
    """
    if prompts > counts.shape[1]:
        return 0
    return len(counts) * prompts * int(np.sort(counts, axis=1)[:, -prompts].min())


def draw_per_prompt(
    table: pd.DataFrame, prompts: Sequence[tuple[int, int]], each: int, seed: int, purpose: str
) -> pd.DataFrame:
    """`each` patches of every (label, cluster), drawn without replacement, sorted by row.

    The draw depends on which patches there are, not on the order of the table; the draw of one prompt does not depend on the
    others.
    """
    table = table.sort_values("row", kind="stable")
    drawn = []
    for label, cluster in prompts:
        candidates = table[(table["label"] == label) & (table["cluster"] == cluster)]
        picks = keyed_generator(seed, f"{purpose} {label} {cluster}").permutation(len(candidates))[:each]
        drawn.append(candidates.iloc[picks])
    return pd.concat(drawn).sort_values("row", kind="stable")[list(COLUMNS)]


def part_of_subset(subset: pd.DataFrame, total: int, seed: int) -> pd.DataFrame:
    """Equally many images of every prompt, drawn from a balanced subset's; smaller parts lie in larger ones.

    Parameters
    ----------
    subset : `row,id,label,cluster`, as `balance_subset` writes it.
    total : images wanted at most.
    seed : of the draw.

    Raises
    ------
    InputError : not even one image a prompt.
    """
    pairs = zip(subset["label"], subset["cluster"], strict=True)
    prompts = sorted({(int(label), int(cluster)) for label, cluster in pairs})
    if total < len(prompts):
        raise InputError(
            "an arm's config key `train`",
            found=f"{total} training images for {len(prompts)} prompts",
            expected=f"at least {len(prompts)}: one image a prompt",
            remedy="raise it, or lower the arm's `k`",
        )
    return draw_per_prompt(subset, prompts, total // len(prompts), seed, "part of subset")


def balance_subset(
    train_csv: str | Path,
    valid_csv: str | Path,
    subset_train_csv: str | Path,
    subset_valid_csv: str | Path,
    *,
    train: int,
    valid: int,
    min_prompts_per_label: int,
    seed: int,
) -> None:
    """Draw the training images and the validation images of every arm.

    Prompts are chosen on the train split alone (`choose_prompts`). The validation images carry the same prompts, in equal
    numbers as far as the valid split goes: a prompt that has fewer there sets the number for all, a prompt that has none is
    left out.

    Parameters
    ----------
    train_csv, valid_csv : cluster assignments of the two splits.
    subset_train_csv, subset_valid_csv : written: `row,id,label,cluster`, sorted by row.
    train, valid : images wanted at most.
    min_prompts_per_label : at least this many clusters of every label take part.
    seed : of the draws.

    Raises
    ------
    InputError : the splits cannot give such subsets; the message says what they can give.
    """
    patches = read_csv(train_csv, COLUMNS)
    held_out = read_csv(valid_csv, COLUMNS)
    labels = sorted(patches["label"].unique())
    clusters = range(int(patches["cluster"].max()) + 1)
    counts = pd.crosstab(patches["label"], patches["cluster"]).reindex(index=labels, columns=clusters, fill_value=0)
    chosen, each = choose_prompts(counts.to_numpy(np.int64), train, min_prompts_per_label)
    prompts = [(int(label), cluster) for label, row in zip(labels, chosen, strict=True) for cluster in row]
    left_out = [
        f"{size} of label {label} in cluster {cluster}"
        for label, row in zip(labels, counts.to_numpy(), strict=True)
        for cluster, size in enumerate(row)
        if size and (label, cluster) not in prompts
    ]
    if left_out:
        kept = len(chosen[0])
        more = largest_total(counts.to_numpy(np.int64), kept + 1)
        say(
            "balance_subset: no arm is trained on these patches, since every label gives the same number of clusters and of "
            f"patches of each: {', '.join(left_out)}. See what that costs in figures/coverage.png"
            + (f"; with a `subset.train` of {more} or less {kept + 1} clusters of every label take part." if more else ".")
        )

    available = held_out.groupby(["label", "cluster"]).size()
    shown = [prompt for prompt in prompts if prompt in available.index]
    if not shown or valid < len(shown):
        raise InputError(
            valid_csv if not shown else "config key `subset.valid`",
            found=f"{len(held_out)} patches, none with a prompt of the training subset" if not shown else f"{valid} patches",
            expected=f"one patch at least of each of the {len(shown) or len(prompts)} prompts",
            remedy="give the valid split more patches" if not shown else f"set `subset.valid` to {len(shown)} or more",
        )
    each_valid = min(valid // len(shown), *(int(available[prompt]) for prompt in shown))

    write_csv(subset_train_csv, draw_per_prompt(patches, prompts, each, seed, "subset train"))
    write_csv(subset_valid_csv, draw_per_prompt(held_out, shown, each_valid, seed, "subset valid"))


def draw_real(
    patches_h5: str | Path,
    subset_csv: str | Path,
    images_h5: str | Path,
    images_csv: str | Path,
    *,
    images: int,
    seed: int,
) -> None:
    """Draw real training images at an arm's own number and label counts: the floor every metric is read against.

    Image n has label n % (number of classes), as the generated images have; within a label the images are a draw without
    replacement from the training subset.

    Parameters
    ----------
    patches_h5 : patches of the train split.
    subset_csv : the training subset, `row,id,label,cluster`.
    images_h5, images_csv : written: a patch file and `number,row,id,label,cluster`.
    images : how many.
    seed : of the draw.

    Raises
    ------
    InputError : a label has too few images in the subset.
    """
    subset = read_csv(subset_csv, COLUMNS).sort_values("row", kind="stable")
    with PatchFile(patches_h5) as patches:
        labels = np.arange(images) % len(patches.classes)
        rows = np.empty(images, np.int64)
        for label, word in enumerate(patches.classes):
            candidates = subset.loc[subset["label"] == label, "row"].to_numpy(np.int64)
            wanted = int(np.count_nonzero(labels == label))
            if wanted > len(candidates):
                raise InputError(
                    "config key `generator.sampling.images`",
                    found=f"{images} images an arm, which asks for {wanted} real `{word}` images to compare with",
                    expected=f"at most {len(candidates)}, the `{word}` images of {subset_csv}",
                    remedy="lower `generator.sampling.images` or raise `subset.train`",
                )
            rows[labels == label] = candidates[keyed_generator(seed, f"real {label}").permutation(len(candidates))[:wanted]]
        drawn = subset.set_index("row").loc[rows].reset_index()

        def chunks(size: int = 256) -> Iterator[tuple[Images, npt.NDArray[np.int64], list[str]]]:
            for start in progress(range(0, images, size), "real images", unit="chunk"):
                part = slice(start, start + size)
                yield patches.take(rows[part]), labels[part], drawn["id"].iloc[part].tolist()

        write_patches(images_h5, chunks(), classes=patches.classes, size=patches.size)
    drawn.insert(0, "number", np.arange(images))
    write_csv(images_csv, drawn[["number", *COLUMNS]])
