"""What cannot be looked at is named, never left out; one patient or key whose turn fails takes no other along."""

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import summer_train
from summer_prep.cache import fresh as freshness
from summer_prep.cache import keys as caches
from summer_prep.cache.build import build
from summer_prep.cache.layout import key_path
from summer_prep.cli import app
from summer_prep.console import run as run_program
from summer_prep.console import show
from summer_prep.errors import SettingsError, UnreachableError
from summer_prep.film import align
from summer_prep.options import as_path
from summer_prep.recordings import nwb
from summer_prep.recordings.find import find_recordings

ONE_KEY = {"bin_length": 1000, "workers": 0}


def fail_at(monkeypatch, place, name, error, is_bad):
    """Let a function raise an error where its arguments are bad."""
    function = getattr(place, name)

    def call(*arguments, **options):
        if is_bad(*arguments):
            raise error
        return function(*arguments, **options)

    monkeypatch.setattr(place, name, call)


@pytest.fixture
def locked(demo_cache, monkeypatch):
    """A patient's folder in the demo cache that may not be listed."""
    folder = demo_cache / "sub-20"
    error = PermissionError(errno.EACCES, "Permission denied", str(folder))
    fail_at(monkeypatch, os, "listdir", error, lambda path=".": os.fspath(path) == os.fspath(folder))
    return folder


@pytest.mark.parametrize("command", ["verify", "inspect", "status", "labels"])
def test_a_patient_whose_folder_cannot_be_listed_is_named(command, locked, demo_dir, ask):
    data_dir = ("--data-dir", demo_dir) if command == "status" else ()
    code, shown, said = ask(command, "--cache-dir", locked.parent, *data_dir)
    assert code == 1
    assert f"{locked}: cannot be listed (Permission denied)" in said
    assert "verified" not in shown
    assert "damaged" not in said
    if command != "labels":  # the others are looked at all the same
        rows = json.loads(ask(command, "--cache-dir", locked.parent, "--json", *data_dir)[1])
        found = {row["patient_id"] for row in rows} if command != "verify" else set(rows)
        assert len(found) == {"verify": 7, "inspect": 3, "status": 4}[command]


def test_training_refuses_to_leave_out_a_patient_that_cannot_be_listed(locked, demo_dir, tmp_path):
    places = {"cache_dir": locked.parent, "data_dir": tmp_path}
    with pytest.raises(UnreachableError, match="sub-20: cannot be listed"):
        summer_train.film_data(**places, bin_length=1000)
    with pytest.raises(UnreachableError, match="sub-20: cannot be listed"):
        summer_train.film_data(**places, bin_length=1000, patient_ids="14 20")
    data = summer_train.film_data(**places, bin_length=1000, patient_ids="14 29")
    assert data is not None


@pytest.mark.parametrize("name", ["zarr.json", "spike_counts/c/0/0"])
def test_a_key_that_cannot_be_read_is_neither_stale_nor_replaced(name, demo_cache, demo_dir, monkeypatch, ask):
    key = key_path(demo_cache, "20", 1000)
    before = (key / "zarr.json").stat().st_ino
    error = OSError(errno.EIO, "Input/output error", str(key / name))
    for place, function in ((Path, "open"), (os, "stat")):
        fail_at(monkeypatch, place, function, error, lambda path, *_: os.fspath(path) == os.fspath(key / name))
    with pytest.raises(UnreachableError, match="cannot be read"):
        summer_train.film_data(cache_dir=demo_cache, data_dir=demo_dir, bin_length=1000, patient_ids=20)
    code, shown, said = ask("status", "--cache-dir", demo_cache, "--data-dir", demo_dir, "--json")
    states = {row["state"] for row in json.loads(shown) if row["patient_id"] == "20" and row["bin_length_ms"] == 1000}
    assert (code, states) == (1, {"failed"})
    assert "cannot be read (Input/output error)" in said
    monkeypatch.undo()
    assert (key / "zarr.json").stat().st_ino == before


def test_a_cache_that_cannot_be_listed_is_no_empty_one_and_a_path_that_cannot_be_searched_is_refused(
    tmp_path, monkeypatch, ask
):
    fail_at(monkeypatch, os, "listdir", OSError(errno.EIO, "Input/output error"), lambda _path: True)
    code, _, said = ask("verify", "--cache-dir", tmp_path)
    assert (code, said.count("\n")) == (1, 1)
    assert f"{tmp_path}: cannot be listed (Input/output error)" in said
    fail_at(monkeypatch, os, "stat", PermissionError(errno.EACCES, "Permission denied"), lambda *_: True)
    with pytest.raises(SettingsError, match="--cache-dir .*may not be searched"):
        as_path(tmp_path / "cache", "--cache-dir")


@pytest.mark.parametrize("place", [".", "sub-14", "001616/sub-14"])
def test_a_folder_of_recordings_without_permission_is_refused(place, tmp_path, monkeypatch):
    (tmp_path / "001616" / "sub-14").mkdir(parents=True)
    (tmp_path / "sub-14").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != os.fspath(tmp_path / place))
    with pytest.raises(SettingsError, match="may not be read"):
        find_recordings(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("division by zero")])
def test_an_unexpected_error_fails_one_patient_or_one_key_and_is_named(error, demo_dir, tmp_path, monkeypatch):
    fail_at(monkeypatch, nwb, "read_recording", error, lambda path: "sub-20" in str(path))
    fail_at(monkeypatch, align, "align", error, lambda film, length: (film.recording.patient_id, length) == ("14", 200))
    options = {"data_dir": demo_dir, "cache_dir": tmp_path, "patient_ids": "8 14 20", "workers": 0}
    results = build(**options, bin_length=[200, 1000])
    assert [(one.patient_id, one.state) for one in results] == [
        ("8", "built"), ("8", "built"), ("14", "failed"), ("14", "built"), ("20", "failed"),
    ]  # fmt: skip
    for failed, named in ((results[2], "sub-14"), (results[4], "sub-20")):
        assert type(error).__name__ in failed.message
        assert named in failed.message


@pytest.mark.parametrize("command", ["status", "inspect", "verify"])
@pytest.mark.parametrize("error", [RuntimeError("odd"), UnreachableError("no network")])
def test_an_error_of_one_key_leaves_the_others(error, command, demo_dir, demo_cache, monkeypatch, ask):
    for place, name in ((caches, "checked"), (freshness, "checked"), (caches.FolderCache, "verify")):
        fail_at(monkeypatch, place, name, error, lambda _cache, *key: key[:2] == ("14", 80))
    data_dir = ("--data-dir", demo_dir) if command == "status" else ()
    code, shown, said = ask(command, "--cache-dir", demo_cache, *data_dir)
    assert code == 1
    assert ("RuntimeError: odd" if isinstance(error, RuntimeError) else "no network") in said
    assert "damaged" not in said
    assert command == "verify" or shown.count("\n") > 4


def test_status_writes_nothing_and_compares_a_touched_recording(demo_dir, tmp_path, ask):
    shutil.copytree(demo_dir / "sub-14", tmp_path / "nwb" / "sub-14")
    build(data_dir=tmp_path / "nwb", cache_dir=tmp_path / "cache", **ONE_KEY)
    (recording,) = (tmp_path / "nwb").rglob("*.nwb")
    os.utime(recording, ns=(0, 0))

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")}

    before = state()
    places = ("--data-dir", tmp_path / "nwb", "--cache-dir", tmp_path / "cache")
    code, shown, _ = ask("status", *places, "--json")
    assert (code, [row["state"] for row in json.loads(shown)]) == (0, ["fresh"])
    assert state() == before


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"[]", b'{"identity": 1}'])
def test_a_damaged_note_of_a_recording_is_as_none(content, demo_dir, demo_cache, tmp_path, ask):
    shutil.copytree(demo_cache / "sub-14", tmp_path / "sub-14")
    (tmp_path / "sub-14" / ".source.json").write_bytes(content)
    code, shown, _ = ask("status", "--data-dir", demo_dir, "--cache-dir", tmp_path, "--patient-ids", "14", "--json")
    assert (code, {row["state"] for row in json.loads(shown)}) == (0, {"fresh"})


def test_a_link_to_a_folder_that_is_not_there_is_refused(demo_dir, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(SettingsError, match="link to a folder that is not there"):
            build(data_dir=demo_dir, cache_dir=folder, **ONE_KEY)


def test_a_terminal_without_the_letters_shows_their_codes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit):
        run_program(app, "summer-prep", ["--version"])
    show("R²")
    assert stream.buffer.getvalue().endswith(rb"R\xb2" + b"\n")


def test_folders_need_no_names_in_utf8(demo_dir, tmp_path, ask):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(demo_dir / "sub-14", folder / "nwb" / "sub-14")
    places = ("--data-dir", folder / "nwb", "--cache-dir", folder / "cache")
    assert [result.state for result in build(data_dir=places[1], cache_dir=places[3], **ONE_KEY)] == ["built"]
    for command in (("status", *places), ("verify", *places[2:]), ("inspect", "14", "--bin-length=1000", *places[2:])):
        assert ask(*command)[0] == 0
    pytest.importorskip("pyarrow", reason="needs: pip install pyarrow")
    assert ask("export", "14", folder / "tables", "--bin-length=1000", *places[2:])[0] == 0


def test_fit_refuses_a_folder_that_lightning_takes_for_a_url(demo_cache, tmp_path):
    with pytest.raises(SettingsError, match="--output-dir .*::"):
        summer_train.fit(cache_dir=demo_cache, data_dir=tmp_path, output_dir=tmp_path / "a::b")
