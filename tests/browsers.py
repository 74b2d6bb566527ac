"""A real browser for the tests of pages: nothing may be complained about or asked of a network."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def started_browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="tests of pages need: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("tests of pages need a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else problems.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function("document.body.dataset.columns || !document.getElementById('film')")
    yield page
    if folder := os.environ.get("SUMMER_SCREENSHOTS"):  # for people to look at
        name = os.environ.get("PYTEST_CURRENT_TEST", file.stem).split("::")[-1].split(" ")[0].replace("/", "_")
        page.screenshot(path=Path(folder) / f"{file.parent.name}-{name}.png", full_page=True)
    assert not problems
    context.close()


def findings(page: Any) -> list[str]:
    """Return what axe-core finds that keeps people out of a page."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs: pip install axe-playwright-python"
    )
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['failureSummary']}" for one in found]
