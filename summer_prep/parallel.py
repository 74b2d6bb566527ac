"""Run tasks side by side: in this process, in processes of this machine, or on the workers of a Dask cluster.

Each of them is a `concurrent.futures.Executor`. What is added here is what a crash, Ctrl-C or a lost cluster means.
"""

import logging
import os
import re
import signal
import sys
from asyncio import CancelledError as AsyncCancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future
from concurrent.futures import ProcessPoolExecutor as Processes
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from threading import Lock, Thread, Timer, current_thread, main_thread
from typing import Any, NamedTuple, TypeVar

from summer_prep.errors import SettingsError, load_extra

Result = TypeVar("Result")

MAIN_GUARD = (
    "In a script, call it below `if __name__ == '__main__':`, or without further processes: build with workers=0, "
    "study with workers=1"
)
"""What to do where new processes run a script once more."""

CONNECT_TIMEOUT_S = 10.0
WORKERS_TIMEOUT_S = 120.0
"""For how long a cluster may have no worker at all before a build or study gives up."""

_PACKAGE = "summer-pipeline"
_ONE_TASK_AT_A_TIME = Lock()
"""HDF5 and torch's threads belong to the process: a Dask worker with several threads runs one task at a time."""


class Pool(NamedTuple):
    """Where tasks run; a task whose process crashed ends with a BrokenExecutor.

    `check` is called when no task has ended for a while, and raises SettingsError where none will.
    """

    executor: Executor
    check: Callable[[], None] = lambda: None


Opened = AbstractContextManager[Pool | None]
"""A pool while it is entered; None runs the tasks in this process, one after the other."""


def local_pool(n_workers: int, preloaded: Sequence[str]) -> Callable[[], Opened]:
    """Return what opens a pool of processes; for 0 workers, and where the script came through a pipe, no pool.

    New processes would run that script once more, and cannot.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    is_from_stdin = getattr(main, "__spec__", None) is None and path is not None and not os.path.exists(path)
    return nullcontext if n_workers == 0 or is_from_stdin else partial(processes, n_workers, preloaded)


def run_tasks(
    opened: Callable[[], Opened],
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    on_result: Callable[[str, Result], None],
) -> list[str]:
    """Run tasks side by side; return the names of those whose process crashed although they ran alone.

    Where a crash ends the whole pool, the tasks that were lost run again, half of them at a time, until one is alone.
    `tasks` are the arguments of `work` by name; `on_result` is called with name and result of each one that is done.
    Raises SettingsError if no process can start, or the cluster was lost.
    """
    done: set[str] = set()
    names: dict[Future[Result], str] = {}
    with opened() as pool:
        if pool is None:
            for name, arguments in tasks.items():
                on_result(name, work(*arguments))
            return []
        with suppress(BrokenExecutor):  # by a task that was submitted a moment ago
            for name, arguments in tasks.items():
                names[pool.executor.submit(_run_one, work, arguments)] = name
        while names:
            ended = wait_for(names, timeout=WORKERS_TIMEOUT_S, return_when=FIRST_COMPLETED).done
            if not ended:
                pool.check()
            for future in ended:
                name = names.pop(future)
                with suppress(BrokenExecutor):
                    on_result(name, future.result())
                    done.add(name)
    lost = [name for name in tasks if name not in done]
    if len(tasks) == 1:
        return lost
    middle = (len(lost) + 1) // 2
    halves = [{name: tasks[name] for name in half} for half in (lost[:middle], lost[middle:]) if half]
    return [name for half in halves for name in run_tasks(opened, work, half, on_result)]


def _run_one(work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    with _ONE_TASK_AT_A_TIME:
        try:
            return work(*arguments)
        except SystemExit:  # the process was terminated; what the task was writing is removed by now
            os._exit(1)


@contextmanager
def processes(n_workers: int, preloaded: Sequence[str] = ()) -> Iterator[Pool]:
    """Open processes of this machine, which end when this one does; after an exception or Ctrl-C, at once.

    The preloaded modules are imported once, in the process that the workers are forked from. Raises SettingsError if no
    process can start.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    others = set(active_children())
    # The process that they are forked from may have an older environment than this one.
    executor = Processes(n_workers, mp_context=context, initializer=_begin_worker, initargs=(dict(os.environ),))
    try:
        try:
            with _interrupts_later():
                first = executor.submit(os.getpid)
            first.result()
        except (BrokenExecutor, EOFError, ConnectionError) as error:
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
    """Take over the environment, and end when the parent does, also where it was killed."""
    os.environ.clear()
    os.environ.update(environment)

    def end_again(ignored: Any) -> None:
        """End once more where the exit was raised in a finalizer or a callback, which ignore all exceptions."""
        if ignored.exc_type is SystemExit:
            Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            sys.__unraisablehook__(ignored)

    sys.unraisablehook = end_again
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back while processes start, and keep it from them: they would print tracebacks. We end them."""
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    interrupts: list[int] = []
    in_main_thread = current_thread() is main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new threads and processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


class _DaskExecutor(Executor):
    """Tasks on the workers of a Dask client; every one of them ends, with a BrokenExecutor if its workers died.

    Dask's own executor never ends a task whose last worker dies while the result is fetched from it.
    """

    def __init__(self, client: Any, killed_worker: type[Exception]) -> None:
        self._client, self._killed_worker = client, killed_worker
        self._futures: dict[Future[Any], Any] = {}  # ours -> Dask's

    def submit(self, work: Callable[..., Result], /, *arguments: Any, **_options: Any) -> Future[Result]:
        """Return a future that ends with the result, the task's own exception, BrokenExecutor or CancelledError."""
        ended: Future[Result] = Future()

        def keep(remote: Any) -> None:
            try:
                ended.set_result(remote.result())
            except (CancelledError, AsyncCancelledError):
                ended.set_exception(CancelledError())
            except Exception as error:
                is_own = remote.status == "error" and not isinstance(error, self._killed_worker)
                ended.set_exception(error if is_own else BrokenExecutor("its worker died"))
            finally:  # a result that is still held is computed again where its worker dies
                del self._futures[ended]

        self._futures[ended] = self._client.submit(work, *arguments, pure=False)
        self._futures[ended].add_done_callback(keep)
        return ended

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not ended: a result that is fetched when the client closes would be waited for for ever."""
        going_on = dict(self._futures)
        if going_on and self._client.status == "running":
            self._client.cancel([*going_on.values()], force=True)
            wait_for(going_on, timeout=CONNECT_TIMEOUT_S)


@contextmanager
def dask_workers(scheduler: str, preloaded: Sequence[str] = ()) -> Iterator[Pool]:
    """Open the workers of a Dask cluster, whose scheduler has an address like tcp://host:8786.

    The preloaded modules are imported in each of them. Raises SettingsError if there is no Dask, no scheduler, no
    worker or one of another version; or the cluster was lost.
    """
    option, advice = f"--scheduler {scheduler}", "Give the address that `dask scheduler` prints, like tcp://host:8786"
    if not re.fullmatch(r"(tcp|tls|ws|wss|ucx)://\S+:\d+", scheduler):
        raise SettingsError(f"{option}: not an address. {advice}")
    distributed = load_extra("distributed", option)
    with ExitStack() as opened:
        for name in ("distributed", "distributed.client", "tornado.application"):  # lost workers become errors of ours
            logger = logging.getLogger(name)
            opened.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        problem = "no Dask scheduler answers there"
        connected: Future[Any] = Future()

        def connect() -> None:
            try:
                connected.set_result(distributed.Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
            except Exception as error:
                connected.set_exception(error)

        Thread(target=connect, daemon=True).start()  # Dask waits without end where something else listens
        try:
            client = connected.result(2 * CONNECT_TIMEOUT_S)
            opened.callback(client.close, timeout=CONNECT_TIMEOUT_S)
            problem, advice = f"no worker came within {WORKERS_TIMEOUT_S:g} s", f"Start some: dask worker {scheduler}"
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
        except Exception as error:  # Dask's own, asyncio's, or of the system
            raise SettingsError(f"{option}: {problem} ({' '.join(repr(error).split())[:200]}). {advice}") from error
        versions = client.get_versions(packages=[_PACKAGE])
        here = versions["client"]["packages"][_PACKAGE]
        for worker, found in versions["workers"].items():
            if (there := found["packages"][_PACKAGE]) != here:
                found_there = f"has {_PACKAGE} {there}, not {here}"
                raise SettingsError(f"worker {worker}: {found_there}. Install the same version there")
        for module in ("summer_prep", *preloaded):
            for worker, found in client.run(import_module, module, on_error="return").items():
                if isinstance(found, Exception):
                    raise SettingsError(f"worker {worker}: cannot import {module} ({found}). Install {_PACKAGE} there")

        def check() -> None:
            if client.status != "running":
                raise CancelledError
            if not client.scheduler_info(n_workers=-1)["workers"]:
                kept = "What they finished is kept: start some, and repeat the command"
                raise SettingsError(f"{option}: all workers are gone. {kept}")

        try:
            with _DaskExecutor(client, distributed.KilledWorker) as executor:
                yield Pool(executor, check)
        except CancelledError as error:
            kept = "What was finished is kept: repeat the command"
            raise SettingsError(f"{option}: the connection was lost. {kept}") from error
