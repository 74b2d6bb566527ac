"""One Lightning data module for both tasks: which samples there are, how they are split, and the loaders."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.layout import UNDEFINED
from summer_train.batches import Block, OrderedBlocks, ResidentSamples, Samples, ShuffledBlocks, StreamedSamples
from summer_train.config import FitConfig
from summer_train.splits import Split, blocked_split, fraction_split

if TYPE_CHECKING:
    from summer_train.cache import Selection

DEFAULT_MEMORY_SHARE = 0.8
"""Of the memory that is free, how much counts may take by default."""


class FilmData(lightning.LightningDataModule):
    """The samples of one run.

    Attributes
    ----------
    split : sample indices of each part, after undefined and never seen bins are left out
    n_units, n_classes : sizes of the model's input and, for labels, output
    notes : what was left out and why, for people
    """

    def __init__(
        self, selection: "Selection", config: FitConfig, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        super().__init__()
        self.say = say
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
        self.selection = selection
        self.labels = labels
        self.samples: Samples
        self.device = torch.device("cpu")
        self.rank, self.n_processes = 0, 1

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)

    def _read_labels(self, selection: "Selection") -> NDArray[np.uint8]:
        """Return class indices: 0, 1, and 2 for undefined."""
        raw = selection.labels(self.config.label_name, self.config.label_rule)
        has_undefined = bool((raw == UNDEFINED).any())
        as_class = self.config.undefined == "class"
        self.n_classes = 3 if has_undefined and as_class else 2
        if as_class and not has_undefined:
            self._note(f"label {self.config.label_name} is defined everywhere; --undefined class changes nothing")
        return np.where(raw == UNDEFINED, np.uint8(2), raw)

    def _split(self, n_samples: int) -> Split:
        config = self.config
        if config.val_fraction is not None:
            return fraction_split(n_samples, config.val_fraction)
        assert config.buffer_s is not None
        assert config.fold is not None
        return blocked_split(n_samples, config.bin_length_ms, config.buffer_s, config.fold, config.sequence_s)

    def _usable(self, selection: "Selection", labels: NDArray[np.uint8] | None, n_samples: int) -> NDArray[np.bool_]:
        seen = selection.seen()
        if not seen.all():
            self._note(f"left out {int((~seen).sum())} bins that a patient never saw")
        if labels is None:
            return seen[:-1] & seen[1:]
        defined = labels < self.n_classes
        if not defined.all():
            self._note(f"left out {int((~defined).sum())} bins where {self.config.label_name} is undefined")
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
        """Place the samples for the device of the trainer."""
        if self.trainer is not None and not hasattr(self, "samples"):
            self.rank, self.n_processes = self.trainer.global_rank, self.trainer.world_size
            self.place(self.trainer.strategy.root_device)

    def place(self, device: torch.device) -> None:
        """Move the counts to a device, once; where they do not fit, let them stream from the mapped files."""
        self.device = device
        is_mapped_as_it_is = device.type == "cpu" and self.selection.counts_if_mapped() is not None
        if self.selection.n_bytes > self._budget_bytes(device) and not is_mapped_as_it_is:
            self._note(
                f"streaming {self.selection.n_bytes / 1e9:.1f} GB of counts from the mapped files: more than the "
                f"{self._budget_bytes(device) / 1e9:.1f} GB that may be used on {device}"
            )
            self.samples = StreamedSamples(selection=self.selection, labels=self.labels, device=device)
            return
        counts = self.selection.counts()
        if counts.dtype == np.uint16:
            counts = counts.astype(np.int32)  # torch indexes no uint16
        labels = None if self.labels is None else torch.from_numpy(self.labels).to(device)
        self.samples = ResidentSamples(counts=torch.from_numpy(counts).to(device), labels=labels)

    def _budget_bytes(self, device: torch.device) -> float:
        if self.config.device_memory_gb is not None:
            return self.config.device_memory_gb * 1e9
        if device.type == "cuda":
            return DEFAULT_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
        return DEFAULT_MEMORY_SHARE * available_bytes()

    def train_dataloader(self) -> ShuffledBlocks:
        """Return the shuffled training samples."""
        return ShuffledBlocks(
            samples=self.samples,
            indices=self.split.train,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            rank=self.rank,
            n_processes=self.n_processes,
            current_epoch=lambda: 0 if self.trainer is None else self.trainer.current_epoch,
        )

    def val_dataloader(self) -> OrderedBlocks:
        """Return this process's share of the validation samples."""
        return self.blocks("val", self.rank, self.n_processes)

    def test_dataloader(self) -> OrderedBlocks:
        """Return this process's share of the test samples."""
        return self.blocks("test", self.rank, self.n_processes)

    def blocks(self, part: str, rank: int = 0, n_processes: int = 1) -> OrderedBlocks:
        """Return the samples of a part of the split in order."""
        return OrderedBlocks(
            samples=self.samples, indices=getattr(self.split, part), rank=rank, n_processes=n_processes
        )

    def transfer_batch_to_device(self, batch: Block, device: torch.device, dataloader_idx: int) -> Block:
        """Return the block as it is: it was gathered on the device."""
        return batch


def available_bytes() -> float:
    """Return the memory that the system could give, by its own estimate."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable")]
        return float(line.split()[1]) * 1024
    except (OSError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
