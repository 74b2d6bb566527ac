"""`summer-prep export`: what other tools read is what stands in the key."""

import shutil
import sys
import warnings

import numpy as np
import pytest

import summer_prep
from summer_prep.errors import SettingsError
from summer_prep.exporting import _named_beside
from summer_prep.key import describe, key_path
from summer_prep.store import read_array
from tests.conftest import error_line


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


def test_bins_and_counts_are_those_of_the_key(tables, key):
    bins, counts = tables["bins"], read_array(key, "spike_counts")
    assert list(bins["bin"]) == list(range(len(counts)))
    np.testing.assert_array_equal(bins[[f"unit_{unit}" for unit in range(counts.shape[1])]], counts)
    for name in ("bin_start_s", "first_frame", "recorded_s", "recording_start_ms", "recording_stop_ms"):
        np.testing.assert_array_equal(bins[name], read_array(key, name))


def test_units_have_the_columns_of_the_recording(tables, key):
    units = tables["units"]
    assert list(units["brain_region"]) == read_array(key, "brain_region").tolist()
    np.testing.assert_array_equal(units["peak_SNR"], read_array(key, "peak_SNR"))


def test_labels_are_on_off_or_missing(tables, key):
    labels, names = tables["labels"], describe(key).attributes["label_names"]
    values = read_array(key, "labels_first")
    for name, expected in zip(names, values, strict=True):
        found = labels[name]
        assert list(found.isna()) == list(expected == 99)
        assert list(found.fillna(False).astype(int)) == [int(value == 1) for value in expected]
    assert labels["indoor-setting"].isna().any()


def test_a_parquet_file_says_where_it_is_from(demo_cache, key, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    bins, *_ = summer_prep.export(14, tmp_path, cache_dir=demo_cache, label_rule="any")
    about = parquet.read_schema(bins).metadata
    assert about[b"label_rule"] == b"any"
    assert about[b"source_sha256"].decode() == describe(key).attributes["source"]["sha256"]


@pytest.fixture(scope="module")
def nwb(demo_cache, tmp_path_factory):
    pytest.importorskip("ndx_binned_spikes", reason="needs: pip install ndx-binned-spikes")
    (written,) = summer_prep.export("14", tmp_path_factory.mktemp("nwb") / "new" / "14.nwb", cache_dir=demo_cache)
    return written


def test_an_nwb_file_validates(nwb):
    from pynwb import validate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of namespaces that the file brings along
        found = validate(path=str(nwb))
    errors = found[0] if isinstance(found, tuple) else found
    assert list(errors) == []


def test_an_nwb_file_holds_the_film_as_one_event(nwb, key):
    from pynwb import NWBHDF5IO

    counts, starts_ms = read_array(key, "spike_counts"), read_array(key, "recording_start_ms")
    with NWBHDF5IO(nwb, "r", load_namespaces=True) as io:
        nwb_file = io.read()
        film = nwb_file.processing["film"]
        binned = film["BinnedAlignedSpikes"]
        np.testing.assert_array_equal(binned.data[:, 0, :], counts.T)
        assert binned.bin_width_in_ms == 80.0
        first = np.flatnonzero(np.isfinite(starts_ms))[0]
        assert binned.event_timestamps[:] == pytest.approx([starts_ms[first] / 1000])
        assert binned.event_to_bin_offset_in_ms == pytest.approx(-80.0 * first)
        assert list(nwb_file.units["brain_region"][:]) == read_array(key, "brain_region").tolist()
        assert len(binned.units_region) == counts.shape[1]
        np.testing.assert_array_equal(film["film_labels"]["bin_values"].data[:], read_array(key, "labels_first"))
        assert list(film["film_labels"]["label_name"][:]) == describe(key).attributes["label_names"]
        np.testing.assert_array_equal(film["film_bins"]["bin_start_s"].data[:], read_array(key, "bin_start_s"))
        assert nwb_file.subject.subject_id == "14"


def test_an_export_is_no_recording(nwb, run, tmp_path):
    (tmp_path / "sub14.nwb").write_bytes(nwb.read_bytes())
    line = error_line(run("summer_prep", "build", "--data-dir", tmp_path, "--cache-dir", tmp_path / "cache"))
    assert "spike_times" in line


def test_what_is_there_is_not_written_over(demo_cache, tmp_path, run):
    common = ("summer_prep", "export", "14")
    recording = tmp_path / "sub14.nwb"
    recording.write_text("precious")
    for target in (recording, tmp_path):
        line = error_line(run(*common, target, "--cache-dir", demo_cache))
        assert "is there already. Name another place, or replace it with --force" in line
    line = error_line(run(*common, recording, "--cache-dir", demo_cache, "--force"))
    assert "is no export, and is not replaced" in line
    assert recording.read_text() == "precious"
    export = tmp_path / "14.nwb"
    for options in ((), ("--force",)):
        written = run(*common, export, "--cache-dir", demo_cache, *options)
        assert written.returncode == 0, written.stderr
        assert "UserWarning" not in written.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["14.nwb", "sub14.nwb"]


def test_a_cache_holds_keys_alone(demo_cache, tmp_path, run):
    copy = shutil.copytree(demo_cache, tmp_path / "copy")
    for target in (key_path(copy, "14", 80), copy / "14.nwb", copy):
        line = error_line(run("summer_prep", "export", "14", target, "--cache-dir", copy, "--force"))
        assert "lies in the cache" in line
    assert run("summer_prep", "verify", "--cache-dir", copy).returncode == 0


def test_tables_are_replaced_all_or_none(demo_cache, tmp_path, run):
    (tmp_path / "labels.parquet").mkdir()
    (tmp_path / "bins.parquet").write_text("old")
    line = error_line(run("summer_prep", "export", "14", tmp_path, "--cache-dir", demo_cache, "--force"))
    assert "labels.parquet: is a folder" in line
    assert (tmp_path / "bins.parquet").read_text() == "old"


def test_the_folder_one_stands_in_is_a_folder(demo_cache, tmp_path, run):
    written = run("summer_prep", "export", "14", ".", "--cache-dir", demo_cache, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_columns_of_the_recording_that_are_called_like_ours_are_kept():
    columns = {"unit": 1, "unit_of_file": 2, "x": 3}
    assert _named_beside("unit", columns) == {"unit_of_file_of_file": 1, "unit_of_file": 2, "x": 3}
    assert _named_beside("bin", {"bin": 1, "label_bin": 2}) == {"bin_of_file": 1, "label_bin": 2}


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("folder.nwb", (), "is a folder. Name a file that ends in .nwb"),
        ("file", (), "is a file. Name a folder for Parquet tables"),
        ("14.csv", (), "ends in .csv. Name a file that ends in .nwb"),
        ("file/below", (), "cannot be written (Not a directory)"),
        ("/", ("--force",), "is the root of the file system"),
        ("out", ("--bin-length", "200"), "not in the cache. Build it"),
        ("out", ("--bin-length", "80,200"), "Name one bin length"),
    ],
)
def test_what_cannot_be_exported_is_one_line(target, options, says, demo_cache, tmp_path, run):
    (tmp_path / "folder.nwb").mkdir()
    (tmp_path / "file").write_text("")
    line = error_line(run("summer_prep", "export", "14", tmp_path / target, "--cache-dir", demo_cache, *options))
    assert says in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.nwb"]


def test_a_home_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(name):
        raise PermissionError(13, "Permission denied", "/nonexistent")

    monkeypatch.setattr("summer_prep.extras.import_module", refuse)
    with pytest.raises(SettingsError, match="cannot be loaded .Permission denied: /nonexistent.. Set HOME"):
        summer_prep.export(14, tmp_path / "x.nwb")


def test_a_name_in_capitals_is_an_nwb_file(demo_cache, tmp_path, run):
    written = run("summer_prep", "export", "14", tmp_path / "14.NWB", "--cache-dir", demo_cache)
    assert written.returncode == 0, written.stderr
    assert written.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["14.NWB"]


@pytest.mark.parametrize(("target", "module"), [("x.nwb", "ndx_binned_spikes"), ("x", "pyarrow")])
def test_a_missing_package_is_one_line(target, module, demo_cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(SettingsError, match=f"needs {package}.*pip install {package}$"):
        summer_prep.export(14, tmp_path / target, cache_dir=demo_cache)
