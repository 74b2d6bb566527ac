"""What studies and runs found, read from their folders: one result per model, alike for both."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.console import printable
from summer_prep.errors import SettingsError
from summer_train.reports.tables import REPEATS, as_cell, varied_options
from summer_train.runs.folder import METRICS, FitResult, find_results, read_metrics, reading
from summer_train.runs.folder import PREDICTIONS as RUN_PREDICTIONS
from summer_train.scores import nulls
from summer_train.scores.metrics import curves
from summer_train.settings.lists import as_columns
from summer_train.settings.options import Choice, Log, Run, choice_of, log_nothing
from summer_train.studies.records import (
    STACKS,
    Null,
    Record,
    Row,
    columns_of,
    digest_of,
    id_of,
    ids_in_order,
    null_of,
    predictions_path,
    read_stacks,
    study_row,
    with_shifted,
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model to be reported, of a study or a run.

    null : score -> shift -> value under shifted labels; empty without a null
    predictions : where its predictions are, which need not exist
    folder : name of the folder that it is reported of
    """

    record: Record
    null: Null
    predictions: Path
    folder: str = ""

    @cached_property
    def row(self) -> Row:
        """Its row of study.csv."""
        return {**study_row(self.record, self.null), "folder": self.folder}

    @property
    def part(self) -> str:
        """The part that is reported: test, where there is one."""
        return self.record.part

    def score(self, name: str) -> float:
        """Return a score of that part; NaN where it is undefined."""
        return float(self.record.scores.get(self.part, {}).get(name, np.nan))

    def baseline(self, baseline: str, name: str) -> float:
        """Return a score of a baseline."""
        return float(self.record.baselines.get(baseline, {}).get(self.part, {}).get(name, np.nan))

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The predictions that were kept, read once.

        Raises
        ------
        SettingsError : the file cannot be read, or is damaged
        """
        with reading(self.predictions, "Remove it, and the report leaves them out; or train the model again"):
            with self.predictions.open("rb") as file, np.load(file) as stored:  # which leaves a damaged one open
                arrays = dict(stored)
            _ = [arrays[f"{self.part}_{name}"] for name in ("film_s", "target", "score")]
        return arrays


def read_results_of(folder: Path, log: Log = log_nothing) -> list[Result]:
    """Return the models of a study's folder, of a run's, or of one with runs: of equal ones the newest.

    Raises
    ------
    SettingsError : nothing of that kind is there
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder. Name the --output-dir of summer-train study or fit")
    if (folder / STACKS).is_dir():
        stacks = read_stacks(folder, log).values()
        records = {(record.id, record.shift): record for of_file in stacks for record in of_file}.values()
        results = [
            Result(record=record, null=null_of(shifted, record.part), predictions=predictions_path(folder, record.id))
            for record, shifted in with_shifted(records, ids_in_order(folder))
        ]
    else:
        results = [_of_run(result) for result in find_results(folder, log)]
    newest = {(result.record.id, result.record.data_digest): result for result in results}
    if len(newest) < len(results):
        log(
            f"{folder}: {len(results) - len(newest)} models were trained more than once; the newest of each is reported"
        )
    if not newest:
        raise SettingsError(f"{folder}: no trained model to report")
    return list(newest.values())


def _of_run(result: FitResult) -> Result:
    """Return a run as if it were a study of one model."""
    choice = choice_of(result.config, result.log_dir)
    run = Run(max_epochs=result.config["max_epochs"], patience=result.config["patience"])
    with reading(result.log_dir / METRICS, "Train the run again"):
        rows = read_metrics(result.log_dir / METRICS)
        curve = [(float(row["train_loss"]), float(row["val_loss"])) for row in rows]
    record = Record(
        id=id_of(choice, run),
        shift=0,
        shift_s=0.0,
        data_digest=digest_of(result.data),
        columns=columns_of(choice, run),
        n_units=result.n_units,
        n_samples=result.n_samples,
        scores=result.scores["model"],
        threshold_log_odds=result.thresholds.get("model"),
        undefined=result.undefined,
        baselines={name: scores for name, scores in result.scores.items() if name != "model"},
        curve=curve,
        best_epoch=result.best_epoch,
        units=result.units,
        seconds=result.seconds,
    )
    null = result.null
    by_shift = {name: dict(zip(null["shifts"], null[name], strict=True)) for name in nulls.SCORES} if null else {}
    return Result(record=record, null=by_shift, predictions=result.log_dir / RUN_PREDICTIONS)


def rank_curves_of(result: Result) -> tuple[dict[str, NDArray[np.float64]], float] | None:
    """Return ROC and precision-recall of a label's predictions, and its base rate; None without two classes."""
    is_on, score = result.arrays[f"{result.part}_target"] == 1, result.arrays[f"{result.part}_log_odds"]
    return (curves(score, is_on), float(is_on.mean())) if is_on.any() and not is_on.all() else None


def confusion_of(group: Sequence[Result]) -> NDArray[np.float64] | None:
    """Return samples by truth (off, on) and call (off, on), models together, (2, 2); None where all are undefined."""
    cells = np.array([[result.score(cell) for cell in ("tn", "fp", "fn", "tp")] for result in group])
    return np.nansum(cells, axis=0).reshape(2, 2) if np.isfinite(cells).any() else None


def unit_scores(group: Sequence[Result]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rate (Hz of film time) and the R² of each unit, means over next-bin models, (n_units,) each.

    Of models of other units than those of the first, nothing is taken.
    """
    group = [result for result in group if result.record.data_digest == group[0].record.data_digest]
    units = [result.record.units[result.part] for result in group]
    rate_hz = np.mean([one["rate"] for one in units], axis=0) * 1000 / group[0].row["bin_length"]
    r2 = np.stack([np.array(one["r2"], dtype=float) for one in units])
    n_defined = np.isfinite(r2).sum(axis=0)
    return rate_hz, np.nansum(r2, axis=0) / np.where(n_defined, n_defined, np.nan)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of what is a number; NaN of nothing."""
    defined = [value for value in values if np.isfinite(value)]
    return statistics.fmean(defined) if defined else float("nan")


def against_null(group: Sequence[Result], name: str) -> nulls.Comparison:
    """Return how the mean of some models compares with that of their nulls."""
    return nulls.permutation_test([one.score(name) for one in group], [one.null.get(name, {}) for one in group])


def groups_of(results: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[Result]]]:
    """Yield the results of each combination of some columns' values, in the order in which they stand."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.row[name] for name in names), []).append(result)
    yield from groups.items()


def usual_first(results: Sequence[Result]) -> list[Result]:
    """Return results whose settings differ least from the defaults first: they are what others are compared with."""
    ours = ("task", "label_name", "patient_ids", *REPEATS)
    defaults = {name: value for name, value in as_columns(Choice(task="label")).items() if name not in ours}

    def n_unusual(result: Result) -> tuple[bool, int]:
        return result.row["split"] != "blocked", sum(result.row[name] != value for name, value in defaults.items())

    return sorted(results, key=n_unusual)


def others_equal(results: Sequence[Result], *settings: str) -> tuple[list[Result], str]:
    """Return the models of each folder that differ in nothing but some settings, the label and what repeats a result.

    Where other settings vary, too, it is those of its first model, the most usual one: to mix them would show
    something else. The text names them, for captions.
    """
    shown: list[Result] = []
    fixed: dict[str, str] = {}
    for (folder,), group in groups_of(results, ["folder"]):
        first, varied = group[0].row, varied_options([one.row for one in group])
        names = [name for name in varied if name not in (*settings, "label_name", "task")]
        shown += [one for one in group if all(one.row[name] == first[name] for name in names)]
        fixed[folder] = ", ".join(f"{name.replace('_', ' ')} {as_cell(first[name])}" for name in names)
    text = "; ".join(f"{folder}: {one}" for folder, one in fixed.items() if one)
    if len(set(fixed.values())) == 1:
        text = next(iter(fixed.values()))
    return shown, f" ({printable(text)})" if text else ""


def by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the models of each label and folder by name, labels with the highest kappa first."""
    folders = len({result.folder for result in results}) > 1
    labels = [(name, group) for (name,), group in groups_of(results, ["label_name"])]
    labels.sort(key=lambda one: -np.nan_to_num(mean_of([result.score("kappa") for result in one[1]]), nan=-2.0))
    return {
        printable((name or "next bin") + (f" ({folder})" if folders else "")): group
        for name, of_label in labels
        for (folder,), group in groups_of(of_label, ["folder"])
    }
