"""Which keys are built, missing or stale, and why: fresh is a key of the same content, settings and algorithm."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from summer_prep.binning import check_bin_length
from summer_prep.errors import CacheError, RecordingError, SettingsError
from summer_prep.layout import (
    ALGORITHM_VERSION,
    DATASET_BIN_LENGTHS_MS,
    build_command,
    cached_keys,
    check_files,
    in_natural_order,
    key_path,
    read_attributes,
)
from summer_prep.recordings import find_recordings, recording_at
from summer_prep.source_note import source_sha256


@dataclass(frozen=True, kw_only=True)
class KeyStatus:
    """Whether one key can be used as it is."""

    patient_id: str
    bin_length_ms: int
    state: str
    """built, missing, stale or unchecked (built, but its recording is not there to compare)."""
    reason: str = ""


def staleness(key: Path, current_sha256: str | None, codec: str | None = None) -> str:
    """Return why a key cannot be used as it is, naming what changed; empty if it is fresh.

    Parameters
    ----------
    current_sha256 : digest of the recording as it is now; None if it is not there to compare
    codec : the codec asked for; None if any will do, as for training
    """
    if not os.path.exists(key):
        return "missing"
    try:
        attributes = read_attributes(key)
        check_files(key, attributes)
    except CacheError as error:
        return str(error).removesuffix(f". Rebuild it: {build_command(key)}")
    if attributes.get("algorithm_version") != ALGORITHM_VERSION:
        return f"algorithm version {attributes.get('algorithm_version')}, now {ALGORITHM_VERSION}"
    if current_sha256 is not None and attributes["source"]["sha256"] != current_sha256:
        return f"the content of {attributes['source']['file_name']} changed"
    if codec is not None and attributes["codec"] != codec:
        return f"codec {attributes['codec']}, now {codec}"
    return ""


def key_status(
    data_dir: Path, cache_dir: Path, patient_ids: Sequence[str] = (), bin_lengths_ms: Sequence[int] = ()
) -> list[KeyStatus]:
    """Return the state of every key asked for; by default of every patient and bin length found anywhere.

    Raises
    ------
    SettingsError : a patient has neither a recording nor a key; no such bins
    """
    for bin_length_ms in bin_lengths_ms:
        check_bin_length(bin_length_ms)
    recordings = find_recordings(data_dir) if data_dir.is_dir() else {}
    cached = cached_keys(cache_dir)
    _refuse_unknown(patient_ids, {**recordings, **cached}, data_dir, f"key in {cache_dir}")
    lengths = bin_lengths_ms or sorted({length for found in cached.values() for length in found})
    return [
        _key_status(recordings.get(patient_id), cache_dir, patient_id, length)
        for patient_id in patient_ids or {**recordings, **cached}
        for length in lengths or DATASET_BIN_LENGTHS_MS
    ]


def training_status(
    data_dir: Path, cache_dir: Path, nwb_path: Path | None, patient_ids: Sequence[str], bin_length_ms: int
) -> list[KeyStatus]:
    """Return the state of the keys of a training run, in the order asked for; the stale ones can all be rebuilt.

    Without `patient_ids`: of the patients with a recording, or those in the cache where there are no recordings.

    Raises
    ------
    SettingsError : a patient has neither a recording nor a key
    CacheError : a key must be rebuilt and its recording is not there
    """
    check_bin_length(bin_length_ms)
    if nwb_path is not None and not patient_ids:
        recordings = recording_at(nwb_path)
    else:
        recordings = find_recordings(data_dir) if data_dir.is_dir() else {}
    cached = [patient_id for patient_id, lengths in cached_keys(cache_dir).items() if bin_length_ms in lengths]
    _refuse_unknown(patient_ids, {*recordings, *cached}, data_dir, f"key at {bin_length_ms} ms in {cache_dir}")
    states = [
        _key_status(recordings.get(patient_id), cache_dir, patient_id, bin_length_ms)
        for patient_id in dict.fromkeys(patient_ids) or recordings or cached
    ]
    for state in states:
        if state.state == "stale" and state.patient_id not in recordings:
            key = key_path(cache_dir, state.patient_id, bin_length_ms)
            raise CacheError(
                f"{key}: stale ({state.reason}), and its recording is not in {data_dir} to rebuild it from"
            )
    return states


def _refuse_unknown(patient_ids: Sequence[str], known: Iterable[str], data_dir: Path, key: str) -> None:
    where = f"{data_dir}{'' if data_dir.is_dir() else ' (no such folder)'} and no {key}"
    unknown = [patient_id for patient_id in patient_ids if patient_id not in known]
    if unknown:
        raise SettingsError(
            f"no recording of patient {', '.join(unknown)} in {where}; "
            f"found are {', '.join(in_natural_order(known)) or 'none'}. "
            "Check --patient-ids, --data-dir and --cache-dir"
        )
    if not known:
        raise SettingsError(f"no recording in {where}. Check --data-dir and --cache-dir")


def _key_status(recording: Path | None, cache_dir: Path, patient_id: str, bin_length_ms: int) -> KeyStatus:
    key = key_path(cache_dir, patient_id, bin_length_ms)
    sha256, unchecked = None, "no recording to compare with"
    if recording is not None and os.path.exists(key):
        try:
            sha256, unchecked = source_sha256(recording, patient_id, cache_dir), ""
        except RecordingError as error:
            unchecked = str(error)
    reason = staleness(key, sha256)
    if reason == "missing":
        return KeyStatus(patient_id=patient_id, bin_length_ms=bin_length_ms, state="missing")
    state = "stale" if reason else "unchecked" if unchecked else "built"
    return KeyStatus(patient_id=patient_id, bin_length_ms=bin_length_ms, state=state, reason=reason or unchecked)
