"""Builds on a real Dask cluster: equal to builds here, whatever becomes of workers and scheduler, in one line."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from summer_prep import parallel as module
from summer_prep.cache.build import build
from summer_prep.cache.layout import key_path
from summer_prep.cache.write import verify_key
from summer_prep.errors import SettingsError
from summer_prep.parallel import dask_workers, run_tasks
from tests.clusters import dask, end
from tests.conftest import hear_interrupts
from tests.summer_prep.test_parallel import crash_if

pytest.importorskip("distributed", reason="builds on a cluster need: pip install distributed dask-jobqueue")

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
    """Each kill hits the worker whose half-written key is seen, which is at work on it."""
    cache_dir, is_over, killed = tmp_path / "cache", Event(), []

    def kill_some():
        chance = random.Random(0)
        while not is_over.is_set() and len(killed) < 3:
            for path in cache_dir.glob("sub-*/.*.staging"):
                pid = int(path.name.split(".")[-2].split("-")[1])
                if pid not in killed and chance.random() < 0.5:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(0.5)
            time.sleep(0.001)

    thread = Thread(target=kill_some)
    thread.start()
    try:
        results = build(data_dir=demo_dir, cache_dir=cache_dir, bin_length=[80, 1000], scheduler=scheduler)
    finally:
        is_over.set()
        thread.join()
    assert killed
    assert {result.state for result in results} <= {"built", "fresh"}  # fresh: published before the worker died
    assert files(cache_dir) == files(demo_cache)  # and no debris
    assert all(not verify_key(key_path(cache_dir, id_, ms)) for id_ in ("8", "14", "20", "29") for ms in (80, 1000))


def test_tasks_that_kill_every_worker_are_named_and_the_others_done(scheduler, tmp_path):
    results = {}
    tasks = {f"task{number}": (number == 2, f"task{number}") for number in range(6)}
    assert run_tasks(partial(dask_workers, scheduler, 0), crash_if, tasks, results.__setitem__) == ["task2"]
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
        run_tasks(partial(dask_workers, scheduler, 0), os.listdir, {"a": ("/nowhere",)}, lambda *_: None)


def test_a_port_where_something_else_listens_is_no_scheduler(demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"--scheduler {address}: no Dask scheduler answers there"):
            build(data_dir=demo_dir, cache_dir=tmp_path / "cache", scheduler=address)


def test_lost_scheduler_ends_the_build(demo_dir, tmp_path):
    with dask(tmp_path, n_workers=1) as (address, (server, _)):

        def end_server(n_done, _n_patients):
            if n_done == 1:
                end(server)

        with pytest.raises(SettingsError, match=f"--scheduler {address}: the connection was lost"):
            build(
                data_dir=demo_dir, cache_dir=tmp_path / "cache", bin_length=1000, scheduler=address,
                progress=end_server,
            )  # fmt: skip


def test_no_workers_end_the_build(demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 1.0)
    options = {"data_dir": demo_dir, "cache_dir": tmp_path / "cache", "bin_length": 1000}
    with (
        dask(tmp_path, n_workers=0) as (address, _),
        pytest.raises(SettingsError, match=r"no worker came within 1 s \(.*\). Start some: dask worker tcp"),
    ):
        build(**options, scheduler=address)
    monkeypatch.setattr(module, "WORKERS_TIMEOUT_S", 5.0)
    with (
        dask(tmp_path, n_workers=1) as (address, (_, workers)),
        pytest.raises(SettingsError, match="all workers are gone"),
    ):
        build(**options, scheduler=address, progress=lambda n_done, _: end(workers) if n_done == 1 else None)


def test_worker_without_this_software_or_of_another_version_is_one_line(demo_dir, tmp_path, monkeypatch):
    options = {"data_dir": demo_dir, "cache_dir": tmp_path / "cache", "bin_length": 1000}
    empty = tmp_path / "empty"
    (empty / "summer_prep").mkdir(parents=True)
    (empty / "summer_prep" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'summer_prep'\")")
    with (
        dask(tmp_path, n_workers=1, PYTHONPATH=str(empty)) as (address, _),
        pytest.raises(SettingsError, match="cannot import summer_prep"),
    ):
        build(**options, scheduler=address)
    assert not (tmp_path / "cache").exists()
    other = tmp_path / "other" / "summer_pipeline-0.0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: summer-pipeline\nVersion: 0.0.9\n")
    with (
        dask(tmp_path, n_workers=1, PYTHONPATH=f"{ROOT}:{other.parent}") as (address, _),
        pytest.raises(SettingsError, match="summer-pipeline 0.0.9, not .* Install the same version"),
    ):
        build(**options, scheduler=address)


@pytest.mark.parametrize("address", ["nonsense", "host:8786", "8786", "", "tcp://127.0.0.1:1"])
def test_wrong_address_is_one_line(address, demo_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 1)
    with pytest.raises(SettingsError, match="--scheduler"):
        build(data_dir=demo_dir, cache_dir=tmp_path / "cache", bin_length=1000, scheduler=address)
    assert not (tmp_path / "cache").exists()


def test_missing_dask_is_one_line(demo_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"pip install distributed"):
        build(data_dir=demo_dir, cache_dir=tmp_path, scheduler="local")


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


def test_ctrl_c_ends_a_local_cluster_without_its_tracebacks(demo_dir, tmp_path):
    command = [sys.executable, "-m", "summer_prep", "build", "--data-dir", demo_dir, "--cache-dir", "cache"]
    process = subprocess.Popen(
        [*command, "--scheduler", "local"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509  # it only sets a handler
    )  # fmt: skip
    while process.poll() is None and not list(tmp_path.glob("cache/sub-*/bin-*.zarr")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
