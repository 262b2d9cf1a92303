"""Captions for the embedded base model: they tell the tone of a patch's stain, and nothing of its tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from histoprompt.metrics import nearest_centroid
from histoprompt.words import number_words

# Mean colours of stained patches, in RGB, and words for them.
TONES = {
    "pale": (228, 212, 224),
    "pink": (216, 160, 196),
    "magenta": (176, 92, 150),
    "purple": (150, 110, 170),
    "violet": (112, 76, 156),
    "blue": (96, 88, 186),
    "brown": (170, 120, 120),
    "dark": (84, 56, 92),
}
STAIN_TYPES = 33


def stain_captions(colours: npt.NDArray[np.floating], seed: int) -> list[str]:
    """A caption for each mean colour, RGB (N,3) in 0-255, such as "Histology image of pink tissue, stain type seven".

    The word is the nearest of `TONES`, the number the colour's k-means cluster. The sentence is built as a study's prompts are:
    a model that has learned to read it knows where to look in theirs, and nothing of what they say there.
    """
    words, nearest = list(TONES), nearest_centroid(colours, list(TONES.values()))
    types = KMeans(min(STAIN_TYPES, len(colours)), n_init=3, random_state=seed).fit_predict(colours)
    return [
        f"Histology image of {words[tone]} tissue, stain type {number_words(int(kind))}"
        for tone, kind in zip(nearest, types, strict=True)
    ]
