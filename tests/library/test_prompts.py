"""Number words, templates, and the kinds of prompts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from histoprompt.errors import InputError
from histoprompt.patches import write_patches
from histoprompt.prompts import (
    KINDS,
    build_prompts,
    check_meaningless,
    check_template,
    draw_clusters,
    draw_patches,
    shuffled_clusters,
)
from histoprompt.vocabulary import DESCRIPTORS, bin_descriptors, read_vocabulary
from histoprompt.words import number_words

TEMPLATES = {
    "label": "Histology image of {label} tissue",
    "morphology": "Histology image of {label} tissue, morphology type {index}",
    "descriptor": "Histology image of {label} tissue, {descriptors}",
    "morphology_descriptor": "Histology image of {label} tissue, morphology type {index}, {descriptors}",
}
WORDS = {"cellularity": ["low cellularity", "high cellularity"], "eosin": ["pale eosin", "moderate eosin", "dark eosin"]}


def number_of(words: str) -> int:
    """The inverse of `number_words`, by another way: the sum of the words' values, a hundred multiplying what precedes it."""
    ones = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
        eighteen nineteen"""
    tens = "twenty thirty forty fifty sixty seventy eighty ninety"
    values = {word: n for n, word in enumerate(ones.split())} | {word: 10 * n for n, word in enumerate(tens.split(), 2)}
    total = 0
    for word in words.replace("-", " ").split():
        total = total * 100 if word == "hundred" else total + values[word]
    return total


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (32, "thirty-two"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (110, "one hundred ten"),
        (123, "one hundred twenty-three"),
        (999, "nine hundred ninety-nine"),
    ],
)
def test_number_words(n: int, words: str) -> None:
    assert number_words(n) == words


def test_number_words_are_distinct_and_read_back() -> None:
    words = [number_words(n) for n in range(1000)]
    assert len(set(words)) == 1000 and [number_of(w) for w in words] == list(range(1000))


@pytest.mark.parametrize("n", [-1, 1000])
def test_number_words_have_bounds(n: int) -> None:
    with pytest.raises(ValueError, match="0 … 999"):
        number_words(n)


@pytest.mark.parametrize(
    ("name", "template", "fault"),
    [
        ("morphology", "{label} tissue", "no placeholder {index}"),
        ("label", "tissue", "no placeholder {label}"),
        ("label", "{label} {index}", "unknown placeholder {index}"),
        ("morphology", "{label} {index} {stain}", "unknown placeholder {stain}"),
        ("morphology", "{label} {index.real}", "unknown placeholder {index.real}"),
        ("morphology", "{label} {index!r}", "unknown placeholder {index!r}"),
        ("label", "{label:{width}}", "unknown placeholder {label:{width}}"),
        ("label", "{label} {", "Single '{'"),
    ],
)
def test_templates_that_cannot_be_filled(name: str, template: str, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        check_template(name, template)
    assert caught.value.where == f"config key `prompts.{name}`"
    assert fault in caught.value.found and "{label}" in caught.value.expected


def test_templates_may_hold_literal_braces() -> None:
    check_template("morphology", "{{H&E}} {label}, {index}")


labelled = st.integers(2, 4).flatmap(
    lambda labels: st.lists(st.tuples(st.integers(0, labels - 1), st.integers(0, 5)), min_size=1, max_size=80)
)


@settings(max_examples=60, deadline=None)
@given(pairs=labelled, seed=st.integers(0, 2**32))
def test_shuffling_keeps_the_count_of_every_prompt(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, clusters = np.array(pairs).T
    named = shuffled_clusters(labels, clusters, np.random.default_rng(seed))
    assert sorted(zip(labels, named, strict=True)) == sorted(zip(labels, clusters, strict=True))


@settings(max_examples=60, deadline=None)
@given(pairs=labelled, seed=st.integers(0, 2**32), images=st.integers(1, 50))
def test_generated_clusters_occur_under_their_label_and_do_not_depend_on_how_many_there_are(
    pairs: list[tuple[int, int]], seed: int, images: int
) -> None:
    labels, clusters = np.array(pairs).T
    present = np.unique(labels)
    wanted = present[np.arange(images) % len(present)]
    drawn = draw_clusters(wanted, labels, clusters, seed)
    assert set(zip(wanted, drawn, strict=True)) <= set(pairs)
    assert np.array_equal(draw_clusters(wanted[: images // 2], labels, clusters, seed), drawn[: images // 2])
    order = np.random.default_rng(0).permutation(len(labels))
    assert np.array_equal(draw_clusters(wanted, labels[order], clusters[order], seed), drawn)


def test_generated_clusters_follow_the_subset_s_frequencies() -> None:
    labels = np.repeat([0, 0, 1], [10, 30, 20])
    clusters = np.repeat([2, 5, 1], [10, 30, 20])
    wanted = np.arange(20_000) % 2
    drawn = draw_clusters(wanted, labels, clusters, 11)
    assert (drawn[wanted == 1] == 1).all()
    # Binomial(10000, 0.25): standard deviation 0.0043.
    assert abs((drawn[wanted == 0] == 2).mean() - 0.25) < 4 * 0.0043


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two classes, two thousand training patches: cluster 0 healthy only, 3 cancer only, 1 and 2 both."""
    write_patches(
        tmp_path / "p.h5", [(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], ["a", "b"])], classes=["healthy", "cancer"], size=4
    )
    generator = np.random.default_rng(0)
    for split, each in (("train", 1000), ("valid", 30)):
        label = np.repeat([0, 1], each)
        cluster = np.concatenate([generator.integers(0, 3, each), generator.integers(1, 4, each)])
        order = generator.permutation(2 * each)
        table = pd.DataFrame({"row": range(2 * each), "label": label[order], "cluster": cluster[order]})
        table.insert(1, "id", [f"{split}{row:04}" for row in table["row"]])
        table.to_csv(tmp_path / f"s.{split}.csv", index=False)
        measured = pd.DataFrame(generator.normal(size=(2 * each, len(DESCRIPTORS))), columns=list(DESCRIPTORS))
        measured.to_csv(tmp_path / f"d.{split}.csv", index=False)
    pd.DataFrame({"kept": [True] * 2000}).to_csv(tmp_path / "kept.csv", index=False)
    bin_descriptors(tmp_path / "d.train.csv", tmp_path / "kept.csv", tmp_path / "descriptors.json", words=WORDS)
    return tmp_path


def build(folder: Path, kind: str, **changes) -> dict[str, pd.DataFrame]:
    arguments = {"prompts": kind, "templates": TEMPLATES, "index": "words", "train": 2000, "images": 101, "seed": 3} | changes
    written = {name: folder / f"{kind}.{name}.csv" for name in ("train", "valid", "generate")}
    files = ["d.train.csv", "d.valid.csv", "descriptors.json"]
    descriptors = [folder / file for file in files] if kind.endswith("descriptor") else [None] * 3
    build_prompts(folder / "p.h5", folder / "s.train.csv", folder / "s.valid.csv", *descriptors, *written.values(), **arguments)
    return {name: pd.read_csv(path) for name, path in written.items()}


@pytest.mark.parametrize("kind", ["label", "morphology", "shuffled"])
def test_prompts_say_what_their_columns_say(study: Path, kind: str) -> None:
    tables = build(study, kind)
    for split in ("train", "valid"):
        table, subset = tables[split], pd.read_csv(study / f"s.{split}.csv")
        assert list(table.columns) == ["row", "id", "label", "cluster", "prompt", "true_cluster"]
        assert table[["row", "id", "label"]].equals(subset[["row", "id", "label"]])
        assert table["true_cluster"].equals(subset["cluster"])
        assert (kind == "shuffled") != table["cluster"].equals(table["true_cluster"])
        assert table.groupby(["label", "cluster"]).size().equals(subset.groupby(["label", "cluster"]).size())
    assert list(tables["generate"].columns) == ["number", "label", "cluster", "prompt", "row"]
    assert tables["generate"]["number"].tolist() == list(range(101))
    assert tables["generate"]["label"].tolist() == [n % 2 for n in range(101)]
    for table in tables.values():
        for label, cluster, prompt in zip(table["label"], table["cluster"], table["prompt"], strict=True):
            plain = f"Histology image of {('healthy', 'cancer')[label]} tissue"
            assert prompt == (plain if kind == "label" else f"{plain}, morphology type {number_words(cluster)}")


@pytest.mark.parametrize("kind", ["descriptor", "morphology_descriptor"])
def test_prompts_name_the_descriptors_of_their_patches(study: Path, kind: str) -> None:
    tables, vocabulary = build(study, kind), read_vocabulary(study / "descriptors.json")
    for split in ("train", "valid", "generate"):
        table = tables[split]
        measured = pd.read_csv(study / f"d.{'valid' if split == 'valid' else 'train'}.csv").iloc[table["row"]]
        for i, (label, cluster, prompt) in enumerate(zip(table["label"], table["cluster"], table["prompt"], strict=True)):
            said = [
                words[sum(measured[name].iloc[i] >= edge for edge in vocabulary[name].edges)] for name, words in WORDS.items()
            ]
            plain = f"Histology image of {('healthy', 'cancer')[label]} tissue"
            type_ = f", morphology type {number_words(cluster)}" if kind == "morphology_descriptor" else ""
            assert prompt == f"{plain}{type_}, {said[0]}, {said[1]}"


def test_the_patch_described_has_the_images_label_and_cluster(study: Path) -> None:
    subset = pd.read_csv(study / "s.train.csv").set_index("row")
    table = build(study, "descriptor", images=4000)["generate"]
    described = subset.loc[table["row"]].reset_index()
    assert described["label"].equals(table["label"]) and described["cluster"].equals(table["cluster"])
    # Of each of about 330 patches a prompt, some are drawn often and few never: 4000 draws from 2000 leave e^-2 of them out.
    assert 0.8 < table["row"].nunique() / len(subset) < 0.93
    assert build(study, "descriptor")["generate"]["row"].equals(table["row"][:101])
    shuffled = subset.reset_index().sample(frac=1, random_state=0)
    labels, clusters = table["label"].to_numpy(), table["cluster"].to_numpy()
    assert np.array_equal(draw_patches(labels, clusters, shuffled, 3), table["row"])


def test_clusters_in_digits(study: Path) -> None:
    words, digits = (build(study, "morphology", index=index)["train"] for index in ("words", "digits"))
    assert words.drop(columns="prompt").equals(digits.drop(columns="prompt"))
    assert digits["prompt"][0] == words["prompt"][0].replace(number_words(words["cluster"][0]), str(words["cluster"][0]))


def test_every_arm_generates_the_same_labels_clusters_and_descriptions(study: Path) -> None:
    columns = ["number", "label", "cluster", "row"]
    drawn = [build(study, kind)["generate"][columns] for kind in KINDS]
    assert all(drawn[0].equals(other) for other in drawn[1:])
    assert not drawn[0].equals(build(study, "label", seed=4)["generate"][["number", "label", "cluster"]])


def test_shuffled_prompts_tell_nothing_within_a_label(study: Path) -> None:
    table = build(study, "shuffled")["train"]
    for _, own in table.groupby("label"):
        assert abs(adjusted_mutual_info_score(own["true_cluster"], own["cluster"])) < 0.01
    # Over both labels they do tell the label, and with it the clusters that only one label has: not the shuffle's doing.
    assert adjusted_mutual_info_score(table["true_cluster"], table["cluster"]) > 0.05


def test_a_smaller_training_set_changes_nothing_that_is_generated(study: Path) -> None:
    whole, part = build(study, "morphology"), build(study, "morphology", train=60)
    assert part["train"].groupby(["label", "cluster"]).size().tolist() == [10] * 6
    assert part["train"].merge(whole["train"])["row"].tolist() == part["train"]["row"].tolist()
    assert part["generate"].equals(whole["generate"]) and part["valid"].equals(whole["valid"])
    with pytest.raises(InputError, match="at least 6: one image a prompt"):
        build(study, "morphology", train=5)


def test_a_renaming_of_clusters_is_no_shuffle() -> None:
    clusters = np.arange(1200) % 6
    with pytest.raises(RuntimeError, match=r"AMI 1\.000"):
        check_meaningless("x", np.zeros(1200, np.int64), clusters, (clusters + 1) % 6)


def test_files_are_the_same_every_time(study: Path) -> None:
    build(study, "shuffled")
    first = {path: path.read_bytes() for path in study.glob("shuffled.*.csv")}
    build(study, "shuffled")
    assert len(first) == 3 and all(path.read_bytes() == content for path, content in first.items())


@pytest.mark.parametrize(
    ("kind", "changes", "parts"),
    [
        ("colour", {}, ["'colour'", "one of label, morphology, shuffled, descriptor, morphology_descriptor"]),
        ("label", {"index": "roman"}, ["arms.*.index", "'roman'", "one of words, digits"]),
        ("morphology", {"templates": TEMPLATES | {"morphology": "{label}"}}, ["prompts.morphology", "no placeholder {index}"]),
        ("label", {"templates": TEMPLATES | {"label": "{organ}"}}, ["prompts.label", "unknown placeholder {organ}"]),
    ],
)
def test_bad_settings(study: Path, kind: str, changes: dict, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(study, kind, **changes)
    assert all(part in str(caught.value) for part in parts)
    assert not list(study.glob(f"{kind}.*.csv"))


def test_a_class_without_training_images_is_refused(study: Path) -> None:
    pd.read_csv(study / "s.train.csv").query("label == 0").to_csv(study / "s.train.csv", index=False)
    with pytest.raises(InputError, match="no training image of the class `cancer`"):
        build(study, "label")


def test_shuffling_one_prompt_a_label_is_refused(study: Path) -> None:
    pd.read_csv(study / "s.train.csv").assign(cluster=1).to_csv(study / "s.train.csv", index=False)
    build(study, "morphology")
    with pytest.raises(InputError, match="one cluster only for label 0"):
        build(study, "shuffled")
