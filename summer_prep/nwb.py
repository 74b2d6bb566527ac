"""SUMMER's tables in an NWB file: one recording in, plain arrays with their units in their names out."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.binning import BinGrid
from summer_prep.dataset import FRAME_PERIOD_MS, LABEL_VALUES
from summer_prep.errors import RecordingError
from summer_prep.film_clock import frame_indices
from summer_prep.key import DIMENSIONS
from summer_prep.nwb_file import opened
from summer_prep.recording import Recording, Source
from summer_prep.sources import file_identity, patient_id_of, recording_sha256

if TYPE_CHECKING:
    from pynwb import NWBFile

BINNING_TABLE = "movie_binning_info"
ANNOTATION_TABLE = "movie_annotations_indicator_functions"
WATCHLOG_TABLE = "cleaned_watchlogs"

_MAX_VALUES = 25_000_000
"""Of one column: three times the annotations of the film."""
_MAX_SPIKES = 10_000_000
"""Seven times those of the film-length demo patient (79 units); building so many takes 0.9 GB."""
_MAX_LOG_ROWS = 1_000_000
"""Eight times the frames of the film."""

_COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""Unit columns become folders of the cache; others are left in the file."""
_TAKEN_NAMES = {*DIMENSIONS, *(dimension for dimensions in DIMENSIONS.values() for dimension in dimensions)}

_SESSION_ID = re.compile(r"sub-?([A-Za-z0-9]+)")

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
        with opened(path) as nwb_file:
            fields = _read_tables(nwb_file)
            identifiers = {"nwb_identifier": str(nwb_file.identifier), "session_id": str(nwb_file.session_id or "")}
        source = Source(file_name=path.name, bytes=int(before["n_bytes"]), sha256=sha256.result(), **identifiers)
    if file_identity(path) != before:
        raise RecordingError(f"{path}: the file changed while it was read. Run the build again")
    session = _SESSION_ID.fullmatch(source.session_id)
    if session is not None and session[1] != patient_id:
        fields["notes"] += (f"{path.name} says that it is session {source.session_id}",)
    return Recording(patient_id=patient_id, source=source, **fields)


def _read_tables(nwb_file: "NWBFile") -> dict[str, Any]:
    tables = _tables_by_name(nwb_file)
    with ThreadPoolExecutor(1) as pool:  # the annotations are most of a file; they read while Python parses names
        annotations = pool.submit(_read_annotations, tables)
        spike_times_ms, spike_stops, notes = _read_spikes(nwb_file)
        columns = _read_unit_columns(nwb_file, len(spike_stops))
        frame_index, recording_time_ms = _read_watchlog(tables)
        grids, named_frames = _read_binning(tables)
        label_names, indicators = annotations.result()
    return {
        "spike_times_ms": spike_times_ms,
        "spike_stops": spike_stops,
        "frame_index": frame_index,
        "recording_time_ms": recording_time_ms,
        "grids": grids,
        "named_frames": named_frames,
        "label_names": label_names,
        "indicators": indicators,
        "numeric_columns": {name: values for name, values in columns.items() if isinstance(values, np.ndarray)},
        "text_columns": {name: values for name, values in columns.items() if isinstance(values, list)},
        "column_descriptions": {name: str(nwb_file.units[name].description)[:200] for name in columns},
        "notes": (*notes, *_note_on_columns(nwb_file.units.colnames)),
    }


def _tables_by_name(nwb_file: "NWBFile") -> dict[str, list[Any]]:
    """Return the file's tables by their own names, wherever they stand: every layout in use, and the next one."""
    tables: dict[str, list[Any]] = {BINNING_TABLE: [], ANNOTATION_TABLE: [], WATCHLOG_TABLE: []}
    for table in nwb_file.objects.values():
        if table.name in tables and hasattr(table, "colnames"):
            tables[table.name].append(table)
    return tables


def _find_table(tables: Mapping[str, list[Any]], name: str) -> Any:
    candidates = tables[name]
    if not candidates:
        raise RecordingError(f"no table {name} in any module. Is this file of the SUMMER data set (DANDI 001616)?")
    first = candidates[0]
    for other in candidates[1:]:
        if not _same_table(first, other):
            raise RecordingError(
                f"two tables {name} that differ, in {first.parent.name} and {other.parent.name}. Remove the wrong one"
            )
    return first


def _same_table(first: Any, second: Any) -> bool:
    if first.colnames != second.colnames:
        return False
    return all(
        np.array_equal(np.asarray(one.data[:]), np.asarray(other.data[:]))
        for one, other in zip(first.columns, second.columns, strict=True)
    )


def _read(data: Any, where: str, at_most: int = _MAX_VALUES) -> NDArray[Any]:
    """Read a data set whole, if it is of a size that a recording can have: files may declare any."""
    n_values = int(np.prod(np.shape(data), dtype=np.float64))
    if n_values > at_most:
        raise RecordingError(f"{where} declares {n_values} values; at most {at_most} are read")
    return np.asarray(data[:])


def _column(table: Any, name: str) -> Any:
    if name not in table.colnames:
        raise RecordingError(f"no column {name} in table {table.name}; it has {', '.join(table.colnames)}")
    return table[name]


def _numbers(table: Any, name: str, at_most: int = _MAX_VALUES) -> NDArray[Any]:
    """Read a column of plain numbers, (n_rows,)."""
    column = _column(table, name)
    values = _read(column.data, f"column {name} of table {table.name}", at_most)
    if hasattr(column, "target") or values.ndim != 1 or values.dtype.kind not in "iufb":
        raise RecordingError(f"column {name} of table {table.name} does not hold one number a row")
    return values


def _texts(table: Any, name: str) -> list[str]:
    column = _column(table, name)
    values = _read(column.data, f"column {name} of table {table.name}")
    if hasattr(column, "target") or np.ndim(values) != 1:
        raise RecordingError(f"column {name} of table {table.name} does not hold one text a row")
    return [_as_text(value, f"column {name} of table {table.name}") for value in values]


def _as_text(value: Any, where: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RecordingError(f"{where} holds text that is not UTF-8: {value!r}") from error


def _ragged(table: Any, name: str) -> tuple[Any, NDArray[np.int64]]:
    """Return a ragged column's data set, unread, and where each row stops in it, (n_rows,)."""
    column = _column(table, name)
    if not hasattr(column, "target"):
        raise RecordingError(f"column {name} of table {table.name} is not ragged: its {name}_index is missing")
    data = column.target.data
    stops = _read(column.data, f"{name}_index of table {table.name}").astype(np.int64)
    if len(np.shape(data)) != 1 or stops.ndim != 1 or hasattr(column.target, "target"):
        raise RecordingError(f"column {name} of table {table.name} holds more than one list a row")
    if len(stops) and (stops[0] < 0 or (np.diff(stops) < 0).any() or stops[-1] != len(data)):
        raise RecordingError(
            f"{name}_index of table {table.name} runs backwards or past the end: "
            f"it stops at {stops[-1]} of {len(data)} values"
        )
    return data, stops


def _spike_column(nwb_file: "NWBFile") -> tuple[Any, NDArray[np.int64]]:
    """Return the spike times, unread, and where each unit's stop, (n_units,)."""
    units = nwb_file.units
    if units is None or len(units) == 0:
        raise RecordingError("no units: the table is missing or empty, so there is nothing to bin")
    if "spike_times" not in units.colnames:
        raise RecordingError(f"no column spike_times in table units; it has {', '.join(units.colnames)}")
    return _ragged(units, "spike_times")


def _read_spikes(nwb_file: "NWBFile") -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    data, stops = _spike_column(nwb_file)
    spike_times_ms = _read(data, "column spike_times of table units", _MAX_SPIKES).astype(np.float64)
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


def _is_kept(column_name: str) -> bool:
    return _COLUMN_NAME.fullmatch(column_name) is not None and column_name not in _TAKEN_NAMES


def _note_on_columns(names: Iterable[str]) -> list[str]:
    left = [name for name in names if not _is_kept(name)]
    return [f"left unit columns in the file whose names are taken or unfit: {', '.join(left)}"[:500]] if left else []


def _read_unit_columns(nwb_file: "NWBFile", n_units: int) -> dict[str, NDArray[Any] | list[str]]:
    """Read the optional columns that hold one number or one text a unit; ragged and 2-D ones are left in the file."""
    columns: dict[str, NDArray[Any] | list[str]] = {}
    for name in nwb_file.units.colnames:
        column = nwb_file.units[name]
        if not _is_kept(name) or hasattr(column, "target") or np.shape(column.data) != (n_units,):
            continue
        values = _read(column.data, f"column {name} of table units")
        if values.dtype.kind in "iufb" and values.dtype.itemsize <= 8:  # wider floats are not portable
            columns[name] = values.astype(values.dtype.newbyteorder("<"))
        elif values.dtype.kind in "OSU":
            columns[name] = [_as_text(value, f"column {name} of table units") for value in values]
    return columns


def _read_watchlog(tables: Mapping[str, list[Any]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    table = _find_table(tables, WATCHLOG_TABLE)
    pts_s = _numbers(table, "pts", _MAX_LOG_ROWS).astype(np.float64)
    recording_time_ms = _numbers(table, "neural_recording_time", _MAX_LOG_ROWS).astype(np.float64)
    if len(pts_s) == 0:
        raise RecordingError(f"table {WATCHLOG_TABLE} is empty, so no film frame has a recording time")
    if len(pts_s) != len(recording_time_ms):
        raise RecordingError(
            f"table {WATCHLOG_TABLE} has {len(pts_s)} pts but {len(recording_time_ms)} neural_recording_time values"
        )
    return frame_indices(pts_s, "the watch log has pts"), recording_time_ms


def _read_binning(
    tables: Mapping[str, list[Any]],
) -> tuple[dict[int, BinGrid], dict[int, NDArray[np.int64]]]:
    table = _find_table(tables, BINNING_TABLE)
    lengths = _numbers(table, "bin_length")
    edge_data, edge_stops = _ragged(table, "edges")
    edges_s = np.split(_read(edge_data, "column edges").astype(np.float64), edge_stops[:-1])
    grids = {
        int(length): _grid_of_edges(int(length), edges)
        for length, edges in zip(lengths, edges_s, strict=True)
        # Bins shorter than a frame are derived from the frames; their edges would be no frame numbers.
        if int(length) % FRAME_PERIOD_MS == 0
    }
    if not grids:
        raise RecordingError(f"table {BINNING_TABLE} lists no bins of whole {FRAME_PERIOD_MS} ms frames")
    if "frames" not in table.colnames:
        return grids, {}
    name_data, name_stops = _ragged(table, "frames")
    names = np.split(_raw_texts(name_data), name_stops[:-1])
    named_frames = {
        int(length): _frames_of_names(int(length), names_of_length, grids[int(length)].n_bins)
        for length, names_of_length in zip(lengths, names, strict=True)
        if int(length) in grids
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


def _raw_texts(data: Any) -> NDArray[Any]:
    """Read a data set of texts as bytes; pynwb's own view decodes them one by one, slowly."""
    raw = _read(getattr(data, "dset", data), "column frames")
    return np.array([text.encode() if isinstance(text, str) else text for text in raw], dtype=object)


def _frames_of_names(bin_length_ms: int, names: NDArray[Any], n_bins: int) -> NDArray[np.int64]:
    """Return the 0-based frames of names like `frame_000919.jpg`, whose numbers count from 1."""
    where = f"frames of bin_length {bin_length_ms} in table {BINNING_TABLE}"
    # One pass over one long text: a match per name in Python costs ten times as much at 118,161 names.
    numbers = _FRAME_NUMBER.findall(b"\n".join(names))
    if not len(numbers) == len(names) == n_bins:
        raise RecordingError(
            f"the {where} name {len(numbers)} frames in {len(names)} rows, for {n_bins} bins; "
            "one name a bin, like frame_000919.jpg, was expected"
        )
    return np.array(numbers, dtype=np.int64) - 1


def _read_annotations(tables: Mapping[str, list[Any]]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    table = _find_table(tables, ANNOTATION_TABLE)
    label_names = tuple(_texts(table, "label_name"))
    data, stops = _ragged(table, "indicator_function")
    if not label_names or len(set(label_names)) != len(label_names) or len(label_names) != len(stops):
        raise RecordingError(f"table {ANNOTATION_TABLE} does not name each of its {len(stops)} labels once")
    lengths = np.diff(stops, prepend=0)
    if lengths.min() != lengths.max():
        shortest = int(lengths.argmin())
        raise RecordingError(
            f"label {label_names[shortest]} of table {ANNOTATION_TABLE} covers {lengths[shortest]} frames, "
            f"others {lengths.max()}; all must cover the same film"
        )
    values = _read(data, "column indicator_function")
    indicators = values.astype(np.uint8)
    is_allowed = np.zeros(256, dtype=bool)
    is_allowed[list(LABEL_VALUES)] = True
    if not (is_allowed[indicators].all() and np.array_equal(indicators, values)):
        position = int(np.argmin(is_allowed[indicators] & (indicators == values)))
        label = label_names[position // int(lengths[0])]
        raise RecordingError(
            f"label {label} has the value {values[position]} in frame {position % int(lengths[0]) + 1}; "
            f"allowed are {', '.join(map(str, LABEL_VALUES))}"
        )
    return label_names, indicators.reshape(len(label_names), -1)
