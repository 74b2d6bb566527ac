"""Which samples train, validate and test. Pure arithmetic."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import MAX_SECONDS

N_SEGMENTS = 5
Indices = NDArray[np.int64]


class Window(NamedTuple):
    """The bins that a sample is predicted from, both included, counted from the sample's own bin."""

    first: int = 0
    last: int = 0

    @property
    def n_bins(self) -> int:
        """Length of the window."""
        return self.last - self.first + 1

    def touched(self, target_offset: int) -> "Window":
        """Return all bins that a sample touches: its window, its own bin, and the bin of its target."""
        return Window(min(self.first, 0), max(self.last, target_offset))


OWN_BIN = Window()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Sample indices, int64, ascending, disjoint; `test` is empty under the fraction split."""

    train: Indices
    val: Indices
    test: Indices


def window_of(window_s: tuple[float, float], bin_length_ms: int) -> Window:
    """Return the bins of a window of seconds before and after a bin.

    Negative seconds leave bins out: past -0.32 and future 0.32 s is the one bin that lies 0.32 s later. Raises
    SettingsError if the window holds no bin, or leaves out part of a bin.
    """
    option = f"--window {window_s[0]:g} {window_s[1]:g}"
    for seconds in window_s:
        bins = seconds * 1000 / bin_length_ms
        if seconds < 0 and abs(bins - round(bins)) > 1e-6:
            problem = f"{seconds:g} s is no multiple of the bin length of {bin_length_ms} ms"
            raise SettingsError(f"{option}: {problem}, and part of a bin cannot be left out. Choose a multiple")
    past, future = (_whole_bins(seconds, bin_length_ms) for seconds in window_s)
    if -past > future:
        start_s, stop_s = (bins * bin_length_ms / 1000 for bins in (-past, future))
        problem = f"since it begins {start_s:g} s after a bin and ends {stop_s:g} s after it"
        raise SettingsError(f"{option}: holds no bin of {bin_length_ms} ms, {problem}")
    return Window(-past, future)


def blocked_split(
    n_samples: int,
    bin_length_ms: int,
    buffer_s: float,
    fold: int,
    sequence_s: tuple[float, float] = (3.0, 1.0),
    window: Window = OWN_BIN,
    *,
    target_offset: int = 0,
) -> Split:
    """Split a session into cycles of five segments with unused gaps between training, validation and test.

    Parameters
    ----------
    n_samples : consecutive bins, or pairs of bins
    buffer_s : time that must lie between what samples of different parts touch: windows, own bins and targets
    fold : 1 to 5, the segment that validates; the one before it tests
    sequence_s : past and future that a window around a sample may reach
    window : the bins that it does reach: the longer of the two is kept free beside the buffer
    target_offset : how many bins after a sample's own its target lies: 0 for a label, 1 for the counts of the next bin

    Raises
    ------
    SettingsError : no such fold, or the buffer leaves no segment

    Notes
    -----
    A cycle, for fold 2 (s: segment, ``|``: unused gap, ``=``: gap that trains because training lies on both sides)::

        s1 test | s2 val | s3 train = s4 train = s5 train |      next cycle: s1 test ...

    Source: the published pipeline's blocked split; folds are numbered by the validation segment (docs/science.md).
    """
    check_fold(fold)

    def sizes(buffer_s: float) -> tuple[int, int, int]:
        """Return the number of cycles, and the samples in a segment and in a gap."""
        n_cycles = _n_cycles(n_samples, bin_length_ms, buffer_s)
        # Past and future of a window are whole bins each: together they can be one bin more than their seconds.
        gap_of_window = _whole_bins(buffer_s, bin_length_ms) + window.touched(target_offset).n_bins - 1
        gap = max(_whole_bins(buffer_s + sum(sequence_s), bin_length_ms), gap_of_window)
        return n_cycles, int((n_samples // n_cycles - N_SEGMENTS * gap) / N_SEGMENTS), gap

    n_cycles, segment, gap = sizes(buffer_s)
    if segment < 1:
        longest_s = n_samples * bin_length_ms // (1000 * N_SEGMENTS)  # five longer gaps are more than the film
        fitting = [buffer for buffer in range(longest_s + 1) if sizes(buffer)[1] >= 1]
        runs = np.split(fitting, np.flatnonzero(np.diff(fitting) > 1) + 1) if fitting else []
        ranges = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
        advice = f"buffers of {ranges} s fit" if ranges else "none fits; use --val-fraction instead"
        raise SettingsError(
            f"--buffer {buffer_s:g} leaves no segment: {n_samples} samples of {bin_length_ms} ms in {n_cycles} cycles, "
            f"with gaps of {gap} bins; {advice} with --sequence {sequence_s[0]:g} {sequence_s[1]:g}"
            + (f" and a --window of {window.n_bins} bins" if window.n_bins > 1 else "")
        )

    segments = np.full(N_SEGMENTS, "train")
    segments[fold - 1] = "val"
    segments[fold - 2] = "test"
    gaps = np.where((segments == "train") & (np.roll(segments, -1) == "train"), "train", "unused")
    cycle = np.repeat(np.stack([segments, gaps], axis=1).ravel(), [segment, gap] * N_SEGMENTS)  # the part of each bin
    starts = np.arange(n_cycles)[:, None] * (n_samples // n_cycles)
    train, val, test = ((starts + np.flatnonzero(cycle == part)).ravel() for part in ("train", "val", "test"))
    return Split(train=train, val=val, test=test)


def cycle_length(n_samples: int, bin_length_ms: int, buffer_s: float) -> int:
    """Return the length of a cycle of five segments and their gaps, in samples."""
    return n_samples // _n_cycles(n_samples, bin_length_ms, buffer_s)


def cycles_of(samples: Indices, n_samples: int, bin_length_ms: int, buffer_s: float) -> tuple[Indices, int]:
    """Return the cycle that each of some samples lies in, from 0, and the number of cycles."""
    n_cycles = _n_cycles(n_samples, bin_length_ms, buffer_s)
    return samples // (n_samples // n_cycles), n_cycles


def cycles_of_share(n_cycles: int, share: float, rng: np.random.Generator) -> Indices:
    """Return a share of the cycles of a split, drawn at random over the film, sorted: at least one.

    Of one state of the generator smaller shares are parts of larger ones, so that a curve over them adds film.
    """
    return np.sort(rng.permutation(n_cycles)[: max(1, round(share * n_cycles))])


def _n_cycles(n_samples: int, bin_length_ms: int, buffer_s: float) -> int:
    return max(1, round(n_samples * bin_length_ms / 1000 / (12.5 * buffer_s + 30)))


def _whole_bins(seconds: float, bin_length_ms: int) -> int:
    # Rounding first: 0.1 + 0.2 s is 300.00000000000006 ms, which is not one bin more than 300.
    return math.ceil(round(seconds * 1000 / bin_length_ms, 6))


def fraction_split(n_samples: int, val_fraction: float) -> Split:
    """Split off the last part for validation, without a test part or a gap; raises SettingsError if it is all."""
    check_fraction(val_fraction)
    n_val = max(1, int(n_samples * val_fraction))
    if n_val >= n_samples:
        raise SettingsError(f"--val-fraction {val_fraction}: leaves none of {n_samples} samples to train on")
    samples = np.arange(n_samples, dtype=np.int64)
    return Split(train=samples[:-n_val], val=samples[-n_val:], test=samples[:0])


def random_split(n_samples: int, fold: int, seed: int) -> Split:
    """Split single samples at random into five parts: one validates, the one before it tests, three train.

    Neighbouring bins see almost the same film, so what is tested has nearly been trained on: scores under this split
    say nothing about decoding. It is here to show that (docs/leak.md). Raises SettingsError if there is no such fold,
    or if there are fewer samples than parts.
    """
    check_fold(fold)
    if n_samples < N_SEGMENTS:
        raise SettingsError(f"--split random: {n_samples} samples make no {N_SEGMENTS} parts")
    parts = np.array_split(np.random.default_rng(seed).permutation(n_samples), N_SEGMENTS)
    train = np.concatenate([part for number, part in enumerate(parts) if number not in (fold - 1, (fold - 2) % 5)])
    return Split(train=np.sort(train), val=np.sort(parts[fold - 1]), test=np.sort(parts[fold - 2]))


def stretches(is_on: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where runs of bins that are on begin, and the bins after their last, (n_runs,) each."""
    edges = np.flatnonzero(np.diff(is_on.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def check_fold(fold: int) -> None:
    """Raise a SettingsError unless this is a fold of the blocked split."""
    if fold not in range(1, N_SEGMENTS + 1):
        raise SettingsError(f"--fold {fold}: must be 1, 2, 3, 4 or 5")


def check_buffer(buffer_s: float) -> None:
    """Raise a SettingsError unless this time can lie between the parts of a split."""
    if not 0 <= buffer_s <= MAX_SECONDS:
        raise SettingsError(f"--buffer {buffer_s}: must be 0 or more seconds, at most {MAX_SECONDS:g}")


def check_fraction(val_fraction: float) -> None:
    """Raise a SettingsError unless this share of samples can validate."""
    if not 0 < val_fraction < 1:
        raise SettingsError(f"--val-fraction {val_fraction}: must lie between 0 and 1, 0.1 is usual")
