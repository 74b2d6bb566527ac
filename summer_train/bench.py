"""What each stage of a run costs, and how an epoch compares with a bare PyTorch loop.

All are timed in one process on the same data, by turns, so that a busy machine slows all of them alike.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from summer_prep.errors import SettingsError
from summer_prep.places import Place
from summer_train.batches import ResidentSamples, ShuffledBlocks
from summer_train.config import Choice, Run, Say, say_nothing
from summer_train.data import FilmBlocks, FilmData
from summer_train.models import new_decoder
from summer_train.selection import open_selection
from summer_train.steps import AutogradSteps, choose_steps
from summer_train.trainer import new_trainer, quieten_lightning, use_threads
from summer_train.training import flops_per_step, open_data, score

OURS = "ours, written-out steps"
AUTOGRAD = "ours, through autograd"
BARE = "bare PyTorch loop"

Way = Callable[[FilmData, int], list[float]]
"""Trains some epochs; returns the seconds of each."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Seconds of each repeat, by stage and by way of training an epoch."""

    n_units: int
    n_train: int
    batch_size: int
    device: str
    stages_s: Mapping[str, Sequence[float]]
    epochs_s: Mapping[str, Sequence[float]]

    @property
    def n_steps(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.n_train // self.batch_size)

    def ratio(self, way: str, to: str) -> float:
        """Return how many times as long the median epoch of one way takes as that of another."""
        return statistics.median(self.epochs_s[way]) / statistics.median(self.epochs_s[to])

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {
            "n_units": self.n_units,
            "n_train": self.n_train,
            "n_steps": self.n_steps,
            "batch_size": self.batch_size,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "stages_s": {name: list(values) for name, values in self.stages_s.items()},
            "epochs_s": {name: list(values) for name, values in self.epochs_s.items()},
            "autograd_over_bare": self.ratio(AUTOGRAD, BARE),
            "ours_over_bare": self.ratio(OURS, BARE),
        }


def bench(
    choice: Choice,
    run: Run,
    n_repeats: int = 5,
    more_ways: Mapping[str, Way] | None = None,
    say: Say = say_nothing,
) -> BenchResult:
    """Time the stages of a run, and an epoch trained in several ways; each starts with an epoch that is not counted.

    Parameters
    ----------
    more_ways : ways to train an epoch beside ours and the bare loop

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    if n_repeats < 1:
        raise SettingsError(f"--repeats {n_repeats}: must be 1 or more")
    quieten_lightning()
    data = open_data(choice, run, say)
    use_threads(run.threads, flops_per_step(data))
    patient_ids = [patient.patient_id for patient in data.selection.patients]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages: dict[str, list[float]] = {}
    for _ in range(n_repeats):
        data = _time_stages(choice, run.cache_dir, patient_ids, device, stages)
    if not isinstance(data.samples, ResidentSamples):
        raise SettingsError("the bare loop holds all counts on the device. Choose fewer patients")
    ways: dict[str, Way] = {OURS: our_epochs, AUTOGRAD: autograd_epochs, BARE: bare_epochs, **(more_ways or {})}
    epochs: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(n_repeats):
        for way, train in ways.items():
            epochs[way] += train(data, 3)[1:]
        say(f"repeat {repeat + 1}/{n_repeats}")
    return BenchResult(
        n_units=data.n_units,
        n_train=data.n_samples["train"],
        batch_size=choice.batch_size,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        stages_s=stages,
        epochs_s=epochs,
    )


def _time_stages(
    choice: Choice, cache_dir: Place, patient_ids: list[str], device: torch.device, stages: dict[str, list[float]]
) -> FilmData:
    """Go through the stages of a run once, noting the seconds of each."""

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        wait_for(device)
        started = time.perf_counter()
        result = call(*arguments)
        wait_for(device)
        stages.setdefault(name, []).append(time.perf_counter() - started)
        return result

    selection = timed("open the cache", open_selection, cache_dir, patient_ids, choice.bin_length_ms)
    data: FilmData = timed("read the label and split", FilmData, selection, choice)
    data.place(device)
    samples = timed("build the tensor", lambda: data.samples)
    blocks = ShuffledBlocks(samples=samples, indices=data.split.train, batch_size=choice.batch_size, seed=choice.seed)
    block = timed("gather one block", next, iter(blocks))
    model = new_decoder(data).to(device)
    model.take_blocks()
    steps = choose_steps(model.steps_with(model.configure_optimizers()), device)
    for _ in range(2):
        steps(block)  # warms up, and captures the graph on a GPU
    timed("one block of steps", steps, block)
    stages.setdefault("one step", []).append(stages["one block of steps"][-1] / len(block.batch_sizes))
    timed("evaluate all parts and baselines", score, model, data)
    return data


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
    model.take_blocks()
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(Run(max_epochs=n_epochs, devices=1), model, Path(folder), say_nothing)
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
            y = samples.targets.index_select(0, indices + samples.reach)
            loss = data.task.loss(model.net(x.float()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for block in data.blocks("val"):
                data.task.loss(model(block.counts), block.targets)
        seconds.append(time.perf_counter() - started)
    return seconds
