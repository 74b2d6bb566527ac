"""Ridge regression in closed form: one decomposition of the inputs serves all dimensions of a target and all penalties.

minimise  |Y - X W|^2 + penalty |W|^2        X (n_samples, n_inputs), Y (n_samples, n_dimensions), both centred
X'X = Q diag(v) Q'                           W = Q diag(1 / (v + penalty)) Q' X'Y
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-1, 9))
"""Tried by default, in units of counts squared: from next to none to one that leaves the mean alone."""


@dataclass(frozen=True)
class Moments:
    """Sums over samples: all that ridge regression needs to know of them; those of several parts add up.

    n : samples; x, y : sums, (n_inputs,), (n_dimensions,); xx : (n_inputs, n_inputs); xy : (n_inputs, n_dimensions)
    """

    n: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def of(cls, blocks: Iterable[tuple[Tensor, Tensor]]) -> "Moments":
        """Return the sums over blocks of (x, y), float64, a block in memory at a time."""
        found = None
        for x, y in ((x.double(), y.double()) for x, y in blocks):
            one = cls(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)
            found = one if found is None else found + one
        assert found is not None
        return found

    def __add__(self, other: "Moments") -> "Moments":
        """Return the sums over the samples of both."""
        return Moments(
            self.n + other.n, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy
        )  # fmt: skip


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
