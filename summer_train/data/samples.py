"""The samples of a choice: what each is to predict, which can be used, and which part of the split each is in.

NumPy alone, so that a choice that the data do not allow is refused before torch loads. A sample is named by a bin. It
is predicted from a window of bins around that one, and its target lies `target_offset` bins on: 0 for what is of the
same bin, 1 for the counts of the next.

    bins        | 5 | 6 | 7 | 8 | 9 | 10 |
    sample 8      window (-2, 1): 6 7 8 9
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import UNDEFINED
from summer_prep.film.splits import (
    Split,
    Window,
    blocked_split,
    cycles_of,
    cycles_of_share,
    fraction_split,
    random_split,
    window_of,
)
from summer_train.data.selection import NoUnitsError, Selection
from summer_train.settings.options import NO_PATIENT, WITH_TARGET, Choice, Log, log_nothing

Mask = NDArray[np.bool_]
_UNITS_AT_ONCE = 64
UNDEFINED_CLASS = 2


class NothingToLearnError(SettingsError):
    """A part of the split holds no usable sample, or the training part holds only one class."""


class ChosenSamples(NamedTuple):
    """The samples of a choice.

    window : the bins that a sample is predicted from, counted from its own
    classes : (n_bins,) class of each bin, 0 off, 1 on, 2 undefined; None if no label is decoded
    has_target : (n_samples,) whether a sample has a target and reaches only bins that may be used
    n_usable : samples that reach only bins that may be used, with or without a target: the same for all labels
    split : sample indices of each part, of those that have a target
    n_per_class : (n_classes,) training samples of each class; empty without classes
    aligned : the training bins that all patients saw, whatever is decoded: those on which maps are found
    """

    window: Window
    classes: NDArray[np.uint8] | None
    has_target: Mask
    n_usable: int
    split: Split
    n_per_class: NDArray[np.int64]
    aligned: NDArray[np.int64]


def choose_samples(  # noqa: PLR0912  # each task has its targets
    selection: Selection, choice: Choice, note: Log = log_nothing
) -> ChosenSamples:
    """Return the samples of a choice, split into training, validation and test.

    note : called with what was left out and why, for people

    Raises SettingsError if there is no such label or target, or the window or the split is not possible;
    NothingToLearnError if a part holds no usable sample, or the training part only one class.
    """
    check_left_out(selection, choice.leave_out)
    if (choice.n_chosen or 0) > selection.n_units:
        raise NoUnitsError(
            f"--n-units {choice.n_units}: the chosen patients and regions have only {selection.n_units}. Choose fewer"
        )
    window, is_label = window_of(choice.window_s, choice.bin_length_ms), choice.task == "label"
    target_offset, n_classes, classes = int(choice.task == "next_bin"), 0, None
    touched, has_target = window.touched(target_offset), np.ones(max(0, selection.n_bins - target_offset), dtype=bool)
    if is_label:
        raw = selection.labels(choice.label_name, choice.label_rule)
        classes = np.where(raw == UNDEFINED, np.uint8(UNDEFINED_CLASS), raw)
        has_undefined = bool((classes == UNDEFINED_CLASS).any())
        n_classes = 3 if has_undefined and choice.undefined == "class" else 2
        has_target = classes < n_classes
        if choice.undefined == "class" and not has_undefined:
            note(f"label {choice.label_name} is defined everywhere; --undefined class changes nothing")
        if not has_target.all():
            note(f"left out {int((~has_target).sum())} bins where {choice.label_name} is undefined")
    elif choice.task in WITH_TARGET:
        if choice.retrieve_within:
            selection.check_label(choice.retrieve_within)
        check = selection.check_target if choice.task == "feature" else selection.sources
        check(choice.target)
        has_target = selection.has_features(choice.target, choice.label_rule)
        if not has_target.all():
            note(f"left out {int((~has_target).sum())} bins where {choice.target} is undefined")
        if choice.task == "encode":  # from all bins of its window
            has_target = reaches_only(has_target, len(has_target), touched)
    n_samples = len(has_target)
    usable = usable_samples(selection, choice, n_samples, touched, note)
    has_target = has_target & usable
    if choice.val_fraction is not None:
        split = fraction_split(n_samples, choice.val_fraction)
    elif choice.split == "random":
        split = random_split(n_samples, choice.fold or 0, choice.seed)
    else:
        split = blocked_split(
            n_samples, choice.bin_length_ms, choice.buffer_s or 0.0, choice.fold or 0, choice.sequence_s, window,
            target_offset=target_offset,
        )  # fmt: skip
    if choice.train_share < 1:
        cycle, n_cycles = cycles_of(split.train, n_samples, choice.bin_length_ms, choice.buffer_s or 0.0)
        cycles = cycles_of_share(n_cycles, choice.train_share, np.random.default_rng(choice.draw))
        split = replace(split, train=split.train[np.isin(cycle, cycles)])
        minutes = len(split.train) * choice.bin_length_ms / 60_000
        note(f"training on {len(cycles)} of {n_cycles} cycles of the split, {minutes:.1f} minutes of film")
    aligned = split.train[usable[split.train]]
    split = Split(**{part: indices[has_target[indices]] for part, indices in vars(split).items()})
    for part in ("train", "val"):
        if not len(getattr(split, part)):
            raise NothingToLearnError(
                f"no usable bin in the {part} part of the split. Try another --fold, a smaller --buffer or --window"
            )
    n_per_class = np.zeros(0, dtype=np.int64)
    if classes is not None:
        n_per_class = count_classes(classes[split.train], n_classes, choice.label_name)
    return ChosenSamples(window, classes, has_target, int(usable.sum()), split, n_per_class, aligned)


def drawn_units(n_units: int, n_chosen: int, draw: int) -> NDArray[np.int64]:
    """Return units drawn at random, sorted: for all labels, folds and shifts the same; fewer are some of more."""
    return np.sort(np.random.default_rng(draw).permutation(n_units)[:n_chosen])


def best_units(counts: NDArray[Any], target: NDArray[Any], n_chosen: int) -> NDArray[np.int64]:
    """Return the units that tell most of a target each on its own, sorted; of equal ones the first.

    Parameters
    ----------
    counts : (n_bins, n_units) of training bins
    target : (n_bins,) whether a label is on, by |AUROC - 0.5| of the count; or features, (n_bins, n_dimensions), by the
        mean over dimensions of r squared
    """
    strength = np.empty(counts.shape[1])
    for start in range(0, len(strength), _UNITS_AT_ONCE):
        some = slice(start, start + _UNITS_AT_ONCE)
        of_some = counts[:, some].astype(np.int64)
        strength[some] = abs(unit_aurocs(of_some, target) - 0.5) if target.ndim == 1 else _squared_r(of_some, target)
    return np.sort(np.argsort(-strength, kind="stable")[:n_chosen])


@np.errstate(divide="ignore", invalid="ignore")
def unit_aurocs(counts: NDArray[np.int64], is_on: Mask) -> NDArray[np.float64]:
    """Return the area under the ROC curve of each unit's counts, (n_bins, n_units), for a label, (n_units,)."""
    n_units, n_values = counts.shape[1], int(counts.max(initial=0)) + 1
    at = counts + np.arange(n_units) * n_values
    size = n_units * n_values
    on, off = (np.bincount(at[bins].ravel(), minlength=size).reshape(n_units, n_values) for bins in (is_on, ~is_on))
    below = np.cumsum(off, axis=1) - off / 2  # a tie counts half
    return np.asarray((on * below).sum(axis=1) / (on.sum(axis=1) * off.sum(axis=1)))


@np.errstate(divide="ignore", invalid="ignore")
def _squared_r(counts: NDArray[np.int64], features: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared correlation of each unit with features, mean over dimensions; 0 with what does not vary."""
    x, y = counts - counts.mean(axis=0), features - features.mean(axis=0)
    r = (x.T @ y) / np.sqrt(np.outer((x**2).sum(axis=0), (y**2).sum(axis=0)))
    return np.asarray(np.nan_to_num(r**2).mean(axis=1))


def check_left_out(selection: Selection, patient_id: str) -> None:
    """Raise SettingsError unless a patient is one of several; NoUnitsError if it or all others have no unit."""
    ids = [one.patient_id for one, columns in zip(selection.patients, selection.columns, strict=True) if len(columns)]
    if patient_id != NO_PATIENT and (patient_id not in ids or len(ids) < 2):
        rule = f"must be one of several --patient-ids with units, here {' '.join(ids)}; a study also takes each"
        is_known = len(selection.patients) > 1 and any(one.patient_id == patient_id for one in selection.patients)
        raise (NoUnitsError if is_known else SettingsError)(f"--leave-out {patient_id}: {rule}")


def usable_samples(selection: Selection, choice: Choice, n_samples: int, touched: Window, note: Log) -> Mask:
    """Return which samples reach only bins that may be used, (n_samples,).

    touched : all bins that a sample reaches: its window, its own bin, and that of its target
    """

    def note_left_out(which: Mask, why: str, what: str = "samples") -> None:
        if which.any():
            note(f"left out {int(which.sum())} {what} {why}")

    usable = selection.recorded_share() > 0
    note_left_out(~usable, "that a patient never saw", "bins")
    if choice.min_recorded > 0:
        too_short = usable & (selection.recorded_share(long_frames=False) < choice.min_recorded)
        note_left_out(too_short, f"of which less than a share of {choice.min_recorded:g} was recorded", "bins")
        usable &= ~too_short
    samples = reaches_only(usable, n_samples, touched)
    without_window = Window(0, selection.n_bins - n_samples)
    if touched.n_bins > without_window.n_bins:
        lost = reaches_only(usable, n_samples, without_window) & ~samples
        note_left_out(lost, "whose window reaches a bin that is left out, or beyond the film")
    if choice.pauses == "drop":
        inside, after = selection.breaks()
        unbroken = reaches_only(~inside, n_samples, touched)
        if touched.n_bins > 1:
            unbroken &= reaches_only(~after, n_samples, Window(touched.first, touched.last - 1))
        note_left_out(samples & ~unbroken, "across a pause or skip, or a frame of over 200 ms")
        samples &= unbroken
    return samples


def reaches_only(usable: Mask, n_samples: int, window: Window) -> Mask:
    """Return which samples reach only usable bins, (n_samples,); what lies beyond the film is not usable.

    The window, what a sample reaches, begins at its own bin or before.
    """
    padded = np.pad(usable, (-window.first, max(0, window.last)))
    reached = np.lib.stride_tricks.sliding_window_view(padded, window.n_bins)[:n_samples]
    return np.asarray(reached.all(axis=1))


def count_classes(classes: NDArray[np.uint8], n_classes: int, label_name: str) -> NDArray[np.int64]:
    """Return the number of training samples of each class; raises NothingToLearnError if there is only one class."""
    counts = np.bincount(classes, minlength=n_classes)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise NothingToLearnError(
            f"label {label_name} has only the value {present[0]} in the {len(classes)} training bins, "
            "so there is nothing to learn. Try another --fold, --buffer or --label-name"
        )
    return counts


def choose_shifts(n_bins: int, least: int, n_shifts: int) -> list[int]:
    """Return different shifts, at least so far in either direction; fewer shifts are the first few of more.

    They are drawn at random, but depend on the arguments alone: folds and seeds of one label are compared with the
    same shifts of it. Raises SettingsError if there are not so many.
    """
    candidates = np.arange(least, n_bins - least + 1)
    if len(candidates) < n_shifts:
        raise SettingsError(
            f"--shifts {n_shifts}: {n_bins} bins can be shifted by at least a cycle of the split ({least} bins) in "
            f"{len(candidates)} ways. Choose fewer, or a smaller --buffer"
        )
    order = np.random.default_rng([n_bins, least]).permutation(candidates)
    return [int(shift) for shift in order[:n_shifts]]
