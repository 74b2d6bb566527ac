"""What a decoder must beat: predictions that need no network, (n_samples, n_outputs)."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_prep.film.splits import Indices
from summer_train.data.batches import Block

PredictCounts = Callable[[Block], Tensor]
"""Block -> counts of the next bin, float64."""

PredictClasses = Callable[[Indices], Tensor]
"""Samples -> log-probabilities of the classes, float64: what is known of a label without the counts."""

Shares = NDArray[np.float64]

SMOOTHING_WIDTHS_S = tuple(float(2**power) for power in range(10))
"""Standard deviations that `time only` chooses from: 1 s to 8.5 minutes."""


def copy_last_bin(block: Block) -> Tensor:
    """Predict that the next bin is like this one: the last one of the window."""
    return (block.counts if block.counts.dim() == 2 else block.counts[:, -1]).double()


def mean_count(training: Iterable[Block]) -> PredictCounts:
    """Return what always predicts each unit's mean target count in training."""
    total, n_samples = torch.zeros((), dtype=torch.float64), 0
    for block in training:
        total = total.to(block.targets.device) + block.targets.sum(dim=0, dtype=torch.float64)
        n_samples += len(block.targets)
    mean = total / n_samples
    return lambda block: mean.expand(len(block.targets), -1)


def majority_class(classes: NDArray[np.uint8], train: Indices, n_classes: int) -> PredictClasses:
    """Return what always predicts the most frequent class of training, with the classes' shares as odds."""
    n_per_class = np.bincount(classes[train], minlength=n_classes)
    log_shares = _log(n_per_class / n_per_class.sum())
    return lambda indices: log_shares.expand(len(indices), -1)


def time_only(
    classes: NDArray[np.uint8], train: Indices, val: Indices, n_classes: int, bin_length_ms: int
) -> PredictClasses:
    """Return what predicts a label from the time in the film alone.

    No neuron has a part in it: the class shares of the training bins around a bin, weighted by a Gaussian in film
    time. Labels are slow, so whoever knows the minutes beside a bin knows something of its label; a decoder that is
    no better than this has found nothing in the neurons.

    Parameters
    ----------
    classes : (n_bins,)
    train, val : bins that are smoothed, and those whose log-likelihood chooses among SMOOTHING_WIDTHS_S

    Source: our decision.
    """
    every_width = smoothed_shares(classes, train, n_classes, bin_length_ms)
    likeliest = max(every_width, key=lambda shares: float(np.log(shares[classes[val], val]).mean()))
    log_shares = _log(likeliest.T)
    return lambda indices: log_shares[torch.from_numpy(indices)]


def smoothed_shares(classes: NDArray[np.uint8], train: Indices, n_classes: int, bin_length_ms: int) -> Iterable[Shares]:
    """Yield for each width the share of each class around each bin, (n_classes, n_bins), from training bins alone.

    The shares of all training bins count as one bin more everywhere, so none is 0 and far from training bins all are
    those of the whole.
    """
    n_bins = len(classes)
    widths = [width_s for width_s in SMOOTHING_WIDTHS_S if width_s * 1000 < n_bins * bin_length_ms]
    widths = widths or list(SMOOTHING_WIDTHS_S[:1])
    padded = _fast_length(n_bins + int(4 * widths[-1] * 1000 / bin_length_ms))
    is_class = np.zeros((n_classes, n_bins))
    is_class[classes[train], train] = 1
    whole = (is_class.sum(axis=1) + 1e-6) / (len(train) + 1e-6 * n_classes)
    spectrum = np.fft.rfft(is_class, padded)
    frequencies = np.fft.rfftfreq(padded)
    for width_s in widths:
        width_bins = width_s * 1000 / bin_length_ms
        # Of a Gaussian whose peak is 1, so that a training bin next to a bin counts as one.
        kernel = np.exp(-2 * (np.pi * frequencies * width_bins) ** 2) * width_bins * np.sqrt(2 * np.pi)
        near = np.fft.irfft(spectrum * kernel, padded)[:, :n_bins].clip(min=0)
        yield (near + whole[:, None]) / (near.sum(axis=0) + 1)


def _fast_length(least: int) -> int:
    """Return a length whose transform is fast: a small multiple of a power of two."""
    power = 1 << max(0, least.bit_length() - 4)
    return -(-least // power) * power


def _log(shares: Shares) -> Tensor:
    return torch.from_numpy(np.log(shares.clip(min=np.finfo(np.float32).tiny)))
