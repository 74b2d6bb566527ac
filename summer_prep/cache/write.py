"""A key's arrays to named bytes and back, and whether every byte is right: the only file that writes keys with Zarr."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.errors import BaseZarrError
from zarr.storage import MemoryStore

from summer_prep.cache import layout
from summer_prep.cache.publish import Files
from summer_prep.errors import CacheError

VARIABLES = [name for name, (dimensions, *_) in layout.ARRAYS.items() if len(dimensions) == 2]
"""Arrays that are data; all others are coordinates of them."""

_COUNT_CODECS = {"none": None, "zstd": ZstdCodec(level=9), "blosc": BloscCodec(cname="zstd", clevel=5)}
MAX_CHUNK_BYTES = 64 * 2**20

_ENCODING = Lock()
"""Zarr works in one thread of its own anyway, and filters of warnings are shared by all threads."""


def encode_key(arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> Files:
    """Return the files of a key, path -> content.

    Parameters
    ----------
    arrays : name -> array, as in `layout.ARRAYS`, or a column of the unit table
    attributes : everything but what Zarr, xarray and the digests add; `codec` is how spike_counts are stored
    """
    buffers: dict[str, Any] = {}
    store = MemoryStore(buffers)
    columns = attributes.get("column_descriptions", {})
    with _ENCODING:
        group = zarr.create_group(store)
        for name, values in arrays.items():
            unit_of_column = "1" if values.dtype.kind in "iufb" else ""
            of_column = ("unit",), str(values.dtype), unit_of_column, columns.get(name) or name
            dimensions, _, units, long_name = layout.ARRAYS.get(name, of_column)
            chunks = values.shape
            compressor: Any = ZstdCodec(level=1) if name in VARIABLES else None
            if name == "spike_counts":
                row_bytes = max(1, values.shape[1] * values.dtype.itemsize)
                n_rows = max(1, min(len(values), MAX_CHUNK_BYTES // row_bytes))  # the last chunk has full size, too
                chunks = n_rows, values.shape[1]
                compressor = _COUNT_CODECS[attributes["codec"]]
            # A chunk of zeros is data too: left out, it could not be told from a lost one.
            stored: Any = {"compressors": compressor, "filters": None, "config": {"write_empty_chunks": True}}
            about = {"units": units, "long_name": long_name} if units else {"long_name": long_name}
            group.create_array(name, data=values, chunks=chunks, dimension_names=dimensions, attributes=about, **stored)
    files = {name: buffer.as_numpy_array().data for name, buffer in buffers.items() if name != layout.DESCRIPTION}
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
        group.update_attributes({"schema_version": layout.SCHEMA_VERSION, **attributes, **added})
        group = zarr.consolidate_metadata(store)
        group.update_attributes({"document_sha256": layout.NO_SHA256})
    files[layout.DESCRIPTION] = memoryview(layout.sealed(buffers[layout.DESCRIPTION].to_bytes()))
    return files


def array_sha256(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes, C order, little-endian; of texts that of their list as JSON."""
    if values.dtype.kind == "T":
        return hashlib.sha256(json.dumps(values.tolist()).encode()).hexdigest()
    little_endian = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.data if little_endian.size else b"").hexdigest()


def verify_key(key: Path) -> list[str]:
    """Return what is wrong with a key, one line each; an empty list if every byte is right."""
    problems: list[str] = []
    for _ in range(5):
        try:
            description = layout.describe(key)
        except CacheError as error:
            return [str(error)]
        # Not rglob, which raises where a folder goes while the key is rebuilt.
        found = {os.path.relpath(f"{parent}/{name}", key) for parent, _, names in os.walk(key) for name in names}
        strangers = sorted(found - {*description.attributes["files"], layout.DESCRIPTION})
        problems = [f"{key / name}: does not belong there" for name in strangers]
        problems += layout.file_problems(description, every_byte=True)
        if not problems or description.is_current():
            break  # else it was rebuilt meanwhile
    return [f"{problem}. Rebuild it: {layout.build_command(key)}" for problem in problems]


def read_array(key: Path, name: str) -> NDArray[Any]:
    """Return one array of a key; raises CacheError if it cannot be decoded."""
    try:
        array: Any = zarr.open_array(key / name, mode="r")
        return np.asarray(array[...])
    except (BaseZarrError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CacheError(f"{key / name}: cannot be decoded ({error})") from error


def describe_array(description: layout.Description, name: str) -> dict[str, Any]:
    """Return how an array of a key is stored, as plain values."""
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
