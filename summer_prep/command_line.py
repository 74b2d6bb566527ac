"""What the two programs share: both option spellings, lists of values, and errors as one line."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from summer_prep import __version__
from summer_prep.errors import SettingsError, SummerError
from summer_prep.output import check_picture

if TYPE_CHECKING:
    from rich.table import Table

LIST_OPTIONS = ("--patient-ids", "--brain-regions", "--bin-length", "--sequence")
"""Options that take several values, separated by spaces or commas."""

EPILOG = "Any command with --debug shows the traceback of an error."

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataDir = Annotated[Path, typer.Option(help="Folder with the NWB files.")]
CacheDir = Annotated[Path, typer.Option(help="Folder of the cache.")]
NwbPath = Annotated[Path | None, typer.Option(help="One NWB file; ignored when --patient-ids is given.")]
PictureOption = Annotated[Path | None, typer.Option(callback=check_picture, help="Draw it here (.png, .pdf or .svg).")]
PatientIds = Annotated[str, typer.Option(help="Patients, like 14 20 or 14,20.  [default: every one found]")]


def new_app(help_text: str) -> typer.Typer:
    """Return a program without commands yet."""
    app = typer.Typer(
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help answers in half the time
    )

    @app.callback(help=help_text)
    def take_common_options(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        pass

    return app


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(__version__)
        raise typer.Exit


def run(app: Callable[[list[str]], object], arguments: Sequence[str]) -> NoReturn:
    """Run a program; a SummerError becomes one line on stderr and exit code 1."""
    debug = "--debug" in arguments
    try:
        app(normalise([argument for argument in arguments if argument != "--debug"]))
    except SummerError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def normalise(arguments: Sequence[str]) -> list[str]:
    """Spell options with dashes and join the values of list options: `--patient_ids 14 20` -> `--patient-ids 14,20`."""
    normal: list[str] = []
    takes_values = False
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            normal.append(name + equals + value)
            takes_values = name in LIST_OPTIONS
        elif takes_values and len(normal) > 1 and normal[-2] in LIST_OPTIONS:
            normal[-1] += f",{argument}"
        else:
            normal.append(argument)
            takes_values = takes_values and normal[-2] in LIST_OPTIONS
    return normal


def split_list(text: str) -> tuple[str, ...]:
    """Return the values of a list option."""
    return tuple(value for value in text.replace(",", " ").split() if value)


def split_numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the values of a list option as whole numbers.

    Raises
    ------
    SettingsError : one of them is no whole number
    """
    try:
        return tuple(int(value) for value in split_list(text))
    except ValueError as error:
        raise SettingsError(f"{option} {text}: whole numbers are allowed, like 80 or 80,200") from error


def print_table(table: "Table") -> None:
    """Print to stdout, as wide as the table needs where nobody looks."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
