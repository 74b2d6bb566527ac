"""Builds on a real Dask cluster: equal to builds here, whatever becomes of workers and scheduler, in one line."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from asyncio import CancelledError as AsyncCancelledError
from concurrent.futures import BrokenExecutor, CancelledError
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from summer_prep import parallel as module
from summer_prep.cache.build import build
from summer_prep.cache.layout import key_path
from summer_prep.cache.write import verify_key
from summer_prep.errors import SettingsError
from summer_prep.parallel import dask_workers, run_tasks
from tests.clusters import build_under_kills, dask, end, workers
from tests.conftest import start
from tests.summer_prep.test_parallel import crash_if

distributed = pytest.importorskip("distributed", reason="needs: pip install distributed dask-jobqueue")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("cluster")  # its processes are enough for two cores


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    with dask(tmp_path_factory.mktemp("dask")) as (address, _):
        yield address


def files(cache_dir):
    """The bytes of all files but the notes on when recordings were read."""
    return {
        path.relative_to(cache_dir).as_posix(): path.read_bytes()
        for path in cache_dir.rglob("*")
        if path.is_file() and path.name != ".source.json"
    }


def test_keys_equal_those_of_processes_here(scheduler, demo_dir, demo_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers are elsewhere
    told = []
    results = build(
        data_dir=os.path.relpath(demo_dir), cache_dir="cache", bin_length=[80, 1000], scheduler=scheduler,
        progress=lambda *numbers: told.append(numbers),
    )  # fmt: skip
    assert [result.state for result in results] == ["built"] * 8
    assert [result.patient_id for result in results[::2]] == ["8", "14", "20", "29"]
    assert files(tmp_path / "cache") == files(demo_cache)
    assert told == [(done, 4) for done in range(5)]
    again = build(data_dir=demo_dir, cache_dir=tmp_path / "cache", bin_length=[80, 1000], scheduler=scheduler)
    assert [result.state for result in again] == ["fresh"] * 8


def test_workers_killed_in_the_middle_of_keys_lose_nothing(scheduler, demo_dir, demo_cache, tmp_path):
    options = {"data_dir": demo_dir, "cache_dir": tmp_path, "bin_length": [80, 1000], "scheduler": scheduler}
    results, n_killed = build_under_kills(random.Random(0), 3, **options)
    assert n_killed
    assert {result.state for result in results} <= {"built", "fresh"}  # fresh: published before the worker died
    assert files(tmp_path) == files(demo_cache)  # and no debris
    assert all(not verify_key(key_path(tmp_path, id_, ms)) for id_ in ("8", "14", "20", "29") for ms in (80, 1000))


def test_tasks_that_kill_every_worker_are_named_and_the_others_done(scheduler, tmp_path):
    results = {}
    tasks = {f"task{number}": (number == 2, f"task{number}") for number in range(6)}
    assert run_tasks(partial(dask_workers, scheduler), crash_if, tasks, results.__setitem__) == ["task2"]
    assert sorted(results) == [f"task{number}" for number in (0, 1, 3, 4, 5)]


def test_recording_that_kills_its_workers_fails_alone(demo_dir, tmp_path):
    (crasher,) = demo_dir.rglob("*sub-20*.nwb")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        f"    if event == 'open' and str(arguments[0]) == {str(crasher)!r}: os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(hook)\n"
    )
    with dask(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}") as (address, _):
        results = build(data_dir=demo_dir, cache_dir=tmp_path / "cache", bin_length=1000, scheduler=address)
    states = {result.patient_id: result.state for result in results}
    assert states.pop("20") == "failed"
    assert set(states) == {"8", "14", "29"}
    assert set(states.values()) <= {"built", "fresh"}  # fresh: its worker was killed after it was published
    (failed,) = [result for result in results if result.state == "failed"]
    assert failed.message.startswith(f"{crasher}: the process that read it crashed or was killed")


def test_an_error_of_a_task_is_its_own(scheduler):
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        run_tasks(partial(dask_workers, scheduler), os.listdir, {"a": ("/nowhere",)}, lambda *_: None)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("finished", None, None),
        ("error", ValueError("own"), ValueError),
        ("error", distributed.KilledWorker("task", None, 3), BrokenExecutor),
        ("error", TypeError("no traceback"), TypeError),
        ("lost", TypeError("cannot unpack"), BrokenExecutor),
        ("finished", AttributeError("None has no with_traceback"), BrokenExecutor),
        ("finished", OSError("connection closed while it was fetched"), BrokenExecutor),
        ("cancelled", AsyncCancelledError(), CancelledError),
    ],
)
def test_every_end_of_a_task_ends_its_future(status, error, expected):
    remote = Mock(status=status)
    remote.result.side_effect = error
    remote.add_done_callback.side_effect = lambda keep: keep(remote)
    future = module._DaskExecutor(Mock(submit=Mock(return_value=remote)), distributed.KilledWorker).submit(len, "abc")
    assert future.done()
    if expected is None:
        assert future.result() is remote.result.return_value
    else:
        with pytest.raises(expected):
            future.result()


def wait_until_gone(address):
    """Wait until the scheduler knows that its workers were killed: a new one is checked when it is asked for."""
    with distributed.Client(address, set_as_default=False) as client:
        while client.scheduler_info(n_workers=-1)["workers"]:
            time.sleep(0.02)


def test_missing_unfit_and_lost_workers_and_a_lost_scheduler_are_one_line(demo_dir, tmp_path, monkeypatch):
    empty, other = tmp_path / "empty", tmp_path / "other"
    (empty / "summer_prep").mkdir(parents=True)
    (empty / "summer_prep" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'summer_prep'\")")
    (other / "summer_pipeline-0.0.9.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: summer-pipeline\nVersion: 0.0.9\n"
    (other / "summer_pipeline-0.0.9.dist-info" / "METADATA").write_text(metadata)

    def message(address, progress=lambda *_: None):
        options = {"data_dir": demo_dir, "cache_dir": tmp_path / "cache", "bin_length": 1000}
        with pytest.raises(SettingsError) as caught:
            build(**options, scheduler=address, progress=progress)
        return str(caught.value)

    def end_after_one(process):
        def progress(n_done, _n_patients):
            if n_done == 1:
                end(process)
                monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 1.0)

        return progress

    with dask(tmp_path, n_workers=0) as (address, processes):
        monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 0.5)
        assert "no worker came within 0.5 s" in message(address)
        monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 20.0)
        with workers(address, tmp_path, 1, PYTHONPATH=str(empty)):
            assert "cannot import summer_prep" in message(address)
        assert not (tmp_path / "cache").exists()
        wait_until_gone(address)
        with workers(address, tmp_path, 1, PYTHONPATH=f"{other}:{ROOT}"):
            assert "summer-pipeline 0.0.9, not " in (found := message(address))
            assert "Install the same version" in found
        wait_until_gone(address)
        with workers(address, tmp_path, 1) as process:
            assert "all workers are gone" in message(address, end_after_one(process))
        monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 20.0)
        with workers(address, tmp_path, 1):
            shutil.rmtree(tmp_path / "cache")
            lost = message(address, end_after_one(processes[0]))
            assert lost.startswith(f"--scheduler {address}: the connection was lost")


@pytest.mark.parametrize("address", ["nonsense", "local", "8786", "", "tcp://127.0.0.1:1", "a port in use", None])
def test_wrong_address_and_missing_dask_are_one_line(address, demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        message = "--scheduler"
        if address is None:
            monkeypatch.setitem(sys.modules, "distributed", None)
            address, message = "tcp://host:8786", "pip install distributed"
        elif address == "a port in use":
            address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
            message = f"--scheduler {address}: no Dask scheduler answers there"
        with pytest.raises(SettingsError, match=message):
            build(data_dir=demo_dir, cache_dir=tmp_path / "cache", bin_length=1000, scheduler=address)
    assert not (tmp_path / "cache").exists()


def test_example_for_slurm_submits_workers_of_one_core(tmp_path):
    """No Slurm was run: this looks at the script that its `sbatch` would be given."""
    pytest.importorskip("dask_jobqueue")
    example = ROOT / "docs" / "examples" / "slurm_cluster.py"
    result = subprocess.run(
        [sys.executable, example, "--show-job"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert {"#SBATCH --cpus-per-task=1", "#SBATCH --mem=4G", "#SBATCH -t 01:00:00"} <= set(lines)
    assert "source .venv/bin/activate" in lines
    (worker,) = [line for line in lines if "distributed.cli.dask_worker" in line]
    assert "--nthreads 1" in worker


def test_ctrl_c_ends_a_build_on_a_cluster_without_its_tracebacks(scheduler, demo_dir, tmp_path):
    options = ("--data-dir", demo_dir, "--cache-dir", "cache", "--scheduler", scheduler)
    process = start("-m", "summer_prep", "build", *options, cwd=tmp_path)
    while process.poll() is None and not list(tmp_path.glob("cache/sub-*/bin-*.zarr")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
