"""What a decoder must beat: predictions that need no network, (n_samples, n_outputs) for a block."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from summer_train.batches import Block

Predict = Callable[[Block], Tensor]


def copy_last_bin(block: Block) -> Tensor:
    """Predict that the next bin is like this one."""
    return block.counts.double()


def mean_count(training: Iterable[Block]) -> Predict:
    """Return what always predicts each unit's mean target count in training."""
    total, n_samples = torch.zeros((), dtype=torch.float64), 0
    for block in training:
        total = total.to(block.targets.device) + block.targets.sum(dim=0, dtype=torch.float64)
        n_samples += len(block.targets)
    mean = total / n_samples
    return lambda block: mean.expand(len(block.targets), -1)


def majority_class(training: Iterable[Block], n_classes: int) -> Predict:
    """Return what always predicts the most frequent class of training, with the classes' shares as odds."""
    counts = class_counts(training, n_classes)
    shares = counts.double() / counts.sum()
    logits = shares.clamp_min(torch.finfo(torch.float32).tiny).log()
    return lambda block: logits.expand(len(block.targets), -1)


def class_counts(blocks: Iterable[Block], n_classes: int) -> Tensor:
    """Return the number of samples of each class, (n_classes,)."""
    counts = torch.zeros((), dtype=torch.int64)
    for block in blocks:
        counts = counts.to(block.targets.device) + torch.bincount(block.targets.int(), minlength=n_classes)
    return counts
