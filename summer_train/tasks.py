"""What every decoder does alike: blocks of optimizer steps, evaluation, logging.

Lightning sees one training step per block of mini-batches; the optimizer steps happen inside it. What differs
between tasks (target, loss, metrics) is in `models.py`.
"""

from collections.abc import Iterable

import lightning
import torch
from torch import Tensor, nn

from summer_train.batches import Block


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

    def __init__(self, lr: float, batch_size: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lr = lr
        self.batch_size = batch_size
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with one kernel for all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)

    def training_step(self, block: Block, block_index: int) -> None:
        """Take one optimizer step per mini-batch of the block, in order."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        counts, targets = block.counts.float(), block.targets
        n_steps = 0
        for x, y in zip(counts.split(self.batch_size), targets.split(self.batch_size), strict=True):
            prediction = self.net(x)
            loss = self.loss(prediction, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            n_steps += 1
            self._add("train", prediction.detach(), y, loss.detach())
        self._count_steps(n_steps)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; the only time that training waits for the device."""
        self._log_sums("train")

    def validation_step(self, block: Block, block_index: int) -> None:
        """Evaluate a block."""
        self._evaluate("val", block)

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self._log_sums("val")

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
        prediction = self(block.counts)
        self._add(part, prediction, block.targets, self.loss(prediction, block.targets))

    def _add(self, part: str, prediction: Tensor, targets: Tensor, mean_loss: Tensor) -> None:
        sums = {"loss": mean_loss * len(targets), **self.metric_sums(prediction, targets)}
        self.sums[part].add(sums, len(targets))

    def _log_sums(self, part: str) -> None:
        self.log_dict({f"{part}_{name}": value for name, value in self.sums[part].means().items()})
        self.sums[part] = Sums()

    def _count_steps(self, n_steps: int) -> None:
        """Tell Lightning of steps taken with the bare optimizer, so that its global step stays the number of them."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for count in (progress.total, progress.current):
            count.ready += n_steps
            count.completed += n_steps
