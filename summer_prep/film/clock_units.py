"""Are spike times and watch log in milliseconds, of one clock? Pure arithmetic."""

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError

FRAME_MS = 41.0
"""How long a film frame lasts on the recording clock. Source: the data set's watch logs (41 ms, with jitter)."""

UNITS_MS = {
    "seconds": 1000.0,  # NWB's convention
    "microseconds": 1e-3,  # the amplifier's time stamps
    "samples (of 32,768 or 30,000 Hz)": 1000 / 32768,  # usual sampling rates, too alike to be told apart here
}
"""Unit -> its length in ms. Source: what the recording system and NWB files use."""

MIN_SPIKES = 200
MIN_FRAMES = 100
"""Below these, nothing is concluded."""
MIN_SPIKES_OF_OTHER_CLOCK = 2000
"""The same where no unit explains that spikes lie outside the log."""

MAX_FIT = 0.1
"""Below this fit spike times may be in another unit. Patient 8, with spikes from 19 minutes before the film: 0.3."""
MIN_OTHER_FIT = 0.5
MIN_SHARE_INSIDE = 0.01
"""Fewer spikes than this share during the log: another clock."""
USUAL_SHARE_INSIDE = 0.5
"""Fewer than this share are reported. Of patient 8, recorded from 19 minutes before the film: 0.8."""
MAX_RATE_HZ = 200.0
"""Of the mean unit: a neuron is refractory for some milliseconds. Source: our decision."""

_N_SAMPLED = 100_000
_N_PARTS = 50


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
    may_be_unusual : whether clocks that cannot be right are only odd

    Raises
    ------
    RecordingError : spike times or log are in another unit than ms, or of different clocks
    """
    frame_ms = _frame_length(frame_index, recording_time_ms)
    log_unit = next((unit for unit, length in UNITS_MS.items() if 0.5 < frame_ms * length / FRAME_MS < 2), "")
    log_ms = recording_time_ms[[0, -1]] * UNITS_MS.get(log_unit, 1.0)
    spikes = spike_times_ms[:: max(1, len(spike_times_ms) // _N_SAMPLED)]
    wrong, odd = [], []
    if log_unit:
        wrong.append(
            f"neural_recording_time of the watch log seems to be in {log_unit}, not ms: a film frame takes "
            f"{frame_ms:.4g} of it, and about {FRAME_MS:g} ms are usual"
        )
    elif not 0.5 < frame_ms / FRAME_MS < 2:
        odd.append(f"a film frame takes {frame_ms:.4g} ms in the watch log; about {FRAME_MS:g} ms are usual")
    if len(spike_times_ms) >= MIN_SPIKES and log_ms[1] > log_ms[0]:
        share = float(((spikes >= log_ms[0]) & (spikes < log_ms[1])).mean())
        fits = {unit: _fit(spikes * length, log_ms) for unit, length in UNITS_MS.items()}
        likely = max(fits, key=lambda unit: fits[unit])
        found = f"{share:.1%} of the spikes lie within the {np.ptp(log_ms) / 1000:.0f} s of the watch log"
        first, last = spikes.min(), spikes.max()
        ranges = f"spikes run from {first:.6g} to {last:.6g}, the log from {log_ms[0]:.6g} to {log_ms[1]:.6g} ms"
        if _fit(spikes, log_ms) < MAX_FIT and fits[likely] > MIN_OTHER_FIT:
            wrong.append(
                f"spike_times seem to be in {likely}, not ms: {found}; taken as {likely}, {fits[likely]:.0%} would"
            )
        elif share < MIN_SHARE_INSIDE and len(spike_times_ms) >= MIN_SPIKES_OF_OTHER_CLOCK:
            wrong.append(f"spike_times seem to be of another clock than the watch log: {found}; {ranges}")
        elif share < USUAL_SHARE_INSIDE:
            odd.append(f"only {found}: are both of one clock? {ranges[0].upper()}{ranges[1:]}")
        rate_hz = len(spike_times_ms) * share / n_units / np.ptp(log_ms) * 1000
        if rate_hz > MAX_RATE_HZ:
            odd.append(f"units fire {rate_hz:.0f} times a second on average; spike_times may be in another unit")
    if wrong and not may_be_unusual:
        raise RecordingError(
            f"{'; '.join(wrong)}. Correct the file, or take it as it is: summer-prep build --unusual-clocks"
        )
    consequence = "counts, rates and recorded times follow the file, and are wrong if this is so"
    return [*(f"{line}; {consequence}" for line in wrong), *odd]


def _frame_length(frame_index: NDArray[np.int64], recording_time_ms: NDArray[np.float64]) -> float:
    """Return the median time from a frame to the next one; FRAME_MS where there are too few to tell."""
    lengths = np.diff(recording_time_ms)[np.diff(frame_index) == 1]
    return float(np.median(lengths)) if len(lengths) >= MIN_FRAMES else FRAME_MS


def _fit(times_ms: NDArray[np.float64], span_ms: NDArray[np.float64]) -> float:
    """Return how well spikes fill a span: the share of them inside, times the share of its parts that have any."""
    inside = times_ms[(times_ms >= span_ms[0]) & (times_ms < span_ms[1])]
    parts, _ = np.histogram(inside, _N_PARTS, (span_ms[0], span_ms[1]))
    return len(inside) / len(times_ms) * float((parts > 0).mean())
