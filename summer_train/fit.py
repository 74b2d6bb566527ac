"""One training run from settings to results: cache, data, model, Lightning, baselines."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from summer_prep.errors import CacheError, SettingsError
from summer_prep.output import check_folder
from summer_train.baselines import class_counts, copy_last_bin, majority_class, mean_count, training_mean
from summer_train.cache import Selection, open_selection
from summer_train.config import FitConfig
from summer_train.data import FilmData
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
    if os.environ.get("LOCAL_RANK", "0") != "0":
        say = _say_nothing  # the first process of a run on several devices speaks for all
    check_folder(config.output_dir, "--output-dir")
    data = open_data(config, say)
    torch.manual_seed(config.seed)
    model = make_model(config, data)
    model.say = say
    model.provenance = {"config": config.as_plain(), "data": data.selection.provenance()}
    quieten_lightning()
    previous = find_run(config, model.provenance) if config.resume else None
    if previous is not None:
        say(f"continuing {previous}")
    with _writing_below(config.output_dir):
        checkpoints, trainer = _trainer(config, say, previous)
        _prepare_log_dir(trainer, config, data.selection)
        _train(trainer, model, data, previous)
    model.load_state_dict(torch.load(checkpoints.best_model_path, weights_only=True)["state_dict"])
    if len(data.split.test):
        trainer.test(model, datamodule=data, verbose=False)
    log_dir = Path(str(trainer.log_dir))  # asks every process, so before the others leave
    if not trainer.is_global_zero:
        return None
    return FitResult(
        config=config,
        n_units=data.n_units,
        n_samples={part: len(indices) for part, indices in vars(data.split).items()},
        scores=score(model, data),
        log_dir=log_dir,
        best_checkpoint=Path(checkpoints.best_model_path),
        last_checkpoint=Path(checkpoints.last_model_path),
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


def find_run(config: FitConfig, provenance: dict[str, Any]) -> Path:
    """Return the newest run's folder, checked to be a run with these settings on these data.

    Raises
    ------
    SettingsError : there is none, or it differs
    """
    runs = (config.output_dir / config.log_name).glob("version_*/checkpoints/last.ckpt")
    newest = max(runs, key=lambda path: int(path.parts[-3].removeprefix("version_")), default=None)
    if newest is None:
        raise SettingsError(
            f"{config.output_dir / config.log_name}: no run to continue. Leave --resume out, or name its --output-dir"
        )
    checkpoint = load_checkpoint(newest)
    differences = config.differences(checkpoint["summer"]["config"])
    differences += data_differences(checkpoint["summer"]["data"], provenance["data"])
    if differences:
        raise SettingsError(
            f"{newest}: cannot be continued, it was trained with other settings: {'; '.join(differences)}. "
            "Give the same ones, or leave --resume out"
        )
    return newest.parents[1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours, plain values and tensors only.

    Raises
    ------
    SettingsError : the file is missing, damaged, or no checkpoint of ours
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        _ = checkpoint["summer"]["config"], checkpoint["summer"]["data"], checkpoint["state_dict"]
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such checkpoint. fit prints where it leaves them") from error
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise SettingsError(f"{path}: not a checkpoint of summer-train fit, or damaged. Train again") from error
    return checkpoint


def data_differences(trained_on: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how data differ from those that a checkpoint was trained on, one line each."""
    differences = []
    if trained_on["bin_length_ms"] != now["bin_length_ms"]:
        differences.append(f"bins of {trained_on['bin_length_ms']} ms then, {now['bin_length_ms']} ms now")
    then_ids, now_ids = ([patient["patient_id"] for patient in data["patients"]] for data in (trained_on, now))
    if then_ids != now_ids:
        differences.append(f"patients {' '.join(then_ids)} then, {' '.join(now_ids)} now")
        return differences
    for then, current in zip(trained_on["patients"], now["patients"], strict=True):
        name = f"patient {then['patient_id']}"
        if then["units"] != current["units"]:
            differences.append(f"{name}: {len(then['units'])} units then, {len(current['units'])} now, or others")
        changed = [array for array, digest in then["digests"].items() if current["digests"].get(array) != digest]
        if changed:
            differences.append(f"{name}: other {', '.join(changed)}")
    return differences


@contextmanager
def _writing_below(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{output_dir}: logs and checkpoints cannot be written ({error.strerror or error}). "
            "Free space, or name another folder with --output-dir"
        ) from error


def _train(trainer: lightning.Trainer, model: Decoder, data: FilmData, previous: Path | None) -> None:
    last = None if previous is None else previous / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(model, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from stop  # Lightning exits with 1 after Ctrl-C; the last checkpoint is in place


def _say_nothing(_line: str) -> None:
    pass


def build_what_is_missing(config: FitConfig, say: Say) -> list[str]:
    """Build the keys that are missing or stale; return the patients.

    Raises
    ------
    SummerError : a key cannot be built
    """
    from summer_prep.build import BuildConfig, build, unusable_keys

    reasons = unusable_keys(
        config.data_dir, config.cache_dir, config.nwb_path, config.patient_ids, config.bin_length_ms
    )
    wanted = tuple(patient_id for patient_id, reason in reasons.items() if reason)
    if wanted:
        for patient_id in wanted:
            say(f"building patient {patient_id} at {config.bin_length_ms} ms: {reasons[patient_id]}")
        is_file = config.nwb_path is not None and not config.patient_ids
        results = build(
            BuildConfig(
                data_dir=config.data_dir,
                cache_dir=config.cache_dir,
                nwb_path=config.nwb_path,
                patient_ids=() if is_file else wanted,
                bin_lengths_ms=(config.bin_length_ms,),
            )
        )
        for result in results:
            if result.state == "failed":
                raise CacheError(result.message)
            if result.message and result.state == "built":
                say(f"patient {result.patient_id}: {result.message}")
    return list(reasons)


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


def _trainer(config: FitConfig, say: Say, previous: Path | None) -> tuple[ModelCheckpoint, lightning.Trainer]:
    checkpoints = ModelCheckpoint(
        dirpath=None if previous is None else previous / "checkpoints",
        monitor="val_loss",
        filename="best",
        save_last=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    n_devices = config.devices or max(1, torch.cuda.device_count())
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=n_devices,
        strategy=UnwrappedDDP() if n_devices > 1 else "auto",
        max_epochs=config.max_epochs,
        logger=_logger(config, previous),
        callbacks=[checkpoints, EpochLines(say)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    return checkpoints, trainer


def _logger(config: FitConfig, previous: Path | None) -> CSVLogger:
    if previous is None:
        return CSVLogger(config.output_dir, name=config.log_name)
    # Lightning removes the metrics of a run that is opened again; they are put back, and it appends to them.
    metrics = previous / "metrics.csv"
    earlier = metrics.read_text() if metrics.exists() else ""
    logger = CSVLogger(config.output_dir, name=config.log_name, version=previous.name)
    writer = logger.experiment
    if earlier:
        metrics.write_text(earlier)
        writer.metrics_keys = earlier.splitlines()[0].split(",")
    return logger


def _prepare_log_dir(trainer: lightning.Trainer, config: FitConfig, selection: Selection) -> None:
    logger = trainer.logger
    assert isinstance(logger, CSVLogger)
    patients = [patient.patient_id for patient in selection.patients]
    logger.log_hyperparams({**config.as_plain(), "patient_ids": patients})
    Path(logger.log_dir).mkdir(parents=True, exist_ok=True)


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
