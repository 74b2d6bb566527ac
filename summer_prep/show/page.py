"""A page of one key for people to look at: counts, rate, folds, labels and features on one film axis, and its units.

The page holds all counts and features, and samples them again at every zoom (page.js).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import Description
from summer_prep.cache.targets import FilmTarget
from summer_prep.cache.write import read_array
from summer_prep.console import Table, printable
from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BUFFER_S, ON, UNDEFINED
from summer_prep.film.responses import ERRORS_95, find_onsets, unbroken_bins
from summer_prep.film.splits import stretches
from summer_prep.options import finite
from summer_prep.show.facts import broken_bins, describe_key, features_of, labels_of, rates_by_label, splits_of
from summer_prep.show.tables import table_of
from summer_prep.show.web import html_table, write_page

_UNIT_PX, _ROW_PX = 6, 14
_MAX_COLUMNS = 16  # of the features of a target: a byte for each bin
_COLORS = {
    "train": "#4477aa", "val": "#ccbb44", "test": "#ee6677", "on": "#3b82d0", "unused": "#bbbbbb",
    "undefined": "#bbbbbb", "chosen": "#ee6677", "pause": "#66ccee",
}  # fmt: skip
"""All of them can be seen on white and on black."""


def write_key_page(description: Description, page: Path, buffer_s: float | None = None) -> None:
    """Write a page of a checked key, with the folds of a blocked split: by default the usual one, if it fits.

    Raises CacheError if an array cannot be decoded, SettingsError if the buffer leaves no segment or writing fails.
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, CustomJS, Range1d
    from bokeh.models.annotations import Span
    from bokeh.resources import INLINE
    from jinja2 import Template

    facts, key = describe_key(description), description.folder
    counts, recorded_s = (read_array(key, name) for name in ("spike_counts", "recorded_s"))
    n_bins, bin_min, (names, labels) = len(counts), facts["bin_length_ms"] / 60_000, labels_of(description)
    start_min = float(read_array(key, "bin_start_s")[0]) / 60
    stop_min, shortest = start_min + n_bins * bin_min, min(10, n_bins) * bin_min
    # What all figures show of the film. The script of the page finds models by their names.
    minutes = Range1d(start=start_min, end=stop_min, bounds=(start_min, stop_min), min_interval=shortest, name="film")
    regions = [unit.get("brain_region", "") for unit in facts["units"]]
    tips = [("film time (min)", "@x{0.00}"), ("all", "@population{0.00}"), ("chosen", "@unit{0.00}")]
    rate = _new_figure(minutes, 160, "rate (Hz)", tooltips=tips)
    rates = ColumnDataSource(data={"x": [], "population": [], "unit": []}, name="rates")
    rate.line("x", "population", source=rates, color=_COLORS["on"], legend_label="mean of all units")
    rate.line("x", "unit", source=rates, color=_COLORS["chosen"], legend_label="chosen unit")
    panels, notes = [_draw_counts(minutes, counts, recorded_s, regions), rate], facts["notes"]
    buffer = DEFAULT_BUFFER_S if buffer_s is None else buffer_s
    try:
        splits, every_bin = splits_of(description, buffer), np.arange(n_bins)
        used = ({part: np.isin(every_bin, bins) for part, bins in split.items()} for split in splits.values())
        parts = ({**masks, "unused": ~np.any(list(masks.values()), axis=0)} for masks in used)
        folds = [f"fold {fold}" for fold in splits]
        panels.append(_draw_bars(minutes, bin_min, f"blocked split, buffer {buffer:g} s", folds, parts))
    except SettingsError:
        if buffer_s is not None:
            raise
        notes = ["film too short for the usual buffer, so no folds are drawn: name one with --fold-layout", *notes]
    values = ({"on": one == ON, "undefined": one == UNDEFINED} for one in labels)
    panels += [
        _draw_bars(minutes, bin_min, "labels (rule: first frame)", names, values),
        *(_draw_features(minutes, *of_target) for of_target in features_of(description, _MAX_COLUMNS)),
    ]
    panels[-1].xaxis.axis_label = "film time (min)"
    for panel in panels:
        for pause in facts["pauses"]:
            minute = pause["film_time_s"] / 60
            panel.add_layout(Span(location=minute, dimension="height", line_dash="dashed", line_color=_COLORS["pause"]))
        for legend in list(panel.legend):
            legend.update(orientation="horizontal", border_line_color=None, padding=0, margin=2)
            panel.add_layout(legend, "above")
    document = Document()
    document.add_root(column(*panels, sizing_mode="stretch_width", name="pictures"))
    document.add_root(_draw_response(description, labels))
    document.js_on_event("document_ready", CustomJS(code="window.summer.start()"))

    spikes, (on_hz, off_hz) = facts["spikes"], rates_by_label(counts, recorded_s, labels).round(4).tolist()
    film = {"start_min": start_min, "bin_min": bin_min, "n_bins": n_bins, "n_columns": 1000}
    units = table_of(
        facts["units"], unit="unit", brain_region="region", cell_type="type", spikes="spikes", rate_hz="rate (Hz)",
        fano_factor="Fano factor",
    )  # fmt: skip
    page_html, page_js, web_css, web_js = (
        files(__package__).joinpath(name).read_text("utf-8") for name in ("page.html", "page.js", "web.css", "web.js")
    )
    variables = {
        "style": web_css,
        "script": web_js + page_js,
        # Text of files ends no script element.
        "data": json.dumps(finite({**facts, "film": film, "on_hz": on_hz, "off_hz": off_hz})).replace("<", "\\u003c"),
        "summary": [
            f"{facts['n_units']} units, {n_bins} bins",
            f"{spikes['counted']:,} spikes counted, {spikes['in_pauses']:,} in pauses, {spikes['outside']:,} outside",
            f"{len(facts['pauses'])} pauses (dashed)",
            f"from {facts['source']['file_name']}",
            *notes,
        ],
        "units": html_table(units, "units", "unit"),
        "of_unit": html_table(Table(["label", "on (Hz)", "off (Hz)", "ratio"], []), "by-label"),
    }
    title = f"Patient {facts['patient_id']}, bins of {facts['bin_length_ms']} ms"
    write_page(page, file_html(document, INLINE, title, template=Template(page_html), template_variables=variables))


def _new_figure(minutes: Any, height_px: int, title: str, **options: Any) -> Any:
    """Return a figure along the film. The wheel zooms with Ctrl only, or the page could not be scrolled."""
    from bokeh.models import WheelZoomTool
    from bokeh.plotting import figure

    drawn = figure(
        height=height_px, title=title, x_range=minutes, sizing_mode="stretch_width", tools="xpan,xbox_zoom,reset",
        output_backend="canvas", min_border_left=110, toolbar_location=None, **options,
    )  # fmt: skip
    wheel = WheelZoomTool(dimensions="width", modifiers="ctrl", maintain_focus=False)  # else bounds stop it half-way
    drawn.add_tools(wheel)
    drawn.toolbar.update(active_scroll=wheel, logo=None)
    return drawn


def _draw_counts(
    minutes: Any, counts: NDArray[Any], recorded_s: NDArray[np.float32], region_of_unit: Sequence[str]
) -> Any:
    """Return the heat map, whose columns the browser draws from the counts at every zoom."""
    from bokeh import models
    from bokeh.models.annotations import ColorBar, Span

    n_units, order = counts.shape[1], np.argsort(np.array(region_of_unit), kind="stable")
    by_unit = np.take(counts.T, order, axis=0).ravel()  # so that a column of the picture is one run of memory
    raw = models.ColumnDataSource(
        data={"counts": [by_unit], "recorded_s": [recorded_s], "order": [order.astype(np.int32)]}, name="counts"
    )
    sample = models.CustomJS(args={"counts": raw}, code="window.summer.sample()")  # the argument sends them along
    minutes.js_on_change("start", sample)
    minutes.js_on_change("end", sample)

    height_px = max(260, min(740, n_units * _UNIT_PX + 40))
    drawn = _new_figure(minutes, height_px, "rates of units by region", y_range=(n_units, 0))
    drawn.toolbar_location = "above"  # of this figure alone: all are to be as wide as each other
    empty = {"image": [np.zeros((n_units, 1), np.float32)], "x": [minutes.start], "dw": [1.0]}
    colors = models.LinearColorMapper(palette="Inferno256", low=0)  # of log2(1 + rate)
    heat = models.ColumnDataSource(data=empty, name="heat")
    drawn.image("image", x="x", y=0, dw="dw", dh=n_units, source=heat, color_mapper=colors)
    bar = ColorBar(
        color_mapper=colors, orientation="horizontal", width=300, height=8, padding=2, title="rate (Hz)",
        formatter=models.CustomJSTickFormatter(code="return (Math.pow(2, tick) - 1).toFixed(1)"),
    )  # fmt: skip
    drawn.add_layout(bar, "above")
    unit = models.CustomJSHover(args={"order": order.tolist()}, code="return String(order[Math.floor(special_vars.y)])")
    rate = models.CustomJSHover(code="return (Math.pow(2, value) - 1).toFixed(2)")
    tips = [("film time (min)", "$x{0.00}"), ("unit", "$y{custom}"), ("rate (Hz)", "@image{custom}")]
    drawn.add_tools(models.HoverTool(tooltips=tips, formatters={"$y": unit, "@image": rate}))
    drawn.js_on_event("tap", models.CustomJS(code="window.summer.choose_row(cb_obj.y)"))

    # The name of a region stands at the middle of its rows; regions too small for a name of their own share one.
    regions, firsts, sizes = np.unique(np.array(region_of_unit)[order], return_index=True, return_counts=True)
    ticks: dict[float, str] = {}
    for region, middle in zip(regions.tolist(), (firsts + sizes / 2).tolist(), strict=True):
        last = max(ticks, default=-np.inf)
        if middle - last < _ROW_PX / _UNIT_PX:
            ticks[last] += f", {region}"
        else:
            ticks[middle] = region
    _name_rows(drawn, ticks)
    for first in firsts[1:].tolist():
        drawn.add_layout(Span(location=first, dimension="width", line_color="white", line_width=0.5))
    return drawn


def _draw_features(minutes: Any, target: FilmTarget, values: NDArray[np.float32]) -> Any:
    """Return a line of a single feature, or a heat map of several, which the browser draws as it does the counts."""
    from bokeh.models import ColumnDataSource, LinearColorMapper

    is_defined, n_shown, n_columns = np.isfinite(values), values.shape[1], len(target.columns)
    n_defined = np.maximum(1, is_defined.sum(axis=0))
    mean = values.sum(axis=0, where=is_defined, dtype=np.float64) / n_defined
    sd = np.sqrt(((values - mean) ** 2).sum(axis=0, where=is_defined) / n_defined)
    z = np.where(is_defined, (values - mean) / np.where(sd > 0, sd, 1), 0)
    step = float(np.abs(z).max()) / 127 or 1.0
    codes = np.where(is_defined, np.rint(z / step), -128).astype(np.int8)
    in_units = {"step": [step * sd[0]], "mean": [mean[0]]} if n_columns == 1 else {"step": [step], "mean": [0.0]}
    empty = {"image": [np.zeros((n_shown, 1), np.float32)], "x": [0.0], "dw": [1.0], "xs": [[]], "ys": [[]]}
    data = {"codes": [codes.T.ravel()], **in_units, **empty}
    source = ColumnDataSource(data=data, name=f"features {target.name}")
    if n_columns == 1:
        tips = [("film time (min)", "$x{0.00}"), (target.name, "$y{0.00}")]
        drawn = _new_figure(minutes, 140, tooltips=tips, title=f"{target.name}: {printable(target.columns[0])}")
        drawn.multi_line("xs", "ys", source=source, color=_COLORS["on"])
        return drawn
    title = f"{target.name}: {n_shown} of {n_columns} columns"
    tips = [("film time (min)", "$x{0.00}"), ("SD from the mean", "@image{0.00}")]
    drawn = _new_figure(minutes, 70 + _ROW_PX * n_shown, title, y_range=(n_shown, 0), tooltips=tips)
    colors = LinearColorMapper(palette="RdBu11", low=-3, high=3, nan_color=_COLORS["undefined"])
    drawn.image("image", x="x", y=0, dw="dw", dh=n_shown, source=source, color_mapper=colors)
    _name_rows(drawn, {row + 0.5: name for row, name in enumerate(target.columns[:n_shown])})
    return drawn


def _draw_response(description: Description, labels: NDArray[np.uint8]) -> Any:
    """Return the figure of a unit's rates around the onsets of a label, which the browser computes from the counts."""
    from bokeh.models import ColumnDataSource, Range1d
    from bokeh.models.annotations import Span

    bin_ms = description.attributes["bin_length_ms"]
    step = max(1, 100 // bin_ms)
    side = step * -(-1000 // (step * bin_ms))  # bins, of a second or little more
    whole, onsets = unbroken_bins(broken_bins(description), side), [find_onsets(label, side) for label in labels]
    used, side_s = [one[np.isin(one, whole)].tolist() for one in onsets], side * bin_ms / 1000
    source = ColumnDataSource(data={"x": [], "rate": [], "low": [], "high": []}, name="response")
    source.tags = [step, side, ERRORS_95, used]
    time_s = Range1d(start=-side_s, end=side_s, bounds=(-side_s, side_s))
    drawn = _new_figure(time_s, 220, "", x_axis_label="time from the onset (s)", y_axis_label="rate (Hz)")
    drawn.update(name="of-response", min_border_left=60)
    drawn.varea("x", "low", "high", source=source, color=_COLORS["unused"], alpha=0.6)
    drawn.line("x", "rate", source=source, color=_COLORS["chosen"], line_width=2)
    drawn.add_layout(Span(location=0, dimension="height", line_dash="dashed", line_color=_COLORS["on"]))
    return drawn


def _draw_bars(
    minutes: Any, bin_min: float, title: str, names: Sequence[str], rows: Iterable[Mapping[str, NDArray[np.bool_]]]
) -> Any:
    """Return a figure with a row for each name, and in it a bar for each run of bins that have a value."""
    bars: dict[str, list[Any]] = {name: [] for name in ("row", "name", "value", "color", "left", "right")}
    for row, (name, values) in enumerate(zip(names, rows, strict=True)):
        for value, has_value in values.items():
            for start, stop in zip(*stretches(has_value), strict=True):
                sides = (minutes.bounds[0] + edge * bin_min for edge in (start, stop))
                for column, cell in zip(bars.values(), (row + 0.5, name, value, _COLORS[value], *sides), strict=True):
                    column.append(cell)
    tips = [("", "@name"), ("is", "@value"), ("from (min)", "@left{0.00}"), ("to (min)", "@right{0.00}")]
    drawn = _new_figure(minutes, 90 + _ROW_PX * len(names), title, y_range=(len(names), 0), tooltips=tips)
    drawn.hbar("row", left="left", right="right", height=0.8, color="color", legend_field="value", source=bars)
    _name_rows(drawn, {row + 0.5: name for row, name in enumerate(names)})
    return drawn


def _name_rows(drawn: Any, names: Mapping[float, str]) -> None:
    """Write names, which may be long and are no formulas, beside the rows of a figure."""
    from bokeh.models import PlainText

    drawn.yaxis.ticker = list(names)
    texts = {row: PlainText(text=fill(printable(name), 60)) for row, name in names.items()}
    drawn.yaxis.major_label_overrides = texts
