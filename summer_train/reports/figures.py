"""Figures of runs and studies, in one style: of a page, of a report's folder, and of `fit --picture`."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.files import new_figure, save_picture
from summer_train.reports.findings import (
    Result,
    against_null,
    by_label,
    confusion_of,
    groups_of,
    mean_of,
    others_equal,
    rank_curves_of,
    unit_scores,
    usual_first,
)
from summer_train.reports.published import published_kappa
from summer_train.reports.tables import as_cell, varied_options
from summer_train.runs.folder import METRICS, FitResult, read_metrics

OURS, TRAIN, VAL, BASELINE, NULL, PUBLISHED = "#1f5fa8", "#7aa6d8", "#d9822b", "#6b6b6b", "#c9c9c9", "#b0267a"
COLORS = (OURS, "#d9822b", "#228833", "#aa3377")
"""Of folders side by side."""
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "grid.color": "#e8e8e8",
    "legend.frameon": False,
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "summer",  # equal figures are equal files
    "text.parse_math": False,  # names of files are no formulas
}
MAX_PANELS = 12
MAX_ROWS = 60
FILM_SMOOTHING_S = 5.0
TITLES = {
    "buffer": "buffer between training and test (s)", "bin_length": "bin length (ms)", "brain_regions": "brain region",
    "patient_ids": "patients", "window": "window: past and future (s)", "model": "network",
}  # fmt: skip
ORDERED = (
    "bin_length", "buffer", "hidden_size", "lr", "batch_size", "val_fraction", "min_recorded", "window",
)  # fmt: skip
"""Settings whose values have an order, so that a line between them means something."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all our figures, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of this module; errors as `save_picture`."""
    with style():
        save_picture(figure, path)


def as_data_url(figure: Any) -> str:
    """Return a figure as SVG in the address of an image."""
    content = io.BytesIO()
    with style():
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def draw_all(results: Sequence[Result], published: bool) -> Iterator[tuple[str, str, Any]]:
    """Yield name, caption and figure of whatever some models can show, the answer first.

    Where other settings than those of a figure vary, it is of the most usual ones, which the caption names.
    """
    results = usual_first(results)
    labels = [result for result in results if result.row["task"] == "label"]
    counts = [result for result in results if result.record.units.get(result.part)]
    shown, fixed = others_equal(labels or results)
    groups = by_label(shown)
    if labels:
        more = f"; the first {MAX_ROWS} of {len(groups)}" if len(groups) > MAX_ROWS else ""
        caption = f"Kappa of each label: every fold, and what it is held against{fixed}{more}"
        yield "labels", caption, draw_labels(dict(list(groups.items())[:MAX_ROWS]), published)
    for setting in varied_options([result.row for result in labels]) if labels else ():
        if setting in ("label_name", "split", "sequence", "max_epochs", "patience"):
            continue
        # A random split has no buffer: it is the end of that axis.
        free = ("buffer", "split", "sequence") if setting == "buffer" else (setting,)
        of_setting, others = others_equal(labels, *free)
        lines = {name: _by_value(group, setting) for name, group in by_label(of_setting).items()}
        if max(map(len, lines.values())) > 1:
            best = sorted(
                lines, key=lambda name: -max(np.nan_to_num(_kappa(one), nan=-2) for one in lines[name].values())
            )
            title = TITLES.get(setting, setting.replace("_", " "))
            kept = {name: lines[name] for name in lines if name in best[:MAX_PANELS]}
            yield setting, f"Kappa by {title}{others}", draw_setting(kept, setting, published)
    panels = dict(list(groups.items())[:MAX_PANELS])
    if curves := {name: some for name, group in panels.items() if (some := [one for one in group if one.record.curve])}:
        yield "learning_curves", f"Loss by epoch, a line for each fold{fixed}", draw_learning_curves(curves)
    if labels:
        found = {name: confusion for name, group in panels.items() if (confusion := confusion_of(group)) is not None}
        if found:
            caption = (
                f"Confusion of {results[0].part} samples, folds together, at thresholds chosen on validation{fixed}"
            )
            yield "confusion", caption, draw_confusions(found)
        kept_of = {name: [one for one in group if one.predictions.exists()] for name, group in panels.items()}
        with_predictions = [(name, group) for name, group in kept_of.items() if group][: MAX_PANELS // 2]
        ranks = {name: [curve for one in group if (curve := rank_curves_of(one))] for name, group in with_predictions}
        if ranks := {name: of_label for name, of_label in ranks.items() if of_label}:
            caption = f"ROC and precision-recall curves, a line for each fold; chance dashed{fixed}"
            yield "roc_and_precision", caption, draw_rank_curves(ranks)
        if with_predictions:
            caption = f"Probability of “on” along the film, where it was tested (5 s means); shaded: label on{fixed}"
            yield "film", caption, draw_film(dict(with_predictions))
    if counts:
        shown, fixed = others_equal(counts)
        yield "units", f"R² of the next bin of each unit, mean over folds{fixed}", draw_units(*unit_scores(shown))


def _kappa(group: Sequence[Result]) -> float:
    return mean_of([result.score("kappa") for result in group])


def _time_only(group: Sequence[Result]) -> float:
    return mean_of([result.baseline("time only", "kappa") for result in group])


def _by_value(group: Sequence[Result], setting: str) -> dict[str, list[Result]]:
    """Return the models at each value of a setting, in its order."""
    groups = {as_cell(value): some for (value,), some in groups_of(group, [setting])}
    if setting == "buffer":
        groups = {"random" if name == "none" else name: some for name, some in groups.items()}
    if setting in ORDERED:  # of windows by the end, then the start
        order = {name: [float(word) for word in name.split() if word not in ("none", "random")] for name in groups}
        groups = {name: groups[name] for name in sorted(groups, key=lambda name: order[name][::-1])}
    return groups


def draw_labels(groups: Mapping[str, Sequence[Result]], published: bool) -> Any:
    """Return a figure with a row for each group: every fold a dot, their mean, baseline, null band, published."""
    folders = list(dict.fromkeys(group[0].folder for group in groups.values()))
    with style():
        figure = new_figure(7.5, 1.3 + 0.24 * max(3, len(groups)))
        axes = figure.subplots()
        axes.axvline(0, color="black", lw=0.8)
        axes.use_sticky_edges = False  # else bars end at the frame
        for place, group in enumerate(groups.values()):
            colour = COLORS[folders.index(group[0].folder) % len(COLORS)]
            kappas = [result.score("kappa") for result in group]
            if band := against_null(group, "kappa").band:
                low, middle, high = band
                axes.barh(place, high - low, 0.7, left=low, color=NULL, label="shifted labels, 5 to 95 %")
                axes.plot([middle] * 2, [place - 0.35, place + 0.35], color="white", lw=1)
            if np.isfinite(_time_only(group)):
                axes.plot(_time_only(group), place, "|", color=BASELINE, ms=11, mew=2, label="time only")
            axes.plot(kappas, [place] * len(kappas), "o", color=colour, ms=3.5, alpha=0.55, label="folds")
            axes.plot(mean_of(kappas), place, "D", color=colour, ms=6, label="mean")
            if published and (known := published_kappa(group[0].row)):
                axes.errorbar(
                    known.mean, place + 0.28, xerr=known.sd, fmt="s", color=PUBLISHED, ms=4,
                    label="published (real film), mean and SD",
                )  # fmt: skip
        axes.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="Cohen's kappa")
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        _legend(figure, ncols=5)
    return figure


def draw_setting(lines: Mapping[str, Mapping[str, Sequence[Result]]], setting: str, published: bool) -> Any:
    """Return a figure of kappa against a setting: label -> value -> models; a mark for each mean, every fold a dot."""
    from matplotlib import colormaps

    with style():
        figure = new_figure(7.5, 4.2)
        axes = figure.subplots()
        values = list(dict.fromkeys(value for line in lines.values() for value in line))
        is_joined = setting in ORDERED
        for number, (name, line) in enumerate(lines.items()):
            colour = OURS if len(lines) == 1 else colormaps["tab10" if len(lines) <= 10 else "tab20"](number)
            at = [values.index(value) for value in line]
            axes.plot(at, list(map(_kappa, line.values())), "o-" if is_joined else "D", color=colour, label=name, ms=5)
            for place, group in zip(at, line.values(), strict=True):
                kappas = [result.score("kappa") for result in group]
                axes.plot([place] * len(kappas), kappas, ".", color=colour, ms=4, alpha=0.5)
            time_only = list(map(_time_only, line.values()))
            axes.plot(at, time_only, ":" if is_joined else "_", color=colour, lw=1.2, ms=14, label="time only")
            if published and setting in ("buffer", "brain_regions"):
                known = [one.mean if (one := published_kappa(group[0].row)) else np.nan for group in line.values()]
                if np.isfinite(known).any():
                    colour = PUBLISHED if len(lines) == 1 else colour
                    axes.plot(
                        at, known, "s--", ms=4, lw=1, color=colour, mfc="none", label=f"{name}, published (real film)"
                    )
        axes.axhline(0, color="black", lw=0.8)
        title = TITLES.get(setting, setting.replace("_", " "))
        axes.set(xticks=range(len(values)), xlabel=title, ylabel="Cohen's kappa")
        axes.set_xticklabels(values, rotation=30 if max(map(len, values)) > 8 else 0, ha="center")
        _legend(figure, ncols=4)
    return figure


def draw_learning_curves(panels: Mapping[str, Sequence[Result]]) -> Any:
    """Return a figure of losses by epoch: a panel for each name, a line for each model, its best epoch marked."""
    with style():
        figure, all_axes = _panels(len(panels), (2.4, 2.0))
        for axes, (name, models) in zip(all_axes, panels.items(), strict=True):
            for record in [one.record for one in models]:
                epochs, losses = range(1, len(record.curve) + 1), np.array(record.curve)
                axes.plot(epochs, losses[:, 0], color=TRAIN, lw=1, label="training")
                axes.plot(epochs, losses[:, 1], color=VAL, lw=1, label="validation")
                if best := record.best_epoch:
                    axes.plot(best, losses[best - 1, 1], "o", color=VAL, ms=4, label="best epoch")
            axes.set(title=name, xlabel="epoch", ylabel="loss")
            axes.locator_params(axis="x", integer=True)
        _legend(figure, ncols=3)
    return figure


def draw_confusions(panels: Mapping[str, NDArray[np.float64]]) -> Any:
    """Return a figure of confusion matrices: name -> (2, 2) samples by truth and by call, off before on."""
    with style():
        figure, all_axes = _panels(len(panels), (1.7, 1.7))
        for axes, (name, matrix) in zip(all_axes, panels.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1)
            for (truth, call), share in np.ndenumerate(shares):
                colour = "white" if share > 0.5 else "black"
                text = f"{share:.0%}\n{matrix[truth, call]:.0f}"
                axes.text(call + 0.5, truth + 0.5, text, ha="center", va="center", color=colour, fontsize=7)
            axes.set(title=name, xlabel="predicted", ylabel="true", aspect="equal", ylim=(2, 0))
            axes.set_xticks((0.5, 1.5), ("off", "on"))
            axes.set_yticks((0.5, 1.5), ("off", "on"))
            axes.grid(visible=False)
    return figure


def draw_rank_curves(panels: Mapping[str, Sequence[tuple[Mapping[str, NDArray[np.float64]], float]]]) -> Any:
    """Return a figure of ROC (left) and precision-recall curves (right), a line for each fold, chance dashed.

    Parameters
    ----------
    panels : name -> of each fold fpr, tpr and precision (`metrics.curves`), and the base rate
    """
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
    return figure


def draw_film(panels: Mapping[str, Sequence[Result]]) -> Any:
    """Return a figure of predicted probabilities along the film, a row for each label, the truth shaded behind.

    Of several models of a fold it is the first.
    """
    with style():
        figure = new_figure(9, 0.6 + 1.2 * len(panels))
        rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True)
        for axes, (name, group) in zip(rows[:, 0], panels.items(), strict=True):
            for result in {one.row["fold"]: one for one in reversed(group)}.values():
                columns = [result.arrays[f"{result.part}_{column}"] for column in ("film_s", "target", "score")]
                order = np.argsort(columns[0], kind="stable")
                film_s, target, score = (column[order] for column in columns)
                step_s = float(np.median(np.diff(film_s))) if len(film_s) > 1 else 1.0
                # A line ends where the next sample is of another stretch of the film.
                ends = np.flatnonzero(np.diff(film_s) > 1.5 * step_s) + 1
                is_on = np.insert((target == 1).astype(int), ends, 0)
                edges, at_s = np.flatnonzero(np.diff(np.r_[0, is_on, 0])), np.insert(film_s, ends, np.nan)
                starts_s, stops_s = at_s[edges[::2]], at_s[edges[1::2] - 1] + step_s
                spans = np.stack([starts_s, stops_s - starts_s], axis=1) / 60
                axes.broken_barh(spans.tolist(), (0, 1), color=NULL, lw=0)
                width = max(1, round(FILM_SMOOTHING_S / step_s))  # a film has more bins than a page has points
                thin = slice(None, None, max(1, width // 4))
                minutes = [np.r_[part[thin] / 60, np.nan] for part in np.split(film_s, ends)]
                smooth = [np.r_[_running_mean(part, width)[thin], np.nan] for part in np.split(score, ends)]
                axes.plot(np.concatenate(minutes), np.concatenate(smooth), color=OURS, lw=0.8)
            axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1), ylabel=name)
            axes.yaxis.label.set(rotation=0, ha="right", va="center")
            axes.yaxis.labelpad = 12
        rows[-1, 0].set_xlabel("minutes of the film")
    return figure


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return values averaged over so many neighbours."""
    n = min(len(values), width)
    padded = np.pad(values, (n // 2, n - 1 - n // 2), mode="edge")
    return np.convolve(padded, np.full(n, 1 / n), mode="valid")


def draw_units(rate_hz: NDArray[np.float64], r2: NDArray[np.float64]) -> Any:
    """Return a figure of each unit's R² against its firing rate."""
    with style():
        figure = new_figure(6, 4)
        axes = figure.subplots()
        axes.plot(np.maximum(rate_hz, 1e-3), r2, "o", color=OURS, ms=4, alpha=0.6)
        axes.axhline(0, color="black", lw=0.8)
        low = float(np.nanquantile(r2, 0.02)) if np.isfinite(r2).any() else -1.0
        axes.set(xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would be formulas
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel="firing rate (Hz)", ylabel="R² of the next bin")
        axes.set_ylim(bottom=min(-0.05, low))
    return figure


def draw_learning_curve(result: FitResult, picture: Path) -> None:
    """Write a picture of a run's loss (and accuracy) by epoch, the best epoch marked, baselines dashed.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
    rows = read_metrics(result.log_dir / METRICS)
    epochs = [int(row["epoch"]) + 1 for row in rows]
    names = [name for name in ("loss", "accuracy") if rows and f"val_{name}" in rows[0]]
    config = result.config
    what = f"label {config['label_name']}" if any(result.n_per_class.values()) else config["task"].replace("_", " ")
    split = f"fold {config['fold']}" if config["val_fraction"] is None else "fraction split"
    patients = f"patient {', '.join(config['patient_ids'])} ({result.n_units} units)"
    with style():
        figure = new_figure(5.5 * len(names), 3.8)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for part, colour in (("train", TRAIN), ("val", VAL)):
                axes.plot(epochs, [float(row[f"{part}_{name}"]) for row in rows], ".-", color=colour, label=part)
            for row, line in zip((row for row in result.scores if row != "model"), ("--", ":"), strict=False):
                axes.axhline(result.scores[row]["val"][name], ls=line, color=BASELINE, label=f"{row} (val)")
            axes.axvline(result.best_epoch, color=OURS, lw=1, label=f"best epoch ({result.best_epoch})")
            axes.set(xlabel="epoch", ylabel=name)
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        figure.suptitle(f"{what}, {patients}, {config['bin_length_ms']} ms bins, {split}")
    save_figure(figure, picture)


def _legend(figure: Any, ncols: int) -> None:
    """Name each kind of mark once, below all axes."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=ncols, handletextpad=0.4)


def _panels(n_panels: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    n_columns = min(4, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = new_figure(size[0] * max(2, n_columns), 0.5 + size[1] * n_rows)
    every = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for axes in every[n_panels:]:
        axes.set_visible(False)
    return figure, every[:n_panels]
