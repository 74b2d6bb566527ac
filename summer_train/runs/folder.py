"""The folder of a run: taken by one run alone, and what stays in it: metrics, results, predictions."""

import csv
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.files import replace_file, replacing
from summer_prep.options import finite

METRICS, RESULTS, PREDICTIONS = "metrics.csv", "results.json", "predictions.npz"
PARTS = ("train", "val", "test")

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Row (model, or a baseline's name) -> part (train, val, test) -> score -> mean over the part's samples."""

_VERSION = re.compile(r"version_(\d+)")


def new_folder(parent: Path) -> Path:
    """Make and return a new folder `version_N`: making it takes it, so two runs never share one."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max(run_folders(parent), default=-1) + 1
    while True:
        folder = parent / f"version_{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def run_folders(parent: Path) -> dict[int, Path]:
    """Return number -> folder of the runs below a folder, the newest last."""
    found = {int(match[1]): path for path in parent.glob("version_*") if (match := _VERSION.fullmatch(path.name))}
    return dict(sorted(found.items()))


class MetricsFile:
    """`metrics.csv`: one row per epoch; test scores stand in the row of the epoch that was tested.

    Parameters
    ----------
    columns : beside `epoch` (from 0) and `step` (optimizer steps so far, as in the checkpoint)
    n_epochs : the rows of so many epochs are kept of a file that is there
    """

    def __init__(self, path: Path, columns: Sequence[str], n_epochs: int = 0) -> None:
        self.path, self.columns = path, ("epoch", "step", *columns)
        self.rows = [
            row
            for row in read_metrics(path)
            if set(row) == set(self.columns) and row["epoch"].isdigit() and int(row["epoch"]) < n_epochs
        ]
        self._write()

    def add(self, row: Mapping[str, float]) -> None:
        """Add the row of an epoch."""
        self.rows.append({name: str(row.get(name, "")) for name in self.columns})
        with self.path.open("a", newline="") as file:
            self._writer(file).writerow(self.rows[-1])

    def add_test_scores(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write test scores into the row of the epoch that was tested."""
        for row in self.rows:
            if row["epoch"] == str(epoch):
                row.update({name: str(score) for name, score in scores.items()})
        self._write()

    def _write(self) -> None:
        content = io.StringIO(newline="")
        writer = self._writer(content)
        writer.writeheader()
        writer.writerows(self.rows)
        replace_file(self.path, content.getvalue().encode())

    def _writer(self, file: Any) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self.columns, lineterminator="\n")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a `metrics.csv`, cells as text; none where there is no such file.

    Raises
    ------
    SettingsError : it cannot be read, or is damaged
    """
    advice = "Remove it: a run that is continued starts a new one"
    with reading(path, advice), suppress(FileNotFoundError), path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
    return []


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run gave, also kept in its folder as `results.json`.

    Attributes
    ----------
    config : settings, as plain values
    data : patients, units and digests that it was trained on, as plain values
    n_samples, n_per_class : samples of each part (train, val, test), and of each class in it
    scores : row (model, or a baseline's name) -> part -> score -> value over the part's samples (`metrics` says
        what each is); NaN where undefined
    thresholds : labels: row -> log-odds from which on a bin is called "on", chosen on validation for kappa
    undefined : part -> why scores of the model are undefined
    units : next-bin: part -> score (mse, r2, bits_per_spike, rate in spikes per bin) -> one value for each unit
    null : with `--shifts`: part, shifts (bins), and of networks trained on labels shifted so kappa and auroc, and p
    best_epoch : from 1; the one whose weights were scored
    n_epochs : trained
    log_dir : the run's folder
    """

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    n_units: int
    n_samples: Mapping[str, int]
    n_per_class: Mapping[str, Sequence[int]]
    scores: Scores
    best_epoch: int
    n_epochs: int
    seconds: float
    software: Mapping[str, str]
    log_dir: Path
    thresholds: Mapping[str, float] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    null: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the epoch with the lowest validation loss."""
        return best_checkpoint(self.log_dir)

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last whole epoch."""
        return last_checkpoint(self.log_dir)

    def predictions(self) -> dict[str, NDArray[Any]]:
        """Return what the best epoch predicts for validation and test: `val_bin`, `val_target`, `val_score`, ...

        A score is the probability of "on" for labels (`val_log_odds`: its log-odds, which do not round), and the
        predicted counts for next-bin, (n_samples, n_units).
        """
        with np.load(self.log_dir / PREDICTIONS) as arrays:
            return dict(arrays)

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        places = {"best_checkpoint": str(self.best_checkpoint), "last_checkpoint": str(self.last_checkpoint)}
        return {**asdict(self), "log_dir": str(self.log_dir), **places}


def probability_of(log_odds: float) -> float:
    """Return the probability that log-odds stand for, of any size."""
    odds = math.exp(-abs(log_odds))  # of the less likely side: never too large a number
    return (1 if log_odds >= 0 else odds) / (1 + odds)


def best_checkpoint(log_dir: Path) -> Path:
    """Return where a run keeps the epoch with the lowest validation loss."""
    return log_dir / "checkpoints" / "best.ckpt"


def last_checkpoint(log_dir: Path) -> Path:
    """Return where a run keeps its last whole epoch."""
    return log_dir / "checkpoints" / "last.ckpt"


def write_results(result: FitResult, predictions: Mapping[str, NDArray[Any]]) -> None:
    """Write `predictions.npz` and then `results.json`, each whole or not at all."""
    with replacing(result.log_dir / PREDICTIONS) as file:
        np.savez(file, **predictions)  # type: ignore[arg-type]  # numpy's stub takes them for flags
    replace_file(result.log_dir / RESULTS, json.dumps(finite(result.as_plain()), indent=1).encode())


def read_results(log_dir: Path) -> FitResult | None:
    """Return a run's results; None if it has none.

    Raises
    ------
    SettingsError : they cannot be read
    DamagedError : they are damaged
    """
    path = log_dir / RESULTS
    with reading(path, "Remove it: fit --resume writes it again"), suppress(FileNotFoundError):
        plain = json.loads(path.read_bytes())
        has_default = {one.name for one in fields(FitResult) if one.default_factory is not MISSING}
        values = {
            one.name: plain[one.name] for one in fields(FitResult) if one.name in plain or one.name not in has_default
        }
        for name in ("scores", "units", "null"):
            values[name] = with_nan(values.get(name, {}))
        result = FitResult(**{**values, "log_dir": log_dir})
        _check_types(result)
        return result
    return None


def with_nan(plain: Any) -> Any:
    """Return plain values from JSON with NaN where JSON has null, which stands for a number that is none."""
    if isinstance(plain, dict):
        return {name: with_nan(one) for name, one in plain.items()}
    if isinstance(plain, list):
        return [with_nan(one) for one in plain]
    return math.nan if plain is None else plain  # always the same object, so that equal results are equal


def _check_types(result: FitResult) -> None:
    """Raise what a result that was not written by `write_results` leads to."""
    _ = [float(score) for parts in result.scores.values() for scores in parts.values() for score in scores.values()]
    _ = result.scores["model"]["val"]["loss"], " ".join(result.config["patient_ids"]), result.config["patience"]
    _ = int(result.n_epochs), int(result.best_epoch), int(result.config["max_epochs"]), result.n_per_class.values()
    if not all(isinstance(number, int) for number in (result.n_epochs, result.best_epoch, result.config["max_epochs"])):
        raise TypeError(result)


def find_results(output_dir: Path, log: Callable[[str], None]) -> list[FitResult]:
    """Return the results of a run, or of all below a folder; say of which runs there are none, and why.

    Raises
    ------
    SettingsError : there is no run
    """
    walked = os.walk(output_dir, onerror=lambda error: log(f"{error.filename}: cannot be read ({error.strerror})"))
    below = [Path(parent) / name for parent, names, _ in walked for name in names]
    parents = sorted({path.parent for path in below if _VERSION.fullmatch(path.name)})
    is_run = os.path.exists(output_dir / RESULTS)
    folders = [output_dir] if is_run else [run for parent in parents for run in run_folders(parent).values()]
    if not folders:
        raise SettingsError(f"{output_dir}: no runs. Name the --output-dir of summer-train fit")
    results = []
    for folder in folders:
        try:
            if (result := read_results(folder)) is not None:
                results.append(result)
            else:
                log(f"no results in {folder}: killed, or still at work")
        except SettingsError as error:
            log(f"left out: {error}")
    return results


class DamagedError(SettingsError):
    """A file was read whole, and does not hold what it must hold."""


_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError, csv.Error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Tell in one line that a file of results cannot be read, or what to do where it is damaged.

    Raises
    ------
    SettingsError : no permission, or an error of the disk: nothing is known of the file
    DamagedError : it could be read
    """
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror or error}). Check its permissions and its disk, and run again"
        ) from error
    except _DAMAGE as error:
        raise DamagedError(f"{path}: damaged ({type(error).__name__}: {error}). {advice}") from error
