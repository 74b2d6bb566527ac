"""Processes that work side by side, each for itself: one that crashes is told, one that is orphaned ends."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

from summer_prep.errors import SettingsError

Result = TypeVar("Result")

MAIN_GUARD = (
    "In a script, call it below `if __name__ == '__main__':`, or without further processes: build with workers=0, "
    "study with workers=1"
)
"""What to do where new processes run a script once more."""


def run_in_workers(
    work: Callable[..., Result],
    tasks: Mapping[str, tuple[Any, ...]],
    n_workers: int,
    take: Callable[[str, Result], None],
    preloaded: Sequence[str] = (),
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run tasks in processes of their own; return the names of those that a crash, their own or another's, ended.

    Parameters
    ----------
    tasks : name -> arguments of `work`
    take : called with name and result of each task that is done
    preloaded : modules that every worker needs: loaded once, in the process that they are forked from
    stop : called where the tasks at hand are of no use any more, to end them

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
