"""From predictions to scores, means over samples in the precision of the predictions, and gradients of the losses."""

import torch
from torch import Tensor
from torch.nn import functional


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, mean over samples and outputs, of (n_samples, n_outputs) each."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)  # 16 bits would round the counts
    return functional.mse_loss(prediction.to(dtype), target.to(dtype))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, (n_samples,), under (n_samples, n_classes) logits, mean over samples."""
    return functional.cross_entropy(logits, target.long())


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the share of samples whose most likely class is right."""
    return (logits.argmax(dim=1) == target).to(logits.dtype).mean()


def squared_error_gradient(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the gradient of the squared error, mean over outputs and summed over samples; any leading axes."""
    return torch.sub(prediction, target).mul_(2 / prediction.shape[-1])


def cross_entropy_gradient(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy, summed over samples; any leading axes."""
    return torch.softmax(logits, dim=-1).sub_(one_hot)
