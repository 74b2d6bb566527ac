"""A decoding study: every combination of lists of settings, trained in stacks on all cores, one row per model.

What is in the study's folder already is not trained again, so the same command continues a study that was killed, and
does nothing for one that is finished.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from summer_prep.console import progress_on_terminal
from summer_prep.errors import CacheError, SettingsError, load_extra, one_line
from summer_prep.files import LOCK, alone_in, replacing, writing
from summer_prep.options import with_absolute_paths
from summer_prep.parallel import Opened, dask_workers, local_pool, run_tasks
from summer_prep.resources import available_bytes, usable_processors
from summer_train.data.film import FilmSamples
from summer_train.data.samples import NothingToLearnError
from summer_train.data.selection import Selection, open_selection
from summer_train.models.stack import takes_masks, train_stack
from summer_train.runs.folder import origin
from summer_train.scores.left_out import score_beside
from summer_train.scores.scoring import Scored, cycle_sums, score_baselines, units_beside
from summer_train.scores.shifts import score_stack
from summer_train.settings import options as settings
from summer_train.settings.file import for_study
from summer_train.settings.options import Choice, Log, StudyRun, log_nothing
from summer_train.studies.choices import OpenedChoices, open_choices, study_choices
from summer_train.studies.loggers import log_records
from summer_train.studies.plan import Group, Model, plan_study
from summer_train.studies.records import Record, digest_of, predictions_path, read_stacks, write_stack, write_tables

Records = dict[tuple[str, int], Record]
"""(model id, shift) -> record."""

PROCESS_BYTES = 450e6
"""What a process takes before it holds any counts: torch and ourselves."""

SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal

PRELOADED = ("summer_train.studies.study",)
_OPTIONS = (*settings.options_of(Choice), *settings.STUDY_OPTIONS)


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyResult:
    """What a study gave.

    rows : of study.csv, one per model; numbers are NaN where undefined
    folder : that of the study
    n_trained : how many networks this call trained, those of nulls included
    """

    rows: list[dict[str, Any]]
    folder: Path
    n_trained: int
    seconds: float

    def __repr__(self) -> str:
        return f"<StudyResult: {len(self.rows)} models in {self.folder}; .rows is the table, one dict per model>"


@settings.accepts(Choice, StudyRun, only=_OPTIONS, defaults=settings.STUDY_DEFAULTS)
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
    settings.check_names(options, _OPTIONS)
    options = for_study(options, config)
    run = settings.settings_from(StudyRun, options)
    return run_study(open_choices(study_choices(options), run, log), run, log)


def run_study(opened: OpenedChoices, run: StudyRun, log: Log = log_nothing) -> StudyResult:
    """Train the missing models of a study that `open_choices` opened, and write its tables; errors as `study`."""
    started = time.perf_counter()
    for name in {*run.logger} - {"csv"}:
        load_extra(name, f"--logger {name}")
    groups, planned = plan_study(opened, run, log)
    with alone_in(run.output_dir, "another process is at work on this study"):
        with writing(run.output_dir):
            records = _fresh_records(planned, run, log)
        n_models = sum(len(group.models) for group in groups) + sum(bool(one.undefined) for one in planned.values())
        for group in groups:
            group.models[:] = [one for one in group.models if (one.record.id, one.record.shift) not in records]
        n_missing = sum(len(group.models) for group in groups)
        seconds = sum(group.seconds(models, run.max_epochs) for group in groups for models in group.stacks())
        estimate = f", at most about {seconds:.0f} s of one processor" if seconds > 10 else ""
        log(f"{n_models} models, {n_models - n_missing} already trained or impossible: {n_missing} to train{estimate}")
        failed = _train(groups, run, records, log) if n_missing else []
        with writing(run.output_dir):
            rows = write_tables(run.output_dir, records.values(), list(planned))
    log_records([record for (one_id, _), record in records.items() if one_id in planned], run.logger, run.output_dir)
    if failed:
        advice = "The rest is kept, and the same command trains what is missing"
        raise SettingsError(f"{len(failed)} stacks of models failed, the first with: {failed[0]}. {advice}")
    rows, seconds = [row for row in rows if row["id"] in planned], time.perf_counter() - started
    return StudyResult(rows=rows, folder=run.output_dir, n_trained=n_missing, seconds=seconds)


def _fresh_records(planned: Mapping[str, Record], run: StudyRun, log: Log) -> Records:
    """Return the records that are kept, those of models that cannot be trained included, and remove the others."""
    folder, fresh = run.output_dir, Records()
    stacks = read_stacks(folder, log)  # all of them, before anything is changed
    stored = list(chain.from_iterable(stacks.values()))
    for record in sorted(stored, key=attrgetter("date"), reverse=True):  # one model has one record: the newest
        path, is_scored = predictions_path(folder, record.id), bool(record.scores) and not record.shift
        is_whole = not (run.keep_predictions and is_scored) or path.exists()
        if record.id not in planned or (is_whole and planned[record.id].data_digest == record.data_digest):
            fresh.setdefault((record.id, record.shift), record)
    # Tables and reports compare labels, patients, folds and seeds; models of other settings are better kept apart.
    alike = ("label_name", "target", "patient_ids", "leave_out", "fold", "seed", "draw")
    cells = {cell for one in planned.values() for cell in one.columns.items()}
    others = [record.columns.items() - cells for record in stored if not record.shift and record.id not in planned]
    if unlike := [names for one in others if (names := {name for name, _ in one} - {*alike})]:
        held = f"{len(unlike)} models of another {', '.join(sorted(set[str]().union(*unlike)))}"
        log(f"study: {folder} already holds {held}; name another --output-dir to keep them apart")
    for path, records in stacks.items():
        kept = [record for record in records if fresh.get((record.id, record.shift)) is record]
        for record in records:
            if not record.shift and (record.id, 0) not in fresh:
                predictions_path(folder, record.id).unlink(missing_ok=True)
        if len(kept) < len(records):
            write_stack(folder, path.stem, kept)
    if n_stale := len({(one.id, one.shift) for one in stored} - fresh.keys()):
        log(f"{n_stale} models in {folder} are of other data, or lack their predictions; they are trained again")
    hopeless = [replace(one, **origin()) for one in planned.values() if one.undefined and (one.id, 0) not in fresh]
    if hopeless:
        write_stack(folder, digest_of([record.id for record in hopeless]), hopeless)
    return fresh | {(record.id, 0): record for record in hopeless}


def _train(groups: Sequence[Group], run: StudyRun, records: Records, log: Log) -> list[str]:
    """Train stacks side by side, as many as memory allows; add to the records as each ends, return why any failed."""
    stacks = [(group, models) for group in groups for models in group.stacks()]
    stacks.sort(key=lambda stack: -stack[0].seconds(stack[1], run.max_epochs))  # the longest first: all end together
    names = {digest_of([(one.record.id, one.record.shift) for one in models]): models for _, models in stacks}
    pool: Callable[[], Opened] = partial(dask_workers, str(run.scheduler), PRELOADED)
    if run.scheduler is None:
        wanted = min(run.workers or (1 if torch.cuda.is_available() else usable_processors()), len(stacks))
        needed, free = PROCESS_BYTES + max(group.n_bytes for group, _ in stacks), available_bytes()
        fitting = min(wanted, int(free / needed))
        if not fitting:
            raise SettingsError(
                f"a process that trains this study needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB "
                "are free. Choose fewer patients, a smaller --hidden-size or --window, or a smaller --device-memory"
            )
        fewer = f" (of {wanted}: more do not fit)" if fitting < wanted else ""
        memory = f"about {fitting * needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        log(f"{len(stacks)} stacks on {fitting} processes{fewer}: {memory}")
        pool = local_pool(fitting if fitting > 1 else 0, PRELOADED)
    failed: list[str] = []

    def keep_result(name: str, found: Sequence[Record] | str) -> None:
        if isinstance(found, str):
            failed.append(found)
            cells = names[name][0].record.columns
            predicted = cells["label_name"] or cells.get("target") or cells["task"]
            first = f"patient {cells['patient_ids']}, fold {cells['fold']}, {predicted}"
            log(f"{found} ({len(names[name])} models, the first of {first}); the others go on")
            return
        with writing(run.output_dir):
            if not (run.output_dir / LOCK).exists():
                raise SettingsError(f"{run.output_dir}: was moved or removed meanwhile. Put it back and repeat this")
            trained = [replace(record, **origin()) for record in found]
            write_stack(run.output_dir, name, trained)
        records.update({(record.id, record.shift): record for record in trained})
        finish(len(trained))

    sent = with_absolute_paths(run) if run.scheduler else run
    tasks = {name: (models, sent) for name, models in names.items()}
    n_threads = torch.get_num_threads()
    try:
        with _progress(sum(map(len, names.values())), log) as finish:
            lost = run_tasks(pool, train_or_error, tasks, keep_result)
    finally:  # this process may be that of a caller
        _placed.clear()
        torch.set_num_threads(n_threads)
    crash = "{} models were lost with their process: it was killed, or memory ran out, for which fewer --workers help"
    return failed + [crash.format(len(names[name])) for name in lost]


@contextmanager
def _progress(n_models: int, log: Log) -> Iterator[Callable[[int], None]]:
    """Yield what counts the models of a stack that ended; the time left follows from how long those took."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    started = logged = time.monotonic()
    columns = (MofNCompleteColumn(), TextColumn("models"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with progress_on_terminal(*columns, TimeRemainingColumn()) as bar:
        line = bar.add_task("", total=n_models)

        def finish(n_ended: int) -> None:
            nonlocal logged
            bar.update(line, advance=n_ended)
            now, n_finished = time.monotonic(), bar.tasks[line].completed
            if bar.disable and now - logged > SECONDS_BETWEEN_LINES and n_finished < n_models:
                logged, left_s = now, (now - started) * (n_models / n_finished - 1)
                log(f"{n_finished:.0f}/{n_models} models, about {left_s:.0f} s left")

        yield finish


def train_or_error(models: Sequence[Model], run: StudyRun) -> list[Record] | str:
    """Train a stack of models; return what went wrong in it as one line, since the other stacks can go on."""
    try:
        return train_models(models, run)
    except Exception as error:
        if isinstance(error, SettingsError):  # nothing can be written: the other stacks would fail, too
            raise
        return one_line(error, "training a stack")


_placed: dict[tuple[str, float | None], tuple[Selection, FilmSamples]] = {}
"""The units of a study and the data that this process placed last, by digest: the next stack mostly needs the same."""


def train_models(models: Sequence[Model], run: StudyRun) -> list[Record]:
    """Train a stack of models and return their records; the work of one process.

    Raises CacheError if the cache does not hold the data of the plan's digest any more.
    """
    started, choice, data_digest = time.perf_counter(), models[0].choice, models[0].record.data_digest
    key = choice.patient_ids, choice.bin_length_ms, choice.brain_regions or None, choice.single_units
    selection = open_selection(run.cache_dir, *key, run.local_cache)
    if digest_of(selection.provenance(*choice.decoded)) != data_digest:
        keys = f"the keys of patients {' '.join(choice.patient_ids)} at {choice.bin_length_ms} ms"
        why = "they were rebuilt meanwhile, or a worker sees another cache. Repeat the command"
        raise CacheError(f"{run.cache_dir}: {keys} are not those that the study was planned with: {why}")
    selection, placed = _placed.get((data_digest, run.device_memory_gb), (selection, None))
    of_choice = {one: FilmSamples(selection, one, run.device_memory_gb) for one in {model.choice for model in models}}
    records: list[Record] = []
    stack, trainable = list[FilmSamples](), list[Record]()
    for one, record in models:
        try:
            data = of_choice[one].shifted(record.shift) if record.shift else of_choice[one]
            stack.append(data if takes_masks(one) else data.narrowed())
            trainable.append(record)
        except NothingToLearnError as reason:
            records.append(replace(record, undefined={"train": str(reason)}))
    if not stack:
        return records
    if placed and (placed.selection, placed.has_counts) == (stack[0].selection, stack[0].has_counts):
        stack[0].share_counts_of(placed)
    else:
        stack[0].place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        _placed.clear()
        _placed[data_digest, run.device_memory_gb] = selection, stack[0]
    torch.set_num_threads(1)  # two on a stack of small products are slower than one, and wait where cores are busy
    trained, outputs = train_stack(stack, run.max_epochs, run.patience)
    scored = score_stack(stack, trained, outputs)
    fine = [number for number, one in enumerate(scored) if one]
    shown = [number for number in fine if not trainable[number].shift]  # what they are compared with needs no null
    places = [fine.index(number) for number in shown]
    compared = dict[int, dict[str, Scored]]()
    if shown:
        own = [one for one, record in zip(scored, trainable, strict=True) if one and not record.shift]
        datas = [stack[number] for number in shown]
        compared = dict(zip(shown, score_beside(datas, own, lambda block: outputs(block)[places], run), strict=True))
    seconds = (time.perf_counter() - started) / len(stack)
    for number, (record, data, how, found) in enumerate(zip(trainable, stack, trained, scored, strict=True)):
        diverged = dict.fromkeys(data.n_samples, f"training diverged in epoch {len(how.curve)}")
        outcome = {"undefined": diverged} if found is None else {**vars(found)}
        outcome.pop("predictions", None)
        if found and run.keep_predictions and not record.shift:
            with writing(run.output_dir), replacing(predictions_path(run.output_dir, record.id)) as file:
                np.savez(file, **found.predictions)  # type: ignore[arg-type]  # numpy's stub takes them for flags
        baselines = {} if record.shift else {**score_baselines(data), **compared.get(number, {})}
        if found and not record.shift:
            rows = {"model": found, **baselines}
            outcome |= {"units": units_beside(data, rows), "cycles": cycle_sums(data, rows)}
        trained_record = replace(
            record,
            **outcome,
            n_units=data.n_units,
            n_samples=data.n_samples,
            baselines={name: one.scores for name, one in baselines.items()},
            curve=how.curve,
            best_epoch=how.best_epoch,
            seconds=seconds,
            penalty=how.penalty,
        )
        records.append(trained_record)
    return records
