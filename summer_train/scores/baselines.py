"""What a decoder must beat: predictions that need no network, (n_samples, n_outputs)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_prep.film.splits import Indices
from summer_train.data.batches import Block
from summer_train.data.targets import standardised, unscaled

SMOOTHING_WIDTHS_S = tuple(float(2**power) for power in range(10))  # 1 s to 8.5 minutes


def copy_last_bin(block: Block) -> Tensor:
    """Predict the counts of the last bin of the window for the next one."""
    return (block.counts if block.counts.dim() == 2 else block.counts[:, -1]).double()


def mean_count(training: Iterable[Block]) -> Tensor:
    """Return each unit's mean target count in training, (n_units,) float64: what is always predicted."""
    total, n_samples = torch.zeros((), dtype=torch.float64), 0
    for block in training:
        total = total.to(block.targets.device) + block.targets.sum(dim=0, dtype=torch.float64)
        n_samples += len(block.targets)
    return total / n_samples


def majority_class(classes: NDArray[np.uint8], train: Indices, n_classes: int) -> Tensor:
    """Return the class shares of training in every bin, whose likeliest is the majority, as `time_only`."""
    shares = (np.bincount(classes[train], minlength=n_classes) / len(train)).clip(min=np.finfo(np.float32).tiny)
    return torch.from_numpy(np.log(shares)).expand(len(classes), -1)


def time_only(classes: NDArray[np.uint8], train: Indices, val: Indices, n_classes: int, bin_length_ms: int) -> Tensor:
    """Return the log-probabilities of a label's classes given the time in the film alone, (n_bins, n_classes) float64.

    They are the class shares of the training bins around a bin, weighted by a Gaussian in film time; no neuron has a
    part in them. Labels are slow, so whoever knows the minutes beside a bin knows something of its label; a decoder
    that is no better than this has found nothing in the neurons. The shares of all training bins count as one bin more
    everywhere, so none is 0, and far from training bins all are those of the whole.

    Parameters
    ----------
    classes : (n_bins,)
    train, val : bins that are smoothed, and those whose log-likelihood chooses among SMOOTHING_WIDTHS_S

    Source: our decision.
    """
    n_bins = len(classes)
    is_class = np.zeros((n_classes, n_bins))
    is_class[classes[train], train] = 1
    whole = (is_class.sum(axis=1) + 1e-6) / (len(train) + 1e-6 * n_classes)
    shares, highest = np.empty(0), -np.inf
    for near in smoothed(is_class, widths_of(n_bins, bin_length_ms), bin_length_ms):
        near = near.clip(min=0)  # noqa: PLW2901
        found = (near + whole[:, None]) / (near.sum(axis=0) + 1)
        likelihood = float(np.log(found[classes[val], val]).mean())
        if likelihood > highest:
            shares, highest = found, likelihood
    return torch.from_numpy(np.log(shares.T))


def time_only_features(features: NDArray[np.float32], train: Indices, val: Indices, bin_length_ms: int) -> NDArray[Any]:
    """Return standardised features given the time in the film alone, (n_bins, n_dimensions), as `time_only`.

    The width is that of the least squared error on validation; of many dimensions some thirty choose it.
    """
    n_bins, n_dimensions = features.shape
    widths, is_train = widths_of(n_bins, bin_length_ms), np.isin(np.arange(n_bins), train)

    def predict(columns: Any, widths: Sequence[float]) -> Iterator[NDArray[np.float64]]:
        known = np.vstack([is_train, np.where(is_train, features[:, columns].T, 0)])
        for near in smoothed(known, widths, bin_length_ms):
            yield near[1:] / (near[0].clip(min=0) + 1)  # the mean of training, 0, counts as one bin more

    some = slice(None, None, -(-n_dimensions // 32))
    errors = [float(((found[:, val] - features[val][:, some].T) ** 2).sum()) for found in predict(some, widths)]
    found = np.empty_like(features)
    for start in range(0, n_dimensions, 32):
        columns = slice(start, start + 32)
        (found[:, columns],) = (one.T for one in predict(columns, [widths[int(np.argmin(errors))]]))
    return found


def time_only_counts(counts: NDArray[Any], train: Indices, val: Indices, bin_length_ms: int) -> NDArray[Any]:
    """Return counts given the time in the film alone, (n_bins, n_units), as `time_only_features`."""
    rows, scaling = standardised(counts.astype(np.float32), train)
    return unscaled(time_only_features(rows, train, val, bin_length_ms), scaling).clip(min=0)


def widths_of(n_bins: int, bin_length_ms: int) -> Sequence[float]:
    """Return the widths of Gaussians (s) that are shorter than a film."""
    return [width_s for width_s in SMOOTHING_WIDTHS_S if width_s * 1000 < n_bins * bin_length_ms] or [
        SMOOTHING_WIDTHS_S[0]
    ]


def smoothed(values: NDArray[Any], widths_s: Sequence[float], bin_length_ms: int) -> Iterator[NDArray[np.float64]]:
    """Yield rows, (n_rows, n_bins), smoothed by a Gaussian of each width; its peak is 1: a bin beside counts as one."""
    n_bins = values.shape[1]
    least = n_bins + int(4 * widths_s[-1] * 1000 / bin_length_ms)
    power = 1 << max(0, least.bit_length() - 4)
    padded = -(-least // power) * power  # a small multiple of a power of two, whose transform is fast
    spectrum, frequencies = np.fft.rfft(values, padded), np.fft.rfftfreq(padded)
    for width_s in widths_s:
        width_bins = width_s * 1000 / bin_length_ms
        kernel = np.exp(-2 * (np.pi * frequencies * width_bins) ** 2) * width_bins * np.sqrt(2 * np.pi)
        yield np.fft.irfft(spectrum * kernel, padded)[:, :n_bins]
