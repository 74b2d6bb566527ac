"""Ways to train an epoch: as `fit` does, as `fit` does where steps are not written out, and in plain PyTorch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from summer_train.data.batches import ResidentSamples
from summer_train.data.module import FilmBlocks, FilmData
from summer_train.models.decoder import new_decoder
from summer_train.models.steps import AutogradSteps
from summer_train.runs.trainer import new_trainer
from summer_train.settings.options import Run, log_nothing

Way = Callable[[FilmData, int], list[float]]
"""Trains some epochs; returns the seconds of each."""


def by_turns(ways: Mapping[str, Way], data: FilmData, n_repeats: int) -> dict[str, list[float]]:
    """Return seconds of epochs in each way; the ways take turns, so that a busy machine slows all of them alike.

    Each turn trains three epochs, of which the first is not counted.
    """
    epochs_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(n_repeats):
        for name, train in ways.items():
            epochs_s[name] += train(data, 3)[1:]
    return epochs_s


def ratio(epochs_s: Mapping[str, Sequence[float]], way: str, to: str) -> float:
    """Return how many times as long the median epoch of one way takes as that of another."""
    return statistics.median(epochs_s[way]) / statistics.median(epochs_s[to])


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class EpochClock(Callback):
    """Times epochs from the start of one to the start of the next: validation, logging and checkpoints included."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Mark the start of an epoch."""
        self._tick(pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Mark the end of the last."""
        self._tick(pl_module)

    def _tick(self, pl_module: lightning.LightningModule) -> None:
        wait_for(pl_module.device)
        self.starts.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Length of each epoch."""
        return [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]


def our_epochs(data: FilmData, n_epochs: int, *callbacks: Callback) -> list[float]:
    """Train as `fit` does, logs and checkpoints included."""
    clock = EpochClock()
    model = new_decoder(data)
    model.expect_blocks()
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(Run(max_epochs=n_epochs, devices=1), model, Path(folder), log_nothing)
        trainer.callbacks[:0] = [clock, *callbacks]  # type: ignore[attr-defined]  # a plain list
        trainer.fit(model, datamodule=FilmBlocks(data))
    return clock.seconds


class _Autograd(Callback):
    """Takes the general path where the shortcut was chosen."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        optimizer = pl_module.optimizers(use_pl_optimizer=False)
        pl_module.steps = AutogradSteps(pl_module.net, pl_module.task.loss, optimizer)


def autograd_epochs(data: FilmData, n_epochs: int) -> list[float]:
    """Train as `fit` does where there is no shortcut; without graphs on a GPU."""
    return our_epochs(data, n_epochs, _Autograd())


def bare_epochs(data: FilmData, n_epochs: int) -> list[float]:
    """Train and validate with nothing but PyTorch: the floor."""
    samples = data.samples
    assert isinstance(samples, ResidentSamples)
    device = samples.counts.device
    model = new_decoder(data).to(device)
    optimizer = torch.optim.Adam(model.net.parameters(), lr=data.choice.lr, fused=True)
    train = torch.from_numpy(data.split.train).to(device)
    seconds = []
    for _ in range(n_epochs):
        wait_for(device)
        started = time.perf_counter()
        for indices in train[torch.randperm(len(train), device=device)].split(data.choice.batch_size):
            x = samples.counts.index_select(0, indices)
            y = samples.targets.index_select(0, indices + samples.target_offset)
            loss = data.task.loss(model.net(x.float()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for block in data.blocks("val"):
                data.task.loss(model(block.counts), block.targets)
        seconds.append(time.perf_counter() - started)
    return seconds


OURS, AUTOGRAD, BARE = "ours, written-out steps", "ours, through autograd", "bare PyTorch loop"
WAYS: dict[str, Way] = {OURS: our_epochs, AUTOGRAD: autograd_epochs, BARE: bare_epochs}
