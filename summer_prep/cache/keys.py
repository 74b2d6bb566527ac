"""The cache as a whole: a folder of keys, or a bucket of them; the same questions to both."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from summer_prep.cache.layout import (
    Description,
    build_command,
    cached_bin_lengths,
    cached_keys,
    describe,
    file_problems,
    key_path,
)
from summer_prep.cache.publish import Files, publish
from summer_prep.cache_home import is_temporary
from summer_prep.errors import CacheError, SummerError, UnreachableError, one_line
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, check_bin_length
from summer_prep.options import as_bin_lengths, as_path, as_patient_ids, as_place
from summer_prep.urls import Place, Url

if TYPE_CHECKING:
    import zarr

    from summer_prep.cache.bucket import BucketCache

LOCAL_CACHE_VARIABLE = "SUMMER_LOCAL_CACHE"


def open_cache(place: Place, local_cache: Path | None = None) -> "Cache":
    """Return the cache at a place.

    Parameters
    ----------
    local_cache : folder for what is fetched of a bucket

    Raises
    ------
    SettingsError : a URL that is no bucket's, or the extra for buckets is missing
    """
    if isinstance(place, Url):
        from summer_prep.cache.bucket import BucketCache

        return BucketCache(place, local_cache or default_local_cache())
    return FolderCache(place)


def keys_and_problems(cache: "Cache") -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the keys of all patients as `Cache.keys`, and patient id -> why a patient's keys cannot be listed."""
    problems: dict[str, str] = {}
    keys = cached_keys(cache.place, problems) if isinstance(cache.place, Path) else cache.keys()
    return keys, problems


def default_local_cache() -> Path:
    """Return the folder for copies of keys in buckets: a temporary one where there is no home that can be written."""
    named = os.environ.get(LOCAL_CACHE_VARIABLE)
    if named:
        return as_path(named, LOCAL_CACHE_VARIABLE)
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if is_temporary(usual):  # it goes when this process ends: another process could not find the copies
        usual = Path(tempfile.gettempdir()) / f"summer-cache-of-{os.getuid()}"
    return usual / "summer-pipeline"


class FolderCache:
    """Keys in a folder, by patient and bin length, which are mapped from there as they are.

    place : where the keys are
    folder : of this machine, for notes and locks about them
    n_at_once : how many questions are best asked side by side
    """

    n_at_once = 1

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place

    def keys(self) -> dict[str, list[int]]:
        """Return patient id -> bin lengths (ms, ascending), patients in natural order."""
        return cached_keys(self.folder)

    def bin_lengths(self, patient_id: str) -> list[int]:
        """Return the bin lengths (ms, ascending) of one patient's keys."""
        return cached_bin_lengths(self.folder, patient_id)

    def describe(self, patient_id: str, bin_length_ms: int) -> Description:
        """Return what a key says of itself; raises MissingKeyError, or CacheError if it is damaged."""
        return describe(key_path(self.folder, patient_id, bin_length_ms))

    def problems(self, description: Description, every_byte: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files of a key, one line each; their bytes are read only if asked for."""
        return file_problems(description, every_byte)

    def publish(self, patient_id: str, bin_length_ms: int, files: Files) -> None:
        """Make a key hold these files, whole or not at all; raises CacheError if that fails."""
        publish(key_path(self.folder, patient_id, bin_length_ms), files)

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """Return what is wrong with a key, one line each: every byte is read, and arrays are decoded."""
        from summer_prep.cache.write import verify_key

        return verify_key(key_path(self.folder, patient_id, bin_length_ms))

    def zarr_store(self, description: Description) -> Any:
        """Return where zarr reads a key."""
        return description.folder

    def fetch(self, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> Description:
        """Return a key that is on this machine, its files counted and measured, or read; raises CacheError."""
        return checked(self, patient_id, bin_length_ms, every_byte)


Cache: TypeAlias = "FolderCache | BucketCache"


def checked(cache: Cache, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> Description:
    """Return what a key says of itself, its files counted and measured, and read if asked for.

    Raises
    ------
    CacheError : it is missing or damaged
    """
    description = cache.describe(patient_id, bin_length_ms)
    for problem in cache.problems(description, every_byte):
        raise CacheError(f"{problem}. Rebuild it: {build_command(description.key)}")
    return description


FACTS = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "spikes", "source")
"""What a list of keys tells of each, with recorded time, pauses and units by region."""


Facts = dict[str, Any] | SummerError
"""`FACTS` of a key, or what is wrong with it."""


def facts_of_keys(cache: Cache, keys: Sequence[tuple[str, int]]) -> list[Facts]:
    """Return the facts of every key whose files are there in full size, and the error of each other one."""
    with ThreadPoolExecutor(cache.n_at_once) as pool:
        return list(pool.map(lambda key: _facts_of(cache, key), keys))


def _facts_of(cache: Cache, key: tuple[str, int]) -> Facts:
    try:
        return _facts_in_attributes(checked(cache, *key).attributes)
    except CacheError as error:
        return error
    except Exception as error:
        return UnreachableError(one_line(error, key_path(cache.place, *key)))


def _facts_in_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    regions = Counter(attributes["units"].get("brain_region", ()))
    return {
        **{name: attributes[name] for name in FACTS},
        "recorded_total_s": attributes.get("recorded_total_s", float("nan")),  # keys of before it was noted
        "n_pauses": len(attributes["pauses"]),
        "n_long_frames": len(attributes["long_frames"]),
        "n_units_by_region": {region: regions[region] for region in sorted(regions)},
    }


def open_key(cache_dir: str | Path, patient_id: str | int, bin_length: int = DEFAULT_BIN_LENGTH_MS) -> "zarr.Group":
    """Return a key as a read-only Zarr group, its files counted and measured (`summer-prep verify` reads them).

    Parameters
    ----------
    cache_dir : folder of the cache, or its URL in a bucket, where arrays are then read as they are asked for
    bin_length : ms

    Raises
    ------
    SettingsError : no such patient or bin length can be
    CacheError : the key is missing or damaged
    """
    import zarr

    (patient,) = as_patient_ids([patient_id], "patient_id")
    (length,) = as_bin_lengths([bin_length], "bin_length")
    check_bin_length(length)
    cache = open_cache(as_place(cache_dir, "cache_dir"))
    description = checked(cache, patient, length)
    return zarr.open_group(cache.zarr_store(description), mode="r")
