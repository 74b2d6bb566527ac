"""A small recording, changed copies of it, and commands in this process."""

import shutil

import h5py
import numpy as np
import pytest

from summer_prep.cache.targets import add_target
from summer_prep.cli import app
from summer_prep.console import run
from summer_prep.recordings.demo import demo_data


@pytest.fixture(scope="session")
def small_recording(tmp_path_factory):
    """A recording of one minute and five units."""
    (path,) = demo_data(tmp_path_factory.mktemp("small"), patient_ids=("14",), units=5, minutes=1, layout="misc")
    return path


@pytest.fixture(scope="session")
def own_cache(demo_dir, demo_cache, tmp_path_factory):
    """Patient 14 with labels of the demo, its loudness, and an embedding of 20 columns with a gap."""
    cache, folder = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("embedding")
    (cache / "sub-14").symlink_to(demo_cache / "sub-14")
    embedding = np.tile(np.load(demo_dir / "film_features.npy"), 2)[:, :20]
    embedding[5001:5005, 3] = np.nan
    np.save(folder / "embedding.npy", embedding)
    add_target(folder / "embedding.npy", name="embedding", cache_dir=cache)
    add_target(demo_dir / "events.tsv", name="events", cache_dir=cache)
    add_target(demo_dir / "loudness.csv", name="loudness", cache_dir=cache, start_s=0, step_s=0.01)
    return cache


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
