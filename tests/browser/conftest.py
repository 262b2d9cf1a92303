"""Chromium, as Debian has it; nothing is downloaded."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A running browser; where there is none the tests are skipped, unless HISTOPROMPT_REQUIRE_BROWSER is set."""
    if not CHROMIUM.exists():
        reason = f"no {CHROMIUM}: install Debian's chromium to test the pages"
        if os.environ.get("HISTOPROMPT_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
