"""Labels and features that a user brings, on the frames of the film and on bins. Pure arithmetic.

intervals  label,start,stop        -> (n_labels, n_frames) 0 or 1
samples    every step_s seconds    -> (n_frames, n_columns): mean of those within a frame, or the one that covers it
frames     (n_frames, n_columns)   -> (n_bins, n_columns): the mean of a bin's frames
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import FILM_FRAMES, FRAME_PERIOD_MS

_NOISE = 1e-6
"""Of a frame or a sample: times are decimal fractions, so a boundary is met up to rounding."""


def frames_of_intervals(
    names: Sequence[str], start_s: NDArray[np.float64], stop_s: NDArray[np.float64], n_frames: int = FILM_FRAMES
) -> tuple[list[str], NDArray[np.uint8], int]:
    """Return label names, their values on each frame, and how many intervals were united with another of their label.

    Parameters
    ----------
    names : of the label of each interval
    start_s, stop_s : (n_intervals,) film clock; frame p is on from p * 0.04 s, and in an interval if its start is

    Returns
    -------
    Names in the order in which they come first; (n_labels, n_frames) 0 or 1; number of intervals that overlap an
    earlier one of their label

    Raises
    ------
    SettingsError : an interval that ends before it starts, or lies beyond the film

    Source: our decision, half-open as all intervals here.
    """
    if not len(names):
        raise SettingsError("there is no interval in it. Write one in each row")
    length_s = n_frames * FRAME_PERIOD_MS / 1000
    wrong = ~(np.isfinite(start_s) & np.isfinite(stop_s)) | (start_s >= stop_s)
    if wrong.any():
        row = int(wrong.argmax())
        raise SettingsError(
            f"interval {row + 1} ({names[row]}) runs from {start_s[row]:g} to {stop_s[row]:g} s: "
            "it must end after it starts"
        )
    beyond = (start_s < 0) | (stop_s > length_s + _NOISE)
    if beyond.any():
        row, unit = int(beyond.argmax()), ""
        if (stop_s > 2 * length_s).mean() > 0.5 and (stop_s / 1000 <= length_s).all():
            unit = " Nearly all do, so these seem to be milliseconds: divide them by 1000."
        raise SettingsError(
            f"interval {row + 1} ({names[row]}) runs from {start_s[row]:g} to {stop_s[row]:g} s, but the film from 0 "
            f"to {length_s:g} s.{unit} Write seconds in start_s and stop_s, or frames in start_frame and stop_frame"
        )
    first = np.ceil(start_s * 1000 / FRAME_PERIOD_MS - _NOISE).astype(np.int64)
    stop = np.ceil(stop_s * 1000 / FRAME_PERIOD_MS - _NOISE).astype(np.int64)
    labels = list(dict.fromkeys(names))
    values = np.zeros((len(labels), n_frames), dtype=np.uint8)
    n_united = 0
    for row in np.argsort(first, kind="stable"):
        frames = values[labels.index(names[row]), first[row] : stop[row]]
        n_united += bool(frames.any())
        frames[:] = 1
    return labels, values, n_united


def frames_of_samples(
    values: NDArray[Any], start_s: float, step_s: float, frames: range = range(FILM_FRAMES)
) -> NDArray[np.float32]:
    """Return regular samples on some frames of the film, (n_frames, n_columns); NaN where there is no sample.

    Parameters
    ----------
    values : (n_samples, n_columns), also mapped from a file: only the rows of these frames are read. Sample i covers
        [start_s + i * step_s, start_s + (i + 1) * step_s) of the film

    Samples that are shorter than a frame are averaged over those that start within it; a longer one is the value of
    each frame that starts within it.

    Raises
    ------
    SettingsError : a step below 1 microsecond or beyond the film, or samples that lie beyond it
    """
    frame_s, end_s = FRAME_PERIOD_MS / 1000, start_s + len(values) * step_s
    is_possible = 1e-6 <= step_s <= FILM_FRAMES * frame_s and -step_s <= start_s
    if not (is_possible and end_s <= FILM_FRAMES * frame_s + step_s):
        raise SettingsError(
            f"{len(values)} samples from {start_s:g} s every {step_s:g} s end at {end_s:g} s, but the film runs from 0 "
            f"to {FILM_FRAMES * frame_s:g} s. Correct --start-s and --step-s"
        )
    out = np.full((len(frames), values.shape[1]), np.nan, dtype=np.float32)
    if step_s >= frame_s:
        sample = np.floor((np.array(frames) * frame_s - start_s) / step_s + _NOISE).astype(np.int64)
        inside = (sample >= 0) & (sample < len(values))
        out[inside] = values[sample[inside]]
        return out
    first = max(0, int((frames.start * frame_s - start_s) / step_s) - 1)
    sample = np.arange(first, min(len(values), int((frames.stop * frame_s - start_s) / step_s) + 2))
    row = np.floor((start_s + sample * step_s) / frame_s + _NOISE).astype(np.int64) - frames.start
    sample = sample[(row >= 0) & (row < len(frames))]
    row = row[(row >= 0) & (row < len(frames))]
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    if len(starts):
        totals = np.add.reduceat(values[sample[0] : sample[-1] + 1], starts, axis=0, dtype=np.float64)
        out[row[starts]] = totals / np.diff(starts, append=len(row))[:, None]
    return out


def bins_of_frames(
    values: NDArray[np.float32], first_frame: NDArray[np.integer[Any]], frames_per_bin: int
) -> NDArray[np.float32]:
    """Return the mean of each bin's frames, (n_bins, n_columns); NaN where one of them is undefined.

    Parameters
    ----------
    values : (n_frames, n_columns)
    first_frame : (n_bins,) from 0, increasing
    frames_per_bin : 1 for bins of a frame or a part of one
    """
    total = values[first_frame].astype(np.float64)
    for frame in range(1, frames_per_bin):
        total += values[first_frame + frame]
    return np.asarray(total / frames_per_bin, dtype=np.float32)
