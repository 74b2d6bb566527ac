"""The tasks: what differs between them is targets and loss. (`scoring` has their scores.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from summer_prep.film.splits import Indices
from summer_train.settings.options import Choice, Loss


@dataclass(frozen=True)
class _Numbers:
    """Predict numbers, (n_samples, n_outputs).

    kind : mse, mean squared error; poisson, the likelihood of Poisson firing, under which a network's outputs are the
        logarithms of counts; or cosine, 1 - cosine similarity
    log_name : folder of the runs, as in the published pipeline
    score_names : what `scores` returns, which is logged beside the loss
    target_offset : how many bins after a sample's own its target lies
    """

    n_outputs: int
    kind: Loss = "mse"
    name: ClassVar[str]
    log_name: ClassVar[str]
    score_names: ClassVar[tuple[str, ...]] = ()
    target_offset: ClassVar[int] = 0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, mean over samples and outputs; that of Poisson firing without its constant term."""
        dtype = torch.promote_types(prediction.dtype, torch.float32)  # 16 bits would round the counts
        prediction, target = prediction.to(dtype), target.to(dtype)
        if self.kind == "mse":
            return functional.mse_loss(prediction, target)
        if self.kind == "poisson":
            return functional.poisson_nll_loss(prediction, target, log_input=True, full=False)
        return 1 - functional.cosine_similarity(prediction, target, dim=-1).mean()

    def loss_gradient(self, prediction: Tensor, prepared: Tensor, dim: int = -1) -> Tensor:
        """Return the gradient of the loss, summed over samples, outputs along axis `dim`."""
        if self.kind == "mse":
            return torch.sub(prediction, prepared).mul_(2 / prediction.shape[dim])
        if self.kind == "poisson":
            return prediction.exp().sub_(prepared).div_(prediction.shape[dim])
        norm = prediction.norm(dim=dim, keepdim=True).clamp_min(1e-8)
        unit, true = prediction / norm, functional.normalize(prepared, dim=dim)
        gradient: Tensor = ((unit * true).sum(dim, keepdim=True) * unit).sub_(true).div_(norm)
        return gradient

    def as_target(self, target: Tensor) -> Tensor:
        """Return the targets as floats, as losses of torch and `loss_gradient` take them."""
        return target.float()

    prepare = as_target

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return no scores beside the loss."""
        return {}


class NextBin(_Numbers):
    """Predict every unit's count in the next bin; mean squared error, or the likelihood of Poisson firing."""

    name: ClassVar[str] = "next_bin"
    log_name: ClassVar[str] = "dhv"
    target_offset: ClassVar[int] = 1

    def expected_counts(self, prediction: Tensor) -> Tensor:
        """Return the predicted counts, float64."""
        return prediction.double() if self.kind == "mse" else prediction.double().exp()


class Encode(NextBin):
    """Predict every unit's count in the same bin from features or labels of the film; losses as of `NextBin`."""

    name: ClassVar[str] = "encode"
    log_name: ClassVar[str] = "dhv_encode"
    target_offset: ClassVar[int] = 0


class FilmFeatures(_Numbers):
    """Predict features of the film, standardised by their mean and SD in training; mean squared error or cosine."""

    name: ClassVar[str] = "feature"
    log_name: ClassVar[str] = "dhv_feature"


@dataclass(frozen=True)
class FilmLabel:
    """Predict the class of a film label: 0 off, 1 on, 2 undefined; cross-entropy.

    class_weights : how much a sample of each class counts in the loss; all count the same if it is empty. The mean is
        still over samples, so that it does not depend on which classes a mini-batch happens to hold
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
        if not self.class_weights:
            return functional.cross_entropy(prediction, target.long())
        losses = functional.cross_entropy(prediction, target.long(), reduction="none")
        return (losses * weights_of_samples(target, self.class_weights)).mean()

    def loss_gradient(self, prediction: Tensor, prepared: Tensor, dim: int = -1) -> Tensor:
        """Return the gradient of the loss, summed over samples, classes along axis `dim`."""
        probabilities = torch.softmax(prediction, dim=dim)
        if self.class_weights:
            probabilities.mul_(prepared.sum(dim, keepdim=True))
        return probabilities.sub_(prepared)

    def prepare(self, target: Tensor) -> Tensor:
        """Return the classes one-hot, times the weight of their class, as `loss_gradient` takes them."""
        one_hot = functional.one_hot(target.long(), self.n_classes).float()
        return one_hot * weights_of_samples(target, self.class_weights)[..., None] if self.class_weights else one_hot

    def as_target(self, target: Tensor) -> Tensor:
        """Return the class indices as torch's losses take them."""
        return target.long()

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the share of samples whose most likely class is right."""
        return {"accuracy": (prediction.argmax(dim=1) == target).to(prediction.dtype).mean()}


Task = NextBin | FilmLabel | FilmFeatures
"""What is predicted from a sample, and how well."""


def standardised(
    features: NDArray[np.float32], train: Indices, scaling: Mapping[str, Any] = {}
) -> tuple[NDArray[np.float32], Mapping[str, Any]]:
    """Standardise features in place by their mean and SD in training, and return both, as plain values.

    Parameters
    ----------
    features : (n_bins, n_dimensions)
    train : training bins
    scaling : mean and SD (`mean`, `sd`) of what a network was trained on, if that was not this

    A dimension that does not vary in training is centred alone.
    """
    if not scaling:
        blocks = [train[start : start + 4096] for start in range(0, len(train), 4096)]
        mean = sum(features[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(train)
        square = sum(((features[block] - mean) ** 2).sum(axis=0) for block in blocks) / len(train)
        sd = np.where(square > 0, np.sqrt(square), 1.0)
        scaling = {"mean": np.broadcast_to(mean, sd.shape).tolist(), "sd": sd.tolist()}
    features -= np.array(scaling["mean"], dtype=np.float32)
    features /= np.array(scaling["sd"], dtype=np.float32)
    return features, scaling


def unscaled(values: NDArray[Any], scaling: Mapping[str, Any]) -> NDArray[Any]:
    """Return standardised values, (n_samples, n_dimensions), in the units that `standardised` took."""
    mean, sd = (np.array(scaling[name], dtype=np.float32) for name in ("mean", "sd"))
    return np.asarray(values * sd + mean)


def cross_entropies(logits: Tensor, targets: Tensor, class_weights: Sequence[Sequence[float]]) -> Tensor:
    """Return the cross-entropy of many networks at once, (n_networks,), each as the loss of its own `FilmLabel`.

    logits, targets : (n_networks, n_samples, n_classes) and (n_networks, n_samples)
    """
    # With classes in the middle one kernel does all samples; with classes last each sample is a call of its own.
    losses = functional.cross_entropy(logits.transpose(1, 2), targets.long(), reduction="none")
    if any(class_weights):
        losses *= torch.stack([weights_of_samples(*one) for one in zip(targets, class_weights, strict=True)])
    return losses.mean(dim=1)


def weights_of_samples(target: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Return the weight of each sample's class, of targets' shape."""
    # From numbers, not from a table on the processor, which no CUDA graph could copy.
    return sum(  # type: ignore[return-value]  # there are at least two classes
        (target == number).float() * weight for number, weight in enumerate(class_weights)
    )


def balanced_weights(n_per_class: Tensor) -> Tensor:
    """Return class weights under which every class counts the same: n_samples / (n_classes x samples of the class).

    Source: `class_weight="balanced"` of scikit-learn. A class without samples weighs nothing.
    """
    counts = n_per_class.double()
    weights = counts.sum() / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0).float()


def task_of(choice: Choice, n_units: int, n_per_class: NDArray[np.int64], n_dimensions: int = 0) -> Task:
    """Return the task of a choice, whose training samples of each class are (n_classes,)."""
    if choice.task == FilmFeatures.name:
        return FilmFeatures(n_dimensions, choice.loss)
    if choice.task == NextBin.name:
        return NextBin(n_units, choice.loss)
    if choice.task == Encode.name:
        return Encode(n_units, choice.loss)
    weights = balanced_weights(torch.from_numpy(n_per_class)).tolist() if choice.class_weight == "balanced" else ()
    return FilmLabel(len(n_per_class), tuple(weights))
