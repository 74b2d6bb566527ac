"""The losses of the tasks, and weights of classes. Pure arithmetic; `targets` has the gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, mean over samples and outputs, of (n_samples, n_outputs) each."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)  # 16 bits would round the counts
    return functional.mse_loss(prediction.to(dtype), target.to(dtype))


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cosine similarity, mean over samples, of (n_samples, n_outputs) each."""
    return 1 - functional.cosine_similarity(prediction.float(), target.float(), dim=-1).mean()


def poisson(log_rate: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood of counts under Poisson firing, without its constant term, mean over all."""
    dtype = torch.promote_types(log_rate.dtype, torch.float32)
    return functional.poisson_nll_loss(log_rate.to(dtype), target.to(dtype), log_input=True, full=False)


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the cross-entropy of classes, (n_samples,), under (n_samples, n_classes) logits, mean over samples.

    Parameters
    ----------
    class_weights : a sample counts as much as its class weighs; the mean is still over samples, so that it does not
        depend on which classes a mini-batch happens to hold
    """
    if not class_weights:
        return functional.cross_entropy(logits, target.long())
    losses = functional.cross_entropy(logits, target.long(), reduction="none")
    return (losses * weights_of_samples(target, class_weights)).mean()


def cross_entropies(logits: Tensor, targets: Tensor, class_weights: Sequence[Sequence[float]]) -> Tensor:
    """Return the cross-entropy of many networks at once, (n_networks,), each as `cross_entropy` of its own.

    Parameters
    ----------
    logits, targets : (n_networks, n_samples, n_classes) and (n_networks, n_samples)
    class_weights : of each network
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
