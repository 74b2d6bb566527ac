"""The contract on disk: what a key is called, holds and says of itself, for the writer and every reader.

Standard library only, so that training can import it without the packages that read NWB or write Zarr.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from summer_prep.errors import CacheError, MissingKeyError, UnreachableError
from summer_prep.film.facts import LABEL_RULES
from summer_prep.urls import Place, Url

AnyPlace = TypeVar("AnyPlace", Path, Url, Place)

SCHEMA_VERSION = 4
"""Raised whenever what stands on disk changes. A reader refuses keys of another one."""

Codec = Literal["none", "zstd", "blosc"]
CODECS: tuple[Codec, ...] = get_args(Codec)
"""How spike_counts are stored."""

MAX_CHUNK_BYTES = 64 * 2**20


def rows_per_chunk(n_bins: int, row_bytes: int) -> int:
    """Return how many bins one chunk of counts holds; the last chunk has full size, too."""
    return max(1, min(n_bins, MAX_CHUNK_BYTES // max(1, row_bytes)))


DIMENSIONS: dict[str, tuple[str, ...]] = {
    "spike_counts": ("bin", "unit"),
    **{f"labels_{rule}": ("label", "bin") for rule in LABEL_RULES},
    "label": ("label",),
    "bin_start_s": ("bin",),
    "first_frame": ("bin",),
    "recorded_s": ("bin",),
    "long_frame_s": ("bin",),
    "recording_start_ms": ("bin",),
    "recording_stop_ms": ("bin",),
}
"""Dimension names of every array that is not a column of the unit table; those are all ("unit",)."""

DESCRIPTION = "zarr.json"
"""The file of a key that describes it and all its other files."""

NO_SHA256 = "0" * 64
"""Keeps the place of a digest that is not known yet."""

_DOCUMENT_SHA256 = re.compile(rb'("document_sha256": ")[0-9a-f]{64}')
_PATIENT_ID = re.compile(r"[A-Za-z0-9]+")
_KEY_NAME = re.compile(r"bin-([1-9][0-9]*)ms\.zarr")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a key says of itself, checked to be true of its path; `attributes` are those of its Zarr group."""

    key: Place
    attributes: Mapping[str, Any]
    identity: Any

    @property
    def folder(self) -> Path:
        """Where the key stands on this machine; one in a bucket is to be fetched first."""
        assert isinstance(self.key, Path), self.key
        return self.key

    def is_current(self) -> bool:
        """Return whether the key is still the one that was described, and not one rebuilt since."""
        try:
            return bool(self.identity == _identity(os.stat(self.folder / DESCRIPTION)))
        except OSError:
            return False


def is_patient_id(text: str) -> bool:
    """Return whether `text` is a patient id: letters and digits only, so that it is safe as part of a path."""
    return _PATIENT_ID.fullmatch(text) is not None


def key_path(cache_dir: AnyPlace, patient_id: str, bin_length_ms: int) -> AnyPlace:
    """Return the place of one key, `cache_dir/sub-14/bin-80ms.zarr`."""
    assert is_patient_id(patient_id), patient_id
    return patient_path(cache_dir, patient_id) / f"bin-{bin_length_ms}ms.zarr"


def patient_path(cache_dir: AnyPlace, patient_id: str) -> AnyPlace:
    """Return the place of a patient's keys, `cache_dir/sub-14`."""
    return cache_dir / f"sub-{patient_id}"


def cached_keys(cache_dir: Path, problems: dict[str, str] | None = None) -> dict[str, list[int]]:
    """Return patient id -> bin lengths (ms, ascending) that stand in the cache, patients in natural order.

    Parameters
    ----------
    problems : takes patient id -> what is wrong with a folder that cannot be listed, instead of an error

    Raises
    ------
    UnreachableError : a folder cannot be listed
    """
    found: dict[str, list[int]] = {}
    folders = [name.removeprefix("sub-") for name in _names_in(cache_dir) if name.startswith("sub-")]
    for patient_id in in_natural_order(filter(is_patient_id, folders)):
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
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnreachableError(
            f"{folder}: cannot be listed ({error.strerror}). Change its permissions, or move it"
        ) from error


def bin_length_of(name: str) -> int | None:
    """Return the bin length (ms) in the name of a key; None if it is not the name of one."""
    match = _KEY_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def cached_bin_lengths(cache_dir: Path, patient_id: str) -> list[int]:
    """Return the bin lengths (ms, ascending) of one patient's keys; raises UnreachableError."""
    lengths = map(bin_length_of, _names_in(patient_path(cache_dir, patient_id)))
    return sorted(length for length in lengths if length is not None)


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that the numbers inside them count: 8 before 14 before 20."""
    return sorted(
        names,
        key=lambda name: [
            (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)
        ],
    )


def describe(key: Path) -> Description:
    """Return what a key says of itself, checked to be of this patient, bin length and schema.

    Raises
    ------
    CacheError : the key is missing, damaged, of another patient or bin length, or of another schema
    UnreachableError : it is there and cannot be read
    """
    metadata = key / DESCRIPTION
    try:
        with metadata.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            content = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.exists(key):
            raise CacheError(f"{metadata}: is missing. Rebuild it: {build_command(key)}") from error
        raise missing_key(key) from error
    except OSError as error:
        raise unreadable(metadata, error) from error
    return description_of(key, content, identity)


def unreadable(path: Path, error: OSError) -> UnreachableError:
    """Return the error of a file that is there and cannot be read, which says nothing of what it holds."""
    return UnreachableError(f"{path}: cannot be read ({error.strerror}). Check its permissions and the disk")


def missing_key(key: Place) -> MissingKeyError:
    """Return the error of a key that is not there."""
    return MissingKeyError(f"{key}: not in the cache. Build it: {build_command(key, is_there=False)}")


def description_of(key: Place, content: bytes, identity: object) -> Description:
    """Return what a key says of itself in the content of its `zarr.json`.

    Raises
    ------
    CacheError : the key is damaged, of another patient or bin length, or of another schema
    """
    metadata = key / DESCRIPTION
    try:
        document = json.loads(content)
        attributes = document["attributes"]
        schema_version, claimed = attributes["schema_version"], (attributes["patient_id"], attributes["bin_length_ms"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(
            f"{metadata}: damaged, it does not describe a key. Rebuild it: {build_command(key)}"
        ) from error
    if schema_version != SCHEMA_VERSION:
        newer = isinstance(schema_version, int) and schema_version > SCHEMA_VERSION
        advice = "Update this software, or rebuild it" if newer else "Rebuild it"
        raise CacheError(
            f"{key} was written by schema {schema_version}, this code reads {SCHEMA_VERSION}. "
            f"{advice}: {build_command(key)}"
        )
    if key_path(key.parent.parent, *key_of_path(key)) != key or claimed != key_of_path(key):
        raise CacheError(
            f"{key}: holds patient {claimed[0]} at {claimed[1]} ms, not what its path says. "
            f"Rebuild it: {build_command(key)}"
        )
    if attributes.get("document_sha256") != document_sha256(content):
        raise CacheError(f"{metadata}: damaged, its content was changed. Rebuild it: {build_command(key)}")
    return Description(key=key, attributes=attributes, identity=identity)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_ino, stat.st_mtime_ns


def check_files(description: Description, every_byte: bool = False) -> None:
    """Check that every file of a key is there with its full size; and its digest, which reads it, if asked for.

    Raises
    ------
    CacheError : a file is missing, short, long or changed
    """
    for problem in file_problems(description, every_byte):
        raise CacheError(f"{problem}. Rebuild it: {build_command(description.key)}")


def file_problems(description: Description, every_byte: bool) -> Iterator[str]:
    """Yield what is wrong with the files of a key, one line each; raises UnreachableError if one cannot be read."""
    folder = os.fspath(description.folder)
    for name, file in description.attributes["files"].items():
        path = f"{folder}/{name}"  # a Path for each of a catalog's files would take as long as asking for them
        try:
            n_bytes = os.stat(path).st_size
            sha256 = file_sha256(Path(path)) if every_byte and n_bytes == file["bytes"] else file["sha256"]
        except (FileNotFoundError, NotADirectoryError):
            yield f"{path}: the file is missing"
            continue
        except OSError as error:
            raise unreadable(Path(path), error) from error
        if n_bytes != file["bytes"]:
            yield f"{path}: has {n_bytes} bytes instead of {file['bytes']}"
        elif sha256 != file["sha256"]:
            yield f"{path}: its bytes were changed"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document_sha256(content: bytes) -> str:
    """Return the digest that guards a key's description: of its bytes, with zeros in its own place."""
    return hashlib.sha256(_DOCUMENT_SHA256.sub(rb"\g<1>" + NO_SHA256.encode(), content, count=1)).hexdigest()


def sealed(content: bytes) -> bytes:
    """Return a key's description with its digest, for which there is a place in it."""
    return _DOCUMENT_SHA256.sub(rb"\g<1>" + document_sha256(content).encode(), content, count=1)


def key_of_path(key: Place) -> tuple[str, int]:
    """Return the patient id and bin length (ms) in a key's path; the inverse of `key_path`."""
    length = bin_length_of(key.name)
    assert length is not None, key
    return key.parent.name.removeprefix("sub-"), length


def build_command(key: Place, is_there: bool = True) -> str:
    """Return the command that builds a key, or rebuilds one that is there, for messages."""
    patient_id, bin_length_ms = key_of_path(key)
    cache_dir = key.parent.parent
    return (
        f"summer-prep build {'--force ' if is_there else ''}--patient-ids {patient_id} --bin-length {bin_length_ms} "
        f"--cache-dir {cache_dir} --data-dir DIR"
    )
