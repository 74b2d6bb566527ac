"""The contract on disk: names, arrays and descriptions of keys, for the writer and every reader.

Standard library only, so that training can import it without the packages that read NWB or write Zarr.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from summer_prep.errors import CacheError, MissingKeyError, UnreachableError
from summer_prep.film.facts import FRAME_PERIOD_MS, LONG_FRAME_MS
from summer_prep.urls import Place, Url

AnyPlace = TypeVar("AnyPlace", Path, Url, Place)

SCHEMA_VERSION = 4
"""Raised whenever the format changes. A reader refuses keys of another schema."""

Codec = Literal["none", "zstd", "blosc"]
"""How spike_counts are stored."""

ARRAYS = {
    "spike_counts": (("bin", "unit"), "uint8 or uint16", "spikes", "spikes per film bin"),
    "labels_first": (("label", "bin"), "uint8", "1", "label of the bin's first frame (0, 1, 99 undefined)"),
    "labels_any": (("label", "bin"), "uint8", "1", "1 if the label is on in any frame of the bin (0, 1, 99 undefined)"),
    "labels_majority": (("label", "bin"), "uint8", "1", "the bin's most frequent label value (0, 1, 99 undefined)"),
    "label": (("label",), "StringDType()", "", "name of the film annotation"),
    "bin_start_s": (("bin",), "float64", "s", "start of the bin on the film clock"),
    "first_frame": (("bin",), "int32", "1", f"film frame that the bin starts at, from 0, {FRAME_PERIOD_MS} ms each"),
    "recorded_s": (("bin",), "float32", "s", "recording time that the bin covers; 0 = never seen"),
    "long_frame_s": (("bin",), "float32", "s", f"part of recorded_s in frames longer than {LONG_FRAME_MS} ms"),
    "recording_start_ms": (("bin",), "float64", "ms", "start of the bin on the recording clock"),
    "recording_stop_ms": (("bin",), "float64", "ms", "end of the bin on the recording clock"),
}
"""Dimensions, dtype, unit of measure and meaning of every array but the columns of the unit table, each ("unit",)."""

DIMENSIONS: dict[str, tuple[str, ...]] = {name: dimensions for name, (dimensions, *_) in ARRAYS.items()}

DESCRIPTION = "zarr.json"
"""The file that describes a key and all its other files."""

NO_SHA256 = "0" * 64
"""Stands for a digest that is not known yet."""

_DOCUMENT_SHA256 = re.compile(rb'("document_sha256": ")[0-9a-f]{64}')


@dataclass(frozen=True, kw_only=True)
class Description:
    """The attributes of a key's Zarr group, checked to match its path; `identity` changes when it is rebuilt."""

    key: Place
    attributes: Mapping[str, Any]
    identity: Any

    @property
    def folder(self) -> Path:
        """The folder of the key on this machine; one in a bucket has to be fetched first."""
        assert isinstance(self.key, Path), self.key
        return self.key

    def is_current(self) -> bool:
        """Return whether the key is still the one that was described, and has not been rebuilt since."""
        with suppress(OSError):
            return bool(self.identity == _identity(os.stat(self.folder / DESCRIPTION)))
        return False


def is_patient_id(text: str) -> bool:
    """Return whether `text` is a patient id: letters and digits only, so that it is safe as part of a path."""
    return re.fullmatch("[A-Za-z0-9]+", text) is not None


def key_path(cache_dir: AnyPlace, patient_id: str, bin_length_ms: int) -> AnyPlace:
    """Return the path or URL of one key, `cache_dir/sub-14/bin-80ms.zarr`."""
    assert is_patient_id(patient_id), patient_id
    return patient_path(cache_dir, patient_id) / f"bin-{bin_length_ms}ms.zarr"


def patient_path(cache_dir: AnyPlace, patient_id: str) -> AnyPlace:
    """Return the path or URL of a patient's keys, `cache_dir/sub-14`."""
    return cache_dir / f"sub-{patient_id}"


def cached_keys(cache_dir: Path, problems: dict[str, str] | None = None) -> dict[str, list[int]]:
    """Return patient id -> bin lengths (ms, ascending) of the keys in a folder, patients in natural order.

    A patient's folder that cannot be listed raises UnreachableError, or is added to `problems` by patient id.
    """
    found: dict[str, list[int]] = {}
    names = [name.removeprefix("sub-") for name in _names_in(cache_dir) if name.startswith("sub-")]
    for patient_id in in_natural_order(filter(is_patient_id, names)):
        try:
            if lengths := cached_bin_lengths(cache_dir, patient_id):
                found[patient_id] = lengths
        except UnreachableError as error:
            if problems is None:
                raise
            problems[patient_id] = str(error)
    return found


def _names_in(folder: Path) -> list[str]:
    """Return what is in a folder; not by glob, which takes a folder that may not be read for an empty one."""
    try:
        return os.listdir(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise UnreachableError(f"{folder}: cannot be listed ({error.strerror}). Change its permissions") from error


def bin_length_of(name: str) -> int | None:
    """Return the bin length (ms) in the name of a key; None if it is not the name of one."""
    match = re.fullmatch(r"bin-([1-9][0-9]*)ms\.zarr", name)
    return None if match is None else int(match[1])


def cached_bin_lengths(cache_dir: Path, patient_id: str) -> list[int]:
    """Return the bin lengths (ms, ascending) of one patient's keys; raises UnreachableError."""
    lengths = map(bin_length_of, _names_in(patient_path(cache_dir, patient_id)))
    return sorted(length for length in lengths if length is not None)


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sort names by the numbers in them: 8 before 14 before 20."""

    def parts(name: str) -> list[tuple[bool, int, str]]:
        return [(one.isdigit(), int(one) if one.isdigit() else 0, one) for one in re.split(r"(\d+)", name)]

    return sorted(names, key=parts)


def describe(key: Path) -> Description:
    """Return the description of a key, checked to be of this patient, bin length and schema.

    Raises CacheError if it is not, or if the key is missing or damaged; UnreachableError if it cannot be read.
    """
    metadata = key / DESCRIPTION
    try:
        with metadata.open("rb") as file:
            return description_of(key, identity=_identity(os.fstat(file.fileno())), content=file.read())
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable(metadata, error) from error
        if os.path.exists(key):
            raise CacheError(f"{metadata}: is missing. Rebuild it: {build_command(key)}") from error
        raise missing_key(key) from error


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_ino, stat.st_mtime_ns


def _unreadable(path: str | Path, error: OSError) -> UnreachableError:
    return UnreachableError(f"{path}: cannot be read ({error.strerror}). Check its permissions and the disk")


def missing_key(key: Place) -> MissingKeyError:
    """Return the error for a key that is not there."""
    return MissingKeyError(f"{key}: not in the cache. Build it: {build_command(key, is_there=False)}")


def description_of(key: Place, content: bytes, identity: object) -> Description:
    """Return the description of a key from the content of its `zarr.json`; raises CacheError as `describe`."""
    advice = "Rebuild it"
    try:
        attributes = json.loads(content)["attributes"]
        schema_version, claimed = attributes["schema_version"], (attributes["patient_id"], attributes["bin_length_ms"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problem = f"{key / DESCRIPTION}: damaged, it does not describe a key"
    else:
        if schema_version != SCHEMA_VERSION:
            problem = f"{key} was written by schema {schema_version}, this code reads {SCHEMA_VERSION}"
            if isinstance(schema_version, int) and schema_version > SCHEMA_VERSION:
                advice = "Update this software, or rebuild it"
        elif key_path(key.parent.parent, *key_of_path(key)) != key or claimed != key_of_path(key):
            problem = f"{key}: holds patient {claimed[0]} at {claimed[1]} ms, not what its path says"
        elif attributes.get("document_sha256") != document_sha256(content):
            problem = f"{key / DESCRIPTION}: damaged, its content was changed"
        else:
            return Description(key=key, attributes=attributes, identity=identity)
    raise CacheError(f"{problem}. {advice}: {build_command(key)}")


def check_files(description: Description, every_byte: bool = False) -> None:
    """Check that every file of a key is there with its size, and with its digest if asked for; raises CacheError."""
    for problem in file_problems(description, every_byte):
        raise CacheError(f"{problem}. Rebuild it: {build_command(description.key)}")


def file_problems(description: Description, every_byte: bool) -> Iterator[str]:
    """Yield what is wrong with the files of a key, one line each; raises UnreachableError if one cannot be read."""
    folder = os.fspath(description.folder)
    for name, file in description.attributes["files"].items():
        path = f"{folder}/{name}"  # a Path for each of a catalog's files would take as long as asking for them
        try:
            n_bytes = os.stat(path).st_size
            if n_bytes != file["bytes"]:
                yield f"{path}: has {n_bytes} bytes instead of {file['bytes']}"
            elif every_byte and file_sha256(Path(path)) != file["sha256"]:
                yield f"{path}: its bytes were changed"
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise _unreadable(path, error) from error
            yield f"{path}: the file is missing"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document_sha256(content: bytes) -> str:
    """Return the digest of a key's description, which stands in it: of its bytes, with zeros in the digest's place."""
    return hashlib.sha256(_DOCUMENT_SHA256.sub(rb"\g<1>" + NO_SHA256.encode(), content, count=1)).hexdigest()


def sealed(content: bytes) -> bytes:
    """Return a key's description with its digest in the place for it."""
    return _DOCUMENT_SHA256.sub(rb"\g<1>" + document_sha256(content).encode(), content, count=1)


def key_of_path(key: Place) -> tuple[str, int]:
    """Return the patient id and bin length (ms) in a key's path; the inverse of `key_path`."""
    length = bin_length_of(key.name)
    assert length is not None, key
    return key.parent.name.removeprefix("sub-"), length


def build_command(key: Place, is_there: bool = True) -> str:
    """Return the command that builds a key, or rebuilds one that is there, for messages."""
    patient_id, bin_length_ms = key_of_path(key)
    options = f"--patient-ids {patient_id} --bin-length {bin_length_ms} --cache-dir {key.parent.parent} --data-dir DIR"
    return f"summer-prep build {'--force ' if is_there else ''}{options}"
