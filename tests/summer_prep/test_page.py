"""The page of a key in a real browser: it opens alone, its numbers are those of `--json`, and its parts work."""

import json
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from summer_prep.errors import SettingsError
from summer_prep.key import describe, key_path
from summer_prep.page import write_page
from summer_prep.report import describe_key, describe_unit
from summer_prep.store import read_array
from summer_prep.values import finite
from tests.conftest import error_line

pytest.importorskip("bokeh", reason="pages need: pip install 'summer-pipeline[page]'")
pytestmark = pytest.mark.xdist_group("browser")  # one browser for all

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="tests of pages need: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("tests of pages need a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def description(demo_cache):
    return describe(key_path(demo_cache, "14", 80))


@pytest.fixture(scope="module")
def page_file(description, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    write_page(description, page, 10)
    return page


@pytest.fixture
def opened(browser, page_file):
    """Opens the page; at its end nothing may have been complained about or asked of a network."""

    @contextmanager
    def open_page(width=1280, scheme="light"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        page, problems = context.new_page(), []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else problems.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_function("document.body.dataset.columns")
        yield page
        assert not problems
        context.close()

    return open_page


def heat_map(page):
    """The picture of counts as the browser drew it: rows of units, and where it begins and ends (min)."""
    return page.evaluate(
        """() => {
            const data = Bokeh.documents[0].get_model_by_name("heat").data, image = data.image[0];
            return {values: [...image], shape: [...image.shape], from: data.x[0], to: data.x[0] + data.dw[0]};
        }"""
    )


def test_the_page_says_what_json_says(opened, description):
    facts = finite(describe_key(description))
    with opened() as page:
        assert "Patient 14" in page.title()
        shown = json.loads(page.locator("#facts").text_content())
        assert {name: shown[name] for name in facts} == json.loads(json.dumps(facts))
        rows = page.locator("#units tbody tr").all()
        assert len(rows) == len(facts["units"])
        for row, unit in zip(rows, facts["units"], strict=True):
            cells = row.locator("td").all_text_contents()
            assert cells[:3] == [unit["brain_region"], unit["cell_type"], str(unit["spikes"])]
            assert cells[3] == f"{unit['rate_hz']:.2f}"
            assert cells[4] == ("-" if unit["fano_factor"] is None else f"{unit['fano_factor']:.2f}")


def test_zoom_samples_the_counts_anew(opened, description):
    counts, recorded_s = (read_array(description.folder, name) for name in ("spike_counts", "recorded_s"))
    order = np.argsort(np.array(description.attributes["units"]["brain_region"]), kind="stable")

    def check(drawn, first, per_column):
        n_units, n_columns = drawn["shape"]
        for column in (0, n_columns // 2):
            bins = slice(first + column * per_column, first + (column + 1) * per_column)
            rates_hz = counts[bins][:, order].sum(axis=0) / recorded_s[bins].sum(dtype=float)
            found = np.array(drawn["values"]).reshape(n_units, n_columns)[:, column]
            np.testing.assert_allclose(found, np.log2(1 + rates_hz), atol=1e-5)

    with opened() as page:
        whole = heat_map(page)
        check(whole, 0, int(page.evaluate("document.body.dataset.columns").split(" x ")[1]))
        start_min = whole["from"]
        page.evaluate("Bokeh.documents[0].roots()[0].children[0].x_range.setv({start: 2, end: 3})")
        page.wait_for_function("document.body.dataset.columns.endsWith(' x 1')")
        near = heat_map(page)
        bin_min = (near["to"] - near["from"]) / near["shape"][1]
        check(near, round((near["from"] - start_min) / bin_min), 1)
        assert near["from"] == pytest.approx(2, abs=bin_min)
        assert near["to"] == pytest.approx(3, abs=2 * bin_min)


def test_the_wheel_zooms_all_pictures_together(opened):
    with opened() as page:
        before = page.evaluate("document.body.dataset.columns")
        picture = page.locator(".bk-Figure").nth(1).bounding_box()  # of the rate, which moves the counts, too
        page.mouse.move(picture["x"] + picture["width"] / 2, picture["y"] + 100)
        for _ in range(5):
            page.mouse.wheel(0, -300)
        page.wait_for_function(f"document.body.dataset.columns !== '{before}'")
        assert heat_map(page)["to"] - heat_map(page)["from"] < 9


def test_units_are_filtered_sorted_and_chosen(opened, description):
    units = description.attributes["units"]
    with opened() as page:
        region = units["brain_region"][0]
        page.select_option("#region", region)
        assert page.locator("#units tbody tr:visible").count() == units["brain_region"].count(region)
        assert page.locator("#n-shown").text_content() == f"{units['brain_region'].count(region)} of 10 units"
        page.select_option("#region", "")
        for order in (1, -1):
            page.click("#units thead button >> text=rate (Hz)")
            rates = [float(text) for text in page.locator("#units tbody tr td:nth-child(5)").all_text_contents()]
            assert rates == sorted(rates)[::order]
        page.focus("#units tbody tr[data-unit='3'] button")
        page.keyboard.press("Enter")
        assert "Unit 3 (" in page.locator("#unit-title").text_content()
        facts = describe_unit(description, 3)
        rows = [row.locator("td").all_text_contents() for row in page.locator("#by-label tbody tr").all()]
        assert [row[0] for row in rows] == [one["label"] for one in facts["labels"]]
        for row, one in zip(rows, facts["labels"], strict=True):
            for text, name in zip(row[1:], ("on_hz", "off_hz"), strict=True):
                assert text == "-" if np.isnan(one[name]) else float(text) == pytest.approx(one[name], abs=0.0051)
        chosen = page.evaluate("Bokeh.documents[0].get_model_by_name('rates').data.unit")
        assert np.nanmean(np.array(chosen, float)) == pytest.approx(facts["rate_hz"], rel=0.05)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(width, scheme, opened):
    with opened(width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("Bokeh.documents[0].roots()[0].children[0].background_fill_color")
        assert (paper == "#161616") == (scheme == "dark")


def test_text_of_files_is_no_markup(browser, description, tmp_path, monkeypatch):
    odd = "</script><script>document.title = 'caught'</script><b>"
    attributes = {**description.attributes, "notes": [odd]}
    attributes["units"] = {**attributes["units"], "brain_region": [odd] * 10}
    write_page(type(description)(key=description.key, attributes=attributes, identity=None), tmp_path / "odd.html", 10)
    page = browser.new_page()
    page.goto((tmp_path / "odd.html").as_uri())
    page.wait_for_function("document.body.dataset.columns")
    assert "Patient 14" in page.title()
    assert page.locator("li").last.text_content() == odd
    assert page.locator("#units tbody td").first.text_content() == odd
    page.close()


def test_the_command_writes_a_page_or_one_line(run, demo_cache, tmp_path):
    common = ("summer_prep", "inspect", "14", "--cache-dir", demo_cache, "--bin-length", "80", "--html")
    written = run(*common, tmp_path / "new" / "page.html", "--fold-layout", "10")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "new" / "page.html").stat().st_size > 1e6
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    (tmp_path / "new" / "folder").mkdir()
    assert "cannot be written (Is a directory)" in error_line(run(*common, tmp_path / "new" / "folder"))
    assert not list((tmp_path / "new").glob(".*"))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_line(run(*common, tmp_path / "file" / "page.html", "--fold-layout", "10"))
    assert "--fold-layout 500 leaves no segment" in error_line(
        run(*common, tmp_path / "x.html", "--fold-layout", "500")
    )
    assert "Name it: summer-prep inspect PATIENT --html" in error_line(run(*common[:2], *common[3:], tmp_path / "x"))


def test_missing_bokeh_is_one_line(description, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(SettingsError, match=r"--html .*pip install 'summer-pipeline\[page\]'"):
        write_page(description, tmp_path / "page.html", 10)
