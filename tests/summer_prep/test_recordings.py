"""Whole files: the golden recordings reproduced, every layout found, odd files read, and others refused in one line."""

import fcntl
import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from summer_prep.cache.build import BuildConfig, build, build_keys
from summer_prep.cache.layout import describe, key_path
from summer_prep.errors import RecordingError, SettingsError
from summer_prep.film.clock import film_clock, find_pauses
from summer_prep.recordings.demo import LAYOUTS, demo_data
from summer_prep.recordings.find import find_recordings, other_nwb_files
from summer_prep.recordings.nwb import read_recording
from tests.summer_prep.recordings import BINNING, LOG, assign, remove, replace

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
EXPECTED = json.loads((RECORDINGS / "expected.json").read_text())
BIN_LENGTHS_MS = (10, 20, 40, 80, 120, 200, 480, 1000)


@pytest.fixture(scope="module")
def golden_cache(tmp_path_factory):
    cache_dir = tmp_path_factory.mktemp("golden")
    results = build_keys(
        BuildConfig(data_dir=RECORDINGS, cache_dir=cache_dir, bin_lengths_ms=BIN_LENGTHS_MS, n_workers=0)
    )
    assert {result.state for result in results} == {"built"}
    return cache_dir


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected["file"])
def test_golden_recording_is_reproduced_at_every_bin_length(expected, golden_cache):
    recording = read_recording(RECORDINGS / expected["file"])
    pauses = find_pauses(film_clock(recording.frame_index, recording.recording_time_ms))
    found = [{"frame": pause.frame, "duration_ms": round(pause.duration_ms, 1)} for pause in pauses]
    assert found == [{name: pause[name] for name in ("frame", "duration_ms")} for pause in expected["pauses"]]
    for bin_length_ms in BIN_LENGTHS_MS:
        wanted = expected["bins"][str(bin_length_ms)]
        key = key_path(golden_cache, str(expected["patient"]), bin_length_ms)
        attributes = describe(key).attributes
        group = zarr.open_group(key, mode="r")
        counts = group["spike_counts"][...]
        assert counts.shape == (wanted["n_bins"], expected["n_units"])
        assert counts.sum() == wanted["total_spikes"] == attributes["spikes"]["counted"]
        assert counts.max() == wanted["max_count"]
        assert counts.sum(axis=0).tolist() == wanted["spikes_per_unit"]
        assert hashlib.sha256(counts.astype("<u2").tobytes()).hexdigest() == wanted["sha256_uint16_bin_by_unit"]
        labels = group["labels_first"][...]
        for label_name, shares in wanted["labels_first_frame"].items():
            values, n_bins = np.unique(labels[attributes["label_names"].index(label_name)], return_counts=True)
            assert dict(zip(map(str, values), n_bins, strict=True)) == shares
        tallies = dict(attributes["spikes"])
        assert tallies.pop("in_file") == sum(tallies.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_recording_and_is_valid_nwb(layout, tmp_path):
    import pynwb

    config = {"patient_ids": ("14",), "units": 4, "minutes": 1}
    (reference_path,) = demo_data(tmp_path / "reference", layout="misc", **config)
    (path,) = demo_data(tmp_path / "other", layout=layout, **config)
    assert pynwb.validate(path=str(path)) in ([], ([], 0))
    assert find_recordings(tmp_path / "other") == {"14": path}
    reference, recording = read_recording(reference_path), read_recording(path)
    for name in ("spike_times_ms", "spike_stops", "frame_index", "recording_time_ms", "indicators"):
        assert np.array_equal(getattr(reference, name), getattr(recording, name)), name
    assert reference.grids == recording.grids


def test_patients_are_found_in_natural_order_and_two_files_of_one_are_refused_by_name(tmp_path):
    assert list(find_recordings(RECORDINGS)) == ["8", "14", "20", "29"]
    for name in ("sub14.nwb", "sub-14_ses-sub14_ecephys.nwb"):
        (tmp_path / name).touch()
    with pytest.raises(SettingsError, match=r"two files are of patient 14: .*sub-14_ses.* and .*sub14.nwb"):
        find_recordings(tmp_path)


def test_recording_that_links_reach_again_is_found_once(tmp_path):
    content = tmp_path / ".git/annex/objects/X1/MD5E-s4--0a.nwb/MD5E-s4--0a.nwb"
    content.parent.mkdir(parents=True)
    content.touch()
    (tmp_path / "sub-14").mkdir()
    path = tmp_path / "sub-14" / "sub-14_ses-sub14_ecephys.nwb"
    path.symlink_to(content)
    (tmp_path / "latest").symlink_to("sub-14")
    (tmp_path / "sub-20").symlink_to("sub-20")
    found = find_recordings(tmp_path)
    assert {patient_id: path.resolve() for patient_id, path in found.items()} == {"14": content}
    assert other_nwb_files(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an HDF5 file.* empty"),
        (b"not a recording", "not an HDF5 file"),
        ("half", "cut short or damaged .* Download it again"),
        ("plain HDF5", "cannot be read as an NWB file: it is HDF5, but has no nwb_version"),
        ("link", "datalad get"),
        (None, "no such file"),
    ],
    ids=["empty", "text", "truncated", "no NWB", "not fetched", "missing"],
)
def test_file_that_is_no_recording_is_refused(content, message, small_recording, tmp_path):
    path = tmp_path / "sub14.nwb"
    if content == "half":
        path.write_bytes(small_recording.read_bytes()[: small_recording.stat().st_size // 2])
    elif content == "plain HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = 1
    elif content == "link":
        path.symlink_to(".git/annex/objects/content.nwb")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        read_recording(path)


def test_unsorted_spike_times_are_sorted_and_reported(edited, small_recording):
    with h5py.File(small_recording) as file:
        stop = int(file["units/spike_times_index"][0])
    backwards = assign("units/spike_times", lambda times: np.concatenate([times[:stop][::-1], times[stop:]]))
    recording = read_recording(edited(backwards))
    assert recording.notes == ("sorted the spike times of 1 units that were out of order",)
    assert np.array_equal(recording.spike_times_ms, read_recording(small_recording).spike_times_ms)


def test_missing_log_rows_leave_bins_unseen_with_a_warning(edited, tmp_path):
    def skip_frames(pts_s):
        pts_s[700:] += 4.0  # 100 frames that nobody saw
        return pts_s

    path = edited(assign(f"{LOG}/pts", skip_frames))
    (result,) = build(data_dir=path.parent, cache_dir=tmp_path / "cache", bin_length=1000, workers=0)
    assert result.state == "built"
    group = zarr.open_group(key_path(tmp_path / "cache", "14", 1000), mode="r")
    n_unseen = int((group["recorded_s"][...] == 0).sum())
    assert n_unseen >= 3
    assert f"{n_unseen} bins were never seen" in result.message


def test_optional_unit_columns_may_be_missing(edited):
    optional = ("brain_region", "hemisphere", "cell_type", "is_single_unit", "unit_id", "peak_SNR", "cv2")
    recording = read_recording(edited(remove(*(f"units/{name}" for name in optional))))
    assert recording.n_units == 5
    assert recording.text_columns == {}
    assert set(recording.numeric_columns) == {"csc_nr", "isi_violations", "iso_dist"}


def add_column(name, **kwargs):
    def edit(file):
        units = file["units"]
        column = units.create_dataset(name, **kwargs)
        column.attrs.update({"neurodata_type": "VectorData", "namespace": "hdmf-common", "object_id": name})
        units.attrs["colnames"] = np.array([*units.attrs["colnames"], name], dtype=h5py.string_dtype())

    return edit


def same_object_ids(file):
    file[f"{LOG}"].attrs["object_id"] = file["units"].attrs["object_id"]


def link_raw_data(file):
    file["acquisition/raw"] = h5py.ExternalLink("sub-14_raw.nwb", "/acquisition/ElectricalSeries")
    file["units/waveforms"] = h5py.ExternalLink("sub-14_raw.nwb", "/waveforms")


def columns_of_matnwb(file):
    for name in ("units/csc_nr", "units/spike_times", f"{LOG}/pts", f"{BINNING}/edges", "units/spike_times_index"):
        replace(name, lambda values: values[:, None])(file)
    replace("units/brain_region", lambda values: np.array([[text] for text in values]).astype("S4"))(file)


@pytest.mark.parametrize(
    "edit",
    [same_object_ids, link_raw_data, columns_of_matnwb, remove("specifications"), remove("session_start_time")],
    ids=["two objects of one id", "link to raw data", "(n, 1) columns", "namespaces not cached", "no date"],
)
def test_what_nobody_needs_changes_nothing(edit, edited, small_recording):
    path = edited(edit)
    path.write_bytes(bytes(1024) + path.read_bytes())  # a user block of HDF5
    plain, recording = read_recording(small_recording), read_recording(path)
    assert recording.notes == ()
    assert recording.text_columns == plain.text_columns
    for name in ("spike_times_ms", "spike_stops", "frame_index", "recording_time_ms", "indicators"):
        assert np.array_equal(getattr(recording, name), getattr(plain, name)), name
    for name, values in plain.numeric_columns.items():
        assert np.array_equal(recording.numeric_columns[name], values), name


def test_file_open_in_another_program_is_refused_by_name_of_the_lock(edited):
    path = edited()
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RecordingError, match=r"open in another program.*HDF5_USE_FILE_LOCKING"):
            read_recording(path)


def test_compression_that_is_not_installed_is_named(edited):
    zstd = 32015

    def compress(file, name, _old):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((5,))
        properties.set_filter(zstd, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((5,))
        data = h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_DOUBLE, space, properties)
        data.write_direct_chunk((0,), bytes(40))

    if h5py.h5z.filter_avail(zstd):
        pytest.skip("this HDF5 has Zstandard")
    with pytest.raises(RecordingError, match=rf"peak_SNR .* HDF5 filter {zstd}.*pip install hdf5plugin"):
        read_recording(edited(replace("units/peak_SNR", make=compress)))


def test_columns_of_references_are_left_out_and_units_that_may_be_single_are_counted_as_multi_with_notes(edited):
    recording = read_recording(
        edited(
            lambda file: add_column("electrode_group", data=[file["general"].ref] * 5, dtype=h5py.ref_dtype)(file),
            add_column("events", shape=(5,), dtype=h5py.vlen_dtype("i8")),
            replace("units/is_single_unit", np.array([1, 0, np.nan, 1, np.nan])),
        )
    )
    left_out, odd = recording.notes
    assert left_out.endswith("that do not hold one number, flag or text a unit: electrode_group, events")
    assert "is_single_unit is neither 0 nor 1 for 2 of 5 units" in odd
    assert not {"electrode_group", "events"} & {*recording.numeric_columns, *recording.text_columns}


def test_more_than_memory_holds_is_refused_with_what_is_free(edited, monkeypatch):
    path = edited()
    monkeypatch.setattr("summer_prep.recordings.nwb.available_bytes", lambda: 10_000.0)
    with pytest.raises(RecordingError, match=r"column .* declares \d+ values, .* are free"):
        read_recording(path)


def test_clocks_in_another_unit_are_built_only_where_it_is_asked_for(edited, tmp_path):
    path = edited(
        assign(f"{LOG}/neural_recording_time", lambda times: times / 1000),
        assign("units/spike_times", lambda times: times / 1000),
    )
    options = {"data_dir": path.parent, "cache_dir": tmp_path / "cache", "bin_length": 1000, "workers": 0}
    (refused,) = build(**options)
    (built,) = build(**options, unusual_clocks=True)
    assert refused.state == "failed"
    assert "seems to be in seconds" in refused.message
    assert built.state == "built"
    assert "seems to be in seconds" in built.message
