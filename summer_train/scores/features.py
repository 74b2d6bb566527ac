"""Scores of predicted features: R² and Pearson's r of each dimension, and retrieval of stretches of the film."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]

RANKS = (1, 5, 10)
"""A true stretch counts as found when it is among so many candidates."""

FAR_S = 32.0
"""From the harder candidates a stretch is at least so far: not its own neighbours, which look like it."""

FEATURE_SCORES = (
    "mse", "r2", "r2_median", "r", "r_median", "top_1", "top_1_chance", "top_5", "top_5_chance", "top_10",
    "top_10_chance", "median_rank_percent", "median_rank_percent_chance", "far_top_10", "far_top_10_chance",
    "within_top_10", "within_top_10_chance",
)  # fmt: skip
_DIMENSIONS_AT_ONCE = 64


def feature_scores(
    prediction: Features,
    target: Features,
    bins: NDArray[np.int64],
    retrieve_bins: int,
    far_bins: float,
    within: NDArray[np.uint8] | None = None,
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]], str]:
    """Return the scores of predicted features, R² and r of each dimension, and why some are undefined, or nothing.

    Parameters
    ----------
    prediction, target : (n_samples, n_dimensions), standardised
    bins : (n_samples,) bin of each
    retrieve_bins, far_bins : length of the stretches that are found again, and distance of far ones
    within : (n_samples,) label: `within_...` are of stretches with the same value, 0 or 1, in most of their bins

    r2 and r are means over the dimensions for which they are defined. Without two dimensions nothing is retrieved.
    """
    starts = range(0, target.shape[1], _DIMENSIONS_AT_ONCE)
    pairs = [[one[:, start : start + _DIMENSIONS_AT_ONCE] for one in (prediction, target)] for start in starts]
    r2, r = (np.concatenate([of(*pair) for pair in pairs]) for of in (r2_of_dimensions, pearson_of_dimensions))
    errors = np.concatenate([((x.astype(np.float64) - y) ** 2).mean(axis=0) for x, y in pairs])
    scores = {"mse": float(errors.mean())}
    for name, values in {"r2": r2, "r": r}.items():
        defined = values[np.isfinite(values)]
        scores[name] = float(defined.mean()) if len(defined) else np.nan
        scores[f"{name}_median"] = float(np.median(defined)) if len(defined) else np.nan
    why = "predictions are not finite" if not np.isfinite(prediction).all() else ""
    why = why or (
        "no dimension varies" if np.isnan(scores["r2"]) else "no prediction varies" if np.isnan(r).all() else ""
    )
    if target.shape[1] > 1:
        (predicted, at), (true, _) = (mean_of_stretches(one, bins, retrieve_bins) for one in (prediction, target))
        values = np.zeros((len(bins), 2)) if within is None else within[:, None] == (0, 1)
        is_mostly = mean_of_stretches(values, bins, retrieve_bins)[0] > 0.5  # off, on
        if np.isnan(r).all():  # one prediction for all finds nothing, and says nothing
            predicted, true, at, is_mostly = predicted[:0], true[:0], at[:0], is_mostly[:0]
        scores |= retrieval_scores(*retrieval_ranks(predicted, true))
        is_far = np.abs(at[:, None] - at) >= far_bins
        far = retrieval_scores(*retrieval_ranks(predicted, true, is_far))
        scores |= {f"far_{name}": far[name] for name in ("top_10", "top_10_chance")}
        if within is not None:
            known = is_mostly.any(axis=1)
            alike = is_mostly[known, 1][:, None] == is_mostly[known, 1]
            found = retrieval_scores(*retrieval_ranks(predicted[known], true[known], alike))
            scores |= {f"within_{name}": found[name] for name in ("top_10", "top_10_chance")}
        why = why or ("" if len(at) else "no stretch is long enough to be found again; choose a shorter --retrieve")
    return scores, {"r2": r2, "r": r}, why


def r2_of_dimensions(prediction: Features, target: Features) -> NDArray[np.float64]:
    """Return R² of each dimension around its own mean, (n_dimensions,); NaN where the target does not vary.

    Parameters
    ----------
    prediction, target : (n_samples, n_dimensions)
    """
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1 - ((target - prediction) ** 2).sum(axis=0) / total, np.nan)


def pearson_of_dimensions(prediction: Features, target: Features) -> NDArray[np.float64]:
    """Return Pearson's r of each dimension, (n_dimensions,); NaN where prediction or target does not vary."""
    x, y = (one.astype(np.float64) - one.mean(axis=0, dtype=np.float64) for one in (prediction, target))
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(axis=0) / scale, np.nan)


def mean_of_stretches(
    values: Features, bins: NDArray[np.int64], n_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the means of consecutive stretches of bins, and the bin that each starts at.

    Parameters
    ----------
    values : (n_samples, n_dimensions)
    bins : (n_samples,) increasing bin of each sample; a stretch has no bin left out
    n_bins : bins of a stretch
    """
    values = values.astype(np.float64)
    runs = np.split(np.arange(len(bins)), np.flatnonzero(np.diff(bins) != 1) + 1)
    starts = [start for run in runs for start in run[: len(run) // n_bins * n_bins : n_bins]]
    means = [values[start : start + n_bins].mean(axis=0) for start in starts]
    return np.reshape(means, (len(starts), values.shape[1])), bins[np.array(starts, dtype=np.int64)]


def retrieval_ranks(prediction: Features, target: Features, candidates: NDArray[np.bool_] | None = None) -> tuple[
    NDArray[np.int64], NDArray[np.int64]
]:  # fmt: skip
    """Return the rank of each true stretch among the candidates by cosine similarity, from 1, and how many there are.

    Parameters
    ----------
    prediction, target : (n_stretches, n_dimensions), centred
    candidates : (n_stretches, n_stretches) whether a column is a candidate of a row beside its own; all by default

    Ties count against: a candidate that is as similar as the true stretch stands before it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (prediction, target))
    similarity = np.nan_to_num(x @ y.T, nan=-1.0)
    others = np.ones(similarity.shape, dtype=bool) if candidates is None else candidates.copy()
    np.fill_diagonal(others, False)
    before = (similarity >= np.diag(similarity)[:, None]) & others
    return 1 + before.sum(axis=1), 1 + others.sum(axis=1)


def retrieval_scores(
    ranks: NDArray[np.int64], n_candidates: NDArray[np.int64], within: Sequence[int] = RANKS
) -> dict[str, float]:
    """Return the share of stretches found within the first few, the median rank in percent, and their chance levels."""
    if not len(ranks):
        names = [f"top_{k}" for k in within] + [f"top_{k}_chance" for k in within]
        return dict.fromkeys([*names, "median_rank_percent", "median_rank_percent_chance"], float("nan"))
    found = {f"top_{k}": float((ranks <= k).mean()) for k in within}
    found |= {f"top_{k}_chance": float(np.minimum(1, k / n_candidates).mean()) for k in within}
    percent = 100 * (ranks - 0.5) / n_candidates
    return {**found, "median_rank_percent": float(np.median(percent)), "median_rank_percent_chance": 50.0}
