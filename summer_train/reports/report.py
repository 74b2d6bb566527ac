"""Pictures and pages of studies and runs: what was found, beside what it must be held against."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep.console import Table, as_data
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder, save_picture
from summer_prep.options import as_number, as_path
from summer_prep.show.web import check_page
from summer_train.reports import pictures
from summer_train.reports.findings import (
    Result,
    compare,
    confusion_of,
    film_track,
    groups_of,
    mean_of,
    one_of_each,
    rank_curves_of,
    read_results_of,
    unit_scores,
    usual_first,
)
from summer_train.reports.page import write_report_page
from summer_train.reports.pictures import MAX_PANELS, Dots
from summer_train.reports.published import CONDITIONS, SOURCE, Published, published_kappa
from summer_train.reports.summary import Group, Summary, summarise
from summer_train.reports.tables import (
    comparison_table,
    differences_table,
    number,
    settings_line,
    study_table,
    varied_options,
)
from summer_train.runs.folder import writing_below
from summer_train.scores import nulls
from summer_train.settings.options import Say, say_nothing

PAGE = "report.md"
SUFFIXES = (".png", ".svg")
NUMBERS = ("bin_length", "buffer", "hidden_size", "lr", "batch_size", "val_fraction", "min_recorded", "max_epochs")
"""Settings that have an order: drawn as an axis."""

TITLES = {
    "buffer": "buffer between training and test (s)", "bin_length": "bin length (ms)", "brain_regions": "brain region",
    "patient_ids": "patients", "window": "window: past and future (s)", "model": "network", "split": "split",
}  # fmt: skip


def report(
    *folders: str | Path,
    output_dir: str | Path | None = None,
    published: bool = False,
    html: str | Path | None = None,
    say: Say = say_nothing,
) -> list[Path]:
    """Draw what studies and runs found, and write one Markdown page, as `summer-train report` does.

    Parameters
    ----------
    *folders : of studies, of runs, or that hold runs
    output_dir : where pictures and page go; by default `report` in the folder, of several in the current one
    published : whether the published figures are drawn beside
    html : where a page to look into goes, which is written in place of pictures unless they have an `output_dir`

    Returns
    -------
    The files that were written, the page first

    Raises
    ------
    SummerError : there is nothing to report, or it cannot be written
    """
    if html is not None:
        check_page(as_path(html, "--html"))
    return Report.of(folders, published, say).write(output_dir, html)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in some folders, of which pictures, a page and plain data are made.

    paths : name of each folder -> where it is
    found : name of each folder -> its models
    """

    paths: Mapping[str, Path]
    found: Mapping[str, Sequence[Result]]
    published: bool
    say: Say

    @classmethod
    def of(cls, folders: Sequence[str | Path], published: bool, say: Say) -> "Report":
        """Read folders; errors as `report`."""
        published = as_number(published, bool, "--published")
        paths: dict[Path, Path] = {}
        for path in [as_path(folder, "FOLDER") for folder in folders]:
            paths.setdefault(path.resolve(), path)
        if not paths:
            raise SettingsError("report: name the folder of a study or of runs")
        named = _named(list(paths.values()))
        found = {name: one_of_each(read_results_of(path, say), say, path) for name, path in named.items()}
        for name, results in found.items():
            if not results:
                raise SettingsError(f"{named[name]}: no trained model to report")
        return cls(paths=named, found=found, published=published, say=say)

    def write(self, output_dir: str | Path | None, html: str | Path | None) -> list[Path]:
        """Write what is asked for, pictures with a Markdown page or a page to look into; parameters as `report`."""
        page = None if html is None else as_path(html, "--html")
        written = [] if page is not None and output_dir is None else self._write_pictures(output_dir)
        if page is not None:
            write_report_page(page, self.as_plain(), self._summary[1])
            written.append(page)
        return written

    def _write_pictures(self, output_dir: str | Path | None) -> list[Path]:
        first = next(iter(self.paths.values()))
        # That of several folders is none of theirs, whose own reports it would replace.
        usual = first / "report" if len(self.paths) == 1 else Path("report")
        target = usual if output_dir is None else as_path(output_dir, "--output-dir")
        check_folder(target, "--output-dir")
        results = usual_first([result for of_folder in self.found.values() for result in of_folder])
        with writing_below(target):
            beside = _side_by_side(self.as_plain()) if len(self.paths) > 1 else []
            return list(_write(results, target, self.published, self.say, beside))

    def as_plain(self) -> Summary:
        """Return what was found as plain data, for JSON."""
        return {"folders": {name: str(path) for name, path in self.paths.items()}, **self._summary[0]}

    @cached_property
    def _summary(self) -> tuple[Summary, list[Group]]:
        return summarise(self.found, self.published)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return paths by as much of their ends as tells them apart."""
    n_parts = 1
    while len({path.resolve().parts[-n_parts:] for path in paths}) < len(paths):
        n_parts += 1
    return {as_data("/".join(path.resolve().parts[-n_parts:])): path for path in paths}


Picture = tuple[str, str, Any]
"""Name of the file, what is to be seen, the figure."""


def _write(results: Sequence[Result], target: Path, published: bool, say: Say, beside: Sequence[str]) -> Iterator[Path]:
    """Write pictures, then the page that shows them, with lines on folders side by side; yields the page first."""
    drawn: list[tuple[str, str]] = []
    files = []
    for draw in _DRAWINGS:
        for name, caption, figure in draw(results, published):
            for suffix in SUFFIXES:
                save_picture(figure, target / f"{name}{suffix}")
                files.append(target / f"{name}{suffix}")
            drawn.append((name, caption))
    if all(result.predictions is None for result in results):
        say("no predictions were kept: curves and the film are left out. study --keep-predictions keeps them")
    page = target / PAGE
    page.write_text(_page(results, drawn, published, beside), encoding="utf-8", errors="backslashreplace")
    yield page
    yield from files


def _page(results: Sequence[Result], drawn: Sequence[tuple[str, str]], published: bool, beside: Sequence[str]) -> str:
    rows = [result.row for result in results]
    lines = ["# Decoding report", "", f"{len(results)} models, {_cell(settings_line(rows))}.", ""]
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        lines += [f"## {task.replace('_', ' ')}: means over folds and seeds", "", *_markdown(study_table(of_task)), ""]
        null = _null_table([result for result in results if result.row["task"] == task])
        if null.rows:
            lines += ["### Against shifted labels", "", *_markdown(null), ""]
    lines += beside
    undefined = [
        f"{row['label_name'] or 'next bin'}, fold {row['fold']}: {row['why_undefined']}"
        for row in rows
        if row["why_undefined"]
    ]
    if undefined:
        lines += ["Undefined (n/a), and why:", "", *(f"- {_cell(why)}" for why in undefined), ""]
    for name, caption in drawn:
        lines += [f"![{_cell(caption)}]({name}.png)", "", f"*{_cell(caption)}*", ""]
    if published:
        lines += [f"Published: {SOURCE}. {CONDITIONS}.", ""]
    return "\n".join(lines)


def _side_by_side(summary: Summary) -> list[str]:
    lines = ["## Side by side", ""]
    if summary["comparison"]:
        lines += [*_markdown(comparison_table(summary["comparison"])), ""]
    if summary["differences"]:
        lines += ["What differs in their settings:", "", *_markdown(differences_table(summary["differences"])), ""]
    return lines


def _markdown(table: Table) -> list[str]:
    rows = [[_cell(cell) for cell in row] for row in (table.header, ["---"] * len(table.header), *table.rows)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _cell(value: object) -> str:
    """Return text as Markdown shows it: what a file says is no markup."""
    text = as_data(value)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in text)


def _null_table(results: Sequence[Result]) -> Table:
    """Return kappa and AUROC against their null, folds and seeds taken together."""
    rows: list[list[object]] = []
    varied = varied_options([result.row for result in results])
    for values, group in groups_of(results, varied):
        comparisons = [compare(group, name) for name in nulls.SCORES]
        cells: list[object] = [*values]
        for found in comparisons:
            band = "n/a" if found.band is None else f"{found.band[0]:.3f} to {found.band[2]:.3f}"
            cells += [found.n_models, len(found.null), number(found.mean, 3), band, number(found.p, 3)]
        if any(len(found.null) for found in comparisons):
            rows.append(cells)
    scores = [head for name in ("kappa", "AUROC") for head in ("models", "shifts", name, "shifted, 5 to 95 %", "p")]
    return Table([*(name.replace("_", " ") for name in varied), *scores], rows)


def _labels(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.row["task"] == "label"]


def _dots(name: str, group: Sequence[Result], published: Published | None = None) -> Dots:
    return Dots(
        name=as_data(name),
        values=[result.score("kappa") for result in group],
        time_only=[result.baseline("time only", "kappa") for result in group],
        null=compare(group, "kappa").band,
        published=published,
    )


def _others_equal(results: Sequence[Result], *settings: str) -> tuple[list[Result], str]:
    """Return the models that differ in nothing but some settings, the label and what repeats a result.

    Where other settings vary, too, it is those of the first model, the most usual one: to mix them would show
    something else. The text names them, for captions.
    """
    first = results[0].row
    free = (*settings, "label_name")
    names = [name for name in varied_options([one.row for one in results]) if name not in free]
    fixed = ", ".join(f"{name.replace('_', ' ')} {first[name] or 'none'}" for name in names)
    shown = [one for one in results if all(one.row.get(name) == first.get(name) for name in names)]
    return shown, f" ({as_data(fixed)})" if fixed else ""


def _draw_labels(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    labels = _labels(results)
    if not labels:
        return
    shown, fixed = _others_equal(labels)
    rows = [
        _dots(name, group, published_kappa(group[0].row) if published else None)
        for (name,), group in groups_of(shown, ["label_name"])
    ]
    rows.sort(key=lambda dots: -dots.mean if np.isfinite(dots.mean) else np.inf)
    figure = pictures.draw_dots(rows, "Cohen's kappa", f"Decoding film labels: kappa of each fold{fixed}")
    yield "labels", f"Kappa of each label: every fold, and what it must be held against{fixed}", figure


def _draw_settings(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    labels = _labels(results)
    for setting in varied_options([result.row for result in labels]) if labels else ():
        if setting in ("label_name", "split", "sequence", "max_epochs", "patience"):
            continue
        # A random split has no buffer: it is the end of that axis.
        free = ("buffer", "split", "sequence") if setting == "buffer" else (setting,)
        shown, fixed = _others_equal(labels, *free)
        lines = {name: _line(group, setting, published) for (name,), group in groups_of(shown, ["label_name"])}
        if max(map(len, lines.values())) < 2:
            continue
        best = sorted(lines, key=lambda name: -max(np.nan_to_num(dots.mean, nan=-2) for dots in lines[name]))
        kept = {as_data(name): lines[name] for name in lines if name in best[:MAX_PANELS]}
        title = f"Kappa by {TITLES.get(setting, setting.replace('_', ' '))}{fixed}"
        axis = TITLES.get(setting, setting.replace("_", " "))
        figure = pictures.draw_lines(kept, axis, "Cohen's kappa", title, joined=setting in (*NUMBERS, "window"))
        yield setting, title, figure


def _as_seconds(text: str) -> tuple[float, ...]:
    """Return a window's end and start, by which windows are in order."""
    past, future = map(float, text.split())
    return future, -past


def _line(group: Sequence[Result], setting: str, published: bool) -> list[Dots]:
    """Return the dots of one label at each value of a setting, in its order."""
    groups = {_plain_number(str(value)): of_value for (value,), of_value in groups_of(group, [setting])}
    if setting == "buffer" and "" in groups:
        groups = {"random": groups.pop(""), **groups}
    if setting in NUMBERS:
        groups = dict(sorted(groups.items(), key=lambda one: _as_number(one[0])))
    if setting in ("window", "sequence"):
        groups = dict(sorted(groups.items(), key=lambda one: _as_seconds(one[0])))
    is_known = published and setting in ("buffer", "brain_regions")
    return [
        _dots(value, of_value, published_kappa(of_value[0].row) if is_known else None)
        for value, of_value in groups.items()
    ]


def _as_number(text: str) -> float:
    return -1.0 if text == "random" else float(text or "nan")


def _plain_number(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _panels(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Return the models of each panel: labels with the highest kappa, or the next-bin models."""
    labels = _labels(results)
    if not labels:
        return [("next bin", _others_equal(results)[0])]
    groups = [(name, group) for (name,), group in groups_of(_others_equal(labels)[0], ["label_name"])]
    groups.sort(key=lambda one: -np.nan_to_num(mean_of([result.score("kappa") for result in one[1]]), nan=-2.0))
    return [(as_data(name), group) for name, group in groups[:MAX_PANELS]]


def _fixed(results: Sequence[Result]) -> str:
    return _others_equal(_labels(results) or results)[1]


def _draw_curves(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    panels = {
        name: [(result.record.curve, result.record.best_epoch) for result in group if result.record.curve]
        for name, group in _panels(results)
    }
    panels = {name: models for name, models in panels.items() if models}
    if panels:
        fixed = _fixed(results)
        caption = f"Loss by epoch, a line for each fold{fixed}"
        yield "learning_curves", caption, pictures.draw_curves(panels, f"Learning curves{fixed}")


def _draw_confusions(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    panels = {}
    for name, group in _panels(results) if _labels(results) else ():
        confusion = confusion_of(group)
        if confusion is not None:
            panels[name] = confusion
    if panels:
        fixed = _fixed(results)
        caption = f"Confusion of {results[0].part} samples, folds together, at thresholds chosen on validation{fixed}"
        yield "confusion", caption, pictures.draw_confusions(panels, f"Confusion matrices{fixed}")


def _with_predictions(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    kept = (
        [(name, [one for one in group if one.predictions]) for name, group in _panels(results)]
        if _labels(results)
        else []
    )
    return [(name, group) for name, group in kept if group][: MAX_PANELS // 2]


def _draw_rank_curves(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    panels = {}
    for name, group in _with_predictions(results):
        folds = [found for result in group if (found := rank_curves_of(result))]
        if folds:
            panels[name] = folds
    if panels:
        fixed = _fixed(results)
        caption = f"ROC and precision-recall curves, a line for each fold; chance dashed{fixed}"
        yield "roc_and_precision", caption, pictures.draw_rank_curves(panels, f"ROC and precision-recall{fixed}")


def _draw_film(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    tracks = [film_track(name, group) for name, group in _with_predictions(results)]
    if tracks:
        fixed = _fixed(results)
        caption = f"Probability of “on” along the film, where it was tested (5 s means); shaded: label on{fixed}"
        yield "film", caption, pictures.draw_film(tracks, f"Predictions along the film{fixed}")


def _draw_units(results: Sequence[Result], published: bool) -> Iterator[Picture]:
    counts = [result for result in results if result.record.units.get(result.part)]
    if not counts:
        return
    shown, fixed = _others_equal(counts)
    rate_hz, mean = unit_scores(shown)
    caption = f"R² of the next bin of each unit, mean over folds{fixed}"
    yield "units", caption, pictures.draw_units(rate_hz, mean, "R² by rate")


Drawing = Callable[[Sequence[Result], bool], Iterator[Picture]]
_DRAWINGS: Sequence[Drawing] = (
    _draw_labels, _draw_settings, _draw_curves, _draw_confusions, _draw_rank_curves, _draw_film, _draw_units,
)  # fmt: skip
