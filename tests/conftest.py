"""Recordings and caches that several tests share, built once per test process."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.recordings.demo import demo_data
from summer_prep.urls import Url
from tests.browsers import opened, started_browser
from tests.forks import Forks
from tests.s3 import CREDENTIALS, S3, Faults

# Several tests run at once, each of them with processes of its own: more threads than processors would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("suite")

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"

Run = Callable[..., subprocess.CompletedProcess[str]]


SHARED = ("work", "odd_cache", "published_data", "studied", "tuned_cache", "feature_cache")
"""Fixtures of modules that take long to prepare."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let the tests that share such a fixture run in one process, which prepares it once."""
    for item in items:
        for name in set(SHARED) & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with recordings and vectors that were not made by our code."""
    return DATA


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of patients 14, 20, 29 and 8, ten film minutes each, ten units."""
    folder = tmp_path_factory.mktemp("demo")
    demo_data(folder, patients=4, units=10, minutes=10)
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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server on the loopback; without one its tests are skipped."""
    with closing(S3(tmp_path_factory.mktemp("s3") / "log")) as server:
        yield server


@pytest.fixture
def faults(s3: S3) -> Iterator[Faults]:
    """A proxy to the server that fails when it is told to."""
    with closing(Faults(s3)) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3: S3, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Url:
    """The URL of a place in a new bucket behind the proxy, with what its clients need in the environment."""
    name = f"lab-{uuid.uuid4().hex[:8]}"
    s3.new_bucket(name)
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT", faults.endpoint)
    monkeypatch.setenv("SUMMER_LOCAL_CACHE", str(tmp_path / "local-cache"))
    return Url(f"s3://{name}/summer")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with started_browser() as started:
        yield started


@pytest.fixture
def open_page(browser: Any) -> Callable[..., Any]:
    """Opens a page in a browser; at its end nothing may have been complained about or asked of a network."""
    return partial(opened, browser)


def start(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start Python in a new process group; its output goes to pipes."""
    # A suite in the background of a shell hands down that interrupts are ignored.
    hear_interrupts = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=cwd, text=True, start_new_session=True,
        preexec_fn=hear_interrupts, **{**defaults, **options},  # noqa: PLW1509  # it only sets a handler
    )  # fmt: skip


def flip_a_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def error_line(result: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of an error with exit code 1."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
