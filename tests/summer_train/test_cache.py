"""Opening keys for training: the same values as zarr reads, whatever the codec; units as chosen; damage refused."""

import shutil

import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import DIMENSIONS, key_path
from summer_prep.errors import CacheError, SettingsError
from summer_prep.film.facts import LABEL_RULES
from summer_train.data.mapped import _decoded, open_patient
from summer_train.data.selection import NoUnitsError, open_selection
from summer_train.runs.checkpoints import data_differences
from tests.keys import rewrite_key


def build(**options):
    return build_keys(BuildConfig(**{"patient_ids": ("14",), "bin_lengths_ms": (1000,), "n_workers": 0, **options}))


def by_zarr(cache_dir, patient_id, bin_length_ms=80, name="spike_counts"):
    return zarr.open_group(key_path(cache_dir, patient_id, bin_length_ms), mode="r")[name][...]


@pytest.fixture
def small_cache(demo_cache, tmp_path):
    """A cache of two patients at 1000 ms that a test may change."""
    for patient_id in ("14", "20"):
        shutil.copytree(key_path(demo_cache, patient_id, 1000), key_path(tmp_path, patient_id, 1000))
    return tmp_path


@pytest.mark.parametrize("patient_ids", [["14"], ["14", "20"], ["20", "14"], ["29", "8", "14"]])
def test_patients_stand_side_by_side_and_one_alone_is_the_mapped_file_itself(demo_cache, patient_ids):
    counts = open_selection(demo_cache, patient_ids, 80).counts()
    assert isinstance(counts, np.memmap) == (len(patient_ids) == 1)
    assert np.array_equal(counts, np.hstack([by_zarr(demo_cache, patient_id) for patient_id in patient_ids]))


@pytest.mark.parametrize("codec", ["none", "zstd", "blosc"])
@pytest.mark.parametrize("chunk_bytes", [1000, 2**26], ids=["many chunks", "one chunk"])
def test_counts_are_the_same_under_every_codec_and_chunking(
    codec, chunk_bytes, demo_dir, demo_cache, tmp_path, monkeypatch
):
    monkeypatch.setattr("summer_prep.cache.write.MAX_CHUNK_BYTES", chunk_bytes)
    build(data_dir=demo_dir, cache_dir=tmp_path, codec=codec)
    selection, expected = open_selection(tmp_path, ["14"], 1000), by_zarr(demo_cache, "14", 1000)
    assert selection.patients[0].is_mapped == (codec == "none")
    assert np.array_equal(selection.counts(), expected)
    rows, bins = np.empty((30, 10), dtype=np.uint8), np.random.default_rng(0).permutation(len(expected))[:30]
    selection.read_rows(bins, rows)
    assert np.array_equal(rows, expected[bins])


def test_labels_are_those_that_zarr_reads_and_those_of_a_rule_are_decoded_once(demo_cache, monkeypatch):
    decoded = []

    class Counting(Zstd):
        def decode(self, *arguments):
            decoded.append(1)
            return super().decode(*arguments)

    _decoded.cache_clear()
    monkeypatch.setattr("numcodecs.zstd.Zstd", Counting)
    selection = open_selection(demo_cache, ["14"], 80)
    for rule in LABEL_RULES:
        for name, label in zip(selection.label_names, by_zarr(demo_cache, "14", 80, f"labels_{rule}"), strict=True):
            assert np.array_equal(selection.labels(name, rule), label), name
    assert len(decoded) == len(LABEL_RULES)


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
    regions = [patient.attributes["units"]["brain_region"] for patient in selection.patients]
    expected = [[unit for unit, region in enumerate(of_patient) if region in members] for of_patient in regions]
    assert [columns.tolist() for columns in selection.columns] == expected
    both = np.hstack([by_zarr(demo_cache, one)[:, units] for one, units in zip(["14", "20"], expected, strict=True)])
    assert np.array_equal(selection.counts(), both)
    selection = open_selection(demo_cache, ["14"], 80, single_units=True)
    assert 0 < selection.n_units < 10
    assert selection.columns[0].tolist() == np.flatnonzero(by_zarr(demo_cache, "14", name="is_single_unit")).tolist()


def test_what_is_not_there_is_refused_with_what_is(small_cache):
    with pytest.raises(SettingsError, match="no label 'sumer' in .*; nearest are summer"):
        open_selection(small_cache, ["14"], 1000).labels("sumer", "first")
    with pytest.raises(NoUnitsError, match=r"--brain-regions XX: .*; found are A.*groups H \(AH MH PH\)"):
        open_selection(small_cache, ["14"], 1000, brain_regions=["XX"])
    rewrite_key(small_cache, "14", 1000, units={"brain_region": ["A"] * 10})
    with pytest.raises(NoUnitsError, match="no unit left after selecting H, single units of patient 14"):
        open_selection(small_cache, ["14"], 1000, brain_regions=["H"], single_units=True)


@pytest.mark.parametrize(
    ("difference", "message"),
    [("first_frame", "bin grids of patients 14 and 20"), ("labels_any", "annotations of patients 14 and 20")],
)
def test_patients_of_different_films_are_refused_by_name(small_cache, difference, message):
    rewrite_key(small_cache, "20", 1000, lambda arrays: arrays.update({difference: np.roll(arrays[difference], 1)}))
    with pytest.raises(CacheError, match=message):
        open_selection(small_cache, ["14", "20"], 1000)


def test_one_recording_under_two_names_is_refused(demo_dir, tmp_path):
    (path,) = demo_dir.glob("sub-14/*.nwb")
    for name in ("sub14.nwb", "sub15.nwb"):
        (tmp_path / name).symlink_to(path)
    build(data_dir=tmp_path, cache_dir=tmp_path / "cache", patient_ids=())
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


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_a_compressed_chunk_of_other_bytes_is_refused_with_the_command_that_rebuilds_it(codec, demo_dir, tmp_path):
    build(data_dir=demo_dir, cache_dir=tmp_path, codec=codec)
    chunk = key_path(tmp_path, "14", 1000) / "spike_counts" / "c" / "0" / "0"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(CacheError, match=r"bin-1000ms.zarr.*: .*ebuild it: summer-prep build --force") as refused:
        open_selection(tmp_path, ["14"], 1000)
    assert "\n" not in str(refused.value)


def test_mapped_counts_survive_a_rebuild_of_their_key(small_cache, demo_dir, demo_cache):
    counts = open_selection(small_cache, ["14"], 1000).counts()
    build(data_dir=demo_dir, cache_dir=small_cache, force=True)
    assert np.array_equal(counts, by_zarr(demo_cache, "14", 1000))


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


def test_a_change_of_any_array_that_a_setting_uses_is_seen_in_the_provenance(small_cache):
    before = open_selection(small_cache, ["14"], 1000).provenance()
    rewrite_key(small_cache, "14", 1000, lambda arrays: None)
    assert open_selection(small_cache, ["14"], 1000).provenance() == before
    for name in (*DIMENSIONS, "is_single_unit", "brain_region"):
        other = "recorded_s" if name == "long_frame_s" else name  # of this film all of them are 0
        rewrite_key(small_cache, "14", 1000, lambda arrays, name=name, other=other: arrays.update(
            {name: np.roll(arrays[other], 1, axis=-1)}
        ))  # fmt: skip
        after = open_selection(small_cache, ["14"], 1000).provenance()
        assert data_differences(before, after) == [f"patient 14: other {name}"]
        before = after
