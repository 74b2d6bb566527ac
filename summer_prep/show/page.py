"""A page of one key for people to look at: counts, rate, labels, pauses and folds on one film axis, and its units.

The counts stand in the page and are sampled anew at every zoom.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import Description
from summer_prep.cache.write import read_array
from summer_prep.console import Table
from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BUFFER_S, ON, UNDEFINED
from summer_prep.film.splits import Indices
from summer_prep.show.facts import describe_key, rates_by_label, splits_of, stretches
from summer_prep.show.tables import rounded
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


def usual_buffer_s(description: Description) -> float | None:
    """Return the buffer that folds have by default; None of a film that is too short for it."""
    try:
        splits_of(description, DEFAULT_BUFFER_S)
    except SettingsError:
        return None
    return DEFAULT_BUFFER_S


def write_key_page(description: Description, page: Path, buffer_s: float | None) -> None:
    """Write a page of a checked key.

    Parameters
    ----------
    page : see `web.check_page`
    buffer_s : of the blocked split whose folds are drawn; None draws none

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : the buffer leaves no segment, or the page cannot be written
    """
    write_page(page, _page(description, describe_key(description), buffer_s))


def _page(description: Description, facts: dict[str, Any], buffer_s: float | None) -> str:
    from bokeh.layouts import column
    from bokeh.models import CustomJS

    film = _Film(description)
    folds = [] if buffer_s is None else [film.split(splits_of(description, buffer_s), buffer_s)]
    panels = [film.counts(), film.rate(), *folds, film.labels()]
    panels[-1].xaxis.axis_label = "film time (min)"
    for panel in panels:
        film.mark_pauses(panel, facts["pauses"])
    sample = CustomJS(args={"counts": film.raw}, code="window.summer.sample()")  # which sends them along
    film.minutes.js_on_change("start", sample)
    film.minutes.js_on_change("end", sample)
    on_hz, off_hz = film.rates_by_label.round(4)
    columns = {"region": "brain_region", "type": "cell_type"}
    choices = {name: sorted({unit.get(column, "") for unit in facts["units"]}) for name, column in columns.items()}
    of_page = {
        "choices": choices,
        "rates_by_label": {"on_hz": on_hz.tolist(), "off_hz": off_hz.tolist()},
        "film": {
            "start_min": film.start_min, "bin_min": film.bin_min, "n_bins": film.n_bins, "n_units": facts["n_units"],
            "n_columns": _N_COLUMNS,
        },
    }  # fmt: skip
    return render(
        "summer_prep.show",
        "page",
        f"Patient {facts['patient_id']}, bins of {facts['bin_length_ms']} ms",
        {"pictures": column(*panels, sizing_mode="stretch_width")},
        {**facts, **of_page},
        summary=_summary(facts),
        units=html_table(_unit_table(facts["units"]), "units", "unit"),
        regions=_options(choices["region"]),
        types=_options(choices["type"]),
        labels=_options([label["label"] for label in facts["labels"]]),
    )


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
        starts_s = read_array(key, "bin_start_s")
        self.start_min = float(starts_s[0]) / 60
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
        from bokeh.models import ColumnDataSource, CustomJS, FixedTicker
        from bokeh.palettes import Inferno256

        n_units = len(self.order)
        source = ColumnDataSource(
            data={"image": [np.zeros((n_units, 1), np.float32)], "x": [self.start_min], "dw": [1.0]}, name="heat"
        )
        drawn = film_figure(
            self.minutes, max(220, min(700, n_units * _UNIT_PX)), y_range=(n_units, 0),
            title="rates of units by region",
        )  # fmt: skip
        drawn.toolbar_location = "above"
        drawn.add_tools(self._hover_of_counts())
        drawn.js_on_event("tap", CustomJS(code="window.summer.choose_row(cb_obj.y)"))
        drawn.image("image", x="x", y=0, dw="dw", dh=n_units, source=source, palette=Inferno256)
        ticks = self._region_ticks()
        drawn.yaxis.ticker = FixedTicker(ticks=list(ticks))
        drawn.yaxis.major_label_overrides = ticks
        self.rates = ColumnDataSource(data={"x": [self.start_min], "population": [0.0], "unit": [0.0]}, name="rates")
        return drawn

    def _hover_of_counts(self) -> Any:
        from bokeh.models import CustomJSHover, HoverTool

        order = self.order.tolist()
        unit = CustomJSHover(args={"order": order}, code="return String(order[Math.floor(special_vars.y)])")
        rate = CustomJSHover(code="return (Math.pow(2, value) - 1).toFixed(2)")
        return HoverTool(
            tooltips=[("film time (min)", "$x{0.00}"), ("unit", "$y{custom}"), ("rate (Hz)", "@image{custom}")],
            formatters={"$y": unit, "@image": rate},
        )

    def _region_ticks(self) -> dict[float, str]:
        """Return where the names of regions stand; those of regions too small for a name of their own share one."""
        names, firsts, sizes = np.unique(self.regions, return_index=True, return_counts=True)
        ticks: dict[float, str] = {}
        for name, first, size in zip(figure_names([str(name) for name in names]), firsts, sizes, strict=True):
            middle, last = float(first + size / 2), next(reversed(ticks), -np.inf)
            if middle - last < _TICK_PX / _UNIT_PX:
                ticks[last] += f", {name}"
            else:
                ticks[middle] = name
        return ticks

    def rate(self) -> Any:
        """Return the rate of all units, and of one that is chosen."""
        drawn = film_figure(
            self.minutes, 160, title="rate (Hz)",
            tooltips=[("film time (min)", "@x{0.00}"), ("all", "@population{0.00}"), ("chosen", "@unit{0.00}")],
        )  # fmt: skip
        drawn.line("x", "population", source=self.rates, color=COLORS["main"], legend_label="mean of all units")
        drawn.line("x", "unit", source=self.rates, color=COLORS["chosen"], legend_label="chosen unit")
        legend_above(drawn)
        return drawn

    def split(self, splits: Mapping[int, Mapping[str, Indices]], buffer_s: float) -> Any:
        """Return the parts of every fold of the blocked split."""
        drawn = film_figure(
            self.minutes,
            270,
            y_range=[f"fold {fold}" for fold in reversed(splits)],
            title=f"blocked split, buffer {buffer_s:g} s",
        )
        for part in ("train", "val", "test", "unused"):
            bars = self._bars((f"fold {fold}", self._part(bins, part), part) for fold, bins in splits.items())
            drawn.hbar(
                y="y", left="left", right="right", height=0.8, color=COLORS[part], legend_label=part, source=bars
            )
        legend_above(drawn)
        return drawn

    def _part(self, bins: Mapping[str, Indices], part: str) -> NDArray[np.bool_]:
        """Return which bins are in a part; "unused" are those in none."""
        every_bin = np.arange(self.n_bins)
        if part == "unused":
            return ~np.isin(every_bin, np.concatenate(list(bins.values())))
        return np.isin(every_bin, bins[part])

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

    def labels(self) -> Any:
        """Return the stretches of every label."""
        from bokeh.transform import factor_cmap

        bars = self._bars(
            (name, label == value, word)
            for name, label in zip(self.names, self.first_labels, strict=True)
            for value, word in ((ON, "on"), (UNDEFINED, "undefined"))
        )
        drawn = film_figure(
            self.minutes, 60 + _ROW_PX * len(self.names), title="labels (rule: first frame)",
            y_range=list(reversed(self.names)),
            tooltips=[("label", "@y"), ("from (min)", "@left{0.00}"), ("to (min)", "@right{0.00}"), ("is", "@value")],
        )  # fmt: skip
        colors = factor_cmap("value", [COLORS["main"], COLORS["unused"]], ["on", "undefined"])
        drawn.hbar(y="y", left="left", right="right", height=0.8, color=colors, source=bars)
        return drawn

    def mark_pauses(self, drawn: Any, pauses: list[dict[str, Any]]) -> None:
        """Draw where the film stood still."""
        from bokeh.models.annotations import Span

        for pause in pauses:
            place = pause["film_time_s"] / 60
            drawn.add_layout(Span(location=place, dimension="height", line_dash="dashed", line_color=COLORS["pause"]))


def _summary(facts: dict[str, Any]) -> str:
    spikes = facts["spikes"]
    lines = [
        f"{facts['n_units']} units, {facts['n_bins']} bins",
        f"{spikes['counted']:,} spikes counted, {spikes['in_pauses']:,} in pauses, {spikes['outside']:,} outside",
        f"{len(facts['pauses'])} pauses (dashed)",
        f"from {facts['source']['file_name']}",
        *facts["notes"],
    ]
    return "".join(f"<li>{html.escape(str(line))}</li>" for line in lines)


def _unit_table(units: list[dict[str, Any]]) -> Table:
    rows = []
    for unit in units:
        texts = [unit.get(name, "") for name in ("brain_region", "cell_type")]
        rows.append([unit["unit"], *texts, unit["spikes"], rounded(unit["rate_hz"]), rounded(unit["fano_factor"])])
    return Table(["unit", "region", "type", "spikes", "rate (Hz)", "Fano factor"], rows)


def _options(values: Sequence[str]) -> str:
    """Return what may be chosen, by number: browsers change the white space of a value."""
    return "".join(
        f'<option value="{number}">{html.escape(value) or "(none)"}</option>' for number, value in enumerate(values)
    )
