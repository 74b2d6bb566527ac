"""Epochs on the device: one permutation an epoch, one gather per block of mini-batches.

A block is many mini-batches in one piece, so that Python, Lightning and the gather are paid for once per block.
Block after block and batch after batch, the samples come in the order of the permutation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_SAMPLES = 8192
"""At most about this many samples are gathered at once; more would not be faster, and floats of them cost memory."""

MAX_BLOCK_VALUES = 2**23
"""At most this many counts in a block (32 MB as float32)."""


class Block(NamedTuple):
    """Samples in order, as stored: counts (n_samples, n_units), and what is to be predicted from them."""

    counts: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All samples of a session on one device.

    counts : (n_bins, n_units), uint8 (int32 where a count needs more)
    labels : (n_bins,) class indices uint8, or None for next-bin prediction, whose target is the next row of counts
    """

    counts: Tensor
    labels: Tensor | None = None

    def gather(self, indices: Tensor) -> Block:
        """Return samples by index, in that order."""
        targets = self.counts[indices + 1] if self.labels is None else self.labels[indices]
        return Block(self.counts[indices], targets)

    def to(self, device: torch.device) -> "Samples":
        """Return the same samples on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Samples(counts=self.counts.to(device), labels=labels)


@dataclass(kw_only=True)
class ShuffledBlocks:
    """The training samples of one epoch after another, each exactly once per epoch.

    Each iteration is the next epoch unless `epoch` is set; its order is a function of seed and epoch alone.
    """

    samples: Samples
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    batch_size: int
    seed: int
    epoch: int = 0

    @property
    def block_samples(self) -> int:
        """Samples per block: whole mini-batches."""
        n_values = min(BLOCK_SAMPLES, MAX_BLOCK_VALUES // self.samples.counts.shape[1])
        return max(1, n_values // self.batch_size) * self.batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.block_samples)

    def __iter__(self) -> Iterator[Block]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.indices)
        self.epoch += 1
        on_device = torch.from_numpy(order).to(self.samples.counts.device)
        for indices in on_device.split(self.block_samples):
            yield self.samples.gather(indices)


@dataclass(frozen=True, kw_only=True)
class OrderedBlocks:
    """Samples in ascending order, for evaluation, in as few blocks as memory allows."""

    samples: Samples
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]

    @property
    def block_samples(self) -> int:
        """Samples per block."""
        return max(1, MAX_BLOCK_VALUES // self.samples.counts.shape[1])

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.block_samples)

    def __iter__(self) -> Iterator[Block]:
        on_device = torch.from_numpy(self.indices).to(self.samples.counts.device)
        for indices in on_device.split(self.block_samples):
            yield self.samples.gather(indices)
