"""One run of processes that torchrun or Slurm started: the scores of one process, and never a hang.

Nodes are processes on this machine that talk over the loopback, with folders of their own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from filelock import FileLock

import summer_train
from summer_prep.errors import SettingsError
from summer_train import nodes as nodes_module
from summer_train.config import is_first_process
from summer_train.nodes import Launch, Team, launch_of

ROOT = Path(__file__).parents[2]
OPTIONS = ("--task", "label", "--patient-ids", "14", "--buffer", "10", "--max-epochs", "2")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def slurm(rank, n_processes=2, n_per_node=1, **variables):
    """What srun sets for a task; it is the only thing of Slurm that is here."""
    return {
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % n_per_node), "SLURM_STEP_NUM_TASKS": str(n_processes),
        "SLURM_STEP_NUM_NODES": str(n_processes // n_per_node), "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_JOB_ID": "77", "SLURM_NTASKS": str(n_processes), **variables,
    }  # fmt: skip


@pytest.fixture
def nodes(forks, tmp_path):
    """Starts a run on nodes, each with a folder of its own, and returns the processes; `ended` waits for them."""

    class Nodes:
        def __init__(self):
            self.pids = []

        def start(self, options, n_processes=2, module="summer_train", **variables):
            port = str(free_port())
            for rank in range(n_processes):
                folder = tmp_path / str(rank)
                folder.mkdir(exist_ok=True)
                self.pids.append(
                    forks.start(
                        module, "fit", *options(rank), cwd=folder, stdout=folder / "out",
                        stderr=folder / "err", MASTER_PORT=port, **slurm(rank, **variables),
                    )
                )  # fmt: skip
            return self

        def ended(self):
            codes = [forks.wait(pid) for pid in self.pids]
            self.pids = []
            return codes, *((tmp_path / "0" / name).read_text() for name in ("out", "err"))

    found = Nodes()
    yield found
    for pid in found.pids:
        os.kill(pid, signal.SIGKILL)


def test_two_nodes_with_folders_of_their_own_give_the_scores_of_one_process(nodes, demo_dir, demo_cache, tmp_path):
    one = summer_train.fit(
        task="label", patient_ids=14, buffer=10, max_epochs=3, cache_dir=demo_cache, data_dir=demo_dir,
        output_dir=tmp_path / "one",
    )  # fmt: skip
    # Neither has a cache yet.
    options = (*OPTIONS, "--data-dir", str(demo_dir), "--json")
    codes, output, said = nodes.start(lambda _: options).ended()
    assert codes == [0, 0], said
    result = json.loads(output)
    assert said.count("epoch 2/2") == 1
    assert (tmp_path / "1" / "out").read_text() == (tmp_path / "1" / "err").read_text() == ""
    run_dir = tmp_path / "0" / result["log_dir"]
    names = {"metrics.csv", "results.json", "predictions.npz", "hparams.yaml", "checkpoints"}
    assert {path.name for path in run_dir.iterdir()} == names
    assert not (tmp_path / "1" / "lightning_logs").exists()
    assert all((tmp_path / node / "data_cache" / "sub-14" / "bin-80ms.zarr").exists() for node in "01")
    # The second node has no checkpoint to continue from: the first one tells it.
    codes, output, said = nodes.start(lambda _: (*options, "--resume", "--max-epochs", "3")).ended()
    assert codes == [0, 0], said
    assert f"continuing {result['log_dir']}" in said
    continued = json.loads(output)
    assert continued["log_dir"] == result["log_dir"]
    for part in ("train", "val", "test"):
        for name, expected in one.scores["model"][part].items():
            assert continued["scores"]["model"][part][name] == pytest.approx(expected, abs=1e-5), (part, name)
    codes, output, said = nodes.start(lambda _: (*options, "--resume", "--max-epochs", "3")).ended()
    assert codes == [0, 0], said
    assert "is finished, 3 epochs" in said
    with FileLock(run_dir / ".lock"):
        codes, output, said = nodes.start(lambda _: (*options, "--resume", "--max-epochs", "4")).ended()
    assert codes == [1, 1]
    assert said.splitlines()[-1].endswith("another process is continuing this run. Wait for its end")
    # One that is asked to continue and one that is not would wait for each other.
    resume = ("--resume", "--max-epochs", "4")
    codes, output, said = nodes.start(lambda rank: (*options, *resume[rank:])[: len(options) + 3 - rank]).ended()
    assert codes == [1, 1]
    assert "has other data or settings than this one" in said


def test_torchrun_on_two_nodes_of_two_gives_the_scores_of_one_process(demo_cache, tmp_path):
    common = {"patient_ids": [14, 20], "buffer": 10, "max_epochs": 2, "cache_dir": demo_cache}
    one = summer_train.fit(**common, data_dir=tmp_path, output_dir=tmp_path / "one")
    options = ["--patient-ids", "14,20", "--buffer", "10", "--max-epochs", "2", "--cache-dir", demo_cache, "--json"]
    port = str(free_port())
    agents = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        places = "--nnodes", "2", "--nproc-per-node", "2", "--node-rank", str(number), "--master-addr", "127.0.0.1"
        command = [sys.executable, "-m", "torch.distributed.run", *places, "--master-port", port]
        agents.append(
            subprocess.Popen(
                [*command, "-m", "summer_train", "fit", *map(str, options)], cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    said = [agent.communicate(timeout=120) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    (output,) = [output for output, _ in said if output]
    for part, scores in json.loads(output)["scores"]["model"].items():
        assert scores["loss"] == pytest.approx(one.scores["model"][part]["loss"], abs=1e-5)
    assert [len(list(path.glob("lightning_logs/dhv/version_*"))) for path in (tmp_path / "0", tmp_path / "1")] == [1, 0]


def test_missing_node_ends_the_run_with_a_line(nodes, demo_cache):
    options = (*OPTIONS, "--cache-dir", str(demo_cache))
    codes, _, said = nodes.start(lambda _: options, 1, SUMMER_TRAIN_NODE_TIMEOUT="1").ended()
    assert codes == [1]
    assert "error: process 0 of 2 did not meet the others at 127.0.0.1:" in said.splitlines()[-1]


def test_lost_node_ends_the_run_with_a_line(nodes, demo_cache, tmp_path):
    options = (*OPTIONS[:-1], "100000", "--cache-dir", str(demo_cache))
    started = nodes.start(lambda _: options, SUMMER_TRAIN_NODE_TIMEOUT="5")
    said = tmp_path / "0" / "err"
    while not (said.exists() and "epoch 3/" in said.read_text()):
        time.sleep(0.02)
    os.kill(started.pids[1], signal.SIGKILL)
    codes, _, said = started.ended()
    assert codes == [1, -9]
    assert said.splitlines()[-1].startswith("error: ")
    assert "Start all again" in said.splitlines()[-1]
    assert said.count("error: ") == 1


def test_what_fails_on_another_node_in_training_is_told(nodes, demo_cache, tmp_path):
    options = (*OPTIONS, "--cache-dir", str(demo_cache))
    started = time.monotonic()
    codes, _, said = nodes.start(lambda _: options, module="tests.failing_node").ended()
    assert codes == [1, 1]
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 1 (on ")
    assert line.endswith("RuntimeError: the second node burnt out")
    assert time.monotonic() - started < 60  # and not the five minutes after which a silent network is given up


def test_fit_in_python_is_one_process(monkeypatch, demo_cache, tmp_path):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="fit in Python trains in one process, but 8 were started"):
        summer_train.fit(cache_dir=demo_cache, output_dir=tmp_path)


def test_processes_that_see_other_numbers_of_nodes_are_refused():
    stores = torch.distributed.HashStore()
    teams = [Team(Launch(rank=rank, local_rank=0, n_processes=2, n_nodes=1 + rank)) for rank in range(2)]
    problems = []

    def meet(team):
        try:
            team.check_equal("nodes", str(team.launch.n_nodes), "differs")
        except SettingsError as error:
            problems.append(str(error))

    for team in teams:
        team.store = stores
    threads = [Thread(target=meet, args=(team,)) for team in teams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(problems) == 2


def test_a_process_that_ended_is_not_waited_for():
    team = Team(Launch(rank=0, local_rank=0, n_processes=2, n_nodes=2))
    team.store = torch.distributed.HashStore()
    team.store.set("end 1", "failed: no disk")
    with pytest.raises(SettingsError, match=r"process 1 \(on unknown\): no disk"):
        team._hear("step", 1)
    team.store.set("end 1", "done: ")
    with pytest.raises(SettingsError, match="has ended before the others"):
        team._hear("step", 1)


def test_a_process_that_is_not_heard_of_is_not_waited_for():
    team = Team(Launch(rank=0, local_rank=0, n_processes=2, n_nodes=2))
    team.store, team.timeout_s = torch.distributed.HashStore(), 0.2
    with (
        pytest.raises(SettingsError, match=r"process 1 \(on unknown\) has not been heard of for 0.2 s"),
        team.together("step"),
    ):
        pass
    # One that beats is waited for, however long it takes.
    is_over = Event()

    def beat():
        for number in range(10):
            team.store.set("beat 1", str(number))
            is_over.wait(0.1)
        team.store.set("slow step 1", "done: 7")

    thread = Thread(target=beat)
    thread.start()
    assert team._hear("slow step", 1) == "7"
    thread.join()


def test_what_fails_on_one_node_is_told_by_the_first(nodes, demo_dir, demo_cache, tmp_path):
    def options(rank):
        return (*OPTIONS, "--data-dir", str(demo_dir) if rank == 0 else "nowhere")

    codes, _, said = nodes.start(options).ended()
    assert codes == [1, 1]
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 1 (on ")
    assert "nowhere (no such folder)" in line
    assert not list(tmp_path.glob("*/lightning_logs"))


def test_nodes_with_other_data_are_refused(nodes, demo_cache, tmp_path):
    def options(rank):
        return ("--patient-ids", "14" if rank == 0 else "20", "--cache-dir", str(demo_cache), "--buffer", "10")

    codes, _, said = nodes.start(options).ended()
    assert codes == [1, 1]
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "has other data or settings than this one" in line
    assert not list(tmp_path.glob("*/lightning_logs"))


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1", "MASTER_PORT": "29400",
}  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {"TORCHELASTIC_RUN_ID": "x"},
        {name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"},
        {**TORCHRUN, "LOCAL_WORLD_SIZE": "0"},
        {**slurm(0), "SLURM_STEP_NUM_TASKS": "two"},
        {**slurm(0), "SLURM_STEP_NUM_NODES": "0"},
    ],
)
def test_incomplete_variables_are_one_line(environment):
    with pytest.raises(SettingsError, match="the variables of torchrun or Slurm's srun are not complete"):
        launch_of(environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, None),  # started by Lightning, which tells it by itself
        (TORCHRUN, Launch(rank=5, local_rank=1, n_processes=8, n_nodes=2)),
        # By itself, Lightning would take the one process of torchrun for one of several.
        (
            {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
            Launch(rank=0, local_rank=0, n_processes=1, n_nodes=1),
        ),
        (slurm(3, 4, 2), Launch(rank=3, local_rank=1, n_processes=4, n_nodes=2)),
        (slurm(0, 1), None),
        # A batch script that starts the command without srun: the job has four tasks, of which none was started.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, None),
    ],
)
def test_launch_is_read_off_the_environment(environment, expected):
    assert launch_of(environment) == expected


def test_torchrun_with_one_process_trains_on_one_device(forks, demo_cache, tmp_path):
    alone = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    options = (*OPTIONS, "--cache-dir", str(demo_cache), "--json")
    places = {"cwd": tmp_path, "stdout": tmp_path / "out", "stderr": tmp_path / "err"}
    assert forks.wait(forks.start("summer_train", "fit", *options, **places, **alone)) == 0, places[
        "stderr"
    ].read_text()
    assert json.loads((tmp_path / "out").read_text())["scores"]
    assert forks.wait(forks.start("summer_train", "fit", *options, "--devices", "2", **places, **alone)) == 1
    assert "started on each node, one for each device: 1" in (tmp_path / "err").read_text()


def test_steps_of_one_job_do_not_meet(monkeypatch):
    met = []

    def rendezvous(*_, **__):
        met.append((os.environ["MASTER_PORT"], torch.distributed.HashStore()))
        return iter([(met[-1][1], 0, 2)])

    monkeypatch.setattr(nodes_module, "rendezvous", rendezvous)
    set_by_us = dict.fromkeys(("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"), "")
    for name, value in {**slurm(0), **set_by_us}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR")
    stores = []
    for step in "01":
        monkeypatch.setenv("SLURM_STEP_ID", step)
        monkeypatch.delenv("MASTER_PORT")
        stores.append(nodes_module._meet(launch_of(), 1.0))
        stores[-1].set("word", step)
    assert met[0][0] != met[1][0]
    # Also where their numbers lead to the same port, what they tell stays apart.
    assert [(store.check(["77.0/word"]), store.check(["77.1/word"])) for _, store in met] == [
        (True, False),
        (False, True),
    ]


def test_nodes_of_different_size_are_refused():
    with pytest.raises(SettingsError, match="4 processes on 2 nodes: every node must have equally many"):
        launch_of({**slurm(0, 4, 2), "SLURM_STEP_TASKS_PER_NODE": "3,1"})
    with pytest.raises(SettingsError, match="3 processes on 2 nodes: every node must have equally many"):
        launch_of({**slurm(0, 3), "SLURM_STEP_NUM_NODES": "2"})


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({**TORCHRUN, "RANK": "4", "LOCAL_RANK": "0"}, False),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, True),
        (slurm(0), True),
        (slurm(1), False),
    ],
)
def test_the_first_of_all_processes_speaks(environment, is_first, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first
