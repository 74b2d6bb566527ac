"""How the documentation is built: make docs."""

import re

from summer_prep import __version__

project = "summer-pipeline"
author = "the summer-pipeline developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 2
html_theme = "pydata_sphinx_theme"
html_title = "summer-pipeline"
html_theme_options = {"secondary_sidebar_items": ["page-toc"], "show_prev_next": True, "navigation_with_keys": False}
html_sidebars = {"**": []}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them; docstrings say shapes and units
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# A parameter that is documented must be there, by this name (PR02) and in the order of the signature (PR03).
numpydoc_validation_checks = {"PR02", "PR03"}


def setup(app):  # type: ignore[no-untyped-def]
    """Read our docstrings as numpydoc does: what stands behind a name describes it, a source is a note."""
    app.connect("autodoc-process-docstring", _as_numpydoc, priority=100)  # numpydoc itself comes at 500


def _as_numpydoc(app, what, name, thing, options, lines):  # type: ignore[no-untyped-def]
    text = "\n".join(lines)
    text = re.sub(r"(?<=\n)(Returns|Yields)\n-+\n((?:.+\n?)+)", _one_line, text)
    for section in ("Parameters", "Attributes", "Raises"):
        text = re.sub(rf"(?<=\n){section}\n-+\n(?:.+\n?)+", _described, text)
    source = re.search(r"\n\nSource: ((?:.+\n?)+)", text)
    if source:
        note = "" if re.search(r"\nNotes\n-+\n", text) else "\n\nNotes\n-----"
        text = f"{text[: source.start()]}{note}\n\n**Source:** {source[1]}{text[source.end() :]}"
    lines[:] = text.split("\n")


def _described(section: "re.Match[str]") -> str:
    """Return a section in which the text behind a name is a description, where numpydoc takes it for a type."""
    return re.sub(r"(?m)^([*\w][\w, ]*) : (.+)$", r"\1\n    \2", section[0])


def _one_line(section: "re.Match[str]") -> str:
    """Return a section whose lines are one text, and not a value each."""
    return f"{section[1]}\n{'-' * len(section[1])}\n{' '.join(section[2].split())}\n"
