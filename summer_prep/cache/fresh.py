"""May a key be used, and if not, why: fresh is a key of the same content, settings and algorithm."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

from summer_prep.cache.keys import Cache, check_known, checked, keys_and_problems
from summer_prep.cache.layout import Description, build_command, in_natural_order, key_path
from summer_prep.errors import CacheError, MissingKeyError, RecordingError, UnreachableError, one_line
from summer_prep.film.facts import ALGORITHM_VERSION, DATASET_BIN_LENGTHS_MS, check_bin_length
from summer_prep.recordings.find import find_recordings, source_sha256
from summer_prep.urls import Place


@dataclass(frozen=True)
class KeyState:
    """Whether one key can be used as it is, and its description if it can."""

    patient_id: str
    bin_length_ms: int
    state: str
    """fresh, missing, stale, unchecked (as good, but its recording is not there to compare with), or failed."""
    reason: str = ""
    n_bytes: int = 0
    """Bytes of its arrays on disk; 0 if the key is missing or cannot be read."""
    description: Description | None = None

    @property
    def is_to_build(self) -> bool:
        """Whether `build` would write the key."""
        return self.state in ("missing", "stale")


def cache_states(
    data_dir: Place, cache: Cache, patient_ids: Sequence[str] = (), bin_lengths_ms: Sequence[int] = ()
) -> list[KeyState]:
    """Return the state of every key asked for; by default of every patient and bin length found anywhere.

    Raises SettingsError if a patient has neither a recording nor a key, or there are no such bins; UnreachableError if
    nothing can be known of any key.
    """
    for bin_length_ms in bin_lengths_ms:
        check_bin_length(bin_length_ms)
    recordings = find_recordings(data_dir, patient_ids, may_be_missing=True)
    cached, unlisted = keys_and_problems(cache)
    known = in_natural_order({*recordings, *cached, *unlisted})
    check_known(patient_ids, known, f"in {cache.place}", cached, data_dir)
    lengths = bin_lengths_ms or sorted({length for found in cached.values() for length in found})
    states = key_states(
        data_dir, cache, recordings, patient_ids or known, lengths or DATASET_BIN_LENGTHS_MS, is_for_use=False
    )
    reasons = {state.reason for state in states}
    if len(reasons) == 1 and all(state.state == "failed" for state in states):
        raise UnreachableError(*reasons)  # once, not for every key
    return states


def key_states(
    data_dir: Place,
    cache: Cache,
    recordings: Mapping[str, Place],
    patient_ids: Iterable[str],
    bin_lengths_ms: Sequence[int],
    settings: Mapping[str, str] = MappingProxyType({}),
    is_for_use: bool = True,
) -> list[KeyState]:
    """Return the state of every key of these patients at these bin lengths, patient after patient.

    Parameters
    ----------
    settings : the attributes that keys must have, `BuildConfig.of_keys`; by default any will do, as for training
    is_for_use : else nothing is written, and what prevents a comparison is the reason of a state `failed`, not raised
    """

    def of_patient(patient_id: str) -> list[KeyState]:
        states: list[KeyState] = []
        sha256, why_unchecked, problem = None, "", None
        try:
            if patient_id not in recordings:
                why_unchecked = f"no recording in {data_dir}; see --data-dir"
            elif cache.bin_lengths(patient_id):
                sha256 = source_sha256(recordings[patient_id], patient_id, cache.folder, may_note=is_for_use)
        except Exception as error:
            why_unchecked, problem = (str(error), None) if isinstance(error, RecordingError) else ("", error)
        for length in bin_lengths_ms:
            try:
                if problem is not None:
                    raise problem
                states.append(_key_state(cache, patient_id, length, sha256, why_unchecked, settings))
            except Exception as error:
                if is_for_use:
                    raise
                reason = one_line(error, key_path(cache.place, patient_id, length))
                states.append(KeyState(patient_id, length, "failed", reason))
        return states

    with ThreadPoolExecutor(cache.n_at_once) as pool:
        return [state for states in pool.map(of_patient, patient_ids) for state in states]


def _key_state(
    cache: Cache, patient_id: str, length_ms: int, sha256: str | None, why_unchecked: str, settings: Mapping[str, str]
) -> KeyState:
    """Return the state of one key, given the digest of its recording, or None and why that is not known."""
    try:
        description = checked(cache, patient_id, length_ms)
    except CacheError as error:
        if isinstance(error, MissingKeyError):
            return KeyState(patient_id, length_ms, "missing", why_unchecked)
        rebuild = build_command(key_path(cache.place, patient_id, length_ms))
        return KeyState(patient_id, length_ms, "stale", str(error).removesuffix(f". Rebuild it: {rebuild}"))
    attributes = description.attributes
    state, reason = ("unchecked", why_unchecked) if sha256 is None else ("fresh", "")
    for name, wanted in {**settings, "algorithm_version": ALGORITHM_VERSION}.items():
        if attributes[name] != wanted:
            state, reason = "stale", f"{name.replace('_', ' ')} {attributes[name]}, now {wanted}"
    if sha256 not in (None, attributes["source"]["sha256"]):
        state, reason = "stale", f"the content of {attributes['source']['file_name']} changed"
    n_bytes = sum(file["bytes"] for file in attributes["files"].values())
    return KeyState(patient_id, length_ms, state, reason, n_bytes, description)
