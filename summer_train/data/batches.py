"""Epochs on the device: one permutation an epoch, one gather per block of mini-batches.

A block is many mini-batches in one piece, so that the cost of Python, Lightning and the gather is paid once per block.
The samples come in the order of the permutation, which depends on seed and epoch alone: it is the same for samples on
the device and for samples that stream from the mapped file, for one process and for several, each of which takes its
share of every batch, and for the plain batches of other people's trainers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_prep.film.splits import OWN_BIN, Indices, Window
from summer_train.data.selection import Selection

BLOCK_SAMPLES = 8192  # in a block, at most about; more would not be faster, and floats of them cost memory
MAX_BLOCK_VALUES = 2**21  # counts in a block of training samples (8 MB as float32)
MAX_EVALUATION_VALUES = 2**20  # for evaluation: larger ones leave the processor's cache (docs/performance.md)


class Block(NamedTuple):
    """Samples in order, as stored: counts (n_samples, n_units), and what is to be predicted from them.

    Where a sample is a window of several bins, counts are (n_samples, n_bins, n_units), time first.

    local_sizes, batch_sizes : for training, how many samples of each mini-batch are here, and in all processes
    """

    counts: Tensor
    targets: Tensor
    local_sizes: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = ()


Outputs = Callable[[Block], Tensor]
"""Block -> outputs of several networks, (n_networks, n_samples, n_outputs)."""


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """Inputs and targets, one row per bin, from which samples are gathered in any order.

    counts, targets : (n_bins, n_units), (n_bins, ...); for the next bin's counts, targets are the counts themselves. To
        encode, features take the place of counts, (n_bins, n_inputs), and counts are the targets
    target_offset : how many bins after a sample's own its target lies
    window : the bins that a sample is predicted from
    n_outputs : of encoding networks, which predict more than they see
    """

    counts: Any
    targets: Any = None
    target_offset: int = 0
    window: Window = OWN_BIN
    n_outputs: int = 1

    @property
    def n_values(self) -> int:
        """Number of counts of a sample, by which blocks are bounded."""
        return max(self.n_outputs, self.window.n_bins * int(self.counts.shape[1]))

    def bins_of(self, samples: Tensor) -> Tensor:
        """Return the bins that samples are predicted from, one sample after the other, (n_samples * n_bins,)."""
        offsets = torch.arange(self.window.first, self.window.last + 1, device=samples.device)
        return (samples[:, None] + offsets).flatten()

    def by_sample(self, rows: Tensor) -> Tensor:
        """Return the rows of `bins_of` by sample: (n_samples, n_units), or (n_samples, n_bins, n_units) of several."""
        return rows if self.window.n_bins == 1 else rows.view(-1, self.window.n_bins, rows.shape[-1])


class ResidentSamples(_Samples):
    """All samples on the device: counts are a tensor of uint8 (int32 where a count needs more), targets another."""

    def gather(self, index_blocks: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield counts and targets of each block of sample indices."""
        for block in index_blocks:
            indices = torch.from_numpy(block).to(self.counts.device)
            # index_select copies whole rows; indexing with brackets goes element by element, 15 times slower.
            counts = self.counts.index_select(0, self.bins_of(indices))
            yield self.by_sample(counts), self.targets.index_select(0, indices + self.target_offset)


@dataclass(frozen=True, kw_only=True)
class StreamedSamples(_Samples):
    """Samples that stay in the mapped files: two staging buffers are filled in turn while the device computes.

    Counts are a `Selection`, targets the same or an array. On a GPU the buffers of single blocks are pinned, so that
    copies overlap with computing, too.

    read_ahead_bytes : size of the rows that a buffer takes; 0 for those of one block. A disk delivers shuffled rows at
        its full speed only if many are read at a time, in the order of the disk.
    """

    device: torch.device
    read_ahead_bytes: int = 0

    def gather(self, index_blocks: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield counts and targets of each block of sample indices."""
        buffers: tuple[list[Tensor], list[Tensor]] = ([], [])
        pending: tuple[Future[list[Tensor]], list[int]] | None = None
        with ThreadPoolExecutor(1) as reader:
            for turn, blocks in enumerate(chain(self._read_at_once(index_blocks), [None])):
                ready, pending = pending, None
                if blocks is not None:  # the buffer of this turn was last handed out two turns ago
                    staged = reader.submit(self._stage, np.concatenate(blocks), buffers[turn % 2])
                    pending = staged, [len(block) for block in blocks]
                if ready is None:
                    continue
                for parts in zip(*(tensor.split(ready[1]) for tensor in ready[0].result()), strict=True):
                    counts, targets = (part.to(self.device, non_blocking=True) for part in parts)
                    if self.device.type == "cuda":
                        # The buffers are filled again by a thread that knows nothing of streams.
                        torch.cuda.current_stream(self.device).synchronize()
                    yield counts, targets

    def _read_at_once(self, index_blocks: Iterable[Indices]) -> Iterator[list[Indices]]:
        """Yield as many blocks together as a buffer takes, at least one."""
        sample_bytes = sum(
            n_rows * math.prod(rows.shape[1:]) * _torch_dtype(rows).itemsize
            for n_rows, rows in ((self.window.n_bins, self.counts), (1, self.targets))
        )
        blocks: list[Indices] = []
        n_samples = 0
        for block in index_blocks:
            if blocks and (n_samples + len(block)) * sample_bytes > self.read_ahead_bytes:
                yield blocks
                blocks, n_samples = [], 0
            blocks.append(block)
            n_samples += len(block)
        if blocks:
            yield blocks

    def _stage(self, indices: Indices, buffers: list[Tensor]) -> list[Tensor]:
        """Read samples into buffers, which are replaced if they are too small; return the parts that are filled."""
        own_bins = self.bins_of(torch.from_numpy(indices)).numpy()
        sources = [(self.counts, own_bins), (self.targets, indices + self.target_offset)]
        if not buffers or len(buffers[1]) < len(indices):
            pin = self.device.type == "cuda" and not self.read_ahead_bytes
            buffers[:] = [
                torch.empty((len(bins), *rows.shape[1:]), dtype=_torch_dtype(rows), pin_memory=pin)
                for rows, bins in sources
            ]
        staged = [buffer[: len(bins)] for buffer, (_, bins) in zip(buffers, sources, strict=True)]
        for (rows, bins), out in zip(sources, staged, strict=True):
            if isinstance(rows, Selection):
                rows.read_rows(bins, out.numpy())
            else:
                np.take(rows, bins, axis=0, out=out.numpy())
        return [self.by_sample(staged[0]), staged[1]]


Samples = ResidentSamples | StreamedSamples


def samples_per_block(n_values: int, batch_size: int) -> int:
    """Return how many samples, of so many counts each, a block of training samples has: whole mini-batches."""
    n_samples = min(BLOCK_SAMPLES, MAX_BLOCK_VALUES // n_values)
    return max(1, n_samples // batch_size) * batch_size


@dataclass(frozen=True, kw_only=True)
class OrderedBlocks:
    """Samples in ascending order, for evaluation, in as few blocks as memory allows; each process takes its share.

    Every process has as many blocks, some of them perhaps empty: what follows a block may wait for all processes.

    rank, n_processes : this process takes every n_processes-th sample, from `rank` on
    """

    samples: Samples
    indices: Indices
    rank: int = 0
    n_processes: int = 1

    def __len__(self) -> int:
        return len(self._blocks())

    def __iter__(self) -> Iterator[Block]:
        for counts, targets in self.samples.gather(self._blocks()):
            yield Block(counts, targets)

    def _blocks(self) -> list[Indices]:
        n_samples = max(1, MAX_EVALUATION_VALUES // self.samples.n_values) * self.n_processes
        starts = range(0, len(self.indices), n_samples)
        return [self.indices[start : start + n_samples][self.rank :: self.n_processes] for start in starts]


@dataclass(frozen=True, kw_only=True)
class ShuffledBlocks(OrderedBlocks):
    """The training samples, each exactly once per epoch over all processes, which share every mini-batch.

    current_epoch : called at the start of each pass
    provenance : what the samples are, for checkpoints
    """

    batch_size: int
    seed: int
    current_epoch: Callable[[], int] = lambda: 0
    provenance: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / samples_per_block(self.samples.n_values, self.batch_size))

    def __iter__(self) -> Iterator[Block]:
        order = np.random.default_rng([self.seed, self.current_epoch()]).permutation(self.indices)
        n_samples = samples_per_block(self.samples.n_values, self.batch_size)
        blocks = [order[start : start + n_samples] for start in range(0, len(order), n_samples)]
        gathered = self.samples.gather(
            block[np.arange(len(block)) % self.batch_size % self.n_processes == self.rank] for block in blocks
        )
        for block, (counts, targets) in zip(blocks, gathered, strict=True):
            starts = range(0, len(block), self.batch_size)
            batch_sizes = tuple(min(self.batch_size, len(block) - start) for start in starts)
            local_sizes = tuple(math.ceil((size - self.rank) / self.n_processes) for size in batch_sizes)
            yield Block(counts, targets, local_sizes, batch_sizes)


@dataclass(frozen=True, kw_only=True)
class WholeEpochs:
    """All training samples as the only item of an epoch, to be passed over as often as it takes."""

    blocks: OrderedBlocks
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[OrderedBlocks]:
        yield self.blocks


def is_distributed() -> bool:
    """Return whether other processes train the same network."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def this_process() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of all that train together."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if is_distributed() else (0, 1)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Plain batches (x, y) of `batch_size` for any trainer: float32 counts, and targets as torch's losses take them.

    Each of several processes gets as many batches. Where the samples do not divide evenly, the first few come twice,
    as with torch's DistributedSampler.

    as_target : stored targets -> y
    epoch_of_pass : called at the start of each pass for the epoch whose order it has; None = in ascending order
    process : called at the start of each pass for this process's number and that of all
    with_bins : whether batches are (x, y, bins): with the bin that each sample is named by, int64
    provenance : what the samples are, for checkpoints
    """

    samples: Samples
    indices: Indices
    batch_size: int
    as_target: Callable[[Tensor], Tensor]
    seed: int = 0
    epoch_of_pass: Callable[[], int] | None = None
    process: Callable[[], tuple[int, int]] = this_process
    with_bins: bool = False
    provenance: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self.indices) / self.process()[1]) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = self.indices
        if self.epoch_of_pass is not None:
            order = np.random.default_rng([self.seed, self.epoch_of_pass()]).permutation(order)
        rank, n_processes = self.process()
        share = np.resize(order, math.ceil(len(order) / n_processes) * n_processes)[rank::n_processes]
        n_samples = samples_per_block(self.samples.n_values, self.batch_size)
        blocks = [share[start : start + n_samples] for start in range(0, len(share), n_samples)]
        for bins, (counts, targets) in zip(blocks, self.samples.gather(blocks), strict=True):
            columns = [counts.float(), self.as_target(targets)]
            columns += [torch.from_numpy(bins).to(counts.device)] if self.with_bins else []
            yield from zip(*(one.split(self.batch_size) for one in columns), strict=True)


def _torch_dtype(rows: Selection | NDArray[Any]) -> torch.dtype:
    known = {np.uint8: torch.uint8, np.float32: torch.float32}
    return known.get(rows.dtype.type, torch.int32)  # torch indexes no uint16
