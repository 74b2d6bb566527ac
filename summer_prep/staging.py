"""The folders that builders write into before they publish: whose they are, and which may be removed."""

import hashlib
import os
import platform
import shutil
import time
import uuid
from pathlib import Path

_FOREIGN_DEBRIS_S = 86_400


def staging_name(key: Path) -> str:
    """Return a name for a staging folder that tells whose it is: this process on this machine."""
    return f".{key.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.staging"


def clear_debris(folder: Path) -> None:
    """Remove what killed builds left in a patient's folder; never what a builder that lives still writes.

    A builder on this machine lives while its process id does. Of builders elsewhere nothing is known, so theirs go
    after a day without a change.
    """
    for path in folder.glob(".*.staging"):
        try:
            machine, pid = path.name.split(".")[-2].split("-")[:2]
            is_dead = (
                not _is_alive(int(pid))
                if machine == _machine()
                else time.time() - path.stat().st_mtime > _FOREIGN_DEBRIS_S
            )
        except (OSError, ValueError):
            continue
        if is_dead:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    """Return a word for the machine and the set of process ids that ours is one of: containers share host names."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        namespace = boot = ""
    return hashlib.sha256(f"{platform.node()} {namespace} {boot}".encode()).hexdigest()[:12]
