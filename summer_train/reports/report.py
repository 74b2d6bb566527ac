"""Reports of studies and runs: what was found, beside what it must be held against, as files or as one page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from summer_prep.console import Table, printable
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder, writing
from summer_prep.options import as_number, as_path
from summer_prep.show.web import html_table, write_page
from summer_train.reports.figures import as_data_url, draw_all, save_figure
from summer_train.reports.findings import Result, read_results_of
from summer_train.reports.published import CONDITIONS, SOURCE
from summer_train.reports.summary import Summary, answer, summarise
from summer_train.reports.tables import (
    REPEATS,
    SCORE_COLUMNS,
    as_cell,
    comparison_table,
    differences_table,
    number,
    settings_line,
    summary_table,
    table_of,
    varied_options,
)
from summer_train.settings.options import Log, log_nothing
from summer_train.studies.records import SCORES_OF_TASK

PAGE = "report.md"
SUFFIXES = (".png", ".svg")
_OF_MODEL = ("best_epoch", "n_epochs", "n_train", "n_val", "n_test", "id", "data_digest")


def report(
    *folders: str | Path,
    output_dir: str | Path | None = None,
    published: bool = False,
    html: str | Path | None = None,
    log: Log = log_nothing,
) -> list[Path]:
    """Draw what studies and runs found, and write one Markdown page, as `summer-train report` does.

    Parameters
    ----------
    *folders : of studies, of runs, or that hold runs
    output_dir : where pictures and page go; by default `report` in the folder, of several in the current one
    published : whether the published figures are drawn beside
    html : where one page with everything in it goes, which is written in place of pictures unless they have an
        `output_dir`

    Returns
    -------
    The files that were written, the page first

    Raises
    ------
    SummerError : there is nothing to report, or it cannot be written
    """
    page = check_html(html)
    return Report.of(folders, published, log).write(output_dir, page)


def check_html(html: str | Path | None) -> Path | None:
    """Return where a page is to go.

    Raises
    ------
    SettingsError : it does not end like a page
    """
    if html is None:
        return None
    page = as_path(html, "--html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--html {page}: name a file that ends in .html")
    return page


class Section(NamedTuple):
    """A table of a page, with the id of its element and what is said above it."""

    name: str
    title: str
    note: str
    table: Table


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in some folders, of which pictures, a page and plain data are made.

    paths : name of each folder -> where it is
    """

    paths: dict[str, Path]
    results: Sequence[Result]
    published: bool
    log: Log

    @classmethod
    def of(cls, folders: Sequence[str | Path], published: bool, log: Log) -> "Report":
        """Read folders; errors as `report`."""
        published = as_number(published, bool, "--published")
        by_place = {path.resolve(): path for path in reversed([as_path(folder, "FOLDER") for folder in folders])}
        if not by_place:
            raise SettingsError("report: name the folder of a study or of runs")
        n_parts = 1  # folders are named by as much of their ends as tells them apart
        while len({place.parts[-n_parts:] for place in by_place}) < len(by_place):
            n_parts += 1
        paths = {printable("/".join(place.parts[-n_parts:])): by_place[place] for place in reversed(by_place)}
        results = [replace(one, folder=name) for name, path in paths.items() for one in read_results_of(path, log)]
        return cls(paths=paths, results=results, published=published, log=log)

    @cached_property
    def summary(self) -> Summary:
        """What was found as plain data, for JSON."""
        paths = {name: str(path) for name, path in self.paths.items()}
        return {"folders": paths, **summarise(self.results, self.published)}

    @cached_property
    def figures(self) -> list[tuple[str, str, Any]]:
        """Name, caption and figure of whatever can be shown."""
        return list(draw_all(self.results, self.published))

    def write(self, output_dir: str | Path | None, html: Path | None) -> list[Path]:
        """Write what is asked for, pictures with a Markdown page or one page with all; parameters as `report`."""
        if not any(result.predictions.exists() for result in self.results):
            self.log("no predictions were kept: curves and the film are left out. study --keep-predictions keeps them")
        written: list[Path] = []
        if html is None or output_dir is not None:
            # That of several folders is none of theirs, whose own reports it would replace.
            usual = next(iter(self.paths.values())) / "report" if len(self.paths) == 1 else Path("report")
            written += self._write_pictures(usual if output_dir is None else as_path(output_dir, "--output-dir"))
        if html is not None:
            write_page(html, self._as_html())
            written.append(html)
        return written

    def _write_pictures(self, target: Path) -> list[Path]:
        check_folder(target, "--output-dir")
        with writing(target):
            written = [target / PAGE]
            for name, _, figure in self.figures:
                for suffix in SUFFIXES:
                    save_figure(figure, target / f"{name}{suffix}")
                    written.append(target / f"{name}{suffix}")
            rows = [result.row for result in self.results]
            lines = [
                "# Decoding report",
                "",
                _as_markdown(" ".join(answer(self.results, self.summary["comparison"]))),
                "",
            ]
            lines += [f"{len(rows)} models, {_as_markdown(settings_line(rows))}.", ""]
            for section in self._sections():
                lines += [f"## {section.title}", "", *([section.note, ""] if section.note else [])]
                cells = [[_as_markdown(cell) for cell in row] for row in (section.table.header, *section.table.rows)]
                cells.insert(1, ["---"] * len(section.table.header))
                lines += [*(f"| {' | '.join(row)} |" for row in cells if row), ""]
            for name, caption, _ in self.figures:
                lines += [f"![{_as_markdown(caption)}]({name}.png)", "", f"*{_as_markdown(caption)}*", ""]
            if self.published:
                lines += [f"Published: {SOURCE}. {CONDITIONS}.", ""]
            written[0].write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
        return written

    def _as_html(self) -> str:
        from jinja2 import Environment

        pages = Environment(autoescape=True)
        web = files("summer_prep.show")
        drawn = [(caption, as_data_url(figure)) for _, caption, figure in self.figures]
        settings = [[name.replace("_", " "), as_cell(value)] for name, value in self.summary["settings"].items()]
        folded = [
            Section("models", "All models", "", _models_table(self.results)),
            Section("settings", "Settings that all models have in common", "", Table(["setting", "value"], settings)),
        ]
        return pages.from_string(files("summer_train.reports").joinpath("report.html").read_text("utf-8")).render(
            title=f"Decoding report: {', '.join(self.paths)}",
            style=web.joinpath("web.css").read_text("utf-8"),
            script=web.joinpath("web.js").read_text("utf-8"),
            answer=answer(self.results, self.summary["comparison"]),
            n_models=len(self.results),
            figures=drawn,
            sections=self._sections(),
            folded=folded,
            html_table=html_table,
            published=f"Published: {SOURCE}. {CONDITIONS}." if self.published else "",
        )

    def _sections(self) -> list[Section]:
        """Return the tables of a page, without those of single models."""
        groups, comparison = self.summary["groups"], self.summary["comparison"]
        sections = [
            Section(f"groups-{task}", f"{task.replace('_', ' ').capitalize()}: means over folds and seeds", "", table)
            for task in dict.fromkeys(group["task"] for group in groups)
            for table in [summary_table([group for group in groups if group["task"] == task])]
        ]
        if len(self.paths) > 1:
            partners = "of the same label, fold, seed, and of whatever else has several values in one of the folders"
            note = f"In pairs, models {partners}: the gain is the mean of their differences to the first folder."
            if not comparison:
                note = f"No model has a partner in the other folder: {partners}."
            sections.append(Section("comparison", "Side by side", note, comparison_table(comparison)))
            differences = differences_table(self.summary["differences"])
            note = "" if differences.rows else "Their settings and data are the same."
            sections.append(Section("differences", "What differs in their settings", note, differences))
        undefined = [
            [result.row["label_name"] or "next bin", result.row["fold"], result.row["why_undefined"]]
            for result in self.results
            if result.row["why_undefined"]
        ]
        if undefined:
            table = Table(["label name", "fold", "why"], undefined)
            sections.append(Section("undefined", "What is undefined (n/a), and why", "", table))
        return sections


def _models_table(results: Sequence[Result]) -> Table:
    varied = varied_options([result.row for result in results])
    return table_of([
        {
            **{name.replace("_", " "): as_cell(result.row[name]) for name in (*varied, "folder", *REPEATS)},
            **{title: number(result.score(name), 3) if name in SCORES_OF_TASK[result.row["task"]] else None
               for name, title in SCORE_COLUMNS.items()},
            **{name.replace("_", " "): result.row[name] for name in _OF_MODEL},
        }
        for result in results
    ])  # fmt: skip


def _as_markdown(value: object) -> str:
    """Return text as Markdown shows it: what a file says is no markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in printable(value))
