"""More images: whose prompts, how many of each, and from which noise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprompt.errors import InputError
from histoprompt.files import read_csv
from histoprompt.more.plan import balanced_prompts, plan_more_images
from histoprompt.more.request import images_of_request, seed_of_request
from histoprompt.patches import write_patches

CLASSES = ("healthy", "cancer", "odd, one")
# Label 0 has clusters 1 and 4, label 1 has 0, 1 and 2, label 2 one; label 1's cluster 2 is described in two ways.
TRAIN = pd.DataFrame(
    [
        *((0, 4, "h four"), (1, 0, "c zero"), (0, 1, "h one"), (0, 1, "h one"), (1, 1, "c one"), (1, 2, "c two, small")),
        *((1, 2, "c two, large"), (2, 3, "same"), (2, 5, "same")),
    ],
    columns=["label", "cluster", "prompt"],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    write_patches(tmp_path / "train.h5", [(images, np.zeros(1, np.int64), ["a"])], classes=CLASSES, size=8)
    TRAIN.to_csv(tmp_path / "train.csv", index=False)
    return tmp_path


def plan(folder: Path, request: str, wishes: str | None = None) -> pd.DataFrame:
    if wishes is not None:
        (folder / "wishes.csv").write_text(wishes)
    path = folder / "wishes.csv" if wishes is not None else None
    plan_more_images(folder / "train.csv", path, folder / "train.h5", folder / "prompts.csv", request=request)
    return read_csv(folder / "prompts.csv")


@given(st.integers(1, 200), st.integers(0, 50))
def test_labels_clusters_and_prompts_take_turns(images: int, fewer: int) -> None:
    table = balanced_prompts(TRAIN, images)
    for counts in (
        Counter(table["label"]),
        *(Counter(table[table["label"] == label]["cluster"]) for label in range(3)),
        Counter(table[table["cluster"] == 2]["prompt"]),
    ):
        assert max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
    assert len(table) == images
    known = {*TRAIN.itertuples(index=False, name=None)}
    assert {*table.itertuples(index=False, name=None)} <= known and (images < 18 or len(table.drop_duplicates()) == len(known))
    part = max(1, images - fewer)
    pd.testing.assert_frame_equal(balanced_prompts(TRAIN, part), table[:part])


def test_a_number_is_balanced(folder: Path) -> None:
    table = plan(folder, "7-b")
    assert list(table.columns) == ["number", "label", "cluster", "prompt"]
    assert table["number"].tolist() == list(range(7)) and table["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert table["prompt"].tolist()[:2] == ["h one", "c zero"]


def test_prompts_of_the_users_own(folder: Path) -> None:
    wishes = 'prompt,images,label,cluster\nh four,2,,\n"new, and strange",,"odd, one",\nnew,1,1,7\nsame,,,\nh one,,cancer,\n'
    table = plan(folder, "mine", wishes)
    assert [*table[["label", "cluster", "prompt"]].itertuples(index=False, name=None)] == [
        (0, 4, "h four"),
        (0, 4, "h four"),
        (2, -1, "new, and strange"),
        (1, 7, "new"),
        (2, -1, "same"),  # taught with two clusters
        (1, 1, "h one"),
    ]
    assert plan(folder, "mine", "prompt\nc zero\n")["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("request_name", "wishes", "message"),
    [
        ("0", None, r"(?s)request 0.*no image.*more/morphology/500"),
        ("mine", "sentence\nx\n", r"(?s)wishes.csv.*sentence.*columns"),
        ("mine", "prompt\n", r"(?s)no prompt.*a line or more"),
        ("mine", "prompt,label\n ,0\n", r"(?s)line 2.*no prompt"),
        ("mine", "prompt\nc one\nnew\n", r"(?s)line 3.*no label, and a prompt.*healthy, cancer, odd, one"),
        ("mine", "prompt,label\nnew,3\n", r"(?s)the label '3'.*or its number"),
        ("mine", "prompt,label,images\nnew,0,none\n", r"(?s)images 'none'.*1 or more"),
        ("mine", "prompt,label,images\nnew,0,0\n", r"(?s)images '0'.*1 or more"),
        ("mine", "prompt,label,cluster\nnew,0,-2\n", r"(?s)cluster '-2'.*0 or more"),
    ],
)
def test_what_cannot_be_made_is_refused(folder: Path, request_name: str, wishes: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(folder, request_name, wishes)


def test_a_request_is_a_number_or_a_name() -> None:
    assert [images_of_request(r) for r in ("500", "500-b", "0", "mine", "500b", "500-b-c", "a-500")] == [500, 500, 0] + [
        None
    ] * 4


def test_no_image_begins_from_noise_of_the_study_or_of_another_request() -> None:
    from histoprompt.sampling import image_seed

    study = {image_seed(20260, number) for number in range(2000)}
    requests = [{image_seed(seed_of_request(20260, name), n) for n in range(2000)} for name in ("500", "500-b", "1000")]
    assert len(study.union(*requests)) == 8000
    assert seed_of_request(20260, "500") == seed_of_request(20260, "500") != seed_of_request(20261, "500")
    assert 0 <= seed_of_request(0, "1") < 2**63
