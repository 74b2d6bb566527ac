"""Which recordings there are, whose they are by their file names, and their digests. `nwb` reads what is in them.

A recording's digest is noted beside its keys, which saves reading 80 MB a patient before every run.
"""

import errno
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from summer_prep.cache.layout import file_sha256, in_natural_order, patient_path
from summer_prep.errors import RecordingError, SettingsError
from summer_prep.files import replace_file
from summer_prep.options import as_patient_id
from summer_prep.urls import Place, Url, nwb_files_below, remote_identity

_NOTE = ".source.json"
_NAMES = "sub14.nwb or sub-14_ses-sub14_ecephys.nwb"
_FILE_NAME = re.compile(r"sub-?([A-Za-z0-9]+)(_.*)?\.nwb")


def find_recordings(data_dir: Place, patient_ids: Sequence[str] = (), may_be_missing: bool = False) -> dict[str, Place]:
    """Return patient id -> NWB file below `data_dir` (flat or up to two folders deep), in natural order.

    Folders of patients who are not asked for (by default, all are) need not be readable. Raises SettingsError if the
    folder is a file or does not exist (unless it `may_be_missing`), a patient's folder cannot be read, or a patient has
    two files.
    """
    if isinstance(data_dir, Path) and not os.path.isdir(data_dir):  # False also where permission is missing
        is_file = os.path.exists(data_dir)
        if may_be_missing and not is_file:
            return {}
        problem = "is a file, not a folder" if is_file else "no such folder"
        raise SettingsError(f"{data_dir}: {problem}. Name the folder with the NWB files with --data-dir")
    found: dict[str, Place] = {}
    twins: dict[str, str] = {}
    for path in _nwb_files(data_dir, patient_ids):
        if match := _FILE_NAME.fullmatch(path.name):
            if (twin := twins.setdefault(match[1].lstrip("0"), match[1])) in found:
                both = f"{found[twin]} and {path}"
                raise SettingsError(f"two files are of patient {match[1]}: {both}. Move one of them elsewhere")
            found[match[1]] = path
    return {patient_id: found[patient_id] for patient_id in in_natural_order(found)}


def other_nwb_files(data_dir: Place) -> list[Place]:
    """Return the NWB files below `data_dir` that `find_recordings` leaves out because of their names."""
    return [path for path in _nwb_files(data_dir) if _FILE_NAME.fullmatch(path.name) is None]


def _nwb_files(data_dir: Place, patient_ids: Sequence[str] = ()) -> list[Place]:
    """Return the NWB files in a folder, up to two folders deep, each once; hidden files and folders are left out.

    Of a patient's file that links lead to by several paths, the first path counts. Raises SettingsError if the folder,
    or a patient's folder in it, cannot be read.
    """
    if isinstance(data_dir, Url):
        return [*nwb_files_below(data_dir)]
    found: dict[tuple[str, str | None], Place] = {}
    folders = [data_dir]
    for depth in range(3):
        inside = []
        for folder in folders:
            try:
                if not os.access(folder, os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
                inside += [entry for entry in entries if depth < 2 and entry.is_dir()]
            except OSError as error:
                patient_id = as_patient_id(folder.name)
                is_asked_for = patient_id != folder.name and (not patient_ids or patient_id in patient_ids)
                if folder != data_dir and not is_asked_for:
                    continue  # of others, or like lost+found
                advice = "Change its permissions, or name another --data-dir"
                raise SettingsError(f"{folder}: may not be read ({error.strerror}). {advice}") from error
            for entry in entries:
                if entry.suffix == ".nwb" and not os.path.isdir(entry):
                    match = _FILE_NAME.fullmatch(entry.name)
                    found.setdefault((os.path.realpath(entry), match and match[1]), entry)
        folders = inside
    return list(found.values())


def select_recordings(data_dir: Place, nwb_path: Path | None, patient_ids: Sequence[str] = ()) -> dict[str, Place]:
    """Return patient id -> NWB file of the patients asked for, in the order asked for.

    Raises SettingsError if a patient, the one file that is named, or any recording at all is missing.
    """
    if nwb_path is not None and not patient_ids:
        if not nwb_path.is_file():
            problem = "is a folder" if nwb_path.is_dir() else "no such file"
            raise SettingsError(f"{nwb_path}: {problem}. Check --nwb-path")
        return {patient_id_of(nwb_path): nwb_path}
    found = find_recordings(data_dir, patient_ids)
    if not found:
        raise SettingsError(f"{data_dir}: no recordings named like {_NAMES}. Check --data-dir")
    unknown = [patient_id for patient_id in patient_ids if patient_id not in found]
    if unknown:
        advice = f"found are {', '.join(found)}. Choose among these with --patient-ids"
        raise SettingsError(f"no recording of patient {', '.join(unknown)} in {data_dir}; {advice}")
    return {patient_id: found[patient_id] for patient_id in patient_ids or found}


def patient_id_of(path: Path) -> str:
    """Return the patient id in a recording's file name; raises SettingsError if there is none."""
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise SettingsError(f"{path}: no patient id in the file name. Name it like {_NAMES}")
    return match[1]


Identity = Mapping[str, int | str]
"""Distinguishes a file from a changed one. Of a local file: size, inode, and times of modification and change (ns).

The change time cannot be set back, so a file with the same four is the same file.
"""


def source_identity(path: Place) -> Identity | None:
    """Return a recording's identity; None where a server says nothing that would change with the content.

    Raises RecordingError if there is no such file.
    """
    if isinstance(path, Url):
        return remote_identity(path)
    try:
        stat = path.stat()
    except OSError as error:
        advice = "Fetch what it links to, like datalad get" if path.is_symlink() else "Check --data-dir and --nwb-path"
        raise RecordingError(f"{path}: no such file, or not readable ({error.strerror}). {advice}") from error
    times = {"modified_ns": stat.st_mtime_ns, "changed_ns": stat.st_ctime_ns}
    return {"n_bytes": stat.st_size, "inode": stat.st_ino, **times}


def source_sha256(path: Place, patient_id: str, folder: Path, may_note: bool = True) -> str:
    """Return the SHA-256 of a recording, from its note in a folder if it is unchanged since, else by reading it.

    Raises RecordingError if it cannot be read; behind a URL it would have to be fetched, which only a build does.
    """
    identity = source_identity(path)  # before reading: a file that changes meanwhile is read again next time
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        note = json.loads((patient_path(folder, patient_id) / _NOTE).read_text())
        if identity is not None and note["identity"] == identity:
            return str(note["sha256"])
    if isinstance(path, Url):
        raise RecordingError(f"{path} would have to be fetched to be compared, which summer-prep build does")
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    if may_note:
        note_source(patient_id, folder, identity, sha256)
    return sha256


def note_source(patient_id: str, folder: Path, identity: Identity | None, sha256: str) -> None:
    """Note the digest of the file that had this identity before it was read; losing a note costs a read."""
    note_path = patient_path(folder, patient_id) / _NOTE
    changed_ns = max(int((identity or {}).get(name, 0)) for name in ("modified_ns", "changed_ns"))
    # A file changed within the clock's resolution of now could change again and keep its times.
    if identity is None or not os.path.isdir(note_path.parent) or time.time_ns() - changed_ns < 50_000_000:
        return
    with suppress(OSError):  # a read-only cache works too, one read slower
        replace_file(note_path, json.dumps({"identity": identity, "sha256": sha256}).encode())
