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

_SIGNAL_AT_PARENTS_DEATH = 1
_LIGHTNING = ("lightning.pytorch", "lightning.fabric")


def n_devices_of(run: Run) -> int:
    """Return how many devices a run uses; raises SettingsError if that is more than there are."""
    n_gpus = torch.cuda.device_count()
    n_there = n_gpus or usable_processors()
    if run.devices is not None and run.devices > n_there:
        kind = "GPUs" if n_gpus else "processors and no GPU"
        raise SettingsError(f"--devices {run.devices}: this machine has {n_there} {kind}. Choose at most as many")
    return run.devices or max(1, n_gpus)


def use_threads(threads: int | None, flops_per_step: float) -> None:
    """Set the processor threads of this process: by default one, unless matrix products are large enough to share.

    Raises SettingsError for more than there are processors.
    """
    n_processors = usable_processors()
    if threads is not None and threads > n_processors:
        raise SettingsError(f"--threads {threads}: this machine has {n_processors} processors. Choose at most as many")
    torch.set_num_threads(threads or max(1, min(n_processors, int(flops_per_step / FLOPS_PER_THREAD))))


def prepare_processes(n_devices: int) -> bool:
    """Return whether this process is the first of a run, and mark it as such; a further one ends when the first does.

    Raises SettingsError for one of several processes that torchrun or srun started. The system ends a further process,
    because one that waits for another in torch runs no Python. Ctrl-C is for the first process alone.
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
        libc.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ[FIRST_PROCESS] != str(os.getppid()):
        os._exit(1)  # the first process ended before the system was asked to watch it
    return False


def hold_terminations(n_processes: int) -> None:
    """Block SIGTERM until the processes of a run train, and let Ctrl-C end this one at once until then.

    Lightning's own handler of SIGTERM asks the other processes from within, and waits forever if they wait for this
    one. Processes that wait for each other in torch run no Python, so no KeyboardInterrupt would reach them.
    """
    if n_processes > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore the process of a caller: the threads of torch, the warning filters, the levels of Lightning's logs."""
    n_threads, levels = torch.get_num_threads(), {name: logging.getLogger(name).level for name in _LIGHTNING}
    with warnings.catch_warnings():
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
