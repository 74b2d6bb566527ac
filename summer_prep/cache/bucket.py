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
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from summer_prep.cache import layout
from summer_prep.cache.publish import Files, clear_debris, publish
from summer_prep.errors import CacheError, SettingsError, UnreachableError, load_extra
from summer_prep.files import writing
from summer_prep.urls import BUCKETS, CLIENT, Url, reaching

_KEY = r"sub-([A-Za-z0-9]+)/bin-([1-9][0-9]*)ms"
_DATA = rf"data/{_KEY}/[0-9a-f]{{16}}-[0-9a-f]{{12}}\.zarr"
_POINTER = r'\{"format": 1, "data": "(DATA)", "sha256": "([0-9a-f]{64})"\}'.replace("DATA", _DATA)


class Pointer(NamedTuple):
    """The prefix of a key's data, and the SHA-256 of their `zarr.json`, which holds those of all other files."""

    data: str
    sha256: str


class BucketCache:
    """Keys in a bucket, with the methods of `FolderCache`. To be mapped, a key is copied to this machine.

    Raises SettingsError if the URL is not of a bucket or the extra for buckets is missing, and in every method
    UnreachableError if the bucket does not answer, or not as it should.
    """

    n_at_once = 16

    def __init__(self, url: Url, local_cache: Path) -> None:
        if not url.startswith(BUCKETS):
            raise SettingsError(f"--cache-dir {url}: a cache can be a folder, or in a bucket at {', '.join(BUCKETS)}")
        self._open_store = load_extra("obstore", f"--cache-dir {url}").store.from_url
        self.place = url
        self.local_cache = local_cache
        self.folder = local_cache / "notes" / hashlib.sha256(url.encode()).hexdigest()[:16]
        with reaching(url, UnreachableError):
            self._store = self._open_store(url, **CLIENT)

    def keys(self) -> dict[str, list[int]]:
        """Return patient id -> bin lengths (ms, ascending), patients in natural order."""
        found = defaultdict(list)
        for patient_id, bin_length_ms in sorted(self._pointers()):
            found[patient_id].append(bin_length_ms)
        return {patient_id: found[patient_id] for patient_id in layout.in_natural_order(found)}

    def bin_lengths(self, patient_id: str) -> list[int]:
        """Return the bin lengths (ms, ascending) of one patient's keys."""
        return self.keys().get(patient_id, [])

    def pointer(self, patient_id: str, bin_length_ms: int) -> Pointer:
        """Return which data are a key; raises CacheError if there is no such key, or its pointer is damaged."""
        path = f"keys/sub-{patient_id}/bin-{bin_length_ms}ms.json"
        key = layout.key_path(self.place, patient_id, bin_length_ms)
        if (content := self._get(path)) is None:
            raise layout.missing_key(key)
        match = re.fullmatch(_POINTER, content.decode(errors="replace"))
        if match is None or (match[2], int(match[3])) != (patient_id, bin_length_ms):
            raise CacheError(f"{self.place / path}: is no pointer to this key. Rebuild it: {layout.build_command(key)}")
        return Pointer(match[1], match[4])

    def describe(self, patient_id: str, bin_length_ms: int) -> layout.Description:
        """Return the description of a key, whose identity is the pointer; raises CacheError if it is damaged."""
        key = layout.key_path(self.place, patient_id, bin_length_ms)
        pointer = self.pointer(patient_id, bin_length_ms)
        content = self._get(f"{pointer.data}/{layout.DESCRIPTION}") or b""
        if hashlib.sha256(content).hexdigest() != pointer.sha256:
            where = self.place / pointer.data / layout.DESCRIPTION
            raise CacheError(f"{where}: is missing, or was changed. Rebuild it: {layout.build_command(key)}")
        return layout.description_of(key, content, pointer)

    def problems(self, description: layout.Description, every_byte: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files of a key, one line each; their bytes are read only if asked for."""
        sizes = {self.place / entry["path"]: entry["size"] for entry in self._list(description.identity.data)}
        changed = self._read(description)[1] if every_byte else []
        for name, file in description.attributes["files"].items():
            path = self.place / description.identity.data / name
            if path not in sizes:
                yield f"{path}: the object is missing"
            elif sizes[path] != file["bytes"]:
                yield f"{path}: has {sizes[path]} bytes instead of {file['bytes']}"
            elif name in changed:
                yield f"{path}: its bytes were changed"

    def publish(self, patient_id: str, bin_length_ms: int, files: Files) -> None:
        """Make a key hold these files: all data first, then the pointer."""
        key = f"sub-{patient_id}/bin-{bin_length_ms}ms"
        sha256 = hashlib.sha256(files[layout.DESCRIPTION]).hexdigest()
        data = f"data/{key}/{sha256[:16]}-{uuid.uuid4().hex[:12]}.zarr"
        pointer = json.dumps({"format": 1, "data": data, "sha256": sha256}).encode()
        with reaching(self.place, UnreachableError):
            with ThreadPoolExecutor(self.n_at_once) as pool:
                list(pool.map(lambda name: self._store.put(f"{data}/{name}", bytes(files[name])), files))
            self._store.put(f"keys/{key}.json", pointer)

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """Return what is wrong with a key, one line each; an empty list if every byte is right."""
        try:
            description = self.describe(patient_id, bin_length_ms)
        except CacheError as error:
            return [str(error)]
        problems = self.problems(description, every_byte=True)
        return [f"{problem}. Rebuild it: {layout.build_command(description.key)}" for problem in problems]

    def zarr_store(self, description: layout.Description) -> Any:
        """Return the store from which zarr reads a key."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._open_store(self.place / description.identity.data, **CLIENT), read_only=True)

    def fetch(self, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> layout.Description:
        """Return the copy of a key on this machine, in a folder named by the key's digest; copy it if it is not there.

        `every_byte` reads the files of an existing copy instead of comparing their sizes; a damaged one is replaced.
        Raises CacheError if the key is missing or damaged, or cannot be written here.
        """
        description = self.describe(patient_id, bin_length_ms)
        pointer = description.identity
        copy = layout.key_path(self.local_cache / "copies" / pointer.sha256, patient_id, bin_length_ms)
        with suppress(CacheError):
            copied = layout.describe(copy)
            layout.check_files(copied, every_byte)
            return copied
        contents, changed = self._read(description)
        if changed:
            problem = f"{self.place / pointer.data / changed[0]}: is missing, or was changed"
            raise CacheError(f"{problem}. Rebuild it: {layout.build_command(description.key)}")
        clear_debris(copy.parent)
        publish(copy, contents, "--local-cache")
        return layout.describe(copy)

    def collect_garbage(self, may_remove: bool = True, now: datetime | None = None) -> list[Url]:
        """Remove data that no pointer names, a day after they were written or replaced; return their URLs.

        Only names that publishing gives are considered: other objects in the bucket are not ours. `may_remove=False`
        only lists. Raises CacheError, and removes nothing, if a pointer is damaged: its data may still be needed.
        """
        # Data first, then pointers: data that are published in between are named by a pointer that is read later.
        listed, pointers = self._list("data"), self._pointers()
        with ThreadPoolExecutor(self.n_at_once) as pool:
            named = {pointer.data for pointer in pool.map(lambda key: self.pointer(*key), pointers)}
        garbage = defaultdict(list)
        for entry in listed:
            if (match := re.match(rf"({_DATA})/", entry["path"])) and match[1] not in named:
                garbage[match.groups()].append(entry)
        before = (now or datetime.now(UTC)) - timedelta(days=1)
        removed = []
        for (data, patient_id, length), entries in garbage.items():
            pointer = pointers.get((patient_id, int(length)))  # written when the data were replaced
            if all(entry["last_modified"] <= before for entry in [*entries, *([pointer] if pointer else [])]):
                removed.append(self.place / data)
                if may_remove:
                    with reaching(self.place, UnreachableError):
                        self._store.delete([entry["path"] for entry in entries])
        return removed

    def _list(self, prefix: str) -> list[Any]:
        """Return path, size and last_modified of the objects below a prefix."""
        with reaching(self.place, UnreachableError):
            return list(self._store.list(prefix).collect())

    def _pointers(self) -> dict[tuple[str, int], Any]:
        """Return patient id and bin length (ms) -> the object that is the pointer of this key."""
        found = [(re.fullmatch(rf"keys/{_KEY}\.json", entry["path"]), entry) for entry in self._list("keys")]
        return {(match[1], int(match[2])): entry for match, entry in found if match}

    def _get(self, path: str) -> bytes | None:
        """Return the content of an object; None if there is no such object."""
        with reaching(self.place, UnreachableError), suppress(FileNotFoundError):
            return bytes(self._store.get(path).bytes())
        return None

    def _read(self, description: layout.Description) -> tuple[dict[str, bytes], list[str]]:
        """Return the content of a key's files, and the names of those that are missing or have another digest."""
        data, sha256 = description.identity
        digests = {name: file["sha256"] for name, file in description.attributes["files"].items()}
        digests[layout.DESCRIPTION] = sha256
        with ThreadPoolExecutor(self.n_at_once) as pool:  # obstore refuses names with .. and those that begin with /
            found = pool.map(lambda name: self._get(f"{data}/{name}") or b"", digests)
            contents = dict(zip(digests, found, strict=True))
        return contents, [name for name in digests if hashlib.sha256(contents[name]).hexdigest() != digests[name]]


def remove_copies(local_cache: Path) -> list[Path]:
    """Remove the copies of keys in buckets from this machine, and return their folders; raises SettingsError."""
    if not local_cache.is_dir():
        raise SettingsError(f"{local_cache}: no such folder, so there are no copies. Check --local-cache")
    copies = [path for path in (local_cache / "copies").glob("*") if re.fullmatch("[0-9a-f]{64}", path.name)]
    with writing(local_cache / "copies", "Check its permissions"):
        for copy in copies:
            shutil.rmtree(copy)
    return copies
