"""Which recordings there are, whose they are by their file names, and their digests. What is in them is for `nwb`.

A recording's digest is noted beside its keys, which saves reading 80 MB a patient before every run.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from summer_prep.cache.layout import file_sha256, in_natural_order, is_patient_id, patient_path
from summer_prep.cache.publish import staging_name
from summer_prep.errors import RecordingError, SettingsError
from summer_prep.options import as_patient_id
from summer_prep.urls import Place, Url, nwb_files_below, remote_identity

SOURCE_NOTE = ".source.json"
_RACE_NS = 50_000_000

FILE_NAME = re.compile(r"sub-?([A-Za-z0-9]+)(_.*)?\.nwb")
"""`sub14.nwb` and `sub-14_ses-sub14_ecephys.nwb`."""


def find_recordings(data_dir: Place, patient_ids: Sequence[str] = (), may_be_missing: bool = False) -> dict[str, Place]:
    """Return patient id -> NWB file below `data_dir` (flat or up to two folders deep), in natural order.

    Parameters
    ----------
    patient_ids : those that are asked for, so that folders of others need not be readable; all by default
    may_be_missing : whether a folder that is not there is one without recordings, instead of an error

    Raises
    ------
    SettingsError : the folder does not exist, a patient's folder cannot be read, or two files are of one patient
    """
    if isinstance(data_dir, Url):
        return _by_patient(nwb_files_below(data_dir))
    if not os.path.isdir(data_dir):  # which takes a folder that may not be looked into for missing
        if may_be_missing:
            return {}
        problem = "is a file, not a folder" if os.path.exists(data_dir) else "no such folder"
        raise SettingsError(f"{data_dir}: {problem}. Name the folder with the NWB files with --data-dir")
    return _by_patient(_nwb_files(data_dir, patient_ids))


def _nwb_files(data_dir: Path, patient_ids: Sequence[str] = ()) -> list[Path]:
    """Return the NWB files in a folder, up to two folders deep, each once; hidden files and folders are left out.

    A patient's file that is reached by several paths, through links, has the first of them.

    Raises
    ------
    SettingsError : the folder or a patient's folder in it cannot be read
    """
    found: dict[tuple[str, str | None], Path] = {}
    folders = [data_dir]
    for depth in range(3):
        inside = []
        for folder in folders:
            try:
                entries = sorted(folder.iterdir())
                if not os.access(folder, os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                entries = [entry for entry in entries if not entry.name.startswith(".")]
                inside += [entry for entry in entries if depth < 2 and entry.is_dir()]
            except OSError as error:
                patient_id = as_patient_id(folder.name)
                is_asked_for = patient_id != folder.name and (not patient_ids or patient_id in patient_ids)
                if folder != data_dir and not is_asked_for:
                    continue  # of others, or like lost+found
                raise SettingsError(
                    f"{folder}: may not be read ({error.strerror}). Change its permissions, or name another --data-dir"
                ) from error
            for entry in entries:
                if entry.suffix == ".nwb" and not os.path.isdir(entry):
                    match = FILE_NAME.fullmatch(entry.name)
                    found.setdefault((os.path.realpath(entry), match and match[1]), entry)
        folders = inside
    return list(found.values())


def _by_patient(paths: Iterable[Place]) -> dict[str, Place]:
    """Return patient id -> NWB file in natural order, leaving out files of other names."""
    found: dict[str, Place] = {}
    twins: dict[str, str] = {}
    for path in paths:
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            continue
        twin = twins.setdefault(match[1].lstrip("0"), match[1])
        if twin in found:
            raise SettingsError(
                f"two files are of patient {match[1]}: {found[twin]} and {path}. Move one of them elsewhere"
            )
        found[match[1]] = path
    return {patient_id: found[patient_id] for patient_id in in_natural_order(found)}


def other_nwb_files(data_dir: Place) -> list[Place]:
    """Return the NWB files below `data_dir` that `find_recordings` leaves out for their names."""
    if isinstance(data_dir, Url):
        return [url for url in nwb_files_below(data_dir) if FILE_NAME.fullmatch(url.name) is None]
    return [path for path in _nwb_files(data_dir) if FILE_NAME.fullmatch(path.name) is None]


def select_recordings(data_dir: Place, nwb_path: Path | None, patient_ids: Sequence[str] = ()) -> dict[str, Place]:
    """Return patient id -> NWB file of the patients asked for, in the order asked for.

    Raises
    ------
    SettingsError : a patient or any recording at all is not there
    """
    if nwb_path is not None and not patient_ids:
        return recording_at(nwb_path)
    found = find_recordings(data_dir, patient_ids)
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


def recording_at(nwb_path: Path) -> dict[str, Place]:
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


Identity = Mapping[str, int | str]
"""What tells a file from a changed one. Of a local file: size, inode, and times of modification and change (ns).

The change time cannot be set back, so a file with the same four is the same file.
"""


def source_identity(path: Place) -> Identity | None:
    """Return a recording's identity; None where a server tells nothing that would change with the content.

    Raises
    ------
    RecordingError : there is no such file
    """
    return remote_identity(path) if isinstance(path, Url) else file_identity(path)


def file_identity(path: Path) -> Identity:
    """Return the identity of a recording on this machine.

    Raises
    ------
    RecordingError : there is no such file
    """
    try:
        stat = path.stat()
    except OSError as error:
        advice = "Fetch what it links to, like datalad get" if path.is_symlink() else "Check --data-dir and --nwb-path"
        raise RecordingError(f"{path}: no such file, or not readable ({error.strerror}). {advice}") from error
    return {
        "n_bytes": stat.st_size,
        "inode": stat.st_ino,
        "modified_ns": stat.st_mtime_ns,
        "changed_ns": stat.st_ctime_ns,
    }


def noted_sha256(identity: Identity | None, patient_id: str, folder: Path) -> str | None:
    """Return the SHA-256 of a recording from its note, if it has the same identity still."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        note = json.loads(_note_path(patient_id, folder).read_text())
        if identity is not None and note["identity"] == identity:
            return str(note["sha256"])
    return None


def source_sha256(path: Place, patient_id: str, folder: Path, may_note: bool = True) -> str:
    """Return the SHA-256 of a recording, from its note in a folder if it is untouched since, else by reading it.

    Raises
    ------
    RecordingError : the file cannot be read; behind a URL it would have to be fetched, which only a build does
    """
    identity = source_identity(path)  # before reading: a file that changes meanwhile is read again next time
    noted = noted_sha256(identity, patient_id, folder)
    if noted is not None:
        return noted
    if isinstance(path, Url):
        raise RecordingError(f"{path} would have to be fetched to be compared, which summer-prep build does")
    sha256 = recording_sha256(path)
    if may_note:
        note_source(patient_id, folder, identity, sha256)
    return sha256


def note_source(patient_id: str, folder: Path, identity: Identity | None, sha256: str) -> None:
    """Note the digest of the file that had this identity before it was read; losing a note costs a read."""
    note_path = _note_path(patient_id, folder)
    if identity is None or not os.path.isdir(note_path.parent):
        return
    times_ns = [int(identity[name]) for name in ("modified_ns", "changed_ns") if name in identity]
    # A file changed within the clock's resolution of now could change again and keep its times.
    if time.time_ns() - max(times_ns, default=0) < _RACE_NS:
        return
    staged = note_path.with_name(staging_name(note_path))
    with suppress(OSError):  # a read-only cache works too, one read slower
        staged.write_text(json.dumps({"identity": identity, "sha256": sha256}))
        staged.replace(note_path)
    with suppress(OSError):
        staged.unlink(missing_ok=True)


def _note_path(patient_id: str, folder: Path) -> Path:
    return patient_path(folder, patient_id) / SOURCE_NOTE
