"""How the optimizer steps of a block are taken: through autograd, by written-out gradients, or as a CUDA graph.

All take the same steps on the same mini-batches and return the predictions made on the way, (n_samples, n_outputs),
each before its own batch's update. The general path serves every model; the others are shortcuts that must give the
same weights.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from summer_train.batches import Block

LossGradient = Callable[[Tensor, Tensor], Tensor]
"""(predictions, prepared targets) -> gradient of the summed loss with respect to the predictions."""

Say = Callable[[str], None]


class Steps(Protocol):
    """Takes one optimizer step per mini-batch of a block."""

    def __call__(self, block: Block) -> Tensor:
        """Return the predictions, (n_samples, n_outputs)."""


class AutogradSteps:
    """The general path: any network, any loss that is a mean over samples."""

    def __init__(
        self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def __call__(self, block: Block) -> Tensor:
        """Forward, backward, step, batch after batch."""
        predictions = []
        counts = block.counts.float().split(block.local_sizes)
        targets = block.targets.split(block.local_sizes)
        for x, y, batch_size in zip(counts, targets, block.batch_sizes, strict=True):
            prediction = self.net(x)
            self.optimizer.zero_grad()
            loss = self.loss(prediction, y)
            if len(x) != batch_size:
                # This process's share of the mean over the whole batch; a share of no samples adds nothing.
                loss = loss * (len(x) / batch_size) if len(x) else prediction.sum()
            loss.backward()
            if _is_distributed():
                _sum_over_processes([parameter.grad for parameter in self.parameters])
            self.optimizer.step()
            predictions.append(prediction.detach())
        return torch.cat(predictions)


class TwoLayerSteps:
    """Linear -> ReLU -> Linear with its gradients written out as matrix products, and Adam's fused kernel.

    Half of a step through autograd is bookkeeping. The optimizer's own state is used in place, so that its
    checkpoints stay valid and the paths can take turns.
    """

    def __init__(
        self,
        net: nn.Sequential,
        prepare: Callable[[Tensor], Tensor],
        loss_gradient: LossGradient,
        optimizer: torch.optim.Adam,
    ) -> None:
        first, _, second = net
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        self.parameters = [first.weight, first.bias, second.weight, second.bias]
        self.prepare, self.loss_gradient, self.optimizer = prepare, loss_gradient, optimizer

    @torch.no_grad()
    def __call__(self, block: Block) -> Tensor:
        """Forward, written-out backward, step, batch after batch."""
        weight_1, bias_1, weight_2, bias_2 = (parameter.detach() for parameter in self.parameters)
        transposed_1, transposed_2 = weight_1.t(), weight_2.t()
        update = self._adam()
        all_counts, all_targets = block.counts.float(), self.prepare(block.targets)
        predictions = torch.empty(len(all_counts), len(bias_2), device=all_counts.device)
        counts = all_counts.split(block.local_sizes)
        targets = all_targets.split(block.local_sizes)
        predicted = predictions.split(block.local_sizes)
        is_distributed = _is_distributed()
        for x, y, prediction, batch_size in zip(counts, targets, predicted, block.batch_sizes, strict=True):
            hidden = torch.addmm(bias_1, x, transposed_1).relu_()
            torch.addmm(bias_2, hidden, transposed_2, out=prediction)
            d_prediction = self.loss_gradient(prediction, y).div_(batch_size)
            d_hidden = torch.ops.aten.threshold_backward(torch.mm(d_prediction, weight_2), hidden, 0)
            gradients = [
                torch.mm(d_hidden.t(), x),
                d_hidden.sum(0),
                torch.mm(d_prediction.t(), hidden),
                d_prediction.sum(0),
            ]
            if is_distributed:
                _sum_over_processes(gradients)
            update(gradients)
        return predictions

    def _adam(self) -> Callable[[list[Tensor]], None]:
        """Return Adam's update of all parameters in one kernel, on the optimizer's own state."""
        optimizer = self.optimizer
        (group,) = optimizer.param_groups
        for parameter in self.parameters:
            if not optimizer.state[parameter]:
                device = parameter.device if parameter.is_cuda else torch.device("cpu")
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [optimizer.state[parameter] for parameter in self.parameters]
        steps, averages, squares = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        beta_1, beta_2 = group["betas"]
        settings = {
            "lr": group["lr"], "beta1": beta_1, "beta2": beta_2, "eps": group["eps"],
            "weight_decay": group["weight_decay"], "amsgrad": False, "maximize": False,
        }  # fmt: skip

        def update(gradients: list[Tensor]) -> None:
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(self.parameters, gradients, averages, squares, [], steps, **settings)

        return update


def squared_error_gradient(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the squared error, mean over outputs and summed over samples."""
    return torch.sub(predictions, targets).mul_(2 / predictions.shape[1])


def cross_entropy_gradient(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy, summed over samples."""
    return torch.softmax(logits, dim=1).sub_(one_hot)


class GraphedSteps:
    """Other steps, captured as CUDA graphs: one graph holds all steps of a block of one size.

    The first block of a size runs as usual (and is the warm-up that capturing asks for), the second is captured,
    every later one is one launch. Where capturing fails the usual steps go on, and one line says why.
    """

    def __init__(self, steps: Steps, say: Say) -> None:
        self.steps, self.say = steps, say
        self.is_possible = True
        self.seen: set[tuple[int, ...]] = set()
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Block, Tensor]] = {}

    def __call__(self, block: Block) -> Tensor:
        """Replay the graph of this size, capturing it first if need be."""
        size = block.batch_sizes
        if size not in self.seen or not self.is_possible:
            self.seen.add(size)
            return self.steps(block)
        if size not in self.graphs:
            try:
                self.graphs[size] = self._capture(block)
            except RuntimeError as error:
                self.is_possible = False
                self.say(f"no CUDA graph, steps run one by one: {str(error).splitlines()[0]}")
                return self.steps(block)
        graph, static, predictions = self.graphs[size]
        static.counts.copy_(block.counts)
        static.targets.copy_(block.targets)
        graph.replay()
        return predictions

    def _capture(self, block: Block) -> tuple[torch.cuda.CUDAGraph, Block, Tensor]:
        """Record the steps without taking them."""
        static = block._replace(counts=block.counts.clone(), targets=block.targets.clone())
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            predictions = self.steps(static)
        return graph, static, predictions


def choose_steps(
    general: AutogradSteps,
    shortcut: TwoLayerSteps | None,
    device: torch.device,
    say: Say = lambda _line: None,
) -> Steps:
    """Return the fastest way that this device allows."""
    steps: Steps = shortcut or general
    if device.type == "cuda" and not _is_distributed():
        return GraphedSteps(steps, say)
    return steps


def add_over_processes(sums: Mapping[str, Tensor], n_samples: int) -> tuple[dict[str, Tensor], int]:
    """Return sums and number of samples of all processes together."""
    if not _is_distributed() or not sums:
        return dict(sums), n_samples
    some = next(iter(sums.values()))
    everything = torch.stack([*(value.double() for value in sums.values()), some.new_tensor(n_samples).double()])
    torch.distributed.all_reduce(everything)
    *values, total = everything.unbind()
    return dict(zip(sums, values, strict=True)), int(total)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sum_over_processes(gradients: list[Tensor | None]) -> None:
    """Add up the gradients of all processes, in one message."""
    present = [gradient for gradient in gradients if gradient is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in present])
    torch.distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in present])
    for gradient, part in zip(present, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
