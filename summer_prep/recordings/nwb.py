"""SUMMER's tables in an NWB file: one recording in, plain arrays with their units in their names out.

With h5py and not pynwb, which builds an object of everything in a file and refuses all of it for a part that is not
needed here. Links to other files are never followed.
"""

import errno
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import DIMENSIONS, file_sha256
from summer_prep.errors import RecordingError
from summer_prep.film.align import Recording, Source
from summer_prep.film.bins import BinGrid
from summer_prep.film.clock import frame_indices
from summer_prep.film.facts import FRAME_PERIOD_MS, LABEL_VALUES
from summer_prep.options import as_patient_id
from summer_prep.recordings.find import patient_id_of, source_identity
from summer_prep.resources import available_bytes

BINNING_TABLE = "movie_binning_info"
ANNOTATION_TABLE = "movie_annotations_indicator_functions"
WATCHLOG_TABLE = "cleaned_watchlogs"

Kind = Literal["numbers", "text"]

_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError)
"""What h5py raises depends on which byte is damaged."""


def read_recording(path: Path) -> Recording:
    """Read everything that the cache needs from one NWB file, opening it once.

    Raises RecordingError if it is missing, damaged, or does not hold what a SUMMER recording must hold.
    """
    patient_id = patient_id_of(path)
    before = source_identity(path)
    # Hashing releases the interpreter, so it costs no time of its own. Annotations, which are most of a file, are read
    # while Python parses names.
    with _opened(path) as file, ThreadPoolExecutor(2) as pool:
        sha256 = pool.submit(file_sha256, path)
        annotations = pool.submit(_read_annotations, file)
        spike_times_ms, spike_stops, notes = _read_spikes(file)
        numbers, texts, descriptions = _read_unit_columns(file["units"], len(spike_stops), notes)
        log = _find_table(file, WATCHLOG_TABLE)
        names = ("pts", "neural_recording_time")
        pts_s, recording_time_ms = (_read_column(log, name, "numbers").astype(np.float64) for name in names)
        _check_rows(log, pts=len(pts_s), neural_recording_time=len(recording_time_ms))
        if len(pts_s) == 0:
            raise RecordingError(f"table {WATCHLOG_TABLE} is empty, so no film frame has a recording time")
        frame_index = frame_indices(pts_s, "the watch log has pts")
        grids, named_frames = _read_binning(file)
        label_names, indicators = annotations.result()
        identifier, session_id = _text_at(file, "identifier"), _text_at(file, "general/session_id")
        source = Source(path.name, path.stat().st_size, sha256.result(), identifier, session_id)
    if as_patient_id(session_id) not in (session_id, patient_id):
        notes.append(f"{path.name} says that it is session {session_id}")
    recording = Recording(
        patient_id=patient_id, source=source, spike_times_ms=spike_times_ms, spike_stops=spike_stops,
        frame_index=frame_index, recording_time_ms=recording_time_ms,
        grids=grids, named_frames=named_frames, label_names=label_names, indicators=indicators,
        numeric_columns=numbers, text_columns=texts, column_descriptions=descriptions, notes=tuple(notes),
    )  # fmt: skip
    if source_identity(path) != before:
        raise RecordingError(f"{path}: the file changed while it was read. Run the build again")
    return recording


def _read_spikes(file: h5py.File) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Return spike times (ms) unit after unit, ascending within each; where each unit's end; notes."""
    units = _child(file, "units")
    if not isinstance(units, h5py.Group) or len(units.get("id", [0])) == 0:
        raise RecordingError("no units: the table is missing or empty, so there is nothing to bin")
    data, stops = _ragged_column(units, "spike_times", "numbers")
    spike_times_ms = _read(data, bytes_per_value=90).astype(np.float64)
    unit_of_spike = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    bad = ~np.isfinite(spike_times_ms)
    if bad.any():
        first = f"the first in unit {unit_of_spike[np.argmax(bad)]} (counted from 0)"
        problem = f"{int(bad.sum())} spike times are not numbers, {first}"
        raise RecordingError(f"{problem}. Repair the file or leave the patient out")
    unsorted = np.unique(unit_of_spike[1:][(np.diff(spike_times_ms) < 0) & (np.diff(unit_of_spike) == 0)])
    starts = np.concatenate([[0], stops[:-1]])
    for unit in unsorted:
        spike_times_ms[starts[unit] : stops[unit]].sort()
    notes = [f"sorted the spike times of {len(unsorted)} units that were out of order"] if len(unsorted) else []
    return spike_times_ms, stops, notes


def _read_unit_columns(
    units: h5py.Group, n_units: int, notes: list[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]], dict[str, str]]:
    """Return name -> numbers, texts, description of the optional columns of one a unit, and note what is left out."""
    numbers: dict[str, NDArray[Any]] = {}
    texts: dict[str, list[str]] = {}
    descriptions: dict[str, str] = {}
    bad_names, bad_values = [], []
    taken = {*DIMENSIONS, *(dimension for dimensions in DIMENSIONS.values() for dimension in dimensions)}
    for name in _column_names(units):
        is_elsewhere = isinstance(units.get(name, getlink=True), h5py.ExternalLink)
        data = None if is_elsewhere else units.get(name)
        if name in taken or not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,63}", name):
            bad_names.append(name)  # columns become folders of the cache
        elif f"{name}_index" in units:
            continue
        elif isinstance(data, h5py.Dataset) and (kind := _kind_of(data)):
            # By type alone: following references takes minutes and gigabytes.
            values = _read_column(units, name, kind)
            _check_rows(units, spike_times=n_units, **{name: len(values)})
            descriptions[name] = str(data.attrs.get("description", ""))[:200]
            if kind == "text":
                texts[name] = values.tolist()
            else:
                numbers[name] = values.astype(values.dtype.newbyteorder("<"))
        elif not isinstance(data, h5py.Dataset) or len(data.shape or ()) < 2 or len(data) != n_units:
            bad_values.append(name)  # and no matrix, like waveforms
    if bad_names:
        notes.append(f"left unit columns in the file whose names are taken or unfit: {', '.join(bad_names)[:400]}")
    if bad_values:
        what = "one number, flag or text a unit"
        notes.append(f"left unit columns in the file that do not hold {what}: {', '.join(bad_values)[:400]}")
    is_single = numbers.get("is_single_unit", texts.get("is_single_unit", []))
    if n_odd := int((~np.isin(is_single, (0, 1))).sum()):
        notes.append(f"is_single_unit is neither 0 nor 1 for {n_odd} of {n_units} units, which count as multi-units")
    return numbers, texts, descriptions


def _read_binning(file: h5py.File) -> tuple[dict[int, BinGrid], dict[int, NDArray[np.int64]]]:
    """Return bin length (ms) -> bins, and -> the film frames that the file names, 0-based.

    Names are like `frame_000919.jpg`, whose numbers count from 1.
    """
    table = _find_table(file, BINNING_TABLE)
    lengths = _read_column(table, "bin_length", "numbers")
    data, stops = _ragged_column(table, "edges", "numbers")
    _check_rows(table, bin_length=len(lengths), edges=len(stops))
    if not np.isfinite(lengths).all():
        raise RecordingError(f"column bin_length of table {BINNING_TABLE} does not hold numbers")
    lengths = lengths.astype(np.int64).tolist()
    grids: dict[int, BinGrid] = {}
    for length, edges_s in zip(lengths, np.split(_read(data).astype(np.float64), stops[:-1]), strict=True):
        # Bins shorter than a frame are derived from the frames; their edges would be no frame numbers.
        if length % FRAME_PERIOD_MS == 0:
            where, n_frames = f"edges of bin_length {length} in table {BINNING_TABLE}", length // FRAME_PERIOD_MS
            frames = frame_indices(edges_s, f"one of the {where}")
            wrong = np.diff(frames) != n_frames
            if len(frames) < 2 or n_frames < 1 or wrong.any():
                bad = int(np.argmax(wrong)) if len(wrong) else 0
                found = f"bin {bad} has edges at {edges_s[bad : bad + 2]} s"
                raise RecordingError(f"the {where} are not {length} ms apart: {found}")
            grids[length] = BinGrid(first_frame=int(frames[0]), n_bins=len(wrong), frames_per_bin=n_frames)
    if not grids:
        raise RecordingError(f"table {BINNING_TABLE} lists no bins of whole {FRAME_PERIOD_MS} ms frames")
    named_frames: dict[int, NDArray[np.int64]] = {}
    if "frames" in _column_names(table):
        data, stops = _ragged_column(table, "frames", "text")
        _check_rows(table, bin_length=len(lengths), frames=len(stops))
        for length, names in zip(lengths, np.split(_read(data), stops[:-1]), strict=True):
            # One pass over one long text: a match per name in Python costs ten times as much at 118,161 names.
            numbers = re.findall(rb"(\d+)\.", b"\n".join(names.tolist()))
            if grid := grids.get(length):
                if not len(numbers) == len(names) == grid.n_bins:
                    found = f"{len(numbers)} frames in {len(names)} rows, for {grid.n_bins} bins of {length} ms"
                    problem = f"column frames of table {BINNING_TABLE} names {found}"
                    raise RecordingError(f"{problem}; one a bin, like frame_000919.jpg, was expected")
                named_frames[length] = np.array(numbers, dtype=np.int64) - 1
    return grids, named_frames


def _read_annotations(file: h5py.File) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the names of the labels, and their values in every frame, (n_labels, n_frames)."""
    table = _find_table(file, ANNOTATION_TABLE)
    label_names = tuple(_read_column(table, "label_name", "text").tolist())
    data, stops = _ragged_column(table, "indicator_function", "numbers")
    if not label_names or len(set(label_names)) != len(label_names) or len(label_names) != len(stops):
        raise RecordingError(f"table {ANNOTATION_TABLE} does not name each of its {len(stops)} labels once")
    lengths = np.diff(stops, prepend=0)
    n_frames = int(lengths.max())
    if lengths.min() != n_frames:
        shortest = int(lengths.argmin())
        found = f"label {label_names[shortest]} covers {lengths[shortest]} frames, others {n_frames}"
        raise RecordingError(f"table {ANNOTATION_TABLE}: {found}; all must cover the same film")
    values = _read(data)
    indicators = values.astype(np.uint8)
    is_allowed = np.isin(np.arange(256), LABEL_VALUES)[indicators] & (indicators == values)
    if not is_allowed.all():
        label, frame = divmod(int(np.argmin(is_allowed)), n_frames)
        found = f"label {label_names[label]} has the value {values[label * n_frames + frame]} in frame {frame + 1}"
        raise RecordingError(f"{found}; allowed are {', '.join(map(str, LABEL_VALUES))}")
    return label_names, indicators.reshape(len(label_names), -1)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a recording for reading; errors that are raised inside become a RecordingError with the file's path."""
    with suppress(ImportError):
        import_module("hdf5plugin")  # registers compressions that HDF5 itself does not have
    try:
        with h5py.File(path, "r") as file:
            if not {"nwb_version", "neurodata_type"} & set(file.attrs):
                raise RecordingError("cannot be read as an NWB file: it is HDF5, but has no nwb_version")
            yield file
    except (RecordingError, *_DAMAGE) as error:
        code, words = getattr(error, "errno", None), " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if isinstance(error, RecordingError):
            problem = str(error)
        elif code in (errno.EAGAIN, errno.ENOLCK, errno.EOPNOTSUPP):
            cause = "it is open in another program, or its file system has no locks"
            advice = "Close it there, or set HDF5_USE_FILE_LOCKING=FALSE in the environment if nothing writes to it"
            problem = f"cannot be locked ({os.strerror(code)}): {cause}. {advice}"
        elif code is not None:
            problem = f"cannot be read ({os.strerror(code)}). Check --data-dir and --nwb-path"
        elif not h5py.is_hdf5(path):
            problem = "not an HDF5 file, so not an NWB recording. Check whether it is empty, a pointer or an error page"
        else:
            problem = f"cannot be read as an NWB file: it is cut short or damaged ({words}). Download it again"
        raise RecordingError(f"{path}: {problem}") from error


def _child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a child of a group; None if there is none. Raises RecordingError if it is in another file."""
    link = group.get(name, getlink=True)
    item = None if isinstance(link, h5py.ExternalLink) else group.get(name)
    # A link within the file may lead to one out of it.
    other = link.filename if isinstance(link, h5py.ExternalLink) else item is not None and item.file.filename
    if other and other != group.file.filename:
        raise RecordingError(f"{group.name.rstrip('/')}/{name} links to another file ({other}), which is refused")
    return item


def _find_table(file: h5py.File, name: str) -> h5py.Group:
    """Return the table of this name in any group: every layout in use, and the next one. Raises RecordingError."""
    paths: list[str] = []
    file.visit(paths.append)  # visits every object once, and follows no link
    found = [file[path] for path in paths if path.rpartition("/")[2] == name and "colnames" in file[path].attrs]
    if not found:
        raise RecordingError(f"no table {name} in any module. Is this file of the SUMMER data set (DANDI 001616)?")
    first, *others = found
    for other in others:
        are_equal = (np.array_equal(_read(_column(first, one)), _read(_column(other, one))) for one in first)
        if set(first) != set(other) or not all(are_equal):
            raise RecordingError(f"two tables {name} that differ, {first.name} and {other.name}. Remove the wrong one")
    return first


def _column_names(table: h5py.Group) -> list[str]:
    return [_as_text(name) for name in np.atleast_1d(table.attrs.get("colnames", []))]


def _column(table: h5py.Group, name: str, kind: Kind | None = None, is_ragged: bool = False) -> h5py.Dataset:
    """Return a column's data set, unread, which holds values of a kind, or lists of them; raises RecordingError."""
    data = _child(table, name)
    if not isinstance(data, h5py.Dataset):
        raise RecordingError(f"no column {name} in table {table.name}; it has {', '.join(_column_names(table))}")
    if kind and (_kind_of(data) != kind or (f"{name}_index" in table) != is_ragged):
        a_row = f"a list of {kind} a row, with a column {name}_index" if is_ragged else f"{kind}, one value a row"
        raise RecordingError(f"column {data.name} does not hold {a_row}; its type is {data.dtype}, shape {data.shape}")
    return data


def _kind_of(data: h5py.Dataset) -> Kind | None:
    """Return what a column holds, one value a row: (n,), or (n, 1) as MatNWB writes it; None for anything else."""
    if not data.shape or data.shape[1:] not in ((), (1,)):
        return None
    if h5py.check_string_dtype(data.dtype) is not None:
        return "text"
    # Floats wider than 64 bits are not portable, so they do not count as numbers.
    return "numbers" if data.dtype.kind in "iufb" and data.dtype.itemsize <= 8 else None


def _read(data: h5py.Dataset, bytes_per_value: int = 16) -> NDArray[Any]:
    """Read a whole data set, (n,); raises RecordingError.

    `bytes_per_value` is the memory that it and what is made of it take, for a spike as measured in a build of 10
    million; what does not fit into free memory is refused.
    """
    if data.external or data.is_virtual:
        raise RecordingError(f"column {data.name} keeps its values in another file, which is refused")
    n_values = math.prod(data.shape or ())
    n_bytes = n_values * max(bytes_per_value, data.dtype.itemsize)
    if n_bytes > available_bytes():
        takes = f"which take about {n_bytes / 1e9:.1f} GB; {available_bytes() / 1e9:.1f} GB are free"
        advice = "Use fewer --workers, or a machine with more memory"
        raise RecordingError(f"column {data.name} declares {n_values} values, {takes}. {advice}")
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if not all(map(h5py.h5z.filter_avail, filters)):
        by = f"HDF5 filter {', '.join(map(str, filters))}, which is not installed"
        raise RecordingError(f"column {data.name} is compressed by {by}. Install it: pip install hdf5plugin")
    return np.asarray(data[()]).reshape(n_values)


def _read_column(table: h5py.Group, name: str, kind: Kind) -> NDArray[Any]:
    """Read a column of one number or text a row, (n_rows,); texts as str. Raises RecordingError."""
    values = _read(_column(table, name, kind))
    return np.array([_as_text(value) for value in values], dtype=object) if kind == "text" else values


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _text_at(file: h5py.File, name: str) -> str:
    """Return a single text, like the session's id; empty if there is none."""
    data = _child(file, name)
    if isinstance(data, h5py.Dataset) and h5py.check_string_dtype(data.dtype) and data.size == 1:
        return _as_text(np.ravel(data[()])[0])
    return ""


def _ragged_column(table: h5py.Group, name: str, kind: Kind) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """Return a ragged column's data set, unread, and where each row stops in it, (n_rows,); raises RecordingError."""
    data = _column(table, name, kind, is_ragged=True)
    stops = _read_column(table, f"{name}_index", "numbers")
    steps = np.diff(stops.astype(np.int64), prepend=0)
    if stops.dtype.kind not in "iu" or (steps < 0).any() or (len(stops) and steps.sum() != len(data)):
        found = f"{stops[-1:]} instead of {len(data)}"
        raise RecordingError(f"column {data.name}_index runs backwards or past the end: {found}")
    return data, stops.astype(np.int64)


def _check_rows(table: h5py.Group, **rows: int) -> None:
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} has {n} rows" for name, n in rows.items())
        raise RecordingError(f"columns of table {table.name} differ in length: {found}")
