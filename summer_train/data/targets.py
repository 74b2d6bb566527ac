"""What differs between the tasks, and only that: targets and loss. (`scoring` has their scores.)"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from summer_prep.errors import SettingsError
from summer_prep.film.splits import Indices
from summer_train.data.batches import Rows
from summer_train.data.losses import (
    accuracy,
    balanced_weights,
    cross_entropy,
    cross_entropy_gradient,
    poisson,
    poisson_gradient,
    squared_error,
    squared_error_gradient,
    weighted_cross_entropy_gradient,
    weights_of_samples,
)
from summer_train.data.samples import UNDEFINED_CLASS, Mask, class_indices
from summer_train.data.selection import Selection
from summer_train.settings.options import Choice, Log, Loss


@dataclass(frozen=True)
class NextBin:
    """Predict every unit's count in the next bin; mean squared error, or the likelihood of Poisson firing.

    kind : mse, or poisson, under which a network's outputs are the logarithms of counts
    """

    n_units: int
    kind: Loss = "mse"
    name: ClassVar[str] = "next_bin"
    log_name: ClassVar[str] = "dhv"
    score_names: ClassVar[tuple[str, ...]] = ()
    target_offset: ClassVar[int] = 1

    @property
    def n_outputs(self) -> int:
        """One count per unit."""
        return self.n_units

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, mean over samples and units."""
        return (squared_error if self.kind == "mse" else poisson)(prediction, target)

    def loss_gradient(self, prediction: Tensor, prepared: Tensor, dim: int = -1) -> Tensor:
        """Return the gradient of the loss, summed over samples."""
        return (squared_error_gradient if self.kind == "mse" else poisson_gradient)(prediction, prepared, dim)

    def prepare(self, target: Tensor) -> Tensor:
        """Return the counts as floats."""
        return target.float()

    def as_target(self, target: Tensor) -> Tensor:
        """Return the counts as floats."""
        return target.float()

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return none: the loss says it all."""
        return {}

    def expected_counts(self, prediction: Tensor) -> Tensor:
        """Return the predicted counts, float64."""
        return prediction.double() if self.kind == "mse" else prediction.double().exp()


@dataclass(frozen=True)
class FilmLabel:
    """Predict the class of a film label: 0 off, 1 on, 2 undefined; cross-entropy.

    class_weights : how much a sample of each class counts in the loss; all the same without
    """

    n_classes: int = 2
    class_weights: tuple[float, ...] = ()
    name: ClassVar[str] = "label"
    log_name: ClassVar[str] = "dhv_label"
    score_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    target_offset: ClassVar[int] = 0

    @property
    def n_outputs(self) -> int:
        """One logit per class."""
        return self.n_classes

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy, mean over samples."""
        return cross_entropy(prediction, target, self.class_weights)

    def loss_gradient(self, prediction: Tensor, prepared: Tensor, dim: int = -1) -> Tensor:
        """Return the gradient of the loss, summed over samples."""
        return (weighted_cross_entropy_gradient if self.class_weights else cross_entropy_gradient)(
            prediction, prepared, dim
        )

    def prepare(self, target: Tensor) -> Tensor:
        """Return the classes one-hot, times the weight of their class."""
        one_hot = functional.one_hot(target.long(), self.n_classes).float()
        return one_hot * weights_of_samples(target, self.class_weights)[..., None] if self.class_weights else one_hot

    def as_target(self, target: Tensor) -> Tensor:
        """Return the class indices as torch's losses take them."""
        return target.long()

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the accuracy of the most likely class."""
        return {"accuracy": accuracy(prediction, target)}


Task = NextBin | FilmLabel
"""What is predicted from a sample, and how well. Each has

log_name : folder of the runs, as in the published pipeline
score_names : what is logged beside the loss while a network trains
target_offset : how many bins after a sample's own its target lies
n_outputs : width of a prediction
loss(prediction, target) : mean over samples
prepare(target) : targets as `loss_gradient` takes them
loss_gradient(prediction, prepared, dim) : of the loss summed over samples, outputs along axis `dim`
as_target(target) : stored targets as a loss of torch takes them
scores(prediction, target) : what is logged beside the loss, means over samples
"""


class NothingToLearnError(SettingsError):
    """A part of the split holds no usable sample, or the training part one class alone."""


def stored_targets(selection: Selection, choice: Choice, note: Log) -> tuple[Rows, Mask]:
    """Return what is to be predicted in all bins, and which samples have it, (n_samples,).

    Parameters
    ----------
    note : takes what was left out and why, for people

    Raises
    ------
    SettingsError : no such label
    """
    if choice.task == NextBin.name:
        return selection, np.ones(max(0, selection.n_bins - NextBin.target_offset), dtype=bool)
    classes = class_indices(selection.labels(choice.label_name, choice.label_rule))
    if choice.undefined == "class" and not (classes == UNDEFINED_CLASS).any():
        note(f"label {choice.label_name} is defined everywhere; --undefined class changes nothing")
    is_defined = classes < _n_classes(classes, choice)
    if not is_defined.all():
        note(f"left out {int((~is_defined).sum())} bins where {choice.label_name} is undefined")
    return classes, is_defined


def task_of(targets: Rows, choice: Choice, train: Indices) -> Task:
    """Return the task of stored targets.

    Raises
    ------
    NothingToLearnError : the training samples have one class alone
    """
    if isinstance(targets, Selection):
        return NextBin(targets.n_units, choice.loss)
    n_classes = _n_classes(targets, choice)
    counts = np.bincount(targets[train], minlength=n_classes)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise NothingToLearnError(
            f"label {choice.label_name} has only the value {present[0]} in the {len(train)} training bins, "
            "so there is nothing to learn. Try another --fold, --buffer or --label-name"
        )
    weights = balanced_weights(torch.from_numpy(counts)).tolist() if choice.class_weight == "balanced" else ()
    return FilmLabel(n_classes, tuple(weights))


def _n_classes(classes: NDArray[np.uint8], choice: Choice) -> int:
    return 3 if choice.undefined == "class" and (classes == UNDEFINED_CLASS).any() else 2
