"""From NWB files to cached keys: what to build, in what order, in parallel.

Imports stay light: pynwb and Zarr are loaded by the processes that build, once, and not by the one that waits for them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from summer_prep import __version__
from summer_prep.binning import (
    BinGrid,
    bin_grid,
    bins_of_intervals,
    check_bin_length,
    count_spikes,
    locate_spikes,
    recorded_s,
    tally_spikes,
)
from summer_prep.errors import CacheError, RecordingError, SettingsError, SummerError
from summer_prep.film_clock import FilmClock, cut_frames, film_clock, find_pauses
from summer_prep.freshness import staleness
from summer_prep.labels import align_labels
from summer_prep.layout import (
    ALGORITHM_VERSION,
    CODECS,
    SCHEMA_VERSION,
    cached_keys,
    key_path,
    read_attributes,
)
from summer_prep.nwb import Recording, read_recording
from summer_prep.output import check_folder
from summer_prep.recordings import select_recordings
from summer_prep.source_note import file_identity, note_source, source_sha256
from summer_prep.staging import clear_debris
from summer_prep.workers import run_in_workers

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
    codec: str = "none"
    """How spike_counts are stored: none (can be mapped), zstd or blosc."""
    force: bool = False
    """Build also what is fresh."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise SettingsError(f"no codec {self.codec!r}. Choose one of {', '.join(CODECS)}")
        if self.n_workers < 0:
            raise SettingsError(f"{self.n_workers} workers cannot build anything. Choose 1 or more")
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
    config: BuildConfig, report: Callable[[str, Path], None] = lambda _patient_id, _path: None
) -> list[KeyResult]:
    """Build every key asked for that is not fresh, patients in parallel; one bad patient does not stop the others.

    Parameters
    ----------
    report : called with each patient's id and file when it is done

    Raises
    ------
    SettingsError : the selection is impossible, or no worker can start; problems of single patients are in the results
    """
    check_folder(config.cache_dir, "--cache-dir", is_written=False)
    paths = select_recordings(config.data_dir, config.nwb_path, config.patient_ids)
    results: dict[str, list[KeyResult]] = {}
    was_there = config.cache_dir.exists()

    def take(patient_id: str, found: list[KeyResult]) -> None:
        results[patient_id] = found
        report(patient_id, paths[patient_id])

    if config.n_workers == 0:
        for patient_id, path in paths.items():
            take(patient_id, build_patient(path, patient_id, config))
    else:
        tasks = {patient_id: (path, patient_id, config) for patient_id, path in paths.items()}
        crashed = run_in_workers(build_patient, tasks, config.n_workers, take)
        for patient_id in crashed:
            # A crash takes its neighbours along: each of them alone shows whose file it is.
            if run_in_workers(build_patient, {patient_id: tasks[patient_id]}, 1, take):
                message = (
                    f"{paths[patient_id]}: the process that read it crashed or was killed: it is damaged, "
                    "or memory ran out. Download it again, or use fewer --workers"
                )
                take(patient_id, [_failure(patient_id, 0, message)])
    if not was_there:  # a build that built nothing leaves nothing
        with suppress(OSError):
            config.cache_dir.rmdir()
    return [result for patient_id in paths for result in results[patient_id]]


def build_patient(path: Path, patient_id: str, config: BuildConfig) -> list[KeyResult]:
    """Build one patient's keys, opening the file once; what goes wrong is in the results."""
    clear_debris(config.cache_dir / f"sub-{patient_id}")
    try:
        wanted, fresh = _plan(path, patient_id, config)
        if not wanted or len(fresh) < len(wanted):
            with _patient_lock(config.cache_dir, patient_id) as waited:
                if waited:  # for somebody else who was building this patient: most of the work may be done
                    wanted, fresh = _plan(path, patient_id, config)
                built = _build_missing(path, wanted, fresh, config)
        else:
            built = []
    except SummerError as error:
        return [_failure(patient_id, 0, str(error))]
    skipped = [
        KeyResult(patient_id=patient_id, bin_length_ms=length, state="fresh", message="unchanged, skipped")
        for length in fresh
    ]
    return skipped + built


def _plan(path: Path, patient_id: str, config: BuildConfig) -> tuple[tuple[int, ...], list[int]]:
    """Return the bin lengths wanted (empty where only the file knows), and those that are fresh."""
    if config.force or patient_id not in cached_keys(config.cache_dir):
        return config.bin_lengths_ms, []
    current_sha256 = source_sha256(path, patient_id, config.cache_dir)
    wanted = config.bin_lengths_ms or _listed_bin_lengths(config.cache_dir, patient_id, current_sha256)
    keys = {length: key_path(config.cache_dir, patient_id, length) for length in wanted}
    return wanted, [length for length, key in keys.items() if not staleness(key, current_sha256, config.codec)]


def _build_missing(path: Path, wanted: tuple[int, ...], fresh: list[int], config: BuildConfig) -> list[KeyResult]:
    if wanted and len(fresh) == len(wanted):
        return []
    identity = file_identity(path)  # before reading, so that a file replaced during the build does not get this note
    recording = read_recording(path)
    lengths = wanted or tuple(sorted(recording.grids))
    results = _build_keys(recording, [length for length in lengths if length not in fresh], config, path)
    if any(result.state == "built" for result in results):
        note_source(recording.patient_id, config.cache_dir, identity, recording.source.sha256)
    return results


@contextmanager
def _patient_lock(cache_dir: Path, patient_id: str) -> Iterator[bool]:
    """Keep other builders of a patient waiting, where the file system has locks; yield whether this one waited.

    The lock saves work and nothing depends on it, so where there is none the build goes on without.
    """
    folder = cache_dir / f"sub-{patient_id}"
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


def _build_keys(
    recording: Recording, bin_lengths_ms: Sequence[int], config: BuildConfig, path: Path
) -> list[KeyResult]:
    try:
        aligned = _Aligned(recording)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    # Two keys at a time: while one waits for the disk or hashes, the other counts.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda length: _build_key(aligned, length, config, path), bin_lengths_ms))


def _build_key(aligned: "_Aligned", bin_length_ms: int, config: BuildConfig, path: Path) -> KeyResult:
    from summer_prep.store import write_key

    started = time.perf_counter()
    recording = aligned.recording
    try:
        arrays, attributes = aligned.contents(bin_length_ms)
    except (RecordingError, SettingsError) as error:
        return _failure(recording.patient_id, bin_length_ms, f"{path}: {error}")
    key = key_path(config.cache_dir, recording.patient_id, bin_length_ms)
    try:
        write_key(key, arrays, {**attributes, "codec": config.codec}, config.codec)
    except CacheError as error:
        return _failure(recording.patient_id, bin_length_ms, str(error))
    n_unseen = attributes["n_unseen_bins"]
    notes = [*recording.notes, *([f"{n_unseen} bins were never seen (recorded_s = 0)"] if n_unseen else [])]
    return KeyResult(
        patient_id=recording.patient_id,
        bin_length_ms=bin_length_ms,
        state="built",
        message="; ".join(notes),
        n_bins=attributes["n_bins"],
        n_units=attributes["n_units"],
        n_unseen_bins=n_unseen,
        spikes=attributes["spikes"],
        seconds=time.perf_counter() - started,
    )


MAX_KEY_VALUES = 2**28
"""Twice the largest patient at 5 ms; files may declare any number of units."""


MAX_PAUSES = 10_000
"""A key lists its pauses; recordings have a few dozen at most."""


class _Aligned:
    """One recording on the film clock, shared by its bin lengths."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        clock = film_clock(recording.frame_index, recording.recording_time_ms)
        self.pauses = find_pauses(clock)
        if len(self.pauses) > MAX_PAUSES:
            raise RecordingError(f"the film was paused {len(self.pauses)} times; at most {MAX_PAUSES} are recorded")
        self.clocks: dict[int, tuple[FilmClock, NDArray[np.int64]]] = {
            1: (clock, locate_spikes(clock, recording.spike_times_ms))
        }
        n_spikes = np.diff(recording.spike_stops, prepend=0)
        self.unit_of_spike = np.repeat(np.arange(recording.n_units), n_spikes)

    def contents(self, bin_length_ms: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the attributes of one key."""
        recording = self.recording
        grid = bin_grid(recording.grids, bin_length_ms)
        if grid.n_bins * max(recording.n_units, len(recording.label_names)) > MAX_KEY_VALUES:
            raise RecordingError(
                f"{grid.n_bins} bins of {recording.n_units} units and {len(recording.label_names)} labels "
                "are more than any recording has"
            )
        clock, interval_of_spike = self._on_clock(grid.parts_per_frame)
        bin_of_interval = bins_of_intervals(clock, grid)
        bin_of_spike = np.where(interval_of_spike >= 0, bin_of_interval[interval_of_spike], -1)
        recorded = recorded_s(clock, bin_of_interval, grid.n_bins).astype(np.float32)
        n_unseen = int((recorded == 0).sum())
        if n_unseen == grid.n_bins:
            raise RecordingError(
                f"the watch log shows none of the analysed frames {grid.first_frame} to "
                f"{grid.first_frames[-1] + grid.frames_per_bin - 1}, so every bin was never seen"
            )
        labels = align_labels(recording.indicators, grid, recording.named_frames.get(bin_length_ms))
        arrays = {
            "spike_counts": count_spikes(bin_of_spike, self.unit_of_spike, grid.n_bins, recording.n_units),
            **{f"labels_{rule}": values for rule, values in labels.items()},
            "bin_start_s": grid.bin_start_s,
            "first_frame": grid.first_frames.astype(np.int32),
            "recorded_s": recorded,
            **recording.numeric_columns,
        }
        spikes = tally_spikes(clock, interval_of_spike, bin_of_spike).as_dict()
        return arrays, self._attributes(grid, n_unseen, spikes)

    def _on_clock(self, parts_per_frame: int) -> tuple[FilmClock, NDArray[np.int64]]:
        if parts_per_frame not in self.clocks:
            clock = cut_frames(self.clocks[1][0], parts_per_frame)
            self.clocks[parts_per_frame] = clock, locate_spikes(clock, self.recording.spike_times_ms)
        return self.clocks[parts_per_frame]

    def _attributes(self, grid: BinGrid, n_unseen_bins: int, spikes: dict[str, int]) -> dict[str, Any]:
        recording = self.recording
        return {
            "schema_version": SCHEMA_VERSION,
            "algorithm_version": ALGORITHM_VERSION,
            "software_version": __version__,
            "patient_id": recording.patient_id,
            "bin_length_ms": grid.bin_length_ms,
            "n_bins": grid.n_bins,
            "n_units": recording.n_units,
            "n_unseen_bins": n_unseen_bins,
            "label_names": list(recording.label_names),
            "units": dict(recording.text_columns),
            "source": asdict(recording.source),
            "pauses": [asdict(pause) for pause in self.pauses],
            "spikes": spikes,
            "source_bin_lengths_ms": sorted(recording.grids),
            "notes": list(recording.notes),
        }


def _listed_bin_lengths(cache_dir: Path, patient_id: str, current_sha256: str) -> tuple[int, ...]:
    """Return the bin lengths that the file lists, as far as a fresh key tells without opening it."""
    for length in cached_keys(cache_dir).get(patient_id, []):
        key = key_path(cache_dir, patient_id, length)
        if not staleness(key, current_sha256):
            return tuple(read_attributes(key)["source_bin_lengths_ms"])
    return ()


def _failure(patient_id: str, bin_length_ms: int, message: str) -> KeyResult:
    return KeyResult(patient_id=patient_id, bin_length_ms=bin_length_ms, state="failed", message=message)
