"""What a report says, as plain data: combinations of settings, what each is held against, two folders compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from summer_train.reports.findings import (
    Result,
    against_null,
    by_label,
    confusion_of,
    groups_of,
    mean_of,
    others_equal,
    rank_curves_of,
    unit_scores,
    usual_first,
)
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import REPEATS, SCORE_COLUMNS, common_settings, number, varied_options
from summer_train.scores import nulls
from summer_train.settings.lists import NUMBER_SETTINGS
from summer_train.studies.records import SCORES_OF_TASK

MAIN_SCORE = {"label": "kappa", "next_bin": "r2"}
"""The score by which a task's results are put in order and compared."""

N_WITH_PREDICTIONS = 6
"""Of so many combinations, those with the highest kappa, the JSON has rank curves: each takes a MB."""

_CURVE_POINTS = 200

Summary = dict[str, Any]


def summarise(results: Sequence[Result], published: bool = False) -> Summary:
    """Return what studies and runs found, as `report --json` prints it (docs/study.md says what each value is).

    Parameters
    ----------
    results : of all folders, whose names they have
    published : whether the published kappa stands beside
    """
    groups: list[Summary] = []
    for task in sorted({result.row["task"] for result in results}):  # labels first
        of_task = [result for result in results if result.row["task"] == task]
        varied = varied_options([result.row for result in of_task])
        found = []
        for (folder, *values), group in groups_of(of_task, ["folder", *varied]):
            found.append((_summary_of(task, folder, dict(zip(varied, values, strict=True)), group, published), group))
        found.sort(key=lambda one: -np.nan_to_num(one[0]["mean"][MAIN_SCORE[task]], nan=-np.inf))
        kept = [(one, [result for result in group if result.predictions.exists()]) for one, group in found]
        for one, group in [(one, group) for one, group in kept if group and task == "label"][:N_WITH_PREDICTIONS]:
            one["rank_curves"] = _rank_curves(group)
        groups += [one for one, _ in found]
    folders = {folder: group for (folder,), group in groups_of(results, ["folder"])}
    (first, ours), *others = folders.items()
    return {
        "n_models": len(results),
        "settings": common_settings([result.row for result in results]),
        "groups": groups,
        "differences": _differences(folders),
        "comparison": [
            found
            for other, theirs in others
            for task in MAIN_SCORE
            for found in _compared([first, other], task, ours, theirs)
        ],
    }


def _summary_of(
    task: str, folder: str, settings: Mapping[str, Any], group: Sequence[Result], published: bool
) -> Summary:
    names = SCORES_OF_TASK[task]
    scores = pd.DataFrame([{name: result.score(name) for name in names} for result in group])
    baselines = dict.fromkeys(name for result in group for name in result.record.baselines)
    known = published_kappa(group[0].row) if published and task == "label" else None
    confusion = confusion_of(group) if task == "label" else None
    with_units = [result for result in group if result.record.units.get(result.part)] if task == "next_bin" else []
    return {
        "task": task,
        "folder": folder,
        "settings": settings,
        "part": next((result.part for result in group if result.record.n_samples), "test"),
        "n_defined": scores.count().to_dict(),
        "mean": scores.mean().to_dict(),
        "sd": scores.std().to_dict(),
        "baselines": {
            baseline: {name: mean_of([result.baseline(baseline, name) for result in group]) for name in names}
            for baseline in baselines
        },
        "null": {
            name: {"n_shifts": len(one.null), **dict(zip(("low", "middle", "high"), one.band, strict=True)), "p": one.p}
            for name, one in ((name, against_null(group, name)) for name in nulls.SCORES)
            if one.band is not None
        },
        "published": None if known is None else {"kappa": known.mean, "sd": known.sd},
        "confusion": None if confusion is None else confusion.tolist(),
        "units": [
            {"unit": unit, "rate_hz": rate_hz, "r2": r2}
            for unit, (rate_hz, r2) in enumerate(zip(*map(np.ndarray.tolist, unit_scores(with_units)), strict=True))
        ] if with_units else [],
        "models": [
            {
                "fold": result.row["fold"],
                "seed": result.row["seed"],
                "scores": {name: result.score(name) for name in names},
                "why_undefined": result.row["why_undefined"],
                "curve": [{"train": train, "val": val} for train, val in result.record.curve],
                "best_epoch": result.record.best_epoch,
                "n_samples": dict(result.record.n_samples),
                "id": result.record.id,
                "data_digest": result.record.data_digest,
            }
            for result in group
        ],
        "rank_curves": [],
    }  # fmt: skip


def _rank_curves(group: Sequence[Result]) -> list[Summary]:
    """Return ROC and precision-recall curves of each model, thinned to what can be seen."""
    found = []
    for result in group:
        if (curves := rank_curves_of(result)) is not None:
            points, base_rate = curves
            shown = np.unique(np.linspace(0, len(points["fpr"]) - 1, _CURVE_POINTS).round().astype(int))
            of_fold = {name: values[shown].tolist() for name, values in points.items()}
            found.append({"fold": result.row["fold"], "base_rate": base_rate, **of_fold})
    return found


def _differences(folders: Mapping[str, Sequence[Result]]) -> list[Summary]:
    """Return the settings, and the digests of data, whose values are not the same in every folder.

    Where all folders have models of a task, it is of those tasks only: settings of others differ anyway.
    """
    shared = set.intersection(*({one.row["task"] for one in results} for results in folders.values()))
    found = []
    for name in (*NUMBER_SETTINGS, "data_digest"):
        values = {
            folder: list(dict.fromkeys(one.row[name] for one in results if one.row["task"] in shared or not shared))
            for folder, results in folders.items()
        }
        if len({frozenset(map(str, of_folder)) for of_folder in values.values()}) > 1:
            found.append({"setting": name, "values": values})
    return found


def _compared(names: list[str], task: str, ours: Sequence[Result], theirs: Sequence[Result]) -> list[Summary]:
    """Return the gain of the second folder over pairs of models of each label.

    Partners agree in label, fold, seed and whatever has several values in one of the folders; what has one value in
    each folder is what is compared.
    """
    score = MAIN_SCORE[task]
    first, second = (
        pd.DataFrame([{**one.row, "score": one.score(score)} for one in results if one.row["task"] == task])
        for results in (ours, theirs)
    )
    if first.empty or second.empty:
        return []
    varied = [name for name in NUMBER_SETTINGS if max(first[name].nunique(), second[name].nunique()) > 1]
    shown = list(dict.fromkeys(["task", "label_name", *(name for name in varied if name not in REPEATS)]))
    columns = [*shown, *REPEATS]
    pairs = first[[*columns, "score"]].astype(dict.fromkeys(columns, object)).merge(
        second[[*columns, "score"]].astype(dict.fromkeys(columns, object)), on=columns, suffixes=("_1", "_2")
    )  # fmt: skip
    found = []
    for values, group in pairs.groupby(shown, sort=False):
        defined = group[["score_1", "score_2"]].dropna()
        gain = defined["score_2"] - defined["score_1"]
        found.append({
            "folders": names, "settings": dict(zip(shown, values, strict=True)), "score": score,
            "n_models": len(defined), "means": defined.mean().tolist(), "difference": gain.mean(), "sd": gain.std(),
        })  # fmt: skip
    return found


def answer(results: Sequence[Result], comparison: Sequence[Summary]) -> list[str]:
    """Return what was found, in a sentence or a few, for people: of the most usual settings, which are named."""
    sentences = []
    results = usual_first(results)
    labels = [result for result in results if result.row["task"] == "label"]
    shown, fixed = others_equal(labels)
    found = {name: against_null(group, "kappa") for name, group in by_label(shown).items()}
    tested = {name: one for name, one in found.items() if len(one.null)}
    n_shifts = min((len(one.null) for one in tested.values()), default=0)
    if n_shifts >= 19:
        for is_above, what in ((True, "Above chance"), (False, "Not above chance")):
            names = [name for name, one in tested.items() if (one.p <= 0.05) == is_above]
            if names:
                more = f" and {len(names) - 12} more" if len(names) > 12 else ""
                sentences.append(f"{what}: {', '.join(names[:12])}{more}.")
        sentences.append(f"Kappa is compared with {n_shifts} shifts of the labels, at p = 0.05{fixed}.")
    elif found:
        name, best = next(iter(found.items()))
        sentences.append(f"The highest kappa is {number(best.mean, 3)}: {name}{fixed}.")
        kind = f"only {n_shifts} shifts of the labels were" if n_shifts else "no shifts of the labels were"
        sentences.append(f"Whether that is above chance is not known: {kind} trained. study --shifts 19 tells.")
    counts = [result.score("r2") for result in results if result.row["task"] == "next_bin"]
    if counts:
        sentences.append(f"The highest median R² of the next bin is {number(max(counts), 3)}.")
    for (first, second, score), pairs in pd.DataFrame(
        [[*one["folders"], SCORE_COLUMNS[one["score"]], one["n_models"], one["difference"]] for one in comparison],
        columns=["first", "second", "score", "n", "gain"],
    ).groupby(["first", "second", "score"], sort=False):
        low, high = number(pairs["gain"].min(), 3), number(pairs["gain"].max(), 3)
        sentences.append(
            f"The {score} of {second} minus that of {first} is {low} to {high}, over {pairs['n'].sum()} pairs."
        )
    return sentences
