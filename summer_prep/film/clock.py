"""From the watch log to what the film did at every moment, and whether its times can be right. Pure arithmetic."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError
from summer_prep.film.facts import FRAME_PERIOD_MS, LONG_FRAME_MS, LongFrames
from summer_prep.film.splits import stretches

MAX_FILLED_STEP_FRAMES = 5

FRAME_MS = 41.0
"""How long a film frame lasts on the recording clock. Source: the data set's watch logs (41 ms, with jitter)."""

UNITS_MS = {"seconds": 1000.0, "microseconds": 1e-3, "samples (of 32,768 or 30,000 Hz)": 1000 / 32768}
"""Unit -> its length in ms. Source: NWB's convention, the amplifier's time stamps, and usual sampling rates, which are
too alike to be told apart here."""

# Limits of `check_clocks`. Source: our decision.
MIN_SPIKES, MIN_FRAMES = 200, 100  # below these nothing is concluded
MIN_SPIKES_OF_OTHER_CLOCK = 2000  # the same where no unit explains that spikes lie outside the log
MAX_FIT, MIN_OTHER_FIT = 0.1, 0.5  # of ms and of the unit that spikes seem to be in; patient 8 in ms, see below: 0.3
MIN_SHARE_INSIDE = 0.01  # fewer spikes than this share during the log: another clock
USUAL_SHARE_INSIDE = 0.5  # fewer are reported; patient 8, recorded from 19 minutes before the film: 0.8
MAX_RATE_HZ = 200.0  # of the mean unit: a neuron is refractory for some milliseconds


class FilmState(IntEnum):
    """What the film did during one interval of recording time."""

    RAN = 0
    PAUSED = 1
    SKIPPED = 2
    RAN_EARLIER = 3
    """Ran, but the same frame ran again later: only its last viewing counts."""


@dataclass(frozen=True, kw_only=True)
class FilmClock:
    """Recording time from the first to the last row of the watch log, cut into intervals without holes.

    edges_ms : (n + 1,) float64, not decreasing; interval i is [edges_ms[i], edges_ms[i + 1])
    position : (n,) int64, the film frame, or part of a frame, on screen in the interval
    state : (n,) uint8, a FilmState
    is_long : (n,) bool, whether it is, or is part of, a frame that took longer than `LONG_FRAME_MS`
    parts_per_frame : into how many equal parts each frame is cut; position // parts_per_frame is the frame index
    """

    edges_ms: NDArray[np.float64]
    position: NDArray[np.int64]
    state: NDArray[np.uint8]
    is_long: NDArray[np.bool_]
    parts_per_frame: int = 1


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The film stood still, or took long, at `frame` (0-based) from `start_ms` (recording clock) for `duration_ms`."""

    frame: int
    start_ms: float
    duration_ms: float


def frame_indices(film_times_s: NDArray[np.float64], where: str) -> NDArray[np.int64]:
    """Return the 0-based film frame of each film time: floats carry rounding noise, frames compare exactly.

    Raises RecordingError, which names `where` the times stand, if one is not a number or longer than any film.
    """
    # A year of film: far beyond any recording, far below what an int64 frame number holds.
    is_time = np.abs(film_times_s) < 366 * 86400
    if not is_time.all():
        row = is_time.argmin()
        raise RecordingError(f"{where} = {film_times_s[row]} s in row {row}; a film time was expected")
    return np.rint(film_times_s / (FRAME_PERIOD_MS / 1000)).astype(np.int64)


def film_clock(
    frame_index: NDArray[np.int64], recording_time_ms: NDArray[np.float64], long_frames: LongFrames = "count"
) -> FilmClock:
    """Return what the film did between the rows of the cleaned watch log.

    Parameters
    ----------
    frame_index : (n_rows,) 0-based frame of each row
    recording_time_ms : (n_rows,) recording clock, not decreasing
    long_frames : whether the film ran ("count"), or was paused ("pause"), in frames longer than `LONG_FRAME_MS`

    Raises
    ------
    RecordingError : fewer than two rows, a time that is not a number, time running backwards

    Notes
    -----
    Between two rows with frames f0 and f1: f1 = f0 + 1, the film ran; f1 = f0, a pause; 1 < f1 - f0 <= 5, rows are
    missing and are filled in by linear interpolation; anything else is a skip. For example::

        frames      10   11   11   12   15   16   11
        state         ran  pause ran  ran×3 ran  skip

    Source: the released binning code; skips and second viewings are our decision (docs/science.md).
    """
    if len(frame_index) < 2:
        raise RecordingError(f"the watch log has {len(frame_index)} rows; at least 2 are needed to time a frame")
    step_ms, step_frames = np.diff(recording_time_ms), np.diff(frame_index)
    if not np.isfinite(recording_time_ms).all():
        row = np.isfinite(recording_time_ms).argmin()
        raise RecordingError(f"the watch log has neural_recording_time = {recording_time_ms[row]} in row {row}")
    if (step_ms < 0).any():
        row = (step_ms < 0).argmax()
        found = f"{recording_time_ms[row]} ms in row {row}, then {recording_time_ms[row + 1]} ms"
        raise RecordingError(f"recording time runs backwards in the watch log: {found}; it must not decrease")
    ran = (step_frames >= 1) & (step_frames <= MAX_FILLED_STEP_FRAMES)
    n_filled = np.where(ran, step_frames, 1)
    is_long = ran & (step_ms / n_filled > LONG_FRAME_MS)
    state = np.select([ran, step_frames == 0], [FilmState.RAN, FilmState.PAUSED], FilmState.SKIPPED)
    if long_frames == "pause":
        state[is_long] = FilmState.PAUSED
    edges_ms, offset = _subdivide(recording_time_ms, n_filled)
    position = np.repeat(frame_index[:-1], n_filled) + offset
    state = np.repeat(state, n_filled).astype(np.uint8)

    # Of several viewings of a frame the last one counts: the first that is met from the end.
    ran_at = np.flatnonzero(state == FilmState.RAN)[::-1]
    _, last_viewings = np.unique(position[ran_at], return_index=True)
    state[np.delete(ran_at, last_viewings)] = FilmState.RAN_EARLIER
    return FilmClock(edges_ms=edges_ms, position=position, state=state, is_long=np.repeat(is_long, n_filled))


def cut_frames(clock: FilmClock, parts: int) -> FilmClock:
    """Return the same clock with every interval cut into `parts` equal parts, for bins shorter than a frame."""
    edges_ms, offset = _subdivide(clock.edges_ms, np.full(len(clock.position), parts))
    return FilmClock(
        edges_ms=edges_ms,
        position=np.repeat(clock.position, parts) * parts + offset,
        state=np.repeat(clock.state, parts),
        is_long=np.repeat(clock.is_long, parts),
        parts_per_frame=clock.parts_per_frame * parts,
    )


def _subdivide(edges: NDArray[np.float64], n_parts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut interval i into n_parts[i] equal parts; return all edges and each part's number within its interval."""
    offset = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    width = np.repeat(np.diff(edges), n_parts)
    starts = np.repeat(edges[:-1], n_parts) + width * offset / np.repeat(n_parts, n_parts)
    return np.append(starts, edges[-1]), offset


def find_pauses(clock: FilmClock) -> list[Pause]:
    """Return the pauses in order; rows of one standstill are one pause, and long frames in a row another."""
    paused = clock.state == FilmState.PAUSED
    pauses = [*_runs(clock, paused & ~clock.is_long), *_runs(clock, paused & clock.is_long)]
    return sorted(pauses, key=lambda pause: pause.start_ms)


def find_long_frames(clock: FilmClock) -> list[Pause]:
    """Return the frames that took longer than `LONG_FRAME_MS` in order; several in a row are one."""
    return _runs(clock, clock.is_long)


def _runs(clock: FilmClock, is_in: NDArray[np.bool_]) -> list[Pause]:
    starts, stops = stretches(is_in)
    frames = clock.position[starts] // clock.parts_per_frame
    starts_ms, durations_ms = clock.edges_ms[starts], clock.edges_ms[stops] - clock.edges_ms[starts]
    columns = zip(frames.tolist(), starts_ms.tolist(), durations_ms.tolist(), strict=True)
    return [Pause(frame=frame, start_ms=start, duration_ms=duration) for frame, start, duration in columns]


def check_clocks(
    spike_times_ms: NDArray[np.float64],
    n_units: int,
    frame_index: NDArray[np.int64],
    recording_time_ms: NDArray[np.float64],
    may_be_unusual: bool = False,
) -> list[str]:
    """Return what is odd about the clocks of a recording, for people.

    Parameters
    ----------
    spike_times_ms : (n_spikes,) of all units, as the file has them
    frame_index, recording_time_ms : (n_rows,) the watch log, as `film_clock` takes it
    may_be_unusual : whether to return as odd, too, what cannot be right

    Raises
    ------
    RecordingError : spike times or log are in another unit than ms, or of different clocks
    """
    wrong, odd = [], []
    of_frames_ms = np.diff(recording_time_ms)[np.diff(frame_index) == 1]
    frame_ms = float(np.median(of_frames_ms)) if len(of_frames_ms) >= MIN_FRAMES else FRAME_MS
    log_unit = next((unit for unit, length in UNITS_MS.items() if 0.5 < frame_ms * length / FRAME_MS < 2), "")
    if log_unit:
        takes = f"a film frame takes {frame_ms:.4g} of it, and about {FRAME_MS:g} ms are usual"
        wrong.append(f"neural_recording_time of the watch log seems to be in {log_unit}, not ms: {takes}")
    elif not 0.5 < frame_ms / FRAME_MS < 2:
        odd.append(f"a film frame takes {frame_ms:.4g} ms in the watch log; about {FRAME_MS:g} ms are usual")

    first_ms, last_ms = recording_time_ms[[0, -1]] * UNITS_MS.get(log_unit, 1.0)
    if len(spike_times_ms) >= MIN_SPIKES and last_ms > first_ms:
        spikes = spike_times_ms[:: max(1, len(spike_times_ms) // 100_000)]
        shares, fits = {}, {}  # the fit of a unit: the share of spikes in the log, times that of its parts with any
        for unit, length in {"ms": 1.0, **UNITS_MS}.items():
            times_ms = spikes * length
            inside = times_ms[(times_ms >= first_ms) & (times_ms < last_ms)]
            parts, _ = np.histogram(inside, 50, (first_ms, last_ms))
            shares[unit] = len(inside) / len(spikes)
            fits[unit] = shares[unit] * float((parts > 0).mean())
        share, likely = shares["ms"], max(UNITS_MS, key=lambda unit: fits[unit])
        found = f"{share:.1%} of the spikes lie within the {(last_ms - first_ms) / 1000:.0f} s of the watch log"
        first, last = spikes.min(), spikes.max()
        clocks = f"spikes run from {first:.6g} to {last:.6g}, the log from {first_ms:.6g} to {last_ms:.6g} ms"
        if fits["ms"] < MAX_FIT and fits[likely] > MIN_OTHER_FIT:
            would = f"taken as {likely}, {fits[likely]:.0%} would"
            wrong.append(f"spike_times seem to be in {likely}, not ms: {found}; {would}")
        elif share < MIN_SHARE_INSIDE and len(spike_times_ms) >= MIN_SPIKES_OF_OTHER_CLOCK:
            wrong.append(f"spike_times seem to be of another clock than the watch log: {found}; {clocks}")
        elif share < USUAL_SHARE_INSIDE:
            odd.append(f"only {found}; {clocks}: are both of one clock?")
        rate_hz = len(spike_times_ms) * share / n_units / (last_ms - first_ms) * 1000
        if rate_hz > MAX_RATE_HZ:
            odd.append(f"units fire {rate_hz:.0f} times a second on average; spike_times may be in another unit")

    if wrong and not may_be_unusual:
        advice = "Correct the file, or take it as it is: summer-prep build --unusual-clocks"
        raise RecordingError(f"{'; '.join(wrong)}. {advice}")
    consequence = "counts, rates and recorded times follow the file, and are wrong if this is so"
    return [*(f"{line}; {consequence}" for line in wrong), *odd]
