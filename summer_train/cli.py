"""The commands of `summer-train`: parse, one library call, print."""

import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from summer_prep import console
from summer_prep.console import JsonOption, PictureOption, log, path_option, place_option, printable, show_result
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder
from summer_prep.options import as_path, as_written
from summer_prep.settings import accepts, choices_among, options_of, spelled
from summer_train.settings import options as settings
from summer_train.settings.file import for_study, with_config
from summer_train.settings.options import STUDY_DEFAULTS, Choice, Run, StudyRun, check_given, settings_from

_OF_RUN = "  [default: that of the run]"

ConfigOption = Annotated[Path | None, path_option("A run's hparams.yaml or folder, for what is not given.", "--config")]

app = console.new_app("Train decoders on the cached SUMMER arrays.")


def _given(context: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were typed: a preset sets those that were not."""
    sources = {name: context.get_parameter_source(name) for name in options}
    return {name: options[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


@app.command()
@accepts(Choice, Run, as_parameter=console.typed_option)
def fit(
    context: typer.Context,
    config: ConfigOption = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Train and evaluate one model; keys that are missing or stale are built from --data-dir first."""
    options = with_config({**_given(context, options), "config": config})
    check_given(options)
    if "," in (label := options.get("label_name") or "") or label == "all":
        raise SettingsError(f"--label-name {label}: fit trains one model. For several: summer-train study")
    choice, where = settings_from(Choice, options), settings_from(Run, options)
    from summer_train.data.samples import choose_samples
    from summer_train.data.selection import open_chosen

    # What settings and data do not allow is refused before torch loads, which takes seconds.
    if settings.is_first_process():
        settings.check_one_process()
    check_folder(where.output_dir, "--output-dir")
    opened = open_chosen(choice, where, log)
    choose_samples(*opened)
    from summer_train.runs.fit import run_fit

    result = run_fit(choice, where, log, opened)
    if result is None:
        return
    from summer_train.reports import tables

    if picture is not None:
        from summer_train.reports.figures import draw_learning_curve

        draw_learning_curve(result, picture)
        log(f"wrote {picture}")
    sizes = ", ".join(f"{n} {part}" for part, n in result.n_samples.items() if n)
    show_result(
        result.as_plain(), as_json,
        f"{choice.task}: {result.n_units} units, samples: {sizes}",
        f"best epoch: {result.best_epoch} of {result.n_epochs} (lowest validation loss); its scores:",
        *tables.score_tables(result.scores),
        *tables.notes_on_scores(result),
        f"run: {result.log_dir}",
    )  # fmt: skip


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its best.ckpt or last.ckpt.")],
    data_dir: Annotated[Path | None, place_option(f"Folder with the NWB files.{_OF_RUN}", "--data-dir")] = None,
    cache_dir: Annotated[Path | None, place_option(f"Folder of the cache, or its URL.{_OF_RUN}", "--cache-dir")] = None,
    local_cache: Annotated[Path | None, path_option(f"Where keys are fetched to.{_OF_RUN}", "--local-cache")] = None,
    patient_ids: Annotated[
        str | None, typer.Option(metavar="ID...", help="Must have the units of training.  [default: its patients]")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Another fold.  [default: the one it was trained on]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run or a checkpoint on the cache, saying how the data differ from those it was trained on."""
    from summer_train.reports import tables
    from summer_train.runs.evaluate import evaluate as evaluate_checkpoint

    with console.working("evaluating"):
        places = {"data_dir": data_dir, "cache_dir": cache_dir, "local_cache": local_cache}
        result = evaluate_checkpoint(checkpoint, **places, patient_ids=patient_ids, fold=fold, log=log)
    for difference in () if as_json else result.differences:
        log(f"differs from training: {difference}")
    sizes = ", ".join(f"{n} {part}" for part, n in result.n_samples.items() if n)
    show_result(
        result.as_plain(), as_json, f"{result.checkpoint}: epoch {result.epoch}",
        f"patients {' '.join(result.choice.patient_ids)}, fold {result.choice.fold}, samples: {sizes}",
        *tables.score_tables(result.scores),
        *tables.notes_on_scores(result),
    )  # fmt: skip


def _as_folder(text: str) -> Path:
    return as_path(text, "FOLDER")


def _of_study(name: str, one: Any) -> inspect.Parameter:
    """Return the parameter of an option of a study, which takes a list if it decides numbers."""
    if name not in options_of(Choice):
        return console.typed_option(name, one)
    help_text, member, default = one.metadata["help"], one.metadata["several"], STUDY_DEFAULTS.get(name, one.default)
    if member == "SECONDS":
        help_text += "  Several: separate them with ;, as in '0 0;0.8 0.72'."
    elif member:
        help_text += f"  Groups: separate them with ;, as in '{'14;20;all' if member == 'ID' else 'A;H;all'}'."
    if "[default:" not in help_text and default is not None:
        help_text += f"  [default: {'no' if default is False else as_written(default)}]"
    metavar = (member or "|".join(choices_among(one)) or "VALUE") + console.LIST_MARK
    option = typer.Option(spelled(name), help=help_text, metavar=metavar, show_default=False)
    annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@app.command()
@accepts(Choice, StudyRun, only=(*options_of(Choice), *settings.STUDY_OPTIONS), as_parameter=_of_study)
def study(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False, **options: Any) -> None:
    """Train every combination of lists of settings; what the study's folder has already is not trained again.

    Every option that decides numbers takes a list: --label-name summer,tom (or all), --fold 1-5, --seed 0-4.
    """
    options = for_study(_given(context, options), config)
    where = settings_from(StudyRun, options)
    from summer_train.studies.choices import open_choices, study_choices

    opened = open_choices(study_choices(options), where, log)  # before torch loads, as in `fit`
    from summer_train.reports import findings, summary, tables
    from summer_train.studies.study import run_study

    result = run_study(opened, where, log)
    if as_json:
        show_result(result.rows, as_json)
        return
    models = findings.read_models(result.folder)
    models = models[models["id"].isin([row["id"] for row in result.rows])]
    trained = f"{result.n_trained} networks trained in {result.seconds:.1f} s"
    show_result(
        result.rows, False, tables.settings_line(models),
        *summary.summary_tables(summary.summarise(models)["groups"]).values(),
        f"{len(result.rows)} models, {trained}: {result.folder}",
    )  # fmt: skip


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", parser=_as_folder, help="Folders of studies or runs."),
    ],
    output_dir: Annotated[
        Path | None,
        path_option("Where figures and page go.  [default: report in FOLDER, of several in this one]", "--output-dir"),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Draw the published figures beside.")] = False,
    html: Annotated[
        Path | None,
        path_option("Write one page with everything in it; figure files, too, only with --output-dir.", "--html"),
    ] = None,
    width_mm: Annotated[float, typer.Option(help="Width of figures in mm; a column of a journal is about 85.")] = 180,
    compare: Annotated[
        str | None, typer.Option(help="Setting whose values are compared in pairs, like brain-regions.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what studies and runs found (PNG, SVG, PDF) with a Markdown page of tables, or write one HTML page.

    Several folders are set side by side.
    """
    from summer_train.reports import summary, tables
    from summer_train.reports.report import report as write_report

    with console.working("drawing"):
        given: dict[str, Any] = {"output_dir": output_dir, "published": published, "html": html, "width_mm": width_mm}
        compare = compare.removeprefix("--").replace("-", "_") if compare else None
        models = write_report(*folders, **given, compare=compare, log=log)
        facts = summary.summarise(models, published, with_curves=as_json, compare=compare)
    written = list(map(str, models.attrs["written"]))
    shown = [*summary.summary_tables(facts["groups"]).values()]
    shown += [tables.comparison_table(facts["comparison"])] if facts["comparison"] else []
    show_result({"written": written, "folders": models.attrs["folders"], **facts}, as_json, *shown)
    for path in [] if as_json else written:
        log(f"wrote {path}")


@app.command()
def runs(
    output_dir: Annotated[Path, typer.Argument(help="The --output-dir of the runs.")] = Path("lightning_logs"),
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
) -> None:
    """List the runs of a folder with their settings and scores."""
    from summer_train.reports.tables import run_row, runs_table
    from summer_train.runs.folder import find_results

    results = find_results(as_path(output_dir, "OUTPUT_DIR"), log)
    if as_csv and not as_json:
        import pandas as pd

        rows = [{name: printable(value) for name, value in run_row(result).items()} for result in results]
        console.show(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").rstrip("\n"))
    else:
        show_result([result.as_plain() for result in results], as_json, runs_table(results))


def main() -> None:
    """Run `summer-train`."""
    if not settings.is_first_process() and "--debug" not in sys.argv:  # the first one prints for all, errors too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    console.run(app, "summer-train", sys.argv[1:])
