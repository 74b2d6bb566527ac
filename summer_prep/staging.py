"""What builders write into before they publish: whose it is, and what may be removed."""

import hashlib
import os
import platform
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

_FOREIGN_DEBRIS_S = 86_400


def staging_name(target: Path) -> str:
    """Return a name for what will replace `target` that tells whose it is: this process on this machine."""
    return f".{target.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.staging"


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
        if is_dead and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif is_dead:
            with suppress(OSError):
                path.unlink()


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
