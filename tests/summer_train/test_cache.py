"""Opening keys for training: the same values as zarr reads, whatever the codec; units as chosen; damage refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import DIMENSIONS, describe, key_path
from summer_prep.errors import CacheError, SettingsError
from summer_prep.film.facts import LABEL_RULES
from summer_train.data.mapped import _decoded, open_patient
from summer_train.data.selection import open_selection
from summer_train.runs.checkpoints import data_differences
from tests.keys import rewrite_key


def zarr_counts(cache_dir, patient_id, bin_length_ms=80):
    return zarr.open_group(key_path(cache_dir, patient_id, bin_length_ms), mode="r")["spike_counts"][...]


def test_one_patients_counts_are_the_mapped_file_itself(demo_cache):
    counts = open_selection(demo_cache, ["14"], 80).counts()
    assert isinstance(counts, np.memmap)
    assert np.array_equal(counts, zarr_counts(demo_cache, "14"))


@pytest.mark.parametrize("patient_ids", [["14", "20"], ["20", "14"], ["29", "8", "14"]])
def test_patients_stand_side_by_side_in_the_order_given(demo_cache, patient_ids):
    counts = open_selection(demo_cache, patient_ids, 80).counts()
    assert np.array_equal(counts, np.hstack([zarr_counts(demo_cache, patient_id) for patient_id in patient_ids]))


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc"])
@pytest.mark.parametrize("chunk_bytes", [1000, 2**26], ids=["many chunks", "one chunk"])
def test_counts_are_the_same_under_every_codec_and_chunking(
    codec, chunk_bytes, demo_dir, demo_cache, tmp_path, monkeypatch
):
    monkeypatch.setattr("summer_prep.cache.layout.MAX_CHUNK_BYTES", chunk_bytes)
    build_keys(
        BuildConfig(
            data_dir=demo_dir, cache_dir=tmp_path, patient_ids=("14",), bin_lengths_ms=(1000,), codec=codec, n_workers=0
        )
    )
    selection = open_selection(tmp_path, ["14"], 1000)
    assert selection.patients[0].is_mapped == (codec == "none")
    assert np.array_equal(selection.counts(), zarr_counts(demo_cache, "14", 1000))
    rows, bins = np.empty((30, 10), dtype=np.uint8), np.random.default_rng(0).permutation(563)[:30]
    selection.read_rows(bins, rows)
    assert np.array_equal(rows, zarr_counts(demo_cache, "14", 1000)[bins])


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_every_label_is_read_as_zarr_reads_it(demo_cache, rule):
    selection = open_selection(demo_cache, ["14"], 80)
    labels = zarr.open_group(key_path(demo_cache, "14", 80), mode="r")[f"labels_{rule}"][...]
    for row, label_name in enumerate(selection.patients[0].attributes["label_names"]):
        assert np.array_equal(selection.labels(label_name, rule), labels[row]), label_name


def test_unknown_label_names_the_nearest(demo_cache):
    with pytest.raises(SettingsError, match="no label 'sumer' in .*; nearest are summer"):
        open_selection(demo_cache, ["14"], 80).labels("sumer", "first")


def regions_of(cache_dir, patient_id):
    return np.array(describe(key_path(cache_dir, patient_id, 80)).attributes["units"]["brain_region"])


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        (["H"], ["AH", "MH", "PH"]),
        (["AH"], ["AH"]),
        (["A", "EC"], ["A", "EC"]),
        (["PHC"], ["PHC", "APH", "MPH", "PPH"]),
    ],
)
def test_a_region_group_gives_all_its_members_and_a_member_itself(demo_cache, asked, members):
    selection = open_selection(demo_cache, ["14", "20"], 80, brain_regions=asked)
    for patient, units in zip(selection.patients, selection.columns, strict=True):
        expected = np.flatnonzero(np.isin(regions_of(demo_cache, patient.patient_id), members))
        assert units.tolist() == expected.tolist()
    both = np.hstack([zarr_counts(demo_cache, p)[:, u] for p, u in zip(["14", "20"], selection.columns, strict=True)])
    assert np.array_equal(selection.counts(), both)


def test_single_units_only(demo_cache):
    selection = open_selection(demo_cache, ["14"], 80, single_units=True)
    is_single = zarr.open_group(key_path(demo_cache, "14", 80), mode="r")["is_single_unit"][...]
    assert 0 < selection.n_units < 10
    assert selection.columns[0].tolist() == np.flatnonzero(is_single).tolist()


def test_unknown_region_lists_those_found(demo_cache):
    with pytest.raises(
        SettingsError, match=r"--brain-regions XX: no unit is there; found are A.*groups H \(AH MH PH\)"
    ):
        open_selection(demo_cache, ["14"], 80, brain_regions=["XX"])


@pytest.fixture
def small_cache(demo_cache, tmp_path):
    """A cache of two patients at 1000 ms that a test may change."""
    for patient_id in ("14", "20"):
        shutil.copytree(key_path(demo_cache, patient_id, 1000), key_path(tmp_path, patient_id, 1000))
    return tmp_path


def changed(description, **attributes):
    return replace(description, attributes={**description.attributes, **attributes})


def test_no_unit_left_says_which_choice_removed_them(small_cache, monkeypatch):
    def describe_all_in_amygdala(key):
        description = describe(key)
        return changed(description, units={"brain_region": ["A"] * description.attributes["n_units"]})

    monkeypatch.setattr("summer_train.data.mapped.describe", describe_all_in_amygdala)
    with pytest.raises(SettingsError, match="no unit left after selecting H, single units of patient 14"):
        open_selection(small_cache, ["14"], 1000, brain_regions=["H"], single_units=True)


@pytest.mark.parametrize(
    ("difference", "message"),
    [("first_frame", "bin grids of patients 14 and 20"), ("labels_any", "annotations of patients 14 and 20")],
)
def test_patients_of_different_films_are_refused_by_name(small_cache, difference, message, monkeypatch):
    def describe_changed(key):
        description = describe(key)
        if key.parent.name != "sub-20":
            return description
        return changed(description, digests={**description.attributes["digests"], difference: "another"})

    monkeypatch.setattr("summer_train.data.mapped.describe", describe_changed)
    with pytest.raises(CacheError, match=message):
        open_selection(small_cache, ["14", "20"], 1000)


def test_one_recording_under_two_names_is_refused(demo_dir, tmp_path):
    (path,) = demo_dir.glob("sub-14/*.nwb")
    for name in ("sub14.nwb", "sub15.nwb"):
        (tmp_path / name).symlink_to(path)
    build_keys(BuildConfig(data_dir=tmp_path, cache_dir=tmp_path / "cache", bin_lengths_ms=(1000,), n_workers=0))
    with pytest.raises(SettingsError, match="14 and 15 are one recording under two names, sub14.nwb and sub15.nwb"):
        open_selection(tmp_path / "cache", [14, 15], 1000)


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_a_lost_chunk_never_reads_as_silence(small_cache, damage):
    chunk = key_path(small_cache, "14", 1000) / "spike_counts" / "c" / "0" / "0"
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-1] if damage == "short" else chunk.read_bytes() + b"\0")
    with pytest.raises(CacheError, match=r"spike_counts/c/0/0: .*Rebuild it: summer-prep build --force"):
        open_patient(key_path(small_cache, "14", 1000))


def test_mapped_counts_survive_a_rebuild_of_their_key(small_cache, demo_dir, demo_cache):
    counts = open_selection(small_cache, ["14"], 1000).counts()
    build_keys(
        BuildConfig(
            data_dir=demo_dir,
            cache_dir=small_cache,
            patient_ids=("14",),
            bin_lengths_ms=(1000,),
            force=True,
            n_workers=0,
        )
    )
    assert np.array_equal(counts, zarr_counts(demo_cache, "14", 1000))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("labels_first/c/0/0", lambda selection: selection.labels("summer", "first")),  # which keeps what it decoded
        ("recorded_s/c/0", lambda selection: selection.recorded_share()),
    ],
)
def test_what_is_read_after_opening_is_checked_against_its_digest(name, read, small_cache):
    selection = open_selection(small_cache, ["14"], 1000)
    read(selection)
    path = selection.patients[0].key / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="its bytes were changed, or it was rebuilt since it was opened"):
        read(selection)


@pytest.mark.parametrize("name", [*DIMENSIONS, "is_single_unit", "brain_region"])
def test_a_change_of_any_array_that_a_setting_uses_is_seen_in_the_provenance(name, small_cache):
    def change(arrays):
        other = "recorded_s" if name == "long_frame_s" else name  # of this film all of them are 0
        arrays[name] = np.roll(arrays[other], 1, axis=-1)

    before = open_selection(small_cache, ["14"], 1000).provenance()
    rewrite_key(small_cache, "14", 1000, lambda arrays: None)
    assert open_selection(small_cache, ["14"], 1000).provenance() == before
    rewrite_key(small_cache, "14", 1000, change)
    (differing,) = data_differences(before, open_selection(small_cache, ["14"], 1000).provenance())
    assert differing == f"patient 14: other {name}"


def test_labels_of_a_rule_are_decoded_once_for_one_after_the_other(small_cache, monkeypatch):
    decoded = []

    class Counting(Zstd):
        def decode(self, *arguments):
            decoded.append(1)
            return super().decode(*arguments)

    _decoded.cache_clear()
    monkeypatch.setattr("numcodecs.zstd.Zstd", Counting)
    selection = open_selection(small_cache, ["14"], 1000)
    labels = zarr.open_group(key_path(small_cache, "14", 1000), mode="r")
    for rule in ("first", "any"):
        for name in selection.label_names:
            expected = labels[f"labels_{rule}"][selection.label_names.index(name)]
            assert np.array_equal(selection.labels(name, rule), expected)
    assert len(decoded) == 2
