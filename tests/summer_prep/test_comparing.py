"""`summer-prep diff`: which numbers differ between two keys, patients, caches, and the first bin that does."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import summer_prep
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import CacheError, SettingsError
from summer_prep.show.diff import _compare_arrays, is_equal
from tests.conftest import error_line
from tests.keys import rewrite_key


@pytest.fixture
def copy(demo_cache, tmp_path):
    """A copy of the demo cache that may be changed."""
    return shutil.copytree(demo_cache, tmp_path / "copy")


def test_equal_caches_hold_the_same_numbers(demo_cache, copy, run):
    pairs = summer_prep.diff(demo_cache, copy)
    assert len(pairs) == 8
    assert all(map(is_equal, pairs))
    assert all(pair["attributes"] == [] for pair in pairs)
    result = run("summer_prep", "diff", demo_cache, copy)
    assert (result.returncode, result.stdout) == (0, "")
    assert "8 of 8 keys hold the same numbers" in result.stderr


def test_the_first_bin_that_differs_is_named(demo_cache, copy, run):
    def change(arrays):
        arrays["spike_counts"] = arrays["spike_counts"].copy()
        arrays["spike_counts"][[700, 500], [2, 7]] += 1

    rewrite_key(copy, "20", 80, change)
    before = read_array(key_path(demo_cache, "20", 80), "spike_counts")
    starts_s = read_array(key_path(demo_cache, "20", 80), "bin_start_s")
    (pair,) = [pair for pair in summer_prep.diff(demo_cache, copy) if not is_equal(pair)]
    (array,) = pair["arrays"]
    assert (array["name"], array["n_different"], array["n_values"]) == ("spike_counts", 2, before.size)
    value = int(before[500, 7])
    assert array["first_difference"] == {
        "bin": 500, "unit": 7, "film_s": float(starts_s[500]), "values": [value, value + 1],
    }  # fmt: skip
    result = run("summer_prep", "diff", demo_cache, copy)
    assert result.returncode == 1
    assert f"bin 500, unit 7 ({starts_s[500]:.2f} s)" in result.stdout
    assert "7 of 8 keys hold the same numbers" in result.stderr


def test_two_software_versions_are_told_apart_from_two_numbers(demo_cache, copy, run):
    rewrite_key(copy, "14", 80, software_version="9.9")
    pairs = summer_prep.diff(demo_cache / "sub-14", copy / "sub-14")
    (pair,) = [pair for pair in pairs if pair["attributes"]]
    assert pair["attributes"] == [{"name": "software_version", "first": summer_prep.__version__, "second": "9.9"}]
    assert is_equal(pair)
    result = run("summer_prep", "diff", demo_cache / "sub-14", copy / "sub-14")
    assert result.returncode == 0
    assert "software version\t1\t" in result.stdout


def test_two_patients_are_compared_key_by_key(demo_cache):
    pairs = summer_prep.diff(demo_cache / "sub-14", demo_cache / "sub-20")
    assert [pair["second"] for pair in pairs] == [str(key_path(demo_cache, "20", length)) for length in (80, 1000)]
    for pair in pairs:
        names = [array["name"] for array in pair["arrays"]]
        assert "spike_counts" in names
        assert "labels_first" not in names  # of the same film


def test_keys_of_other_bins_are_compared_as_far_as_both_go(demo_cache):
    one, other = (key_path(demo_cache, "14", length) for length in (80, 1000))
    (pair,) = summer_prep.diff(one, other)
    (counts,) = [array for array in pair["arrays"] if array["name"] == "spike_counts"]
    short, long = read_array(other, "spike_counts"), read_array(one, "spike_counts")
    assert counts["shapes"] == [list(long.shape), list(short.shape)]
    assert counts["n_different"] == int((long[: len(short)] != short).sum())


def test_equal_bytes_of_another_shape_are_a_difference(demo_cache, copy):
    """A digest is of bytes: 10 units of zeros are 30 in a third as many bins."""

    def empty(arrays):
        arrays["spike_counts"] = np.zeros_like(arrays["spike_counts"])

    for cache in (copy, copy.parent / "other"):
        if not cache.exists():
            shutil.copytree(copy, cache)
        rewrite_key(cache, "14", 80, empty)

    def reshape(arrays):
        n_bins, n_units = arrays["spike_counts"].shape
        assert n_bins % 3 == 0
        arrays["spike_counts"] = arrays["spike_counts"].reshape(n_bins // 3, n_units * 3)

    rewrite_key(copy.parent / "other", "14", 80, reshape, n_units=30)
    (pair,) = summer_prep.diff(key_path(copy, "14", 80), key_path(copy.parent / "other", "14", 80))
    (array,) = pair["arrays"]
    assert array["name"] == "spike_counts"
    assert array["first_difference"] is None


def test_pauses_and_tallies_are_numbers_too(demo_cache, copy, run):
    rewrite_key(copy, "14", 80, pauses=[])
    result = run("summer_prep", "diff", demo_cache / "sub-14", copy / "sub-14")
    assert result.returncode == 1
    assert "pauses\t1\t" in result.stdout


def test_a_label_that_differs_is_named(demo_cache, copy):
    def change(arrays):
        arrays["labels_any"] = arrays["labels_any"].copy()
        arrays["labels_any"][4, 33] ^= 1

    rewrite_key(copy, "14", 80, change)
    (pair,) = summer_prep.diff(key_path(demo_cache, "14", 80), key_path(copy, "14", 80))
    first = pair["arrays"][0]["first_difference"]
    names = describe(key_path(demo_cache, "14", 80)).attributes["label_names"]
    assert (first["bin"], first["label"], first["label_name"]) == (33, 4, names[4])


def test_an_array_that_one_has_alone_is_told(demo_cache, copy, run):
    rewrite_key(copy, "14", 80, lambda arrays: arrays.pop("peak_SNR"))
    keys = key_path(demo_cache, "14", 80), key_path(copy, "14", 80)
    (pair,) = summer_prep.diff(*keys)
    assert pair["arrays"] == [{"name": "peak_SNR", "only_in": "first"}]
    assert "peak_SNR\tonly in A" in run("summer_prep", "diff", *keys).stdout


def test_places_are_known_from_where_one_stands(demo_cache, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(demo_cache / "sub-14")
    monkeypatch.chdir(demo_cache / "sub-14")
    assert len(summer_prep.diff(".", "../sub-20")) == 2
    assert len(summer_prep.diff("bin-80ms.zarr", "../sub-20/bin-80ms.zarr")) == 1
    assert len(summer_prep.diff(tmp_path / "link", "../sub-20")) == 2


def test_a_key_on_one_side_only_is_told(demo_cache, copy, run):
    shutil.rmtree(copy / "sub-8")
    result = run("summer_prep", "diff", demo_cache, copy, "--json")
    assert result.returncode == 1
    missing = [pair for pair in json.loads(result.stdout) if pair["second"] is None]
    assert [pair["first"] for pair in missing] == [str(key_path(demo_cache, "8", length)) for length in (80, 1000)]


def test_a_damaged_key_is_not_compared(demo_cache, copy):
    (file,) = key_path(copy, "14", 80).glob("spike_counts/c/0/0")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(CacheError, match="its bytes were changed"):
        summer_prep.diff(demo_cache, copy)


def test_what_cannot_be_compared_is_one_line(demo_cache, tmp_path, run):
    with pytest.raises(SettingsError, match="is a cache, .* a patient. Name two of a kind"):
        summer_prep.diff(demo_cache, demo_cache / "sub-14")
    line = error_line(run("summer_prep", "diff", "http://127.0.0.1:9/a", demo_cache))
    assert "http://127.0.0.1:9/a" in line
    assert "no keys. Name a cache" in error_line(run("summer_prep", "diff", tmp_path, demo_cache))
    assert "not in the cache" in error_line(
        run("summer_prep", "diff", demo_cache / "sub-14" / "bin-40ms.zarr", demo_cache / "sub-14" / "bin-80ms.zarr")
    )


@given(st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=20), st.data())
def test_the_first_difference_is_the_first(values, data):
    ours = np.array(values)
    theirs = np.array([data.draw(st.sampled_from([value, 2.0])) for value in values])
    found = _compare_arrays("recorded_s", ours, theirs)
    places = [place for place, value in enumerate(theirs) if value == 2.0]
    assert found["n_different"] == len(places)
    assert found["first_difference"] is None if not places else found["first_difference"]["bin"] == places[0]
