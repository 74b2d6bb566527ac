"""Which samples can be used: by hand, against a plain loop, and on recordings with pauses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from summer_prep.errors import SettingsError
from summer_prep.film.align import align, place_on_film
from summer_prep.film.splits import Window, window_of
from summer_prep.recordings.demo import demo_data
from summer_prep.recordings.nwb import read_recording
from summer_train.data.film import FilmSamples
from summer_train.data.samples import choose_samples, reaches_only, usable_samples
from summer_train.data.selection import open_selection
from summer_train.settings.options import Choice, settings_from

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
def test_a_sample_is_dropped_if_recording_time_breaks_within_it(data, window):
    inside = data.draw(masks)
    after = data.draw(st.lists(st.booleans(), min_size=len(inside), max_size=len(inside)).map(np.array))
    selection = SimpleNamespace(
        n_bins=len(inside), recorded_share=lambda: np.ones(len(inside)), breaks=lambda: (inside, after)
    )
    reached = [range(sample + window.first, sample + window.last + 1) for sample in range(len(inside))]
    expected = [
        all(0 <= one < len(inside) and not inside[one] for one in bins) and not any(after[one] for one in bins[:-1])
        for bins in reached
    ]
    found = usable_samples(selection, Choice(task="label", pauses="drop"), len(inside), window, lambda _line: None)
    assert found.tolist() == expected


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A demo recording with pauses."""
    (path,) = demo_data(tmp_path_factory.mktemp("paused"), patient_ids=("14",), units=3, minutes=5)
    return read_recording(path)


def test_spans_on_the_recording_clock_show_pauses_between_and_inside_bins(recording):
    arrays, attributes = align(place_on_film(recording), 1000)
    start_ms, stop_ms, first = arrays["recording_start_ms"], arrays["recording_stop_ms"], arrays["first_frame"]
    interrupted = stop_ms - start_ms - arrays["recorded_s"] * 1000 > 0.5
    gaps = np.append(start_ms[1:] - stop_ms[:-1], 0) > 0
    assert attributes["pauses"]
    for pause in attributes["pauses"]:
        at = int(np.searchsorted(first, pause["frame"], side="right")) - 1
        # If the film stood on a bin's first frame, the pause lies between that bin and the one before.
        assert interrupted[at] or (pause["frame"] == first[at] and gaps[at - 1])
    assert interrupted.sum() + gaps.sum() == len(attributes["pauses"])
    assert np.array_equal(start_ms[1:][~gaps[:-1]], stop_ms[:-1][~gaps[:-1]])


def test_first_frame_names_off_the_edges_are_counted_and_kept(recording):
    names = recording.named_frames[1000].copy()
    names[:7] += 1
    moved = replace(recording, named_frames={**recording.named_frames, 1000: names})
    arrays, attributes = align(place_on_film(moved), 1000)
    (note,) = attributes["notes"]
    assert note.startswith(f"7 of {len(names)} first-frame names disagree with the edges")
    plain, _ = align(place_on_film(recording), 1000)
    assert np.array_equal(arrays["spike_counts"], plain["spike_counts"])


@pytest.fixture
def choose(demo_cache):
    """Returns the samples of options, their selection, and the notes on what was left out."""

    def of(patient_ids=14, bin_length=1000, **options):
        selection, notes = open_selection(demo_cache, patient_ids, bin_length), []
        choice = settings_from(Choice, {"task": "label", "buffer": 5, "bin_length": bin_length, **options})
        return choose_samples(selection, choice, notes.append), selection, notes

    return of


@pytest.mark.parametrize(("task", "target_offset"), [("label", 0), ("next_bin", 1)])
def test_dropping_pauses_leaves_out_the_samples_across_them_and_says_so(task, target_offset, choose):
    kept, selection, _ = choose([14, 20], task=task)
    dropped, _, notes = choose([14, 20], task=task, pauses="drop")
    inside, after = selection.breaks()
    crossing = inside.copy()
    if target_offset:
        crossing |= after
        crossing[:-1] |= inside[1:]
    for part, indices in vars(kept.split).items():
        assert getattr(dropped.split, part).tolist() == indices[~crossing[indices]].tolist()
    assert len(dropped.split.train) < len(kept.split.train)
    assert any("across a pause or skip" in note for note in notes)


def test_bins_recorded_in_part_can_be_left_out(choose, monkeypatch):
    share = np.full(563, 1.02)
    monkeypatch.setattr("summer_train.data.selection.Selection.recorded_share", lambda *_, **__: share)
    whole = choose()[0].split.train
    share[whole[[3, 8]]] = 0.165
    half, _, notes = choose(min_recorded=0.5)
    assert set(whole) - set(half.split.train) == set(whole[[3, 8]])
    assert notes == ["left out 2 bins of which less than a share of 0.5 was recorded"]


def test_windows_over_an_unseen_bin_are_left_out(choose, monkeypatch):
    share = np.full(7047, 1.02)
    share[[100, 3000]] = 0
    monkeypatch.setattr("summer_train.data.selection.Selection.recorded_share", lambda *_, **__: share)
    kept, _, notes = choose(bin_length=80, window=(0.16, 0.08))
    used = np.concatenate(list(vars(kept.split).values()))
    assert not set(used) & {99, 100, 101, 102, 2999, 3000, 3001, 3002}
    assert any("whose window reaches a bin that is left out, or beyond the film" in note for note in notes)


@pytest.mark.parametrize(("task", "gap"), [("label", 5), ("next_bin", 6)])
def test_the_bin_that_a_sample_predicts_lies_outside_the_buffer_too(task, gap, choose):
    split = choose(task=task, fold=2, sequence=(0, 0))[0].split
    assert split.val[0] - split.test[split.test < split.val[0]].max() - 1 == gap


@pytest.mark.parametrize(
    ("window_s", "bin_length_ms", "expected"),
    [
        ((0, 0), 80, (0, 0)), ((0.8, 0.72), 80, (-10, 9)), ((-0.32, 0.32), 80, (4, 4)), ((0.16, -0.16), 80, (-2, -2)),
        ((0.1, 0), 80, (-2, 0)), ((0.1 + 0.2, 0), 100, (-3, 0)), ((1, 1), 1000, (-1, 1)),
    ],
)  # fmt: skip
def test_windows_are_whole_bins_before_and_after(window_s, bin_length_ms, expected):
    assert window_of(window_s, bin_length_ms) == expected


@pytest.mark.parametrize("device_memory_gb", [None, 1e-6], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("task", "window"), [("label", (0.16, 0.24)), ("label", (-0.32, 0.32)), ("next_bin", (0.4, 0))]
)
def test_windows_are_those_of_a_plain_loop_and_none_reaches_beyond_the_film(
    task, window, device_memory_gb, demo_cache, monkeypatch
):
    monkeypatch.setattr("summer_train.data.batches.BLOCK_SAMPLES", 256)
    choice = settings_from(Choice, {"task": task, "window": window, "buffer": 5})
    data = FilmSamples(open_selection(demo_cache, [14, 20], 80), choice, device_memory_gb)
    counts, (first, last) = data.selection.counts(), data.window
    for part, indices in vars(data.split).items():
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_name": "sumer"}, "no label 'sumer' .*nearest are summer"),
        ({"buffer": 300}, "--buffer 300 leaves no segment"),
        ({"window": (-0.4, 0.32)}, "--window -0.4 0.32: holds no bin of 80 ms, since it begins 0.4 s after"),
    ],
)
def test_what_the_data_do_not_allow_is_refused(options, message, choose):
    with pytest.raises(SettingsError, match=message):
        choose(bin_length=80, **options)


def test_fit_refuses_a_misspelt_label_before_torch_loads(demo_cache, tmp_path):
    fit = ["fit", "--task", "label", "--label-name", "sumer", "--patient-ids", "14", "--cache-dir", demo_cache]
    command = [sys.executable, "-X", "importtime", "-m", "summer_train", *fit, "--data-dir", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "nearest are summer" in result.stderr
    loaded = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "numpy" in loaded
    assert not loaded & {"torch", "lightning", "zarr", "h5py"}
