"""What each stage of a run costs, and how an epoch compares with the published way and with a bare loop.

All are timed in one process on the same data, by turns, so that a busy machine slows all of them alike.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from summer_prep.errors import SettingsError
from summer_train.batches import OrderedBlocks, ResidentSamples
from summer_train.cache import open_selection
from summer_train.config import FitConfig
from summer_train.data import FilmData
from summer_train.fit import build_what_is_missing, make_model, quieten_lightning
from summer_train.steps import AutogradSteps, choose_steps
from summer_train.tasks import Decoder


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
            "published_over_ours": self.ratio(PUBLISHED, OURS),
            "published_over_autograd": self.ratio(PUBLISHED, AUTOGRAD),
            "autograd_over_bare": self.ratio(AUTOGRAD, BARE),
            "ours_over_bare": self.ratio(OURS, BARE),
        }


OURS = "ours, written-out steps"
AUTOGRAD = "ours, through autograd"
BARE = "bare PyTorch loop"
PUBLISHED = "published way: Dataset + DataLoader + Lightning"


def bench(config: FitConfig, n_repeats: int = 5, say: Callable[[str], None] = lambda _line: None) -> BenchResult:
    """Time the stages of a run and an epoch trained in four ways; each starts with an epoch that is not counted.

    Raises
    ------
    SummerError : data or settings do not allow the run
    """
    if n_repeats < 1:
        raise SettingsError(f"--repeats {n_repeats}: must be 1 or more")
    quieten_lightning()
    patient_ids = build_what_is_missing(config, say)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages, data = _time_stages(config, patient_ids, device, n_repeats)
    samples = data.samples
    if not isinstance(samples, ResidentSamples):
        raise SettingsError(
            "the baselines hold all counts on the device. Choose fewer patients or more --device-memory"
        )
    epochs: dict[str, list[float]] = {OURS: [], AUTOGRAD: [], BARE: [], PUBLISHED: []}
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, output_dir=Path(folder))
        ways: dict[str, Callable[[], list[float]]] = {
            OURS: lambda: _our_epochs(config, data, 3, written_out=True),
            AUTOGRAD: lambda: _our_epochs(config, data, 3, written_out=False),
            BARE: lambda: _bare_epochs(config, data, samples, 3),
            PUBLISHED: lambda: _published_epochs(config, data, samples, 2),
        }
        for repeat in range(n_repeats):
            for way, run in ways.items():
                epochs[way] += run()[1:]
            say(f"repeat {repeat + 1}/{n_repeats}")
    return BenchResult(
        n_units=data.n_units,
        n_train=len(data.split.train),
        batch_size=config.batch_size,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        stages_s=stages,
        epochs_s=epochs,
    )


def _time_stages(
    config: FitConfig, patient_ids: list[str], device: torch.device, n_repeats: int
) -> tuple[dict[str, list[float]], FilmData]:
    stages: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        _wait_for(device)
        started = time.perf_counter()
        result = call(*arguments)
        _wait_for(device)
        stages.setdefault(name, []).append(time.perf_counter() - started)
        return result

    choice = (config.bin_length_ms, config.brain_regions, config.single_units)
    for _ in range(n_repeats):
        selection = timed("open the cache", open_selection, config.cache_dir, patient_ids, *choice)
        data: FilmData = timed("read the label and split", FilmData, selection, config)
        timed("build the tensor", data.place, device)
        block = timed("gather one block", next, iter(data.train_dataloader()))
        model = make_model(config, data).to(device)
        optimizer = model.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Adam)
        steps = choose_steps(
            AutogradSteps(model.net, model.loss, optimizer), model.written_out_steps(optimizer), device
        )
        for _ in range(2):
            steps(block)  # warms up, and captures the graph on a GPU
        timed("one block of steps", steps, block)
        stages.setdefault("one step", []).append(stages["one block of steps"][-1] / len(block.batch_sizes))
        timed("evaluate the training part", model.evaluate, data.blocks("train"))
    return stages, data


def _wait_for(device: torch.device) -> None:
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
        _wait_for(pl_module.device)
        self.starts.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Length of each epoch."""
        return [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]


def _trainer(config: FitConfig, n_epochs: int, clock: EpochClock, log_every_n_steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=n_epochs,
        logger=CSVLogger(config.output_dir, name=config.log_name),
        callbacks=[clock, ModelCheckpoint(monitor="val_loss", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every_n_steps,
    )


def _our_epochs(config: FitConfig, data: FilmData, n_epochs: int, written_out: bool) -> list[float]:
    clock = EpochClock()
    model = make_model(config, data)
    if not written_out:
        model.written_out_steps = lambda optimizer: None  # type: ignore[method-assign]
    _trainer(config, n_epochs, clock, 1).fit(model, datamodule=data)
    return clock.seconds


def _bare_epochs(config: FitConfig, data: FilmData, samples: ResidentSamples, n_epochs: int) -> list[float]:
    """Train and validate with nothing but PyTorch: the floor."""
    model = make_model(config, data).to(samples.counts.device)
    net, loss_of = model.net, model.loss
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr, fused=True)
    train = torch.from_numpy(data.split.train).to(samples.counts.device)
    seconds = []
    for _ in range(n_epochs):
        _wait_for(samples.counts.device)
        started = time.perf_counter()
        for indices in train[torch.randperm(len(train), device=train.device)].split(config.batch_size):
            x = samples.counts.index_select(0, indices)
            y = samples.counts.index_select(0, indices + 1) if samples.labels is None else samples.labels[indices]
            loss = loss_of(net(x.float()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.evaluate(OrderedBlocks(samples=samples, indices=data.split.val))
        seconds.append(time.perf_counter() - started)
    return seconds


class _PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """One sample at a time, as floats."""

    def __init__(self, samples: ResidentSamples, indices: Any) -> None:
        self.counts = samples.counts.cpu().float()
        self.labels = None if samples.labels is None else samples.labels.cpu().long()
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        index = int(self.indices[number])
        return self.counts[index], self.counts[index + 1] if self.labels is None else self.labels[index]


class _PlainModule(lightning.LightningModule):
    """Logs every step, as the published modules do."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.net: nn.Module = model.net
        self.model_loss = model.loss
        self.metric_sums = model.metric_sums
        self.lr = model.lr

    def _step(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        prediction = self.net(batch[0])
        loss = self.model_loss(prediction, batch[1])
        self.log(f"{part}_loss", loss, prog_bar=True)
        for name, value in self.metric_sums(prediction, batch[1]).items():
            self.log(f"{part}_{name}", value / len(batch[1]), prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_index: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], _batch_index: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def _published_epochs(config: FitConfig, data: FilmData, samples: ResidentSamples, n_epochs: int) -> list[float]:
    clock = EpochClock()
    loaders = [
        DataLoader(_PlainDataset(samples, data.split.train), batch_size=config.batch_size, shuffle=True),
        DataLoader(_PlainDataset(samples, data.split.val), batch_size=config.batch_size),
    ]
    module = _PlainModule(make_model(config, data))
    train, val = loaders
    _trainer(config, n_epochs, clock, log_every_n_steps=50).fit(module, train, val)
    return clock.seconds
