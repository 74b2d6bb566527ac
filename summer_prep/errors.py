"""The errors that a user or a file can cause; anything else that is raised is a bug."""

import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


class SummerError(Exception):
    """A problem with data or settings, in one line: what, where, found, allowed, what to do next."""


class RecordingError(SummerError):
    """An NWB file does not hold what a SUMMER recording must hold."""


class CacheError(SummerError):
    """A cached key is missing, damaged, or written by another version of this software."""


class UnreachableError(SummerError):
    """What a cache holds cannot be known: no network, no permission, an error of a server or of this software."""


class MissingKeyError(CacheError):
    """There is no such key in the cache."""


class SettingsError(SummerError):
    """A setting that the data at hand does not allow."""


def one_line(error: Exception, where: object) -> str:
    """Return an error as one line; an unexpected one with its type, and where in the code it was raised."""
    if isinstance(error, SummerError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or where}: {error.strerror or error}. Check permissions and the disk"
    frames = traceback.extract_tb(error.__traceback__)
    raised = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = f": {error}".split("\n")[0] if str(error) else ""
    advice = "Free memory, or use fewer processes" if isinstance(error, MemoryError) else "Please report it"
    return f"{where}: {type(error).__name__}{text}{raised}. {advice}"


def load_extra(module: str, asked_for: str) -> Any:
    """Return an optional module; raises SettingsError, with the option that needs it, if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0].replace("_", "-")
        problem = f"{asked_for} needs {package}, which is not installed"
        raise SettingsError(f"{problem}. Install it: pip install {package}") from error
