"""`summer-prep diff`: which numbers differ between two keys, patients, caches, and the first bin that does."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import summer_prep
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.targets import add_target, film_targets, remove_target
from summer_prep.cache.write import read_array
from summer_prep.errors import CacheError, SettingsError
from summer_prep.show.diff import _compare_arrays, is_equal
from summer_prep.show.tables import differences_tables
from tests.conftest import error_line, flip_a_byte
from tests.keys import rewrite_key


@pytest.fixture
def copy(demo_cache, tmp_path):
    """A copy of the demo cache that may be changed."""
    return shutil.copytree(demo_cache, tmp_path / "copy")


def diff_14(demo_cache, copy):
    (pair,) = summer_prep.diff(key_path(demo_cache, "14", 80), key_path(copy, "14", 80))
    return pair


def cells(*pairs):
    """Return the rows of the tables of differences as text."""
    return [[str(cell) for cell in row] for table in differences_tables(pairs) for row in table.rows]


def test_equal_caches_hold_the_same_numbers(demo_cache, copy, run):
    pairs = summer_prep.diff(demo_cache, copy)
    assert len(pairs) == 8
    assert all(is_equal(pair) and pair["attributes"] == [] for pair in pairs)
    result = run("summer_prep", "diff", demo_cache, copy)
    assert (result.returncode, result.stdout) == (0, "")
    assert "8 of 8 keys hold the same numbers" in result.stderr


def test_the_first_bin_that_differs_is_named(demo_cache, copy, run):
    def change(arrays):
        arrays["spike_counts"] = arrays["spike_counts"].copy()
        arrays["spike_counts"][[700, 500], [2, 7]] += 1
        arrays["labels_any"] = arrays["labels_any"].copy()
        arrays["labels_any"][4, 33] ^= 1

    rewrite_key(copy, "20", 80, change)
    key = key_path(demo_cache, "20", 80)
    before, starts_s = (read_array(key, name) for name in ("spike_counts", "bin_start_s"))
    (pair,) = [pair for pair in summer_prep.diff(demo_cache, copy) if not is_equal(pair)]
    counts, labels = pair["arrays"]
    assert (counts["name"], counts["n_different"], counts["n_values"]) == ("spike_counts", 2, before.size)
    values = [int(before[500, 7]), int(before[500, 7]) + 1]
    assert counts["first_difference"] == {"bin": 500, "unit": 7, "film_s": float(starts_s[500]), "values": values}
    first, name = labels["first_difference"], describe(key).attributes["label_names"][4]
    assert (first["bin"], first["label"], first["label_name"]) == (33, 4, name)
    result = run("summer_prep", "diff", demo_cache, copy)
    assert result.returncode == 1
    assert f"bin 500, unit 7 ({starts_s[500]:.2f} s)" in result.stdout
    assert "7 of 8 keys hold the same numbers" in result.stderr


def test_pauses_are_numbers_and_software_versions_are_not(demo_cache, copy):
    rewrite_key(copy, "14", 80, software_version="9.9")
    pair = diff_14(demo_cache, copy)
    assert is_equal(pair)
    assert pair["attributes"] == [{"name": "software_version", "first": summer_prep.__version__, "second": "9.9"}]
    assert cells(pair) == [["software version", "1", summer_prep.__version__, "9.9"]]
    rewrite_key(copy, "14", 80, pauses=[])
    assert not is_equal(diff_14(demo_cache, copy))
    assert ["pauses", "1"] in [row[:2] for row in cells(diff_14(demo_cache, copy))]


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
    other = shutil.copytree(copy, copy.parent / "other")
    for cache, n_units in ((copy, 10), (other, 30)):
        zeros = np.zeros_like(read_array(key_path(cache, "14", 80), "spike_counts")).reshape(-1, n_units)
        rewrite_key(cache, "14", 80, lambda arrays, zeros=zeros: arrays.update(spike_counts=zeros), n_units=n_units)
    (array,) = diff_14(copy, other)["arrays"]
    assert (array["name"], array["first_difference"]) == ("spike_counts", None)


def test_what_only_one_side_has_is_shown(demo_cache, copy, run):
    rewrite_key(copy, "14", 80, lambda arrays: arrays.pop("peak_SNR"))
    pair = diff_14(demo_cache, copy)
    assert pair["arrays"] == [{"name": "peak_SNR", "only_in": "first"}]
    shutil.rmtree(copy / "sub-8")
    result = run("summer_prep", "diff", demo_cache, copy, "--json")
    assert result.returncode == 1
    missing = [pair for pair in json.loads(result.stdout) if pair["second"] is None]
    assert [pair["first"] for pair in missing] == [str(key_path(demo_cache, "8", length)) for length in (80, 1000)]
    assert [row[1:3] for row in cells(pair, missing[0])] == [["peak_SNR", "only in A"], ["", "only in A"]]


def test_targets_that_differ_are_rows_and_count(own_cache, tmp_path, ask):
    copy = shutil.copytree(own_cache, tmp_path / "copy")
    code, shown, said = ask("diff", own_cache, copy)
    assert (code, shown) == (0, "")
    assert "5 of 5 keys and targets hold the same numbers" in said
    embedding = np.concatenate(list(film_targets(copy)["embedding"].blocks()))
    embedding[[900, 400], [1, 7]] = 9
    np.save(tmp_path / "embedding.npy", embedding)
    for name in ("embedding", "loudness"):
        remove_target(name, copy)
    add_target(tmp_path / "embedding.npy", name="embedding", cache_dir=copy)
    code, shown, _ = ask("diff", own_cache, copy)
    changed, gone = [row.split("\t") for row in shown.splitlines()[1:]]
    assert (code, changed[1:4]) == (1, ["values", f"2 of {embedding.size:,}", "frame 400, column 7"])
    assert (gone[0], gone[2]) == (str(own_cache / "film" / "loudness.zarr"), "only in A")


def test_paths_may_be_relative_or_links(demo_cache, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(demo_cache / "sub-14")
    monkeypatch.chdir(demo_cache / "sub-14")
    assert len(summer_prep.diff(".", "../sub-20")) == 2
    assert len(summer_prep.diff("bin-80ms.zarr", "../sub-20/bin-80ms.zarr")) == 1
    assert len(summer_prep.diff(tmp_path / "link", "../sub-20")) == 2


def test_a_damaged_key_is_not_compared(demo_cache, copy):
    (file,) = key_path(copy, "14", 80).glob("spike_counts/c/0/0")
    flip_a_byte(file)
    with pytest.raises(CacheError, match="its bytes were changed"):
        summer_prep.diff(demo_cache, copy)


def test_what_cannot_be_compared_is_one_line(demo_cache, tmp_path, run):
    key = demo_cache / "sub-14" / "bin-80ms.zarr"
    for first, second, error, message in (
        (demo_cache, demo_cache / "sub-14", SettingsError, "is a cache, .* a patient. Name two of a kind"),
        (tmp_path, demo_cache, SettingsError, "no keys. Name a cache"),
        (key.with_name("bin-40ms.zarr"), key, CacheError, "not in the cache"),
    ):
        with pytest.raises(error, match=message):
            summer_prep.diff(first, second)
    assert "http://127.0.0.1:9/a" in error_line(run("summer_prep", "diff", "http://127.0.0.1:9/a", demo_cache))


@given(st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=20), st.data())
def test_the_first_difference_is_the_first(values, data):
    ours = np.array(values)
    theirs = np.array([data.draw(st.sampled_from([value, 2.0])) for value in values])
    found = _compare_arrays("recorded_s", ours, theirs)
    places = [place for place, value in enumerate(theirs) if value == 2.0]
    assert found["n_different"] == len(places)
    assert found["first_difference"] is None if not places else found["first_difference"]["bin"] == places[0]
