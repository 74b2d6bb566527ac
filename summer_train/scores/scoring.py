"""Trained networks and baselines on every part of a split: the scores, and the predictions that they are of.

Many networks are scored at once if they share their samples, as a study trains them; one network is a stack of one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_train.data.batches import Block, Outputs
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmLabel, NextBin
from summer_train.scores.baselines import copy_last_bin, majority_class, mean_count, time_only
from summer_train.scores.metrics import (
    LABEL_SCORES,
    CountSums,
    best_thresholds,
    label_scores,
    log_odds_of_on,
    undefined_because,
)

NO_LIKELIHOOD = "bits per spike: a count of 0 or less was predicted where there were spikes; --loss poisson never does"
"""Why predictions of networks that were trained on the squared error mostly have no likelihood."""

ON = 1
"""The class that decoding a label is about: against it all others are one."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a network or baseline predicts is worth.

    scores : part -> score -> value; NaN where it is undefined
    undefined : part -> why scores of it are undefined
    threshold_log_odds : labels: from which on a bin is called "on", chosen on validation for kappa
    units : next-bin: part -> score -> one value for each unit
    predictions : val_bin, val_film_s, val_target, val_score, ... as `FitResult.predictions` has them
    """

    scores: Mapping[str, Mapping[str, float]]
    undefined: Mapping[str, str] = field(default_factory=dict)
    threshold_log_odds: float | None = None
    units: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    predictions: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def score_networks(datas: Sequence[FilmSamples], outputs: Outputs) -> list[Scored]:
    """Score networks that share their samples on every part that has any.

    Parameters
    ----------
    datas : one for each network; the first one's counts are used, each one's own targets
    """
    return _SCORE[datas[0].task.name](datas, outputs)


def score_baselines(data: FilmSamples) -> dict[str, Scored]:
    """Score what needs no network, by name."""
    return _BASELINES[data.task.name](data)


@torch.no_grad()
def _score_labels(datas: Sequence[FilmSamples], outputs: Outputs) -> list[Scored]:
    first = datas[0]
    parts = _parts(first)
    blocks = ((outputs(block), fingerprints(block.counts)) for part in parts for block in first.blocks(part))
    made, alike = zip(*blocks, strict=True)
    logits = torch.cat(made, dim=1)
    # Products of matrices round by the place of a row: without this, equal inputs would be ranked at random.
    _, first_alike, which = np.unique(torch.cat(alike).cpu().numpy(), return_index=True, return_inverse=True)
    logits = logits.index_select(1, torch.from_numpy(first_alike[which]).to(logits.device))
    by_part = logits.split([first.n_samples[part] for part in parts], dim=1)
    return _scored_labels(datas, dict(zip(parts, by_part, strict=True)))


def fingerprints(counts: Tensor) -> Tensor:
    """Return a whole number for each sample, (n_samples,): the same for equal counts, others for others.

    It is a sum with random weights that wraps at 2^64, which no order of adding changes. Among a million samples two
    different ones share a number with a probability below 1e-6.
    """
    values = counts.flatten(1).long()
    weights = np.random.default_rng(0).integers(-(2**63), 2**63, values.shape[1], dtype=np.int64)
    return (values * torch.from_numpy(weights).to(values.device)).sum(dim=1)


def _scored_labels(datas: Sequence[FilmSamples], logits: Mapping[str, Tensor]) -> list[Scored]:
    """Score logits of each part, (n_networks, n_samples, n_classes)."""
    classes = {part: np.stack([data.classes[getattr(data.split, part)] for data in datas]) for part in logits}
    log_odds = {part: log_odds_of_on(values).cpu().numpy() for part, values in logits.items()}
    thresholds = best_thresholds(log_odds["val"], classes["val"] == ON)
    scores = {part: label_scores(log_odds[part], classes[part] == ON, thresholds) for part in logits}
    scored = []
    for number, data in enumerate(datas):
        of_network: dict[str, dict[str, float]] = {}
        undefined = {}
        for part in logits:
            targets = torch.from_numpy(classes[part][number])
            loss = data.task.loss(logits[part][number].double().cpu(), targets)
            of_network[part] = {name: number_of(scores[part][name][number]) for name in LABEL_SCORES} | {
                "loss": number_of(loss)
            }
            reason = undefined_because(classes[part][number] == ON)
            if not np.isfinite(log_odds[part][number]).all():
                reason = "predictions are no numbers"
            if reason:
                undefined[part] = reason
        predictions = _places(data)
        for part in logits:
            if part != "train":
                predictions[f"{part}_target"] = classes[part][number]
                # In float64: float32 rounds sure probabilities to ties.
                probability = torch.softmax(logits[part][number].double(), dim=-1)[:, ON]
                predictions[f"{part}_score"] = probability.cpu().numpy()
                predictions[f"{part}_log_odds"] = log_odds[part][number]
        scored.append(
            Scored(
                scores=of_network,
                undefined=undefined,
                threshold_log_odds=float(thresholds[number]),
                predictions=predictions,
            )
        )
    return scored


@torch.no_grad()
def _score_counts(datas: Sequence[FilmSamples], outputs: Outputs) -> list[Scored]:
    """Score next-bin networks one after the other: only what is the same for all can be a stack, so it is one."""
    scored = []
    for number, data in enumerate(datas):
        task = data.task
        assert isinstance(task, NextBin)

        def predict(block: Block, number: int = number, task: NextBin = task) -> Tensor:
            return task.expected_counts(outputs(block)[number])

        scored.append(_scored_counts(data, predict, keeps=True))
    return scored


def _scored_counts(data: FilmSamples, predict: Callable[[Block], Tensor], keeps: bool = False) -> Scored:
    """Score predicted counts, (n_samples, n_units) of a block, summed up block by block."""
    assert isinstance(data.task, NextBin)
    scores, units, undefined = {}, {}, {}
    predictions = _places(data) if keeps else {}
    for part in _parts(data):
        sums, done = CountSums(), 0
        if keeps and part != "train":
            shape = (data.n_samples[part], data.n_units)
            predictions[f"{part}_target"] = np.empty(shape, data.selection.dtype)
            predictions[f"{part}_score"] = np.empty(shape, np.float32)
        for block in data.blocks(part):
            predicted, rows = predict(block), slice(done, done + len(block.targets))
            done = rows.stop
            sums.add(predicted, block.targets)
            if f"{part}_score" in predictions:
                predictions[f"{part}_target"][rows] = block.targets.cpu().numpy()
                predictions[f"{part}_score"][rows] = predicted.cpu().numpy()
        found = {name: number_of(value) for name, value in sums.scores().items()}
        loss = found["mse"] if data.task.kind == "mse" else number_of(sums.poisson_loss())
        scores[part] = {"loss": loss, **found}
        per_unit = sums.per_unit()
        units[part] = {name: [number_of(one) for one in per_unit[name]] for name in per_unit if name != "gain"}
        if not np.isfinite(found["mse"]):
            undefined[part] = "predictions are no numbers"
        elif np.isnan(found["r2"]):
            undefined[part] = "no unit varies"
        elif np.isnan(found["bits_per_spike"]):
            undefined[part] = NO_LIKELIHOOD
    return Scored(scores=scores, units=units, undefined=undefined, predictions=predictions)


_SCORE = {FilmLabel.name: _score_labels, NextBin.name: _score_counts}


def _label_baselines(data: FilmSamples) -> dict[str, Scored]:
    task, split, classes = data.task, data.split, data.classes
    by_time = time_only(classes, split.train, split.val, task.n_outputs, data.choice.bin_length_ms)
    kinds = {"majority class": majority_class(classes, split.train, task.n_outputs), "time only": by_time}
    return {
        name: _scored_labels([data], {part: predict(getattr(split, part))[None] for part in _parts(data)})[0]
        for name, predict in kinds.items()
    }


def _count_baselines(data: FilmSamples) -> dict[str, Scored]:
    kinds = {"copy last bin": copy_last_bin, "mean count": mean_count(data.blocks("train"))}
    return {name: _scored_counts(data, predict) for name, predict in kinds.items()}


_BASELINES = {FilmLabel.name: _label_baselines, NextBin.name: _count_baselines}


def _parts(data: FilmSamples) -> list[str]:
    return [part for part, n in data.n_samples.items() if n]


def number_of(value: Any) -> float:
    """Return a float; what is no number is always the same NaN, so that equal results compare as equal."""
    number = float(value)
    return math.nan if math.isnan(number) else number


def _places(data: FilmSamples) -> dict[str, NDArray[Any]]:
    """Return the bins of validation and test samples, and their seconds in the film."""
    film_s = data.selection.film_s()
    bins = {part: getattr(data.split, part) for part in _parts(data) if part != "train"}
    return {
        **{f"{part}_bin": indices for part, indices in bins.items()},
        **{f"{part}_film_s": film_s[indices] for part, indices in bins.items()},
    }


def thresholds_of(rows: Mapping[str, Scored]) -> dict[str, float]:
    """Return the threshold of each row that has one."""
    found = {row: scored.threshold_log_odds for row, scored in rows.items()}
    return {row: threshold for row, threshold in found.items() if threshold is not None}


def samples_per_class(data: FilmSamples, part: str) -> list[int]:
    """Return the number of samples of each class in a part; empty where there are no classes."""
    if not isinstance(data.task, FilmLabel):
        return []
    classes = data.classes[getattr(data.split, part)]
    return [int(n) for n in np.bincount(classes, minlength=data.task.n_outputs)]
