"""From predictions to scores. Pure arithmetic.

Scores are of whole parts of a split, in double precision, and of many models at once: a leading axis of n_models.
An undefined score is NaN, never 0: a class that a part lacks cannot be told from the other.
"""

import warnings
from dataclasses import dataclass, field

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


def _ranks(score: Floats, is_on: Flags) -> tuple[Floats, Floats, Floats]:
    """Return a model's distinct scores, falling, and of the samples that reach each the true and false positives."""
    order = np.argsort(-score)
    falling, on = score[order], is_on[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    tp = np.cumsum(on, dtype=np.float64)[last_of_ties]
    return falling[last_of_ties], tp, last_of_ties + 1 - tp


@np.errstate(divide="ignore", invalid="ignore")
def _kappa(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    return np.asarray(2 * (tp * tn - fn * fp) / ((tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)))


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
    thresholds = np.zeros(len(scores))
    for model, (score, on) in enumerate(zip(scores, is_on, strict=True)):
        if undefined_because(on, score):
            continue
        distinct, tp, fp = _ranks(score, on)
        kappa = _kappa(tp, fp, tp[-1] - tp, fp[-1] - fp)
        n_at_half = np.searchsorted(-distinct, 0, side="right")
        if kappa.max() > max(kappa[n_at_half - 1] if n_at_half else 0.0, 0.0):
            between = np.append((distinct[:-1] + distinct[1:]) / 2, distinct[-1])
            best = between[kappa == kappa.max()]
            thresholds[model] = best[np.argmin(np.abs(best))]
    return thresholds


@np.errstate(divide="ignore", invalid="ignore")
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
    NaN where a class is missing (all but accuracies, base_rate and counts) or a prediction is not finite

    Source: definitions of scikit-learn, with which the tests compare them.
    """
    found = {"base_rate": is_on.mean(axis=1)}
    for suffix, called_on in (("_at_half", scores >= 0), ("", scores >= thresholds[:, None])):
        tp, n_called, n_on = (flags.sum(axis=1, dtype=np.float64) for flags in (called_on & is_on, called_on, is_on))
        fp, fn = n_called - tp, n_on - tp
        tn = is_on.shape[1] - tp - fp - fn
        f1, f1_of_off = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
        f1_rarer, balanced = np.where(tp + fn <= fp + tn, f1, f1_of_off), (tp / (tp + fn) + tn / (tn + fp)) / 2
        defined = {"kappa": _kappa(tp, fp, fn, tn), "f1": f1, "f1_rarer": f1_rarer, "balanced_accuracy": balanced}
        has_both = (n_on > 0) & (fp + tn > 0)
        found |= {name + suffix: np.where(has_both, values, np.nan) for name, values in defined.items()}
        found["accuracy" if suffix else "accuracy_at_threshold"] = (tp + tn) / is_on.shape[1]
    found |= {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    found |= {"auroc": np.full(len(scores), np.nan), "average_precision": np.full(len(scores), np.nan)}
    for model, (score, on) in enumerate(zip(scores, is_on, strict=True)):
        if not undefined_because(on, score):
            _, tp, fp = _ranks(score, on)
            found["auroc"][model] = np.trapezoid(np.append(0, tp), np.append(0, fp)) / (tp[-1] * fp[-1])
            found["average_precision"][model] = np.sum(np.diff(tp, prepend=0) * tp / (tp + fp)) / tp[-1]
    are_finite = np.isfinite(scores).all(axis=1)
    return {name: np.where(are_finite | (name == "base_rate"), found[name], np.nan) for name in LABEL_SCORES}


def undefined_because(is_on: Flags, score: Floats) -> str:
    """Return why scores that tell "on" from "off" are undefined for a model's samples; empty where they are defined."""
    if not np.isfinite(score).all():
        return "predictions are not finite"
    return "" if is_on.any() and not is_on.all() else "on everywhere" if is_on.any() else "on nowhere"


def curves(score: Floats, is_on: Flags) -> dict[str, Floats]:
    """Return the points of a model's ROC and precision-recall curve: fpr, tpr (= recall) and precision."""
    _, tp, fp = _ranks(score, is_on)
    fpr, tpr, precision = np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]), np.append(1, tp / (tp + fp))
    return {"fpr": fpr, "tpr": tpr, "precision": precision}


@dataclass
class CountSums:
    """Sums over samples from which the scores of predicted counts follow, so that no part must be held whole.

    sums : (4, ..., n_units) float64 of the target, its square, the squared error, and the log-likelihood
    """

    n_samples: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, predicted: Tensor, target: Tensor) -> None:
        """Add samples: predicted and true counts, (..., n_samples, n_units)."""
        predicted, target = predicted.double(), target.double()
        rate, error = predicted.clamp_min(0), predicted - target
        values = target, target.square(), error.square(), torch.xlogy(target, rate) - rate
        self.n_samples += target.shape[-2]
        self.sums = self.sums.to(target.device) + torch.stack([one.sum(-2) for one in values])

    @np.errstate(divide="ignore", invalid="ignore")
    def scores(self) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Return the scores over all units, and mse, r2, bits_per_spike and rate (spikes per bin) of each unit.

        r2 is 1 - squared error / variance around the part's own mean; over all units their median. bits_per_spike is
        the gain in log-likelihood under Poisson firing over the unit's own mean rate in the part; over all units that
        of all spikes together. Both are NaN for a unit that does not vary, and bits_per_spike for one that spikes where
        a count of 0 or less was predicted: that has no likelihood. mse and poisson, the losses, are means over units;
        poisson is NaN where it is infinite.

        Source: bits per spike as in the Neural Latents Benchmark (Pei et al. 2021), but for NaN. There 1e-9 is taken
        for such counts, and the score then depends mainly on that constant.
        """
        total, squared, error, log_likelihood = self.sums.cpu().numpy()
        mean = total / self.n_samples
        n_spikes = (mean * self.n_samples).sum(-1)
        r2 = np.where(squared * self.n_samples > total**2, 1 - error / (squared - total * mean), np.nan)
        gain = log_likelihood - (np.where(total > 0, total * np.log(mean), 0) - total)
        gain[~np.isfinite(gain)] = np.nan
        bits = np.where(total > 0, gain / (total * np.log(2)), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the median of no unit that varies is NaN
            median_r2 = np.asarray(np.nanmedian(r2, axis=-1))
        bits_together = np.where(n_spikes > 0, gain.sum(-1) / (n_spikes * np.log(2)), np.nan)
        mse, poisson = error / self.n_samples, -log_likelihood.mean(-1) / self.n_samples
        together = {"mse": mse.mean(-1), "r2": median_r2, "bits_per_spike": bits_together}
        together["poisson"] = np.where(np.isfinite(poisson), poisson, np.nan)
        return together, {"mse": mse, "r2": r2, "bits_per_spike": bits, "rate": mean}


def log_odds_of_on(logits: Tensor) -> Tensor:
    """Return the log-odds of class 1 against all others, float64, (..., n_samples) of (..., n_samples, n_classes)."""
    exact = logits.double()
    others = torch.cat([exact[..., :1], exact[..., 2:]], dim=-1)
    return exact[..., 1] - (others[..., 0] if others.shape[-1] == 1 else torch.logsumexp(others, dim=-1))
