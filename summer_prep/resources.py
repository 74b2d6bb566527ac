"""Memory and processors that this process may use, and GPUs that processes share out among themselves."""

import math
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
    """Return the memory that the control groups of this process leave."""
    free = [
        _free_in(group, *names)
        for controller, (root, *names) in _GROUPS.items()
        for group in _own_groups(controller, root)
    ]
    return min(free, default=float("inf"))


def _own_groups(controller: str, root: Path) -> list[Path]:
    """Return the control groups that this process is in: a job's of a cluster is below the machine's."""
    try:
        own = dict(line.split(":", 2)[1:] for line in (_PROCESS / "cgroup").read_text().splitlines())
    except (OSError, ValueError):
        return []
    path = Path(own.get(controller, "/").lstrip("/"))
    return [root / group for group in (path, *path.parents)]


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


def usable_processors() -> int:
    """Return how many processors this process may use: by its affinity, and by the quota of its control groups."""
    if hasattr(os, "process_cpu_count"):
        allowed = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min([allowed, *map(_quota_of, _own_groups("", _GROUPS[""][0]))])))


def _quota_of(group: Path) -> float:
    """Return how many processors the control group may use at once."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return float("inf")
