"""Tasks on the workers of a Dask cluster: one that dies is replaced, one that cannot do the work is told in a line.

Whoever needs no cluster needs no Dask: it is loaded here alone.
"""

import logging
import os
import platform
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread, main_thread
from typing import Any, TypeVar

from summer_prep import __version__
from summer_prep.errors import SettingsError
from summer_prep.extras import load_extra
from summer_prep.key import ALGORITHM_VERSION, SCHEMA_VERSION
from summer_prep.workers import MAIN_GUARD, Engine

Result = TypeVar("Result")

LOCAL = "local"
"""Instead of a scheduler's address: a cluster of processes on this machine."""

CONNECT_TIMEOUT_S = 10
RESULT_TIMEOUT_S = 600
"""A result that its worker took along is computed once more."""
WORKERS_TIMEOUT_S = 120.0
"""For how long there may be no worker at all before a build or study gives up."""

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+:\d+")
_VERSIONS = f"{__version__} (schema {SCHEMA_VERSION}, algorithm {ALGORITHM_VERSION})"
_ONE_TASK_AT_A_TIME = Lock()
"""HDF5 and torch's threads are the process's: a worker of several threads works like one of one."""


@contextmanager
def cluster(
    scheduler: str, n_workers: int, read: Sequence[Path], written: Sequence[Path], needed: str
) -> Iterator[Engine]:
    """Connect to a scheduler, or start one here; yield what runs tasks on its workers.

    Parameters
    ----------
    scheduler : address like tcp://host:8786, or "local"
    n_workers : of a local cluster
    read, written : files or folders that every worker must see as this process does, and folders it must write to
    needed : the module of the work, which every worker must be able to import

    Raises
    ------
    SettingsError : no Dask, no scheduler, no worker, or one that cannot do the work
    """
    if scheduler != LOCAL and not _ADDRESS.fullmatch(scheduler):
        raise SettingsError(f"--scheduler {scheduler}: give an address like tcp://host:8786, or local")
    distributed = load_extra("distributed", f"--scheduler {scheduler}")
    with _quiet_logs(), _connected(distributed, scheduler, n_workers) as client:
        _await_workers(client, scheduler)
        _check_workers(client, needed, read, written)
        yield partial(_run_tasks, client, scheduler)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep Dask from telling what matters of a lost worker, which we say ourselves."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _connected(distributed: Any, scheduler: str, n_workers: int) -> Iterator[Any]:
    here = None
    try:
        if scheduler == LOCAL:
            with _deaf_children():
                here = distributed.LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",  # None would take the usual port, and complain where it is taken
                    silence_logs=logging.CRITICAL,
                )
        client = _client(distributed, here or scheduler)
    except BaseException as error:
        if here is not None:
            here.close(timeout=CONNECT_TIMEOUT_S)
        if not isinstance(error, OSError | ValueError | RuntimeError | TypeError):
            raise
        if scheduler == LOCAL:
            raise SettingsError(f"--scheduler local: no worker process can start ({error}). {MAIN_GUARD}") from error
        raise SettingsError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}). Give the address that "
            "`dask scheduler` prints, like tcp://host:8786, or local"
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # a lost scheduler cannot be taken leave of
            client.close(timeout=CONNECT_TIMEOUT_S)
        if here is not None:
            with suppress(Exception):
                here.close(timeout=CONNECT_TIMEOUT_S)


def _client(distributed: Any, where: Any) -> Any:
    """Connect within a time; by itself, Dask waits for ever where something else listens."""
    found: SimpleQueue[Any] = SimpleQueue()

    def connect() -> None:
        try:
            found.put(distributed.Client(where, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
        except Exception as error:
            found.put(error)

    Thread(target=connect, daemon=True).start()
    try:
        client = found.get(timeout=CONNECT_TIMEOUT_S + 5)
    except Empty:
        raise OSError(f"what listens there has not answered like one for {CONNECT_TIMEOUT_S + 5} s") from None
    if isinstance(client, Exception):
        raise client
    return client


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes that never hear of Ctrl-C, which they would tell of at length: this one ends them.

    For as long as that takes, some seconds, this process does not hear of it either: what is ignored is inherited.
    """
    if current_thread() is not main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _await_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
    except Exception as error:  # Dask's own or asyncio's time-out
        raise SettingsError(
            f"--scheduler {scheduler}: no worker came within {WORKERS_TIMEOUT_S:g} s. "
            f"Start some: dask worker {scheduler}"
        ) from error


def _check_workers(client: Any, needed: str, read: Sequence[Path], written: Sequence[Path]) -> None:
    """Refuse workers that lack this software or see other files; before the work, not in the middle of it."""
    marks = [folder / f".seen-{uuid.uuid4().hex}" for folder in written]
    sizes = {str(path.absolute()): _size(path) for path in read}
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        # A function of the standard library, which a worker without our package has, too.
        for module in (__name__, needed):
            for worker, found in client.run(import_module, module, on_error="return").items():
                if isinstance(found, Exception):
                    raise SettingsError(
                        f"worker {worker}: cannot import {module.split('.')[0]} ({found}). Install the same version of "
                        f"summer-pipeline there, {__version__}"
                    )
        places = [str(mark.absolute()) for mark in marks]
        for worker, problem in client.run(_problem_of_worker, _VERSIONS, sizes, places).items():
            if problem:
                raise SettingsError(f"worker {worker}: {problem}")
    except OSError as error:
        raise SettingsError(f"--scheduler: the workers cannot be asked what they see ({error})") from error
    finally:
        for mark in marks:
            with suppress(OSError):
                mark.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _problem_of_worker(versions: str, sizes: Mapping[str, int], marks: Sequence[str]) -> str:
    """Return why this process, a worker, cannot do the work; empty if it can."""
    where = f"on {platform.node()}"
    if versions != _VERSIONS:
        return f"has summer-pipeline {_VERSIONS}, this is {versions}. Install the same version {where}"
    for path, size in sizes.items():
        if not os.path.exists(path) or (size >= 0 and os.path.getsize(path) != size):
            return f"does not see {path} {where}, or another file there. Use a folder that all machines share"
    for mark in marks:
        folder = os.path.dirname(mark)
        if not os.path.exists(mark):
            return f"does not see this {folder} {where}. Use a folder that all machines share"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"may not write to {folder} {where}. Change its permissions"
    return ""


def _run_tasks(
    client: Any,
    scheduler: str,
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    take: Callable[[str, Result], None],
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run tasks on the workers; return the names of those that outlived no worker."""
    killed_worker = import_module("distributed").KilledWorker
    done: SimpleQueue[Any] = SimpleQueue()
    run = uuid.uuid4().hex
    futures = {
        client.submit(_as_task, _VERSIONS, work, arguments, key=f"{work.__name__}-{name}-{run}", pure=False): name
        for name, arguments in tasks.items()
    }
    waiting, lost = set(futures), list[str]()
    for future in futures:
        future.add_done_callback(done.put)
    try:
        while waiting:
            future = _next(done, client, scheduler)
            if future.status in ("pending", "lost"):  # its worker died with the result, and it is done once more
                future.add_done_callback(done.put)
                continue
            try:
                take(futures[future], _result_of(future, scheduler))
            except killed_worker:
                lost.append(futures[future])
            waiting.remove(future)
            future.release()
    except BaseException:
        stop()
        with suppress(Exception):
            client.cancel(list(futures), force=True)
        raise
    return lost


def _result_of(future: Any, scheduler: str) -> Any:
    """Return the result of a task that is done, or raise what became of it: its own error, if it failed of one."""
    has_failed = future.status == "error"
    try:
        return future.result(timeout=RESULT_TIMEOUT_S)
    except (CancelledError, TimeoutError, OSError) as error:
        if has_failed:
            raise SettingsError(f"a task failed on a worker ({type(error).__name__}: {error})") from error
        raise _lost_scheduler(scheduler) from error
    except ImportError as error:
        raise SettingsError(
            f"a worker that came later cannot import what it needs ({error}). "
            f"Install summer-pipeline {__version__} there"
        ) from error


def _next(done: "SimpleQueue[Any]", client: Any, scheduler: str) -> Any:
    """Return the next future that is done; what will never be done is an error, not a wait."""
    last_seen = time.monotonic()
    while True:
        try:
            return done.get(timeout=1)
        except Empty:
            if client.status != "running":
                raise _lost_scheduler(scheduler) from None
            if client.scheduler_info(n_workers=-1)["workers"]:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > WORKERS_TIMEOUT_S:
                raise SettingsError(
                    f"--scheduler {scheduler}: all workers are gone, for {WORKERS_TIMEOUT_S:g} s now. "
                    "What they finished is kept: start some, and repeat the command"
                ) from None


def _lost_scheduler(scheduler: str) -> SettingsError:
    return SettingsError(
        f"--scheduler {scheduler}: the connection was lost. What was finished is kept: repeat the command"
    )


def _as_task(versions: str, work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """Run a task on a worker, which may have come after the others were asked what they are."""
    if problem := _problem_of_worker(versions, {}, ()):
        raise SettingsError(f"a worker that came later {problem}")
    with _ONE_TASK_AT_A_TIME:
        return work(*arguments)
