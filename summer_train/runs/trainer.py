"""What our own `fit` asks of Lightning: devices, blocks of steps, logs, checkpoints, lines for people."""

import io
import math
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy

from summer_prep.console import progress_on_terminal
from summer_prep.errors import SettingsError
from summer_prep.files import replace_file
from summer_train.models.decoder import Decoder
from summer_train.models.steps import choose_steps
from summer_train.runs.folder import BEST, LAST, METRICS, MetricsFile
from summer_train.runs.processes import n_devices_of
from summer_train.settings.options import Log, Run, is_first_process

SLOW_EPOCH_S = 1.0
"""An epoch that takes longer shows its progress on a terminal."""


def new_trainer(run: Run, decoder: Decoder, log_dir: Path, log: Log, n_epochs_before: int = 0) -> lightning.Trainer:
    """Return a trainer that leaves checkpoints and metrics in a run's folder, after those of the epochs before."""
    n_devices = n_devices_of(run)
    loggers: list[Logger] = []
    if "tensorboard" in run.logger:
        loggers.append(TensorBoardLogger(log_dir, name="", version="tensorboard"))
    if "wandb" in run.logger:
        loggers.append(WandbLogger(save_dir=log_dir, project="summer", name=f"{log_dir.parent.name}/{log_dir.name}"))
    kept: Any = {"dirpath": log_dir / BEST.parent, "enable_version_counter": False, "auto_insert_metric_name": False}
    trainer = lightning.Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # scores need float64, which MPS has not
        devices=n_devices,
        strategy=UnwrappedDDP(timeout=timedelta(minutes=5)) if n_devices > 1 else "auto",
        max_epochs=run.max_epochs,
        logger=loggers or False,  # beside our metrics.csv, which all reports are made of
        callbacks=[
            BlockSteps(log),
            Epochs(log_dir, decoder, n_epochs_before, log),
            *([] if run.patience is None else [EarlyStopping("val_loss", patience=run.patience)]),
            BestCheckpoint(monitor="val_loss", filename=BEST.stem, **kept),
            # After the best one, whose score it then knows. Lightning's own save_last writes only when the best one is.
            ModelCheckpoint(filename=LAST.stem, **kept),
        ],
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    LightningEnvironment().set_global_rank(trainer.global_rank)  # loggers know only a LOCAL_RANK that was left behind
    return trainer


class UnwrappedDDP(DDPStrategy):
    """Lightning's DDP without torch's wrapper, which allows one backward pass a training step.

    Ours has one per mini-batch of a block, so the steps add up the gradients. Equal seeds make equal weights.
    """

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


class BlockSteps(Callback):
    """Sets how the steps of a block are taken on this device."""

    def __init__(self, log: Log) -> None:
        self.log_line = log  # Lightning sets `log` of a callback

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose the fastest way that decoder and optimizer allow; handle signals as usual again."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        assert isinstance(pl_module, Decoder)
        optimizer: Any = pl_module.optimizers(use_pl_optimizer=False)
        steps = pl_module.steps_with(optimizer)
        # A CUDA graph would repeat whatever a user's own network decides in Python.
        pl_module.steps = steps if pl_module.is_own else choose_steps(steps, pl_module.device, self.log_line)


class Epochs(Callback):
    """Logs a line and writes a row of metrics.csv per epoch; ends a run whose loss is not finite any more.

    Lightning's progress bars redraw once per step, which costs more than our steps.
    """

    def __init__(self, log_dir: Path, decoder: Decoder, n_epochs_before: int, log: Log) -> None:
        self.log_line, self.started = log, 0.0
        self.bar: Any = None
        if is_first_process():
            self.file = MetricsFile(log_dir / METRICS, decoder.task.score_names, n_epochs_before)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the epoch's clock."""
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the progress of a slow epoch."""
        if self.bar is None and is_first_process() and time.perf_counter() - self.started > SLOW_EPOCH_S:
            self.bar = progress_on_terminal()
            self.bar.start()
            self.bar.add_task(f"epoch {trainer.current_epoch + 1}", total=trainer.num_training_batches)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write and log the epoch's scores; raise SettingsError if training diverged."""
        self._remove_bar()
        epoch, all_metrics = trainer.current_epoch, trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in all_metrics if name.startswith(("train_", "val_"))}
        if is_first_process():
            self.file.add({"epoch": epoch, "step": trainer.global_step, **metrics})
        if not math.isfinite(metrics["val_loss"]):
            found = f"the validation loss of epoch {epoch + 1} is {metrics['val_loss']}"
            advice = f"Choose a smaller --lr than {getattr(pl_module, 'lr', '')}"
            raise SettingsError(f"training diverged: {found}. {advice}")
        names = [name.removeprefix("val_") for name in metrics if name.startswith("val_")]
        values = "  ".join(f"{name} {metrics[f'train_{name}']:.4f} val {metrics[f'val_{name}']:.4f}" for name in names)
        seconds = time.perf_counter() - self.started
        self.log_line(f"epoch {epoch + 1}/{trainer.max_epochs}  {values}  {seconds:.2f} s")

    def on_exception(self, trainer: object, pl_module: object, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._remove_bar()

    def _remove_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch, also when its run is continued after its folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far; Lightning forgets it if a path is spelt in another way."""
        best = str(Path(str(self.dirpath)) / BEST.name)
        score = state_dict["best_model_score"]
        here = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
        super().load_state_dict({**state_dict, **here, "best_k_models": {best: score}})


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its path and renames it, so that a killed run leaves a whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; raises OSError if the disk does not allow it."""
        content = io.BytesIO()  # torch turns the error of a full disk into another one
        torch.save(checkpoint, content)
        replace_file(Path(path), content.getbuffer())
