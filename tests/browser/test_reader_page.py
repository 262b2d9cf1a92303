"""The page of a reader study in a real browser: a whole session by keyboard, and what a reader may run into."""

import base64
import csv
import io
import random
import zlib
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from reader_files import write_study

from histoprompt.files import read_json
from histoprompt.patches import PatchFile
from histoprompt.reader_study.analysis import analyse
from histoprompt.reader_study.answers import read_sessions
from histoprompt.reader_study.make import PAGE, make_reader_study
from histoprompt.reader_study.order import presentation

PAINTED = """new Promise((done) =>
    new PerformanceObserver((list) => done(list.getEntries().at(-1).startTime)).observe({ type: "paint", buffered: true }))"""
DESKTOP, TABLET = {"width": 1280, "height": 800}, {"width": 820, "height": 1180}
COLUMNS = [
    "study",
    "page",
    "reader",
    "position",
    "image",
    "repeat",
    "answer",
    "confidence",
    "diagnosis",
    "remark",
    "seconds",
    "check",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of 40 images; `page` is its address, `key` its key."""
    folder = tmp_path_factory.mktemp("study")
    arguments = write_study(folder, size=96, full_size=8) | {"images": 40, "blocks": 4, "repeats": 4, "size": 480}
    make_reader_study(**arguments)
    key = read_json(arguments["key_json"])
    return {"page": f"file://{arguments['page_html']}", "key": key, "files": arguments}


@pytest.fixture
def context(browser):
    """A browser profile of its own, which asks for nothing but local files and whose page never fails."""
    context = browser.new_context(viewport=DESKTOP, accept_downloads=True)
    seen, errors = [], []
    context.on("request", lambda request: seen.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    yield context
    context.close()
    assert [url for url in seen if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len({url for url in seen if url.startswith("file:")}) <= 1
    assert errors == []


def sign_in(context, study, reader="Reader-07"):
    page = context.new_page()
    page.goto(study["page"])
    page.keyboard.press("Tab")
    page.keyboard.type(reader)
    if page.evaluate(f"Session.saved(study, {reader!r})") is None:
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    return page


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def heading(page):
    return page.locator("h1:visible").inner_text()


def saved(page, *keys):
    """What the page saves as a file, after these keys."""
    with page.expect_download() as download:
        press(page, *keys)
    assert download.value.suggested_filename.endswith(".csv")
    content = Path(download.value.path()).read_bytes().decode()
    assert content.endswith("\r\n") and content.startswith(",".join(COLUMNS) + "\r\n")
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    for row in rows:
        assert list(row) == COLUMNS
        fields = "\x1f".join(row[name] for name in COLUMNS[:-1])
        assert row["check"] == f"{zlib.crc32(fields.encode()):08x}"
    return rows


def train(page, count=4):
    press(page, "Enter")
    for i in range(count):
        assert heading(page) == f"Practice image {i + 1} of {count}"
        press(page, "r", "3", "Enter", "Enter")
    press(page, "Enter")


def test_a_whole_session_by_keyboard(context, study):
    key, order = study["key"], [p for p in presentation(study["key"], "reader-07") if p.part == "main"]
    source = {entry["image"]: entry["source"] for entry in key["images"]}
    page = sign_in(context, study)

    assert heading(page) == "How it works"
    press(page, "Enter")
    right = 0
    for i, entry in enumerate(e for e in key["images"] if e["part"] == "training"):
        answer = ("real", "synthetic")[i % 2]
        press(page, answer[0], "5", "Enter")
        feedback = page.locator(".feedback").inner_text()
        assert feedback == (
            f"{'Right' if answer == entry['source'] else 'Not quite'}: this image is {entry['source']}, "
            f"{key['classes'][entry['label']]} tissue."
        )
        right += answer == entry["source"]
        press(page, "s" if answer == "real" else "r")  # too late: told is told
        assert page.locator("input[name=answer]:checked").get_attribute("value") == answer
        press(page, "Enter")
    assert f"right on {right} of 4" in page.locator("main").inner_text()
    press(page, "Enter")

    draw = random.Random(0)
    given = []
    for i in range(20):
        assert heading(page) == f"Image {i + 1} of 44"
        answer, confidence = draw.choice(["real", "synthetic"]), draw.choice("12345")
        diagnosis = draw.choice(["healthy", "cancer", ""])
        press(page, answer[0], confidence, *diagnosis[:1])
        given.append([answer, confidence, diagnosis, ""])
        if i == 3:
            given[-1][3] = 'nuclei "smudged", größer – 核\u2026'
            press(page, "m")
            page.keyboard.type(given[-1][3])
            press(page, "Enter")
            assert heading(page) == "Image 4 of 44"
        press(page, "Enter")
    press(page, "Backspace", "Backspace", *("r" if given[18][0] == "synthetic" else "s"), "1", "Enter", "Enter")
    given[18][:2] = ["real" if given[18][0] == "synthetic" else "synthetic", "1"]
    press(page, "s", "2")  # chosen, not yet confirmed
    rows = saved(page, "d")
    assert [int(row["position"]) for row in rows] == list(range(1, 21))
    page.close()

    page = sign_in(context, study, " READER-07 ")
    assert heading(page) == "Welcome back" and "20 of 44" in page.locator("main").inner_text()
    press(page, "Enter")
    assert heading(page) == "Image 21 of 44"
    assert page.locator("input[name=answer]:checked").get_attribute("value") == "synthetic"
    press(page, "Enter")
    given.append(["synthetic", "2", "", ""])
    for _ in range(21, 44):
        answer, confidence = draw.choice(["real", "synthetic"]), draw.choice("12345")
        press(page, answer[0], confidence, "Enter")
        given.append([answer, confidence, "", ""])
    assert heading(page) == "Thank you"
    rows = saved(page, "Enter")

    assert [row["image"] for row in rows] == [p.image for p in order]
    assert [row["repeat"] for row in rows] == ["1" if p.repeat else "0" for p in order]
    assert [[row[name] for name in ("answer", "confidence", "diagnosis", "remark")] for row in rows] == given
    assert {(row["study"], row["page"], row["reader"]) for row in rows} == {("mini", key["page"], "reader-07")}
    assert all(0 < float(row["seconds"]) < 60 for row in rows)
    assert {source[row["image"]] for row in rows} == {"real", "synthetic"}


def test_a_second_reader_gets_another_order_of_the_same_images(context, study):
    orders = []
    for reader in ("reader-07", "reader-08"):
        page = sign_in(context, study, reader)
        train(page)
        for _ in range(3):
            press(page, "r", "1", "Enter")
        orders.append([row["image"] for row in saved(page, "d")])
        expected = [p.image for p in presentation(study["key"], reader) if p.part == "main"]
        assert orders[-1] == expected[:3]
    assert orders[0] != orders[1]


def test_the_page_computes_the_order_that_the_analysis_rebuilds(context):
    page = context.new_page()
    page.evaluate((PAGE / "order.js").read_text() + "\nwindow.presentation = presentation;\nnull")
    draw, cases = random.Random(1), []
    for _ in range(60):
        blocks = [[f"{draw.getrandbits(48):012x}" for _ in range(draw.randrange(12))] for _ in range(draw.randrange(1, 7))]
        training = [f"{draw.getrandbits(48):012x}" for _ in range(draw.randrange(4))]
        name, repeats = f"{draw.getrandbits(64):016x}", draw.randrange(sum(map(len, blocks)) + 1)
        images = [{"image": image, "part": "training", "block": -1} for image in training]
        images += [{"image": image, "part": "main", "block": b} for b, block in enumerate(blocks) for image in block]
        key = {"page": name, "blocks": len(blocks), "repeats": repeats, "images": images}
        shown = {"page": name, "blocks": blocks, "repeats": repeats, "training": [{"image": image} for image in training]}
        cases += [(key, shown, reader) for reader in ("a", " Reader.07", "ÄÖÜ-ß", "x" * 32)]
    orders = page.evaluate("(cases) => cases.map((both) => presentation(...both))", [case[1:] for case in cases])
    assert orders == [[vars(place) for place in presentation(key, reader)] for key, _, reader in cases]


def test_the_pixels_on_the_screen_are_those_of_the_files(context, study):
    page = sign_in(context, study)
    files = study["files"]
    for entry in study["key"]["images"][::9]:
        script = """(image) => {
            const canvas = pixels.canvasOf(image);
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return btoa(String.fromCharCode(...data));
        }"""
        shown = base64.b64decode(page.evaluate(script, entry["image"]))
        path = files["test_h5"] if entry["arm"] is None else files["samples_h5"][files["arms"].index(entry["arm"])]
        with PatchFile(path) as file:
            patch = file.take([entry["row"]])[0]
        assert [shown[i::4] for i in range(3)] == [patch[..., i].tobytes() for i in range(3)]
        assert set(shown[3::4]) == {255}


def test_time_is_that_with_an_image_on_the_screen(context, study):
    page = context.new_page()
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.goto(study["page"])
    page.fill("#reader", "timed")
    page.check("#consent")
    press(page, "Enter", "Enter")
    for _ in range(4):
        press(page, "r", "1", "Enter", "Enter")
    press(page, "Enter")
    page.clock.run_for(3000)
    press(page, "p")
    page.clock.run_for(60_000)
    press(page, "Enter")
    page.clock.run_for(1500)
    press(page, "?")
    page.clock.run_for(30_000)
    press(page, "Escape", "s", "4", "Enter")
    page.clock.run_for(2000)
    press(page, "r", "1", "Enter", "Backspace")
    page.clock.run_for(500)
    press(page, "Enter")
    assert [row["seconds"] for row in saved(page, "d")] == ["4.50", "2.50"]


def test_what_is_missing_is_asked_for(context, study):
    page = context.new_page()
    page.goto(study["page"])
    press(page, "Tab", "Enter")
    assert "reader code" in page.locator("#reader-error").inner_text()
    page.fill("#reader", "Jane Doe")
    press(page, "Enter")
    assert "no spaces" in page.locator("#reader-error").inner_text()
    page.fill("#reader", "jd")
    press(page, "Enter")
    assert page.locator("#reader-error").inner_text() == ""
    assert "take part" in page.locator("#consent-error").inner_text()
    page.check("#consent")
    press(page, "Enter")
    train(page)
    press(page, "Enter")
    assert page.locator(".task .error").inner_text() == "Please choose real or synthetic first."
    press(page, "s", "Enter")
    assert page.locator(".task .error").inner_text() == "Please say how sure you are."
    press(page, "2", "c", "c", "Enter")
    assert heading(page) == "Image 2 of 44"
    assert saved(page, "d")[0]["diagnosis"] == "", "a second press takes the choice back"


def test_repeats_cannot_be_looked_up_and_a_finished_session_stays_finished(context, study):
    page = sign_in(context, study, "late")
    train(page)
    for _ in range(40):
        press(page, "r", "1", "Enter")
    assert heading(page) == "Image 41 of 44"
    press(page, "Backspace")
    assert heading(page) == "Image 41 of 44"
    for _ in range(4):
        press(page, "s", "5", "Enter")
    assert heading(page) == "Thank you"
    page.close()
    # On a busy machine the browser passes on what a page has stored some moments after it is closed.
    page = context.new_page()
    page.goto(study["page"])
    page.wait_for_function("Session.saved(study, 'late') !== null")
    page.close()
    page = sign_in(context, study, "late")
    assert heading(page) == "Thank you" and len(saved(page, "d")) == 44
    page.get_by_role("button", name="Remove my answers").click()
    page.get_by_role("button", name="Remove them").click()
    assert heading(page) == "Real or synthetic?" and page.evaluate("localStorage.length") == 0


def test_the_same_session_in_a_second_window_takes_over(context, study):
    first = sign_in(context, study, "twice")
    train(first)
    press(first, "r", "1", "Enter")
    second = sign_in(context, study, "twice")
    first.get_by_role("heading", name="Open elsewhere").wait_for()
    press(second, "Enter")
    assert heading(second) == "Image 2 of 44"


def test_a_browser_that_keeps_nothing_is_told_of(context, study):
    context.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };")
    page = sign_in(context, study, "private")
    assert "keeps nothing" in page.locator("#notice").inner_text()
    train(page)
    press(page, "r", "1", "Enter")
    assert len(saved(page, "d")) == 1


def test_zoom_and_single_keys(context, study):
    page = sign_in(context, study, "zoom")
    press(page, "Enter")
    whole = page.locator("canvas").screenshot()
    press(page, "+", "+", "ArrowRight")
    assert page.evaluate("[task.viewer.scale, task.viewer.x > 0.5, task.viewer.y]") == [2.25, True, 0.5]
    assert page.locator("canvas").screenshot() != whole
    press(page, "0")
    assert page.locator("canvas").screenshot() == whole
    page.mouse.move(*[page.locator("canvas").bounding_box()[axis] + 100 for axis in "xy"])
    page.mouse.wheel(0, -100)
    page.wait_for_function("task.viewer.scale === 1.5")
    page.mouse.down()
    page.mouse.move(300, 150)
    page.mouse.up()
    assert page.evaluate("task.viewer.x !== 0.5")
    press(page, "?")
    page.get_by_label("Use single keys").uncheck()
    press(page, "Escape", "r", "1")
    assert page.locator("input:checked").count() == 0
    page.get_by_role("radio", name="Synthetic").check()
    assert page.locator("input:checked").get_attribute("value") == "synthetic"


@pytest.mark.parametrize("device", ["desktop", "tablet"])
def test_no_screen_has_a_serious_accessibility_fault(browser, study, device, tmp_path):
    tablet = {"viewport": TABLET, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**(tablet if device == "tablet" else {"viewport": DESKTOP}))
    page = context.new_page()
    faults = []

    def look(name):
        page.screenshot(path=tmp_path / f"{device}-{name}.png")
        if name not in ("welcome", "practice") if device == "desktop" else name in ("instructions", "feedback", "chosen"):
            found = Axe().run(page).response["violations"]
            faults.extend((name, f["id"], f["impact"]) for f in found if f["impact"] in ("serious", "critical"))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"

    page.goto(study["page"])
    look("welcome")
    press(page, "Tab", "Enter")
    look("welcome-error")
    page.fill("#reader", device)
    page.check("#consent")
    press(page, "Enter")
    look("instructions")
    press(page, "Enter")
    look("practice")
    press(page, "s", "4", "c", "Enter")
    look("feedback")
    press(page, "Enter")
    for _ in range(3):
        press(page, "r", "2", "Enter", "Enter")
    look("ready")
    press(page, "Enter", "Enter")
    look("missing")
    press(page, "r", "3", "h")
    look("chosen")
    if device == "tablet":
        box = page.locator("button.main").bounding_box()
        assert box["y"] + box["height"] <= TABLET["height"], "an image and all questions fit on an upright tablet"
    press(page, "?")
    look("help")
    press(page, "Escape", "p")
    look("pause")
    press(page, "Enter")
    for _ in range(44):
        press(page, "r", "3", "Enter")
    look("finished")
    page.get_by_role("button", name="Remove my answers").click()
    look("forget")
    assert faults == []
    context.close()


def test_a_study_of_200_images_opens_within_a_second(context, tmp_path):
    study = write_study(tmp_path, test=300, samples=130, size=96, full_size=8)
    make_reader_study(**study | {"images": 200, "blocks": 10, "repeats": 20, "training": 8})
    page = context.new_page()
    seconds = []
    for _ in range(3):
        page.goto(f"file://{study['page_html']}")
        seconds.append(
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()") / 1e3
        )
        assert heading(page) == "Real or synthetic?"
    assert min(seconds) < 1, seconds


def test_what_the_page_saves_is_what_the_analysis_reads(context, study, tmp_path):
    def session():
        with page.expect_download() as download:
            press(page, "d" if heading(page).startswith("Image") else "Enter")
        download.value.save_as(tmp_path / "answers.csv")
        return read_sessions([tmp_path / "answers.csv"], study["key"], simulated=False)[0]

    page = sign_in(context, study, "Reader.A-1")
    train(page)
    press(page, "m")
    page.keyboard.type('"odd", they said')
    press(page, "Enter", *["s", "4", "Enter"] * 10)
    half = session()
    assert (half.reader.lower(), len(half.answers), half.missing) == ("reader.a-1", 10, 34)
    press(page, *["r", "2", "Enter"] * 34)
    whole = session()
    assert (len(whole.answers), whole.missing) == (44, 0)
    assert [(a.synthetic, a.confidence) for a in whole.answers] == [(True, 4)] * 10 + [(False, 2)] * 34
    row = analyse(study["key"], [whole], margin=0.1, draws=10, seed=0)["readers"][0]
    assert row["sensitivity"]["answers"] == row["specificity"]["answers"] == 20
    assert row["sensitivity"]["hits"] + 20 - row["specificity"]["hits"] == 10
