"""Where recordings and caches are: a folder of this machine, or a URL behind which a bucket or a server is."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=Any)

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://.+")


class Url(str):
    """A URL that is put together and taken apart like a path."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """What the last part is in."""
        return Url(self.rpartition("/")[0])

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.partition("://")[0]


Place = Path | Url


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path."""
    return _URL.fullmatch(text) is not None


def with_absolute_paths(settings: Settings) -> Settings:
    """Return settings, a dataclass, whose paths mean the same in processes that work in other folders."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    changed: Settings = replace(
        settings, **{name: value.absolute() for name, value in values.items() if isinstance(value, Path)}
    )
    return changed
