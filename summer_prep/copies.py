"""Keys of a bucket on this machine: fetched once, checked while they arrive, and removed by size when long unused."""

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from summer_prep.errors import CacheError, SettingsError
from summer_prep.key import DESCRIPTION, Description, check_files, describe, file_sha256
from summer_prep.places import Url
from summer_prep.publish import put_in_place

SIZE_VARIABLE = "SUMMER_LOCAL_CACHE_GB"
DEFAULT_SIZE_GB = 50.0

MARK = ".fetched-from"
"""Stands in a folder of copies and names their bucket: nothing is ever removed from a folder without it."""

_IN_USE_S = 3600.0
"""Keys that were fetched or asked for so recently are not removed: a run may be about to map them."""
_DEBRIS_S = 24 * 3600.0
"""What a fetch that was cut has left is of use to the next one until then."""
_LOCK_S = 600.0

Fetch = Callable[[Path], None]
"""Writes a key's files into a folder, in which some of them may stand already."""


class Copies:
    """The keys of one bucket that are on this machine.

    folder : theirs, inside of the one for copies of all buckets

    Raises
    ------
    SettingsError : the size that copies may have is no number
    """

    def __init__(self, url: Url, local_cache: Path) -> None:
        # A word to know it by, and a digest: two buckets' keys must not meet in one folder.
        word = re.sub(r"[^A-Za-z0-9]+", "-", url)[:40].strip("-")
        self.url = url
        self.folder = local_cache / f"{word}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self.limit_bytes = _size_limit_bytes()

    def prepare(self, patient_id: str) -> Path:
        """Return the folder of a patient's keys and of notes about them, made if it is not there.

        Raises
        ------
        CacheError : it cannot be made
        """
        folder = self.folder / f"sub-{patient_id}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / MARK).exists():
                (self.folder / MARK).write_text(f"{self.url}\n")
        except OSError as error:
            raise _unwritable(folder, error) from error
        return folder

    def get(self, place: Path, sha256: str, fetch: Fetch, every_byte: bool = False) -> Description:
        """Return a key that is here, fetched if it is not: the one whose description has this digest.

        Parameters
        ----------
        place : where it is or will be, in the folder that `prepare` returns
        every_byte : read what is here, and do not only count and measure its files

        Raises
        ------
        CacheError : it cannot be written here
        """
        if (there := usable_copy(place, sha256, every_byte)) is None:
            with _alone_at(place) as is_alone:
                if (there := usable_copy(place, sha256, every_byte)) is None:
                    self._bring(place, sha256, fetch, is_alone)
                    there = usable_copy(place, sha256)  # its bytes were checked as they came
                    self._make_room()
        if there is None:
            raise CacheError(f"{place}: other runs keep replacing it. Start again when they have ended")
        with suppress(OSError):
            os.utime(place)  # used just now
        return there

    def _bring(self, place: Path, sha256: str, fetch: Fetch, is_alone: bool) -> None:
        """Fetch a key beside its place, going on where an earlier attempt was cut, and put it there."""
        whose = "" if is_alone else f"-{uuid.uuid4().hex[:12]}"
        partial = place.with_name(f".{place.name}.{sha256[:16]}{whose}.partial")
        try:
            fetch(partial)
            os.utime(partial)  # used just now, however long ago a fetch that was cut began
            put_in_place(partial, place)
        except OSError as error:
            raise _unwritable(place, error) from error
        shutil.rmtree(partial, ignore_errors=True)  # what stood there before

    def _make_room(self) -> None:
        """Remove the copies, of all buckets, that were used longest ago where they take more than they may."""
        keys = []
        for folder in [mark.parent for mark in self.folder.parent.glob(f"*/{MARK}")]:
            for partial in folder.glob("sub-*/.bin-*.partial"):
                if time.time() - _last_change(partial) > _DEBRIS_S:
                    shutil.rmtree(partial, ignore_errors=True)
            for key in folder.glob("sub-*/bin-*ms.zarr"):
                with suppress(OSError):
                    keys.append((key.stat().st_mtime, sum(file.stat().st_size for file in _files_in(key)), key))
        excess = sum(n_bytes for _, n_bytes, _ in keys) - self.limit_bytes
        for used, n_bytes, key in sorted(keys):
            if excess <= 0 or time.time() - used < _IN_USE_S:
                break
            aside = key.with_name(f".{key.name}.{uuid.uuid4().hex}.partial")
            with suppress(OSError):
                key.rename(aside)  # in one step, so that nobody meets half of it
                shutil.rmtree(aside, ignore_errors=True)
                excess -= n_bytes


def usable_copy(place: Path, sha256: str, every_byte: bool = False) -> Description | None:
    """Return what a key on this machine says of itself, if it is the one of the digest, and whole."""
    try:
        if file_sha256(place / DESCRIPTION) != sha256:
            return None
        description = describe(place)
        check_files(description, every_byte)
    except (CacheError, OSError):
        return None
    return description


def fill_file(to: Path, expected: Mapping[str, Any], stream: Callable[[int, int], Iterable[bytes]]) -> bool:
    """Write what is missing of a file whose size and digest are known; return whether it is that file now.

    Parameters
    ----------
    stream : yields the bytes from one place to another
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):  # what was left of it may be damaged
        digest = hashlib.sha256(to.read_bytes() if to.exists() else b"")
        with to.open("ab") as file:
            for chunk in stream(file.tell(), expected["bytes"]):
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() == expected["sha256"]:
            return True
        to.unlink()
    return False


@contextmanager
def _alone_at(place: Path) -> Iterator[bool]:
    """Keep others of this machine from fetching the same key; yield whether that worked: not all disks have locks."""
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    with suppress(NotImplementedError, Timeout, OSError):
        lock.acquire(timeout=_LOCK_S)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _last_change(folder: Path) -> float:
    """Return when anything in a folder was changed; never, where it has gone meanwhile."""
    try:
        return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    except OSError:
        return time.time()


def _size_limit_bytes() -> float:
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_SIZE_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = float("nan")
    if not 0 <= gigabytes < float("inf"):
        raise SettingsError(f"{SIZE_VARIABLE}={text}: must be a number of GB, like {DEFAULT_SIZE_GB:g}")
    return gigabytes * 1e9


def _unwritable(place: Path, error: OSError) -> CacheError:
    return CacheError(
        f"{place}: cannot be written ({error.strerror or error}). Free space, or name another folder with --local-cache"
    )
