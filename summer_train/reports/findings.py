"""The trained models of studies and runs as one table, from which everything that is reported is made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from summer_prep.console import printable
from summer_prep.errors import SettingsError
from summer_prep.film.responses import false_discovery_rates
from summer_prep.options import as_path
from summer_train.reports.evidence import with_corrected_p
from summer_train.reports.tables import REPEATS, as_cell, varied_options
from summer_train.runs.folder import METRICS, PREDICTIONS, FitResult, find_results, read_metrics, reading
from summer_train.scores import claims, nulls
from summer_train.scores.metrics import curves
from summer_train.settings.lists import NUMBER_SETTINGS, RARE, as_columns
from summer_train.settings.options import (
    NO_PATIENT,
    OF_FEATURES,
    SHIFTED,
    WITH_TARGET,
    Choice,
    Log,
    Run,
    choice_of,
    log_nothing,
)
from summer_train.studies import records
from summer_train.studies.records import Record


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Result(Record):
    """What the folder of a study or of a run holds of one model: its record, and beside it

    null : score -> shift -> value under shifted labels; empty without a null
    predictions : path of its predictions, which need not exist
    null_units : of encoding, shift -> R² of each unit; empty for runs, which keep p alone
    """

    null: records.Null
    predictions: Path
    null_units: Mapping[int, Sequence[float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Result({self.id})"

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The predictions of the reported part, read once: `film_s`, `target`, `score`, for labels also `log_odds`."""
        part = self.part
        with reading(self.predictions, "Remove it to report without them, or train the model again"):
            with self.predictions.open("rb") as file, np.load(file) as stored:  # np.load would leave a damaged one open
                arrays = {name.removeprefix(f"{part}_"): stored[name] for name in stored if name.startswith(part)}
            _ = [arrays[name] for name in ("film_s", "target", "score")]
        return arrays


_OF_DATA = ("task", "label_name", "target", "patient_ids", "bin_length", "brain_regions", "single_units")
"""Settings that decide which data a model is of; those of features also of each other."""


def read_models(*folders: str | Path, log: Log = log_nothing) -> pd.DataFrame:
    """Return a table with a row for each trained model of some folders: of studies, of runs, or that hold runs.

    Returns
    -------
    The columns of study.csv (docs/study.md); `folder`, as much of the end of its path as tells it from the others;
    `part`, the one that is reported (test, where the split has one); the scores of that part (`kappa`, `auroc`, `r2`,
    ...; the loss is `mean_loss`) and of its baselines (`time_only_kappa`, ...); of shifts `p_kappa_corrected`
    over all rows, `q_kappa`, ... (`evidence.with_corrected_p`); `name` of label and folder; `result`, with curve, null
    and predictions, from which figures are drawn. `attrs["folders"]` has name -> path of the folders.

    Raises
    ------
    SettingsError : a folder has no trained model
    """
    given = [as_path(folder, "FOLDER (each an argument)") for folder in folders]
    by_place = {path.resolve(): path for path in reversed(given)}
    if not by_place:
        raise SettingsError("report: name the folder of a study or of runs")
    n_parts = next(n for n in count(1) if len({place.parts[-n:] for place in by_place}) == len(by_place))
    paths = {printable("/".join(place.parts[-n_parts:])): by_place[place] for place in reversed(by_place)}
    models = models_table({name: read_results_of(path, log) for name, path in paths.items()})
    same = ["folder", *(one for one in _OF_DATA if one in models)]
    for (folder, *_), digests in models.groupby(same, dropna=False)["data_digest"]:
        if (n := digests[digests != ""].nunique()) > 1:
            log(f"{folder}: models are of {n} states of the data, which changed meanwhile. Train all of them again")
    models.attrs["folders"] = {name: str(path) for name, path in paths.items()}
    return models


def models_table(results: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """Return the results of each folder as the table of `read_models`."""
    rows, absent = [], RARE | {"align_share": "", "draw": ""}
    used = {name for of_folder in results.values() for one in of_folder for name in one.columns}
    for folder, result in ((folder, result) for folder, of_folder in results.items() for result in of_folder):
        part, label = result.part, result.columns["label_name"] or result.columns.get("target") or "next bin"
        row: dict[str, Any] = {name: value for name, value in absent.items() if name in used - {*OF_FEATURES}}
        row |= records.study_row(result, result.null)
        row |= {"folder": folder, "part": part, "result": result}
        row["name"] = printable(f"{label} ({folder})" if len(results) > 1 else label)
        row |= dict.fromkeys(("kappa", "auroc", "r2", "r", "time_only_kappa", "tn", "fp", "fn", "tp"), np.nan)
        of_model = {"": result.scores, **{f"{name.replace(' ', '_')}_": one for name, one in result.baselines.items()}}
        for prefix, parts in of_model.items():
            for name, value in parts.get(part, {}).items():
                row[f"{prefix}{'mean_loss' if name == 'loss' else name}"] = value  # `loss` is a setting
        rows.append(row)
    # Settings keep the types that they have in Python, also where pandas knows a narrower one.
    models = pd.DataFrame(rows)
    return with_corrected_p(models.astype({name: object for name in NUMBER_SETTINGS if name in models}))


def read_results_of(folder: Path, log: Log = log_nothing) -> list[Result]:
    """Return the models of a study's folder, of a run's, or of one with runs; of equal ones only the newest."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder. Name the --output-dir of summer-train study or fit")
    by_date = attrgetter("date")
    if (folder / records.STACKS).is_dir():
        stored = sorted(chain.from_iterable(records.read_stacks(folder, log).values()), key=by_date)
        newest_of = {(record.id, record.shift): record for record in stored}
        results = list[Result]()
        for record, shifted in records.with_shifted(newest_of.values(), records.ids_in_order(folder)):
            null, predictions = records.null_of(shifted, record.part), records.predictions_path(folder, record.id)
            encoded = [one for one in shifted if one.scores and record.columns["task"] == "encode"]
            of_units = {one.shift: one.units[record.part]["r2"] for one in encoded}
            results.append(Result(**vars(record), null=null, predictions=predictions, null_units=of_units))
    else:
        results = []
        for result in find_results(folder, log):
            try:
                results.append(_of_run(result))
            except SettingsError as error:  # of another version
                log(f"left out: {error}")
    newest = {(result.id, result.data_digest): result for result in sorted(results, key=by_date)}
    if n_older := len(results) - len(newest):
        log(f"{folder}: {n_older} models were trained more than once; the newest of each is reported")
    if not newest:
        raise SettingsError(f"{folder}: no trained model to report")
    return [result for result in results if newest[result.id, result.data_digest] is result]


def _of_run(result: FitResult) -> Result:
    """Return a run as if it were a study of one model."""
    choice = choice_of(result.config, result.log_dir)
    run = Run(max_epochs=result.config["max_epochs"], patience=result.config["patience"])
    with reading(result.log_dir / METRICS, "Train the run again"):
        rows = read_metrics(result.log_dir / METRICS)
        curve = [(float(row["train_loss"]), float(row["val_loss"])) for row in rows]
    null, names = result.null, nulls.SCORES[choice.task] if result.null else ()
    same = (
        "n_units",
        "n_samples",
        "undefined",
        "best_epoch",
        "units",
        "cycles",
        "seconds",
        "penalty",
        "date",
        "command",
    )
    return Result(
        **{name: getattr(result, name) for name in same},
        id=records.id_of(choice, run), columns=records.columns_of(choice, run),
        data_digest=records.digest_of(result.data), curve=curve, scores=result.scores["model"],
        baselines={name: scores for name, scores in result.scores.items() if name != "model"},
        threshold_log_odds=result.thresholds.get("model"), version=result.software.get("summer", ""),
        null={name: dict(zip(null["shifts"], null[name], strict=True)) for name in names},
        predictions=result.log_dir / PREDICTIONS,
    )  # fmt: skip


def against_shifted_film(models: pd.DataFrame, score: str) -> nulls.Comparison:
    """Return how the mean score of left-out patients compares with that by maps that were found on shifted film."""
    maps = [one.sums(SHIFTED).get(score) for one in models["result"]]
    return nulls.permutation_test(
        models[score].tolist(), [{} if one is None else dict(enumerate(one[0])) for one in maps]
    )


def most_usual(models: pd.DataFrame, *free: str) -> tuple[pd.DataFrame, str]:
    """Return the models of each folder with its most usual settings, those nearest to the defaults, and what they are.

    Only labels, folds, seeds and free settings differ then: to mix others would show something else. The text names
    those that were fixed, for captions.
    """
    own = ("task", "label_name", "patient_ids", *REPEATS, *OF_FEATURES)  # have no usual value
    defaults = as_columns(Choice(task="label")) | {name: value for name, value in RARE.items() if name in models}
    defaults = {name: value for name, value in defaults.items() if name not in own}
    n_unusual = (models[list(defaults)] != pd.Series(defaults, dtype=object)).sum(axis=1)
    n_unusual += (models["split"] != "blocked") * len(defaults)  # a random split comes last
    models = models.loc[n_unusual.sort_values(kind="stable").index]
    shown: list[pd.DataFrame] = []
    fixed: dict[str, str] = {}
    for folder, group in models.groupby("folder", sort=False):
        names = [name for name in varied_options(group) if name not in (*free, "label_name", "target", "task")]
        first = group.iloc[0]
        shown.append(group[(group[names] == first[names]).all(axis=1)])
        fixed[str(folder)] = ", ".join(f"{name.replace('_', ' ')} {as_cell(first[name])}" for name in names)
    text = "; ".join(f"{folder}: {one}" for folder, one in fixed.items() if one)
    if len(set(fixed.values())) == 1:
        text = next(iter(fixed.values()))
    return pd.concat(shown), f" ({printable(text)})" if text else ""


def usual_of_patients(models: pd.DataFrame, *free: str) -> tuple[pd.DataFrame, str]:
    """Return what `most_usual` does; patients that are left out in turn are repeats of one result."""
    shown, fixed = most_usual(models, *free)
    if "leave_out" in free or NO_PATIENT in {*shown.get("leave_out", [NO_PATIENT])}:
        return shown, fixed
    shown, fixed = most_usual(models, *free, "leave_out")
    return shown, f"{fixed}; patients left out: {shown['leave_out'].nunique()}, each a dot for each fold"


def check_models(models: pd.DataFrame) -> None:
    """Raise SettingsError if a table is not that of `read_models`: study.csv and the rows of a study lack results."""
    if "result" not in models:
        advice = "Pass what summer_train.figures.read_models(folder) or summer_train.report(folder) returns"
        raise SettingsError(f"models: no column `result`, from which figures are drawn. {advice}")


def by_label(models: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the models of each label or target and folder by name, those with the highest kappa or R² first."""
    check_models(models)
    has_target = models["task"].isin(WITH_TARGET)
    decoded = models["label_name"].mask(has_target, models.get("target", ""))
    mean = models["kappa"].mask(has_target, models["r2"]).groupby(decoded).transform("mean")
    models = models.loc[mean.sort_values(ascending=False, kind="stable").index]
    return {str(name): group for name, group in models.groupby("name", sort=False)}


def sizes_of(models: pd.DataFrame, setting: str) -> pd.Series | None:
    """Return how much a setting gives each model: units, minutes of training, patients; None of other settings."""
    if setting == "chosen_units":
        sizes = models["n_units"]
    elif setting == "train_share":  # bins without a label make folds differ a little
        sizes = models.groupby(setting)["n_train"].transform("median") * models["bin_length"] / 60_000
    elif setting == "patient_ids":
        sizes = models[setting].str.split().str.len()
    else:
        return None
    return sizes.astype(float) if sizes.nunique() > 1 else None


def rank_curves_of(result: Result) -> tuple[dict[str, NDArray[np.float64]], float] | None:
    """Return ROC and precision-recall of a label's predictions, and its base rate; None without two classes."""
    is_on = result.arrays["target"] == 1
    return (curves(result.arrays["log_odds"], is_on), float(is_on.mean())) if is_on.any() and not is_on.all() else None


def confusion_of(models: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return samples by truth (off, on) and call (off, on), models together, (2, 2); None where all are undefined."""
    cells = models[["tn", "fp", "fn", "tp"]]
    return None if cells.isna().all(axis=None) else cells.sum().to_numpy(float).reshape(2, 2)


def sums_of(results: Iterable[Result], row: str = "model") -> list[claims.Sums]:
    """Return what scores of results follow from, to take them together; nothing of counts of different units."""
    scored = [one for one in results if one.scores]
    units = {str(who_of(one.units.get("test", {}))) for one in scored}
    return [one.sums(row) for one in scored] if len(units) == 1 else []


def who_of(units: Mapping[str, Sequence[Any]]) -> tuple[Any, Any]:
    """Return patient and column of each unit of a record; None for tasks other than of counts."""
    return units.get("patient_id"), units.get("column")


def interval_of(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Return `claims.intervals` of models that are taken together."""
    scored = [one for one in results if one.scores]
    return claims.intervals(sums_of(scored), draws_of(scored))


def draws_of(results: Iterable[Result]) -> list[Any]:
    """Return the random draw of each result that has scores, as `sums_of` has their sums; "" of what is not drawn."""
    return [one.columns.get("draw", "") for one in results if one.scores]


def unit_scores(models: pd.DataFrame) -> pd.DataFrame:
    """Return `rate_hz` (of film time), `r2`, `mse` and that of baselines, means over models on the units of the first.

    Beside them stand `patient_id`, `column` and `region` of the unit, its `gain` over its mean count with the 95 %
    interval of the test part (`gain_low`, `gain_high`), and with a null `p` of the mean R² against the means of shifts,
    of each unit alone, and `q`.
    """
    check_models(models)
    key = [(one.data_digest, *who_of(one.units[one.part])) for one in models["result"]]
    same = models[[one == key[0] for one in key]]
    units = pd.concat([pd.DataFrame(one.units[one.part]) for one in same["result"]])
    means = units.groupby(level=0).mean(numeric_only=True)
    found = units[~units.index.duplicated()].filter(["patient_id", "column", "region"])
    found["rate_hz"] = means["rate"] * 1000 / same["bin_length"].iloc[0]
    found = found.join(means[["r2", *(name for name in means if name.endswith("mse"))]])
    if "mean_count_mse" in found:
        found["gain"] = 1 - found["mse"] / found["mean_count_mse"].where(found["mean_count_mse"] > 0)
        found = found.assign(**claims.unit_gains(sums_of(same["result"])))
    if all(one.null_units for one in same["result"]):
        for unit in found.index:
            observed = [one.units[one.part]["r2"][unit] for one in same["result"]]
            null = [{shift: r2[unit] for shift, r2 in one.null_units.items()} for one in same["result"]]
            found.loc[unit, "p"] = nulls.permutation_test(observed, null).p
        found["q"] = false_discovery_rates(found["p"].to_numpy())
    return found


def n_better(units: pd.DataFrame) -> dict[str, int]:
    """Return how many units of `unit_scores` are predicted better than by each baseline (by squared error).

    `interval_above_0` is of how many the whole interval of the gain over the mean count lies above 0.
    """
    baselines = [name for name in units if name.endswith("_mse")]
    found = {name.removesuffix("_mse"): int((units["mse"] < units[name]).sum()) for name in baselines}
    return found | ({"interval_above_0": int((units["gain_low"] > 0).sum())} if "gain_low" in units else {})
