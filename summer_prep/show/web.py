"""What pages in the browser share: options that name them, writing them, and tables that sort."""

from pathlib import Path

from summer_prep.console import Table, has_text
from summer_prep.errors import SettingsError, load_extra
from summer_prep.files import replace_file, writing


def check_page(page: Path | None, package: str = "") -> None:
    """Raise SettingsError if the name in an --html option, or a missing package that draws it, allows no page."""
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            raise SettingsError(f"--html {page}: name a file that ends in .html")
        if package:
            load_extra(package, f"--html {page}")


def write_page(page: Path, text: str) -> None:
    """Write a page, whole or not at all; raises SettingsError."""
    with writing(page, "Name another file"):
        replace_file(page, text.encode("utf-8", errors="backslashreplace"))  # names of files may be no text


def html_table(table: Table, name: str, numbered: str = "") -> str:
    """Return a table with the id `name`, which a click on the head of a column sorts.

    With `numbered`, rows have that data attribute, counted from 0, and a button in their first cell that chooses them.
    """
    from jinja2 import Template

    rows = [["-" if cell is None else str(cell) for cell in row] for row in table.rows]
    marks = [' class="text"' if is_text else "" for is_text in has_text(table._replace(rows=rows))]
    template = Template(_TABLE, autoescape=True)
    return str(template.render(name=name, header=table.header, rows=rows, marks=marks, numbered=numbered))


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
