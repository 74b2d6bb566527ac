"""The two programs as a user meets them: exit codes, one-line errors, both option spellings."""

import json

import pytest
import torch
from typer.main import get_command

from summer_prep import __version__
from summer_prep.cli import app as prep
from summer_prep.console import list_options, normalise
from summer_prep.console import run as run_program
from summer_train.cli import app as train
from tests.conftest import error_line


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("fit --patient_ids 14 20 --max_epochs 3", "fit --patient-ids 14,20 --max-epochs 3"),
        ("fit --patient-ids 14,20 --sequence 5 2", "fit --patient-ids 14,20 --sequence 5,2"),
        ("fit --bin_length=80 --fold 1", "fit --bin-length=80 --fold 1"),
        ("inspect 14 --bin-length 80 --json", "inspect 14 --bin-length 80 --json"),
        ("fit --label-name a_b --output_dir my_logs", "fit --label-name a_b --output-dir my_logs"),
        ("inspect --bin-length 1000 14", "inspect --bin-length 1000 14"),
        ("inspect --labels tom summer --json", "inspect --labels tom,summer --json"),
        ("verify --bin-length 80 1000", "verify --bin-length 80,1000"),
        ("evaluate --patient-ids 14 20 logs/version_0", "evaluate --patient-ids 14,20 logs/version_0"),
        ("evaluate --patient-ids 14 20 best.ckpt", "evaluate --patient-ids 14,20 best.ckpt"),
    ],
)
def test_both_spellings_and_both_separators_are_understood(typed, understood):
    several = {**list_options(get_command(prep)), **list_options(get_command(train))}
    assert normalise(typed.split(), several) == understood.split()


@pytest.fixture(scope="module")
def published_data(tmp_path_factory, run):
    """A folder with recordings, in which the published commands leave their cache and runs."""
    folder = tmp_path_factory.mktemp("published")
    made = run("summer_prep", "demo-data", "nwb", "--patients", "4", "--units", "8", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.split()) == 4
    return folder


@pytest.mark.parametrize(
    "options",
    [
        "--patient_ids 14 20 --buffer 20 --fold 3 --sequence 5 2",
        "--task label --patient_ids 29 8",
        "--task label --label_name alison --patient_ids 29 8 --buffer 10 --fold 1",
        "--patient_ids 14 20 --devices 1",
    ],
)
def test_published_command_runs_as_it_stands(options, published_data, run):
    arguments = [*options.split(), "--max_epochs", "1", "--data_dir", "nwb", "--json"]
    result = run("summer_train", "fit", *arguments, cwd=published_data)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    name = "dhv_label" if "label" in options else "dhv"
    assert report["log_dir"].startswith(f"lightning_logs/{name}/version_")
    assert torch.load(published_data / report["best_checkpoint"], weights_only=True)["state_dict"]
    assert (published_data / "data_cache" / f"sub-{report['config']['patient_ids'][0]}" / "bin-80ms.zarr").is_dir()


LONG = "a" * 300
OF_PREP = [
    ("build --data-dir nowhere", "nowhere: no such folder. Name the folder with the NWB files"),
    ("build --data-dir {data} --patient-ids 77", "no recording of patient 77 in {data}; found are 8, 14"),
    ("build --data-dir {data} --bin-length 30", "no bins of 30 ms can be made; possible are the multiples"),
    ("build --data-dir {data} --bin-length eighty", "--bin-length eighty: must be whole numbers"),
    ("build --nwb-path {data}/truth.json", "no patient id in the file name"),
    ("build --nwb-path sub3.nwb", "sub3.nwb: no such file"),
    ("build --nwb-path {data}", "is a folder. Check --nwb-path"),
    ("build --data-dir {data}/truth.json", "truth.json: is a file, not a folder"),
    ("build --data-dir {data} --cache-dir {data}/truth.json", "truth.json is a file, not a folder"),
    ("inspect", "data_cache: nothing in the cache. Check --cache-dir, or build it"),
    ("inspect 14 --cache-dir {cache} --bin-length 200", "no key of patient 14 at 200 ms"),
    ("inspect 14 --cache-dir {cache} --bin-length 80,1000", "80,1000: only one is possible. Name one"),
    ("inspect 14 --cache-dir {cache} --picture {cache}/sub-14/.source.json/a.png", "is a file"),
    (f"inspect 14 --cache-dir {{cache}} --picture {LONG}.png", "no possible path (File name too long)"),
    ("inspect 14 --cache-dir {cache} --labels sumer --picture new.png", "--labels sumer: no such label"),
    ("inspect 14 --labels summer", "chooses what --picture draws"),
    ("verify", "data_cache: nothing in the cache. Check --cache-dir"),
    ("verify --cache-dir {cache} --bin-length 80,81", "no key at 81 ms in {cache}; found are 8 (80 1000 ms)"),
    ("status --cache-dir {cache} --bin-length 7", "no bins of 7 ms can be made"),
    ("demo-data {data}", "is already there. Remove it, or name another folder"),
    ("demo-data {data}/truth.json", "truth.json is a file, not a folder"),
    ("demo-data new --units 10000000", "are free. Choose fewer or less"),
]
OF_FIT = [
    ("--cache-dir data_cache --patient-ids 14", "no recording of patient 14 in /data"),
    ("--task label --label-name sumer", "nearest are summer"),
    ("--brain-regions XX", "--brain-regions XX: no unit is there"),
    ("--buffer 10 --hidden-size 1000000000", "a smaller --hidden-size than 1000000000"),
    ("--val-fraction 0.1 --fold 2", "two splits were asked for"),
    ("--output-dir {cache}/sub-14/.source.json", ".source.json is a file"),
    ("--output-dir=", "--output-dir '': must be a path"),
    ("--seed 99999999999999999999", "must lie between 0 and 9223372036854775807"),
    ("--task label --label-name all", "--label-name all: fit trains one model. For several: summer-train study"),
    ("--task label --label-name summer,tom", "--label-name summer,tom: fit trains one model"),
    ("--picture curve", "--picture curve: name a file that ends in .png"),
    ("--devices 1000", "--devices 1000: this machine has"),
    ("--patient-ids 14 14", "--patient-ids 14,14: 14 stands there twice"),
    ("--buffer 10 --patient-ids 14 --lr 1e30", "loss of epoch 1 is nan. Choose a smaller --lr than 1e+30"),
]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *((f"summer_prep {command}", message) for command, message in OF_PREP),
        *((f"summer_train fit --cache-dir {{cache}} {options}", message) for options, message in OF_FIT),
    ],
)
def test_wrong_input_gets_one_line_and_writes_nothing(command, message, demo_dir, demo_cache, run, tmp_path):
    places = {"data": demo_dir, "cache": demo_cache}
    result = run(*command.format(**places).split(), cwd=tmp_path)
    assert message.format(**places) in error_line(result)
    assert "--lr" in command or not list(tmp_path.rglob("*"))  # training that diverges leaves its metrics


def test_wrong_usage_exits_with_2_and_debug_shows_the_traceback(run, tmp_path):
    assert run("summer_train", "fit", "--no-such-option", cwd=tmp_path).returncode == 2
    assert run("summer_prep", "build", "--workers", "0", cwd=tmp_path).returncode == 2
    result = run("summer_prep", "verify", "--debug", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_version_is_that_of_the_package(run):
    for module in ("summer_prep", "summer_train"):
        assert run(module, "--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("summer-train fit --task la", ["label"]),
        ("summer-train fit --brain", ["--brain-regions"]),
        ("summer-prep insp", ["inspect"]),
        ("summer-prep build --codec z", ["zstd"]),
    ],
)
def test_tab_offers_commands_options_and_choices(line, words, monkeypatch, capsys):
    program, *rest = line.split()
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    for name, value in {"COMP_WORDS": line, "COMP_CWORD": str(len(rest)), variable: "complete_bash"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run_program(prep if program == "summer-prep" else train, program, [])
    assert capsys.readouterr().out.split() == words
