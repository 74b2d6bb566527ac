"""From spike times and the film clock to spike counts per film bin. Pure arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError, SettingsError
from summer_prep.film.clock import FilmClock, FilmState
from summer_prep.film.facts import FRAME_PERIOD_MS, check_bin_length


@dataclass(frozen=True, kw_only=True)
class BinGrid:
    """Consecutive film bins: bin i covers [start + i * length, start + (i + 1) * length) of film time.

    A bin is `frames_per_bin` whole frames, or one of `parts_per_frame` equal parts of a frame; one of the two is 1.
    """

    first_frame: int
    n_bins: int
    frames_per_bin: int = 1
    parts_per_frame: int = 1

    @property
    def bin_length_ms(self) -> int:
        """Nominal length of a bin on the film clock."""
        return FRAME_PERIOD_MS * self.frames_per_bin // self.parts_per_frame

    @property
    def bin_start_s(self) -> NDArray[np.float64]:
        """(n_bins,) start of each bin on the film clock."""
        return (self.first_frame * FRAME_PERIOD_MS + np.arange(self.n_bins) * self.bin_length_ms) / 1000

    @property
    def first_frames(self) -> NDArray[np.int64]:
        """(n_bins,) 0-based frame that each bin starts at."""
        return self.first_frame + np.arange(self.n_bins) * self.frames_per_bin // self.parts_per_frame


def bin_grid(file_grids: Mapping[int, BinGrid], bin_length_ms: int) -> BinGrid:
    """Return the grid of a bin length: the file's own, or one derived from its shortest.

    `file_grids` are those of the file's movie_binning_info, by bin length (ms). Derived grids start at the same first
    frame, and an incomplete last bin is left out. Raises SettingsError if no bins of film frames have this length, or
    none fits into the film.
    """
    if bin_length_ms in file_grids:
        return file_grids[bin_length_ms]
    check_bin_length(bin_length_ms)
    base = file_grids[min(file_grids)]
    n_frames = base.n_bins * base.frames_per_bin
    if bin_length_ms < FRAME_PERIOD_MS:
        parts = FRAME_PERIOD_MS // bin_length_ms
        return BinGrid(first_frame=base.first_frame, n_bins=n_frames * parts, parts_per_frame=parts)
    frames_per_bin = bin_length_ms // FRAME_PERIOD_MS
    if frames_per_bin > n_frames:
        analysed = f"the analysed {n_frames * FRAME_PERIOD_MS} ms"
        raise SettingsError(f"no bin of {bin_length_ms} ms fits into {analysed}. Choose a shorter --bin-length")
    return BinGrid(first_frame=base.first_frame, n_bins=n_frames // frames_per_bin, frames_per_bin=frames_per_bin)


def grid_from(first_frame: int, n_bins: int, bin_length_ms: int) -> BinGrid:
    """Return the grid of `n_bins` bins of a length (ms) from a frame of the film on."""
    n_frames, n_parts = max(1, bin_length_ms // FRAME_PERIOD_MS), max(1, FRAME_PERIOD_MS // bin_length_ms)
    return BinGrid(first_frame=first_frame, n_bins=n_bins, frames_per_bin=n_frames, parts_per_frame=n_parts)


def bins_of_intervals(clock: FilmClock, grid: BinGrid) -> NDArray[np.int64]:
    """Return the bin that each interval of the clock belongs to, (n_intervals,); -1 for none."""
    assert clock.parts_per_frame == grid.parts_per_frame
    bins = (clock.position - grid.first_frame * grid.parts_per_frame) // grid.frames_per_bin
    inside = (clock.state == FilmState.RAN) & (bins >= 0) & (bins < grid.n_bins)
    return np.where(inside, bins, -1)


def recorded_s(clock: FilmClock, bin_of_interval: NDArray[np.int64], n_bins: int) -> NDArray[np.float64]:
    """Return the recording time that each bin really covers, (n_bins,) seconds; 0 = the bin was never seen."""
    inside = bin_of_interval >= 0
    durations_ms = np.diff(clock.edges_ms)
    return np.bincount(bin_of_interval[inside], weights=durations_ms[inside], minlength=n_bins) / 1000


def recording_spans_ms(
    clock: FilmClock, bin_of_interval: NDArray[np.int64], n_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return when each bin began and ended on the recording clock, (n_bins,) each; NaN where it was never seen.

    A bin that ends when the next begins is its neighbour in recording time, too; one whose span is longer than
    `recorded_s` was interrupted by a pause or a skip.
    """
    inside = bin_of_interval >= 0
    start_ms, stop_ms = np.full(n_bins, np.nan), np.full(n_bins, np.nan)
    np.fmin.at(start_ms, bin_of_interval[inside], clock.edges_ms[:-1][inside])
    np.fmax.at(stop_ms, bin_of_interval[inside], clock.edges_ms[1:][inside])
    return start_ms, stop_ms


def find_breaks(
    start_ms: NDArray[np.float64],
    stop_ms: NDArray[np.float64],
    recorded_s: NDArray[np.floating[Any]],
    long_frame_s: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where recording time does not run on, (n_bins,) each; a bin that was never seen has no break.

    Returns
    -------
    inside : whether a pause, a skip or a frame that took longer than 200 ms lies within the bin
    after : whether the next bin is no neighbour in recording time
    """
    # recorded_s is a float32 of seconds: a frame is 40 ms, so half a millisecond tells noise from a pause.
    inside = (stop_ms - start_ms - recorded_s * 1000 > 0.5) | (long_frame_s > 0)
    after = np.append(np.abs(start_ms[1:] - stop_ms[:-1]) > 0, False)
    return inside, after


def locate_spikes(clock: FilmClock, spike_times_ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the clock interval that each spike lies in, same shape; -1 before the first edge or from the last on.

    A spike exactly on an edge belongs to the interval that starts there.
    """
    interval = np.searchsorted(clock.edges_ms, spike_times_ms, side="right") - 1
    interval[interval == len(clock.position)] = -1
    return interval


def count_spikes(
    bin_of_spike: NDArray[np.int64], unit_of_spike: NDArray[np.int64], n_bins: int, n_units: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Count each unit's spikes in each bin, (n_bins, n_units), as uint8, or as uint16 if the largest count needs it.

    `bin_of_spike` and `unit_of_spike` are (n_spikes,) indices; spikes with bin -1 are not counted. Raises
    RecordingError if a count exceeds what uint16 holds.
    """
    inside = bin_of_spike >= 0
    cell = bin_of_spike[inside] * n_units + unit_of_spike[inside]
    for dtype in (np.uint8, np.uint16):
        counts: NDArray[Any] = np.zeros(n_bins * n_units, dtype=dtype)
        np.add.at(counts, cell, dtype(1))
        # A count that wrapped around lost a multiple of the dtype's range, so the sum shows it.
        if counts.sum(dtype=np.int64) == len(cell):
            return counts.reshape(n_bins, n_units)
    cells, n_spikes = np.unique(cell, return_counts=True)
    unit = cells[n_spikes.argmax()] % n_units
    raise RecordingError(f"unit {unit} has {n_spikes.max()} spikes in one bin; at most 65535 can be stored")


def tally_spikes(
    clock: FilmClock, interval_of_spike: NDArray[np.int64], bin_of_spike: NDArray[np.int64]
) -> dict[str, int]:
    """Return where the spikes of a file (`in_file`) went: every one is in exactly one of the other five.

    Those `outside` came before the log, after it, or in frames outside the analysed bins.
    """
    names = {"in_pauses": FilmState.PAUSED, "in_skips": FilmState.SKIPPED, "in_earlier_viewings": FilmState.RAN_EARLIER}
    state = clock.state[interval_of_spike[interval_of_spike >= 0]]
    parts = {"counted": int((bin_of_spike >= 0).sum())}
    parts |= {name: int((state == value).sum()) for name, value in names.items()}
    n_spikes = len(interval_of_spike)
    return {"in_file": n_spikes, **parts, "outside": n_spikes - sum(parts.values())}
