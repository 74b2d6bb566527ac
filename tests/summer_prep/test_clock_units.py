"""Spike times and watch logs in the units that files come with: refused by name, or built all the same."""

import numpy as np
import pytest

from summer_prep.errors import RecordingError
from summer_prep.film.clock import check_clocks

FRAME = np.arange(1500)
LOG_MS = 9_000 + FRAME * 41.0
SPIKES_MS = np.random.default_rng(0).uniform(0, LOG_MS[-1] + 5_000, 4_000)
SECONDS, MICROSECONDS, SAMPLES = 1e-3, 1e3, 32.768


@pytest.mark.parametrize(
    ("log", "spikes", "named"),
    [
        (LOG_MS, SPIKES_MS * SECONDS, "spike_times seem to be in seconds"),
        (LOG_MS, SPIKES_MS * MICROSECONDS, "spike_times seem to be in microseconds"),
        (LOG_MS, SPIKES_MS * SAMPLES, "spike_times seem to be in samples"),
        (LOG_MS * SECONDS, SPIKES_MS, "the watch log seems to be in seconds"),
        (LOG_MS * MICROSECONDS, SPIKES_MS, "the watch log seems to be in microseconds"),
        (LOG_MS * SAMPLES, SPIKES_MS, "the watch log seems to be in samples"),
        (LOG_MS * SECONDS, SPIKES_MS * SECONDS, "the watch log seems .* seconds.*spike_times seem to be in seconds"),
        (LOG_MS, SPIKES_MS * 1000 + 1.7e15, "another clock than the watch log"),  # the amplifier's own
    ],
)
def test_clock_in_another_unit_is_refused_by_the_likely_unit_and_noted_where_it_is_asked_for(log, spikes, named):
    with pytest.raises(RecordingError, match=f"{named}.*--unusual-clocks"):
        check_clocks(spikes, 5, FRAME, log)
    assert check_clocks(spikes, 5, FRAME, log, may_be_unusual=True)


@pytest.mark.parametrize(
    ("spikes_ms", "log_ms", "named"),
    [
        (SPIKES_MS, LOG_MS, []),
        (SPIKES_MS[:20] / 1000, LOG_MS, []),
        (np.zeros(0), LOG_MS, []),
        (LOG_MS[700] + SPIKES_MS / 100, LOG_MS, []),
        (np.r_[SPIKES_MS[:900] - 19 * 60_000, SPIKES_MS], LOG_MS, []),
        (SPIKES_MS, LOG_MS * 3, ["a film frame takes 123 ms"]),
        (np.tile(SPIKES_MS, 20), LOG_MS, ["units fire"]),
        (SPIKES_MS + 60_000, LOG_MS, ["of the spikes lie within"]),
    ],
    ids=[
        "usual", "too few to tell", "none", "all within a second", "some of them 19 minutes before the film",
        "a slow film", "units that fire too fast", "a clock that is minutes off",
    ],
)  # fmt: skip
def test_sound_recording_is_not_refused_and_what_is_only_odd_is_noted(spikes_ms, log_ms, named):
    notes = check_clocks(spikes_ms, 5, FRAME, log_ms)
    assert len(notes) == len(named)
    assert all(name in note for name, note in zip(named, notes, strict=True))
