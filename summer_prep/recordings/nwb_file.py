"""Open an NWB file and read columns of its tables; links to other files are never followed.

With h5py and not pynwb, which builds an object of everything in a file and refuses all of it for a part that is not
needed here.
"""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError
from summer_prep.resources import available_bytes

BYTES_PER_VALUE = 16
"""Memory that reading a column takes: as the file stores it, and as it is returned."""

Kind = Literal["numbers", "text"]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a recording for reading; a RecordingError that is raised inside gets the file's path in front.

    Raises
    ------
    RecordingError : the file is missing, in use, cut short, damaged, or not NWB
    """
    try:
        with h5py.File(path, "r") as file:
            if not {"nwb_version", "neurodata_type"} & set(file.attrs):
                raise RecordingError("cannot be read as an NWB file: it is HDF5, but has no nwb_version")
            yield file
    # What h5py raises depends on which byte is damaged.
    except (
        RecordingError,
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        code, words = getattr(error, "errno", None), " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if isinstance(error, RecordingError):
            problem = str(error)
        elif code in (errno.EAGAIN, errno.ENOLCK, errno.EOPNOTSUPP):
            problem = (
                f"cannot be locked ({os.strerror(code)}): it is open in another program, or its file system has no "
                "locks. Close it there, or set HDF5_USE_FILE_LOCKING=FALSE in the environment if nothing writes to it"
            )
        elif code is not None:
            problem = f"cannot be read ({os.strerror(code)}). Check --data-dir and --nwb-path"
        elif isinstance(error, MemoryError):
            problem = "memory ran out while it was read. Use fewer --workers, or compare its SHA-256 with the archive's"
        elif not h5py.is_hdf5(path):
            problem = (
                "not an HDF5 file, so not an NWB recording. Check that it is not empty, a pointer or an error page"
            )
        else:
            damage = "cut short" if "truncated file" in str(error) else "damaged"
            problem = f"cannot be read as an NWB file: it is {damage} ({words}). Download it again"
        raise RecordingError(f"{path}: {problem}") from error


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a child of a group; None if there is none.

    Raises
    ------
    RecordingError : it is in another file
    """
    link = group.get(name, getlink=True)
    item = None if isinstance(link, h5py.ExternalLink) else group.get(name)
    # A link within the file may lead to one out of it.
    other = link.filename if isinstance(link, h5py.ExternalLink) else item is not None and item.file.filename
    if other and other != group.file.filename:
        raise RecordingError(f"{group.name.rstrip('/')}/{name} links to another file ({other}), which is refused")
    return item


def find_table(file: h5py.File, name: str) -> h5py.Group:
    """Return the table of this name in any group: every layout in use, and the next one.

    Raises
    ------
    RecordingError : there is none, or there are two that differ
    """
    paths: list[str] = []
    file.visit(paths.append)  # visits every object once, and follows no link
    found = [file[path] for path in paths if path.rpartition("/")[2] == name and "colnames" in file[path].attrs]
    if not found:
        raise RecordingError(f"no table {name} in any module. Is this file of the SUMMER data set (DANDI 001616)?")
    for other in found[1:]:
        if set(found[0]) != set(other) or not all(
            np.array_equal(read(column(found[0], one)), read(column(other, one))) for one in other
        ):
            raise RecordingError(
                f"two tables {name} that differ, {found[0].name} and {other.name}. Remove the wrong one"
            )
    return found[0]


def column_names(table: h5py.Group) -> list[str]:
    """Return the names of a table's columns, in its order."""
    return [as_text(name) for name in np.atleast_1d(table.attrs.get("colnames", []))]


def column(table: h5py.Group, name: str, kind: Kind | None = None, is_ragged: bool = False) -> h5py.Dataset:
    """Return a column's data set, unread.

    Parameters
    ----------
    kind : what it must hold; by default anything
    is_ragged : whether it must hold a list a row instead of one value

    Raises
    ------
    RecordingError : there is none, or it holds something else
    """
    data = child(table, name)
    if not isinstance(data, h5py.Dataset):
        raise RecordingError(f"no column {name} in table {table.name}; it has {', '.join(column_names(table))}")
    if kind and (kind_of(data) != kind or (f"{name}_index" in table) != is_ragged):
        a_row = f"a list of {kind} a row, with a column {name}_index" if is_ragged else f"{kind}, one value a row"
        raise RecordingError(f"column {data.name} does not hold {a_row}; its type is {data.dtype}, shape {data.shape}")
    return data


def kind_of(data: h5py.Dataset) -> Kind | None:
    """Return what a column holds, one value a row: (n,), or (n, 1) as MatNWB writes it; None for anything else.

    Floats wider than 64 bits are not portable, so they are no numbers.
    """
    if data.shape is None or data.shape[1:] not in ((), (1,)) or not data.shape:
        return None
    if h5py.check_string_dtype(data.dtype) is not None:
        return "text"
    return "numbers" if data.dtype.kind in "iufb" and data.dtype.itemsize <= 8 else None


def read(data: h5py.Dataset, bytes_per_value: int = BYTES_PER_VALUE) -> NDArray[Any]:
    """Read a whole data set of one value a row, (n,).

    Parameters
    ----------
    bytes_per_value : memory that it and what is made of it take, so that more than is free is refused

    Raises
    ------
    RecordingError : another shape, more than memory allows, values in another file, or a compression that is missing
    """
    n_values = math.prod(data.shape or ())
    if data.external or data.is_virtual:
        raise RecordingError(f"column {data.name} keeps its values in another file, which is refused")
    n_bytes = n_values * max(bytes_per_value, data.dtype.itemsize)
    if n_bytes > available_bytes():
        raise RecordingError(
            f"column {data.name} declares {n_values} values, which take about {n_bytes / 1e9:.1f} GB; "
            f"{available_bytes() / 1e9:.1f} GB are free. Use fewer --workers, or a machine with more memory"
        )
    properties = data.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                import_module("hdf5plugin")  # registers compressions that HDF5 itself does not have
        if not h5py.h5z.filter_avail(code):
            raise RecordingError(
                f"column {data.name} is compressed by HDF5 filter {code} ({as_text(name.partition(b';')[0])}), "
                "which is not installed. Install it: pip install hdf5plugin"
            )
    return np.asarray(data[()]).reshape(n_values)


def read_column(table: h5py.Group, name: str, kind: Kind, bytes_per_value: int = BYTES_PER_VALUE) -> NDArray[Any]:
    """Read a column of one number or text a row, (n_rows,); texts as str. Raises RecordingError."""
    values = read(column(table, name, kind), bytes_per_value)
    return np.array([as_text(value) for value in values], dtype=object) if kind == "text" else values


def as_text(value: Any) -> str:
    """Return a text of a file."""
    return value.decode() if isinstance(value, bytes) else str(value)


def text_at(file: h5py.File, name: str) -> str:
    """Return a single text, like the session's id; empty if there is none."""
    data = child(file, name)
    if not isinstance(data, h5py.Dataset) or not h5py.check_string_dtype(data.dtype) or data.size != 1:
        return ""
    return as_text(np.ravel(data[()])[0])


def ragged_column(table: h5py.Group, name: str, kind: Kind) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """Return a ragged column's data set, unread, and where each row stops in it, (n_rows,); raises RecordingError."""
    data = column(table, name, kind, is_ragged=True)
    stops = read_column(table, f"{name}_index", "numbers")
    steps = np.diff(stops.astype(np.int64), prepend=0)
    if stops.dtype.kind not in "iu" or (steps < 0).any() or (len(stops) and steps.sum() != len(data)):
        raise RecordingError(
            f"column {data.name}_index runs backwards or past the end: {stops[-1:]} instead of {len(data)}"
        )
    return data, stops.astype(np.int64)


def check_rows(table: h5py.Group, **rows: int) -> None:
    """Check that columns of a table, by name, have the same number of rows; raises RecordingError."""
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} has {n} rows" for name, n in rows.items())
        raise RecordingError(f"columns of table {table.name} differ in length: {found}")
