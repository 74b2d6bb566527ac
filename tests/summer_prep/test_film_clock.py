"""The film clock and the binning against hand-sized cases, reference vectors, and invariants."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from summer_prep.errors import RecordingError, SettingsError
from summer_prep.film import bins
from summer_prep.film.bins import BinGrid, bin_grid, bins_of_intervals, count_spikes, locate_spikes
from summer_prep.film.clock import cut_frames, film_clock, find_pauses, frame_indices

DATA = Path(__file__).parents[1] / "data"
CLOCK_CASES = json.loads((DATA / "vectors" / "film_clock.json").read_text())
BINNING_CASES = json.loads((DATA / "vectors" / "binning.json").read_text())


def bin_one_unit(frames, times_ms, grid, spike_times_ms):
    clock = film_clock(np.asarray(frames), np.asarray(times_ms, dtype=float))
    if grid.parts_per_frame > 1:
        clock = cut_frames(clock, grid.parts_per_frame)
    bin_of_interval = bins_of_intervals(clock, grid)
    interval = locate_spikes(clock, np.asarray(spike_times_ms, dtype=float))
    bin_of_spike = np.where(interval >= 0, bin_of_interval[interval], -1)
    counts = count_spikes(bin_of_spike, np.zeros(len(interval), dtype=np.int64), grid.n_bins, 1)[:, 0]
    recorded_s = bins.recorded_s(clock, bin_of_interval, grid.n_bins)
    return counts, recorded_s, bins.tally_spikes(clock, interval, bin_of_spike)


@pytest.mark.parametrize("case", CLOCK_CASES, ids=lambda case: case["name"])
def test_hand_sized_case_is_reproduced(case):
    grid = BinGrid(first_frame=case["first_frame"], n_bins=case["n_bins"], frames_per_bin=case["frames_per_bin"])
    frames = frame_indices(np.array(case["pts_s"]), "pts")
    counts, recorded, tally = bin_one_unit(frames, case["recording_ms"], grid, case["spike_times_ms"])
    assert counts.tolist() == case["counts"]
    np.testing.assert_allclose(recorded * 1000, case["recorded_ms"])
    assert tally == case["spikes"]


@pytest.mark.parametrize("case", BINNING_CASES, ids=lambda case: f"{case['case']}-{case['bin_length_ms']}ms")
def test_reference_binning_is_reproduced(case):
    names = ("pts_s", "recording_ms", "edges_s", "spike_times_ms", "spike_times_index", "counts_unit_by_bin")
    with np.load(DATA / "vectors" / "binning.npz") as vectors:
        pts_s, recording_ms, edges_s, spikes_ms, stops, expected = (vectors[f"{case['case']}/{name}"] for name in names)
    clock = film_clock(frame_indices(pts_s, "pts"), recording_ms)
    edges = frame_indices(edges_s, "edges")
    grid = BinGrid(first_frame=int(edges[0]), n_bins=len(edges) - 1, frames_per_bin=case["bin_length_ms"] // 40)
    bin_, interval = bins_of_intervals(clock, grid), locate_spikes(clock, spikes_ms)
    unit = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    counts = count_spikes(np.where(interval >= 0, bin_[interval], -1), unit, grid.n_bins, len(stops))
    assert np.array_equal(counts, expected.T)
    pauses = find_pauses(clock)
    assert [pause.frame for pause in pauses] == [pause["frame"] for pause in case["pauses"]]
    durations_ms = [pause["duration_ms"] for pause in case["pauses"]]
    # The vectors' recording times are rounded to a microsecond, their durations are not.
    np.testing.assert_allclose([pause.duration_ms for pause in pauses], durations_ms, atol=2e-3)


def test_spike_on_a_part_edge_belongs_to_the_later_part():
    grid = BinGrid(first_frame=0, n_bins=4, parts_per_frame=2)
    counts, recorded, _ = bin_one_unit([0, 1, 2], [0, 40, 84], grid, [0, 19.9, 20, 40, 61.9, 62, 84])
    assert counts.tolist() == [2, 1, 2, 1]
    np.testing.assert_allclose(recorded, [0.02, 0.02, 0.022, 0.022])


@st.composite
def watchlogs(draw):
    """Rows with pauses, missing rows, skips and second viewings, and spikes around them."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, 3, 5, 6, 9, -4]), min_size=1, max_size=40))
    frames = np.cumsum([draw(st.integers(0, 5)), *steps])
    step_ms = draw(st.lists(st.floats(0, 100), min_size=len(steps), max_size=len(steps)))
    times_ms = np.cumsum([draw(st.floats(-50, 1000)), *step_ms])
    spikes = draw(st.lists(st.floats(-100, 6000), max_size=60))
    return frames, times_ms, np.sort(np.array([*spikes, *times_ms[:5]]))


whole_frames = st.builds(
    BinGrid, first_frame=st.integers(0, 8), n_bins=st.integers(1, 12), frames_per_bin=st.integers(1, 4)
)
parts = st.builds(
    BinGrid, first_frame=st.integers(0, 8), n_bins=st.integers(1, 40), parts_per_frame=st.sampled_from([2, 5])
)


@given(watchlogs(), whole_frames | parts)
def test_six_tallies_add_up_and_match_the_counts(log, grid):
    counts, recorded, tally = bin_one_unit(log[0], log[1], grid, log[2])
    in_file, *parts = tally.values()
    assert in_file == len(log[2]) == sum(parts)
    assert min(parts) >= 0
    assert counts.sum() == tally["counted"]
    assert not counts[recorded == 0].any()


@given(watchlogs(), whole_frames)
def test_binning_equals_a_plain_loop(log, grid):
    frames, times_ms, spikes = log
    counts, recorded, _ = bin_one_unit(frames, times_ms, grid, spikes)
    intervals = []
    for row, step in enumerate(np.diff(frames)):
        if 1 <= step <= 5:
            edges = times_ms[row] + (times_ms[row + 1] - times_ms[row]) * np.arange(step + 1) / step
            edges[-1] = times_ms[row + 1]
            intervals += [(frames[row] + part, edges[part], edges[part + 1]) for part in range(step)]
    last_viewing = {frame: (start, stop) for frame, start, stop in intervals}
    expected, expected_s = np.zeros(grid.n_bins), np.zeros(grid.n_bins)
    for frame, (start, stop) in last_viewing.items():
        number = (frame - grid.first_frame) // grid.frames_per_bin
        if 0 <= number < grid.n_bins:
            expected[number] += sum(start <= spike < stop for spike in spikes)
            expected_s[number] += (stop - start) / 1000
    assert counts.tolist() == expected.tolist()
    np.testing.assert_allclose(recorded, expected_s, atol=1e-9)


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65_535, np.uint16)])
def test_counts_take_the_smallest_dtype_that_holds_the_largest(largest, dtype):
    counts = count_spikes(np.zeros(largest, dtype=np.int64), np.ones(largest, dtype=np.int64), 2, 3)
    assert counts.dtype == dtype
    assert counts.tolist() == [[0, largest, 0], [0, 0, 0]]
    too_many = np.zeros(65_536, dtype=np.int64)
    with pytest.raises(RecordingError, match="unit 0 has 65536 spikes in one bin"):
        count_spikes(too_many, too_many, 1, 1)


FILE_GRIDS = {
    40: BinGrid(first_frame=918, n_bins=118_161),
    80: BinGrid(first_frame=918, n_bins=59_080, frames_per_bin=2),
}


@pytest.mark.parametrize(
    ("bin_length_ms", "n_bins"), [(40, 118_161), (80, 59_080), (120, 39_387), (1000, 4726), (20, 236_322), (5, 945_288)]
)
def test_grids_of_the_film_have_the_published_number_of_bins(bin_length_ms, n_bins):
    grid = bin_grid(FILE_GRIDS, bin_length_ms)
    assert grid.n_bins == n_bins == len(grid.bin_start_s) == len(grid.first_frames)
    assert grid.bin_length_ms == bin_length_ms
    assert grid.bin_start_s[0] == 36.72
    np.testing.assert_allclose(np.diff(grid.bin_start_s), bin_length_ms / 1000)
    assert np.array_equal(grid.first_frames, np.floor(grid.bin_start_s / 0.04 + 1e-9))


@pytest.mark.parametrize("bin_length_ms", [-80, 0, 1, 3, 30, 50, 100])
def test_impossible_bin_length_lists_the_possible(bin_length_ms):
    with pytest.raises(SettingsError, match="multiples of 40 ms .* and 20, 10, 8, 5 ms"):
        bin_grid(FILE_GRIDS, bin_length_ms)


def test_impossible_watchlog_is_refused():
    for frames, times_ms, message in (
        ([0], [0.0], "has 1 rows"),
        ([0, 1, 2], [0.0, 41.0, 40.0], "runs backwards .* 41.0 ms in row 1, then 40.0 ms"),
        ([0, 1], [0.0, np.nan], "neural_recording_time = nan in row 1"),
    ):
        with pytest.raises(RecordingError, match=message):
            film_clock(np.array(frames), np.array(times_ms))
    with pytest.raises(RecordingError, match="pts = nan s in row 1"):
        frame_indices(np.array([0.0, np.nan]), "pts")
