"""What a report says, as plain data: combinations of settings, what each is held against, two folders compared."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from summer_train.reports.findings import Result, compare, confusion_of, groups_of, mean_of, rank_curves_of, unit_scores
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import REPEATS, common_settings, varied_options
from summer_train.scores import nulls
from summer_train.settings.lists import NUMBER_SETTINGS
from summer_train.studies.records import SCORES_OF_TASK

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
        of_task.sort(key=lambda one: -np.nan_to_num(one[0]["mean"][MAIN_SCORE[task]], nan=-np.inf))
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
        "part": next((result.part for result in group if result.record.n_samples), "test"),
        "n_defined": {name: int(np.isfinite(values).sum()) for name, values in scores.items()},
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
    known = published_kappa(row)
    return None if known is None else {"kappa": known.mean, "sd": known.sd}


def _confusion(group: Sequence[Result]) -> list[list[float]] | None:
    found = confusion_of(group)
    return None if found is None else found.tolist()


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
            found = rank_curves_of(result)
            if found is not None:
                points, base_rate = found
                shown = np.unique(np.linspace(0, len(points["fpr"]) - 1, _CURVE_POINTS).round().astype(int))
                of_fold = {name: values[shown].tolist() for name, values in points.items()}
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
    """Return the settings, and the digests of data, whose values are not the same in every folder.

    Where all folders have models of a task, it is of those tasks only: settings of others differ anyway.
    """
    shared = set.intersection(*({one.row["task"] for one in results} for results in folders.values()))
    found = []
    for name in (*NUMBER_SETTINGS, "data_digest"):
        values = {
            folder: list(dict.fromkeys(one.row.get(name) for one in results if one.row["task"] in shared or not shared))
            for folder, results in folders.items()
        }
        if len({frozenset(map(str, of_folder)) for of_folder in values.values()}) > 1:
            found.append({"setting": name, "values": values})
    return found


def _comparison(folders: Mapping[str, Sequence[Result]]) -> list[Summary]:
    """Return how further folders do beside the first, task by task, over pairs of models."""
    (first, ours), *others = folders.items()
    return [
        found
        for other, theirs in others
        for task in MAIN_SCORE
        for found in _compared(
            [first, other],
            [one for one in ours if one.row["task"] == task],
            [one for one in theirs if one.row["task"] == task],
            MAIN_SCORE[task],
        )
    ]


def _compared(names: list[str], ours: Sequence[Result], theirs: Sequence[Result], score: str) -> Iterator[Summary]:
    """Yield the gain over pairs of models of each label.

    Partners agree in label, fold, seed and whatever has several values in one of the folders; what has one value in
    each folder is what is compared.
    """
    varied = [
        name
        for name in NUMBER_SETTINGS
        if any(len({one.row.get(name) for one in results}) > 1 for results in (ours, theirs))
    ]
    matched = list(dict.fromkeys(["task", "label_name", *varied, *REPEATS]))
    partners = {tuple(one.row.get(name) for name in matched): one for one in theirs}
    shown = [name for name in matched if name not in REPEATS]
    groups: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for one in ours:
        partner = partners.get(tuple(one.row.get(name) for name in matched))
        if partner is not None:
            pair = one.score(score), partner.score(score)
            groups.setdefault(tuple(one.row.get(name) for name in shown), []).append(pair)
    for values, pairs in groups.items():
        defined = [pair for pair in pairs if np.isfinite(pair).all()]
        gains = [theirs_ - ours_ for ours_, theirs_ in defined]
        yield {
            "folders": names, "settings": dict(zip(shown, values, strict=True)), "score": score,
            "n_models": len(defined), "means": [mean_of([pair[side] for pair in defined]) for side in (0, 1)],
            "difference": mean_of(gains), "sd": _sd(gains),
        }  # fmt: skip
