"""From NWB files to cached keys: what to build, in what order, in parallel.

Imports stay light: h5py and Zarr are loaded by the processes that build, once, and not by the one that waits for them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from summer_prep.cache.fresh import KeyState, check_known, key_state, key_states
from summer_prep.cache.keys import Cache, keys_and_problems, open_cache
from summer_prep.cache.layout import Codec, Description, key_path, patient_path
from summer_prep.cache.publish import clear_debris
from summer_prep.cache.settings import BuildConfig
from summer_prep.errors import CacheError, RecordingError, SettingsError, UnreachableError, one_line
from summer_prep.files import check_folder
from summer_prep.film.facts import LongFrames, check_bin_length
from summer_prep.options import with_absolute_paths
from summer_prep.parallel import Opened, dask_workers, local_pool, run_tasks
from summer_prep.recordings.find import (
    find_recordings,
    note_source,
    noted_sha256,
    select_recordings,
    source_identity,
    source_sha256,
)
from summer_prep.settings import accepts, check_names, options_of
from summer_prep.urls import Place, Url, on_this_machine

if TYPE_CHECKING:
    from summer_prep.film.align import RecordingOnFilm

Log = Callable[[str], None]
"""Takes lines of progress, for people."""

PRELOADED = ("summer_prep.film.align", "summer_prep.recordings.nwb", "summer_prep.cache.write")
"""What every worker needs."""

Progress = Callable[[int, int], None]
"""Takes the number of patients that are done, and that of all."""

LOCK_FILE = ".lock"
_LOCK_TIMEOUT_S = 60.0


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
    starts processes; a script that comes through a pipe (`python - < script.py`) builds in its own process.

    Parameters
    ----------
    progress : called with the number of patients done, and that of all
    options : of the command, below; patients like 14, "14 20" or [14, 20], bin lengths (ms) like 80 or [80, 200]

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
    """Build every key asked for that is not fresh, patients in parallel; one bad patient does not stop the others.

    Raises
    ------
    SettingsError : the selection is impossible, or no worker can start; problems of single patients are in the results
    """
    if config.scheduler is not None:
        config = with_absolute_paths(config)
    if isinstance(config.cache_dir, Path):
        check_folder(config.cache_dir, "--cache-dir", is_written=False)
    cache = open_cache(config.cache_dir, config.local_cache)
    paths = select_recordings(config.data_dir, config.nwb_path, config.patient_ids)
    if isinstance(cache.place, Url):
        cache.keys()  # raises UnreachableError before the work
    results: dict[str, list[KeyResult]] = {}
    was_there = cache.folder.exists()
    progress(0, len(paths))

    def keep_result(patient_id: str, found: list[KeyResult]) -> None:
        results[patient_id] = found
        progress(len(results), len(paths))

    tasks = {patient_id: (path, patient_id, config) for patient_id, path in paths.items()}
    try:
        for patient_id in run_tasks(_pool(config), build_patient, tasks, keep_result):
            message = (
                f"{paths[patient_id]}: the process that read it crashed or was killed: it is damaged, "
                "or memory ran out. Download it again, or use fewer --workers"
            )
            keep_result(patient_id, [_failure(patient_id, 0, message)])
    finally:
        if not was_there:  # a build that built nothing leaves nothing
            with suppress(OSError):
                cache.folder.rmdir()
    return [result for patient_id in paths for result in results[patient_id]]


def _pool(config: BuildConfig) -> Callable[[], Opened]:
    """Return what opens the pool that builds patients side by side."""
    if config.scheduler is not None:
        return partial(dask_workers, config.scheduler, config.n_workers, PRELOADED)
    return local_pool(config.n_workers, PRELOADED)


def build_patient(path: Place, patient_id: str, config: BuildConfig) -> list[KeyResult]:
    """Build one patient's keys, opening the file once; what goes wrong is in the results."""
    try:
        cache = open_cache(config.cache_dir, config.local_cache)
        clear_debris(patient_path(cache.folder, patient_id))
        wanted, fresh = _wanted_and_fresh(path, patient_id, config, cache)
        built: list[KeyResult] = []
        if not wanted or len(fresh) < len(wanted):
            with _patient_lock(cache.folder, patient_id) as waited:
                if waited:  # for somebody else who was building this patient: most of the work may be done
                    wanted, fresh = _wanted_and_fresh(path, patient_id, config, cache)
                if not wanted or len(fresh) < len(wanted):
                    built = _build_missing(path, wanted, fresh, config, cache)
    except Exception as error:
        return [_failure(patient_id, 0, one_line(error, path))]
    return [_fresh(patient_id, length) for length in fresh] + built


def _wanted_and_fresh(
    path: Place, patient_id: str, config: BuildConfig, cache: Cache
) -> tuple[tuple[int, ...], list[int]]:
    """Return the bin lengths wanted (empty where only the file knows), and those that are fresh."""
    cached = cache.bin_lengths(patient_id)
    if config.force or not cached:
        return config.bin_lengths_ms, []
    if isinstance(path, Url):
        sha256 = noted_sha256(source_identity(path), patient_id, cache.folder)
        if sha256 is None:  # it has to be fetched to know, and is then built
            return config.bin_lengths_ms, []
    else:
        sha256 = source_sha256(path, patient_id, cache.folder)
    fresh = {
        length: state.description
        for length in config.bin_lengths_ms or cached
        if (state := key_state(cache, patient_id, length, sha256, config.of_keys)).state == "fresh"
    }
    listed = [description.attributes["source_bin_lengths_ms"] for description in fresh.values() if description]
    wanted = config.bin_lengths_ms or tuple(listed[0] if listed else ())
    return wanted, [length for length in wanted if length in fresh]


def _build_missing(
    path: Place, wanted: tuple[int, ...], fresh: list[int], config: BuildConfig, cache: Cache
) -> list[KeyResult]:
    from summer_prep.film.align import place_on_film
    from summer_prep.recordings.nwb import read_recording

    identity = source_identity(path)  # before reading, so that a file replaced during the build does not get this note
    with on_this_machine(path) as local:
        try:
            recording = read_recording(local)
        except RecordingError as error:
            raise RecordingError(str(error).replace(str(local), str(path))) from error
    try:
        on_film = place_on_film(recording, config.long_frames, config.unusual_clocks)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    lengths = [length for length in wanted or sorted(recording.grids) if length not in fresh]
    # Two keys at a time: while one waits for the disk or hashes, the other counts.
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda length: _build_key(on_film, length, config.codec, path, cache), lengths))
    if any(result.state != "failed" for result in results):
        note_source(recording.patient_id, cache.folder, identity, recording.source.sha256)
    return results


def _build_key(on_film: "RecordingOnFilm", bin_length_ms: int, codec: Codec, path: Place, cache: Cache) -> KeyResult:
    from summer_prep.cache.write import encode_key
    from summer_prep.film.align import align

    started = time.perf_counter()
    patient_id = on_film.recording.patient_id
    try:
        arrays, attributes = align(on_film, bin_length_ms)
        cache.publish(patient_id, bin_length_ms, encode_key(arrays, {**attributes, "codec": codec}, codec))
    except (CacheError, UnreachableError) as error:
        return _failure(patient_id, bin_length_ms, str(error))
    except (RecordingError, SettingsError) as error:
        return _failure(patient_id, bin_length_ms, f"{path}: {error}")
    except Exception as error:
        return _failure(patient_id, bin_length_ms, one_line(error, f"{path} at {bin_length_ms} ms"))
    n_unseen = attributes["n_unseen_bins"]
    notes = [*attributes["notes"], *([f"{n_unseen} bins were never seen (recorded_s = 0)"] if n_unseen else [])]
    return KeyResult(
        patient_id=patient_id,
        bin_length_ms=bin_length_ms,
        state="built",
        message="; ".join(notes),
        n_bins=attributes["n_bins"],
        n_units=attributes["n_units"],
        n_unseen_bins=n_unseen,
        spikes=attributes["spikes"],
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _patient_lock(folder: Path, patient_id: str) -> Iterator[bool]:
    """Keep other builders of a patient waiting, where the file system has locks; yield whether this one waited.

    The lock saves work and nothing depends on it, so where there is none the build goes on without.
    """
    folder = patient_path(folder, patient_id)
    lock = FileLock(folder / LOCK_FILE)
    waited = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except (OSError, NotImplementedError, Timeout):
        waited = False
    try:
        yield waited
    finally:
        with suppress(OSError):
            if lock.is_locked:  # else the file is the lock of another builder
                (folder / LOCK_FILE).unlink()
            lock.release()
            folder.rmdir()  # where nothing was built


def _fresh(patient_id: str, bin_length_ms: int) -> KeyResult:
    return KeyResult(patient_id=patient_id, bin_length_ms=bin_length_ms, state="fresh", message="unchanged, skipped")


def _failure(patient_id: str, bin_length_ms: int, message: str) -> KeyResult:
    return KeyResult(patient_id=patient_id, bin_length_ms=bin_length_ms, state="failed", message=message)


def ensure_keys(
    cache_dir: Place,
    patient_ids: Sequence[str],
    bin_length_ms: int,
    data_dir: Place,
    nwb_path: Path | None = None,
    local_cache: Path | None = None,
    log: Log = lambda _line: None,
    every_byte: bool = False,
) -> list[Description]:
    """Return the keys of some patients, fresh and on this machine, in the order asked for.

    Those that are missing or stale are built first, those in a bucket are fetched.

    Without `patient_ids`: of the patients with a recording, or those in the cache where there are no recordings.

    Parameters
    ----------
    every_byte : read all files of the keys against their digests

    Raises
    ------
    SettingsError : a patient has neither a recording nor a key; no such bins
    CacheError : a key cannot be built, or is stale and its recording is not there
    """
    check_bin_length(bin_length_ms)
    is_file = nwb_path is not None and not patient_ids
    recordings = (
        select_recordings(data_dir, nwb_path)
        if is_file
        else find_recordings(data_dir, patient_ids, may_be_missing=True)
    )
    cache = open_cache(cache_dir, local_cache)
    every_key, unlisted = keys_and_problems(cache)
    for patient_id in patient_ids or unlisted:
        if patient_id in unlisted:
            raise UnreachableError(unlisted[patient_id])
    cached = [patient_id for patient_id, lengths in every_key.items() if bin_length_ms in lengths]
    others = ", ".join(f"{one} ({' '.join(map(str, lengths))} ms)" for one, lengths in every_key.items())
    wanted_key = f"key at {bin_length_ms} ms in {cache_dir}"
    check_known(patient_ids, {*recordings, *cached}, data_dir, wanted_key, f", cached are {others}" if others else "")
    wanted = tuple(dict.fromkeys(patient_ids)) or tuple(recordings) or tuple(cached)
    states = key_states(data_dir, cache, recordings, wanted, [bin_length_ms])
    for reason in dict.fromkeys(state.reason for state in states if state.state == "unchecked"):
        patients = ", ".join(state.patient_id for state in states if state.reason == reason)
        log(f"patient {patients}: freshness is not known ({reason})")
    to_build: dict[tuple[Codec, LongFrames], list[str]] = {}
    for state in states:
        if not state.is_to_build:
            continue
        if state.patient_id not in recordings:
            key = key_path(cache_dir, state.patient_id, bin_length_ms)
            raise CacheError(
                f"{key}: {state.state} ({state.reason}), and its recording is not in {data_dir} to build it from"
            )
        log(f"building patient {state.patient_id} at {bin_length_ms} ms: {state.reason or state.state}")
        # A key is rebuilt as it was built: other settings would be other counts.
        before = state.description.attributes if state.description else {}
        settings = before.get("codec", "none"), before.get("long_frame_rule", "count")
        to_build.setdefault(settings, []).append(state.patient_id)
    for (codec, long_frames), ids in to_build.items():
        _build_or_raise(
            BuildConfig(
                data_dir=data_dir,
                cache_dir=cache_dir,
                local_cache=local_cache,
                nwb_path=nwb_path if is_file else None,
                patient_ids=() if is_file else tuple(ids),
                bin_lengths_ms=(bin_length_ms,),
                codec=codec,
                long_frames=long_frames,
            ),
            log,
        )
    return [_on_this_machine(state, cache, every_byte) for state in states]


def _build_or_raise(config: BuildConfig, log: Log) -> None:
    for result in build_keys(config):
        if result.state == "failed":
            raise CacheError(result.message)
        if result.message and result.state == "built":
            log(f"patient {result.patient_id}: {result.message}")


def _on_this_machine(state: KeyState, cache: Cache, every_byte: bool) -> Description:
    is_checked = state.description is not None and state.state in ("fresh", "unchecked")
    if is_checked and isinstance(cache.place, Path) and not every_byte:  # a moment ago
        assert state.description is not None
        return state.description
    return cache.fetch(state.patient_id, state.bin_length_ms, every_byte)
