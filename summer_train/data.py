"""One Lightning data module for both tasks: which samples there are, how they are split, and the loaders."""

from typing import TYPE_CHECKING

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.layout import UNDEFINED
from summer_train.batches import OrderedBlocks, Samples, ShuffledBlocks
from summer_train.config import DEFAULT_BUFFER_S, DEFAULT_FOLD, FitConfig
from summer_train.splits import Split, blocked_split, fraction_split

if TYPE_CHECKING:
    from summer_train.cache import Selection


class FilmData(lightning.LightningDataModule):
    """The samples of one run.

    Attributes
    ----------
    split : sample indices of each part, after undefined and never seen bins are left out
    n_units, n_classes : sizes of the model's input and, for labels, output
    notes : what was left out and why, for people
    """

    def __init__(self, selection: "Selection", config: FitConfig) -> None:
        super().__init__()
        self.config = config
        self.n_units = selection.n_units
        self.n_classes = 0
        self.notes: list[str] = []
        labels = self._read_labels(selection) if config.task == "label" else None
        n_samples = selection.n_bins - (labels is None)
        split = self._split(n_samples)
        self.split = self._leave_out(split, self._usable(selection, labels, n_samples))
        if labels is not None:
            self._check_classes(labels)
        counts = selection.counts()
        if counts.dtype == np.uint16:
            counts = counts.astype(np.int32)  # torch indexes no uint16
        self.samples = Samples(
            counts=torch.from_numpy(counts), labels=None if labels is None else torch.from_numpy(labels)
        )

    def _read_labels(self, selection: "Selection") -> NDArray[np.uint8]:
        """Return class indices: 0, 1, and 2 for undefined."""
        raw = selection.labels(self.config.label_name, self.config.label_rule)
        has_undefined = bool((raw == UNDEFINED).any())
        as_class = self.config.undefined == "class"
        self.n_classes = 3 if has_undefined and as_class else 2
        if as_class and not has_undefined:
            self.notes.append(
                f"label {self.config.label_name} is defined everywhere; --undefined class changes nothing"
            )
        return np.where(raw == UNDEFINED, np.uint8(2), raw)

    def _split(self, n_samples: int) -> Split:
        config = self.config
        if config.val_fraction is not None:
            return fraction_split(n_samples, config.val_fraction)
        buffer_s = DEFAULT_BUFFER_S if config.buffer_s is None else config.buffer_s
        fold = DEFAULT_FOLD if config.fold is None else config.fold
        return blocked_split(n_samples, config.bin_length_ms, buffer_s, fold, config.sequence_s)

    def _usable(self, selection: "Selection", labels: NDArray[np.uint8] | None, n_samples: int) -> NDArray[np.bool_]:
        seen = selection.seen()
        if not seen.all():
            self.notes.append(f"left out {int((~seen).sum())} bins that a patient never saw")
        if labels is None:
            return seen[:-1] & seen[1:]
        defined = labels < self.n_classes
        if not defined.all():
            self.notes.append(f"left out {int((~defined).sum())} bins where {self.config.label_name} is undefined")
        return (seen & defined)[:n_samples]

    def _leave_out(self, split: Split, usable: NDArray[np.bool_]) -> Split:
        parts = {name: indices[usable[indices]] for name, indices in vars(split).items()}
        for name in ("train", "val"):
            if not len(parts[name]):
                raise SettingsError(
                    f"no usable bin in the {name} part of the split. Try another --fold or a smaller --buffer"
                )
        return Split(**parts)

    def _check_classes(self, labels: NDArray[np.uint8]) -> None:
        present = np.unique(labels[self.split.train])
        if len(present) < 2:
            raise SettingsError(
                f"label {self.config.label_name} has only the value {present[0]} in the {len(self.split.train)} "
                "training bins, so there is nothing to learn. Try another --fold, --buffer or --label-name"
            )

    def setup(self, stage: str) -> None:
        """Move the counts to the device, once."""
        if self.trainer is not None:
            self.samples = self.samples.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> ShuffledBlocks:
        """Return the shuffled training samples."""
        config = self.config
        return ShuffledBlocks(
            samples=self.samples, indices=self.split.train, batch_size=config.batch_size, seed=config.seed
        )

    def val_dataloader(self) -> OrderedBlocks:
        """Return the validation samples."""
        return self.blocks("val")

    def test_dataloader(self) -> OrderedBlocks:
        """Return the test samples."""
        return self.blocks("test")

    def blocks(self, part: str) -> OrderedBlocks:
        """Return the samples of a part of the split in order."""
        return OrderedBlocks(samples=self.samples, indices=getattr(self.split, part))
