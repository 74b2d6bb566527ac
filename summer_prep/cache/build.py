"""From NWB files to cached keys: what to build, in what order, in parallel.

Imports stay light: h5py and Zarr are loaded by the processes that build, once, and not by the one that waits for them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from summer_prep.cache.fresh import key_states
from summer_prep.cache.keys import Cache, check_known, keys_and_problems, open_cache
from summer_prep.cache.layout import Codec, Description, key_path, patient_path
from summer_prep.cache.publish import DEBRIS, clear_debris
from summer_prep.cache.settings import BuildConfig
from summer_prep.errors import CacheError, RecordingError, SettingsError, UnreachableError, one_line
from summer_prep.files import check_folder, locked
from summer_prep.film.facts import LongFrames, check_bin_length
from summer_prep.options import with_absolute_paths
from summer_prep.parallel import dask_workers, local_pool, run_tasks
from summer_prep.recordings.find import find_recordings, note_source, select_recordings, source_identity
from summer_prep.settings import accepts, check_names, options_of
from summer_prep.urls import Place, on_this_machine

PRELOADED = ("summer_prep.film.align", "summer_prep.recordings.nwb", "summer_prep.cache.write")
"""What every worker needs."""

Progress = Callable[[int, int], None]
"""Takes the number of patients that are done, and that of all."""


@dataclass(frozen=True, kw_only=True)
class KeyResult:
    """What became of one key; the counts are those of its spike tally."""

    patient_id: str
    bin_length_ms: int
    state: str
    """built, fresh (skipped) or failed."""
    message: str = ""
    n_bins: int = 0
    n_units: int = 0
    n_unseen_bins: int = 0
    spikes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@accepts(BuildConfig)
def build(*, progress: Progress = lambda _n_done, _n_patients: None, **options: Any) -> list[KeyResult]:
    """Bin NWB recordings into the cache, as `summer-prep build` does; what is fresh is skipped.

    In a script, call it below `if __name__ == "__main__":` or with `workers=0`, which builds in this process, since it
    starts processes; a script that comes through a pipe (`python - < script.py`) builds in its own process. Patients
    are given like 14, "14 20" or [14, 20], bin lengths (ms) like 80 or [80, 200].

    Parameters
    ----------
    progress : called with the number of patients done, and that of all

    Returns
    -------
    What became of each key; one bad patient does not stop the others

    Raises
    ------
    SettingsError : the selection is impossible, or no worker can start
    """
    check_names(options, options_of(BuildConfig))
    return build_keys(BuildConfig.from_options(options), progress)


def build_keys(config: BuildConfig, progress: Progress = lambda _n_done, _n_patients: None) -> list[KeyResult]:
    """Build every key asked for that is not fresh, patients in parallel; problems of one patient are in its results.

    Raises SettingsError if the selection is impossible, or no worker can start.
    """
    pool = local_pool(config.n_workers, PRELOADED)
    if config.scheduler is not None:
        pool = partial(dask_workers, config.scheduler, PRELOADED)
        config = with_absolute_paths(config)
    cache = open_cache(config.cache_dir, config.local_cache)
    paths = select_recordings(config.data_dir, config.nwb_path, config.patient_ids)
    keys, _ = keys_and_problems(cache)  # raises UnreachableError before the work
    if isinstance(cache.place, Path):
        check_folder(cache.place, "--cache-dir", is_written=not keys)
    results: dict[str, list[KeyResult]] = {}
    was_there = cache.folder.exists()
    progress(0, len(paths))

    def keep_result(patient_id: str, found: list[KeyResult]) -> None:
        results[patient_id] = found
        progress(len(results), len(paths))

    tasks = {patient_id: (path, patient_id, config) for patient_id, path in paths.items()}
    try:
        for patient_id in run_tasks(pool, build_patient, tasks, keep_result):
            problem = "the process that read it crashed or was killed: it is damaged, or memory ran out"
            message = f"{paths[patient_id]}: {problem}. Download it again, or use fewer --workers"
            crashed = KeyResult(patient_id=patient_id, bin_length_ms=0, state="failed", message=message)
            keep_result(patient_id, [crashed])
    finally:
        if not was_there:  # a build that built nothing leaves nothing
            with suppress(OSError):
                cache.folder.rmdir()
    return [result for patient_id in paths for result in results[patient_id]]


def build_patient(path: Place, patient_id: str, config: BuildConfig) -> list[KeyResult]:
    """Build one patient's keys, opening the file once; what goes wrong is in the results.

    Builders of one patient take turns where the file system has locks. Elsewhere they may do the work twice.
    """
    try:
        cache = open_cache(config.cache_dir, config.local_cache)
        folder = patient_path(cache.folder, patient_id)
        missing, fresh = _missing_and_fresh(path, patient_id, config, cache)
        built: list[KeyResult] = []
        if missing != [] or any(folder.glob(DEBRIS)):
            with locked(folder, timeout_s=60) as problem:
                clear_debris(folder, is_alone=problem is None)
                missing, fresh = _missing_and_fresh(path, patient_id, config, cache)  # others may have built some
                if missing != []:
                    built = _build_missing(path, patient_id, missing, config, cache)
    except Exception as error:
        return [KeyResult(patient_id=patient_id, bin_length_ms=0, state="failed", message=one_line(error, path))]
    skipped = partial(KeyResult, patient_id=patient_id, state="fresh", message="unchanged, skipped")
    return [skipped(bin_length_ms=length, **_facts(key.attributes)) for length, key in fresh.items()] + built


def _missing_and_fresh(
    path: Place, patient_id: str, config: BuildConfig, cache: Cache
) -> tuple[list[int] | None, dict[int, Description]]:
    """Return the bin lengths to build (None: those that the file lists, not known yet), and the fresh keys."""
    wanted, cached = list(config.bin_lengths_ms), cache.bin_lengths(patient_id)
    if config.force or not cached:
        return wanted or None, {}
    lengths, recordings = wanted or cached, {patient_id: path}
    states = key_states(config.data_dir, cache, recordings, [patient_id], lengths, config.of_keys)
    fresh = {state.bin_length_ms: state.description for state in states if state.state == "fresh" and state.description}
    for description in fresh.values():
        wanted = wanted or description.attributes["source_bin_lengths_ms"]
    missing = [length for length in wanted if length not in fresh] if wanted else None
    return missing, {length: fresh[length] for length in wanted if length in fresh}


def _facts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in ("n_bins", "n_units", "n_unseen_bins", "spikes")}


def _build_missing(
    path: Place, patient_id: str, bin_lengths_ms: list[int] | None, config: BuildConfig, cache: Cache
) -> list[KeyResult]:
    """Read a recording and build its keys, by default of every bin length that it lists."""
    from summer_prep.cache.write import encode_key
    from summer_prep.film.align import align, place_on_film
    from summer_prep.recordings.nwb import read_recording

    identity = source_identity(path)  # before reading, so that a file replaced during the build does not get this note
    with on_this_machine(path) as local:
        try:
            recording = read_recording(local)
            on_film = place_on_film(recording, config.long_frames, config.unusual_clocks)
        except RecordingError as error:
            message = str(error).replace(str(local), str(path))
            raise RecordingError(message if str(path) in message else f"{path}: {message}") from error

    def build_key(bin_length_ms: int) -> KeyResult:
        started = time.perf_counter()
        result = partial(KeyResult, patient_id=patient_id, bin_length_ms=bin_length_ms)
        try:
            arrays, attributes = align(on_film, bin_length_ms)
            files = encode_key(arrays, {**attributes, "codec": config.codec})
            cache.publish(patient_id, bin_length_ms, files)
        except Exception as error:
            message = one_line(error, f"{path} at {bin_length_ms} ms")
            is_of_file = isinstance(error, RecordingError | SettingsError)
            return result(state="failed", message=f"{path}: {message}" if is_of_file else message)
        n_unseen = attributes["n_unseen_bins"]
        notes = [*attributes["notes"], *([f"{n_unseen} bins were never seen (recorded_s = 0)"] if n_unseen else [])]
        seconds = time.perf_counter() - started
        return result(state="built", message="; ".join(notes), seconds=seconds, **_facts(attributes))

    # Two keys at a time: while one waits for the disk or hashes, the other counts.
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(build_key, bin_lengths_ms or sorted(recording.grids)))
    if any(result.state != "failed" for result in results):
        note_source(patient_id, cache.folder, identity, recording.source.sha256)
    return results


def ensure_keys(
    cache_dir: Place,
    patient_ids: Sequence[str],
    bin_length_ms: int,
    data_dir: Place,
    nwb_path: Path | None = None,
    local_cache: Path | None = None,
    log: Callable[[str], None] = lambda _line: None,
    every_byte: bool = False,
) -> list[Description]:
    """Return the keys of some patients, fresh and on this machine, in the order asked for.

    Keys that are missing or stale are built first, those in a bucket are fetched. By default they are those of every
    patient with a recording, or with a key where there are no recordings. `every_byte` is compared with its digest.
    Raises SettingsError if a patient has neither a recording nor a key, or there are no such bins; CacheError if a key
    cannot be built, or is stale and its recording is not there.
    """
    check_bin_length(bin_length_ms)
    nwb_path = None if patient_ids else nwb_path
    found = None if nwb_path is None else select_recordings(data_dir, nwb_path)
    recordings = found or find_recordings(data_dir, patient_ids, may_be_missing=True)
    cache = open_cache(cache_dir, local_cache)
    every_key, unlisted = keys_and_problems(cache)
    for patient_id in filter(unlisted.get, patient_ids or unlisted):
        raise UnreachableError(unlisted[patient_id])
    cached = [patient_id for patient_id, lengths in every_key.items() if bin_length_ms in lengths]
    check_known(patient_ids, {*recordings, *cached}, f"at {bin_length_ms} ms in {cache_dir}", every_key, data_dir)
    if isinstance(cache.place, Path):
        check_folder(cache.place, "--cache-dir", is_written=not every_key)
    wanted = tuple(dict.fromkeys(patient_ids)) or tuple(recordings) or tuple(cached)
    states = key_states(data_dir, cache, recordings, wanted, [bin_length_ms])
    for reason in dict.fromkeys(state.reason for state in states if state.state == "unchecked"):
        patients = ", ".join(state.patient_id for state in states if state.reason == reason)
        log(f"patient {patients}: freshness is not known ({reason})")
    to_build: dict[tuple[Codec, LongFrames], list[str]] = {}
    for state in (state for state in states if state.is_to_build):
        if state.patient_id not in recordings:
            key = key_path(cache_dir, state.patient_id, bin_length_ms)
            problem = f"{state.state} ({state.reason}), and its recording is not in {data_dir} to build it from"
            raise CacheError(f"{key}: {problem}")
        log(f"building patient {state.patient_id} at {bin_length_ms} ms: {state.reason or state.state}")
        # A key is rebuilt as it was built: other settings would be other counts.
        before = state.description.attributes if state.description else {}
        settings = before.get("codec", "none"), before.get("long_frame_rule", "count")
        to_build.setdefault(settings, []).append(state.patient_id)
    common: Any = {"data_dir": data_dir, "cache_dir": cache_dir, "local_cache": local_cache}
    for (codec, long_frames), ids in to_build.items():
        common |= {"patient_ids": tuple(ids)} if nwb_path is None else {"nwb_path": nwb_path}
        config = BuildConfig(**common, bin_lengths_ms=(bin_length_ms,), codec=codec, long_frames=long_frames)
        for result in build_keys(config):
            if result.state == "failed":
                raise CacheError(result.message)
            if result.message and result.state == "built":
                log(f"patient {result.patient_id}: {result.message}")
    return [
        state.description  # checked a moment ago
        if state.description and not state.is_to_build and isinstance(cache.place, Path) and not every_byte
        else cache.fetch(state.patient_id, bin_length_ms, every_byte)
        for state in states
    ]
