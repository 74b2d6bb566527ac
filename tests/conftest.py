"""Recordings and caches that several tests share, built once per test process."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

from summer_prep.building import BuildConfig, build_keys
from summer_prep.demo import DemoConfig, write_demo_data
from tests.forks import Forks

settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("suite")

DATA = Path(__file__).parent / "data"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with recordings and vectors that were not made by our code."""
    return DATA


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of patients 14, 20, 29 and 8, ten film minutes each, ten units."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(DemoConfig(folder=folder, n_patients=4, n_units=10, minutes=10))
    return folder


@pytest.fixture(scope="session")
def demo_cache(demo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their keys at 80 and 1000 ms. Read-only by agreement: a test that changes keys copies it."""
    folder = tmp_path_factory.mktemp("cache")
    build_keys(BuildConfig(data_dir=demo_dir, cache_dir=folder, bin_lengths_ms=(80, 1000), n_workers=0))
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts commands in processes of their own that need not import torch."""
    with closing(Forks()) as started:
        yield started


@pytest.fixture(scope="session")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in a process of its own: run("summer_prep", "build", ..., cwd=folder)."""
    folder = tmp_path_factory.mktemp("output")

    def run_module(module: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return forks.run(folder, module, *arguments, cwd=cwd)

    return run_module


def hear_interrupts() -> None:
    """Undo, in a new process, that a suite in the background of a shell hands down that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def error_line(result: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of an error with exit code 1."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
