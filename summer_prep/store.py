"""The only file of this package that knows Zarr: write a key beside its place, check it, publish it; verify it.

A key is written into a staging folder next to its target, flushed to disk, read back against its digests and then
renamed into place, so that a reader or a killed build sees a whole key or none.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import ConsolidatedMetadata, GroupMetadata
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.dtype import parse_dtype
from zarr.errors import BaseZarrError

from summer_prep.errors import CacheError
from summer_prep.layout import (
    DIMENSIONS,
    MAX_CHUNK_BYTES,
    build_command,
    document_sha256,
    file_problems,
    file_sha256,
    read_attributes,
)
from summer_prep.staging import staging_name

Arrays = Mapping[str, NDArray[Any]]

LABEL_ZSTD_LEVEL = 1

_WRITE_ATTEMPTS = 3
_READ_ATTEMPTS = 5

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOENT}

_PUBLISH_ATTEMPTS = 20


def write_key(key: Path, arrays: Arrays, attributes: Mapping[str, Any], codec: str) -> None:
    """Write one key and publish it in one step, in place of an older one if there is one.

    Parameters
    ----------
    arrays : name -> array, with the dimensions of `layout.DIMENSIONS` or ("unit",)
    attributes : everything but the digests, which are added here
    codec : how spike_counts are stored, one of `layout.CODECS`

    Raises
    ------
    CacheError : the folder cannot be written, the disk is full, or what was written does not read back
    """
    try:
        key.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_WRITE_ATTEMPTS):
            staged = key.parent / staging_name(key)
            try:
                _write_and_publish(staged, key, arrays, attributes, codec)
                return
            except FileNotFoundError:
                # Another builder on a file system without locks or process ids took our staging folder for debris.
                if attempt + 1 == _WRITE_ATTEMPTS:
                    raise
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise CacheError(
            f"{key}: cannot be written ({error.strerror or error}). "
            "Free space, or name a folder that you may write to with --cache-dir"
        ) from error


def _write_and_publish(staged: Path, key: Path, arrays: Arrays, attributes: Mapping[str, Any], codec: str) -> None:
    metadata = {name: _array_metadata(name, values, codec) for name, values in arrays.items()}
    written: dict[str, str] = {}
    for name, values in arrays.items():
        written |= _write_file(staged / name / "zarr.json", _json_of(metadata[name]))
        written |= _write_chunks(staged / name, values, metadata[name])
    _flush(staged)
    files = _manifest(staged)
    for path, sha256 in written.items():
        name = Path(path).relative_to(staged).as_posix()
        if name not in files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        _check_read_back(key / name, files[name]["sha256"], sha256)
    digests = {name: array_sha256(values) for name, values in arrays.items()}
    if codec != "none":  # written by zarr, so no digest of what went to disk is at hand
        read = np.asarray(zarr.open_array(staged / "spike_counts", mode="r")[...])
        _check_read_back(key / "spike_counts", array_sha256(read), digests["spike_counts"])
    root_sha256 = _write_root(staged, {**attributes, "digests": digests, "files": files}, metadata)
    _check_read_back(key / "zarr.json", file_sha256(staged / "zarr.json"), root_sha256)
    _publish(staged, key)


def _check_read_back(path: Path, sha256: str, written_sha256: str) -> None:
    if sha256 != written_sha256:
        raise CacheError(f"{path}: does not read back as it was written. Check the disk")


def verify_key(key: Path) -> list[str]:
    """Return what is wrong with a key, one line each; an empty list if every byte is right."""
    problems: list[str] = []
    for _ in range(_READ_ATTEMPTS):
        try:
            attributes = read_attributes(key)
            problems = _find_problems(key, attributes)
            if not problems or read_attributes(key) == attributes:
                break  # else it was rebuilt meanwhile
        except CacheError as error:
            return [str(error)]
    return [f"{problem}. Rebuild it: {build_command(key)}" for problem in problems]


def _find_problems(key: Path, attributes: Mapping[str, Any]) -> list[str]:
    problems = [f"{key / name}: does not belong there" for name in sorted(_strangers(key, attributes))]
    problems += file_problems(key, attributes, every_byte=True)
    return problems or _verify_arrays(key, attributes)


def _strangers(key: Path, attributes: Mapping[str, Any]) -> set[str]:
    return set(_files(key)) - set(attributes["files"]) - {"zarr.json"}


def _verify_arrays(key: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Decode every array against its digest."""
    group = zarr.open_group(key, mode="r")
    problems = []
    file_digests = {file["sha256"] for file in attributes["files"].values()}
    for name, digest in attributes["digests"].items():
        if digest in file_digests:
            continue  # stored raw in one chunk: the file is the array, and it has just been checked
        try:
            values = np.asarray(_array(group, name)[...])
        except (BaseZarrError, OSError, ValueError, RuntimeError, KeyError) as error:
            problems.append(f"{key / name}: cannot be decoded ({error})")
            continue
        if array_sha256(values) != digest:
            problems.append(f"{key / name}: does not hold the values that were written")
    return problems


def array_sha256(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes, C order, little-endian."""
    little_endian = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.data if little_endian.size else b"").hexdigest()


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _array_metadata(name: str, values: NDArray[Any], codec: str) -> ArrayV3Metadata:
    """Return how an array stands on disk."""
    chunk_shape = values.shape
    codecs: list[Any] = [BytesCodec()]
    if name == "spike_counts":
        row_bytes = values.shape[1] * values.dtype.itemsize
        chunk_shape = (max(1, min(len(values), MAX_CHUNK_BYTES // row_bytes)), values.shape[1])
        codecs += _compressors(codec)
    elif name.startswith("labels_"):
        # One label a chunk, all of them in one file (a shard): 53 small files a rule would cost more than their bytes.
        compressed: list[Any] = [BytesCodec(), ZstdCodec(level=LABEL_ZSTD_LEVEL)]
        codecs = [ShardingCodec(chunk_shape=(1, values.shape[1]), codecs=compressed)]
    return ArrayV3Metadata(
        shape=values.shape,
        data_type=parse_dtype(values.dtype, zarr_format=3),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        chunk_key_encoding={"name": "default", "configuration": {"separator": "/"}},
        fill_value=0,
        codecs=codecs,
        attributes={},
        dimension_names=DIMENSIONS.get(name, ("unit",)),
    )


def _write_chunks(folder: Path, values: NDArray[Any], metadata: ArrayV3Metadata) -> dict[str, str]:
    """Write an array's chunk files; return the digests that those written here must read back with."""
    if isinstance(metadata.codecs[0], ShardingCodec):
        return _write_shard(folder, values)
    if len(metadata.codecs) == 1:
        return _write_raw_chunks(folder, values, metadata.chunks[0])
    # A chunk of zeros is data too: left out, it could not be told from a lost one.
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(folder, mode="r+")[...] = values
    return {}


def _json_of(metadata: ArrayV3Metadata | GroupMetadata) -> bytes:
    """Return a node's zarr.json; written here, since zarr's own writers go on in the background after an error."""
    content: bytes = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
    return content


def _write_root(folder: Path, attributes: dict[str, Any], metadata: dict[str, ArrayV3Metadata]) -> str:
    """Write and flush a key's own zarr.json, with the metadata of its arrays, so that one read opens them all.

    Returns
    -------
    The digest of the file
    """
    root = GroupMetadata(attributes=attributes, consolidated_metadata=ConsolidatedMetadata(metadata=dict(metadata)))
    document = json.loads(_json_of(root))
    document["attributes"]["document_sha256"] = document_sha256(document)
    (sha256,) = _write_file(folder / "zarr.json", json.dumps(document, indent=1).encode()).values()
    _fsync(folder / "zarr.json")
    _fsync(folder)
    return sha256


def _compressors(codec: str) -> list[ZstdCodec | BloscCodec]:
    if codec == "zstd":
        return [ZstdCodec(level=9)]
    if codec == "blosc":
        return [BloscCodec(cname="zstd", clevel=5)]
    return []


def _write_raw_chunks(folder: Path, values: NDArray[Any], n_rows: int) -> dict[str, str]:
    """Write the chunk files of an uncompressed array that is chunked along its first axis only.

    Such a file is the chunk's bytes and nothing else, which is what lets training map it; writing it here takes a
    tenth of the time of a pass through zarr. A border chunk has full size, filled up with zeros.
    """
    written: dict[str, str] = {}
    for number, start in enumerate(range(0, len(values), n_rows)):
        block = values[start : start + n_rows]
        content = np.ascontiguousarray(block, dtype=values.dtype.newbyteorder("<")).tobytes()
        content += bytes(n_rows * block[0].nbytes - len(content))
        written |= _write_file(folder.joinpath("c", str(number), *["0"] * (values.ndim - 1)), content)
    return written


def _write_shard(folder: Path, values: NDArray[np.uint8]) -> dict[str, str]:
    """Write an array's only shard: each row compressed, then where each row stands, then that index's checksum.

    The layout is that of Zarr's sharding codec with the index at the end. Encoding through zarr passes each row to
    a thread and takes ten times as long; reading goes through zarr and so checks this.
    """
    codec = Zstd(level=LABEL_ZSTD_LEVEL)
    rows = [codec.encode(row) for row in np.ascontiguousarray(values)]
    n_bytes = np.array([len(row) for row in rows], dtype="<u8")
    index = np.stack([np.cumsum(n_bytes) - n_bytes, n_bytes], axis=1).astype("<u8").tobytes()
    checksum = np.array([crc32c(index)], dtype="<u4").tobytes()
    return _write_file(folder.joinpath("c", *["0"] * values.ndim), b"".join([*rows, index, checksum]))


def _write_file(path: Path, content: bytes) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {str(path): hashlib.sha256(content).hexdigest()}


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of every file of a staged key but the root's own zarr.json."""
    return {
        name: {"bytes": os.stat(folder / name).st_size, "sha256": file_sha256(folder / name)}
        for name in sorted(_files(folder))
        if name != "zarr.json"
    }


def _files(folder: Path) -> Iterator[str]:
    """Yield every file below a folder, as paths relative to it with forward slashes."""
    for parent, _, names in os.walk(folder):
        below = Path(parent).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)


def _flush(folder: Path) -> None:
    """Bring every file below a folder, and the folders themselves, to disk."""
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in [*names, "."]]
    # Side by side, so that the file system can commit many of them at once.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_fsync, paths))


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(staged: Path, key: Path) -> None:
    """Put the staged folder in the key's place; what stood there before is gone or ends up in the staging folder."""
    for _ in range(_PUBLISH_ATTEMPTS):
        if _rename(staged, key) or _swap(staged, key) or _replace(staged, key):
            break  # else another builder was quicker and the key is there now, or is not any more
    else:
        raise OSError(errno.EBUSY, "other builds keep replacing it", str(key))
    for folder in (key.parent, key.parent.parent):  # the latter holds the patient's folder, which may be new
        _fsync(folder)


def _rename(staged: Path, key: Path) -> bool:
    """Put the staged folder where no key is; return whether none was."""
    try:
        os.rename(staged, key)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _swap(staged: Path, key: Path) -> bool:
    """Exchange two folders in one step; return whether the file system can and both were there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = os.fsencode(staged), os.fsencode(key)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(key))
    return False


def _replace(staged: Path, key: Path) -> bool:
    """Replace a key in two steps, with none in between; return False, with a key in place, if another was quicker."""
    old = staged.with_name(staged.name.removesuffix(".staging") + "-old.staging")
    try:
        os.rename(key, old)
    except FileNotFoundError:
        return False
    try:
        return _rename(staged, key)
    except OSError:
        with suppress(OSError):
            os.rename(old, key)  # rather the old key than none
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
