"""The analysis finds what simulated readers were made to do; plans have the power they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reader_studies import make_key, write_key
from scipy.stats import binom

from histoprompt.files import read_json
from histoprompt.reader_study.analysis import analyse, analyse_reader_study
from histoprompt.reader_study.answers import read_sessions
from histoprompt.reader_study.kinds import KINDS, simulated_readers
from histoprompt.reader_study.planning import SCENARIOS, plan_reader_study, power_of, simulate_study
from histoprompt.reader_study.simulate import DIAGNOSIS, put_in, simulate_readers

EACH = 6
KEY = make_key(images=200, repeats=40)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("simulated")
    paths = {reader: folder / f"{reader}.csv" for reader in simulated_readers(EACH)}
    simulate_readers(write_key(folder, KEY), paths, seed=8, diagnosis=True)
    return paths


def of_kind(answers: dict[str, Path], kind: str) -> dict[str, Any]:
    paths = [path for reader, path in answers.items() if kind in reader]
    return analyse(KEY, read_sessions(paths, KEY, simulated=True), margin=0.1, draws=300, seed=1)


def test_simulated_readers_are_the_same_on_every_run_and_differ(answers: dict[str, Path], tmp_path: Path) -> None:
    again = {reader: tmp_path / path.name for reader, path in answers.items()}
    simulate_readers(write_key(tmp_path, KEY), again, seed=8, diagnosis=True)
    assert all(again[reader].read_bytes() == path.read_bytes() for reader, path in answers.items())
    assert len({path.read_bytes() for path in answers.values()}) == len(answers)
    assert all(reader.startswith("simulated-") and path.name.startswith("simulated-") for reader, path in answers.items())


def test_intervals_hold_what_was_put_in(answers: dict[str, Path]) -> None:
    """Of 95 % intervals some miss; more than one study in a thousand would have, and they are wrong."""
    single, together = [], []
    for kind in KINDS:
        report = of_kind(answers, kind)
        for measure, value in zip(("sensitivity", "specificity"), put_in(f"simulated-{kind}-1"), strict=True):
            single += [row[measure]["low"] <= value <= row[measure]["high"] for row in report["readers"]]
            together.append(report["pooled"][measure]["low"] <= value <= report["pooled"][measure]["high"])
            assert report["pooled"][measure]["answers"] == 100 * EACH
            assert report["pooled"][measure]["value"] == pytest.approx(value, abs=0.07)
        for source, value in DIAGNOSIS.items():
            together.append(report["diagnosis"][source]["low"] <= value <= report["diagnosis"][source]["high"])
    for held in (single, together):
        assert len(held) - sum(held) <= binom.ppf(0.999, len(held), 0.05)


def test_guessers_are_equivalent_to_chance(answers: dict[str, Path]) -> None:
    report = of_kind(answers, "guessing")
    assert report["chance"]["both"]["p_equivalence"] < 0.05 < report["chance"]["both"]["p_difference"]
    assert report["agreement"]["all"]["kappa"]["low"] <= 0 <= report["agreement"]["all"]["kappa"]["high"]
    auc = report["pooled"]["auc"]
    assert auc["low"] <= 0.5 <= auc["high"]
    # Half of the evidence's variance is there again: two answers agree with probability 1/2 + asin(1/2) / π.
    again = report["same_reader"]["share"]
    assert again["low"] <= 2 / 3 <= again["high"] and again["answers"] == 40 * EACH


def test_sharp_readers_are_not_at_chance(answers: dict[str, Path]) -> None:
    report = of_kind(answers, "sharp")
    assert report["chance"]["both"]["p_difference"] < 0.001 and report["chance"]["both"]["p_equivalence"] > 0.999
    # Kappa of two independent readers who are right with probability p, on equally many images of both kinds: (2 p - 1)².
    kappa = report["agreement"]["all"]["kappa"]
    assert kappa["low"] <= (2 * put_in("simulated-sharp-1")[0] - 1) ** 2 <= kappa["high"]
    confident, unsure = report["confidence"]["5"], report["confidence"]["1"]
    assert confident["low"] > unsure["high"]


def test_bias_is_no_sight(answers: dict[str, Path]) -> None:
    report = of_kind(answers, "biased")
    assert report["pooled"]["sensitivity"]["low"] > 0.7 and report["pooled"]["specificity"]["high"] < 0.3
    assert report["chance"]["both"]["p_equivalence"] < 0.05


def test_fatigue_is_seen(answers: dict[str, Path]) -> None:
    assert of_kind(answers, "tired")["halves"]["difference"]["high"] < 0
    steady = of_kind(answers, "sharp")["halves"]["difference"]
    assert steady["low"] <= 0 <= steady["high"]


def test_everything_that_is_written_says_simulated(answers: dict[str, Path], tmp_path: Path) -> None:
    names = ("analysis.json", "analysis.md", "readers.csv", "kappa.png", "readers.png", "patches.png")
    analyse_reader_study(
        write_key(tmp_path, KEY), list(answers.values())[::EACH], *(tmp_path / name for name in names),
        folder=tmp_path, simulated=True, margin=0.1, draws=50, seed=1,
    )  # fmt: skip
    assert read_json(tmp_path / "analysis.json")["simulated"] is True
    text = (tmp_path / "analysis.md").read_text()
    assert text.startswith("# SIMULATED READERS, no people") and "No person gave these answers" in text
    assert "What was put in, and what was found" in text
    assert pd.read_csv(tmp_path / "readers.csv")["simulated"].all()
    assert all((tmp_path / name).stat().st_size > 0 for name in names)


def test_simulated_studies_have_the_accuracy_they_are_given() -> None:
    generator = np.random.default_rng(0)
    synthetic = np.arange(40) < 20
    for accuracy in (0.5, 0.6):
        studies = [simulate_study(generator, SCENARIOS["varied"], synthetic, readers=10, accuracy=accuracy) for _ in range(400)]
        assert np.mean(studies) == pytest.approx(accuracy, abs=0.01)


def test_power_grows_with_readers_and_errors_stay_rare() -> None:
    few, many = (
        power_of(
            SCENARIOS["guessers"], readers=readers, images=80, margin=0.1, studies=150, draws=100,
            generator=np.random.default_rng(1),
        )
        for readers in (3, 12)
    )  # fmt: skip
    assert few["power"] < 0.8 < many["power"] and few["accuracy_width"] > 1.5 * many["accuracy_width"]
    # Of 960 answers accuracy has a standard error of at least sqrt(0.25 / 960).
    assert 2 * 1.96 * np.sqrt(0.25 / 960) * 0.9 < many["accuracy_width"] < 2 * 1.96 * np.sqrt(0.25 / 960) * 1.5
    assert few["error"] < 0.1 and many["error"] < 0.1
    assert few["coverage"] > 0.92 and many["coverage"] > 0.92
    assert few["power_low"] <= few["power"] <= few["power_high"]


def test_a_plan_is_a_table_and_a_page(tmp_path: Path) -> None:
    plan_reader_study(
        tmp_path / "power.csv", tmp_path / "power.md",
        readers=[3, 5], images=[20, 40], margin=0.2, studies=10, draws=20, seed=1,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "power.csv")
    assert len(table) == len(SCENARIOS) * 4 and table["power"].between(0, 1).all()
    text = (tmp_path / "power.md").read_text()
    assert "chance within ± 0.2" in text and "40 images" in text and "## Varied" in text
