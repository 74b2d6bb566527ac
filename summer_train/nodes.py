"""Several processes that somebody else started, on one node or more, as one run: torchrun's and Slurm's.

They prepare the run together: what fails in one fails in all, with one line, and one that is not heard of any more is
not waited for. During training torch's own groups see to that.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from platform import node
from threading import Event, Thread
from typing import Any
from zlib import crc32

import torch
import torch.distributed
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from summer_prep.errors import SettingsError, SummerError

TIMEOUT_VARIABLE = "SUMMER_TRAIN_NODE_TIMEOUT"
DEFAULT_TIMEOUT_S = 300.0

_EVEN = "every node must have equally many"
_HEARTBEAT_S = 1.0
_LAST_WORD_S = 1.0
_LEAVE_S = 2.0
_FIRST_LEAVES_S = 10.0
_END = "end"
_FAILED, _DONE = "failed: ", "done: "
_FIRST_PORT, _N_PORTS = 20_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How many processes were started side by side, on how many nodes, and which one this is."""

    rank: int
    local_rank: int
    n_processes: int
    n_nodes: int

    @property
    def n_per_node(self) -> int:
        """Processes of a node."""
        return self.n_processes // self.n_nodes

    @property
    def first_of_node(self) -> int:
        """The first process of this node."""
        return self.rank - self.local_rank


def launch_of(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return what torchrun or Slurm's srun say of this process; None if it was started alone.

    Raises
    ------
    SettingsError : nodes of a Slurm job with different numbers of processes
    """
    try:
        if "TORCHELASTIC_RUN_ID" in environment:
            return _launch_of_torchrun(environment)
        if "SLURM_STEP_NUM_TASKS" in environment:
            return _launch_of_slurm(environment)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise SettingsError(
            f"the variables of torchrun or Slurm's srun are not complete ({error}). Start with one of them, or "
            "unset TORCHELASTIC_RUN_ID and SLURM_STEP_NUM_TASKS"
        ) from error
    return None


def _launch_of_torchrun(environment: Mapping[str, str]) -> Launch:
    names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"
    rank, local_rank, n_processes, n_per_node = (int(environment[name]) for name in names)
    int(environment["MASTER_PORT"]), environment["MASTER_ADDR"]
    # Whether all see as many nodes is asked when they meet.
    return Launch(rank=rank, local_rank=local_rank, n_processes=n_processes, n_nodes=max(1, n_processes // n_per_node))


def _launch_of_slurm(environment: Mapping[str, str]) -> Launch | None:
    rank, local_rank = (int(environment.get(name, "0")) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
    n_processes, n_nodes = (
        int(environment.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
    )
    if n_processes == 1:
        return None
    if "," in environment.get("SLURM_STEP_TASKS_PER_NODE", "") or n_processes % n_nodes:
        raise SettingsError(f"{n_processes} processes on {n_nodes} nodes: {_EVEN}. Check --ntasks-per-node")
    return Launch(rank=rank, local_rank=local_rank, n_processes=n_processes, n_nodes=n_nodes)


class Team:
    """The processes of a run that were started side by side; a process of its own waits for nobody."""

    def __init__(self, launch: Launch | None) -> None:
        self.launch = launch
        self.timeout_s = _timeout_s()
        self.store: Any = None
        self.is_over = Event()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Meet the other processes, and take leave of them at the end.

        Raises
        ------
        SettingsError : not all of them came
        """
        if self.launch is None:
            yield
            return
        self.store = _meet(self.launch, self.timeout_s)
        Thread(target=self._beat, daemon=True).start()
        try:
            problem = f"sees another number of processes on its node: {_EVEN}. Check --nproc-per-node"
            self.check_equal("nodes", str(self.launch.n_nodes), problem)
            yield
        except BaseException as error:
            self._leave(f"{_FAILED}{_in_one_line(error)}")
            raise
        else:
            self._leave(_DONE)

    def _leave(self, word: str) -> None:
        """Say good-bye, and how it went, to whoever waits; the first process ends first where something went wrong.

        It tells people, and torchrun ends it when another one does; else it ends last, as it may keep the store.
        """
        assert self.launch is not None
        with suppress(SummerError):
            self._tell(_END, word)
        self.is_over.set()
        _leave_group()
        is_first, is_failed = not self.launch.rank, word.startswith(_FAILED)
        for rank in self._others() if is_first else [0] * is_failed:
            with suppress(SummerError):
                self._hear(_END, rank, _LEAVE_S if is_first else _FIRST_LEAVES_S)
        if is_failed and not is_first:
            time.sleep(_LAST_WORD_S)

    def _beat(self) -> None:
        assert self.launch is not None
        n_beats = 0
        while not self.is_over.wait(_HEARTBEAT_S):
            n_beats += 1
            with suppress(RuntimeError):  # the store has gone, and with it those who listen
                self.store.set(f"beat {self.launch.rank}", str(n_beats))

    @contextmanager
    def together(self, step: str) -> Iterator[None]:
        """Run a block in every process; what fails in one fails in all.

        Raises
        ------
        SettingsError : it failed in another process, or one is not heard of
        """
        try:
            yield
        except Exception as error:
            self._tell(step, f"{_FAILED}{_in_one_line(error)}")
            raise
        self._tell(step, _DONE)
        for rank in self._others():
            self._hear(step, rank)

    @contextmanager
    def node_first(self, step: str) -> Iterator[None]:
        """Run a block in the first process of each node, and then in the others: what it builds is there for them.

        Raises
        ------
        SettingsError : it failed in the first, or that is not heard of
        """
        launch = self.launch
        if launch is not None and launch.local_rank:
            self._hear(step, launch.first_of_node)
        try:
            yield
        except Exception as error:
            self._tell(step, f"{_FAILED}{_in_one_line(error)}")
            raise
        self._tell(step, _DONE)

    def from_first(self, step: str, find: Callable[[], str]) -> str:
        """Return what the first process finds, in all of them.

        Raises
        ------
        SettingsError : that failed
        """
        if self.launch is not None and self.launch.rank:
            return self._hear(step, 0)
        try:
            found = find()
        except Exception as error:
            self._tell(step, f"{_FAILED}{_in_one_line(error)}")
            raise
        self._tell(step, f"{_DONE}{found}")
        return found

    def check_equal(self, step: str, own: str, problem: str) -> None:
        """Check that something is the same in all processes.

        Raises
        ------
        SettingsError : it is not
        """
        self._tell(step, f"{_DONE}{own}")
        for rank in self._others():
            if self._hear(step, rank) != own:
                raise SettingsError(f"process {rank} (on {self._host(rank)}) {problem}")

    def start_training(self) -> None:
        """Join the processes to the group in which torch adds up gradients.

        Raises
        ------
        SettingsError : not all of them came
        """
        if self.launch is None:
            return
        self.is_over.set()
        launch, timeout = self.launch, timedelta(seconds=self.timeout_s)
        is_cuda = torch.cuda.is_available()
        if is_cuda:
            torch.cuda.set_device(launch.local_rank)
        try:
            torch.distributed.init_process_group(
                "nccl" if is_cuda else "gloo",
                store=PrefixStore("training", self.store),
                rank=launch.rank,
                world_size=launch.n_processes,
                timeout=timeout,
            )
        except RuntimeError as error:
            raise _lost(error) from error

    @contextmanager
    def training(self) -> Iterator[None]:
        """Tell in one line that a process of the run was lost while all trained.

        Raises
        ------
        SettingsError : one was
        """
        try:
            yield
        except RuntimeError as error:
            if self.launch is None:
                raise
            if told := self._failure_of_others():
                raise SettingsError(told) from error
            if not _is_of_group(error):
                raise
            raise _lost(error) from error

    def _failure_of_others(self) -> str:
        """Return what another process says that it failed of, which is why this one could not go on; else nothing."""
        for _ in range(10):
            for rank in self._others():
                try:
                    self._raise_if_ended(rank)
                except SettingsError as error:
                    return str(error)
                except RuntimeError:  # the store has gone, too
                    return ""
            time.sleep(_LAST_WORD_S / 10)
        return ""

    def _others(self) -> list[int]:
        launch = self.launch
        return [] if launch is None else [rank for rank in range(launch.n_processes) if rank != launch.rank]

    def _tell(self, step: str, what: str) -> None:
        if self.launch is not None:
            try:
                self.store.set(f"host {self.launch.rank}", node())
                self.store.set(f"{step} {self.launch.rank}", what)
            except RuntimeError as error:
                raise _lost(error) from error

    def _hear(self, step: str, rank: int, within_s: float = float("inf")) -> str:
        """Return what a process tells of a step, however long that takes while it lives and has not ended."""
        key, beat, last_beat = f"{step} {rank}", f"beat {rank}", b""
        started = heard = time.monotonic()
        try:
            while not self.store.check([key]):
                time.sleep(0.05)
                now = self.store.get(beat) if self.store.check([beat]) else b""
                if now != last_beat:
                    last_beat, heard = now, time.monotonic()
                if time.monotonic() - heard > self.timeout_s or time.monotonic() - started > within_s:
                    raise SettingsError(
                        f"process {rank} (on {self._host(rank)}) has not been heard of for {self.timeout_s:g} s. "
                        f"Start all again, or wait longer with {TIMEOUT_VARIABLE}"
                    )
                if step != _END and not self.store.check([key]):
                    self._raise_if_ended(rank)
            told: str = self.store.get(key).decode()
        except RuntimeError as error:
            raise _lost(error) from error
        if told.startswith(_FAILED):
            raise SettingsError(f"process {rank} (on {self._host(rank)}): {told.removeprefix(_FAILED)}")
        return told.removeprefix(_DONE)

    def _raise_if_ended(self, rank: int) -> None:
        """Raise what a process said when it ended before its time."""
        if self.store.check([f"{_END} {rank}"]):
            word = self.store.get(f"{_END} {rank}").decode().removeprefix(_DONE)
            why = word.removeprefix(_FAILED) or "has ended before the others. Give all of them the same options"
            raise SettingsError(f"process {rank} (on {self._host(rank)}): {why}")

    def _host(self, rank: int) -> str:
        return str(self.store.get(f"host {rank}").decode()) if self.store.check([f"host {rank}"]) else "unknown"


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"{TIMEOUT_VARIABLE}={text}: must be a number of seconds, like {DEFAULT_TIMEOUT_S:g}")
    return seconds


def _meet(launch: Launch, timeout_s: float) -> Any:
    """Return the store that all processes share, kept by torchrun or by the first of them."""
    is_slurm = "TORCHELASTIC_RUN_ID" not in os.environ
    if is_slurm:  # torchrun has said so itself
        os.environ.setdefault("MASTER_ADDR", _first_node())
        os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + crc32(_step_name().encode()) % _N_PORTS))
        os.environ.update(RANK=str(launch.rank), WORLD_SIZE=str(launch.n_processes))
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"process {launch.rank} of {launch.n_processes} did not meet the others at {address} within "
            f"{timeout_s:g} s. Start all of them, check that nodes reach each other, or wait longer with "
            f"{TIMEOUT_VARIABLE}"
        ) from error
    return PrefixStore(_step_name(), store) if is_slurm else store


def _step_name() -> str:
    """Return what tells runs apart that could meet at one address: several steps of a Slurm job may run at once."""
    return ".".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))


def _first_node() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    return str(SLURMEnvironment.resolve_root_node_address(nodes))


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "was interrupted"
    return str(error) if isinstance(error, SummerError) else f"{type(error).__name__}: {str(error).strip()}"


def _is_of_group(error: RuntimeError) -> bool:
    words = ("gloo", "nccl", "pair closure", "connection closed", "timed out")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)


def _leave_group() -> None:
    """Leave the group of those that train, so that they need not wait for a time-out; leaving may itself wait."""
    if torch.distributed.is_initialized():
        leaving = Thread(target=_destroy_group, daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)


def _destroy_group() -> None:
    with suppress(RuntimeError, ValueError):
        torch.distributed.destroy_process_group()


def _lost(error: Exception) -> SettingsError:
    return SettingsError(
        f"a process of the run was lost, or its node cannot be reached ({str(error).splitlines()[0]:.100}). "
        "Start all again: with --resume the run is continued after its last whole epoch"
    )


def environment_of(launch: Launch | None) -> ClusterEnvironment:
    """Return what Lightning is to know of the processes: by itself it would take a Slurm job for several of them."""
    return LightningEnvironment() if launch is None else _Launched(launch)


class _Launched(ClusterEnvironment):
    """Processes that are there already."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.launch.n_processes

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.rank // self.launch.n_per_node
