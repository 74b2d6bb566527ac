"""One patient's session as plain arrays: what a reader of files gives and `align` takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.film.bins import BinGrid


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
    grids: Mapping[int, BinGrid]
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
