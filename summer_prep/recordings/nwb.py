"""SUMMER's tables in an NWB file: one recording in, plain arrays with their units in their names out."""

import re
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
    column_names,
    find_table,
    kind_of,
    opened,
    ragged_column,
    read,
    read_column,
    text_at,
)

BINNING_TABLE = "movie_binning_info"
ANNOTATION_TABLE = "movie_annotations_indicator_functions"
WATCHLOG_TABLE = "cleaned_watchlogs"

_BYTES_PER_SPIKE = 90
_BYTES_PER_LOG_ROW = 200
"""Memory that a build takes for each, measured: 0.9 GB for 10 million spikes."""

_COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""Unit columns become folders of the cache; others are left in the file."""
_TAKEN_NAMES = {*DIMENSIONS, *(dimension for dimensions in DIMENSIONS.values() for dimension in dimensions)}


def read_recording(path: Path) -> Recording:
    """Read everything that the cache needs from one NWB file, opening it once.

    Raises
    ------
    RecordingError : the file is missing, damaged, or does not hold what a SUMMER recording must hold
    """
    patient_id = patient_id_of(path)
    before = file_identity(path)
    # Hashing releases the interpreter, so it costs no time of its own. Annotations, which are most of a file, are read
    # while Python parses names.
    with opened(path) as file, ThreadPoolExecutor(2) as pool:
        sha256 = pool.submit(recording_sha256, path)
        annotations = pool.submit(_read_annotations, file)
        spike_times_ms, spike_stops, notes = _read_spikes(file)
        numbers, texts, notes_on_columns = _read_unit_columns(file["units"], len(spike_stops))
        frame_index, recording_time_ms = _read_watchlog(file)
        grids, named_frames = _read_binning(file)
        label_names, indicators = annotations.result()
        descriptions = {
            name: str(file["units"][name].attrs.get("description", ""))[:200]
            for name in column_names(file["units"])
            if name in numbers or name in texts
        }
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
        numeric_columns=numbers,
        text_columns=texts,
        column_descriptions=descriptions,
        notes=tuple(notes),
    )


def _read_spikes(file: h5py.File) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Return spike times (ms) unit after unit, ascending within each; where each unit's end; notes."""
    units = child(file, "units")
    if not isinstance(units, h5py.Group) or len(units.get("id", [0])) == 0:
        raise RecordingError("no units: the table is missing or empty, so there is nothing to bin")
    data, stops = ragged_column(units, "spike_times", "numbers")
    spike_times_ms = read(data, _BYTES_PER_SPIKE).astype(np.float64)
    unit_of_spike = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    bad = ~np.isfinite(spike_times_ms)
    if bad.any():
        raise RecordingError(
            f"{int(bad.sum())} spike times are not numbers, the first in unit {unit_of_spike[np.argmax(bad)]} "
            "(counted from 0). Repair the file or leave the patient out"
        )
    unsorted = np.unique(unit_of_spike[1:][(np.diff(spike_times_ms) < 0) & (np.diff(unit_of_spike) == 0)])
    starts = np.concatenate([[0], stops[:-1]])
    for unit in unsorted:
        spike_times_ms[starts[unit] : stops[unit]].sort()
    notes = [f"sorted the spike times of {len(unsorted)} units that were out of order"] if len(unsorted) else []
    return spike_times_ms, stops, notes


def _read_unit_columns(
    units: h5py.Group, n_units: int
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]], list[str]]:
    """Read the optional columns that hold one number or one text a unit; ragged and 2-D ones are left in the file.

    Returns
    -------
    column name -> numbers, (n_units,); column name -> texts; notes
    """
    numbers: dict[str, NDArray[Any]] = {}
    texts: dict[str, list[str]] = {}
    bad_names, bad_values = [], []
    for name in column_names(units):
        is_elsewhere = isinstance(units.get(name, getlink=True), h5py.ExternalLink)
        data = None if is_elsewhere else units.get(name)
        kind = kind_of(data) if isinstance(data, h5py.Dataset) else None
        if not _COLUMN_NAME.fullmatch(name) or name in _TAKEN_NAMES:
            bad_names.append(name)
        elif f"{name}_index" in units:
            continue
        elif kind:  # by type alone: following references takes minutes and gigabytes
            values = read_column(units, name, kind)
            check_rows(units, spike_times=n_units, **{name: len(values)})
            if kind == "text":
                texts[name] = values.tolist()
            else:
                numbers[name] = values.astype(values.dtype.newbyteorder("<"))
        elif data is None or len(data.shape or ()) < 2 or data.shape[0] != n_units:  # not a matrix, like waveforms
            bad_values.append(name)
    notes = [
        f"left unit columns in the file {why}: {', '.join(names)[:400]}"
        for names, why in (
            (bad_names, "whose names are taken or unfit"),
            (bad_values, "that do not hold one number, flag or text a unit"),
        )
        if names
    ]
    is_single = numbers.get("is_single_unit", texts.get("is_single_unit", []))
    if n_odd := int((~np.isin(is_single, (0, 1))).sum()):
        notes.append(f"is_single_unit is neither 0 nor 1 for {n_odd} of {n_units} units, which count as multi-units")
    return numbers, texts, notes


def _read_watchlog(file: h5py.File) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return frame and recording time (ms) of each row of the watch log."""
    table = find_table(file, WATCHLOG_TABLE)
    pts_s, recording_time_ms = (
        read_column(table, name, "numbers", _BYTES_PER_LOG_ROW).astype(np.float64)
        for name in ("pts", "neural_recording_time")
    )
    check_rows(table, pts=len(pts_s), neural_recording_time=len(recording_time_ms))
    if len(pts_s) == 0:
        raise RecordingError(f"table {WATCHLOG_TABLE} is empty, so no film frame has a recording time")
    return frame_indices(pts_s, "the watch log has pts"), recording_time_ms


def _read_binning(file: h5py.File) -> tuple[dict[int, BinGrid], dict[int, NDArray[np.int64]]]:
    """Return bin length (ms) -> bins, and -> the film frames that the file names, 0-based.

    Names are like `frame_000919.jpg`, whose numbers count from 1.
    """
    table = find_table(file, BINNING_TABLE)
    lengths = read_column(table, "bin_length", "numbers")
    if not np.isfinite(lengths).all():
        raise RecordingError(f"column bin_length of table {BINNING_TABLE} does not hold numbers")
    columns = {"edges": ragged_column(table, "edges", "numbers")}
    if "frames" in column_names(table):
        columns["frames"] = ragged_column(table, "frames", "text")
    check_rows(table, bin_length=len(lengths), **{name: len(stops) for name, (_, stops) in columns.items()})
    rows = {name: np.split(read(data), stops[:-1]) for name, (data, stops) in columns.items()}
    grids: dict[int, BinGrid] = {}
    named_frames: dict[int, NDArray[np.int64]] = {}
    for row, length in enumerate(lengths.astype(np.int64).tolist()):
        # Bins shorter than a frame are derived from the frames; their edges would be no frame numbers.
        if length % FRAME_PERIOD_MS:
            continue
        where = f"of bin_length {length} in table {BINNING_TABLE}"
        edges_s = rows["edges"][row].astype(np.float64)
        frames = frame_indices(edges_s, f"one of the edges {where}")
        wrong = np.diff(frames) != length // FRAME_PERIOD_MS
        if len(frames) < 2 or length <= 0 or wrong.any():
            bad = int(np.argmax(wrong)) if len(wrong) else 0
            raise RecordingError(
                f"the edges {where} are not {length} ms apart: bin {bad} has edges at {edges_s[bad : bad + 2]} s"
            )
        grids[length] = BinGrid(first_frame=int(frames[0]), n_bins=len(wrong), frames_per_bin=length // FRAME_PERIOD_MS)
        if "frames" in rows:
            # One pass over one long text: a match per name in Python costs ten times as much at 118,161 names.
            names = rows["frames"][row]
            numbers = re.findall(rb"(\d+)\.", b"\n".join(names.tolist()))
            if not len(numbers) == len(names) == len(wrong):
                raise RecordingError(
                    f"the frames {where} name {len(numbers)} frames in {len(names)} rows, for {len(wrong)} bins; "
                    "one name a bin, like frame_000919.jpg, was expected"
                )
            named_frames[length] = np.array(numbers, dtype=np.int64) - 1
    if not grids:
        raise RecordingError(f"table {BINNING_TABLE} lists no bins of whole {FRAME_PERIOD_MS} ms frames")
    return grids, named_frames


def _read_annotations(file: h5py.File) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the names of the labels, and their values in every frame, (n_labels, n_frames)."""
    table = find_table(file, ANNOTATION_TABLE)
    label_names = tuple(read_column(table, "label_name", "text").tolist())
    data, stops = ragged_column(table, "indicator_function", "numbers")
    if not label_names or len(set(label_names)) != len(label_names) or len(label_names) != len(stops):
        raise RecordingError(f"table {ANNOTATION_TABLE} does not name each of its {len(stops)} labels once")
    lengths = np.diff(stops, prepend=0)
    n_frames = int(lengths.max())
    if lengths.min() != n_frames:
        shortest = int(lengths.argmin())
        raise RecordingError(
            f"label {label_names[shortest]} of table {ANNOTATION_TABLE} covers {lengths[shortest]} frames, "
            f"others {n_frames}; all must cover the same film"
        )
    values = read(data)
    indicators = values.astype(np.uint8)
    is_allowed = np.isin(np.arange(256), LABEL_VALUES)[indicators] & (indicators == values)
    if not is_allowed.all():
        label, frame = divmod(int(np.argmin(is_allowed)), n_frames)
        raise RecordingError(
            f"label {label_names[label]} has the value {values[label * n_frames + frame]} in frame {frame + 1}; "
            f"allowed are {', '.join(map(str, LABEL_VALUES))}"
        )
    return label_names, indicators.reshape(len(label_names), -1)
