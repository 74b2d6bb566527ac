"""What a report says, as plain data, sentences and a table: all made of the table of models."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from summer_prep.console import Table
from summer_prep.errors import SettingsError
from summer_train.reports import findings, tables
from summer_train.reports.evidence import against_null, with_q
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import REPEATS, rounded, varied_options
from summer_train.scores import claims, nulls
from summer_train.settings.lists import NUMBER_SETTINGS, column_of
from summer_train.settings.options import WITH_TARGET
from summer_train.studies.records import SCORES_OF_TASK

MAIN_SCORE = {"label": "kappa", "next_bin": "r2", "feature": "r2", "encode": "r2"}  # by which results are compared
N_WITH_CURVES = 6  # combinations with rank curves in the JSON, those with the highest kappa: each takes a MB
N_CURVE_POINTS = 200
TUNED = (
    "model", "loss", "class_weight", "hidden_size", "lr", "batch_size", "weight_decay", "dropout", "standardise",
    "space", "max_epochs", "patience",
)  # fmt: skip
"""Settings that are chosen by their scores on validation, unlike regions, patients or buffers, which are compared."""
MIN_SHIFTS = 19  # the fewest with which p can be 0.05
Summary = dict[str, Any]


def summarise(
    models: pd.DataFrame, published: bool = False, with_curves: bool = False, compare: str | None = None
) -> Summary:
    """Return what the models of `read_models` show, as `report --json` prints it (docs/study.md has every value).

    Rank curves, for which predictions are read, are left empty unless they are asked for. Beside folders, values of the
    setting `compare` are compared; raises SettingsError unless it has several.
    """
    groups: list[Summary] = []
    for task, of_task in models.groupby("task"):  # labels first
        keys, score = ["folder", *varied_options(of_task)], MAIN_SCORE[str(task)]
        in_order, n_with_curves = _ranked(of_task, keys, score), 0
        for values, group in in_order.groupby(keys, sort=False):
            facts = _group_facts(dict(zip(keys, values, strict=True)), group, published)
            predicted = [one for one in group["result"] if with_curves and task == "label" and one.predictions.exists()]
            n_with_curves += bool(predicted)
            for result in predicted if n_with_curves <= N_WITH_CURVES else ():
                if curves := findings.rank_curves_of(result):
                    points, base_rate = curves
                    shown = np.unique(np.linspace(0, len(points["fpr"]) - 1, N_CURVE_POINTS).round().astype(int))
                    own = {"fold": result.columns["fold"], "base_rate": base_rate}
                    facts["rank_curves"].append(own | {name: one[shown].tolist() for name, one in points.items()})
            groups.append(facts)
        with_q([group["over_time_only"] for group in groups if group["task"] == task])
    first, *others = models["folder"].unique()
    shared = set.intersection(*(set(tasks) for _, tasks in models.groupby("folder")["task"]))
    of_shared = models[models["task"].isin(shared)] if shared else models  # the settings of other tasks differ anyway
    differences = []
    for name in (one for one in (*NUMBER_SETTINGS, "data_digest") if one in of_shared):
        of_folders = {folder: one.unique().tolist() for folder, one in of_shared.groupby("folder", sort=False)[name]}
        if len({frozenset(map(str, of_folder)) for of_folder in of_folders.values()}) > 1:
            differences.append({"setting": name, "values": of_folders})
    pairs = [("folder", first, other) for other in others]
    if compare:
        compare = column_of(compare)
        several = [name for name in varied_options(models) if name not in ("task", "label_name", "target")]
        if compare not in several:
            among = f"Choose among {', '.join(several)}" if several else "No setting has several values here"
            raise SettingsError(f"--compare {compare}: is no setting of a model with several values. {among}")
        values = models[compare].unique().tolist()
        pairs += [(compare, values[0], other) for other in values[1:]]
    comparison = [one for pair in pairs for task in MAIN_SCORE for one in _compared(models, task, *pair)]
    return {
        "n_models": len(models),
        "settings": tables.common_settings(models),
        "groups": groups,
        "differences": differences,
        "comparison": comparison,
    }


def _ranked(models: pd.DataFrame, keys: Sequence[str], score: str) -> pd.DataFrame:
    """Return models of one task ordered by the mean score of their group, with a column `chosen`.

    Settings that are tuned compete by their mean on validation, never on test: `chosen` is whether a group is the best
    of those that differ in such settings only, which stand together, and is None where no folder tunes anything.
    """
    n_values = models.groupby("folder")[keys].nunique(dropna=False).max()
    fixed = [name for name in keys if name not in TUNED or n_values[name] == 1]
    mean = models.groupby(keys)[score].transform("mean")
    if len(fixed) == len(keys) or f"val_{score}" not in models:
        return models.loc[mean.sort_values(ascending=False, kind="stable").index].assign(chosen=None)
    of_groups = models.groupby(keys)[f"val_{score}"]
    n_defined, val = of_groups.transform("count"), of_groups.transform("mean")
    # A mean over fewer folds is no rival: they may be the easy ones.
    val = val.where(n_defined == n_defined.groupby([models[name] for name in fixed]).transform("max"))
    is_best = val == val.groupby([models[name] for name in fixed]).transform("max")
    of_best = mean.where(is_best).groupby([models[name] for name in fixed]).transform("max")
    order = pd.DataFrame({"best": of_best, "val": val}).sort_values(["best", "val"], ascending=False, kind="stable")
    return models.assign(chosen=is_best).loc[order.index]


def _group_facts(settings: Summary, group: pd.DataFrame, published: bool) -> Summary:
    """Return the facts of models that differ in fold, seed and draw only; `settings` has their folder, too."""
    task, results = group["task"].iloc[0], list(group["result"])
    names, is_label = SCORES_OF_TASK[task], task == "label"
    columns = ["mean_loss" if name == "loss" else name for name in names]
    scores = group.reindex(columns=columns).set_axis(names, axis=1)
    baselines = {}
    for baseline in dict.fromkeys(name for one in results for name in one.baselines):
        of_baseline = group.reindex(columns=[f"{baseline.replace(' ', '_')}_{name}" for name in columns])
        baselines[baseline] = of_baseline.set_axis(names, axis=1).mean().to_dict()
    null = {}
    for name in nulls.SCORES.get(task, ()):
        one = against_null(group, name)
        if one.band is not None:
            low, middle, high = one.band
            null[name] = {"n_shifts": len(one.null), "low": low, "middle": middle, "high": high, "p": one.p}
            for fact, column in (("p_corrected", f"p_{name}_corrected"), ("q", f"q_{name}")):
                null[name][fact] = float(group[column].iloc[0])
            null[name]["n_tests"] = int(group[f"n_{name}_tests"].iloc[0])
    sums, of_time = (findings.sums_of(results, row) for row in ("model", "time only"))
    alignment = {name: findings.against_shifted_film(group, name).p for name in nulls.SCORES.get(task, ())}
    known = published_kappa(group.iloc[0]) if published and is_label else None
    confusion = findings.confusion_of(group)
    is_one_draw = len({one.columns.get("draw") for one in results}) == 1  # others are of other units
    has_units = [is_one_draw and task in ("next_bin", "encode") and bool(one.units.get(one.part)) for one in results]
    with_units = group[has_units]
    units = findings.unit_scores(with_units).reset_index(names="unit") if len(with_units) else with_units
    models = group[["fold", "seed", "why_undefined", "best_epoch", "id", "data_digest"]].to_dict("records")
    for model, of_model, one in zip(models, scores.to_dict("records"), results, strict=True):
        curve = [{"train": train, "val": val} for train, val in one.curve]
        model |= {"scores": of_model, "curve": curve, "n_samples": dict(one.n_samples)}
    return {
        "task": task,
        "folder": settings["folder"],
        "settings": {name: value for name, value in settings.items() if name != "folder"},
        "part": next((one.part for one in results if one.n_samples), "test"),
        "n_units": int(group["n_units"].max()),
        "n_defined": scores.count().to_dict(),
        "chosen": group["chosen"].iloc[0],
        "val": float(group.get(f"val_{MAIN_SCORE[task]}", pd.Series()).mean()),
        "n_at_half": sum(_is_at_half(one) for one in results),
        "mean": scores.mean().to_dict(),
        "sd": scores.std().to_dict(),
        "baselines": baselines,
        "null": null,
        "interval": findings.interval_of(results),
        "alignment": {name: p for name, p in alignment.items() if np.isfinite(p)},
        "over_time_only": claims.gains(list(zip(of_time, sums, strict=True)), findings.draws_of(results)),
        "published": None if known is None else {"kappa": known.mean, "sd": known.sd},
        "confusion": None if confusion is None else confusion.tolist(),
        "units": units.to_dict("records"),
        "n_better": findings.n_better(units),
        "models": models,
        "rank_curves": [],
    }


def _is_at_half(result: findings.Result) -> bool:
    """Return whether the threshold of a label is 0.5 since validation, which would choose it, lacks a class."""
    is_of_validation = result.columns.get("threshold_from", "validation") == "validation"
    return is_of_validation and bool(np.isnan(result.scores.get("val", {}).get("kappa", 0.0)))


def _compared(models: pd.DataFrame, task: str, compared: str, first: Any, second: Any) -> list[Summary]:
    """Return the gain of the second folder, or value of a setting, over pairs of models of each label.

    Partners agree in label, fold, seed and whatever has several values in one of the folders; what has one value in
    each folder is what is compared.
    """
    score = MAIN_SCORE[task]
    ours, theirs = (models[(models["task"] == task) & (models[compared] == value)] for value in (first, second))
    decoded = ("label_name", *(["target"] if task in WITH_TARGET and "target" in models else []))
    varied = {*varied_options(ours), *varied_options(theirs)} - {"task", *decoded}
    within = [] if compared == "folder" else ["folder"]
    keys = ["task", *decoded, *within, *sorted(varied - {compared}, key=NUMBER_SETTINGS.index)]
    # What is not drawn at all is the partner of each draw.
    repeats = [one for one in REPEATS if one in models and ({*ours[one]} == {""}) == ({*theirs[one]} == {""})]
    pairs = ours.merge(theirs, on=[*keys, *repeats], suffixes=("", "_of_second"))
    pairs["gain"] = pairs[f"{score}_of_second"] - pairs[score]
    found = []
    for values, group in pairs.groupby(keys, sort=False):
        defined = group[group["gain"].notna()]
        settings = dict(zip(keys, values, strict=True))
        folder = settings.pop("folder", None)
        both = zip(group["result"], group["result_of_second"], strict=True)
        scored = [pair for pair in both if pair[0].scores and pair[1].scores]
        sums = zip(*(findings.sums_of(pair[of] for pair in scored) for of in (0, 1)), strict=False)
        draws = [tuple(findings.draws_of(pair)) for pair in scored]
        found.append({
            "compared": compared, "values": [first, second], "folders": [folder or first, folder or second],
            "settings": settings, "score": score, "together": claims.gains(list(sums), draws),
            "n_models": len(defined), "means": defined[[score, f"{score}_of_second"]].mean().tolist(),
            "difference": defined["gain"].mean(), "sd": defined["gain"].std(),
        })  # fmt: skip
    with_q([one["together"] for one in found])
    return found


def answer(models: pd.DataFrame, comparison: Sequence[Summary]) -> list[str]:
    """Return what was found in a few sentences, of the most usual settings, which are named."""
    by_task = models.groupby("task")
    ranked = [_ranked(one, ["folder", *varied_options(one)], MAIN_SCORE[str(task)]) for task, one in by_task]
    models, sentences = pd.concat(ranked), []
    if models["chosen"].notna().any():
        sentences.append("Results are of the settings that are best on validation (chosen: *).")
        models = models[models["chosen"].ne(False)]
    for task, score, title in (("label", "kappa", "kappa"), ("feature", "r2", "R² of features")):
        if not (models["task"] == task).any():
            continue
        shown, fixed = findings.most_usual(models[models["task"] == task])
        groups = findings.by_label(shown)
        found = {name: against_null(group, score) for name, group in groups.items()}
        tested = {name: one for name, one in found.items() if len(one.null) >= MIN_SHIFTS}
        p = {name: groups[name][f"p_{score}_corrected"].iloc[0] for name in tested}
        if tested:
            above = [name for name in tested if p[name] <= 0.05 and tested[name].mean > 0]
            verdicts = {
                "Above chance": above,
                "Not above chance": [name for name in tested if name not in above],
                f"Fewer than {MIN_SHIFTS} valid shifts": [name for name in found if name not in tested],
            }
            for what, names in verdicts.items():
                more = f" and {len(names) - 12} more" if len(names) > 12 else ""
                sentences += [f"{what}: {', '.join(names[:12])}{more}."] if names else []
            n_shifts = sorted({len(one.null) for one in tested.values()})
            null = f"{' to '.join(map(str, dict.fromkeys((n_shifts[0], n_shifts[-1]))))} shifts of the {task}s"
            n_rows = int(max(groups[name][f"n_{score}_tests"].iloc[0] for name in tested))
            compared_with = f"is compared with {null}, at p = 0.05 corrected over {n_rows} results{fixed}."
            sentences.append(f"{title[0].upper()}{title[1:]} {compared_with}")
        else:
            name, best = next(iter(found.items()))
            highest = f"The highest {title} is {rounded(best.mean, 3)}: {name}"
            if best.mean != best.mean:  # NaN
                highest = f"{title[0].upper()}{title[1:]} is undefined"
            highest += f", at the most usual settings{fixed}" if fixed else ""
            most = max(len(one.null) for one in found.values())
            kind = f"only {most} shifts of the {task}s are valid" if most else f"no shifts of the {task}s were trained"
            advice = "Run study with --shifts 40: those with an undefined score do not count."
            sentences += [f"{highest}.", f"Whether that is above chance is not known: {kind}. {advice}"]
        sentences += _left_out(models[models["task"] == task], score, title)
    if len(next_bin := models[models["task"] == "next_bin"]):
        sentences += _next_bin(next_bin)
    if len(encoded := models[models["task"] == "encode"]):
        name, group = next(iter(findings.by_label(findings.most_usual(encoded)[0]).items()))
        best = against_null(group, "r2")
        chance = f", p {rounded(best.p, 3)} against {len(best.null)} shifts" if len(best.null) else ""
        sentences.append(f"The highest median R² over units is {rounded(best.mean, 3)}: {name}{chance}.")
        if all(one.null_units for one in group["result"]):
            sentences.append(f"Units with p <= 0.05, where 1 in 20 is expected by chance: {_driven(encoded)}.")
    compared = pd.DataFrame(comparison, columns=["values", "score", "n_models", "difference"])
    compared["values"] = compared["values"].map(lambda pair: tuple(map(tables.as_cell, pair)))
    for ((first, second), score), pairs in compared.groupby(["values", "score"], sort=False):
        low, high = rounded(pairs["difference"].min(), 3), rounded(pairs["difference"].max(), 3)
        what = f"The {tables.SCORE_COLUMNS[score]} of {second} minus that of {first}"
        sentences.append(f"{what} is {low} to {high}, over {pairs['n_models'].sum()} pairs.")
    return sentences


def _left_out(models: pd.DataFrame, score: str, title: str) -> list[str]:
    """Return how patients that were left out compare with maps on shifted film, a sentence for each label or target."""
    sentences = []
    for name, group in findings.by_label(findings.usual_of_patients(models)[0]).items():
        found = findings.against_shifted_film(group, score)
        if len(found.null):
            what = (
                f"{title} {rounded(found.mean, 3)}, mean of {group['leave_out'].nunique()} patients that were left out"
            )
            sentences.append(f"{name}: {what}, p {rounded(found.p, 3)} against {len(found.null)} maps on shifted film.")
    return sentences


def _next_bin(models: pd.DataFrame) -> list[str]:
    """Return what was found of the next bin, and how many units are predicted, of one draw, at most usual settings."""
    highest = models.groupby(["folder", *varied_options(models)])["r2"].mean().max()
    sentences = [f"The highest median R² of the next bin is {rounded(highest, 3)}."]
    if len(with_units := models[[one.part in one.units for one in models["result"]]]):
        shown, fixed = findings.most_usual(with_units)
        if "draw" in shown:
            shown, fixed = shown[shown["draw"] == shown["draw"].iloc[0]], f"{fixed} (draw {shown['draw'].iloc[0]})"
        units = findings.unit_scores(next(iter(findings.by_label(shown).values())))
        if n := findings.n_better(units):  # not of earlier versions
            surely = f" ({n['interval_above_0']} with a 95 % interval above it)" if "interval_above_0" in n else ""
            than = f"better than by their mean count{surely}, {n['copy_last_bin']} better than by copying the last bin"
            sentences.append(f"{n['mean_count']} of {len(units)} units are predicted {than}{fixed}.")
    return sentences


def _driven(models: pd.DataFrame) -> str:
    """Return how many units each target of encoding drives, at the most usual settings."""
    units = {name: findings.unit_scores(one) for name, one in findings.by_label(findings.most_usual(models)[0]).items()}
    counts = [f"{name} {(one['p'] <= 0.05).sum()} of {len(one)}" for name, one in units.items() if "p" in one]
    return ", ".join(counts[:12]) + (f" and {len(counts) - 12} more targets" if len(counts) > 12 else "")


COLUMNS = {
    "mean.kappa": "kappa", "mean.r2": "median R²", "sd": "SD", "together": "folds together, 95 %",
    "band": "shifted, 5 to 95 %", "null.kappa.p": "p", "null.kappa.p_corrected": "p corrected", "null.kappa.q": "q",
    "published.kappa": "published", "baselines.time only.kappa": "time only (kappa)",
    "baselines.shifted film 95.kappa": "shifted film, 95 % (kappa)",
    "alignment.kappa": "p of alignment", "baselines.alone.kappa": "alone (kappa)",
    "baselines.others.kappa": "others (kappa)",
    "over": "gain over time only, 95 %", "over_time_only.kappa.p": "p of gain",
    "over_time_only.kappa.q": "q of gain", "mean.auroc": "AUROC",
    "null.r2.p": "p", "null.r2.p_corrected": "p corrected", "null.r2.q": "q",
    "baselines.time only.r2": "time only (R²)", "alignment.r2": "p of alignment",
    "over_time_only.r2.p": "p of gain (R²)",
    "mean.r": "r", "null.r.p": "p (r)",
    "mean.r2_median": "median R²", "mean.top_10": "top 10", "mean.top_10_chance": "top 10 by chance",
    "null.auroc.p": "p (AUROC)", "mean.bits_per_spike": "bits/spike", "mean.mse": "sq. error",
    "n_better.mean_count": "better than mean", "n_better.interval_above_0": "95 % above mean",
    "n_better.copy_last_bin": "better than copy", "n_better.time_only": "better than time",
    "baselines.mean count.mse": "mean count (sq. error)", "baselines.copy last bin.mse": "copy last bin (sq. error)",
    "baselines.majority class.accuracy": "majority class (accuracy)", "mean.accuracy": "accuracy",
    "mean.average_precision": "AP", "mean.base_rate": "base rate",
}  # fmt: skip
"""Facts of a group -> title in the table of groups."""
RARE = "majority class (accuracy)"
"""A page shows this column and what follows only on request: settings that differ between folders stand last."""


def summary_tables(groups: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    """Return task -> table with a row for each of its groups of `summarise`."""
    of_task = {task: [group for group in groups if group["task"] == task] for task in MAIN_SCORE}
    return {task: summary_table(of_one) for task, of_one in of_task.items() if of_one}


def summary_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each group of one task of `summarise`: means, and what they are compared with."""
    facts = pd.json_normalize([dict(group) for group in groups])
    task = groups[0]["task"]
    main = MAIN_SCORE[task]
    settings = facts.filter(like="settings.").map(tables.as_cell)
    settings.columns = [name.removeprefix("settings.").replace("_", " ") for name in settings]
    varies = settings.groupby(facts["folder"]).nunique().max() > 1
    varies.iloc[0] = True  # the label
    table = settings.loc[:, varies].copy()
    for name in ("folder", "part"):
        if facts[name].nunique() > 1:
            table[name] = facts[name]
    val = "val " if "part" not in table and groups[0]["part"] == "val" else ""
    n_defined, n_models = facts[f"n_defined.{main}"].astype(str), facts["models"].map(len).astype(str)
    table["units"] = facts["n_units"]
    table["models"] = n_models.where(n_defined == n_models, n_defined + " of " + n_models)
    facts["sd"] = facts[f"sd.{main}"]
    if facts["chosen"].notna().any():
        table["validation"] = [rounded(value, 3) for value in facts["val"]]
        table["chosen"] = facts["chosen"].map({True: "*", False: ""}).fillna("")
    if facts["n_at_half"].any():
        table["at 0.5"] = facts["n_at_half"].astype(str)
    if f"null.{main}.p" in facts:
        low, high = (facts[f"null.{main}.{end}"] for end in ("low", "high"))
        facts["band"] = (low.map("{:.3f}".format) + " to " + high.map("{:.3f}".format)).where(low.notna())
    for name, path, value in (("together", f"interval.{main}", "value"), ("over", f"over_time_only.{main}", "gain")):
        if f"{path}.low" in facts:
            ends = [facts[f"{path}.{one}"].map("{:.3f}".format) for one in (value, "low", "high")]
            facts[name] = (ends[0] + " (" + ends[1] + " to " + ends[2] + ")").where(facts[f"{path}.low"].notna())
    for path, title in COLUMNS.items():
        if path in facts:
            is_p = path.endswith((".p", ".p_corrected", ".q")) or path.startswith("alignment.")
            as_text = tables.p_cell if is_p else partial(rounded, digits=3)
            as_text = "{:.0f}".format if path.startswith("n_better.") else as_text
            absent = "n/a" if path.startswith(("mean.", "sd", "baselines.")) else "-"
            cells = [
                absent if pd.isna(cell) else cell if isinstance(cell, str) else as_text(cell) for cell in facts[path]
            ]
            title = "R²" if path == "mean.r2" and task == "feature" else title  # noqa: PLW2901
            table[val + title if path.startswith("mean.") else title] = cells
    table = table.join(settings.loc[:, ~varies])
    return Table(list(table), table.to_numpy(object).tolist())
