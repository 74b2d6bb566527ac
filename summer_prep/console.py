"""What the two programs share: option spellings, tables, data shown as data, and errors as one line."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from summer_prep import __version__
from summer_prep.errors import SettingsError, SummerError
from summer_prep.files import check_picture
from summer_prep.options import as_path, as_place, finite

EPILOG = "Any command with --debug shows the traceback of an error."
LIST_MARK = "..."
"""Ends the metavar of an option that takes several values, separated by spaces or commas."""


def path_option(help_text: str, option: str) -> Any:
    """Return an option that takes a path."""
    return typer.Option(help=help_text, callback=lambda value: None if value is None else as_path(value, option))


def place_option(help_text: str, option: str) -> Any:
    """Return an option that takes a path or a URL."""
    return typer.Option(help=help_text, metavar="PATH|URL", parser=lambda text: as_place(text, option))


def place_argument(help_text: str, name: str) -> Any:
    """Return an argument that takes a path or a URL."""
    return typer.Argument(help=help_text, metavar=name, parser=lambda text: as_place(text, name))


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataDir = Annotated[Path, place_option("Folder with the NWB files, or a URL.", "--data-dir")]
CacheDir = Annotated[Path, place_option("Folder of the cache, or its URL in a bucket.", "--cache-dir")]
LocalCache = Annotated[
    Path | None,
    path_option("Where keys in a bucket are fetched to.  [default: ~/.cache/summer-pipeline]", "--local-cache"),
]
NwbPath = Annotated[Path | None, path_option("One NWB file; ignored when --patient-ids is given.", "--nwb-path")]
PictureOption = Annotated[Path | None, typer.Option(callback=check_picture, help="Draw it here (.png, .pdf or .svg).")]
SCHEDULER_HELP = "Work on a Dask cluster: its scheduler's address, or local.  [default: processes of this machine]"
SchedulerOption = Annotated[str | None, typer.Option(metavar="ADDRESS", help=SCHEDULER_HELP)]
PATIENTS_HELP = "Patients, like 14 20 or 14,20.  [default: every one found]"
PatientIds = Annotated[str | None, typer.Option(metavar=f"ID{LIST_MARK}", help=PATIENTS_HELP)]


class Table(NamedTuple):
    """Rows of values below a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]


def new_app(help_text: str) -> typer.Typer:
    """Return a program without commands yet."""
    app = typer.Typer(
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help answers in half the time
    )

    def print_version(is_asked_for: bool) -> None:
        if is_asked_for:
            show(__version__)
            raise typer.Exit

    @app.callback(help=help_text)
    def take_common_options(
        version: Annotated[
            bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        pass

    return app


def run(app: typer.Typer, program: str, arguments: Sequence[str]) -> NoReturn:
    """Run a program by its name; a SummerError becomes one line on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show the letters of R² is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in arguments
    os.environ.pop("MPLBACKEND", None)  # of a notebook that started us: matplotlib fails where it is not installed
    command = typer.main.get_command(app)
    several = list_options(command)
    try:
        plain = [argument for argument in arguments if argument != "--debug"]
        command(normalise(plain, several), prog_name=program)
    except SummerError as error:
        if debug:
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

    A value that looks like a path is no member of a list: it is the command's argument.
    """
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    lists = several.get(command, set())
    normal: list[str] = []
    takes_values = False
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            normal.append(name + equals + value)
            takes_values = name in lists and not equals
        elif takes_values and normal[-1] not in lists and "/" not in argument and not argument.endswith(".ckpt"):
            normal[-1] += f",{argument}"
        else:
            takes_values = takes_values and normal[-1] in lists
            normal.append(argument)
    return normal


def printable(text: object) -> str:
    """Return text as it may be shown: what a file says moves no cursor and starts no new line."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def log(line: str) -> None:
    """Tell people something on stderr, beside the results that go to stdout."""
    sys.stderr.write(printable(line) + "\n")  # which a bar on the terminal steps aside for


def show(text: str) -> None:
    """Write a result to stdout.

    Raises
    ------
    SettingsError : stdout cannot be written
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What is left in Python's buffer would be tried, and complained about, once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader (head, less) has had what it wanted
            raise SystemExit(0) from error
        raise SettingsError(f"the result cannot be written to standard output ({error.strerror})") from error


def show_json(value: object) -> None:
    """Write plain values to stdout as JSON, in which a number that is none is null.

    Raises
    ------
    SettingsError : stdout cannot be written
    """
    show(json.dumps(finite(value), indent=1))


def show_result(result: object, as_json: bool, *shown: Table | str) -> None:
    """Print a result as JSON, or what people read of it: lines, and tables with an empty line before each."""
    if as_json:
        show_json(result)
        return
    for number, part in enumerate(shown):
        if isinstance(part, str):
            show(printable(part))
            continue
        if number:
            show("")
        show_table(part)


def show_table(table: Table) -> None:
    """Print a table: drawn for people, nothing cut off; tab-separated where nobody looks."""
    cells = [[printable(cell) for cell in row] for row in (table.header, *table.rows)]
    if not sys.stdout.isatty():
        show("\n".join("\t".join(row) for row in cells))
        return
    import rich.box
    import rich.table
    from rich.console import Console

    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name, is_text in zip(cells[0], has_text(table), strict=True):
        drawn.add_column(name, overflow="fold", justify="left" if is_text else "right")
    for row in cells[1:]:
        drawn.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(drawn)


def has_text(table: Table) -> list[bool]:
    """Return of each column whether it holds text; columns of numbers are aligned at the right."""
    return [any(not _NUMBER.match(str(row[column])) for row in table.rows) for column in range(len(table.header))]


_NUMBER = re.compile(r"[-+]?[\d.]|-$|n/a$|$")


def progress_on_terminal(*columns: Any, **options: Any) -> Any:
    """Return rich's progress bar on stderr, silent where nobody looks."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, **options)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something is at work that takes its time, and for how long."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with progress_on_terminal(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        bar.add_task(what, total=None)
        yield
