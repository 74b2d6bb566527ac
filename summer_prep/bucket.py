"""Keys in a bucket: immutable bytes under a prefix of their own, then one small pointer that makes them the key.

    PREFIX/keys/sub-14/bin-80ms.json                          the pointer: which data are the key
    PREFIX/data/sub-14/bin-80ms/DIGEST-NONCE.zarr/zarr.json   a Zarr group, as in a folder

A reader that follows the pointer sees the whole old or the whole new key. Two builders write under prefixes of their
own and replace the pointer on condition that it is still the one they saw, so they cannot mix. What no pointer names is
removed by `collect_garbage`, an hour later at the earliest.
"""

import hashlib
import json
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from summer_prep.errors import CacheError, SettingsError
from summer_prep.extras import load_extra
from summer_prep.key import (
    DESCRIPTION,
    Description,
    bin_length_of,
    build_command,
    check_files,
    describe,
    description_of,
    file_sha256,
    in_natural_order,
    is_patient_id,
    key_path,
    missing_key,
)
from summer_prep.places import Place, Url
from summer_prep.publish import Files, put_in_place

Result = TypeVar("Result")

SCHEMES = ("s3", "gs", "az")
POINTER_FORMAT = 1
MIN_GARBAGE_AGE = timedelta(hours=1)

SIZE_VARIABLE = "SUMMER_LOCAL_CACHE_GB"
DEFAULT_SIZE_GB = 50.0

_IN_USE_S = 3600.0
"""Keys that were fetched or asked for so recently are not removed: a run may be about to map them."""
_N_AT_ONCE = 16
_ATTEMPTS = 5
_POINTER_ATTEMPTS = 20
_CHUNK_BYTES = 8 * 2**20
_TIMEOUTS = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=60)}
_RETRIES: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=90)}
_POINTER = re.compile(r"keys/sub-([A-Za-z0-9]+)/(bin-[0-9]+ms)\.json")


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Which data are a key.

    data : prefix of the data, from that of the cache on
    sha256 : digest of the data's `zarr.json`, which holds those of all other files
    version : of the pointer object, as the bucket tells it: replacing it is on condition of that
    """

    data: str
    sha256: str
    version: Mapping[str, str] = field(default_factory=dict, compare=False)

    def as_bytes(self) -> bytes:
        """Return the content of the pointer object."""
        return json.dumps({"format": POINTER_FORMAT, "data": self.data, "sha256": self.sha256}).encode()


class BucketCache:
    """Keys in a bucket, fetched into a folder of this machine to be mapped from there."""

    n_at_once = _N_AT_ONCE

    def __init__(self, url: Url, local_cache: Path) -> None:
        if url.scheme not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise SettingsError(f"--cache-dir {url}: a cache can be a folder, or in a bucket at {known}")
        self.place: Place = url
        self.url = url
        self.obstore = load_extra("obstore", "bucket", f"--cache-dir {url}")
        load_extra("obstore.store", "bucket", f"--cache-dir {url}")
        # A word to know it by, and a digest: two buckets' keys must not meet in one folder.
        word = re.sub(r"[^A-Za-z0-9]+", "-", url)[:40].strip("-")
        self.folder = local_cache / f"{word}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        try:
            self.store = self.obstore.store.from_url(url, **client_options())
        except Exception as error:
            raise SettingsError(
                f"--cache-dir {url}: {_first_line(error)}. Check the URL and its credentials"
            ) from error

    def __repr__(self) -> str:
        return f"<BucketCache: {self.url}>"

    def keys(self) -> dict[str, list[int]]:
        """As `Cache`."""
        found: dict[str, list[int]] = {}
        for entry in self._list("keys"):
            match = _POINTER.fullmatch(entry["path"])
            length = bin_length_of(f"{match[2]}.zarr") if match else None
            if match and length:
                found.setdefault(match[1], []).append(length)
        return {patient_id: sorted(found[patient_id]) for patient_id in in_natural_order(found)}

    def bin_lengths(self, patient_id: str) -> list[int]:
        """As `Cache`."""
        assert is_patient_id(patient_id), patient_id
        names = (PurePosixPath(entry["path"]).stem for entry in self._list(f"keys/sub-{patient_id}"))
        return sorted(length for name in names if (length := bin_length_of(f"{name}.zarr")))

    def describe(self, patient_id: str, bin_length_ms: int) -> Description:
        """As `Cache`; the description's identity is the pointer."""
        return self._follow(patient_id, bin_length_ms, self._described)

    def _described(self, key: Url, pointer: Pointer) -> Description:
        content = self._get(f"{pointer.data}/{DESCRIPTION}")
        if hashlib.sha256(content).hexdigest() != pointer.sha256:
            raise CacheError(f"{key}: {pointer.data}/{DESCRIPTION} was changed. Rebuild it: {build_command(key)}")
        return description_of(key, content, pointer)

    def problems(self, description: Description, every_byte: bool = False) -> Iterator[str]:
        """As `Cache`."""
        pointer, files = description.identity, description.attributes["files"]
        assert isinstance(pointer, Pointer)
        where = self.url / pointer.data
        sizes = {entry["path"].removeprefix(f"{pointer.data}/"): entry["size"] for entry in self._list(pointer.data)}
        for name in sorted(set(sizes) - set(files) - {DESCRIPTION}):
            yield f"{where / name}: does not belong there"
        present = []
        for name, file in files.items():
            if name not in sizes:
                yield f"{where / name}: the object is missing"
            elif sizes[name] != file["bytes"]:
                yield f"{where / name}: has {sizes[name]} bytes instead of {file['bytes']}"
            else:
                present.append(name)
        if every_byte:
            with ThreadPoolExecutor(_N_AT_ONCE) as pool:
                found = pool.map(lambda name: self._sha256(pointer, name, files[name]["bytes"]), present)
                for name, sha256 in zip(present, found, strict=True):
                    if sha256 != files[name]["sha256"]:
                        yield f"{where / name}: its bytes were changed"

    def _sha256(self, pointer: Pointer, name: str, n_bytes: int) -> str:
        digest = hashlib.sha256()
        for chunk in self._stream(f"{pointer.data}/{name}", 0, n_bytes):
            digest.update(chunk)
        return digest.hexdigest()

    def pointer(self, patient_id: str, bin_length_ms: int) -> Pointer | None:
        """Return which data are a key; None if there is none.

        Raises
        ------
        CacheError : the bucket cannot be read, or holds something else there
        """
        path = _pointer_path(patient_id, bin_length_ms)
        try:
            response = self._call(self.obstore.get, path)
        except FileNotFoundError:
            return None
        try:
            plain = json.loads(bytes(response.bytes()))
            version = {name: response.meta[name] for name in ("e_tag", "version") if response.meta.get(name)}
            pointer = Pointer(data=plain["data"], sha256=plain["sha256"], version=version)
            is_known = plain["format"] == POINTER_FORMAT and pointer.data.startswith(f"{_data_path(path)}/")
        except (ValueError, KeyError, TypeError, AttributeError):
            is_known = False
        if not is_known:
            key = key_path(self.url, patient_id, bin_length_ms)
            raise CacheError(
                f"{self.url / path}: is no pointer to a key that this version knows. Rebuild it: {build_command(key)}"
            )
        return pointer

    def publish(self, patient_id: str, bin_length_ms: int, files: Files, digests: Mapping[str, str]) -> None:
        """As `Cache`: all data first, then the pointer, if it is still the one that was there before."""
        started = time.monotonic()
        path = _pointer_path(patient_id, bin_length_ms)
        sha256 = digests[DESCRIPTION]
        pointer = Pointer(data=f"{_data_path(path)}/{sha256[:16]}-{uuid.uuid4().hex[:12]}.zarr", sha256=sha256)
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            list(pool.map(lambda name: self._put(f"{pointer.data}/{name}", bytes(files[name])), files))
        stored = {entry["path"].removeprefix(f"{pointer.data}/"): entry["size"] for entry in self._list(pointer.data)}
        if stored != {name: len(content) for name, content in files.items()}:
            raise CacheError(f"{self.url / pointer.data}: does not list as it was written. Build again")
        if time.monotonic() - started > MIN_GARBAGE_AGE.total_seconds() / 2:
            # So old, it could be taken for garbage in the moment before the pointer names it.
            raise CacheError(f"{self.url / pointer.data}: took too long to upload. Build again on a faster network")
        self._point(patient_id, bin_length_ms, path, pointer)
        self.folder.joinpath(f"sub-{patient_id}").mkdir(parents=True, exist_ok=True)  # where notes are kept

    def _point(self, patient_id: str, bin_length_ms: int, path: str, pointer: Pointer) -> None:
        for attempt in range(_POINTER_ATTEMPTS):
            before = self.pointer(patient_id, bin_length_ms)
            if before is not None and before.data == pointer.data:
                return  # an attempt that seemed to fail did not
            mode: Any = "create" if before is None else dict(before.version)
            try:
                self._put(path, pointer.as_bytes(), mode)
                return
            except (self.obstore.exceptions.AlreadyExistsError, self.obstore.exceptions.PreconditionError):
                # Another builder was quicker, or our own attempt whose answer was lost.
                time.sleep(random.uniform(0, min(1.0, 0.01 * 2**attempt)))
        raise CacheError(f"{self.url / path}: other builds keep replacing it. Build again when they have ended")

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """As `Cache`."""
        problems: list[str] = []
        for _ in range(_ATTEMPTS):
            try:
                description = self.describe(patient_id, bin_length_ms)
            except CacheError as error:
                return [str(error)]
            try:
                problems = list(self.problems(description, every_byte=True))
            except FileNotFoundError as error:
                problems = [f"{description.key}: an object is missing ({_first_line(error)})"]
            if not problems or self.pointer(patient_id, bin_length_ms) == description.identity:
                break  # else it was rebuilt meanwhile
        return [f"{problem}. Rebuild it: {build_command(description.key)}" for problem in problems]

    def zarr_store(self, description: Description) -> Any:
        """As `Cache`; the key's data stay the same, also when it is rebuilt."""
        from zarr.storage import ObjectStore

        assert isinstance(description.identity, Pointer)
        data = self.url / description.identity.data
        return ObjectStore(self.obstore.store.from_url(data, **client_options()), read_only=True)

    def fetch(self, patient_id: str, bin_length_ms: int) -> Description:
        """Return a key that is on this machine, fetching it if it is not there already as it is in the bucket.

        Raises
        ------
        CacheError : it is missing or damaged, or cannot be fetched
        """
        return self._follow(patient_id, bin_length_ms, self._fetched)

    def _fetched(self, key: Url, pointer: Pointer) -> Description:
        place = self.folder / key.parent.name / key.name
        if (there := _usable(place, pointer)) is None:
            with self._alone_at(place):
                if (there := _usable(place, pointer)) is None:
                    self._download(key, pointer, place)
                    there = describe(place)
                    self._make_room()
        with suppress(OSError):
            os.utime(place)  # used just now
        return there

    def _make_room(self) -> None:
        """Remove the keys that were used longest ago where those that were fetched take more than they may."""
        limit_bytes = _size_limit_bytes()
        keys = []
        for key in self.folder.parent.glob("*/sub-*/bin-*ms.zarr"):
            with suppress(OSError):
                n_bytes = sum(file.stat().st_size for file in key.rglob("*") if file.is_file())
                keys.append((key.stat().st_mtime, n_bytes, key))
        excess = sum(n_bytes for _, n_bytes, _ in keys) - limit_bytes
        for used, n_bytes, key in sorted(keys):
            if excess <= 0 or time.time() - used < _IN_USE_S:
                break
            aside = key.with_name(f".{key.name}.{uuid.uuid4().hex}.partial")
            with suppress(OSError):
                key.rename(aside)  # in one step, so that nobody meets half of it
                shutil.rmtree(aside, ignore_errors=True)
                excess -= n_bytes

    @contextmanager
    def _alone_at(self, place: Path) -> Iterator[None]:
        """Keep others of this machine from fetching the same key; where there are no locks, both do."""
        lock = FileLock(place.with_name(f".{place.name}.lock"))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError, Timeout):
                lock.acquire(timeout=600)
        except OSError as error:
            raise _unwritable(place, error) from error
        try:
            yield
        finally:
            lock.release()

    def _download(self, key: Url, pointer: Pointer, place: Path) -> None:
        """Fetch the files of a key beside its place, going on where an earlier attempt was cut, and put it there."""
        partial = place.with_name(f".{place.name}.{pointer.sha256[:16]}.partial")
        description = self._described(key, pointer)
        files = description.attributes["files"]
        for name in files:
            if name.startswith("/") or ".." in name.split("/"):
                raise CacheError(f"{key}: names a file outside of itself, {name!r}. Rebuild it: {build_command(key)}")
        try:
            for other in place.parent.glob(f".{place.name}.*.partial"):
                if other != partial:
                    shutil.rmtree(other, ignore_errors=True)
            with ThreadPoolExecutor(_N_AT_ONCE) as pool:
                list(pool.map(lambda name: self._download_file(pointer, name, files[name], partial / name), files))
            (partial / DESCRIPTION).write_bytes(self._get(f"{pointer.data}/{DESCRIPTION}"))
            put_in_place(partial, place)
            shutil.rmtree(partial, ignore_errors=True)  # what stood there before
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unwritable(place, error) from error

    def _download_file(self, pointer: Pointer, name: str, expected: Mapping[str, Any], to: Path) -> None:
        """Fetch one file against its digest; what an earlier attempt left of it is kept."""
        to.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # what was left may be damaged
            digest = hashlib.sha256(to.read_bytes() if to.exists() else b"")
            with to.open("ab") as file:
                for chunk in self._stream(f"{pointer.data}/{name}", file.tell(), expected["bytes"]):
                    file.write(chunk)
                    digest.update(chunk)
            if digest.hexdigest() == expected["sha256"]:
                return
            to.unlink()
        raise CacheError(
            f"{self.url / pointer.data / name}: its bytes were changed: it does not arrive as it was written. "
            f"Rebuild it: {build_command(self._key_of(pointer))}"
        )

    def _key_of(self, pointer: Pointer) -> Url:
        _, patient, name, _ = pointer.data.split("/")
        return self.url / patient / f"{name}.zarr"

    def _stream(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield an object's bytes in pieces, each of which is asked for anew where a connection is cut."""
        for begin in range(start, stop, _CHUNK_BYTES):
            end = min(begin + _CHUNK_BYTES, stop)
            yield bytes(self._call(self.obstore.get_range, path, start=begin, end=end))

    def _follow(self, patient_id: str, bin_length_ms: int, read: Callable[[Url, Pointer], Description]) -> Description:
        """Read what a pointer names; what is replaced and removed meanwhile is looked for anew."""
        key = key_path(self.url, patient_id, bin_length_ms)
        tried = None
        for _ in range(_ATTEMPTS):
            pointer = self.pointer(patient_id, bin_length_ms)
            if pointer is None:
                raise missing_key(key)
            try:
                return read(key, pointer)
            except FileNotFoundError as error:
                if tried == pointer.data:
                    raise CacheError(
                        f"{self.url / pointer.data}: objects are missing ({_first_line(error)}). "
                        f"Rebuild it: {build_command(key)}"
                    ) from error
                tried = pointer.data
        raise CacheError(f"{key}: is being rebuilt again and again. Wait for the builds to end")

    def _put(self, path: str, content: bytes, mode: Any = "overwrite") -> None:
        self._call(self.obstore.put, path, content, mode=mode)

    def _get(self, path: str) -> bytes:
        return bytes(self._call(self.obstore.get, path).bytes())

    def _list(self, prefix: str) -> list[Any]:
        """Return the objects below a prefix."""
        return list(self._call(lambda store: self.obstore.list(store, prefix).collect()))

    def _call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Ask the bucket; whatever is wrong with it, but a missing object or a failed condition, is one line."""
        exceptions = self.obstore.exceptions
        try:
            return function(self.store, *arguments, **options)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            if function in (self.obstore.get, self.obstore.get_range):
                raise
            raise CacheError(f"{self.url}: no such bucket ({_first_line(error)}). Check --cache-dir") from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise CacheError(f"{self.url}: {_first_line(error)}. Check URL, credentials and network") from error

    def collect_garbage(self, now: datetime, may_remove: bool = True) -> list[Url]:
        """Remove data that no pointer names, if they and the pointer of their key are old enough; return them.

        Parameters
        ----------
        may_remove : False only tells

        Raises
        ------
        CacheError : the bucket cannot be read or written
        """
        # First the data, then the pointers: data that are published in between are named by what is read later.
        objects: dict[str, list[Any]] = {}
        for entry in self._list("data"):
            objects.setdefault("/".join(entry["path"].split("/")[:4]), []).append(entry)
        changed = {entry["path"]: entry["last_modified"] for entry in self._list("keys")}
        named: dict[str, Pointer | None] = {}
        removed = []
        for data, entries in sorted(objects.items()):
            path = f"keys/{'/'.join(data.split('/')[1:3])}.json"
            if path not in named:
                named[path] = self._pointer_at(path)
            pointer = named[path]
            newest = max([changed.get(path), *(entry["last_modified"] for entry in entries)], key=_time)
            if (pointer is not None and pointer.data == data) or now - newest < MIN_GARBAGE_AGE:
                continue
            removed.append(self.url / data)
            if may_remove:
                self._call(self.obstore.delete, [entry["path"] for entry in entries])
        return removed

    def _pointer_at(self, path: str) -> Pointer | None:
        match = _POINTER.fullmatch(path)
        length = bin_length_of(f"{match[2]}.zarr") if match else None
        return self.pointer(match[1], length) if match and length else None


def client_options() -> Any:
    """Return how patient the bucket's client is; and that servers of one's own, like MinIO, need no TLS."""
    is_plain = os.environ.get("AWS_ENDPOINT", os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
    return {"client_options": {**_TIMEOUTS, "allow_http": is_plain}, "retry_config": _RETRIES}


def _size_limit_bytes() -> float:
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_SIZE_GB))
    try:
        return float(text) * 1e9
    except ValueError as error:
        raise SettingsError(f"{SIZE_VARIABLE}={text}: must be a number of GB, like {DEFAULT_SIZE_GB:g}") from error


def _time(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()


def _pointer_path(patient_id: str, bin_length_ms: int) -> str:
    assert is_patient_id(patient_id), patient_id
    return f"keys/sub-{patient_id}/bin-{bin_length_ms}ms.json"


def _data_path(pointer_path: str) -> str:
    return f"data/{pointer_path.removeprefix('keys/').removesuffix('.json')}"


def _usable(place: Path, pointer: Pointer) -> Description | None:
    """Return what a key on this machine says of itself, if it is the one that the pointer names, and whole."""
    try:
        if file_sha256(place / DESCRIPTION) != pointer.sha256:
            return None
        description = describe(place)
        check_files(description)
    except (CacheError, OSError):
        return None
    return description


def _unwritable(place: Path, error: OSError) -> CacheError:
    return CacheError(
        f"{place}: cannot be written ({error.strerror or error}). Free space, or name another folder with --local-cache"
    )


def _first_line(error: BaseException) -> str:
    """Return what an error of obstore says to people: the server's status and message, or its own first line."""
    text = str(error)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    if status is not None:
        return f"{status[1].strip()}{': ' + message[1].strip().rstrip('.') if message else ''}"
    line = next((line for line in text.splitlines() if line.strip()), repr(error))
    return re.sub(r"\s+", " ", line)[:300].rstrip(" .")
