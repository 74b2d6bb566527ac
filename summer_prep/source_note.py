"""The digest of a recording, noted beside its keys: it saves reading 80 MB a patient before every run."""

import json
import time
from contextlib import suppress
from pathlib import Path

from summer_prep.errors import RecordingError
from summer_prep.recordings import recording_sha256
from summer_prep.staging import staging_name

SOURCE_NOTE = ".source.json"
_RACE_NS = 50_000_000

Identity = list[int]


def file_identity(path: Path) -> Identity:
    """Return a file's size (bytes), inode, and times of modification and change (ns).

    The change time cannot be set back, so a file with the same four is the same file.

    Raises
    ------
    RecordingError : there is no such file
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise RecordingError(
            f"{path}: no such file, or not readable ({error.strerror}). Check --data-dir and --nwb-path"
        ) from error
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def source_sha256(path: Path, patient_id: str, cache_dir: Path) -> str:
    """Return the SHA-256 of a recording, from its note if the file is untouched since, else by reading it.

    Raises
    ------
    RecordingError : the file cannot be read
    """
    identity = file_identity(path)  # before reading: a file that changes meanwhile is read again next time
    try:
        note = json.loads(_note_path(patient_id, cache_dir).read_text())
        if note["identity"] == identity:
            return str(note["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sha256 = recording_sha256(path)
    note_source(patient_id, cache_dir, identity, sha256)
    return sha256


def note_source(patient_id: str, cache_dir: Path, identity: Identity, sha256: str) -> None:
    """Note the digest of the file that had this identity before it was read; losing a note costs a read."""
    note_path = _note_path(patient_id, cache_dir)
    # A file changed within the clock's resolution of now could change again and keep its times.
    if not note_path.parent.is_dir() or time.time_ns() - max(identity[2:]) < _RACE_NS:
        return
    staged = note_path.with_name(staging_name(note_path))
    with suppress(OSError):  # a read-only cache works too, one read slower
        staged.write_text(json.dumps({"identity": identity, "sha256": sha256}))
        staged.replace(note_path)
    with suppress(OSError):
        staged.unlink(missing_ok=True)


def _note_path(patient_id: str, cache_dir: Path) -> Path:
    return cache_dir / f"sub-{patient_id}" / SOURCE_NOTE
