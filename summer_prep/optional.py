"""Optional engines: loaded where they are needed; one that is missing is one line with how to install it."""

from importlib import import_module
from typing import Any

from summer_prep.errors import SettingsError


def load_extra(module: str, asked_for: str) -> Any:
    """Return an optional module; raises SettingsError, with the option that needs it, if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0].replace("_", "-")
        raise SettingsError(
            f"{asked_for} needs {package}, which is not installed. Install it: pip install {package}"
        ) from error
