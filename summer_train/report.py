"""What people see of a run: a line per epoch, the final table, the learning curve."""

import csv
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from summer_prep.output import pyplot, save_picture
from summer_train.tasks import Decoder

if TYPE_CHECKING:
    from rich.table import Table

PARTS = ("train", "val", "test")


class EpochLines(Callback):
    """Says one line per epoch; Lightning's bars redraw once per step, which costs more than our steps."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the epoch's losses."""
        assert isinstance(pl_module, Decoder)
        train = pl_module.means("train")  # logged only after this
        if not trainer.is_global_zero:
            return
        val = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in {**train, **val}.items())
        seconds = time.perf_counter() - self.started
        self.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}  {seconds:.2f} s")


def score_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> "Table":
    """Return a table with a row for the model and each baseline, and a column for each part and metric."""
    from rich.table import Table

    metrics = list(next(iter(scores["model"].values())))
    table = Table("", *(f"{part} {metric}" for metric in metrics for part in PARTS))
    for row, parts in scores.items():
        cells = (parts.get(part, {}).get(metric) for metric in metrics for part in PARTS)
        table.add_row(row, *("-" if cell is None else f"{cell:.4f}" for cell in cells))
    return table


def draw_learning_curve(log_dir: Path, scores: Mapping[str, Any], picture: Path) -> None:
    """Write a PNG of the losses (and accuracies) by epoch, baselines dashed.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
    plt = pyplot()
    curves = _read_curves(log_dir / "metrics.csv")
    metrics = [metric for metric in ("loss", "accuracy") if f"val_{metric}" in curves]
    figure, all_axes = plt.subplots(1, len(metrics), figsize=(6 * len(metrics), 4), squeeze=False, layout="constrained")
    for axes, metric in zip(all_axes[0], metrics, strict=True):
        for part, colour in zip(("train", "val"), ("tab:blue", "tab:orange"), strict=True):
            epochs, values = zip(*curves[f"{part}_{metric}"], strict=True)
            axes.plot([epoch + 1 for epoch in epochs], values, ".-", color=colour, label=part)
        for row, style in zip((row for row in scores if row != "model"), ("--", ":"), strict=False):
            axes.axhline(scores[row]["val"][metric], ls=style, color="grey", label=f"{row} (val)")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.legend()
    figure.suptitle(str(log_dir))
    save_picture(figure, picture)


def bench_tables(stages_s: Mapping[str, Sequence[float]], epochs_s: Mapping[str, Sequence[float]]) -> "list[Table]":
    """Return tables of stages, and of ways to train an epoch with their ratios to the fastest."""
    from rich.table import Table

    stages = Table("stage", "median (ms)", "range (ms)")
    for name, values in stages_s.items():
        stages.add_row(name, f"{statistics.median(values) * 1e3:.2f}", _range_ms(values))
    epochs = Table("epoch", "median (ms)", "range (ms)", "times the first")
    first = statistics.median(next(iter(epochs_s.values())))
    for name, values in epochs_s.items():
        median = statistics.median(values)
        epochs.add_row(name, f"{median * 1e3:.1f}", _range_ms(values), f"{median / first:.2f}")
    return [stages, epochs]


def _range_ms(values: Sequence[float]) -> str:
    return f"{min(values) * 1e3:.2f} to {max(values) * 1e3:.2f}"


def draw_bench(epochs_s: Mapping[str, Sequence[float]], picture: Path) -> None:
    """Write a PNG of the median epoch in each way, every repeat a dot.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    names = list(epochs_s)
    axes.barh(names, [statistics.median(epochs_s[name]) for name in names], color="lightsteelblue")
    for row, name in enumerate(names):
        axes.plot(epochs_s[name], [row] * len(epochs_s[name]), "k.", ms=3)
    axes.invert_yaxis()
    axes.set(xlabel="seconds per epoch", xscale="log")
    save_picture(figure, picture)


def _read_curves(metrics_csv: Path) -> dict[str, list[tuple[int, float]]]:
    """Return metric -> (epoch, value) pairs of a run."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with metrics_csv.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    curves.setdefault(name, []).append((int(row["epoch"]), float(value)))
    return curves
