"""From predictions to scores. Pure arithmetic.

Scores are of whole parts of a split, in double precision, and of many models at once: a leading axis of n_models.
What is undefined is NaN, never 0: a class that a part lacks cannot be told from the other.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LABEL_SCORES = (
    "kappa", "auroc", "average_precision", "f1", "f1_rarer", "balanced_accuracy", "accuracy", "base_rate",
    "kappa_at_half", "f1_at_half", "f1_rarer_at_half", "balanced_accuracy_at_half", "accuracy_at_threshold",
    "tp", "fp", "fn", "tn",
)  # fmt: skip
"""Scores of a label. Those that need a decision are at the threshold, accuracy at a probability of 0.5."""

COUNT_SCORES = ("mse", "r2", "bits_per_spike")


class _Ranks(NamedTuple):
    """One model's samples by falling score: for each distinct score, how many samples reach it."""

    scores: Floats
    tp: Floats
    fp: Floats


def _ranks(score: Floats, is_on: Flags) -> _Ranks:
    order = np.argsort(-score)
    falling, on = score[order], is_on[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    tp = np.cumsum(on, dtype=np.float64)[last_of_ties]
    return _Ranks(falling[last_of_ties], tp, last_of_ties + 1 - tp)


def _kappa(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    by_chance = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2 * (tp * tn - fn * fp) / by_chance)


def best_thresholds(scores: Floats, is_on: Flags) -> Floats:
    """Return for each model the score from which on a sample should be called "on" for the highest kappa.

    Parameters
    ----------
    scores, is_on : (n_models, n_samples), log-odds of "on" and the truth, of the validation part

    Returns
    -------
    (n_models,) halfway between two neighbouring scores; 0 (a probability of 0.5) where that is as good, where no
    threshold beats chance, and where a class is missing
    """
    return np.array([_best_threshold(*one) for one in zip(scores, is_on, strict=True)])


def _best_threshold(score: Floats, is_on: Flags) -> float:
    if undefined_because(is_on) or not np.isfinite(score).all():
        return 0.0
    distinct, tp, fp = _ranks(score, is_on)
    kappa = _kappa(tp, fp, tp[-1] - tp, fp[-1] - fp)
    n_at_half = np.searchsorted(-distinct, 0, side="right")
    at_half = kappa[n_at_half - 1] if n_at_half else 0.0
    if kappa.max() <= max(at_half, 0.0):
        return 0.0
    between = np.append((distinct[:-1] + distinct[1:]) / 2, distinct[-1])
    best = np.flatnonzero(kappa == kappa.max())
    return float(between[best[np.argmin(np.abs(between[best]))]])


def label_scores(scores: Floats, is_on: Flags, thresholds: Floats) -> dict[str, Floats]:
    """Return the scores of many models that decode labels, (n_models,) each.

    Parameters
    ----------
    scores, is_on : (n_models, n_samples), log-odds of "on" and the truth. Log-odds, since probabilities of sure
        predictions round to ties, in float32 already at 17
    thresholds : (n_models,) log-odds from which on a sample is called "on"; 0 for `_at_half`

    Returns
    -------
    name -> value for LABEL_SCORES. kappa is Cohen's; f1 is of "on", f1_rarer of the class with fewer samples (the
    published figures have that one); base_rate is the share of "on"; tp, fp, fn, tn count samples at the threshold.
    accuracy is that of the more likely class, comparable with the majority's and with other runs.
    NaN where a class is missing (all but accuracies, base_rate and counts) or a prediction is no number

    Source: definitions of scikit-learn, which the tests hold them equal to.
    """
    at_threshold = _decisions(scores >= thresholds[:, None], is_on)
    at_half = _decisions(scores >= 0, is_on)
    found = {**at_threshold, **{f"{name}_at_half": values for name, values in at_half.items()}}
    found |= {"accuracy": at_half["accuracy"], "accuracy_at_threshold": at_threshold["accuracy"]}
    ranked = np.array([_rank_scores(*one) for one in zip(scores, is_on, strict=True)]).reshape(-1, 2)
    found |= {"auroc": ranked[:, 0], "average_precision": ranked[:, 1], "base_rate": _mean(is_on)}
    are_numbers = np.isfinite(scores).all(axis=1)
    return {name: np.where(are_numbers | (name == "base_rate"), found[name], np.nan) for name in LABEL_SCORES}


def _decisions(called_on: Flags, is_on: Flags) -> dict[str, Floats]:
    tp, fp, fn, tn = (
        (called & truly).sum(axis=1).astype(np.float64)
        for called, truly in ((called_on, is_on), (called_on, ~is_on), (~called_on, is_on), (~called_on, ~is_on))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        f1, f1_of_off = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
        defined = {
            "kappa": _kappa(tp, fp, fn, tn),
            "f1": f1,
            "f1_rarer": np.where(tp + fn <= fp + tn, f1, f1_of_off),
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
        }
        accuracy = (tp + tn) / called_on.shape[1]
    has_both = (tp + fn > 0) & (fp + tn > 0)
    return {
        **{name: np.where(has_both, values, np.nan) for name, values in defined.items()},
        "accuracy": accuracy, "tp": tp, "fp": fp, "fn": fn, "tn": tn,
    }  # fmt: skip


def _mean(flags: Flags) -> Floats:
    return np.asarray(flags.mean(axis=1)) if flags.shape[1] else np.full(len(flags), np.nan)


def _rank_scores(score: Floats, is_on: Flags) -> tuple[float, float]:
    """Return the area under the ROC curve, and the average precision."""
    if undefined_because(is_on) or not np.isfinite(score).all():
        return np.nan, np.nan
    _, tp, fp = _ranks(score, is_on)
    auroc = np.trapezoid(np.append(0, tp), np.append(0, fp)) / (tp[-1] * fp[-1])
    average_precision = np.sum(np.diff(tp, prepend=0) * tp / (tp + fp)) / tp[-1]
    return float(auroc), float(average_precision)


def undefined_because(is_on: Flags) -> str:
    """Return why scores that tell "on" from "off" are undefined for such samples; empty where they are defined."""
    if not is_on.size:
        return "no samples"
    return "" if is_on.any() and not is_on.all() else "on everywhere" if is_on.all() else "on nowhere"


def curves(score: Floats, is_on: Flags) -> dict[str, Floats]:
    """Return the points of a model's ROC and precision-recall curve: fpr, tpr (= recall) and precision."""
    _, tp, fp = _ranks(score, is_on)
    return {
        "fpr": np.append(0, fp / fp[-1]),
        "tpr": np.append(0, tp / tp[-1]),
        "precision": np.append(1, tp / (tp + fp)),
    }


@dataclass
class CountSums:
    """Sums over samples from which the scores of predicted counts follow, so that no part must be held whole.

    All are float64 of the predictions' shape without samples: (..., n_units).
    """

    n_samples: int = 0
    target: Tensor | float = 0.0
    target_squared: Tensor | float = 0.0
    error_squared: Tensor | float = 0.0
    log_likelihood: Tensor | float = 0.0

    def add(self, predicted: Tensor, target: Tensor) -> None:
        """Add samples: predicted and true counts, (..., n_samples, n_units)."""
        predicted, target = predicted.double(), target.double()
        self.n_samples += target.shape[-2]
        self.target = self.target + target.sum(-2)
        self.target_squared = self.target_squared + target.square().sum(-2)
        self.error_squared = self.error_squared + (predicted - target).square().sum(-2)
        rate = predicted.clamp_min(0)
        self.log_likelihood = self.log_likelihood + (torch.xlogy(target, rate) - rate).sum(-2)

    def per_unit(self) -> dict[str, Floats]:
        """Return mse, r2, bits_per_spike and rate (spikes per bin) of each unit, (..., n_units).

        r2 is 1 - squared error / variance around the part's own mean. bits_per_spike is the gain in log-likelihood
        under Poisson firing over the unit's own mean rate in the part. Both are NaN for a unit that does not vary, and
        bits_per_spike for one that spikes where a count of 0 or less was predicted: that has no likelihood.

        Source: bits per spike as in the Neural Latents Benchmark (Pei et al. 2021), but for NaN. There 1e-9 is taken
        for such counts, and what the score then says is how small 1e-9 is.
        """
        total, squared, error, log_likelihood = (
            torch.as_tensor(sums, dtype=torch.float64).cpu().numpy()
            for sums in (self.target, self.target_squared, self.error_squared, self.log_likelihood)
        )
        mean = total / self.n_samples
        with np.errstate(divide="ignore", invalid="ignore"):
            varies = squared * self.n_samples > total**2
            r2 = np.where(varies, 1 - error / (squared - total * mean), np.nan)
            gain = log_likelihood - (np.where(total > 0, total * np.log(mean), 0) - total)
            gain = np.where(np.isfinite(gain), gain, np.nan)
            bits = np.where(total > 0, gain / (total * np.log(2)), np.nan)
        return {"mse": error / self.n_samples, "r2": r2, "bits_per_spike": bits, "rate": mean, "gain": gain}

    def scores(self) -> dict[str, Floats]:
        """Return mse (mean over units), r2 (median over units) and bits_per_spike (of all spikes together)."""
        units = self.per_unit()
        n_spikes = (units["rate"] * self.n_samples).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(n_spikes > 0, units["gain"].sum(-1) / (n_spikes * np.log(2)), np.nan)
        return {"mse": units["mse"].mean(-1), "r2": _median(units["r2"]), "bits_per_spike": bits}

    def poisson_loss(self) -> Floats:
        """Return what `poisson` would be of the predicted rates, mean over samples and units; NaN where it is none."""
        log_likelihood = torch.as_tensor(self.log_likelihood, dtype=torch.float64).cpu().numpy().mean(-1)
        return np.where(np.isfinite(log_likelihood), -log_likelihood / self.n_samples, np.nan)


def _median(values: Floats) -> Floats:
    """Return the median over the last axis of what is a number; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what has no number has no median: that is the answer
        return np.asarray(np.nanmedian(values, axis=-1))


def log_odds_of_on(logits: Tensor) -> Tensor:
    """Return the log-odds of class 1 against all others, float64, (..., n_samples) of (..., n_samples, n_classes)."""
    exact = logits.double()
    others = torch.cat([exact[..., :1], exact[..., 2:]], dim=-1)
    return exact[..., 1] - (others[..., 0] if others.shape[-1] == 1 else torch.logsumexp(others, dim=-1))
