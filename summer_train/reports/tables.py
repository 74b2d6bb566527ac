"""What people read of runs and studies: tables of scores, lists of runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from summer_prep.console import Table
from summer_train.runs.folder import PARTS, FitResult, Scores, probability_of
from summer_train.settings.lists import NUMBER_SETTINGS

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

    varied = varied_options(rows)
    study = pd.DataFrame(rows).fillna(dict.fromkeys(varied, ""))
    has_test = study.get("n_test", pd.Series(0, study.index)) > 0
    n_val = study.get("n_val", pd.Series(0, study.index))
    scores = {}
    for name, title in _STUDY_COLUMNS.items():
        baseline = "time_only_" if name.startswith("time_only_") else ""
        tested, validated = (
            pd.to_numeric(study.get(f"{baseline}{part}_{name.removeprefix(baseline)}", pd.Series(index=study.index)))
            for part in ("test", "val")
        )
        values = tested.where(has_test | (n_val == 0), validated)
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
    shown = {name: value for name, value in common_settings(rows).items() if value not in ("", None, False)}
    return "all with " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def common_settings(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all rows of a study have in common."""
    return {
        name: rows[0].get(name)
        for name in NUMBER_SETTINGS
        if rows and len({str(row.get(name, "")) for row in rows}) == 1
    }


def varied_options(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options that differ between rows of a study, label first, without folds and seeds."""
    varied = [name for name in NUMBER_SETTINGS if name not in REPEATS and len({row.get(name) for row in rows}) > 1]
    return sorted(
        varied or ["label_name" if rows and rows[0].get("task") == "label" else "task"],
        key=lambda name: name != "label_name",
    )


def runs_table(results: Iterable[FitResult]) -> Table:
    """Return a table with a row for each run: narrow, for people; `run_row` has more."""
    rows = []
    for result in results:
        row = run_row(result)
        baselines = [
            parts["test"]["loss"] for kind, parts in result.scores.items() if kind != "model" and "test" in parts
        ]
        rows.append([
            "/".join(result.log_dir.parts[-2:]), row["label_name"] or row["task"].replace("_", " "),
            row["patient_ids"], row["fold"], f"{result.best_epoch}/{result.n_epochs}",
            *(row[f"test_{name}"] for name in ("kappa", "auroc", "accuracy", "loss")),
            number(min(baselines)) if baselines else "",
        ])  # fmt: skip
    columns = ["test kappa", "AUROC", "accuracy", "loss", "baseline's"]
    return Table(["run", "predicts", "patients", "fold", "best", *columns], rows)


def run_row(result: FitResult) -> dict[str, Any]:
    """Return what is worth knowing of a run in a list of many."""

    def score(part: str, name: str) -> str:
        value = result.scores["model"].get(part, {}).get(name)
        return "" if value is None else number(value)

    settings = {name: result.config.get(name) for name in RUN_SETTINGS}
    settings["patient_ids"] = " ".join(result.config.get("patient_ids", ()))
    if not any(result.n_per_class.values()):  # no classes, no label
        settings["label_name"] = ""
    return {
        "run": str(result.log_dir),
        **{name: "" if value is None else value for name, value in settings.items()},
        "best_epoch": result.best_epoch,
        "n_epochs": result.n_epochs,
        "val_loss": score("val", "loss"),
        **{f"test_{name}": score("test", name) for name in ("loss", *SCORE_COLUMNS)},
    }


_SUMMARY_COLUMNS = {
    "label": ("kappa", "auroc", "average_precision", "accuracy", "base_rate"),
    "next_bin": ("r2", "bits_per_spike", "mse"),
}
_HELD_AGAINST = {
    "label": {"time only": "kappa", "majority class": "accuracy"},
    "next_bin": {"mean count": "mse", "copy last bin": "mse"},
}


def summary_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each group of one task of `summarise`: means, and what they are held against."""
    task = groups[0]["task"]
    main, *others = _SUMMARY_COLUMNS[task]
    has_folders, has_parts = (len({group[name] for group in groups}) > 1 for name in ("folder", "part"))
    val = "val " if not has_parts and groups[0]["part"] == "val" else ""
    rows = []
    for group in groups:
        row: dict[str, object] = {name.replace("_", " "): as_cell(value) for name, value in group["settings"].items()}
        row["folder"] = group["folder"] if has_folders else None
        row["part"] = group["part"] if has_parts else None
        n_defined, n_models = group["n_defined"][main], len(group["models"])
        row["models"] = f"{n_defined} of {n_models}" if n_defined < n_models else str(n_models)
        row[val + SCORE_COLUMNS[main]] = number(group["mean"][main], 3)
        row["SD"] = number(group["sd"][main], 3)
        null = group["null"].get(main)
        row["shifted, 5 to 95 %"] = f"{null['low']:.3f} to {null['high']:.3f}" if null else None
        row["p"] = number(null["p"], 3) if null else None
        row["published"] = number(group["published"]["kappa"], 3) if group["published"] else None
        for baseline, score in _HELD_AGAINST[task].items():
            held = group["baselines"].get(baseline, {}).get(score)
            row[f"{baseline} ({SCORE_COLUMNS[score]})"] = number(held, 3)
        for name in others:
            row[val + SCORE_COLUMNS[name]] = number(group["mean"][name], 3)
        auroc = group["null"].get("auroc")
        row["p (AUROC)"] = number(auroc["p"], 3) if auroc else None
        rows.append(row)
    return table_of(rows)


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
