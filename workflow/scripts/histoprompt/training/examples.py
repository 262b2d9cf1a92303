"""What a training step sees: which rows, which noise, which latents.

Everything random is keyed by (seed, step, sample), never drawn from a running stream, so that step n of a resumed run is step
n of an undisturbed one, and so that it does not matter which process computes a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from histoprompt.diffusion import Pipeline
from histoprompt.errors import InputError
from histoprompt.files import read_array, read_csv

# What a counter-based generator is keyed by beside the seed, so that no two purposes share a stream.
TRAINING, VALIDATION, _EPOCH, _SHUFFLE = range(4)


class Draw(NamedTuple):
    """The randomness of one sample: two uniform numbers, a time, and the noise of the posterior and of the diffusion."""

    dropout: float
    flip: float
    moment: int
    posterior: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]


def draw_sample(seed: int, step: int, sample: int, *, shape: tuple[int, ...], moments: int, purpose: int = TRAINING) -> Draw:
    """Draw for one sample of one step, by a counter-based generator (Salmon et al. 2011).

    Parameters
    ----------
    seed, step, sample : the key; `sample` is the place in the global batch, whichever process computes it.
    shape : of the latents, (z, h, w).
    moments : number of diffusion times T.
    """
    generator = _keyed(seed, purpose, step, sample)
    dropout, flip = generator.random(2)
    moment = int(generator.integers(moments))
    posterior, noise = generator.standard_normal((2, *shape), np.float32)
    return Draw(float(dropout), float(flip), moment, posterior, noise)


def rows_of_step(seed: int, step: int, *, batch_size: int, rows: int) -> npt.NDArray[np.int64]:
    """Training rows of a step: the epochs' permutations one after the other, cut into batches.

    A batch may end one epoch and begin the next, so that every row is seen equally often whatever the batch size.
    """
    epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), rows)
    chosen = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        order = _keyed(seed, _EPOCH, int(epoch), 0).permutation(rows)
        chosen[epochs == epoch] = order[places[epochs == epoch]]
    return chosen


def other_prompts(prompts: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64] | None:
    """For every row a prompt that is not its own, drawn evenly from the others; None where there is one prompt only."""
    distinct, own = np.unique(prompts, return_inverse=True)
    if len(distinct) < 2:
        return None
    shift = _keyed(seed, _SHUFFLE, 0, 0).integers(1, len(distinct), size=len(own))
    return np.asarray(distinct[(own + shift) % len(distinct)], np.int64)


class Examples:
    """Rows of a prompts table with their latents, read from disk as they are asked for."""

    def __init__(self, table_csv: str | Path, latents: str | Path, rows_csv: str | Path, base: Pipeline, *, flip: bool) -> None:
        table = read_csv(table_csv, ("row", "prompt"))
        if not len(table):
            raise InputError(table_csv, found="no row", expected="a row for every image", remedy="raise the key `subset`")
        self.prompts = table["prompt"].tolist()
        self.latents = _open_latents(latents, base, flip=flip)
        self.shape = (base.latent_channels, *self.latents.shape[3:])
        self.base, self.flip = base, flip
        encoded = read_csv(rows_csv, ("row",))["row"].to_numpy(np.int64)
        place_of = pd.Series(np.arange(len(encoded)), encoded)
        unknown = table.loc[~table["row"].isin(place_of.index), "row"]
        if len(unknown) or len(encoded) != len(self.latents):
            raise InputError(
                rows_csv,
                found=f"{len(encoded)} rows for {len(self.latents)} latents"
                + (f", without row {unknown.iloc[0]} of {table_csv}" if len(unknown) else ""),
                expected="a row for every latent, and every row of the prompts among them",
                remedy="delete it and run the same command again",
            )
        self.places = place_of.loc[table["row"]].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: npt.NDArray[np.int64], draws: Sequence[Draw]) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled latents drawn from their posterior, noise, and diffusion times."""
        flips = np.array([int(self.flip and draw.flip < 0.5) for draw in draws])
        moments = self.latents[self.places[rows], flips].astype(np.float32)
        mean, log_variance = np.split(moments, 2, axis=1)
        drawn = mean + np.exp(0.5 * log_variance) * np.stack([draw.posterior for draw in draws])
        latents = (drawn - np.float32(self.base.shift)) * np.float32(self.base.scaling)
        return (
            torch.from_numpy(latents),
            torch.from_numpy(np.stack([draw.noise for draw in draws])),
            torch.tensor([draw.moment for draw in draws]),
        )


def _keyed(seed: int, purpose: int, major: int, minor: int) -> np.random.Generator:
    """A counter-based generator: (seed, purpose) is the key, and every (major, minor) has 2^128 numbers of its own."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, minor, major]))


def _open_latents(path: str | Path, base: Pipeline, *, flip: bool) -> npt.NDArray[np.float16]:
    latents: npt.NDArray[np.float16] = read_array(path, mapped=True)
    channels = 2 * base.latent_channels
    if latents.dtype != np.float16 or latents.ndim != 5 or latents.shape[2] != channels or latents.shape[1] < 1 + flip:
        raise InputError(
            path,
            found=f"{latents.dtype} {latents.shape}",
            expected=f"float16 (n, {2 if flip else '1 or 2'}, {channels}, h, w), moments of the autoencoder of {base.folder}"
            + (", as they are and mirrored" if flip else ""),
            remedy="delete it and run the same command again, so that it is made with this model and setting of `flip`",
        )
    return latents
