"""The report in a real browser: it loads nothing, fits every screen, reads without a program, and prints whole."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from report_files import ARMS, arm, write_judged_study, write_parts_on_request

from histoprompt.report.parts import files_on_request
from histoprompt.report.write import write_report

SCREENS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}
HOSTILE = "<script>document.title='taken'</script><img src=https://example.org/x.png>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with every part, whose strings would rather be markup."""
    folder = tmp_path_factory.mktemp("study")
    arms = ARMS | {"label": arm("label", "label", title=HOSTILE)}
    arguments = write_judged_study(folder, arms=arms, classes=("healthy", HOSTILE, "a-very-long-class-name-" * 4))
    write_parts_on_request(folder)
    found = files_on_request(folder, "tiny", ["guidance"])
    write_report(folder, folder / "report.html", folder / "figures/losses.png", **arguments | {"on_request": found})
    return folder / "report.html"


@pytest.fixture
def opened(browser, report, request):
    """The page on a screen, with all it asked for and complained of."""
    context = browser.new_context(viewport=SCREENS[getattr(request, "param", "desktop")])
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"file://{report}")
    yield page
    context.close()


@pytest.mark.parametrize("opened", SCREENS, indirect=True)
def test_it_loads_nothing_fits_the_screen_and_has_no_fault(opened, tmp_path):
    for part in opened.locator("details").all():
        part.locator("summary").click()
    opened.screenshot(path=tmp_path / "page.png", full_page=True)
    assert [url for url in opened.asked if not url.startswith("data:")] == [opened.url]
    assert opened.complaints == [] and opened.title() == "Study tiny: report"
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    found = Axe().run(opened).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")] == []


def test_it_reads_without_a_program(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{report}")
    assert "morphology beats label in FD-resnet matched" in page.locator(".findings").inner_text()
    page.get_by_role("link", name="Limits").click()
    assert page.url.endswith("#limits") and page.get_by_role("heading", name="Limits").is_visible()
    page.locator("summary").first.click()
    assert page.locator("details[open] li").first.is_visible()
    context.close()


def test_the_keyboard_reaches_the_content_and_wide_tables(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "To the content"
    opened.keyboard.press("Enter")
    assert opened.url.endswith("#main")
    opened.set_viewport_size(SCREENS["phone"])
    table = opened.get_by_role("group", name="table of arms")
    table.focus()
    opened.keyboard.press("ArrowRight")
    for _ in range(100):  # the page's policy forbids what `wait_for_function` evaluates
        if scrolled := opened.evaluate("document.activeElement.scrollLeft"):
            break
        opened.wait_for_timeout(50)
    assert scrolled > 0


def test_what_is_folded_away_is_printed(opened):
    opened.emulate_media(media="print")
    assert opened.locator("details:not([open]) table").first.bounding_box()["height"] > 0
    assert not opened.locator("nav").is_visible()
