"""The networks: plain nn.Modules from counts, (n_samples, n_units), to predictions, (n_samples, n_outputs)."""

from torch import nn


def two_layer_net(n_inputs: int, hidden_size: int, n_outputs: int) -> nn.Sequential:
    """Return Linear -> ReLU -> Linear.

    Source: the published pipeline (docs/science.md).
    """
    return nn.Sequential(nn.Linear(n_inputs, hidden_size), nn.ReLU(), nn.Linear(hidden_size, n_outputs))
