"""Optimizer steps on a block of mini-batches: written out, through autograd, or captured as a CUDA graph.

All of them take the same steps, and return the predictions that were made on the way, each before its own batch's
update, (n_networks, n_samples, n_outputs). Networks that share their samples are one stack; one network is a stack of
one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from summer_train.data.batches import Block, is_distributed
from summer_train.data.targets import Task
from summer_train.settings.options import Log, log_nothing

SAMPLES_AT_ONCE = 1024  # that a stack predicts: the hidden layers of more leave the processor's cache

Steps = Callable[[Block], Tensor]
"""Takes one optimizer step per mini-batch of a block; returns the predictions, (n_networks, n_samples, n_outputs)."""


@dataclass
class AutogradSteps:
    """Steps of any network, any loss that is a mean over samples, and any optimizer."""

    net: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer

    def __call__(self, block: Block) -> Tensor:
        """Predict, differentiate and update, batch after batch."""
        predictions = []
        counts = block.counts.float().split(block.local_sizes)
        targets = block.targets.split(block.local_sizes)
        for x, y, batch_size in zip(counts, targets, block.batch_sizes, strict=True):
            prediction = self.net(x)
            self.optimizer.zero_grad()
            # This process's share of the mean over the whole batch; a share of no samples adds nothing.
            loss = self.loss(prediction, y) if len(x) else prediction.sum()
            if len(x) != batch_size:
                loss = loss * (len(x) / batch_size)
            loss.backward()
            sum_over_processes(weight.grad for weight in self.net.parameters() if weight.grad is not None)
            self.optimizer.step()
            predictions.append(prediction.detach())
        return torch.cat(predictions)[None]


@dataclass
class DenseSteps:
    """Steps of a stack of Linear -> ReLU -> Linear: gradients as matrix products, and Adam's fused kernel.

    Half of a step through autograd is bookkeeping. The optimizer's own state is updated in place.

    parameters : weight and bias of both layers, with a leading axis of n_networks, or of one network without it
    prepare : stored targets -> (n_networks or 1, n_samples, n_outputs)
    loss_gradient : (predictions, prepared targets, axis of the outputs) -> gradient of the loss summed over samples
    dropout, seed : share of the hidden layer that a step leaves out, the same for all networks, and the seed of which
    mask : (n_networks, 1, n_inputs) 0 for inputs that a network does not see, whose weights are and stay 0
    """

    parameters: Sequence[Tensor]
    prepare: Callable[[Tensor], Tensor]
    loss_gradient: Callable[[Tensor, Tensor, int], Tensor]
    optimizer: torch.optim.Adam
    dropout: float = 0.0
    seed: int = 0
    mask: Tensor | None = None

    @torch.no_grad()
    def __call__(self, block: Block) -> Tensor:
        """Predict, differentiate and update, batch after batch."""
        (group,) = self.optimizer.param_groups
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        for parameter, state in zip(self.parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        n_steps = [state["step"] for state in states]
        is_stack = self.parameters[0].dim() == 3
        tensors = self.parameters, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        weights, averages, squares = ([x.detach() if is_stack else x.detach()[None] for x in own] for own in tensors)
        settings = {name: group[name] for name in ("lr", "eps", "weight_decay")} | {"amsgrad": False, "maximize": False}
        settings["beta1"], settings["beta2"] = group["betas"]
        # The first layers of all networks are one product with x, which they share.
        n_networks, width, n_inputs = weights[0].shape
        weight_1, bias_1 = weights[0].view(-1, n_inputs), weights[1].view(-1, 1)
        weight_2, bias_2 = weights[2], weights[3][:, :, None]
        transposed_2 = weight_2.transpose(1, 2)
        if self.dropout:
            generator, n_taken = torch.Generator(weights[0].device), int(n_steps[0])
        counts = block.counts.float().flatten(1).split(block.local_sizes)
        # Samples come last from here on: then no step moves numbers to other places.
        targets = self.prepare(block.targets).transpose(1, 2).split(block.local_sizes, 2)
        predictions: list[Tensor] = []
        for x, y, batch_size in zip(counts, targets, block.batch_sizes, strict=True):
            hidden = torch.addmm(bias_1, weight_1, x.t()).relu_().view(n_networks, width, len(x))
            if self.dropout:  # each step has its own seed, whatever came before it and however long a block is
                generator.manual_seed((self.seed % 2**31 << 32) + n_taken + len(predictions))
                kept = torch.rand(hidden.shape[1:], generator=generator, device=hidden.device) >= self.dropout
                hidden.mul_(kept / (1 - self.dropout))
            prediction = torch.baddbmm(bias_2, weight_2, hidden)
            d_prediction = self.loss_gradient(prediction, y, 1).div_(batch_size)
            d_hidden = torch.ops.aten.threshold_backward(torch.bmm(transposed_2, d_prediction), hidden, 0)
            if self.dropout:
                d_hidden.div_(1 - self.dropout)  # where nothing was left out
            gradients = [
                torch.mm(d_hidden.view(n_networks * width, len(x)), x).view_as(weights[0]),
                d_hidden.sum(2),
                torch.bmm(d_prediction, hidden.transpose(1, 2)),
                d_prediction.sum(2),
            ]
            if self.mask is not None:
                gradients[0].mul_(self.mask)
            sum_over_processes(gradients)
            torch._foreach_add_(n_steps, 1)
            torch._fused_adam_(weights, gradients, averages, squares, [], n_steps, **settings)
            predictions.append(prediction)
        return torch.cat(predictions, dim=2).transpose(1, 2)


@torch.no_grad()
def predict_stack(parameters: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Return the predictions of a stack of networks of one or two layers, (n_networks, n_samples, n_outputs)."""
    n_networks, width, n_inputs = parameters[0].shape
    predictions = []
    for x in counts.float().flatten(1).split(SAMPLES_AT_ONCE):
        layer = torch.addmm(parameters[1].view(-1, 1), parameters[0].view(-1, n_inputs), x.t())
        layer = layer.view(n_networks, width, len(x))
        if len(parameters) == 4:
            layer = torch.baddbmm(parameters[3][:, :, None], parameters[2], layer.relu_())
        predictions.append(layer)
    return torch.cat(predictions, dim=2).transpose(1, 2)


def written_out_steps(net: nn.Module, task: Task, optimizer: torch.optim.Adam, seed: int = 0) -> DenseSteps | None:
    """Return `DenseSteps` of a network with its task's loss and plain Adam; None if it is another kind of network.

    An nn.Flatten may stand in front of the layers, for windows of several bins, an nn.Dropout before the last one.
    """
    layers = [layer for layer in net if type(layer) is not nn.Flatten] if isinstance(net, nn.Sequential) else []
    kinds = [type(layer) for layer in layers]
    if kinds not in ([nn.Linear, nn.ReLU, nn.Linear], [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]):
        return None
    parameters = list(net.parameters())
    steps = DenseSteps(parameters, lambda targets: task.prepare(targets)[None], task.loss_gradient, optimizer)
    return replace(steps, dropout=sum(one.p for one in layers if isinstance(one, nn.Dropout)), seed=seed)


@dataclass
class GraphedSteps:
    """Other steps, captured as CUDA graphs: one graph holds all steps of a block of one size.

    The first block of a size runs as usual (and is the warm-up that capturing asks for), the second is captured,
    every later one is one launch. Where capturing fails, the usual steps go on, and one line says why.
    """

    steps: Steps
    log: Log
    is_possible: bool = True
    graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Block, Tensor] | None] = field(default_factory=dict)

    def __call__(self, block: Block) -> Tensor:
        """Replay the graph of this size, capturing it first if need be."""
        size = block.batch_sizes
        if size not in self.graphs:
            self.graphs[size] = None
        elif self.graphs[size] is None and self.is_possible:
            try:
                static = block._replace(counts=block.counts.clone(), targets=block.targets.clone())
                graph = torch.cuda.CUDAGraph()
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):  # records the steps without taking them
                    predictions = self.steps(static)
                self.graphs[size] = graph, static, predictions
            except RuntimeError as error:
                self.is_possible = False
                self.log(f"no CUDA graph, steps run one by one: {str(error).splitlines()[0]}")
        captured = self.graphs[size]
        if captured is None or not self.is_possible:
            return self.steps(block)
        graph, static, predictions = captured
        static.counts.copy_(block.counts)
        static.targets.copy_(block.targets)
        graph.replay()
        return predictions


def choose_steps(steps: Steps, device: torch.device, log: Log = log_nothing) -> Steps:
    """Return steps as a CUDA graph where the device allows it; the learning rate is then the one of the start."""
    is_random = getattr(steps, "dropout", 0) > 0  # a graph would leave out the same each time
    return GraphedSteps(steps, log) if device.type == "cuda" and not is_distributed() and not is_random else steps


def sum_over_processes(tensors: Iterable[Tensor]) -> None:
    """Add up tensors of all processes that train together, if there are others, in place and in one message."""
    if not is_distributed():
        return
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
