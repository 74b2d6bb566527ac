"""Responses of single units to the onsets of a label: onsets, the test against a plain loop, and the command."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kstest

import summer_prep
from summer_prep.cache.keys import open_cache
from summer_prep.cache.targets import add_target
from summer_prep.errors import SettingsError
from summer_prep.film.responses import MIN_SHIFT, SHIFT_STEP, false_discovery_rates, find_onsets, responses_to
from summer_prep.show.page import write_key_page
from tests.browsers import findings

SECOND = 50  # bins


@pytest.mark.parametrize(
    ("label", "onsets"),
    [
        ([0] * 50 + [1, 1], [50]),
        ([0] * 49 + [1, 1], []),
        ([1] * 3 + [0] * 60 + [1] * 3 + [0] * 49 + [1] + [0] * 50 + [1], [63, 166]),
        ([0] * 49 + [99, 1], []),
        ([0] * 60 + [99, 1], []),
        ([99] * 5 + [0] * 50 + [1], [55]),
        ([0] * 80, []),
    ],
    ids=["a second off", "less", "only after a second", "undefined", "just undefined", "undefined before", "never"],
)
def test_an_onset_comes_after_a_second_off(label, onsets):
    assert find_onsets(np.array(label, dtype=np.uint8)).tolist() == onsets


def simulated(seed, n_bins=12_000, n_units=5, n_onsets=12):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.uniform(0.001, 0.3, n_units), (n_bins, n_units)).astype(np.uint8)
    is_broken = np.zeros(n_bins, dtype=bool)
    is_broken[[3000, 7000, 7001]] = True
    onsets = np.sort(generator.choice(np.arange(60, n_bins, 70), n_onsets, replace=False))
    return np.append(onsets, 7040), counts, generator.uniform(0.019, 0.022, n_bins), is_broken


@pytest.mark.parametrize("n_shifts", [30, 10_000])
def test_rates_errors_and_p_are_those_of_a_plain_loop(n_shifts):
    onsets, counts, recorded_s, is_broken = simulated(1)
    n_bins = len(counts)
    found = responses_to(onsets, counts, recorded_s, is_broken, n_shifts, np.random.default_rng(3))

    circle = [b for b in range(SECOND, n_bins - SECOND + 1) if not is_broken[b - SECOND : b + SECOND].any()]
    places = [circle.index(onset) for onset in onsets if onset in circle]
    shifts = np.arange(MIN_SHIFT, len(circle) - MIN_SHIFT + 1, SHIFT_STEP)
    if n_shifts < len(shifts):
        shifts = np.random.default_rng(3).choice(shifts, n_shifts, replace=False)
    for of_unit, p in zip(counts.T.astype(int), found.p, strict=True):

        def distance(shift, of_unit=of_unit):
            moved = [circle[(place + shift) % len(circle)] for place in places]
            changes = np.array([of_unit[b : b + SECOND].sum() - of_unit[b - SECOND : b].sum() for b in moved])
            error = changes.std(ddof=1) / np.sqrt(len(changes))
            return abs(changes.mean()) / error if error else np.inf * abs(changes.mean()) if changes.any() else 0

        as_far = sum(distance(shift) >= distance(0) - 1e-9 for shift in shifts)
        assert p == pytest.approx((as_far + 1) / (len(shifts) + 1))
    step = [[counts[circle[p] + 10 : circle[p] + 15].sum(axis=0) for p in places]]
    seconds = np.mean([recorded_s[circle[p] + 10 : circle[p] + 15].sum() for p in places])
    assert found.rates_hz[:, 12] == pytest.approx(np.mean(step[0], axis=0) / seconds)
    assert found.errors_hz[:, 12] == pytest.approx(np.std(step[0], axis=0, ddof=1) / len(places) ** 0.5 / seconds)
    assert (found.n_onsets, found.n_left_out) == (len(places), len(onsets) - len(places))
    assert found.n_left_out >= 1
    assert found.n_shifts == len(shifts)


def test_silent_units_do_not_respond_and_one_onset_is_too_few():
    onsets, counts, recorded_s, is_broken = simulated(0)
    counts[:, 2] = 0
    generator = np.random.default_rng(0)
    assert responses_to(onsets, counts, recorded_s, is_broken, 20, generator).p[2] == 1
    with pytest.raises(SettingsError, match=r"1 of 2 onsets have .* without a pause, and at least 2 are needed"):
        responses_to(np.array([100, 7010]), counts, recorded_s, is_broken, 20, generator)


def test_false_discovery_rates_are_those_of_scipy():
    p = np.random.default_rng(0).uniform(size=200) ** 3
    p[50:60] = p[50]
    for some in (p, p[:1], np.ones(4)):
        assert false_discovery_rates(some) == pytest.approx(false_discovery_control(some))


@pytest.mark.parametrize("course", ["drift", "silences", "lost"])
def test_units_that_ignore_the_label_do_not_respond_whatever_the_course_of_their_rates(course):
    generator, n_bins, n_units = np.random.default_rng(5), 60_000, 200  # tests/soak/responses.py has more of them
    rates, time = np.full((n_bins, n_units), 0.2), np.arange(n_bins)
    if course == "drift":
        knots = np.linspace(0, n_bins, 60)
        rates *= np.exp([np.interp(time, knots, generator.normal(0, 1, 60)) for _ in range(n_units)]).T
    if course == "silences":
        for unit, start in enumerate(generator.integers(0, n_bins, n_units)):
            rates[start : start + 10_000, unit] = 0
    if course == "lost":
        rates[: n_bins // 2, ::2] *= 0.1
    onsets = n_bins // 2 + np.sort(generator.choice(190, 50, replace=False)) * 150
    seconds, never = np.full(n_bins, 0.02), np.zeros(n_bins, dtype=bool)
    p = responses_to(onsets, generator.poisson(rates), seconds, never, 500, generator).p
    assert kstest(p, "uniform").pvalue > 0.001
    assert (p <= 0.05).mean() < 0.09


@pytest.fixture(scope="module")
def tuned_to_onsets(tmp_path_factory):
    """Recordings in which `summer` comes on about 50 times, and their cache."""
    folder = tmp_path_factory.mktemp("onsets")
    summer_prep.demo_data(folder / "recordings", patients=2, units=50, minutes=48)
    summer_prep.build(data_dir=folder / "recordings", cache_dir=folder / "cache", bin_length=20, workers=0)
    add_target(folder / "recordings" / "events.tsv", name="events", cache_dir=folder / "cache")
    return folder


def test_tuned_units_of_demo_recordings_are_found(tuned_to_onsets):
    facts = summer_prep.responses("summer", cache_dir=tuned_to_onsets / "cache")
    truth = json.loads((tuned_to_onsets / "recordings" / "truth.json").read_text())
    tuned = {
        (patient_id, one["unit"]) for patient_id in ("14", "20") for one in truth[patient_id]["tuned_units"]
        if one["label_name"] == "summer"
    }  # fmt: skip
    found = {(one["patient_id"], one["unit"]): one for one in facts["units"] if one["q"] <= 0.05}
    assert all(40 <= one["n_onsets"] <= 55 for one in facts["patients"])
    assert len(tuned & set(found)) >= 0.8 * len(tuned)
    assert len(set(found) - tuned) <= 1
    assert all(found[unit]["change_hz"] > 0 for unit in tuned & set(found))
    *regions, whole = facts["regions"]
    assert (whole["region"], whole["n_units"], whole["n_responsive"]) == ("all", 100, len(found))
    assert sum(one["n_up"] + one["n_down"] for one in regions) == len(found)
    nothing = summer_prep.responses("tom", cache_dir=tuned_to_onsets / "cache", shifts=200)
    assert nothing["regions"][-1]["n_responsive"] <= 1
    assert nothing["n_needed"] == 10  # p of 1/201 for 100 units


def test_own_labels_expressions_and_shorter_bins_give_the_same_numbers(tuned_to_onsets, tmp_path):
    cache = tuned_to_onsets / "cache"
    options = {"cache_dir": cache, "patient_ids": 14, "shifts": 50}
    office = summer_prep.responses("office", **options)
    assert summer_prep.responses("at-work", **options)["units"] == office["units"]
    assert summer_prep.responses("!(!office)", **options)["units"] == office["units"]
    build = {"data_dir": tuned_to_onsets / "recordings", "cache_dir": tmp_path, "patient_ids": 14, "workers": 0}
    summer_prep.build(**build, bin_length=[10, 80])
    shorter = summer_prep.responses("office", **{**options, "cache_dir": tmp_path, "bin_length": 10})
    for one, other in zip(shorter["units"], office["units"], strict=True):
        assert one["p"] == other["p"]
        assert one["rates_hz"] == pytest.approx(other["rates_hz"], rel=1e-5)


def test_the_command_prints_regions_and_writes_units_and_a_picture(tuned_to_onsets, ask, tmp_path):
    files = ["--csv", tmp_path / "new" / "units.csv", "--picture", tmp_path / "summer.png"]
    code, out, _ = ask("responses", "summer", "--cache-dir", tuned_to_onsets / "cache", "--published", *files)
    assert code == 0
    lines = [line.split("\t") for line in out.splitlines()]
    assert ["region", "units", "responsive", "%", "up", "down"] in lines
    assert ["camera-cuts", "195", "PHC", "ZETA, real film, 2,286 units"] in lines
    rows = list(csv.DictReader((tmp_path / "new" / "units.csv").read_text().splitlines()))
    assert list(rows[0]) == ["patient_id", "unit", "brain_region", "before_hz", "after_hz", "change_hz", "p", "q"]
    assert len(rows) == 100
    assert (tmp_path / "summer.png").stat().st_size > 10_000
    code, out, _ = ask("responses", "summer", "--cache-dir", tuned_to_onsets / "cache", "--shifts", "20", "--json")
    facts = json.loads(out)
    assert (facts["n_shifts"], len(facts["units"][0]["rates_hz"]), "published" in facts) == (20, 20, False)


def test_the_page_sorts_units_fits_the_screen_and_leaves_nobody_out(tuned_to_onsets, ask, open_page, tmp_path):
    page_file, cache = tmp_path / "summer.html", tuned_to_onsets / "cache"
    options = ("--cache-dir", cache, "--shifts", 50, "--published", "--html", page_file)
    assert ask("responses", "!(!summer)", *options)[0] == 0
    facts = summer_prep.responses("summer", cache_dir=cache, shifts=50)
    with open_page(page_file, 390, "dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert findings(page) == []
    with open_page(page_file) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        assert page.locator("h1").text_content() == "Responses to !(!summer)"
        rows = [text.split("\t")[:3] for text in page.locator("#regions tbody tr").all_inner_texts()]
        of_regions = [[one[name] for name in ("region", "n_units", "n_responsive")] for one in facts["regions"]]
        assert rows == [list(map(str, one)) for one in of_regions]
        assert page.locator("#published tbody tr").count() == 3
        page.click("#units button:text-is('p')")
        shown = [float(text) for text in page.locator("#units tbody td:nth-child(7)").all_text_contents()]
        assert shown == sorted(float(f"{one['p']:.2g}") for one in facts["units"])
        assert page.evaluate("document.images[0].naturalWidth") > 500


def test_the_page_of_a_patient_has_the_same_rates_around_onsets(tuned_to_onsets, open_page, tmp_path):
    pytest.importorskip("bokeh", reason="pages need: pip install bokeh")
    key = open_cache(tuned_to_onsets / "cache").describe("14", 20)
    write_key_page(key, tmp_path / "14.html")
    facts = summer_prep.responses("office", cache_dir=tuned_to_onsets / "cache", patient_ids=14, shifts=1)
    with open_page(tmp_path / "14.html") as page:
        page.select_option("#label", label="office")
        for unit in (3, 17):
            page.click(f"#units tbody tr[data-unit='{unit}'] button")
            drawn = {name: np.array(page.evaluate(f"summer.model('response').data.{name}")) for name in ("rate", "low")}
            assert drawn["rate"] == pytest.approx(np.array(facts["units"][unit]["rates_hz"]))
            errors_hz = np.array(facts["units"][unit]["errors_hz"])
            assert drawn["rate"] - drawn["low"] == pytest.approx(1.96 * errors_hz)
        n_onsets = facts["patients"][0]["n_onsets"]
        assert f"office: mean rate around {n_onsets} onsets" in page.locator("#response-title").text_content()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            "summer --cache-dir {coarse}",
            "need bins of 20, 10 or 5 ms, and patient 8 14 20 29 has none. Build",
        ),
        ("summer --cache-dir {coarse}", "summer-prep build --bin-length 20 --patient-ids 8 14 20 29 --cache-dir"),
        ("summer --cache-dir {fine} --bin-length 5", "patient 14 20 has none of --bin-length 5. Build"),
        ("summer --cache-dir {fine} --patient-ids 3", "no key of patient 3"),
        ("sumer --cache-dir {fine}", "no label 'sumer' of patient 14; found are"),
        ("summer&!summer --cache-dir {fine}", "0 of 0 onsets"),
        ("summer --cache-dir {fine} --html {fine}/page", "name a file that ends in .html"),
        ("summer --cache-dir {fine} --csv {fine}/sub-14/bin-20ms.zarr/zarr.json/a.csv", "is a file"),
        ("summer --cache-dir {fine} --csv {fine}", "is no file that can be replaced"),
    ],
)
def test_what_cannot_be_answered_is_one_line(arguments, problem, tuned_to_onsets, demo_cache, ask):
    places = {"coarse": demo_cache, "fine": tuned_to_onsets / "cache"}
    code, _, error = ask("responses", *(word.format(**places) for word in arguments.split()))
    assert code == 1
    assert problem in error
    assert error.count("\n") == 1
