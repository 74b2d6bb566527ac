"""Scores of trained networks and baselines on every part of a split, and the predictions that they are computed from.

Many networks are scored at once if they share their samples, as a study trains them; one network is a stack of one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_prep.film.splits import cycles_of
from summer_train.data.batches import Block, Outputs
from summer_train.data.film import FilmSamples
from summer_train.data.targets import Encode, FilmFeatures, FilmLabel, NextBin, unscaled
from summer_train.scores import baselines, claims, metrics
from summer_train.scores.features import FAR_S, feature_scores, mean_of_stretches, retrieval_ranks
from summer_train.settings.options import SHIFTED

NO_LIKELIHOOD = "bits per spike: a count of 0 or less was predicted where there were spikes; --loss poisson never does"
ON = 1  # the class that scores of a label are about: all others are one against it


@dataclass(frozen=True)
class Scored:
    """The scores of a network or baseline.

    scores : part -> score -> value; NaN where it is undefined
    undefined : part -> why scores of it are undefined
    threshold_log_odds : of labels; from these log-odds on a bin is called "on", chosen where `--threshold` says
    units : next-bin: part -> score -> one value for each unit; features: of each dimension
    predictions : val_bin, val_film_s, val_target, val_score, ... as `FitResult.predictions` has them
    """

    scores: Mapping[str, Mapping[str, float]]
    undefined: Mapping[str, str] = field(default_factory=dict)
    threshold_log_odds: float | None = None
    units: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    predictions: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@torch.no_grad()
def score_networks(datas: Sequence[FilmSamples], outputs: Outputs) -> list[Scored]:
    """Score networks of some data, which share their counts, on every part of the split that has samples."""
    first = datas[0]
    if isinstance(first.task, FilmLabel):
        parts, rows_of = _parts(first), dict[bytes, list[int]]()
        for row, data in enumerate(datas):
            rows_of.setdefault(b"" if data.kept is None else data.kept.tobytes(), []).append(row)
        seen = [datas[rows[0]].kept for rows in rows_of.values()]
        blocks = (
            (outputs(block), torch.stack([fingerprints(block.counts, units) for units in seen]))
            for part in parts
            for block in first.blocks(part)
        )
        made, alike = zip(*blocks, strict=True)
        logits = torch.cat(made, dim=1)
        # Products of matrices round by the row of a sample: without this, equal inputs would be ranked at random.
        for rows, own in zip(rows_of.values(), torch.cat(alike, dim=1).cpu().numpy(), strict=True):
            _, first_alike, which = np.unique(own, return_index=True, return_inverse=True)
            logits[rows] = logits[rows].index_select(1, torch.from_numpy(first_alike[which]).to(logits.device))
        by_part = logits.split([first.n_samples[part] for part in parts], dim=1)
        return _score_labels(datas, dict(zip(parts, by_part, strict=True)))
    if isinstance(first.task, FilmFeatures):

        def predicted(data: FilmSamples, row: int, part: str) -> NDArray[Any]:
            return np.concatenate([outputs(block)[row].cpu().numpy() for block in data.blocks(part)])

        return [_score_features(data, partial(predicted, data, row)) for row, data in enumerate(datas)]

    def expected(data: FilmSamples, row: int, block: Block) -> Tensor:
        assert isinstance(data.task, NextBin)
        return data.task.expected_counts(outputs(block)[row])

    return [
        _score_counts(data, partial(_of_blocks, data, partial(expected, data, row))) for row, data in enumerate(datas)
    ]


def score_outputs(data: FilmSamples, outputs: Mapping[str, NDArray[Any]]) -> Scored:
    """Score outputs that were computed elsewhere.

    outputs : part -> a row for each of its samples: logits of classes, expected counts, or standardised features
    """
    if isinstance(data.task, FilmLabel):
        return _score_labels([data], {part: torch.from_numpy(logits)[None] for part, logits in outputs.items()})[0]
    if isinstance(data.task, FilmFeatures):
        return _score_features(data, outputs.__getitem__, list(outputs))
    return _score_counts(data, partial(_of_rows, data, outputs), list(outputs))


def score_baselines(data: FilmSamples) -> dict[str, Scored]:
    """Score what needs no network, by name."""
    train, val, task, length_ms = data.split.train, data.split.val, data.task, data.choice.bin_length_ms
    if isinstance(task, NextBin):
        mean = baselines.mean_count(data.blocks("train"))
        rows = {"mean count": partial(_of_blocks, data, lambda block: mean.expand(len(block.targets), -1))}
        if isinstance(task, Encode):
            near = baselines.time_only_counts(data.selection.counts(), train, val, length_ms)
            of_parts = {part: near[getattr(data.split, part)] for part in _parts(data)}
            rows["time only"] = partial(_of_rows, data, of_parts)
        else:
            rows = {"copy last bin": partial(_of_blocks, data, baselines.copy_last_bin), **rows}
        return {name: _score_counts(data, counts, keeps=False) for name, counts in rows.items()}
    if isinstance(task, FilmFeatures):
        smooth = baselines.time_only_features(data.targets, train, val, length_ms)
        predicted = {"mean": np.zeros_like(smooth), "time only": smooth}
        return {
            name: _score_features(data, lambda part: values[getattr(data.split, part)])  # noqa: B023  # called at once
            for name, values in predicted.items()
        }
    log_shares = {
        "majority class": baselines.majority_class(data.classes, train, task.n_outputs),
        "time only": baselines.time_only(data.classes, train, val, task.n_outputs, length_ms),
    }
    return {
        name: _score_labels([data], {part: logits[None, getattr(data.split, part)] for part in _parts(data)})[0]
        for name, logits in log_shares.items()
    }


def fingerprints(counts: Tensor, units: NDArray[np.int64] | None = None) -> Tensor:
    """Return a whole number for each sample, (n_samples,): the same for equal counts, others for others.

    It is a sum with random weights that wraps at 2^64, which no order of adding changes. Among a million samples two
    different ones share a number with a probability below 1e-6.
    """
    values = (counts if units is None else counts[..., torch.from_numpy(units).to(counts.device)]).flatten(1)
    values = (values.contiguous().view(torch.int32) if values.is_floating_point() else values).long()
    weights = np.random.default_rng(0).integers(-(2**63), 2**63, values.shape[1], dtype=np.int64)
    return (values * torch.from_numpy(weights).to(values.device)).sum(dim=1)


def _score_labels(datas: Sequence[FilmSamples], logits: Mapping[str, Tensor]) -> list[Scored]:
    """Score logits of each part, (n_networks, n_samples, n_classes)."""
    classes = {part: np.stack([data.classes[getattr(data.split, part)] for data in datas]) for part in logits}
    log_odds = {part: metrics.log_odds_of_on(values).cpu().numpy() for part, values in logits.items()}
    thresholds = np.zeros(len(datas))
    for row, data in enumerate(datas):
        part = {"validation": "val", "train": "train"}.get(data.choice.threshold)
        if part:
            thresholds[row] = metrics.best_thresholds(log_odds[part][[row]], classes[part][[row]] == ON)[0]
    scores = {part: metrics.label_scores(log_odds[part], classes[part] == ON, thresholds) for part in logits}
    scored = []
    for row, data in enumerate(datas):
        found, undefined, kept = {}, {}, _bins(data)
        for part in logits:
            own_logits, own_classes, own_odds = logits[part][row].double(), classes[part][row], log_odds[part][row]
            loss = data.task.loss(own_logits.cpu(), torch.from_numpy(own_classes))
            found[part] = {name: _number(values[row]) for name, values in scores[part].items()} | {
                "loss": _number(loss)
            }
            if reason := metrics.undefined_because(own_classes == ON, own_odds):
                undefined[part] = reason
            if part != "train":
                # In float64: float32 rounds sure probabilities to ties.
                probability = torch.softmax(own_logits, dim=-1)[:, ON].cpu().numpy()
                arrays = {"target": own_classes, "score": probability, "log_odds": own_odds}
                kept |= {f"{part}_{name}": values for name, values in arrays.items()}
        scored.append(Scored(found, undefined, threshold_log_odds=float(thresholds[row]), predictions=kept))
    return scored


Counts = Iterable[tuple[Tensor, Tensor]]
"""Predicted and true counts of each block of a part, (n_samples, n_units)."""


def _of_blocks(data: FilmSamples, predict: Callable[[Block], Tensor], part: str) -> Counts:
    """Return what is predicted for each block of a part."""
    return ((predict(block), block.targets) for block in data.blocks(part))


def _of_rows(data: FilmSamples, predicted: Mapping[str, NDArray[Any]], part: str) -> Counts:
    """Yield what was predicted for each block of a part, of predictions for all of its samples."""
    stop = 0
    for block in data.blocks(part):
        start, stop = stop, stop + len(block.targets)
        yield torch.from_numpy(predicted[part][start:stop]).to(block.targets.device), block.targets


def _score_counts(
    data: FilmSamples, counts: Callable[[str], Counts], parts: Sequence[str] = (), keeps: bool = True
) -> Scored:
    """Score the predicted counts of each part; `keeps` is whether the predictions are kept."""
    assert isinstance(data.task, NextBin)
    scores, units, undefined = {}, {}, {}
    predictions = _bins(data) if keeps else {}
    for part in parts or _parts(data):
        sums, is_kept = metrics.CountSums(), keeps and part != "train"
        if is_kept:
            shape = data.n_samples[part], data.n_units
            predictions[f"{part}_target"] = np.empty(shape, data.selection.dtype)
            predictions[f"{part}_score"] = np.empty(shape, np.float32)
        for predicted, target in counts(part):
            here = slice(sums.n_samples, sums.n_samples + len(target))
            sums.add(predicted, target)
            if is_kept:
                predictions[f"{part}_target"][here] = target.cpu().numpy()
                predictions[f"{part}_score"][here] = predicted.cpu().numpy()
        together, per_unit = sums.scores()
        found = {name: _number(together[name]) for name in metrics.COUNT_SCORES}
        scores[part] = {"loss": _number(together[data.task.kind]), **found}
        units[part] = {name: [_number(one) for one in values] for name, values in per_unit.items()}
        reasons = {"mse": "predictions are not finite", "r2": "no unit varies", "bits_per_spike": NO_LIKELIHOOD}
        if missing := [reason for name, reason in reasons.items() if not math.isfinite(found[name])]:
            undefined[part] = missing[0]
    return Scored(scores=scores, units=units, undefined=undefined, predictions=predictions)


def _score_features(data: FilmSamples, predicted: Callable[[str], NDArray[Any]], parts: Sequence[str] = ()) -> Scored:
    """Score predicted standardised features of each part, (n_samples, n_dimensions); predictions are in their units."""
    assert isinstance(data.task, FilmFeatures)
    scores, units, undefined, kept = {}, {}, {}, _bins(data)
    length_s = data.choice.bin_length_ms / 1000
    n_bins, far_bins = max(1, round(data.choice.retrieve_s / length_s)), FAR_S / length_s
    label = data.selection.labels(data.choice.retrieve_within) if data.choice.retrieve_within else None
    for part in parts or _parts(data):
        bins = getattr(data.split, part)
        made, target = predicted(part), data.targets[bins]
        within = None if label is None else label[bins]
        found, of_dimensions, why = feature_scores(made, target, bins, n_bins, far_bins, within)
        is_mse = data.task.kind == "mse"
        loss = found["mse"] if is_mse else data.task.loss(torch.from_numpy(made), torch.from_numpy(target))
        scores[part] = {name: _number(value) for name, value in {"loss": loss, **found}.items()}
        units[part] = {name: [_number(one) for one in values] for name, values in of_dimensions.items()}
        if why:
            undefined[part] = why
        if part != "train":
            arrays = {"target": target, "score": made}
            kept |= {f"{part}_{name}": unscaled(values, data.scaling) for name, values in arrays.items()}
    return Scored(scores=scores, units=units, undefined=undefined, predictions=kept)


def cycle_sums(data: FilmSamples, rows: Mapping[str, Scored]) -> dict[str, dict[str, list[str]]]:
    """Return what the scores of the test part follow from in each cycle of the split, as lines of numbers.

    Of the model and, for labels and features, of "time only" (`claims.as_text`); nothing without the blocked split. Of
    a patient that is left out also the scores by each map on "shifted film".
    """
    choice, found = data.choice, dict[str, dict[str, list[str]]]()
    if choice.buffer_s is None or not data.n_samples["test"]:
        return {}
    of_split = len(data.has_target), choice.bin_length_ms, choice.buffer_s
    cycle, n_cycles = cycles_of(data.split.test, *of_split)
    for name in ("model",) if isinstance(data.task, NextBin) else ("model", "time only"):
        made = {one.removeprefix("test_"): values for one, values in rows[name].predictions.items() if "test_" in one}
        if isinstance(data.task, FilmLabel):
            is_on, threshold = made["target"] == ON, rows[name].threshold_log_odds or 0.0
            if not np.isfinite(made["log_odds"]).all():
                continue
            sums = claims.label_sums(made["log_odds"], is_on, threshold, cycle, n_cycles)
        elif isinstance(data.task, NextBin):
            sums = claims.count_sums(made["score"], made["target"], cycle, n_cycles)
        else:
            mean, sd = (np.array(data.scaling[one], dtype=np.float32) for one in ("mean", "sd"))
            score, target = (((made[one] - mean) / sd).astype(np.float64) for one in ("score", "target"))
            sums = claims.feature_sums(score, target, cycle, n_cycles)
            if score.shape[1] > 1 and np.ptp(score, axis=0).any():
                of_piece = max(1, round(choice.retrieve_s * 1000 / choice.bin_length_ms))
                (predicted, at), (true, _) = (mean_of_stretches(one, made["bin"], of_piece) for one in (score, target))
                found_again = retrieval_ranks(predicted, true)[0] <= 10
                cycle_at, _ = cycles_of(at, *of_split)
                counts = [np.bincount(cycle_at, weights, minlength=n_cycles) for weights in (found_again, None)]
                sums = {**sums, "found": np.stack(counts, axis=1)}
        found[name] = claims.as_text(sums)
    if SHIFTED in rows:
        found[SHIFTED] = claims.as_text({name: np.array([one]) for name, one in rows[SHIFTED].units["test"].items()})
    return found


def units_beside(data: FilmSamples, rows: Mapping[str, Scored]) -> Mapping[str, Mapping[str, Sequence[Any]]]:
    """Return the scores of a model's units; of counts beside who each unit is and what it is compared with.

    That is `patient_id`, `column` in the key, `region` (where the files have it), `mean_count` (in training), and the
    squared error of each baseline, as `copy_last_bin_mse`.
    """
    own, *others = rows
    if not isinstance(data.task, NextBin):
        return rows[own].units
    chosen = data.selection.units()
    who = {"patient_id": "patient_id", "column": "column", "region": "brain_region"}
    of_unit = {name: chosen[column].tolist() for name, column in who.items() if column in chosen}
    of_unit["mean_count"] = rows["mean count"].units["train"]["rate"]
    return {
        part: of_unit | {**scores} | {f"{row.replace(' ', '_')}_mse": rows[row].units[part]["mse"] for row in others}
        for part, scores in rows[own].units.items()
    }


def _parts(data: FilmSamples) -> list[str]:
    return [part for part, n in data.n_samples.items() if n]


def _number(value: Any) -> float:
    """Return a float; NaN is always the same object, so that equal results compare as equal."""
    number = float(value)
    return math.nan if math.isnan(number) else number


def _bins(data: FilmSamples) -> dict[str, NDArray[Any]]:
    """Return the bins of validation and test samples, and their seconds in the film."""
    film_s, parts = data.selection.film_s(), [part for part in _parts(data) if part != "train"]
    bins = {f"{part}_bin": getattr(data.split, part) for part in parts}
    return bins | {f"{part}_film_s": film_s[bins[f"{part}_bin"]] for part in parts}


def thresholds_of(rows: Mapping[str, Scored]) -> dict[str, float]:
    """Return the threshold of each row that has one."""
    return {row: one.threshold_log_odds for row, one in rows.items() if one.threshold_log_odds is not None}


def samples_per_class(data: FilmSamples, part: str) -> list[int]:
    """Return the number of samples of each class in a part; empty for tasks without classes."""
    if not isinstance(data.task, FilmLabel):
        return []
    return [int(n) for n in np.bincount(data.classes[getattr(data.split, part)], minlength=data.task.n_outputs)]
