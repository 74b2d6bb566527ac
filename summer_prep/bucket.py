"""Keys in a bucket: immutable bytes under a prefix of their own, then one small pointer that makes them the key.

    PREFIX/keys/sub-14/bin-80ms.json                          the pointer: which data are the key
    PREFIX/data/sub-14/bin-80ms/DIGEST-NONCE.zarr/zarr.json   a Zarr group, as in a folder

A reader that follows the pointer sees the whole old or the whole new key. Two builders write under prefixes of their
own, so they cannot mix: the last one wins. What no pointer names is removed by `collect_garbage`, an hour later at the
earliest.
"""

import hashlib
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from summer_prep.copies import Copies, fill_file
from summer_prep.errors import CacheError, UnreachableError
from summer_prep.key import (
    DESCRIPTION,
    Description,
    bin_length_of,
    build_command,
    description_of,
    in_natural_order,
    is_patient_id,
    key_path,
    missing_key,
)
from summer_prep.objects import ConditionError, MissingObjectError, Objects
from summer_prep.places import Place, Url
from summer_prep.publish import Files

POINTER_FORMAT = 1
MIN_GARBAGE_AGE = timedelta(hours=1)

_N_AT_ONCE = 16
_ATTEMPTS = 5
_POINTER_ATTEMPTS = 20
_KEY = r"sub-([A-Za-z0-9]+)/(bin-[1-9][0-9]*ms)"
_POINTER = re.compile(rf"keys/{_KEY}\.json")
_DATA = re.compile(rf"data/{_KEY}/[0-9a-f]{{16}}-[0-9a-f]{{12}}\.zarr")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(/(?!\.)[A-Za-z0-9_.-]+)*")
"""Names inside of a key: what Zarr writes, and nothing that leads out of it."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Which data are a key.

    data : prefix of the data, from that of the cache on
    sha256 : digest of the data's `zarr.json`, which holds those of all other files
    """

    data: str
    sha256: str

    def as_bytes(self) -> bytes:
        """Return the content of the pointer object."""
        return json.dumps({"format": POINTER_FORMAT, "data": self.data, "sha256": self.sha256}).encode()


class BucketCache:
    """Keys in a bucket, fetched into a folder of this machine to be mapped from there."""

    n_at_once = _N_AT_ONCE

    def __init__(self, url: Url, local_cache: Path) -> None:
        self.place: Place = url
        self.url = url
        self.objects = Objects(url, "--cache-dir")
        self.copies = Copies(url, local_cache)
        self.folder = self.copies.folder

    def __repr__(self) -> str:
        return f"<BucketCache: {self.url}>"

    def keys(self) -> dict[str, list[int]]:
        """As `Cache`."""
        found: dict[str, list[int]] = {}
        for entry in self.objects.list("keys"):
            if key := _key_of_pointer(entry["path"]):
                found.setdefault(key[0], []).append(key[1])
        return {patient_id: sorted(found[patient_id]) for patient_id in in_natural_order(found)}

    def bin_lengths(self, patient_id: str) -> list[int]:
        """As `Cache`."""
        assert is_patient_id(patient_id), patient_id
        paths = (entry["path"] for entry in self.objects.list(f"keys/sub-{patient_id}"))
        return sorted(key[1] for path in paths if (key := _key_of_pointer(path)))

    def describe(self, patient_id: str, bin_length_ms: int) -> Description:
        """As `Cache`; the description's identity is the pointer."""
        return self._follow(patient_id, bin_length_ms, self._described)

    def _described(self, key: Url, pointer: Pointer) -> Description:
        return self._description(key, pointer)[1]

    def _description(self, key: Url, pointer: Pointer) -> tuple[bytes, Description]:
        content = self.objects.get(f"{pointer.data}/{DESCRIPTION}")
        if hashlib.sha256(content).hexdigest() != pointer.sha256:
            raise CacheError(f"{key}: {pointer.data}/{DESCRIPTION} was changed. Rebuild it: {build_command(key)}")
        description = description_of(key, content, pointer)
        _check_file_names(description)
        return content, description

    def problems(self, description: Description, every_byte: bool = False) -> Iterator[str]:
        """As `Cache`."""
        pointer, files = description.identity, description.attributes["files"]
        assert isinstance(pointer, Pointer)
        where = self.url / pointer.data
        sizes = self._sizes(pointer)
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

    def _sizes(self, pointer: Pointer) -> dict[str, int]:
        entries = self.objects.list(pointer.data)
        return {entry["path"].removeprefix(f"{pointer.data}/"): entry["size"] for entry in entries}

    def _sha256(self, pointer: Pointer, name: str, n_bytes: int) -> str:
        digest = hashlib.sha256()
        for chunk in self.objects.stream(f"{pointer.data}/{name}", 0, n_bytes):
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
            content = self.objects.get(path)
        except MissingObjectError:
            return None
        try:
            plain = json.loads(content)
            pointer = Pointer(data=plain["data"], sha256=plain["sha256"])
            is_known = (
                plain["format"] == POINTER_FORMAT
                and _DATA.fullmatch(pointer.data)
                and pointer.data.startswith(f"{_data_path(path)}/")
                and _SHA256.fullmatch(pointer.sha256)
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            is_known = False
        if not is_known:
            key = key_path(self.url, patient_id, bin_length_ms)
            raise CacheError(
                f"{self.url / path}: is no pointer to a key that this version knows. Rebuild it: {build_command(key)}"
            )
        return pointer

    def publish(self, patient_id: str, bin_length_ms: int, files: Files, digests: Mapping[str, str]) -> None:
        """As `Cache`: all data first, then the pointer."""
        started = time.time()
        path = _pointer_path(patient_id, bin_length_ms)
        sha256 = digests[DESCRIPTION]
        pointer = Pointer(data=f"{_data_path(path)}/{sha256[:16]}-{uuid.uuid4().hex[:12]}.zarr", sha256=sha256)
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            list(pool.map(lambda name: self.objects.put(f"{pointer.data}/{name}", bytes(files[name])), files))
        if self._sizes(pointer) != {name: len(content) for name, content in files.items()}:
            raise CacheError(f"{self.url / pointer.data}: does not list as it was written. Build again")
        if time.time() - started > MIN_GARBAGE_AGE.total_seconds() / 2:
            # So old, it could be taken for garbage in the moment before the pointer names it.
            raise CacheError(f"{self.url / pointer.data}: took too long to upload. Build again on a faster network")
        self._point(path, pointer)
        with suppress(CacheError):
            self.copies.prepare(patient_id)  # where the recording's digest is noted; without it, it is found anew

    def _point(self, path: str, pointer: Pointer) -> None:
        for attempt in range(_POINTER_ATTEMPTS):
            try:
                content, version = self.objects.get_version(path)  # whatever it says: rebuilding is what repairs it
            except MissingObjectError:
                content, version = b"", None
            if content == pointer.as_bytes():
                return  # an attempt that seemed to fail did not
            try:
                self.objects.put_if(path, pointer.as_bytes(), version)
                return
            except ConditionError:
                # Another builder was quicker, or our own attempt whose answer was lost.
                time.sleep(random.uniform(0, min(1.0, 0.01 * 2**attempt)))
        raise CacheError(f"{self.url / path}: other builds keep replacing it. Build again when they have ended")

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """As `Cache`."""
        problems: list[str] = []
        for _ in range(_ATTEMPTS):
            try:
                description = self.describe(patient_id, bin_length_ms)
            except UnreachableError:
                raise
            except CacheError as error:
                return [str(error)]
            try:
                problems = list(self.problems(description, every_byte=True))
            except MissingObjectError as error:
                problems = [f"{description.key}: an object is missing ({error})"]
            if not problems or self.pointer(patient_id, bin_length_ms) == description.identity:
                break  # else it was rebuilt meanwhile
        return [f"{problem}. Rebuild it: {build_command(description.key)}" for problem in problems]

    def zarr_store(self, description: Description) -> Any:
        """As `Cache`; the key's data stay the same, also when it is rebuilt."""
        from zarr.storage import ObjectStore

        assert isinstance(description.identity, Pointer)
        return ObjectStore(self.objects.store_at(self.url / description.identity.data), read_only=True)

    def fetch(self, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> Description:
        """Return a key that is on this machine, fetching it if it is not there already as it is in the bucket.

        Parameters
        ----------
        every_byte : read what is there; if it was damaged, it is fetched again

        Raises
        ------
        CacheError : it is missing or damaged, or cannot be fetched
        """

        def fetched(key: Url, pointer: Pointer) -> Description:
            place = self.copies.prepare(patient_id) / key.name
            return self.copies.get(place, pointer.sha256, lambda to: self._download(key, pointer, to), every_byte)

        return self._follow(patient_id, bin_length_ms, fetched)

    def _download(self, key: Url, pointer: Pointer, to: Path) -> None:
        content, description = self._description(key, pointer)
        files = description.attributes["files"]

        def bring(name: str) -> None:
            path = f"{pointer.data}/{name}"
            if not fill_file(to / name, files[name], lambda start, stop: self.objects.stream(path, start, stop)):
                raise CacheError(
                    f"{self.url / path}: its bytes were changed: it does not arrive as it was written. "
                    f"Rebuild it: {build_command(key)}"
                )

        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            list(pool.map(bring, files))
        (to / DESCRIPTION).write_bytes(content)

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
            except MissingObjectError as error:
                if tried == pointer.data:
                    raise CacheError(
                        f"{self.url / pointer.data}: objects are missing ({error}). Rebuild it: {build_command(key)}"
                    ) from error
                tried = pointer.data
        raise CacheError(f"{key}: is being rebuilt again and again. Wait for the builds to end")

    def collect_garbage(self, may_remove: bool = True, now: datetime | None = None) -> tuple[list[Url], list[str]]:
        """Remove data that no pointer names, if they and the pointer of their key are old enough.

        Only what publishing writes is looked at: whatever else is in the bucket is not ours.

        Parameters
        ----------
        may_remove : False only tells
        now : by the bucket's clock, which is asked by default

        Returns
        -------
        removed, problems : places of the data; lines on keys whose data were left alone as their pointer is damaged

        Raises
        ------
        CacheError : the bucket cannot be read or written
        """
        old = (now or self.objects.now()).timestamp() - MIN_GARBAGE_AGE.total_seconds()
        # First the data, then the pointers: data that are published in between are named by what is read later.
        newest: dict[str, float] = {}
        for entry in self.objects.list("data"):
            data = "/".join(entry["path"].split("/")[:4])
            if _DATA.fullmatch(data):
                newest[data] = max(newest.get(data, 0.0), entry["last_modified"].timestamp())
        changed = {entry["path"]: entry["last_modified"].timestamp() for entry in self.objects.list("keys")}
        pointer_of = {data: f"keys/{'/'.join(data.split('/')[1:3])}.json" for data in newest}
        candidates = [
            data for data, time_s in sorted(newest.items()) if max(time_s, changed.get(pointer_of[data], 0.0)) <= old
        ]
        problems: dict[str, str] = {}
        paths = sorted({pointer_of[data] for data in candidates})
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            pointers = dict(zip(paths, pool.map(lambda path: self._pointer_at(path, problems), paths), strict=True))
        removed = []
        for data in candidates:
            pointer = pointers[pointer_of[data]]
            if pointer_of[data] in problems or (pointer is not None and pointer.data == data):
                continue
            removed.append(self.url / data)
            if may_remove:
                self.objects.delete([entry["path"] for entry in self.objects.list(data)])
        return removed, [problems[path] for path in paths if path in problems]

    def _pointer_at(self, path: str, problems: dict[str, str]) -> Pointer | None:
        key = _key_of_pointer(path)
        assert key is not None, path
        try:
            return self.pointer(*key)
        except UnreachableError:
            raise
        except CacheError as error:
            problems[path] = str(error)
            return None


def _check_file_names(description: Description) -> None:
    """Refuse a key whose table of files is none, or leads out of the key."""
    key, files = description.key, description.attributes.get("files")
    for name, file in files.items() if isinstance(files, dict) else [("", files)]:
        is_right = (
            _FILE.fullmatch(name)
            and isinstance(file, dict)
            and type(file.get("bytes")) is int
            and file["bytes"] >= 0
            and isinstance(file.get("sha256"), str)
        )
        if not is_right:
            raise CacheError(
                f"{key}: its list of files is damaged, at {name!r:.100}: names inside of the key, sizes and digests "
                f"are allowed. Rebuild it: {build_command(key)}"
            )


def _pointer_path(patient_id: str, bin_length_ms: int) -> str:
    assert is_patient_id(patient_id), patient_id
    return f"keys/sub-{patient_id}/bin-{bin_length_ms}ms.json"


def _data_path(pointer_path: str) -> str:
    return f"data/{pointer_path.removeprefix('keys/').removesuffix('.json')}"


def _key_of_pointer(path: str) -> tuple[str, int] | None:
    """Return the patient id and bin length (ms) of a pointer; None if there can be none at this path."""
    match = _POINTER.fullmatch(path)
    length = bin_length_of(f"{match[2]}.zarr") if match else None
    return (match[1], length) if match and length else None
