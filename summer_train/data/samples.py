"""Which bins a sample reaches, and which samples can be used. Pure arithmetic.

A sample is named by a bin. It is predicted from a window of bins around that one, and its target lies
`target_offset` bins on: 0 for a label of the same bin, 1 for the counts of the next.

    bins        | 5 | 6 | 7 | 8 | 9 | 10 |
    sample 8      window (-2, 1): 6 7 8 9
"""

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import UNDEFINED
from summer_prep.film.splits import Window

Mask = NDArray[np.bool_]

UNDEFINED_CLASS = 2


def reaches_only(usable: Mask, n_samples: int, window: Window) -> Mask:
    """Return which samples reach only usable bins, (n_samples,); what lies beyond the film is not usable.

    Parameters
    ----------
    usable : (n_bins,)
    window : what a sample reaches, which holds its own bin
    """
    after = max(0, n_samples + window.last - len(usable))
    padded = np.pad(usable, (-window.first, after), constant_values=False)
    reached = np.lib.stride_tricks.sliding_window_view(padded, window.n_bins)[:n_samples]
    return np.asarray(reached.all(axis=1))


def runs_on(inside: Mask, after: Mask, n_samples: int, window: Window) -> Mask:
    """Return during which samples recording time runs on without a pause or skip, (n_samples,).

    Parameters
    ----------
    inside, after : (n_bins,) whether it is interrupted within a bin, and between a bin and the next
    window : what a sample reaches, which holds its own bin
    """
    unbroken = reaches_only(~inside, n_samples, window)
    if window.n_bins > 1:
        unbroken &= reaches_only(~after, n_samples, Window(window.first, window.last - 1))
    return unbroken


def shift_labels(classes: NDArray[np.uint8], defined: Mask, n_bins: int) -> NDArray[np.uint8]:
    """Return labels moved along the film in a circle, so that they keep their own structure and lose the neurons'.

    Parameters
    ----------
    classes, defined : (n_bins,) bins that have no label stay without; the others pass on theirs
    n_bins : how far, in bins that have a label
    """
    shifted = classes.copy()
    shifted[defined] = np.roll(classes[defined], n_bins)
    return shifted


def choose_shifts(n_bins: int, least: int, n_shifts: int) -> list[int]:
    """Return different shifts, at least so far in either direction; the first few of more shifts are fewer shifts.

    They are drawn at random, but are a function of the arguments alone: folds and seeds of one label are compared with
    the same shifts of it.

    Raises
    ------
    SettingsError : there are not so many
    """
    candidates = np.arange(least, n_bins - least + 1)
    if len(candidates) < n_shifts:
        raise SettingsError(
            f"--shifts {n_shifts}: {n_bins} bins can be shifted by at least a cycle of the split ({least} bins) in "
            f"{len(candidates)} ways. Choose fewer, or a smaller --buffer"
        )
    order = np.random.default_rng([n_bins, least]).permutation(candidates)
    return [int(shift) for shift in order[:n_shifts]]


def class_indices(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of each raw label value: 0 off, 1 on, 2 undefined."""
    return np.where(labels == UNDEFINED, np.uint8(UNDEFINED_CLASS), labels)
