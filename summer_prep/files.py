"""Files of results: checked before the work starts, written whole or not at all; and locks on folders.

(`cache.publish` replaces whole folders.)
"""

import base64
import errno
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from summer_prep.errors import SettingsError, SummerError
from summer_prep.options import as_path

LOCK = ".lock"
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def check_folder(folder: Path, option: str, is_written: bool = True) -> None:
    """Check that a folder is there or can be made, and may be written to if it is to be; raises SettingsError."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    problem = "is a file, not a folder" if os.path.exists(there) else "is a link to a folder that is not there"
    if os.path.isdir(there):
        try:
            if is_written:
                tempfile.TemporaryFile(dir=there).close()
            return
        except OSError as error:
            problem = f"cannot be written to ({error.strerror})"
    raise SettingsError(f"{option} {folder}: {there} {problem}. Name another folder")


def check_picture(picture: Path | None) -> Path | None:
    """Return the value of a --picture option; raises SettingsError if no picture can be written there."""
    if picture is not None:
        as_path(picture, "--picture")
        if picture.suffix.lower() not in PICTURE_SUFFIXES:
            raise SettingsError(f"--picture {picture}: name a file that ends in {', '.join(PICTURE_SUFFIXES)}")
        if picture.is_dir():
            raise SettingsError(f"--picture {picture}: is a folder. Name a file")
        check_folder(picture.parent, "--picture")
    return picture


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sizes in inches, outside pyplot, so that a notebook keeps its figures and backend."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Any, picture: Path) -> None:
    """Write a figure, and the folder for it; raises SettingsError if it cannot be written."""
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(picture_bytes(figure, picture.suffix[1:].lower(), dpi=300))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{picture}: the picture cannot be written ({error}). Name another file") from error


def picture_bytes(figure: Any, kind: str, **options: Any) -> bytes:
    """Return a figure as png, svg or pdf; equal figures are equal bytes."""
    import matplotlib

    content = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "summer", "svg.fonttype": "none"}):  # text stays text
        figure.savefig(content, format=kind, metadata=date, **options)
    return content.getvalue()


def as_data_url(figure: Any) -> str:
    """Return a figure as SVG in the address of an image."""
    content = picture_bytes(figure, "svg", transparent=True, dpi=300)
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"


@contextmanager
def writing(
    target: Path, advice: str = "Name another folder with --output-dir", kind: type[SummerError] = SettingsError
) -> Iterator[None]:
    """Raise an OSError while a file or a folder is written as one line of a kind, with what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"Free space, or {advice[0].lower()}{advice[1:]}"
        raise kind(f"{target}: cannot be written ({error.strerror or error}). {advice}") from error


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file; a process that is killed leaves the old one or the new one."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside its path, to which it is renamed after it has been written; never in place of a device."""
    if path.exists() and not path.is_file():
        raise SettingsError(f"{path}: is no file that can be replaced. Name another")
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.staging")  # each writer of a path has its own
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("wb") as file:
            yield file
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[Exception | None]:
    """Lock a folder against other processes; yield what prevented it, if anything did.

    A folder that is missing is made, and removed in the end if it is empty.
    """
    lock, problem, was_there = FileLock(folder / LOCK), None, folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout_s)
    except (OSError, NotImplementedError) as error:  # held by another process for so long, not writable, or no locks
        problem = error
    try:
        yield problem
    finally:
        with suppress(OSError):
            if problem is None:
                (folder / LOCK).unlink(missing_ok=True)  # before its release, after which it may be another process's
                lock.release()
            if not was_there:
                folder.rmdir()


@contextmanager
def alone_in(folder: Path, problem: str) -> Iterator[None]:
    """Lock a folder against other processes, and remove the half-written files that a killed one left in it.

    Raises SettingsError if another process has the lock, which is the `problem`, or the folder cannot be written.
    """
    with locked(folder, timeout_s=0) as error:
        if isinstance(error, Timeout):
            raise SettingsError(f"{folder}: {problem}. Wait for its end") from error
        with writing(folder):
            if isinstance(error, OSError):
                raise error
            _clear_staging(folder)
        yield
        with writing(folder):
            _clear_staging(folder)  # of a worker that was killed meanwhile


def _clear_staging(folder: Path) -> None:
    for debris in (*folder.glob(".*.staging"), *folder.glob("*/.*.staging")):
        debris.unlink(missing_ok=True)
