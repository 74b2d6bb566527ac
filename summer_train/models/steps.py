"""How the optimizer steps of a block are taken: through autograd, by written-out gradients, or as a CUDA graph.

All take the same steps on the same mini-batches and return the predictions made on the way, each before its own
batch's update, (n_networks, n_samples, n_outputs): networks that see the same samples are trained as one stack, and
one network is a stack of one. The general path serves every network, loss and optimizer; the written-out one is a
shortcut for exactly those for which it gives the same weights (`written_out_steps` says which).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from summer_train.data.batches import Block, is_distributed
from summer_train.data.targets import FilmLabel, NextBin, Task
from summer_train.settings.options import Log, log_nothing

SAMPLES_AT_ONCE = 1024
"""Samples that a stack predicts at once: the hidden layers of more leave the processor's cache."""

Gradient = Callable[[Tensor, Tensor, int], Tensor]
"""(predictions, prepared targets, axis of the outputs) -> gradient of the summed loss with respect to the former."""

GradientsOfBatch = Callable[[Tensor, Tensor, int, Gradient], tuple[Tensor, list[Tensor]]]
"""(x, prepared targets, batch size, loss gradient) -> predictions, (n_networks, n_outputs, batch) as the targets, and
gradients of all parameters."""

Steps = Callable[[Block], Tensor]
"""Takes one optimizer step per mini-batch of a block; returns the predictions, (n_networks, n_samples, n_outputs)."""


class AutogradSteps:
    """The general path: any network, any loss that is a mean over samples, any optimizer."""

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
            # This process's share of the mean over the whole batch; a share of no samples adds nothing.
            loss = self.loss(prediction, y) if len(x) else prediction.sum()
            if len(x) != batch_size:
                loss = loss * (len(x) / batch_size)
            loss.backward()
            if is_distributed():
                sum_over_processes([parameter.grad for parameter in self.parameters])
            self.optimizer.step()
            predictions.append(prediction.detach())
        return torch.cat(predictions)[None]


class DenseSteps:
    """A stack of Linear, or of Linear -> ReLU -> Linear, with gradients written out as matrix products, and Adam's
    fused kernel.

    Half of a step through autograd is bookkeeping. The optimizer's own state is used in place, so that its
    checkpoints stay valid and the paths can take turns.

    Parameters
    ----------
    parameters : weight and bias of each layer, those of an nn.Linear with a leading axis of n_networks; without it
        for one network
    prepare : stored targets -> (n_networks or 1, n_samples, n_outputs)
    loss_gradient : (predictions, prepared targets, axis of the outputs) -> gradient of the summed loss with respect to
        the predictions
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        prepare: Callable[[Tensor], Tensor],
        loss_gradient: Gradient,
        optimizer: torch.optim.Adam,
    ) -> None:
        self.parameters = list(parameters)
        self.prepare, self.loss_gradient, self.optimizer = prepare, loss_gradient, optimizer

    @torch.no_grad()
    def __call__(self, block: Block) -> Tensor:
        """Forward, written-out backward, step, batch after batch."""
        counts = block.counts.float().flatten(1).split(block.local_sizes)
        # Samples come last: then no step moves numbers to other places.
        targets = self.prepare(block.targets).transpose(1, 2).split(block.local_sizes, 2)
        gradients_of = dense_gradients([self._stacked(parameter) for parameter in self.parameters])
        update = self._adam()
        predictions = []
        for x, y, batch_size in zip(counts, targets, block.batch_sizes, strict=True):
            prediction, gradients = gradients_of(x, y, batch_size, self.loss_gradient)
            if is_distributed():
                sum_over_processes(gradients)
            update(gradients)
            predictions.append(prediction)
        return torch.cat(predictions, dim=2).transpose(1, 2)

    def _stacked(self, tensor: Tensor) -> Tensor:
        """Return a parameter, or what the optimizer keeps for it, with the leading axis of networks."""
        return tensor.detach() if self.parameters[0].dim() == 3 else tensor.detach()[None]

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
        steps = [state["step"] for state in states]
        parameters = [self._stacked(parameter) for parameter in self.parameters]
        averages, squares = ([self._stacked(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
        beta_1, beta_2 = group["betas"]
        settings = {
            "lr": group["lr"], "beta1": beta_1, "beta2": beta_2, "eps": group["eps"],
            "weight_decay": group["weight_decay"], "amsgrad": False, "maximize": False,
        }  # fmt: skip

        def update(gradients: list[Tensor]) -> None:
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(parameters, gradients, averages, squares, [], steps, **settings)

        return update


def dense_gradients(parameters: Sequence[Tensor]) -> GradientsOfBatch:
    """Return what predicts a batch with a stack of one or two layers, and gives the gradients of all parameters.

    The first layers of all networks are one product with x, (batch, n_inputs), which they share.
    """
    weight_1, bias_1, *second = parameters
    n_networks, width, n_inputs = weight_1.shape
    flat_weight_1, column_1 = weight_1.view(-1, n_inputs), bias_1.view(-1, 1)
    if second:
        weight_2, column_2 = second[0], second[1][:, :, None]
        transposed_2 = weight_2.transpose(1, 2)

    def gradients_of(x: Tensor, y: Tensor, batch_size: int, gradient: Gradient) -> tuple[Tensor, list[Tensor]]:
        first = torch.addmm(column_1, flat_weight_1, x.t())
        if not second:
            prediction = first.view(n_networks, width, len(x))
            d_first = gradient(prediction, y, 1).div_(batch_size)
            return prediction, [torch.mm(d_first.view(n_networks * width, len(x)), x).view_as(weight_1), d_first.sum(2)]
        hidden = first.relu_().view(n_networks, width, len(x))
        prediction = torch.baddbmm(column_2, weight_2, hidden)
        d_made = gradient(prediction, y, 1).div_(batch_size)
        d_first = torch.ops.aten.threshold_backward(torch.bmm(transposed_2, d_made), hidden, 0)
        return prediction, [
            torch.mm(d_first.view(n_networks * width, len(x)), x).view_as(weight_1),
            d_first.sum(2),
            torch.bmm(d_made, hidden.transpose(1, 2)),
            d_made.sum(2),
        ]

    return gradients_of


@torch.no_grad()
def predict_stack(parameters: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Return what a stack of dense networks predicts, (n_networks, n_samples, n_outputs).

    Parameters
    ----------
    parameters : as of `DenseSteps`, with the leading axis
    counts : (n_samples, ...)
    """
    n_networks, width, n_inputs = parameters[0].shape
    made = []
    for x in counts.float().flatten(1).split(SAMPLES_AT_ONCE):
        layer = torch.addmm(parameters[1].view(-1, 1), parameters[0].view(-1, n_inputs), x.t())
        layer = layer.view(n_networks, width, len(x))
        if len(parameters) == 4:
            layer = torch.baddbmm(parameters[3][:, :, None], parameters[2], layer.relu_())
        made.append(layer)
    return torch.cat(made, dim=2).transpose(1, 2)


def written_out_steps(net: nn.Module, task: Task, optimizer: torch.optim.Optimizer) -> DenseSteps | None:
    """Return the shortcut where it takes the very steps of the general path, else None.

    That is for a plain network of one or two layers, all of whose weights are trained in one group by plain Adam, and
    for the losses of this package as they stand.
    """
    parameters = dense_parameters(net)
    if parameters is None or type(task) not in (NextBin, FilmLabel) or not _is_plain_adam(optimizer, parameters):
        return None
    assert isinstance(optimizer, torch.optim.Adam)
    return DenseSteps(parameters, lambda targets: task.prepare(targets)[None], task.loss_gradient, optimizer)


_HOOKS_OF_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_OPTIMIZERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


_DENSE = ([nn.Linear], [nn.Linear, nn.ReLU, nn.Linear])


def dense_parameters(net: nn.Module) -> list[Tensor] | None:
    """Return weights and biases of Linear or Linear -> ReLU -> Linear, if the network is that and nothing else.

    An nn.Flatten may stand in front, for windows of several bins.
    """
    layers = list(net) if type(net) is nn.Sequential else []
    flattens = bool(layers) and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1)
    if [type(layer) for layer in layers[flattens:]] not in _DENSE:
        return None
    if any(getattr(layer, hooks) for layer in net.modules() for hooks in _HOOKS_OF_MODULES):
        return None
    parameters = list(net.parameters())
    is_plain = all(
        type(parameter) is nn.Parameter
        and parameter.requires_grad
        and parameter.dtype == torch.float32
        and not parameter._backward_hooks
        and not parameter._post_accumulate_grad_hooks
        for parameter in parameters
    )
    n_linear = sum(type(layer) is nn.Linear for layer in layers)
    return list(parameters) if is_plain and len(parameters) == 2 * n_linear else None


def _is_plain_adam(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> bool:
    if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    if any(getattr(optimizer, hooks) for hooks in _HOOKS_OF_OPTIMIZERS):
        return False
    has_others = any(group.get(name) for name in ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay"))
    mine = {id(parameter) for parameter in parameters}
    return not has_others and {id(parameter) for parameter in group["params"]} == mine


class GraphedSteps:
    """Other steps, captured as CUDA graphs: one graph holds all steps of a block of one size.

    The first block of a size runs as usual (and is the warm-up that capturing asks for), the second is captured,
    every later one is one launch. Where capturing fails the usual steps go on, and one line says why.
    """

    def __init__(self, steps: Steps, log: Log) -> None:
        self.steps, self.log = steps, log
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
                self.log(f"no CUDA graph, steps run one by one: {str(error).splitlines()[0]}")
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


def choose_steps(steps: DenseSteps | AutogradSteps, device: torch.device, log: Log = log_nothing) -> Steps:
    """Return steps as a CUDA graph where the device allows it; the learning rate is then the one of the start."""
    if device.type == "cuda" and not is_distributed():
        return GraphedSteps(steps, log)
    return steps


def sum_over_processes(gradients: Sequence[Tensor | None]) -> None:
    """Add up gradients of all processes in place, in one message."""
    present = [gradient for gradient in gradients if gradient is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in present])
    torch.distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in present])
    for gradient, part in zip(present, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
