"""The published way to train, imitated: a map-style Dataset, a DataLoader, and a module that logs every step.

The published code itself was not run. Its epochs are timed by `benchmarks/epoch.py`.
"""

import tempfile
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from ways import EpochClock

from summer_train.data.batches import ResidentSamples
from summer_train.data.module import FilmData
from summer_train.models.decoder import new_decoder

PUBLISHED = "published way: Dataset + DataLoader + Lightning"


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """One sample at a time, as floats; a window of several bins is cut when it is asked for."""

    def __init__(self, data: FilmData, indices: Any) -> None:
        samples = data.samples
        assert isinstance(samples, ResidentSamples)
        self.counts, self.target_offset = samples.counts.cpu().float(), samples.target_offset
        self.targets = data.task.as_target(samples.targets.cpu())
        self.indices, self.window = indices, data.window

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        index = int(self.indices[number])
        first, last = index + self.window.first, index + self.window.last
        counts = self.counts[first] if first == last else self.counts[first : last + 1]
        return counts, self.targets[index + self.target_offset]


class PlainModule(lightning.LightningModule):
    """Logs every step, as the published modules do."""

    def __init__(self, data: FilmData) -> None:
        super().__init__()
        self.net, self.task, self.lr = new_decoder(data).net, data.task, data.choice.lr

    def _step(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        prediction = self.net(batch[0])
        loss = self.task.loss(prediction, batch[1])
        self.log(f"{part}_loss", loss, prog_bar=True)
        for name, value in self.task.scores(prediction, batch[1]).items():
            self.log(f"{part}_{name}", value, prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_index: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], _batch_index: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def published_epochs(data: FilmData, n_epochs: int) -> list[float]:
    """Train some epochs; return the seconds of each."""
    clock = EpochClock()
    batch_size = data.choice.batch_size
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=n_epochs,
            logger=CSVLogger(folder),
            callbacks=[clock, ModelCheckpoint(monitor="val_loss", save_last=True)],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            PlainModule(data),
            DataLoader(PlainDataset(data, data.split.train), batch_size=batch_size, shuffle=True),
            DataLoader(PlainDataset(data, data.split.val), batch_size=batch_size),
        )
    return clock.seconds
