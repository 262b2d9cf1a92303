"""Answers as arrays, a row a reader and a column an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histoprompt.intervals import Floats
from histoprompt.reader_study.answers import Session
from histoprompt.reader_study.pooling import Bools


@dataclass(frozen=True)
class Judgements:
    """First answers of R readers on C images of the main part; where there is none, `answered` is false.

    Attributes
    ----------
    sessions : of the readers.
    images : `image,source,arm,label,cluster,file,row`, a row an image.
    classes : the word of label 0, 1, …
    answered, said : (R, C): there is an answer; it was `synthetic`.
    scores : (R, C): confidence, negative for `real`.
    diagnosed, named : (R, C): a class was named; it was the right one.
    """

    sessions: list[Session]
    images: pd.DataFrame
    classes: list[str]
    answered: Bools
    said: Bools
    scores: Floats
    diagnosed: Bools
    named: Bools

    @property
    def synthetic(self) -> Bools:
        """(C,): the image is synthetic."""
        return np.asarray(self.images["source"] == "synthetic")

    @property
    def right(self) -> Bools:
        """(R, C): the answer is right."""
        return np.asarray(self.said == self.synthetic)


def judgements(key: Mapping[str, Any], sessions: Sequence[Session]) -> Judgements:
    """Answers as arrays, a row a reader and a column an image; repeats are left out."""
    columns = ["image", "source", "arm", "label", "cluster", "file", "row"]
    images = pd.DataFrame([entry for entry in key["images"] if entry["part"] == "main"], columns=columns)
    places = {image: place for place, image in enumerate(images["image"])}
    words = [key["classes"][label] for label in images["label"]]
    shape = len(sessions), len(images)
    answered, said, diagnosed, named = (np.zeros(shape, bool) for _ in range(4))
    scores = np.zeros(shape)
    for reader, session in enumerate(sessions):
        for answer in session.answers:
            if not answer.repeat:
                cell = reader, places[answer.image]
                answered[cell], said[cell] = True, answer.synthetic
                scores[cell] = answer.confidence if answer.synthetic else -answer.confidence
                diagnosed[cell], named[cell] = bool(answer.diagnosis), answer.diagnosis == words[cell[1]]
    return Judgements(list(sessions), images, list(key["classes"]), answered, said, scores, diagnosed, named)
