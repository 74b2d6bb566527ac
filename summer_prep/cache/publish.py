"""Named bytes to a folder, whole or not at all: staged beside it, flushed, exchanged. Knows no Zarr.

A reader, or a builder that is killed, sees the whole old folder or the whole new one.
"""

import ctypes
import errno
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from summer_prep.cache.layout import DESCRIPTION
from summer_prep.errors import CacheError
from summer_prep.files import writing

Files = Mapping[str, bytes | memoryview]
"""Path relative to a folder, with forward slashes -> content."""

DEBRIS = ".*.staging"
"""Pattern for the names of what builders write, which is debris once they were killed."""

_OLD = "-old.staging"
"""Ends the name of a folder that was moved out of its place for as long as it takes to put the new one there."""


def publish(folder: Path, files: Files, option: str = "--cache-dir") -> None:
    """Make a folder hold these files and no others, in one step, in place of an older one if there is one.

    Raises CacheError if it cannot be written, or the disk is full; `option` is the one that names another folder.
    """
    with writing(folder, f"Name another folder with {option}", CacheError):
        for n_left in reversed(range(3)):
            staged = folder.with_name(staging_name(folder))
            try:
                for parent in {(staged / name).parent for name in files}:
                    parent.mkdir(parents=True, exist_ok=True)
                for name, content in files.items():
                    (staged / name).write_bytes(content)
                paths = [os.path.join(parent, name) for parent, _, names in os.walk(staged) for name in [*names, "."]]
                # Side by side, so that the file system can commit many of them at once.
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(_fsync, paths))
                put_in_place(staged, folder)
                return
            except FileNotFoundError:
                if not n_left:  # else another builder, which this one's lock did not stop, cleared the staging folder
                    raise
            finally:
                _remove(staged)


def put_in_place(staged: Path, folder: Path) -> None:
    """Put the staged folder in its place; what stood there before is removed, or ends up in the staging folder.

    Without locks, other builders may do the same at any moment: then this one tries again. After an OSError, the old
    folder is back in its place, or the error says where it is.
    """
    old = staged.with_name(staged.name.removesuffix(".staging") + _OLD)
    try:
        for _ in range(20):
            try:
                os.rename(staged, folder)  # succeeds if there is none, or it has been moved away below
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            _remove(old)  # if it is there, another builder was quicker, and its folder replaced this one
            if _swap(staged, folder):
                break
            try:
                os.rename(folder, old)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    # A lower layer of a container image: it can only be removed, what makes it a key first.
                    (folder / DESCRIPTION).unlink(missing_ok=True)
                    shutil.rmtree(folder)
                elif error.errno != errno.ENOENT:
                    raise
        else:
            raise OSError(errno.EBUSY, "other builds keep replacing it")
    except OSError as error:
        if os.path.lexists(old):
            try:
                os.rename(old, folder)
            except OSError:
                kept = f"{error.strerror}; the key that stood there is kept as {old}, the next build puts it back"
                raise OSError(error.errno, kept) from error
        raise
    _fsync(folder.parent)
    _fsync(folder.parent.parent)  # holds the patient's folder, which may be new
    _remove(old)


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(staged: Path, folder: Path) -> bool:
    """Exchange two folders in one step; return whether the system and the file system could."""
    rename = getattr(ctypes.CDLL(None), "renameat2", lambda *_: -1)
    at_cwd, exchange = -100, 2
    return bool(rename(at_cwd, os.fsencode(staged), at_cwd, os.fsencode(folder), exchange) == 0)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # leaves files and links
    with suppress(OSError):
        path.unlink()


def staging_name(target: Path) -> str:
    """Return a new name for what will replace `target`; the id of the process in it is for people."""
    return f".{target.name}.{uuid.uuid4().hex}-{os.getpid()}.staging"


def clear_debris(folder: Path, is_alone: bool = False) -> None:
    """Remove what killed builders left in a patient's folder, and put back an old key that they had moved away.

    Who holds the lock of the folder `is_alone`; others remove only what is older than a day.
    """
    for path in folder.glob(DEBRIS):
        target = folder / path.name[1:].rsplit(".", 2)[0]
        with suppress(OSError):  # then it stays for the next build
            if path.name.endswith(_OLD) and not os.path.lexists(target):
                os.rename(path, target)
            elif is_alone or time.time() - path.lstat().st_mtime > 86_400:
                # Locks do not reach every builder (network file systems). One that still writes there finds its whole
                # folder gone at once and starts again; it can never publish what is left of it.
                _remove(path.rename(folder / staging_name(folder)))
