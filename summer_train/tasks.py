"""What differs between the tasks, and only that: targets, loss, scores, baselines."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from summer_prep.errors import SettingsError
from summer_train.baselines import Predict, class_counts, copy_last_bin, majority_class, mean_count
from summer_train.batches import ArrayRows, Block, Rows
from summer_train.config import Choice, Say
from summer_train.metrics import (
    accuracy,
    cross_entropy,
    cross_entropy_gradient,
    squared_error,
    squared_error_gradient,
)
from summer_train.samples import UNDEFINED_CLASS, Mask, class_indices
from summer_train.selection import Selection


class Task(Protocol):
    """What is predicted from a bin, and how well."""

    name: ClassVar[str]
    log_name: ClassVar[str]
    """Folder of the runs, as in the published pipeline."""
    score_names: ClassVar[tuple[str, ...]]
    """Scores beside the loss."""
    reach: ClassVar[int]
    """How many bins after a sample's own its target lies."""

    @property
    def n_outputs(self) -> int:
        """Width of a prediction."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over samples."""

    def loss_gradient(self, prediction: Tensor, prepared: Tensor) -> Tensor:
        """Return the loss's gradient with respect to the prediction, summed over samples; any leading axes."""

    def prepare(self, target: Tensor) -> Tensor:
        """Return targets as `loss_gradient` takes them."""

    def as_target(self, target: Tensor) -> Tensor:
        """Return stored targets as a loss of torch takes them."""

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scores beside the loss, means over samples."""

    def stored(self, prediction: Tensor) -> Tensor:
        """Return what is kept of predictions."""

    def baselines(self, training: Iterable[Block]) -> Mapping[str, Predict]:
        """Return the baselines by name, fitted to the training samples."""

    def samples_per_class(self, blocks: Iterable[Block]) -> list[int]:
        """Return the number of samples of each class; empty where there are no classes."""


@dataclass(frozen=True)
class NextBin:
    """Predict every unit's count in the next bin; mean squared error."""

    n_units: int
    name: ClassVar[str] = "next_bin"
    log_name: ClassVar[str] = "dhv"
    score_names: ClassVar[tuple[str, ...]] = ()
    reach: ClassVar[int] = 1

    @property
    def n_outputs(self) -> int:
        """One count per unit."""
        return self.n_units

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the squared error, mean over samples and units."""
        return squared_error(prediction, target)

    def loss_gradient(self, prediction: Tensor, prepared: Tensor) -> Tensor:
        """Return the gradient of the loss, summed over samples."""
        return squared_error_gradient(prediction, prepared)

    def prepare(self, target: Tensor) -> Tensor:
        """Return the counts as floats."""
        return target.float()

    def as_target(self, target: Tensor) -> Tensor:
        """Return the counts as floats."""
        return target.float()

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return none: the loss says it all."""
        return {}

    def stored(self, prediction: Tensor) -> Tensor:
        """Return the predicted counts."""
        return prediction.float()

    def baselines(self, training: Iterable[Block]) -> Mapping[str, Predict]:
        """Return copying the last bin, and each unit's mean count."""
        return {"copy last bin": copy_last_bin, "mean count": mean_count(training)}

    def samples_per_class(self, blocks: Iterable[Block]) -> list[int]:
        """Return nothing: counts are no classes."""
        return []


@dataclass(frozen=True)
class FilmLabel:
    """Predict the class of a film label in the same bin; cross-entropy and accuracy."""

    n_classes: int = 2
    name: ClassVar[str] = "label"
    log_name: ClassVar[str] = "dhv_label"
    score_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    reach: ClassVar[int] = 0

    @property
    def n_outputs(self) -> int:
        """One logit per class."""
        return self.n_classes

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy, mean over samples."""
        return cross_entropy(prediction, target)

    def loss_gradient(self, prediction: Tensor, prepared: Tensor) -> Tensor:
        """Return the gradient of the loss, summed over samples."""
        return cross_entropy_gradient(prediction, prepared)

    def prepare(self, target: Tensor) -> Tensor:
        """Return the classes one-hot."""
        return functional.one_hot(target.long(), self.n_classes).float()

    def as_target(self, target: Tensor) -> Tensor:
        """Return the class indices as torch's losses take them."""
        return target.long()

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the accuracy."""
        return {"accuracy": accuracy(prediction, target)}

    def stored(self, prediction: Tensor) -> Tensor:
        """Return the probability of "on"; in float64, since float32 rounds sure ones to ties."""
        return torch.softmax(prediction.double(), dim=1)[:, 1]

    def baselines(self, training: Iterable[Block]) -> Mapping[str, Predict]:
        """Return the majority class."""
        return {"majority class": majority_class(training, self.n_classes)}

    def samples_per_class(self, blocks: Iterable[Block]) -> list[int]:
        """Return the number of samples of each class."""
        counts: list[int] = class_counts(blocks, self.n_classes).tolist()
        return counts


class TaskSamples(NamedTuple):
    """A task on data: the targets of all bins, those of a sample `reach` bins on, and which samples have one."""

    task: Task
    targets: Rows
    is_defined: Mask
    """(n_samples,)"""
    check_training: Callable[[NDArray[np.int64]], None]
    """Raises a SettingsError where there is nothing to learn from these samples."""


def _next_bin(selection: Selection, choice: Choice, note: Say) -> TaskSamples:
    task = NextBin(selection.n_units)
    is_defined = np.ones(max(0, selection.n_bins - task.reach), dtype=bool)
    return TaskSamples(task, selection, is_defined, check_training=lambda _train: None)


def _film_label(selection: Selection, choice: Choice, note: Say) -> TaskSamples:
    classes = class_indices(selection.labels(choice.label_name, choice.label_rule))
    has_undefined = bool((classes == UNDEFINED_CLASS).any())
    is_class = choice.undefined == "class"
    if is_class and not has_undefined:
        note(f"label {choice.label_name} is defined everywhere; --undefined class changes nothing")
    task = FilmLabel(3 if has_undefined and is_class else 2)
    is_defined = classes < task.n_classes
    if not is_defined.all():
        note(f"left out {int((~is_defined).sum())} bins where {choice.label_name} is undefined")

    def check_training(train: NDArray[np.int64]) -> None:
        present = np.unique(classes[train])
        if len(present) < 2:
            raise SettingsError(
                f"label {choice.label_name} has only the value {present[0]} in the {len(train)} training bins, "
                "so there is nothing to learn. Try another --fold, --buffer or --label-name"
            )

    return TaskSamples(task, ArrayRows(classes), is_defined, check_training)


_SAMPLES = {NextBin.name: _next_bin, FilmLabel.name: _film_label}


def task_samples(selection: Selection, choice: Choice, note: Say) -> TaskSamples:
    """Return the samples of the chosen task.

    Parameters
    ----------
    note : takes what was left out and why, for people

    Raises
    ------
    SettingsError : no such label
    """
    return _SAMPLES[choice.task](selection, choice, note)
