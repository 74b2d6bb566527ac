"""What our pages share: one file that needs no network, light and dark, figures that move together, keys and tables."""

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from summer_prep.console import Table, has_text, printable
from summer_prep.errors import SettingsError
from summer_prep.files import replace_file, writing
from summer_prep.optional import load_extra
from summer_prep.options import finite

_NAME_LENGTH = 36

COLORS = {
    "train": "#4477aa", "val": "#ccbb44", "test": "#ee6677", "unused": "#bbbbbb", "main": "#3b82d0",
    "chosen": "#ee6677", "pause": "#66ccee", "quiet": "#6b6b6b",
}  # fmt: skip
"""What is drawn in what colour; all are seen on white and on black."""


def check_page(page: Path | None) -> Path | None:
    """Check the value of an --html option, and that pages can be made; return it.

    Raises
    ------
    SettingsError : no page can be written there, or the extra for pages is missing
    """
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            raise SettingsError(f"--html {page}: name a file that ends in .html")
        load_extra("bokeh", f"--html {page}")
    return page


def render(
    package: str, name: str, title: str, roots: Mapping[str, Any], facts: Mapping[str, Any], **texts: object
) -> str:
    """Return a page: the template and script of a name in a package, figures, and the facts that the script reads.

    Parameters
    ----------
    roots : name in the template -> figure of Bokeh
    facts : plain values, of which a number that is none becomes null
    texts : what else stands in the template, as HTML
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.models import CustomJS
    from bokeh.resources import INLINE
    from jinja2 import Template

    def text_of(folder: str, file: str) -> str:
        return files(folder).joinpath(file).read_text(encoding="utf-8")

    document = Document()
    for root, figure in roots.items():
        figure.name = root
        document.add_root(figure)
    document.js_on_event("document_ready", CustomJS(code="window.summer.start()"))
    return file_html(
        document,
        INLINE,
        title=title,
        template=Template(text_of(package, f"{name}.html")),
        template_variables={
            "layout": Template(text_of("summer_prep.show", "web.html")),
            "style": text_of("summer_prep.show", "web.css"),
            "shared_script": text_of("summer_prep.show", "web.js"),
            "script": text_of(package, f"{name}.js"),
            "heading": html.escape(title),
            "root_names": list(roots),
            # Text of files ends no script element.
            "data": json.dumps(finite({**facts, "colors": COLORS})).replace("<", "\\u003c"),
            **texts,
        },
    )


def write_page(page: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises
    ------
    SettingsError : it cannot be written
    """
    with writing(page, "Name another file"):
        replace_file(page, text.encode("utf-8", errors="backslashreplace"))  # names of files may be no text


def new_figure(height_px: int, **options: Any) -> Any:
    """Return a figure as wide as there is room, drawn by the browser, without advertising."""
    from bokeh.plotting import figure

    drawn = figure(height=height_px, sizing_mode="stretch_width", output_backend="canvas", **options)
    drawn.toolbar.logo = None
    return drawn


def film_figure(minutes: Any, height_px: int, **options: Any) -> Any:
    """Return a figure along the film that moves with all others of the same range.

    The wheel zooms with Ctrl only: pictures fill most of a page, which could not be scrolled otherwise.
    """
    from bokeh.models import WheelZoomTool

    drawn = new_figure(height_px, x_range=minutes, tools="xpan,xbox_zoom,reset", **options)
    wheel = WheelZoomTool(dimensions="width", modifiers="ctrl", maintain_focus=False)  # else bounds stop it half-way
    drawn.add_tools(wheel)
    drawn.toolbar.active_scroll = wheel
    drawn.min_border_left = 110
    drawn.toolbar_location = None  # one above the first is enough, and all are as wide as each other
    return drawn


def figure_names(names: Sequence[str]) -> list[str]:
    """Return names as figures can show them, each another: short, and what files say is no formula."""
    found: dict[str, None] = {}
    for name in names:
        text = printable(name)
        text = text if len(text) <= _NAME_LENGTH else f"{text[: _NAME_LENGTH - 1]}…"
        # Bokeh typesets what stands between two of these marks; nothing is seen of a space without width.
        text = text.replace("$", "$\u200b").replace("\\", "\\\u200b")
        number = 2
        while text in found:
            text, number = f"{text} ({number})", number + 1
        found[text] = None
    return list(found)


def legend_above(drawn: Any) -> None:
    """Move a figure's legend out of what is drawn."""
    legend = drawn.legend[0]
    legend.update(orientation="horizontal", border_line_color=None, padding=0, margin=2)
    drawn.add_layout(legend, "above")


def film_range(start_min: float, stop_min: float, least_min: float) -> Any:
    """Return the range of film time that figures share; the arrow keys move it, too."""
    from bokeh.models import Range1d

    return Range1d(
        start=start_min,
        end=stop_min,
        bounds=(start_min, stop_min),
        min_interval=min(least_min, stop_min - start_min),
        name="film",
    )


def html_table(table: Table, name: str, numbered: str = "", first: int = 0) -> str:
    """Return a table that a click on a column's head sorts.

    Parameters
    ----------
    name : id of the element
    numbered, first : rows get this data attribute, from a first number on, and their first cell a button that a click
        chooses the row by
    """
    from jinja2 import Template

    rows = [["-" if cell is None else str(cell) for cell in row] for row in table.rows]
    marks = [' class="text"' if is_text else "" for is_text in has_text(table._replace(rows=rows))]
    made: str = Template(_TABLE, autoescape=True).render(
        name=name, header=table.header, rows=rows, marks=marks, numbered=numbered, first=first
    )
    return made


_TABLE = """\
<table id="{{ name }}"><thead><tr>
{%- for title in header -%}
<th scope="col"{{ marks[loop.index0] | safe }}><button data-column="{{ loop.index0 }}">{{ title }}</button></th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in rows -%}
<tr{% if numbered %} data-{{ numbered }}="{{ first + loop.index0 }}"{% endif %}><th scope="row"{{ marks[0] | safe }}>
{%- if numbered %}<button>{{ row[0] }}</button>{% else %}{{ row[0] }}{% endif %}</th>
{%- for cell in row[1:] %}<td{{ marks[loop.index] | safe }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>"""
