"""Named bytes to a folder, whole or not at all: staged beside it, flushed, exchanged. Knows no Zarr.

A reader, or a builder that is killed, sees the whole old folder or the whole new one. What killed builders leave is
named after them, so that the next one knows what may be removed.
"""

import ctypes
import errno
import hashlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from summer_prep.cache.layout import DESCRIPTION
from summer_prep.errors import CacheError

Files = Mapping[str, bytes | memoryview]
"""Path relative to a folder, with forward slashes -> content."""

_WRITE_ATTEMPTS = 3
_EXCHANGE_ATTEMPTS = 20

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOENT, errno.EXDEV}

_FOREIGN_DEBRIS_S = 86_400

_OLD = "-old.staging"
"""Ends the name of what a builder moved out of its place for as long as it takes to put the new one there."""


def publish(folder: Path, files: Files, option: str = "--cache-dir") -> None:
    """Make a folder hold these files and no others, in one step, in place of an older one if there is one.

    Parameters
    ----------
    option : which option names another folder, for the error

    Raises
    ------
    CacheError : the folder cannot be written, or the disk is full
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_WRITE_ATTEMPTS):
            staged = folder.parent / staging_name(folder)
            try:
                _write(staged, files)
                put_in_place(staged, folder)
                return
            except FileNotFoundError:
                # Another builder on a file system without locks or process ids took our staging folder for debris.
                if attempt + 1 == _WRITE_ATTEMPTS:
                    raise
            finally:
                _remove(staged)
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror or error}). "
            f"Free space, or name a folder that you may write to with {option}"
        ) from error


def _write(staged: Path, files: Files) -> None:
    for parent in {(staged / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (staged / name).write_bytes(content)
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(staged) for name in [*names, "."]]
    # Side by side, so that the file system can commit many of them at once.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_fsync, paths))


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(staged: Path, folder: Path) -> None:
    """Put the staged folder in its place; what stood there before is gone or ends up in the staging folder."""
    for _ in range(_EXCHANGE_ATTEMPTS):
        if _rename(staged, folder) or _swap(staged, folder) or _replace(staged, folder):
            break  # else another builder was quicker and the folder is there now, or is not any more
    else:
        raise OSError(errno.EBUSY, "other builds keep replacing it", str(folder))
    for parent in (folder.parent, folder.parent.parent):  # the latter holds the patient's folder, which may be new
        _fsync(parent)


def _rename(staged: Path, folder: Path) -> bool:
    """Put the staged folder where none is; return whether that was so."""
    try:
        os.rename(staged, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _swap(staged: Path, folder: Path) -> bool:
    """Exchange two folders in one step; return whether the file system can and both were there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = os.fsencode(staged), os.fsencode(folder)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(folder))
    return False


def _replace(staged: Path, folder: Path) -> bool:
    """Replace a folder in two steps; return False, with one in place, if another builder was quicker."""
    old = staged.with_name(staged.name.removesuffix(".staging") + _OLD)
    try:
        os.rename(folder, old)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder in the lower layer of a container image can be removed, not renamed: what makes it a key goes first.
        (folder / DESCRIPTION).unlink(missing_ok=True)
        shutil.rmtree(folder)
        return _rename(staged, folder)
    try:
        is_placed = _rename(staged, folder)
    except OSError as error:
        try:
            os.rename(old, folder)  # rather the old one than none
        except OSError:
            reason = f"{error.strerror}; the key that stood there is kept as {old}, the next build puts it back"
            raise OSError(error.errno, reason) from error
        raise
    _remove(old)
    return is_placed


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as that is possible."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def staging_name(target: Path) -> str:
    """Return a name for what will replace `target` that tells whose it is: this process on this machine."""
    return f".{target.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.staging"


def clear_debris(folder: Path) -> None:
    """Remove what killed builds left in a patient's folder; never what a builder that lives still writes.

    A builder on this machine lives while its process id does. Of builders elsewhere nothing is known, so theirs go
    after a day without a change. An old key whose builder died before the new one was there is put back.
    """
    for path in folder.glob(".*.staging"):
        _, *target, owner, _ = path.name.split(".")
        try:
            machine, pid = owner.split("-")[:2]
            is_dead = (
                not _is_alive(int(pid))
                if machine == _machine()
                else time.time() - path.stat().st_mtime > _FOREIGN_DEBRIS_S
            )
        except (OSError, ValueError):
            continue
        if is_dead and path.name.endswith(_OLD) and not os.path.lexists(folder / ".".join(target)):
            with suppress(OSError):  # then it stays for the next build
                os.rename(path, folder / ".".join(target))
        elif is_dead:
            _remove(path)


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
