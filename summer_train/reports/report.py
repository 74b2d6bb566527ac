"""Reports of studies and runs: what was found, and what it must be compared with, as files or as one page."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from summer_prep.console import Table, printable
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder, writing
from summer_prep.options import as_number, as_path
from summer_prep.show.web import html_table, write_page
from summer_train.reports.figures import FONTS, WIDTH_MM, as_data_url, draw_all, save_figure
from summer_train.reports.findings import read_models
from summer_train.reports.published import CONDITIONS, SOURCE
from summer_train.reports.summary import RARE_COLUMNS, Summary, answer, summarise, summary_table
from summer_train.reports.tables import (
    REPEATS,
    SCORE_COLUMNS,
    as_cell,
    comparison_table,
    differences_table,
    number,
    settings_line,
    table_of,
    varied_options,
)
from summer_train.settings.options import Log, log_nothing
from summer_train.studies.records import SCORES_OF_TASK

if TYPE_CHECKING:
    import pandas as pd

PAGE = "report.md"
MIN_WIDTH_MM, MAX_WIDTH_MM = 50, 500
PUBLISHED = f"Published: {SOURCE}. {CONDITIONS}."
_OF_MODEL = ("best_epoch", "n_epochs", "n_train", "n_val", "n_test", "id", "data_digest")
_RARE = (*RARE_COLUMNS.values(), "F1", "F1 rarer", "balanced", "loss", *(name.replace("_", " ") for name in _OF_MODEL))


def report(
    *folders: str | Path,
    output_dir: str | Path | None = None,
    published: bool = False,
    html: str | Path | None = None,
    width_mm: float = WIDTH_MM,
    log: Log = log_nothing,
) -> "pd.DataFrame":
    """Draw what studies and runs found, and write one Markdown page, as `summer-train report` does.

    Parameters
    ----------
    *folders : of studies, of runs, or that hold runs
    output_dir : where figures (PNG, SVG, PDF) and page go; by default `report` in the folder, of several in the
        current one
    published : whether the published figures are drawn beside
    html : path of one page with everything in it, which is written in place of figures unless they have an `output_dir`
    width_mm : of the figures; one column of most journals is 85, two are 180

    Returns
    -------
    A row for each model, a `pandas.DataFrame`: the columns of study.csv, `folder`, `part` (the one that is reported),
    its scores (`kappa`, `auroc`, ...), `result` (curve, null, predictions). `attrs["written"]` has the paths of the
    files that were written, the page first. The functions of `summer_train.figures` draw such tables

    Raises
    ------
    SummerError : there is nothing to report, or it cannot be written
    """
    models, _ = write_report(folders, output_dir, published, html, width_mm, log)
    return models


def write_report(
    folders: Sequence[str | Path],
    output_dir: str | Path | None,
    published: bool,
    html: str | Path | None,
    width_mm: float,
    log: Log,
) -> "tuple[pd.DataFrame, Summary]":
    """Write a report; return its table as `report`, and what it says as plain data (`report --json`)."""
    page = None if html is None else as_path(html, "--html")
    if page and page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--html {page}: name a file that ends in .html")
    published, width_mm = as_number(published, bool, "--published"), as_number(width_mm, float, "--width-mm")
    if not MIN_WIDTH_MM <= width_mm <= MAX_WIDTH_MM:
        raise SettingsError(f"--width-mm {width_mm:g}: must be {MIN_WIDTH_MM} to {MAX_WIDTH_MM}, like 85 or 180")
    models = read_models(*folders, log=log)
    facts = {"folders": models.attrs["folders"], **summarise(models, published)}
    if not any(result.predictions.exists() for result in models["result"]):
        log("no predictions were kept: curves and the film are left out. study --keep-predictions keeps them")
    figures = list(draw_all(models, published, width_mm))
    written: list[Path] = []
    if page is None or output_dir is not None:
        # Several folders have a report of their own, which is not to be replaced.
        usual = Path(next(iter(facts["folders"].values()))) / "report" if len(facts["folders"]) == 1 else Path("report")
        target = usual if output_dir is None else as_path(output_dir, "--output-dir")
        check_folder(target, "--output-dir")
        with writing(target):
            for name, _, figure in figures:
                written += save_figure(figure, target / name)
            text = _as_markdown(models, facts, figures, published)
            (target / PAGE).write_text(text, encoding="utf-8", errors="backslashreplace")
            written.insert(0, target / PAGE)
    if page is not None:
        write_page(page, _as_html(models, facts, figures, published))
        written.append(page)
    models.attrs["written"] = written
    return models, {"written": [str(path) for path in written], **facts}


class Section(NamedTuple):
    """A table of a page, with the id of its element and what is said above it."""

    name: str
    title: str
    note: str
    table: Table

    @property
    def n_shown(self) -> int:
        """How many columns are shown before "all columns" is ticked; those that are rarely needed come last."""
        return sum(title.removeprefix("val ") not in _RARE for title in self.table.header)


def _sections(models: "pd.DataFrame", facts: Summary) -> list[Section]:
    """Return the tables of a page, without those of single models."""
    sections = []
    for task in dict.fromkeys(group["task"] for group in facts["groups"]):
        table = summary_table([group for group in facts["groups"] if group["task"] == task])
        title = f"{task.replace('_', ' ').capitalize()}: means over folds and seeds"
        sections.append(Section(f"groups-{task}", title, "", table))
    if len(facts["folders"]) > 1:
        partners = "of the same label, fold, seed, and of whatever else has several values in one of the folders"
        note = f"In pairs, models {partners}: the gain is the mean of their differences to the first folder."
        if not facts["comparison"]:
            note = f"No model has a partner in the other folder: {partners}."
        sections.append(Section("comparison", "Side by side", note, comparison_table(facts["comparison"])))
        differences = differences_table(facts["differences"])
        note = "" if differences.rows else "Their settings and data are the same."
        sections.append(Section("differences", "What differs in their settings", note, differences))
    undefined = models.loc[models["why_undefined"] != "", ["label_name", "fold", "why_undefined"]]
    if len(undefined):
        rows = undefined.replace({"label_name": {"": "next bin"}}).to_numpy(object).tolist()
        table = Table(["label name", "fold", "why"], rows)
        sections.append(Section("undefined", "What is undefined (n/a), and why", "", table))
    return sections


def _as_markdown(
    models: "pd.DataFrame", facts: Summary, figures: Sequence[tuple[str, str, Any]], published: bool
) -> str:
    def escaped(value: object) -> str:
        return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in printable(value))

    lines = ["# Decoding report", "", escaped(" ".join(answer(models, facts["comparison"]))), ""]
    common = settings_line([*models.drop(columns="result").to_dict("records")])
    lines += [f"{len(models)} models, {escaped(common)}.", ""]
    for section in _sections(models, facts):
        lines += [f"## {section.title}", "", *([section.note, ""] if section.note else [])]
        if section.table.rows:
            cells = [[escaped(cell) for cell in row] for row in (section.table.header, *section.table.rows)]
            cells.insert(1, ["---"] * len(section.table.header))
            lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
    for name, caption, _ in figures:
        lines += [f"![{escaped(caption)}]({name}.png)", "", f"*{escaped(caption)}*", ""]
    return "\n".join([*lines, PUBLISHED, ""] if published else lines)


def _as_html(models: "pd.DataFrame", facts: Summary, figures: Sequence[tuple[str, str, Any]], published: bool) -> str:
    from jinja2 import Environment

    varied, results = varied_options(models), list(models["result"])
    rows = [
        {
            **{name.replace("_", " "): as_cell(row[name]) for name in (*varied, "folder", *REPEATS)},
            **{
                title: number(result.record.scores.get(row["part"], {}).get(name), 3)
                if name in SCORES_OF_TASK[row["task"]]
                else None
                for name, title in SCORE_COLUMNS.items()
            },
            **{name.replace("_", " "): row[name] for name in _OF_MODEL},
        }
        for row, result in zip(models.to_dict("records"), results, strict=True)
    ]
    every = table_of(rows)
    order = sorted(range(len(every.header)), key=lambda column: every.header[column] in _RARE)
    every = Table([every.header[at] for at in order], [[row[at] for at in order] for row in every.rows])
    settings = [[name.replace("_", " "), as_cell(value)] for name, value in facts["settings"].items()]
    web = files("summer_prep.show")
    page = files("summer_train.reports").joinpath("report.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(page).render(
        title=f"Decoding report: {', '.join(facts['folders'])}",
        style=web.joinpath("web.css").read_text("utf-8"),
        script=web.joinpath("web.js").read_text("utf-8"),
        fonts=", ".join(f"'{font}'" for font in FONTS),
        answer=answer(models, facts["comparison"]),
        n_models=len(models),
        figures=[(caption, as_data_url(figure)) for _, caption, figure in figures],
        sections=_sections(models, facts),
        folded=[
            Section("models", "All models", "", every),
            Section("settings", "Settings that all models have in common", "", Table(["setting", "value"], settings)),
        ],
        html_table=html_table,
        published=PUBLISHED if published else "",
    )  # fmt: skip
