"""May a key be used, and if not, why: fresh is a key of the same content, settings and algorithm."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from summer_prep.cache.keys import Cache, checked, keys_and_problems
from summer_prep.cache.layout import (
    Description,
    build_command,
    in_natural_order,
    key_path,
)
from summer_prep.errors import CacheError, MissingKeyError, RecordingError, SettingsError, UnreachableError, one_line
from summer_prep.film.facts import ALGORITHM_VERSION, DATASET_BIN_LENGTHS_MS, check_bin_length
from summer_prep.recordings.find import find_recordings, source_sha256
from summer_prep.urls import Place, Url


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """Whether one key can be used as it is, and what it says of itself if it can."""

    patient_id: str
    bin_length_ms: int
    state: str
    """fresh, missing, stale, unchecked (as good, but its recording is not there to compare with), or failed."""
    reason: str = ""
    n_bytes: int = 0
    """Bytes of its arrays on disk; 0 where there is no key, or one that cannot be read."""
    description: Description | None = None

    @property
    def is_to_build(self) -> bool:
        """Whether `build` would write the key."""
        return self.state in ("missing", "stale")

    def as_plain(self) -> dict[str, str | int]:
        """Return what people ask for, as plain values."""
        return {name: getattr(self, name) for name in ("patient_id", "bin_length_ms", "state", "reason", "n_bytes")}


def cache_states(
    data_dir: Place, cache: Cache, patient_ids: Sequence[str] = (), bin_lengths_ms: Sequence[int] = ()
) -> list[KeyState]:
    """Return the state of every key asked for; by default of every patient and bin length found anywhere.

    Raises
    ------
    SettingsError : a patient has neither a recording nor a key; no such bins
    UnreachableError : nothing can be known of any key
    """
    for bin_length_ms in bin_lengths_ms:
        check_bin_length(bin_length_ms)
    recordings = find_recordings(data_dir, patient_ids, may_be_missing=True)
    cached, unlisted = keys_and_problems(cache)
    known = in_natural_order({*recordings, *cached, *unlisted})
    check_known(patient_ids, known, data_dir, f"key in {cache.place}")
    lengths = bin_lengths_ms or sorted({length for found in cached.values() for length in found})
    states = key_states(
        data_dir, cache, recordings, patient_ids or known, lengths or DATASET_BIN_LENGTHS_MS, is_for_use=False
    )
    reasons = {state.reason for state in states}
    if len(reasons) == 1 and all(state.state == "failed" for state in states):
        raise UnreachableError(*reasons)  # once, not for every key
    return states


def check_known(patient_ids: Iterable[str], known: Iterable[str], data_dir: Place, key: str, others: str = "") -> None:
    """Check that there is a recording or a key of every patient asked for, and of any patient at all.

    Parameters
    ----------
    others : what else there is, for the error

    Raises
    ------
    SettingsError : there is not
    """
    is_there = isinstance(data_dir, Url) or os.path.isdir(data_dir)
    where = f"{data_dir}{'' if is_there else ' (no such folder)'} and no {key}"
    found = in_natural_order(known)
    unknown = [patient_id for patient_id in patient_ids if patient_id not in found]
    if unknown:
        raise SettingsError(
            f"no recording of patient {', '.join(unknown)} in {where}; found are {', '.join(found) or 'none'}{others}. "
            "Check --patient-ids, --bin-length, --data-dir and --cache-dir"
        )
    if not found:
        raise SettingsError(f"no recording in {where}{others}. Check --data-dir and --cache-dir")


def key_states(
    data_dir: Place,
    cache: Cache,
    recordings: Mapping[str, Place],
    patient_ids: Iterable[str],
    bin_lengths_ms: Iterable[int],
    is_for_use: bool = True,
) -> list[KeyState]:
    """Return the state of every key of these patients at these bin lengths, patient after patient.

    Parameters
    ----------
    is_for_use : else nothing is written, what keys say of themselves (33 kB a key) is not kept, and what prevents
        a comparison is no error but the reason of a state `failed`

    Raises
    ------
    CacheError : nothing can be known of a key
    """
    lengths = list(bin_lengths_ms)

    def of_patient(patient_id: str) -> list[KeyState]:
        try:
            sha256, why_unchecked = _digest_now(data_dir, cache, patient_id, recordings.get(patient_id), is_for_use)
        except Exception as error:
            return [failed(patient_id, length, error) for length in lengths]
        return [of_key(patient_id, length, sha256, why_unchecked) for length in lengths]

    def of_key(patient_id: str, length: int, sha256: str | None, why_unchecked: str) -> KeyState:
        try:
            state = key_state(cache, patient_id, length, sha256, why_unchecked=why_unchecked)
        except Exception as error:
            return failed(patient_id, length, error)
        return state if is_for_use else replace(state, description=None)

    def failed(patient_id: str, length: int, error: Exception) -> KeyState:
        if is_for_use:
            raise error
        reason = one_line(error, key_path(cache.place, patient_id, length))
        return KeyState(patient_id=patient_id, bin_length_ms=length, state="failed", reason=reason)

    if cache.n_at_once == 1:
        return [state for patient_id in patient_ids for state in of_patient(patient_id)]
    with ThreadPoolExecutor(cache.n_at_once) as pool:
        return [state for states in pool.map(of_patient, patient_ids) for state in states]


def _digest_now(
    data_dir: Place, cache: Cache, patient_id: str, recording: Place | None, may_note: bool
) -> tuple[str | None, str]:
    """Return the digest of a patient's recording as it is now, if there is a key to compare; else why there is none."""
    if recording is None:
        return None, f"no recording in {data_dir}; see --data-dir"
    if not cache.bin_lengths(patient_id):
        return None, ""
    try:
        return source_sha256(recording, patient_id, cache.folder, may_note), ""
    except RecordingError as error:
        return None, str(error)


def key_state(
    cache: Cache,
    patient_id: str,
    bin_length_ms: int,
    current_sha256: str | None,
    settings: Mapping[str, str] | None = None,
    why_unchecked: str = "",
) -> KeyState:
    """Return whether one key can be used.

    Parameters
    ----------
    current_sha256 : digest of the recording as it is now; None if it cannot be compared, which `why_unchecked` says
    settings : the attributes that are asked for, `BuildConfig.of_keys`; None if any will do, as for training
    """
    key = key_path(cache.place, patient_id, bin_length_ms)
    description = None
    try:
        description = checked(cache, patient_id, bin_length_ms)
        reason = _difference(description, current_sha256, settings or {})
        state = "stale" if reason else "unchecked" if current_sha256 is None else "fresh"
    except MissingKeyError:
        state, reason = "missing", why_unchecked
    except CacheError as error:
        state, reason = "stale", str(error).removesuffix(f". Rebuild it: {build_command(key)}")
    return KeyState(
        patient_id=patient_id,
        bin_length_ms=bin_length_ms,
        state=state,
        reason=reason or (why_unchecked if state == "unchecked" else ""),
        n_bytes=0 if description is None else sum(file["bytes"] for file in description.attributes["files"].values()),
        description=description,
    )


def _difference(description: Description, current_sha256: str | None, settings: Mapping[str, str]) -> str:
    """Return what changed since a key was built; empty if nothing did."""
    attributes = description.attributes
    if attributes["algorithm_version"] != ALGORITHM_VERSION:
        return f"algorithm version {attributes['algorithm_version']}, now {ALGORITHM_VERSION}"
    if current_sha256 is not None and attributes["source"]["sha256"] != current_sha256:
        return f"the content of {attributes['source']['file_name']} changed"
    for name, wanted in settings.items():
        if attributes[name] != wanted:
            return f"{name.replace('_', ' ')} {attributes[name]}, now {wanted}"
    return ""
