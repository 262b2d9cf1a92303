"""The words for what is measured in a patch: bins of equally many training patches, a phrase for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import read_csv, read_json, write_json

Rows = npt.NDArray[np.int64]

DESCRIPTORS = ("cellularity", "nuclear_size", "haematoxylin", "eosin", "texture")


@dataclass(frozen=True)
class Scale:
    """One descriptor in words.

    Attributes
    ----------
    words : a phrase for each bin, the lowest first.
    edges : ascending, one fewer than the words; a value on an edge is in the bin above it.
    """

    words: tuple[str, ...]
    edges: tuple[float, ...]

    def bins(self, values: npt.ArrayLike) -> Rows:
        """Number of the bin of each value: int64 (N,), 0 for the lowest."""
        return np.searchsorted(self.edges, np.asarray(values, np.float64), side="right").astype(np.int64)


Vocabulary = Mapping[str, Scale]


def equal_bins(values: npt.ArrayLike, count: int) -> tuple[float, ...]:
    """Edges that part values (N,) into `count` bins of equally many, as far as ties allow."""
    return tuple(float(edge) for edge in np.quantile(np.asarray(values, np.float64), np.arange(1, count) / count))


def bin_descriptors(
    train_csv: str | Path, kept_csv: str | Path, vocabulary_json: str | Path, *, words: Mapping[str, Sequence[str]]
) -> None:
    """Fit the bins of every descriptor that prompts name.

    Parameters
    ----------
    train_csv, kept_csv : descriptors and outlier table of the train split; bins are fitted on the `kept` patches.
    vocabulary_json : written: of every descriptor its `words`, `edges` and the `patches` in each bin.
    words : descriptor -> a phrase for each bin, the lowest first, in the order in which prompts name them.

    Raises
    ------
    InputError : a descriptor has too few different values for its bins.
    """
    table, kept = read_csv(train_csv, tuple(words)), read_csv(kept_csv, ("kept",))["kept"].to_numpy(bool)
    _check_rows(train_csv, len(table), kept_csv, len(kept))
    content = {}
    for name, phrases in words.items():
        values = table[name].to_numpy(np.float64)[kept]
        scale = Scale(tuple(phrases), equal_bins(values, len(phrases)))
        counts = np.bincount(scale.bins(values), minlength=len(phrases))
        if not counts.all():
            raise InputError(
                f"config key `descriptors.{name}`",
                found=f"{len(phrases)} phrases for {len(np.unique(values))} different values in {len(values)} kept training "
                f"patches: bins of {', '.join(map(str, counts))} patches",
                expected="patches for every phrase",
                remedy="give fewer phrases, or leave this descriptor out",
            )
        content[name] = {"words": list(scale.words), "edges": list(scale.edges), "patches": counts.tolist()}
    write_json(vocabulary_json, content)


def read_vocabulary(vocabulary_json: str | Path) -> dict[str, Scale]:
    """The scales that `bin_descriptors` wrote, in the order in which prompts name them."""
    content: Mapping[str, Any] = read_json(vocabulary_json)
    return {name: Scale(tuple(entry["words"]), tuple(entry["edges"])) for name, entry in content.items()}


def bins_of_rows(descriptors_csv: str | Path, vocabulary: Vocabulary, rows: npt.ArrayLike | None = None) -> pd.DataFrame:
    """The bins of some images, or of all: a column a descriptor of the vocabulary.

    Raises
    ------
    InputError : the table has no such row.
    """
    table = read_csv(descriptors_csv, tuple(vocabulary))
    wanted = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    if wanted.size and wanted.max() >= len(table):
        raise InputError(
            descriptors_csv,
            found=f"{len(table)} rows",
            expected=f"a row {wanted.max()}",
            remedy="delete it and run the same command again",
        )
    return pd.DataFrame({name: scale.bins(table[name].to_numpy(np.float64)[wanted]) for name, scale in vocabulary.items()})


def phrases_of(bins: pd.DataFrame, vocabulary: Vocabulary) -> list[str]:
    """What a prompt says of each row of `bins`: its phrases, with commas between them."""
    columns = [[scale.words[number] for number in bins[name]] for name, scale in vocabulary.items()]
    return [", ".join(phrases) for phrases in zip(*columns, strict=True)]


def _check_rows(path: str | Path, rows: int, other: str | Path, expected: int) -> None:
    if rows != expected:
        raise InputError(
            path,
            found=f"{rows} rows",
            expected=f"one for each of the {expected} rows of {other}",
            remedy="delete both files and run the same command again",
        )
