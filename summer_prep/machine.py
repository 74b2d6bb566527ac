"""What this machine has to give."""

import os
from pathlib import Path

_PROCESS = Path("/proc/self")
_GROUPS = {
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""Controller (of version 2, and of version 1) -> where its groups are, and what tells their limits and use."""


def available_bytes() -> float:
    """Return the memory that this process could get: by the system's own estimate, and within its control group."""
    return min(_available_in_system(), _available_in_group())


def _available_in_group() -> float:
    """Return what the control groups of this process leave: a job's of a cluster is below the machine's."""
    try:
        own = dict(line.split(":", 2)[1:] for line in (_PROCESS / "cgroup").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf")
    free = [float("inf")]
    for controller, (root, *names) in _GROUPS.items():
        path = Path(own.get(controller, "/").lstrip("/"))
        free += [_free_in(root / group, *names) for group in (path, *path.parents)]
    return min(free)


def _free_in(group: Path, limit: str, in_use: str, inactive: str) -> float:
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        limit_bytes, used_bytes = (float((group / name).read_text()) for name in (limit, in_use))
        return limit_bytes - used_bytes + float(counts[inactive])  # cached files give way
    except (OSError, ValueError, KeyError):  # no such group, or no limit ("max")
        return float("inf")


def _available_in_system() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable")]
        return float(line.split()[1]) * 1024
    except (OSError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
