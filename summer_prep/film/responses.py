"""Which units change their rate when a label comes on: onsets, rates around them, and a test. Pure arithmetic.

    bins                  -1 s ........ onset ........ +1 s
    label                 off  off  off | on   ?    ?
    change of one onset   spikes in the second after - spikes in the second before

All functions take bins of one length, BINS_PER_SECOND of them in a second of the film.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import FRAME_PERIOD_MS, OFF, ON

BIN_MS = FRAME_PERIOD_MS // 2
"""The longest bin length that divides a step of 100 ms and that a frame can be cut into."""
BINS_PER_SECOND, BINS_PER_STEP = 1000 // BIN_MS, 100 // BIN_MS
MIN_SHIFT_S = 60.0
"""Onsets are moved at least so far. Source: our decision, longer than scenes and than most fluctuations of rates."""
SHIFT_STEP_S = 0.5
"""Onsets are moved by multiples of this: changes so far apart have a correlation of 0.25 where counts have none."""


@dataclass(frozen=True, kw_only=True)
class Responses:
    """What the units of one recording do around the onsets of a label.

    n_onsets, n_left_out : onsets that were used, and those with a pause or an unseen bin within a second
    n_shifts : how often the onsets were moved
    rates_hz, errors_hz : (n_units, n_steps) mean over onsets and its standard error, from 1 s before to 1 s after
    p : (n_units,) of the change
    """

    n_onsets: int
    n_left_out: int
    n_shifts: int
    rates_hz: NDArray[np.float64]
    errors_hz: NDArray[np.float64]
    p: NDArray[np.float64]


def find_onsets(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the bins in which a label, (n_bins,), is on after at least one second off; undefined is neither."""
    n_off = np.cumsum(np.concatenate([[0], label == OFF]))
    before = np.arange(BINS_PER_SECOND, len(label))
    is_onset = (label[before] == ON) & (n_off[before] - n_off[before - BINS_PER_SECOND] == BINS_PER_SECOND)
    return before[is_onset]


def responses_to(
    onsets: NDArray[np.int64],
    counts: NDArray[Any],
    recorded_s: NDArray[np.floating[Any]],
    is_broken: NDArray[np.bool_],
    n_shifts: int,
    generator: np.random.Generator,
) -> Responses:
    """Return the rates of units around onsets, and the probability of such a change if units ignored the label.

    Parameters
    ----------
    onsets : (n_onsets,) bins
    counts : (n_bins, n_units) spikes
    recorded_s : (n_bins,) recording time that each bin covers
    is_broken : (n_bins,) whether a bin was never seen, or recording time does not run on within it or up to it
    n_shifts : how often onsets are moved; all possible shifts are used if there are not more

    Raises
    ------
    SettingsError : fewer than two onsets can be used

    Notes
    -----
    The spikes in the second after an onset less those in the second before have a mean over onsets, and a standard
    error. Their ratio is compared with that at onsets which were all moved along the film by the same time, in a circle
    made of the bins that can hold an onset. So the spacing of onsets and the fluctuations of a rate stay what they are.
    p is the share of shifts, the true position included, with a ratio as far from 0. By the mean alone, a unit that
    fires more in the part of the film where the label comes on would be called responsive too often.

    Source: our decision; published results for these data are by another test (ZETA).
    """
    side, n_bins, n_units = BINS_PER_SECOND, *counts.shape
    spikes = np.zeros((n_bins + 1, n_units), dtype=np.int32)
    np.cumsum(counts, axis=0, out=spikes[1:])
    n_broken = np.cumsum(np.concatenate([[0], is_broken]))
    seconds = np.cumsum(np.concatenate([[0.0], recorded_s]))
    can_hold = np.zeros(n_bins, dtype=bool)
    can_hold[side : n_bins - side + 1] = n_broken[2 * side :] == n_broken[: -2 * side]
    used, circle = onsets[can_hold[onsets]], np.flatnonzero(can_hold)
    if len(used) < 2:
        found = f"{len(used)} of {len(onsets)} onsets have a second before and after them without a pause"
        raise SettingsError(f"{found}, and at least 2 are needed. Choose another label, or leave the patient out")

    edges = used[:, None] + np.arange(-side, side + 1, BINS_PER_STEP)
    in_steps, step_s = np.diff(spikes[edges], axis=1), np.diff(seconds[edges], axis=1).mean(axis=0)[:, None]
    rates_hz = in_steps.mean(axis=0) / step_s
    errors_hz = in_steps.std(axis=0, ddof=1) / np.sqrt(len(used)) / step_s

    change = spikes[2 * side :].astype(np.float32)  # whole numbers, exact below 2**24; row i is of bin side + i
    change += spikes[: -2 * side]
    change -= 2 * spikes[side:-side]
    step = round(SHIFT_STEP_S * BINS_PER_SECOND)
    shifts = np.arange(round(MIN_SHIFT_S * BINS_PER_SECOND), len(circle) - MIN_SHIFT_S * BINS_PER_SECOND + 1, step)
    if n_shifts < len(shifts):
        shifts = generator.choice(shifts, n_shifts, replace=False)

    def sums(shift: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the squared sum over moved onsets and the sum of squares, 1 where it is 0, (n_units,) each."""
        moved = change[circle[(places + shift) % len(circle)] - side]
        squares = np.einsum("ij,ij->j", moved, moved)
        return moved.sum(axis=0).astype(np.float64) ** 2, np.maximum(squares, 1).astype(np.float64)

    places = np.searchsorted(circle, used)
    square, squares = sums(0)
    n_as_far = np.ones(n_units)
    for shift in shifts.astype(int).tolist():
        moved_square, moved_squares = sums(shift)
        n_as_far += moved_square * squares >= square * moved_squares  # products of whole numbers: ties are ties
    return Responses(
        n_onsets=len(used), n_left_out=len(onsets) - len(used), n_shifts=len(shifts), rates_hz=rates_hz.T,
        errors_hz=errors_hz.T, p=n_as_far / (len(shifts) + 1),
    )  # fmt: skip


def false_discovery_rates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return q for each p of several tests, same shape: those with q <= 0.05 hold at most 5 % false ones on average.

    Source: Benjamini and Hochberg 1995.
    """
    order = np.argsort(p)[::-1]
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(np.minimum(1, p[order] * len(p) / np.arange(len(p), 0, -1)))
    return q
