"""A decoding study: every combination of lists of settings, trained in stacks on all cores, one row per model.

What is in the study's folder already is not trained again, so a study that was killed is continued by the same
command, and one that is finished does nothing.
"""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from summer_prep.console import progress_on_terminal
from summer_prep.errors import SettingsError
from summer_prep.machine import available_bytes
from summer_prep.output import check_folder
from summer_prep.workers import run_in_workers
from summer_train.batches import MAX_BLOCK_VALUES
from summer_train.config import (
    STUDY_OPTIONS,
    Choice,
    Say,
    StudyRun,
    check_names,
    options_of,
    say_nothing,
    settings_from,
    takes,
    with_preset,
)
from summer_train.data import FilmData
from summer_train.grid import ALL, choices_of
from summer_train.models import n_weights
from summer_train.records import (
    PREDICTIONS,
    Record,
    Row,
    columns_of,
    digest_of,
    id_of,
    read_records,
    write_stack,
    write_tables,
)
from summer_train.runs import replacing, writing_below
from summer_train.scoring import Scored, score_baselines
from summer_train.selection import NoUnitsError, Selection, open_described, open_selection
from summer_train.stacks import Trained, shifts_of, stack_size, train_stack
from summer_train.steps import SAMPLES_AT_ONCE
from summer_train.tasks import NothingToLearnError
from summer_train.trainer import quieten_lightning, use_threads

PROCESS_BYTES = 450e6
"""What a process takes before it holds any counts: torch, lightning and ourselves."""

PRELOADED = ("summer_train.studies",)
SECONDS_BETWEEN_TABLES = 10.0
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study gave.

    rows : of study.csv, one per model; numbers are NaN where undefined
    folder : the study's
    n_trained : how many networks this call trained, those of nulls included
    """

    rows: list[Row]
    folder: Path
    n_trained: int
    seconds: float


@takes(Choice, StudyRun, only=(*options_of(Choice), *STUDY_OPTIONS))
def study(*, say: Say = say_nothing, **options: Any) -> StudyResult:
    """Train and evaluate every combination of lists of settings, as `summer-train study` does.

    Every option that decides numbers takes a list: `label_name=["summer", "tom"]` (or "all"), `fold=range(1, 6)`;
    groups of patients or regions and windows as `patient_ids=[[14], [14, 20], "all"]`, `window=[(0, 0), (0.8, 0.72)]`.
    In a script, call it below `if __name__ == "__main__":`, since it starts processes; `workers=1` starts none.

    Parameters
    ----------
    say : takes lines of progress, for people

    Returns
    -------
    The table, which the study's folder keeps, too

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    check_names(options, (*options_of(Choice), *STUDY_OPTIONS))
    return run_study(study_choices(options), settings_from(StudyRun, options), say)


def study_choices(options: Mapping[str, Any]) -> list[Choice]:
    """Return the choices of a study: of labels, unless another task is asked for."""
    return choices_of({"task": "label", **with_preset(options)})


def run_study(choices: Sequence[Choice], run: StudyRun, say: Say = say_nothing) -> StudyResult:
    """Train what is missing of a study, and write its tables.

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    started = time.perf_counter()
    check_folder(run.output_dir, "--output-dir")
    quieten_lightning()
    plan = plan_study(choices, run, say)
    with _alone_in(run.output_dir), writing_below(run.output_dir):
        records = _fresh_records(plan, run, say)
        hopeless = [record for record in plan.hopeless if (record.id, 0) not in records]
        if hopeless:
            write_stack(run.output_dir, digest_of([record.id for record in hopeless]), hopeless)
            records |= {(record.id, 0): record for record in hopeless}
        missing = [group.without(records) for group in plan.groups]
        n_missing = sum(len(group.models) for group in missing)
        say(f"{plan.n_models} models, {plan.n_models - n_missing} of them there: {n_missing} to train")
        lost = _train(missing, run, records, say) if n_missing else []
        rows = write_tables(run.output_dir, records.values(), [id_of(choice, run) for choice in plan.choices])
    if lost:
        raise SettingsError(
            f"{len(lost)} of {n_missing} models were lost with the processes that trained them: killed, or memory ran "
            "out. The same command trains what is missing; choose fewer --workers"
        )
    asked_for = {id_of(choice, run) for choice in plan.choices}
    return StudyResult(
        rows=[row for row in rows if row["id"] in asked_for],
        folder=run.output_dir,
        n_trained=n_missing,
        seconds=time.perf_counter() - started,
    )


class Model(NamedTuple):
    """One network to train: its settings, and by how many bins its labels are shifted for a null (0: not at all)."""

    choice: Choice
    id: str
    shift: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models that share input and samples.

    stack_size : how many of them are best trained as one
    cost : of a model's epoch, in arbitrary units
    n_bytes : what a process needs to train a stack of them, beside PROCESS_BYTES
    """

    models: Sequence[Model]
    stack_size: int
    cost: float
    n_bytes: float

    def without(self, records: Mapping[tuple[str, int], Record]) -> "Group":
        """Return the models that have no record yet."""
        return replace(self, models=[model for model in self.models if (model.id, model.shift) not in records])

    def stacks(self) -> list[Sequence[Model]]:
        """Return the models in stacks of about equal size."""
        n_stacks = -(-len(self.models) // self.stack_size)
        bounds = np.linspace(0, len(self.models), n_stacks + 1).round().astype(int)
        return [self.models[start:stop] for start, stop in pairwise(bounds)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study consists of.

    choices : with patients and labels named
    data_digests : model id -> digest of the data that it is to be trained on
    hopeless : of models that cannot be trained, and why
    """

    choices: Sequence[Choice]
    groups: Sequence[Group]
    data_digests: Mapping[str, str]
    hopeless: Sequence[Record]

    @property
    def n_models(self) -> int:
        """How many there are, those of nulls included."""
        return sum(len(group.models) for group in self.groups) + len(self.hopeless)


def plan_study(choices: Sequence[Choice], run: StudyRun, say: Say = say_nothing) -> Plan:
    """Open the data of a study, building missing keys first, and say which models share their samples.

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    named: list[Choice] = []
    groups: dict[str, list[FilmData]] = defaultdict(list)
    hopeless: list[Record] = []
    digests, reasons, notes = {}, list[SettingsError](), dict[str, None]()
    for selection, choice in _with_selections(choices, run, say):
        named.append(choice)
        model_id = id_of(choice, run)
        try:
            if isinstance(selection, NoUnitsError):
                raise selection
            data = FilmData(selection, choice, run.device_memory_gb, say=notes.setdefault)
        except (NoUnitsError, NothingToLearnError) as reason:
            reasons.append(reason)
            digest = "" if isinstance(selection, NoUnitsError) else digest_of(selection.provenance())
            hopeless.append(_hopeless_record(choice, run, digest, str(reason)))
            digests[model_id] = digest
            continue
        shifts_of(data, run.shifts)  # refuses what cannot be, before the work
        digests[model_id] = digest_of(selection.provenance())
        groups[_sample_key(data)].append(data)
    if reasons and len(hopeless) == len(named):
        raise reasons[0]
    for note in notes:
        say(note)
    return Plan(
        choices=named, groups=[_group(datas, run) for datas in groups.values()], data_digests=digests, hopeless=hopeless
    )


def _with_selections(
    choices: Sequence[Choice], run: StudyRun, say: Say
) -> Iterator[tuple[Selection | NoUnitsError, Choice]]:
    """Yield each choice with its selection of units, or why there is none; patients and labels named."""
    from summer_prep.building import ensure_keys

    opened: dict[Any, Any] = {}
    for choice in choices:
        of_keys = choice.patient_ids, choice.bin_length_ms
        if of_keys not in opened:
            opened[of_keys] = ensure_keys(run.cache_dir, *of_keys, run.data_dir, run.nwb_path, say)
        of_units = *of_keys, choice.brain_regions, choice.single_units
        if of_units not in opened:
            try:
                opened[of_units] = open_described(opened[of_keys], choice.brain_regions, choice.single_units)
                if run.verify:
                    opened[of_units].verify()
            except NoUnitsError as error:
                opened[of_units] = error
        selection = opened[of_units]
        ids = tuple(str(description.attributes["patient_id"]) for description in opened[of_keys])
        whole = open_described(opened[of_keys]) if isinstance(selection, NoUnitsError) else selection
        labels = [choice.label_name]
        if choice.task == "label" and choice.label_name == ALL:
            labels = whole.label_names
        elif choice.task == "label":
            whole.check_label(choice.label_name)
        for label_name in labels:
            yield selection, replace(choice, patient_ids=ids, label_name=label_name)


def _sample_key(data: FilmData) -> str:
    """Return what two models must have in common to be trained as one."""
    choice = data.choice
    parts = hashlib.sha256(b"".join(indices.tobytes() for indices in vars(data.split).values())).hexdigest()
    own = {"label_name", "label_rule", "undefined", "fold", "buffer_s", "sequence_s", "min_recorded", "pauses"}
    shared = {name: value for name, value in choice.as_plain().items() if name not in own}
    return digest_of([shared, parts, data.task.n_outputs])


def _group(datas: Sequence[FilmData], run: StudyRun) -> Group:
    first = datas[0]
    models = [
        Model(data.choice, id_of(data.choice, run), shift)
        for data in datas
        for shift in (0, *shifts_of(data, run.shifts))
    ]
    size, weights = stack_size(first, first.choice), n_weights(first, first.choice)
    n_bins, n_values = first.selection.n_bins, first.n_units * first.window.n_bins
    is_mapped = first.selection.counts_if_mapped() is not None
    resident = 0 if is_mapped else min(first.selection.n_bytes, (run.device_memory_gb or np.inf) * 1e9)
    n_bytes = (
        resident
        + 24 * size * weights  # weights, gradients, two averages, the best epoch's, a copy while some stop
        + 5 * max(MAX_BLOCK_VALUES, first.choice.batch_size * n_values)  # a block, as counts and as floats
        + 12 * SAMPLES_AT_ONCE * size * weights / max(1, n_values)  # hidden layers
        + size * n_bins * (4 + 16 * first.task.n_outputs)  # labels, masks, predictions in double precision
    )
    n_passes = first.window.n_bins if first.choice.model in ("lstm", "gru") else 1
    return Group(models=models, stack_size=size, cost=len(first.split.train) * weights * n_passes, n_bytes=n_bytes)


def _fresh_records(plan: Plan, run: StudyRun, say: Say) -> dict[tuple[str, int], Record]:
    """Return what models left that need not be trained again."""
    read, damaged = read_records(run.output_dir)
    for path in damaged:
        say(f"{path}: cannot be read; its models are trained again")
    fresh = {
        (record.id, record.shift): record
        for record in read
        if plan.data_digests.get(record.id, record.data_digest) == record.data_digest
    }
    if run.keep_predictions:
        without = [
            key
            for key in fresh
            if not key[1]
            and key[0] in plan.data_digests
            and fresh[key].curve
            and not _predictions_path(run.output_dir, key[0]).exists()
        ]
        for key in without:
            del fresh[key]
    n_stale = len({(record.id, record.shift) for record in read} - fresh.keys())
    if n_stale:
        say(f"{n_stale} models that are there are of other data, or lack their predictions; they are trained again")
    return fresh


def _train(groups: Sequence[Group], run: StudyRun, records: dict[tuple[str, int], Record], say: Say) -> list[Model]:
    """Train stacks side by side, adding to the records as each ends; return the models that were lost."""
    stacks = [(group, models) for group in groups for models in group.stacks()]
    stacks.sort(key=lambda stack: -stack[0].cost * len(stack[1]))  # the longest first, so that all end together
    n_workers = _choose_workers([group for group, _ in stacks], run, say)
    names = {digest_of([(model.id, model.shift) for model in models]): models for _, models in stacks}
    last_tables = time.monotonic()

    def take(name: str, found: Sequence[Record]) -> None:
        nonlocal last_tables
        write_stack(run.output_dir, name, found)
        records.update({(record.id, record.shift): record for record in found})
        progress.finish(len(found), sum(len(record.curve) for record in found))
        if time.monotonic() - last_tables > SECONDS_BETWEEN_TABLES:
            write_tables(run.output_dir, records.values())
            last_tables = time.monotonic()

    n_models = sum(map(len, names.values()))
    n_processors = os.cpu_count() or 1
    with Progress(len(names), n_models, run.max_epochs, say) as progress:
        tasks = {
            name: (models, run, n_processors // n_workers, progress.path, slot)
            for slot, (name, models) in enumerate(names.items())
        }
        if n_workers == 1:
            n_threads = torch.get_num_threads()
            try:
                for name, task in tasks.items():
                    take(name, train_models(*task))
            finally:
                torch.set_num_threads(n_threads)
            return []
        lost = run_in_workers(train_models, tasks, n_workers, take, PRELOADED, progress.stop)
        # A process that is killed takes its neighbours along: each alone shows whose fault it was.
        lost = [name for name in lost if run_in_workers(train_models, {name: tasks[name]}, 1, take, PRELOADED)]
    return [model for name in lost for model in names[name]]


def _choose_workers(groups: Sequence[Group], run: StudyRun, say: Say) -> int:
    """Return how many processes train side by side, and say what memory they will need.

    Raises
    ------
    SettingsError : not even one fits
    """
    wanted = run.workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    wanted = min(wanted, len(groups))
    needed, free = PROCESS_BYTES + max(group.n_bytes for group in groups), available_bytes()
    fitting = min(wanted, int(free / needed))
    if not fitting:
        raise SettingsError(
            f"a process that trains this study needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free. Choose fewer patients, a smaller --hidden-size or --window, or a smaller --device-memory"
        )
    fewer = f" (of {wanted}: more do not fit)" if fitting < wanted else ""
    say(
        f"{len(groups)} stacks on {fitting} processes{fewer}: about {fitting * needed / 1e9:.1f} GB of memory, "
        f"{free / 1e9:.1f} GB are free"
    )
    return fitting


def train_models(models: Sequence[Model], run: StudyRun, n_threads: int, progress: Path, slot: int) -> list[Record]:
    """Train a stack of models and return what they leave; the work of one process.

    Parameters
    ----------
    progress, slot : where to tell of each epoch
    """
    quieten_lightning()
    told = np.memmap(progress, np.int64, "r+")

    def tick(n_networks: int) -> None:
        told[slot] += n_networks
        if told[-1]:
            raise KeyboardInterrupt

    started = time.perf_counter()
    datas, found = _open_models(models, run)
    records = list(found)
    if datas:
        first = next(iter(datas.values()))
        # Two threads on a stack of small products are slower than one.
        use_threads(n_threads if stack_size(first, first.choice) == 1 else 1, 0)
        trained, scored = train_stack(list(datas.values()), run.max_epochs, run.patience, tick)
        seconds = (time.perf_counter() - started) / len(datas)
        for (model, data), how, what in zip(datas.items(), trained, scored, strict=True):
            records.append(_record(model, data, run, how, what, seconds))
    return records


_opened: dict[Any, FilmData] = {}
"""The data that this process placed last: the next stack mostly needs the same counts."""


def _open_models(models: Sequence[Model], run: StudyRun) -> tuple[dict[Model, FilmData], list[Record]]:
    """Return the data of each model, and a record of each that has nothing to learn from."""
    choice = models[0].choice
    of_units = run.cache_dir, choice.patient_ids, choice.bin_length_ms, choice.brain_regions, choice.single_units
    before = _opened.get(of_units)
    selection = (
        before.selection
        if before
        else open_selection(
            run.cache_dir, choice.patient_ids, choice.bin_length_ms, choice.brain_regions or None, choice.single_units
        )
    )
    of_choice = {
        one: FilmData(selection, one, run.device_memory_gb) for one in {model.choice: None for model in models}
    }
    first = next(iter(of_choice.values()))
    if before:
        first.take_counts_of(before)
    else:
        first.place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        _opened.clear()
        _opened[of_units] = first
    datas, hopeless = {}, []
    for model in models:
        try:
            data = of_choice[model.choice]
            datas[model] = data.shifted(model.shift) if model.shift else data
        except NothingToLearnError as reason:
            digest = digest_of(selection.provenance())
            hopeless.append(_hopeless_record(model.choice, run, digest, str(reason), model.shift))
    if datas:
        next(iter(datas.values())).take_counts_of(first)
    return datas, hopeless


def _record(model: Model, data: FilmData, run: StudyRun, how: Trained, what: Scored | None, seconds: float) -> Record:
    if what is not None and not model.shift and run.keep_predictions:
        with replacing(_predictions_path(run.output_dir, model.id)) as file:
            np.savez(file, **what.predictions)  # type: ignore[arg-type]  # numpy's stub takes them for flags
    diverged = {part: f"training diverged in epoch {len(how.curve)}" for part in data.n_samples}
    return Record(
        id=model.id,
        shift=model.shift,
        shift_s=model.shift * model.choice.bin_length_ms / 1000,
        data_digest=digest_of(data.selection.provenance()),
        columns=columns_of(model.choice, run),
        n_units=data.n_units,
        n_samples=data.n_samples,
        scores=what.scores if what else {},
        threshold=what.threshold if what else None,
        undefined=what.undefined if what else diverged,
        baselines={} if model.shift else {name: one.scores for name, one in score_baselines(data).items()},
        curve=how.curve,
        best_epoch=how.best_epoch,
        units=_plain_units(what.units) if what else {},
        seconds=seconds,
    )


def _plain_units(units: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    return {part: {name: list(map(float, values)) for name, values in scores.items()} for part, scores in units.items()}


def _hopeless_record(choice: Choice, run: StudyRun, data_digest: str, reason: str, shift: int = 0) -> Record:
    return Record(
        id=id_of(choice, run), shift=shift, shift_s=shift * choice.bin_length_ms / 1000, data_digest=data_digest,
        columns=columns_of(choice, run), n_units=0, n_samples={}, scores={}, threshold=None,
        undefined={"train": reason}, baselines={}, curve=[], best_epoch=0, units={}, seconds=0.0,
    )  # fmt: skip


def _predictions_path(folder: Path, model_id: str) -> Path:
    return folder / PREDICTIONS / f"{model_id}.npz"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others from working on a study at the same time; clear what a killed one left half-written."""
    with writing_below(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SettingsError(f"{folder}: another process is at work on this study. Wait for its end") from error
    try:
        for debris in (*folder.glob(".*.staging"), *folder.glob("*/.*.staging")):
            debris.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


class Progress:
    """Shows how far a study is: a bar on a terminal, a line now and then elsewhere; and stops its processes.

    The processes count the model-epochs they have trained in a file that all of them map, a number for each stack; the
    last number asks them to stop.
    """

    def __init__(self, n_stacks: int, n_models: int, max_epochs: int, say: Say) -> None:
        self.n_models, self.max_epochs, self.say = n_models, max_epochs, say
        self.n_finished, self.n_epochs_of_finished = 0, 0
        self.folder = TemporaryDirectory(prefix="summer-study-")
        self.path = Path(self.folder.name) / "epochs"
        self.told = np.memmap(self.path, np.int64, "w+", shape=(n_stacks + 1,))
        self.is_over = Event()
        self.started = self.said = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bar = progress_on_terminal(*_bar_columns())
        self.bar.start()
        self.line = self.bar.add_task("", total=self.n_models * self.max_epochs)
        self.thread = Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()
        self.bar.stop()
        self.folder.cleanup()

    def stop(self) -> None:
        """Ask all processes to stop after the epoch at hand."""
        self.told[-1] = 1

    def finish(self, n_models: int, n_epochs: int) -> None:
        """Count the models of a stack that ended, and the epochs that they took together."""
        self.n_finished += n_models
        self.n_epochs_of_finished += n_epochs
        now = time.monotonic()
        if not self.bar.disable or now - self.said < SECONDS_BETWEEN_LINES:
            return
        self.said = now
        left_s = (now - self.started) / self.n_finished * (self.n_models - self.n_finished)
        self.say(f"{self.n_finished} of {self.n_models} models, about {left_s:.0f} s left")

    def _watch(self) -> None:
        while not self.is_over.wait(0.2):
            n_epochs = int(self.told[:-1].sum())
            usual = self.n_epochs_of_finished / self.n_finished if self.n_finished else self.max_epochs
            expected = self.n_epochs_of_finished + (self.n_models - self.n_finished) * usual
            self.bar.update(
                self.line,
                completed=n_epochs,
                total=max(expected, n_epochs + 1),
                description=f"{self.n_finished}/{self.n_models} models, {n_epochs} epochs",
            )


def _bar_columns() -> Sequence[Any]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
