"""The samples of one run on a device, split: selected units, task, usable bins, parts."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from summer_prep.film.splits import Split, Window, blocked_split, fraction_split, random_split, window_of
from summer_prep.resources import available_bytes
from summer_train.data.batches import (
    OrderedBlocks,
    ResidentSamples,
    Samples,
    StreamedSamples,
    this_process,
)
from summer_train.data.samples import Mask, reaches_only, runs_on, shift_labels
from summer_train.data.selection import Selection, open_described
from summer_train.data.targets import NothingToLearnError, Task, stored_targets, task_of
from summer_train.settings.options import Choice, Log, Run, log_nothing

DEFAULT_MEMORY_SHARE = 0.8
"""Of the memory that is free, how much counts may take by default."""

_READ_AHEAD_SHARE = 0.25
"""Of the memory that is free, for each of the two buffers with rows from a disk."""


class FilmSamples:
    """The samples of one choice, in blocks; `FilmData` makes batches of them for Lightning.

    Attributes
    ----------
    task : what is predicted
    split : sample indices of each part, after undefined and never seen bins are left out
    window : the bins that a sample is predicted from, counted from its own
    n_units : of all patients
    notes : what was left out and why, for people
    """

    def __init__(
        self,
        selection: Selection,
        choice: Choice,
        device_memory_gb: float | None = None,
        log: Log = log_nothing,
    ) -> None:
        super().__init__()  # of Lightning's data module, for `FilmData`
        self.selection, self.choice, self.device_memory_gb, self.log = selection, choice, device_memory_gb, log
        self.notes: list[str] = []
        self.window = window_of(choice.window_s, choice.bin_length_ms)
        self.targets, is_defined = stored_targets(selection, choice, self._note)
        self.n_units = selection.n_units
        n_samples = len(is_defined)
        target_offset = selection.n_bins - n_samples
        self.has_target = is_defined & self._usable(n_samples, target_offset)
        self.split = self._leave_out(_split(n_samples, choice, self.window, target_offset), self.has_target)
        self.task: Task = task_of(self.targets, choice, self.split.train)
        self.device = torch.device("cpu")
        self._samples: Samples | None = None

    @classmethod
    def opened(cls, choice: Choice, run: Run, log: Log = log_nothing) -> Self:
        """Open the samples of a run, building keys that are missing or stale first.

        Raises
        ------
        SummerError : data or settings do not allow the run
        """
        from summer_prep.cache.build import ensure_keys

        descriptions = ensure_keys(
            run.cache_dir,
            choice.patient_ids,
            choice.bin_length_ms,
            run.data_dir,
            run.nwb_path,
            run.local_cache,
            log,
            every_byte=run.verify,
        )
        selection = open_described(descriptions, choice.brain_regions, choice.single_units)
        for patient in selection.patients:
            spikes = patient.attributes["spikes"]
            if spikes["counted"] < spikes["in_file"] / 2:
                log(
                    f"patient {patient.patient_id}: {spikes['counted']} of the file's {spikes['in_file']} spikes are "
                    "in the film's bins; if that is few, see "
                    f"summer-prep inspect {patient.patient_id} --cache-dir {run.cache_dir}"
                )
        if not all(patient.is_mapped for patient in selection.patients):
            log("the cache is compressed: counts are decompressed into memory instead of mapped")
        patient_ids = tuple(patient.patient_id for patient in selection.patients)
        return cls(selection, replace(choice, patient_ids=patient_ids), run.device_memory_gb, log)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes itself (samples on a device), or cannot have (a caller's `say`)."""
        return {**vars(self), "_samples": None, "log": log_nothing}

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.log(line)

    def _usable(self, n_samples: int, target_offset: int) -> Mask:
        """Return which samples reach only bins that may be used, (n_samples,)."""
        choice, touched = self.choice, self.window.touched(target_offset)
        usable = self.selection.recorded_share() > 0
        self._note_left_out(~usable, "that a patient never saw")
        if choice.min_recorded > 0:
            too_short = usable & (self.selection.recorded_share(long_frames=False) < choice.min_recorded)
            self._note_left_out(too_short, f"of which less than a share of {choice.min_recorded:g} was recorded")
            usable &= ~too_short
        samples = reaches_only(usable, n_samples, touched)
        if touched.n_bins > 1 + target_offset:
            lost = reaches_only(usable, n_samples, Window(0, target_offset)) & ~samples
            self._note_left_out(lost, "whose window reaches a bin that is left out, or beyond the film", "samples")
        if choice.pauses == "drop":
            unbroken = runs_on(*self.selection.breaks(), n_samples, touched)
            self._note_left_out(samples & ~unbroken, "across a pause or skip, or a frame of over 200 ms", "samples")
            samples &= unbroken
        return samples

    def _note_left_out(self, which: Mask, why: str, what: str = "bins") -> None:
        if which.any():
            self._note(f"left out {int(which.sum())} {what} {why}")

    def _leave_out(self, split: Split, usable: Mask) -> Split:
        parts = {name: indices[usable[indices]] for name, indices in vars(split).items()}
        for name in ("train", "val"):
            if not len(parts[name]):
                raise NothingToLearnError(
                    f"no usable bin in the {name} part of the split. Try another --fold, a smaller --buffer or --window"
                )
        return Split(**parts)

    def share_counts_of(self, other: "FilmSamples") -> None:
        """Use the counts that other data of the same selection have placed on the same device."""
        self.place(other.device)
        mine: Any = other.samples
        targets = self._resident_targets(mine.counts) if isinstance(mine, ResidentSamples) else self.targets
        self._samples = replace(mine, targets=targets, target_offset=self.task.target_offset, window=self.window)

    def _resident_targets(self, counts: Tensor) -> Tensor:
        # Of the next bin: the same rows, not a copy.
        return counts if self.targets is self.selection else torch.from_numpy(self.classes).to(counts.device)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The class of each bin, (n_bins,), of a label."""
        assert isinstance(self.targets, np.ndarray)
        return self.targets

    def shifted(self, n_bins: int) -> "FilmSamples":
        """Return the same samples with labels moved along the film in a circle, for a null.

        Raises
        ------
        NothingToLearnError : the shift leaves one class in training
        """
        other = copy(self)
        other.targets = shift_labels(self.classes, self.has_target, n_bins)
        other.task = task_of(other.targets, other.choice, other.split.train)
        other._samples = None
        return other

    @property
    def provenance(self) -> dict[str, Any]:
        """What a checkpoint says of the data that it was trained on: settings, patients, units and digests."""
        return {"config": self.choice.as_plain(), "data": self.selection.provenance()}

    @property
    def n_samples(self) -> Mapping[str, int]:
        """Number of samples of each part."""
        return {part: len(indices) for part, indices in vars(self.split).items()}

    @property
    def n_prediction_bytes(self) -> int:
        """Memory that the predictions of validation and test take, with what they are of."""
        n_samples = self.n_samples["val"] + self.n_samples["test"]
        if self.targets is self.selection:  # counts of every unit
            return n_samples * self.n_units * (4 + self.selection.dtype.itemsize)
        return n_samples * (8 * self.task.n_outputs + 8)

    @property
    def samples(self) -> Samples:
        """The samples, placed on the device."""
        if self._samples is None:
            selection, device, budget_bytes = self.selection, self.device, self._budget_bytes(self.device)
            common: dict[str, Any] = {"target_offset": self.task.target_offset, "window": self.window}
            is_mapped_as_it_is = device.type == "cpu" and selection.counts_if_mapped() is not None
            if selection.n_bytes > budget_bytes and not is_mapped_as_it_is:
                self._note(
                    f"streaming {selection.n_bytes / 1e9:.1f} GB of counts from the mapped files: more than the "
                    f"{budget_bytes / 1e9:.1f} GB that may be used on {device}"
                )
                # Nothing is read ahead where the system keeps the files in memory anyway.
                free = available_bytes()
                is_kept = selection.n_bytes < DEFAULT_MEMORY_SHARE * free
                ahead = 0 if is_kept else int(_READ_AHEAD_SHARE * free / this_process()[1])
                self._samples = StreamedSamples(
                    counts=selection, targets=self.targets, device=device, read_ahead_bytes=ahead, **common
                )
            else:
                counts = selection.counts()
                if counts.dtype == np.uint16:
                    counts = counts.astype(np.int32)  # torch indexes no uint16
                on_device = torch.from_numpy(counts).to(device)
                self._samples = ResidentSamples(counts=on_device, targets=self._resident_targets(on_device), **common)
        return self._samples

    def place(self, device: torch.device) -> None:
        """Take a device; where the counts do not fit, they stream from the mapped files."""
        if device != self.device:
            self.device, self._samples = device, None

    def _budget_bytes(self, device: torch.device) -> float:
        if self.device_memory_gb is not None:
            return self.device_memory_gb * 1e9
        if device.type == "cuda":
            return DEFAULT_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
        return DEFAULT_MEMORY_SHARE * (available_bytes() - self.n_prediction_bytes) / this_process()[1]

    def blocks(self, part: str, rank: int = 0, n_processes: int = 1) -> OrderedBlocks:
        """Return the samples of a part of the split in order, many at once."""
        return OrderedBlocks(
            samples=self.samples, indices=getattr(self.split, part), rank=rank, n_processes=n_processes
        )


def _split(n_samples: int, choice: Choice, window: Window, target_offset: int) -> Split:
    if choice.val_fraction is not None:
        return fraction_split(n_samples, choice.val_fraction)
    assert choice.fold is not None
    if choice.split == "random":
        return random_split(n_samples, choice.fold, choice.seed)
    assert choice.buffer_s is not None
    return blocked_split(
        n_samples,
        choice.bin_length_ms,
        choice.buffer_s,
        choice.fold,
        choice.sequence_s,
        window,
        target_offset=target_offset,
    )
