"""Reports of studies and runs: what was found, and what it must be compared with, as files or as one page."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from summer_prep.console import Table, printable
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder, writing
from summer_prep.options import as_number, as_path
from summer_prep.show.web import check_page, html_table, write_page
from summer_train.reports import tables
from summer_train.reports.figures import FONTS, WIDTH_MM, as_data_url, draw_all, save_figure
from summer_train.reports.findings import read_models
from summer_train.reports.published import CONDITIONS, SOURCE
from summer_train.reports.summary import MAIN_SCORE, MIN_SHIFTS, RARE, Summary, answer, summarise, summary_tables
from summer_train.settings.options import Log, log_nothing

NOTE = (
    "p corrected is over {} results by the maximum statistic, with {} shifts; q is the false discovery rate. "
    "A claim at 0.05 needs {} valid shifts, however many results. Intervals are of all folds together (docs/claims.md)."
)


def report(
    *folders: str | Path,
    output_dir: str | Path | None = None,
    published: bool = False,
    html: str | Path | None = None,
    width_mm: float = WIDTH_MM,
    compare: str | None = None,
    log: Log = log_nothing,
) -> pd.DataFrame:
    """Draw what studies and runs found, and write one Markdown page, as `summer-train report` does.

    Parameters
    ----------
    *folders : of studies, of runs, or that hold runs
    output_dir : of figures (PNG, SVG, PDF) and page; by default `report` in the folder, of several in the current one
    published : whether the published figures are drawn beside
    html : path of one page with everything in it, which is written in place of figures unless they have an `output_dir`
    width_mm : of the figures; one column of most journals is 85, two are 180
    compare : setting whose values are compared in pairs, the first with each other one, like `brain_regions`

    Returns
    -------
    A row for each model, as `summer_train.figures.read_models` returns them: settings, scores, baselines, p. The
    functions of `summer_train.figures` draw it; `attrs["written"]` has the paths of the files, the page first

    Raises
    ------
    SummerError : there is nothing to report, or it cannot be written
    """
    page = None if html is None else as_path(html, "--html")
    check_page(page)
    published, width_mm = as_number(published, bool, "--published"), as_number(width_mm, float, "--width-mm")
    if not 50 <= width_mm <= 500:
        raise SettingsError(f"--width-mm {width_mm:g}: must be 50 to 500, like 85 or 180")
    models = read_models(*folders, log=log)
    facts = summarise(models, published, compare=compare)
    if not any(result.predictions.exists() for result in models["result"]):
        log("no predictions were kept: curves and the film are left out. study --keep-predictions keeps them")
    figures = list(draw_all(models, published, width_mm))
    written: list[Path] = []
    if page is None or output_dir is not None:
        own = list(models.attrs["folders"].values())  # several have reports of their own, which stay
        usual = Path(own[0], "report") if len(own) == 1 else Path("report")
        target = usual if output_dir is None else as_path(output_dir, "--output-dir")
        check_folder(target, "--output-dir")
        with writing(target):
            written += [path for name, _, figure in figures for path in save_figure(figure, target / name)]
            text = _as_markdown(models, facts, figures, published)
            written.insert(0, target / "report.md")
            written[0].write_text(text, encoding="utf-8", errors="backslashreplace")
    if page is not None:
        write_page(page, _as_html(models, facts, figures, published))
        written.append(page)
    models.attrs["written"] = written
    return models


def _tables(models: pd.DataFrame, facts: Summary) -> list[tuple[str, str, str, Table, int]]:
    """Return name, title, note, table of what a page has, and the number of columns that are shown at first."""
    shown = []
    for task, table in summary_tables(facts["groups"]).items():
        title = f"{task.replace('_', ' ').capitalize()}: means over folds and seeds"
        n_first = table.header.index(RARE) if RARE in table.header else len(table.header)
        of_task = [one for one in facts["groups"] if one["task"] == task]
        null = [one["null"][MAIN_SCORE[task]] for one in of_task if MAIN_SCORE[task] in one["null"]]
        note = ""
        if null:
            n_shifts = sorted(one["n_shifts"] for one in null)
            n_text = " to ".join(dict.fromkeys(map(str, (n_shifts[0], n_shifts[-1]))))
            note = NOTE.format(max(one["n_tests"] for one in null), n_text, MIN_SHIFTS)
        shown.append((f"groups-{task}", title, note, table, n_first))
    if models["folder"].nunique() > 1 or facts["comparison"]:
        partners = "of the same label, fold, seed, and of whatever else has several values in one of the folders"
        note = f"In pairs, models {partners}: the gain is the mean of their differences to the first folder."
        note = note if facts["comparison"] else f"No model has a partner in the other folder: {partners}."
        shown.append(("comparison", "Side by side", note, tables.comparison_table(facts["comparison"]), 99))
    if models["folder"].nunique() > 1:
        note = "" if facts["differences"] else "Their settings and data are the same."
        rows = []
        for one in facts["differences"]:
            values = {folder: tables.as_cell(value) for folder, value in one["values"].items()}
            rows.append({"setting": one["setting"].replace("_", " "), **values})
        shown.append(("differences", "What differs in their settings", note, tables.compact_table(rows), 99))
    undefined = models.loc[models["why_undefined"] != "", ["name", "fold", "why_undefined"]]
    if len(undefined):
        table = Table(["name", "fold", "why"], undefined.to_numpy(object).tolist())
        shown.append(("undefined", "What is undefined (n/a), and why", "", table, 99))
    return shown


def _as_markdown(models: pd.DataFrame, facts: Summary, figures: Sequence[Any], published: bool) -> str:
    def escaped(value: object) -> str:
        return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in printable(value))

    lines = ["# Decoding report", "", escaped(" ".join(answer(models, facts["comparison"]))), ""]
    lines += [f"{len(models)} models, {escaped(tables.settings_line(models))}.", ""]
    for _, title, note, table, _ in _tables(models, facts):
        lines += [f"## {title}", "", *([note, ""] if note else [])]
        if table.rows:
            cells = [f"| {' | '.join(map(escaped, row))} |" for row in (table.header, *table.rows)]
            lines += [cells[0], "| --- " * len(table.header) + "|", *cells[1:], ""]
    for name, caption, _ in figures:
        lines += [f"![{escaped(caption)}]({name}.png)", "", f"*{escaped(caption)}*", ""]
    return "\n".join([*lines, f"Published: {SOURCE}. {CONDITIONS}.", ""] if published else lines)


def _as_html(models: pd.DataFrame, facts: Summary, figures: Sequence[Any], published: bool) -> str:
    from jinja2 import Environment

    settings = models[
        [*tables.varied_options(models), "folder", *(name for name in tables.REPEATS if name in models)]
    ].map(tables.as_cell)
    titles = {**tables.SCORE_COLUMNS, "mean_loss": "loss"}
    scores = models[[name for name in titles if name != "loss" and models.get(name, pd.Series()).notna().any()]]
    rare = models[["best_epoch", "n_epochs", "n_train", "n_val", "n_test", "id", "data_digest"]]
    every = pd.concat([settings, scores.rename(columns=titles).map(tables.rounded, digits=3), rare], axis=1)
    common = [[name.replace("_", " "), tables.as_cell(value)] for name, value in facts["settings"].items()]
    table = Table([name.replace("_", " ") for name in every], every.to_numpy(object).tolist())
    folded = [
        ("models", "All models", "", table, len(settings.columns) + min(4, len(scores.columns))),
        ("settings", "Settings that all models have in common", "", Table(["setting", "value"], common), 99),
    ]
    web = files("summer_prep.show")
    page = files("summer_train.reports").joinpath("report.html").read_text("utf-8")
    template = Environment(autoescape=True).from_string(page)
    return template.render(
        title=f"Decoding report: {', '.join(models.attrs['folders'])}", n_models=len(models),
        style=web.joinpath("web.css").read_text("utf-8"), script=web.joinpath("web.js").read_text("utf-8"),
        fonts=", ".join(f"'{font}'" for font in FONTS), answer=answer(models, facts["comparison"]),
        figures=[(caption, as_data_url(figure)) for _, caption, figure in figures],
        tables=_tables(models, facts), folded=folded, html_table=html_table,
        published=f"Published: {SOURCE}. {CONDITIONS}." if published else "",
    )  # fmt: skip
