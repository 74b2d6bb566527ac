"""The processes of a run: their devices, threads and signals, and restoring the process of a caller."""

import ctypes
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from summer_prep.errors import SettingsError
from summer_prep.resources import usable_processors
from summer_train.settings.options import FIRST_PROCESS, Run, check_one_process, is_first_process

FLOPS_PER_THREAD = 1.5e7
"""Of a step's matrix products; with fewer, a further thread costs more than it gains (docs/performance.md)."""

_LIGHTNING = ("lightning.pytorch", "lightning.fabric")


def n_devices_of(run: Run) -> int:
    """Return how many devices a run uses; raises SettingsError if that is more than there are."""
    n_gpus = torch.cuda.device_count()
    _check_number("--devices", run.devices, n_gpus or usable_processors(), "GPUs" if n_gpus else "processors, no GPU")
    return run.devices or max(1, n_gpus)


def _check_number(option: str, wanted: int | None, n_there: int, kind: str) -> None:
    if wanted is not None and wanted > n_there:
        raise SettingsError(f"{option} {wanted}: this machine has {n_there} {kind}. Choose at most as many")


def use_threads(threads: int | None, flops_per_step: float) -> None:
    """Set the processor threads of this process: by default one, unless matrix products are large enough to share."""
    n_processors = usable_processors()
    _check_number("--threads", threads, n_processors, "processors")
    torch.set_num_threads(threads or max(1, min(n_processors, int(flops_per_step / FLOPS_PER_THREAD))))


def prepare_processes(n_devices: int) -> bool:
    """Return whether this process is the first of a run, and mark it as such; a further one ends when the first does.

    The system ends it, because a process that waits for another in torch runs no Python. Ctrl-C is for the first alone.
    """
    if is_first_process():
        check_one_process()
        if n_devices > 1:
            for left_behind in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(left_behind, None)  # Lightning would take this process for one of those it starts
            os.environ[FIRST_PROCESS] = str(os.getpid())
        return True
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ[FIRST_PROCESS] != str(os.getppid()):
        os._exit(1)  # the first process ended before the system was asked to watch it
    return False


def hold_terminations(n_processes: int) -> None:
    """Block SIGTERM until the processes of a run train, and let Ctrl-C end this one at once until then.

    Lightning's handler of SIGTERM waits forever for processes that wait for this one; in torch they run no Python, so
    no KeyboardInterrupt would reach them.
    """
    if n_processes > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore the process of a caller: torch's threads and random numbers, warning filters, Lightning's logs."""
    n_threads, levels = torch.get_num_threads(), {name: logging.getLogger(name).level for name in _LIGHTNING}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def quieten_lightning() -> None:
    """Hide Lightning's advertising and its warnings about what we chose on purpose."""
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
