"""`summer-prep export`: the tables hold what the key holds."""

import shutil
import sys

import numpy as np
import pytest

import summer_prep
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import CacheError, SettingsError
from summer_prep.show.facts import features_of


@pytest.fixture(scope="module")
def key(demo_cache):
    return key_path(demo_cache, "14", 80)


@pytest.fixture(scope="module")
def tables(demo_cache, tmp_path_factory):
    pandas = pytest.importorskip("pandas", reason="reads Parquet here: pip install pandas")
    pytest.importorskip("pyarrow", reason="needs: pip install pyarrow")
    written = summer_prep.export(14, tmp_path_factory.mktemp("tables") / "out", cache_dir=demo_cache)
    assert [path.name for path in written] == ["bins.parquet", "labels.parquet", "units.parquet"]
    return {path.stem: pandas.read_parquet(path) for path in written}


def test_bins_and_units_are_those_of_the_key(tables, key):
    bins, units, counts = tables["bins"], tables["units"], read_array(key, "spike_counts")
    assert list(bins["bin"]) == list(range(len(counts)))
    np.testing.assert_array_equal(bins[[f"unit_{unit}" for unit in range(counts.shape[1])]], counts)
    for name in ("bin_start_s", "first_frame", "recorded_s", "long_frame_s", "recording_start_ms", "recording_stop_ms"):
        np.testing.assert_array_equal(bins[name], read_array(key, name))
    assert list(units["brain_region"]) == read_array(key, "brain_region").tolist()
    np.testing.assert_array_equal(units["peak_SNR"], read_array(key, "peak_SNR"))


def test_labels_are_on_off_or_missing(tables, key):
    labels = tables["labels"]
    for name, values in zip(describe(key).attributes["label_names"], read_array(key, "labels_first"), strict=True):
        assert list(labels[name].isna()) == list(values == 99)
        assert list(labels[name].fillna(False).astype(int)) == [int(value == 1) for value in values]
    assert labels["indoor-setting"].isna().any()


def test_own_labels_and_features_are_columns(own_cache, tmp_path):
    pandas = pytest.importorskip("pandas")
    written = summer_prep.export(14, tmp_path, cache_dir=own_cache)
    labels, features = (pandas.read_parquet(path) for path in (written[1], written[3]))
    assert 0 < labels["music"].mean() < 1
    for target, values in features_of(describe(key_path(own_cache, "14", 80))):
        np.testing.assert_array_equal(features[[f"{target.name}:{column}" for column in target.columns]], values)


def test_a_parquet_file_says_where_it_is_from(demo_cache, key, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)  # which is a folder, too
    bins, *_ = summer_prep.export(14, ".", cache_dir=demo_cache, label_rule="any")
    about = parquet.read_schema(bins).metadata
    assert about[b"label_rule"] == b"any"
    assert about[b"source_sha256"].decode() == describe(key).attributes["source"]["sha256"]
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_a_folder_that_is_not_empty_is_replaced_only_with_force(demo_cache, tmp_path, run):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "features.parquet").write_text("of targets that were removed since")
    with pytest.raises(SettingsError, match="replace the tables in it with --force"):
        summer_prep.export(14, tmp_path, cache_dir=demo_cache)
    written = run("summer_prep", "export", "14", tmp_path, "--cache-dir", demo_cache, "--force")
    assert written.returncode == 0, written.stderr
    assert len(written.stdout.split()) == 3
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "features.parquet").exists()


def test_a_cache_holds_keys_alone(demo_cache, tmp_path):
    copy = shutil.copytree(demo_cache, tmp_path / "copy")
    before = sorted(copy.rglob("*"))
    for target in (key_path(copy, "14", 80), copy / "out", copy):
        with pytest.raises(SettingsError, match="lies in the cache"):
            summer_prep.export(14, target, cache_dir=copy, force=True)
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ("file", {}, SettingsError, "name a folder"),
        ("14.nwb", {}, SettingsError, "14.nwb: name a folder"),
        ("file/below", {}, SettingsError, r"cannot be written \(Not a directory\)"),
        ("/", {"force": True}, SettingsError, "/: name a folder"),
        ("out", {"bin_length": 200}, CacheError, "not in the cache. Build it"),
        ("out", {"label_rule": "last"}, SettingsError, "--label-rule last: choose one of first"),
    ],
)
def test_what_cannot_be_exported_is_one_line(target, options, error, message, demo_cache, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        summer_prep.export(14, tmp_path / target, cache_dir=demo_cache, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_missing_package_is_one_line(demo_cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"needs pyarrow.*pip install"):
        summer_prep.export(14, tmp_path / "x", cache_dir=demo_cache)
