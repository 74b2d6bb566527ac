"""Files of labels and features that a user brings -> values on the frames of the film, or what a step of it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import FILM_FRAMES, FRAME_PERIOD_MS, LABEL_VALUES, UNDEFINED
from summer_prep.film.targets import frames_of_intervals, frames_of_samples

Kind = Literal["labels", "features"]

_INTERVALS = (
    ("label", "start_s", "stop_s"),
    ("label", "start_frame", "stop_frame"),
    ("trial_type", "onset", "duration"),
)
"""Columns of a table of intervals: name, start, and stop or (BIDS) duration."""


@dataclass(frozen=True)
class TargetFile:
    """What a file holds; `rows` gives the values of some frames, so that a large array is never in memory twice."""

    kind: Kind
    columns: tuple[str, ...]
    form: str
    """How its rows stand for time, in words."""
    n_frames: int
    rows: Callable[[range], NDArray[Any]]
    """Frames -> (n_frames, n_columns): uint8 0, 1, 99 of labels; float32 of features, NaN where undefined."""
    n_united: int = 0
    """Intervals that overlap an earlier one of their label."""


def read_target(path: Path, name: str, start_s: float | None, step_s: float | None, lengths: range) -> TargetFile:
    """Read a file of labels or features.

    Parameters
    ----------
    name : of an array of one column without a name
    start_s, step_s : of an array whose rows are regular samples; one row for each frame without
    lengths : how many rows for each frame an array may have; demo films are shorter than the real one

    Raises
    ------
    SettingsError : the file cannot be read, or is not a target of this film
    """
    try:
        values, columns = _table_or_array(path)
    except Exception as error:  # damaged bytes lead to whatever their parser raises
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        advice = "Name a .csv, .tsv, .parquet, .npy or .npz file"
        raise SettingsError(f"{path}: cannot be read ({reason}). {advice}") from error
    try:
        intervals = next((one for one in _INTERVALS if set(one) <= set(columns)), None)
        if intervals is not None and not isinstance(values, np.ndarray):
            return _from_intervals(values, intervals)
        return _from_array(values, columns or (name,), start_s, step_s, lengths)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _table_or_array(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return a table and its columns, or an array, mapped where that is possible, without names."""
    suffix = path.suffix.lower()
    if path.exists() and not path.is_file():  # a pipe would never end
        raise ValueError("it is not a file")
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False), ()
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"it holds {len(arrays.files)} arrays: {', '.join(arrays.files)}; one is allowed")
            return arrays[arrays.files[0]], ()
    import pandas as pd

    if suffix == ".parquet":
        table = pd.read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        table = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", skipinitialspace=True)
    else:
        raise ValueError(f"files that end in {suffix or 'nothing'} are not known")
    return table, tuple(map(str, table.columns))


def _from_intervals(table: Any, columns: Sequence[str]) -> TargetFile:
    if table[columns[0]].isna().any():
        raise SettingsError(f"{columns[0]} is empty in a row. Name the label of each interval")
    names = table[columns[0]].astype(str).tolist()
    try:
        start, stop = (table[name].to_numpy(dtype=float) for name in columns[1:])
    except ValueError as error:
        raise SettingsError(f"{columns[1]} and {columns[2]} must be numbers ({error})") from error
    if columns[1] == "start_frame":
        start, stop = start * FRAME_PERIOD_MS / 1000, stop * FRAME_PERIOD_MS / 1000
    elif columns[2] == "duration":
        stop = start + stop
    labels, values, n_united = frames_of_intervals(names, start, stop)
    form = f"{len(names)} intervals ({', '.join(columns)})"
    return TargetFile(
        "labels", tuple(labels), form, FILM_FRAMES, lambda frames: values.T[frames.start : frames.stop], n_united
    )


def _from_array(
    table: Any, columns: Sequence[str], start_s: float | None, step_s: float | None, lengths: range
) -> TargetFile:
    is_labels = False
    if not isinstance(table, np.ndarray):
        table = table.convert_dtypes()  # whole numbers beside empty cells stay whole
        is_labels = all(dtype.kind in "iub" for dtype in table.dtypes)
        if not all(dtype.kind in "iubf" for dtype in table.dtypes):
            wrong = next(name for name, dtype in zip(columns, table.dtypes, strict=True) if dtype.kind not in "iubf")
            of_intervals = " or ".join(map(", ".join, _INTERVALS))
            raise SettingsError(f"column {wrong!r} is not a number. Intervals have the columns {of_intervals}")
        table = table.to_numpy(dtype=np.float32, na_value=np.nan)
    elif table.dtype.kind in "iub":
        is_labels = True
    elif table.dtype.kind != "f":
        raise SettingsError(f"values are {table.dtype}; numbers are allowed")
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or not table.size:
        raise SettingsError(f"an array of shape {table.shape}; (n_frames,) or (n_frames, n_columns) is allowed")
    if len(columns) != table.shape[1]:
        columns = [f"{columns[0]}_{number}" for number in range(table.shape[1])]
    is_labels = is_labels and bool((np.isin(table, LABEL_VALUES) | np.isnan(table)).all())
    if step_s is None:
        if len(table) not in lengths:
            allowed = f"{lengths.start}" + (f" to {lengths[-1]}" if len(lengths) > 1 else "")
            problem = f"{len(table)} rows, but the film has {allowed} frames of {FRAME_PERIOD_MS} ms"
            advice = "Give one row for each frame, or name the times of the rows with --start-s and --step-s"
            raise SettingsError(f"{problem}. {advice}")
        start_s, step_s = 0.0, FRAME_PERIOD_MS / 1000
        form, n_frames = "a row for each frame", len(table)
    else:
        start_s = start_s or 0.0
        form, n_frames = f"a row every {step_s:g} s from {start_s:g} s", FILM_FRAMES

    def rows(frames: range) -> NDArray[Any]:
        found = frames_of_samples(table, start_s, step_s, frames)
        if not is_labels:
            return found
        return np.where(np.isin(found, LABEL_VALUES), found, np.float32(UNDEFINED)).astype(np.uint8)

    frames_of_samples(table, start_s, step_s, range(1))  # refuses what lies beyond the film
    return TargetFile("labels" if is_labels else "features", tuple(columns), form, n_frames, rows)
