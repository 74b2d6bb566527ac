"""How results compare with a null: the same networks trained on shifted labels or features. Pure arithmetic.

The mean of a label's results over folds is compared with the mean over the same folds of each shift. Both are means of
as many models: a fold in which the score is undefined counts in neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SCORES = {"label": ("kappa", "auroc"), "feature": ("r2", "r"), "encode": ("r2",)}
"""Of each task, those that are compared with a null."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A mean over models, and the means that shifted labels give.

    null : (n_shifts,) of the shifts that all of these models have and whose score is defined in all of them
    shifts : (n_shifts,) in bins
    """

    mean: float
    null: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    shifts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def p(self) -> float:
        """(1 + number at least as good) / (n_shifts + 1); NaN without a null.

        Source: permutation p-value that counts the observation itself (Phipson & Smyth 2010).
        """
        if np.isnan(self.mean) or not len(self.null):
            return float("nan")
        return float((1 + np.sum(self.null >= self.mean)) / (len(self.null) + 1))

    @property
    def band(self) -> tuple[float, float, float] | None:
        """5th percentile, median and 95th percentile of the null; None without one."""
        return tuple(np.quantile(self.null, (0.05, 0.5, 0.95)).tolist()) if len(self.null) else None


def p_of_units(observed: Sequence[float], nulls: Sequence[Sequence[float]]) -> list[float]:
    """Return p of each unit, (n_units,), as `Comparison.p`: of its score, and of its scores in each shift."""
    return [permutation_test([one], [dict(enumerate(null))]).p for one, *null in zip(observed, *nulls, strict=True)]


def permutation_test(observed: Sequence[float], nulls: Sequence[Mapping[int, float]]) -> Comparison:
    """Return how the mean of some models compares with that of their nulls.

    Parameters
    ----------
    observed : a score of each model; NaN where undefined
    nulls : for each model, shift -> score, NaN where undefined; empty without a null
    """
    defined = [(value, null) for value, null in zip(observed, nulls, strict=True) if np.isfinite(value)]
    if not defined:
        return Comparison(mean=float("nan"))
    mean = float(np.mean([value for value, _ in defined]))
    shared = sorted(set.intersection(*(set(null) for _, null in defined)))
    by_shift = np.array([[null[shift] for _, null in defined] for shift in shared]).reshape(len(shared), len(defined))
    means = by_shift.mean(axis=1)
    valid = np.isfinite(means)
    return Comparison(mean=mean, null=means[valid], shifts=np.array(shared, np.int64)[valid])
