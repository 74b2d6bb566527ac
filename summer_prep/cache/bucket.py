"""Keys in a bucket: data that never change, and one small pointer per key, written last, that says which data it is.

    PREFIX/keys/sub-14/bin-80ms.json                          the pointer
    PREFIX/data/sub-14/bin-80ms/DIGEST-NONCE.zarr/zarr.json   the data: a Zarr group, as in a folder

A reader that follows the pointer sees the whole old or the whole new key. Two builders write under different prefixes,
so they cannot mix: the last one wins. Data that were replaced stay for a day, so that their readers can end.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from summer_prep.cache.layout import (
    DESCRIPTION,
    Description,
    build_command,
    check_files,
    describe,
    description_of,
    in_natural_order,
    key_path,
    missing_key,
)
from summer_prep.cache.publish import Files, clear_debris, publish
from summer_prep.errors import CacheError, SettingsError, UnreachableError
from summer_prep.optional import load_extra
from summer_prep.urls import BUCKETS, CLIENT, Url, reaching

MIN_GARBAGE_AGE = timedelta(days=1)

_KEY = r"sub-([A-Za-z0-9]+)/bin-([1-9][0-9]*)ms"
_DATA = rf"data/{_KEY}/[0-9a-f]{{16}}-[0-9a-f]{{12}}\.zarr"
_POINTER = r'\{"format": 1, "data": "(DATA)", "sha256": "([0-9a-f]{64})"\}'.replace("DATA", _DATA)


class Pointer(NamedTuple):
    """The prefix of a key's data, and the SHA-256 of their `zarr.json`, which holds those of all other files."""

    data: str
    sha256: str


class BucketCache:
    """Keys in a bucket; methods as those of `FolderCache`. To be mapped, a key is copied to this machine.

    Every method raises UnreachableError if the bucket cannot be asked.

    Raises
    ------
    SettingsError : not the URL of a bucket, or the extra for buckets is missing
    """

    n_at_once = 16

    def __init__(self, url: Url, local_cache: Path) -> None:
        if not url.startswith(BUCKETS):
            raise SettingsError(f"--cache-dir {url}: a cache can be a folder, or in a bucket at {', '.join(BUCKETS)}")
        self._obstore = load_extra("obstore", f"--cache-dir {url}")
        self._open_store = load_extra("obstore.store", f"--cache-dir {url}").from_url
        self.place = url
        self.local_cache = local_cache
        self.folder = local_cache / "notes" / hashlib.sha256(url.encode()).hexdigest()[:16]
        with reaching(url, UnreachableError):
            self._store = self._open_store(url, **CLIENT)

    def keys(self) -> dict[str, list[int]]:
        """Return patient id -> bin lengths (ms)."""
        found: dict[str, list[int]] = {}
        for patient_id, bin_length_ms in _keys_of(self._list("keys")):
            found.setdefault(patient_id, []).append(bin_length_ms)
        return {patient_id: sorted(found[patient_id]) for patient_id in in_natural_order(found)}

    def bin_lengths(self, patient_id: str) -> list[int]:
        """Return the bin lengths (ms) of one patient's keys."""
        return sorted(bin_length_ms for _, bin_length_ms in _keys_of(self._list(f"keys/sub-{patient_id}")))

    def pointer(self, patient_id: str, bin_length_ms: int) -> Pointer:
        """Return which data are a key; raises CacheError if there is no such key, or its pointer is damaged."""
        path = f"keys/sub-{patient_id}/bin-{bin_length_ms}ms.json"
        key = key_path(self.place, patient_id, bin_length_ms)
        content = self._get(path)
        if content is None:
            raise missing_key(key)
        match = re.fullmatch(_POINTER, content.decode(errors="replace"))
        if match is None or (match[2], int(match[3])) != (patient_id, bin_length_ms):
            raise CacheError(f"{self.place / path}: is no pointer to this key. Rebuild it: {build_command(key)}")
        return Pointer(match[1], match[4])

    def describe(self, patient_id: str, bin_length_ms: int) -> Description:
        """Return what a key says of itself; its identity is the pointer."""
        key = key_path(self.place, patient_id, bin_length_ms)
        pointer = self.pointer(patient_id, bin_length_ms)
        content = self._get(f"{pointer.data}/{DESCRIPTION}") or b""
        if hashlib.sha256(content).hexdigest() != pointer.sha256:
            where = self.place / pointer.data / DESCRIPTION
            raise CacheError(f"{where}: is missing, or was changed. Rebuild it: {build_command(key)}")
        return description_of(key, content, pointer)

    def problems(self, description: Description, every_byte: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files of a key, one line each; their bytes are read only if asked for."""
        where, data = self.place / description.identity.data, description.identity.data
        sizes = {path.removeprefix(f"{data}/"): entry["size"] for path, entry in self._list(data).items()}
        changed = self._read(description)[1] if every_byte else []
        for name, file in description.attributes["files"].items():
            if name not in sizes:
                yield f"{where / name}: the object is missing"
            elif sizes[name] != file["bytes"]:
                yield f"{where / name}: has {sizes[name]} bytes instead of {file['bytes']}"
            elif name in changed:
                yield f"{where / name}: its bytes were changed"

    def publish(self, patient_id: str, bin_length_ms: int, files: Files) -> None:
        """Make a key hold these files: all data first, then the pointer."""
        key = f"sub-{patient_id}/bin-{bin_length_ms}ms"
        sha256 = hashlib.sha256(files[DESCRIPTION]).hexdigest()
        data = f"data/{key}/{sha256[:16]}-{uuid.uuid4().hex[:12]}.zarr"
        pointer = json.dumps({"format": 1, "data": data, "sha256": sha256}).encode()
        with reaching(self.place, UnreachableError):
            with ThreadPoolExecutor(self.n_at_once) as pool:
                list(pool.map(lambda name: self._obstore.put(self._store, f"{data}/{name}", bytes(files[name])), files))
            self._obstore.put(self._store, f"keys/{key}.json", pointer)

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """Return what is wrong with a key, one line each; an empty list if every byte is right."""
        try:
            description = self.describe(patient_id, bin_length_ms)
        except CacheError as error:
            return [str(error)]
        problems = self.problems(description, every_byte=True)
        return [f"{problem}. Rebuild it: {build_command(description.key)}" for problem in problems]

    def zarr_store(self, description: Description) -> Any:
        """Return where zarr reads a key."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._open_store(self.place / description.identity.data, **CLIENT), read_only=True)

    def fetch(self, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> Description:
        """Return the copy of a key on this machine, made if it is not there: in a folder named by the key's digest.

        Parameters
        ----------
        every_byte : read the files of a copy that is there, and do not only measure them; a damaged copy is replaced

        Raises
        ------
        CacheError : the key is missing or damaged, or cannot be written here
        """
        description = self.describe(patient_id, bin_length_ms)
        pointer = description.identity
        copy = key_path(self.local_cache / "copies" / pointer.sha256, patient_id, bin_length_ms)
        with suppress(CacheError):
            copied = describe(copy)
            check_files(copied, every_byte)
            return copied
        contents, changed = self._read(description)
        if changed:
            where = self.place / pointer.data / changed[0]
            raise CacheError(f"{where}: is missing, or was changed. Rebuild it: {build_command(description.key)}")
        clear_debris(copy.parent)
        publish(copy, contents, "--local-cache")
        return describe(copy)

    def collect_garbage(self, may_remove: bool = True, now: datetime | None = None) -> list[Url]:
        """Remove data that no pointer names, a day after they were written or replaced; return their URLs.

        Only what publishing writes is looked at: whatever else is in the bucket is not ours.

        Parameters
        ----------
        may_remove : False only lists
        now : the current time by default

        Raises
        ------
        CacheError : a pointer is damaged, and what it named may still be the key; nothing is removed
        """
        # First the data, then the pointers: data that are published in between are named by what is read later.
        listed = self._list("data")
        pointers = self._list("keys")
        with ThreadPoolExecutor(self.n_at_once) as pool:
            named = {pointer.data for pointer in pool.map(lambda key: self.pointer(*key), _keys_of(pointers))}
        changed = {path: entry["last_modified"] for path, entry in {**listed, **pointers}.items()}
        paths_of: dict[str, list[str]] = {}
        for path in listed:
            data = "/".join(path.split("/")[:4])
            if re.fullmatch(_DATA, data) and data not in named:
                paths_of.setdefault(data, []).append(path)
        removed = []
        for data, paths in paths_of.items():
            pointer = f"keys/{'/'.join(data.split('/')[1:3])}.json"
            age = (now or datetime.now(UTC)) - max(changed[path] for path in [*paths, pointer] if path in changed)
            if age >= MIN_GARBAGE_AGE:
                removed.append(self.place / data)
                if may_remove:
                    with reaching(self.place, UnreachableError):
                        self._obstore.delete(self._store, paths)
        return removed

    def _list(self, prefix: str) -> dict[str, Any]:
        """Return path -> size, last_modified of the objects below a prefix."""
        with reaching(self.place, UnreachableError):
            return {entry["path"]: entry for entry in self._obstore.list(self._store, prefix).collect()}

    def _get(self, path: str) -> bytes | None:
        """Return the content of an object; None if there is no such object."""
        with reaching(self.place, UnreachableError):
            try:
                return bytes(self._obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

    def _read(self, description: Description) -> tuple[dict[str, bytes], list[str]]:
        """Return the content of a key's files, and the names of those that are not as they were written."""
        data, sha256 = description.identity
        digests = {name: file["sha256"] for name, file in description.attributes["files"].items()}
        digests[DESCRIPTION] = sha256
        # A file that a damaged key lists outside of itself is not written on this machine.
        inside = [name for name in digests if not name.startswith("/") and ".." not in name]
        with ThreadPoolExecutor(self.n_at_once) as pool:
            found = pool.map(lambda name: self._get(f"{data}/{name}") or b"", inside)
            contents = dict(zip(inside, found, strict=True))
        changed = [
            name
            for name, digest in digests.items()
            if name not in contents or hashlib.sha256(contents[name]).hexdigest() != digest
        ]
        return contents, changed


def _keys_of(pointers: Iterable[str]) -> list[tuple[str, int]]:
    """Return patient id and bin length (ms) of pointers, by their paths."""
    matches = [re.fullmatch(rf"keys/{_KEY}\.json", path) for path in pointers]
    return [(match[1], int(match[2])) for match in matches if match]


def remove_copies(local_cache: Path) -> list[Path]:
    """Remove the copies of keys in buckets from this machine, and return their folders; raises SettingsError."""
    if not local_cache.is_dir():
        raise SettingsError(f"{local_cache}: no such folder, so there are no copies. Check --local-cache")
    copies = [path for path in (local_cache / "copies").glob("*") if re.fullmatch("[0-9a-f]{64}", path.name)]
    try:
        for copy in copies:
            shutil.rmtree(copy)
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be removed ({error.strerror}). Check its permissions") from error
    return copies
