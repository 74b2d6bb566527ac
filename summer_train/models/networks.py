"""The networks: plain nn.Modules from counts to predictions, (n_samples, n_outputs).

Counts are (n_samples, n_units), or (n_samples, n_bins, n_units) where a sample is a window of several bins.
"""

import math

import torch
from torch import Tensor, nn

from summer_prep.errors import SettingsError
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmLabel, NextBin
from summer_train.settings.options import OWN, SOLVED, Choice

RECURRENT: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def two_layer_net(n_inputs: int, hidden_size: int, n_outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Return Linear -> ReLU (-> Dropout) -> Linear. Source: the published pipeline (docs/science.md); it has none."""
    hidden = [nn.Linear(n_inputs, hidden_size), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*hidden, nn.Linear(hidden_size, n_outputs))


class Recurrent(nn.Module):
    """An LSTM or GRU over the bins of a window, first to last; the last hidden state is read out linearly.

    Source: the published decoder is an LSTM on 20 bins of 80 ms (Gerken et al.); its size is our decision.
    """

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], n_units: int, hidden_size: int, n_outputs: int) -> None:
        super().__init__()
        self.cells = kind(n_units, hidden_size, batch_first=True)
        self.readout = nn.Linear(hidden_size, n_outputs)

    def forward(self, counts: Tensor) -> Tensor:
        """Predict from windows; a bin alone is a window of one."""
        hidden, _ = self.cells(counts if counts.dim() == 3 else counts[:, None])
        prediction: Tensor = self.readout(hidden[:, -1])
        return prediction


def net_of(data: FilmSamples, choice: Choice) -> nn.Module:
    """Return the network of some data, with weights as torch gives them; raises SettingsError for a user's own."""
    if choice.model.startswith(OWN):
        raise SettingsError(f"--model {choice.model}: only your own code knows it. Give it to fit(network=...)")
    n_inputs, n_outputs = data.window.n_bins * data.n_inputs, data.task.n_outputs
    if choice.model in RECURRENT:
        return Recurrent(RECURRENT[choice.model], data.n_inputs, choice.hidden_size, n_outputs)
    if choice.model in SOLVED:
        layers = nn.Sequential(nn.Linear(n_inputs, n_outputs))
    else:
        layers = two_layer_net(n_inputs, choice.hidden_size, n_outputs, choice.dropout)
    return layers if data.window.n_bins == 1 else nn.Sequential(nn.Flatten(), *layers)


def untrained_net(data: FilmSamples, choice: Choice) -> nn.Module:
    """Return the untrained network of some data: weights as torch gives them after `torch.manual_seed(choice.seed)`.

    They come from a generator of their own, since threads share torch's.
    """
    with torch.device("meta"):  # weights without values
        net = net_of(data, choice).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(choice.seed)
    for layer in net.modules():
        if choice.model in SOLVED:  # its loss has one minimum, so it needs no random start
            for weights in layer.parameters():
                nn.init.zeros_(weights)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.RNNBase):
            bound = 1 / math.sqrt(layer.hidden_size)
            for weights in layer.parameters():
                nn.init.uniform_(weights, -bound, bound, generator=generator)
    return net


def decoder_name(data: FilmSamples, choice: Choice) -> str:
    """Return the class of `decoder` that holds the network of some data."""
    is_stock = data.task in (FilmLabel(data.task.n_outputs), NextBin(data.n_units))
    if choice.model != "mlp" or data.window.n_bins > 1 or not is_stock or data.choice.n_shared or choice.dropout:
        return "Decoder"
    return "LinearLabel" if isinstance(data.task, FilmLabel) else "LinearNextBin"


def n_weights(data: FilmSamples, choice: Choice, network: nn.Module | None = None) -> int:
    """Return the number of weights of a user's own network, or of that of some data, without making it."""
    with torch.device("meta"):
        net = net_of(data, choice) if network is None else network
        return sum(parameter.numel() for parameter in net.parameters())


def flops_per_step(data: FilmSamples, network: nn.Module | None = None) -> float:
    """Return the floating-point operations of a step's matrix products."""
    n_passes = data.window.n_bins if data.choice.model in RECURRENT else 1
    n_products = n_weights(data, data.choice, network) * n_passes * data.choice.batch_size
    return 6.0 * n_products  # forward and twice that backward
