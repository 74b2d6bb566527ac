"""Which samples can be used: by hand, against a plain loop, and on recordings with pauses."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import summer_train
from summer_prep.errors import SettingsError
from summer_prep.film.align import align, place_on_film
from summer_prep.film.splits import Window, window_of
from summer_prep.recordings.demo import demo_data
from summer_prep.recordings.nwb import read_recording
from summer_train.data.samples import reaches_only, usable_samples
from summer_train.settings.options import Choice

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
    touched = window.touched(0)
    selection = SimpleNamespace(
        n_bins=len(inside), recorded_share=lambda: np.ones(len(inside)), breaks=lambda: (inside, after)
    )
    found = usable_samples(selection, Choice(task="label", pauses="drop"), len(inside), touched, lambda _: None)
    assert found.tolist() == expected


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    """The arrays of a demo recording at 1 s, and the same recording for comparison."""
    folder = tmp_path_factory.mktemp("paused")
    (path,) = demo_data(folder, patient_ids=("14",), units=3, minutes=5)
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
    for task, target_offset in (("label", 0), ("next_bin", 1)):
        kept = summer_train.film_data(task=task, **options)
        dropped = summer_train.film_data(task=task, pauses="drop", **options)
        inside, after = kept.selection.breaks()
        crossing = inside | (after if target_offset else False)
        if target_offset:
            crossing[:-1] |= inside[1:]
        for part in ("train", "val", "test"):
            indices = getattr(kept.split, part)
            assert getattr(dropped.split, part).tolist() == indices[~crossing[indices]].tolist()
        assert sum(kept.n_samples.values()) > sum(dropped.n_samples.values())
        assert any("across a pause or skip" in note for note in dropped.notes)


def test_bins_recorded_in_part_can_be_left_out(demo_cache, tmp_path, monkeypatch):
    share = np.full(563, 1.02)
    monkeypatch.setattr("summer_train.data.selection.Selection.recorded_share", lambda *_, **__: share)
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


@pytest.mark.parametrize(
    ("window_s", "bin_length_ms", "expected"),
    [
        ((0, 0), 80, (0, 0)),
        ((0.8, 0.72), 80, (-10, 9)),
        ((-0.32, 0.32), 80, (4, 4)),
        ((0.16, -0.16), 80, (-2, -2)),
        ((0.1, 0), 80, (-2, 0)),
        ((0.1 + 0.2, 0), 100, (-3, 0)),
        ((1, 1), 1000, (-1, 1)),
    ],
)
def test_windows_are_whole_bins_before_and_after(window_s, bin_length_ms, expected):
    assert window_of(window_s, bin_length_ms) == expected


def test_a_window_without_a_bin_is_refused():
    with pytest.raises(SettingsError, match=r"--window -0.4 0.32: holds no bin of 80 ms, since it begins 0.4 s after"):
        window_of((-0.4, 0.32), 80)


@pytest.mark.parametrize("device_memory", [None, 1e-6], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("task", "window"), [("label", (0.16, 0.24)), ("label", (-0.32, 0.32)), ("next_bin", (0.4, 0))]
)
def test_windows_are_those_of_a_plain_loop_and_none_reaches_beyond_the_film(
    task, window, device_memory, demo_cache, tmp_path, monkeypatch
):
    monkeypatch.setattr("summer_train.data.batches.BLOCK_SAMPLES", 256)
    options = {"cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": [14, 20], "buffer": 5, "task": task}
    data = summer_train.film_data(window=window, device_memory=device_memory, **options)
    counts = data.selection.counts().copy()
    first, last = data.window
    for part in ("train", "val", "test"):
        indices = getattr(data.split, part)
        assert indices.min() + first >= 0
        assert indices.max() + max(last, data.task.target_offset) < len(counts)
        seen = 0
        for block in data.blocks(part):
            for number in range(0, len(block.counts), 97):
                sample = indices[seen + number]
                expected = counts[sample + first : sample + last + 1]
                assert np.array_equal(block.counts[number].numpy(), expected[0] if first == last else expected)
                if task == "next_bin":
                    assert np.array_equal(block.targets[number].numpy(), counts[sample + 1])
            seen += len(block.counts)
        assert seen == len(indices)
    x, _y = next(iter(data.train_dataloader()))
    assert x.shape == ((32, 20) if first == last else (32, last - first + 1, 20))


def test_windows_over_an_unseen_bin_are_left_out_and_across_a_pause_if_asked(demo_cache, tmp_path, monkeypatch):
    share = np.full(7047, 1.02)
    share[[100, 3000]] = 0
    monkeypatch.setattr("summer_train.data.selection.Selection.recorded_share", lambda *_, **__: share)
    options = {"cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": 14, "buffer": 5, "task": "label"}
    data = summer_train.film_data(window=(0.16, 0.08), **options)
    used = set(np.concatenate(list(vars(data.split).values())).tolist())
    assert not used & {99, 100, 101, 102, 2999, 3000, 3001, 3002}
    assert any("whose window reaches a bin that is left out, or beyond the film" in note for note in data.notes)
    dropped = summer_train.film_data(window=(0.16, 0.08), pauses="drop", **options)
    inside, after = dropped.selection.breaks()
    for sample in np.concatenate(list(vars(dropped.split).values())):
        assert not inside[sample - 2 : sample + 2].any()
        assert not after[sample - 2 : sample + 1].any()
    assert len(dropped.split.train) < len(data.split.train)


@pytest.mark.parametrize(("task", "gap"), [("label", 5), ("next_bin", 6)])
def test_the_bin_that_a_sample_predicts_lies_outside_the_buffer_too(task, gap, demo_cache, tmp_path):
    options = {"cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": 14, "bin_length": 1000, "buffer": 5}
    split = summer_train.film_data(task=task, fold=2, sequence=(0, 0), **options).split
    assert split.val[0] - split.test[split.test < split.val[0]].max() - 1 == gap
