"""A real Dask scheduler with real workers, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

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
def dask(folder, n_workers=2, **environment):
    """A scheduler and workers of one thread, as their commands start them; yields its address and both processes."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    processes = [start("scheduler", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", file)]
    try:
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        if n_workers:
            local = folder / "dask"
            processes.append(
                start(
                    "worker", address, "--nthreads", 1, "--nworkers", n_workers, "--local-directory", local,
                    **environment,
                )
            )  # fmt: skip
        yield address, processes
    finally:
        for process in reversed(processes):
            end(process)


def processes_of(server):
    """Return the ids of the processes below `dask worker` that do the work."""
    import psutil  # comes with Dask

    with suppress(psutil.Error):  # one of them ended meanwhile
        children = psutil.Process(server.pid).children(recursive=True)
        return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]
    return []
