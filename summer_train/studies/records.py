"""The folder of a study: the records of its trained models, and the tables that are made of them.

study/
  stacks/*.json          the truth: a file for each stack of models that was trained, whole or not at all
  study.csv              a row per model             (also study.parquet where pyarrow is installed)
  curves.csv             a row per model and epoch
  shifts.csv, units.csv  a row per model and shift; per model and unit (next-bin) or dimension
  predictions/ID.npz     with --keep-predictions
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep.errors import SettingsError
from summer_prep.files import replace_file
from summer_prep.film.responses import false_discovery_rates
from summer_prep.options import finite
from summer_train.runs.folder import PARTS, DamagedError, probability_of, reading, with_nan
from summer_train.scores import claims, nulls
from summer_train.scores.features import FEATURE_SCORES
from summer_train.scores.metrics import COUNT_SCORES, LABEL_SCORES
from summer_train.settings.lists import RARE, as_columns
from summer_train.settings.options import Choice, Log, Run

FORMAT = 2
STACKS, STUDY, CURVES, SHIFTS, UNITS, PREDICTIONS = (
    "stacks", "study.csv", "curves.csv", "shifts.csv", "units.csv", "predictions"
)  # fmt: skip

Row = dict[str, Any]
BASELINE_SCORES = ("kappa", "auroc", "average_precision", "accuracy", "loss", "mse", "r2", "bits_per_spike", "r")
SCORES_OF_TASK = {
    "label": ("loss", *LABEL_SCORES), "next_bin": ("loss", *COUNT_SCORES), "feature": ("loss", *FEATURE_SCORES),
    "encode": ("loss", *COUNT_SCORES),
}  # fmt: skip
ORIGIN = ("date", "command", "version")
"""Columns that say when and how a model was trained; the last ones of study.csv."""

Null = Mapping[str, Mapping[int, float]]
"""Score -> shift (bins) -> value under labels shifted so, NaN where undefined."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one model of a study, as plain values.

    id : of its settings, equal in every study that has them
    shift : bins by which its labels were moved for a null; 0 for a model of the table
    data_digest : of the data that it was trained on
    columns : option -> cell
    scores : part -> score -> value; NaN where undefined
    undefined : part -> why
    baselines : name -> part -> score -> value
    curve : training and validation loss of each epoch
    penalty : of ridge, chosen on validation
    units : next-bin, encode: part -> score, patient_id, column (in the key), region -> one value for each unit;
        features: of each dimension
    cycles : "model" and, of labels and features, "time only" -> what scores of the test part follow from, as lines of
        numbers for each cycle of the split (`scores.claims`), and of a left-out patient "shifted film", the scores by
        each of its maps; empty in files of earlier versions
    date, command, version : when and how it was trained (`runs.folder.origin`); empty in files of earlier versions
    """

    id: str
    data_digest: str
    columns: Mapping[str, Any]
    shift: int = 0
    shift_s: float = 0.0
    n_units: int = 0
    n_samples: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    threshold_log_odds: float | None = None
    penalty: float | None = None
    undefined: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    curve: Sequence[Sequence[float]] = ()
    best_epoch: int = 0
    units: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    cycles: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    seconds: float = 0.0
    date: str = ""
    command: str = ""
    version: str = ""

    @property
    def part(self) -> str:
        """The part whose scores are reported: test, where the split has one."""
        return "test" if self.n_samples.get("test", 0) else "val"

    def sums(self, row: str = "model") -> claims.Sums:
        """Return what the scores of a row follow from in each cycle; empty where it is not known."""
        sums = claims.from_text(self.cycles.get(row, {}))
        is_of_counts = sums and self.columns["task"] in ("next_bin", "encode")
        return claims.beside_mean_count(sums, self.units["test"]["mean_count"]) if is_of_counts else sums


def id_of(choice: Choice, run: Run) -> str:
    """Return a short name for all settings that decide a model's numbers."""
    return digest_of({**choice.as_plain(), "max_epochs": run.max_epochs, "patience": run.patience})


def digest_of(plain: Any) -> str:
    """Return a short digest of plain values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def columns_of(choice: Choice, run: Run) -> dict[str, Any]:
    """Return the cells of all settings that decide a model's numbers."""
    return {**as_columns(choice), "max_epochs": run.max_epochs, "patience": run.patience or ""}


def predictions_path(folder: Path, model_id: str) -> Path:
    """Return where a study keeps a model's predictions."""
    return folder / PREDICTIONS / f"{model_id}.npz"


def write_stack(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write the records of a stack of models, with a digest of them; without any, remove its file."""
    path = folder / STACKS / f"{name}.json"
    if not records:
        path.unlink(missing_ok=True)
        return
    models = finite([vars(record) for record in records])
    content = {"format": FORMAT, "digest": digest_of(models), "models": models}
    replace_file(path, json.dumps(content).encode())


def read_stacks(folder: Path, log: Log) -> dict[Path, list[Record]]:
    """Return the records in each file of a study, log which files are damaged; raises SettingsError for any other."""
    stacks: dict[Path, list[Record]] = {}
    with reading(folder / STACKS, ""):
        names = os.listdir(folder / STACKS) if (folder / STACKS).exists() else []
    paths = sorted(folder / STACKS / name for name in names if name.endswith(".json"))
    advice = "It is left as it is; models that only it holds are missing until a study of them trains them"
    known, may_lack = columns_of(Choice(), Run()).keys(), ("threshold_log_odds", "penalty")
    for path in paths:
        try:
            with reading(path, advice):
                content = json.loads(path.read_bytes())
                models = content["models"] if content["format"] == FORMAT else []
                if models and content["digest"] != digest_of(models):
                    raise ValueError("it is not what was written")
                if not models or any(one["columns"].keys() - RARE.keys() != known for one in models):
                    raise SettingsError(f"{path}: was written by another version of this software. Name another folder")
                stacks[path] = [Record(**with_nan(one) | {name: one.get(name) for name in may_lack}) for one in models]
        except DamagedError as error:
            log(str(error))
    return stacks


def ids_in_order(folder: Path) -> list[str]:
    """Return the ids of the models of study.csv, in its order: that of the lists of the last command."""
    try:
        with reading(folder / STUDY, ""), (folder / STUDY).open(newline="") as file:
            return [row.get("id", "") for row in csv.DictReader(file)]
    except SettingsError:  # the stacks are enough
        return []


def with_shifted(records: Iterable[Record], order: Sequence[str] = ()) -> list[tuple[Record, list[Record]]]:
    """Return each model with those that were trained on its labels shifted, in the order of the ids; others follow."""
    place = {model_id: number for number, model_id in enumerate(order)}
    ordered = sorted(records, key=lambda one: (place.get(one.id, len(place)), one.id, one.shift))
    by_id = {one_id: list(group) for one_id, group in groupby(ordered, key=lambda one: one.id)}
    return [(group[0], group[1:]) for group in by_id.values() if not group[0].shift]


def write_tables(folder: Path, records: Iterable[Record], order: Sequence[str] = ()) -> list[Row]:
    """Write the tables of a study, models in the order of the ids; return the rows of study.csv, written last."""
    curves, shifts, units, rows = list[Row](), list[Row](), list[Row](), list[Row]()
    for record, shifted in with_shifted(records, order):
        own = ("label_name", "target", "patient_ids", "leave_out", "chosen_units", "draw", "fold", "seed")
        key = {"id": record.id, **{name: record.columns[name] for name in own if name in record.columns}}
        for epoch, (train_loss, val_loss) in enumerate(record.curve, start=1):
            curves.append({**key, "epoch": epoch, "train_loss": train_loss, "val_loss": val_loss})
        for one in shifted:
            names = ("loss", *nulls.SCORES[record.columns["task"]])
            scores = {f"{part}_{name}": of[name] for part, of in one.scores.items() for name in names}
            shifts.append({**key, "shift_s": one.shift_s, **scores, "best_epoch": one.best_epoch})
        for part in record.units:
            columns = unit_columns(record, part, shifted)
            for unit, values in enumerate(zip(*columns.values(), strict=True)):
                units.append({**key, "part": part, "unit": unit, **dict(zip(columns, values, strict=True))})
        rows.append(study_row(record, null_of(shifted, record.part)))
    parquet = (folder / STUDY).with_suffix(".parquet").name
    for name, table in {CURVES: curves, SHIFTS: shifts, UNITS: units, parquet: rows, STUDY: rows}.items():
        header = sorted(dict.fromkeys(column for row in table for column in row), key=ORIGIN.__contains__)
        if not table or (name == parquet and not find_spec("pyarrow")):
            (folder / name).unlink(missing_ok=True)  # of an earlier state
        else:
            replace_file(folder / name, as_parquet(table, header) if name == parquet else as_csv(table, header))
    return rows


def unit_columns(record: Record, part: str, shifted: Sequence[Record]) -> dict[str, Sequence[Any]]:
    """Return the columns of units.csv of a part; of counts with the gain over the mean, in test its 95 % interval."""
    columns = dict(record.units[part])
    if "mean_count_mse" in columns:
        mse, of_mean = (np.array(columns[name]) for name in ("mse", "mean_count_mse"))
        columns["gain"] = (1 - mse / np.where(of_mean > 0, of_mean, np.nan)).tolist()
        columns |= claims.unit_gains([record.sums()]) if part == "test" else {}
    if shifted and record.columns["task"] == "encode":
        p = nulls.p_of_units(columns["r2"], [one.units[part]["r2"] for one in shifted if one.scores])
        columns |= {"p_r2": p, "q_r2": false_discovery_rates(np.array(p)).tolist()}
    return columns


def study_row(record: Record, null: Null) -> Row:
    """Return a model's row of study.csv: numbers (NaN where undefined) and text; of a null its mean, 95 % and p."""
    row = {**record.columns, "n_units": record.n_units}
    row |= {f"n_{part}": record.n_samples.get(part, 0) for part in PARTS}
    for part in ("test", "val", "train"):
        scores = record.scores.get(part, {})
        row |= {f"{part}_{name}": scores[name] for name in SCORES_OF_TASK[row["task"]] if name in scores}
    if (log_odds := record.threshold_log_odds) is not None:
        row |= {"threshold": probability_of(log_odds), "threshold_log_odds": log_odds}
    row |= {} if record.penalty is None else {"penalty": record.penalty}
    for name, of_baseline in record.baselines.items():
        for part in ("test", "val"):
            scores, title = of_baseline.get(part, {}), f"{name.replace(' ', '_')}_{part}"
            row |= {f"{title}_{score}": scores[score] for score in BASELINE_SCORES if score in scores}
    for name, by_shift in null.items() if record.part in record.scores else ():
        found = nulls.permutation_test([record.scores[record.part][name]], [by_shift])
        mean, high = (found.null.mean(), np.quantile(found.null, 0.95)) if len(found.null) else (np.nan, np.nan)
        title = f"null_{record.part}_{name}"
        row |= {"n_shifts": len(by_shift), title: mean, f"{title}_95": high, f"p_{name}": found.p}
    row |= {"best_epoch": record.best_epoch, "n_epochs": len(record.curve), "seconds": record.seconds}
    why = "; ".join(f"{part}: {reason}" for part, reason in record.undefined.items())
    row |= {"data_digest": record.data_digest, "why_undefined": why, "id": record.id}
    for name, one in claims.intervals([record.sums()]).items():
        row |= {f"test_{name}_low": one["low"], f"test_{name}_high": one["high"]}
    return row | ({name: getattr(record, name) for name in ORIGIN} if record.date else {})


def null_of(shifted: Sequence[Record], part: str) -> Null:
    """Return the scores of models that were trained on shifted labels; without any, nothing."""
    names = nulls.SCORES[shifted[0].columns["task"]] if shifted else ()
    return {name: {one.shift: one.scores.get(part, {}).get(name, np.nan) for one in shifted} for name in names}


def as_csv(rows: Sequence[Row], header: Sequence[str]) -> bytes:
    """Return rows as CSV: numbers in full precision, nan if undefined, empty if a row does not have the column."""
    content = io.StringIO()
    writer = csv.DictWriter(content, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def as_parquet(rows: Sequence[Row], header: Sequence[str]) -> bytes:
    """Return rows as Parquet: a column of numbers, in which a cell that is empty in CSV is null, or of text."""
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in header:
        values = [row.get(name, "") for row in rows]
        is_number = all(isinstance(value, int | float) or value == "" for value in values)
        columns[name] = [None if value == "" else value for value in values] if is_number else list(map(str, values))
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()
