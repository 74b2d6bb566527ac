"""Frames that took more than 200 ms: counted as published and reported, left out of training, or made pauses."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

import summer_prep
import summer_train
from summer_prep.cache.build import BuildConfig, build_keys, ensure_keys
from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.film.align import align, place_on_film
from summer_prep.film.clock import FilmState, Pause, film_clock, find_long_frames, find_pauses
from summer_prep.recordings.demo import demo_data
from summer_prep.recordings.nwb import read_recording
from summer_prep.show.facts import describe_key
from summer_prep.show.tables import key_tables
from tests.keys import rewrite_key


def clock_of(frames, times_ms, long_frames="count"):
    return film_clock(np.array(frames), np.array(times_ms, dtype=float), long_frames)


def test_a_frame_is_long_if_it_ran_for_more_than_200_ms():
    assert clock_of([10, 11, 12], [0, 200, 401]).is_long.tolist() == [False, True]
    for times_ms, is_long in (([0, 800], False), ([0, 804], True)):  # four frames filled in
        assert clock_of([10, 14], times_ms).is_long.tolist() == [is_long] * 4
    for frames in ([10, 10, 11], [10, 30, 31]):  # a pause, a skip
        assert not clock_of(frames, [0, 5000, 5041]).is_long.any()


def test_long_frames_run_by_default_and_are_pauses_of_their_own_if_asked():
    log = [10, 11, 11, 12, 13, 12, 13], [0, 41, 5041, 6041, 6082, 6123, 6164]
    counted, paused = clock_of(*log), clock_of(*log, "pause")
    long, standstill = Pause(frame=11, start_ms=5041, duration_ms=1000), Pause(frame=11, start_ms=41, duration_ms=5000)
    assert find_long_frames(counted) == find_long_frames(paused) == [long]
    assert (find_pauses(counted), find_pauses(paused)) == ([standstill], [standstill, long])
    assert (counted.state[2], paused.state[2]) == (FilmState.RAN, FilmState.PAUSED)
    assert np.array_equal(np.delete(counted.state, 2), np.delete(paused.state, 2))
    # An earlier viewing counts where the later one is a pause.
    again = [10, 11, 10, 11], [0, 41, 82, 5082]
    assert clock_of(*again).state.tolist() == [FilmState.RAN_EARLIER, FilmState.SKIPPED, FilmState.RAN]
    assert clock_of(*again, "pause").state.tolist() == [FilmState.RAN, FilmState.SKIPPED, FilmState.PAUSED]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a recording in which one frame took ten seconds longer."""
    folder = tmp_path_factory.mktemp("long") / "data"
    (path,) = demo_data(folder, patient_ids=("14",), units=3, minutes=5)
    with h5py.File(path, "r+") as file:
        file["stimulus/presentation/cleaned_watchlogs/neural_recording_time"][2500:] += 10_000
    return folder


@pytest.fixture(scope="module")
def recording(work):
    return read_recording(next(work.glob("**/*.nwb")))


@pytest.fixture(scope="module")
def frame(recording):
    """The long frame as a key has it."""
    (found,) = find_long_frames(place_on_film(recording).clock)
    assert found.duration_ms == pytest.approx(10_041, abs=30)
    return found


def build(data_dir, cache_dir, **settings):
    config = {"bin_lengths_ms": (1000,), "n_workers": 0, **settings}
    (result,) = build_keys(BuildConfig(data_dir=data_dir, cache_dir=cache_dir, **config))
    return result, describe(key_path(cache_dir, "14", 1000))


def test_a_long_frame_counts_and_is_reported_or_is_a_pause_under_another_setting(work, frame, tmp_path, ask):
    counted, key = build(work, tmp_path)
    (long,) = key.attributes["long_frames"]
    assert long == vars(frame)
    long_s, recorded_s = (read_array(key.folder, name) for name in ("long_frame_s", "recorded_s"))
    (bin_,) = np.flatnonzero(long_s)
    assert long_s[bin_] == pytest.approx(frame.duration_ms / 1000)
    assert recorded_s[bin_] > long_s[bin_]
    assert "frames of more than 200 ms: 1, 10.0 s in all" in counted.message
    assert shown_long_frames(key) == [(frame.start_ms, "long frame")]

    options = ("--data-dir", work, "--cache-dir", tmp_path, "--bin-length", "1000", "--long-frames", "pause")
    assert ask("build", *options, "--workers", "1")[0] == 0
    paused, key = build(work, tmp_path, long_frames="pause")
    assert paused.state == "fresh"
    assert long in key.attributes["pauses"]
    assert shown_long_frames(key) == [(frame.start_ms, "long frame")]
    assert not read_array(key.folder, "long_frame_s").any()
    assert read_array(key.folder, "recorded_s")[bin_] == pytest.approx(recorded_s[bin_] - long_s[bin_], abs=1e-5)
    spikes = key.attributes["spikes"]
    moved = counted.spikes["counted"] - spikes["counted"]
    assert moved == spikes["in_pauses"] - counted.spikes["in_pauses"] > 0
    data = summer_train.film_data(cache_dir=tmp_path, data_dir=work, patient_ids=14, bin_length=1000, buffer=2)
    assert data.selection.patients[0].attributes["long_frame_rule"] == "pause"


def shown_long_frames(key):
    """Return the start of each pause that `inspect` shows as a long frame, and what its table says about it."""
    facts = describe_key(key)
    rows = zip(facts["pauses"], key_tables(facts)[-1].rows, strict=True)
    return [(pause["start_ms"], row[-1]) for pause, row in rows if pause["is_long_frame"] or row[-1]]


def test_training_rebuilds_a_stale_key_as_it_was_built(work, tmp_path):
    data, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(work, data)
    before = build(data, cache, long_frames="pause", codec="zstd")[1].attributes
    with h5py.File(next(data.glob("**/*.nwb")), "r+") as file:
        file["units/spike_times"][0] += 1e-4
    ensure_keys(cache, ("14",), 1000, data)
    after = describe(key_path(cache, "14", 1000)).attributes
    assert after["source"] != before["source"]
    assert [after[name] for name in ("long_frame_rule", "codec")] == ["pause", "zstd"]


def test_parts_of_frames_know_that_they_are_part_of_a_long_one(recording, frame):
    long_s = align(place_on_film(recording), 5)[0]["long_frame_s"]
    assert np.count_nonzero(long_s) == 8
    assert long_s.sum(dtype=float) == pytest.approx(frame.duration_ms / 1000)
    steady = replace(recording, recording_time_ms=np.arange(len(recording.frame_index)) * 41.0)
    assert not align(place_on_film(steady), 5)[0]["long_frame_s"].any()


def test_training_leaves_bins_of_long_frames_out_only_if_asked(work, tmp_path):
    _, key = build(work, tmp_path)
    (bin_,) = np.flatnonzero(read_array(key.folder, "long_frame_s"))

    def used(**choice):
        options = {"task": "next_bin", "split": "random", "bin_length": 1000, "patient_ids": 14}
        data = summer_train.film_data(cache_dir=tmp_path, data_dir=work, **options, **choice)
        return {int(sample) for part in vars(data.split).values() for sample in part}

    everything = used()
    assert {bin_ - 1, bin_} <= everything
    assert {bin_ - 1, bin_} <= everything - used(pauses="drop")
    assert used(min_recorded=0.9) == used()  # what ran beside the long frame is enough

    # Nothing ran beside the long frame.
    rewrite_key(tmp_path, "14", 1000, lambda arrays: arrays["long_frame_s"].put(bin_, arrays["recorded_s"][bin_]))
    assert used() == everything
    assert everything - used(min_recorded=0.9) == {bin_ - 1, bin_}


def test_long_frames_of_no_such_kind_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="count, pause"):
        summer_prep.build(data_dir=tmp_path, cache_dir=tmp_path / "cache", long_frames="drop")
