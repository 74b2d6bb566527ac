"""A real Dask scheduler with real workers, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

from summer_prep.cache.build import build

ROOT = Path(__file__).parents[1]


def start(program, *options, **environment):
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *map(str, options), "--no-dashboard"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_LOGGING__DISTRIBUTED": "critical", **environment}
    return subprocess.Popen(
        command,
        env=variables,
        cwd=environment.get("PYTHONPATH", str(ROOT)).split(":")[0],  # `python -m` looks there first
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def workers(address, folder, n_workers, **environment):
    """Workers of one thread, as their command starts them; yields its process."""
    options = "--nthreads", 1, "--nworkers", n_workers, "--local-directory", folder / "dask"
    process = start("worker", address, *options, **environment)
    try:
        yield process
    finally:
        end(process)


@contextmanager
def dask(folder, n_workers=2, **environment):
    """A scheduler and workers; yields its address and both processes."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    scheduler = start("scheduler", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", file)
    try:
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with workers(address, folder, n_workers, **environment) if n_workers else nullcontext() as process:
            yield address, [scheduler, process]
    finally:
        end(scheduler)


def processes_of(server):
    """Return the ids of the processes below `dask worker` that do the work."""
    import psutil  # comes with Dask

    with suppress(psutil.Error):  # one of them ended meanwhile
        children = psutil.Process(server.pid).children(recursive=True)
        return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]
    return []


def build_under_kills(chance, n_kills, **options):
    """Build, and kill workers whose half-written key is seen, which are at work on it; return results and kills."""
    is_over, killed = Event(), []

    def kill_some():
        while not is_over.is_set() and len(killed) < n_kills:
            for path in options["cache_dir"].glob("sub-*/.*.staging"):
                pid = int(path.name.split(".")[-2].split("-")[1])
                if pid not in killed and chance.random() < 0.5:
                    killed.append(pid)
                    with suppress(ProcessLookupError):  # debris of an earlier kill
                        os.kill(pid, signal.SIGKILL)
                    time.sleep(0.5)
            time.sleep(0.001)

    thread = Thread(target=kill_some)
    thread.start()
    try:
        return build(**options), len(killed)
    finally:
        is_over.set()
        thread.join()
