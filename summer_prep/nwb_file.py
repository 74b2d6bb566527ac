"""Opens an NWB file that may be hostile: nothing outside it is followed, and memory is bounded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from summer_prep.errors import RecordingError, SummerError

if TYPE_CHECKING:
    from pynwb import NWBFile

MEMORY_BYTES = 800 * 2**20
"""Four times what a film-length recording takes to read, address space of threads included."""

_UNREADABLE = "cannot be read as an NWB file, it is damaged, cut short or not NWB ({}). Download it again"
_MAX_DEPTH = 50
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def opened(path: Path) -> Iterator["NWBFile"]:
    """Open a recording for reading; what is raised inside as a RecordingError gets the file's path in front.

    Raises
    ------
    RecordingError : the file is missing, damaged, or leads elsewhere
    """
    _refuse_what_is_not_hdf5(path)
    with _bounded_memory():
        _refuse_what_leads_elsewhere(path)
        with _opened(path) as nwb_file:
            try:
                yield nwb_file
            except RecordingError as error:
                raise RecordingError(f"{path}: {error}") from error


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let this process grow by MEMORY_BYTES at most: a damaged length makes HDF5 ask for gigabytes of text."""
    try:
        import resource

        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # no such limits on this system
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = in_use + MEMORY_BYTES
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _refuse_what_is_not_hdf5(path: Path) -> None:
    try:
        with path.open("rb") as file:
            signature = file.read(len(_HDF5_SIGNATURE))
    except FileNotFoundError as error:
        raise RecordingError(f"{path}: no such file. Check --data-dir and --nwb-path") from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    if not signature:
        raise RecordingError(f"{path}: the file is empty. Download it again")
    if signature != _HDF5_SIGNATURE:
        raise RecordingError(f"{path}: not an HDF5 file, so not an NWB recording. Download it again")


def _refuse_what_leads_elsewhere(path: Path) -> None:
    """Refuse links and storage outside the file, and groups that contain themselves, before NWB follows them."""
    try:
        with h5py.File(path, "r") as file:
            _check_group(file, "/", 0, set())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise RecordingError(f"{path}: {_UNREADABLE.format(_first_words(error))}") from error
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error


def _check_group(group: h5py.Group, name: str, depth: int, known: set[Any]) -> None:
    if depth > _MAX_DEPTH:
        raise RecordingError(f"groups are nested deeper than {_MAX_DEPTH} at {name}. Download the file again")
    known.add(h5py.h5o.get_info(group.id).addr)
    for child in group:
        link = group.get(child, getlink=True)
        where = f"{name}{child}"
        if isinstance(link, h5py.ExternalLink):
            raise RecordingError(f"{where} links to another file ({link.filename}), which is refused")
        if isinstance(link, h5py.SoftLink):
            continue  # what it names is reached by its own name
        item = group[child]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise RecordingError(f"{where} keeps its values in another file, which is refused")
        if isinstance(item, h5py.Group):
            # Twice the same group is a cycle, or doubles the ways through the file with every level.
            if h5py.h5o.get_info(item.id).addr in known:
                raise RecordingError(f"{where} is a group that has another name, too. Download the file again")
            _check_group(item, f"{where}/", depth + 1, known)


def _first_words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _opened(path: Path) -> Iterator["NWBFile"]:
    from pynwb import NWBHDF5IO

    try:
        with warnings.catch_warnings():
            # Namespace versions and the like: of interest to who wrote the file, not to who bins it.
            warnings.simplefilter("ignore")
            with NWBHDF5IO(path, "r", load_namespaces=True) as io:
                yield io.read()
    except SummerError:
        raise
    except Exception as error:  # h5py, hdmf and pynwb raise whatever broke deep inside on a damaged file
        raise RecordingError(f"{path}: {_UNREADABLE.format(_first_words(error))}") from error
