"""Recordings by their file names: which patients a folder holds, and where. What is in the files is for `nwb`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from summer_prep.errors import RecordingError, SettingsError
from summer_prep.layout import file_sha256, in_natural_order, is_patient_id

FILE_NAME = re.compile(r"sub-?([A-Za-z0-9]+)(_.*)?\.nwb")
"""`sub14.nwb` and `sub-14_ses-sub14_ecephys.nwb`."""


def find_recordings(data_dir: Path) -> dict[str, Path]:
    """Return patient id -> NWB file below `data_dir` (flat or up to two folders deep), in natural order.

    Raises
    ------
    SettingsError : the folder does not exist, a patient's folder cannot be read, or two files are of one patient
    """
    if not data_dir.is_dir():
        problem = "is a file, not a folder" if data_dir.exists() else "no such folder"
        raise SettingsError(f"{data_dir}: {problem}. Name the folder with the NWB files with --data-dir")
    for folder in data_dir.glob("sub*/"):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise SettingsError(f"{folder}: may not be read. Change its permissions, or name another --data-dir")
    found: dict[str, Path] = {}
    for pattern in ("*.nwb", "*/*.nwb", "*/*/*.nwb"):
        for path in sorted(data_dir.glob(pattern)):
            match = FILE_NAME.fullmatch(path.name)
            if match is None or any(part.startswith(".") for part in path.relative_to(data_dir).parts):
                continue
            if match[1] in found:
                raise SettingsError(
                    f"two files are of patient {match[1]}: {found[match[1]]} and {path}. Move one of them elsewhere"
                )
            found[match[1]] = path
    return {patient_id: found[patient_id] for patient_id in in_natural_order(found)}


def other_nwb_files(data_dir: Path) -> list[Path]:
    """Return the NWB files below `data_dir` that `find_recordings` leaves out for their names."""
    return [
        path
        for path in sorted(data_dir.rglob("*.nwb"))
        if FILE_NAME.fullmatch(path.name) is None and not path.name.startswith(".")
    ]


def select_recordings(data_dir: Path, nwb_path: Path | None, patient_ids: Sequence[str]) -> dict[str, Path]:
    """Return patient id -> NWB file of the patients asked for, in the order asked for.

    Raises
    ------
    SettingsError : a patient or any recording at all is not there
    """
    if nwb_path is not None and not patient_ids:
        return recording_at(nwb_path)
    found = find_recordings(data_dir)
    if not found:
        raise SettingsError(
            f"{data_dir}: no recordings named like sub14.nwb or sub-14_ses-sub14_ecephys.nwb. Check --data-dir"
        )
    unknown = [patient_id for patient_id in patient_ids if patient_id not in found]
    if unknown:
        raise SettingsError(
            f"no recording of patient {', '.join(unknown)} in {data_dir}; found are {', '.join(found)}. "
            "Choose among these with --patient-ids"
        )
    return {patient_id: found[patient_id] for patient_id in patient_ids or found}


def recording_at(nwb_path: Path) -> dict[str, Path]:
    """Return patient id -> file of the one recording named.

    Raises
    ------
    SettingsError : there is no such file, or it is not named like a SUMMER recording
    """
    if not nwb_path.is_file():
        raise SettingsError(f"{nwb_path}: {'is a folder' if nwb_path.is_dir() else 'no such file'}. Check --nwb-path")
    return {patient_id_of(nwb_path): nwb_path}


def patient_id_of(path: Path) -> str:
    """Return the patient id in a recording's file name.

    Raises
    ------
    SettingsError : the file is not named like a SUMMER recording
    """
    match = FILE_NAME.fullmatch(path.name)
    if match is None or not is_patient_id(match[1]):
        raise SettingsError(
            f"{path}: no patient id in the file name. Name it like sub14.nwb or sub-14_ses-sub14_ecephys.nwb"
        )
    return match[1]


def recording_sha256(path: Path) -> str:
    """Return the SHA-256 of a recording's bytes.

    Raises
    ------
    RecordingError : the file cannot be read
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
