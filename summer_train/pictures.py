"""Pictures of runs, studies and benchmarks, in one style."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from summer_prep.output import pyplot, save_picture
from summer_train.runs import METRICS, FitResult, read_metrics


def draw_learning_curve(result: FitResult, picture: Path) -> None:
    """Write a picture of the losses (and accuracies) by epoch, the best epoch marked, baselines dashed.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
    plt = pyplot()
    from matplotlib.ticker import MaxNLocator

    rows = read_metrics(result.log_dir / METRICS)
    epochs = [int(row["epoch"]) + 1 for row in rows]
    names = [name for name in ("loss", "accuracy") if rows and f"val_{name}" in rows[0]]
    figure, all_axes = plt.subplots(1, len(names), figsize=(6 * len(names), 4), squeeze=False, layout="constrained")
    for axes, name in zip(all_axes[0], names, strict=True):
        for part, colour in zip(("train", "val"), ("tab:blue", "tab:orange"), strict=True):
            axes.plot(epochs, [float(row[f"{part}_{name}"]) for row in rows], ".-", color=colour, label=part)
        for row, style in zip((row for row in result.scores if row != "model"), ("--", ":"), strict=False):
            at_half = "accuracy_at_half" if name == "accuracy" else name  # as in metrics.csv
            axes.axhline(result.scores[row]["val"][at_half], ls=style, color="grey", label=f"{row} (val)")
        axes.axvline(result.best_epoch, color="tab:green", lw=1, label=f"best epoch ({result.best_epoch})")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    figure.suptitle(_title(result))
    save_picture(figure, picture)


def _title(result: FitResult) -> str:
    config = result.config
    what = f"label {config['label_name']}" if any(result.n_per_class.values()) else config["task"].replace("_", " ")
    split = f"fold {config['fold']}" if config["val_fraction"] is None else "fraction split"
    patients = ", ".join(config["patient_ids"])
    title = f"{what}, patient {patients} ({result.n_units} units), {config['bin_length_ms']} ms bins, {split}"
    return title.replace("$", r"\$")  # matplotlib would read formulas


def draw_bench(epochs_s: Mapping[str, Sequence[float]], picture: Path) -> None:
    """Write a picture of the median epoch in each way, every repeat a dot.

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
