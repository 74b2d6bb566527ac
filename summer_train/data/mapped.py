"""Open cached keys read-only: mapped counts, one label, times of bins. Patients side by side are a `selection`.

Uncompressed arrays are mapped from their chunk files without zarr, whose import would cost more than the rest of
opening; everything that such a file must satisfy is checked first, and other codecs go through zarr.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import DIMENSIONS, Description, build_command, check_files, describe
from summer_prep.errors import CacheError
from summer_prep.film.facts import LabelRule

_OPEN_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class CachedPatient:
    """One patient's key, open: its counts stay readable while the key is rebuilt.

    chunks : mapped counts, (n_rows, n_units) each, one after the other along bins; the last may be longer than needed
    is_mapped : whether the chunks are files mapped into memory, or were decompressed into it

    Beside the counts: `label` reads the labels, `bin_times` where bins lie on both clocks, `unit_column` the units.
    """

    description: Description
    chunks: list[NDArray[Any]]
    is_mapped: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the key stands, not its counts, which another process maps itself."""
        return _open_again, (self.description,)

    @property
    def key(self) -> Path:
        """Where the key stands."""
        return self.description.folder

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the key says of itself."""
        return self.description.attributes

    @property
    def patient_id(self) -> str:
        """The patient."""
        return str(self.attributes["patient_id"])

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return int(self.attributes["n_bins"])

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.attributes["n_units"])

    @property
    def label_names(self) -> list[str]:
        """Names of the film annotations, in the order of the label arrays."""
        return list(self.attributes["label_names"])

    def label(self, label_name: str, rule: LabelRule) -> NDArray[np.uint8]:
        """Return one label's raw value in each bin, (n_bins,), 0, 1 or 99.

        Raises
        ------
        CacheError : the file cannot be read, or is not what was there when the key was opened
        """
        labels = _decoded(read_file(self.description, f"labels_{rule}/c/0/0"))
        label: NDArray[np.uint8] = labels.reshape(len(self.label_names), self.n_bins)[
            self.label_names.index(label_name)
        ]
        return label.copy()  # of its own, not a part of all labels

    def bin_times(self, name: str) -> NDArray[np.float64]:
        """Return one of bin_start_s, recorded_s, long_frame_s, recording_start_ms and recording_stop_ms, (n_bins,).

        Raises
        ------
        CacheError : as `label`
        """
        dtype = "<f4" if name in ("recorded_s", "long_frame_s") else "<f8"
        return np.frombuffer(read_file(self.description, f"{name}/c/0"), dtype=dtype).astype(np.float64)

    @property
    def unit_columns(self) -> list[str]:
        """Names of the columns of the unit table."""
        return [name for name in self.attributes["digests"] if name not in DIMENSIONS]

    def unit_column(self, name: str) -> NDArray[Any]:
        """Return a column of the unit table, (n_units,), text or numbers.

        Raises
        ------
        CacheError : as `label`
        """
        if name in self.attributes["units"]:
            return np.array(self.attributes["units"][name])
        metadata = json.loads(read_file(self.description, f"{name}/zarr.json"))
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        return np.frombuffer(read_file(self.description, f"{name}/c/0"), dtype=dtype)


def _open_again(description: Description) -> CachedPatient:
    patient = open_patient(description.folder, description)
    if patient.attributes["digests"] != description.attributes["digests"]:
        raise CacheError(f"{patient.key}: was rebuilt with other content since it was opened. Run again")
    return patient


@lru_cache(maxsize=1)
def _decoded(chunk: bytes) -> NDArray[np.uint8]:
    """Return the labels in a compressed chunk, all of a rule: a study asks for one after the other."""
    from numcodecs.zstd import Zstd

    return np.frombuffer(Zstd().decode(chunk), dtype=np.uint8)


def open_patient(key: Path, description: Description | None = None) -> CachedPatient:
    """Open one key, checking its structure; a key that is rebuilt meanwhile is opened again.

    Parameters
    ----------
    description : what the key says, where that has been read and its files checked a moment ago

    Raises
    ------
    CacheError : the key is missing, damaged or of another schema
    """
    for _ in range(_OPEN_ATTEMPTS):
        problem: Exception | None = None
        is_checked = description is not None
        current = description or describe(key)
        try:
            if not is_checked:
                check_files(current)
            chunks, is_mapped = _open_counts(current)
        except (CacheError, OSError, ValueError) as error:
            problem = error
        if not current.is_current():
            description = None
            continue  # rebuilt meanwhile
        if problem is None:
            return CachedPatient(description=current, chunks=chunks, is_mapped=is_mapped)
        if isinstance(problem, CacheError):
            raise problem
        raise CacheError(
            f"{key}: cannot be read ({problem}). Check its permissions, or rebuild it: {build_command(key)}"
        ) from problem
    raise CacheError(f"{key}: is being rebuilt again and again. Wait for the builds to end")


def _open_counts(description: Description) -> tuple[list[NDArray[Any]], bool]:
    """Map the chunk files of spike_counts where they are plain bytes; read the array through zarr where not."""
    key, attributes = description.folder, description.attributes
    metadata = json.loads(read_file(description, "spike_counts/zarr.json"))
    shape = (attributes["n_bins"], attributes["n_units"])
    chunk_rows, chunk_units = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    dtypes: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "uint16": np.dtype("<u2")}
    dtype = dtypes.get(metadata["data_type"])
    if tuple(metadata["shape"]) != shape or dtype is None or chunk_units != shape[1] or chunk_rows < 1:
        raise CacheError(f"{key / 'spike_counts'}: is not what the key describes. Rebuild it: {build_command(key)}")
    if [codec["name"] for codec in metadata["codecs"]] != ["bytes"]:
        return [_decompress(description)], False
    # Copy-on-write: torch wants writable memory, and nothing that is written there reaches the file.
    return [
        np.memmap(key / "spike_counts" / "c" / str(number) / "0", dtype, mode="c", shape=(chunk_rows, chunk_units))
        for number in range(-(-shape[0] // chunk_rows))
    ], True


def _decompress(description: Description) -> NDArray[Any]:
    import zarr

    place = description.folder / "spike_counts"
    array: Any = zarr.open_array(place, mode="r")
    try:
        counts = np.ascontiguousarray(array[...])
    except (ValueError, RuntimeError) as error:
        raise CacheError(f"{place}: cannot be decoded. Rebuild it: {build_command(description.key)}") from error
    if hashlib.sha256(counts.data).hexdigest() != description.attributes["digests"]["spike_counts"]:
        raise CacheError(f"{place}: its bytes were changed. Rebuild it: {build_command(description.key)}")
    return counts


def read_file(description: Description, name: str) -> bytes:
    """Read a small file of a key against its digest: since it was opened, the key may have been rebuilt or damaged.

    Raises
    ------
    CacheError : the file cannot be read, or is not what was there when the key was described
    """
    path = description.folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}). Check --cache-dir") from error
    if hashlib.sha256(content).hexdigest() != description.attributes["files"][name]["sha256"]:
        raise CacheError(
            f"{path}: its bytes were changed, or it was rebuilt since it was opened. Run again; if this comes back, "
            f"rebuild it: {build_command(description.key)}"
        )
    return content
