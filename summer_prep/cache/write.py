"""A key's arrays to named bytes and back, and whether every byte is right: the only file that uses Zarr to write.

Training maps raw chunks without it.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.errors import BaseZarrError
from zarr.storage import MemoryStore

from summer_prep.cache.layout import (
    DESCRIPTION,
    DIMENSIONS,
    NO_SHA256,
    SCHEMA_VERSION,
    Codec,
    Description,
    build_command,
    describe,
    file_problems,
    rows_per_chunk,
    sealed,
)
from summer_prep.cache.publish import Files, publish
from summer_prep.errors import CacheError
from summer_prep.film.facts import FRAME_PERIOD_MS, LABEL_RULES, LONG_FRAME_MS

Arrays = Mapping[str, NDArray[Any]]

ARRAY_ATTRIBUTES = {
    "spike_counts": {"units": "spikes", "long_name": "spikes per film bin"},
    "labels_first": {"units": "1", "long_name": "label of the bin's first frame (0, 1, 99 undefined)"},
    "labels_any": {"units": "1", "long_name": "1 if the label is on in any frame of the bin (0, 1, 99 undefined)"},
    "labels_majority": {"units": "1", "long_name": "the bin's most frequent label value (0, 1, 99 undefined)"},
    "label": {"long_name": "name of the film annotation"},
    "bin_start_s": {"units": "s", "long_name": "start of the bin on the film clock"},
    "first_frame": {"units": "1", "long_name": f"film frame that the bin starts at, from 0, {FRAME_PERIOD_MS} ms each"},
    "recorded_s": {"units": "s", "long_name": "recording time that the bin covers; 0 = never seen"},
    "long_frame_s": {"units": "s", "long_name": f"part of recorded_s in frames longer than {LONG_FRAME_MS} ms"},
    "recording_start_ms": {"units": "ms", "long_name": "start of the bin on the recording clock"},
    "recording_stop_ms": {"units": "ms", "long_name": "end of the bin on the recording clock"},
}

VARIABLES = {"spike_counts", *(f"labels_{rule}" for rule in LABEL_RULES)}
"""Arrays that are data; all others are coordinates of them."""

_LABEL_CODEC = ZstdCodec(level=1)
_COMPRESSORS = {"none": None, "zstd": ZstdCodec(level=9), "blosc": BloscCodec(cname="zstd", clevel=5)}
_READ_ATTEMPTS = 5

_ENCODING = Lock()
"""Zarr works in one thread of its own anyway, and what warnings are shown is the same for all threads."""


def write_key(key: Path, arrays: Arrays, attributes: Mapping[str, Any], codec: Codec) -> None:
    """Write one key and publish it in one step, in place of an older one if there is one.

    Raises
    ------
    CacheError : the folder cannot be written, or the disk is full
    """
    publish(key, encode_key(arrays, {**attributes, "codec": codec}, codec))


def encode_key(arrays: Arrays, attributes: Mapping[str, Any], codec: Codec) -> Files:
    """Return the files of a key, path -> content.

    Parameters
    ----------
    arrays : name -> array, with the dimensions of `key.DIMENSIONS` or ("unit",)
    attributes : everything but what Zarr, xarray and the digests add
    codec : how spike_counts are stored
    """
    buffers: dict[str, Any] = {}
    store = MemoryStore(buffers)
    descriptions = attributes.get("column_descriptions", {})
    with _ENCODING:
        group = zarr.create_group(store)
        for name, values in arrays.items():
            _encode(group, name, values, codec, descriptions)
    files = {name: buffer.as_numpy_array().data for name, buffer in buffers.items() if name != DESCRIPTION}
    added = {
        "coordinates": " ".join(name for name in arrays if name not in VARIABLES),
        "digests": {name: array_sha256(values) for name, values in arrays.items()},
        "files": {
            name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
            for name in sorted(files)
        },
    }
    with _ENCODING, warnings.catch_warnings():
        # Zarr says that other implementations need not read what saves ours a file per array.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        group.update_attributes({"schema_version": SCHEMA_VERSION, **attributes, **added})
        group = zarr.consolidate_metadata(store)
        group.update_attributes({"document_sha256": NO_SHA256})
    files[DESCRIPTION] = memoryview(sealed(buffers[DESCRIPTION].to_bytes()))
    return files


def _encode(group: zarr.Group, name: str, values: NDArray[Any], codec: Codec, descriptions: Mapping[str, str]) -> None:
    chunks, compressor = values.shape, None
    if name == "spike_counts":
        row_bytes = values.shape[1] * values.dtype.itemsize
        chunks = (rows_per_chunk(len(values), row_bytes), values.shape[1])
        compressor = _COMPRESSORS[codec]
    elif name in VARIABLES:
        compressor = _LABEL_CODEC
    column = {"units": "1"} if values.dtype.kind in "iufb" else {}
    attributes: Any = ARRAY_ATTRIBUTES.get(name, {**column, "long_name": descriptions.get(name) or name})
    group.create_array(
        name,
        data=values,
        chunks=chunks,
        compressors=compressor,
        filters=None,
        # A chunk of zeros is data too: left out, it could not be told from a lost one.
        config={"write_empty_chunks": True},
        dimension_names=DIMENSIONS.get(name, ("unit",)),
        attributes=attributes,
    )


def array_sha256(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes, C order, little-endian; of texts that of their list as JSON."""
    if values.dtype.kind == "T":
        return hashlib.sha256(json.dumps(values.tolist()).encode()).hexdigest()
    little_endian = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.data if little_endian.size else b"").hexdigest()


def verify_key(key: Path) -> list[str]:
    """Return what is wrong with a key, one line each; an empty list if every byte is right."""
    problems: list[str] = []
    for _ in range(_READ_ATTEMPTS):
        try:
            description = describe(key)
        except CacheError as error:
            return [str(error)]
        problems = _find_problems(description)
        if not problems or description.is_current():
            break  # else it was rebuilt meanwhile
    return [f"{problem}. Rebuild it: {build_command(key)}" for problem in problems]


def _find_problems(description: Description) -> list[str]:
    key, attributes = description.key, description.attributes
    strangers = set(_files(description.folder)) - set(attributes["files"]) - {DESCRIPTION}
    problems = [f"{key / name}: does not belong there" for name in sorted(strangers)]
    problems += file_problems(description, every_byte=True)
    return problems or _array_problems(description.folder, attributes)


def _files(folder: Path) -> Iterator[str]:
    # Not rglob, which raises where a folder goes while the key is rebuilt.
    below = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return (path.relative_to(folder).as_posix() for path in below)


def _array_problems(key: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Decode every array against its digest."""
    problems = []
    file_digests = {file["sha256"] for file in attributes["files"].values()}
    for name, digest in attributes["digests"].items():
        if digest in file_digests:
            continue  # stored raw in one chunk: the file is the array, and it has just been checked
        try:
            values = read_array(key, name)
        except CacheError as error:
            problems.append(str(error))
            continue
        if array_sha256(values) != digest:
            problems.append(f"{key / name}: does not hold the values that were written")
    return problems


def read_array(key: Path, name: str) -> NDArray[Any]:
    """Return one array of a key.

    Raises
    ------
    CacheError : it cannot be decoded
    """
    try:
        array: Any = zarr.open_array(key / name, mode="r")
        return np.asarray(array[...])
    except (BaseZarrError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CacheError(f"{key / name}: cannot be decoded ({error})") from error


def describe_array(description: Description, name: str) -> dict[str, Any]:
    """Return how an array of a key stands on disk, as plain values."""
    array: Any = zarr.open_array(description.key / name, mode="r")
    files = description.attributes["files"]
    return {
        "name": name,
        "dimensions": list(array.metadata.dimension_names),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "codec": ", ".join(type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors) or "none",
        "bytes": int(array.nbytes),
        "stored_bytes": sum(file["bytes"] for path, file in files.items() if path.startswith(f"{name}/")),
    }
