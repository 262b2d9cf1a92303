"""The report's page: what it says, what it holds, and that nothing of the user's becomes a part of its markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_files import ARMS, DISTANCES, arm, cell, picture, write_judged_study, write_parts_on_request
from scipy import stats

from histoprompt.job import duration
from histoprompt.report.comparisons import (
    baselines_of,
    compare,
    compare_replicates,
    headline,
    replicated_sentence,
    sentence,
)
from histoprompt.report.parts import files_on_request, parts_on_request
from histoprompt.report.pictures import picture as encoded
from histoprompt.report.text import html_of, joined
from histoprompt.report.write import write_report

FD = "FD-dino matched"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> `x` | {{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, text, and headings in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self.inside = ""
        self.html = path.read_text()
        self.feed(self.html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(folder: Path, arguments: dict[str, Any]) -> Page:
    write_report(folder, folder / "report.html", folder / "figures/losses.png", **arguments)
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return write(folder, write_judged_study(folder))


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    policy = page.all("meta")[1]["content"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object", "video", "form"} == set()
    assert not any("style" in attributes or any(key.startswith("on") for key in attributes) for _, attributes in page.tags)
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(not re.match("[a-z]+:|//", str(link["href"])) for link in page.all("a"))


def test_the_page_can_be_found_ones_way_in(page: Page) -> None:
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in page.all("a") if str(link["href"]).startswith("#")} <= set(ids)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.all("img"))
    assert all("scope" in head for head in page.all("th"))
    assert page.all("html")[0]["lang"] == "en" and page.all("meta")[2]["name"] == "viewport"


def test_it_says_what_the_numbers_say(page: Page) -> None:
    for said in (
        "morphology beats label in FD-dino matched: 1.20 [0.90, 1.50] against 2.30 [2.00, 2.60], 1.10 lower; pretrained "
        "(18.00 [17.70, 18.30]) and shuffled (2.40 [2.10, 2.70]) do not. (this encoder made the clusters: circular)",
        "morphology beats shuffled in FD-resnet matched: 12.00 [9.00, 15.00] against 24.00 [21.00, 27.00], 12.00 lower",
        "shuffled cannot be told from label: no difference shows in FD-dino matched (2.40 against 2.30)",
        "pretrained does not beat label: it is worse in FD-dino matched (18.00 [17.70, 18.30] against 2.30 [2.00, 2.60], "
        "15.70 higher) and FD-resnet matched",
        "3,988 of 4,000 kept; dropped for hue_std_below 12",
        "Protocols matched and paper: the encoder sees the same pixels",
        "PSNR 30.9 dB",
        "2 jobs, 1 s of CPU time",
        "Near copies: 0.003 [0.002, 0.004]; of held-out patches 0.010. Authentic: 0.600 [0.570, 0.630]; of held-out",
        "Simulated readers, no people.",
        "no file",
        "3 minCPU, 1 threads",  # of the shards of these images alone
        "in the space of dino, with slides 0.02",  # nobody knows the true morphologies of real patches
    ):
        assert said in page.text, said
    assert page.text.index("beats label in FD-resnet") < page.text.index("beats label in FD-dino")  # the independent one first
    assert "label cannot be told from shuffled" not in page.text  # the same comparison from the other side
    assert "value_mean_below" not in page.text and "7 * 7" not in page.text


def test_the_same_results_give_the_same_bytes(folder: Path, page: Page) -> None:
    again = write(folder, write_judged_study(folder))
    assert again.html == page.html


def test_nothing_of_the_users_becomes_markup(tmp_path: Path) -> None:
    arms = ARMS | {"label": arm("label", "label", title=HOSTILE)}
    arguments = write_judged_study(tmp_path, arms=arms, classes=(HOSTILE, "B & <b>", "ü/ö"), prompt="{label} \u202e tissue")
    write_parts_on_request(tmp_path)
    (tmp_path / "ablations/guidance.md").write_text(
        f"# {HOSTILE}\n\n{HOSTILE}\n\n[x](javascript:alert(1)) ![x](http://x/y.png)\n"
    )
    arguments |= {"ablations": {"guidance": HOSTILE}, "on_request": files_on_request(tmp_path, "tiny", ["guidance"])}
    arguments["models"][0]["model"] = HOSTILE
    page = write(tmp_path, arguments)
    assert {name for name, _ in page.tags} & {"script", "b"} == set()
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert page.text.count("<script>alert(1)</script>") >= 5 and "B & <b>" in page.text and "49" not in page.text
    assert all(not re.match("[a-z]+:", str(link["href"])) for link in page.all("a"))


def test_what_is_made_on_request_is_shown_once_it_is_there(tmp_path: Path) -> None:
    arguments = write_judged_study(tmp_path)
    page = write(tmp_path, arguments)
    for target in ("coverage_map", "learning_curve", "replicate", "results/tiny/ablations/guidance.md"):
        assert f"snakemake --cores all {target} makes it" in page.text
    write_parts_on_request(tmp_path)
    assert write(tmp_path, arguments).html == page.html  # not asked for
    found = files_on_request(tmp_path, "tiny", ["guidance"])
    assert set(found) == {file for part in parts_on_request("tiny", ["guidance"])[:3] for file in part.files} | {
        "ablations/guidance.md",
        "ablations/guidance.png",
    }
    page = write(tmp_path, arguments | {"on_request": found})
    assert "makes it" not in page.text and "worth 26 real ones" in page.text and "older than" not in page.text
    assert {str(link["href"]) for link in page.all("a")} >= {"figures/regions.png", "ablations/guidance.png"}
    assert (
        "Over 3 seeds morphology beats label in FD-dino matched (−0.80 [−1.05, −0.55], lower in 3 and higher in 0)."
        in page.text
    )
    assert "Over 3 seeds shuffled cannot be told from label: no difference shows in FD-dino matched (+0.00" in page.text
    (tmp_path / "figures/regions.png").unlink()
    assert "figures/coverage_map.png" not in files_on_request(tmp_path, "tiny", ["guidance"])


def test_a_part_that_is_older_than_the_images_says_so(tmp_path: Path) -> None:
    arguments = write_judged_study(tmp_path)
    write_parts_on_request(tmp_path)
    os.utime(tmp_path / "figures/learning_curve.png", (1, 1))
    page = write(tmp_path, arguments | {"on_request": files_on_request(tmp_path, "tiny", ["guidance"])})
    assert page.text.count("older than some of the study’s images. snakemake --cores all learning_curve brings") == 1
    assert page.text.count("older than some") == 1


def test_a_study_without_baselines_classes_of_its_own_and_missing_weights(tmp_path: Path) -> None:
    arms = {"only": arm("only", "morphology")}
    classes = [f"tissue {i}" for i in range(9)]
    arguments = write_judged_study(tmp_path, arms=arms, classes=classes, distances={"real": 0.5, "vae": 0.6, "only": None})
    undefined = {"authentic": cell(0.6), "authentic_held_out": cell(0.5), "near_copies_held_out": None}
    (tmp_path / "copies/only.json").write_text(json.dumps(undefined | {"near_copies": cell(None, reason="too few patches")}))
    page = write(tmp_path, arguments)
    assert "Near copies: – (too few patches); of held-out patches –. Authentic: 0.600" in page.text
    assert "No arm of this study can be held against another one" in page.text
    assert "only; FD-dino matched, KD-dino matched" in page.text and "no file of weights" in page.text
    assert "9 classes, 96 px" in page.text and "tissue 7 and tissue 8" in page.text
    arms = {"base": arm("base", "label", tuned=False)}
    page = write(tmp_path, write_judged_study(tmp_path, arms=arms, distances={"real": 0.5, "vae": 0.6, "base": 9.0}))
    assert "No arm was fine-tuned." in page.text and "0 fine-tuned models at 96 px; base samples the base model" in page.text


def test_readers_who_are_people_are_not_called_simulated(tmp_path: Path) -> None:
    arguments = write_judged_study(tmp_path)
    (tmp_path / "reader_study/simulated_analysis").rename(tmp_path / "reader_study/away")
    for file in ("analysis.md", "figures"):
        (tmp_path / "reader_study/away" / file).rename(tmp_path / "reader_study" / file)
    text = write(tmp_path, arguments | {"readers": ""}).text
    assert "Sensitivity (synthetic taken for synthetic)" in text and "simulated" not in text.lower().replace("# simulated", "")


def test_the_explorer_is_linked_where_there_is_one(folder: Path, page: Page) -> None:
    assert "explorer/" not in page.html
    picture(folder / "explorer/sheet.png")
    (folder / "explorer/index.html").write_text("x")
    found = files_on_request(folder, "tiny", [])
    assert list(found) == ["explorer/index.html"]
    assert 'href="explorer/index.html"' in write(folder, write_judged_study(folder) | {"on_request": found}).html


def test_baselines_are_known_by_what_they_are() -> None:
    assert baselines_of(ARMS) == ["label", "shuffled"]
    assert baselines_of({"a": arm("a", "label", tuned=False), "b": arm("b", "morphology")}) == []
    assert baselines_of({"x": arm("x", "shuffled"), "plain": arm("plain", "label"), "y": arm("y", "label")}) == ["plain", "x"]


numbers = st.floats(0, 100)


@given(numbers, st.floats(0, 5), numbers, st.floats(0, 5), st.sampled_from([FD, "AUC alone"]))
def test_a_verdict_is_turned_round_with_its_sides(a: float, reach: float, b: float, other: float, measure: str) -> None:
    one, two = {measure: cell(a, reach)}, {measure: cell(b, other)}
    (forth,), (back,) = compare(one, two, [measure]), compare(two, one, [measure])
    apart = one[measure]["low"] > two[measure]["high"] or two[measure]["low"] > one[measure]["high"]
    assert (forth.verdict != "no difference") == apart
    turned = {"better": "worse", "worse": "better", "no difference": "no difference"}
    assert back.verdict == turned[forth.verdict]
    if apart:
        assert (forth.verdict == "better") == ((a < b) == (measure == FD))


def test_what_is_undefined_is_not_compared() -> None:
    without = {"value": 2.0, "low": None, "high": None}
    assert compare({FD: cell(None)}, {FD: cell(1.0)}, [FD]) == compare({FD: without}, {FD: cell(1.0)}, [FD]) == []
    assert compare({}, {FD: cell(1.0)}, [FD]) == []
    assert headline(FD, "label", {"label": {FD: cell(1.0)}, "a": {FD: cell(None)}}) == ""
    assert sentence("a", "label", []) == "Nothing that a and label can be compared by is defined."


def test_headlines_name_all_that_beat_and_all_that_do_not() -> None:
    rows = {name: {FD: cell(value)} for name, value in DISTANCES.items() if name in ARMS}
    assert headline(FD, "pretrained", rows) == (
        "label, morphology and shuffled beat pretrained in FD-dino matched (18.00 [17.70, 18.30]): label 2.30 [2.00, 2.60], "
        "15.70 lower; morphology 1.20 [0.90, 1.50], 16.80 lower; shuffled 2.40 [2.10, 2.70], 15.60 lower."
    )
    rows["morphology"] = {FD: cell(2.2)}
    assert headline(FD, "label", rows) == (
        "Nothing beats label in FD-dino matched (2.30 [2.00, 2.60]): not pretrained (18.00 [17.70, 18.30]), "
        "morphology (2.20 [1.90, 2.50]) nor shuffled (2.40 [2.10, 2.70])."
    )


def test_differences_over_seeds_are_paired_by_seed() -> None:
    one, other = {1: 1.0, 2: 1.5, 3: 1.1, 9: 7.0}, {1: 2.0, 2: 2.2, 3: 2.4, 4: 0.0}
    (found,) = compare_replicates({("a", FD): one, ("b", FD): other}, "a", "b", [FD, "AUC alone"])
    differences = np.array([-1.0, -0.7, -1.3])
    low, high = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.difference == pytest.approx(-1.0)
    assert (found.below, found.above, found.seeds, found.verdict) == (3, 0, 3, "better")
    assert replicated_sentence("a", "b", [found]) == (
        f"Over 3 seeds a beats b in FD-dino matched (−1.00 [−{-low:.2f}, −{-high:.2f}], lower in 3 and higher in 0)."
    )
    assert compare_replicates({("a", FD): {1: 1.0}, ("b", FD): {1: 2.0}}, "a", "b", [FD]) == []


def test_plots_lose_nothing_and_large_pictures_become_smaller(tmp_path: Path) -> None:
    def pixels(source: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))

    picture(tmp_path / "a.png", width=50, height=40)
    shown = encoded(tmp_path / "a.png", plot=True)
    assert (pixels(shown.source) == np.asarray(Image.open(tmp_path / "a.png"))).all() and (shown.width, shown.height) == (
        50,
        40,
    )
    picture(tmp_path / "b.png", width=3000, height=30)
    assert pixels(encoded(tmp_path / "b.png", plot=False).source).shape == (20, 2000, 3)


def test_markdown_becomes_plain_html() -> None:
    text = "# Title\n\n## One\n\n### Two\n\n| a | b |\n|---|--:|\n| 1 | <i>2</i> |\n\n[x](http://x) **bold**\n"
    html = str(html_of(text, level=4))
    assert "Title" not in html and "<h4>One</h4>" in html and "<h5>Two</h5>" in html
    assert '<td class="number">&lt;i&gt;2&lt;/i&gt;</td>' in html and html.count('scope="col"') == 2
    assert "style" not in html and "<a" not in html and "<strong>bold</strong>" in html


def test_words_for_times_and_lists() -> None:
    assert [duration(s) for s in (0, 89, 100, 5400, 86400)] == ["0 s", "89 s", "2 min", "1.5 h", "24.0 h"]
    assert [joined(words) for words in ([], ["a"], ["a", "b"], "abc")] == ["", "a", "a and b", "a, b and c"]
