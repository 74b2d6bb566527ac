"""A decoding study: every combination of lists of settings, trained in stacks on all cores, one row per model.

What is in the study's folder already is not trained again, so a study that was killed is continued by the same
command, and one that is finished does nothing.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from summer_prep.errors import CacheError, SettingsError, SummerError
from summer_prep.files import LOCK, alone_in, check_folder, replacing, writing
from summer_prep.options import with_absolute_paths
from summer_prep.parallel import LOCAL, MAIN_GUARD, Opened, dask_workers, local_pool, run_tasks
from summer_prep.resources import available_bytes, usable_processors
from summer_train.data.film import FilmSamples
from summer_train.data.selection import open_selection
from summer_train.data.targets import NothingToLearnError
from summer_train.models.stack import Trained, train_stack
from summer_train.scores.scoring import Scored, score_baselines
from summer_train.scores.shifts import score_stack
from summer_train.settings.file import for_study
from summer_train.settings.lists import choices_of
from summer_train.settings.options import (
    STUDY_DEFAULTS,
    STUDY_OPTIONS,
    Choice,
    Log,
    StudyRun,
    accepts,
    check_names,
    log_nothing,
    options_of,
    settings_from,
    with_preset,
)
from summer_train.studies.plan import Group, Model, Plan, hopeless_record, plan_study
from summer_train.studies.progress import Progress
from summer_train.studies.records import (
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

PROCESS_BYTES = 450e6
"""What a process takes before it holds any counts: torch and ourselves."""

PRELOADED = ("summer_train.studies.study",)
SECONDS_BETWEEN_TABLES = 10.0
SECONDS_TO_SCORE = 0.1


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


@accepts(Choice, StudyRun, only=(*options_of(Choice), *STUDY_OPTIONS), defaults=STUDY_DEFAULTS)
def study(*, config: str | Path | None = None, log: Log = log_nothing, **options: Any) -> StudyResult:
    """Train and evaluate every combination of lists of settings, as `summer-train study` does.

    Every option that decides numbers takes a list: `label_name=["summer", "tom"]` (or "all"), `fold=range(1, 6)`;
    groups of patients or regions and windows as `patient_ids=[[14], [14, 20], "all"]`, `window=[(0, 0), (0.8, 0.72)]`.
    In a script, call it below `if __name__ == "__main__":`, since it starts processes; `workers=1` starts none.

    Parameters
    ----------
    config : `hparams.yaml` of a run, or its folder, for what is not given
    log : takes lines of progress, for people

    Returns
    -------
    The table, which the study's folder keeps, too

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    check_names(options, (*options_of(Choice), *STUDY_OPTIONS))
    options = for_study(options, config)
    return run_study(study_choices(options), settings_from(StudyRun, options), log)


def study_choices(options: Mapping[str, Any]) -> list[Choice]:
    """Return the choices of a study: of labels, unless another task is asked for."""
    return choices_of({**STUDY_DEFAULTS, **with_preset(options)})


def run_study(choices: Sequence[Choice], run: StudyRun, log: Log = log_nothing) -> StudyResult:
    """Train what is missing of a study, and write its tables.

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    started = time.perf_counter()
    if current_process().name != "MainProcess" and run.workers != 1:  # it has run the script once more
        raise SettingsError(f"study: started by a process that another one started. {MAIN_GUARD}")
    check_folder(run.output_dir, "--output-dir")
    plan = plan_study(choices, run, log)
    with alone_in(run.output_dir, "another process is at work on this study"):
        with writing(run.output_dir):
            records = _fresh_records(plan, run, log)
            hopeless = [record for record in plan.hopeless if (record.id, 0) not in records]
            if hopeless:
                write_stack(run.output_dir, digest_of([record.id for record in hopeless]), hopeless)
        records |= {(record.id, 0): record for record in hopeless}
        missing = [group.without(records) for group in plan.groups]
        n_missing = sum(len(group.models) for group in missing)
        seconds = sum((group.cost * run.max_epochs + SECONDS_TO_SCORE) * len(group.models) for group in missing)
        estimate = f", at most about {seconds:.0f} s of one processor" if seconds > 10 else ""
        log(f"{plan.n_models} models, {plan.n_models - n_missing} of them there: {n_missing} to train{estimate}")
        lost, failed = _train(missing, plan.data_digests, run, records, log) if n_missing else ([], {})
        with _still_there(run.output_dir):
            rows = write_tables(run.output_dir, records.values(), list(plan.data_digests))
    problems = (
        [f"{len(failed)} stacks of models failed, the first with: {next(iter(failed.values()))}"] if failed else []
    )
    if lost:
        problems.append(
            f"{len(lost)} of {n_missing} models were lost with the processes that trained them: killed, or memory ran "
            "out, for which fewer --workers help"
        )
    if problems:
        raise SettingsError(f"{'; '.join(problems)}. The rest is kept, and the same command trains what is missing")
    return StudyResult(
        rows=[row for row in rows if row["id"] in plan.data_digests],
        folder=run.output_dir,
        n_trained=n_missing,
        seconds=time.perf_counter() - started,
    )


def _fresh_records(plan: Plan, run: StudyRun, log: Log) -> dict[tuple[str, int], Record]:
    """Return what models left that need not be trained again, and clear the others from the folder."""
    stacks = read_stacks(run.output_dir, log)  # all of them, before anything is changed
    fresh: dict[tuple[str, int], Record] = {}
    for record in chain.from_iterable(stacks.values()):
        digest = plan.data_digests.get(record.id, record.data_digest)  # of another list: not ours to judge
        is_kept = run.keep_predictions and not record.shift and record.scores and record.id in plan.data_digests
        is_there = not is_kept or predictions_path(run.output_dir, record.id).exists()
        if digest == record.data_digest and is_there:
            fresh.setdefault((record.id, record.shift), record)
    for path, records in stacks.items():
        kept = [record for record in records if fresh.get((record.id, record.shift)) is record]
        for record in records:
            if not record.shift and (record.id, 0) not in fresh:
                predictions_path(run.output_dir, record.id).unlink(missing_ok=True)
        if len(kept) < len(records):  # one model has one record, whoever reads the folder
            rewrite_stack(path, kept)
    n_stale = len({(one.id, one.shift) for one in chain.from_iterable(stacks.values())} - fresh.keys())
    if n_stale:
        log(f"{n_stale} models that are there are of other data, or lack their predictions; they are trained again")
    return fresh


def _train(
    groups: Sequence[Group],
    data_digests: Mapping[str, str],
    run: StudyRun,
    records: dict[tuple[str, int], Record],
    log: Log,
) -> tuple[list[Model], dict[str, str]]:
    """Train stacks side by side, adding to the records as each ends.

    Returns
    -------
    The models that were lost with their processes, and why stacks failed, by name
    """
    stacks = [(group, models) for group in groups for models in group.stacks()]
    stacks.sort(key=lambda stack: -stack[0].cost * len(stack[1]))  # the longest first, so that all end together
    names = {digest_of([(model.id, model.shift) for model in models]): models for _, models in stacks}
    failed: dict[str, str] = {}
    last_tables = time.monotonic()

    def keep_result(name: str, found: Sequence[Record] | str) -> None:
        nonlocal last_tables
        if isinstance(found, str):
            failed[name] = found
            choices = [model.choice for model in names[name]]
            labels = list(dict.fromkeys(one.label_name if one.task == "label" else one.task for one in choices))
            shown = ", ".join([*labels[:3], *(["..."] if len(labels) > 3 else [])])
            of = f"patient {' '.join(choices[0].patient_ids)}, fold {choices[0].fold}, {shown}"
            log(f"{len(choices)} models of {of}: {found}; the others go on")
            return
        with _still_there(run.output_dir):
            write_stack(run.output_dir, name, found)
        records.update({(record.id, record.shift): record for record in found})
        progress.finish(len(found))
        if time.monotonic() - last_tables > SECONDS_BETWEEN_TABLES:
            with _still_there(run.output_dir):
                write_tables(run.output_dir, records.values())
            last_tables = time.monotonic()

    sent = with_absolute_paths(run) if run.scheduler else run
    tasks = {name: (models, data_digests[models[0].id], sent) for name, models in names.items()}
    pool = _pool([group for group, _ in stacks], run, log)
    n_threads = torch.get_num_threads()
    try:
        with Progress(sum(map(len, names.values())), log) as progress:
            lost = run_tasks(pool, train_or_say_why, tasks, keep_result)
    finally:  # of this process, which is somebody else's, too
        _opened.clear()
        torch.set_num_threads(n_threads)
    return [model for name in lost for model in names[name]], failed


def _pool(groups: Sequence[Group], run: StudyRun, log: Log) -> Callable[[], Opened]:
    """Return what opens the pool that trains stacks side by side, as many as memory allows, which is said.

    Raises
    ------
    SettingsError : not even one fits
    """
    if run.scheduler not in (None, LOCAL):
        return partial(dask_workers, run.scheduler, 0, PRELOADED)
    wanted = min(run.workers or (1 if torch.cuda.is_available() else usable_processors()), len(groups))
    needed, free = PROCESS_BYTES + max(group.n_bytes for group in groups), available_bytes()
    fitting = min(wanted, int(free / needed))
    if not fitting:
        raise SettingsError(
            f"a process that trains this study needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free. Choose fewer patients, a smaller --hidden-size or --window, or a smaller --device-memory"
        )
    fewer = f" (of {wanted}: more do not fit)" if fitting < wanted else ""
    log(
        f"{len(groups)} stacks on {fitting} processes{fewer}: about {fitting * needed / 1e9:.1f} GB of memory, "
        f"{free / 1e9:.1f} GB are free"
    )
    if run.scheduler == LOCAL:
        return partial(dask_workers, LOCAL, fitting, PRELOADED)
    return local_pool(fitting if fitting > 1 else 0, PRELOADED)


def train_or_say_why(models: Sequence[Model], data_digest: str, run: StudyRun) -> list[Record] | str:
    """Train a stack of models, as `train_models`; return what went wrong in it, which takes no other stack along.

    Raises
    ------
    SettingsError : nothing can be written, for which others would fail, too
    """
    try:
        return train_models(models, data_digest, run)
    except SettingsError:
        raise
    except SummerError as error:
        return str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"{what} ({where.filename}, line {where.lineno})"


def train_models(models: Sequence[Model], data_digest: str, run: StudyRun) -> list[Record]:
    """Train a stack of models and return what they leave; the work of one process.

    Parameters
    ----------
    data_digest : of the data that the study was planned with

    Raises
    ------
    CacheError : the cache holds other data by now
    """
    started = time.perf_counter()
    datas, found = _open_models(models, data_digest, run)
    records = list(found)
    if datas:
        torch.set_num_threads(1)  # two on a stack of small products are slower than one, and wait where cores are busy
        trained, outputs = train_stack(list(datas.values()), run.max_epochs, run.patience)
        scored = score_stack(list(datas.values()), trained, outputs)
        seconds = (time.perf_counter() - started) / len(datas)
        for (model, data), how, what in zip(datas.items(), trained, scored, strict=True):
            records.append(_record(model, data, run, how, what, seconds))
    return records


_opened: dict[tuple[str, float | None], FilmSamples] = {}
"""The data that this process placed last, by their digest: the next stack mostly needs the same counts."""


def _open_models(
    models: Sequence[Model], data_digest: str, run: StudyRun
) -> tuple[dict[Model, FilmSamples], list[Record]]:
    """Return the data of each model, and a record of each that has nothing to learn from."""
    choice = models[0].choice
    selection = open_selection(
        run.cache_dir,
        choice.patient_ids,
        choice.bin_length_ms,
        choice.brain_regions or None,
        choice.single_units,
        run.local_cache,
    )
    if digest_of(selection.provenance()) != data_digest:
        raise CacheError(
            f"{run.cache_dir}: the keys of patients {' '.join(choice.patient_ids)} at {choice.bin_length_ms} ms are "
            "not those that the study was planned with: they were rebuilt meanwhile, or a worker sees another cache. "
            "Repeat the command"
        )
    before = _opened.get((data_digest, run.device_memory_gb))
    choices = dict.fromkeys(model.choice for model in models)
    of_choice = {
        one: FilmSamples(before.selection if before else selection, one, run.device_memory_gb) for one in choices
    }
    first = next(iter(of_choice.values()))
    if before:
        first.share_counts_of(before)
    else:
        first.place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        _opened.clear()
        _opened[data_digest, run.device_memory_gb] = first
    datas, hopeless = {}, []
    for model in models:
        try:
            data = of_choice[model.choice]
            datas[model] = data.shifted(model.shift) if model.shift else data
        except NothingToLearnError as reason:
            hopeless.append(hopeless_record(model.choice, run, data_digest, str(reason), model.shift))
    if datas:
        next(iter(datas.values())).share_counts_of(first)
    return datas, hopeless


def _record(
    model: Model, data: FilmSamples, run: StudyRun, how: Trained, what: Scored | None, seconds: float
) -> Record:
    if what is not None and not model.shift and run.keep_predictions:
        with writing(run.output_dir), replacing(predictions_path(run.output_dir, model.id)) as file:
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
        units=what.units if what else {},
        seconds=seconds,
    )


@contextmanager
def _still_there(folder: Path) -> Iterator[None]:
    """Write into the folder of a study at work, unless it was moved or removed: a part of a study is none.

    Raises
    ------
    SettingsError : it was, or nothing can be written
    """
    with writing(folder):
        if not (folder / LOCK).exists():
            raise SettingsError(
                f"{folder}: was moved or removed while the study was at work. Put it back, and run the same command"
            )
        yield
