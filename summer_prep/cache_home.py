"""A folder for the caches of libraries where there is no home folder, or it cannot be written, as in containers."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_kept: list[TemporaryDirectory[str]] = []


def ensure_cache_home() -> None:
    """Name a temporary folder for caches where the usual one cannot be written, for this process and those it starts.

    pynwb cannot even be imported without one; Matplotlib warns; copies of a bucket's keys go there as well.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # pathlib's raises without a home
    with suppress(OSError):
        if home.is_absolute():
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(home, os.W_OK | os.X_OK):
                return
    with suppress(OSError):
        folder = TemporaryDirectory(prefix="summer-cache-", ignore_cleanup_errors=True)
        _kept.append(folder)  # until this process ends
        os.environ["XDG_CACHE_HOME"] = folder.name
        os.environ.setdefault("MPLCONFIGDIR", folder.name)
        if not home.is_absolute():
            os.environ["HOME"] = folder.name


def is_temporary(folder: Path) -> bool:
    """Return whether a folder is the temporary one of this process."""
    return any(folder == Path(kept.name) for kept in _kept)
