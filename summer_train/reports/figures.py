"""Figures of trained models, for reports and for your own: `summer_train.figures`.

::

    models = summer_train.figures.read_models("study")           # one row per model, a pandas.DataFrame
    with summer_train.figures.style(85):                         # in which text of a PDF can be edited
        summer_train.figures.draw_labels(models[models.buffer == 32], width_mm=85).savefig("labels.pdf")

Each of these takes such a table, or some of its rows, and `width_mm`, and returns a `matplotlib.figure.Figure`, which
is not part of pyplot; `figure.axes` are yours to change.

    draw_labels           kappa of each label, beside baseline, null and published values
    draw_setting          kappa against a setting, like the buffer
    draw_learning_curves  loss by epoch
    draw_confusions       confusion matrix of each label
    draw_rank_curves      ROC and precision-recall curves       (needs predictions)
    draw_film             probability of a label along the film (needs predictions)
    draw_units            R² of each unit against its firing rate
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from summer_prep import files
from summer_prep.files import new_figure, save_picture
from summer_train.reports import findings
from summer_train.reports.evidence import against_null
from summer_train.reports.findings import by_label, most_usual, rank_curves_of, usual_of_patients
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import as_cell, varied_options
from summer_train.runs.folder import METRICS, FitResult
from summer_train.settings.options import BEST

read_models = findings.read_models  # public here
WIDTH_MM = 180.0  # two columns of most journals; one is 85
FONTS = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
OURS, TRAIN, VAL, BASELINE, NULL, PUBLISHED = "#1f5fa8", "#7aa6d8", "#d9822b", "#6b6b6b", "#c9c9c9", "#b0267a"
COLORS = (OURS, "#d9822b", "#228833", "#aa3377")  # of folders side by side
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.titlesize": "medium", "grid.color": "#e8e8e8", "legend.frameon": False,
    "font.family": "sans-serif", "font.sans-serif": FONTS,
    "pdf.fonttype": 42,  # text stays text that can be edited, as journals ask for
    "text.parse_math": False,  # names from files are not formulas
}  # fmt: skip
MAX_PANELS, MAX_ROWS, FILM_SMOOTHING_S = 12, 60, 5.0
TITLES = {
    "buffer": "buffer between training and test (s)", "bin_length": "bin length (ms)", "brain_regions": "brain region",
    "patient_ids": "patients", "window": "window: past and future (s)", "model": "network",
    "chosen_units": "units", "train_share": "minutes of film in training",
}  # fmt: skip
ORDERED = (
    "bin_length", "buffer", "hidden_size", "lr", "batch_size", "weight_decay", "val_fraction", "min_recorded",
    "align_share", "window",
)  # fmt: skip
"""Settings whose values have an order, so that a line between them means something."""


@contextmanager
def style(width_mm: float = WIDTH_MM) -> Iterator[float]:
    """Draw in the style of all our figures; yield the width in inches. Matplotlib's own settings stay as they were."""
    from matplotlib import rc_context

    with rc_context({**STYLE, "font.size": min(9, max(7, width_mm / 20))}):  # legible in a column of a paper, too
        yield width_mm / 25.4


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as PNG, SVG and PDF; errors as `save_picture`."""
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg", ".pdf")]
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is computed once: it takes most of the time
        for path in paths:
            save_picture(figure, path)
    return paths


def as_data_url(figure: Any) -> str:
    """Return a figure in our style as SVG in the address of an image."""
    with style():
        return files.as_data_url(figure)


def draw_all(models: pd.DataFrame, published: bool, width_mm: float = WIDTH_MM) -> Iterator[tuple[str, str, Any]]:
    """Yield name, caption and figure of whatever some models can show, the answer first.

    Where other settings than those of a figure vary, it is of the most usual ones, which the caption names.
    """

    def first(shown: pd.DataFrame, n: int) -> pd.DataFrame:
        return shown[shown["name"].isin(list(by_label(shown))[:n])]

    labels = models[models["task"] == "label"]
    shown, fixed = most_usual(labels if len(labels) else models)
    if len(labels):
        of_labels, fixed_here = usual_of_patients(labels)
        more = f"; the first {MAX_ROWS} of {n}" if (n := of_labels["name"].nunique()) > MAX_ROWS else ""
        what = "every fold and their mean, 95 % of all folds together, and what it is compared with"
        caption = f"Kappa of each label: {what}{fixed_here}{more}"
        yield "labels", caption, draw_labels(first(of_labels, MAX_ROWS), published, width_mm)
    for name, task, what in (("features", "feature", "Mean R² of each"), ("encoding", "encode", "Median R² from each")):
        if (models["task"] == task).any():
            of_features, fixed_here = usual_of_patients(models[models["task"] == task])
            caption = f"{what} target: every fold, and what it is compared with{fixed_here}"
            yield name, caption, draw_labels(first(of_features, MAX_ROWS), False, width_mm, "r2")
    others = ("task", "label_name", "split", "sequence", "max_epochs", "patience")
    for setting in [name for name in varied_options(labels) if name not in others]:
        # A random split has no buffer: it comes first on that axis.
        free = (setting, *(("split", "sequence") if setting == "buffer" else ()))
        of_setting, fixed_here = usual_of_patients(labels, *free)
        if of_setting.groupby("name")[setting].nunique().max() > 1:
            best = of_setting.groupby(["name", setting])["kappa"].mean().groupby("name").max()
            names = best.sort_values(ascending=False, kind="stable").index[:MAX_PANELS]
            figure = draw_setting(of_setting[of_setting["name"].isin(names)], setting, published, width_mm)
            title = TITLES.get(setting, setting.replace("_", " "))
            yield setting, f"Kappa by {title}; bars: 95 %, all folds and draws together{fixed_here}", figure
    panels = first(shown, MAX_PANELS)
    if any(one.curve for one in panels["result"]):
        yield "learning_curves", f"Loss by epoch, a line for each fold{fixed}", draw_learning_curves(panels, width_mm)
    if panels["tn"].notna().any():
        caption = f"Confusion of {panels['part'].iloc[0]} samples, folds together, at the threshold of each"
        yield "confusion", caption + fixed, draw_confusions(panels, width_mm)
    predicted = panels[[one.predictions.exists() for one in panels["result"]]]
    if len(labels) and len(predicted):
        predicted = first(predicted, MAX_PANELS // 2)
        if any(rank_curves_of(one) for one in predicted["result"]):
            caption = f"ROC and precision-recall curves, a line for each fold; chance dashed{fixed}"
            yield "roc_and_precision", caption, draw_rank_curves(predicted, width_mm)
        caption = f"Probability of “on” along the film, where it was tested (5 s means); shaded: label on{fixed}"
        yield "film", caption, draw_film(predicted, width_mm)
    counts = models[[one.columns["task"] == "next_bin" and one.part in one.units for one in models["result"]]]
    if len(counts):
        shown, fixed = most_usual(counts)
        yield "units", f"R² of the next bin of each unit, mean over folds{fixed}", draw_units(shown, width_mm)


def draw_labels(models: pd.DataFrame, published: bool = False, width_mm: float = WIDTH_MM, score: str = "kappa") -> Any:
    """Return a figure with a row for each label and folder: folds, mean kappa, interval, baseline, null, published.

    Parameters
    ----------
    models : of `read_models`; those of one label and folder count as folds and seeds of one result
    published : whether the published kappa is drawn where one is known at that buffer and region
    score : `r2` for features and encoding
    """
    groups = by_label(models)
    what, title = ("features", "R², mean over dimensions") if score == "r2" else ("labels", "Cohen's kappa")
    if models["task"].iloc[0] == "encode":
        title = "R², median over units"
    colours = dict(zip(models["folder"].unique(), cycle(COLORS), strict=False))
    with style(width_mm) as width:
        figure = new_figure(width, 1.3 + 0.24 * max(3, len(groups)))
        axes = figure.subplots()
        axes.axvline(0, color="black", lw=0.8)
        axes.use_sticky_edges = False  # else bars end at the frame
        for place, group in enumerate(groups.values()):
            colour, kappas = colours[group["folder"].iloc[0]], group[score]
            if band := against_null(group, score).band:
                low, middle, high = band
                axes.barh(place, high - low, 0.7, left=low, color=NULL, label=f"shifted {what}, 5 to 95 %")
                axes.plot([middle] * 2, [place - 0.35, place + 0.35], color="white", lw=1)
            if np.isfinite(time_only := group[f"time_only_{score}"].mean()):
                axes.plot(time_only, place, "|", color=BASELINE, ms=11, mew=2, label="time only")
            axes.plot(kappas, [place] * len(kappas), "o", color=colour, ms=3.5, alpha=0.55, label="folds")
            if interval := findings.interval_of(group["result"]).get(score):
                ends = [interval["low"], interval["high"]]
                axes.plot(ends, [place] * 2, color=colour, lw=2, label="95 %, folds together")
            axes.plot(kappas.mean(), place, "D", color=colour, ms=6, label="mean")
            if published and (known := published_kappa(group.iloc[0])):
                look = {"fmt": "s", "color": PUBLISHED, "ms": 4, "label": "published (real film), mean and SD"}
                axes.errorbar(known.mean, place + 0.28, xerr=known.sd, **look)
        names = [fill(name, 22 if width_mm < 120 else 40) for name in groups]
        axes.set(yticks=range(len(groups)), yticklabels=names, xlabel=title, ylim=(len(groups) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        _legend(figure)
    return figure


def draw_setting(models: pd.DataFrame, setting: str, published: bool = False, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of kappa against a setting: means of each label and folder, folds or draws as dots, baselines.

    Units, minutes of training and patients are on a logarithmic axis; ranked units are a curve of their own.

    Parameters
    ----------
    setting : a column, like `buffer`, on whose axis a random split comes first
    published : whether published values are drawn beside, of buffers and of regions
    """
    from matplotlib import colormaps

    findings.check_models(models)
    models = models[models["n_units"] > 0]  # the others could not be trained
    sizes = findings.sizes_of(models, setting)
    is_joined, title = setting in ORDERED or sizes is not None, TITLES.get(setting, setting.replace("_", " "))
    cells = models[setting].map(as_cell).replace({"none": "random"} if setting == "buffer" else {})
    values = list(cells.unique())
    if setting in ORDERED:  # windows by their end, then by their start
        values.sort(key=lambda value: [float(word) for word in value.split() if word not in ("none", "random")][::-1])
    is_ranked = cells.str.startswith(BEST) & (setting == "chosen_units")
    names = models["name"].mask(is_ranked, models["name"] + ", ranked units")
    groups = by_label(models.assign(at=cells.map(values.index) if sizes is None else sizes, name=names))
    with style(width_mm) as width:
        figure = new_figure(width, 4.2)
        axes = figure.subplots()
        for number, (name, group) in enumerate(groups.items()):
            colour = OURS if len(groups) == 1 else colormaps["tab10" if len(groups) <= 10 else "tab20"](number)
            means = group.groupby("at")[["kappa", "time_only_kappa"]].mean()
            axes.plot(means["kappa"], "o-" if is_joined else "D", color=colour, label=name, ms=5)
            drawn = [one for one in ("draw", "leave_out") if one in group]
            dots = group.groupby(["at", *drawn], as_index=False)["kappa"].mean() if drawn else group
            axes.plot(dots["at"], dots["kappa"], ".", color=colour, ms=4, alpha=0.5)
            for at, one in group.groupby("at"):
                if interval := findings.interval_of(one["result"]).get("kappa"):
                    axes.plot([at] * 2, [interval["low"], interval["high"]], color=colour)
            axes.plot(means["time_only_kappa"], ":" if is_joined else "_", color=colour, lw=1.2, ms=14)
            known = {at: published_kappa(one.iloc[0]) for at, one in group.groupby("at")}
            if published and setting in ("buffer", "brain_regions") and any(known.values()):
                kappas = [one.mean if one else np.nan for one in known.values()]
                look = {"color": PUBLISHED if len(groups) == 1 else colour, "mfc": "none", "ms": 4, "lw": 1}
                axes.plot(list(known), kappas, "s--", label=f"{name}, published (real film)", **look)
        axes.plot([], [], ":" if is_joined else "_", color=BASELINE, label="time only")
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlabel=title, ylabel="Cohen's kappa")
        if sizes is not None:
            ticks = sorted(sizes.unique())
            values = [f"{tick:.3g}" if tick < 1000 else f"{tick:.0f}" for tick in ticks]
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(range(len(values)) if sizes is None else ticks)
        is_long = max(map(len, values), default=0) > 8 or sum(map(len, values)) * 2 > width_mm
        axes.set_xticklabels(values, rotation=30 if is_long else 0, ha="right" if is_long else "center")
        _legend(figure)
    return figure


def draw_learning_curves(models: pd.DataFrame, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of losses by epoch: a panel for each label, a line for each model, its best epoch marked.

    Of a single model also the validation loss of its baselines is drawn.
    """
    findings.check_models(models)
    groups = by_label(models[[bool(one.curve) for one in models["result"]]])
    with style(width_mm) as width:
        figure, all_axes = _panels(groups, width, (1.5, 2.0 if len(models) > 1 else 3.4))
        for axes, group in zip(all_axes, groups.values(), strict=True):
            for record in group["result"]:
                epochs, losses = range(1, len(record.curve) + 1), np.array(record.curve)
                axes.plot(epochs, losses[:, 0], color=TRAIN, lw=1, label="training")
                axes.plot(epochs, losses[:, 1], color=VAL, lw=1, label="validation")
                if best := record.best_epoch:
                    what = f"best epoch ({best})" if len(models) == 1 else "best epoch"
                    axes.plot(best, losses[best - 1, 1], "o", color=VAL, ms=4, label=what)
                for (name, parts), line in zip(record.baselines.items(), ("--", ":", "-."), strict=False):
                    if len(models) == 1:
                        axes.axhline(parts["val"]["loss"], ls=line, color=BASELINE, lw=1, label=f"{name} (validation)")
            axes.set(xlabel="epoch", ylabel="loss")
            axes.set_xlim(0.5, max(len(one.curve) for one in group["result"]) + 0.5)
            axes.locator_params(axis="x", integer=True)
        _legend(figure)
    return figure


def draw_confusions(models: pd.DataFrame, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of confusion matrices, one for each label: shares of the truth, and numbers of samples."""
    groups = {name: findings.confusion_of(group) for name, group in by_label(models).items()}
    found = {name: matrix for name, matrix in groups.items() if matrix is not None}
    with style(width_mm) as width:
        figure, all_axes = _panels(found, width, (1.5, 1.7))
        for axes, matrix in zip(all_axes, found.values(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (truth, call), share in np.ndenumerate(shares):
                text, colour = f"{share:.0%}\n{matrix[truth, call]:.0f}", "white" if share > 0.5 else "black"
                axes.text(call, truth, text, ha="center", va="center", color=colour, fontsize=7)
            axes.set(xticks=(0, 1), xticklabels=("off", "on"), yticks=(0, 1), yticklabels=("off", "on"))
            axes.set(xlabel="predicted", ylabel="truth")
            axes.grid(visible=False)
    return figure


def draw_rank_curves(models: pd.DataFrame, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of ROC and precision-recall curves: a row for each label, a line for each model, chance dashed.

    The models must have kept their predictions.
    """
    groups = {name: [rank_curves_of(one) for one in group["result"]] for name, group in by_label(models).items()}
    found = {name: curves for name, group in groups.items() if (curves := [one for one in group if one is not None])}
    with style(width_mm) as width:
        figure = new_figure(width, 0.4 + 2.4 * len(found))
        rows = figure.subplots(len(found), 2, squeeze=False)
        for (roc, recall), (name, curves) in zip(rows, found.items(), strict=True):
            for points, base_rate in curves:
                roc.plot(points["fpr"], points["tpr"], color=OURS, lw=1, alpha=0.7)
                recall.plot(points["tpr"], points["precision"], color=OURS, lw=1, alpha=0.7)
                recall.axhline(base_rate, color=BASELINE, lw=0.8, ls="--")
            roc.plot((0, 1), (0, 1), color=BASELINE, lw=0.8, ls="--")
            roc.set_title(name, loc="left")
            roc.set(xlabel="false positive rate", ylabel="true positive rate")
            recall.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    return figure


def draw_film(models: pd.DataFrame, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of predicted probabilities along the film, a row for each label, the truth shaded behind.

    The models must have kept their predictions; of several models of a fold the first is drawn.
    """
    groups = by_label(models)
    with style(width_mm) as width:
        figure = new_figure(width, 0.6 + 1.2 * len(groups))
        rows = figure.subplots(len(groups), 1, squeeze=False, sharex=True)
        for axes, (name, group) in zip(rows[:, 0], groups.items(), strict=True):
            for result in group.drop_duplicates("fold")["result"]:
                columns = {name: result.arrays[name] for name in ("film_s", "target", "score")}
                film = pd.DataFrame(columns).sort_values("film_s", kind="stable")
                steps_s = film["film_s"].diff()
                step_s = steps_s.median() if len(film) > 1 else 1.0
                n_smoothed = max(1, round(FILM_SMOOTHING_S / step_s))  # a film has more bins than a page has points
                is_new = steps_s > 1.5 * step_s  # another stretch of the film starts, with a line of its own
                stretch, is_on = is_new.cumsum(), film["target"] == 1
                runs = film[is_on].groupby((is_new | (is_on != is_on.shift())).cumsum()[is_on])["film_s"]
                starts_min, spans_min = runs.min() / 60, (runs.max() - runs.min() + step_s) / 60
                axes.broken_barh(list(zip(starts_min, spans_min, strict=True)), (0, 1), color=NULL, lw=0)
                smooth = film.groupby(stretch)["score"].rolling(n_smoothed, center=True, min_periods=1).mean()
                thin = slice(None, None, max(1, n_smoothed // 4))
                ends = np.flatnonzero(np.diff(stretch[thin])) + 1
                line = np.insert(np.stack([film["film_s"] / 60, smooth])[:, thin], ends, np.nan, axis=1)
                axes.plot(line[0], line[1], color=OURS, lw=0.8)
            axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
            axes.set_title(name, loc="left")
        rows[-1, 0].set_xlabel("minutes of the film")
    return figure


def draw_units(models: pd.DataFrame, width_mm: float = WIDTH_MM) -> Any:
    """Return a figure of each unit's R² against its firing rate, means over next-bin models."""
    units = findings.unit_scores(models)
    with style(width_mm) as width:
        figure = new_figure(width, min(4, 0.8 * width))
        axes = figure.subplots()
        axes.plot(units["rate_hz"].clip(lower=1e-3), units["r2"], "o", color=OURS, ms=4, alpha=0.6)
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xscale="log", xlabel="firing rate (Hz)", ylabel="R² of the next bin")
        axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would be formulas
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(bottom=np.nanmin([-0.05, units["r2"].quantile(0.02)]))
    return figure


def draw_learning_curve(result: FitResult, picture: Path) -> None:
    """Write a picture of a run's loss by epoch, and of a label's accuracy; errors as `save_picture`."""
    run = (models := findings.read_models(result.log_dir)).iloc[0]
    split = f"fold {run['fold']}" if run["fold"] else "fraction split"
    patients = f"patient {run['patient_ids'].replace(' ', ', ')} ({run['n_units']} units)"
    with style():
        figure = draw_learning_curves(models)
        what = f"{run['task'].replace('_', ' ')} {run['label_name'] or run.get('target', '')}".strip()
        figure.axes[0].set_title(f"{what}, {patients}, {run['bin_length']} ms bins, {split}")
        metrics = pd.read_csv(result.log_dir / METRICS)
        if "val_accuracy" in metrics:  # below the loss, in the same colours
            figure.set_figheight(5.4)
            top, below = figure.add_gridspec(2, 1)
            figure.axes[0].set_subplotspec(top)
            axes = figure.add_subplot(below, sharex=figure.axes[0], xlabel="epoch", ylabel="accuracy")
            axes.plot(metrics["epoch"] + 1, metrics["train_accuracy"], color=TRAIN, lw=1)
            axes.plot(metrics["epoch"] + 1, metrics["val_accuracy"], color=VAL, lw=1)
        save_picture(figure, picture)


def _legend(figure: Any) -> None:
    """Add a legend below all axes, each kind of mark once, in as few lines as the width allows."""
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in pairs}
    for n_columns in range(min(5, len(handles)), 0, -1):
        look = {"loc": "outside lower center", "ncols": n_columns, "handletextpad": 0.4}
        legend = figure.legend(handles.values(), handles, **look)
        if n_columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            break
        legend.remove()


def _panels(names: Any, width: float, least: tuple[float, float]) -> tuple[Any, list[Any]]:
    """Return a figure and an axes for each name, as many beside each other as have room (inches)."""
    n_columns = max(1, min(len(names), int(width // least[0])))
    n_rows = -(-len(names) // n_columns)
    figure = new_figure(width, 0.5 + least[1] * n_rows)
    every = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes, name in zip(every, names, strict=False):
        axes.set_title(fill(name, 24))
    for axes in every[len(names) :]:
        axes.remove()
    return figure, every[: len(names)]
