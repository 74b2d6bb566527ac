"""Open cached keys read-only: mapped counts, one label, the choice of units, patients side by side.

Uncompressed arrays are mapped from their chunk files without zarr, whose import would cost more than the rest of
opening; everything that such a file must satisfy is checked first, and other codecs go through zarr.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import CacheError, SettingsError
from summer_prep.layout import (
    BRAIN_REGION_GROUPS,
    build_command,
    check_files,
    key_path,
    read_attributes,
)

_OPEN_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class CachedPatient:
    """One patient's key, open: its counts stay readable while the key is rebuilt.

    chunks : mapped counts, (n_rows, n_units) each, one after the other along bins; the last may be longer than needed
    is_mapped : whether the chunks are files mapped into memory, or were decompressed into it
    """

    key: Path
    attributes: dict[str, Any]
    chunks: list[NDArray[Any]]
    is_mapped: bool

    @property
    def patient_id(self) -> str:
        """The patient."""
        return str(self.attributes["patient_id"])

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return int(self.attributes["n_bins"])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen units of several patients on one bin grid, side by side in the order of the patients.

    units : for each patient the columns of its counts that are used
    """

    patients: list[CachedPatient]
    units: list[NDArray[np.int64]]

    @property
    def n_bins(self) -> int:
        """Number of bins, the same for every patient."""
        return self.patients[0].n_bins

    @property
    def n_units(self) -> int:
        """Number of units of all patients."""
        return sum(len(units) for units in self.units)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest dtype that holds every patient's counts."""
        return np.result_type(*(patient.chunks[0].dtype for patient in self.patients))

    @property
    def n_bytes(self) -> int:
        """Size of the chosen counts."""
        return self.n_bins * self.n_units * self.dtype.itemsize

    def counts(self) -> NDArray[Any]:
        """Return the chosen counts, (n_bins, n_units): the mapped file itself where it is exactly that."""
        mapped = self.counts_if_mapped()
        if mapped is not None:
            return mapped
        counts = np.empty((self.n_bins, self.n_units), dtype=self.dtype)
        self.copy_rows(0, counts)
        return counts

    def counts_if_mapped(self) -> NDArray[Any] | None:
        """Return the chosen counts without a copy, if they are one patient's only chunk; else None."""
        patient, units = self.patients[0], self.units[0]
        if len(self.patients) == 1 and len(patient.chunks) == 1 and len(units) == patient.chunks[0].shape[1]:
            return patient.chunks[0][: self.n_bins]
        return None

    def copy_rows(self, start: int, out: NDArray[Any]) -> None:
        """Fill `out`, (n_rows, n_units), with the counts of the bins from `start` on."""
        column = 0
        for patient, units in zip(self.patients, self.units, strict=True):
            all_units = len(units) == patient.chunks[0].shape[1]
            chunk_rows = len(patient.chunks[0])
            row = 0
            while row < len(out):
                number, within = divmod(start + row, chunk_rows)
                n_rows = min(chunk_rows - within, len(out) - row)
                rows = patient.chunks[number][within : within + n_rows]
                out[row : row + n_rows, column : column + len(units)] = rows if all_units else rows[:, units]
                row += n_rows
            column += len(units)

    def take_rows(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Fill `out`, (n_rows, n_units), with the counts of the bins named, in that order."""
        column = 0
        for patient, units in zip(self.patients, self.units, strict=True):
            number, within = np.divmod(indices, len(patient.chunks[0]))
            for chunk in np.unique(number):
                here = number == chunk
                out[here, column : column + len(units)] = patient.chunks[chunk][np.ix_(within[here], units)]
            column += len(units)

    def labels(self, label_name: str, rule: str) -> NDArray[np.uint8]:
        """Return one label's raw value in each bin, (n_bins,), 0, 1 or 99.

        Raises
        ------
        SettingsError : no such label
        CacheError : the file cannot be read, or is not what was there when the key was opened
        """
        patient = self.patients[0]
        names = patient.attributes["label_names"]
        if label_name not in names:
            import difflib

            nearest = difflib.get_close_matches(label_name, names, n=3, cutoff=0.4) or names
            raise SettingsError(
                f"no label {label_name!r} in {patient.key}; nearest are {', '.join(nearest)}. "
                f"All {len(names)}: summer-prep inspect {patient.patient_id}"
            )
        return _read_label(patient, f"labels_{rule}", names.index(label_name))

    def provenance(self) -> dict[str, Any]:
        """Return what these counts are, as plain values: patients, their units, bins, and the digests of the data."""
        return {
            "bin_length_ms": int(self.patients[0].attributes["bin_length_ms"]),
            "n_bins": self.n_bins,
            "patients": [
                {
                    "patient_id": patient.patient_id,
                    "units": units.tolist(),
                    "digests": {
                        name: digest
                        for name, digest in patient.attributes["digests"].items()
                        if name == "spike_counts" or name.startswith("labels_")
                    },
                }
                for patient, units in zip(self.patients, self.units, strict=True)
            ],
        }

    def verify(self) -> None:
        """Read every byte of the keys against their digests.

        Raises
        ------
        CacheError : a byte is wrong
        """
        for patient in self.patients:
            check_files(patient.key, patient.attributes, every_byte=True)

    def seen(self) -> NDArray[np.bool_]:
        """Return which bins every patient saw, (n_bins,)."""
        seen = np.ones(self.n_bins, dtype=bool)
        for patient in self.patients:
            if patient.attributes["n_unseen_bins"]:
                seen &= _read_vector(patient, "recorded_s", np.dtype("<f4")) > 0
        return seen


def open_selection(
    cache_dir: Path,
    patient_ids: Sequence[str],
    bin_length_ms: int,
    brain_regions: Sequence[str] = (),
    single_units: bool = False,
) -> Selection:
    """Open the keys of several patients and choose their units.

    Raises
    ------
    CacheError : a key is missing, damaged or of another schema; bin grids or annotations differ
    SettingsError : an unknown region, or no unit left
    """
    patients = [open_patient(key_path(cache_dir, patient_id, bin_length_ms)) for patient_id in patient_ids]
    for patient in patients[1:]:
        _check_same_film(patients[0], patient)
    wanted = _members(brain_regions, patients)
    units = [_choose_units(patient, wanted, single_units) for patient in patients]
    if not any(len(chosen) for chosen in units):
        filters = [*brain_regions, *(["single units"] if single_units else [])]
        raise SettingsError(
            f"no unit left after selecting {', '.join(filters)} of patient {', '.join(patient_ids)}. "
            "Loosen --brain-regions or --single-units"
        )
    return Selection(patients=patients, units=units)


def open_patient(key: Path) -> CachedPatient:
    """Open one key, checking its structure; a key that is rebuilt meanwhile is opened again.

    Raises
    ------
    CacheError : the key is missing, damaged or of another schema
    """
    for _ in range(_OPEN_ATTEMPTS):
        attributes = read_attributes(key)
        problem: Exception | None = None
        try:
            check_files(key, attributes)
            chunks, is_mapped = _open_counts(key, attributes)
        except (CacheError, OSError, ValueError) as error:
            problem = error
        if read_attributes(key) != attributes:
            continue  # rebuilt meanwhile
        if problem is None:
            return CachedPatient(key=key, attributes=attributes, chunks=chunks, is_mapped=is_mapped)
        if isinstance(problem, CacheError):
            raise problem
        raise CacheError(
            f"{key}: cannot be read ({problem}). Check its permissions, or rebuild it: {build_command(key)}"
        ) from problem
    raise CacheError(f"{key}: is being rebuilt again and again. Wait for the builds to end")


def _open_counts(key: Path, attributes: dict[str, Any]) -> tuple[list[NDArray[Any]], bool]:
    """Map the chunk files of spike_counts where they are plain bytes; read the array through zarr where not."""
    metadata = json.loads(_read_file(key, attributes, "spike_counts/zarr.json"))
    shape = (attributes["n_bins"], attributes["n_units"])
    chunk_rows, chunk_units = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    dtypes: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "uint16": np.dtype("<u2")}
    dtype = dtypes.get(metadata["data_type"])
    if tuple(metadata["shape"]) != shape or dtype is None or chunk_units != shape[1] or chunk_rows < 1:
        raise CacheError(f"{key / 'spike_counts'}: is not what the key describes. Rebuild it: {build_command(key)}")
    if [codec["name"] for codec in metadata["codecs"]] != ["bytes"]:
        return [_decompress(key, attributes)], False
    # Copy-on-write: torch wants writable memory, and nothing that is written there reaches the file.
    return [
        np.memmap(key / "spike_counts" / "c" / str(number) / "0", dtype, mode="c", shape=(chunk_rows, chunk_units))
        for number in range(-(-shape[0] // chunk_rows))
    ], True


def _decompress(key: Path, attributes: dict[str, Any]) -> NDArray[Any]:
    import zarr

    array: Any = zarr.open_array(key / "spike_counts", mode="r")
    try:
        counts = np.ascontiguousarray(array[...])
    except (ValueError, RuntimeError) as error:
        raise CacheError(f"{key / 'spike_counts'}: cannot be decoded. Rebuild it: {build_command(key)}") from error
    if hashlib.sha256(counts.data).hexdigest() != attributes["digests"]["spike_counts"]:
        raise CacheError(f"{key / 'spike_counts'}: its bytes were changed. Rebuild it: {build_command(key)}")
    return counts


def _read_label(patient: CachedPatient, name: str, row: int) -> NDArray[np.uint8]:
    """Read one row of a sharded label array: its place stands in the index at the shard's end."""
    from numcodecs.zstd import Zstd

    shard = _read_file(patient.key, patient.attributes, f"{name}/c/0/0")
    n_labels = len(patient.attributes["label_names"])
    index = np.frombuffer(shard[-16 * n_labels - 4 : -4], dtype="<u8").reshape(n_labels, 2)
    start, n_bytes = (int(value) for value in index[row])
    return np.frombuffer(Zstd().decode(shard[start : start + n_bytes]), dtype=np.uint8)


def _read_vector(patient: CachedPatient, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read a small array that is stored as one raw chunk."""
    return np.frombuffer(_read_file(patient.key, patient.attributes, f"{name}/c/0"), dtype=dtype)


def _read_file(key: Path, attributes: dict[str, Any], name: str) -> bytes:
    """Read a small file of a key against its digest: since it was opened, the key may have been rebuilt or damaged."""
    path = key / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}). Check --cache-dir") from error
    if hashlib.sha256(content).hexdigest() != attributes["files"][name]["sha256"]:
        raise CacheError(
            f"{path}: its bytes were changed, or it was rebuilt since it was opened. Run again; if this comes back, "
            f"rebuild it: {build_command(key)}"
        )
    return content


def _check_same_film(first: CachedPatient, other: CachedPatient) -> None:
    digests, other_digests = first.attributes["digests"], other.attributes["digests"]
    where = f"patients {first.patient_id} and {other.patient_id} ({first.key} and {other.key})"
    advice = "Train them apart, or rebuild both from recordings of one film"
    if digests["first_frame"] != other_digests["first_frame"]:
        raise CacheError(f"the bin grids of {where} differ: {first.n_bins} and {other.n_bins} bins. {advice}")
    same_names = first.attributes["label_names"] == other.attributes["label_names"]
    if not same_names or any(digests[name] != other_digests[name] for name in digests if name.startswith("labels_")):
        raise CacheError(f"the annotations of {where} differ. {advice}")


def _members(brain_regions: Sequence[str], patients: Sequence[CachedPatient]) -> set[str]:
    """Return the regions asked for, groups replaced by their members; empty for no choice."""
    if not brain_regions:
        return set()
    for patient in patients:
        if "brain_region" not in patient.attributes["units"]:
            raise SettingsError(
                f"patient {patient.patient_id} has no brain_region column to choose by. Leave --brain-regions out"
            )
    found = {region for patient in patients for region in patient.attributes["units"]["brain_region"]}
    unknown = [name for name in brain_regions if name not in found and name not in BRAIN_REGION_GROUPS]
    if unknown:
        groups = ", ".join(f"{name} ({' '.join(members)})" for name, members in BRAIN_REGION_GROUPS.items())
        raise SettingsError(
            f"--brain-regions {' '.join(unknown)}: no unit is there; found are {', '.join(sorted(found))}, "
            f"and the groups {groups}"
        )
    return {member for name in brain_regions for member in (name, *BRAIN_REGION_GROUPS.get(name, ()))}


def _choose_units(patient: CachedPatient, regions: set[str], single_units: bool) -> NDArray[np.int64]:
    keep = np.ones(patient.attributes["n_units"], dtype=bool)
    if regions:
        keep &= np.isin(patient.attributes["units"]["brain_region"], list(regions))
    if single_units:
        if "is_single_unit" not in patient.attributes["digests"]:
            raise SettingsError(
                f"patient {patient.patient_id} has no is_single_unit column to choose by. Leave --single-units out"
            )
        keep &= _read_vector(patient, "is_single_unit", np.dtype("u1"))[: len(keep)] == 1
    return np.flatnonzero(keep)
