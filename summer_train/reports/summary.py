"""What a report says, as plain data, sentences and tables: made of the table of models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from summer_prep.console import Table
from summer_train.reports.findings import (
    against_null,
    by_label,
    confusion_of,
    most_usual,
    rank_curves_of,
    unit_scores,
)
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import (
    REPEATS,
    SCORE_COLUMNS,
    as_cell,
    common_settings,
    number,
    table_of,
    varied_options,
)
from summer_train.scores import nulls
from summer_train.settings.lists import NUMBER_SETTINGS
from summer_train.studies.records import SCORES_OF_TASK

MAIN_SCORE = {"label": "kappa", "next_bin": "r2"}
"""The score by which a task's results are put in order and compared."""

N_WITH_PREDICTIONS = 6
"""The JSON has rank curves of so many combinations, those with the highest kappa: each takes a MB."""

N_CURVE_POINTS = 200

Summary = dict[str, Any]


def summarise(models: pd.DataFrame, published: bool = False) -> Summary:
    """Return what studies and runs found, as `report --json` prints it (docs/study.md says what each value is).

    Parameters
    ----------
    models : of `read_models`
    published : whether the published kappa is given, too
    """
    groups: list[Summary] = []
    for task, of_task in models.groupby("task"):  # labels first
        keys = ["folder", *varied_options(of_task)]
        found = [(dict(zip(keys, values, strict=True)), group) for values, group in of_task.groupby(keys, sort=False)]
        found.sort(key=lambda one: -np.nan_to_num(one[1][MAIN_SCORE[str(task)]].mean(), nan=-np.inf))
        n_with_curves = 0
        for settings, group in found:
            facts = _group_facts(settings, group, published)
            predicted = [one for one in group["result"] if one.predictions.exists()] if task == "label" else []
            if predicted and n_with_curves < N_WITH_PREDICTIONS:
                n_with_curves += 1
                for result in predicted:
                    if (curves := rank_curves_of(result)) is not None:
                        points, base_rate = curves
                        n_points = len(points["fpr"])
                        shown = np.unique(np.linspace(0, n_points - 1, N_CURVE_POINTS).round().astype(int))
                        thinned = {name: values[shown].tolist() for name, values in points.items()}
                        fold = result.record.columns["fold"]
                        facts["rank_curves"].append({"fold": fold, "base_rate": base_rate, **thinned})
            groups.append(facts)
    first, *others = models["folder"].unique()
    return {
        "n_models": len(models),
        "settings": common_settings(models),
        "groups": groups,
        "differences": _differences(models),
        "comparison": [one for other in others for task in MAIN_SCORE for one in _compared(models, task, first, other)],
    }


def _group_facts(settings: Summary, group: pd.DataFrame, published: bool) -> Summary:
    """Return the facts of models that differ in fold and seed only."""
    task, results = group["task"].iloc[0], list(group["result"])
    names = SCORES_OF_TASK[task]
    is_label = task == "label"
    scores = pd.DataFrame([one.record.scores.get(one.record.part, {}) for one in results], columns=names, dtype=float)
    comparisons = {name: against_null(group, name) for name in nulls.SCORES} if is_label else {}
    known = published_kappa(group.iloc[0]) if published and is_label else None
    confusion = confusion_of(group) if is_label else None
    with_units = group[[bool(one.record.units.get(one.record.part)) for one in results]]
    return {
        "task": task,
        "folder": settings["folder"],
        "settings": {name: value for name, value in settings.items() if name != "folder"},
        "part": next((one.record.part for one in results if one.record.n_samples), "test"),
        "n_defined": scores.count().to_dict(),
        "mean": scores.mean().to_dict(),
        "sd": scores.std().to_dict(),
        "baselines": {
            baseline: pd.DataFrame(
                [one.record.baselines.get(baseline, {}).get(one.record.part, {}) for one in results],
                columns=names, dtype=float,
            ).mean().to_dict()
            for baseline in dict.fromkeys(name for one in results for name in one.record.baselines)
        },
        "null": {
            name: {"n_shifts": len(one.null), **dict(zip(("low", "middle", "high"), one.band, strict=True)), "p": one.p}
            for name, one in comparisons.items()
            if one.band is not None
        },
        "published": None if known is None else {"kappa": known.mean, "sd": known.sd},
        "confusion": None if confusion is None else confusion.tolist(),
        "units": unit_scores(with_units).reset_index(names="unit").to_dict("records") if len(with_units) else [],
        "models": [
            {
                "fold": one.record.columns["fold"],
                "seed": one.record.columns["seed"],
                "scores": of_model,
                "why_undefined": why,
                "curve": [{"train": train, "val": val} for train, val in one.record.curve],
                "best_epoch": one.record.best_epoch,
                "n_samples": dict(one.record.n_samples),
                "id": one.record.id,
                "data_digest": one.record.data_digest,
            }
            for one, why, of_model in zip(results, group["why_undefined"], scores.to_dict("records"), strict=True)
        ],
        "rank_curves": [],
    }  # fmt: skip


def _differences(models: pd.DataFrame) -> list[Summary]:
    """Return the settings, and the digests of data, whose values are not the same in every folder.

    Where all folders have models of a task, only those tasks count: the settings of others differ anyway.
    """
    shared = set.intersection(*(set(tasks) for _, tasks in models.groupby("folder")["task"]))
    models = models[models["task"].isin(shared)] if shared else models
    found = []
    for name in (*NUMBER_SETTINGS, "data_digest"):
        values = {str(folder): one.unique().tolist() for folder, one in models.groupby("folder", sort=False)[name]}
        if len({frozenset(map(str, of_folder)) for of_folder in values.values()}) > 1:
            found.append({"setting": name, "values": values})
    return found


def _compared(models: pd.DataFrame, task: str, first: str, second: str) -> list[Summary]:
    """Return the gain of the second folder over pairs of models of each label.

    Partners agree in label, fold, seed and whatever has several values in one of the folders; what has one value in
    each folder is what is compared.
    """
    score = MAIN_SCORE[task]
    ours, theirs = (models[(models["task"] == task) & (models["folder"] == folder)] for folder in (first, second))
    varied = {*varied_options(ours), *varied_options(theirs)} - {"label_name"} if len(ours) and len(theirs) else set()
    keys = ["task", "label_name", *(name for name in NUMBER_SETTINGS if name in varied - {"task"})]
    pairs = ours.merge(theirs, on=[*keys, *REPEATS])[[*keys, f"{score}_x", f"{score}_y"]]
    pairs = pairs.assign(gain=pairs[f"{score}_y"] - pairs[f"{score}_x"])
    found = []
    for values, group in pairs.groupby(keys, sort=False):
        means = group.loc[group["gain"].notna(), [f"{score}_x", f"{score}_y"]].mean().tolist()
        found.append({
            "folders": [first, second], "settings": dict(zip(keys, values, strict=True)), "score": score,
            "n_models": int(group["gain"].count()), "means": means,
            "difference": group["gain"].mean(), "sd": group["gain"].std(),
        })  # fmt: skip
    return found


def answer(models: pd.DataFrame, comparison: Sequence[Summary]) -> list[str]:
    """Return what was found in a few sentences, of the most usual settings, which are named."""
    sentences = []
    labels = models[models["task"] == "label"]
    if len(labels):
        shown, fixed = most_usual(labels)
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
        else:
            name, best = next(iter(found.items()))
            sentences.append(f"The highest kappa is {number(best.mean, 3)}: {name}{fixed}.")
            kind = f"only {n_shifts} shifts of the labels were" if n_shifts else "no shifts of the labels were"
            sentences.append(f"Whether that is above chance is not known: {kind} trained. Run study with --shifts 19.")
    if (models["task"] == "next_bin").any():
        sentences.append(f"The highest median R² of the next bin is {number(models['r2'].max(), 3)}.")
    pairs = pd.DataFrame([{**one, "first": one["folders"][0], "second": one["folders"][1]} for one in comparison])
    for (first, second, score), group in pairs.groupby(["first", "second", "score"], sort=False) if len(pairs) else ():
        low, high = number(group["difference"].min(), 3), number(group["difference"].max(), 3)
        what = f"The {SCORE_COLUMNS[score]} of {second} minus that of {first}"
        sentences.append(f"{what} is {low} to {high}, over {group['n_models'].sum()} pairs.")
    return sentences


FIRST_COLUMNS = {
    "mean.kappa": "kappa", "mean.r2": "median R²", "sd": "SD", "band": "shifted, 5 to 95 %", "null.kappa.p": "p",
    "published.kappa": "published", "baselines.time only.kappa": "time only (kappa)", "mean.auroc": "AUROC",
    "null.auroc.p": "p (AUROC)", "mean.bits_per_spike": "bits/spike", "mean.mse": "sq. error",
    "baselines.mean count.mse": "mean count (sq. error)", "baselines.copy last bin.mse": "copy last bin (sq. error)",
}  # fmt: skip
"""What a table of groups shows first; of labels or of next-bin. The others are rarely looked at."""

RARE_COLUMNS = {
    "baselines.majority class.accuracy": "majority class (accuracy)", "mean.accuracy": "accuracy",
    "mean.average_precision": "AP", "mean.base_rate": "base rate",
}  # fmt: skip
"""What is behind "all columns" on a page."""


def summary_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each group of one task of `summarise`: means, and what they are compared with."""
    task = groups[0]["task"]
    main = MAIN_SCORE[task]
    facts = pd.json_normalize([dict(group) for group in groups])
    has_folders, has_parts = (facts[name].nunique() > 1 for name in ("folder", "part"))
    val = "val " if not has_parts and groups[0]["part"] == "val" else ""
    rows = []
    for group, flat in zip(groups, facts.to_dict("records"), strict=True):
        n_defined, n_models = group["n_defined"][main], len(group["models"])
        null = group["null"].get(main)
        flat |= {"band": f"{null['low']:.3f} to {null['high']:.3f}" if null else None, "sd": group["sd"][main]}
        row: dict[str, object] = {name.replace("_", " "): as_cell(value) for name, value in group["settings"].items()}
        row["folder"] = group["folder"] if has_folders else None
        row["part"] = group["part"] if has_parts else None
        row["models"] = f"{n_defined} of {n_models}" if n_defined < n_models else str(n_models)
        for path, title in {**FIRST_COLUMNS, **RARE_COLUMNS}.items():
            value = flat.get(path)
            is_absent = path not in flat or (path.startswith(("null.", "published.")) and pd.isna(value))
            row[val + title if path.startswith("mean.") else title] = (
                None if is_absent else value if path == "band" else number(value, 3)
            )
        rows.append(row)
    return table_of(rows)
