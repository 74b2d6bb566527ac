"""From NWB files to cached keys: what to build, in what order, in parallel.

Imports stay light: pynwb and Zarr are loaded by the processes that build, once, and not by the one that waits for them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from summer_prep.dataset import check_bin_length
from summer_prep.errors import CacheError, RecordingError, SettingsError, SummerError
from summer_prep.freshness import KeyState, check_known, key_state, key_states
from summer_prep.key import (
    CODECS,
    Codec,
    Description,
    cached_bin_lengths,
    cached_keys,
    describe,
    key_path,
    patient_path,
)
from summer_prep.output import check_folder
from summer_prep.publish import clear_debris
from summer_prep.sources import file_identity, find_recordings, note_source, select_recordings, source_sha256
from summer_prep.values import as_bin_lengths, as_number, as_path, as_patient_ids, as_text
from summer_prep.workers import Engine, run_here, run_in_workers, run_tasks

if TYPE_CHECKING:
    from summer_prep.align import RecordingOnFilm

Say = Callable[[str], None]
"""Takes lines of progress, for people."""

PRELOADED = ("pynwb", "summer_prep.align", "summer_prep.store")
"""What every worker needs."""

Progress = Callable[[int, int], None]
"""Takes the number of patients that are done, and that of all."""

LOCK_FILE = ".lock"
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What to build; the command line fills it, `build` takes it."""

    data_dir: Path
    """Folder with the NWB files."""
    cache_dir: Path
    """Folder of the cache."""
    nwb_path: Path | None = None
    """One NWB file instead of a folder; ignored when patient_ids are given."""
    patient_ids: tuple[str, ...] = ()
    """Patients to build; empty for every one found."""
    bin_lengths_ms: tuple[int, ...] = ()
    """Bin lengths; empty for all that the file lists."""
    n_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes; a patient is built by one. 0 builds in this process, which a file that crashes HDF5 takes along."""
    codec: Codec = "none"
    """How spike_counts are stored: none (can be mapped), zstd or blosc."""
    force: bool = False
    """Build also what is fresh."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers build instead of processes here; "local" starts one."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise SettingsError(f"no codec {self.codec!r}. Choose one of {', '.join(CODECS)}")
        if self.n_workers < 0:
            raise SettingsError(
                f"{self.n_workers} workers cannot build anything. Choose 1 or more, or 0 for this process"
            )
        for bin_length_ms in self.bin_lengths_ms:
            check_bin_length(bin_length_ms)


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


def build(
    *,
    data_dir: str | Path = "/data",
    cache_dir: str | Path = "data_cache",
    nwb_path: str | Path | None = None,
    patient_ids: object = None,
    bin_length: object = None,
    workers: int | None = None,
    codec: Codec = "none",
    force: bool = False,
    scheduler: str | None = None,
    progress: Progress = lambda _n_done, _n_patients: None,
) -> list[KeyResult]:
    """Bin NWB recordings into the cache, as `summer-prep build` does; what is fresh is skipped.

    In a script, call it below `if __name__ == "__main__":` or with `workers=0`, since it starts processes.

    Parameters
    ----------
    data_dir, nwb_path : folder with the NWB files, or one file
    cache_dir : folder of the cache
    patient_ids : like 14, "14 20" or [14, 20]; every one found by default
    bin_length : ms, like 80 or [80, 200]; all that the files list by default
    workers : processes, as many as there are processors by default
    codec : how spike counts are stored: none (can be memory-mapped), zstd or blosc
    force : build also what is fresh
    scheduler : address of a Dask scheduler whose workers build instead, like tcp://host:8786; "local" starts one
    progress : called with the number of patients done, and that of all

    Returns
    -------
    What became of each key; one bad patient does not stop the others

    Raises
    ------
    SettingsError : the selection is impossible, or no worker can start
    """
    config = BuildConfig(
        data_dir=as_path(data_dir, "--data-dir"),
        cache_dir=as_path(cache_dir, "--cache-dir"),
        nwb_path=None if nwb_path is None else as_path(nwb_path, "--nwb-path"),
        patient_ids=as_patient_ids(patient_ids),
        bin_lengths_ms=as_bin_lengths(bin_length),
        n_workers=os.cpu_count() or 1 if workers is None else as_number(workers, int, "--workers"),
        codec=codec,
        force=as_number(force, bool, "--force"),
        scheduler=None if scheduler is None else as_text(scheduler, "--scheduler"),
    )
    return build_keys(config, progress)


def build_keys(config: BuildConfig, progress: Progress = lambda _n_done, _n_patients: None) -> list[KeyResult]:
    """Build every key asked for that is not fresh, patients in parallel; one bad patient does not stop the others.

    Raises
    ------
    SettingsError : the selection is impossible, or no worker can start; problems of single patients are in the results
    """
    check_folder(config.cache_dir, "--cache-dir", is_written=False)
    paths = select_recordings(config.data_dir, config.nwb_path, config.patient_ids)
    results: dict[str, list[KeyResult]] = {}
    was_there = config.cache_dir.exists()
    progress(0, len(paths))

    def take(patient_id: str, found: list[KeyResult]) -> None:
        results[patient_id] = found
        progress(len(results), len(paths))

    tasks = {patient_id: (path, patient_id, config) for patient_id, path in paths.items()}
    try:
        with _engine(config, list(paths.values())) as engine:
            for patient_id in run_tasks(engine, build_patient, tasks, take):
                message = (
                    f"{paths[patient_id]}: the process that read it crashed or was killed: it is damaged, "
                    "or memory ran out. Download it again, or use fewer --workers"
                )
                take(patient_id, [_failure(patient_id, 0, message)])
    finally:
        if not was_there:  # a build that built nothing leaves nothing
            with suppress(OSError):
                config.cache_dir.rmdir()
    return [result for patient_id in paths for result in results[patient_id]]


@contextmanager
def _engine(config: BuildConfig, recordings: Sequence[Path]) -> Iterator[Engine]:
    """Yield what builds patients side by side: this process, processes, or a cluster."""
    if config.scheduler is not None:
        from summer_prep.cluster import cluster

        with cluster(config.scheduler, config.n_workers, recordings, [config.cache_dir]) as engine:
            yield engine
    elif config.n_workers == 0:
        yield run_here
    else:
        yield partial(run_in_workers, n_workers=config.n_workers, preloaded=PRELOADED)


def build_patient(path: Path, patient_id: str, config: BuildConfig) -> list[KeyResult]:
    """Build one patient's keys, opening the file once; what goes wrong is in the results."""
    clear_debris(patient_path(config.cache_dir, patient_id))
    try:
        wanted, fresh = _plan(path, patient_id, config)
        built: list[KeyResult] = []
        if not wanted or len(fresh) < len(wanted):
            with _patient_lock(config.cache_dir, patient_id) as waited:
                if waited:  # for somebody else who was building this patient: most of the work may be done
                    wanted, fresh = _plan(path, patient_id, config)
                if not wanted or len(fresh) < len(wanted):
                    built = _build_missing(path, wanted, fresh, config)
    except SummerError as error:
        return [_failure(patient_id, 0, str(error))]
    skipped = [
        KeyResult(patient_id=patient_id, bin_length_ms=length, state="fresh", message="unchanged, skipped")
        for length in fresh
    ]
    return skipped + built


def _plan(path: Path, patient_id: str, config: BuildConfig) -> tuple[tuple[int, ...], list[int]]:
    """Return the bin lengths wanted (empty where only the file knows), and those that are fresh."""
    cached = cached_bin_lengths(config.cache_dir, patient_id)
    if config.force or not cached:
        return config.bin_lengths_ms, []
    sha256 = source_sha256(path, patient_id, config.cache_dir)
    fresh = {
        length: state.description
        for length in config.bin_lengths_ms or cached
        if (state := key_state(config.cache_dir, patient_id, length, sha256, config.codec)).state == "fresh"
    }
    listed = [description.attributes["source_bin_lengths_ms"] for description in fresh.values() if description]
    wanted = config.bin_lengths_ms or tuple(listed[0] if listed else ())
    return wanted, [length for length in wanted if length in fresh]


def _build_missing(path: Path, wanted: tuple[int, ...], fresh: list[int], config: BuildConfig) -> list[KeyResult]:
    from summer_prep.align import place_on_film
    from summer_prep.nwb import read_recording

    identity = file_identity(path)  # before reading, so that a file replaced during the build does not get this note
    recording = read_recording(path)
    try:
        on_film = place_on_film(recording)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    lengths = [length for length in wanted or sorted(recording.grids) if length not in fresh]
    # Two keys at a time: while one waits for the disk or hashes, the other counts.
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda length: _build_key(on_film, length, config, path), lengths))
    if any(result.state == "built" for result in results):
        note_source(recording.patient_id, config.cache_dir, identity, recording.source.sha256)
    return results


def _build_key(on_film: "RecordingOnFilm", bin_length_ms: int, config: BuildConfig, path: Path) -> KeyResult:
    from summer_prep.align import align
    from summer_prep.store import write_key

    started = time.perf_counter()
    patient_id = on_film.recording.patient_id
    try:
        arrays, attributes = align(on_film, bin_length_ms)
    except (RecordingError, SettingsError) as error:
        return _failure(patient_id, bin_length_ms, f"{path}: {error}")
    try:
        write_key(key_path(config.cache_dir, patient_id, bin_length_ms), arrays, attributes, config.codec)
    except CacheError as error:
        return _failure(patient_id, bin_length_ms, str(error))
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
def _patient_lock(cache_dir: Path, patient_id: str) -> Iterator[bool]:
    """Keep other builders of a patient waiting, where the file system has locks; yield whether this one waited.

    The lock saves work and nothing depends on it, so where there is none the build goes on without.
    """
    folder = patient_path(cache_dir, patient_id)
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
        lock.release()
        for leftover, remove in ((folder / LOCK_FILE, Path.unlink), (folder, Path.rmdir)):
            with suppress(OSError):
                remove(leftover)


def _failure(patient_id: str, bin_length_ms: int, message: str) -> KeyResult:
    return KeyResult(patient_id=patient_id, bin_length_ms=bin_length_ms, state="failed", message=message)


def ensure_keys(
    cache_dir: Path,
    patient_ids: Sequence[str],
    bin_length_ms: int,
    data_dir: Path,
    nwb_path: Path | None = None,
    say: Say = lambda _line: None,
) -> list[Description]:
    """Return the keys of some patients, fresh, in the order asked for; those missing or stale are built first.

    Without `patient_ids`: of the patients with a recording, or those in the cache where there are no recordings.

    Raises
    ------
    SettingsError : a patient has neither a recording nor a key; no such bins
    CacheError : a key cannot be built, or is stale and its recording is not there
    """
    check_bin_length(bin_length_ms)
    is_file = nwb_path is not None and not patient_ids
    recordings = select_recordings(data_dir, nwb_path) if is_file else find_recordings(data_dir, may_be_missing=True)
    every_key = cached_keys(cache_dir)
    cached = [patient_id for patient_id, lengths in every_key.items() if bin_length_ms in lengths]
    others = ", ".join(f"{one} ({' '.join(map(str, lengths))} ms)" for one, lengths in every_key.items())
    wanted_key = f"key at {bin_length_ms} ms in {cache_dir}"
    check_known(patient_ids, {*recordings, *cached}, data_dir, wanted_key, f", cached are {others}" if others else "")
    wanted = tuple(dict.fromkeys(patient_ids)) or tuple(recordings) or tuple(cached)
    states = key_states(data_dir, cache_dir, recordings, wanted, [bin_length_ms])
    for reason in dict.fromkeys(state.reason for state in states if state.state == "unchecked"):
        patients = ", ".join(state.patient_id for state in states if state.reason == reason)
        say(f"patient {patients}: freshness is not known ({reason})")
    to_build = [state for state in states if state.state in ("missing", "stale")]
    for state in to_build:
        if state.patient_id not in recordings:
            key = key_path(cache_dir, state.patient_id, bin_length_ms)
            raise CacheError(
                f"{key}: stale ({state.reason}), and its recording is not in {data_dir} to rebuild it from"
            )
        say(f"building patient {state.patient_id} at {bin_length_ms} ms: {state.reason or state.state}")
    if to_build:
        _build_or_raise(
            BuildConfig(
                data_dir=data_dir,
                cache_dir=cache_dir,
                nwb_path=nwb_path if is_file else None,
                patient_ids=() if is_file else tuple(state.patient_id for state in to_build),
                bin_lengths_ms=(bin_length_ms,),
            ),
            say,
        )
    return [_usable(state, cache_dir) for state in states]


def _build_or_raise(config: BuildConfig, say: Say) -> None:
    for result in build_keys(config):
        if result.state == "failed":
            raise CacheError(result.message)
        if result.message and result.state == "built":
            say(f"patient {result.patient_id}: {result.message}")


def _usable(state: KeyState, cache_dir: Path) -> Description:
    if state.description is not None and state.state in ("fresh", "unchecked"):
        return state.description
    return describe(key_path(cache_dir, state.patient_id, state.bin_length_ms))  # it has just been built
