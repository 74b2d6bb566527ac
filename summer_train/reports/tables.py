"""Tables and lines for people: scores of a run, rows of a study, lists of runs, comparisons of folders."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from summer_prep.console import Table
from summer_train.runs.folder import PARTS, FitResult, Scores, probability_of
from summer_train.settings.lists import NUMBER_SETTINGS

if TYPE_CHECKING:  # takes a second, and `fit` needs no table of it
    import pandas as pd

RUN_SETTINGS = ("task", "label_name", "patient_ids", "bin_length_ms", "buffer_s", "fold", "seed")
"""What `summer-train runs` shows of a run's settings."""

SCORE_COLUMNS = {
    "kappa": "kappa", "auroc": "AUROC", "accuracy": "accuracy", "base_rate": "base rate",
    "r2": "median R²", "bits_per_spike": "bits/spike", "mse": "sq. error", "loss": "loss",
    "average_precision": "AP", "f1": "F1", "f1_rarer": "F1 rarer", "balanced_accuracy": "balanced",
}  # fmt: skip
"""Scores in the order in which people see them, with what they call them (README: what each is)."""

REPEATS = ("fold", "seed")
"""Options whose values are repeats of one result."""


def table_of(rows: Sequence[Mapping[str, object]]) -> Table:
    """Return rows as a table, without the columns in which no row has anything; a cell without anything is -."""
    header = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    return Table(header, [["-" if row[name] is None else row[name] for name in header] for row in rows])


def number(value: float | None, digits: int = 4) -> str:
    """Return a score as people read it; what is undefined is n/a."""
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124  # NaN


def as_cell(value: object) -> str:
    """Return a setting's value as people read it, of several the first eight."""
    if isinstance(value, list):
        return ", ".join(map(as_cell, value[:8])) + (f", ... ({len(value)})" if len(value) > 8 else "")
    return "none" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)


def score_tables(scores: Scores) -> list[Table]:
    """Return tables with a row for each part, test first, and in it for the model and each baseline.

    The first has what is asked for first, the second the other scores of labels.
    """
    known = [name for name in SCORE_COLUMNS if name in scores["model"]["val"]]
    first = [name for name in known if name in list(SCORE_COLUMNS)[:8]]
    return [
        Table(
            ["part", "scores", *(SCORE_COLUMNS[name] for name in names)],
            [
                [part, row, *(number(parts[part].get(name)) for name in names)]
                for part in reversed(PARTS)
                for row, parts in scores.items()
                if part in parts
            ],
        )
        for names in (first, [name for name in known if name not in first])
        if names
    ]


def notes_on_scores(
    thresholds: Mapping[str, float], undefined: Mapping[str, str], baselines: Iterable[str] = ()
) -> list[str]:
    """Return what a person must know to read the scores of a model, one line each."""
    notes = [f"{part}: n/a is undefined, {why}" for part, why in undefined.items()]
    if "copy last bin" in baselines:
        notes.append("copy last bin has no bits per spike (n/a): it predicts 0 where there are spikes")
    if "model" in thresholds:
        probability = probability_of(thresholds["model"])
        notes.insert(0, f'"on" from a probability of {probability:.3g}, chosen on validation for kappa')
    return notes


def null_line(null: Mapping[str, Any]) -> str:
    """Return what a null of shifted labels says."""
    n_shifts = len(null["kappa"])
    said = ", ".join(f"p {number(null[f'p_{name}'])} ({SCORE_COLUMNS[name]})" for name in ("kappa", "auroc"))
    return f"{null['part']} against {n_shifts} networks trained on shifted labels: {said}"


_STUDY_COLUMNS = {
    "kappa": "kappa", "auroc": "AUROC", "accuracy": "accuracy", "base_rate": "base rate",
    "time_only_kappa": "time only", "r2": "median R²", "bits_per_spike": "bits/spike", "loss": "loss",
}  # fmt: skip


def study_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row for each combination of what varies in a study, folds and seeds taken together.

    Scores are of the test part, or of validation where the split has no test part; means are of what is defined.
    """
    import pandas as pd

    study = pd.DataFrame(rows)
    varied = varied_options(study)
    study[varied] = study[varied].astype(object).fillna("")
    sizes = study.reindex(columns=["n_test", "n_val"], fill_value=0)
    has_test = sizes["n_test"] > 0
    use_test = has_test | (sizes["n_val"] == 0)
    scores = {}
    for name, title in _STUDY_COLUMNS.items():
        baseline, score = ("time_only_", "kappa") if name == "time_only_kappa" else ("", name)
        columns = study.reindex(columns=[f"{baseline}{part}_{score}" for part in ("test", "val")]).astype(float)
        values = columns.iloc[:, 0].where(use_test, columns.iloc[:, 1])
        if values.notna().any():
            scores[title if has_test.any() else f"val {title}"] = values
    table: list[list[object]] = []
    for values, models in study.groupby(varied, sort=False):
        cells = []
        for place, score in enumerate(scores.values()):
            found = score[models.index].dropna()
            spread = [f"{found.std():.3f}"] if len(found) > 1 else []
            spread += [f"{len(found)} of {len(models)}"] if 0 < len(found) < len(models) else []
            cells.append(number(found.mean(), 3) + (f" ({'; '.join(spread)})" if spread and place == 0 else ""))
        table.append([*values, len(models), *cells])
    titles = [f"{title} (SD)" if place == 0 else title for place, title in enumerate(scores)]
    return Table([*(name.replace("_", " ") for name in varied), "models", *titles], table)


def settings_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings that all rows of a study have in common, as one line for people."""
    import pandas as pd

    common = common_settings(pd.DataFrame(rows, dtype=object))
    shown = {name: value for name, value in common.items() if value not in ("", None, False)}
    return "all with " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def common_settings(models: "pd.DataFrame") -> dict[str, Any]:
    """Return the settings that all models have in common."""
    names = [name for name in NUMBER_SETTINGS if name in models and models[name].nunique(dropna=False) == 1]
    return {name: models[name].iloc[0] for name in names}


def varied_options(models: "pd.DataFrame") -> list[str]:
    """Return the options that differ between models, label first, without folds and seeds."""
    names = [name for name in NUMBER_SETTINGS if name not in REPEATS and name in models]
    varied = [name for name in names if models[name].nunique(dropna=False) > 1]
    is_label = "task" in models and len(models) and models["task"].iloc[0] == "label"
    return sorted(varied or ["label_name" if is_label else "task"], key=lambda name: name != "label_name")


def runs_table(results: Iterable[FitResult]) -> Table:
    """Return a table with a row for each run: narrow, for people; `run_row` has more."""
    rows = []
    for result in results:
        row = run_row(result)
        scores_of = {name: parts["test"] for name, parts in result.scores.items() if "test" in parts}
        baselines = [scores["loss"] for name, scores in scores_of.items() if name != "model"]
        rows.append([
            "/".join(result.log_dir.parts[-2:]), row["label_name"] or row["task"].replace("_", " "),
            row["patient_ids"], row["fold"], f"{result.best_epoch}/{result.n_epochs}",
            *(row[f"test_{name}"] for name in ("kappa", "auroc", "accuracy", "loss")),
            number(min(baselines)) if baselines else "",
        ])  # fmt: skip
    columns = ["test kappa", "AUROC", "accuracy", "loss", "baseline's"]
    return Table(["run", "predicts", "patients", "fold", "best", *columns], rows)


def run_row(result: FitResult) -> dict[str, Any]:
    """Return the settings and the scores of a run for a list of many, scores as text."""
    settings = {name: result.config.get(name) for name in RUN_SETTINGS}
    settings["patient_ids"] = " ".join(result.config.get("patient_ids", ()))
    if not any(result.n_per_class.values()):  # no classes, no label
        settings["label_name"] = ""
    scores = {f"test_{name}": result.scores["model"].get("test", {}).get(name, "") for name in ("loss", *SCORE_COLUMNS)}
    return {
        "run": str(result.log_dir),
        **{name: "" if value is None else value for name, value in settings.items()},
        "best_epoch": result.best_epoch,
        "n_epochs": result.n_epochs,
        "val_loss": number(result.scores["model"]["val"]["loss"]),
        **{name: value if value == "" else number(value) for name, value in scores.items()},
    }


def comparison_table(comparison: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each label and folder that is compared with the first folder."""
    names = [name for name in dict.fromkeys(name for one in comparison for name in one["settings"]) if name != "task"]
    return table_of([
        {
            **{name.replace("_", " "): as_cell(one["settings"].get(name)) for name in names},
            "score": SCORE_COLUMNS[one["score"]],
            "first": one["folders"][0],
            "second": one["folders"][1],
            "pairs": one["n_models"],
            "first's": number(one["means"][0], 3),
            "second's": number(one["means"][1], 3),
            "gain": number(one["difference"], 3),
            "SD of gain": number(one["sd"], 3),
        }
        for one in comparison
    ])  # fmt: skip


def differences_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each setting that is not the same in all folders."""
    return table_of([
        {"setting": one["setting"].replace("_", " "), **{name: as_cell(value) for name, value in one["values"].items()}}
        for one in differences
    ])  # fmt: skip
