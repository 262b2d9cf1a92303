"""Ablations: what is called a failure and what is not; every value in the table, in the order of the setting."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from PIL import Image

from histoprompt.ablations import copies_by_chance, failure_signatures, summarise_ablation
from histoprompt.files import write_json

REAL = (0.9, 0.8)  # precision and recall of real images


def cell(value: float | None, error: float | None = 0.02) -> dict[str, Any]:
    if value is None or error is None:
        return {"value": value, "low": None, "high": None, "reason": "too few images"}
    return {"value": value, "low": value - error, "high": value + error}


def row(precision: float | None, recall: float, near: float = 0.01, *, error: float | None = 0.02) -> dict[str, Any]:
    near_copies = {"value": near, "low": near / 2, "high": 2 * near}
    return {"precision-e": cell(precision, error), "recall-e": cell(recall, error), "near copies": near_copies}


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (row(*REAL), []),
        (row(0.85, 0.3), ["too narrow"]),
        (row(0.3, 0.75), ["unrealistic samples"]),
        (row(0.3, 0.2), ["neither realistic nor varied"]),
        # Shares of real images' 0.78 and 0.63, but of wide intervals the ends that matter are 0.55 and 0.87.
        (row(0.7, 0.5, error=0.02), []),
        (row(0.8, 0.5, error=0.02), ["too narrow"]),
        (row(0.8, 0.5, error=0.2), []),
        # Low precision is no narrowness, even where recall is lower still.
        (row(0.4, 0.01), ["neither realistic nor varied"]),
        (row(0.85, 0.3, error=None), []),
        (row(None, 0.3), []),
        (row(*REAL, near=0.03), []),
        (row(*REAL, near=0.05), ["repeats training images"]),
        (row(0.85, 0.3, near=0.5), ["too narrow", "repeats training images"]),
    ],
)
def test_a_failure_is_named_where_the_intervals_support_it(found: dict[str, Any], names: list[str]) -> None:
    signatures = failure_signatures(found, row(*REAL), ["e"], 0.02)
    assert [text.split(" in the space")[0].split(" (")[0] for text in signatures] == names


def test_real_images_without_an_interval_judge_nobody() -> None:
    assert failure_signatures(row(0.85, 0.3), row(*REAL, error=None), ["e"], 0.02) == []


def test_what_a_signature_says() -> None:
    assert failure_signatures(row(0.9, 0.4, near=0.05), row(*REAL), ["e"], 0.02) == [
        "too narrow in the space of `e` (precision 1.00, recall 0.50 of real images')",
        "repeats training images (near copies 0.050, by chance at most 0.020)",
    ]


def test_chance_allows_for_the_threshold_s_own_error() -> None:
    few, many = (copies_by_chance({"near_copies_held_out": 0.01, "held_out": n}) for n in (200, 20_000))
    assert 0.01 < many < 0.012 < 0.03 < few


def files(folder, arms, round_trips):
    """Metrics and copies of arms with clusters of `dino`, or of another encoder if their name begins so."""
    metrics, copies = [], []
    for i, name in enumerate(("real", *round_trips, *arms)):
        values = {metric: cell(0.9 - i / 20) for metric in ("precision", "recall", "density", "coverage", "kd")}
        values |= {"fd": cell(None) if name == "vae" else cell(1.0 + i), "k": 5}
        encoders = {"dino": values} | ({"other": values} if name.startswith("other") else {})
        report = {
            "name": name,
            "images": 100,
            "reference": 200,
            "protocols": {"matched": encoders},
            "morphology_encoder": "dino",
        }
        report |= {"prompt_fidelity": cell(0.3) | {"chance": 0.125}, "interval": "halves", "subsamples": 20, "seed": 3}
        metrics.append(folder / f"{name}.metrics.json")
        write_json(metrics[-1], report)
    for name in arms:
        copies.append(folder / f"{name}.copies.json")
        none_found = {"value": 0.0, "low": 2e-19, "high": 0.004}  # Wilson's interval, rounding and all
        shares = {"authentic": cell(0.6), "near_copies": cell(0.4) if name == "few" else none_found}
        write_json(copies[-1], {"name": name, "train": 50, "held_out": 200, "near_copies_held_out": 0.01} | shares)
    return metrics, copies


def summarise(folder, arms, varies, round_trips=("vae",)):
    outputs = [folder / f"table.{form}" for form in ("csv", "md", "png")]
    summarise_ablation(*files(folder, arms, round_trips), *outputs, name="some", title="Why?", varies=varies, arms=arms)
    return pd.read_csv(outputs[0], index_col="name"), outputs[1].read_text(), outputs[2]


def arm(value, **changes):
    return {"title": "an arm", "value": value, "prompts": "morphology", "encoder": "dino", "k": 12} | changes


def test_numbers_stand_in_their_order_and_none_comes_first(tmp_path):
    arms = {"all": arm(400), "few": arm(25), "base": arm(None, prompts="label", title="base: untuned")}
    table, text, figure = summarise(tmp_path, arms, "finetune.steps")
    assert list(table.index) == ["real", "vae", "base", "few", "all"]
    assert table["finetune.steps"].dropna().to_dict() == {"few": 25, "all": 400}
    assert table.loc["all", ["FD-dino", "FD-dino low", "FD-dino high"]].tolist() == [3, 2.98, 3.02]
    assert table.loc["few", "prompt fidelity"] == 0.3 and (table["chance"] == 0.125).all()
    assert pd.isna(table.loc["vae", "FD-dino"]) and "too few images" in table.loc["vae", "notes"]
    assert table.loc["few", "signatures"].startswith("repeats training images") and pd.isna(table.loc["all", "signatures"])
    assert "# Ablation some: Why?" in text and "base: untuned" in text and "- vae, FD-dino: too few images" in text
    assert "- **few**: repeats training images" in text and "- **all**: none" in text
    assert "0.300 [0.280, 0.320]" in text and "0.125" in text and "all 50" in text
    assert min(Image.open(figure).size) > 500


def test_what_resampling_does_stands_beside_the_arms(tmp_path):
    table, text, _ = summarise(tmp_path, {"all": arm(400)}, "finetune.steps", ("vae", "resampled"))
    assert list(table.index) == ["real", "resampled", "vae", "all"] and "| resampled" in text


def test_arms_with_other_clusters_are_compared_in_the_spaces_that_all_have(tmp_path):
    arms = {"morphology": arm("dino"), "other": arm("other", encoder="other", k=7)}
    table, text, _ = summarise(tmp_path, arms, "encoder")
    assert list(table.index) == ["real", "vae", "morphology", "other"]
    assert not [column for column in table if "-other" in column]
    assert table.loc["other", "clusters"] == "other, k = 7" and "other, k = 7" in text
