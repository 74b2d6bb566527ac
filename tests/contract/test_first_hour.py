"""What a person meets in the first hour: tables, results that stay, several at once, odd text, and no hang."""

import csv
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import summer_train
from summer_prep.cache.layout import key_path
from summer_prep.console import printable
from summer_prep.recordings.demo import demo_data
from summer_train.runs.folder import new_folder
from tests.conftest import error_line, flip_a_byte, start


@pytest.fixture
def on_terminal(forks):
    """Runs a command on a terminal of its own; returns the exit code and what the terminal shows."""

    def on_terminal(module, *arguments, cwd, columns=80, **environment):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        name, environment = os.ttyname(theirs), {"TERM": "xterm", "COLUMNS": "", **environment}
        with ThreadPoolExecutor(1) as pool, closing(os.fdopen(ours, "rb", 0)) as terminal:
            shown = pool.submit(read_to_the_end, terminal)
            pid = forks.start(module, *arguments, cwd=cwd, stdout=name, stderr=name, **environment)
            code = forks.wait(pid)
            os.close(theirs)
            return code, shown.result().decode()

    return on_terminal


def read_to_the_end(terminal):
    shown = b""
    with suppress(OSError):  # no process has the terminal open any more
        while part := terminal.read(65536):
            shown += part
    return shown


@pytest.fixture(scope="module")
def work(demo_cache, demo_dir, run, tmp_path_factory):
    """A folder with a cache and two runs."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(demo_cache, folder / "data_cache")
    for task in ("next_bin", "label"):
        options = f"--task {task} --patient-ids 14 --buffer 10 --max-epochs 3 --picture {task}.svg --data-dir".split()
        fitted = run("summer_train", "fit", *options, demo_dir, cwd=folder)
        assert fitted.returncode == 0, fitted.stderr
        assert max(map(len, fitted.stderr.splitlines())) <= 80
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "summer_prep inspect",
        "summer_prep inspect 14",
        "summer_prep status --data-dir none",
        "summer_train runs",
        "summer_train evaluate lightning_logs/dhv_label/version_0 --data-dir none",
    ],
)
def test_tables_fit_a_terminal_of_80_columns_and_are_tab_separated_in_a_pipe(command, work, on_terminal, run):
    code, shown = on_terminal(*command.split(), cwd=work)
    assert code == 0, shown
    assert "…" not in shown
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) for line in shown.splitlines()) <= 80
    piped = run(*command.split(), cwd=work).stdout
    assert "\x1b" not in piped
    rows = list(csv.reader(piped.splitlines(), delimiter="\t"))
    assert len(rows) > 2
    assert len({len(row) for row in rows}) == 1 or "14" in command or "evaluate" in command  # which show several tables


def test_results_and_predictions_stay_in_the_folder_of_the_run(work):
    for task, shape in (("dhv", (10,)), ("dhv_label", ())):
        folder = work / "lightning_logs" / task / "version_0"
        results = json.loads((folder / "results.json").read_text())
        assert set(results["scores"]["model"]) == {"train", "val", "test"}
        assert 1 <= results["best_epoch"] <= results["n_epochs"] == 3
        assert results["config"]["seed"] == 0
        assert len(results["data"]["patients"][0]["digests"]["spike_counts"]) == 64
        assert results["seconds"] > 0
        with np.load(folder / "predictions.npz") as stored:
            arrays = dict(stored)
        for part in ("val", "test"):
            n = results["n_samples"][part]
            assert arrays[f"{part}_bin"].shape == (n,)
            assert arrays[f"{part}_target"].shape == arrays[f"{part}_score"].shape == (n, *shape)
    accuracy = ((arrays["test_score"] > 0.5) == arrays["test_target"]).mean()
    assert accuracy == pytest.approx(results["scores"]["model"]["test"]["accuracy"])
    assert sum(results["n_per_class"]["test"]) == results["n_samples"]["test"]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    n_steps = -(-results["n_samples"]["train"] // 32)
    assert [int(row["step"]) for row in rows] == [n_steps, 2 * n_steps, 3 * n_steps]
    assert [bool(row["test_loss"]) for row in rows] == [epoch == results["best_epoch"] for epoch in (1, 2, 3)]


def test_learning_curve_names_the_run_for_people(work):
    picture = (work / "label.svg").read_text()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    assert "label summer, patient 14 (10 units), 80 ms bins, fold 1" in texts
    assert any(text.startswith("best epoch (") for text in texts)
    assert {"loss", "accuracy"} <= set(texts)
    assert "1.5" not in texts


def test_runs_are_listed_as_table_json_and_csv(work, run):
    table = run("summer_train", "runs", cwd=work).stdout.splitlines()
    assert [line.split("\t")[0] for line in table[1:]] == ["dhv/version_0", "dhv_label/version_0"]
    plain = json.loads(run("summer_train", "runs", "--json", cwd=work).stdout)
    rows = list(csv.DictReader(run("summer_train", "runs", "--csv", cwd=work).stdout.splitlines()))
    assert [row["run"] for row in rows] == [run["log_dir"] for run in plain]
    assert rows[1]["label_name"] == "summer"
    assert dict(zip(table[0].split("\t"), table[1].split("\t"), strict=True))["R²"] == rows[0]["test_r2"] != ""
    assert "no runs. Name the --output-dir" in error_line(run("summer_train", "runs", "nowhere", cwd=work))


def test_patience_ends_a_run_that_gets_no_better(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "output_dir": tmp_path, "patient_ids": 14, "buffer": 10}
    result = summer_train.fit(task="label", lr=0.05, patience=2, max_epochs=40, **common)
    assert result.n_epochs == result.best_epoch + 2 < 40


def test_runs_that_start_together_new_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        taken = [folder.name for folder in pool.map(lambda _: new_folder(tmp_path / "logs"), range(80))]
    assert sorted(taken) == sorted(f"version_{number}" for number in range(80))


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1, "buffer": 60, "max_epochs": 1}, {"val_fraction": 0.0003, "max_epochs": 2}],
    ids=["batches of one", "one validation sample"],
)
def test_two_processes_never_wait_for_a_share_that_is_empty(options, demo_cache, run, tmp_path):
    common = {"bin_length": 1000, "patient_ids": 14, "cache_dir": demo_cache, "data_dir": tmp_path, "sequence": "0 0"}
    one = summer_train.fit(output_dir=tmp_path / "1", **common, **options)
    pairs = {**common, **options, "devices": 2, "output_dir": "2"}.items()
    typed = [part for name, value in pairs for part in (f"--{name.replace('_', '-')}", *str(value).split())]
    two = run("summer_train", "fit", *typed, "--json", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    loss = json.loads(two.stdout)["scores"]["model"]["val"]["loss"]
    assert loss == pytest.approx(one.scores["model"]["val"]["loss"], abs=1e-4)


@pytest.mark.parametrize(("number", "moment_s"), [("TERM", 0.5), ("INT", 0.5), ("TERM", 2.5), ("INT", 2.5)])
def test_an_ended_run_of_two_processes_leaves_none_behind(number, moment_s, demo_cache, tmp_path):
    options = f"--cache-dir {demo_cache} --data-dir none --patient-ids 14 --buffer 10 --max-epochs 100000 --devices 2"
    process = start("-m", "summer_train", "fit", *options.split(), cwd=tmp_path, stderr=subprocess.STDOUT)
    while not list(tmp_path.glob("lightning_logs/dhv/version_0/hparams.yaml")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(moment_s)  # at first the process waits in torch for the other one, which still imports it
    if number == "TERM":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    shown, _ = process.communicate(timeout=60)  # ends when every process that shares the pipe has
    if number == "INT":
        assert "Traceback" not in shown
        assert process.returncode in (130, -signal.SIGINT)  # a shell reports both as 130
    assert process.returncode != 0


ODD, ODDER = "[/b]x\x1b[31m\ny", "$\\frac$[red]"


@pytest.fixture(scope="module")
def odd_cache(tmp_path_factory, run):
    """A key whose recording has odd text as a label and as a region."""
    folder = tmp_path_factory.mktemp("odd")
    (path,) = demo_data(folder / "nwb", patient_ids=("14",), units=4, minutes=2, layout="misc")
    with h5py.File(path, "r+") as file:
        file["processing/misc/movie_annotations_indicator_functions/label_name"][:2] = [ODD, ODDER]
        file["units/brain_region"][0] = "[old]"
    built = run("summer_prep", "build", "--data-dir", "nwb", "--bin-length", "1000", "--json", cwd=folder)
    assert [key["state"] for key in json.loads(built.stdout)] == ["built"], built.stderr
    return folder


def test_text_of_files_is_shown_as_data(odd_cache, run, on_terminal):
    inspect = ("summer_prep", "inspect", "14", "--bin-length", "1000")
    for columns in (80, 200):
        code, shown = on_terminal(*inspect, cwd=odd_cache, columns=columns)
        assert code == 0, shown
        assert "\x1b[31m" not in shown
        assert all(text in shown for text in ("[/b]x\\x1b[31m\\ny", ODDER, "[old]"))
    piped = run(*inspect, "--picture", "odd.png", "--labels", ODDER, cwd=odd_cache)
    assert piped.returncode == 0, piped.stderr
    assert "[/b]x\\x1b[31m\\ny\t" in piped.stdout
    options = ("--task", "label", "--label-name", "[red]a\x1b[2J", "--bin-length", "1000")
    wrong = error_line(run("summer_train", "fit", *options, cwd=odd_cache))
    assert "\x1b" not in wrong
    assert "[red]a" in wrong


def test_data_keeps_letters_and_loses_control():
    assert printable("Zoë [b] 日本\t\r\x07") == "Zoë [b] 日本\\t\\r\\x07"


@pytest.mark.parametrize(
    "command", ["summer_prep inspect 14", "summer_prep inspect 14 --json", "summer_train runs --csv"]
)
def test_full_device_is_one_line_and_a_reader_that_leaves_is_none(command, work):
    with Path("/dev/full").open("w") as full:
        process = start("-m", *command.split(), cwd=work, stdout=full)
    assert "cannot be written to standard output (No space left on device)" in process.communicate()[1].splitlines()[-1]
    assert process.returncode == 1
    reader, writer = os.pipe()
    process = start("-m", *command.split(), cwd=work, stdout=writer)
    os.close(reader)
    os.close(writer)
    assert (process.communicate()[1], process.returncode) == ("", 0)


def test_inspect_checks_what_it_shows(work, run, tmp_path):
    shutil.copytree(work / "data_cache", tmp_path / "data_cache")
    key = key_path(tmp_path / "data_cache", "14", 80)
    chunk = key / "spike_counts" / "c" / "0" / "0"
    flip_a_byte(chunk)
    for options in ((), ("--json",), ("--picture", "14.png")):
        damaged = run("summer_prep", "inspect", "14", *options, cwd=tmp_path)
        assert "spike_counts/c/0/0: its bytes were changed" in error_line(damaged)
    assert not (tmp_path / "14.png").exists()
    verified = run("summer_prep", "verify", cwd=tmp_path)
    assert str(chunk.relative_to(tmp_path)) in verified.stderr
    assert "1 of 8 failed" in error_line(verified)
    chunk.unlink()
    assert "1 of 8 failed" in error_line(run("summer_prep", "inspect", cwd=tmp_path))
    status = run("summer_prep", "status", "--data-dir", "none", cwd=tmp_path)
    assert "summer-prep verify reads every byte" in status.stderr


def test_numbers_that_are_none_are_null_in_json(work, run, tmp_path):
    best = work / "lightning_logs" / "dhv_label" / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"] = {name: tensor * float("nan") for name, tensor in checkpoint["state_dict"].items()}
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    result = run("summer_train", "evaluate", tmp_path / "nan.ckpt", "--json", cwd=work)
    assert "NaN" not in result.stdout
    assert json.loads(result.stdout)["scores"]["model"]["val"]["loss"] is None


SLOW_EPOCH = """
import summer_train.runs.trainer as trainer
trainer.SLOW_EPOCH_S = 0.0
from summer_train.cli import main
main()
"""
SLOW_LIST = """
import time, summer_prep.cache.keys as caches
fast = caches.facts_of_keys
caches.facts_of_keys = lambda *arguments: time.sleep(0.5) or fast(*arguments)
from summer_prep.cli import main
main()
"""


def test_a_slow_epoch_shows_its_progress_on_a_terminal(demo_cache, tmp_path, on_terminal):
    (tmp_path / "slow.py").write_text(SLOW_EPOCH)
    command = f"slow fit --cache-dir {demo_cache} --data-dir none --patient-ids 14 --buffer 10 --max-epochs 1"
    code, shown = on_terminal(*command.split(), cwd=tmp_path)
    assert code == 0, shown
    assert "epoch 1 " in shown
    assert "━" in shown


def test_what_takes_long_is_shown_on_a_terminal_only_and_without_colours_on_demand(
    demo_cache, tmp_path, on_terminal, run
):
    (tmp_path / "slow.py").write_text(SLOW_LIST)
    command = ("slow", "inspect", "--cache-dir", demo_cache)
    coloured = re.compile("\x1b\\[[0-9;]*(3[0-7]|4[0-7]|9[0-7])[0-9;]*m")
    code, shown = on_terminal(*command, cwd=tmp_path)
    assert code == 0, shown
    assert "reading keys" in shown
    assert coloured.search(shown)
    assert not coloured.search(on_terminal(*command, cwd=tmp_path, NO_COLOR="1")[1])
    assert run(*command, cwd=tmp_path).stderr == ""
