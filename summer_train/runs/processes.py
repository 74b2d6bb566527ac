"""The processes of a run: their devices, threads and signals, and how a caller's process is left."""

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
from summer_train.settings.options import FIRST_PROCESS, Run, is_first_process

FLOPS_PER_THREAD = 1.5e7
"""Of a step's matrix products; with fewer, a further thread costs more than it gains (docs/performance.md)."""

MIN_SHARED_BATCH = 8192
"""Samples of a step; with fewer, one process is faster: 0.39 s an epoch, two 1.12 s, at 512 (docs/clusters.md)."""

_SIGNAL_AT_PARENTS_DEATH = 1


def n_devices_of(run: Run) -> int:
    """Return how many devices a run uses."""
    return run.devices or max(1, torch.cuda.device_count())


def use_threads(threads: int | None, flops_per_step: float) -> None:
    """Set the processor threads of this process: one where matrix products are too small to share.

    Raises
    ------
    SettingsError : more than there are processors
    """
    n_processors = usable_processors()
    if threads is not None and threads > n_processors:
        raise SettingsError(f"--threads {threads}: this machine has {n_processors} processors. Choose at most as many")
    if threads is None:
        threads = max(1, min(n_processors, int(flops_per_step / FLOPS_PER_THREAD)))
    torch.set_num_threads(threads)


def check_devices(devices: int | None) -> None:
    """Refuse more devices than there are.

    Raises
    ------
    SettingsError : too many
    """
    n_gpus = torch.cuda.device_count()
    n_there = n_gpus or usable_processors()
    kind = "GPUs" if n_gpus else "processors and no GPU"
    if devices is not None and devices > n_there:
        raise SettingsError(f"--devices {devices}: this machine has {n_there} {kind}. Choose at most as many")


def hold_terminations(n_processes: int) -> None:
    """Hold SIGTERM back until the processes of a run train; let Ctrl-C end this one at once until then.

    Lightning's own handler of SIGTERM asks the other processes from within, and waits for ever where they wait for
    this one. Processes that wait for each other in torch run no Python, so no KeyboardInterrupt would reach them.
    """
    if n_processes > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def prepare_processes(n_devices: int) -> None:
    """Let further processes know that this one starts them; let a further process end with the first.

    The system ends it, since a process that waits for another in torch runs no Python: Ctrl-C is for the first.
    """
    if is_first_process():
        if n_devices > 1:
            for left_behind in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(left_behind, None)  # Lightning would take this process for one of those it starts
            os.environ[FIRST_PROCESS] = str(os.getpid())
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ[FIRST_PROCESS] != str(os.getppid()):
        os._exit(1)  # the first process ended before it could be heard of


_LIGHTNING = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def process_restored() -> Iterator[None]:
    """Give a caller's process back as it was: threads of torch, filters of warnings, levels of Lightning's logs."""
    n_threads, levels = torch.get_num_threads(), {name: logging.getLogger(name).level for name in _LIGHTNING}
    with warnings.catch_warnings():
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def quieten_lightning() -> None:
    """Keep Lightning's advertising and its remarks on what we chose on purpose out of a user's sight."""
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
