"""Networks of one layer, solved over all samples: logistic regression, least squares, Poisson regression.

Their losses have one minimum. L-BFGS finds it in some ten to fifty passes over the training samples, where Adam on
mini-batches keeps wandering around it. A stack of networks that share their samples is solved at once, each with step
sizes of its own; one network is a stack of one.

Source: Nocedal & Wright, Numerical Optimization (2006), algorithms 3.1 and 7.4.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from summer_train.data.batches import Block, is_distributed
from summer_train.data.targets import NextBin, Task
from summer_train.models.steps import dense_gradients, sum_over_processes

ITERATIONS = 20
"""In an epoch, at most; curvature is estimated anew in each, so that a run can be continued after any epoch."""

N_PAIRS = 5
"""Steps that the curvature is estimated from."""

CONVERGED = 1e-8
"""A network is at its minimum where the next step is expected to lower its loss by no more than about this."""

BYTES_PER_WEIGHT = 160
"""What solving takes: weights, gradients, direction and N_PAIRS pairs of float64, also while they are replaced."""

_FIRST_STEP = 0.1
"""Its length at most, of standardised weights."""

_LEAST_DECREASE = 1e-4
"""Of what the slope promises, for a step to be taken."""

_MAX_TRIALS = 20

Losses = Callable[[Tensor, Tensor], Tensor]
"""(n_networks, n_samples, n_outputs) predictions and stored targets -> mean loss of each network, (n_networks,)."""


class LinearSolver:
    """Takes the iterations of an epoch.

    Inputs are standardised on the way, and outputs scaled where the loss is more curved for some than for others;
    units are then alike whatever they fire, and few iterations are needed. All in float64: rounding that differs
    between a network alone and in a stack would grow from iteration to iteration.

    Parameters
    ----------
    parameters : (n_networks, n_outputs, n_inputs) and (n_networks, n_outputs), which are set in place
    task : of the first network; the others differ from it in targets and class weights only
    prepare : stored targets -> (n_networks, n_samples, n_outputs), as the gradient takes them

    Attributes
    ----------
    is_solved : (n_networks,) which are at their minimum: further epochs are of no use
    """

    def __init__(
        self, parameters: Sequence[Tensor], task: Task, prepare: Callable[[Tensor], Tensor], losses: Losses
    ) -> None:
        self.weight, self.bias = (parameter.detach() for parameter in parameters)
        self.task, self.prepare, self.losses = task, prepare, losses
        self.is_solved = torch.zeros(len(self.weight), dtype=torch.bool, device=self.weight.device)
        self.n_samples = 0

    @torch.no_grad()
    def __call__(self, blocks: Iterable[Block]) -> int:
        """Improve the networks, and return how often that took all samples.

        Parameters
        ----------
        blocks : all training samples, the share of this process; iterated over many times
        """
        if not self.n_samples:
            self._measure(blocks)
        point = self._scaled()
        loss, gradient = self._evaluate(point, blocks)
        pairs: list[tuple[Tensor, Tensor]] = []
        n_passes = 1
        for _ in range(ITERATIONS):
            direction = _direction(gradient, pairs, self.task.n_outputs)
            slope = (gradient * direction).sum(1)
            self.is_solved = slope > -CONVERGED
            if self.is_solved.all():
                break
            direction[self.is_solved] = 0
            size = torch.ones_like(slope)
            for _ in range(_MAX_TRIALS):
                trial = point + size[:, None] * direction
                new_loss, new_gradient = self._evaluate(trial, blocks)
                n_passes += 1
                is_fine = (new_loss <= loss + _LEAST_DECREASE * size * slope) | self.is_solved
                if is_fine.all():
                    break
                size = torch.where(is_fine, size, size / 4)
            pairs = [*pairs, (trial - point, new_gradient - gradient)][-N_PAIRS:]
            point, loss, gradient = trial, new_loss, new_gradient
        for parameter, values in zip((self.weight, self.bias), self._unscaled(point), strict=True):
            parameter.copy_(values)
        return n_passes

    def _measure(self, blocks: Iterable[Block]) -> None:
        """Take mean and standard deviation of the inputs, and start where every output is its mean."""
        _, n_outputs, n_inputs = self.weight.shape
        sums = self.weight.new_zeros(3, max(n_inputs, n_outputs), dtype=torch.float64)
        n_samples = self.weight.new_zeros(1, dtype=torch.float64)
        is_poisson = isinstance(self.task, NextBin) and self.task.kind == "poisson"
        for block in blocks:
            x = block.counts.double().flatten(1)
            sums[0, :n_inputs] += x.sum(0)
            sums[1, :n_inputs] += x.square().sum(0)
            if is_poisson:
                sums[2, :n_outputs] += block.targets.sum(0)
            n_samples += len(x)
        if is_distributed():
            sum_over_processes([sums, n_samples])
        self.n_samples = int(n_samples)
        mean, square, target = sums / n_samples
        deviation = (square - mean.square()).clamp_min(0).sqrt()[:n_inputs]
        # A unit that is silent in training keeps a weight of 0.
        self.mean, self.inverse = mean[:n_inputs], torch.where(deviation > 0, 1 / deviation, 0)
        self.curvature = torch.ones_like(target[:n_outputs])
        if is_poisson:
            rate = target[:n_outputs].clamp_min(1 / self.n_samples)
            self.curvature = rate.sqrt()
            if not self.weight.any() and not self.bias.any():
                self.bias.copy_(rate.log().expand_as(self.bias))

    def _scaled(self) -> Tensor:
        """Return the weights as those of standardised inputs and scaled outputs, (n_networks, n_weights)."""
        bias = self.bias + self.weight.double() @ self.mean
        deviation = torch.where(self.inverse > 0, 1 / self.inverse, 0)
        return torch.cat([(self.weight * self.curvature[:, None] * deviation).flatten(1), bias * self.curvature], dim=1)

    def _unscaled(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and biases that `_scaled` would make a point of."""
        weight, bias = point.split([self.weight[0].numel(), self.bias[0].numel()], dim=1)
        weight = weight.reshape(self.weight.shape) * self.inverse / self.curvature[:, None]
        return weight, bias / self.curvature - weight @ self.mean

    def _evaluate(self, point: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each network at a point, and its gradient there."""
        weight, bias = self._unscaled(point)
        gradients_of = dense_gradients([weight, bias])
        loss, d_weight, d_bias = point.new_zeros(len(point)), torch.zeros_like(weight), torch.zeros_like(bias)
        for block in blocks:
            n_samples = len(block.targets)
            if not n_samples:
                continue
            x, y = block.counts.double().flatten(1), self.prepare(block.targets).double().transpose(1, 2)
            made, gradients = gradients_of(x, y, self.n_samples, self.task.loss_gradient)
            loss += self.losses(made.transpose(1, 2), block.targets) * (n_samples / self.n_samples)
            d_weight += gradients[0]
            d_bias += gradients[1]
        if is_distributed():
            sum_over_processes([loss, d_weight, d_bias])
        d_weight = (d_weight - d_bias[:, :, None] * self.mean) * self.inverse / self.curvature[:, None]
        return loss, torch.cat([d_weight.flatten(1), d_bias / self.curvature], dim=1)


def _direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], n_outputs: int) -> Tensor:
    """Return the negative gradient times the inverse Hessian as far as it is known, of each network.

    Parameters
    ----------
    pairs : steps and the changes of the gradient on them, (n_networks, n_weights)
    """
    # Where no curvature is known yet, a cautious guess of its inverse.
    scale = (_FIRST_STEP / gradient.norm(dim=1, keepdim=True)).clamp_max(n_outputs)
    products = [(step * change).sum(1, keepdim=True) for step, change in pairs]
    # A pair without curvature, of a network that is at its minimum, counts for nothing.
    inverses = [torch.where(product > 0, 1 / product, 0) for product in products]
    if pairs:
        change_squared = pairs[-1][1].square().sum(1, keepdim=True)
        scale = torch.where(inverses[-1] > 0, 1 / (inverses[-1] * change_squared), scale)
    direction, shares = -gradient, []
    for (step, change), inverse in zip(reversed(pairs), reversed(inverses), strict=True):
        shares.append(inverse * (step * direction).sum(1, keepdim=True))
        direction -= shares[-1] * change
    direction *= scale
    for (step, change), inverse, share in zip(pairs, inverses, reversed(shares), strict=True):
        direction += step * (share - inverse * (change * direction).sum(1, keepdim=True))
    return direction
