"""What people read of runs: tables of scores, lists of runs, what a benchmark measured."""

import statistics
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

_FIRST_TABLE = list(SCORE_COLUMNS)[:8]


def score_tables(scores: Scores) -> list[Table]:
    """Return tables with a row for each part, test first, and in it for the model and each baseline.

    The first has what is asked for first, the second the other scores of labels.
    """
    known = [name for name in SCORE_COLUMNS if name in scores["model"]["val"]]
    halves = [[name for name in known if (name in _FIRST_TABLE) == is_first] for is_first in (True, False)]
    return [_score_table(scores, names) for names in halves if names]


def _score_table(scores: Scores, names: Sequence[str]) -> Table:
    rows = [
        [part, row, *(number(parts[part].get(name)) for name in names)]
        for part in reversed(PARTS)
        for row, parts in scores.items()
        if part in parts
    ]
    return Table(["part", "scores", *(SCORE_COLUMNS[name] for name in names)], rows)


def number(value: float | None, digits: int = 4) -> str:
    """Return a score as people read it; what is undefined is n/a."""
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124  # NaN


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


STUDY_COLUMNS = {
    "kappa": "kappa", "auroc": "AUROC", "accuracy": "accuracy", "base_rate": "base rate",
    "time_only_kappa": "time only", "r2": "median R²", "bits_per_spike": "bits/spike", "loss": "loss",
}  # fmt: skip
"""What a person sees first of a study: means over folds and seeds."""

REPEATS = ("fold", "seed")
"""Options whose values are repeats of one result."""


def study_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row for each combination of what varies in a study, folds and seeds taken together.

    Scores are of the test part, or of validation where the split has no test part; means are of what is defined.
    """
    varied = varied_options(rows)
    shown = [name for name in STUDY_COLUMNS if any(is_number(score_of(row, name)) for row in rows)]
    table = []
    for values, group in by_options(rows, varied).items():
        cells = []
        for name in shown:
            found = [value for value in (score_of(row, name) for row in group) if is_number(value)]
            mean = number(statistics.fmean(found), 3) if found else "n/a"
            if name == shown[0] and found:
                spread = [f"{statistics.stdev(found):.3f}"] if len(found) > 1 else []
                spread += [f"{len(found)} of {len(group)}"] if len(found) < len(group) else []
                mean += f" ({'; '.join(spread)})" if spread else ""
            cells.append(mean)
        table.append([*values, len(group), *cells])
    has_test = any(row.get("n_test") for row in rows)
    header = [f"{STUDY_COLUMNS[name]}{' (SD)' if name == shown[0] else ''}" for name in shown]
    return Table(
        [
            *(name.replace("_", " ") for name in varied),
            "models",
            *(header if has_test else (f"val {one}" for one in header)),
        ],
        table,
    )


def score_of(row: Mapping[str, Any], name: str) -> Any:
    """Return a score of a row of study.csv, a model's or `time_only_...`: of test, or of val where there is no test."""
    part = "test" if row.get("n_test") or not row.get("n_val") else "val"
    baseline = "time_only_" if name.startswith("time_only_") else ""
    return row.get(f"{baseline}{part}_{name.removeprefix(baseline)}")


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
    return sorted(varied or ["label_name" if rows and rows[0].get("task") == "label" else "task"], key=_label_first)


def _label_first(name: str) -> bool:
    return name != "label_name"


def by_options(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Return the rows of each combination of some options' values, in the order in which they stand."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name, "") for name in names), []).append(row)
    return groups


def is_number(cell: Any) -> bool:
    """Return whether a cell is a number, and not NaN."""
    return isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell  # noqa: PLR0124


def runs_table(results: Iterable[FitResult]) -> Table:
    """Return a table with a row for each run: narrow, for people; `run_row` has more."""
    rows = []
    for result in results:
        row = run_row(result)
        baselines = [
            parts["test"]["loss"] for kind, parts in result.scores.items() if kind != "model" and "test" in parts
        ]
        rows.append(
            [
                "/".join(result.log_dir.parts[-2:]),
                row["label_name"] or row["task"].replace("_", " "),
                row["patient_ids"],
                row["fold"],
                f"{result.best_epoch}/{result.n_epochs}",
                *(row[f"test_{name}"] for name in ("kappa", "auroc", "accuracy", "loss")),
                number(min(baselines)) if baselines else "",
            ]
        )
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
    """Return a row for each group of one task of `summaries.summarise`: means, and what they are held against."""
    task = groups[0]["task"]
    first, *others = _SUMMARY_COLUMNS[task]
    held, settings = _HELD_AGAINST[task], list(groups[0]["settings"])
    several, has_null = len({group["folder"] for group in groups}) > 1, any(group["null"] for group in groups)
    has_published = any(group["published"] for group in groups)
    has_parts = len({group["part"] for group in groups}) > 1  # a fraction split has no test part
    rows = []
    for group in groups:
        n_defined, n_models = group["n_defined"][first], len(group["models"])
        null, published = group["null"].get(first), group["published"] or {}
        rows.append([
            *(as_cell(group["settings"][name]) for name in settings),
            *([group["folder"]] if several else []), *([group["part"]] if has_parts else []),
            f"{n_defined} of {n_models}" if n_defined < n_models else str(n_models),
            number(group["mean"][first], 3),
            number(group["sd"][first], 3),
            *([f"{null['low']:.3f} to {null['high']:.3f}", number(null["p"], 3)] if null else ["-"] * 2 * has_null),
            *([number(published.get("kappa"), 3) if published else "-"] if has_published else []),
            *(number(group["baselines"].get(baseline, {}).get(score), 3) for baseline, score in held.items()),
            *(number(group["mean"][name], 3) for name in others),
        ])  # fmt: skip
    part = "val " if all(group["part"] == "val" for group in groups) else ""
    header = [
        *(name.replace("_", " ") for name in settings), *(["folder"] if several else []),
        *(["part"] if has_parts else []), "models",
        f"{part}{SCORE_COLUMNS[first]}", "SD", *(["shifted, 5 to 95 %", "p"] if has_null else []),
        *(["published"] if has_published else []),
        *(f"{baseline} ({SCORE_COLUMNS[score]})" for baseline, score in held.items()),
        *(f"{part}{SCORE_COLUMNS[name]}" for name in others),
    ]  # fmt: skip
    return Table(header, rows)


def comparison_table(comparison: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each label and folder that is compared with the first folder."""
    names = [name for name in dict.fromkeys(name for one in comparison for name in one["settings"]) if name != "task"]
    rows = [
        [
            *(as_cell(one["settings"].get(name)) for name in names), SCORE_COLUMNS[one["score"]], *one["folders"],
            one["n_models"], *(number(mean, 3) for mean in one["means"]), number(one["difference"], 3),
            number(one["sd"], 3),
        ]
        for one in comparison
    ]  # fmt: skip
    columns = ["score", "first", "second", "pairs", "first's", "second's", "gain", "SD of gain"]
    return Table([*(name.replace("_", " ") for name in names), *columns], rows)


def differences_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each setting that is not the same in all folders."""
    folders = list(differences[0]["values"])
    rows = [
        [one["setting"].replace("_", " "), *(as_cell(one["values"][folder]) for folder in folders)]
        for one in differences
    ]
    return Table(["setting", *folders], rows)


_SHOWN_VALUES = 8


def as_cell(value: object) -> str:
    """Return a setting's value as people read it, of several the first ones."""
    if isinstance(value, list):
        shown = ", ".join(map(as_cell, value[:_SHOWN_VALUES]))
        return shown if len(value) <= _SHOWN_VALUES else f"{shown}, ... ({len(value)})"
    return "none" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)
