"""A small recording, changed copies of it, and commands in this process."""

import shutil

import h5py
import pytest

from summer_prep.cli import app
from summer_prep.console import run
from summer_prep.recordings.demo import demo_data


@pytest.fixture(scope="session")
def small_recording(tmp_path_factory):
    """A recording of one minute and five units."""
    (path,) = demo_data(tmp_path_factory.mktemp("small"), patient_ids=("14",), units=5, minutes=1, layout="misc")
    return path


@pytest.fixture
def edited(small_recording, tmp_path):
    """Copies the small recording into a folder of its own, changes it, and returns its path."""

    def edit_copy(*edits):
        path = tmp_path / "data" / "sub14.nwb"
        path.parent.mkdir()
        shutil.copy(small_recording, path)
        with h5py.File(path, "r+") as file:
            for edit in edits:
                edit(file)
        return path

    return edit_copy


@pytest.fixture
def ask(capsys):
    """Runs a command of summer-prep in this process: ask("verify", ...) -> exit code, stdout, stderr."""

    def ask_for(*arguments):
        with pytest.raises(SystemExit) as end:
            run(app, "summer-prep", list(map(str, arguments)))
        return end.value.code, *capsys.readouterr()

    return ask_for
