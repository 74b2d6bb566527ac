"""The decoders: Lightning modules of a network and a task, for any `lightning.Trainer`, which takes their steps.

Our own `fit` gives blocks of batches instead of batches (x, y), and their steps are taken here.
"""

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from summer_train.data.batches import Block, OrderedBlocks
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmLabel, NextBin, Task
from summer_train.models.linear import LinearSolver
from summer_train.models.networks import decoder_name, two_layer_net, untrained_net
from summer_train.models.ridge import RidgeSolver
from summer_train.models.steps import AutogradSteps, Steps, written_out_steps
from summer_train.settings.options import Choice


class Decoder(lightning.LightningModule):
    """A network from counts to predictions, (n_samples, n_outputs), trained by Adam on a task's loss.

    Counts are (n_samples, n_units), or (n_samples, n_bins, n_units) where a sample is a window of several bins.

    Override `configure_optimizers`, `loss` or `net` as in any LightningModule.

    Attributes
    ----------
    is_own : whether the network is a user's own, of whose layers nothing is known
    provenance : what it was trained on, as plain values, which its checkpoints keep
    steps : takes the optimizer steps of a block; None where Lightning takes them
    solver : solves a network of one layer in `fit`; None before its first epoch
    """

    weight_decay, seed = 0.0, 0

    def __init__(self, net: nn.Module, task: Task, lr: float = 1e-3, is_own: bool = False) -> None:
        super().__init__()
        self.net, self.task, self.lr, self.is_own = net, task, lr, is_own
        self.provenance: dict[str, Any] = {}
        self.steps: Steps | None = None
        self.solver: LinearSolver | RidgeSolver | None = None

    def forward(self, counts: Tensor) -> Tensor:
        """Predict from counts, (n_samples, n_units) or (n_samples, n_bins, n_units)."""
        prediction: Tensor = self.net(counts.to(self.dtype))
        return prediction

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over samples."""
        return self.task.loss(prediction, target)

    def configure_optimizers(self) -> Any:
        """Return Adam; for blocks one kernel updates all parameters, which a CUDA graph can hold."""
        of_blocks: dict[str, Any] = {"fused": True, "capturable": self.device.type == "cuda"}
        of_blocks = {} if self.automatic_optimization else of_blocks
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, **of_blocks)

    def steps_with(self, optimizer: Any) -> Steps:
        """Return the steps of a block: through autograd, unless the class is stock and its steps are written out."""
        is_stock = type(self) in (Decoder, LinearNextBin, LinearLabel) and not self.is_own
        written_out = written_out_steps(self.net, self.task, optimizer, self.seed) if is_stock else None
        return written_out or AutogradSteps(self, self.loss, optimizer)

    def training_step(self, batch: tuple[Tensor, Tensor] | Block | OrderedBlocks, batch_index: int) -> Tensor | None:
        """Return the loss of a batch; take the optimizer steps of a block; solve, given all training samples."""
        if isinstance(batch, OrderedBlocks):
            task, weights = self.task, [parameter.detach()[None] for parameter in self.net.parameters()]
            if self.provenance["config"]["model"] == "ridge":
                self.solver = RidgeSolver(weights, self.trainer.val_dataloaders or ())
            self.solver = self.solver or LinearSolver(
                weights, task, lambda y: task.prepare(y)[None], lambda made, y: task.loss(made[0], y)[None]
            )
            self._count_steps(self.solver(batch))
            self.trainer.should_stop = self.trainer.should_stop or bool(self.solver.is_solved.all())
            for block in batch:
                self._log_scores("train", self(block.counts), block.targets)
            return None
        if isinstance(batch, Block):
            assert self.steps is not None
            self._log_scores("train", self.steps(batch)[0], batch.targets)
            self._count_steps(len(batch.batch_sizes))
            return None
        prediction = self(batch[0])
        loss = self.loss(prediction, batch[1])
        self._log_scores("train", prediction.detach(), batch[1], loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor] | Block, batch_index: int) -> None:
        """Log the scores of a batch or block."""
        self._log_scores("val", self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor] | Block, batch_index: int) -> None:
        """Log the scores of a batch or block."""
        self._log_scores("test", self(batch[0]), batch[1])

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Any:
        """Return the predictions of a batch."""
        return self(batch[0])

    @torch.no_grad()
    def _log_scores(self, part: str, prediction: Tensor, target: Tensor, loss: Tensor | None = None) -> None:
        """Log means over the pass and over all processes, each of which must take part, with samples or without."""
        scores = dict.fromkeys(("loss", *self.task.score_names), prediction.new_zeros(()))
        if len(target):
            loss = self.loss(prediction, target) if loss is None else loss.detach()
            scores = {"loss": loss, **self.task.scores(prediction, target)}
        scores = {f"{part}_{name}": value for name, value in scores.items()}
        # Lightning averages the number of samples over processes and cuts off the fraction: this leaves none.
        batch_size = len(target) * self.trainer.world_size
        self.log_dict(scores, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=batch_size)

    def _count_steps(self, n_steps: int) -> None:
        """Add steps that were taken past Lightning to its global step."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for count in (progress.total, progress.current):
            count.ready += n_steps
            count.completed += n_steps

    def expect_blocks(self) -> None:
        """Expect blocks of batches instead of batches; `trainer.BlockSteps` sets `steps`."""
        self.automatic_optimization = False

    def on_train_start(self) -> None:
        """Note what the decoder is trained on from now on, and what it was trained on before."""
        now = getattr(self.trainer.train_dataloader, "provenance", None)
        if now is not None:
            own = {name: self.hparams[name] for name in ("hidden_size", "lr") if name in self.hparams}
            # The classes of this file have the name that is in older checkpoints.
            code = type(self.net if self.is_own else self)
            module = "summer_train.models" if code.__module__ == __name__ else code.__module__
            now = {**now, "config": {**now["config"], **own}, "decoder": f"{module}.{code.__qualname__}"}
            is_new = self.provenance and now != {name: self.provenance.get(name) for name in now}
            self.provenance = now | ({"before": self.provenance} if is_new else {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights were trained on, as plain values."""
        if self.provenance:
            checkpoint["summer"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the weights were trained on."""
        self.provenance = checkpoint.get("summer", {})


class LinearNextBin(Decoder):
    """Predict every unit's count in the next bin, (n_samples, n_units); mean squared error.

    A network of two linear layers with a ReLU between, so not linear, whatever its name says.
    """

    def __init__(self, n_units: int, hidden_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__(two_layer_net(n_units, hidden_size, n_units), NextBin(n_units), lr)
        self.save_hyperparameters()


class LinearLabel(Decoder):
    """Predict the class of a label, (n_samples, n_classes) logits; cross-entropy and accuracy."""

    def __init__(self, n_units: int, n_classes: int = 2, hidden_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__(two_layer_net(n_units, hidden_size, n_classes), FilmLabel(n_classes), lr)
        self.save_hyperparameters()


def new_decoder(data: FilmSamples, choice: Choice | None = None) -> Decoder:
    """Return the untrained decoder of some data, chosen with them by default; equal seeds give equal weights."""
    choice = choice or data.choice
    name, net = decoder_name(data, choice), untrained_net(data, choice)
    decoder = Decoder(net, data.task, choice.lr)
    with torch.device("meta"):  # weights without values, which are replaced
        if name == LinearNextBin.__name__:
            decoder = LinearNextBin(data.n_units, choice.hidden_size, choice.lr)
        elif name == LinearLabel.__name__:
            decoder = LinearLabel(data.n_units, data.task.n_outputs, choice.hidden_size, choice.lr)
    decoder.net, decoder.weight_decay, decoder.seed = net, choice.weight_decay, choice.seed
    return decoder.to("cpu")
