"""Which samples can be used: by hand, against a plain loop, and on recordings with pauses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import summer_train
from summer_prep.align import align, place_on_film
from summer_prep.demo import DemoConfig, write_demo_data
from summer_prep.nwb import read_recording
from summer_train.samples import Window, reaches_only, runs_on, usable_bins

masks = st.lists(st.booleans(), min_size=3, max_size=30).map(lambda values: np.array(values, dtype=bool))


windows = st.builds(Window, st.integers(-4, 0), st.integers(0, 4))


@given(usable=masks, window=windows, n_pairs=st.integers(0, 1))
def test_a_sample_is_usable_if_all_bins_that_it_reaches_are(usable, window, n_pairs):
    n_samples = len(usable) - n_pairs
    expected = [
        all(0 <= bin_ < len(usable) and usable[bin_] for bin_ in range(sample + window.first, sample + window.last + 1))
        for sample in range(n_samples)
    ]
    assert reaches_only(usable, n_samples, window).tolist() == expected


@given(data=st.data(), window=windows)
def test_a_sample_runs_on_if_nothing_breaks_within_it(data, window):
    inside = data.draw(masks)
    after = data.draw(st.lists(st.booleans(), min_size=len(inside), max_size=len(inside)).map(np.array))
    reached = [range(sample + window.first, sample + window.last + 1) for sample in range(len(inside))]
    expected = [
        all(0 <= one < len(inside) and not inside[one] for one in bins) and not any(after[one] for one in bins[:-1])
        for bins in reached
    ]
    assert runs_on(inside, after, len(inside), window).tolist() == expected


def test_bins_never_seen_are_unusable_at_any_share():
    share = np.array([0.0, 0.1, 0.5, 1.02])
    assert usable_bins(share, 0).tolist() == [False, True, True, True]
    assert usable_bins(share, 0.5).tolist() == [False, False, True, True]


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    """The arrays of a demo recording at 1 s, and the same recording for comparison."""
    folder = tmp_path_factory.mktemp("paused")
    (path,) = write_demo_data(DemoConfig(folder=folder, patient_ids=("14",), n_units=3, minutes=5))
    return read_recording(path), folder


def test_spans_on_the_recording_clock_show_pauses_between_and_inside_bins(paused):
    recording, _ = paused
    on_film = place_on_film(recording)
    arrays, attributes = align(on_film, 1000)
    start_ms, stop_ms, first = arrays["recording_start_ms"], arrays["recording_stop_ms"], arrays["first_frame"]
    interrupted = stop_ms - start_ms - arrays["recorded_s"] * 1000 > 0.5
    gaps = np.append(start_ms[1:] - stop_ms[:-1], 0) > 0
    assert attributes["pauses"]
    seen = 0
    for pause in attributes["pauses"]:
        at = int(np.searchsorted(first, pause["frame"], side="right")) - 1
        seen += 1
        if pause["frame"] == first[at]:  # the film stood on a bin's first frame: between it and the one before
            assert gaps[at - 1] or interrupted[at]
        else:
            assert interrupted[at]
    assert interrupted.sum() + gaps.sum() == seen
    assert np.array_equal(start_ms[1:][~gaps[:-1]], stop_ms[:-1][~gaps[:-1]])


def test_dropping_pauses_leaves_out_the_samples_across_them_and_says_so(demo_cache, tmp_path):
    options = {"cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": [14, 20], "bin_length": 1000, "buffer": 5}
    for task, reach in (("label", 0), ("next_bin", 1)):
        kept = summer_train.film_data(task=task, **options)
        dropped = summer_train.film_data(task=task, pauses="drop", **options)
        inside, after = kept.selection.breaks()
        crossing = inside | (after if reach else False)
        if reach:
            crossing[:-1] |= inside[1:]
        for part in ("train", "val", "test"):
            indices = getattr(kept.split, part)
            assert getattr(dropped.split, part).tolist() == indices[~crossing[indices]].tolist()
        assert sum(kept.n_samples.values()) > sum(dropped.n_samples.values())
        assert any("across a pause or skip" in note for note in dropped.notes)


def test_bins_recorded_in_part_can_be_left_out(demo_cache, tmp_path, monkeypatch):
    share = np.full(563, 1.02)
    monkeypatch.setattr("summer_train.selection.Selection.recorded_share", lambda _: share)
    options = {"cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": 14, "bin_length": 1000, "buffer": 5}
    whole = summer_train.film_data(task="label", **options)
    share[whole.split.train[[3, 8]]] = 0.165
    half = summer_train.film_data(task="label", min_recorded=0.5, **options)
    assert set(whole.split.train) - set(half.split.train) == set(whole.split.train[[3, 8]])
    assert half.notes == ["left out 2 bins of which less than a share of 0.5 was recorded"]


def test_first_frame_names_off_the_edges_are_counted_and_kept(paused):
    from dataclasses import replace

    recording, _ = paused
    names = recording.named_frames[1000].copy()
    names[:7] += 1
    moved = replace(recording, named_frames={**recording.named_frames, 1000: names})
    arrays, attributes = align(place_on_film(moved), 1000)
    (note,) = attributes["notes"]
    assert note.startswith(f"7 of {len(names)} first-frame names disagree with the edges")
    plain, _ = align(place_on_film(recording), 1000)
    assert np.array_equal(arrays["spike_counts"], plain["spike_counts"])
