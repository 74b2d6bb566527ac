"""Keys on disk: what was written is what is read, byte for byte the same twice, whole or not at all."""

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

from summer_prep.cache import publish
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.fresh import cache_states
from summer_prep.cache.keys import FolderCache
from summer_prep.cache.layout import SCHEMA_VERSION, cached_keys, check_files, describe, key_path
from summer_prep.cache.write import verify_key, write_key
from summer_prep.errors import CacheError, SettingsError


def minimal_attributes(counts):
    return {
        "schema_version": SCHEMA_VERSION,
        "patient_id": "1",
        "bin_length_ms": 80,
        "n_bins": counts.shape[0],
        "n_units": counts.shape[1],
        "label_names": ["a", "b"],
    }


counts_arrays = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(
    lambda shape: hnp.arrays(st.sampled_from([np.uint8, np.uint16]), shape)
)


@given(counts=counts_arrays, codec=st.sampled_from(["none", "zstd", "blosc"]), chunk_bytes=st.sampled_from([7, 2**26]))
def test_what_was_written_is_what_is_read(counts, codec, chunk_bytes, tmp_path_factory):
    key = key_path(tmp_path_factory.mktemp("cache"), "1", 80)
    labels = np.where(np.arange(2 * len(counts)).reshape(2, -1) % 3, 1, 99).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("summer_prep.cache.layout.MAX_CHUNK_BYTES", chunk_bytes)
        write_key(key, {"spike_counts": counts, "labels_first": labels}, minimal_attributes(counts), codec)
    group = zarr.open_group(key, mode="r")
    assert np.array_equal(group["spike_counts"][...], counts)
    assert group["spike_counts"].dtype == counts.dtype
    assert np.array_equal(group["labels_first"][...], labels)
    assert group["labels_first"].chunks == labels.shape
    assert verify_key(key) == []


def test_uncompressed_counts_are_the_chunk_file_byte_for_byte(demo_cache):
    key = key_path(demo_cache, "14", 80)
    counts = zarr.open_group(key, mode="r")["spike_counts"][...]
    assert (key / "spike_counts" / "c" / "0" / "0").read_bytes() == counts.tobytes()


def test_two_builds_give_identical_bytes(demo_dir, demo_cache, tmp_path):
    build_keys(BuildConfig(data_dir=demo_dir, cache_dir=tmp_path, patient_ids=("14", "8"), bin_lengths_ms=(80,)))
    for patient_id in ("14", "8"):
        first, second = key_path(demo_cache, patient_id, 80), key_path(tmp_path, patient_id, 80)
        names = [str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()]
        same, different, unreadable = filecmp.cmpfiles(first, second, names, shallow=False)
        assert len(same) > 20
        assert (different, unreadable) == ([], [])


def test_xarray_opens_a_key_with_named_dimensions(demo_cache):
    import xarray

    with xarray.open_zarr(key_path(demo_cache, "14", 80)) as dataset:
        assert dataset["spike_counts"].dims == ("bin", "unit")
        assert dataset["labels_any"].dims == ("label", "bin")
        assert dataset["recorded_s"].dims == ("bin",)
        assert dataset["unit_id"].dims == ("unit",)
        assert dataset.attrs["patient_id"] == "14"


def test_fresh_keys_are_skipped_and_a_forced_build_replaces_them(demo_dir, tmp_path):
    config = {"data_dir": demo_dir, "cache_dir": tmp_path, "patient_ids": ("14",), "bin_lengths_ms": (1000,)}
    key = key_path(tmp_path, "14", 1000)
    assert [result.state for result in build_keys(BuildConfig(**config))] == ["built"]
    inode = key.stat().st_ino
    assert [result.state for result in build_keys(BuildConfig(**config))] == ["fresh"]
    assert key.stat().st_ino == inode
    assert [result.state for result in build_keys(BuildConfig(force=True, **config))] == ["built"]
    assert key.stat().st_ino != inode
    assert [result.state for result in build_keys(BuildConfig(codec="zstd", **config))] == ["built"]
    assert not list(tmp_path.rglob("*.staging"))


def test_touching_or_moving_a_recording_changes_nothing_and_changing_it_makes_its_keys_stale(demo_dir, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(demo_dir / "sub-14", data_dir / "sub-14")
    (path,) = data_dir.rglob("*.nwb")
    build_keys(BuildConfig(data_dir=data_dir, cache_dir=tmp_path / "cache", bin_lengths_ms=(1000,)))
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
    places = {"data_dir": demo_dir, "cache_dir": tmp_path / "cache"}
    build_keys(BuildConfig(**places, patient_ids=("14",), bin_lengths_ms=(1000,), n_workers=0))
    states = cache_states(demo_dir, FolderCache(places["cache_dir"]), ["14", "20"], [1000])
    assert [(one.patient_id, one.state) for one in states] == [("14", "fresh"), ("20", "missing")]
    arrays = [path for path in key_path(tmp_path / "cache", "14", 1000).glob("*/**/*") if path.is_file()]
    assert [one.n_bytes for one in states] == [sum(path.stat().st_size for path in arrays), 0]
    would = [(one.patient_id, one.bin_length_ms) for one in states if one.is_to_build]
    built = build_keys(BuildConfig(**places, patient_ids=("14", "20"), bin_lengths_ms=(1000,), n_workers=0))
    assert [(one.patient_id, one.bin_length_ms) for one in built if one.state == "built"] == would


def test_one_bad_patient_does_not_stop_the_others(demo_dir, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(demo_dir, data_dir)
    next(data_dir.glob("sub-20/*.nwb")).write_bytes(b"")
    results = build_keys(
        BuildConfig(data_dir=data_dir, cache_dir=tmp_path / "cache", bin_lengths_ms=(1000,), n_workers=2)
    )
    assert {result.patient_id: result.state for result in results} == {
        "8": "built", "14": "built", "20": "failed", "29": "built",
    }  # fmt: skip
    assert list(cached_keys(tmp_path / "cache")) == ["8", "14", "29"]


@pytest.fixture
def key(demo_cache, tmp_path) -> Path:
    """A copy of a key, to be damaged."""
    copy = key_path(tmp_path, "14", 80)
    shutil.copytree(key_path(demo_cache, "14", 80), copy)
    return copy


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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


def test_changed_attribute_is_found_on_opening(key):
    metadata = key / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"n_units": 10', '"n_units": 11'))
    with pytest.raises(CacheError, match="its content was changed"):
        describe(key)


def test_changed_space_in_a_description_is_found(key):
    metadata = key / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"n_units": 10', '"n_units":\t10'))
    with pytest.raises(CacheError, match="its content was changed"):
        describe(key)


def test_key_of_a_newer_schema_is_refused(key):
    metadata = key / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"schema_version": 4', '"schema_version": 5'))
    with pytest.raises(CacheError, match="written by schema 5, this code reads 4. Update this software"):
        describe(key)


def test_key_of_an_older_schema_is_stale_and_says_so(key, demo_dir):
    metadata = key / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"schema_version": 4', '"schema_version": 3'))
    (state,) = cache_states(demo_dir, FolderCache(key.parent.parent), ["14"], [80])
    assert state.state == "stale"
    assert "was written by schema 3, this code reads 4" in state.reason


def test_key_under_another_patients_name_is_refused(key):
    other = key_path(key.parent.parent, "20", 80)
    shutil.copytree(key, other)
    with pytest.raises(CacheError, match="holds patient 14 at 80 ms, not what its path says"):
        describe(other)


def test_extra_file_in_a_key_is_found(key):
    (key / "notes.txt").write_text("mine")
    assert ["does not belong there" in line for line in verify_key(key)] == [True]


def test_file_system_without_exchange_still_replaces_a_key(demo_dir, tmp_path, monkeypatch):
    config = {"data_dir": demo_dir, "cache_dir": tmp_path, "patient_ids": ("14",), "bin_lengths_ms": (1000,)}
    build_keys(BuildConfig(n_workers=0, **config))
    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_args, **_options: object())
    (result,) = build_keys(BuildConfig(force=True, n_workers=0, **config))
    assert result.state == "built"
    assert verify_key(key_path(tmp_path, "14", 1000)) == []
    assert not list(tmp_path.rglob("*.staging"))


def test_folder_that_cannot_be_written_is_an_error_that_names_it(demo_dir, tmp_path):
    (tmp_path / "sub-14").touch()
    (result,) = build_keys(
        BuildConfig(data_dir=demo_dir, cache_dir=tmp_path, patient_ids=("14",), bin_lengths_ms=(1000,))
    )
    assert result.state == "failed"
    assert "cannot be written (File exists)" in result.message
    assert "--cache-dir" in result.message


def test_file_that_crashes_its_reader_is_named_and_the_others_are_built(demo_dir, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(demo_dir, data_dir)
    crasher = next(data_dir.glob("sub-20/*.nwb"))
    # libhdf5 ends in a segmentation fault on some damaged files; here the kernel sends the same signal.
    module = tmp_path / "sitecustomize.py"
    module.write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        f"    if event == 'open' and str(arguments[0]) == {str(crasher)!r}: os.kill(os.getpid(), 11)\n"
        "sys.addaudithook(hook)\n"
    )
    code = (
        "from pathlib import Path\nfrom summer_prep.cache.build import BuildConfig, build_keys\n"
        "if __name__ == '__main__':\n"
        f"    config = BuildConfig(data_dir=Path({str(data_dir)!r}), cache_dir=Path({str(tmp_path / 'cache')!r}),\n"
        "        bin_lengths_ms=(1000,), n_workers=2)\n"
        "    for result in build_keys(config): print(result.patient_id, result.state, result.message)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    # "fresh" is one that was written when the pool broke, and looked at once more.
    assert {name: line.split()[0].replace("fresh", "built") for name, line in lines.items()} == {
        "8": "built", "14": "built", "20": "failed", "29": "built",
    }  # fmt: skip
    assert f"{crasher}: the process that read it crashed" in lines["20"]


def test_unknown_patient_lists_those_found(demo_dir, tmp_path):
    with pytest.raises(SettingsError, match="no recording of patient 15 in .*; found are 8, 14, 20, 29"):
        build_keys(BuildConfig(data_dir=demo_dir, cache_dir=tmp_path, patient_ids=("14", "15")))
