"""Where libraries keep their caches when there is no home folder that can be written."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from summer_prep.cache.keys import default_local_cache
from summer_prep.resources import ensure_cache_home

NAMES = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")


@pytest.fixture
def environment(monkeypatch):
    """The environment without what names folders for caches; restored after the test."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nonexistent", "relative"])
def test_a_home_that_cannot_be_written_is_replaced_for_caches(home, environment):
    environment.setenv("HOME", home)
    ensure_cache_home()
    folder = Path(os.environ["XDG_CACHE_HOME"])
    (folder / "pynwb").mkdir()
    assert os.environ["MPLCONFIGDIR"] == str(folder)
    assert Path.home().is_absolute()
    assert default_local_cache().parent.parent == Path(tempfile.gettempdir())  # not a folder that goes with the process
    environment.setenv("SUMMER_LOCAL_CACHE", "named")
    assert default_local_cache() == Path("named")


def test_a_home_that_can_be_written_is_left_alone(environment, tmp_path):
    environment.setenv("HOME", str(tmp_path))
    ensure_cache_home()
    assert (os.environ["HOME"], *map(os.environ.get, NAMES[1:])) == (str(tmp_path), None, None)


def test_pynwb_is_imported_without_a_home_and_nothing_is_left_behind(tmp_path):
    code = "import summer_prep, pynwb, tempfile, os; assert os.listdir(tempfile.gettempdir())"
    environment = {**os.environ, "HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
