"""The page of a key in a real browser: it opens alone, its numbers are those of `--json`, and its parts work."""

import json
import sys

import numpy as np
import pytest

import summer_prep
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.options import finite
from summer_prep.show.facts import describe_key, describe_unit
from summer_prep.show.page import write_key_page
from summer_prep.show.web import check_page
from tests.browsers import findings
from tests.conftest import error_line

pytest.importorskip("bokeh", reason="pages need: pip install bokeh")


@pytest.fixture(scope="module")
def description(demo_cache):
    return describe(key_path(demo_cache, "14", 80))


@pytest.fixture(scope="module")
def page_file(description, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    write_key_page(description, page, 10)
    return page


@pytest.fixture
def opened(open_page, page_file):
    return lambda width=1280, scheme="light": open_page(page_file, width, scheme)


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
        page.evaluate("window.summer.model('film').setv({start: 2, end: 3})")
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
        page.mouse.wheel(0, 200)
        page.wait_for_function("window.scrollY > 0")  # without Ctrl the wheel moves the page
        assert page.evaluate("document.body.dataset.columns") == before
        page.evaluate("window.scrollTo(0, 0)")
        page.keyboard.down("Control")
        for _ in range(5):
            page.mouse.wheel(0, -300)
        page.wait_for_function(f"document.body.dataset.columns !== '{before}'")
        assert heat_map(page)["to"] - heat_map(page)["from"] < 9
        page.mouse.move(picture["x"] + picture["width"] * 0.9, picture["y"] + 100)
        for _ in range(30):
            page.mouse.wheel(0, 300)
        page.wait_for_function(f"document.body.dataset.columns === '{before}'")  # and all the way back
        for _ in range(5):
            page.mouse.wheel(0, -300)
        page.keyboard.up("Control")
        page.wait_for_function(f"document.body.dataset.columns !== '{before}'")
        assert heat_map(page)["to"] - heat_map(page)["from"] < 9


def test_units_are_filtered_sorted_and_chosen(opened, description):
    units = description.attributes["units"]
    with opened() as page:
        region = units["brain_region"][0]
        page.select_option("#region", label=region)
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
            for text, name in zip(row[1:], ("on_hz", "off_hz", "ratio"), strict=True):
                assert text == "-" if np.isnan(one[name]) else float(text) == pytest.approx(one[name], abs=0.0052)
        chosen = page.evaluate("Bokeh.documents[0].get_model_by_name('rates').data.unit")
        assert np.nanmean(np.array(chosen, float)) == pytest.approx(facts["rate_hz"], rel=0.05)


def test_units_are_sorted_by_their_rates_of_a_label(opened, description):
    with opened() as page:
        page.select_option("#label", label="summer")
        page.click("#units thead button >> text=ratio")
        page.click("#units thead button >> text=ratio")  # highest first
        first = page.locator("#units tbody tr:visible").first
        unit = int(first.get_attribute("data-unit"))
        shown = first.locator("td").all_text_contents()[-3:]
        page.select_option("#label", "")
        assert page.locator("#units tbody tr").first.locator("td").count() == 5
    facts = [describe_unit(description, number) for number in range(10)]
    of_label = [next(one for one in unit["labels"] if one["label"] == "summer") for unit in facts]
    assert unit == int(np.nanargmax([one["ratio"] for one in of_label]))
    expected = [of_label[unit][name] for name in ("on_hz", "off_hz", "ratio")]
    assert [float(text) for text in shown] == pytest.approx(expected, abs=0.0052)


def test_a_click_in_the_counts_chooses_the_unit_of_the_row(opened, description):
    order = np.argsort(np.array(description.attributes["units"]["brain_region"]), kind="stable")
    with opened() as page:
        page.evaluate("window.summer.choose_row(2.7)")
        assert page.locator("#unit-title").text_content().startswith(f"Unit {order[2]} (")
        page.evaluate("window.summer.choose_row(99)")  # below the last
        assert page.locator("#unit-title").text_content().startswith(f"Unit {order[2]} (")
        picture = page.locator(".bk-Figure").first.bounding_box()
        page.mouse.click(picture["x"] + picture["width"] / 2, picture["y"] + picture["height"] / 2)
        page.wait_for_function(f"!document.getElementById('unit-title').textContent.startsWith('Unit {order[2]} (')")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(width, scheme, opened):
    with opened(width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("Bokeh.documents[0].roots()[0].children[0].background_fill_color")
        assert (paper == "#161616") == (scheme == "dark")


def test_nobody_is_left_out_of_the_page(opened):
    with opened() as page:
        page.click("#units tbody tr button")
        assert findings(page) == []


def test_arrow_keys_move_through_the_film(opened):
    def view(page):
        return page.evaluate("(({start, end}) => [start, end])(window.summer.model('film'))")

    with opened() as page:
        start, end = view(page)
        page.focus("#film")
        page.keyboard.press("ArrowUp")
        near = view(page)
        assert near[1] - near[0] == pytest.approx((end - start) / 2)
        page.keyboard.press("ArrowRight")
        assert view(page)[0] - near[0] == pytest.approx((end - start) / 10)
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        assert view(page)[1] == pytest.approx(end)  # and no farther
        page.keyboard.press("Home")
        assert view(page) == pytest.approx([start, end])


def test_text_of_files_is_no_markup(open_page, description, tmp_path, monkeypatch):
    odd = "</script><script>document.title = 'caught'</script><b>"
    attributes = {**description.attributes, "notes": [odd]}
    regions = [odd, "$$\\frac{a}{b}$$", "A  B ", *[""] * 7]
    attributes["units"] = {**attributes["units"], "brain_region": regions}
    attributes["label_names"] = [odd, "x" * 800, *["same"] * 2, *attributes["label_names"][4:]]
    write_key_page(
        type(description)(key=description.key, attributes=attributes, identity=None), tmp_path / "odd.html", 10
    )
    with open_page(tmp_path / "odd.html") as page:
        assert "Patient 14" in page.title()
        assert page.locator("li").last.text_content() == odd
        assert page.locator("#units tbody td").first.text_content() == odd
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        assert page.locator("mjx-container").count() == 0  # no formula
        for region, n_units in (("A  B ", 1), ("", 7)):
            page.select_option("#region", str(sorted(set(regions)).index(region)))
            assert page.locator("#n-shown").text_content() == f"{n_units} of 10 units"


def test_a_film_of_one_bin_has_a_page(demo_dir, tmp_path, open_page):
    summer_prep.build(data_dir=demo_dir, cache_dir=tmp_path, patient_ids=14, bin_length=360_000, workers=0)
    description = describe(key_path(tmp_path, "14", 360_000))
    assert description.attributes["n_bins"] == 1
    write_key_page(description, tmp_path / "one.html", None)
    with open_page(tmp_path / "one.html") as page:
        assert heat_map(page)["shape"] == [10, 1]


def test_the_command_writes_a_page_or_one_line(run, demo_cache, tmp_path):
    common = ("summer_prep", "inspect", "14", "--cache-dir", demo_cache, "--bin-length", "80", "--html")
    written = run(*common, tmp_path / "new" / "page.html", "--fold-layout", "10")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "new" / "page.html").stat().st_size > 1e6
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    (tmp_path / "new" / "folder.html").mkdir()
    assert "cannot be written (Is a directory)" in error_line(run(*common, tmp_path / "new" / "folder.html"))
    assert "name a file that ends in .html" in error_line(run(*common, tmp_path / "page"))
    assert not list((tmp_path / "new").glob(".*"))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_line(run(*common, tmp_path / "file" / "page.html", "--fold-layout", "10"))
    assert "--fold-layout 500: --buffer 500 leaves no segment" in error_line(
        run(*common, tmp_path / "x.html", "--fold-layout", "500")
    )
    assert "Name it: summer-prep inspect PATIENT --html" in error_line(run(*common[:2], *common[3:], tmp_path / "x"))


def test_a_film_that_is_too_short_for_the_usual_buffer_has_no_folds(description, tmp_path, open_page, monkeypatch):
    for buffer_s, n_figures in ((32.0, 4), (500.0, 3)):
        monkeypatch.setattr("summer_prep.show.page.DEFAULT_BUFFER_S", buffer_s)
        write_key_page(description, tmp_path / "page.html")
        with open_page(tmp_path / "page.html") as page:
            assert page.locator(".bk-Figure").count() == n_figures


def test_missing_bokeh_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(SettingsError, match=r"--html .*pip install bokeh"):
        check_page(tmp_path / "page.html")
