"""What people see of runs: tables of scores, the learning curve, what a benchmark measured."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from summer_prep.console import Table
from summer_prep.output import pyplot, save_picture
from summer_train.runs import METRICS, PARTS, FitResult, Scores, read_metrics

RUN_SETTINGS = ("task", "label_name", "patient_ids", "bin_length_ms", "buffer_s", "fold", "seed")
"""What `summer-train runs` shows of a run's settings."""


def score_table(scores: Scores) -> Table:
    """Return a table with a row for the model and each baseline, and a column for each part and score."""
    names = list(next(iter(scores["model"].values())))
    columns = [(part, name) for name in names for part in PARTS]
    rows = [
        [row, *(f"{parts[part][name]:.4f}" if part in parts else "-" for part, name in columns)]
        for row, parts in scores.items()
    ]
    return Table(["scores", *(f"{part} {name}" for part, name in columns)], rows)


def runs_table(results: Iterable[FitResult]) -> Table:
    """Return a table with a row for each run: narrow, for people; `run_row` has more."""
    rows = []
    for result in results:
        row = run_row(result)
        name = "accuracy" if row["test_accuracy"] else "loss"
        baseline = next(iter(scores for kind, scores in result.scores.items() if kind != "model"), {})
        rows.append(
            [
                "/".join(result.log_dir.parts[-2:]),
                row["label_name"] or row["task"].replace("_", " "),
                row["patient_ids"],
                row["fold"],
                f"{result.best_epoch}/{result.n_epochs}",
                name,
                row[f"test_{name}"],
                f"{baseline['test'][name]:.4f}" if "test" in baseline else "",
            ]
        )
    return Table(["run", "predicts", "patients", "fold", "best", "score", "test", "baseline"], rows)


def run_row(result: FitResult) -> dict[str, Any]:
    """Return what is worth knowing of a run in a list of many."""

    def score(part: str, name: str) -> str:
        value = result.scores["model"].get(part, {}).get(name)
        return "" if value is None else f"{value:.4f}"

    settings = {name: result.config.get(name) for name in RUN_SETTINGS}
    settings["patient_ids"] = " ".join(result.config.get("patient_ids", ()))
    if not any(result.n_per_class.values()):  # no classes, no label
        settings["label_name"] = ""
    return {
        "run": str(result.log_dir),
        **{name: "" if value is None else value for name, value in settings.items()},
        "best_epoch": result.best_epoch,
        "n_epochs": result.n_epochs,
        "val_loss": score("val", "loss"),
        "test_loss": score("test", "loss"),
        "test_accuracy": score("test", "accuracy"),
    }


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
    names = list(result.scores["model"]["val"])
    figure, all_axes = plt.subplots(1, len(names), figsize=(6 * len(names), 4), squeeze=False, layout="constrained")
    for axes, name in zip(all_axes[0], names, strict=True):
        for part, colour in zip(("train", "val"), ("tab:blue", "tab:orange"), strict=True):
            axes.plot(epochs, [float(row[f"{part}_{name}"]) for row in rows], ".-", color=colour, label=part)
        for row, style in zip((row for row in result.scores if row != "model"), ("--", ":"), strict=False):
            axes.axhline(result.scores[row]["val"][name], ls=style, color="grey", label=f"{row} (val)")
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


def bench_tables(stages_s: Mapping[str, Sequence[float]], epochs_s: Mapping[str, Sequence[float]]) -> list[Table]:
    """Return tables of stages, and of ways to train an epoch with their ratios to the first."""
    stages = [[name, f"{statistics.median(values) * 1e3:.2f}", _range_ms(values)] for name, values in stages_s.items()]
    medians = {name: statistics.median(values) for name, values in epochs_s.items()}
    first = next(iter(medians.values()))
    epochs = [
        [name, f"{median * 1e3:.1f}", _range_ms(epochs_s[name]), f"{median / first:.2f}"]
        for name, median in medians.items()
    ]
    return [
        Table(["stage", "median (ms)", "range (ms)"], stages),
        Table(["epoch", "median (ms)", "range (ms)", "times the first"], epochs),
    ]


def _range_ms(values: Sequence[float]) -> str:
    return f"{min(values) * 1e3:.2f} to {max(values) * 1e3:.2f}"


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
