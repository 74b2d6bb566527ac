"""What the two programs share: options of the command line, tables, data shown as data, and errors as one line."""

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from summer_prep import __version__
from summer_prep.cache.settings import BuildConfig
from summer_prep.errors import SettingsError, SummerError
from summer_prep.files import check_picture
from summer_prep.options import as_path, as_place, as_written, finite
from summer_prep.settings import kind_of, options_of, python_parameter, spelled
from summer_prep.urls import Place

LIST_MARK = "..."
"""Ends the metavar of an option that takes several values, separated by spaces or commas."""


def path_option(help_text: str, option: str) -> Any:
    """Return an option that takes a path."""
    return typer.Option(help=help_text, metavar="PATH", parser=lambda text: as_path(text, option))


def place_option(help_text: str, option: str) -> Any:
    """Return an option that takes a path or a URL."""
    return typer.Option(help=help_text, metavar="PATH|URL", parser=lambda text: as_place(text, option))


def place_argument(help_text: str, name: str) -> Any:
    """Return an argument that takes a path or a URL."""
    return typer.Argument(help=help_text, metavar=name, parser=lambda text: as_place(text, name))


def typed_option(name: str, one: "Field[Any]") -> inspect.Parameter:
    """Return the parameter that typer makes an option of, from a field of `Settings`."""
    spelling, kind, typed = spelled(name), one.type, dict(one.metadata["typed"])
    default = python_parameter(name, one).default
    if one.metadata["several"]:
        kind, default, typed["metavar"] = str | None, as_written(default) or None, one.metadata["several"] + LIST_MARK
    elif kind_of(one) in (Path, Place):  # taken as text: typer would make the current folder of an empty one
        typed["metavar"] = "PATH" if kind_of(one) is Path else "PATH|URL"
        kind, default = str | None, None if default is None else str(default)
    if one.metadata["off"]:
        spelling = f"{spelling}/{one.metadata['off']}"
    option = typer.Option(spelling, help=one.metadata["help"], **typed)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


_HELP = {name: one.metadata["help"] for name, one in options_of(BuildConfig).items()}

DataDir = Annotated[Path, place_option(_HELP["data_dir"], "--data-dir")]
CacheDir = Annotated[Path, place_option(_HELP["cache_dir"], "--cache-dir")]
LocalCache = Annotated[Path | None, path_option(_HELP["local_cache"], "--local-cache")]
PatientIds = Annotated[str | None, typer.Option(metavar=f"ID{LIST_MARK}", help=_HELP["patient_ids"])]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
PictureOption = Annotated[Path | None, typer.Option(callback=check_picture, help="Draw it here (.png, .pdf or .svg).")]


class Table(NamedTuple):
    """Rows of values below a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        show(__version__)
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


def new_app(help_text: str) -> typer.Typer:
    """Return a program without commands yet."""
    # Without rich's markup, help answers in half the time.
    epilog = "Any command with --debug shows the traceback of an error."
    app = typer.Typer(epilog=epilog, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback(help=help_text)
    def take_common_options(version: Version = False) -> None:
        pass

    return app


def run(app: typer.Typer, program: str, arguments: Sequence[str]) -> NoReturn:
    """Run a program by its name; a SummerError becomes one line on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show R² is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    os.environ.pop("MPLBACKEND", None)  # a notebook's, where matplotlib would fail
    command = typer.main.get_command(app)
    plain = [argument for argument in arguments if argument != "--debug"]
    try:
        command(normalise(plain, list_options(command)), prog_name=program)
    except SummerError as error:
        if "--debug" in arguments:
            raise
        sys.stderr.write(f"error: {printable(error)}\n")
        sys.exit(1)
    sys.exit(0)


def list_options(command: Any) -> dict[str, set[str]]:
    """Return command name -> the options that take several values."""
    return {
        name: {parameter.opts[0] for parameter in one.params if (parameter.metavar or "").endswith(LIST_MARK)}
        for name, one in command.commands.items()
    }


def normalise(arguments: Sequence[str], several: dict[str, set[str]]) -> list[str]:
    """Spell options with dashes and join the values of list options: `--patient_ids 14 20` -> `--patient-ids 14,20`.

    `several` has the list options of each command. A value that looks like a path is the command's argument, and no
    member of a list.
    """
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    lists = several.get(command, set())
    normal: list[str] = []
    in_list = has_value = False  # whether the last option takes a list, and has a value already
    for argument in arguments:
        looks_like_path = "/" in argument or argument.endswith(".ckpt")
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            normal.append(name + equals + value)
            in_list, has_value = name in lists and not equals, False
        elif in_list and has_value and not looks_like_path:
            normal[-1] += f",{argument}"
        else:
            normal.append(argument)
            in_list, has_value = in_list and not has_value, True
    return normal


def printable(text: object) -> str:
    """Return text without control characters: text of a file may not move the cursor or start a line."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def log(line: str) -> None:
    """Write a line to stderr; results go to stdout."""
    sys.stderr.write(printable(line) + "\n")  # a bar on the terminal moves on


def show(text: str) -> None:
    """Write a result to stdout; raises SettingsError if it cannot be written."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # Python would try to write what is left in its buffer once more at the end, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader (head, less) has read enough
            raise SystemExit(0) from error
        raise SettingsError(f"the result cannot be written to standard output ({error.strerror})") from error


def show_result(result: object, as_json: bool, *shown: Table | str) -> None:
    """Print a result as JSON (not finite is null), or as lines and tables, with an empty line before further tables.

    Tables are drawn on a terminal, with nothing cut off, and tab-separated elsewhere.
    """
    if as_json:
        show(json.dumps(finite(result), indent=1))
        return
    for number, part in enumerate(shown):
        if isinstance(part, str):
            show(printable(part))
            continue
        cells = [[printable(cell) for cell in row] for row in (part.header, *part.rows)]
        if number:
            show("")
        if not sys.stdout.isatty():
            show("\n".join("\t".join(row) for row in cells))
            continue
        import rich.box
        import rich.table
        from rich.console import Console

        drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for name, is_text in zip(cells[0], has_text(part), strict=True):
            drawn.add_column(name, overflow="fold", justify="left" if is_text else "right")
        for row in cells[1:]:
            drawn.add_row(*row)
        Console(markup=False, emoji=False, highlight=False).print(drawn)


def has_text(table: Table) -> list[bool]:
    """Return of each column whether it holds text; columns of numbers are aligned at the right."""
    number = re.compile(r"[-+]?[\d.]|-$|n/a$|$")
    return [any(not number.match(str(row[column])) for row in table.rows) for column in range(len(table.header))]


def progress_on_terminal(*columns: Any, **options: Any) -> Any:
    """Return rich's progress bar on stderr, which is shown on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, **options)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal what is being done, and for how long it has been."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with progress_on_terminal(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        bar.add_task(what, total=None)
        yield
