"""The page of a key in a real browser: it opens alone, its numbers are those of `--json`, and its parts work."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import summer_prep
from summer_prep import cli
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.options import finite
from summer_prep.show.facts import describe_key, describe_unit, features_of
from summer_prep.show.page import write_key_page
from tests.browsers import findings, opened

pytest.importorskip("bokeh", reason="pages need: pip install bokeh")
pytestmark = pytest.mark.xdist_group("page of a key")  # one process opens it


@pytest.fixture(scope="module")
def description(demo_cache):
    return describe(key_path(demo_cache, "14", 80))


@pytest.fixture(scope="module")
def shared_page(browser, description, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_key_page(description, file, 10)
    with opened(browser, file) as page:
        yield page


@pytest.fixture
def page(shared_page):
    """The page of patient 14, on which the whole film is in view and nothing is filtered."""
    shared_page.evaluate("window.scrollTo(0, 0)")
    shared_page.press("#film", "Home")
    for name in ("region", "type", "label"):
        shared_page.select_option(f"#{name}", "")
    return shared_page


@pytest.fixture(scope="module")
def order(description):
    """The unit of each row of the counts."""
    return np.argsort(np.array(description.attributes["units"]["brain_region"]), kind="stable")


def heat_map(page):
    """Return the picture of counts as the browser drew it, (n_units, n_columns), and where it begins and ends (min)."""
    values, shape, start, width = page.evaluate(
        "(({image: [image], x, dw}) => [[...image], image.shape, x[0], dw[0]])(window.summer.model('heat').data)"
    )
    return np.array(values).reshape(shape), start, start + width


def view(page):
    return page.evaluate("(({start, end}) => [start, end])(window.summer.model('film'))")


def test_the_page_says_what_json_says(page, description):
    facts = finite(describe_key(description))
    assert "Patient 14" in page.title()
    shown = json.loads(page.locator("#facts").text_content())
    assert {name: shown[name] for name in facts} == facts
    page.click("#units thead button >> text=unit")
    rows = page.evaluate("[...document.querySelectorAll('#units tbody tr')].map(row => row.innerText.split(/\\s+/))")
    for row, unit in zip(rows, facts["units"], strict=True):
        assert row[:4] == [str(unit["unit"]), unit["brain_region"], unit["cell_type"], str(unit["spikes"])]
        assert row[4:6] == ["-" if unit[name] is None else f"{unit[name]:.2f}" for name in ("rate_hz", "fano_factor")]


def test_zoom_samples_the_counts_anew(page, description, order):
    counts, recorded_s = (read_array(description.folder, name) for name in ("spike_counts", "recorded_s"))
    start_min = heat_map(page)[1]
    for first_min, n_bins in ((start_min, len(counts)), (2, 750)):
        page.evaluate(
            f"window.summer.model('film').setv({{start: {first_min}, end: {first_min + n_bins * 0.08 / 60}}})"
        )
        page.wait_for_function(f"document.body.dataset.columns.endsWith(' x {-(-n_bins // 1000)}')")
        drawn, left, right = heat_map(page)
        per_column = -(-n_bins // 1000)
        assert [left, right] == pytest.approx([first_min, first_min + n_bins * 0.08 / 60], abs=per_column * 0.08 / 60)
        first = round((left - start_min) * 60 / 0.08)
        for column in (0, drawn.shape[1] // 2):
            bins = slice(first + column * per_column, first + (column + 1) * per_column)
            rates_hz = counts[bins][:, order].sum(axis=0) / recorded_s[bins].sum(dtype=float)
            np.testing.assert_allclose(drawn[:, column], np.log2(1 + rates_hz), atol=1e-5)


def test_the_wheel_zooms_all_pictures_together(page):
    def turn_until(by, condition):
        for _ in range(30 if by > 0 else 5):
            page.mouse.wheel(0, by)
        page.wait_for_function(condition)

    whole = page.evaluate("document.body.dataset.columns")
    picture = page.locator("#film .bk-Figure").nth(1).bounding_box()  # of the rate, which moves the counts, too
    page.mouse.move(picture["x"] + picture["width"] / 2, picture["y"] + 100)
    page.keyboard.down("Control")
    turn_until(-300, f"document.body.dataset.columns !== '{whole}'")
    assert heat_map(page)[2] - heat_map(page)[1] < 9
    page.mouse.move(picture["x"] + picture["width"] * 0.9, picture["y"] + 100)
    turn_until(300, f"document.body.dataset.columns === '{whole}'")  # and all the way back
    page.keyboard.up("Control")
    turn_until(200, "window.scrollY > 0")  # without Ctrl the wheel moves the page
    assert page.evaluate("document.body.dataset.columns") == whole


def test_arrow_keys_move_through_the_film(page):
    start, end = view(page)
    page.press("#film", "ArrowUp")
    near = view(page)
    assert near[1] - near[0] == pytest.approx((end - start) / 2)
    page.press("#film", "ArrowRight")
    assert view(page)[0] - near[0] == pytest.approx((end - start) / 10)
    for _ in range(9):
        page.press("#film", "ArrowRight")
    assert view(page)[1] == pytest.approx(end)  # and no farther
    page.press("#film", "Home")
    assert view(page) == pytest.approx([start, end])


def test_units_are_filtered_sorted_and_chosen(page, description):
    regions = description.attributes["units"]["brain_region"]
    n_units = regions.count(regions[0])
    page.select_option("#region", label=regions[0])
    assert page.locator("#units tbody tr:visible").count() == n_units
    assert page.locator("#n-shown").text_content() == f"{n_units} of 10 units"
    page.select_option("#region", "")
    for direction in (1, -1):
        page.click("#units thead button >> text=rate (Hz)")
        rates = [float(text) for text in page.locator("#units tbody tr td:nth-child(5)").all_text_contents()]
        assert rates == sorted(rates)[::direction]
    page.press("#units tbody tr[data-unit='3'] button", "Enter")
    assert "Unit 3 (" in page.locator("#unit-title").text_content()
    facts = describe_unit(description, 3)
    rows = np.reshape(page.locator("#by-label tbody td").all_text_contents(), (-1, 4))
    names, *expected = zip(*(one.values() for one in facts["labels"]), strict=True)
    assert rows[:, 0].tolist() == list(names)
    shown = np.where(rows[:, 1:] == "-", "nan", rows[:, 1:]).astype(float)
    np.testing.assert_allclose(shown.T, expected, atol=0.0052)
    chosen = page.evaluate("window.summer.model('rates').data.unit")
    assert np.nanmean(np.array(chosen, float)) == pytest.approx(facts["rate_hz"], rel=0.05)


def test_units_are_sorted_by_their_rates_of_a_label(page, description):
    page.select_option("#label", label="summer")
    for _ in range(2):  # highest first
        page.click("#units thead button >> text=ratio")
    first = page.locator("#units tbody tr:visible").first
    unit, shown = int(first.get_attribute("data-unit")), first.locator("td").all_text_contents()[-3:]
    page.select_option("#label", "")
    assert page.locator("#units tbody tr").first.locator("td").count() == 5
    row = description.attributes["label_names"].index("summer")
    rates = [describe_unit(description, number)["labels"][row] for number in range(10)]
    assert unit == int(np.nanargmax([one["ratio"] for one in rates]))
    expected = [rates[unit][name] for name in ("on_hz", "off_hz", "ratio")]
    assert [float(text) for text in shown] == pytest.approx(expected, abs=0.0052)


def test_bins_of_80_ms_have_rates_around_onsets_in_steps_of_a_bin(page, description):
    counts, recorded_s = (read_array(description.folder, name) for name in ("spike_counts", "recorded_s"))
    start_ms, stop_ms = (read_array(description.folder, f"recording_{name}_ms") for name in ("start", "stop"))
    starts, names = np.append(True, start_ms[1:] != stop_ms[:-1]), description.attributes["label_names"]
    is_broken = starts | np.isnan(start_ms) | (stop_ms - start_ms - recorded_s * 1000 > 0.5)
    for name in ("summer", "wedding-venue"):
        label = read_array(description.folder, "labels_first")[names.index(name)]
        at_onset = [
            slice(bin_ - 13, bin_ + 13) for bin_ in range(13, len(label) - 12)
            if label[bin_] == 1 and not label[bin_ - 13 : bin_].any() and not is_broken[bin_ - 13 : bin_ + 13].any()
        ]  # fmt: skip
        page.select_option("#label", label=name)
        page.click("#units tbody tr[data-unit='3'] button")
        drawn = page.evaluate("window.summer.model('response').data")
        assert f"{name}: mean rate around {len(at_onset)} onsets" in page.locator("#response-title").text_content()
        if len(at_onset) < 2:
            assert drawn["rate"] == []
            assert page.locator("#response-title").text_content().endswith(": at least 2 are needed")
            continue
        spikes, seconds = (np.array([values[bins] for bins in at_onset]) for values in (counts[:, 3], recorded_s))
        half = 1.96 * spikes.std(axis=0, ddof=1) / len(at_onset) ** 0.5
        assert drawn["x"] == pytest.approx((np.arange(-13, 13) + 0.5) * 0.08)
        assert drawn["rate"] == pytest.approx(spikes.mean(axis=0) / seconds.mean(axis=0))
        assert drawn["high"] == pytest.approx((spikes.mean(axis=0) + half) / seconds.mean(axis=0))
    page.select_option("#label", "")
    assert page.locator("#response").is_hidden()


def test_a_click_in_the_counts_chooses_the_unit_of_the_row(page, order):
    for row in (2.7, 99):  # 99 is below the last
        page.evaluate(f"window.summer.choose_row({row})")
        assert page.locator("#unit-title").text_content().startswith(f"Unit {order[2]} (")
    picture = page.locator("#film .bk-Figure").first.bounding_box()
    page.mouse.click(picture["x"] + picture["width"] / 2, picture["y"] + picture["height"] * 0.7)
    page.wait_for_function(f"!document.getElementById('unit-title').textContent.startsWith('Unit {order[2]} (')")


def test_it_fits_the_screen_in_light_and_dark_and_leaves_nobody_out(page, browser):
    page.click("#units tbody tr button")
    assert findings(page) == []
    paper_and_width = """[
        Bokeh.documents[0].roots()[0].children[0].background_fill_color, document.documentElement.scrollWidth
    ]"""
    assert page.evaluate(paper_and_width) == ["#ffffff", 1280]
    with opened(browser, Path(page.url.removeprefix("file://")), 390, "dark") as narrow:
        assert narrow.evaluate(paper_and_width) == ["#161616", 390]


def test_own_labels_and_features_are_drawn_along_the_film(own_cache, open_page, tmp_path):
    description = describe(key_path(own_cache, "14", 80))
    write_key_page(description, tmp_path / "own.html", 10)
    (_, embedding), (_, loudness) = features_of(description)
    start_s = read_array(description.folder, "bin_start_s")[0]
    z = (embedding - np.nanmean(embedding, axis=0)) / np.nanstd(embedding, axis=0)
    with open_page(tmp_path / "own.html", 390, "dark") as page:
        assert findings(page) == []
        page.select_option("#label", label="music")
        titles = page.evaluate("Bokeh.documents[0].roots()[0].children.map(one => one.title.text)")
        assert titles[3:] == ["labels (rule: first frame)", "embedding: 16 of 20 columns", "loudness: loudness"]
        names = page.evaluate(
            "[...Bokeh.documents[0].roots()[0].children[4].left[0].major_label_overrides.values()].map(one => one.text)"
        )
        assert names == [f"embedding_{number}" for number in range(16)]
        for first_min, n_bins in ((start_s / 60, len(z)), (3.3, 500)):  # the gap is in the second view
            page.evaluate(
                f"window.summer.model('film').setv({{start: {first_min}, end: {first_min + n_bins * 0.08 / 60}}})"
            )
            page.wait_for_function(f"document.body.dataset.columns.endsWith(' x {-(-n_bins // 1000)}')")
            image, shape, start = page.evaluate(
                "(({image: [image], x}) => [[...image], image.shape, x[0]])(summer.model('features embedding').data)"
            )
            line = page.evaluate("summer.model('features loudness').data.ys[0]")
            image, size = np.array(image, float).reshape(shape), -(-n_bins // 1000)
            first = round((start * 60 - start_s) / 0.08)
            starts = first + np.arange(shape[1]) * size
            runs = [slice(at, at + size) for at in starts]
            expected = np.array([z[run, :16].mean(axis=0) for run in runs]).T
            seen = ~np.isnan(expected)
            np.testing.assert_allclose(image[seen], expected[seen], atol=np.nanmax(np.abs(z)) / 127)
            assert np.isnan(image[3]).any() == (size == 1)  # else others of its column are defined
            span = np.abs(loudness - loudness.mean()).max()
            np.testing.assert_allclose(line, [loudness[run].mean() for run in runs], atol=span / 127)


def test_text_of_files_is_no_markup(open_page, description, tmp_path):
    odd = "</script><script>document.title = 'caught'</script><b>"
    regions = [odd, "$$\\frac{a}{b}$$", "A  B ", *[""] * 7]
    attributes = {
        **description.attributes,
        "notes": [odd],
        "units": {**description.attributes["units"], "brain_region": regions},
        "label_names": [odd, "x" * 800, *["same"] * 2, *description.attributes["label_names"][4:]],
    }
    write_key_page(replace(description, attributes=attributes), tmp_path / "odd.html", 10)
    with open_page(tmp_path / "odd.html") as page:
        assert "Patient 14" in page.title()
        assert page.locator("li").last.text_content() == odd
        assert page.locator("#units tbody td").first.text_content() == odd
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        assert page.locator("mjx-container").count() == 0  # no formula
        for region, n_units in (("A  B ", 1), ("", 7)):
            page.select_option("#region", str(sorted(set(regions)).index(region)))
            assert page.locator("#n-shown").text_content() == f"{n_units} of 10 units"


def test_a_film_of_one_bin_has_a_page_without_folds(demo_dir, tmp_path, open_page):
    summer_prep.build(data_dir=demo_dir, cache_dir=tmp_path, patient_ids=14, bin_length=360_000, workers=0)
    write_key_page(describe(key_path(tmp_path, "14", 360_000)), tmp_path / "one.html")
    with open_page(tmp_path / "one.html") as page:
        assert heat_map(page)[0].shape == (10, 1)
        assert page.locator("#film .bk-Figure").count() == 3
        assert "too short for the usual buffer" in page.locator("li").all_text_contents()[4]


def test_the_command_writes_a_page_or_one_line(demo_cache, tmp_path, monkeypatch):
    def inspect(page, patient="14", fold_layout=None):
        cli.inspect(patient, cache_dir=demo_cache, html=tmp_path / page, fold_layout=fold_layout)

    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for page, options, error in (
        ("folder.html", {}, "is no file that can be replaced"),
        ("file/page.html", {}, "cannot be written"),
        ("page", {}, "name a file that ends in .html"),
        ("x.html", {"fold_layout": 500.0}, "--fold-layout 500: --buffer 500 leaves no segment"),
        ("x.html", {"patient": None}, "Name it: summer-prep inspect PATIENT --html"),
    ):
        with pytest.raises(SettingsError, match=error):
            inspect(page, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]
    inspect("new/page.html")  # with the folds of the usual buffer
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    assert "blocked split, buffer 32 s" in (tmp_path / "new" / "page.html").read_text()
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(SettingsError, match=r"--html .*pip install bokeh"):
        inspect("page.html")
