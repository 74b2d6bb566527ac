"""SUMMER's tables in an NWB file: one recording in, plain arrays with their units in their names out."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import DIMENSIONS
from summer_prep.errors import RecordingError
from summer_prep.film.bins import BinGrid
from summer_prep.film.clock import frame_indices
from summer_prep.film.facts import FRAME_PERIOD_MS, LABEL_VALUES
from summer_prep.film.recording import Recording, Source
from summer_prep.options import as_patient_id
from summer_prep.recordings.find import file_identity, patient_id_of, recording_sha256
from summer_prep.recordings.nwb_file import (
    check_rows,
    child,
    column,
    column_names,
    find_tables,
    is_elsewhere,
    is_numbers,
    is_texts,
    n_rows,
    opened,
    ragged_column,
    read,
    read_numbers,
    read_texts,
    text_at,
)

BINNING_TABLE = "movie_binning_info"
ANNOTATION_TABLE = "movie_annotations_indicator_functions"
WATCHLOG_TABLE = "cleaned_watchlogs"

Tables = Mapping[str, list[h5py.Group]]

_BYTES_PER_SPIKE = 90
_BYTES_PER_LOG_ROW = 200
"""Memory that a build takes for each, measured: 0.9 GB for 10 million spikes."""

_COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""Unit columns become folders of the cache; others are left in the file."""
_TAKEN_NAMES = {*DIMENSIONS, *(dimension for dimensions in DIMENSIONS.values() for dimension in dimensions)}

_DATE = re.compile(r"\d{4}-?\d\d?-?\d\d?")

_FRAME_NUMBER = re.compile(rb"(\d+)\.")


def read_recording(path: Path) -> Recording:
    """Read everything that the cache needs from one NWB file, opening it once.

    Raises
    ------
    RecordingError : the file is missing, damaged, or does not hold what a SUMMER recording must hold
    """
    patient_id = patient_id_of(path)
    before = file_identity(path)
    with ThreadPoolExecutor(1) as hasher:  # hashing releases the interpreter, so it costs no time of its own
        sha256 = hasher.submit(recording_sha256, path)
        with opened(path) as file:
            date = text_at(file, "session_start_time")
            if date and not _DATE.match(date):
                raise RecordingError(
                    f"session_start_time is {date[:40]!r}, not a date, so programs for NWB refuse the file. "
                    "Write a date into it; a shifted one will do, like 1900-01-01T00:00:00+00:00"
                )
            tables = find_tables(file, BINNING_TABLE, ANNOTATION_TABLE, WATCHLOG_TABLE)
            with ThreadPoolExecutor(1) as pool:  # annotations are most of a file; they read while Python parses names
                annotations = pool.submit(_read_annotations, tables)
                spike_times_ms, spike_stops, notes = _read_spikes(file)
                columns, notes_on_columns = _read_unit_columns(file["units"], len(spike_stops))
                frame_index, recording_time_ms = _read_watchlog(tables)
                grids, named_frames = _read_binning(tables)
                label_names, indicators = annotations.result()
            descriptions = {name: str(file["units"][name].attrs.get("description", ""))[:200] for name in columns}
            identifier, session_id = text_at(file, "identifier"), text_at(file, "general/session_id")
        source = Source(
            file_name=path.name, bytes=int(before["n_bytes"]), sha256=sha256.result(), nwb_identifier=identifier,
            session_id=session_id,
        )  # fmt: skip
    if file_identity(path) != before:
        raise RecordingError(f"{path}: the file changed while it was read. Run the build again")
    notes += notes_on_columns
    if as_patient_id(session_id) not in (session_id, patient_id):
        notes.append(f"{path.name} says that it is session {session_id}")
    return Recording(
        patient_id=patient_id,
        source=source,
        spike_times_ms=spike_times_ms,
        spike_stops=spike_stops,
        frame_index=frame_index,
        recording_time_ms=recording_time_ms,
        grids=grids,
        named_frames=named_frames,
        label_names=label_names,
        indicators=indicators,
        numeric_columns={name: values for name, values in columns.items() if isinstance(values, np.ndarray)},
        text_columns={name: values for name, values in columns.items() if isinstance(values, list)},
        column_descriptions=descriptions,
        notes=tuple(notes),
    )


def _find_table(tables: Tables, name: str) -> h5py.Group:
    if not tables[name]:
        raise RecordingError(f"no table {name} in any module. Is this file of the SUMMER data set (DANDI 001616)?")
    first, *others = tables[name]
    for other in others:
        if set(first) != set(other) or not all(
            np.array_equal(read(column(first, one)), read(column(other, one))) for one in first
        ):
            raise RecordingError(f"two tables {name} that differ, {first.name} and {other.name}. Remove the wrong one")
    return first


def _read_spikes(file: h5py.File) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    units = child(file, "units")
    if not isinstance(units, h5py.Group) or len(units.get("id", [0])) == 0:
        raise RecordingError("no units: the table is missing or empty, so there is nothing to bin")
    data, stops = ragged_column(units, "spike_times", is_numbers)
    spike_times_ms = read(data, _BYTES_PER_SPIKE).astype(np.float64)
    unit_of_spike = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    bad = ~np.isfinite(spike_times_ms)
    if bad.any():
        unit = int(unit_of_spike[np.argmax(bad)])
        raise RecordingError(
            f"{int(bad.sum())} spike times are not numbers, the first in unit {unit} (counted from 0). "
            "Repair the file or leave the patient out"
        )
    unsorted = np.unique(unit_of_spike[1:][(np.diff(spike_times_ms) < 0) & (np.diff(unit_of_spike) == 0)])
    starts = np.concatenate([[0], stops[:-1]])
    for unit in unsorted:
        spike_times_ms[starts[unit] : stops[unit]].sort()
    notes = [f"sorted the spike times of {len(unsorted)} units that were out of order"] if len(unsorted) else []
    return spike_times_ms, stops, notes


def _read_unit_columns(units: h5py.Group, n_units: int) -> tuple[dict[str, NDArray[Any] | list[str]], list[str]]:
    """Read the optional columns that hold one number or one text a unit; ragged and 2-D ones are left in the file.

    Returns
    -------
    column name -> values, (n_units,); notes
    """
    columns: dict[str, NDArray[Any] | list[str]] = {}
    unfit_names, unfit_values = [], []
    for name in column_names(units):
        if not _COLUMN_NAME.fullmatch(name) or name in _TAKEN_NAMES:
            unfit_names.append(name)
            continue
        data = None if is_elsewhere(units, name) else units.get(name)
        if f"{name}_index" in units or (isinstance(data, h5py.Dataset) and _is_matrix(data, n_units)):
            continue
        if not isinstance(data, h5py.Dataset) or n_rows(data) is None:
            unfit_values.append(name)
            continue
        check_rows(units, spike_times=n_units, **{name: n_rows(data)})
        # By type alone: following references takes minutes and gigabytes.
        if is_numbers(data):
            values = read(data)
            columns[name] = values.astype(values.dtype.newbyteorder("<"))
        elif is_texts(data):
            columns[name] = read_texts(units, name)
        else:
            unfit_values.append(name)
    notes = [
        f"left unit columns in the file {why}: {', '.join(names)[:400]}"
        for names, why in (
            (unfit_names, "whose names are taken or unfit"),
            (unfit_values, "that do not hold one number, flag or text a unit"),
        )
        if names
    ]
    if "is_single_unit" in columns:
        n_odd = n_units - int(np.isin(columns["is_single_unit"], (0, 1)).sum())
        if n_odd:
            notes.append(
                f"is_single_unit is neither 0 nor 1 for {n_odd} of {n_units} units, which count as multi-units"
            )
    return columns, notes


def _is_matrix(data: h5py.Dataset, n_units: int) -> bool:
    """Return whether a column holds several values a unit, like waveforms, which nobody misses in a key."""
    return data.shape is not None and len(data.shape) > 1 and data.shape[0] == n_units and n_rows(data) is None


def _read_watchlog(tables: Tables) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    table = _find_table(tables, WATCHLOG_TABLE)
    pts_s = read_numbers(table, "pts", _BYTES_PER_LOG_ROW).astype(np.float64)
    recording_time_ms = read_numbers(table, "neural_recording_time", _BYTES_PER_LOG_ROW).astype(np.float64)
    check_rows(table, pts=len(pts_s), neural_recording_time=len(recording_time_ms))
    if len(pts_s) == 0:
        raise RecordingError(f"table {WATCHLOG_TABLE} is empty, so no film frame has a recording time")
    return frame_indices(pts_s, "the watch log has pts"), recording_time_ms


def _read_binning(tables: Tables) -> tuple[dict[int, BinGrid], dict[int, NDArray[np.int64]]]:
    """Return bin length (ms) -> bins, and -> the film frames that the file names, 0-based."""
    table = _find_table(tables, BINNING_TABLE)
    bin_lengths = read_numbers(table, "bin_length")
    edge_data, edge_stops = ragged_column(table, "edges", is_numbers)
    check_rows(table, bin_length=len(bin_lengths), edges=len(edge_stops))
    if not np.isfinite(bin_lengths).all():
        raise RecordingError(f"column bin_length of table {BINNING_TABLE} does not hold numbers")
    lengths = bin_lengths.astype(np.int64).tolist()
    edges_s = np.split(read(edge_data).astype(np.float64), edge_stops[:-1])
    grids = {
        length: _grid_of_edges(length, edges)
        for length, edges in zip(lengths, edges_s, strict=True)
        # Bins shorter than a frame are derived from the frames; their edges would be no frame numbers.
        if length % FRAME_PERIOD_MS == 0
    }
    if not grids:
        raise RecordingError(f"table {BINNING_TABLE} lists no bins of whole {FRAME_PERIOD_MS} ms frames")
    if "frames" not in column_names(table):
        return grids, {}
    name_data, name_stops = ragged_column(table, "frames", is_texts)
    check_rows(table, bin_length=len(lengths), frames=len(name_stops))
    names = np.split(read(name_data), name_stops[:-1])
    named_frames = {
        length: _frames_of_names(length, names_of_length, grids[length].n_bins)
        for length, names_of_length in zip(lengths, names, strict=True)
        if length in grids
    }
    return grids, named_frames


def _grid_of_edges(bin_length_ms: int, edges_s: NDArray[np.float64]) -> BinGrid:
    where = f"edges of bin_length {bin_length_ms} in table {BINNING_TABLE}"
    if len(edges_s) < 2:
        raise RecordingError(f"the {where} are not at least two film times")
    frames_per_bin = bin_length_ms // FRAME_PERIOD_MS
    frames = frame_indices(edges_s, f"one of the {where}")
    wrong = np.diff(frames) != frames_per_bin
    if frames_per_bin < 1 or wrong.any():
        bin_index = int(np.argmax(wrong))
        raise RecordingError(
            f"the {where} are not {bin_length_ms} ms apart: bin {bin_index} runs from {edges_s[bin_index]:.3f} s "
            f"to {edges_s[bin_index + 1]:.3f} s"
        )
    return BinGrid(first_frame=int(frames[0]), n_bins=len(frames) - 1, frames_per_bin=frames_per_bin)


def _frames_of_names(bin_length_ms: int, names: NDArray[Any], n_bins: int) -> NDArray[np.int64]:
    """Return the 0-based frames of names like `frame_000919.jpg`, whose numbers count from 1."""
    where = f"frames of bin_length {bin_length_ms} in table {BINNING_TABLE}"
    # One pass over one long text: a match per name in Python costs ten times as much at 118,161 names.
    numbers = _FRAME_NUMBER.findall(b"\n".join(names.tolist()))
    if not len(numbers) == len(names) == n_bins:
        raise RecordingError(
            f"the {where} name {len(numbers)} frames in {len(names)} rows, for {n_bins} bins; "
            "one name a bin, like frame_000919.jpg, was expected"
        )
    return np.array(numbers, dtype=np.int64) - 1


def _read_annotations(tables: Tables) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    table = _find_table(tables, ANNOTATION_TABLE)
    label_names = tuple(read_texts(table, "label_name"))
    data, stops = ragged_column(table, "indicator_function", is_numbers)
    if not label_names or len(set(label_names)) != len(label_names) or len(label_names) != len(stops):
        raise RecordingError(f"table {ANNOTATION_TABLE} does not name each of its {len(stops)} labels once")
    lengths = np.diff(stops, prepend=0)
    if lengths.min() != lengths.max():
        shortest = int(lengths.argmin())
        raise RecordingError(
            f"label {label_names[shortest]} of table {ANNOTATION_TABLE} covers {lengths[shortest]} frames, "
            f"others {lengths.max()}; all must cover the same film"
        )
    values = read(data)
    indicators = values.astype(np.uint8)
    is_allowed = np.isin(np.arange(256), LABEL_VALUES)[indicators] & (indicators == values)
    if not is_allowed.all():
        position = int(np.argmin(is_allowed))
        label = label_names[position // int(lengths[0])]
        raise RecordingError(
            f"label {label} has the value {values[position]} in frame {position % int(lengths[0]) + 1}; "
            f"allowed are {', '.join(map(str, LABEL_VALUES))}"
        )
    return label_names, indicators.reshape(len(label_names), -1)
