"""What studies and runs found, read from their folders: one result per model, alike for both."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_train.reports.tables import REPEATS, by_options
from summer_train.runs.folder import METRICS, FitResult, find_results, read_metrics, reading
from summer_train.runs.folder import PREDICTIONS as RUN_PREDICTIONS
from summer_train.scores import nulls
from summer_train.scores.metrics import curves
from summer_train.settings.lists import as_columns
from summer_train.settings.options import Choice, Run, Say, choice_of, say_nothing
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
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model to be reported, of a study or a run.

    row : as in study.csv
    null : score -> shift -> value under shifted labels; empty without a null
    predictions : where its predictions are, if they were kept
    """

    row: Row
    record: Record
    null: Null
    predictions: Path | None

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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the predictions that were kept, read once.

        Raises
        ------
        SettingsError : the file cannot be read, or is damaged
        """
        return self._arrays

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        assert self.predictions is not None
        with reading(self.predictions, "Remove it, and the report leaves them out; or train the model again"):
            with self.predictions.open("rb") as file, np.load(file) as stored:  # which leaves a damaged one open
                arrays = dict(stored)
            _ = [arrays[f"{self.part}_{name}"] for name in ("film_s", "target", "score")]
        return arrays


def read_results_of(folder: Path, say: Say = say_nothing) -> list[Result]:
    """Return what a study's folder, a run's, or one with runs holds.

    Raises
    ------
    SettingsError : nothing of that kind is there
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder. Name the --output-dir of summer-train study or fit")
    if (folder / STACKS).is_dir():
        return _of_study(folder, say)
    try:
        found = find_results(folder, say)
    except SettingsError as error:
        raise SettingsError(
            f"{folder}: neither a study nor runs. Name the --output-dir of summer-train study or fit"
        ) from error
    return [_of_run(result) for result in found]


def _of_study(folder: Path, say: Say) -> list[Result]:
    records: dict[tuple[str, int], Record] = {}
    for of_file in read_stacks(folder, say).values():
        records |= {(record.id, record.shift): record for record in of_file}
    shifted: dict[str, list[Record]] = {}
    for record in records.values():
        if record.shift:
            shifted.setdefault(record.id, []).append(record)
    order = {model_id: place for place, model_id in enumerate(ids_in_order(folder))}
    results = []
    for record in sorted(records.values(), key=lambda record: order.get(record.id, len(order))):
        if not record.shift:
            kept = predictions_path(folder, record.id)
            null = null_of(shifted[record.id], record.part) if record.id in shifted else {}
            row = study_row(record, null)
            results.append(Result(row=row, record=record, null=null, predictions=kept if kept.exists() else None))
    return results


def _of_run(result: FitResult) -> Result:
    """Return a run as if it were a study of one model."""
    choice = choice_of(result.config, result.log_dir)
    run = Run(max_epochs=result.config["max_epochs"], patience=result.config["patience"])
    metrics = read_metrics(result.log_dir / METRICS)
    with reading(result.log_dir / METRICS, "Train the run again"):
        curve = [(float(row["train_loss"]), float(row["val_loss"])) for row in metrics]
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
    kept = result.log_dir / RUN_PREDICTIONS
    return Result(
        row=study_row(record, by_shift), record=record, null=by_shift, predictions=kept if kept.exists() else None
    )


@dataclass(frozen=True, kw_only=True)
class FilmTrack:
    """Predictions of one label along the film, (n_samples,) each, in order of time; bin_s: length of a bin."""

    name: str
    film_s: NDArray[np.float64]
    is_on: NDArray[np.bool_]
    probability: NDArray[np.float64]
    fold: NDArray[np.int64]
    bin_s: float

    @property
    def step_s(self) -> float:
        """Seconds from one sample to the next, mostly: more than a bin where they were drawn at random."""
        return float(np.median(np.diff(self.film_s))) if len(self.film_s) > 1 else 1.0


def film_track(name: str, group: Sequence[Result]) -> FilmTrack:
    """Return the predictions of some models of one label, which kept them; of several of a fold, those of the first.

    `fold` numbers the models, from 0.
    """
    columns: dict[str, list[NDArray[Any]]] = {"film_s": [], "target": [], "score": [], "fold": []}
    for place, result in enumerate(one_per_fold(group)):
        arrays = result.arrays()
        for column in ("film_s", "target", "score"):
            columns[column].append(arrays[f"{result.part}_{column}"])
        columns["fold"].append(np.full(len(columns["score"][-1]), place))
    whole = {column: np.concatenate(parts) for column, parts in columns.items()}
    order = np.argsort(whole["film_s"], kind="stable")
    film_s, target, score, fold = (values[order] for values in whole.values())
    return FilmTrack(
        name=name,
        film_s=film_s,
        is_on=target == 1,
        probability=score,
        fold=fold,
        bin_s=group[0].row["bin_length"] / 1000,
    )


def one_of_each(results: Sequence[Result], say: Say, folder: Path) -> list[Result]:
    """Return the newest of models with equal settings and data: to train one again is no further result."""
    newest = {(result.record.id, result.record.data_digest): result for result in results}
    if len(newest) < len(results):
        say(
            f"{folder}: {len(results) - len(newest)} models were trained more than once; the newest of each is reported"
        )
    return list(newest.values())


def confusion_of(group: Sequence[Result]) -> NDArray[np.float64] | None:
    """Return samples by truth (off, on) and call (off, on), models together, (2, 2); None where all are undefined."""
    cells = np.array([[result.score(cell) for cell in ("tn", "fp", "fn", "tp")] for result in group])
    return np.nansum(cells, axis=0).reshape(2, 2) if np.isfinite(cells).any() else None


def rank_curves_of(result: Result) -> tuple[dict[str, NDArray[np.float64]], float] | None:
    """Return ROC and precision-recall of a label's predictions, and its base rate; None without two classes."""
    arrays = result.arrays()
    is_on, score = arrays[f"{result.part}_target"] == 1, arrays[f"{result.part}_log_odds"]
    return (curves(score, is_on), float(is_on.mean())) if is_on.any() and not is_on.all() else None


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


def one_per_fold(group: Sequence[Result]) -> list[Result]:
    """Return the first model of each fold."""
    folds: dict[Any, Result] = {}
    for result in group:
        folds.setdefault(result.row["fold"], result)
    return list(folds.values())


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of what is a number; NaN of nothing."""
    defined = [value for value in values if np.isfinite(value)]
    return statistics.fmean(defined) if defined else float("nan")


def usual_first(results: Sequence[Result]) -> list[Result]:
    """Return results whose settings differ least from the defaults first: they are what others are compared with."""
    defaults = as_columns(Choice(task="label"))
    ours = ("task", "label_name", "patient_ids", *REPEATS)

    def n_unusual(result: Result) -> tuple[bool, int]:
        names = [name for name in defaults if name not in ours]
        return result.row["split"] != "blocked", sum(result.row[name] != defaults[name] for name in names)

    return sorted(results, key=n_unusual)


def compare(group: Sequence[Result], name: str) -> nulls.Comparison:
    """Return how the mean of some models compares with that of their nulls."""
    return nulls.compare([one.score(name) for one in group], [one.null.get(name, {}) for one in group])


def groups_of(results: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[Result]]]:
    """Yield the results of each combination of some settings' values."""
    by_id = {id(result.row): result for result in results}
    for values, rows in by_options([result.row for result in results], names).items():
        yield values, [by_id[id(row)] for row in rows]
