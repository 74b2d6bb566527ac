"""What our own `fit` asks of Lightning: devices, blocks of steps, logs, checkpoints, lines for people."""

import ctypes
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from summer_prep.console import progress_on_terminal
from summer_prep.errors import SettingsError
from summer_prep.optional import load_extra
from summer_prep.resources import usable_processors
from summer_train.data.targets import Task
from summer_train.models.decoder import Decoder
from summer_train.models.steps import choose_steps
from summer_train.runs.checkpoints import WholeCheckpoints, checkpoint_callbacks
from summer_train.runs.folder import METRICS, PARTS, MetricsFile
from summer_train.settings.options import FIRST_PROCESS, Run, Say, is_first_process

SLOW_EPOCH_S = 1.0
"""An epoch that takes longer shows its progress on a terminal."""

FLOPS_PER_THREAD = 1.5e7
"""Of a step's matrix products; with fewer, a further thread costs more than it gains (docs/performance.md)."""

MIN_SHARED_BATCH = 8192
"""Samples of a step; with fewer, one process is faster: 0.39 s an epoch, two 1.12 s, at 512 (docs/clusters.md)."""

_SIGNAL_AT_PARENTS_DEATH = 1
_COLLECTIVE_TIMEOUT = timedelta(minutes=5)


def new_trainer(run: Run, decoder: Decoder, log_dir: Path, say: Say, n_epochs_before: int = 0) -> lightning.Trainer:
    """Return a trainer that leaves checkpoints and metrics in a run's folder.

    Parameters
    ----------
    n_epochs_before : of a run that is continued
    """
    n_devices = n_devices_of(run)
    early = [] if run.patience is None else [EarlyStopping("val_loss", patience=run.patience)]
    trainer = lightning.Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # scores need float64, which MPS has not
        devices=n_devices,
        strategy=UnwrappedDDP(timeout=_COLLECTIVE_TIMEOUT) if n_devices > 1 else "auto",
        max_epochs=run.max_epochs,
        logger=_loggers(run.logger, log_dir) or False,
        callbacks=[
            BlockSteps(say),
            EpochRows(log_dir, decoder, n_epochs_before),
            EpochLines(say),
            *early,
            *checkpoint_callbacks(log_dir),
        ],
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    LightningEnvironment().set_global_rank(trainer.global_rank)  # loggers know only a LOCAL_RANK that was left behind
    return trainer


def n_devices_of(run: Run) -> int:
    """Return how many devices a run uses."""
    return run.devices or max(1, torch.cuda.device_count())


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger whose package is not installed, before the work.

    Raises
    ------
    SettingsError : it is not
    """
    for name in names:
        if name != "csv":
            load_extra(name, f"--logger {name}")


def _loggers(names: Sequence[str], log_dir: Path) -> list[Logger]:
    """Return Lightning's loggers beside our metrics.csv, which all reports are made of."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    made: list[Logger] = []
    if "tensorboard" in names:
        made.append(TensorBoardLogger(log_dir, name="", version="tensorboard"))
    if "wandb" in names:
        made.append(WandbLogger(save_dir=log_dir, project="summer", name=f"{log_dir.parent.name}/{log_dir.name}"))
    return made


class UnwrappedDDP(DDPStrategy):
    """Lightning's DDP without torch's wrapper, which allows one backward pass a training step.

    Ours has one per mini-batch of a block, so the steps add up gradients themselves. Equal seeds make equal weights
    on every process.
    """

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


class BlockSteps(Callback):
    """Sets how the steps of a block are taken on this device."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose the fastest way that decoder and optimizer allow; handle signals as usual again."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        assert isinstance(pl_module, Decoder)
        optimizer: Any = pl_module.optimizers(use_pl_optimizer=False)
        pl_module.steps = choose_steps(pl_module.steps_with(optimizer), pl_module.device, self.say)


class EpochRows(Callback):
    """Writes a row of metrics.csv per epoch; ends a run whose loss is no number any more."""

    def __init__(self, log_dir: Path, decoder: Decoder, n_epochs_before: int) -> None:
        self.log_dir, self.n_epochs_before = log_dir, n_epochs_before
        self.columns = metric_columns(decoder.task)
        self.file: MetricsFile

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the file, or keep the rows of the epochs of before."""
        if trainer.is_global_zero:
            self.file = MetricsFile(self.log_dir / METRICS, self.columns, self.n_epochs_before)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the epoch's row.

        Raises
        ------
        SettingsError : training diverged
        """
        metrics = _metrics_of(trainer)
        if trainer.is_global_zero:
            self.file.add({"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics})
        if not torch.isfinite(torch.tensor(metrics["val_loss"])):
            raise SettingsError(
                f"training diverged: the validation loss of epoch {trainer.current_epoch + 1} is "
                f"{metrics['val_loss']}. Choose a smaller --lr than {getattr(pl_module, 'lr', '')}"
            )


class EpochLines(Callback):
    """Says one line per epoch; Lightning's bars redraw once per step, which costs more than our steps."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.started = 0.0
        self.bar: Any = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the epoch's clock."""
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the progress of an epoch that takes its time."""
        if self.bar is None and is_first_process() and time.perf_counter() - self.started > SLOW_EPOCH_S:
            self.bar = progress_on_terminal()
            self.bar.start()
            self.bar.add_task(f"epoch {trainer.current_epoch + 1}", total=trainer.num_training_batches)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say the epoch's scores."""
        self._remove_bar()
        metrics = _metrics_of(trainer)
        names = [name.removeprefix("val_") for name in metrics if name.startswith("val_")]
        values = "  ".join(f"{name} {metrics[f'train_{name}']:.4f} val {metrics[f'val_{name}']:.4f}" for name in names)
        seconds = time.perf_counter() - self.started
        self.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}  {seconds:.2f} s")

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self._remove_bar()

    def _remove_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def metric_columns(task: Task) -> list[str]:
    """Return the columns of a task's metrics.csv."""
    return [f"{part}_{name}" for part in PARTS for name in ("loss", *task.score_names)]


def _metrics_of(trainer: lightning.Trainer) -> dict[str, float]:
    """Return the scores of the epoch that ends, train and val."""
    return {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(("train_", "val_"))
    }


def use_threads(threads: int | None, flops_per_step: float) -> None:
    """Set the processor threads of this process: one where matrix products are too small to share.

    Raises
    ------
    SettingsError : more than there are processors
    """
    n_processors = usable_processors()
    if threads is not None and threads > n_processors:
        raise SettingsError(f"--threads {threads}: this machine has {n_processors} processors. Choose at most as many")
    if threads is None:
        threads = max(1, min(n_processors, int(flops_per_step / FLOPS_PER_THREAD)))
    torch.set_num_threads(threads)


def check_devices(devices: int | None) -> None:
    """Refuse more devices than there are.

    Raises
    ------
    SettingsError : too many
    """
    n_gpus = torch.cuda.device_count()
    n_there = n_gpus or usable_processors()
    kind = "GPUs" if n_gpus else "processors and no GPU"
    if devices is not None and devices > n_there:
        raise SettingsError(f"--devices {devices}: this machine has {n_there} {kind}. Choose at most as many")


def hold_terminations(trainer: lightning.Trainer) -> None:
    """Hold SIGTERM back until the processes of a run train; let Ctrl-C end this one at once until then.

    Lightning's own handler of SIGTERM asks the other processes from within, and waits for ever where they wait for
    this one. Processes that wait for each other in torch run no Python, so no KeyboardInterrupt would reach them.
    """
    if trainer.world_size > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def prepare_processes(n_devices: int) -> None:
    """Let further processes know that this one starts them; let a further process end with the first.

    The system ends it, since a process that waits for another in torch runs no Python: Ctrl-C is for the first.
    """
    if is_first_process():
        if n_devices > 1:
            for left_behind in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(left_behind, None)  # Lightning would take this process for one of those it starts
            os.environ[FIRST_PROCESS] = str(os.getpid())
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ[FIRST_PROCESS] != str(os.getppid()):
        os._exit(1)  # the first process ended before it could be heard of


_LIGHTNING = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def process_restored() -> Iterator[None]:
    """Give a caller's process back as it was: threads of torch, filters of warnings, levels of Lightning's logs."""
    n_threads, levels = torch.get_num_threads(), {name: logging.getLogger(name).level for name in _LIGHTNING}
    with warnings.catch_warnings():
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def quieten_lightning() -> None:
    """Keep Lightning's advertising and its remarks on what we chose on purpose out of a user's sight."""
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
