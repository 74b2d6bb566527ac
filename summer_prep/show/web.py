"""What pages in the browser share: options that name them, writing them, and tables that sort."""

from pathlib import Path

from summer_prep.console import Table, has_text
from summer_prep.errors import SettingsError, load_extra
from summer_prep.files import replace_file, writing


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


def write_page(page: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises
    ------
    SettingsError : the page cannot be written
    """
    with writing(page, "Name another file"):
        replace_file(page, text.encode("utf-8", errors="backslashreplace"))  # names of files may be no text


def html_table(table: Table, name: str, numbered: str = "") -> str:
    """Return a table that a click on a column's head sorts.

    Parameters
    ----------
    name : id of the element
    numbered : rows get this data attribute, numbered from 0, and a button in their first cell that chooses the row
    """
    from jinja2 import Template

    rows = [["-" if cell is None else str(cell) for cell in row] for row in table.rows]
    marks = [' class="text"' if is_text else "" for is_text in has_text(table._replace(rows=rows))]
    made: str = Template(_TABLE, autoescape=True).render(
        name=name, header=table.header, rows=rows, marks=marks, numbered=numbered
    )
    return made


_TABLE = """\
<table id="{{ name }}"><thead><tr>
{%- for title in header -%}
<th scope="col"{{ marks[loop.index0] | safe }}><button data-column="{{ loop.index0 }}">{{ title }}</button></th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in rows -%}
<tr{% if numbered %} data-{{ numbered }}="{{ loop.index0 }}"{% endif %}><th scope="row"{{ marks[0] | safe }}>
{%- if numbered %}<button>{{ row[0] }}</button>{% else %}{{ row[0] }}{% endif %}</th>
{%- for cell in row[1:] %}<td{{ marks[loop.index] | safe }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>"""
