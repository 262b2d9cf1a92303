"""The numbers of a reader study are those of textbooks, of other libraries and of counting by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_studies import make_key, session_rows, write_key, write_session
from scipy.special import logit, ndtr, stdtrit
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from statsmodels.stats.weightstats import DescrStatsW

from histoprompt.errors import InputError
from histoprompt.files import read_json
from histoprompt.reader_study.analysis import (
    _alpha,
    _kappas,
    analyse,
    analyse_reader_study,
    kappa,
    median_over,
    proportion,
)
from histoprompt.reader_study.answers import read_sessions, write_answers
from histoprompt.reader_study.pooling import (
    FEWEST_IMAGES,
    accuracy_against_chance,
    difference_of,
    equivalence,
    mean_auc,
    mean_of,
    pooled,
    resample,
    share,
)


def series(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Two readers' answers from a 2 × 2 table: both yes, first alone, second alone, both no."""
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    both = np.repeat(np.array(pairs), counts, axis=0)
    return both[:, 0], both[:, 1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    # The worked examples of Wikipedia's article on Cohen's kappa; the last two have the same agreement and another kappa.
    [((20, 5, 10, 15), 0.4), ((45, 15, 25, 15), 0.1304), ((25, 35, 5, 35), 0.2593)],
)
def test_kappa_of_worked_examples(counts: tuple[int, ...], expected: float) -> None:
    cell = kappa(*series(*counts))
    assert cell["value"] == pytest.approx(expected, abs=5e-5)
    assert cell["low"] < cell["value"] < cell["high"] and cell["images"] == sum(counts)


def test_the_interval_of_kappa_is_fleiss_cohen_and_everitts() -> None:
    cell = kappa(*series(20, 5, 10, 15))
    # By hand: po = 0.7, pe = 0.5, margins 0.5 and 0.6; the variance of Fleiss, Cohen & Everitt (1969).
    p, rows, columns, k = np.array([[0.4, 0.1], [0.2, 0.3]]), np.array([0.5, 0.5]), np.array([0.6, 0.4]), 0.4
    diagonal = sum(p[i, i] * (1 - (rows[i] + columns[i]) * (1 - k)) ** 2 for i in range(2))
    apart = (1 - k) ** 2 * sum(p[i, j] * (columns[i] + rows[j]) ** 2 for i, j in ((0, 1), (1, 0)))
    error = np.sqrt((diagonal + apart - (k - 0.5 * (1 - k)) ** 2) / 50) / 0.5
    assert (cell["low"], cell["high"]) == pytest.approx((0.4 - 1.959964 * error, 0.4 + 1.959964 * error), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_kappa_is_scikit_learns_and_that_of_weights(answers: list[tuple[bool, bool]]) -> None:
    a, b = np.array(answers).T
    cell = kappa(a, b)
    if len(answers) < FEWEST_IMAGES:
        assert cell["value"] is None and "fewer than 5 images" in cell["reason"]
        return
    if cell["value"] is None:
        assert len(set(a) | set(b)) == 1 and "one answer" in cell["reason"]
        return
    assert cell["value"] == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    weights = np.vstack([np.ones(len(a)), np.arange(1, len(a) + 1)]).astype(float)
    values = _kappas(np.stack([a, b]).astype(float), np.ones((2, len(a))), weights)
    assert values[0] == pytest.approx(cell["value"], abs=1e-12)
    if np.isfinite(values[1]):
        assert values[1] == pytest.approx(cohen_kappa_score(a, b, sample_weight=weights[1]), abs=1e-9)


def test_alpha_of_krippendorffs_worked_example() -> None:
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part A: binary data, two observers: 0.095.
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    ones = np.add(meg, owen)
    counts = np.stack([2 - ones, ones], axis=1)
    assert _alpha(counts) == pytest.approx(0.095, abs=5e-4)
    assert _alpha(np.vstack([counts, [[1, 0], [0, 1]]])) == _alpha(counts)  # what one reader saw alone says nothing
    assert np.isnan(_alpha(counts[:0])) and np.isnan(_alpha(np.array([[2, 0], [3, 0]])))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe, Stat. Med. 17, 1998, Table I, method 3 (Wilson's score).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_proportions_of_newcombes_table(hits: int, n: int, low: float, high: float) -> None:
    cell = proportion(hits, n)
    assert (cell["low"], cell["high"]) == pytest.approx((low, high), abs=5e-5)
    assert cell["value"] == hits / n and (cell["hits"], cell["answers"]) == (hits, n)


def test_equivalence_is_statsmodels() -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.52, 0.08, size=9)
        mean, error = values.mean(), values.std(ddof=1) / 3
        ours, theirs = equivalence(mean, error, 8, chance=0.5, margin=0.1), DescrStatsW(values)
        assert ours["p_equivalence"] == pytest.approx(theirs.ttost_mean(0.4, 0.6)[0])
        assert ours["p_difference"] == pytest.approx(theirs.ttest_mean(0.5)[1])
        assert (ours["low"], ours["high"]) == pytest.approx(theirs.tconfint_mean(alpha=0.1))
        assert (ours["p_equivalence"] < 0.05) == (ours["low"] > 0.4 and ours["high"] < 0.6)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 0.95), st.floats(0.005, 0.2), st.floats(2, 60), st.floats(0.02, 0.3))
def test_tests_of_accuracy_agree_with_its_intervals(value: float, error: float, freedom: float, margin: float) -> None:
    test = accuracy_against_chance({"value": value, "error": error, "freedom": freedom}, margin=margin)
    assert (test["p_equivalence"] < 0.05) == (test["low"] > 0.5 - margin and test["high"] < 0.5 + margin)
    reach = stdtrit(freedom, 0.975) * error / (value * (1 - value))
    assert (test["p_difference"] < 0.05) == (abs(logit(value)) > reach)


def test_the_interval_of_a_median_has_the_tabulated_ranks() -> None:
    for n, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (25, 8, 18)):
        cell = median_over(list(np.random.default_rng(n).permutation(n) + 1.0))
        assert (cell["low"], cell["high"], cell["least"], cell["most"]) == (low, high, 1, n)
    assert median_over([1.0, 2.0, 4.0])["value"] == 2 and "six readers" in median_over([1.0] * 5)["reason"]


def test_auc_is_scikit_learns_with_and_without_weights() -> None:
    generator = np.random.default_rng(0)
    scores, synthetic = generator.integers(-5, 6, (4, 30)).astype(float), np.arange(30) < 12
    answered = generator.random((4, 30)) < 0.8
    statistic = mean_auc(scores, answered, synthetic, ~synthetic)
    each = [roc_auc_score(synthetic[seen], score[seen]) for score, seen in zip(scores, answered, strict=True)]
    assert statistic(np.ones((1, 4)), np.ones((1, 30)))[0] == pytest.approx(np.mean(each))
    readers, images = np.array([[2.0, 0, 1, 1]]), generator.integers(0, 4, (1, 30)).astype(float)
    each = [roc_auc_score(synthetic[s], x[s], sample_weight=images[0, s]) for x, s in zip(scores, answered, strict=True)]
    assert statistic(readers, images)[0] == pytest.approx(np.average(each, weights=readers[0]))


def study(
    generator: np.random.Generator, readers: int, images: int, *, mean: float, reader: float, image: float
) -> tuple[np.ndarray, float]:
    """Right answers of readers and images that differ, and the share of right answers of all there could be."""
    threshold = mean + reader * generator.normal(size=(readers, 1)) + image * generator.normal(size=images)
    truth = float(ndtr(mean / np.sqrt(1 + reader**2 + image**2)))
    return generator.random((readers, images)) < ndtr(threshold), truth


def test_the_standard_error_is_that_of_a_two_way_analysis_of_variance() -> None:
    right, _ = study(np.random.default_rng(3), 8, 60, mean=0.4, reader=0.4, image=0.6)
    kinds = [np.ones(right.shape, bool)]
    cell = pooled(share(right, kinds[0]), kinds, resample(8, np.zeros(60), draws=20000, seed=1))
    rows, columns, mean = right.mean(axis=1), right.mean(axis=0), right.mean()
    rest = ((right - rows[:, None] - columns + mean) ** 2).sum() / (7 * 59)
    expected = rows.var(ddof=1) / 8 + columns.var(ddof=1) / 60 - rest / (8 * 60)
    assert cell["value"] == pytest.approx(mean)
    assert cell["error"] == pytest.approx(np.sqrt(expected), rel=0.03)
    assert 7 <= cell["freedom"] <= 7 + 59


@pytest.mark.parametrize(
    ("readers", "images", "mean", "reader", "image"), [(4, 40, 0, 0, 0), (8, 40, 0, 0.3, 0.5), (5, 60, 1.0, 0.3, 0.5)]
)
def test_pooled_intervals_hold_the_truth_as_often_as_they_say(
    readers: int, images: int, mean: float, reader: float, image: float
) -> None:
    generator, count, held = np.random.default_rng(11), 400, 0
    synthetic = np.arange(images) < images // 2
    resamples = resample(readers, synthetic, draws=200, seed=2)
    seen = np.ones((readers, images), bool)
    kinds = [seen & synthetic, seen & ~synthetic]
    for _ in range(count):
        right, truth = study(generator, readers, images, mean=mean, reader=reader, image=image)
        cell = pooled(mean_of(share(right, kinds[0]), share(right, kinds[1])), kinds, resamples)
        held += cell["low"] <= truth <= cell["high"]
    assert 0.92 <= held / count <= 0.99


def test_intervals_of_what_does_not_vary() -> None:
    kinds = [np.ones((3, 20), bool)]
    resamples = resample(3, np.zeros(20), draws=50, seed=0)
    all_right = share(kinds[0], kinds[0])
    cell = pooled(all_right, kinds, resamples)
    assert cell["value"] == 1 and cell["high"] == 1 and cell["low"] == pytest.approx(1 / (1 + 1.959964**2 / 3))
    cell = pooled(difference_of(all_right, all_right), kinds, resamples, bounded=False)
    assert cell["value"] == 0 and cell["low"] is None and "do not differ" in cell["reason"]


KEY = make_key(images=40, repeats=6)
ENTRIES = {entry["image"]: entry for entry in KEY["images"]}


def careful(seed: int) -> Any:
    """A reader who is right in two of three cases, and whose diagnosis is right in three of four."""
    generator = np.random.default_rng(seed)

    def judge(entry: Mapping[str, Any], place: Any) -> dict[str, str]:
        right, named = generator.random() < 0.67, generator.random() < 0.75
        return {
            "answer": entry["source"] if right else {"real": "synthetic", "synthetic": "real"}[entry["source"]],
            "confidence": str(generator.integers(1, 6)),
            "diagnosis": KEY["classes"][entry["label"] if named else 1 - entry["label"]],
            "seconds": f"{generator.uniform(1, 9):.2f}",
        }

    return judge


@pytest.fixture
def answered(tmp_path: Path) -> tuple[list[Path], pd.DataFrame]:
    """Seven readers, the last of whom stopped early; and their rows, joined with the key by pandas alone."""
    paths = [write_session(tmp_path / f"r{i}.csv", KEY, f"r{i}", careful(i)) for i in range(6)]
    paths.append(tmp_path / "r6.csv")
    write_answers(paths[-1], session_rows(KEY, "r6", careful(6))[:17])
    rows = pd.concat(pd.read_csv(path, dtype={"image": str}) for path in paths)
    rows = rows.merge(pd.DataFrame(KEY["images"]), on="image", suffixes=("", "_key"))
    return paths, rows.assign(right=rows["answer"] == rows["source"])


def test_every_number_is_what_pandas_counts(answered: tuple[list[Path], pd.DataFrame]) -> None:
    paths, rows = answered
    report = analyse(KEY, read_sessions(paths, KEY, simulated=False), margin=0.1, draws=100, seed=1)
    json.dumps(report, allow_nan=False)
    first, again = rows[rows["repeat"] == 0], rows[rows["repeat"] == 1]
    synthetic, real = first[first["source"] == "synthetic"], first[first["source"] == "real"]
    for row in report["readers"]:
        own = first[first["reader"] == row["reader"]]
        assert row["sensitivity"]["value"] == pytest.approx(own[own["source"] == "synthetic"]["right"].mean())
        assert row["specificity"]["value"] == pytest.approx(own[own["source"] == "real"]["right"].mean())
        score = own["confidence"] * np.where(own["answer"] == "synthetic", 1, -1)
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(own["source"] == "synthetic", score))
        assert row["seconds"]["value"] == pytest.approx(own["seconds"].median())
        assert row["answers"] + row["missing"] == 46
        both = own.merge(again[again["reader"] == row["reader"]], on="image")
        assert (row["repeats"]["hits"], row["repeats"]["answers"]) == ((both["answer_x"] == both["answer_y"]).sum(), len(both))
    assert report["pooled"]["sensitivity"]["value"] == pytest.approx(synthetic["right"].mean())
    assert report["pooled"]["specificity"]["value"] == pytest.approx(real["right"].mean())
    assert report["pooled"]["sensitivity"]["answers"] == len(synthetic)
    assert report["pooled"]["auc"]["value"] == pytest.approx(np.mean([row["auc"]["value"] for row in report["readers"]]))
    assert report["median"]["specificity"]["value"] == pytest.approx(real.groupby("reader")["right"].mean().median())
    for column, groups in (("arm", report["arms"]), ("label", report["labels"]), ("cluster", report["clusters"])):
        for name, cells in groups.items():
            value: Any = {"healthy": 0, "cancer": 1}.get(name, name) if column != "cluster" else int(name)
            assert cells["sensitivity"]["value"] == pytest.approx(synthetic[synthetic[column] == value]["right"].mean())
            if column != "arm":
                assert cells["specificity"]["value"] == pytest.approx(real[real[column] == value]["right"].mean())
    named = first.assign(named=first["diagnosis"] == first["label"].map(dict(enumerate(KEY["classes"]))))
    by_source = named.groupby("source")["named"].mean()
    assert report["diagnosis"]["real"]["value"] == pytest.approx(by_source["real"])
    assert report["diagnosis"]["difference"]["value"] == pytest.approx(by_source["real"] - by_source["synthetic"])
    for step, cell in report["confidence"].items():
        assert cell["value"] == pytest.approx(first[first["confidence"] == int(step)]["right"].mean())
    halves = first.groupby(first["position"] > 20)["right"].mean()
    assert report["halves"]["difference"]["value"] == pytest.approx(halves[True] - halves[False])
    table = first.pivot(index="image", columns="reader", values="answer")
    for source, part in report["agreement"].items():
        of = table if source == "all" else table[[ENTRIES[image]["source"] == source for image in table.index]]
        for pair in part["pairs"]:
            both = of[pair["pair"]].dropna()
            assert pair["images"] == len(both)
            if pair["value"] is not None:
                assert pair["value"] == pytest.approx(cohen_kappa_score(*both.to_numpy().T))
        values = [pair["value"] for pair in part["pairs"] if pair["value"] is not None]
        assert part["kappa"]["value"] == pytest.approx(np.mean(values))
        assert part["kappa"]["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert part["kappa"]["low"] < part["kappa"]["value"] < part["kappa"]["high"]


def write_all(folder: Path, paths: list[Path], key: dict[str, Any] = KEY, *, simulated: bool = False) -> dict[str, Any]:
    names = ("analysis.json", "analysis.md", "readers.csv", "kappa.png", "readers.png", "patches.png")
    analyse_reader_study(
        write_key(folder, key), paths, *(folder / "out" / name for name in names),
        folder=folder, simulated=simulated, margin=0.1, draws=60, seed=1,
    )  # fmt: skip
    return read_json(folder / "out/analysis.json")


def test_files_say_who_is_unfinished_and_mark_nobody_as_simulated(answered: Any, tmp_path: Path) -> None:
    report = write_all(tmp_path, answered[0])
    text = (tmp_path / "out/analysis.md").read_text()
    assert text.startswith("# reader study tiny") and "imulated" not in text
    assert "**Unfinished sessions**" in text and "r6 (29 missing)" in text
    table = pd.read_csv(tmp_path / "out/readers.csv")
    assert table["missing"].tolist() == [0] * 6 + [29] and not table["simulated"].any()
    assert table["sensitivity high"].tolist() == [row["sensitivity"]["high"] for row in report["readers"]]
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_all(tmp_path, answered[0][::-1])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_one_reader_has_no_kappa_and_no_interval_over_readers(tmp_path: Path) -> None:
    report = write_all(tmp_path, [write_session(tmp_path / "r.csv", KEY, "lone", careful(1))])
    assert report["pooled"]["sensitivity"]["low"] is None and "two readers" in report["pooled"]["sensitivity"]["reason"]
    assert report["readers"][0]["sensitivity"]["low"] is not None
    assert report["agreement"]["all"]["kappa"]["reason"] == "one reader agrees with nobody"
    text = (tmp_path / "out/analysis.md").read_text()
    assert "cannot be tested: no interval: it takes two readers" in text and "one reader agrees with nobody" in text


def test_readers_who_always_say_the_same_have_no_kappa(tmp_path: Path) -> None:
    key = make_key(repeats=0)
    paths = [write_session(tmp_path / f"{name}.csv", key, name, lambda entry, place: {}) for name in ("a", "b", "c")]
    report = write_all(tmp_path, paths, key)
    assert report["pooled"]["specificity"]["value"] == 1 and report["pooled"]["sensitivity"]["value"] == 0
    assert report["agreement"]["all"]["kappa"]["reason"] == "no pair of readers has a kappa"
    assert "nothing to agree on" in report["agreement"]["real"]["alpha"]["reason"]
    assert report["same_reader"]["share"]["value"] is None
    assert "## Diagnosis" not in (tmp_path / "out/analysis.md").read_text()


def test_a_session_of_one_answer_and_a_study_of_two_images(tmp_path: Path) -> None:
    key = make_key(images=2, repeats=0, training=0, blocks=1)
    paths = [tmp_path / "a.csv", write_session(tmp_path / "b.csv", key, "b", lambda entry, place: {"answer": "real"})]
    write_answers(paths[0], session_rows(key, "a", lambda entry, place: {})[:1])
    report = write_all(tmp_path, paths, key)
    assert "fewer than 5 images" in report["pooled"]["accuracy"]["reason"]
    assert report["readers"][0]["missing"] == 1


def test_perfect_readers(tmp_path: Path) -> None:
    paths = [write_session(tmp_path / f"{n}.csv", KEY, n, lambda entry, place: {"answer": entry["source"]}) for n in "ab"]
    report = write_all(tmp_path, paths)
    for measure in ("sensitivity", "specificity", "accuracy", "auc"):
        assert report["pooled"][measure]["value"] == 1
    assert report["agreement"]["all"]["kappa"]["value"] == report["agreement"]["all"]["alpha"]["value"] == 1
    assert report["same_reader"]["share"]["value"] == 1


def test_faults_end_in_one_message_before_anything_is_written(tmp_path: Path) -> None:
    path = write_session(tmp_path / "r.csv", KEY, "r", careful(1))
    with open(path, newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1][7] = "9"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    with pytest.raises(InputError, match="the check does not match"):
        write_all(tmp_path, [path])
    assert not (tmp_path / "out").exists()
