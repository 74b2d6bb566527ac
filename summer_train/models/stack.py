"""Many networks trained at once on the same samples: epochs, early stopping, the best epoch of each, a null of shifts.

The steps are those of `fit`, with a leading axis of networks. Dense networks share one product per layer; recurrent
ones are a stack of one each (docs/performance.md has both ways measured).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from summer_train.data.batches import ArrayRows, Block, OrderedBlocks, Outputs, ResidentSamples, Samples, ShuffledBlocks
from summer_train.data.film import FilmSamples
from summer_train.data.losses import cross_entropies
from summer_train.data.targets import FilmLabel
from summer_train.models.linear import LinearSolver
from summer_train.models.networks import n_weights, untrained_net
from summer_train.models.steps import AutogradSteps, DenseSteps, choose_steps, dense_parameters, predict_stack
from summer_train.settings.options import Choice, Say, say_nothing

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


class Networks(Protocol):
    """Networks that are trained side by side, in the order of their data."""

    def steps(self, block: Block) -> Tensor:
        """Take the steps of a block, as `steps.Steps`."""

    def predict(self, counts: Tensor) -> Tensor:
        """Return outputs, (n_networks, n_samples, n_outputs)."""

    def is_solved(self, place: int) -> bool:
        """Return whether further epochs are of no use to a network."""

    def weights(self, number: int) -> list[Tensor]:
        """Return a copy of a network's weights."""

    def keep(self, numbers: Sequence[int]) -> "Networks":
        """Return some of the networks, to be trained on."""


class DenseNetworks:
    """Networks of one or two layers as one: weights with a leading axis."""

    def __init__(
        self, parameters: Sequence[Tensor], datas: Sequence[FilmSamples], columns: Tensor, lr: float, say: Say
    ) -> None:
        self.parameters = [nn.Parameter(parameter) for parameter in parameters]
        self.datas, self.columns, self.lr, self.say = datas, columns, lr, say
        device = parameters[0].device
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True, capturable=device.type == "cuda")
        self.solver: LinearSolver | None = None
        steps = DenseSteps(self.parameters, self._prepare, datas[0].task.loss_gradient, self.optimizer)
        self.steps = choose_steps(steps, device, say)

    @classmethod
    def untrained(cls, nets: Sequence[nn.Module], datas: Sequence[FilmSamples], say: Say) -> "DenseNetworks":
        """Return the networks, all of one shape, as a stack."""
        layers = zip(*(dense_parameters(net) or [] for net in nets), strict=True)
        parameters = [torch.stack([weight.detach() for weight in layer]).to(datas[0].device) for layer in layers]
        columns = torch.arange(len(datas), device=datas[0].device)
        return cls(parameters, datas, columns, datas[0].choice.lr, say)

    def _prepare(self, targets: Tensor) -> Tensor:
        """Return targets of all networks, of which each stands in a column, as the gradient takes them."""
        first = self.datas[0].task
        if not isinstance(first, FilmLabel):
            return first.prepare(targets)[None]
        of_networks = targets.index_select(1, self.columns).t()
        if not first.class_weights:
            return first.prepare(of_networks)
        return torch.stack([data.task.prepare(one) for data, one in zip(self.datas, of_networks, strict=True)])

    def is_solved(self, place: int) -> bool:
        """Return whether further epochs are of no use to a network, which is at its minimum."""
        return self.solver is not None and bool(self.solver.is_solved[place])

    def solve(self, blocks: OrderedBlocks) -> None:
        """Take the iterations of an epoch over all training samples; for networks of one layer."""
        if self.solver is None:
            columns = self.columns.tolist()
            self.solver = LinearSolver(
                self.parameters,
                self.datas[0].task,
                self._prepare,
                lambda predictions, targets: _losses_of(predictions, targets, self.datas, columns),
            )
        self.solver(blocks)

    def predict(self, counts: Tensor) -> Tensor:
        """Return outputs, (n_networks, n_samples, n_outputs)."""
        return predict_stack([parameter.detach() for parameter in self.parameters], counts)

    def weights(self, number: int) -> list[Tensor]:
        """Return a copy of a network's weights."""
        return [parameter.detach()[number].clone() for parameter in self.parameters]

    def keep(self, numbers: Sequence[int]) -> "DenseNetworks":
        """Return some of the networks with what their optimizer knows: the others' place is free."""
        chosen = torch.tensor(numbers, device=self.parameters[0].device)
        kept = DenseNetworks(
            [parameter.detach().index_select(0, chosen) for parameter in self.parameters],
            [self.datas[number] for number in numbers],
            self.columns.index_select(0, chosen),
            self.lr,
            self.say,
        )
        for old, new in zip(self.parameters, kept.parameters, strict=True):
            kept.optimizer.state[new] = {
                name: value.index_select(0, chosen) if value.dim() else value.clone()
                for name, value in self.optimizer.state[old].items()
            }
        return kept


class OneNetwork:
    """A network of any kind, trained through autograd as `fit` does."""

    def __init__(self, net: nn.Module, data: FilmSamples, say: Say) -> None:
        self.net = net.to(data.device)
        self.is_label = isinstance(data.task, FilmLabel)
        is_on_gpu = data.device.type == "cuda"
        optimizer = torch.optim.Adam(self.net.parameters(), lr=data.choice.lr, fused=True, capturable=is_on_gpu)
        self.autograd = choose_steps(AutogradSteps(self.net, data.task.loss, optimizer), data.device, say)

    def steps(self, block: Block) -> Tensor:
        """Take the steps of a block whose targets stand in the only column."""
        return self.autograd(block._replace(targets=block.targets[:, 0]) if self.is_label else block)

    def is_solved(self, place: int) -> bool:
        """Return that it is not."""
        return False

    @torch.no_grad()
    def predict(self, counts: Tensor) -> Tensor:
        """Return outputs, (1, n_samples, n_outputs)."""
        prediction: Tensor = self.net(counts.float())
        return prediction[None]

    def weights(self, number: int) -> list[Tensor]:
        """Return a copy of the network's weights."""
        return [parameter.detach().clone() for parameter in self.net.parameters()]

    def keep(self, numbers: Sequence[int]) -> "OneNetwork":
        """Return itself."""
        return self

    def take(self, weights: Sequence[Tensor]) -> None:
        """Set the weights."""
        with torch.no_grad():
            for parameter, values in zip(self.net.parameters(), weights, strict=True):
                parameter.copy_(values)


def stack_size(data: FilmSamples, choice: Choice) -> int:
    """Return how many networks of a choice are best trained as one."""
    if choice.model in ("lstm", "gru") or choice.task == "next_bin":
        return 1
    return min(MAX_STACK, max(1, MAX_STACK_WEIGHTS // n_weights(data, choice)))


def train_stack(
    datas: Sequence[FilmSamples],
    max_epochs: int,
    patience: int | None = None,
    say: Say = say_nothing,
) -> tuple[list[Trained], Outputs]:
    """Train one network on each of some data, which share their samples.

    Returns
    -------
    How training went, and the outputs of the best epoch of those networks whose training `is_fine`
    """
    nets = [untrained_net(data, data.choice) for data in datas]
    is_dense = dense_parameters(nets[0]) is not None
    networks: Networks
    networks = DenseNetworks.untrained(nets, datas, say) if is_dense else OneNetwork(nets[0], datas[0], say)
    samples = _with_columns(datas)
    trained, best = [Trained() for _ in datas], {}
    running = list(range(len(datas)))
    for epoch in range(max_epochs):
        losses = zip(
            _train_epoch(networks, datas, running, samples, epoch),
            _losses(networks.predict, datas, running, OrderedBlocks(samples=samples, indices=datas[0].split.val)),
            strict=True,
        )
        for place, (number, (train_loss, val_loss)) in enumerate(zip(running, losses, strict=True)):
            if trained[number].add_epoch(train_loss, val_loss):
                best[number] = networks.weights(place)
        places = [
            place
            for place, number in enumerate(running)
            if not trained[number].is_over(patience) and not networks.is_solved(place)
        ]
        if not places:
            break
        if len(places) < len(running):
            networks, running = networks.keep(places), [running[place] for place in places]
    return trained, _outputs_of([best[number] for number, one in enumerate(trained) if one.is_fine], networks)


def _outputs_of(weights: Sequence[Sequence[Tensor]], networks: Networks) -> Outputs:
    if isinstance(networks, OneNetwork):
        for own in weights:  # of one network, or of none
            networks.take(own)
        return lambda block: networks.predict(block.counts)
    parameters = [torch.stack(list(layer)) for layer in zip(*weights, strict=True)]
    return lambda block: predict_stack(parameters, block.counts)


def _with_columns(datas: Sequence[FilmSamples]) -> Samples:
    """Return the samples of the first data with a column of targets for each."""
    samples: Any = datas[0].samples
    if not isinstance(datas[0].task, FilmLabel):
        return datas[0].samples
    columns = np.stack([data.targets.all_rows() for data in datas], axis=1)
    is_resident = isinstance(samples, ResidentSamples)
    targets = torch.from_numpy(columns).to(datas[0].device) if is_resident else ArrayRows(columns)
    stacked: Samples = replace(samples, targets=targets)
    return stacked


def _train_epoch(
    networks: Networks, datas: Sequence[FilmSamples], running: Sequence[int], samples: Samples, epoch: int
) -> list[float]:
    """Take the steps of an epoch; return the mean loss of each network on the way, of a solved one at the end."""
    choice = datas[0].choice
    if choice.model == "linear":
        assert isinstance(networks, DenseNetworks)
        whole = OrderedBlocks(samples=samples, indices=datas[0].split.train)
        networks.solve(whole)
        return _losses(networks.predict, datas, running, whole)
    blocks = ShuffledBlocks(
        samples=samples,
        indices=datas[0].split.train,
        batch_size=choice.batch_size,
        seed=choice.seed,
        current_epoch=lambda: epoch,
    )
    return _mean_losses(((networks.steps(block), block) for block in blocks), datas, running)


@torch.no_grad()
def _losses(
    predict: Callable[[Tensor], Tensor], datas: Sequence[FilmSamples], running: Sequence[int], blocks: OrderedBlocks
) -> list[float]:
    return _mean_losses(((predict(block.counts), block) for block in blocks), datas, running)


def _mean_losses(
    predicted: Iterator[tuple[Tensor, Block]], datas: Sequence[FilmSamples], running: Sequence[int]
) -> list[float]:
    sums, n_samples = torch.zeros(len(running), dtype=torch.float64), 0
    for predictions, block in predicted:
        of_running = [datas[number] for number in running]
        sums += _losses_of(predictions, block.targets, of_running, running).cpu().double() * len(block.targets)
        n_samples += len(block.targets)
    return [float(loss) for loss in sums / n_samples]


def _losses_of(predictions: Tensor, targets: Tensor, datas: Sequence[FilmSamples], columns: Sequence[int]) -> Tensor:
    """Return the mean loss of each network, (n_networks,), whose targets stand in some columns."""
    tasks = [data.task for data in datas]
    weights = [task.class_weights for task in tasks if isinstance(task, FilmLabel)]
    if not weights:
        return torch.stack([task.loss(one, targets) for task, one in zip(tasks, predictions, strict=True)])
    return cross_entropies(predictions, targets[:, list(columns)].t(), weights)
