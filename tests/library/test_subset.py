"""Balanced subsets and the draw of real images."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoprompt.errors import InputError
from histoprompt.patches import PatchFile, write_patches
from histoprompt.subset import (
    balance_subset,
    choose_prompts,
    draw_per_prompt,
    draw_real,
    keyed_generator,
    largest_total,
    part_of_subset,
)


def assignments(counts: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Patches with `counts` (labels, clusters) of every prompt, in a random order of rows with gaps."""
    label, cluster = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    rows = np.sort(np.random.default_rng(seed).permutation(3 * len(label))[: len(label)])
    order = np.random.default_rng(seed + 1).permutation(len(label))
    return pd.DataFrame(
        {"row": rows, "id": [f"p{row}" for row in rows], "label": label[order], "cluster": cluster[order], "distance": 0.5}
    )


def balance(folder: Path, patches: pd.DataFrame, held_out: pd.DataFrame, **changes) -> tuple[pd.DataFrame, pd.DataFrame]:
    patches.to_csv(folder / "train.csv", index=False)
    held_out.to_csv(folder / "valid.csv", index=False)
    arguments = {"train": 120, "valid": 24, "min_prompts_per_label": 2, "seed": 5} | changes
    balance_subset(folder / "train.csv", folder / "valid.csv", folder / "a.csv", folder / "b.csv", **arguments)
    return pd.read_csv(folder / "a.csv"), pd.read_csv(folder / "b.csv")


def test_takes_the_largest_number_of_prompts_that_every_label_can_fill() -> None:
    counts = np.array([[50, 5, 40, 20], [9, 30, 20, 60]])
    # 3 prompts of 120 // 6 = 20: label 0 has 50, 40, 20 and label 1 has 60, 30, 20; 4 prompts of 15 fail on 5 and on 9.
    assert choose_prompts(counts, 120, 2) == ([[0, 2, 3], [3, 1, 2]], 20)
    assert choose_prompts(counts, 121, 2) == ([[0, 2, 3], [3, 1, 2]], 20)
    # 126 // 6 = 21 is one more than label 0's third cluster has, and 2 prompts of 31 one more than label 1's second.
    with pytest.raises(InputError, match="at most 120 patches"):
        choose_prompts(counts, 126, 2)
    assert choose_prompts(counts, 40, 2) == ([[0, 2, 3, 1], [3, 1, 2, 0]], 5)


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(st.integers(6, 130), st.integers(6, 130)), seed=st.integers(0, 2**32))
def test_smaller_parts_lie_in_larger_ones(sizes: tuple[int, int], seed: int) -> None:
    subset = assignments(np.full((2, 3), 20))[["row", "id", "label", "cluster"]]
    small, large = (part_of_subset(subset, size, seed) for size in sorted(sizes))
    for part, size in zip((small, large), sorted(sizes), strict=True):
        assert part.groupby(["label", "cluster"]).size().tolist() == [min(size // 6, 20)] * 6
        assert part["row"].is_monotonic_increasing and set(part["row"]) <= set(subset["row"])
    assert set(small["row"]) <= set(large["row"])


@settings(max_examples=60, deadline=None)
@given(
    counts=st.integers(2, 3).flatmap(
        lambda labels: st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=labels, max_size=labels)
    ),
    total=st.integers(1, 200),
    minimum=st.integers(1, 5),
)
def test_a_subset_is_balanced_and_feasible_or_its_error_names_a_feasible_size(
    counts: list[list[int]], total: int, minimum: int
) -> None:
    table = np.array(counts)
    try:
        chosen, each = choose_prompts(table, total, minimum)
    except InputError as error:
        if error.where.endswith("subset.train") and error.expected.startswith("at most"):
            feasible = int(error.expected.split()[2])
            chosen, each = choose_prompts(table, feasible, minimum)
            assert len(table) * len(chosen[0]) * each == feasible
        return
    assert len({len(row) for row in chosen}) == 1 and len(chosen[0]) >= minimum
    assert len(table) * len(chosen[0]) * each <= total
    assert all(table[label, cluster] >= each >= 1 for label, row in enumerate(chosen) for cluster in row)
    kept = len(chosen[0])
    if more := largest_total(table, kept + 1):
        assert len(choose_prompts(table, more, minimum)[0][0]) > kept


def test_subsets_have_equal_counts_and_no_patch_twice(tmp_path: Path) -> None:
    counts = np.array([[50, 5, 40, 20], [9, 30, 20, 60]])
    train, valid = assignments(counts), assignments(counts // 4 + 1, seed=7)
    drawn, held_out = balance(tmp_path, train, valid)
    assert list(drawn.columns) == list(held_out.columns) == ["row", "id", "label", "cluster"]
    assert set(drawn.groupby(["label", "cluster"]).size()) == {20} and len(drawn) == 120
    assert set(held_out.groupby(["label", "cluster"]).size()) == {4} and len(held_out) == 24
    assert set(zip(held_out.label, held_out.cluster, strict=True)) == set(zip(drawn.label, drawn.cluster, strict=True))
    for subset, source in ((drawn, train), (held_out, valid)):
        assert subset["row"].is_monotonic_increasing and subset["row"].is_unique
        assert subset.merge(source, on=["row", "id", "label", "cluster"]).shape[0] == len(subset)


def test_the_draw_follows_the_seed_and_not_the_order_of_the_table(tmp_path: Path) -> None:
    counts = np.array([[50, 5, 40, 20], [9, 30, 20, 60]])
    train, valid = assignments(counts), assignments(counts, seed=7)
    first = balance(tmp_path, train, valid)
    again = balance(tmp_path, train.sample(frac=1, random_state=3), valid.iloc[::-1])
    other = balance(tmp_path, train, valid, seed=6)
    for a, b, c in zip(first, again, other, strict=True):
        pd.testing.assert_frame_equal(a, b)
        assert not a.equals(c)


def test_one_prompt_s_draw_does_not_depend_on_the_others() -> None:
    table = assignments(np.array([[30, 30], [30, 30]]))
    alone = draw_per_prompt(table, [(1, 0)], 10, 3, "x")
    among = draw_per_prompt(table, [(0, 0), (1, 0), (1, 1)], 10, 3, "x")
    pd.testing.assert_frame_equal(alone, among[(among.label == 1) & (among.cluster == 0)], check_like=False)


def test_prompts_are_chosen_on_train_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train = assignments(np.array([[50, 5, 40, 20], [9, 30, 20, 60]]))
    # In valid the clusters that train leaves out are the most populated ones; one chosen prompt is scarce, one is absent.
    valid = assignments(np.array([[3, 90, 8, 0], [90, 7, 6, 5]]))
    drawn, held_out = balance(tmp_path, train, valid)
    assert (0, 1) not in set(zip(drawn.label, drawn.cluster, strict=True))
    said = capfd.readouterr().err
    assert "5 of label 0 in cluster 1, 9 of label 1 in cluster 0. See" in said
    # Four prompts of each of two labels, where the scarcest has five patches.
    assert "a `subset.train` of 40 or less 4 clusters of every label" in said
    whole, _ = balance(tmp_path, train, valid, train=40, valid=8)
    assert whole.groupby("label")["cluster"].nunique().tolist() == [4, 4] and not capfd.readouterr().err
    sizes = held_out.groupby(["label", "cluster"]).size()
    assert sizes.to_dict() == {(0, 0): 3, (0, 2): 3, (1, 1): 3, (1, 2): 3, (1, 3): 3}


@pytest.mark.parametrize(
    ("changes", "where", "parts"),
    [
        ({"train": 400}, "subset.train", ["400 patches", "at most 120 patches", "set `subset.train` to 120 or less"]),
        ({"train": 3}, "subset.train", ["2 labels x 2 prompts", "at least 4"]),
        ({"min_prompts_per_label": 6}, "min_prompts_per_label", ["in 4 clusters only", "lower it to 4 or less"]),
        ({"valid": 5}, "subset.valid", ["set `subset.valid` to 6 or more"]),
    ],
)
def test_impossible_sizes_say_what_is_possible(tmp_path: Path, changes: dict, where: str, parts: list[str]) -> None:
    counts = np.array([[50, 5, 40, 20], [9, 30, 20, 60]])
    with pytest.raises(InputError) as caught:
        balance(tmp_path, assignments(counts), assignments(counts), **changes)
    assert where in caught.value.where
    assert all(part in str(caught.value) for part in parts)
    assert not (tmp_path / "a.csv").exists()


def test_a_valid_split_without_any_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none with a prompt of the training subset"):
        balance(tmp_path, assignments(np.array([[60, 60, 0], [60, 60, 0]])), assignments(np.array([[0, 0, 9], [0, 0, 9]])))


def test_purposes_and_seeds_have_streams_of_their_own() -> None:
    draws = {keyed_generator(seed, purpose).random() for seed in (1, 2) for purpose in ("a", "b")}
    assert len(draws) == 4 and keyed_generator(1, "a").random() in draws


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """60 patches of 3 classes whose first pixel is their row."""
    images = np.zeros((60, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    path = tmp_path / "train.h5"
    write_patches(path, [(images, np.arange(60) // 20, [f"p{i}" for i in range(60)])], classes=["a", "b", "c"], size=8)
    pd.DataFrame(
        {"row": range(60), "id": [f"p{i}" for i in range(60)], "label": np.arange(60) // 20, "cluster": np.arange(60) % 4}
    ).query("row % 2 == 0").to_csv(tmp_path / "subset.csv", index=False)
    return path


def test_real_images_have_the_arms_labels_and_are_the_subset_s(patches: Path, tmp_path: Path) -> None:
    draw_real(patches, tmp_path / "subset.csv", tmp_path / "real.h5", tmp_path / "real.csv", images=25, seed=1)
    table = pd.read_csv(tmp_path / "real.csv")
    assert list(table.columns) == ["number", "row", "id", "label", "cluster"]
    assert table["number"].tolist() == list(range(25)) and table["label"].tolist() == [n % 3 for n in range(25)]
    assert table["row"].is_unique and (table["row"] % 2 == 0).all() and (table["cluster"] == table["row"] % 4).all()
    with PatchFile(tmp_path / "real.h5") as real:
        assert real.classes == ("a", "b", "c") and real.ids == table["id"].tolist()
        assert real.labels.tolist() == table["label"].tolist()
        assert real.read(0, 25)[:, 0, 0, 0].tolist() == table["row"].tolist()


def test_fewer_real_images_are_the_first_of_more(patches: Path, tmp_path: Path) -> None:
    drawn = []
    for images in (9, 24):
        draw_real(patches, tmp_path / "subset.csv", tmp_path / "real.h5", tmp_path / "real.csv", images=images, seed=1)
        drawn.append(pd.read_csv(tmp_path / "real.csv")["row"].tolist())
    assert drawn[1][:9] == drawn[0]


def test_more_real_images_than_the_subset_has_are_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        draw_real(patches, tmp_path / "subset.csv", tmp_path / "real.h5", tmp_path / "real.csv", images=31, seed=1)
    assert caught.value.where == "config key `generator.sampling.images`"
    assert "11 real `a` images" in caught.value.found and "at most 10" in caught.value.expected
    assert not (tmp_path / "real.h5").exists()


def test_the_same_draw_gives_the_same_bytes(patches: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_real(patches, tmp_path / "subset.csv", tmp_path / f"{name}.h5", tmp_path / f"{name}.csv", images=12, seed=1)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["x"].shape == (12, 8, 8, 3)
