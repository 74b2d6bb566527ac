"""Which units change their rate when a label comes on: onsets, rates around them, and a test. Pure arithmetic.

    bins                  -1 s ........ onset ........ +1 s
    label                 off  off  off | on   ?    ?
    change of one onset   spikes in the second after - spikes in the second before

All bins are of BIN_MS.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import FRAME_PERIOD_MS, OFF, ON

BIN_MS = FRAME_PERIOD_MS // 2
"""The longest bins that a step of 100 ms can be made of."""
BINS_PER_SECOND, BINS_PER_STEP = 1000 // BIN_MS, 100 // BIN_MS
MIN_SHIFT, SHIFT_STEP = 60 * BINS_PER_SECOND, BINS_PER_SECOND // 2
"""Onsets are moved by a minute or more, longer than scenes, in steps of half a second. Source: our decision."""
ERRORS_95 = 1.96
"""Standard errors on either side of a mean that its 95 % interval reaches to. Source: the normal distribution."""


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


def find_onsets(label: NDArray[np.uint8], side: int = BINS_PER_SECOND) -> NDArray[np.int64]:
    """Return the bins in which a label, (n_bins,), is on after at least `side` bins off; undefined is neither."""
    n_off = np.cumsum(np.concatenate([[0], label == OFF]))
    was_off = n_off[side:-1] - n_off[: -side - 1] == side
    return np.flatnonzero(was_off & (label[side:] == ON)) + side


def unbroken_bins(is_broken: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """Return the bins that can hold an onset: of the `side` bins before, and as many from them on, none is broken."""
    n_broken = np.cumsum(np.concatenate([[0], is_broken]))
    return np.flatnonzero(n_broken[2 * side :] == n_broken[: -2 * side]) + side


def responses_to(
    onsets: NDArray[np.int64],
    counts: NDArray[Any],
    recorded_s: NDArray[np.floating[Any]],
    is_broken: NDArray[np.bool_],
    n_shifts: int,
    generator: np.random.Generator,
) -> Responses:
    """Return the rates of units around onsets, and how probable such a change were if units ignored the label.

    Parameters
    ----------
    onsets : (n_onsets,) bins
    counts : (n_bins, n_units) spikes
    recorded_s : (n_bins,) recording time that each bin covers
    is_broken : (n_bins,) whether a bin was never seen, or recording time does not run on within it or up to it
    n_shifts : how often onsets are moved; by all possible shifts if there are not more

    Raises
    ------
    SettingsError : fewer than two onsets can be used

    Notes
    -----
    The mean change over onsets, in standard errors, is compared with that at onsets which were all moved along the film
    by the same time, in a circle of the bins that can hold an onset: the spacing of onsets and the course of a rate
    stay as they are. p is the share of shifts, the true position included, that are as far from 0. Without standard
    errors, units that fire more in the part of the film where the label comes on would respond too often.

    Source: our decision; the published test is another (ZETA).
    """
    side, (n_bins, n_units) = BINS_PER_SECOND, counts.shape
    spikes = np.zeros((n_bins + 1, n_units), dtype=np.int32)
    np.cumsum(counts, axis=0, out=spikes[1:])
    seconds, circle = np.cumsum(np.concatenate([[0], recorded_s])), unbroken_bins(is_broken, side)
    used = onsets[np.isin(onsets, circle)]
    if len(used) < 2:
        found = f"{len(used)} of {len(onsets)} onsets have a second before and after them without a pause"
        raise SettingsError(f"{found}, and at least 2 are needed. Choose another label, or leave the patient out")
    edges = used[:, None] + np.arange(-side, side + 1, BINS_PER_STEP)
    in_steps, step_s = np.diff(spikes[edges], axis=1), np.diff(seconds[edges], axis=1).mean(axis=0)[:, None]

    change = spikes[2 * side :].astype(np.float32)  # whole numbers, exact below 2**24; row i is of bin side + i
    change += spikes[: -2 * side]
    change -= 2 * spikes[side:-side]
    places, shifts = np.searchsorted(circle, used), np.arange(MIN_SHIFT, len(circle) - MIN_SHIFT + 1, SHIFT_STEP)
    if n_shifts < len(shifts):
        shifts = generator.choice(shifts, n_shifts, replace=False)
    n_as_far = np.zeros(n_units)
    for shift in (0, *shifts.tolist()):
        moved = change[circle[(places + shift) % len(circle)] - side]
        square = moved.sum(axis=0).astype(np.float64) ** 2
        squares = np.maximum(1, np.einsum("ij,ij->j", moved, moved)).astype(np.float64)
        if shift == 0:
            true_square, true_squares = square, squares
        n_as_far += square * true_squares >= true_square * squares  # products of whole numbers, so that ties are ties
    return Responses(
        n_onsets=len(used), n_left_out=len(onsets) - len(used), n_shifts=len(shifts),
        rates_hz=(in_steps.mean(axis=0) / step_s).T,
        errors_hz=(in_steps.std(axis=0, ddof=1) / np.sqrt(len(used)) / step_s).T, p=n_as_far / (len(shifts) + 1),
    )  # fmt: skip


def false_discovery_rates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return q for each p of several tests, (n_tests,): of those with q <= 0.05, on average at most 5 % are false.

    NaN where p is. Source: Benjamini and Hochberg 1995.
    """
    q, defined = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    falling = defined[np.argsort(-p[defined], kind="stable")]
    q[falling] = np.minimum.accumulate(p[falling] * len(defined) / np.arange(len(defined), 0, -1))
    return q.clip(max=1)
