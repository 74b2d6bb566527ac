"""What a decoder must beat: predictions that need no network."""

from collections.abc import Iterable

import torch
from torch import Tensor

from summer_train.batches import Block


def copy_last_bin(blocks: Iterable[Block]) -> dict[str, float]:
    """Return the mean squared error of predicting that the next bin is like this one."""
    return _squared_error((block.counts.float(), block.targets.float()) for block in blocks)


def mean_count(blocks: Iterable[Block], mean: Tensor) -> dict[str, float]:
    """Return the mean squared error of always predicting each unit's mean count in training, (n_units,)."""
    return _squared_error((mean, block.targets.float()) for block in blocks)


def training_mean(blocks: Iterable[Block]) -> Tensor:
    """Return each unit's mean target count, (n_units,)."""
    total, n_samples = torch.zeros(()), 0
    for block in blocks:
        total = total.to(block.targets.device) + block.targets.sum(dim=0, dtype=torch.float64)
        n_samples += len(block.targets)
    return (total / n_samples).float()


def class_counts(blocks: Iterable[Block], n_classes: int) -> Tensor:
    """Return the number of samples of each class, (n_classes,)."""
    count = sum(torch.bincount(block.targets.int(), minlength=n_classes) for block in blocks)
    assert isinstance(count, Tensor)
    return count


def majority_class(blocks: Iterable[Block], training_counts: Tensor) -> dict[str, float]:
    """Return the accuracy of always predicting the most frequent training class, and the loss of its shares as odds."""
    count = class_counts(blocks, len(training_counts))
    shares = training_counts / training_counts.sum()
    loss = -(count * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum() / count.sum()
    return {"loss": float(loss), "accuracy": float(count[training_counts.argmax()] / count.sum())}


def _squared_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    total, n_values = 0.0, 0
    for prediction, target in pairs:
        total += float((prediction - target).square().sum(dtype=torch.float64))
        n_values += target.numel()
    return {"loss": total / n_values}
