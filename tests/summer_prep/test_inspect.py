"""What `inspect` and `labels` show of patients, units, labels and folds: the numbers of the arrays themselves."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from summer_prep import cli
from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.film.splits import blocked_split, stretches
from summer_prep.options import finite
from summer_prep.show.facts import (
    describe_folds,
    describe_key,
    describe_unit,
    fano_factor,
    labels_of_cache,
    rates_by_label,
)
from summer_prep.show.picture import draw_key
from tests.keys import rewrite_key


@pytest.fixture
def description(demo_cache):
    return describe(key_path(demo_cache, "14", 80))


@pytest.fixture
def arrays(description):
    return [read_array(description.folder, name) for name in ("spike_counts", "recorded_s", "labels_first")]


def test_fano_factor_is_one_of_poisson_counts_and_undefined_of_silence():
    counts = np.random.default_rng(0).poisson(3.0, 100_000)
    assert fano_factor(counts) == pytest.approx(1, abs=0.02)
    assert fano_factor(np.full(10, 4)) == 0
    assert np.isnan(fano_factor(np.zeros(10, np.uint8)))


def test_runs_are_counted_at_both_ends():
    for values, lengths in (([1, 1, 0, 1, 0, 0, 1], [2, 1, 1]), ([0, 0, 0], []), ([1, 1, 1], [3])):
        starts, stops = stretches(np.array(values, bool))
        assert (stops - starts).tolist() == lengths


def test_a_unit_has_the_rates_of_its_counts(description, arrays):
    counts, recorded_s, labels = arrays
    facts = describe_unit(description, 3)
    assert facts["spikes"] == counts[:, 3].sum()
    assert facts["rate_hz"] == pytest.approx(counts[:, 3].sum() / recorded_s.sum(dtype=float))
    assert facts["brain_region"] == description.attributes["units"]["brain_region"][3]
    seen = counts[recorded_s > 0, 3].astype(float)
    assert facts["fano_factor"] == pytest.approx(seen.var(ddof=1) / seen.mean())
    row = description.attributes["label_names"].index("summer")
    summer = facts["labels"][row]
    for name, value in (("on_hz", 1), ("off_hz", 0)):
        bins = labels[row] == value
        assert summer[name] == pytest.approx(counts[bins, 3].sum() / recorded_s[bins].sum(dtype=float))
    assert summer["ratio"] == pytest.approx(summer["on_hz"] / summer["off_hz"])
    assert describe_key(description)["units"][3] == {name: facts[name] for name in facts if name != "labels"}
    with pytest.raises(SettingsError, match="--unit 10: .* has the units 0 to 9"):
        describe_unit(description, 10)


@pytest.mark.parametrize("bins_at_once", [7, 100, 2**14])
def test_rates_by_label_are_the_same_taken_a_few_bins_at_a_time(bins_at_once, monkeypatch):
    monkeypatch.setattr("summer_prep.show.facts._BINS_AT_ONCE", bins_at_once)
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.3, (100, 4)).astype(np.uint8)
    recorded_s = generator.uniform(0, 0.1, 100).astype(np.float32)
    labels = generator.choice([0, 1, 99], (3, 100)).astype(np.uint8)
    labels[2] = 0
    bins = [*(labels == 1), *(labels == 0)]
    expected = [counts[row].sum(axis=0) / (recorded_s[row].sum(dtype=float) or np.nan) for row in bins]
    np.testing.assert_allclose(rates_by_label(counts, recorded_s, labels).reshape(6, 4), expected, rtol=1e-12)


def test_shares_and_stretches_of_labels_are_those_of_their_arrays(description, arrays):
    of_rules = {rule: read_array(description.folder, f"labels_{rule}") for rule in ("first", "any", "majority")}
    for row, (facts, label) in enumerate(zip(describe_key(description)["labels"], arrays[2], strict=True)):
        assert all(facts[rule] == (labels[row] == 1).mean() * 100 for rule, labels in of_rules.items())
        assert facts["undefined"] == (label == 99).mean() * 100
        assert facts["n_stretches"] == (np.diff((label == 1).astype(int), prepend=0) == 1).sum()
        assert bool(facts["n_stretches"]) <= facts["longest_s"] / 0.08 <= (label == 1).sum() + 1e-9


def test_folds_leave_of_a_label_what_training_splits(description, arrays):
    facts, n_bins = describe_folds(description, 10), description.attributes["n_bins"]
    assert all(sum(sizes.values()) == n_bins for sizes in facts["n_bins"].values())
    for one, label in zip(facts["labels"], arrays[2], strict=True):
        lacking = []
        for fold in range(1, 6):
            for part, bins in vars(blocked_split(n_bins, 80, 10, fold)).items():
                defined = label[bins][label[bins] != 99]
                assert one["on"][fold][part] == pytest.approx((defined == 1).mean() * 100)
                lacking += [f"{part} {fold}"] * (len(set(defined.tolist())) < 2)
        assert one["lacks"] == lacking
    assert 0 < sum(bool(one["lacks"]) for one in facts["labels"]) < len(facts["labels"])


def test_the_list_has_a_row_for_each_patient(run, demo_cache, arrays):
    listed = run("summer_prep", "inspect", "--cache-dir", demo_cache)
    header, *rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert [row[0] for row in rows] == ["8", "14", "20", "29"]
    assert rows[0][header.index("bins (ms)")] == "80 1000"
    found = json.loads(run("summer_prep", "inspect", "--cache-dir", demo_cache, "--json").stdout)
    (fourteen,) = [one for one in found if (one["patient_id"], one["bin_length_ms"]) == ("14", 80)]
    recorded_s = arrays[1].sum(dtype=float)
    assert fourteen["recorded_total_s"] == pytest.approx(recorded_s)
    assert sum(fourteen["n_units_by_region"].values()) == 10
    assert float(rows[1][header.index("rate (Hz)")]) == pytest.approx(arrays[0].sum() / 10 / recorded_s, abs=0.005)


def test_units_and_folds_are_shown_as_tables_and_json(demo_cache, capsys):
    def shown(patient="14", **options):
        cli.inspect(patient, cache_dir=demo_cache, **options)
        return capsys.readouterr().out

    assert "fano factor\t" in shown(unit=3)
    assert json.loads(shown(unit=3, as_json=True))["unit"] == 3
    assert "fold 5\tlacks" in shown(fold_layout=10.0)
    assert json.loads(shown(fold_layout=10.0, as_json=True))["buffer_s"] == 10
    for options, message in (
        ({"unit": 3, "fold_layout": 10.0}, "Choose one of them"),
        ({"patient": None, "unit": 3}, "Name it: summer-prep inspect PATIENT --unit"),
        ({"fold_layout": 500.0}, "leaves no segment"),
    ):
        with pytest.raises(SettingsError, match=message):
            shown(**options)


def test_labels_are_listed_with_folds_that_lack_them_and_patients_with_others(demo_cache, tmp_path, capsys):
    cli.labels(cache_dir=demo_cache, fold_layout=10.0)
    header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert (header[0], header[-1]) == ("label", "lacks")
    description = describe(key_path(demo_cache, "14", 80))
    assert [row[0] for row in rows] == description.attributes["label_names"]
    cli.labels(cache_dir=demo_cache, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["labels"] == finite(describe_key(description)["labels"])
    assert facts["patients_with_others"] == []
    copy = shutil.copytree(demo_cache, tmp_path / "copy")
    rewrite_key(copy, "20", 80, lambda arrays: arrays.update(labels_first=1 - arrays["labels_first"]))
    cli.labels(cache_dir=copy)
    assert "other annotations have 20" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="no key at 40 ms"):
        labels_of_cache(open_cache(copy), 40)


def test_own_labels_and_features_are_listed_by_target(own_cache, demo_dir, ask):
    truth = json.loads((demo_dir / "truth.json").read_text())["film"]["events.tsv"]
    facts = json.loads(ask("inspect", "14", "--cache-dir", own_cache, "--json")[1])
    by_name = {one["label"]: one for one in facts["labels"]}
    assert [one["label"] for one in facts["labels"] if one.get("target") == "events"] == list(truth)
    for own, recorded in truth.items():
        assert not recorded or by_name[own] == {**by_name[recorded], "label": own, "target": "events"}
    assert [(one["target"], one["n_dimensions"]) for one in facts["features"]] == [("embedding", 20), ("loudness", 1)]
    assert facts["features"][0]["undefined"] == pytest.approx(2 / facts["n_bins"] * 100)  # four frames
    shown = ask("labels", "--cache-dir", own_cache, "--fold-layout", "10")[1].splitlines()
    assert shown[0].split("\t")[:2] == ["label", "target"]
    assert [row.split("\t")[:2] for row in shown[-2:]] == [[name, "events"] for name in truth]
    assert "embedding\t20\t" in ask("inspect", "14", "--cache-dir", own_cache)[1]


def test_a_picture_draws_expressions_of_own_labels(own_cache, ask, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("summer_prep.show.picture._MAX_COLUMNS", 100_000)
    monkeypatch.setattr("summer_prep.show.picture.save_picture", lambda figure, _: drawn.append(figure))
    command = ["inspect", "14", "--cache-dir", own_cache, "--picture", tmp_path / "14.png", "--labels"]
    assert ask(*command, "summer,music,summer & !music")[0] == 0
    summer, music, both = np.array(drawn[0].axes[2].images[0].get_array())
    assert music.any()
    np.testing.assert_array_equal(both, summer * (1 - music))
    assert "no such label" in ask(*command, "summer & !tomato")[2]


@pytest.mark.parametrize("n_columns", [1200, 700, 5000, 100_000])
def test_columns_of_the_picture_are_rates_of_equally_many_bins(n_columns, description, arrays, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("summer_prep.show.picture._MAX_COLUMNS", n_columns)
    monkeypatch.setattr("summer_prep.show.picture.save_picture", lambda figure, _: drawn.append(figure))
    draw_key(description, tmp_path / "14.png")
    heat, rate, _, colour_bar = drawn[0].axes
    counts, recorded_s, _ = arrays
    size = -(-len(counts) // n_columns)
    runs = [slice(first, first + size) for first in range(0, len(counts), size)]
    expected = np.array([counts[run].sum(axis=0) / recorded_s[run].sum(dtype=float) for run in runs]).T
    order = np.argsort(description.attributes["units"]["brain_region"], kind="stable")
    np.testing.assert_allclose(heat.images[0].get_array(), expected[order])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), expected.sum(axis=0))
    left, right, *_ = heat.images[0].get_extent()
    assert (right - left) * 60 == pytest.approx(len(runs) * size * 0.08)
    assert f"{size * 0.08:.3g} s" in colour_bar.get_ylabel()


def test_a_picture_is_fit_for_a_paper(description, tmp_path):
    from matplotlib.image import imread

    draw_key(description, tmp_path / "14.png")
    assert imread(tmp_path / "14.png").shape[:2] == (2400, 3600)  # 300 dots on each of 12 times 8 inches
    draw_key(description, tmp_path / "14.svg")
    assert ">indoor-setting</text>" in (tmp_path / "14.svg").read_text()


def test_a_command_draws_whatever_backend_a_notebook_has(demo_cache, tmp_path):
    command = [sys.executable, "-m", "summer_prep", "inspect", "14", "--cache-dir", demo_cache, "--picture", "14.pdf"]
    environment = {**os.environ, "MPLBACKEND": "not-installed-here"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "14.pdf").read_bytes().startswith(b"%PDF")
