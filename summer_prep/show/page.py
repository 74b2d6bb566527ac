"""A page of one key for people to look at: counts, rate, labels, pauses and folds on one film axis, and its units.

The counts stand in the page and are sampled anew at every zoom.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import Description
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BUFFER_S, ON, UNDEFINED
from summer_prep.film.splits import Indices, stretches
from summer_prep.show.facts import describe_key, rates_by_label, splits_of
from summer_prep.show.tables import table_of
from summer_prep.show.web import (
    COLORS,
    figure_names,
    film_figure,
    film_range,
    html_table,
    legend_above,
    render,
    write_page,
)

_N_COLUMNS = 1000
_ROW_PX = 14
_UNIT_PX, _TICK_PX = 6, 14


def write_key_page(description: Description, page: Path, buffer_s: float | None = None) -> None:
    """Write a page of a checked key.

    Parameters
    ----------
    page : see `web.check_page`
    buffer_s : of the blocked split whose folds are drawn; by default the usual one, and none on a film too short for it

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : the buffer leaves no segment, or the page cannot be written
    """
    from bokeh.layouts import column
    from bokeh.models import CustomJS
    from bokeh.models.annotations import Span

    facts, film, notes = describe_key(description), _Film(description), []
    panels = [film.counts(), film.rate(), film.labels()]
    try:
        splits = splits_of(description, DEFAULT_BUFFER_S if buffer_s is None else buffer_s)
        panels.insert(2, film.split(splits, f"buffer {DEFAULT_BUFFER_S if buffer_s is None else buffer_s:g} s"))
    except SettingsError:
        if buffer_s is not None:
            raise
        notes = ["the film is too short for the usual buffer, so no folds are drawn: name one with --fold-layout"]
    panels[-1].xaxis.axis_label = "film time (min)"
    for panel in panels:
        for pause in facts["pauses"]:
            minute = pause["film_time_s"] / 60
            panel.add_layout(Span(location=minute, dimension="height", line_dash="dashed", line_color=COLORS["pause"]))
    sample = CustomJS(args={"counts": film.raw}, code="window.summer.sample()")  # which sends them along
    film.minutes.js_on_change("start", sample)
    film.minutes.js_on_change("end", sample)
    spikes = facts["spikes"]
    summary = [
        f"{facts['n_units']} units, {facts['n_bins']} bins",
        f"{spikes['counted']:,} spikes counted, {spikes['in_pauses']:,} in pauses, {spikes['outside']:,} outside",
        f"{len(facts['pauses'])} pauses (dashed)",
        f"from {facts['source']['file_name']}",
        *notes,
        *facts["notes"],
    ]
    columns = {"region": "brain_region", "type": "cell_type"}
    units = table_of(
        facts["units"], unit="unit", brain_region="region", cell_type="type", spikes="spikes", rate_hz="rate (Hz)",
        fano_factor="Fano factor",
    )  # fmt: skip
    on_hz, off_hz = film.rates_by_label.round(4).tolist()
    of_page = {
        "choices": {
            name: sorted({unit.get(column, "") for unit in facts["units"]}) for name, column in columns.items()
        },
        "rates_by_label": {"on_hz": on_hz, "off_hz": off_hz},
        "film": {
            "start_min": film.start_min, "bin_min": film.bin_min, "n_bins": film.n_bins, "n_units": facts["n_units"],
            "n_columns": _N_COLUMNS,
        },
    }  # fmt: skip
    text = render(
        "summer_prep.show",
        "page",
        f"Patient {facts['patient_id']}, bins of {facts['bin_length_ms']} ms",
        {"pictures": column(*panels, sizing_mode="stretch_width")},
        {**facts, **of_page},
        summary=summary,
        units=html_table(units, "units", "unit"),
    )
    write_page(page, text)


class _Film:
    """The arrays of a key, drawn over the minutes of the film."""

    def __init__(self, description: Description) -> None:
        from bokeh.models import ColumnDataSource

        key, attributes = description.folder, description.attributes
        self.names = figure_names(attributes["label_names"])
        self.n_bins = attributes["n_bins"]
        counts, recorded_s = read_array(key, "spike_counts"), read_array(key, "recorded_s")
        self.first_labels = read_array(key, "labels_first")
        self.rates_by_label = rates_by_label(counts, recorded_s, self.first_labels)
        self.start_min = float(read_array(key, "bin_start_s")[0]) / 60
        self.bin_min = attributes["bin_length_ms"] / 60_000
        stop_min = self.start_min + self.n_bins * self.bin_min
        self.minutes = film_range(self.start_min, stop_min, 10 * self.bin_min)
        regions = np.array(attributes["units"].get("brain_region", [""] * attributes["n_units"]))
        self.order = np.argsort(regions, kind="stable")
        self.regions = regions[self.order]
        # What the browser samples from: a row for each unit, so that a column of the picture is one run of memory.
        by_unit = np.take(counts.T, self.order, axis=0)
        self.raw = ColumnDataSource(
            data={"counts": [by_unit.ravel()], "recorded_s": [recorded_s], "order": [self.order.astype(np.int32)]},
            name="counts",
        )

    def counts(self) -> Any:
        """Return the heat map, whose columns are drawn from the counts at every zoom."""
        from bokeh.models import ColumnDataSource, CustomJS, CustomJSHover, FixedTicker, HoverTool
        from bokeh.palettes import Inferno256

        n_units = len(self.order)
        drawn = film_figure(
            self.minutes, max(220, min(700, n_units * _UNIT_PX)), y_range=(n_units, 0),
            title="rates of units by region",
        )  # fmt: skip
        drawn.toolbar_location = "above"
        # The first column, which the browser replaces.
        empty = {"image": [np.zeros((n_units, 1), np.float32)], "x": [self.start_min], "dw": [1.0]}
        source = ColumnDataSource(data=empty, name="heat")
        drawn.image("image", x="x", y=0, dw="dw", dh=n_units, source=source, palette=Inferno256)

        unit = "return String(order[Math.floor(special_vars.y)])"
        rate = "return (Math.pow(2, value) - 1).toFixed(2)"  # of the colour, which is log2(1 + rate)
        hover = HoverTool(
            tooltips=[("film time (min)", "$x{0.00}"), ("unit", "$y{custom}"), ("rate (Hz)", "@image{custom}")],
            formatters={
                "$y": CustomJSHover(args={"order": self.order.tolist()}, code=unit),
                "@image": CustomJSHover(code=rate),
            },
        )
        drawn.add_tools(hover)
        drawn.js_on_event("tap", CustomJS(code="window.summer.choose_row(cb_obj.y)"))

        # The name of a region stands at the middle of its rows; regions too small for a name of their own share one.
        names, firsts, sizes = np.unique(self.regions, return_index=True, return_counts=True)
        ticks = {-np.inf: ""}
        for name, middle in zip(figure_names(list(map(str, names))), (firsts + sizes / 2).tolist(), strict=True):
            last = max(ticks)
            if middle - last < _TICK_PX / _UNIT_PX:
                ticks[last] += f", {name}"
            else:
                ticks[middle] = name
        del ticks[-np.inf]
        drawn.yaxis.ticker = FixedTicker(ticks=list(ticks))
        drawn.yaxis.major_label_overrides = ticks
        return drawn

    def rate(self) -> Any:
        """Return the rate of all units, and of one that is chosen."""
        from bokeh.models import ColumnDataSource

        drawn = film_figure(
            self.minutes, 160, title="rate (Hz)",
            tooltips=[("film time (min)", "@x{0.00}"), ("all", "@population{0.00}"), ("chosen", "@unit{0.00}")],
        )  # fmt: skip
        rates = ColumnDataSource(data={"x": [self.start_min], "population": [0.0], "unit": [0.0]}, name="rates")
        drawn.line("x", "population", source=rates, color=COLORS["main"], legend_label="mean of all units")
        drawn.line("x", "unit", source=rates, color=COLORS["chosen"], legend_label="chosen unit")
        legend_above(drawn)
        return drawn

    def split(self, splits: Mapping[int, Mapping[str, Indices]], title: str) -> Any:
        """Return the parts of every fold of the blocked split; "unused" are the bins in none."""
        drawn = film_figure(
            self.minutes, 270, y_range=[f"fold {fold}" for fold in reversed(splits)], title=f"blocked split, {title}"
        )
        every_bin = np.arange(self.n_bins)
        for part in ("train", "val", "test", "unused"):
            rows = []
            for fold, bins in splits.items():
                unused = np.setdiff1d(every_bin, np.concatenate(list(bins.values())))
                rows.append((f"fold {fold}", np.isin(every_bin, bins.get(part, unused)), part))
            drawn.hbar(source=self._bars(rows), color=COLORS[part], legend_label=part, **_BARS)
        legend_above(drawn)
        return drawn

    def labels(self) -> Any:
        """Return the stretches of every label."""
        from bokeh.transform import factor_cmap

        drawn = film_figure(
            self.minutes, 60 + _ROW_PX * len(self.names), title="labels (rule: first frame)",
            y_range=list(reversed(self.names)),
            tooltips=[("label", "@y"), ("from (min)", "@left{0.00}"), ("to (min)", "@right{0.00}"), ("is", "@value")],
        )  # fmt: skip
        bars = self._bars(
            (name, label == value, word)
            for name, label in zip(self.names, self.first_labels, strict=True)
            for value, word in ((ON, "on"), (UNDEFINED, "undefined"))
        )
        colors = factor_cmap("value", [COLORS["main"], COLORS["unused"]], ["on", "undefined"])
        drawn.hbar(source=bars, color=colors, **_BARS)
        return drawn

    def _bars(self, rows: Iterable[tuple[str, NDArray[np.bool_], str]]) -> dict[str, list[Any]]:
        """Return a bar for each run of bins: in which row, from and to which minute, and what it says."""
        bars: dict[str, list[Any]] = {"y": [], "left": [], "right": [], "value": []}
        for name, inside, value in rows:
            lefts, rights = (edges * self.bin_min + self.start_min for edges in stretches(inside))
            bars["y"] += [name] * len(lefts)
            bars["left"] += lefts.tolist()
            bars["right"] += rights.tolist()
            bars["value"] += [value] * len(lefts)
        return bars


_BARS = {"y": "y", "left": "left", "right": "right", "height": 0.8}
