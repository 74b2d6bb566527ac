"""Tables and lines for people: scores of a run, rows of a study, lists of runs, comparisons of folders."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from summer_prep.console import Table
from summer_train.runs.folder import PARTS, FitResult, Scores, probability_of
from summer_train.settings.lists import NUMBER_SETTINGS
from summer_train.settings.options import ALONE, OTHERS, SHIFTED_P

if TYPE_CHECKING:  # takes a second, and `fit` needs no table of it
    import pandas as pd

RUN_SETTINGS = ("task", "label_name", "patient_ids", "bin_length_ms", "buffer_s", "fold", "seed", "target")
REPEATS = ("fold", "seed", "draw")  # settings whose values are repeats of one result
SCORE_COLUMNS = {
    "kappa": "kappa", "auroc": "AUROC", "accuracy": "accuracy", "base_rate": "base rate",
    "r2": "R²", "r": "r", "bits_per_spike": "bits/spike", "mse": "sq. error", "loss": "loss",
    "average_precision": "AP", "f1": "F1", "f1_rarer": "F1 rarer", "balanced_accuracy": "balanced",
    "r2_median": "median R²", "r_median": "median r", "top_1": "top 1", "top_1_chance": "chance", "top_5": "top 5",
    "top_5_chance": "chance (5)", "top_10": "top 10", "top_10_chance": "chance (10)", "far_top_10": "far top 10",
    "far_top_10_chance": "chance (far)", "within_top_10": "top 10 within", "within_top_10_chance": "chance (within)",
    "median_rank_percent": "median rank %",
}  # fmt: skip
"""Scores in the order in which people see them, with what they call them (docs/study.md says what each is)."""


def compact_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Return rows as a table, without the columns in which no row has anything; a cell without anything is -."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    header = [name for name in header if any(row.get(name) is not None for row in rows)]
    return Table(header, [["-" if row.get(name) is None else row[name] for name in header] for row in rows])


def rounded(value: float | None, digits: int = 4) -> str:
    """Return a score as people read it; what is undefined is n/a."""
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124  # NaN


def p_cell(p: float) -> str:
    """Return a p or q as people read it."""
    return "< 0.001" if p < 0.0005 else rounded(p, 3)


def as_cell(value: object) -> str:
    """Return a setting's value as people read it, of several the first eight."""
    if isinstance(value, list):
        return ", ".join(map(as_cell, value[:8])) + (f", ... ({len(value)})" if len(value) > 8 else "")
    is_none = value in ("", None) or value != value  # noqa: PLR0124  # NaN: of another task
    return "none" if is_none else f"{value:g}" if isinstance(value, float) else str(value)


def score_tables(scores: Scores) -> list[Table]:
    """Return two tables with a row for each part and in it for model and baselines: main scores, others of labels."""
    columns = {name: title for name, title in SCORE_COLUMNS.items() if name in scores["model"]["val"]}
    if "bits_per_spike" in columns:
        columns["r2"] = "median R²"  # over units
    first = [name for name in columns if name in list(SCORE_COLUMNS)[:9]]
    shown = {row: parts for row, parts in scores.items() if row != SHIFTED_P}  # which is no score, but a note
    rows = [(part, row, parts[part]) for part in reversed(PARTS) for row, parts in shown.items() if part in parts]
    tables = []
    for names in filter(None, (first, [name for name in columns if name not in first])):
        cells = [[part, row, *(rounded(of_part.get(name)) for name in names)] for part, row, of_part in rows]
        tables.append(Table(["part", "scores", *(columns[name] for name in names)], cells))
    return tables


def notes_on_scores(result: Any) -> list[str]:
    """Return what a person must know to read a run's or an evaluation's scores, one line each, and a run's null."""
    notes = [f"{part}: n/a is undefined, {why}" for part, why in result.undefined.items()]
    null, penalty = getattr(result, "null", {}), getattr(result, "penalty", None)
    if "copy last bin" in result.scores:
        notes.append("copy last bin has no bits per spike (n/a): it predicts 0 where there are spikes")
    if "model" in result.thresholds:
        probability = probability_of(result.thresholds["model"])
        config = result.choice.as_plain() if hasattr(result, "choice") else result.config
        part = {"train": "training", "half": ""}.get(config.get("threshold", ""), "validation")
        notes.insert(
            0, f'"on" from a probability of {probability:.3g}' + (f", chosen on {part} for kappa" if part else "")
        )
    if penalty is not None:
        notes.append(f"penalty {penalty:g}, chosen on validation")
    if null:
        what = {"label": "labels", "encode": "inputs"}.get(result.config["task"], "features")
        p = [
            f"p {rounded(null[f'p_{name}'])} ({title})" for name, title in SCORE_COLUMNS.items() if f"p_{name}" in null
        ]
        notes.append(f"{null['part']} against {len(null['shifts'])} networks trained on shifted {what}: {', '.join(p)}")
    if of_maps := result.scores.get(SHIFTED_P):
        p = [f"p {rounded(one)} ({SCORE_COLUMNS[name]})" for name, one in of_maps["test"].items()]
        notes.append(f"test against maps on shifted film: {', '.join(p)}")
    return notes


def settings_line(models: "pd.DataFrame") -> str:
    """Return the settings that all models have in common, as one line for people."""
    shown = {name: value for name, value in common_settings(models).items() if value not in ("", None, False)}
    return "all with " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def common_settings(models: "pd.DataFrame") -> dict[str, Any]:
    """Return the settings that all models have in common."""
    names = [name for name in NUMBER_SETTINGS if name in models and models[name].nunique(dropna=False) == 1]
    return {name: models[name].iloc[0] for name in names}


def varied_options(models: "pd.DataFrame") -> list[str]:
    """Return the options that differ between models, label first, without folds and seeds."""
    names = [name for name in NUMBER_SETTINGS if name not in REPEATS and name in models]
    varied = [name for name in names if models[name].nunique(dropna=False) > 1]
    task = models["task"].iloc[0] if "task" in models and len(models) else ""
    default = {"label": "label_name", "feature": "target", "encode": "target"}.get(task, "task")
    return sorted(varied or [default], key=lambda name: name not in ("label_name", "target"))


def runs_table(results: Iterable[FitResult]) -> Table:
    """Return a table with a row for each run: narrow, for people; `run_row` has more."""
    table = []
    for result in results:
        row = run_row(result)
        others = ("model", OTHERS, ALONE, SHIFTED_P)
        losses = [
            parts["test"]["loss"] for row, parts in result.scores.items() if row not in others and "test" in parts
        ]
        predicts = row.get("target") or row["label_name"] or row["task"].replace("_", " ")
        name, best = "/".join(result.log_dir.parts[-2:]), f"{result.best_epoch}/{result.n_epochs}"
        scores = [row[f"test_{score}"] for score in ("kappa", "auroc", "r2", "accuracy", "loss")]
        baseline = rounded(min(losses)) if losses else ""
        table.append([name, predicts, row["patient_ids"], row["fold"], best, *scores, baseline])
    header = "run,predicts,patients,fold,best,test kappa,AUROC,R²,accuracy,loss,baseline's"
    return Table(header.split(","), table)


def run_row(result: FitResult) -> dict[str, Any]:
    """Return the settings and the scores of a run for a list of many, scores as text."""
    settings = {name: result.config[name] for name in RUN_SETTINGS if name in result.config}
    settings["patient_ids"] = " ".join(settings["patient_ids"])
    settings["label_name"] = settings["label_name"] if any(result.n_per_class.values()) else ""  # no classes, no label
    scores = {f"test_{name}": result.scores["model"].get("test", {}).get(name) for name in ("loss", *SCORE_COLUMNS)}
    return {
        "run": str(result.log_dir),
        **{name: "" if value is None else value for name, value in settings.items()},
        "best_epoch": result.best_epoch,
        "n_epochs": result.n_epochs,
        "val_loss": rounded(result.scores["model"]["val"]["loss"]),
        **{name: "" if value is None else rounded(value) for name, value in scores.items()},
    }


def comparison_table(comparison: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each label and folder, or value of a setting, that is compared with the first one."""
    rows = []
    for one in comparison:
        settings = {name.replace("_", " "): as_cell(value) for name, value in one["settings"].items() if name != "task"}
        (first, second), (mean, other_mean) = map(as_cell, one["values"]), one["means"]
        scores = {"first's": mean, "second's": other_mean, "gain": one["difference"], "SD of gain": one["sd"]}
        what = {"score": SCORE_COLUMNS[one["score"]], "first": first, "second": second, "pairs": one["n_models"]}
        rows.append({**settings, **what, **{name: rounded(value, 3) for name, value in scores.items()}})
        if together := one["together"].get(one["score"]):
            gain, low, high = (rounded(together[name], 3) for name in ("gain", "low", "high"))
            rows[-1] |= {"gain, folds together": gain, "95 %": f"{low} to {high}"}
            rows[-1] |= {name: p_cell(together[name]) for name in ("p", "q")}
    return compact_table(rows)
