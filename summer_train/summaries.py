"""What a report says, as plain data: combinations of settings, what each is held against, two folders compared."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from summer_train import nulls
from summer_train.config import Choice, options_of
from summer_train.findings import Result, compare, groups_of, mean_of, unit_scores
from summer_train.metrics import curves
from summer_train.published import published_kappa
from summer_train.records import SCORES_OF_TASK
from summer_train.tables import common_settings, varied_options

MAIN_SCORE = {"label": "kappa", "next_bin": "r2"}
"""The score by which a task's results are put in order and compared."""

N_WITH_PREDICTIONS = 6
"""Of so many combinations, those with the highest kappa, curves and the film are shown: each takes a MB."""

_CURVE_POINTS = 200

Summary = dict[str, Any]


Group = tuple[Summary, list[Result]]
"""Models that differ in fold and seed only: what is said of them, and they themselves."""


def summarise(folders: Mapping[str, Sequence[Result]], published: bool = False) -> tuple[Summary, list[Group]]:
    """Return what studies and runs found, as `report --json` prints it (docs/study.md says what each value is).

    Parameters
    ----------
    folders : name -> what was found there
    published : whether the published kappa stands beside

    Returns
    -------
    The plain data, and its groups with the models of each
    """
    everything = [result for results in folders.values() for result in results]
    rows = [result.row for result in everything]
    groups: list[Group] = []
    for task in sorted({row["task"] for row in rows}):  # labels first
        varied = varied_options([row for row in rows if row["task"] == task])
        of_task = [
            (_summary_of(task, folder, dict(zip(varied, values, strict=True)), group, published), group)
            for folder, results in folders.items()
            for values, group in groups_of([one for one in results if one.row["task"] == task], varied)
        ]
        of_task.sort(key=lambda one: -np.nan_to_num(one[0]["mean"][MAIN_SCORE[task]], nan=-9.0))
        _add_rank_curves(of_task)
        groups += of_task
    summary = {
        "n_models": len(everything),
        "settings": common_settings(rows),
        "groups": [of_group for of_group, _ in groups],
        "differences": _differences(folders),
        "comparison": _comparison(folders),
    }
    return summary, groups


def _summary_of(
    task: str, folder: str, settings: Mapping[str, Any], group: Sequence[Result], published: bool
) -> Summary:
    names = SCORES_OF_TASK[task]
    scores = {name: [result.score(name) for result in group] for name in names}
    baselines = dict.fromkeys(name for result in group for name in result.record.baselines)
    return {
        "task": task,
        "folder": folder,
        "settings": settings,
        "part": group[0].part,
        "mean": {name: mean_of(values) for name, values in scores.items()},
        "sd": {name: _sd(values) for name, values in scores.items()},
        "baselines": {
            baseline: {name: mean_of([result.baseline(baseline, name) for result in group]) for name in names}
            for baseline in baselines
        },
        "null": _null(group),
        "published": _published(group[0].row) if published and task == "label" else None,
        "confusion": _confusion(group) if task == "label" else None,
        "units": _units(group) if task == "next_bin" else [],
        "models": [_model(result, names) for result in group],
        "rank_curves": [],
    }


def _model(result: Result, names: Sequence[str]) -> Summary:
    row, record = result.row, result.record
    return {
        "fold": row["fold"],
        "seed": row["seed"],
        "scores": {name: result.score(name) for name in names},
        "why_undefined": row["why_undefined"],
        "curve": [{"train": train, "val": val} for train, val in record.curve],
        "best_epoch": record.best_epoch,
        "n_samples": dict(record.n_samples),
        "id": record.id,
        "data_digest": record.data_digest,
    }


def _sd(values: Sequence[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return statistics.stdev(defined) if len(defined) > 1 else float("nan")


def _null(group: Sequence[Result]) -> Summary:
    found = {name: compare(group, name) for name in nulls.SCORES}
    return {
        name: {"n_shifts": len(one.null), **dict(zip(("low", "middle", "high"), one.band, strict=True)), "p": one.p}
        for name, one in found.items()
        if one.band is not None
    }


def _published(row: Mapping[str, Any]) -> Summary | None:
    buffer = "random" if row["split"] == "random" else f"{row['buffer'] or 0:g}"
    known = published_kappa(row["label_name"], buffer, row["brain_regions"])
    return None if known is None else {"kappa": known.mean, "sd": known.sd}


def _confusion(group: Sequence[Result]) -> list[list[float]] | None:
    """Return samples by truth (off, on) and call (off, on), folds together; None where all are undefined."""
    cells = np.array([[result.score(cell) for cell in ("tn", "fp", "fn", "tp")] for result in group])
    return np.nansum(cells, axis=0).reshape(2, 2).tolist() if np.isfinite(cells).any() else None


def _units(group: Sequence[Result]) -> list[Summary]:
    with_units = [result for result in group if result.record.units.get(result.part)]
    if not with_units:
        return []
    rate_hz, r2 = unit_scores(with_units)
    return [{"unit": unit, "rate_hz": float(rate_hz[unit]), "r2": float(r2[unit])} for unit in range(len(r2))]


def _add_rank_curves(groups: Sequence[Group]) -> None:
    """Add ROC and precision-recall curves of the first groups that kept predictions, thinned to what can be seen."""
    for summary, group in with_predictions(groups):
        for result in group:
            arrays = result.arrays()
            is_on, score = arrays[f"{result.part}_target"] == 1, arrays[f"{result.part}_log_odds"]
            if is_on.any() and not is_on.all():
                points = curves(score, is_on)
                shown = np.unique(np.linspace(0, len(points["fpr"]) - 1, _CURVE_POINTS).round().astype(int))
                of_fold = {name: values[shown].tolist() for name, values in points.items()}
                base_rate = float(is_on.mean())
                summary["rank_curves"].append({"fold": result.row["fold"], "base_rate": base_rate, **of_fold})


def with_predictions(groups: Sequence[Group]) -> list[Group]:
    """Return the first groups of a label whose models kept predictions, and those models."""
    kept = [
        (summary, [result for result in group if result.predictions])
        for summary, group in groups
        if summary["task"] == "label"
    ]
    return [(summary, group) for summary, group in kept if group][:N_WITH_PREDICTIONS]


def _differences(folders: Mapping[str, Sequence[Result]]) -> list[Summary]:
    """Return the settings, and the digests of data, whose values are not the same in every folder."""
    found = []
    for name in (*options_of(Choice), "max_epochs", "patience", "data_digest"):
        values = {
            folder: list(dict.fromkeys(result.row.get(name) for result in results))
            for folder, results in folders.items()
        }
        if len({frozenset(map(str, of_folder)) for of_folder in values.values()}) > 1:
            found.append({"setting": name, "values": values})
    return found


def _comparison(folders: Mapping[str, Sequence[Result]]) -> list[Summary]:
    """Return how further folders do beside the first, over models of the same labels, folds and seeds.

    What has one value in each folder is what they differ in; what has several is what they are matched by.
    """
    if len(folders) < 2:
        return []
    (first, ours), *others = folders.items()
    names = [*options_of(Choice), "max_epochs", "patience"]
    matched = [
        name for name in names
        if name in ("task", "label_name", "fold", "seed")
        or any(len({one.row.get(name) for one in results}) > 1 for results in folders.values())
    ]  # fmt: skip
    found = []
    for other, theirs in others:
        by_key = {tuple(one.row.get(name) for name in matched): one for one in theirs}
        pairs = [(one, by_key.get(tuple(one.row.get(name) for name in matched))) for one in ours]
        both = [(one, beside) for one, beside in pairs if beside is not None]
        shown = [name for name in matched if name not in ("fold", "seed")]
        groups: dict[tuple[Any, ...], list[tuple[Result, Result]]] = {}
        for one, beside in both:
            groups.setdefault(tuple(one.row.get(name) for name in shown), []).append((one, beside))
        for values, group in groups.items():
            score = MAIN_SCORE[group[0][0].row["task"]]
            numbers = np.array([[one.score(score), beside.score(score)] for one, beside in group])
            defined = numbers[np.isfinite(numbers).all(axis=1)]
            gains = (defined[:, 1] - defined[:, 0]).tolist()
            found.append({
                "folders": [first, other], "settings": dict(zip(shown, values, strict=True)), "score": score,
                "n_models": len(defined), "means": [mean_of(column) for column in defined.T.tolist()],
                "difference": mean_of(gains), "sd": _sd(gains),
            })  # fmt: skip
    return found
