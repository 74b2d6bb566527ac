"""A page of studies and runs to look into: tables first, every fold a dot, and all that is known of a chosen row."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from summer_prep.console import Table
from summer_prep.show.web import html_table, render, write_page
from summer_train.reports.figures import (
    dots_figure,
    group_name,
    lines_figure,
    predictions_figure,
    split_spans,
    units_figure,
)
from summer_train.reports.findings import film_track
from summer_train.reports.published import CONDITIONS, SOURCE
from summer_train.reports.summary import Group, Summary, with_predictions
from summer_train.reports.tables import SCORE_COLUMNS, as_cell, comparison_table, differences_table, summary_table


def write_report_page(page: Path, summary: Summary, groups: Sequence[Group]) -> None:
    """Write a page of what `summaries.summarise` found.

    Parameters
    ----------
    groups : its groups, each with the models that it is of

    Raises
    ------
    SettingsError : it cannot be written
    """
    roots: dict[str, Any] = {
        f"dots_{task}": dots_figure([one for one in summary["groups"] if one["task"] == task], list(summary["folders"]))
        for task in _tasks(summary)
    }
    numbers = {id(one): number for number, one in enumerate(summary["groups"])}
    tracks = {numbers[id(one)]: film_track("", models) for one, models in with_predictions(groups)}
    roots["curves"] = lines_figure("curve_lines", "learning curves, a line for each model", "epoch", "loss")
    if any(group["rank_curves"] for group in summary["groups"]):
        roots["roc"] = lines_figure("roc_lines", "ROC", "false positive rate", "true positive rate")
        roots["recall"] = lines_figure("recall_lines", "precision and recall", "recall", "precision")
    if any(group["units"] for group in summary["groups"]):
        roots["units"] = units_figure()
    if tracks:
        spans = split_spans([models for _, models in with_predictions(groups)], tracks)
        roots["film_pictures"] = predictions_figure(tracks, spans)
    title = f"Decoding report: {', '.join(summary['folders'])}"
    words = {
        "score_names": SCORE_COLUMNS,
        "group_names": [group_name(group, list(summary["folders"])) for group in summary["groups"]],
    }
    write_page(page, render("summer_train.reports", "report", title, roots, {**summary, **words}, **_texts(summary)))


def _tasks(summary: Summary) -> list[str]:
    return list(dict.fromkeys(group["task"] for group in summary["groups"]))


def _texts(summary: Summary) -> dict[str, Any]:
    """Return what stands in the template beside figures: tables, and lines of text."""
    groups, first = summary["groups"], 0
    tables = []
    for task in _tasks(summary):
        of_task = [group for group in groups if group["task"] == task]
        tables.append(
            (task, task.replace("_", " "), html_table(summary_table(of_task), f"groups-{task}", "group", first))
        )
        first += len(of_task)
    has_published = any(group["published"] for group in groups)
    return {
        "tables": tables,
        "n_models": str(summary["n_models"]),
        "comparison": _if_any(comparison_table, summary["comparison"], "comparison"),
        "differences": _if_any(differences_table, summary["differences"], "differences"),
        "settings": html_table(_settings_table(summary), "settings"),
        "published": html.escape(f"Published: {SOURCE}. {CONDITIONS}.") if has_published else "",
        "n_folders": str(len(summary["folders"])),
    }


def _if_any(table: Callable[[Sequence[Summary]], Table], rows: Sequence[Summary], name: str) -> str:
    return html_table(table(rows), name) if rows else ""


def _settings_table(summary: Summary) -> Table:
    rows = [[name.replace("_", " "), as_cell(value)] for name, value in summary["settings"].items()]
    models = [model for group in summary["groups"] for model in group["models"]]
    rows.append(["data digest", as_cell(list(dict.fromkeys(model["data_digest"] for model in models)))])
    return Table(["setting", "value"], rows)
