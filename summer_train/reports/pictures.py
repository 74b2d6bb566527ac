"""Pictures of runs and studies, in one style. Each function draws one figure of plain values."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.files import new_figure, save_picture
from summer_train.reports.findings import FilmTrack, mean_of
from summer_train.reports.published import Published
from summer_train.runs.folder import METRICS, FitResult, read_metrics

OURS, TRAIN, VAL, BASELINE, NULL, PUBLISHED = "#1f5fa8", "#7aa6d8", "#d9822b", "#6b6b6b", "#d9d9d9", "#b0267a"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "grid.color": "#e8e8e8",
    "legend.frameon": False,
    "font.size": 9,
    "text.parse_math": False,  # names of files are no formulas
}
MAX_PANELS = 12


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all our pictures, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Scores of one row of a picture: one value per fold (and seed), and what they are compared with.

    null : low, middle and high of the null's means over folds
    """

    name: str
    values: Sequence[float]
    time_only: Sequence[float] = ()
    null: tuple[float, float, float] | None = None
    published: Published | None = None

    @property
    def mean(self) -> float:
        """Mean of what is defined; NaN of nothing."""
        return mean_of(self.values)


def draw_dots(rows: Sequence[Dots], score: str, title: str) -> Any:
    """Return a figure with a row for each name: every fold a dot, their mean, baselines, null band, published."""
    with style():
        figure = new_figure(7.5, 1.6 + 0.24 * max(3, len(rows)))
        axes = figure.subplots()
        label = _Once()
        axes.axvline(0, color="black", lw=0.8)
        axes.use_sticky_edges = False  # else bars end at the frame
        for place, row in enumerate(rows):
            if row.null is not None:
                low, middle, high = row.null
                axes.barh(place, high - low, 0.7, left=low, color=NULL, label=label("shifted labels, 5 to 95 %"))
                axes.plot([middle] * 2, [place - 0.35, place + 0.35], color="white", lw=1)
            if row.time_only:
                axes.plot(mean_of(row.time_only), place, "|", color=BASELINE, ms=11, mew=2, label=label("time only"))
            axes.plot(row.values, [place] * len(row.values), "o", color=OURS, ms=3.5, alpha=0.55, label=label("folds"))
            axes.plot(row.mean, place, "D", color=OURS, ms=6, label=label("mean"))
            if row.published is not None:
                axes.errorbar(
                    row.published.mean, place + 0.28, xerr=row.published.sd, fmt="s", color=PUBLISHED, ms=4,
                    label=label("published (real film), mean and SD"),
                )  # fmt: skip
        axes.set(yticks=range(len(rows)), yticklabels=[row.name for row in rows], xlabel=score, title=title)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=5, handletextpad=0.3, columnspacing=1.2)
    return figure


class _Once:
    """Names each kind of mark once in a legend."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def __call__(self, name: str) -> str:
        is_new = name not in self.shown
        self.shown.add(name)
        return name if is_new else "_" + name


def draw_lines(lines: Mapping[str, Sequence[Dots]], setting: str, score: str, title: str, joined: bool = True) -> Any:
    """Return a figure of a score against a setting, a mark for each mean, every fold a dot.

    Parameters
    ----------
    lines : name -> one Dots for each value of the setting, in order; its name is the value
    joined : whether values have an order, so that lines between them mean something
    """
    with style():
        figure = new_figure(7.5, 4.2)
        axes = figure.subplots()
        values = list(dict.fromkeys(dots.name for line in lines.values() for dots in line))
        places = {value: place for place, value in enumerate(values)}
        label = _Once()
        for (name, line), colour in zip(lines.items(), _colours(len(lines)), strict=True):
            at = [places[dots.name] for dots in line]
            axes.plot(at, [dots.mean for dots in line], "o-" if joined else "D", color=colour, label=name, ms=5)
            for place, dots in zip(at, line, strict=True):
                axes.plot([place] * len(dots.values), dots.values, ".", color=colour, ms=4, alpha=0.5)
            time_only = [mean_of(dots.time_only) for dots in line]
            if np.isfinite(time_only).any():
                axes.plot(at, time_only, ":" if joined else "_", color=colour, lw=1.2, ms=14, label=label("time only"))
            published = [(place, dots.published) for place, dots in zip(at, line, strict=True) if dots.published]
            if published:
                axes.plot(
                    [place for place, _ in published], [one.mean for _, one in published], "s--", ms=4, lw=1,
                    color=PUBLISHED if len(lines) == 1 else colour, mfc="none", label=f"{name}, published (real film)",
                )  # fmt: skip
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xticks=range(len(values)), xlabel=setting, ylabel=score, title=title)
        axes.set_xticklabels(values, rotation=30 if max(map(len, values)) > 8 else 0, ha="center")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


Curve = tuple[Sequence[Sequence[float]], int]
"""Training and validation loss of each epoch; the best epoch, from 1 (0: none)."""


def draw_curves(panels: Mapping[str, Sequence[Curve]], title: str) -> Any:
    """Return a figure of losses by epoch: a panel for each name, a line for each model, its best epoch marked."""
    with style():
        figure, all_axes = _panels(panels, (2.4, 2.0))
        label = _Once()
        for axes, (name, models) in zip(all_axes, panels.items(), strict=True):
            for curve, best_epoch in models:
                epochs = range(1, len(curve) + 1)
                for part, part_name, colour in ((0, "training", TRAIN), (1, "validation", VAL)):
                    axes.plot(epochs, [epoch[part] for epoch in curve], color=colour, lw=1, label=label(part_name))
                if best_epoch:
                    axes.plot(best_epoch, curve[best_epoch - 1][1], "o", color=VAL, ms=4, label=label("best epoch"))
            axes.set(title=name, xlabel="epoch", ylabel="loss")
            axes.locator_params(axis="x", integer=True)
        figure.suptitle(title)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_confusions(panels: Mapping[str, NDArray[np.float64]], title: str) -> Any:
    """Return a figure of confusion matrices.

    Parameters
    ----------
    panels : name -> (2, 2) samples by truth and by call, off before on
    """
    with style():
        figure, all_axes = _panels(panels, (1.7, 1.7))
        for axes, (name, matrix) in zip(all_axes, panels.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for truth in (0, 1):
                for call in (0, 1):
                    colour = "white" if shares[truth, call] > 0.5 else "black"
                    text = f"{shares[truth, call]:.0%}\n{matrix[truth, call]:.0f}"
                    axes.text(call, truth, text, ha="center", va="center", color=colour, fontsize=7)
            axes.set(title=name, xticks=(0, 1), yticks=(0, 1), xlabel="predicted", ylabel="true")
            axes.set_xticklabels(("off", "on"))
            axes.set_yticklabels(("off", "on"))
            axes.grid(visible=False)
        figure.suptitle(title)
    return figure


RankCurve = tuple[Mapping[str, NDArray[np.float64]], float]
"""fpr, tpr and precision (`metrics.curves`), and the base rate."""


def draw_rank_curves(panels: Mapping[str, Sequence[RankCurve]], title: str) -> Any:
    """Return a figure of ROC (left) and precision-recall curves (right), a line for each fold, chance dashed."""
    with style():
        figure = new_figure(6.4, 0.4 + 2.4 * len(panels))
        rows = figure.subplots(len(panels), 2, squeeze=False)
        for (roc, recall), (name, folds) in zip(rows, panels.items(), strict=True):
            for points, base_rate in folds:
                roc.plot(points["fpr"], points["tpr"], color=OURS, lw=1, alpha=0.7)
                recall.plot(points["tpr"], points["precision"], color=OURS, lw=1, alpha=0.7)
                recall.axhline(base_rate, color=BASELINE, lw=0.8, ls="--")
            roc.plot((0, 1), (0, 1), color=BASELINE, lw=0.8, ls="--")
            roc.set(title=f"{name}: ROC", xlabel="false positive rate", ylabel="true positive rate")
            recall.set(title=f"{name}: precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.02))
        figure.suptitle(title)
    return figure


FILM_SMOOTHING_S = 5.0


def draw_film(tracks: Sequence[FilmTrack], title: str) -> Any:
    """Return a figure of predicted probabilities along the film, a row for each label, the truth shaded behind."""
    with style():
        figure = new_figure(9, 0.9 + 1.2 * len(tracks))
        rows = figure.subplots(len(tracks), 1, squeeze=False, sharex=True)
        for axes, track in zip(rows[:, 0], tracks, strict=True):
            step_s = track.step_s
            # A line ends where the next sample is of another stretch of the film.
            ends = np.flatnonzero((np.diff(track.film_s) > 1.5 * step_s) | (np.diff(track.fold) != 0)) + 1
            minutes = np.insert(track.film_s / 60, ends, np.nan)
            truth = np.insert(track.is_on.astype(float), ends, np.nan)
            axes.fill_between(minutes, 0, truth, step="mid", color=NULL, lw=0)
            parts = np.split(track.probability, ends)
            smooth = np.concatenate([_running_mean(part, FILM_SMOOTHING_S / step_s) for part in parts])
            axes.plot(minutes, np.insert(smooth, ends, np.nan), color=OURS, lw=0.8)
            axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1), ylabel=track.name)
            axes.yaxis.label.set(rotation=0, ha="right", va="center")
            axes.yaxis.labelpad = 12
        rows[-1, 0].set_xlabel("minutes of the film")
        figure.suptitle(title)
    return figure


def _running_mean(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return values averaged over about so many neighbours: a film has more bins than a page has points."""
    n = min(len(values), max(1, round(width)))
    padded = np.pad(values, (n // 2, n - 1 - n // 2), mode="edge")
    return np.convolve(padded, np.full(n, 1 / n), mode="valid")


def draw_units(rate_hz: NDArray[np.float64], r2: NDArray[np.float64], title: str) -> Any:
    """Return a figure of each unit's R² against its firing rate."""
    with style():
        figure = new_figure(6, 4)
        axes = figure.subplots()
        axes.plot(np.maximum(rate_hz, 1e-3), r2, "o", color=OURS, ms=4, alpha=0.6)
        axes.axhline(0, color="black", lw=0.8)
        low = float(np.nanquantile(r2, 0.02)) if np.isfinite(r2).any() else -1.0
        axes.set(xscale="log", xlabel="firing rate (Hz)", ylabel="R² of the next bin", title=title)
        axes.set_ylim(bottom=min(-0.05, low))
    return figure


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [OURS] if n == 1 else [colormaps["tab10" if n <= 10 else "tab20"](number % 20) for number in range(n)]


def _panels(panels: Mapping[str, Any], size: tuple[float, float]) -> tuple[Any, list[Any]]:
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(size[0] * max(2, n_columns), 0.8 + size[1] * n_rows)
    every = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    return figure, every[: len(panels)]


def draw_learning_curve(result: FitResult, picture: Path) -> None:
    """Write a picture of a run's loss (and accuracy) by epoch, the best epoch marked, baselines dashed.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
    rows = read_metrics(result.log_dir / METRICS)
    epochs = [int(row["epoch"]) + 1 for row in rows]
    names = [name for name in ("loss", "accuracy") if rows and f"val_{name}" in rows[0]]
    with style():
        figure = new_figure(5.5 * len(names), 3.8)
        all_axes = figure.subplots(1, len(names), squeeze=False)
        for axes, name in zip(all_axes[0], names, strict=True):
            for part, colour in (("train", TRAIN), ("val", VAL)):
                axes.plot(epochs, [float(row[f"{part}_{name}"]) for row in rows], ".-", color=colour, label=part)
            for row, line in zip((row for row in result.scores if row != "model"), ("--", ":"), strict=False):
                axes.axhline(result.scores[row]["val"][name], ls=line, color=BASELINE, label=f"{row} (val)")
            axes.axvline(result.best_epoch, color=OURS, lw=1, label=f"best epoch ({result.best_epoch})")
            axes.set(xlabel="epoch", ylabel=name)
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        figure.suptitle(_title(result))
    save_picture(figure, picture)


def _title(result: FitResult) -> str:
    config = result.config
    what = f"label {config['label_name']}" if any(result.n_per_class.values()) else config["task"].replace("_", " ")
    split = f"fold {config['fold']}" if config["val_fraction"] is None else "fraction split"
    patients = ", ".join(config["patient_ids"])
    return f"{what}, patient {patients} ({result.n_units} units), {config['bin_length_ms']} ms bins, {split}"
