"""The figures of a report's page. What depends on the row that is chosen is drawn by the page's script."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.show.web import COLORS, figure_names, film_figure, film_range, legend_above, new_figure
from summer_train.reports.findings import FilmTrack, Result, one_per_fold
from summer_train.reports.pictures import PUBLISHED
from summer_train.reports.summary import MAIN_SCORE, Summary
from summer_train.reports.tables import SCORE_COLUMNS, as_cell

_FOLDER_COLORS = (COLORS["main"], "#d9822b", "#228833", "#aa3377")
_BAND: dict[str, Any] = {"color": COLORS["unused"], "alpha": 0.45, "line_color": None}
_ROW_PX = 22
_MAX_SPANS = 2000
_MAX_ROWS = 200
"""More are more than a browser draws."""


def group_name(group: Summary, folders: Sequence[str]) -> str:
    """Return what tells a group from others: its folder, its label, and other settings by name."""
    words = [value if name == "label_name" else f"{name.replace('_', ' ')} {as_cell(value)}"
             for name, value in group["settings"].items()]  # fmt: skip
    return ", ".join([*([group["folder"]] if len(folders) > 1 else []), *words])


def dots_figure(groups: Sequence[Summary], folders: Sequence[str]) -> Any:
    """Return a figure with a row for each group: every fold a dot, their mean, what they are held against."""
    from bokeh.models import HoverTool

    task = groups[0]["task"]
    score = MAIN_SCORE[task]
    groups, n_groups = groups[:_MAX_ROWS], len(groups)
    names = figure_names([f"{place}. {group_name(group, folders)}" for place, group in enumerate(groups, start=1)])
    points: dict[str, list[Any]] = {"x": [], "y": [], "fold": [], "seed": [], "color": []}
    means: dict[str, list[Any]] = {"x": [], "y": [], "color": []}
    marks: dict[str, dict[str, list[Any]]] = {
        "time only": {"x": [], "y": []}, "published": {"x": [], "y": [], "low": [], "high": []},
        "shifted": {"y": [], "left": [], "right": []},
    }  # fmt: skip
    for name, group in zip(names, groups, strict=True):
        color = _FOLDER_COLORS[folders.index(group["folder"]) % len(_FOLDER_COLORS)]
        for model in group["models"]:
            _append(points, x=model["scores"][score], y=name, fold=model["fold"], seed=model["seed"], color=color)
        _append(means, x=group["mean"][score], y=name, color=color)
        if "time only" in group["baselines"]:
            _append(marks["time only"], x=group["baselines"]["time only"][score], y=name)
        if score in group["null"]:
            _append(marks["shifted"], y=name, left=group["null"][score]["low"], right=group["null"][score]["high"])
        if group["published"]:
            kappa, sd = group["published"]["kappa"], group["published"]["sd"] or 0.0
            _append(marks["published"], x=kappa, y=name, low=kappa - sd, high=kappa + sd)
    drawn = new_figure(
        110 + _ROW_PX * len(names), y_range=list(reversed(names)), tools="xpan,xbox_zoom,reset",
        title=f"{SCORE_COLUMNS[score]} of each fold" + (f": the first {_MAX_ROWS}" if n_groups > _MAX_ROWS else ""),
    )  # fmt: skip
    drawn.xaxis.axis_label = SCORE_COLUMNS[score]
    if marks["shifted"]["y"]:
        drawn.hbar(
            y="y", left="left", right="right", height=0.7, legend_label="shifted labels, 5 to 95 %", **_BAND,
            source=marks["shifted"],
        )  # fmt: skip
    if marks["time only"]["y"]:
        drawn.scatter("x", "y", marker="dash", angle=np.pi / 2, size=14, color=COLORS["quiet"], line_width=2,
                      legend_label="time only", source=marks["time only"])  # fmt: skip
    folds = drawn.scatter(
        "x", "y", size=6, color="color", alpha=0.5, legend_label="folds", source=_source(points, f"folds_{task}")
    )
    tips = [("", "@y"), ("score", "@x{0.000}"), ("fold", "@fold"), ("seed", "@seed")]
    drawn.add_tools(HoverTool(renderers=[folds], tooltips=tips))
    drawn.scatter(
        "x", "y", marker="diamond", size=11, color="color", legend_label="mean", source=_source(means, f"means_{task}")
    )
    if marks["published"]["y"]:
        drawn.segment("low", "y", "high", "y", color=PUBLISHED, source=marks["published"])
        drawn.scatter("x", "y", marker="square", size=6, color=PUBLISHED, legend_label="published (real film)",
                      source=marks["published"])  # fmt: skip
    legend_above(drawn)
    return drawn


def _append(columns: dict[str, list[Any]], **cells: Any) -> None:
    for name, value in cells.items():
        columns[name].append(value)


def _source(columns: Mapping[str, Any], name: str) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(data=dict(columns), name=name)


def lines_figure(name: str, title: str, x: str, y: str) -> Any:
    """Return a figure of many lines, which the page's script draws."""
    drawn = new_figure(280, title=title, tools="pan,box_zoom,reset")
    source = _source({"xs": [[0, 1]], "ys": [[0, 1]], "color": [COLORS["main"]], "dash": ["solid"], "what": [""]}, name)
    drawn.multi_line("xs", "ys", line_color="color", line_dash="dash", legend_field="what", source=source)
    drawn.xaxis.axis_label, drawn.yaxis.axis_label = x, y
    legend_above(drawn)
    return drawn


def units_figure() -> Any:
    """Return a figure of each unit's R² against its rate, which the page's script draws."""
    drawn = new_figure(
        280, title="R² of each unit, mean over models", x_axis_type="log", tools="pan,box_zoom,reset,hover",
        tooltips=[("unit", "@unit"), ("rate (Hz)", "@x{0.00}"), ("R²", "@y{0.000}")],
    )  # fmt: skip
    drawn.scatter(
        "x",
        "y",
        size=7,
        color=COLORS["main"],
        alpha=0.6,
        source=_source({"x": [1], "y": [0], "unit": [0]}, "unit_dots"),
    )
    drawn.xaxis.axis_label, drawn.yaxis.axis_label = "firing rate (Hz)", "R²"
    return drawn


def split_spans(groups: Sequence[Sequence[Result]], tracks: Mapping[int, FilmTrack]) -> dict[str, list[Any]]:
    """Return where the validation and test samples of every fold of every group lie along the film."""
    found: dict[str, list[Any]] = {"group": [], "y": [], "left": [], "right": [], "color": [], "part": []}
    for (number_of_group, track), models in zip(tracks.items(), groups, strict=True):
        bin_s = track.bin_s
        for result in one_per_fold(models):
            arrays = result.arrays()
            for part in ("val", "test"):
                film_s = np.sort(arrays.get(f"{part}_film_s", np.empty(0)))
                lefts, rights = _runs(film_s, bin_s)
                if len(lefts) > _MAX_SPANS:  # a random split: every bin is another part
                    continue
                for left, right in zip(lefts / 60, rights / 60, strict=True):
                    _append(
                        found, group=number_of_group, y=f"fold {result.row['fold'] or 'none'}", left=float(left),
                        right=float(right), color=COLORS[part], part=part,
                    )  # fmt: skip
    return found


def _runs(film_s: NDArray[np.float64], bin_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where stretches of bins that follow each other begin and end, in seconds."""
    if not len(film_s):
        return film_s, film_s
    ends = np.flatnonzero(np.diff(film_s) > 1.5 * bin_s)
    return film_s[np.r_[0, ends + 1]], film_s[np.r_[ends, len(film_s) - 1]] + bin_s


def predictions_figure(tracks: Mapping[int, FilmTrack], spans: dict[str, list[Any]]) -> Any:
    """Return predictions along the film and the parts of the split below, sampled anew at every zoom."""
    from bokeh.layouts import column
    from bokeh.models import CustomJS

    start_min = min(float(track.film_s[0]) for track in tracks.values()) / 60
    stop_min = max(float(track.film_s[-1]) + track.bin_s for track in tracks.values()) / 60
    least_min = 10 * min(track.bin_s for track in tracks.values()) / 60
    minutes = film_range(start_min, stop_min, least_min)
    drawn = film_figure(
        minutes, 240, y_range=(-0.03, 1.03), title="probability of “on”",
        tooltips=[("film time (min)", "@x{0.00}"), ("probability", "@probability{0.000}"), ("is on", "@on{0.00}")],
    )  # fmt: skip
    columns = _source({"x": [], "on": [], "probability": [], "width": []}, "film_columns")
    drawn.vbar(x="x", top="on", width="width", legend_label="label on", source=columns, **_BAND)
    drawn.line("x", "probability", color=COLORS["main"], legend_label="probability", source=columns)
    drawn.toolbar_location = "above"
    legend_above(drawn)
    folds = list(dict.fromkeys(spans["y"]))
    split = film_figure(
        minutes,
        90 + _ROW_PX * len(folds),
        y_range=list(reversed(folds)),
        title="validation and test",
    )
    shown = _source({name: values[:] for name, values in spans.items()}, "shown_spans")  # of all until one is chosen
    split.hbar(
        y="y", left="left", right="right", height=0.8, color="color", legend_field="part", source=shown, line_color=None
    )
    legend_above(split)
    split.xaxis.axis_label = "film time (min)"
    raw = {
        f"track_{number_of_group}": _source(
            {
                "film_s": [track.film_s.astype(np.float64)], "probability": [track.probability.astype(np.float32)],
                "on": [track.is_on.astype(np.uint8)], "bin_s": [track.bin_s],
            },
            f"track_{number_of_group}",
        )
        for number_of_group, track in tracks.items()
    }  # fmt: skip
    raw["spans"] = _source(spans, "spans")
    sample = CustomJS(args=raw, code="window.summer.sample()")  # which sends them along
    minutes.js_on_change("start", sample)
    minutes.js_on_change("end", sample)
    return column(drawn, split, sizing_mode="stretch_width")
