"""What this machine has to give."""

import os
from pathlib import Path


def available_bytes() -> float:
    """Return the memory that the system could give, by its own estimate."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable")]
        return float(line.split()[1]) * 1024
    except (OSError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
