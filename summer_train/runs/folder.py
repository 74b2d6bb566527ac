"""The folder of a run: made for one run alone, with its metrics, results, predictions and checkpoints."""

import csv
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep import __version__
from summer_prep.errors import SettingsError, SummerError
from summer_prep.files import replace_file

METRICS, RESULTS, PREDICTIONS = "metrics.csv", "results.json", "predictions.npz"
BEST, LAST = Path("checkpoints", "best.ckpt"), Path("checkpoints", "last.ckpt")
PARTS = ("train", "val", "test")

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Row (model, or a baseline's name) -> part (train, val, test) -> score -> mean over the part's samples."""

_VERSION = re.compile(r"version_(\d+)")


def new_folder(parent: Path) -> Path:
    """Make and return a new folder `version_N`; two runs never share one, since only one of them can make it."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"version_{max(run_folders(parent), default=-1) + 1}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def run_folders(parent: Path) -> dict[int, Path]:
    """Return number -> folder of the runs below a folder, the newest last."""
    found = {int(match[1]): path for path in parent.glob("version_*") if (match := _VERSION.fullmatch(path.name))}
    return dict(sorted(found.items()))


class MetricsFile:
    """`metrics.csv`: one row per epoch (from 0), with the loss and the scores named for each part.

    Of an existing file, the rows of `n_epochs` are kept. Test scores are in the row of the epoch that was tested.
    """

    def __init__(self, path: Path, score_names: Sequence[str], n_epochs: int = 0) -> None:
        self.path = path
        self.columns = ["epoch", "step", *(f"{part}_{name}" for part in PARTS for name in ("loss", *score_names))]
        whole = [row for row in read_metrics(path) if set(row) == set(self.columns) and row["epoch"].isdigit()]
        self._write([row for row in whole if int(row["epoch"]) < n_epochs])

    def add(self, row: Mapping[str, float]) -> None:
        """Append the row of an epoch."""
        with self.path.open("a") as file:
            file.write(self._line(row))

    def add_test_scores(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write test scores into the row of the epoch that was tested."""
        of_test = {f"test_{name}": score for name, score in scores.items()}
        self._write([row | of_test if row["epoch"] == str(epoch) else row for row in read_metrics(self.path)])

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header = ",".join(self.columns) + "\n"
        replace_file(self.path, (header + "".join(map(self._line, rows))).encode())

    def _line(self, row: Mapping[str, Any]) -> str:
        return ",".join(str(row.get(name, "")) for name in self.columns) + "\n"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a `metrics.csv`, cells as text; none if there is no such file."""
    with reading(path, "Remove it: a run that is continued starts a new one"):
        if path.exists():
            with path.open(newline="") as file:
                return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
    return []


@dataclass(frozen=True, kw_only=True, repr=False)
class FitResult:
    """What a run gave, also kept in its folder as `results.json`.

    Attributes
    ----------
    config : settings, as plain values
    data : patients, units and digests that it was trained on, as plain values
    n_samples, n_per_class : samples of each part (train, val, test), and of each class in it
    scores : row (model, or a baseline's name) -> part -> score -> value over the part's samples (`metrics` says
        what each is); NaN where undefined. The row "shifted film p" has p in place of some (docs/shared.md)
    thresholds : labels: row -> log-odds from which on a bin is called "on", chosen for kappa where `threshold` says
    undefined : part -> why scores of the model are undefined
    units : next-bin, encode: part -> score (mse, r2, bits_per_spike, rate in spikes per bin, mse of baselines),
        patient_id, column (in the key), region -> one value for each unit; features: r2 and r of each dimension
    cycles : sums of the test part for each cycle of the split, for intervals (`scores.claims`)
    null : with `--shifts`: part, shifts (bins), and of networks trained on labels (features) shifted so kappa and auroc
        (r2 and r), and p
    best_epoch : from 1; the one whose weights were scored
    n_epochs : trained
    software : versions of the packages; that of summer ends with +COMMIT in a git checkout
    penalty : of `--model ridge`, chosen on validation
    date, command : when the run ended (UTC, ISO 8601), and the command line, or "python" for a call in Python
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
    units: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    cycles: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    null: Mapping[str, Any] = field(default_factory=dict)
    penalty: float | None = None
    date: str = ""
    command: str = ""

    def __repr__(self) -> str:
        config, scores, kind = self.config, self.scores["model"], self.config["task"]
        decoded = config["label_name"] if kind == "label" else config.get("target", "")
        task, ids = f"{kind.replace('_', ' ')} {decoded}".strip(), " ".join(config["patient_ids"])
        part, name = "test" if "test" in scores else "val", "kappa" if kind == "label" else "r2"
        data = f"{self.n_units} units, {' '.join(f'{n} {one}' for one, n in self.n_samples.items() if n)} samples"
        best = f"best epoch {self.best_epoch} of {self.n_epochs}, {part} {name} {scores[part].get(name, math.nan):.3f}"
        where = f", in {self.log_dir}" if self.log_dir.name else ""
        return f"<FitResult: {task}, patients {ids}, {data}, {best}{where}>"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the epoch with the lowest validation loss."""
        return self.log_dir / BEST

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last whole epoch."""
        return self.log_dir / LAST

    def predictions(self) -> dict[str, NDArray[Any]]:
        """Return what the best epoch predicts for validation and test: `val_bin`, `val_target`, `val_score`, ...

        A score is the probability of "on" for labels (`val_log_odds`: its log-odds, which do not round), and the
        predicted counts for next-bin, (n_samples, n_units).
        """
        with np.load(self.log_dir / PREDICTIONS) as arrays:
            return dict(arrays)

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        paths = {name: str(getattr(self, name)) for name in ("log_dir", "best_checkpoint", "last_checkpoint")}
        plain = {**asdict(self), **paths}
        return {name: value for name, value in plain.items() if name != "penalty" or value is not None}


def read_results(log_dir: Path) -> FitResult | None:
    """Return a run's results, or None if it has none; raises SettingsError if they cannot be read (`reading`)."""
    path = log_dir / RESULTS
    with reading(path, "Remove it: fit --resume writes it again"):
        if path.exists():
            plain = json.loads(path.read_bytes())
            values = {one.name: plain[one.name] for one in fields(FitResult) if one.name in plain}
            values |= {name: with_nan(values.get(name, {})) for name in ("scores", "units", "null")}
            result = FitResult(**{**values, "log_dir": log_dir})
            # Whatever commands use of it later fails here if the file was not written by us.
            _ = [range(number) for number in (result.n_epochs, result.best_epoch, result.config["max_epochs"])]
            _ = [float(score) for row in result.scores.values() for part in row.values() for score in part.values()]
            _ = result.scores["model"]["val"]["loss"], repr(result), result.config["patience"], [*result.n_per_class]
            return result
    return None


def find_results(output_dir: Path, log: Callable[[str], None]) -> list[FitResult]:
    """Return the results of a run or of all runs below a folder, log why others have none; raises SettingsError."""
    folders = [output_dir]
    if not os.path.exists(output_dir / RESULTS):
        walked = os.walk(output_dir, onerror=lambda error: log(f"{error.filename}: cannot be read ({error.strerror})"))
        parents = {parent for parent, names, _ in walked if any(map(_VERSION.fullmatch, names))}
        folders = [folder for parent in sorted(map(Path, parents)) for folder in run_folders(parent).values()]
    if not folders:
        raise SettingsError(f"{output_dir}: no runs. Name the --output-dir of summer-train fit")
    results = []
    for folder in folders:
        try:
            if result := read_results(folder):
                results.append(result)
            else:
                log(f"no results in {folder}: killed, or still at work")
        except SettingsError as error:
            log(f"left out: {error}")
    return results


def origin() -> dict[str, Any]:
    """Return date (UTC, ISO 8601), command line ("python" for a call in Python) and version, in git with +COMMIT."""
    program = Path(sys.argv[0])
    is_command = program.stem == "summer-train" or program.parent.name == "summer_train"
    command = shlex.join(["summer-train", *sys.argv[1:]]) if is_command else "python"
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command, "version": _version()}


@cache
def _version() -> str:
    root, git, commit = Path(__file__).parents[2], shutil.which("git"), ""
    if git and (root / ".git").exists():
        command = [git, "-C", str(root), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{__version__}+{commit}" if commit else __version__


def probability_of(log_odds: float) -> float:
    """Return the probability that log-odds stand for, of any size."""
    odds = math.exp(-abs(log_odds))  # of the less likely side: never too large a number
    return (1 if log_odds >= 0 else odds) / (1 + odds)


def with_nan(plain: Any) -> Any:
    """Return plain values from JSON with NaN for null, which stands for an undefined number."""
    if isinstance(plain, dict):
        return {name: with_nan(one) for name, one in plain.items()}
    if isinstance(plain, list):
        return [with_nan(one) for one in plain]
    return math.nan if plain is None else plain  # always the same object, so that equal results are equal


class DamagedError(SettingsError):
    """A file could be read, but does not hold what it should."""


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Raise any error of a file as a SettingsError that says what to do: DamagedError if it could be read at all."""
    try:
        yield
    except SummerError:
        raise
    except OSError as error:
        advice = "Check its permissions and its disk, and run again"
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error}). {advice}") from error
    except Exception as error:  # damaged bytes lead to whatever their parser raises
        why = f"{type(error).__name__}: {error}".split("\n")[0].split(". ")[0][:150]
        raise DamagedError(f"{path}: damaged ({why}). {advice}") from error
