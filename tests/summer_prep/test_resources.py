"""What a process may use: memory, processors, and a folder for caches where no home folder can be written."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from summer_prep import resources as machine
from summer_prep.cache.keys import default_local_cache

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
    machine.ensure_cache_home()
    folder = Path(os.environ["XDG_CACHE_HOME"])
    (folder / "pynwb").mkdir()
    assert os.environ["MPLCONFIGDIR"] == str(folder)
    assert Path.home().is_absolute()
    assert default_local_cache().parent.parent == Path(tempfile.gettempdir())  # not a folder that goes with the process
    environment.setenv("SUMMER_LOCAL_CACHE", "named")
    assert default_local_cache() == Path("named")


def test_a_home_that_can_be_written_is_left_alone(environment, tmp_path):
    environment.setenv("HOME", str(tmp_path))
    machine.ensure_cache_home()
    assert (os.environ["HOME"], *map(os.environ.get, NAMES[1:])) == (str(tmp_path), None, None)


def test_pynwb_is_imported_without_a_home_and_nothing_is_left_behind(tmp_path):
    code = "import summer_prep, pynwb, tempfile, os; assert os.listdir(tempfile.gettempdir())"
    environment = {**os.environ, "HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_control_groups_of_the_process_leave(version, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    groups = {name: (tmp_path / name, *names) for name, (_, *names) in machine._GROUPS.items()}
    monkeypatch.setattr(machine, "_GROUPS", groups)
    controller = "memory" if version == 1 else ""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"9:cpu:/else\n4:{controller}:/slurm/job_7\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 3 kB\n")
    root, limit, in_use, inactive = groups[controller]
    assert machine.available_bytes() == 3 * 1024  # of the system: there is no group
    for path, limit_bytes in (("", "9e15"), ("slurm", "max"), ("slurm/job_7", "1000")):
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / limit).write_text(limit_bytes)
        (root / path / in_use).write_text("700")
        (root / path / "memory.stat").write_text(f"anon 3\n{inactive} 200\n")
    assert machine.available_bytes() == 1000 - 700 + 200
    (root / "slurm" / limit).write_text("600")  # of all jobs together
    assert machine.available_bytes() == 600 - 700 + 200


@pytest.mark.parametrize(
    ("allowed", "quotas", "usable"),
    [
        (128, ("max 100000", "max 100000"), 128),
        (1, ("max 100000", "max 100000"), 1),  # a cpuset, or taskset
        (128, ("250000 100000", "max 100000"), 3),
        (128, ("max 100000", "400000 100000"), 4),  # of all jobs together
        (2, ("50000 100000", "nonsense"), 1),
    ],
)
def test_processors_are_those_that_the_process_may_use(allowed, quotas, usable, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: set(range(allowed)))
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_GROUPS", {"": (tmp_path, *machine._GROUPS[""][1:])})
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    for path, quota in zip(("slurm/job_7", "slurm"), quotas, strict=True):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "cpu.max").write_text(f"{quota}\n")
    assert machine.usable_processors() == usable
