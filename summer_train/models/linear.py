"""Networks of one layer, solved over all samples: logistic regression, least squares, Poisson regression.

Their losses have one minimum. L-BFGS finds it in some ten to fifty passes over the training samples, where Adam on
mini-batches keeps wandering around it. Networks that share their samples are solved at once as a stack, each with step
sizes of its own; one network is a stack of one.

Source: Nocedal & Wright, Numerical Optimization (2006), algorithms 3.1 and 7.4.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from summer_train.data.batches import Block
from summer_train.data.targets import NextBin, Task
from summer_train.models.steps import sum_over_processes

BYTES_PER_WEIGHT = 160  # for weights, gradients, direction and N_PAIRS pairs of float64, also while they are replaced
ITERATIONS = 20  # per epoch, at most; each epoch estimates the curvature anew, so a run can be continued after any
N_PAIRS = 5  # steps that the curvature is estimated from
CONVERGED = 1e-8  # a network is at its minimum where its next step is expected to lower the loss by no more than this
_FIRST_STEP = 0.1  # its length at most, in standardised weights
_LEAST_DECREASE = 1e-4  # a step is taken if it lowers the loss by this share of what the slope promises
_MAX_TRIALS = 20  # step sizes that are tried in an iteration


@dataclass
class LinearSolver:
    """L-BFGS over all training samples, on a stack of networks of one layer.

    Inputs are standardised, and outputs scaled where the loss is more curved for some than for others; units are then
    alike whatever they fire, and few iterations are needed. All in float64: rounding that differs between a network
    alone and in a stack would grow from iteration to iteration.

    parameters : (n_networks, n_outputs, n_inputs) and (n_networks, n_outputs), which are set in place
    task : of the first network; the others differ from it in targets and class weights only
    prepare : stored targets -> (n_networks, n_samples, n_outputs), as the gradient takes them
    losses : predictions, (n_networks, n_samples, n_outputs), and stored targets -> mean losses, (n_networks,)
    n_samples : of all processes, known after the first epoch
    mask : (n_networks, 1, n_inputs) 0 for inputs that a network does not see
    is_solved : (n_networks,) which networks are at their minimum after an epoch: further epochs are of no use
    """

    parameters: Sequence[Tensor]
    task: Task
    prepare: Callable[[Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]
    n_samples: int = 0
    mask: Tensor | None = None

    @torch.no_grad()
    def __call__(self, blocks: Iterable[Block]) -> int:
        """Take the iterations of an epoch; return the number of passes over this process's training samples."""
        if not self.n_samples:
            self._standardise(blocks)
        # The weights of standardised inputs and scaled outputs, (n_networks, n_weights): what `_unscaled` reverses.
        inverse = self._inverse()
        deviation = torch.where(inverse > 0, 1 / inverse, 0)
        weight, bias = self.parameters
        scaled_bias = (bias + weight.double() @ self.mean) * self.curvature
        point = torch.cat([(weight * self.curvature[:, None] * deviation).flatten(1), scaled_bias], dim=1)
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
        for parameter, values in zip(self.parameters, self._unscaled(point), strict=True):
            parameter.copy_(values)
        return n_passes

    def _standardise(self, blocks: Iterable[Block]) -> None:
        """Measure mean and deviation of the inputs, and start Poisson regression where every output is its mean."""
        weight, bias = self.parameters
        _, n_outputs, n_inputs = weight.shape
        sums = [weight.new_zeros(n, dtype=torch.float64) for n in (1, n_inputs, n_inputs, n_outputs)]
        is_poisson = isinstance(self.task, NextBin) and self.task.kind == "poisson"
        for block in blocks:
            x = block.counts.double().flatten(1)
            found = len(x), x.sum(0), x.square().sum(0), block.targets.sum(0) if is_poisson else 0
            sums = [total + values for total, values in zip(sums, found, strict=True)]
        sum_over_processes(sums)
        self.n_samples = int(sums[0])
        self.mean, square, target = (total / sums[0] for total in sums[1:])
        deviation = (square - self.mean.square()).clamp_min(0).sqrt()
        # A unit that is silent in training keeps a weight of 0.
        self.inverse = torch.where(deviation > 0, 1 / deviation, 0)
        self.curvature = torch.ones_like(target)
        if is_poisson:
            rate = target.clamp_min(1 / self.n_samples)
            self.curvature = rate.sqrt()
            if not weight.any() and not bias.any():
                bias.copy_(rate.log().expand_as(bias))

    def _inverse(self) -> Tensor:
        """Return 1 / SD of the inputs, 0 for those that a network does not see, too."""
        return self.inverse if self.mask is None else self.inverse * self.mask

    def _unscaled(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and biases of a point."""
        shape = self.parameters[0].shape
        weight, bias = point.split([shape[1] * shape[2], shape[1]], dim=1)
        weight = weight.reshape(shape) * self._inverse() / self.curvature[:, None]
        return weight, bias / self.curvature - weight @ self.mean

    def _evaluate(self, point: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each network at a point, and its gradient there."""
        weight, bias = self._unscaled(point)
        n_inputs = weight.shape[2]
        loss, d_weight, d_bias = point.new_zeros(len(point)), torch.zeros_like(weight), torch.zeros_like(bias)
        for block in blocks:
            if not len(block.targets):
                continue
            x, y = block.counts.double().flatten(1), self.prepare(block.targets).double().transpose(1, 2)
            prediction = torch.addmm(bias.view(-1, 1), weight.view(-1, n_inputs), x.t()).view(*bias.shape, len(x))
            d_prediction = self.task.loss_gradient(prediction, y, 1).div_(self.n_samples)
            loss += self.losses(prediction.transpose(1, 2), block.targets) * (len(x) / self.n_samples)
            d_weight += torch.mm(d_prediction.view(-1, len(x)), x).view_as(weight)
            d_bias += d_prediction.sum(2)
        sum_over_processes([loss, d_weight, d_bias])
        d_weight = (d_weight - d_bias[:, :, None] * self.mean) * self._inverse() / self.curvature[:, None]
        return loss, torch.cat([d_weight.flatten(1), d_bias / self.curvature], dim=1)


def _direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], n_outputs: int) -> Tensor:
    """Return the negative gradient times the inverse Hessian, of each network, as far as it is known.

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
