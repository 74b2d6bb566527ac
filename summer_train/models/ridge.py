"""Ridge regression in closed form: one decomposition of the inputs serves all dimensions of a target and all penalties.

minimise  |Y - X W|^2 + penalty |W|^2        X (n_samples, n_inputs), Y (n_samples, n_dimensions), both centred
X'X = Q diag(v) Q'                           W = Q diag(1 / (v + penalty)) Q' X'Y
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from summer_train.data.batches import Block
from summer_train.models.steps import sum_over_processes

PENALTIES = tuple(10.0**power for power in range(-1, 9))
"""Tried by default, in units of the inputs squared: from next to none to one that leaves the mean alone."""


@dataclass(frozen=True)
class Moments:
    """Sums over samples: all that ridge regression needs to know of them; those of several parts add up.

    n : samples; x, y : sums, (n_inputs,), (n_dimensions,); xx : (n_inputs, n_inputs); xy : (n_inputs, n_dimensions)
    """

    n: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def of(cls, blocks: Iterable[tuple[Tensor, Tensor]]) -> "Moments":
        """Return the sums over blocks of (x, y) of all processes, float64, a block in memory at a time."""
        sums: list[Tensor] = []
        for x, y in ((x.double(), y.double()) for x, y in blocks):
            found = [x.new_tensor(float(len(x))), x.sum(0), y.sum(0), x.T @ x, x.T @ y]
            sums = [total + one for total, one in zip(sums, found, strict=True)] if sums else found
        sum_over_processes(sums)
        return cls(*sums)


def solve_ridge(moments: Moments, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return weights and biases for each penalty, of least squared error plus penalty * |weights|^2.

    Returns
    -------
    (n_penalties, n_dimensions, n_inputs) and (n_penalties, n_dimensions), float64, as of `torch.nn.Linear`; the bias is
    not penalised. Equal to scikit-learn's `Ridge(alpha=penalty)`.
    """
    mean_x, mean_y = moments.x / moments.n, moments.y / moments.n
    values, vectors = torch.linalg.eigh(moments.xx - moments.n * torch.outer(mean_x, mean_x))
    projected = vectors.T @ (moments.xy - moments.n * torch.outer(mean_x, mean_y))
    weights = torch.stack([(vectors @ (projected / (values.clamp(min=0) + one)[:, None])).T for one in penalties])
    return weights, mean_y - weights @ mean_x


def squared_errors(moments: Moments, weights: Tensor, biases: Tensor) -> Tensor:
    """Return the squared error of each of some solutions over the samples of sums, (n_penalties,), less |Y|^2."""
    products = (weights @ moments.xx - 2 * moments.xy.T) * weights
    of_biases = 2 * (weights @ moments.x) + moments.n * biases - 2 * moments.y
    return products.sum((1, 2)) + (of_biases * biases).sum(1)


@dataclass
class RidgeSolver:
    """Ridge regression over all training samples, with the penalty of the least squared error on validation.

    parameters : (1, n_dimensions, n_inputs) and (1, n_dimensions), of one network, which are set in place
    validation : its samples
    penalty : the one that was chosen
    """

    parameters: Sequence[Tensor]
    validation: Iterable[Block]
    penalty: float | None = None

    @torch.no_grad()
    def __call__(self, blocks: Iterable[Block]) -> int:
        """Solve, and return the number of passes over this process's training samples."""
        train, val = (
            Moments.of((block.counts.flatten(1), block.targets) for block in part) for part in (blocks, self.validation)
        )
        weights, biases = solve_ridge(train, PENALTIES)
        best = int(squared_errors(val, weights, biases).argmin())
        self.penalty = PENALTIES[best]
        for parameter, values in zip(self.parameters, (weights[best], biases[best]), strict=True):
            parameter.copy_(values)
        self.is_solved = torch.ones(1, dtype=torch.bool)
        return 1
