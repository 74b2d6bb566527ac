"""What stands on disk: names, dimensions, paths and versions shared by the writer and every reader.

Standard library only, so that training can import it without the packages that read NWB or write Zarr.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from summer_prep.errors import CacheError

SCHEMA_VERSION = 1
"""Layout of a key. A reader refuses keys of a newer one."""

ALGORITHM_VERSION = 1
"""Raised whenever the same recording would give other numbers, which makes every older key stale."""

FRAME_PERIOD_MS = 40
"""25 frames per second (spec of the SUMMER film)."""

DATASET_BIN_LENGTHS_MS = (40, 80, 200, 480, 1000)
"""The bin lengths that the released files list."""

UNDEFINED = 99
"""Label value of a frame for which the annotation is undefined (`indoor-setting` only)."""

LABEL_VALUES = (0, 1, UNDEFINED)
LABEL_RULES = ("first", "any", "majority")
CODECS = ("none", "zstd", "blosc")

MAX_CHUNK_BYTES = 64 * 2**20

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "spike_counts": ("bin", "unit"),
    "labels_first": ("label", "bin"),
    "labels_any": ("label", "bin"),
    "labels_majority": ("label", "bin"),
    "bin_start_s": ("bin",),
    "first_frame": ("bin",),
    "recorded_s": ("bin",),
}
"""Dimension names of every array that is not a column of the unit table; those are all ("unit",)."""

BRAIN_REGION_GROUPS: dict[str, tuple[str, ...]] = {
    "H": ("AH", "MH", "PH"),
    "PHC": ("APH", "MPH", "PPH"),
}
"""Group name -> the regions it stands for beside its own name (hippocampus; older names of the parahippocampal)."""

_PATIENT_ID = re.compile(r"[A-Za-z0-9]+")
_KEY_NAME = re.compile(r"bin-([1-9][0-9]*)ms\.zarr")


def is_patient_id(text: str) -> bool:
    """Return whether `text` is a patient id: letters and digits only, so that it is safe as part of a path."""
    return _PATIENT_ID.fullmatch(text) is not None


def key_path(cache_dir: Path, patient_id: str, bin_length_ms: int) -> Path:
    """Return the folder of one key, `cache_dir/sub-14/bin-80ms.zarr`."""
    assert is_patient_id(patient_id), patient_id
    return cache_dir / f"sub-{patient_id}" / f"bin-{bin_length_ms}ms.zarr"


def cached_keys(cache_dir: Path) -> dict[str, list[int]]:
    """Return patient id -> bin lengths (ms, ascending) that stand in the cache, patients in natural order."""
    found: dict[str, list[int]] = {}
    for folder in cache_dir.glob("sub-*"):
        patient_id = folder.name.removeprefix("sub-")
        matches = (_KEY_NAME.fullmatch(entry.name) for entry in folder.glob("bin-*ms.zarr"))
        lengths = sorted(int(match[1]) for match in matches if match)
        if lengths and is_patient_id(patient_id):
            found[patient_id] = lengths
    return {patient_id: found[patient_id] for patient_id in in_natural_order(found)}


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that the numbers inside them count: 8 before 14 before 20."""
    return sorted(
        names,
        key=lambda name: [
            (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)
        ],
    )


def read_attributes(key: Path) -> dict[str, Any]:
    """Return a key's group attributes, checked to be those of this patient, bin length and schema.

    Raises
    ------
    CacheError : the key is missing, damaged, of another patient or bin length, or of another schema
    """
    metadata = key / "zarr.json"
    try:
        document = json.loads(metadata.read_bytes())
        attributes = document["attributes"]
        schema_version, claimed = attributes["schema_version"], (attributes["patient_id"], attributes["bin_length_ms"])
    except FileNotFoundError as error:
        raise CacheError(f"{key}: not in the cache. Build it: {build_command(key)}") from error
    except OSError as error:
        raise CacheError(f"{metadata}: cannot be read ({error.strerror})") from error
        document_sha256(document)
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
    if attributes.get("document_sha256") != document_sha256(document):
        raise CacheError(f"{metadata}: damaged, its content was changed. Rebuild it: {build_command(key)}")
    checked: dict[str, Any] = attributes
    return checked


def check_files(key: Path, attributes: dict[str, Any], every_byte: bool = False) -> None:
    """Check that every file of a key is there with its full size; and its digest, which reads it, if asked for.

    Raises
    ------
    CacheError : a file is missing, short, long or changed
    """
    for problem in file_problems(key, attributes, every_byte):
        raise CacheError(f"{problem}. Rebuild it: {build_command(key)}")


def file_problems(key: Path, attributes: Mapping[str, Any], every_byte: bool) -> Iterator[str]:
    """Yield what is wrong with the files of a key, one line each."""
    for name, file in attributes["files"].items():
        try:
            n_bytes = os.stat(key / name).st_size
            sha256 = file_sha256(key / name) if every_byte and n_bytes == file["bytes"] else file["sha256"]
        except (FileNotFoundError, NotADirectoryError):
            yield f"{key / name}: the file is missing"
            continue
        except OSError as error:
            yield f"{key / name}: the file cannot be read ({error.strerror})"
            continue
        if n_bytes != file["bytes"]:
            yield f"{key / name}: has {n_bytes} bytes instead of {file['bytes']}"
        elif sha256 != file["sha256"]:
            yield f"{key / name}: its bytes were changed"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document_sha256(document: dict[str, Any]) -> str:
    """Return the digest that guards a key's zarr.json: of all its content but the digest itself."""
    attributes = {name: value for name, value in document["attributes"].items() if name != "document_sha256"}
    return hashlib.sha256(json.dumps({**document, "attributes": attributes}, sort_keys=True).encode()).hexdigest()


def key_of_path(key: Path) -> tuple[str, int]:
    """Return the patient id and bin length (ms) in a key's path; the inverse of `key_path`."""
    match = _KEY_NAME.fullmatch(key.name)
    assert match is not None, key
    return key.parent.name.removeprefix("sub-"), int(match[1])


def build_command(key: Path) -> str:
    """Return the command that builds or rebuilds a key, for messages."""
    patient_id, bin_length_ms = key_of_path(key)
    cache_dir = key.parent.parent
    return (
        f"summer-prep build --force --patient-ids {patient_id} --bin-length {bin_length_ms} "
        f"--cache-dir {cache_dir} --data-dir DIR"
    )
