"""Many networks trained at once on the same samples: epochs, early stopping, the best epoch of each, a null of shifts.

The steps are those of `fit`, with a leading axis of networks. Dense networks share one product per layer; recurrent
ones are a stack of one each (docs/performance.md has both ways measured).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from summer_train.data.batches import Block, OrderedBlocks, Outputs, ResidentSamples, Samples, ShuffledBlocks
from summer_train.data.film import FilmSamples
from summer_train.data.losses import cross_entropies
from summer_train.data.targets import FilmLabel
from summer_train.models.linear import LinearSolver
from summer_train.models.networks import n_weights, untrained_net
from summer_train.models.steps import AutogradSteps, DenseSteps, choose_steps, dense_parameters, predict_stack
from summer_train.settings.options import Choice, Log, log_nothing

MAX_STACK = 27
"""Networks in a stack; more gain nothing (docs/performance.md)."""

MAX_STACK_WEIGHTS = 2**24
"""Weights of a stack; training holds them five times (with gradients, Adam's averages and the best epoch's)."""


@dataclass
class Trained:
    """How the training of one network went.

    curve : training and validation loss of each epoch
    best_epoch : from 1, the one with the lowest validation loss; 0 if there is none, since training diverged
    """

    curve: list[tuple[float, float]] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def has_diverged(self) -> bool:
        """Whether the loss became no number."""
        return not np.isfinite(self.curve[-1][1])

    @property
    def is_fine(self) -> bool:
        """Whether there is a best epoch, and training did not diverge later."""
        return self.best_epoch > 0 and not self.has_diverged

    @property
    def best_loss(self) -> float:
        """The lowest validation loss so far."""
        return self.curve[self.best_epoch - 1][1] if self.best_epoch else float("inf")

    def add_epoch(self, train_loss: float, val_loss: float) -> bool:
        """Note an epoch; return whether it is the best one."""
        is_best = val_loss < self.best_loss
        self.curve.append((train_loss, val_loss))
        if is_best:
            self.best_epoch = len(self.curve)
        return is_best

    def is_over(self, patience: int | None) -> bool:
        """Return whether further epochs are of no use."""
        return self.has_diverged or (patience is not None and len(self.curve) - self.best_epoch >= patience)


class DenseNetworks:
    """Networks of one or two layers as one: weights with a leading axis.

    Parameters
    ----------
    datas, numbers : of each network its data, and the column in which its targets stand
    """

    def __init__(
        self, parameters: Sequence[Tensor], datas: Sequence[FilmSamples], numbers: Sequence[int], log: Log
    ) -> None:
        self.parameters = [nn.Parameter(parameter) for parameter in parameters]
        self.datas, self.numbers, self.log = datas, numbers, log
        device = parameters[0].device
        self.columns = torch.tensor(numbers, device=device)
        self.optimizer = _adam(self.parameters, datas[0])
        steps = DenseSteps(self.parameters, self._prepare, datas[0].task.loss_gradient, self.optimizer)
        self.steps = choose_steps(steps, device, log)
        self.solver = None
        if len(parameters) == 2:
            self.solver = LinearSolver(
                self.parameters,
                datas[0].task,
                self._prepare,
                lambda predictions, targets: _losses_of(predictions, targets, datas, numbers),
            )

    def _prepare(self, targets: Tensor) -> Tensor:
        """Return targets of all networks, of which each stands in a column, as the gradient takes them."""
        first = self.datas[0].task
        if not isinstance(first, FilmLabel):
            return first.prepare(targets)[None]
        of_networks = targets.index_select(1, self.columns).t()
        if not first.class_weights:
            return first.prepare(of_networks)
        return torch.stack([data.task.prepare(one) for data, one in zip(self.datas, of_networks, strict=True)])

    def predict(self, counts: Tensor) -> Tensor:
        """Return outputs, (n_networks, n_samples, n_outputs)."""
        return predict_stack(self.parameters, counts)

    def keep(self, places: Sequence[int]) -> "DenseNetworks":
        """Return some of the networks with what their optimizer knows: the others' place is free."""
        chosen = torch.tensor(places, device=self.parameters[0].device)
        kept = DenseNetworks(
            [parameter.detach().index_select(0, chosen) for parameter in self.parameters],
            [self.datas[place] for place in places],
            [self.numbers[place] for place in places],
            self.log,
        )
        for old, new in zip(self.parameters, kept.parameters, strict=True):
            kept.optimizer.state[new] = {
                name: value.index_select(0, chosen) if value.dim() else value.clone()
                for name, value in self.optimizer.state[old].items()
            }
        return kept

    def outputs_with(self, weights: Sequence[Sequence[Tensor]]) -> Outputs:
        """Return the outputs of networks of some weights."""
        parameters = [torch.stack(layer) for layer in zip(*weights, strict=True)]
        return lambda block: predict_stack(parameters, block.counts)


class OneNetwork:
    """A network of any kind, trained through autograd as `fit` does."""

    def __init__(self, net: nn.Module, data: FilmSamples, log: Log) -> None:
        self.net, self.datas, self.numbers = net.to(data.device), [data], [0]
        self.parameters = [parameter.detach()[None] for parameter in net.parameters()]
        optimizer = _adam(net.parameters(), data)
        self.autograd = choose_steps(AutogradSteps(net, data.task.loss, optimizer), data.device, log)

    def steps(self, block: Block) -> Tensor:
        """Take the steps of a block whose targets stand in the only column."""
        is_label = isinstance(self.datas[0].task, FilmLabel)
        return self.autograd(block._replace(targets=block.targets[:, 0]) if is_label else block)

    @torch.no_grad()
    def predict(self, counts: Tensor) -> Tensor:
        """Return outputs, (1, n_samples, n_outputs)."""
        prediction: Tensor = self.net(counts.float())
        return prediction[None]

    def outputs_with(self, weights: Sequence[Sequence[Tensor]]) -> Outputs:
        """Set the weights, of this network or of none, and return its outputs."""
        for own in weights:
            for parameter, values in zip(self.parameters, own, strict=True):
                parameter[0].copy_(values)
        return lambda block: self.predict(block.counts)


def _adam(parameters: Iterable[nn.Parameter], data: FilmSamples) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=data.choice.lr, fused=True, capturable=data.device.type == "cuda")


def stack_size(data: FilmSamples, choice: Choice) -> int:
    """Return how many networks of a choice are best trained as one."""
    if choice.model in ("lstm", "gru") or choice.task == "next_bin":
        return 1
    return min(MAX_STACK, max(1, MAX_STACK_WEIGHTS // n_weights(data, choice)))


def train_stack(
    datas: Sequence[FilmSamples],
    max_epochs: int,
    patience: int | None = None,
    log: Log = log_nothing,
) -> tuple[list[Trained], Outputs]:
    """Train one network on each of some data, which share their samples.

    Returns
    -------
    How training went, and the outputs of the best epoch of those networks whose training `is_fine`
    """
    first, choice = datas[0], datas[0].choice
    nets = [untrained_net(data, data.choice) for data in datas]
    networks: DenseNetworks | OneNetwork
    if dense_parameters(nets[0]) is None:
        networks = OneNetwork(nets[0], first, log)
    else:
        layers = zip(*(net.parameters() for net in nets), strict=True)
        weights = [torch.stack([weight.detach() for weight in layer]).to(first.device) for layer in layers]
        networks = DenseNetworks(weights, datas, range(len(datas)), log)
    samples = _with_columns(datas)
    train, val = (OrderedBlocks(samples=samples, indices=part) for part in (first.split.train, first.split.val))
    trained: list[Trained] = [Trained() for _ in datas]
    best: dict[int, list[Tensor]] = {}
    for epoch in range(max_epochs):
        if isinstance(networks, DenseNetworks) and networks.solver is not None:
            networks.solver(train)
            is_solved, train_losses = networks.solver.is_solved.tolist(), _losses(networks, train)
        else:
            shuffled = ShuffledBlocks(
                samples=samples,
                indices=first.split.train,
                batch_size=choice.batch_size,
                seed=choice.seed,
                current_epoch=partial(int, epoch),
            )
            is_solved = [False] * len(networks.numbers)
            train_losses = _mean_losses(networks, ((networks.steps(block), block) for block in shuffled))
        losses = zip(networks.numbers, train_losses, _losses(networks, val), strict=True)
        for place, (number, train_loss, val_loss) in enumerate(losses):
            if trained[number].add_epoch(train_loss, val_loss):
                best[number] = [parameter.detach()[place].clone() for parameter in networks.parameters]
        going_on = [
            place
            for place, number in enumerate(networks.numbers)
            if not trained[number].is_over(patience) and not is_solved[place]
        ]
        if not going_on:
            break
        if isinstance(networks, DenseNetworks) and len(going_on) < len(networks.numbers):
            networks = networks.keep(going_on)
    return trained, networks.outputs_with([best[number] for number, one in enumerate(trained) if one.is_fine])


def _with_columns(datas: Sequence[FilmSamples]) -> Samples:
    """Return the samples of the first data with a column of targets for each."""
    samples = datas[0].samples
    if not isinstance(datas[0].task, FilmLabel):
        return samples
    columns = np.stack([data.classes for data in datas], axis=1)
    if isinstance(samples, ResidentSamples):
        return replace(samples, targets=torch.from_numpy(columns).to(datas[0].device))
    return replace(samples, targets=columns)


def _losses(networks: DenseNetworks | OneNetwork, blocks: OrderedBlocks) -> list[float]:
    return _mean_losses(networks, ((networks.predict(block.counts), block) for block in blocks))


def _mean_losses(networks: DenseNetworks | OneNetwork, predicted: Iterable[tuple[Tensor, Block]]) -> list[float]:
    """Return the mean loss of each network over the samples of all blocks."""
    sums, n_samples = torch.zeros(len(networks.numbers), dtype=torch.float64), 0
    for predictions, block in predicted:
        losses = _losses_of(predictions, block.targets, networks.datas, networks.numbers)
        sums += losses.cpu().double() * len(block.targets)
        n_samples += len(block.targets)
    return [float(loss) for loss in sums / n_samples]


def _losses_of(predictions: Tensor, targets: Tensor, datas: Sequence[FilmSamples], columns: Sequence[int]) -> Tensor:
    """Return the mean loss of each network, (n_networks,), whose targets stand in some columns."""
    tasks = [data.task for data in datas]
    weights = [task.class_weights for task in tasks if isinstance(task, FilmLabel)]
    if not weights:
        return torch.stack([task.loss(one, targets) for task, one in zip(tasks, predictions, strict=True)])
    return cross_entropies(predictions, targets[:, list(columns)].t(), weights)
