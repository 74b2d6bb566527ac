"""A recording as plain arrays, and from it and a bin length to what one key holds. Pure arithmetic."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep import __version__
from summer_prep.errors import RecordingError
from summer_prep.film import bins
from summer_prep.film.clock import FilmClock, check_clocks, cut_frames, film_clock, find_long_frames, find_pauses
from summer_prep.film.facts import ALGORITHM_VERSION, LONG_FRAME_MS, LongFrames
from summer_prep.film.labels import align_labels


@dataclass(frozen=True)
class Source:
    """Where a recording came from; `sha256` is of the file's bytes."""

    file_name: str
    bytes: int
    sha256: str
    nwb_identifier: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One patient's session.

    spike_times_ms : (n_spikes,) recording clock, unit after unit, ascending within each
    spike_stops : (n_units,) int64, where each unit's spikes end
    frame_index, recording_time_ms : (n_rows,) the cleaned watch log
    grids : bin length (ms) -> the bins that the file lists
    named_frames : bin length (ms) -> (n_bins,) 0-based first frames as the file names them
    indicators : (n_labels, n_frames) uint8, values 0, 1, 99
    numeric_columns, text_columns : the unit table's other columns, (n_units,) each
    column_descriptions : what the file says of each of these columns
    notes : what the reader put right, for people
    """

    patient_id: str
    source: Source
    spike_times_ms: NDArray[np.float64]
    spike_stops: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    recording_time_ms: NDArray[np.float64]
    grids: Mapping[int, bins.BinGrid]
    named_frames: Mapping[int, NDArray[np.int64]]
    label_names: tuple[str, ...]
    indicators: NDArray[np.uint8]
    numeric_columns: Mapping[str, NDArray[Any]]
    text_columns: Mapping[str, list[str]]
    column_descriptions: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def n_units(self) -> int:
        """Number of sorted units, single and multi."""
        return len(self.spike_stops)


@dataclass(frozen=True)
class RecordingOnFilm:
    """A recording with what the film did during it, shared by its bin lengths.

    interval_of_spike : (n_spikes,) the interval of the clock in which each spike lies, -1 outside
    """

    recording: Recording
    clock: FilmClock
    long_frame_rule: LongFrames
    interval_of_spike: NDArray[np.int64]


def place_on_film(
    recording: Recording, long_frame_rule: LongFrames = "count", unusual_clocks: bool = False
) -> RecordingOnFilm:
    """Return a recording with its film clock, on which long frames count or are pauses.

    Raises RecordingError if the watch log cannot be a film's, or, unless `unusual_clocks` are allowed, if spike times
    and log seem to be in other units than ms or of different clocks.
    """
    clock = film_clock(recording.frame_index, recording.recording_time_ms, long_frame_rule)
    odd = check_clocks(
        recording.spike_times_ms, recording.n_units, recording.frame_index, recording.recording_time_ms, unusual_clocks
    )
    recording = replace(recording, notes=(*recording.notes, *odd))
    return RecordingOnFilm(recording, clock, long_frame_rule, bins.locate_spikes(clock, recording.spike_times_ms))


def align(on_film: RecordingOnFilm, bin_length_ms: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of one key, named as in `layout.DIMENSIONS` or the unit table, and its attributes.

    Raises SettingsError if the film has no such bins, RecordingError if the recording cannot be binned into them.
    """
    recording, clock, interval_of_spike = on_film.recording, on_film.clock, on_film.interval_of_spike
    grid = bins.bin_grid(recording.grids, bin_length_ms)
    if grid.parts_per_frame > 1:
        clock = cut_frames(clock, grid.parts_per_frame)
        interval_of_spike = bins.locate_spikes(clock, recording.spike_times_ms)
    bin_of_interval = bins.bins_of_intervals(clock, grid)
    bin_of_spike = np.where(interval_of_spike >= 0, bin_of_interval[interval_of_spike], -1)
    bin_of_long = np.where(clock.is_long, bin_of_interval, -1)
    recorded_s = bins.recorded_s(clock, bin_of_interval, grid.n_bins).astype(np.float32)
    if not recorded_s.any():
        frames = f"frames {grid.first_frame} to {grid.first_frames[-1] + grid.frames_per_bin - 1}"
        raise RecordingError(f"the watch log shows none of the analysed {frames}, so every bin was never seen")
    start_ms, stop_ms = bins.recording_spans_ms(clock, bin_of_interval, grid.n_bins)
    named_frames = recording.named_frames.get(bin_length_ms)
    labels = align_labels(recording.indicators, grid, named_frames)
    n_in_file = np.diff(recording.spike_stops, prepend=0)
    unit_of_spike = np.repeat(np.arange(recording.n_units), n_in_file)
    counts = bins.count_spikes(bin_of_spike, unit_of_spike, grid.n_bins, recording.n_units)
    text = np.dtypes.StringDType()
    arrays = {
        "spike_counts": counts,
        **{f"labels_{rule}": values for rule, values in labels.items()},
        "label": np.array(recording.label_names, dtype=text),
        "bin_start_s": grid.bin_start_s,
        "first_frame": grid.first_frames.astype(np.int32),
        "recorded_s": recorded_s,
        "long_frame_s": bins.recorded_s(clock, bin_of_long, grid.n_bins).astype(np.float32),
        "recording_start_ms": start_ms,
        "recording_stop_ms": stop_ms,
        **recording.numeric_columns,
        **{name: np.array(values, dtype=text) for name, values in recording.text_columns.items()},
    }

    notes, long_frames = list(recording.notes), find_long_frames(on_film.clock)
    n_otherwise = 0 if named_frames is None else (named_frames != grid.first_frames).sum()
    if n_otherwise:
        names = f"{n_otherwise} of {grid.n_bins} first-frame names"
        notes.append(f"{names} disagree with the edges; `labels_first` follows the names, all else the edges")
    if long_frames:
        what_was_done = {
            "count": "spikes counted, as in the published code; summer-train --pauses drop leaves their bins out, "
            "summer-prep build --long-frames pause makes them pauses",
            "pause": "taken as pauses",
        }[on_film.long_frame_rule]
        total_s = sum(frame.duration_ms for frame in long_frames) / 1000
        n_frames = on_film.clock.is_long.sum()
        notes.append(f"frames of more than {LONG_FRAME_MS} ms: {n_frames}, {total_s:.1f} s in all: {what_was_done}")
    is_lost = (n_in_file >= 20) & (counts.sum(axis=0) == 0)  # with fewer spikes, none in the film is no surprise
    if is_lost.any():
        notes.append(f"units with spikes in the file, none of them in the film: {is_lost.sum()}")
    return arrays, {
        "algorithm_version": ALGORITHM_VERSION,
        "software_version": __version__,
        "patient_id": recording.patient_id,
        "bin_length_ms": grid.bin_length_ms,
        "n_bins": grid.n_bins,
        "n_units": recording.n_units,
        # Text stands here too, so that training reads it without Zarr.
        "label_names": list(recording.label_names),
        "units": dict(recording.text_columns),
        "column_descriptions": dict(recording.column_descriptions),
        "source": asdict(recording.source),
        "pauses": [asdict(pause) for pause in find_pauses(on_film.clock)],
        "long_frames": [asdict(frame) for frame in long_frames],
        "long_frame_rule": on_film.long_frame_rule,
        "source_bin_lengths_ms": sorted(recording.grids),
        "n_unseen_bins": int((recorded_s == 0).sum()),
        "recorded_total_s": float(recorded_s.sum(dtype=np.float64)),
        "spikes": bins.tally_spikes(clock, interval_of_spike, bin_of_spike),
        "notes": notes,
    }
