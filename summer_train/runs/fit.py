"""One training run from settings to results: cache, data, decoder, Lightning, baselines."""

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.saving import save_hparams_to_yaml
from torch import nn

from summer_prep.errors import SettingsError, load_extra
from summer_prep.files import alone_in, check_folder, writing
from summer_prep.options import as_number
from summer_prep.resources import available_bytes
from summer_train.data.batches import is_distributed
from summer_train.data.film import FilmSamples
from summer_train.data.module import FilmBlocks, FilmData
from summer_train.data.selection import Selection, open_chosen
from summer_train.models.decoder import Decoder, new_decoder
from summer_train.models.linear import BYTES_PER_WEIGHT
from summer_train.models.networks import flops_per_step, n_weights
from summer_train.runs import checkpoints, folder, processes
from summer_train.runs.folder import FitResult
from summer_train.runs.results import write_result
from summer_train.runs.trainer import new_trainer
from summer_train.scores.left_out import score_beside
from summer_train.scores.scoring import score_networks
from summer_train.scores.shifts import shifted_null, shifts_of
from summer_train.settings import options as settings
from summer_train.settings.file import SETTINGS, with_config
from summer_train.settings.options import Choice, Log, Run, log_nothing

MIN_SHARED_BATCH = 8192
"""Samples of a step; with fewer, one process is faster: 0.39 s an epoch, two 1.12 s, at 512 (docs/clusters.md)."""


@settings.accepts(Choice, Run)
def fit(
    *, network: nn.Module | None = None, config: str | Path | None = None, log: Log = log_nothing, **options: Any
) -> FitResult:
    """Train and evaluate one model, as `summer-train fit` does; missing or stale keys are built first.

    In a script, call it below `if __name__ == "__main__":`, since building starts processes.

    Parameters
    ----------
    network : of your own, in place of a `model`: any module from x to outputs as of `film_data` and its `task`. It is
        trained in place, and has the weights of the best epoch afterwards
    config : `hparams.yaml` of a run, or its folder, for what is not given
    log : takes lines of progress, for people

    Returns
    -------
    The result, which its run's folder keeps, too

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    settings.check_names(options, settings.options_of(Choice, Run))
    if network is not None:
        options = _options_of_network(network, options)
    options = with_config({**options, "config": config})
    settings.check_given(options)
    run = settings.settings_from(Run, options)
    if run.devices is not None and run.devices > 1:
        advice = "Use summer-train fit --devices, or film_data and decoder with a lightning.Trainer of your own"
        raise SettingsError(f"devices {run.devices}: further processes start the command again. {advice}")
    with processes.process_restored():
        result = run_fit(settings.settings_from(Choice, options), replace(run, devices=1), log, network=network)
    assert result is not None  # one process is the first
    return result


def _options_of_network(network: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a user's own network; raises SettingsError for those that it does not take."""
    if not isinstance(network, nn.Module) or not any(one.requires_grad for one in network.parameters()):
        raise SettingsError(f"network {network!r:.60}: must be a torch.nn.Module with weights to train")
    for name in ("model", "resume", "shifts"):
        if options.get(name):
            raise SettingsError(f"--{name}: works with built-in models only. Leave it or network= out")
    layers = hashlib.sha256(str(network).encode()).hexdigest()[:6]  # two networks of a class may have others
    return {**options, "model": f"{settings.OWN}{type(network).__name__}-{layers}", "shifts": 0}


_PLACES = "preset", "data_dir", "nwb_path", "cache_dir", "local_cache", "device_memory", "verify"
_OF_DATA = (*settings.options_of(Choice), *_PLACES)


@settings.accepts(Choice, Run, only=_OF_DATA)
def film_data(
    *, with_bins: bool = False, config: str | Path | None = None, log: Log = log_nothing, **options: Any
) -> FilmData:
    """Return the samples of a run as a Lightning data module of plain batches (x, y), building missing keys first.

    Parameters
    ----------
    with_bins : whether batches are (x, y, bins): with the bin of each sample, by which to look up what you have of bins
    config : `hparams.yaml` of a run, or its folder, for what is not given
    log : takes lines of progress, for people

    Raises
    ------
    SummerError : data or settings do not allow it
    """
    settings.check_names(options, _OF_DATA)
    options = with_config({**options, "config": config})
    settings.check_given(options)
    data = FilmData.opened(settings.settings_from(Choice, options), settings.settings_from(Run, options), log)
    data.with_bins = as_number(with_bins, bool, "with_bins")
    return data


def decoder(data: FilmData, hidden_size: int | None = None, lr: float | None = None) -> Decoder:
    """Return an untrained decoder of some data, for `lightning.Trainer().fit(decoder, data)`.

    Parameters
    ----------
    hidden_size, lr : width of the hidden layer, learning rate of Adam; by default those of the data's options
    """
    if not isinstance(data, FilmData):
        raise SettingsError(f"data {data!r:.60}: must come from summer_train.film_data")
    choice = data.choice
    if choice.model == "ridge":
        raise SettingsError("--model ridge: is solved by fit and study. Take linear in a trainer of your own")
    if hidden_size is not None:
        choice = replace(choice, hidden_size=as_number(hidden_size, int, "--hidden-size"))
    lr = choice.lr if lr is None else as_number(lr, float, "--lr")
    if choice.model != "linear":
        choice = replace(choice, lr=lr)
    _check_memory(data, choice)
    untrained = new_decoder(data, choice)
    untrained.lr = lr  # a choice of the linear model has none, since `fit` solves it
    return untrained


def run_fit(
    choice: Choice,
    run: Run,
    log: Log = log_nothing,
    opened: tuple[Selection, Choice] | None = None,
    network: nn.Module | None = None,
) -> FitResult | None:
    """Train one model and evaluate it, building missing or stale keys first; raises SummerError.

    `opened` is what `open_chosen` returned, if it was called before, `network` one of a user's own. Further
    processes of a run return None.
    """
    if choice.patient_ids:
        run = replace(run, nwb_path=None)  # what is kept of a run is what it used
    started, n_devices = time.perf_counter(), processes.n_devices_of(run)
    is_first = processes.prepare_processes(n_devices)
    log = log if is_first else log_nothing
    for name in set(run.logger) - {"csv"}:
        load_extra(name, f"--logger {name}")
    check_folder(run.output_dir, "--output-dir")
    if "::" in str(run.output_dir.absolute()):
        raise SettingsError(f"--output-dir {run.output_dir}: Lightning takes :: for a URL in another. Name another")
    every_unit = FilmSamples(*(opened or open_chosen(choice, run, log)), run.device_memory_gb, log)
    data = every_unit.narrowed()
    model = None if network is None else _own_decoder(network, data)
    _check_memory(data, data.choice, data.n_prediction_bytes, network)
    shifts_of(data, run.shifts)
    if run.devices is None and n_devices > 1 and choice.batch_size < MIN_SHARED_BATCH:
        reason = f"below batches of about {MIN_SHARED_BATCH} samples processes mostly wait for each other"
        log(f"training on all {n_devices} GPUs; --devices 1 is faster: {reason}")
    processes.use_threads(run.threads, flops_per_step(data, network))
    processes.quieten_lightning()
    model = new_decoder(data) if model is None else model
    model.expect_blocks()
    with writing(run.output_dir), ExitStack() as stack:
        parent, log_dir, n_before = run.output_dir / data.task.log_name, Path(), 0
        if run.resume:
            log_dir = checkpoints.find_run(parent, data.choice, data.provenance["data"], log)
            if (finished := _finished(log_dir, run, log)) is not None:
                return finished
            log(f"continuing {log_dir}")
            if is_first:  # no other process uses the folder of a new run yet
                stack.enter_context(alone_in(log_dir, "another process is continuing this run"))
                n_before = checkpoints.n_epochs_of(checkpoints.load_checkpoint(log_dir / folder.LAST))
        elif is_first:
            log_dir = folder.new_folder(parent)
        if not is_first:  # it trains along; the first process alone reads and writes in the folder
            _train(model, data, run, log_dir, 0, log)
            return None
        (log_dir / folder.RESULTS).unlink(missing_ok=True)  # they are not of what will be trained
        save_hparams_to_yaml(log_dir / SETTINGS, {**data.choice.as_plain(), **run.as_plain()})
        n_epochs = _train(model, data, run, log_dir, n_before, log)
        # The best epoch is scored; `results.json` comes last into the folder.
        seconds, best = time.perf_counter() - started, checkpoints.load_checkpoint(log_dir / folder.BEST)
        best_epoch = checkpoints.n_epochs_of(best)
        model.load_state_dict(best["state_dict"])
        model.eval().to(data.device)
        (own,) = score_networks([data], lambda block: model(block.counts)[None])
        (beside,) = score_beside([data], [own], lambda block: model(block.counts)[None], run, log)
        every_unit.place(data.device)
        test = own.scores.get("test", {})
        metrics = folder.MetricsFile(log_dir / folder.METRICS, data.task.score_names, n_epochs)
        metrics.add_test_scores(best_epoch - 1, {name: test[name] for name in ("loss", "accuracy") if name in test})
        return write_result(
            data,
            own,
            log_dir,
            beside,
            config={**data.choice.as_plain(), **run.as_plain()},
            null=shifted_null(every_unit, own, run, log) if run.shifts else {},
            penalty=getattr(model.solver, "penalty", None),
            best_epoch=best_epoch,
            n_epochs=n_epochs,
            seconds=seconds,
        )


def _own_decoder(network: nn.Module, data: FilmSamples) -> Decoder:
    """Return the decoder of a user's own network; raises SettingsError if its outputs are not those of the task."""
    torch.default_generator.manual_seed(data.choice.seed)  # of layers without weights yet, and of dropout
    x = torch.zeros(2, *([data.window.n_bins] if data.window.n_bins > 1 else []), data.n_inputs)
    try:
        with torch.no_grad():
            shape = tuple(getattr(network.to("cpu").eval()(x), "shape", ()))
    except Exception as error:  # whatever a user's code raises
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise SettingsError(f"network {type(network).__name__}: fails on inputs of {tuple(x.shape)} ({why})") from error
    if shape != (2, data.task.n_outputs):
        wanted = f"{shape} from inputs of {tuple(x.shape)}; {(2, data.task.n_outputs)} is needed"
        raise SettingsError(f"network {type(network).__name__}: gives outputs of the shape {wanted}")
    network.train()
    decoder = Decoder(network, data.task, data.choice.lr, is_own=True)
    decoder.weight_decay = data.choice.weight_decay
    return decoder


def _check_memory(
    data: FilmSamples, choice: Choice, prediction_bytes: int = 0, network: nn.Module | None = None
) -> None:
    """Refuse what does not fit into memory, and log what takes much of it."""
    # Of Adam: float32 weights and gradients, and two averages of them.
    weights_bytes = (BYTES_PER_WEIGHT if choice.model in settings.SOLVED else 16) * n_weights(data, choice, network)
    if choice.model == "ridge":  # products of all inputs, their decomposition, and copies
        weights_bytes += 32 * (data.window.n_bins * data.n_inputs) ** 2
    n_bytes, free_bytes = weights_bytes + prediction_bytes, available_bytes()
    needs = f"training takes {n_bytes / 1e9:.1f} GB, {prediction_bytes / 1e9:.1f} of them predictions"
    needs += f", beside the counts; {free_bytes / 1e9:.1f} GB are free"
    if n_bytes > free_bytes:
        advice = "Choose fewer units, longer bins, a shorter --window, or a smaller --hidden-size than"
        raise SettingsError(f"{needs}. {advice} {choice.hidden_size}")
    if n_bytes > 1e9:
        data.log(needs)


def _finished(log_dir: Path, run: Run, log: Log) -> FitResult | None:
    """Return the results of a run that has nothing left to do."""
    result = None
    with suppress(folder.DamagedError):  # they are written again from the checkpoints
        result = folder.read_results(log_dir)
    if result is None:
        return None
    patience, has_stopped = result.config["patience"], result.n_epochs < result.config["max_epochs"]
    if result.n_epochs < run.max_epochs and not (has_stopped and patience == run.patience):
        return None
    more = "More would not change them"  # it was solved
    if patience or not has_stopped:
        more = f"For more: a larger {'--patience' if has_stopped else '--max-epochs'}"
    log(f"{log_dir}: is finished, {result.n_epochs} epochs; these are its results. {more}")
    return result


def _train(model: Decoder, data: FilmSamples, run: Run, log_dir: Path, n_before: int, log: Log) -> int:
    """Train in a run's folder, and return for how many epochs, `n_before` of them by the run that is continued."""
    trainer = new_trainer(run, model, log_dir, log, n_before)
    for logger in trainer.loggers:
        logger.log_hyperparams({**data.choice.as_plain(), **run.as_plain()})
    processes.hold_terminations(trainer.world_size)
    last = log_dir / folder.LAST
    try:
        trainer.fit(model, datamodule=FilmBlocks(data), ckpt_path=last if run.resume else None, weights_only=True)
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        if last.exists():
            log(f"interrupted: {last} holds the last whole epoch; the same command with --resume continues")
        raise KeyboardInterrupt from stop  # Lightning exits with 1 after Ctrl-C
    if is_distributed():  # what follows is of the first process alone
        torch.distributed.destroy_process_group()
    return trainer.current_epoch
