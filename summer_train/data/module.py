"""The samples of one run as Lightning data modules: plain batches for anyone's model, blocks for our own `fit`."""

from typing import Any

import lightning
import torch

from summer_train.data.batches import Batches, OrderedBlocks, ShuffledBlocks, WholeEpochs
from summer_train.data.film import FilmSamples
from summer_train.settings.options import SOLVED


class FilmData(FilmSamples, lightning.LightningDataModule):
    """The samples of one choice: batches (x, y) of `batch_size` for a `lightning.Trainer`, or to iterate over.

    x is (batch, n_units) float32 counts, or (batch, n_bins, n_units) of a window of several bins, time first; y is
    (batch,) class indices, (batch, n_units) counts of the next bin, or (batch, n_dimensions) standardised features,
    which with --task encode are x, (batch, n_inputs), and y counts of the same bin.

    Attributes
    ----------
    task : what is predicted
    split, n_samples : sample indices of each part, after undefined and never seen bins are left out; their number
    has_target : (n_samples,) whether a sample can be used
    window : the bins that a sample is predicted from, counted from its own
    n_units, n_inputs : units; width of x, which is another with --task encode or --space shared:K
    notes : what was left out and why, for people
    """

    _n_passes = 0
    with_bins = False

    def __repr__(self) -> str:
        predicted = f"{self.choice.task.replace('_', ' ')} {self.choice.decoded[-1]}".strip()
        patient_ids = " ".join(patient.patient_id for patient in self.selection.patients)
        samples = " ".join(f"{n} {part}" for part, n in self.n_samples.items() if n)
        return f"<FilmData: {predicted}, patients {patient_ids}, {self.n_units} units, {samples} samples>"

    __str__ = __repr__  # Lightning's lists its loaders

    def setup(self, stage: str = "") -> None:
        """Take the device of the trainer."""
        if self.trainer is not None:
            self.place(self.trainer.strategy.root_device)

    def train_dataloader(self) -> Batches:
        """Return the training samples, in another order every epoch."""
        return self._batches("train")

    def val_dataloader(self) -> Batches:
        """Return the validation samples in order."""
        return self._batches("val")

    def test_dataloader(self) -> Batches:
        """Return the test samples in order."""
        return self._batches("test")

    predict_dataloader = test_dataloader

    def _batches(self, part: str) -> Batches:
        return Batches(
            samples=self.samples,
            indices=getattr(self.split, part),
            batch_size=self.choice.batch_size,
            as_target=self.task.as_target,
            seed=self.choice.seed,
            epoch_of_pass=self._epoch_of_pass if part == "train" else None,
            with_bins=self.with_bins,
            provenance=self.provenance,
        )

    def _epoch_of_pass(self) -> int:
        if self.trainer is not None and self.trainer.training:
            return self.trainer.current_epoch
        self._n_passes += 1  # without a trainer at work every pass is an epoch
        return self._n_passes - 1


class FilmBlocks(lightning.LightningDataModule):
    """The same samples for our own `fit`, which takes all optimizer steps of a block of batches at once.

    A network of one layer gets all samples at once instead.
    """

    trainer: Any

    def __init__(self, data: FilmSamples) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str) -> None:
        """Take the device of the trainer."""
        self.data.place(self.trainer.strategy.root_device)

    def train_dataloader(self) -> ShuffledBlocks | WholeEpochs:
        """Return this process's share of the training samples, shuffled where that matters."""
        data, trainer = self.data, self.trainer
        if data.choice.model in SOLVED:
            return WholeEpochs(blocks=self._share("train"), provenance=data.provenance)
        return ShuffledBlocks(
            samples=data.samples,
            indices=data.split.train,
            batch_size=data.choice.batch_size,
            seed=data.choice.seed,
            rank=trainer.global_rank,
            n_processes=trainer.world_size,
            current_epoch=lambda: int(trainer.current_epoch),
            provenance=data.provenance,
        )

    def val_dataloader(self) -> OrderedBlocks:
        """Return this process's share of the validation samples."""
        return self._share("val")

    def test_dataloader(self) -> OrderedBlocks:
        """Return this process's share of the test samples."""
        return self._share("test")

    def _share(self, part: str) -> OrderedBlocks:
        return self.data.blocks(part, self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return blocks as they are: they are gathered on the device."""
        return batch
