"""Files of results: checked before the work starts, written whole or not at all, and locked.

(`cache.publish` replaces whole folders.)
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from summer_prep.errors import SettingsError
from summer_prep.options import as_path

LOCK = ".lock"
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def check_folder(folder: Path, option: str, is_written: bool = True) -> None:
    """Check that a folder is there or can be made, and that it may be written into if it is to be.

    Raises
    ------
    SettingsError : a file stands in its way, or permission is missing
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not os.path.isdir(place):
        kind = "is a file, not a folder" if os.path.exists(place) else "is a link to a folder that is not there"
        raise SettingsError(f"{option} {folder}: {place} {kind}. Name another folder")
    if is_written and not os.access(place, os.W_OK | os.X_OK):
        raise SettingsError(f"{option} {folder}: {place} may not be written to. Name another folder")


def check_picture(picture: Path | None) -> Path | None:
    """Check the value of a --picture option, and return it.

    Raises
    ------
    SettingsError : not the name of a picture, or it cannot be written there
    """
    if picture is not None:
        as_path(picture, "--picture")
        if picture.suffix.lower() not in PICTURE_SUFFIXES:
            raise SettingsError(f"--picture {picture}: name a file that ends in {', '.join(PICTURE_SUFFIXES)}")
        if picture.is_dir():
            raise SettingsError(f"--picture {picture}: is a folder. Name a file")
        check_folder(picture.parent, "--picture")
    return picture


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sizes in inches, that is not part of pyplot: a notebook's figures and backend stay."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Any, picture: Path) -> None:
    """Write a figure.

    Raises
    ------
    SettingsError : the picture cannot be written
    """
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


@contextmanager
def writing(target: Path, advice: str = "Free space, or name another folder with --output-dir") -> Iterator[None]:
    """Report in one line that a file or a folder cannot be written.

    Raises
    ------
    SettingsError : no space, no permission or no such folder
    """
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{target}: cannot be written ({error.strerror or error}). {advice}") from error


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file; a killed process leaves the old one or the new one."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside its path, to which it is renamed after it has been written."""
    staged = path.with_name(f".{path.name}.staging")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("wb") as file:
            yield file
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, problem: str) -> Iterator[None]:
    """Lock a folder against other processes, and remove the half-written files that a killed one left in it.

    Raises
    ------
    SettingsError : another process has the lock, and what that means; or the folder cannot be written
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SettingsError(f"{folder}: {problem}. Wait for its end") from error
    try:
        with writing(folder):
            for debris in (*folder.glob(".*.staging"), *folder.glob("*/.*.staging")):
                debris.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            lock.release()
            (folder / LOCK).unlink(missing_ok=True)
