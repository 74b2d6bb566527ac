"""What a build would do, before it does: which keys, how many bytes, about how long. Nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from summer_prep.binning import bin_grid
from summer_prep.building import BuildConfig, open_places, wanted_and_fresh
from summer_prep.caches import Cache
from summer_prep.errors import SummerError
from summer_prep.key import rows_per_chunk
from summer_prep.urls import Place

# Measured on film-length demo patients, a core for each: only their order of size matters.
_SECONDS_TO_START = 1.0
_SECONDS_PER_PATIENT = 0.4
_SECONDS_PER_SPIKE = 0.3e-6
_SECONDS_PER_KEY = 0.1
_SECONDS_PER_COUNT = 3e-8
_BYTES_PER_BIN = 38
"""Where a bin lies on both clocks, and its labels, compressed."""
_BYTES_PER_KEY, _BYTES_PER_UNIT = 10_000, 3_000
"""What a key says of itself and its units."""


@dataclass(frozen=True, kw_only=True)
class PlannedKey:
    """What a build would do with one key.

    bin_length_ms : 0 where it is not known: all of a recording behind a URL, or one that cannot be read
    state : build, fresh (skipped), or failed
    reason : why it would fail
    n_bytes : what it takes with uint8 counts, uncompressed
    """

    patient_id: str
    bin_length_ms: int
    state: str
    reason: str = ""
    n_bins: int = 0
    n_units: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build would do; `seconds` with its workers, of the order that was measured."""

    keys: Sequence[PlannedKey]
    seconds: float

    @property
    def to_build(self) -> list[PlannedKey]:
        """The keys that would be built."""
        return [key for key in self.keys if key.state == "build"]


def plan_build(config: BuildConfig) -> Plan:
    """Return what a build would do; recordings are opened, not read, unless they have to be compared with keys.

    Raises
    ------
    SettingsError : the cache cannot be one, or cannot be reached; the selection is impossible
    """
    cache, paths = open_places(config)
    planned = [_plan_patient(path, patient_id, config, cache) for patient_id, path in paths.items()]
    seconds = [needed_s for _, needed_s in planned if needed_s]
    at_once = min(max(1, config.n_workers), max(1, len(seconds)))
    total_s = max(sum(seconds) / at_once, max(seconds, default=0.0))
    keys = [key for found, _ in planned for key in found]
    return Plan(keys=keys, seconds=total_s + _SECONDS_TO_START if seconds else 0.0)


def _plan_patient(path: Place, patient_id: str, config: BuildConfig, cache: Cache) -> tuple[list[PlannedKey], float]:
    """Return the keys of a patient, and the seconds that building them takes."""
    try:
        wanted, fresh = wanted_and_fresh(path, patient_id, config, cache, may_note=False)
        kept = [PlannedKey(patient_id=patient_id, bin_length_ms=length, state="fresh") for length in fresh]
        if wanted and len(fresh) == len(wanted):
            return kept, 0.0
        if not isinstance(path, Path):
            reason = "its size is known when it has been fetched"
            unknown = [length for length in wanted or (0,) if length not in fresh]
            return kept + [
                PlannedKey(patient_id=patient_id, bin_length_ms=length, state="build", reason=reason)
                for length in unknown
            ], _SECONDS_PER_PATIENT
        built, seconds = _plan_keys(path, patient_id, wanted, fresh)
    except SummerError as error:
        reason = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        return [PlannedKey(patient_id=patient_id, bin_length_ms=0, state="failed", reason=reason)], 0.0
    return kept + built, seconds


def _plan_keys(
    path: Path, patient_id: str, wanted: Sequence[int], fresh: Sequence[int]
) -> tuple[list[PlannedKey], float]:
    from summer_prep.nwb import read_extent

    n_units, n_spikes, grids = read_extent(path)
    seconds = _SECONDS_PER_PATIENT + n_spikes * _SECONDS_PER_SPIKE
    keys = []
    for length in wanted or sorted(grids):
        if length not in fresh:
            n_bins = bin_grid(grids, length).n_bins
            seconds += _SECONDS_PER_KEY + n_bins * n_units * _SECONDS_PER_COUNT
            keys.append(
                PlannedKey(
                    patient_id=patient_id, bin_length_ms=length, state="build", n_bins=n_bins, n_units=n_units,
                    n_bytes=_bytes_of(n_bins, n_units),
                )
            )  # fmt: skip
    return keys, seconds


def _bytes_of(n_bins: int, n_units: int) -> int:
    """Return what a key takes: the last chunk of its counts has full size, too."""
    rows = rows_per_chunk(n_bins, n_units)
    n_chunks = -(-n_bins // rows)
    return n_chunks * rows * n_units + n_bins * _BYTES_PER_BIN + n_units * _BYTES_PER_UNIT + _BYTES_PER_KEY
