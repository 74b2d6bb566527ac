"""Tasks side by side, each for itself: in processes here or on a cluster; one that crashes is told, never waited for.

A process that is orphaned ends.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread, current_thread, main_thread
from typing import Any, Protocol, TypeVar

from summer_prep.errors import SettingsError

Result = TypeVar("Result")

MAIN_GUARD = (
    "In a script, call it below `if __name__ == '__main__':`, or without further processes: build with workers=0, "
    "study with workers=1"
)
"""What to do where new processes run a script once more."""


class Engine(Protocol):
    """Runs tasks side by side, as `run_in_workers` does in processes and `summer_prep.cluster` on other machines."""

    def __call__(
        self,
        work: Callable[..., Result],
        tasks: Mapping[str, tuple[Any, ...]],
        take: Callable[[str, Result], None],
        stop: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Run tasks; return the names of those that a crash, their own or another's, ended."""


def run_tasks(
    engine: Engine,
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    take: Callable[[str, Result], None],
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run tasks; return the names of those that crash whatever runs them.

    A crash takes its neighbours along: each of them alone shows whose fault it was.

    Parameters
    ----------
    tasks : name -> arguments of `work`
    take : called with name and result of each task that is done
    stop : called where the tasks at hand are of no use any more, to end them
    """
    lost = engine(work, tasks, take, stop)
    return [name for name in lost if engine(work, {name: tasks[name]}, take, stop)]


def run_here(
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    take: Callable[[str, Result], None],
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run tasks one after the other in this process, which a crash takes along."""
    for name, arguments in tasks.items():
        take(name, work(*arguments))
    return []


def run_in_workers(
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    take: Callable[[str, Result], None],
    stop: Callable[[], None] = lambda: None,
    *,
    n_workers: int,
    preloaded: Sequence[str] = (),
) -> list[str]:
    """Run tasks in processes of their own; return the names of those that a crash, their own or another's, ended.

    Parameters
    ----------
    tasks : name -> arguments of `work`
    take, stop : as for `run_tasks`
    preloaded : modules that every worker needs: loaded once, in the process that they are forked from

    Raises
    ------
    SettingsError : no process can start
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    crashed = []
    with ProcessPoolExecutor(min(n_workers, len(tasks)), mp_context=context, initializer=_end_with_parent) as executor:
        try:
            _start_workers(executor)
            futures = {}
            for name, arguments in tasks.items():
                try:
                    futures[executor.submit(work, *arguments)] = name
                except BrokenProcessPool:  # by a task that was submitted a moment ago
                    crashed.append(name)
            for future in as_completed(futures):
                try:
                    take(futures[future], future.result())
                except BrokenProcessPool:
                    crashed.append(futures[future])
        except BaseException:
            stop()
            executor.shutdown(cancel_futures=True)  # Ctrl-C: the tasks at hand are finished, no more are begun
            raise
    return crashed


def _start_workers(executor: ProcessPoolExecutor) -> None:
    """Start the processes that all workers come from, deaf to Ctrl-C, which goes to them as well as to us."""
    try:
        with _interrupts_later():
            first = executor.submit(os.getpid)
        first.result()
    except (BrokenProcessPool, EOFError, ConnectionError) as error:  # the last two: killed as it started
        raise SettingsError(f"no worker process can start. {MAIN_GUARD}") from error


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back: half-started workers complain, and those started here never hear of it."""
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


def _end_with_parent() -> None:
    """Let this worker end when the build does, however that ends: killed, it cannot tell its workers."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
