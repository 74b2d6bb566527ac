"""What this process may use: memory, processors, and a folder for the caches of libraries."""

import math
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_PROC = Path("/proc")
_GROUPS = {
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Controller (of version 2, and of version 1) -> the folder of its groups, and the names of their limits and use."""


def available_bytes() -> float:
    """Return the memory that this process could get: by the system's own estimate, and within its control groups."""
    free = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2]
    with suppress(OSError, ValueError):
        lines = (_PROC / "meminfo").read_text().splitlines()
        free = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")] or free
    for controller, (root, limit, in_use, inactive) in _GROUPS.items():
        for group in _own_groups(controller, root):
            with suppress(OSError, ValueError, KeyError):  # no such group, or no limit ("max")
                counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                limit_bytes, used_bytes = (float((group / name).read_text()) for name in (limit, in_use))
                free.append(limit_bytes - used_bytes + float(counts[inactive]))  # cached files give way
    return min(free)


def usable_processors() -> int:
    """Return how many processors this process may use: by its affinity, and by the quota of its control groups."""
    of_process = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))  # macOS has no affinity
    usable = [float(len(of_process(0)))]
    for group in _own_groups("", _GROUPS[""][0]):
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            quota, period = (group / "cpu.max").read_text().split()
            usable.append(float(quota) / float(period))
    return max(1, math.ceil(min(usable)))


def _own_groups(controller: str, root: Path) -> list[Path]:
    """Return the control groups that this process is in: a job's of a cluster is below the machine's."""
    with suppress(OSError, ValueError):
        own = dict(line.split(":", 2)[1:] for line in (_PROC / "self" / "cgroup").read_text().splitlines())
        path = Path(own.get(controller, "/").lstrip("/"))
        return [root / group for group in (path, *path.parents)]
    return []


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
