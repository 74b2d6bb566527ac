"""The decoders of the published pipeline; each says what is its own: network, target, loss, metrics."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from summer_train.steps import TwoLayerSteps, cross_entropy_gradient, squared_error_gradient
from summer_train.tasks import Decoder


def two_layer_net(n_inputs: int, hidden_size: int, n_outputs: int) -> nn.Sequential:
    """Return Linear -> ReLU -> Linear.

    Source: the published pipeline (spec of both tasks).
    """
    return nn.Sequential(nn.Linear(n_inputs, hidden_size), nn.ReLU(), nn.Linear(hidden_size, n_outputs))


class LinearNextBin(Decoder):
    """Predict every unit's count in the next bin, (n_samples, n_units); mean squared error."""

    def __init__(self, n_units: int, hidden_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.net: nn.Sequential = two_layer_net(n_units, hidden_size, n_units)

    def loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error, mean over samples and units."""
        return functional.mse_loss(prediction, targets.float())

    def written_out_steps(self, optimizer: torch.optim.Adam) -> TwoLayerSteps:
        """Return the same steps past autograd."""
        return TwoLayerSteps(self.net, Tensor.float, squared_error_gradient, optimizer)

    def metric_sums(self, prediction: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return nothing: the loss says it all."""
        return {}


class LinearLabel(Decoder):
    """Predict the class of a label, (n_samples, n_classes) logits; cross-entropy and accuracy."""

    def __init__(self, n_units: int, n_classes: int = 2, hidden_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.n_classes = n_classes
        self.net: nn.Sequential = two_layer_net(n_units, hidden_size, n_classes)

    def loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, mean over samples."""
        return functional.cross_entropy(prediction, targets.long())

    def written_out_steps(self, optimizer: torch.optim.Adam) -> TwoLayerSteps:
        """Return the same steps past autograd."""
        return TwoLayerSteps(self.net, self._one_hot, cross_entropy_gradient, optimizer)

    def _one_hot(self, targets: Tensor) -> Tensor:
        return functional.one_hot(targets.long(), self.n_classes).float()

    def metric_sums(self, prediction: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the number of samples whose most likely class is right."""
        return {"accuracy": (prediction.argmax(dim=1) == targets).sum(dtype=torch.float32)}
