"""One training run from settings to results: cache, data, model, Lightning, baselines."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from summer_prep.errors import CacheError, SettingsError
from summer_prep.output import check_folder
from summer_train.baselines import class_counts, copy_last_bin, majority_class, mean_count, training_mean
from summer_train.cache import open_selection
from summer_train.checkpoints import (
    WholeCheckpoints,
    best_checkpoint,
    checkpoint_callbacks,
    find_run,
    last_checkpoint,
    load_checkpoint,
    metrics_of_whole_epochs,
)
from summer_train.config import FitConfig, is_first_process
from summer_train.data import FilmData, available_bytes
from summer_train.models import LinearLabel, LinearNextBin
from summer_train.report import EpochLines
from summer_train.tasks import Decoder

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run gave.

    scores : row (model, or a baseline's name) -> part (train, val, test) -> metric -> mean over the part's samples
    """

    config: FitConfig
    n_units: int
    n_samples: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    log_dir: Path
    best_checkpoint: Path
    last_checkpoint: Path

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {
            "config": self.config.as_plain(),
            "n_units": self.n_units,
            "n_samples": dict(self.n_samples),
            "scores": {
                row: {part: dict(scores) for part, scores in parts.items()} for row, parts in self.scores.items()
            },
            "log_dir": str(self.log_dir),
            "best_checkpoint": str(self.best_checkpoint),
            "last_checkpoint": str(self.last_checkpoint),
        }


def fit(config: FitConfig, say: Say = lambda _line: None) -> FitResult | None:
    """Train one model and evaluate it, building missing or stale keys first.

    Parameters
    ----------
    say : takes lines of progress, for people

    Returns
    -------
    The result; None in the further processes of a run on several devices

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    if not is_first_process():
        say = _say_nothing
    check_folder(config.output_dir, "--output-dir")
    _check_devices(config)
    data = open_data(config, say)
    config = replace(config, patient_ids=tuple(patient.patient_id for patient in data.selection.patients))
    _check_memory(config, data)
    torch.manual_seed(config.seed)
    model = make_model(config, data)
    model.say = say
    model.provenance = {"config": config.as_plain(), "data": data.selection.provenance()}
    quieten_lightning()
    previous = find_run(config, model.provenance) if config.resume else None
    if previous is not None:
        say(f"continuing {previous}")
    with _writing_below(config.output_dir):
        trainer = _trainer(config, say, previous)
        _prepare_log_dir(trainer, config)
        log_dir = _train(trainer, model, data, previous)
    if not trainer.is_global_zero:
        return None
    return FitResult(
        config=config,
        n_units=data.n_units,
        n_samples={part: len(indices) for part, indices in vars(data.split).items()},
        scores=score(model, data),
        log_dir=log_dir,
        best_checkpoint=best_checkpoint(log_dir),
        last_checkpoint=last_checkpoint(log_dir),
    )


def _check_devices(config: FitConfig) -> None:
    n_gpus = torch.cuda.device_count()
    n_there = n_gpus or os.cpu_count() or 1
    if config.devices is not None and config.devices > n_there:
        kind = "GPUs" if n_gpus else "processors and no GPU"
        raise SettingsError(f"--devices {config.devices}: this machine has {n_there} {kind}. Choose at most as many")


def _check_memory(config: FitConfig, data: FilmData) -> None:
    n_outputs = data.n_classes or data.n_units
    n_weights = config.hidden_size * (data.n_units + n_outputs + 1) + n_outputs
    n_bytes = 16 * n_weights  # float32 weights and gradients, and Adam's two averages of them
    if n_bytes > available_bytes():
        raise SettingsError(
            f"--hidden-size {config.hidden_size}: training takes {n_bytes / 1e9:.1f} GB, "
            f"{available_bytes() / 1e9:.1f} GB are free. Choose a smaller one"
        )


def open_data(config: FitConfig, say: Say) -> FilmData:
    """Open the samples of a run, building keys that are missing or stale first.

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    patient_ids = build_what_is_missing(config, say)
    selection = open_selection(
        config.cache_dir, patient_ids, config.bin_length_ms, config.brain_regions, config.single_units
    )
    if config.verify:
        selection.verify()
    if not all(patient.is_mapped for patient in selection.patients):
        say("the cache is compressed: counts are decompressed into memory instead of mapped")
    return FilmData(selection, config, say)


@contextmanager
def _writing_below(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{output_dir}: logs and checkpoints cannot be written ({error.strerror or error}). "
            "Free space, or name another folder with --output-dir"
        ) from error


def _train(trainer: lightning.Trainer, model: Decoder, data: FilmData, previous: Path | None) -> Path:
    """Train, test the best epoch, and return the run's folder."""
    resumed = None if previous is None else last_checkpoint(previous)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resumed, weights_only=True)
        log_dir = Path(str(trainer.log_dir))  # that of the first process, in all of them
        model.load_state_dict(load_checkpoint(best_checkpoint(log_dir))["state_dict"])
        if len(data.split.test):
            trainer.test(model, datamodule=data, verbose=False)
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        last = last_checkpoint(_log_dir(trainer))
        if last.exists():
            model.say(f"interrupted: {last} holds the last whole epoch; the same command with --resume continues")
        raise KeyboardInterrupt from stop  # Lightning exits with 1 after Ctrl-C
    return log_dir


def _say_nothing(_line: str) -> None:
    pass


def build_what_is_missing(config: FitConfig, say: Say) -> list[str]:
    """Build the keys that are missing or stale; return the patients.

    Raises
    ------
    SummerError : a key cannot be built
    """
    from summer_prep.freshness import training_status

    states = training_status(
        config.data_dir, config.cache_dir, config.nwb_path, config.patient_ids, config.bin_length_ms
    )
    unchecked = [state for state in states if state.state == "unchecked"]
    for reason in dict.fromkeys(state.reason for state in unchecked):
        patients = ", ".join(state.patient_id for state in unchecked if state.reason == reason)
        say(f"patient {patients}: whether the cache is fresh is not known ({reason})")
    wanted = {state.patient_id: state for state in states if state.state in ("missing", "stale")}
    for patient_id, state in wanted.items():
        say(f"building patient {patient_id} at {config.bin_length_ms} ms: {state.reason or state.state}")
    if wanted:
        _build(config, tuple(wanted), say)
    return [state.patient_id for state in states]


def _build(config: FitConfig, patient_ids: tuple[str, ...], say: Say) -> None:
    from summer_prep.build import BuildConfig, build

    is_file = config.nwb_path is not None and not config.patient_ids
    results = build(
        BuildConfig(
            data_dir=config.data_dir,
            cache_dir=config.cache_dir,
            nwb_path=config.nwb_path,
            patient_ids=() if is_file else patient_ids,
            bin_lengths_ms=(config.bin_length_ms,),
        )
    )
    for result in results:
        if result.state == "failed":
            raise CacheError(result.message)
        if result.message and result.state == "built":
            say(f"patient {result.patient_id}: {result.message}")


def make_model(config: FitConfig, data: FilmData) -> Decoder:
    """Return the untrained model of a task."""
    if config.task == "label":
        return LinearLabel(data.n_units, data.n_classes, config.hidden_size, config.lr)
    return LinearNextBin(data.n_units, config.hidden_size, config.lr)


class UnwrappedDDP(DDPStrategy):
    """Lightning's DDP without torch's wrapper, which allows one backward pass a training step.

    Ours has one per mini-batch of a block, so the steps add up gradients themselves. Equal seeds make equal weights
    on every process.
    """

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


def _trainer(config: FitConfig, say: Say, previous: Path | None) -> lightning.Trainer:
    n_devices = config.devices or max(1, torch.cuda.device_count())
    return lightning.Trainer(
        accelerator="auto",
        devices=n_devices,
        strategy=UnwrappedDDP() if n_devices > 1 else "auto",
        max_epochs=config.max_epochs,
        logger=_logger(config, previous),
        callbacks=[*checkpoint_callbacks(), EpochLines(say)],
        plugins=[WholeCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


def _logger(config: FitConfig, previous: Path | None) -> CSVLogger:
    version = None if previous is None else previous.name
    logger = CSVLogger(config.output_dir, name=config.log_name, version=version)
    if previous is None or not is_first_process():
        return logger
    # Lightning removes the metrics of a run that is opened again; those of whole epochs are put back.
    lines = metrics_of_whole_epochs(previous)
    writer = logger.experiment
    if lines:
        (previous / "metrics.csv").write_text("".join(f"{line}\n" for line in lines))
        writer.metrics_keys = lines[0].split(",")
    return logger


def _prepare_log_dir(trainer: lightning.Trainer, config: FitConfig) -> None:
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        logger.log_hyperparams(config.as_plain())
    _log_dir(trainer).mkdir(parents=True, exist_ok=True)


def _log_dir(trainer: lightning.Trainer) -> Path:
    """Return the run's folder as this process names it."""
    return Path(str(trainer.loggers[0].log_dir))


def score(model: Decoder, data: FilmData) -> dict[str, dict[str, dict[str, float]]]:
    """Evaluate the model and the baselines on every part that has samples."""
    model.eval().to(data.device)
    parts = [part for part, indices in vars(data.split).items() if len(indices)]
    scores = {"model": {part: model.evaluate(data.blocks(part)) for part in parts}}
    if data.labels is None:
        mean = training_mean(data.blocks("train"))
        scores["copy last bin"] = {part: copy_last_bin(data.blocks(part)) for part in parts}
        scores["mean count"] = {part: mean_count(data.blocks(part), mean) for part in parts}
    else:
        training = class_counts(data.blocks("train"), data.n_classes)
        scores["majority class"] = {part: majority_class(data.blocks(part), training) for part in parts}
    return scores


def quieten_lightning() -> None:
    """Keep Lightning's advertising and its remarks on what we chose on purpose out of a user's sight."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
