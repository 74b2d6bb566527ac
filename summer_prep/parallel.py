"""Tasks side by side: in this process, in processes of this machine, or on the workers of a Dask cluster.

Each of the three is an `Executor` of its own makers; here is only what a crash, Ctrl-C or a lost cluster mean.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from concurrent.futures import ProcessPoolExecutor as Processes
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from threading import Lock, Thread, current_thread, main_thread
from typing import Any, NamedTuple, TypeVar

from summer_prep import __version__
from summer_prep.cache.layout import SCHEMA_VERSION
from summer_prep.errors import SettingsError
from summer_prep.film.facts import ALGORITHM_VERSION
from summer_prep.optional import load_extra

Result = TypeVar("Result")

LOCAL = "local"
"""Instead of a scheduler's address: a Dask cluster of processes on this machine."""

MAIN_GUARD = (
    "In a script, call it below `if __name__ == '__main__':`, or without further processes: build with workers=0, "
    "study with workers=1"
)
"""What to do where new processes run a script once more."""

CONNECT_TIMEOUT_S = 10.0
WORKERS_TIMEOUT_S = 120.0
"""For how long a cluster may have no worker at all before a build or study gives up."""

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+:\d+")
_VERSIONS = f"{__version__} (schema {SCHEMA_VERSION}, algorithm {ALGORITHM_VERSION})"
_ONE_TASK_AT_A_TIME = Lock()
"""HDF5 and torch's threads belong to the process: a Dask worker of several threads works like one of one."""


class Pool(NamedTuple):
    """Where tasks run.

    lost : the exception of a task whose process crashed
    check : raises SettingsError where no task will end any more; asked now and then
    """

    executor: Executor
    lost: type[Exception] = BrokenExecutor
    check: Callable[[], None] = lambda: None


Opened = AbstractContextManager[Pool | None]
"""A pool as long as it is entered; None runs tasks one after the other in this process, which a crash takes along."""


def this_process() -> Opened:
    """Return the pool of this process alone."""
    return nullcontext()


def local_pool(n_workers: int, preloaded: Sequence[str]) -> Callable[[], Opened]:
    """Return what opens a pool of processes, or of this process alone: for 0, and for a script from standard input.

    New processes run the script of their parent once more, which they cannot where it came through a pipe.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    is_from_stdin = getattr(main, "__spec__", None) is None and path is not None and not os.path.exists(path)
    return this_process if n_workers == 0 or is_from_stdin else partial(processes, n_workers, preloaded)


def run_tasks(
    opened: Callable[[], Opened],
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    on_result: Callable[[str, Result], None],
) -> list[str]:
    """Run tasks side by side; return the names of those whose process crashed twice.

    A crash takes its neighbours along, so the tasks that were lost run again by halves, until one is lost alone.

    Parameters
    ----------
    opened : opens a pool
    tasks : name -> arguments of `work`
    on_result : called with name and result of each task that is done

    Raises
    ------
    SettingsError : no process can start, or the cluster was lost
    """
    lost = _run_all(opened, work, tasks, on_result)
    if len(tasks) == 1:
        return lost
    middle = (len(lost) + 1) // 2
    halves = [{name: tasks[name] for name in half} for half in (lost[:middle], lost[middle:]) if half]
    return [name for half in halves for name in run_tasks(opened, work, half, on_result)]


def _run_all(
    opened: Callable[[], Opened],
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    on_result: Callable[[str, Result], None],
) -> list[str]:
    lost: list[str] = []
    with opened() as pool:
        if pool is None:
            for name, arguments in tasks.items():
                on_result(name, work(*arguments))
            return lost
        names: dict[Future[Result], str] = {}
        for name, arguments in tasks.items():
            try:
                names[pool.executor.submit(_run_one, _VERSIONS, work, arguments)] = name
            except pool.lost:  # by a task that was submitted a moment ago
                lost.append(name)
        waiting = set(names)
        while waiting:
            done, waiting = wait(waiting, timeout=WORKERS_TIMEOUT_S, return_when=FIRST_COMPLETED)
            if not done:
                pool.check()
            for future in done:
                try:
                    on_result(names[future], future.result())
                except pool.lost:
                    lost.append(names[future])
    return lost


def _run_one(versions: str, work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    if versions != _VERSIONS:
        raise SettingsError(
            f"a Dask worker has summer-pipeline {_VERSIONS}, this is {versions}. Install the same version there"
        )
    with _ONE_TASK_AT_A_TIME:
        try:
            return work(*arguments)
        except SystemExit:  # terminated; what it was writing is cleared by now
            os._exit(1)


@contextmanager
def processes(n_workers: int, preloaded: Sequence[str] = ()) -> Iterator[Pool]:
    """Open processes of this machine, which end when this one does; after an exception or Ctrl-C, at once.

    Parameters
    ----------
    preloaded : modules that every worker needs: loaded once, in the process that they are forked from

    Raises
    ------
    SettingsError : no process can start
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    others = set(active_children())
    # The process that they are forked from may be older than what this one's environment says now.
    executor = Processes(n_workers, mp_context=context, initializer=_begin_worker, initargs=(dict(os.environ),))
    try:
        try:
            with _interrupts_later():
                first = executor.submit(os.getpid)
            first.result()
        except (BrokenExecutor, EOFError, ConnectionError) as error:  # the last two: killed as it started
            raise SettingsError(f"no worker process can start. {MAIN_GUARD}") from error
        yield Pool(executor)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        executor.shutdown()


def _begin_worker(environment: Mapping[str, str]) -> None:
    """Take over the environment, and let this worker end when its parent does: killed, that cannot tell it."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: half-started they print tracebacks; those started here never get it."""
    interrupts: list[int] = []
    in_main_thread = current_thread() is main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Ignore Ctrl-C while Dask starts processes, which inherit that: they would print tracebacks. We end them."""
    if current_thread() is not main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def dask_workers(scheduler: str, n_workers: int, preloaded: Sequence[str] = ()) -> Iterator[Pool]:
    """Open the workers of a Dask cluster.

    Parameters
    ----------
    scheduler : address like tcp://host:8786, or "local" for `n_workers` processes of this machine
    preloaded : modules that every worker needs

    Raises
    ------
    SettingsError : no Dask, no scheduler, no worker; or the cluster was lost
    """
    option = f"--scheduler {scheduler}"
    if scheduler != LOCAL and not _ADDRESS.fullmatch(scheduler):
        raise SettingsError(f"{option}: give an address like tcp://host:8786, or local")
    distributed = load_extra("distributed", option)
    with _quiet_logs(), _connected(distributed, scheduler, n_workers) as client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
        except Exception as error:  # Dask's own or asyncio's time-out
            raise SettingsError(
                f"{option}: no worker came within {WORKERS_TIMEOUT_S:g} s. Start some: dask worker {scheduler}"
            ) from error
        # A function of the standard library: a worker without our package dies of one of ours.
        for module in ("summer_prep", *preloaded):
            for worker, found in client.run(import_module, module, on_error="return").items():
                if isinstance(found, Exception):
                    raise SettingsError(
                        f"worker {worker}: cannot import {module} ({found}). "
                        f"Install summer-pipeline {__version__} there"
                    )

        def check() -> None:
            if client.status != "running":
                raise CancelledError
            if not client.scheduler_info(n_workers=-1)["workers"]:
                raise SettingsError(
                    f"{option}: all workers are gone. What they finished is kept: start some, and repeat the command"
                )

        executor = _DaskExecutor(client)
        try:
            yield Pool(executor, distributed.KilledWorker, check)
        except (CancelledError, distributed.client.FutureCancelledError) as error:
            raise SettingsError(
                f"{option}: the connection was lost. What was finished is kept: repeat the command"
            ) from error
        finally:
            executor.shutdown()


class _DaskExecutor(Executor):
    """As the client's own `get_executor`, which takes a result for an error if its worker died with it."""

    def __init__(self, client: Any) -> None:
        self.client, self.tasks = client, set[Any]()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        future: Future[Result] = Future()
        task = self.client.submit(fn, *args, **kwargs, pure=False)

        def settle(task: Any) -> None:
            try:
                future.set_result(task.result())
            except BaseException as error:
                future.set_exception(error)
            self.tasks.discard(task)

        self.tasks.add(task)
        task.add_done_callback(settle)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with suppress(Exception):  # where the scheduler is lost, nothing is left to cancel
            self.client.cancel(list(self.tasks), force=True)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep Dask from logging lost workers and connections, which become errors of ours."""
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
    if scheduler != LOCAL:
        with _client(distributed, scheduler) as client:
            yield client
        return
    try:
        with _deaf_children():
            cluster = distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # None would take the usual port, and complain where it is taken
                silence_logs=logging.CRITICAL,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(f"--scheduler local: no worker process can start ({error}). {MAIN_GUARD}") from error
    with cluster, _client(distributed, cluster) as client:
        yield client


@contextmanager
def _client(distributed: Any, where: Any) -> Iterator[Any]:
    """Connect within a time; by itself, Dask waits for ever where something else listens."""
    found: list[Any] = []

    def connect() -> None:
        try:
            found.append(distributed.Client(where, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
        except Exception as error:
            found.append(error)

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S + 5)
    client = found[0] if found else OSError("no answer")
    if isinstance(client, Exception):
        raise SettingsError(
            f"--scheduler {where}: no Dask scheduler answers there ({client}). Give the address that "
            "`dask scheduler` prints, like tcp://host:8786, or local"
        ) from client
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_TIMEOUT_S)
