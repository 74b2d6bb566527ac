"""Which bins a sample reaches, and which samples can be used. Pure arithmetic.

A sample is named by the bin that it is predicted from; it reaches on to the bin `reach` later: 0 for a label of the
same bin, 1 for the counts of the next.
"""

import numpy as np
from numpy.typing import NDArray

from summer_prep.dataset import UNDEFINED

Mask = NDArray[np.bool_]

UNDEFINED_CLASS = 2


def usable_bins(recorded_share: NDArray[np.float64], min_recorded: float) -> Mask:
    """Return which bins were seen, and recorded for at least a share of their length, (n_bins,)."""
    return (recorded_share > 0) & (recorded_share >= min_recorded)


def reaches_only(usable: Mask, n_samples: int, reach: int) -> Mask:
    """Return which samples reach only usable bins, (n_samples,).

    Parameters
    ----------
    usable : (n_bins,)
    reach : how many bins a sample reaches beyond its own
    """
    n_unusable = np.concatenate([[0], np.cumsum(~usable)])
    starts = np.arange(n_samples)
    return np.asarray(n_unusable[starts + reach + 1] == n_unusable[starts])


def runs_on(inside: Mask, after: Mask, n_samples: int, reach: int) -> Mask:
    """Return during which samples recording time runs on without a pause or skip, (n_samples,).

    Parameters
    ----------
    inside, after : (n_bins,) whether it is interrupted within a bin, and between a bin and the next
    """
    unbroken = reaches_only(~inside, n_samples, reach)
    return unbroken & reaches_only(~after, n_samples, reach - 1) if reach else unbroken


def class_indices(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of each raw label value: 0 off, 1 on, 2 undefined."""
    return np.where(labels == UNDEFINED, np.uint8(UNDEFINED_CLASS), labels)
