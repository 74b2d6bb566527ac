"""A network of your own, and a Trainer of your own, on SUMMER's data.

python docs/examples/own_model.py CACHE_DIR
"""

import sys

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

import summer_train


class Wide(lightning.LightningModule):
    """A wider network with dropout, trained by SGD with momentum."""

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_units, 256), nn.GELU(), nn.Dropout(0.5), nn.Linear(256, 2))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        counts, label = batch  # (batch, n_units) float32, (batch,) class indices
        return nn.functional.cross_entropy(self.net(counts), label)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        counts, label = batch
        self.log("val_accuracy", (self.net(counts).argmax(dim=1) == label).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


data = summer_train.film_data(task="label", label_name="summer", patient_ids=[14, 20], cache_dir=sys.argv[1], buffer=10)
stop = EarlyStopping("val_accuracy", mode="max", patience=2)
trainer = lightning.Trainer(max_epochs=5, callbacks=[stop], gradient_clip_val=1.0, logger=False)
trainer.fit(Wide(data.n_units), datamodule=data)
print(f"validation accuracy {float(trainer.callback_metrics['val_accuracy']):.3f}")
