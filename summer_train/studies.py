"""A decoding study: every combination of lists of settings, trained in stacks on all cores, one row per model.

What is in the study's folder already is not trained again, so a study that was killed is continued by the same
command, and one that is finished does nothing.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from summer_prep.errors import SettingsError
from summer_prep.key import DESCRIPTION, key_path
from summer_prep.machine import available_bytes, own_one_of, usable_processors
from summer_prep.output import check_folder
from summer_prep.places import Url, with_absolute_paths
from summer_prep.workers import MAIN_GUARD, Engine, run_here, run_in_workers, run_tasks
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
from summer_train.config_file import for_study
from summer_train.data import FilmData
from summer_train.grid import choices_of
from summer_train.plans import Group, Model, Plan, hopeless_record, plan_study
from summer_train.progress import EPOCHS, Progress
from summer_train.records import (
    Record,
    Row,
    columns_of,
    digest_of,
    predictions_path,
    read_stacks,
    rewrite_stack,
    write_stack,
    write_tables,
)
from summer_train.runs import replacing, writing_below
from summer_train.scoring import Scored, score_baselines
from summer_train.selection import open_selection
from summer_train.stacks import Trained, train_stack
from summer_train.tasks import NothingToLearnError
from summer_train.trainer import quieten_lightning

PROCESS_BYTES = 450e6
"""What a process takes before it holds any counts: torch, lightning and ourselves."""

PRELOADED = ("summer_train.studies",)
SECONDS_BETWEEN_TABLES = 10.0


@dataclass(frozen=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        return f"<StudyResult: {len(self.rows)} models in {self.folder}; .rows is the table, one dict per model>"


@takes(Choice, StudyRun, only=(*options_of(Choice), *STUDY_OPTIONS))
def study(*, config: str | Path | None = None, say: Say = say_nothing, **options: Any) -> StudyResult:
    """Train and evaluate every combination of lists of settings, as `summer-train study` does.

    Every option that decides numbers takes a list: `label_name=["summer", "tom"]` (or "all"), `fold=range(1, 6)`;
    groups of patients or regions and windows as `patient_ids=[[14], [14, 20], "all"]`, `window=[(0, 0), (0.8, 0.72)]`.
    In a script, call it below `if __name__ == "__main__":`, since it starts processes; `workers=1` starts none.

    Parameters
    ----------
    config : `hparams.yaml` of a run, or its folder, for what is not given
    say : takes lines of progress, for people

    Returns
    -------
    The table, which the study's folder keeps, too

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    check_names(options, (*options_of(Choice), *STUDY_OPTIONS))
    options = for_study(options, config)
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
    if current_process().name != "MainProcess" and run.workers != 1:  # it has run the script once more
        raise SettingsError(f"study: started by a process that another one started. {MAIN_GUARD}")
    check_folder(run.output_dir, "--output-dir")
    quieten_lightning()
    plan = plan_study(choices, run, say)
    with _alone_in(run.output_dir):
        with writing_below(run.output_dir):
            records = _fresh_records(plan, run, say)
            hopeless = [record for record in plan.hopeless if (record.id, 0) not in records]
            if hopeless:
                write_stack(run.output_dir, digest_of([record.id for record in hopeless]), hopeless)
        records |= {(record.id, 0): record for record in hopeless}
        missing = [group.without(records) for group in plan.groups]
        n_missing = sum(len(group.models) for group in missing)
        say(f"{plan.n_models} models, {plan.n_models - n_missing} of them there: {n_missing} to train")
        lost = _train(missing, run, records, say) if n_missing else []
        with writing_below(run.output_dir):
            rows = write_tables(run.output_dir, records.values(), list(plan.data_digests))
    if lost:
        raise SettingsError(
            f"{len(lost)} of {n_missing} models were lost with the processes that trained them: killed, or memory ran "
            "out. The same command trains what is missing; choose fewer --workers"
        )
    return StudyResult(
        rows=[row for row in rows if row["id"] in plan.data_digests],
        folder=run.output_dir,
        n_trained=n_missing,
        seconds=time.perf_counter() - started,
    )


def _fresh_records(plan: Plan, run: StudyRun, say: Say) -> dict[tuple[str, int], Record]:
    """Return what models left that need not be trained again, and clear the others from the folder."""
    folder, fresh, n_stale = run.output_dir, dict[tuple[str, int], Record](), 0
    for path, records in read_stacks(folder).items():
        if records is None:
            say(f"{path}: cannot be read; its models are trained again")
        kept = [record for record in records or () if _is_fresh(record, plan, run)]
        kept = [record for record in kept if (record.id, record.shift) not in fresh]
        fresh |= {(record.id, record.shift): record for record in kept}
        stale = [record for record in records or () if not any(record is one for one in kept)]
        n_stale += len(stale)
        for record in stale:
            if (record.id, record.shift) not in fresh and not record.shift:
                predictions_path(folder, record.id).unlink(missing_ok=True)
        if stale or records is None:  # one model has one record, whoever reads the folder
            rewrite_stack(path, kept)
    if n_stale:
        say(f"{n_stale} models that are there are of other data, or lack their predictions; they are trained again")
    return fresh


def _is_fresh(record: Record, plan: Plan, run: StudyRun) -> bool:
    if record.id not in plan.data_digests:  # of another list than this one: not ours to judge
        return True
    lacks_predictions = (
        run.keep_predictions
        and not record.shift
        and record.scores
        and not predictions_path(run.output_dir, record.id).exists()
    )
    return plan.data_digests[record.id] == record.data_digest and not lacks_predictions


def _train(groups: Sequence[Group], run: StudyRun, records: dict[tuple[str, int], Record], say: Say) -> list[Model]:
    """Train stacks side by side, adding to the records as each ends; return the models that were lost."""
    stacks = [(group, models) for group in groups for models in group.stacks()]
    stacks.sort(key=lambda stack: -stack[0].cost * len(stack[1]))  # the longest first, so that all end together
    names = {digest_of([(model.id, model.shift) for model in models]): models for _, models in stacks}
    last_tables = time.monotonic()

    def take(name: str, found: Sequence[Record]) -> None:
        nonlocal last_tables
        with writing_below(run.output_dir):
            write_stack(run.output_dir, name, found)
        records.update({(record.id, record.shift): record for record in found})
        progress.finish(len(found), sum(len(record.curve) for record in found))
        if time.monotonic() - last_tables > SECONDS_BETWEEN_TABLES:
            with writing_below(run.output_dir):
                write_tables(run.output_dir, records.values())
            last_tables = time.monotonic()

    n_models = sum(map(len, names.values()))
    with (
        _engine([group for group, _ in stacks], run, say) as engine,
        Progress(run.output_dir, len(names), n_models, run.max_epochs, say) as progress,
    ):
        # On other machines nobody maps the file of the epochs that are done.
        told = None if run.scheduler else progress.path
        sent = with_absolute_paths(run) if run.scheduler else run
        tasks = {name: (models, sent, told, slot) for slot, (name, models) in enumerate(names.items())}
        lost = run_tasks(engine, train_models, tasks, take, progress.stop)
    return [model for name in lost for model in names[name]]


@contextmanager
def _engine(groups: Sequence[Group], run: StudyRun, say: Say) -> Iterator[Engine]:
    """Yield what trains stacks side by side: this process, processes, or a cluster."""
    if run.scheduler is not None:
        from summer_prep.cluster import cluster

        n_workers = _choose_workers(groups, run, say) if run.scheduler == "local" else 0
        written = [run.output_dir] if run.keep_predictions else []
        with cluster(run.scheduler, n_workers, _keys_of(groups, run), written, __name__) as engine:
            yield engine
    elif (n_workers := _choose_workers(groups, run, say)) > 1:
        yield partial(run_in_workers, n_workers=n_workers, preloaded=PRELOADED)
    else:
        n_threads = torch.get_num_threads()
        try:
            yield run_here
        finally:  # this process is somebody else's, too
            _opened.clear()
            torch.set_num_threads(n_threads)


def _keys_of(groups: Sequence[Group], run: StudyRun) -> list[Path]:
    """Return the files that describe the keys of some models."""
    keys = {
        (patient_id, model.choice.bin_length_ms)
        for group in groups for model in group.models for patient_id in model.choice.patient_ids
    }  # fmt: skip
    if isinstance(run.cache_dir, Url):
        return []  # each machine fetches its own
    return [key_path(run.cache_dir, *key) / DESCRIPTION for key in sorted(keys)]


def _choose_workers(groups: Sequence[Group], run: StudyRun, say: Say) -> int:
    """Return how many processes train side by side, and say what memory they will need.

    Raises
    ------
    SettingsError : not even one fits
    """
    wanted = run.workers or (1 if torch.cuda.is_available() else usable_processors())
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


def train_models(models: Sequence[Model], run: StudyRun, progress: Path | None, slot: int) -> list[Record]:
    """Train a stack of models and return what they leave; the work of one process.

    Parameters
    ----------
    progress, slot : where to tell of each epoch, if anybody can see it
    """
    quieten_lightning()
    if run.scheduler is not None and torch.cuda.device_count() > 1:
        torch.cuda.set_device(own_one_of(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "gpu")))
    tick = partial(_tick, np.memmap(progress, np.int64, "r+"), slot) if progress else lambda _n_networks: None

    started = time.perf_counter()
    datas, found = _open_models(models, run)
    records = list(found)
    if datas:
        torch.set_num_threads(1)  # two on a stack of small products are slower than one, and wait where cores are busy
        trained, scored = train_stack(list(datas.values()), run.max_epochs, run.patience, tick)
        seconds = (time.perf_counter() - started) / len(datas)
        for (model, data), how, what in zip(datas.items(), trained, scored, strict=True):
            records.append(_record(model, data, run, how, what, seconds))
    return records


def _tick(told: Any, slot: int, n_networks: int) -> None:
    """Count an epoch of some networks where the process that shows progress looks; stop if it asks for that."""
    told[slot] += n_networks
    if told[-1]:
        raise KeyboardInterrupt


_opened: dict[Any, FilmData] = {}
"""The data that this process placed last: the next stack mostly needs the same counts."""


def _open_models(models: Sequence[Model], run: StudyRun) -> tuple[dict[Model, FilmData], list[Record]]:
    """Return the data of each model, and a record of each that has nothing to learn from."""
    choice = models[0].choice
    of_units = (
        run.cache_dir, run.device_memory_gb, choice.patient_ids, choice.bin_length_ms, choice.brain_regions,
        choice.single_units,
    )  # fmt: skip
    before = _opened.get(of_units)
    selection = (
        before.selection
        if before
        else open_selection(
            run.cache_dir,
            choice.patient_ids,
            choice.bin_length_ms,
            choice.brain_regions or None,
            choice.single_units,
            run.local_cache,
        )
    )
    choices = dict.fromkeys(model.choice for model in models)
    of_choice = {one: FilmData(selection, one, run.device_memory_gb) for one in choices}
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
            hopeless.append(hopeless_record(model.choice, run, digest, str(reason), model.shift))
    if datas:
        next(iter(datas.values())).take_counts_of(first)
    return datas, hopeless


def _record(model: Model, data: FilmData, run: StudyRun, how: Trained, what: Scored | None, seconds: float) -> Record:
    if what is not None and not model.shift and run.keep_predictions:
        with writing_below(run.output_dir), replacing(predictions_path(run.output_dir, model.id)) as file:
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
        threshold_log_odds=what.threshold_log_odds if what else None,
        undefined=what.undefined if what else diverged,
        baselines={} if model.shift else {name: one.scores for name, one in score_baselines(data).items()},
        curve=how.curve,
        best_epoch=how.best_epoch,
        units=_plain_units(what.units) if what else {},
        seconds=seconds,
    )


def _plain_units(units: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    return {part: {name: list(map(float, values)) for name, values in scores.items()} for part, scores in units.items()}


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
        for debris in (*folder.glob(".*.staging"), *folder.glob("*/.*.staging"), folder / EPOCHS):
            debris.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
