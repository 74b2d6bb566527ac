"""Results as tables, pictures and pages, beside published numbers."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Load the module `figures`, which is public as `summer_train.figures`, when it is first asked for."""
    if name == "figures":
        return import_module(f"{__name__}.figures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
