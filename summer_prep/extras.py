"""Optional engines: loaded where they are asked for, and where one is missing, one line with what brings it."""

from importlib import import_module
from typing import Any

from summer_prep.errors import SettingsError


def load_extra(module: str, extra: str, asked_for: str) -> Any:
    """Return an optional module.

    Parameters
    ----------
    module, extra : its name, and that of the extra of this package that installs it
    asked_for : the option that needs it, for the error

    Raises
    ------
    SettingsError : it is not installed
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{asked_for} needs {error.name}, which is not installed. "
            f"Install it: pip install 'summer-pipeline[{extra}]'"
        ) from error
