"""What every decoder does alike: blocks of optimizer steps, evaluation, logging.

Lightning sees one training step per block of mini-batches; the optimizer steps happen inside it. What differs
between tasks (target, loss, metrics) is in `models.py`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from summer_prep.errors import SettingsError
from summer_train.batches import Block
from summer_train.steps import AutogradSteps, Steps, TwoLayerSteps, add_over_processes, choose_steps


class Sums:
    """Loss and metrics of a pass over samples, summed on the device and read once."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.n_samples = 0

    def add(self, sums: dict[str, Tensor], n_samples: int) -> None:
        """Add the sums of some samples."""
        for name, value in sums.items():
            self.values[name] = self.values[name] + value if name in self.values else value
        self.n_samples += n_samples

    def means(self) -> dict[str, Tensor]:
        """Return the means over all samples so far."""
        return {name: value / self.n_samples for name, value in self.values.items()}


class Decoder(lightning.LightningModule):
    """A network with its loss, trained by Adam on blocks of mini-batches.

    Subclasses set `net` and define `loss` and `metric_sums`.
    """

    net: nn.Module

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lr = lr
        self.provenance: dict[str, Any] = {}
        self.say: Callable[[str], None] = lambda _line: None
        self._steps: Steps
        self.sums = {part: Sums() for part in ("train", "val", "test")}

    def forward(self, counts: Tensor) -> Tensor:
        """Predict from counts, (n_samples, n_units)."""
        prediction: Tensor = self.net(counts.float())
        return prediction

    def loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over samples."""
        raise NotImplementedError

    def metric_sums(self, prediction: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return metrics beside the loss, summed over samples."""
        raise NotImplementedError

    def written_out_steps(self, optimizer: torch.optim.Adam) -> TwoLayerSteps | None:
        """Return a shortcut past autograd that takes the same steps; None where there is none."""
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with one kernel for all parameters, which a CUDA graph can hold."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True, capturable=self.device.type == "cuda")

    def on_train_start(self) -> None:
        """Choose how steps are taken on this device."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Adam)
        general = AutogradSteps(self.net, self.loss, optimizer)
        self._steps = choose_steps(general, self.written_out_steps(optimizer), self.device, self.say)

    def training_step(self, block: Block, block_index: int) -> None:
        """Take one optimizer step per mini-batch of the block, in order."""
        predictions = self._steps(block)
        with torch.no_grad():
            self._add("train", predictions, block.targets)
        self._count_steps(len(block.batch_sizes))

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; the only time that training waits for the device."""
        self._log_sums("train")

    def validation_step(self, block: Block, block_index: int) -> None:
        """Evaluate a block."""
        self._evaluate("val", block)

    def on_validation_epoch_end(self) -> None:
        """Log the means.

        Raises
        ------
        SettingsError : the loss is no number any more
        """
        loss = self._log_sums("val")["val_loss"]
        if not torch.isfinite(loss):
            raise SettingsError(
                f"training diverged: the validation loss of epoch {self.current_epoch + 1} is {float(loss)}. "
                f"Choose a smaller --lr than {self.lr}"
            )

    def test_step(self, block: Block, block_index: int) -> None:
        """Evaluate a block."""
        self._evaluate("test", block)

    def on_test_epoch_end(self) -> None:
        """Log the means."""
        self._log_sums("test")

    @torch.no_grad()
    def evaluate(self, blocks: Iterable[Block]) -> dict[str, float]:
        """Return the means of loss and metrics over all samples."""
        self.sums["test"] = Sums()
        for block in blocks:
            self._evaluate("test", block)
        return {name: float(value) for name, value in self.sums["test"].means().items()}

    def _evaluate(self, part: str, block: Block) -> None:
        self._add(part, self(block.counts), block.targets)

    def _add(self, part: str, predictions: Tensor, targets: Tensor) -> None:
        if len(targets):
            loss = self.loss(predictions, targets) * len(targets)
            self.sums[part].add({"loss": loss, **self.metric_sums(predictions, targets)}, len(targets))

    def means(self, part: str) -> dict[str, Tensor]:
        """Return the means over the epoch so far and all processes, each of which must ask."""
        sums, n_samples = add_over_processes(self.sums[part].values, self.sums[part].n_samples)
        return {f"{part}_{name}": value / n_samples for name, value in sums.items()}

    def _log_sums(self, part: str) -> dict[str, Tensor]:
        means = self.means(part)
        self.log_dict(means)
        self.sums[part] = Sums()
        return means

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights were trained on, as plain values."""
        checkpoint["summer"] = self.provenance

    def _count_steps(self, n_steps: int) -> None:
        """Tell Lightning of steps taken with the bare optimizer, so that its global step stays the number of them."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for count in (progress.total, progress.current):
            count.ready += n_steps
            count.completed += n_steps
