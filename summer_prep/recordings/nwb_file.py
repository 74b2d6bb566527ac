"""Opens an NWB file and reads columns of its tables. What lies in other files is never followed.

h5py and not pynwb, which builds an object of everything in a file and refuses all of it for a part that nobody needs.
"""

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError
from summer_prep.resources import available_bytes

BYTES_PER_VALUE = 16
"""Memory that reading a column takes: as the file stores it, and as it is returned."""


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a recording for reading; what is raised inside as a RecordingError gets the file's path in front.

    Raises
    ------
    RecordingError : the file is missing, in use, cut short, damaged, or not NWB
    """
    try:
        with h5py.File(path, "r") as file:
            if not {"nwb_version", "neurodata_type"} & set(file.attrs):
                raise RecordingError("cannot be read as an NWB file: it is HDF5, but has no nwb_version")
            yield file
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    # What h5py raises depends on which byte is damaged.
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise RecordingError(f"{path}: {_problem(path, error)}") from error


def _problem(path: Path, error: BaseException) -> str:
    code, words = getattr(error, "errno", None), " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if code is not None:
        return _SYSTEM_ERRORS.get(code, "cannot be read ({})").format(os.strerror(code))
    if isinstance(error, MemoryError):
        return "memory ran out while it was read. Use fewer --workers, or compare its SHA-256 with the archive's"
    if path.stat().st_size == 0:
        return "the file is empty. Download it again"
    if not h5py.is_hdf5(path):
        return "not an HDF5 file, so not an NWB recording. Check what it is: a pointer file, or a page with an error?"
    if "truncated file" in str(error):  # HDF5 tells it in no other way
        return f"cannot be read as an NWB file: it is cut short ({words}). Download it again"
    return f"cannot be read as an NWB file: it is damaged ({words}). Compare its size and SHA-256 with the archive's"


_LOCKED = (
    "cannot be locked ({}): it is open in another program, or its file system has no locks. "
    "Close it there, or set the environment variable HDF5_USE_FILE_LOCKING=FALSE if nothing writes to it"
)
_SYSTEM_ERRORS = {
    errno.ENOENT: "no such file. Check --data-dir and --nwb-path",
    **dict.fromkeys((errno.EAGAIN, errno.ENOLCK, errno.EOPNOTSUPP), _LOCKED),
}


def is_elsewhere(group: h5py.Group, name: str) -> bool:
    """Return whether a child of a group lies in another file, whether or not that is there."""
    return isinstance(group.get(name, getlink=True), h5py.ExternalLink)


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a child of a group; None if there is none.

    Raises
    ------
    RecordingError : it lies in another file
    """
    item = None if is_elsewhere(group, name) else group.get(name)
    # A link within the file may lead to one out of it.
    if is_elsewhere(group, name) or (item is not None and _object_of(item).fileno != _object_of(group).fileno):
        target = getattr(group.get(name, getlink=True), "filename", item and item.file.filename)
        raise RecordingError(f"{group.name.rstrip('/')}/{name} links to another file ({target}), which is refused")
    return item


def find_tables(file: h5py.File, *names: str) -> dict[str, list[h5py.Group]]:
    """Return the tables of these names wherever they stand: every layout in use, and the next one."""
    found: dict[str, list[h5py.Group]] = {name: [] for name in names}

    def note_table(path: str) -> None:  # visits every object once, and follows no link
        tables = found.get(path.rpartition("/")[2])
        if tables is not None and "colnames" in file[path].attrs:
            tables.append(file[path])

    file.visit(note_table)
    return found


def _object_of(item: h5py.Group | h5py.Dataset) -> Any:
    return h5py.h5o.get_info(item.id)


def name_of(table: h5py.Group) -> str:
    """Return the name of a table without the groups that it stands in."""
    return str(table.name).rpartition("/")[2]


def column_names(table: h5py.Group) -> list[str]:
    """Return the names of a table's columns, in its order."""
    names: Any = np.atleast_1d(table.attrs["colnames"]) if "colnames" in table.attrs else []
    return [as_text(name) for name in names]


def column(table: h5py.Group, name: str) -> h5py.Dataset:
    """Return a column's data set, unread.

    Raises
    ------
    RecordingError : there is none
    """
    data = child(table, name)
    if not isinstance(data, h5py.Dataset):
        raise RecordingError(f"no column {name} in table {name_of(table)}; it has {', '.join(column_names(table))}")
    return data


def n_rows(data: h5py.Dataset) -> int | None:
    """Return the rows of a column of one value a row, (n,) or (n, 1) as MatNWB writes it; None for any other shape."""
    is_column = data.shape is not None and (len(data.shape) == 1 or data.shape[1:] == (1,))
    return int(data.shape[0]) if is_column else None


def read(data: h5py.Dataset, bytes_per_value: int = BYTES_PER_VALUE) -> NDArray[Any]:
    """Read a data set of one value a row whole, (n,).

    Parameters
    ----------
    bytes_per_value : memory that it and what is made of it take, so that more than is free is refused

    Raises
    ------
    RecordingError : another shape, more than memory allows, values in another file, or a compression that is missing
    """
    where = f"column {name_of(data)} of table {name_of(data.parent)}"
    if n_rows(data) is None:
        raise RecordingError(f"{where} does not hold one value a row; its shape is {data.shape}")
    if data.external or data.is_virtual:
        raise RecordingError(f"{where} keeps its values in another file, which is refused")
    n_bytes = math.prod(data.shape) * max(bytes_per_value, data.dtype.itemsize)
    if n_bytes > available_bytes():
        raise RecordingError(
            f"{where} declares {math.prod(data.shape)} values, which take about {n_bytes / 1e9:.1f} GB; "
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
                f"{where} is compressed by HDF5 filter {code} ({name.partition(b';')[0].decode(errors='replace')}), "
                "which is not installed. Install it: pip install hdf5plugin"
            )
    return np.asarray(data[()]).reshape(len(data))


def is_numbers(data: h5py.Dataset) -> bool:
    """Return whether a column holds numbers or flags; wider floats than 64 bits are not portable, so they are none."""
    return data.dtype.kind in "iufb" and data.dtype.itemsize <= 8


def is_texts(data: h5py.Dataset) -> bool:
    """Return whether a column holds text."""
    return h5py.check_string_dtype(data.dtype) is not None


def read_numbers(table: h5py.Group, name: str, bytes_per_value: int = BYTES_PER_VALUE) -> NDArray[Any]:
    """Read a column of one number a row, (n_rows,); raises RecordingError."""
    return read(_column_of(table, name, is_numbers, "one number a row"), bytes_per_value)


def read_texts(table: h5py.Group, name: str) -> list[str]:
    """Read a column of one text a row, (n_rows,); raises RecordingError."""
    return [as_text(value) for value in read(_column_of(table, name, is_texts, "one text a row"))]


def _column_of(table: h5py.Group, name: str, is_kind: Callable[[h5py.Dataset], bool], kind: str) -> h5py.Dataset:
    data = column(table, name)
    if not is_kind(data) or f"{name}_index" in table:
        raise RecordingError(f"column {name} of table {name_of(table)} does not hold {kind}")
    return data


def as_text(value: Any) -> str:
    """Return a text of a file."""
    return value.decode() if isinstance(value, bytes) else str(value)


def text_at(file: h5py.File, name: str) -> str:
    """Return a single text, like the session's id; empty if there is none."""
    data = child(file, name)
    if not isinstance(data, h5py.Dataset) or not is_texts(data) or data.shape is None or math.prod(data.shape) != 1:
        return ""
    return as_text(np.ravel(data[()])[0])


def ragged_column(
    table: h5py.Group, name: str, is_kind: Callable[[h5py.Dataset], bool]
) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """Return a ragged column's data set, unread, and where each row stops in it, (n_rows,); raises RecordingError."""
    where = f"column {name} of table {name_of(table)}"
    data = column(table, name)
    if f"{name}_index" not in table:
        raise RecordingError(f"{where} is not ragged: its {name}_index is missing")
    stops = read_numbers(table, f"{name}_index")
    if n_rows(data) is None or stops.dtype.kind not in "iu" or not is_kind(data):
        raise RecordingError(f"{where} does not hold one list of {'text' if is_kind is is_texts else 'numbers'} a row")
    stops = stops.astype(np.int64)
    if len(stops) and (stops[0] < 0 or (np.diff(stops) < 0).any() or stops[-1] != len(data)):
        raise RecordingError(
            f"{name}_index of table {name_of(table)} runs backwards or past the end: "
            f"it stops at {stops[-1]} of {len(data)} values"
        )
    return data, stops


def check_rows(table: h5py.Group, **rows: int | None) -> None:
    """Check that columns of a table, by name, have the same number of rows; raises RecordingError."""
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} has {n} rows" for name, n in rows.items())
        raise RecordingError(f"columns of table {name_of(table)} differ in length: {found}")
