"""One training run from settings to results: cache, data, decoder, Lightning, baselines."""

import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.saving import save_hparams_to_yaml

from summer_prep import __version__
from summer_prep.errors import SettingsError
from summer_prep.files import alone_in, check_folder, writing
from summer_prep.options import as_number
from summer_prep.resources import available_bytes
from summer_train.data.film import FilmSamples
from summer_train.data.module import FilmBlocks, FilmData
from summer_train.data.selection import Selection, open_chosen
from summer_train.models.decoder import Decoder, new_decoder
from summer_train.models.linear import BYTES_PER_WEIGHT
from summer_train.models.networks import flops_per_step, n_weights
from summer_train.runs.checkpoints import find_run, load_checkpoint, n_epochs_of
from summer_train.runs.folder import (
    METRICS,
    PARTS,
    RESULTS,
    DamagedError,
    FitResult,
    MetricsFile,
    best_checkpoint,
    last_checkpoint,
    new_folder,
    read_results,
    write_results,
)
from summer_train.runs.processes import (
    MIN_SHARED_BATCH,
    check_devices,
    hold_terminations,
    n_devices_of,
    prepare_processes,
    process_restored,
    quieten_lightning,
    use_threads,
)
from summer_train.runs.trainer import check_loggers, metric_columns, new_trainer
from summer_train.scores.scoring import samples_per_class, score_baselines, score_networks, thresholds_of
from summer_train.scores.shifts import shifted_null, shifts_of
from summer_train.settings.file import SETTINGS, with_config
from summer_train.settings.options import (
    Choice,
    Log,
    Run,
    accepts,
    check_given,
    check_names,
    check_one_process,
    is_first_process,
    log_nothing,
    options_of,
    settings_from,
)


@accepts(Choice, Run)
def fit(*, config: str | Path | None = None, log: Log = log_nothing, **options: Any) -> FitResult:
    """Train and evaluate one model, as `summer-train fit` does; missing or stale keys are built first.

    In a script, call it below `if __name__ == "__main__":`, since building starts processes.

    Parameters
    ----------
    config : `hparams.yaml` of a run, or its folder, for what is not given
    log : takes lines of progress, for people

    Returns
    -------
    The result, which its run's folder keeps, too

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    check_names(options, options_of(Choice, Run))
    options = with_config({**options, "config": config})
    check_given(options)
    run = settings_from(Run, options)
    if run.devices is not None and run.devices > 1:
        raise SettingsError(
            f"devices {run.devices}: further processes start the command again. Use summer-train fit --devices, or "
            "film_data and decoder with a lightning.Trainer of your own"
        )
    with process_restored():
        result = run_fit(settings_from(Choice, options), replace(run, devices=1), log)
    assert result is not None  # one process is the first
    return result


_MUCH_BYTES = 1e9
"""People are told what a run takes from here on."""

_OF_DATA = (
    *options_of(Choice),
    "preset",
    "data_dir",
    "nwb_path",
    "cache_dir",
    "local_cache",
    "device_memory",
    "verify",
)


@accepts(Choice, Run, only=_OF_DATA)
def film_data(*, config: str | Path | None = None, log: Log = log_nothing, **options: Any) -> FilmData:
    """Return the samples of a run as a Lightning data module of plain batches (x, y), building missing keys first.

    Parameters
    ----------
    config : `hparams.yaml` of a run, or its folder, for what is not given
    log : takes lines of progress, for people

    Raises
    ------
    SummerError : data or settings do not allow it
    """
    check_names(options, _OF_DATA)
    options = with_config({**options, "config": config})
    check_given(options)
    return FilmData.opened(settings_from(Choice, options), settings_from(Run, options), log)


def decoder(data: FilmData, hidden_size: int | None = None, lr: float | None = None) -> Decoder:
    """Return an untrained decoder of some data, for `lightning.Trainer().fit(decoder, data)`.

    Parameters
    ----------
    hidden_size, lr : width of the hidden layer, learning rate of Adam; by default those of the data's options
    """
    if not isinstance(data, FilmData):
        raise SettingsError(f"data {data!r:.60}: must come from summer_train.film_data")
    choice = data.choice
    if hidden_size is not None:
        choice = replace(choice, hidden_size=as_number(hidden_size, int, "--hidden-size"))
    lr = choice.lr if lr is None else as_number(lr, float, "--lr")
    if choice.model != "linear":
        choice = replace(choice, lr=lr)
    _check_memory(data, choice)
    made = new_decoder(data, choice)
    made.lr = lr  # a choice of the linear model has none, since `fit` solves it
    return made


def run_fit(
    choice: Choice, run: Run, log: Log = log_nothing, opened: tuple[Selection, Choice] | None = None
) -> FitResult | None:
    """Train one model and evaluate it, building missing or stale keys first.

    Parameters
    ----------
    opened : what `open_chosen` has returned, if it was called before

    Returns
    -------
    The result; None in the further processes of a run on several devices

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    if is_first_process():
        check_one_process()
    else:
        log = log_nothing
    if choice.patient_ids:
        run = replace(run, nwb_path=None)  # what is kept of a run is what it used
    started = time.perf_counter()
    check_devices(run.devices)
    prepare_processes(n_devices_of(run))
    check_loggers(run.logger)
    check_folder(run.output_dir, "--output-dir")
    if "::" in str(run.output_dir.absolute()):
        raise SettingsError(
            f"--output-dir {run.output_dir}: Lightning takes :: for a URL in another. Name another folder"
        )
    data = FilmSamples(*(opened or open_chosen(choice, run, log)), run.device_memory_gb, log)
    _check_memory(data, data.choice, data.n_prediction_bytes)
    shifts_of(data, run.shifts)
    n_devices = n_devices_of(run)
    if run.devices is None and n_devices > 1 and choice.batch_size < MIN_SHARED_BATCH:
        log(
            f"training on all {n_devices} GPUs; --devices 1 is faster: below batches of about {MIN_SHARED_BATCH} "
            "samples processes wait for each other longer than they compute (at 512, 1.12 s an epoch for 0.39 s)"
        )
    use_threads(run.threads, flops_per_step(data))
    quieten_lightning()
    model = new_decoder(data)
    model.expect_blocks()
    with writing(run.output_dir):
        previous = None
        if run.resume:
            previous = find_run(run.output_dir / data.task.log_name, data.choice, data.provenance["data"], log)
            if (finished := _finished(previous, run, log)) is not None:
                return finished
            log(f"continuing {previous}")
        with ExitStack() as stack:
            if previous and is_first_process():  # a new run's folder nobody knows
                stack.enter_context(alone_in(previous, "another process is continuing this run"))
            log_dir, n_epochs, best_epoch = _train(model, data, run, log, previous)
            if not is_first_process():
                return None
            return _evaluated(model, data, run, log, log_dir, n_epochs, best_epoch, time.perf_counter() - started)


def _check_memory(data: FilmSamples, choice: Choice, prediction_bytes: int = 0) -> None:
    """Refuse what does not fit, and say what takes much."""
    # Of Adam: float32 weights and gradients, and two averages of them.
    weights_bytes = (BYTES_PER_WEIGHT if choice.model == "linear" else 16) * n_weights(data, choice)
    n_bytes, free_bytes = weights_bytes + prediction_bytes, available_bytes()
    needs = f"training takes {n_bytes / 1e9:.1f} GB"
    if prediction_bytes > n_bytes / 20:
        needs += f", {prediction_bytes / 1e9:.1f} of them predictions of {data.n_units} units"
    if n_bytes > free_bytes:
        raise SettingsError(
            f"{needs}; {free_bytes / 1e9:.1f} GB are free. Choose fewer units, longer bins, a shorter --window, or a "
            f"smaller --hidden-size than {choice.hidden_size}"
        )
    if n_bytes > _MUCH_BYTES:
        data.log(f"{needs}, beside the counts; {free_bytes / 1e9:.1f} GB are free")


def _finished(log_dir: Path, run: Run, log: Log) -> FitResult | None:
    """Return the results of a run that has nothing left to do."""
    try:
        result = read_results(log_dir)
    except DamagedError:  # written again from the checkpoints
        return None
    if result is None:
        return None
    stopped_early = result.n_epochs < result.config["max_epochs"]  # by patience, or since it is solved
    if result.n_epochs < run.max_epochs and not (stopped_early and result.config["patience"] == run.patience):
        return None
    more = "For more: a larger --max-epochs"
    if stopped_early:
        more = "For more: a larger --patience" if result.config["patience"] else "More would not change them"
    log(f"{log_dir}: is finished, {result.n_epochs} epochs; these are its results. {more}")
    return result


def _train(model: Decoder, data: FilmSamples, run: Run, log: Log, previous: Path | None) -> tuple[Path, int, int]:
    """Train; in the first process, load the best epoch's weights.

    Returns
    -------
    The run's folder, its number of epochs and the best one; of further processes the first one's folder and zeros
    """
    settings = {**data.choice.as_plain(), **run.as_plain()}
    resumed = last_checkpoint(previous) if previous else None
    log_dir, n_before = previous or Path(), 0  # the first process writes, and tells the others its folder
    if is_first_process():
        n_before = n_epochs_of(load_checkpoint(resumed)) if resumed else 0
        log_dir = previous or new_folder(run.output_dir / data.task.log_name)
        (log_dir / RESULTS).unlink(missing_ok=True)  # the previous results are not those of what will be trained
        save_hparams_to_yaml(log_dir / SETTINGS, settings)
    trainer = new_trainer(run, model, log_dir, log, n_before)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
    hold_terminations(trainer.world_size)
    try:
        trainer.fit(model, datamodule=FilmBlocks(data), ckpt_path=resumed, weights_only=True)
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        last = last_checkpoint(log_dir)
        if last.exists():
            log(f"interrupted: {last} holds the last whole epoch; the same command with --resume continues")
        raise KeyboardInterrupt from stop  # Lightning exits with 1 after Ctrl-C
    if not is_first_process():
        return log_dir, 0, 0
    best = load_checkpoint(best_checkpoint(log_dir))
    model.load_state_dict(best["state_dict"])
    return log_dir, trainer.current_epoch, n_epochs_of(best)


def _evaluated(
    model: Decoder, data: FilmSamples, run: Run, log: Log, log_dir: Path, n_epochs: int, best_epoch: int, seconds: float
) -> FitResult:
    """Score the trained model and leave its results in the run's folder."""
    model.eval().to(data.device)
    (own,), baselines = score_networks([data], lambda block: model(block.counts)[None]), score_baselines(data)
    test = own.scores.get("test", {})
    metrics = MetricsFile(log_dir / METRICS, metric_columns(data.task), n_epochs)
    of_epoch = {"test_loss": test.get("loss"), "test_accuracy": test.get("accuracy")}
    metrics.add_test_scores(best_epoch - 1, {name: value for name, value in of_epoch.items() if value is not None})
    rows = {"model": own, **baselines}
    result = FitResult(
        config={**data.choice.as_plain(), **run.as_plain()},
        data=data.selection.provenance(),
        n_units=data.n_units,
        n_samples=data.n_samples,
        n_per_class={part: samples_per_class(data, part) for part in PARTS},
        scores={row: scored.scores for row, scored in rows.items()},
        thresholds=thresholds_of(rows),
        undefined=own.undefined,
        units=own.units,
        null=shifted_null(data, own, run, log) if run.shifts else {},
        best_epoch=best_epoch,
        n_epochs=n_epochs,
        seconds=seconds,
        software={"summer": __version__, "torch": torch.__version__, "lightning": version("lightning")},
        log_dir=log_dir,
    )
    write_results(result, own.predictions)
    return result
