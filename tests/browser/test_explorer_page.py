"""The explorer in a real browser: by keyboard, by mouse, by link, and with as many images as it shows at most."""

import re
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from explorer_files import colours, write_explored
from PIL import Image

from histoprompt.explorer.make import MOST_IMAGES, make_explorer

DESKTOP, TABLET = {"width": 1280, "height": 800}, {"width": 820, "height": 1180}
HOSTILE = '<img src=x onerror="document.title=1"> & “b”'


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The address of an explorer of three sets of 90 images; every ninth is a near copy."""
    arguments = write_explored(tmp_path_factory.mktemp("a study"), size=96, mapped=80)
    make_explorer(**arguments)
    return f"file://{arguments['page_html']}"


@pytest.fixture
def context(browser):
    """A browser profile of its own, which asks for nothing but local files and whose page never fails."""
    context = browser.new_context(viewport=DESKTOP)
    seen, errors = [], []
    context.on("request", lambda request: seen.append(request.url))
    context.on("requestfailed", lambda request: errors.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    yield context
    context.close()
    assert [
        url for url in seen if not re.match(r"file:.*/explorer/(index\.html|sheets/\w+-\d+\.webp)(#.*)?$|data:,$", url)
    ] == []
    assert errors == []


@pytest.fixture
def page(context):
    return context.new_page()


def counts(page):
    """Column -> how many images of it are shown."""
    heads = page.locator(".heads [role=columnheader]")
    return {
        head.locator("strong").inner_text(): int(head.locator("span").inner_text().split()[0].replace(",", ""))
        for head in heads.all()
    }


def painted(page, selector):
    page.wait_for_function("s => [...document.querySelectorAll(s)].every((c) => 'painted' in c.dataset)", arg=selector)
    return page.locator(selector).count()


def colour(page, selector):
    """The colour of the middle of a canvas on the screen."""
    painted(page, selector)
    page.locator(selector).first.scroll_into_view_if_needed()
    shot = Image.open(BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    return shot.getpixel((shot.width // 2, shot.height // 2))


def choose(page, name):
    page.get_by_role("radio", name=name, exact=True).check()


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_filters_by_keyboard_and_back(page, study):
    page.goto(study)
    assert counts(page) == {"real": 90, "label": 90, "morphology": 90}
    assert page.title() == "mini: every image"
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.name") != "class":
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert counts(page) == {"real": 45, "label": 45, "morphology": 45} and page.url.endswith("#class=1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "type"
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#class=1&type=0")
    assert counts(page)["label"] == counts(page)["morphology"] == 9
    assert page.locator("#told").inner_text() == f"{sum(counts(page).values())} images shown"
    labels = [link.get_attribute("aria-label") for link in page.locator("a.tile").all()]
    assert all("cancer, type 0" in label for label in labels) and len(labels) == sum(counts(page).values())
    page.go_back()
    assert page.url.endswith("#class=1") and counts(page)["label"] == 45
    assert page.locator("input[name=type]:checked").get_attribute("aria-label") == "All"
    page.go_back()
    page.go_back()
    assert counts(page)["label"] == 90
    page.go_forward()
    assert counts(page)["label"] == 45


def test_every_choice_by_mouse(page, study):
    page.goto(study)
    choose(page, "Type 2")
    asked = counts(page), [link.get_attribute("href") for link in page.locator("a.tile").all()]
    choose(page, "found in the image")
    found = counts(page), [link.get_attribute("href").replace("&by=found", "") for link in page.locator("a.tile").all()]
    assert asked[0]["real"] == found[0]["real"] and asked[0]["label"] == 18 and set(asked[1]) != set(found[1])
    for label in [link.get_attribute("aria-label") for link in page.locator("a.tile").all()]:
        assert label.endswith(("type 2", "found 2", "copy of a training patch"))
    page.get_by_label("Only near copies of training patches").check()
    assert counts(page)["real"] == 0 and 0 < counts(page)["label"] < 18
    assert page.locator(".none").inner_text() == "No image here"
    page.get_by_role("checkbox", name="label: prompts of the class").uncheck()
    assert list(counts(page)) == ["real", "morphology"]
    assert page.url.endswith("#type=2&by=found&hide=label&copies=1")
    page.reload()
    assert list(counts(page)) == ["real", "morphology"]
    page.get_by_role("button", name="Show everything").click()
    assert counts(page) == {"real": 90, "label": 90, "morphology": 90}
    wide = page.locator("a.tile").first.bounding_box()["width"]
    choose(page, "Small")
    assert page.locator("a.tile").first.bounding_box()["width"] < wide


def test_a_link_opens_its_image(page, study):
    page.goto(f"{study}#class=1&image=morphology.27")
    dialog = page.get_by_role("dialog", name="morphology, image 27")
    text = dialog.inner_text()
    for expected in (
        "“a cancer image, morphology 3”",
        "3, named by the prompt",
        "4, not the one drawn",
        "at distance 0.25 in the features of dino. 30 % of held-out patches lie nearer to theirs.",
        "counted as a near copy (below 0.50)",
        "4611686018427387959",
        "samples/morphology/0/images/000027.png",
        "row ",
    ):
        assert expected in text.replace("\u00a0", " ")
    assert painted(page, "dialog canvas") == 3
    assert dialog.get_by_role("img", name="morphology 27, a cancer image, enlarged").count() == 1
    assert (
        dialog.get_by_role("link").get_attribute("aria-label")
        == "label 27: cancer, type 3, found 4, near copy of a training patch"
    )
    page.keyboard.press("Escape")
    assert not dialog.is_visible() and page.url.endswith("#class=1") and counts(page)["label"] == 45
    page.goto(f"{study}#image=morphology.900")
    assert page.get_by_role("alert").inner_text() == "There is no image morphology.900 on this page."
    page.goto(f"{study}#type=99&class=x&image=&hide=real,label,morphology&view=other")
    assert counts(page) == {"real": 90, "label": 90, "morphology": 90}


def test_what_an_image_shows_depends_on_its_set(page, study):
    page.goto(f"{study}#image=label.4")
    assert "which the prompt does not name" in page.locator("dialog").inner_text()
    assert "Not counted as a near copy" in page.locator("dialog").inner_text()
    page.goto(f"{study}#image=real.4")
    assert painted(page, "dialog canvas") == 1
    assert "train-5 (row 5)" in page.locator("dialog").inner_text() and "Prompt" not in page.locator("dialog").inner_text()


def test_pictures_are_those_of_their_images(page, study):
    """Colours tell the images of the written study apart."""
    for name, seed in (("real", 1), ("label", 2), ("morphology", 3)):
        for number in (0, 64, 89):
            page.goto("about:blank")
            page.goto(f"{study}#image={name}.{number}")
            expected = colours(90, 1, seed)[number, 0, 0]
            assert all(abs(a - int(b)) <= 6 for a, b in zip(colour(page, "dialog canvas"), expected, strict=True))


def test_images_by_keyboard(page, study):
    page.goto(study)
    page.locator("a.tile").first.focus()
    first = focused(page)
    page.keyboard.press("ArrowRight")
    assert focused(page) != first and focused(page).split()[0] == "real"
    page.keyboard.press("End")
    assert focused(page).split()[0] == "morphology"
    page.keyboard.press("Control+End")
    page.keyboard.press("Home")
    last = focused(page)
    assert last.split()[0] == "real" and page.locator("a.tile:focus").bounding_box()["y"] < 800
    for _ in range(60):
        page.keyboard.press("ArrowUp")
    assert focused(page) == first
    page.keyboard.press("PageDown")
    assert focused(page) != first
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowDown")
    chosen = focused(page)
    page.keyboard.press("Enter")
    number = re.match(r"real (\d+)", chosen)[1]
    assert page.locator("dialog h2").inner_text() == f"real, image {number}" and page.url.endswith(f"#image=real.{number}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    turned = page.locator("dialog h2").inner_text()
    assert turned != f"real, image {number}"
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog').open")
    assert focused(page).startswith(turned.replace(", image", "")) and "image=" not in page.url
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")  # one stop for all pictures, where one was last
    assert focused(page).startswith(turned.replace(", image", ""))


def test_back_closes_an_image_and_alike_shows_its_kind(page, study):
    page.goto(study)
    page.locator("a.tile").nth(2).click()
    assert page.locator("dialog").is_visible()
    page.go_back()
    assert not page.locator("dialog").is_visible()
    page.go_forward()
    assert page.locator("dialog").is_visible()
    page.get_by_role("button", name="Close").click()
    page.wait_for_function("!document.querySelector('dialog').open")
    steps = page.evaluate("history.length")
    page.locator("a.tile").nth(3).click()
    page.locator("dialog a.tile").first.click()
    page.get_by_role("button", name="Next").click()
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog').open")
    assert page.evaluate("history.length") == steps and "image" not in page.url
    page.goto(f"{study}#image=label.27")
    page.get_by_role("button", name="Show all of this class and type").click()
    assert page.url.endswith("#class=1&type=3") and not page.locator("dialog").is_visible()


def point(page, name, number):
    """Where an image is on the map's canvas."""
    return page.evaluate(
        """([name, number]) => {
          const set = data.sets.findIndex((s) => s.name === name);
          return map.place(map.points.find((p) => p.set === set && data.sets[set].images.number[p.at] === number));
        }""",
        [name, number],
    )


def test_the_map_tells_and_opens_what_is_under_the_pointer(page, study):
    page.goto(f"{study}#view=map")
    assert (
        page.locator(".on-map .hint")
        .inner_text()
        .endswith(
            "30 of these images are not on the map, which shows at most as many of each set as the config key "
            "evaluation.map.images says."
        )
    )
    assert [item.inner_text() for item in page.locator(".legend li").all()] == [
        "real",
        "label: prompts of the class",
        "morphology",
    ]
    # The point that lies most apart, so that no other is nearer.
    name, number = page.evaluate(
        """() => {
          const apart = (p) => Math.min(...map.points.filter((q) => q !== p).map((q) => Math.hypot(q.x - p.x, q.y - p.y)));
          const p = map.points.map((p) => [apart(p), p]).sort((a, b) => b[0] - a[0])[0][1];
          return [data.sets[p.set].name, data.sets[p.set].images.number[p.at]]; }"""
    )
    x, y = point(page, name, number)
    page.locator("canvas.map").hover(position={"x": x + 3, "y": y - 2})
    assert page.locator(".tip p").inner_text().startswith(f"{name} {number}: ")
    painted(page, ".tip canvas")
    page.locator("canvas.map").click(position={"x": x + 3, "y": y - 2})
    assert page.locator("dialog h2").inner_text().endswith(f", image {number}") and page.url.endswith(f"image={name}.{number}")
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog').open")
    assert page.url.endswith("#view=map")
    page.get_by_role("button", name="Zoom in").click()
    assert point(page, name, number) != [x, y]
    page.get_by_role("button", name="Show the whole map").click()
    assert point(page, name, number) == pytest.approx([x, y])
    page.locator("canvas.map").hover(position={"x": 300, "y": 200})
    page.mouse.wheel(0, -100)
    page.wait_for_function("map.scale > 1")
    before, box = point(page, name, number), page.locator("canvas.map").bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 230, steps=4)
    page.mouse.up()
    assert point(page, name, number) == pytest.approx([before[0] + 40, before[1] + 30], abs=1)
    assert not page.locator("dialog").is_visible()  # a drag opens nothing


def test_the_map_by_keyboard(page, study):
    page.goto(f"{study}#view=map")
    page.locator("canvas.map").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#told").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#told").inner_text()
    assert first != second and page.locator(".tip p").inner_text() == second
    x = page.evaluate("map.place(map.current)[0]")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("map.place(map.current)[0]") < x
    page.keyboard.press("+")
    page.keyboard.press("ArrowUp")
    told = page.locator("#told").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("dialog h2").inner_text().split()[-1] == re.search(r" (\d+):", told)[1]


def test_the_map_shows_what_the_filters_say(page, study):
    page.goto(f"{study}#view=map")
    assert page.evaluate("map.points.length") == 240
    choose(page, "cancer")
    assert page.evaluate("map.points.every((p) => data.sets[p.set].images.label[p.at] === 1)")
    assert page.url.endswith("#view=map&class=1")
    choose(page, "Side by side")
    assert counts(page)["real"] == 45


@pytest.mark.parametrize("viewport", [DESKTOP, TABLET, {"width": 390, "height": 844}])
@pytest.mark.parametrize("place", ["", "#view=map", "#image=morphology.27"])
def test_nothing_stands_in_the_way_of_a_screen_reader(page, study, viewport, place):
    page.set_viewport_size(viewport)
    page.goto(study + place)
    painted(page, "canvas[data-picture]")
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]][:3]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_tablet_needs_no_keyboard(browser, study):
    context = browser.new_context(viewport=TABLET, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(study)
    assert not page.get_by_role("radio", name="found in the image").is_visible()
    page.get_by_text("More choices").tap()
    page.get_by_role("radio", name="found in the image").tap()
    assert page.url.endswith("#by=found")
    page.locator("a.tile").first.tap()
    assert page.locator("dialog").is_visible()
    page.get_by_role("button", name="Close").tap()
    page.wait_for_function("!document.querySelector('dialog').open")
    page.get_by_role("radio", name="Map").tap()
    page.locator("canvas.map").tap(position=dict(zip("xy", point(page, "real", 5), strict=True)))
    assert page.locator("dialog").is_visible()
    context.close()


def test_words_of_the_study_are_never_markup(page, tmp_path):
    arguments = write_explored(tmp_path, classes=(HOSTILE, "b", "c"), word=HOSTILE, arms=("label",), images=30)
    arguments |= {"titles": {"label": HOSTILE}, "study": HOSTILE, "naming": [], "own_clusters": {"label": HOSTILE}}
    make_explorer(**arguments)
    page.goto(f"file://{arguments['page_html']}#image=label.0")
    assert page.title() == f"{HOSTILE}: every image" and page.locator("img").count() == 0
    assert HOSTILE in page.locator("dialog").inner_text()
    assert "own clusters" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("h1").inner_text().startswith(HOSTILE)
    assert page.locator("input[name=class]").count() == 4


def test_a_page_without_its_pictures_says_so(browser, study, tmp_path):
    alone = tmp_path / "index.html"
    alone.write_bytes(Path(unquote(study.removeprefix("file://"))).read_bytes())
    page = browser.new_page()
    page.goto(f"file://{alone}")
    page.wait_for_function("document.querySelector('[role=alert]').textContent")
    assert "“sheets” has to stand beside this page" in page.get_by_role("alert").inner_text()
    page.close()


def test_ten_thousand_images(page, tmp_path):
    arms = ("label", "morphology", "shuffled", "pretrained")
    arguments = write_explored(tmp_path, arms=arms, images=MOST_IMAGES // 5 + 50, size=96)
    make_explorer(**arguments)
    page.goto(f"file://{arguments['page_html']}")
    assert set(counts(page).values()) == {2000}
    painted(page, "canvas[data-picture]")
    first = page.evaluate("performance.getEntriesByType('paint').at(-1).startTime")
    assert 0 < page.locator("a.tile").count() < 500  # only what is near the screen exists
    frames = page.evaluate(
        """async () => {
          const times = [];
          for (let i = 0; i < 60; i++) {
            const start = performance.now();
            scrollBy(0, 900);
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - start);
          }
          return times;
        }"""
    )
    painted(page, "canvas[data-picture]")
    assert page.locator("a.tile").count() < 1000
    times = page.evaluate(
        """() => {
          const seconds = (action) => { const start = performance.now(); action(); return performance.now() - start; };
          return [
            seconds(() => go({ label: 1, cluster: 2 })),
            seconds(() => go({ label: null, cluster: null, view: "map" })),
            seconds(() => map.paint()),
            seconds(() => map.near(500, 300, 14)),
          ];
        }"""
    )
    assert page.evaluate("map.points.length") == MOST_IMAGES
    print(f"first paint {first:.0f} ms, slowest frame of scrolling {max(frames):.0f} ms")
    print("filter {:.0f} ms, to the map {:.0f} ms, its painting {:.0f} ms, a look under the pointer {:.1f} ms".format(*times))
