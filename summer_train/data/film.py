"""The samples of one run on a device, split: selected units, task, usable bins, parts."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from summer_prep.film.splits import cycles_of, cycles_of_share
from summer_prep.resources import available_bytes
from summer_train.data.batches import OrderedBlocks, ResidentSamples, Samples, StreamedSamples, this_process
from summer_train.data.samples import best_units, check_left_out, choose_samples, count_classes, drawn_units
from summer_train.data.selection import Selection, open_chosen
from summer_train.data.shared import SharedSpace
from summer_train.data.targets import NextBin, standardised, task_of
from summer_train.settings.options import ALONE, NO_PATIENT, OTHERS, WITH_TARGET, Choice, Log, Run, log_nothing

DEFAULT_MEMORY_SHARE = 0.8  # of the free memory, which counts may take by default
_READ_AHEAD_SHARE = 0.25  # of the free memory, for each of the two buffers with rows from a disk


class FilmSamples:
    """The samples of one choice, in blocks; `FilmData` makes batches of them for Lightning, and has its attributes."""

    def __init__(
        self, selection: Selection, choice: Choice, device_memory_gb: float | None = None, log: Log = log_nothing
    ) -> None:
        super().__init__()  # of Lightning's data module, for `FilmData`
        self.selection, self.choice, self.device_memory_gb, self.log = selection, choice, device_memory_gb, log
        self.notes: list[str] = []
        self.n_units = choice.n_chosen or selection.n_units
        self._kept: NDArray[np.int64] | None = None
        chosen = choose_samples(selection, choice, self._note)
        self.window, classes, self.has_target, self.n_usable, self.split, n_per_class, self.aligned = chosen
        self.classes: Any = classes  # of a label, (n_bins,)
        self._features: NDArray[np.float32] | None = None
        self.scaling: Mapping[str, Any] = {}  # of features: mean and SD in training, known with them
        sources = selection.sources(choice.target) if choice.task in WITH_TARGET else {}
        n_columns = sum(len(one[1]) if one else 1 for one in sources.values())
        self.n_inputs = n_columns if choice.task == "encode" else choice.n_shared or self.n_units
        self._beside, self._moved_bins = "", 0  # what `beside` changed
        self.task = task_of(choice, self.n_units, n_per_class, n_columns)
        self.n_samples = {part: len(indices) for part, indices in vars(self.split).items()}
        self.device = torch.device("cpu")
        self._placed: Samples | None = None
        self._samples: Samples | None = None
        if choice.leave_out != NO_PATIENT:
            of_map, cycles = self._cycles_aligned()
            minutes = of_map.sum() * choice.bin_length_ms / 60_000
            share = f"--align-share {choice.align_share:g}: the map of the patient left out is found on"
            self._note(f"{share} {minutes:.1f} min of film (cycles of the split: {len(cycles)})")

    @classmethod
    def opened(cls, choice: Choice, run: Run, log: Log = log_nothing) -> Self:
        """Open the samples of a run, building missing or stale keys first; raises SummerError."""
        return cls(*open_chosen(choice, run, log), run.device_memory_gb, log).narrowed()

    @property
    def kept(self) -> NDArray[np.int64] | None:
        """The units that are used, by their numbers in the selection; None if all are. Found when first asked for.

        With best:N they are ranked on training bins, so by fold, and by the shifted label of a null, too.
        """
        if self._kept is None and self.n_units < self.selection.n_units:
            if self.choice.n_units.isdigit():
                self._kept = drawn_units(self.selection.n_units, self.n_units, self.choice.draw)
            else:
                train = self.split.train
                target = self.features[train] if self.classes is None else self.classes[train] == 1
                self._kept = best_units(self.selection.counts()[train], target, self.n_units)
        return self._kept

    def narrowed(self) -> Self:
        """Return the same samples of the units that are used alone; networks of `kept` units see the others as 0."""
        if self.kept is None:
            return self
        other = copy(self)
        other.selection, other.log = self.selection.with_units(self.kept), self.log
        other._kept = other._placed = other._samples = None
        check_left_out(other.selection, self.choice.leave_out)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes itself (samples on a device), or cannot have (a caller's `log`)."""
        return {**vars(self), "_placed": None, "_samples": None, "log": log_nothing}

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.log(line)

    @property
    def has_counts(self) -> bool:
        """Whether the counts themselves are on the device, not only what is computed from them."""
        return not (self.choice.n_shared or self.choice.standardise)

    def share_counts_of(self, other: "FilmSamples") -> None:
        """Use the device of other data, and the counts that are placed there, where both have the same selection."""
        self.place(other.device)
        if self.selection is other.selection and self.has_counts == other.has_counts:
            self._placed, self._samples = other.placed, None

    @property
    def features(self) -> NDArray[np.float32]:
        """The features of each bin, (n_bins, n_dimensions), standardised by `scaling`, read when first asked for."""
        if self._features is None:
            features = self.selection.features(self.choice.target, self.choice.label_rule)
            self._features, self.scaling = standardised(features, self.split.train, self.scaling)
        return self._features

    @property
    def inputs(self) -> Any:
        """What is predicted from: the selection itself, its shared dimensions, or with --task encode the features."""
        if self.choice.standardise:
            key = ("standardised", self.aligned.tobytes())
            if key not in self.selection.spaces:
                counts = self.selection.counts().astype(np.float32)
                self.selection.spaces = {key: standardised(counts, self.aligned)[0]}
            return self.selection.spaces[key]
        if not self.choice.n_shared:
            return self.features if self.choice.task == "encode" else self.selection
        space = self.space
        if self.choice.leave_out == NO_PATIENT or self._beside == OTHERS:
            return space.others
        if self._beside == ALONE:
            return space.left_out()
        own = space.left_out(self._cycles_aligned()[0], self._moved_bins)
        tested = np.unique(self.split.test[:, None] + np.arange(self.window.first, self.window.last + 1))
        inputs = space.others.copy()
        inputs[tested] = own[tested]
        return inputs

    def _cycles_aligned(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which `aligned` bins the map of a patient that is left out is found on, and their cycles.

        They are drawn over the film: its first minutes have other labels than the rest.
        """
        choice = self.choice
        cycle, _ = cycles_of(self.aligned, self.selection.n_bins, choice.bin_length_ms, choice.buffer_s or 0)
        cycles = np.unique(cycle)
        cycles = cycles[cycles_of_share(len(cycles), choice.align_share, np.random.default_rng(choice.draw))]
        return np.isin(cycle, cycles), cycles

    @property
    def space(self) -> SharedSpace:
        """The shared space of the patients, found once for all labels of a fold."""
        key = self.choice.space, self.choice.leave_out, self.aligned.tobytes()
        if key not in self.selection.spaces:
            self.selection.spaces = {key: SharedSpace(self.selection, *key[:2], self.aligned)}
        found: SharedSpace = self.selection.spaces[key]
        return found

    def beside(self, name: str, moved_bins: int = 0) -> "FilmSamples":
        """Return the same samples with other inputs, to compare a patient that is left out with.

        name : OTHERS, whose test bins are those of the other patients; ALONE, of which all bins are those of the
            patient; or SHIFTED, where the map of the patient is found on bins moved along the film by `moved_bins`
        """
        other = copy(self)
        other._beside, other._moved_bins, other._samples = name, moved_bins, None
        if self.choice.threshold != "train":
            other.n_samples = {**self.n_samples, "train": 0}  # only validation and test are scored
        return other

    @property
    def targets(self) -> Any:
        """What is predicted: the selection itself, the class of each bin, or its features."""
        if self.classes is not None:
            return self.classes
        return self.features if self.choice.task == "feature" else self.selection

    def shifted(self, n_bins: int) -> "FilmSamples":
        """Return the same samples with labels or features moved along the film in a circle, for a null.

        They keep their own structure and lose that of the neurons. Bins without a target, or inputs, stay without.

        n_bins : how far, in bins that may be used; where only some have a label, as many fewer of those. Raises
            NothingToLearnError if that leaves one class in training
        """
        moved, n_movable = self.has_target, self.n_usable
        if self.choice.task == "encode":  # windows reach beside the samples
            moved = self.selection.has_features(self.choice.target, self.choice.label_rule)
            n_movable = self.selection.n_bins
        n_bins = round(n_bins * int(moved.sum()) / n_movable)  # labels share their shifts
        if self.classes is None:
            features = self.features.copy()  # read before the copy of the data, which keeps their scaling
            features[moved] = np.roll(features[moved], n_bins, axis=0)
            other = copy(self)
            other._features, other._samples, other._kept = features, None, None
            return other
        other = copy(self)
        other.classes, other._samples, other._kept = self.classes.copy(), None, None
        other.classes[moved] = np.roll(self.classes[moved], n_bins)
        n_per_class = count_classes(other.classes[self.split.train], self.task.n_outputs, self.choice.label_name)
        other.task = task_of(self.choice, self.n_units, n_per_class)
        return other

    @property
    def provenance(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data that it was trained on: settings, patients, units, digests, scaling."""
        data = self.selection.provenance(*self.choice.decoded)
        scaling = {"scaling": self.scaling} if self.choice.task in WITH_TARGET and self.features is not None else {}
        return {"config": self.choice.as_plain(), "data": data, **scaling}

    @property
    def n_prediction_bytes(self) -> int:
        """Memory that the predictions of validation and test take, and the targets beside them."""
        n_samples = self.n_samples["val"] + self.n_samples["test"]
        if isinstance(self.task, NextBin):  # counts of every unit
            return n_samples * self.n_units * (4 + self.selection.dtype.itemsize)
        return n_samples * (8 * self.task.n_outputs + 8)

    @property
    def samples(self) -> Samples:
        """The samples, with inputs and targets on the device; counts are the same rows in both, not a copy."""
        if self._samples is None:
            placed = self.placed
            rows = {"counts": self.inputs, "targets": self.targets}
            for name, values in rows.items() if isinstance(placed, ResidentSamples) else ():
                is_counts = values is self.selection
                rows[name] = placed.counts if is_counts else torch.from_numpy(values).to(self.device)
            n_outputs = self.task.n_outputs if self.choice.task == "encode" else 1
            offset = self.task.target_offset
            self._samples = replace(placed, **rows, target_offset=offset, window=self.window, n_outputs=n_outputs)
        return self._samples

    @property
    def placed(self) -> Samples:
        """The counts, placed on the device; they stream from the mapped files where they do not fit."""
        if self._placed is not None:
            return self._placed
        if not self.has_counts:
            self._placed = ResidentSamples(counts=torch.empty(0))
            return self._placed
        selection, device, free_bytes = self.selection, self.device, available_bytes()
        budget_bytes = DEFAULT_MEMORY_SHARE * (free_bytes - self.n_prediction_bytes) / this_process()[1]
        if self.device_memory_gb is not None:
            budget_bytes = self.device_memory_gb * 1e9
        elif device.type == "cuda":
            budget_bytes = DEFAULT_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
        is_mapped_as_it_is = device.type == "cpu" and selection.counts_if_mapped() is not None
        if selection.n_bytes > budget_bytes and not is_mapped_as_it_is:
            self._note(
                f"streaming {selection.n_bytes / 1e9:.1f} GB of counts from the mapped files: more than the "
                f"{budget_bytes / 1e9:.1f} GB that may be used on {device}"
            )
            # Nothing is read ahead where the system keeps the files in memory anyway.
            is_kept = selection.n_bytes < DEFAULT_MEMORY_SHARE * free_bytes
            ahead = 0 if is_kept else int(_READ_AHEAD_SHARE * free_bytes / this_process()[1])
            placed: Samples = StreamedSamples(counts=selection, device=device, read_ahead_bytes=ahead)
        else:
            counts = selection.counts()
            if counts.dtype == np.uint16:
                counts = counts.astype(np.int32)  # torch indexes no uint16
            placed = ResidentSamples(counts=torch.from_numpy(counts).to(device))
        self._placed = placed
        return placed

    def place(self, device: torch.device) -> None:
        """Put the samples on a device when they are asked for next."""
        if device != self.device:
            self.device, self._placed, self._samples = device, None, None

    def blocks(self, part: str, rank: int = 0, n_processes: int = 1) -> OrderedBlocks:
        """Return the samples of a part of the split in order, many at once."""
        indices = getattr(self.split, part)
        return OrderedBlocks(samples=self.samples, indices=indices, rank=rank, n_processes=n_processes)
