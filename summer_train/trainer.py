"""What our own `fit` asks of Lightning: devices, blocks of steps, logs, checkpoints, lines for people."""

import ctypes
import logging
import os
import platform
import signal
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from summer_prep.console import progress_on_terminal
from summer_prep.errors import SettingsError
from summer_prep.extras import load_extra
from summer_prep.machine import usable_processors
from summer_train.checkpoints import WholeCheckpoints, checkpoint_callbacks
from summer_train.config import Run, Say, is_first_process
from summer_train.models import Decoder
from summer_train.nodes import Launch, environment_of
from summer_train.runs import METRICS, PARTS, MetricsFile
from summer_train.steps import choose_steps
from summer_train.tasks import Task

SLOW_EPOCH_S = 1.0
"""An epoch that takes longer shows its progress on a terminal."""

FLOPS_PER_THREAD = 1.5e7
"""Of a step's matrix products; with fewer, a further thread costs more than it gains (docs/performance.md)."""

_FIRST_PROCESS = "SUMMER_TRAIN_FIRST_PROCESS"
_SIGNAL_AT_PARENTS_DEATH = 1
_COLLECTIVE_TIMEOUT = timedelta(minutes=5)


def new_trainer(
    run: Run, decoder: Decoder, log_dir: Path, say: Say, n_epochs_before: int = 0, launch: Launch | None = None
) -> lightning.Trainer:
    """Return a trainer that leaves checkpoints and metrics in a run's folder.

    Parameters
    ----------
    n_epochs_before : of a run that is continued
    launch : the processes that somebody else started for it
    """
    n_devices = launch.n_per_node if launch else run.devices or max(1, torch.cuda.device_count())
    n_processes = launch.n_processes if launch else n_devices
    early = [] if run.patience is None else [EarlyStopping("val_loss", patience=run.patience)]
    return lightning.Trainer(
        accelerator="auto",
        devices=n_devices,
        num_nodes=launch.n_nodes if launch else 1,
        strategy=UnwrappedDDP(timeout=_COLLECTIVE_TIMEOUT) if n_processes > 1 else "auto",
        max_epochs=run.max_epochs,
        logger=_loggers(run.logger, log_dir) or False,
        callbacks=[
            BlockSteps(say),
            EpochRows(log_dir, decoder, n_epochs_before),
            EpochLines(say),
            *early,
            *checkpoint_callbacks(log_dir),
        ],
        plugins=[WholeCheckpoints(), environment_of(launch)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


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
        """Choose the fastest way that decoder and optimizer allow; hear of terminations again."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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


def check_devices(devices: int | None, launch: Launch | None) -> None:
    """Refuse more devices than there are, or others than torchrun or Slurm started processes for.

    Raises
    ------
    SettingsError : too many, or others
    """
    n_gpus = torch.cuda.device_count()
    n_there = n_gpus or usable_processors()
    kind = "GPUs" if n_gpus else "processors and no GPU"
    if launch is not None and devices not in (None, launch.n_per_node):
        raise SettingsError(
            f"--devices {devices}: processes that were started on each node, one for each device: "
            f"{launch.n_per_node}. Leave --devices out, or start as many"
        )
    if devices is not None and devices > n_there:
        raise SettingsError(f"--devices {devices}: this machine has {n_there} {kind}. Choose at most as many")
    if launch is not None and n_gpus and launch.n_per_node > n_gpus:
        raise SettingsError(
            f"{launch.n_per_node} processes on {platform.node()}, which has {n_gpus} GPUs. Start at most as many"
        )


def hold_terminations(trainer: lightning.Trainer) -> None:
    """Hold SIGTERM back until the processes of a run train; then it ends each of them at once.

    Lightning's own handler asks the other processes from within, and waits for ever where they wait for this one.
    """
    if trainer.world_size > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def end_with_first_process(launch: Launch | None) -> None:
    """Let a further process end when the one does that started it, which may be killed before they know of each other.

    The system sees to it, since a process that waits for another in torch runs no Python. What started processes that
    are not ours, torchrun or Slurm, is known to nobody before.
    """
    if launch is None and is_first_process():
        os.environ[_FIRST_PROCESS] = str(os.getpid())
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
    if launch is None and os.environ.get(_FIRST_PROCESS, str(os.getppid())) != str(os.getppid()):
        os._exit(1)  # it ended before it could be heard of


def quieten_lightning() -> None:
    """Keep Lightning's advertising and its remarks on what we chose on purpose out of a user's sight."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
