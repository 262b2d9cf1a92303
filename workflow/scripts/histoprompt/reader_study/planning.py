"""How many readers and images does a study take? Simulated studies, each analysed as a real one would be."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from histoprompt.files import atomic, write_csv
from histoprompt.intervals import wilson_interval
from histoprompt.job import progress
from histoprompt.markdown import markdown_table
from histoprompt.reader_study.pooling import Bools, accuracy_against_chance, mean_of, pooled, resample, share
from histoprompt.subset import keyed_generator

POWER = 0.8  # what a study is usually planned for
_LEVEL = 0.05


@dataclass(frozen=True)
class Scenario:
    """How much readers and images differ: standard deviations, in units of the noise of a single judgement.

    Attributes
    ----------
    bias : of a reader's lean to `synthetic`.
    sight : of what a reader can see of the difference.
    image : of how synthetic an image looks to everybody.
    words : for the table.
    """

    bias: float
    sight: float
    image: float
    words: str

    @property
    def spread(self) -> float:
        """Standard deviation of a single judgement's evidence over readers, images and noise."""
        return float(np.sqrt(1 + self.bias**2 + self.sight**2 + self.image**2))


SCENARIOS = {
    "guessers": Scenario(0, 0, 0, "all readers guess and all images are alike: the least that chance alone asks for"),
    "varied": Scenario(0.5, 0.15, 0.5, "readers lean to either answer, see a little or its opposite, and agree on some images"),
}


def simulate_study(
    generator: np.random.Generator, scenario: Scenario, synthetic: Bools, *, readers: int, accuracy: float
) -> Bools:
    """Right answers (R, C) of a study whose readers and images are drawn.

    Parameters
    ----------
    synthetic : (C,) of the images.
    accuracy : of the average reader on the average image; 0.5 is chance.
    """
    side = np.where(synthetic, 1.0, -1.0)
    sight = ndtri(accuracy) * scenario.spread + scenario.sight * generator.normal(size=(readers, 1))
    bias = scenario.bias * generator.normal(size=(readers, 1))
    image = scenario.image * generator.normal(size=synthetic.size)
    said = generator.random((readers, synthetic.size)) < ndtr(side * sight + bias + image)
    return np.asarray(said == synthetic)


def power_of(
    scenario: Scenario, *, readers: int, images: int, margin: float, studies: int, draws: int, generator: np.random.Generator
) -> dict[str, float]:
    """What studies of one size give.

    Parameters
    ----------
    readers, images : of a study; half of the images are synthetic.
    margin : of the equivalence test, in accuracy.
    studies : how many are simulated, at chance and again at chance + margin.
    draws : resamples in the analysis of each.

    Returns
    -------
    `accuracy_width` and `sensitivity_width`, the mean widths of the 95 % intervals at chance; `power`, the share of studies at
    chance that show equivalence, with Wilson's `power_low` and `power_high`; `error`, the share of those at chance + margin
    that wrongly do, which should be 0.05 or less; `coverage`, the share of accuracy's intervals at chance that hold 0.5.
    """
    synthetic = np.arange(images) < images // 2
    resamples = resample(readers, synthetic, draws=draws, seed=0)
    seen = np.ones((readers, images), bool)
    kinds = [seen & synthetic, seen & ~synthetic]
    widths, equal, covered = np.zeros((studies, 2)), np.zeros((studies, 2), bool), 0
    for study in range(studies):
        for place, truth in enumerate((0.5, 0.5 + margin)):
            right = simulate_study(generator, scenario, synthetic, readers=readers, accuracy=truth)
            sensitivity, specificity = (share(right, kind) for kind in kinds)
            accuracy = pooled(mean_of(sensitivity, specificity), kinds, resamples)
            equal[study, place] = accuracy_against_chance(accuracy, margin=margin).get("p_equivalence", 1) < _LEVEL
            if place == 0:
                of_arm = pooled(sensitivity, kinds[:1], resamples)
                widths[study] = [cell["high"] - cell["low"] for cell in (accuracy, of_arm)]
                covered += accuracy["low"] <= truth <= accuracy["high"]
    shown = int(equal[:, 0].sum())
    low, high = wilson_interval(shown, studies)
    return {
        "accuracy_width": float(widths[:, 0].mean()),
        "sensitivity_width": float(widths[:, 1].mean()),
        "power": shown / studies,
        "power_low": low,
        "power_high": high,
        "error": float(equal[:, 1].mean()),
        "coverage": covered / studies,
    }


def plan_reader_study(
    power_csv: str | Path,
    power_md: str | Path,
    *,
    readers: Sequence[int],
    images: Sequence[int],
    margin: float,
    studies: int,
    draws: int,
    seed: int,
) -> None:
    """Write what studies of several sizes can be expected to show.

    Parameters
    ----------
    power_csv : written: `scenario,readers,images` and what `power_of` returns.
    power_md : written: the same to read.
    readers, images : of the studies; every pair is tried.
    margin, studies, draws : as `power_of` takes them.
    seed : of everything.
    """
    sizes = [(name, r, c) for name in SCENARIOS for r in readers for c in images]
    rows = [
        {"scenario": name, "readers": r, "images": c}
        | power_of(
            SCENARIOS[name],
            readers=r,
            images=c,
            margin=margin,
            studies=studies,
            draws=draws,
            generator=keyed_generator(seed, f"plan {name} {r} {c}"),
        )
        for name, r, c in progress(sizes, "studies of one size", total=len(sizes), unit="size")
    ]
    plan = pd.DataFrame(rows)
    write_csv(power_csv, plan)
    with atomic(power_md) as temporary:
        temporary.write_text(_page(plan, {"margin": margin, "studies": studies, "draws": draws, "seed": seed}))


def _page(plan: pd.DataFrame, settings: Mapping[str, float]) -> str:
    margin = f"{settings['margin']:g}"
    lines = ["# Planning a reader study", ""]
    lines += textwrap.wrap(
        f"Each cell is {settings['studies']} simulated studies of readers who are at chance, half of the images synthetic, "
        f"analysed as `analyse_reader_study` does ({settings['draws']} draws; seed {settings['seed']}). Power: the share of "
        f"studies that show equivalence to chance within ± {margin} in accuracy, at 5 %. Widths: of the 95 % interval of "
        "accuracy and of sensitivity over all readers.",
        120,
    )
    for name, scenario in SCENARIOS.items():
        part = plan[plan["scenario"] == name]
        lines += ["", f"## {name.capitalize()}: {scenario.words}", ""]
        lines += textwrap.wrap(
            f"Standard deviations, in units of the noise of one judgement: readers' bias {scenario.bias:g}, readers' sight "
            f"{scenario.sight:g}, images {scenario.image:g}.",
            120,
        )
        for column, title in (
            ("power", "power"),
            ("accuracy_width", "width, accuracy"),
            ("sensitivity_width", "width, sensitivity"),
        ):
            values = part.pivot(index="readers", columns="images", values=column)
            body = [
                [str(index), *(f"{value:.2f}" for value in row)]
                for index, row in zip(values.index, values.to_numpy(), strict=True)
            ]
            lines += ["", *markdown_table([f"{title}: readers", *(f"{count} images" for count in values.columns)], body)]
        enough = part[part["power"] >= POWER]
        if len(enough):
            least = enough.assign(answers=enough["readers"] * enough["images"]).sort_values(["answers", "readers"]).iloc[0]
            text = f"The fewest answers with a power of {POWER:g}: {least['readers']} readers and {least['images']} images."
        else:
            text = f"No size here has a power of {POWER:g}: take more readers and images, or a wider margin."
        wrong = (
            f"At a true accuracy of chance + {margin} the test finds equivalence, wrongly, in {part['error'].mean():.3f} of "
            f"studies (mean over the sizes; {part['error'].max():.3f} at most), where 0.05 is allowed."
        )
        held = (
            f"Intervals of accuracy hold the truth in {part['coverage'].min():.2f} to {part['coverage'].max():.2f} of studies."
        )
        lines += ["", text, *textwrap.wrap(f"{wrong} {held}", 120)]
    return "\n".join([*lines, ""])
