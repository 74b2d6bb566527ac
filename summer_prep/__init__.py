"""Bin the SUMMER recordings into film bins and cache them as Zarr arrays.

    import summer_prep

    summer_prep.demo_data("recordings", patients=2)
    summer_prep.build(data_dir="recordings", cache_dir="cache", bin_length=80, workers=0)
    group = summer_prep.open_key("cache", 14, 80)

The commands are those of `summer-prep --help`; a SummerError says in one line what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from summer_prep.resources import ensure_cache_home

if TYPE_CHECKING:
    from summer_prep.cache.build import build
    from summer_prep.cache.keys import open_key
    from summer_prep.cache.targets import add_target, remove_target, targets
    from summer_prep.errors import SummerError
    from summer_prep.film.splits import blocked_split
    from summer_prep.recordings.demo import demo_data
    from summer_prep.show.diff import diff
    from summer_prep.show.export import export
    from summer_prep.show.responses import responses

__version__ = "0.1.0"
__all__ = [
    "SummerError", "add_target", "blocked_split", "build", "demo_data", "diff", "export", "open_key", "remove_target",
    "responses", "targets",
]  # fmt: skip

_HOMES = {
    "SummerError": "errors", "blocked_split": "film.splits", "build": "cache.build", "diff": "show.diff",
    "demo_data": "recordings.demo", "export": "show.export", "open_key": "cache.keys",
    "add_target": "cache.targets", "remove_target": "cache.targets", "targets": "cache.targets",
    "responses": "show.responses",
}  # fmt: skip

ensure_cache_home()  # before any library writes below it


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: pynwb and Zarr take a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
