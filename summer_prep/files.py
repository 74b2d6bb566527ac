"""Where results go: places are checked before the work whose results they are to hold; pictures are saved here."""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from summer_prep.errors import SettingsError
from summer_prep.options import as_path

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
    import matplotlib

    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        dated = {"metadata": {"Date": None}} if picture.suffix == ".svg" else {}  # equal pictures are equal files
        with matplotlib.rc_context({"svg.hashsalt": "summer"}):
            figure.savefig(picture, dpi=110, **dated)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{picture}: the picture cannot be written ({error}). Name another file") from error


@contextmanager
def staged(target: Path, advice: str) -> Iterator[Path]:
    """Yield a place beside a file or folder to write it at, of which nothing is left, whatever happens.

    Parameters
    ----------
    advice : what to do if it cannot be written

    Raises
    ------
    SettingsError : it cannot be written
    """
    # A suffix of its kind: pynwb warns of files of others.
    place = target.with_name(f".{uuid.uuid4().hex}.staging{target.suffix.lower()}")
    try:
        yield place
    except OSError as error:
        raise SettingsError(f"{target}: cannot be written ({_reason(error)}). {advice}") from error
    finally:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            with suppress(OSError):
                place.unlink()


def _reason(error: OSError) -> str:
    """Return why something could not be written; HDF5 hides the number of the error in a long text."""
    number = re.search(r"errno = (\d+)", str(error))
    return error.strerror or (os.strerror(int(number[1])) if number else str(error).split("\n")[0])
