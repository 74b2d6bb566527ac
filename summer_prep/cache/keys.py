"""The cache as a whole: a folder of keys, or a bucket of them; the same questions to both."""

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from summer_prep.cache import layout
from summer_prep.cache.publish import Files, publish
from summer_prep.errors import CacheError, SettingsError, SummerError, UnreachableError, one_line
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, check_bin_length
from summer_prep.options import as_bin_lengths, as_path, as_patient_ids, as_place
from summer_prep.resources import is_temporary
from summer_prep.urls import Place, Url

if TYPE_CHECKING:
    import zarr

    from summer_prep.cache.bucket import BucketCache

LOCAL_CACHE_VARIABLE = "SUMMER_LOCAL_CACHE"


def open_cache(place: Place, local_cache: Path | None = None) -> "Cache":
    """Return the cache in a folder or a bucket (copied to `local_cache` to be mapped); raises SettingsError."""
    if isinstance(place, Url):
        from summer_prep.cache.bucket import BucketCache

        return BucketCache(place, local_cache or default_local_cache())
    return FolderCache(place)


def keys_and_problems(cache: "Cache") -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the keys of all patients as `Cache.keys`, and patient id -> why a patient's keys cannot be listed."""
    problems: dict[str, str] = {}
    return layout.cached_keys(cache.place, problems) if isinstance(cache.place, Path) else cache.keys(), problems


def check_known(
    patient_ids: Iterable[str], known: Collection[str], where: str, keys: dict[str, list[int]], data_dir: Place | None
) -> None:
    """Check that every patient asked for, and any patient at all, is known, or raise a SettingsError.

    Those `known` have a key that counts (`where` says which, like "at 80 ms in data_cache"), or a recording in
    `data_dir`, if it is given; `keys` are all keys, for the error.
    """
    unknown = [patient_id for patient_id in patient_ids if patient_id not in known]
    if unknown or not known:
        of_patients = f" of patient {', '.join(unknown)}" if unknown else ""
        sought = f"key{of_patients}"
        if data_dir is not None:
            is_there = isinstance(data_dir, Url) or os.path.isdir(data_dir)
            sought = f"recording{of_patients} in {data_dir}{'' if is_there else ' (no such folder)'} and no key"
        lengths = {one: f" ({' '.join(map(str, keys[one]))} ms)" for one in keys}
        found = [one + lengths.get(one, "") for one in layout.in_natural_order({*known, *keys})]
        there = f"found are {', '.join(found)}" if found else "none found"
        advice = "Check --patient-ids, --bin-length, --data-dir and --cache-dir"
        raise SettingsError(f"no {sought} {where}; {there}. {advice}")


def default_local_cache() -> Path:
    """Return the folder for copies of keys in buckets: a temporary one where there is no home that can be written."""
    if named := os.environ.get(LOCAL_CACHE_VARIABLE):
        return as_path(named, LOCAL_CACHE_VARIABLE)
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if is_temporary(usual):  # removed when this process ends: another process could not find the copies
        usual = Path(tempfile.gettempdir()) / f"summer-cache-of-{os.getuid()}"
    return usual / "summer-pipeline"


class FolderCache:
    """Keys in a folder, by patient and bin length, which are mapped from there as they are."""

    n_at_once = 1
    """How many keys are best looked at side by side."""

    def __init__(self, place: Path) -> None:
        self.place = self.folder = place  # the latter is for notes and locks on this machine

    def keys(self) -> dict[str, list[int]]:
        """Return patient id -> bin lengths (ms, ascending), patients in natural order."""
        return layout.cached_keys(self.folder)

    def bin_lengths(self, patient_id: str) -> list[int]:
        """Return the bin lengths (ms, ascending) of one patient's keys."""
        return layout.cached_bin_lengths(self.folder, patient_id)

    def describe(self, patient_id: str, bin_length_ms: int) -> layout.Description:
        """Return the description of a key; raises MissingKeyError, or CacheError if it is damaged."""
        return layout.describe(layout.key_path(self.folder, patient_id, bin_length_ms))

    def problems(self, description: layout.Description, every_byte: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files of a key, one line each; their bytes are only read if asked for."""
        return layout.file_problems(description, every_byte)

    def publish(self, patient_id: str, bin_length_ms: int, files: Files) -> None:
        """Make a key hold these files, whole or not at all; raises CacheError if that fails."""
        publish(layout.key_path(self.folder, patient_id, bin_length_ms), files)

    def verify(self, patient_id: str, bin_length_ms: int) -> list[str]:
        """Return what is wrong with a key, one line each; every byte is read."""
        from summer_prep.cache.write import verify_key

        return verify_key(layout.key_path(self.folder, patient_id, bin_length_ms))

    def zarr_store(self, description: layout.Description) -> Any:
        """Return the store that Zarr reads a key from."""
        return description.folder

    def fetch(self, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> layout.Description:
        """Return a key on this machine, its files counted and measured, or read; raises CacheError."""
        return checked(self, patient_id, bin_length_ms, every_byte)


Cache: TypeAlias = "FolderCache | BucketCache"


def checked(cache: Cache, patient_id: str, bin_length_ms: int, every_byte: bool = False) -> layout.Description:
    """Return the description of a key, its files counted and measured, and read if asked for; raises CacheError."""
    description = cache.describe(patient_id, bin_length_ms)
    for problem in cache.problems(description, every_byte):
        raise CacheError(f"{problem}. Rebuild it: {layout.build_command(description.key)}")
    return description


def facts_of_keys(cache: Cache, keys: Sequence[tuple[str, int]]) -> list[dict[str, Any] | SummerError]:
    """Return the facts of every key whose files are there in full size, and the error of each other one."""
    names = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "spikes", "source")

    def facts_of(key: tuple[str, int]) -> dict[str, Any] | SummerError:
        try:
            attributes = checked(cache, *key).attributes
            regions = Counter(attributes["units"].get("brain_region", ()))
            return {
                **{name: attributes[name] for name in names},
                "recorded_total_s": attributes.get("recorded_total_s", float("nan")),  # older keys do not have it
                "n_pauses": len(attributes["pauses"]),
                "n_long_frames": len(attributes["long_frames"]),
                "n_units_by_region": dict(sorted(regions.items())),
            }
        except Exception as error:
            where = layout.key_path(cache.place, *key)
            return error if isinstance(error, SummerError) else UnreachableError(one_line(error, where))

    with ThreadPoolExecutor(cache.n_at_once) as pool:
        return list(pool.map(facts_of, keys))


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
    return zarr.open_group(cache.zarr_store(checked(cache, patient, length)), mode="r")
