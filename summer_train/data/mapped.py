"""Open cached keys read-only: mapped counts, one label, times of bins. `selection` puts patients side by side.

Uncompressed arrays are mapped from their chunk files without zarr, whose import would take longer than the rest of
opening. Everything that such a file must satisfy is checked first. Other codecs go through zarr.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import DIMENSIONS, Description, build_command, check_files, describe
from summer_prep.errors import CacheError
from summer_prep.film.facts import LabelRule


@dataclass(kw_only=True)
class CachedPatient:
    """One patient's key, open: its counts stay readable while the key is rebuilt.

    chunks : mapped counts, (n_rows, n_units) each, one after the other along bins; the last may be longer than needed
    is_mapped : whether the chunks are files mapped into memory, or were decompressed into it
    key, attributes : the folder of the key, and its attributes
    label_names : in the order of the label arrays
    unit_columns : names of the columns of the unit table

    Its methods read further files, and raise CacheError if one cannot be read or was changed.
    """

    description: Description
    chunks: list[NDArray[Any]]
    is_mapped: bool

    def __post_init__(self) -> None:
        self.key = self.description.folder
        self.attributes = attributes = self.description.attributes
        self.patient_id = str(attributes["patient_id"])
        self.n_bins, self.n_units = int(attributes["n_bins"]), int(attributes["n_units"])
        self.label_names = list(attributes["label_names"])
        self.unit_columns = [name for name in attributes["digests"] if name not in DIMENSIONS]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the key is, not its counts, which another process maps itself."""
        return open_patient, (self.key, self.description)

    def label(self, label_name: str, rule: LabelRule) -> NDArray[np.uint8]:
        """Return one label's raw value in each bin, (n_bins,), 0, 1 or 99."""
        labels = _decoded(read_file(self.description, f"labels_{rule}/c/0/0")).reshape(-1, self.n_bins)
        label: NDArray[np.uint8] = labels[self.label_names.index(label_name)].copy()  # not a view of all labels
        return label

    def bin_times(self, name: str) -> NDArray[np.float64]:
        """Return one of bin_start_s, recorded_s, long_frame_s, recording_start_ms and recording_stop_ms, (n_bins,)."""
        dtype = "<f4" if name in ("recorded_s", "long_frame_s") else "<f8"
        return np.frombuffer(read_file(self.description, f"{name}/c/0"), dtype=dtype).astype(np.float64)

    def unit_column(self, name: str) -> NDArray[Any]:
        """Return a column of the unit table, (n_units,), text or numbers."""
        if name in self.attributes["units"]:
            return np.array(self.attributes["units"][name])
        data_type = json.loads(read_file(self.description, f"{name}/zarr.json"))["data_type"]
        return np.frombuffer(read_file(self.description, f"{name}/c/0"), dtype=np.dtype(data_type).newbyteorder("<"))


@lru_cache(maxsize=1)
def _decoded(chunk: bytes) -> NDArray[np.uint8]:
    """Return all labels of a rule, which are one compressed chunk: a study asks for one label after the other."""
    from numcodecs.zstd import Zstd

    return np.frombuffer(Zstd().decode(chunk), dtype=np.uint8)


def open_patient(key: Path, description: Description | None = None) -> CachedPatient:
    """Open one key, checking its structure; a key that is rebuilt meanwhile is opened again.

    description : what the key was when its files were checked; other content is refused

    Raises CacheError if the key is missing, damaged or of another schema.
    """
    for attempt in range(5):
        current = description if description and not attempt else describe(key)
        if description and current.attributes["digests"] != description.attributes["digests"]:
            raise CacheError(f"{key}: was rebuilt with other content since it was opened. Run again")
        try:
            if current is not description:
                check_files(current)
            chunks, is_mapped = _open_counts(current)
            if current.is_current():
                return CachedPatient(description=current, chunks=chunks, is_mapped=is_mapped)
        except (CacheError, OSError, ValueError, RuntimeError) as error:
            if current.is_current():
                if isinstance(error, CacheError):
                    raise
                raise CacheError(
                    f"{key}: cannot be read ({error}). Check its permissions, or rebuild it: {build_command(key)}"
                ) from error
    raise CacheError(f"{key}: is being rebuilt again and again. Wait for the builds to end")


def _open_counts(description: Description) -> tuple[list[NDArray[Any]], bool]:
    """Map the chunk files of spike_counts if they are plain bytes; else decompress the array with zarr."""
    attributes, place = description.attributes, description.folder / "spike_counts"
    metadata = json.loads(read_file(description, "spike_counts/zarr.json"))
    shape = (attributes["n_bins"], attributes["n_units"])
    chunk_rows, chunk_units = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = {"uint8": "u1", "uint16": "<u2"}.get(metadata["data_type"])
    if tuple(metadata["shape"]) != shape or dtype is None or chunk_units != shape[1] or chunk_rows < 1:
        raise CacheError(f"{place}: is not what the key describes. Rebuild it: {build_command(description.key)}")
    if [codec["name"] for codec in metadata["codecs"]] == ["bytes"]:
        # Copy-on-write: torch wants writable memory, and nothing that is written there reaches the file.
        return [
            np.memmap(place / "c" / str(number) / "0", np.dtype(dtype), mode="c", shape=(chunk_rows, chunk_units))
            for number in range(-(-shape[0] // chunk_rows))
        ], True
    import zarr

    array: Any = zarr.open_array(place, mode="r")
    counts = np.ascontiguousarray(array[...])
    if hashlib.sha256(counts.data).hexdigest() != attributes["digests"]["spike_counts"]:
        raise CacheError(f"{place}: its bytes were changed. Rebuild it: {build_command(description.key)}")
    return [counts], False


def read_file(description: Description, name: str) -> bytes:
    """Read a small file of a key; raises CacheError if that fails, or if it was changed since the key was described."""
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
