"""Epochs on the device: one permutation an epoch, one gather per block of mini-batches.

A block is many mini-batches in one piece, so that Python, Lightning and the gather are paid for once per block.
Block after block and batch after batch, the samples come in the order of the permutation, which is a function of seed
and epoch alone: the same for samples on the device and for samples that stream from the mapped file, and the same for
one process and for several, each of which takes its share of every batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_train.cache import Selection

BLOCK_SAMPLES = 8192
"""At most about this many samples in a block; more would not be faster, and floats of them cost memory."""

MAX_BLOCK_VALUES = 2**21
"""At most this many counts in a block of training samples (8 MB as float32)."""

MAX_EVALUATION_VALUES = 2**20
"""The same for evaluation: larger blocks leave the processor's cache and are slower (docs/performance.md)."""


class Block(NamedTuple):
    """Samples in order, as stored: counts (n_samples, n_units), and what is to be predicted from them.

    local_sizes, batch_sizes : for training, how many samples of each mini-batch are here, and in all processes
    """

    counts: Tensor
    targets: Tensor
    local_sizes: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = ()


class Samples(Protocol):
    """Where samples come from: `ResidentSamples` or `StreamedSamples`."""

    @property
    def n_units(self) -> int:
        """Width of a row of counts."""

    def gather(self, index_blocks: Iterable[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield counts and targets of each block of sample indices, on the device."""


@dataclass(frozen=True, kw_only=True)
class ResidentSamples:
    """All samples on the device.

    counts : (n_bins, n_units), uint8 (int32 where a count needs more)
    labels : (n_bins,) class indices uint8, or None for next-bin prediction, whose target is the next row of counts
    """

    counts: Tensor
    labels: Tensor | None = None

    @property
    def n_units(self) -> int:
        """Width of a row of counts."""
        return self.counts.shape[1]

    def gather(self, index_blocks: Iterable[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield counts and targets of each block of sample indices."""
        for block in index_blocks:
            indices = torch.from_numpy(block).to(self.counts.device)
            # index_select copies whole rows; indexing with brackets goes element by element, 15 times slower.
            targets = self.counts.index_select(0, indices + 1) if self.labels is None else self.labels[indices]
            yield self.counts.index_select(0, indices), targets


@dataclass(frozen=True, kw_only=True)
class StreamedSamples:
    """Samples that stay in the mapped files: two staging buffers fill in turn while the device computes.

    On a GPU the buffers are pinned, so that copies overlap with computing too.
    """

    selection: Selection
    labels: NDArray[np.uint8] | None
    device: torch.device

    @property
    def n_units(self) -> int:
        """Width of a row of counts."""
        return self.selection.n_units

    def gather(self, index_blocks: Iterable[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield counts and targets of each block of sample indices."""
        staging: tuple[list[Tensor], list[Tensor]] = ([], [])
        with ThreadPoolExecutor(1) as reader:
            pending = None
            for turn, block in enumerate(index_blocks):
                # The buffer of this turn was last handed out two blocks ago.
                following = reader.submit(self._stage, block, staging[turn % 2])
                if pending is not None:
                    yield self._on_device(pending.result())
                pending = following
            if pending is not None:
                yield self._on_device(pending.result())

    def _stage(self, indices: NDArray[np.int64], buffers: list[Tensor]) -> tuple[Tensor, Tensor]:
        n_rows = len(indices)
        if not buffers or len(buffers[0]) < n_rows:
            shape, dtype = (n_rows, self.n_units), torch_dtype(self.selection.dtype)
            pin = self.device.type == "cuda"
            buffers[:] = [torch.empty(shape, dtype=dtype, pin_memory=pin) for _ in range(2)]
        counts, following = (buffer[:n_rows] for buffer in buffers)
        self.selection.take_rows(indices, counts.numpy())
        if self.labels is not None:
            return counts, torch.from_numpy(self.labels[indices])
        self.selection.take_rows(indices + 1, following.numpy())
        return counts, following

    def _on_device(self, staged: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        counts, targets = (tensor.to(self.device, non_blocking=True) for tensor in staged)
        if self.device.type == "cuda":
            # The buffers are filled again by a thread that knows nothing of streams.
            torch.cuda.current_stream(self.device).synchronize()
        return counts, targets


@dataclass(frozen=True, kw_only=True)
class ShuffledBlocks:
    """The training samples, each exactly once per epoch over all processes.

    rank, n_processes : this process takes every n_processes-th sample of each mini-batch, from `rank` on
    current_epoch : asked at the start of each pass
    """

    samples: Samples
    indices: NDArray[np.int64]
    batch_size: int
    seed: int
    rank: int = 0
    n_processes: int = 1
    current_epoch: Callable[[], int] = lambda: 0

    @property
    def block_samples(self) -> int:
        """Samples per block: whole mini-batches."""
        n_samples = min(BLOCK_SAMPLES, MAX_BLOCK_VALUES // self.samples.n_units)
        return max(1, n_samples // self.batch_size) * self.batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.block_samples)

    def __iter__(self) -> Iterator[Block]:
        order = np.random.default_rng([self.seed, self.current_epoch()]).permutation(self.indices)
        blocks = [order[start : start + self.block_samples] for start in range(0, len(order), self.block_samples)]
        gathered = self.samples.gather(self._share(block) for block in blocks)
        for block, (counts, targets) in zip(blocks, gathered, strict=True):
            yield Block(counts, targets, *self._sizes(len(block)))

    def _share(self, block: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.n_processes == 1:
            return block
        place_in_batch = np.arange(len(block)) % self.batch_size
        share: NDArray[np.int64] = block[place_in_batch % self.n_processes == self.rank]
        return share

    def _sizes(self, n_samples: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        n_whole, rest = divmod(n_samples, self.batch_size)
        batch_sizes = (self.batch_size,) * n_whole + ((rest,) if rest else ())
        return tuple(math.ceil((size - self.rank) / self.n_processes) for size in batch_sizes), batch_sizes


@dataclass(frozen=True, kw_only=True)
class OrderedBlocks:
    """Samples in ascending order, for evaluation, in as few blocks as memory allows; each process takes its share."""

    samples: Samples
    indices: NDArray[np.int64]
    rank: int = 0
    n_processes: int = 1

    def __len__(self) -> int:
        return len(self._blocks())

    def __iter__(self) -> Iterator[Block]:
        for counts, targets in self.samples.gather(self._blocks()):
            yield Block(counts, targets)

    def _blocks(self) -> list[NDArray[np.int64]]:
        n_samples = max(1, MAX_EVALUATION_VALUES // self.samples.n_units)
        share = self.indices[self.rank :: self.n_processes]
        return [share[start : start + n_samples] for start in range(0, len(share), n_samples)]


def torch_dtype(counts_dtype: np.dtype[np.generic]) -> torch.dtype:
    """Return the dtype that holds counts in torch, which indexes no uint16."""
    return torch.uint8 if counts_dtype == np.uint8 else torch.int32
