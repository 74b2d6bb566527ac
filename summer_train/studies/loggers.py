"""Models of a study as runs of TensorBoard and Weights & Biases, which set many of them side by side."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import rmtree

from summer_prep.errors import load_extra
from summer_train.studies.records import Record

FOLDER = "tensorboard"


def log_records(records: Iterable[Record], loggers: Sequence[str], folder: Path) -> None:
    """Write losses by epoch, settings and scores of models as runs named by their ids; networks of nulls are left out.

    loggers : tensorboard, which writes to FOLDER, and wandb
    """
    for record in (one for one in records if one.scores and not one.shift):
        of_parts = {f"{part}_{name}": value for part, of in record.scores.items() for name, value in of.items()}
        scores = {
            name: value for name, value in of_parts.items() if math.isfinite(value) and not name.endswith("_loss")
        }
        curve = [dict(zip(("train_loss", "val_loss"), losses, strict=True)) for losses in record.curve]
        if "tensorboard" in loggers:
            from torch.utils.tensorboard import SummaryWriter

            rmtree(folder / FOLDER / record.id, ignore_errors=True)  # of the same model on other data
            with SummaryWriter(str(folder / FOLDER / record.id)) as writer:
                for epoch, losses in enumerate(curve, start=1):
                    for name, loss in losses.items():
                        writer.add_scalar(name, loss, epoch)
                writer.add_hparams(dict(record.columns), scores, run_name=".")
        if "wandb" in loggers:
            wandb = load_extra("wandb", "--logger wandb")
            with wandb.init(
                project="summer", id=record.id, resume="allow", dir=folder, config=dict(record.columns)
            ) as run:
                for epoch, losses in enumerate(curve, start=1):
                    run.log(losses, step=epoch)
                run.summary.update(scores)
