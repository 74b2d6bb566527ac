"""Keys on disk: what was written is what is read, byte for byte the same twice, whole or not at all."""

import ctypes
import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from summer_prep.cache.build import BuildConfig, build_keys, ensure_keys
from summer_prep.cache.fresh import cache_states
from summer_prep.cache.keys import FolderCache, check_known
from summer_prep.cache.layout import ARRAYS, cached_keys, check_files, describe, key_path
from summer_prep.cache.publish import publish
from summer_prep.cache.write import encode_key, verify_key
from summer_prep.errors import CacheError, SettingsError
from tests.conftest import flip_a_byte


def config_of_14(data_dir, cache_dir, **options):
    options = {"patient_ids": ("14",), "bin_lengths_ms": (1000,), "n_workers": 0, **options}
    return BuildConfig(data_dir=data_dir, cache_dir=cache_dir, **options)


counts_arrays = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(
    lambda shape: hnp.arrays(st.sampled_from([np.uint8, np.uint16]), shape)
)


@given(counts=counts_arrays, codec=st.sampled_from(["none", "zstd", "blosc"]), chunk_bytes=st.sampled_from([7, 2**26]))
def test_what_was_written_is_what_is_read(counts, codec, chunk_bytes, tmp_path_factory):
    key = key_path(tmp_path_factory.mktemp("cache"), "1", 80)
    labels = np.where(np.arange(2 * len(counts)).reshape(2, -1) % 3, 1, 99).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("summer_prep.cache.write.MAX_CHUNK_BYTES", chunk_bytes)
        attributes = {"patient_id": "1", "bin_length_ms": 80, "label_names": ["a", "b"], "codec": codec}
        publish(key, encode_key({"spike_counts": counts, "labels_first": labels}, attributes))
    group = zarr.open_group(key, mode="r")
    assert np.array_equal(group["spike_counts"][...], counts)
    assert group["spike_counts"].dtype == counts.dtype
    assert np.array_equal(group["labels_first"][...], labels)
    assert group["labels_first"].chunks == labels.shape
    assert verify_key(key) == []


def test_two_builds_give_identical_bytes(demo_dir, demo_cache, tmp_path):
    build_keys(config_of_14(demo_dir, tmp_path, patient_ids=("14", "8"), bin_lengths_ms=(80,), n_workers=2))
    for patient_id in ("14", "8"):
        first, second = key_path(demo_cache, patient_id, 80), key_path(tmp_path, patient_id, 80)
        names = [str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()]
        same, different, unreadable = filecmp.cmpfiles(first, second, names, shallow=False)
        assert len(same) > 20
        assert (different, unreadable) == ([], [])


def test_a_key_is_laid_out_as_the_table_of_its_arrays_says(demo_cache):
    import xarray

    group = zarr.open_group(key_path(demo_cache, "14", 80), mode="r")
    with xarray.open_zarr(group.store) as dataset:
        assert dataset.attrs["patient_id"] == "14"
        for name, (dimensions, dtype, units, long_name) in ARRAYS.items():
            assert dataset[name].dims == dimensions
            assert str(group[name].dtype) in dtype
            assert (dataset[name].attrs.get("units", ""), dataset[name].attrs["long_name"]) == (units, long_name)
        assert set(group) - set(ARRAYS) >= {"unit_id", "brain_region"}
        assert dataset["unit_id"].dims == ("unit",)
    chunk = group.store.root / "spike_counts" / "c" / "0" / "0"  # not compressed: the counts, byte for byte
    assert chunk.read_bytes() == group["spike_counts"][...].tobytes()


@pytest.mark.parametrize("libc", [ctypes.CDLL, lambda *_, **_options: object()], ids=["exchange", "no exchange"])
def test_fresh_keys_are_skipped_and_a_forced_build_replaces_them(libc, demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", libc)
    key = key_path(tmp_path, "14", 1000)
    inodes = []
    for state, options in (("built", {}), ("fresh", {}), ("built", {"force": True}), ("built", {"codec": "zstd"})):
        (result,) = build_keys(config_of_14(demo_dir, tmp_path, **options))
        assert (result.state, result.n_units, result.spikes["counted"] > 0) == (state, 10, True)
        assert verify_key(key) == []
        inodes.append(key.stat().st_ino)
    assert inodes[0] == inodes[1]
    assert inodes[1] != inodes[2] != inodes[3]
    assert not list(tmp_path.rglob("*.staging"))


def test_touching_or_moving_a_recording_changes_nothing_and_changing_it_makes_its_keys_stale(demo_dir, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(demo_dir / "sub-14", data_dir / "sub-14")
    (path,) = data_dir.rglob("*.nwb")
    build_keys(config_of_14(data_dir, tmp_path / "cache"))
    os.utime(path)
    moved = path.rename(data_dir / "sub14.nwb")
    assert [key.state for key in cache_states(data_dir, FolderCache(tmp_path / "cache"))] == ["fresh"]
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    times = moved.stat()
    moved.write_bytes(content)
    os.utime(moved, ns=(times.st_atime_ns, times.st_mtime_ns))
    (key,) = cache_states(data_dir, FolderCache(tmp_path / "cache"))
    assert (key.state, key.reason) == ("stale", "the content of sub-14_ses-sub14_ecephys.nwb changed")


def test_status_names_what_a_build_would_write_and_the_bytes_that_are_there(demo_dir, tmp_path):
    build_keys(config_of_14(demo_dir, tmp_path / "cache"))
    states = cache_states(demo_dir, FolderCache(tmp_path / "cache"), ["14", "20"], [1000])
    assert [(one.patient_id, one.state) for one in states] == [("14", "fresh"), ("20", "missing")]
    arrays = [path for path in key_path(tmp_path / "cache", "14", 1000).glob("*/**/*") if path.is_file()]
    assert [one.n_bytes for one in states] == [sum(path.stat().st_size for path in arrays), 0]
    would = [(one.patient_id, one.bin_length_ms) for one in states if one.is_to_build]
    built = build_keys(config_of_14(demo_dir, tmp_path / "cache", patient_ids=("14", "20")))
    assert [(one.patient_id, one.bin_length_ms) for one in built if one.state == "built"] == would


@pytest.fixture
def key(demo_cache, tmp_path) -> Path:
    """A copy of a key, to be damaged."""
    copy = key_path(tmp_path, "14", 80)
    shutil.copytree(key_path(demo_cache, "14", 80), copy)
    return copy


@pytest.mark.parametrize("name", ["spike_counts/c/0/0", "labels_any/c/0/0", "recorded_s/zarr.json", "unit_id/c/0"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "the file is missing"),
        (lambda path: os.truncate(path, 10), "has 10 bytes instead of"),
        (flip_a_byte, "its bytes were changed"),
    ],
    ids=["missing", "short", "flipped"],
)
def test_damaged_file_is_named_with_the_command_that_rebuilds_it(name, damage, problem, key):
    damage(key / name)
    (line,) = verify_key(key)
    assert str(key / name) in line
    assert problem in line
    assert "summer-prep build --force --patient-ids 14 --bin-length 80" in line
    if damage is not flip_a_byte:
        with pytest.raises(CacheError, match=problem):
            check_files(describe(key))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"n_units": 10', '"n_units": 11', "its content was changed"),
        ('"n_units": 10', '"n_units":\t10', "its content was changed"),
        ('"schema_version": 4', '"schema_version": 5', "written by schema 5, this code reads 4. Update this software"),
        ('"schema_version": 4', '"schema_version": 3', "was written by schema 3, this code reads 4"),
    ],
)
def test_a_changed_description_is_refused_and_stale(old, new, problem, key, demo_dir):
    metadata = key / "zarr.json"
    metadata.write_text(metadata.read_text().replace(old, new))
    with pytest.raises(CacheError, match=problem):
        describe(key)
    (state,) = cache_states(demo_dir, FolderCache(key.parent.parent), ["14"], [80])
    assert state.state == "stale"
    assert problem.partition(".")[0] in state.reason


def test_what_does_not_belong_in_a_key_is_found(key):
    (key / "notes.txt").write_text("mine")
    assert ["does not belong there" in line for line in verify_key(key)] == [True]
    other = key_path(key.parent.parent, "20", 80)
    shutil.copytree(key, other)
    with pytest.raises(CacheError, match="holds patient 14 at 80 ms, not what its path says"):
        describe(other)


def test_folder_that_cannot_be_written_is_an_error_that_names_it(demo_dir, tmp_path):
    (tmp_path / "sub-14").touch()
    (result,) = build_keys(config_of_14(demo_dir, tmp_path))
    assert result.state == "failed"
    assert "cannot be written (Not a directory). Name another folder with --cache-dir" in result.message


def test_cache_that_cannot_be_written_is_refused_before_the_work(demo_dir, ask):
    code, _, said = ask("build", "--data-dir", demo_dir, "--cache-dir", "/proc/summer", "--workers", 1)
    problem = "/proc cannot be written to (No such file or directory). Name another folder"
    assert (code, said) == (1, f"error: --cache-dir /proc/summer: {problem}\n")
    logged = []
    with pytest.raises(SettingsError, match="/proc cannot be written to"):
        ensure_keys(Path("/proc/summer"), (), 1000, demo_dir, log=logged.append)
    assert logged == []


CRASH = """
import os, sys
def hook(event, arguments):
    if event == "open" and "sub-20_" in str(arguments[0]): os.kill(os.getpid(), 11)
sys.addaudithook(hook)
"""
"""libhdf5 ends in a segmentation fault on some damaged files; here the kernel sends the same signal."""


def test_bad_and_crashing_recordings_are_named_and_the_others_are_built(demo_dir, tmp_path):
    data_dir = shutil.copytree(demo_dir, tmp_path / "data")
    next(data_dir.glob("sub-29/*.nwb")).write_bytes(b"")
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    code = (
        "import summer_prep, sys\n"
        "if __name__ == '__main__':\n"
        "    for one in summer_prep.build(data_dir='data', cache_dir='cache', bin_length=1000, workers=2):\n"
        "        print(one.patient_id, one.state, one.message)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    # "fresh" is one that was written when the pool broke, and looked at once more.
    assert {name: line.split()[0].replace("fresh", "built") for name, line in lines.items()} == {
        "8": "built", "14": "built", "20": "failed", "29": "failed",
    }  # fmt: skip
    assert "sub-20_ses-sub20_ecephys.nwb: the process that read it crashed" in lines["20"]
    assert list(cached_keys(tmp_path / "cache")) == ["8", "14"]


def test_what_there_is_none_of_is_named_beside_what_was_found(demo_dir, demo_cache, tmp_path):
    with pytest.raises(SettingsError, match="no recording of patient 15 in .*; found are 8, 14, 20, 29"):
        build_keys(config_of_14(demo_dir, tmp_path, patient_ids=("14", "15")))
    with pytest.raises(SettingsError, match=r"truth.json: is a file, not a folder. Name the folder with the NWB files"):
        ensure_keys(tmp_path / "gone", (), 1000, demo_dir / "truth.json")
    with pytest.raises(SettingsError, match=r"no key at 1000 ms in .*gone; none found. Check --patient-ids"):
        ensure_keys(tmp_path / "gone", (), 1000, tmp_path / "gone too")
    found = (
        r"no recording of patient 15 in .* \(no such folder\) and no key at 80 ms in .*; found are 8 \(80 1000 ms\), 14"
    )
    with pytest.raises(SettingsError, match=found):
        ensure_keys(demo_cache, ("14", "15"), 80, tmp_path / "gone")
    with pytest.raises(SettingsError, match=r"no key of patient 15 at 80 ms in cache; found are 8 \(80 ms\)"):
        check_known(["15"], ["8"], "at 80 ms in cache", {"8": [80]}, None)
