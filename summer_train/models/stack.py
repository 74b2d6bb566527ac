"""Many networks trained at once on the same samples: epochs, early stopping, the best epoch of each.

The steps are those of `fit`, with a leading axis of networks. Dense networks share one product per layer; recurrent
ones are a stack of one each (docs/performance.md has both ways measured).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from summer_train.data.batches import Block, OrderedBlocks, Outputs, ResidentSamples, ShuffledBlocks
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmLabel, cross_entropies
from summer_train.models.linear import LinearSolver
from summer_train.models.networks import RECURRENT, n_weights, untrained_net
from summer_train.models.ridge import RidgeSolver
from summer_train.models.steps import AutogradSteps, DenseSteps, Steps, choose_steps, predict_stack
from summer_train.settings.options import SOLVED, Choice, Log, log_nothing

MAX_STACK = 27  # networks; more gain nothing (docs/performance.md)
MAX_STACK_WEIGHTS = 2**24  # training holds them five times (with gradients, Adam's averages and the best epoch's)


@dataclass
class Trained:
    """How the training of one network went.

    curve : training and validation loss of each epoch
    best_epoch : from 1, the one with the lowest validation loss; 0 if there is none, since training diverged
    penalty : of ridge, chosen on validation
    """

    curve: list[tuple[float, float]] = field(default_factory=list)
    best_epoch: int = 0
    penalty: float | None = None

    @property
    def is_fine(self) -> bool:
        """Whether there is a best epoch, and training did not diverge later."""
        return self.best_epoch > 0 and math.isfinite(self.curve[-1][1])


def stack_size(data: FilmSamples, choice: Choice) -> int:
    """Return how many networks of a choice are best trained as one."""
    if choice.model in RECURRENT or choice.task != "label":
        return 1
    n_of_all = n_weights(data, choice)
    if takes_masks(choice):
        n_of_all = n_of_all * data.selection.n_units // data.n_units
    return min(MAX_STACK, max(1, MAX_STACK_WEIGHTS // n_of_all))


def takes_masks(choice: Choice) -> bool:
    """Return whether networks of different units of a selection train in one stack, which sees all of them."""
    return choice.task == "label" and choice.model not in RECURRENT and not choice.n_shared


class _Stack:
    """Networks that share their samples, as one: the weights of each layer have a leading axis.

    rows : the networks that still train; the stored targets of a label have a column for each of all networks
    weights : of each layer, (n_networks, ...); a recurrent network is a stack of one, and these are views of its own
    """

    def __init__(self, datas: Sequence[FilmSamples], log: Log) -> None:
        choice, self.device, self.log = datas[0].choice, datas[0].device, log
        self.tasks, self.rows = [data.task for data in datas], list(range(len(datas)))
        self.columns = torch.tensor(self.rows, device=self.device)
        nets = [untrained_net(data, data.choice).to(self.device) for data in datas]
        self.net = nets[0] if choice.model in RECURRENT else None
        masks = _masks_of(datas)
        layers = zip(*(_widened(net.parameters(), mask) for net, mask in zip(nets, masks, strict=True)), strict=True)
        self.weights = [layer[0].detach()[None] if self.net else torch.stack(layer).detach() for layer in layers]
        parameters, on_gpu = self.net.parameters() if self.net else self.weights, self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            parameters, lr=choice.lr, weight_decay=choice.weight_decay, fused=True, capturable=on_gpu
        )
        first = self.tasks[0]
        own = (slice(None), 0) if isinstance(first, FilmLabel) else slice(None)
        self.solver: LinearSolver | RidgeSolver = LinearSolver(self.weights, first, self.prepare, self.losses)
        self.eager_steps: Steps = (
            AutogradSteps(self.net, lambda prediction, y: first.loss(prediction, y[own]), self.optimizer)
            if self.net
            else DenseSteps(
                self.weights, self.prepare, first.loss_gradient, self.optimizer, choice.dropout, choice.seed
            )
        )
        self.mask = torch.stack(masks)[:, None].float().to(self.device) if masks[0] is not None else None
        self._set_masks()
        self.steps = choose_steps(self.eager_steps, self.device, log)

    def _set_masks(self) -> None:
        if isinstance(self.eager_steps, DenseSteps):
            self.eager_steps.mask = self.mask
        if isinstance(self.solver, LinearSolver):
            self.solver.mask = self.mask

    def prepare(self, targets: Tensor) -> Tensor:
        """Return the stored targets of all networks as the gradient of the loss takes them."""
        first = self.tasks[0]
        if not isinstance(first, FilmLabel):
            return first.prepare(targets)[None]
        targets = targets.index_select(1, self.columns).t()
        if not first.class_weights:
            return first.prepare(targets)
        return torch.stack([task.prepare(own) for task, own in zip(self.tasks, targets, strict=True)])

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of each network, (n_networks,)."""
        class_weights = [task.class_weights for task in self.tasks if isinstance(task, FilmLabel)]
        if not class_weights:
            return torch.stack([task.loss(own, targets) for task, own in zip(self.tasks, predictions, strict=True)])
        return cross_entropies(predictions, targets.index_select(1, self.columns).t(), class_weights)

    @torch.no_grad()
    def predict(self, block: Block) -> Tensor:
        """Return the outputs of all networks, (n_networks, n_samples, n_outputs)."""
        return self.net(block.counts.float())[None] if self.net else predict_stack(self.weights, block.counts)

    def mean_losses(self, blocks: Iterable[Block], predict: Outputs) -> list[float]:
        """Return the mean loss of each network over the samples of all blocks."""
        sums, n_samples = torch.zeros(len(self.rows), dtype=torch.float64), 0
        for block in blocks:
            sums += self.losses(predict(block), block.targets).cpu().double() * len(block.targets)
            n_samples += len(block.targets)
        return [float(loss) for loss in sums / n_samples]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the networks alone: the fewer, the faster."""
        chosen = torch.tensor(places, device=self.device)
        for weight in self.weights:
            weight.data = weight.index_select(0, chosen)
            state = self.optimizer.state[weight]
            state.update({name: value.index_select(0, chosen) for name, value in state.items() if value.dim()})
        self.tasks, self.rows = [self.tasks[place] for place in places], [self.rows[place] for place in places]
        self.columns = torch.tensor(self.rows, device=self.device)
        self.mask = None if self.mask is None else self.mask.index_select(0, chosen)
        self._set_masks()
        self.steps = choose_steps(self.eager_steps, self.device, self.log)  # a CUDA graph holds one number of networks

    def outputs_of(self, weights: Sequence[Sequence[Tensor]]) -> Outputs:
        """Return the outputs of networks of some weights."""
        layers = [torch.stack(layer) for layer in zip(*weights, strict=True)]
        if self.net is None:
            return lambda block: predict_stack(layers, block.counts)
        for own, values in zip(self.weights, layers, strict=False):  # no values if training diverged
            own.copy_(values)
        return self.predict


def _masks_of(datas: Sequence[FilmSamples]) -> list[Any]:
    """Return which inputs each network sees, (n_inputs,) flags; None for each if all see all."""
    if all(data.kept is None for data in datas):
        return [None] * len(datas)
    masks = torch.zeros(len(datas), datas[0].selection.n_units, dtype=torch.bool)
    for mask, data in zip(masks, datas, strict=True):
        mask[slice(None) if data.kept is None else data.kept] = True
    return list(masks.repeat(1, datas[0].window.n_bins))


def _widened(layers: Iterable[Tensor], mask: Tensor | None) -> Iterable[Tensor]:
    """Return the weights of a network, its first layer with columns of 0 for the inputs that it does not see."""
    first, *others = layers
    if mask is None:
        return first, *others
    wide = first.new_zeros(len(first), len(mask))
    wide[:, mask.to(wide.device)] = first.detach()
    return wide, *others


def train_stack(
    datas: Sequence[FilmSamples], max_epochs: int, patience: int | None = None, log: Log = log_nothing
) -> tuple[list[Trained], Outputs]:
    """Train one network on each of some data, which share their samples; a recurrent network alone.

    Returns how training went, and the outputs of the best epoch of those networks whose training `is_fine`.
    """
    first, samples = datas[0], datas[0].samples
    if isinstance(first.task, FilmLabel):
        columns: Any = np.stack([data.classes for data in datas], axis=1)
        if isinstance(samples, ResidentSamples):
            columns = torch.from_numpy(columns).to(first.device)
        samples = replace(samples, targets=columns)
    train, val = (OrderedBlocks(samples=samples, indices=part) for part in (first.split.train, first.split.val))
    shuffled = ShuffledBlocks(
        samples=samples,
        indices=first.split.train,
        batch_size=first.choice.batch_size,
        seed=first.choice.seed,
        current_epoch=count().__next__,
    )
    stack, trained, lowest = _Stack(datas, log), [Trained() for _ in datas], [math.inf] * len(datas)
    best: dict[int, list[Tensor]] = {}
    if first.choice.model == "ridge":
        stack.solver = RidgeSolver(stack.weights, val)
    for epoch in range(1, max_epochs + 1):
        if first.choice.model in SOLVED:
            stack.solver(train)
            is_solved, train_losses = stack.solver.is_solved.tolist(), stack.mean_losses(train, stack.predict)
        else:
            is_solved, train_losses = [False] * len(stack.rows), stack.mean_losses(shuffled, stack.steps)
        val_losses = stack.mean_losses(val, stack.predict)
        going_on = []
        for place, row in enumerate(stack.rows):
            one = trained[row]
            one.curve.append((train_losses[place], val_losses[place]))
            one.penalty = getattr(stack.solver, "penalty", None)
            if val_losses[place] < lowest[row]:
                lowest[row], one.best_epoch = val_losses[place], epoch
                best[row] = [weight[place].clone() for weight in stack.weights]
            is_patient = patience is None or epoch - one.best_epoch < patience
            if is_patient and math.isfinite(val_losses[place]) and not is_solved[place]:
                going_on.append(place)
        if not going_on:
            break
        if len(going_on) < len(stack.rows):
            stack.keep(going_on)
    return trained, stack.outputs_of([best[row] for row, one in enumerate(trained) if one.is_fine])
