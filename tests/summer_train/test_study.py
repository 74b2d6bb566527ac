"""The study: equal to separate fits, continued after a kill, one row per model, wrong lists in one line."""

import csv
import errno
import inspect
import io
import json
import math
import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

import summer_train
from summer_prep.errors import SettingsError
from summer_train.data.batches import StreamedSamples
from summer_train.data.selection import Selection
from summer_train.reports.findings import read_models, read_results_of
from summer_train.reports.summary import summarise, summary_tables
from summer_train.settings.lists import choices_of
from summer_train.settings.options import Choice, StudyRun, settings_from
from summer_train.studies import study as studies
from summer_train.studies.records import predictions_path, read_stacks, write_stack, write_tables
from tests.conftest import start


@pytest.fixture
def places(demo_cache, tmp_path):
    return {"cache_dir": demo_cache, "data_dir": tmp_path / "none", "patient_ids": "14 20", "buffer": 10}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def studied_copy(places, folder):
    """The folder of a study of one model."""
    return summer_train.study(**{**places, "patient_ids": 14}, max_epochs=1, workers=1, output_dir=folder).folder


@pytest.fixture
def study(places, folder):
    """Runs a study of one epoch in this process; options that are given go first."""
    common = {**places, "max_epochs": 1, "workers": 1, "output_dir": folder}
    return lambda **options: summer_train.study(**{**common, **options})


def table(folder):
    with (folder / "study.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scores_of(rows):
    """Return rows without what differs between equal studies."""
    return [{name: cell for name, cell in row.items() if name not in ("seconds", "date")} for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_name": "summer,tom,office,indoor-setting", "fold": [1, 2]},
        {"label_name": "summer,tom", "class_weight": "balanced", "window": (0.16, 0.08)},
        {"label_name": "summer,tom", "model": "linear", "window": (0.16, 0.08)},
        {"label_name": "summer", "model": "lstm", "window": (0.16, 0.08), "batch_size": 128},
        {"label_name": "tom", "model": "gru", "batch_size": 128},
        {"task": "next_bin", "loss": "mse,poisson", "window": (0.16, 0)},
        {"task": "next_bin", "model": "linear"},
        {"label_name": "summer,tom,office,park", "max_epochs": 12, "patience": 1, "lr": 0.02},
    ],
    ids=["mlp", "balanced windows", "linear", "lstm", "gru", "next bin", "next bin linear", "patience"],
)
def test_rows_equal_separate_fits(changes, places, study, folder, tmp_path):
    training = {"task": "label", "max_epochs": 2, "fold": [2], **changes}
    result = study(**training, keep_predictions=True)
    lists = {name: str(training.get(name, "")).split(",") for name in ("label_name", "loss")}
    assert {row["label_name"] for row in result.rows} == set(lists["label_name"])  # empty for next-bin
    assert "patience" not in changes or len({row["n_epochs"] for row in result.rows}) > 1
    for row in result.rows:
        own = {name: row[name] for name, values in lists.items() if len(values) > 1}
        run = summer_train.fit(**{**places, **training, **own, "fold": row["fold"]}, output_dir=tmp_path / "fits")
        for part, scores in run.scores["model"].items():
            for name, value in scores.items():
                assert row[f"{part}_{name}"] == pytest.approx(value, abs=1e-5, nan_ok=True), (part, name)
        for baseline in run.scores.keys() - {"model"}:
            loss = run.scores[baseline]["test"]["loss"]
            assert row[f"{baseline.replace(' ', '_')}_test_loss"] == pytest.approx(loss, abs=1e-12, nan_ok=True)
        assert (row["best_epoch"], row["n_epochs"]) == (run.best_epoch, run.n_epochs)
        assert row["n_test"] == run.n_samples["test"]
        with np.load(predictions_path(folder, row["id"])) as kept:
            expected = run.predictions()
            assert set(kept) == set(expected)
            for name, values in expected.items():
                np.testing.assert_allclose(kept[name], values, atol=1e-4)


def test_a_finished_study_does_nothing_and_a_longer_list_trains_the_rest(study, folder, monkeypatch):
    started = datetime.now(UTC).replace(microsecond=0)
    first = study(label_name="summer", fold="1-2")
    assert (first.n_trained, len(first.rows)) == (2, 2)
    before, lines = (folder / "study.csv").read_bytes(), []
    with monkeypatch.context() as patch:
        patch.setattr(studies, "train_stack", None)  # whoever trains fails
        patch.setattr("sys.argv", ["summer-train", "study"])
        again = study(label_name="summer", fold="1-2")
    assert (again.n_trained, again.rows) == (0, first.rows)
    assert (folder / "study.csv").read_bytes() == before  # the dates and commands of the stacks, too
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["summer-train", "study", "--fold", "1-2"])
        more = study(label_name="tom,summer", fold="1-2", log=lines.append)
    assert (more.n_trained, [row["label_name"] for row in more.rows]) == (2, ["tom", "tom", "summer", "summer"])
    assert len(table(folder)) == 4
    assert more.rows[2:] == first.rows
    assert [row["command"] for row in more.rows] == [*["summer-train study --fold 1-2"] * 2, "python", "python"]
    assert all(started <= datetime.fromisoformat(row["date"]) <= datetime.now(UTC) for row in more.rows)
    assert not any("keep them apart" in line for line in lines)


def test_a_folder_of_other_models_is_said_before_the_training(study, folder):
    study(fold="1-2")
    lines = []
    study(batch_size=512, hidden_size=8, log=lines.append)
    (place,) = [number for number, line in enumerate(lines) if "--output-dir" in line]
    assert f"{folder} already holds 2 models of another batch_size, hidden_size" in lines[place]
    assert any("1 to train" in line for line in lines[place:])


def test_columns_are_named_like_options_and_scores_like_their_part(study, folder):
    result = study(label_name="summer", shifts=3)
    (row,) = table(folder)
    columns = list(row)
    assert columns[:3] == ["task", "label_name", "patient_ids"]
    assert columns[-3:] == ["date", "command", "version"]
    expected = {"fold", "buffer", "bin_length", "brain_regions", "model", "window", "seed", "best_epoch", "seconds"}
    expected |= {f"{part}_{name}" for part in ("train", "val", "test") for name in (
        "kappa", "auroc", "average_precision", "f1", "balanced_accuracy", "accuracy", "base_rate", "loss")}  # fmt: skip
    expected |= {"time_only_test_kappa", "majority_class_test_accuracy", "p_kappa", "p_auroc", "data_digest", "id"}
    assert expected <= set(columns)
    assert (row["patient_ids"], row["window"], row["brain_regions"]) == ("14 20", "0 0", "all")
    assert float(row["test_kappa"]) == result.rows[0]["test_kappa"]
    import pyarrow.parquet

    stored = pyarrow.parquet.read_table(folder / "study.parquet").to_pylist()
    assert stored[0]["test_kappa"] == result.rows[0]["test_kappa"]
    with (folder / "shifts.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    with (folder / "curves.csv").open() as file:
        assert [line["epoch"] for line in csv.DictReader(file)] == ["1"]


def test_labels_with_nothing_to_learn_are_rows_with_the_reason(study, tmp_path, monkeypatch):
    real = Selection.labels
    monkeypatch.setattr(Selection, "labels", lambda self, name, rule: real(self, name, rule) * (name != "rhoda"))
    hopeless, fine = study(label_name="rhoda,summer").rows
    assert "only the value 0 in the" in hopeless["why_undefined"]
    assert "test_kappa" not in hopeless
    assert math.isfinite(fine["test_kappa"])
    assert study(label_name="rhoda,summer").n_trained == 0
    with pytest.raises(SettingsError, match="only the value 0"):
        study(label_name="rhoda", output_dir=tmp_path / "new")


def start_study(folder, cache_dir, *options):
    common = f"--cache-dir {cache_dir} --data-dir none --patient-ids 14,20 --buffer 10 --output-dir {folder}"
    return start("-m", "summer_train", "study", *common.split(), *options, cwd=folder.parent)


OPTIONS = ("--label-name", "summer,tom,office,indoor-setting", "--fold", "1-5", "--max-epochs", "8")


def test_a_killed_study_is_continued_to_the_same_table(demo_cache, tmp_path):
    """Killed after its first stacks; the rest is trained by the same command, and by one process without a kill."""
    killed = tmp_path / "killed"
    process = start_study(killed, demo_cache, *OPTIONS)
    while process.poll() is None and len(list(killed.glob("stacks/*.json"))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in killed.glob("stacks/*.json")}
    assert 3 <= len(before) < 10
    (killed / "stacks" / ".torn.json.staging").write_text("half")
    places = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": "14 20", "buffer": 10, "workers": 1}
    options = {**places, "label_name": OPTIONS[1], "fold": "1-5", "max_epochs": int(OPTIONS[-1])}
    finished = summer_train.study(**options, output_dir=killed)
    assert {path: path.read_bytes() for path in before} == before
    assert finished.n_trained == 20 - sum(len(json.loads(content)["models"]) for content in before.values())
    assert not list(killed.glob("**/.*.staging"))
    whole = summer_train.study(**options, output_dir=tmp_path / "whole")
    for row, expected in zip(finished.rows, whole.rows, strict=True):
        assert row["id"] == expected["id"]
        for name in ("test_loss", "val_loss", "test_auroc"):
            assert row[name] == pytest.approx(expected[name], abs=1e-5, nan_ok=True)


def test_ctrl_c_ends_a_study_soon_and_keeps_what_is_done(demo_cache, tmp_path):
    folder = tmp_path / "study"
    process = start_study(folder, demo_cache, *OPTIONS[:-1], "4000")
    while not any("to train" in line for line in iter(process.stderr.readline, "")):
        pass
    time.sleep(3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 130
    assert "Traceback" not in err, err


def test_damaged_records_are_trained_again_and_said(study, folder):
    expected = study(fold="1-2").rows
    first, second = sorted((folder / "stacks").glob("*.json"))
    first.write_bytes(first.read_bytes()[:100])
    second.write_text(second.read_text().replace('"best_epoch": 1', '"best_epoch": 2'))
    lines = []
    result = study(fold="1-2", log=lines.append)
    assert result.n_trained == 2
    assert all(any(f"{path}: damaged" in line for line in lines) for path in (first, second))
    assert [row["test_loss"] for row in result.rows] == [row["test_loss"] for row in expected]
    assert study(fold="1-2").n_trained == 0


def test_predictions_are_made_when_asked_for_and_do_not_stay_when_the_data_change(study, folder, monkeypatch):
    (row,) = study().rows
    assert not (folder / "predictions").exists()
    assert [study(keep_predictions=True).n_trained for _ in range(2)] == [1, 0]
    assert predictions_path(folder, row["id"]).exists()
    assert len(read_results_of(folder)) == 1  # one model has one record, whoever reads the folder
    real, lines = Selection.provenance, []
    monkeypatch.setattr(Selection, "provenance", lambda self, *of: {**real(self, *of), "rebuilt": "since then"})
    assert study(log=lines.append).n_trained == 1
    assert any("of other data" in line for line in lines)
    assert len(table(folder)) == 1
    assert not predictions_path(folder, row["id"]).exists()
    assert study().n_trained == 0


def test_streamed_counts_give_the_table_of_resident_ones(study, tmp_path, monkeypatch):
    used = []
    real = StreamedSamples.gather
    monkeypatch.setattr(StreamedSamples, "gather", lambda *args: used.__setitem__(slice(0, 1), [True]) or real(*args))
    common = {"label_name": "summer,tom", "window": (0.16, 0.08)}
    resident = study(**common, output_dir=tmp_path / "resident")
    assert used == []
    streamed = study(**common, output_dir=tmp_path / "streamed", device_memory=1e-6)
    assert used == [True]
    assert scores_of(resident.rows) == scores_of(streamed.rows)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"fold": "1-3,5"}, [{"fold": fold} for fold in (1, 2, 3, 5)]),
        ({"buffer": "4 8.5"}, [{"buffer_s": 4.0}, {"buffer_s": 8.5}]),
        ({"patient_ids": "14;20;14 20;all"}, [{"patient_ids": ids} for ids in (("14",), ("20",), ("14", "20"), ())]),
        ({"patient_ids": [14, 20]}, [{"patient_ids": ("14", "20")}]),
        ({"patient_ids": [[14], [14, 20], "all"]}, [{"patient_ids": ids} for ids in (("14",), ("14", "20"), ())]),
        ({"brain_regions": "A;H,EC;all"}, [{"brain_regions": names} for names in (("A",), ("H", "EC"), ())]),
        ({"window": "0,0;0.8,0.72"}, [{"window_s": (0.0, 0.0)}, {"window_s": (0.8, 0.72)}]),
        ({"window": [(0, 0), (0.8, 0.72)]}, [{"window_s": (0.0, 0.0)}, {"window_s": (0.8, 0.72)}]),
        ({"window": "-0.32 0.32"}, [{"window_s": (-0.32, 0.32)}]),
        ({"patient_ids": [np.array(["14"]), pd.Series([14, 20])]}, [
            {"patient_ids": ("14",)}, {"patient_ids": ("14", "20")}
        ]),
        ({"window": np.array([[0, 0], [0.8, 0.72]])}, [{"window_s": (0.0, 0.0)}, {"window_s": (0.8, 0.72)}]),
        ({"fold": np.arange(1, 3), "label_name": np.array(["tom"])}, [
            {"fold": 1, "label_name": "tom"}, {"fold": 2, "label_name": "tom"}
        ]),
        ({"single_units": np.array([False, True]), "seed": np.int64(3)}, [
            {"single_units": False, "seed": 3}, {"single_units": True, "seed": 3}
        ]),
        ({"patient_ids": {14: 0, 20: 0}.keys()}, [{"patient_ids": ("14", "20")}]),
        ({"single_units": "no,yes"}, [{"single_units": False}, {"single_units": True}]),
        ({"model": "mlp,linear", "hidden_size": 8}, [
            {"model": "mlp", "hidden_size": 8}, {"model": "linear", "hidden_size": 64}
        ]),
        ({"model": ["mlp", "linear"], "hidden_size": [8, 16]}, [
            {"model": "mlp", "hidden_size": 8}, {"model": "mlp", "hidden_size": 16}, {"model": "linear"}
        ]),
        ({"split": "random,blocked", "buffer": "4,8"}, [
            {"split": "random", "buffer_s": None}, {"buffer_s": 4.0}, {"buffer_s": 8.0}
        ]),
    ],
    ids=str,
)  # fmt: skip
def test_lists_are_every_combination_once(written, expected):
    choices = choices_of({"task": "label", **written})
    assert len(choices) == len(expected)
    for choice, values in zip(choices, expected, strict=True):
        assert {name: getattr(choice, name) for name in values} == values
        assert json.loads(json.dumps(choice.as_plain())) == choice.as_plain()  # plain Python, whatever was given


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "1-6"}, "--fold 6"),
        ({"fold": "5-1"}, "--fold 5-1: must be like 3 or 1-5"),
        ({"seed": "0-9999999"}, "--seed 0-9999999"),
        ({"label_name": "summer,sumer"}, "no label 'sumer'"),
        ({"patient_ids": "14;;20"}, "'14;;20': has an empty item"),
        ({"window": "-0.3 0.4"}, "-0.3 s is no multiple of the bin length of 80 ms"),
        ({"patient_ids": "14;15"}, "15"),
        ({"window": "0.8"}, "--window 0.8: must be two numbers"),
        ({"task": "next_bin", "window": "0 0.08"}, "would see what it predicts"),
        ({"model": "linear", "batch_size": 8}, "--batch-size: has no effect on --model linear"),
        ({"loss": "poisson"}, "--loss: has no effect on --task label"),
        ({"split": "random", "buffer": 4}, "--buffer: has no effect on --split random"),
        ({"shifts": 5, "task": "next_bin"}, "--shifts 5: a null of shifted labels needs --task label"),
        ({"shifts": 10_000_000}, "--shifts 10000000"),
        ({"shifts": -1}, "--shifts -1: must be 0 or more"),
        ({"workers": 0}, "--workers 0: must be 1 or more"),
        ({"lr": float("nan")}, "--lr nan"),
    ],
)
def test_wrong_lists_are_one_line_and_leave_nothing(options, message, study, folder):
    with pytest.raises(SettingsError) as caught:
        study(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_a_study_says_what_memory_it_will_need_and_takes_no_more_processes_than_fit(study, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(studies, "available_bytes", lambda: 0.7e9)
    study(fold="1-2", workers=2, log=lines.append)
    assert any("on 1 processes (of 2: more do not fit): about 0." in line for line in lines)
    monkeypatch.setattr(studies, "available_bytes", lambda: 0.3e9)
    with pytest.raises(SettingsError, match=r"needs about 0\.\d GB of memory, 0\.3 GB are free"):
        study(output_dir=tmp_path / "other")


def test_records_of_another_version_are_refused(studied_copy, study):
    (path,) = (studied_copy / "stacks").glob("*.json")
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(SettingsError, match="another version"):
        study()
    assert settings_from(StudyRun, {}).output_dir == Path("study")
    assert read_stacks(studied_copy / "nothing", print) == {}


def test_the_tables_of_a_study_stay_as_they_were_to_the_byte(golden, tmp_path):
    records = [record for of_file in read_stacks(golden / "study", print).values() for record in of_file]
    write_tables(tmp_path, records)
    for name in ("study.csv", "curves.csv", "shifts.csv", "units.csv"):
        assert (tmp_path / name).read_bytes() == (golden / "study" / name).read_bytes(), name
    # What later versions know of a model follows behind all columns.
    write_tables(tmp_path, [replace(record, date="2026-01-01T00:00:00+00:00") for record in records])
    before, after = ((place / "study.csv").read_text().splitlines()[0] for place in (golden / "study", tmp_path))
    assert after == f"{before},date,command,version"


def test_names_of_one_model_are_one_model(study):
    assert study(patient_ids="14;sub-14", label_name="summer").n_trained == 1
    result = study(patient_ids=14, label_name="all,summer")
    assert len(result.rows) == len({row["id"] for row in result.rows}) == 53


def test_a_diverged_model_is_a_row_with_the_reason_and_not_trained_again(study):
    options = {"max_epochs": 3, "task": "next_bin", "lr": 1e18, "keep_predictions": True}
    (row,) = study(**options).rows
    assert "diverged" in row["why_undefined"]
    assert "test_loss" not in row
    assert study(**options).n_trained == 0


def test_a_study_without_a_test_part_shows_validation(study):
    result = study(buffer=None, val_fraction=0.2, label_name="summer,tom")
    shown = summary_tables(summarise(read_models(result.folder))["groups"])["label"]
    assert list(shown.header[:4]) == ["label name", "units", "models", "val kappa"]
    by_label = {row["label_name"]: f"{row['val_auroc']:.3f}" for row in result.rows}
    assert {row[0]: row[shown.header.index("val AUROC")] for row in shown.rows} == by_label


def test_a_region_that_exists_but_not_here_is_a_row_and_a_slip_is_an_error(study):
    (fine, lacking) = study(patient_ids=14, brain_regions="all;PRC").rows
    assert math.isfinite(fine["test_auroc"])
    assert "no unit is there" in lacking["why_undefined"]
    with pytest.raises(SettingsError, match="--brain-regions XX: no unit is there; found are"):
        study(patient_ids=14, brain_regions="all;XX")


def test_a_script_that_a_worker_runs_once_more_is_told_so(study, monkeypatch):
    """As multiprocessing runs a script without a main guard in each new process."""
    process = type("Process", (), {"name": "ForkServerProcess-1"})
    monkeypatch.setattr("summer_train.studies.choices.current_process", lambda: process)
    with pytest.raises(SettingsError, match="below `if __name__ == '__main__':`, or without further processes"):
        study(workers=2)
    assert study().n_trained == 1


def test_a_record_with_any_bit_changed_is_told_in_one_line(studied_copy):
    (path,) = studied_copy.glob("stacks/*.json")
    content, expected = path.read_bytes(), repr(read_stacks(studied_copy, print))
    for place in np.random.default_rng(0).choice(len(content), 200, replace=False):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        lines = []
        try:
            found = read_stacks(studied_copy, lines.append)
        except SettingsError as error:
            lines.append(str(error))
        if lines:
            (line,) = lines
            assert str(path) in line
            assert "\n" not in line
        else:  # the name of the digest, which files of before do not have
            assert repr(found) == expected


def test_what_cannot_be_read_is_neither_deleted_nor_trained_again(studied_copy, study, monkeypatch):
    (path,) = studied_copy.glob("stacks/*.json")
    before = {one: one.read_bytes() for one in studied_copy.rglob("*") if one.is_file()}

    def failing(real, broken, named, *arguments, **options):
        if named == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(named, *arguments, **options)

    for broken in (path, path.parent):
        with monkeypatch.context() as patch:
            patch.setattr("io.open", partial(failing, io.open, broken))
            patch.setattr("os.listdir", partial(failing, os.listdir, broken))
            for read in (lambda: study(label_name="tom"), lambda: read_results_of(studied_copy)):
                with pytest.raises(SettingsError, match=f"{broken}: cannot be read .*error"):
                    read()
    assert {one: one.read_bytes() for one in before} == before


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize("older", ["2026-01-01T00:00:00+00:00", ""])
def test_of_equal_records_the_latest_counts_whatever_its_file_is_called(names, older, studied_copy, study):
    (path,) = studied_copy.glob("stacks/*.json")
    (record,) = read_stacks(studied_copy, print)[path]
    path.unlink()
    for name, date in zip(names, ("2026-01-02T00:00:00+00:00", older), strict=True):
        write_stack(studied_copy, name, [replace(record, date=date)])
    (found,) = read_results_of(studied_copy)
    (row,) = study(patient_ids=14).rows
    assert (found.date, row["date"]) == ("2026-01-02T00:00:00+00:00",) * 2
    assert [one.stem for one in studied_copy.glob("stacks/*.json")] == [names[0]]


def test_a_damaged_record_of_another_list_is_left_as_it_is(studied_copy, study):
    (path,) = studied_copy.glob("stacks/*.json")
    path.write_bytes(path.read_bytes().replace(b"best_epoch", b"best epoch"))
    before, lines = path.read_bytes(), []
    assert study(label_name="tom", log=lines.append).n_trained == 1
    assert path.read_bytes() == before
    assert sum(f"{path}: damaged" in line and "left as it is" in line for line in lines) == 1
    assert not any("trained again" in line for line in lines)


def test_predictions_stay_where_a_later_file_has_their_model(studied_copy, study):
    """A killed study may leave a model twice: of other data in one file, of these in another."""
    (path,) = studied_copy.glob("stacks/*.json")
    ((record,),) = read_stacks(studied_copy, print).values()
    write_stack(studied_copy, "0", [replace(record, data_digest="other")])  # read first
    kept = predictions_path(studied_copy, record.id)
    kept.parent.mkdir()
    kept.write_bytes(b"")
    assert study(patient_ids=14).n_trained == 0
    assert kept.exists()
    assert list(read_stacks(studied_copy, print)) == [path]


def test_a_stack_that_fails_takes_no_other_along_and_a_moved_folder_ends_the_study(
    study, folder, tmp_path, monkeypatch
):
    real, lines = studies.train_stack, []

    def train_stack(datas, *arguments):
        if datas[0].choice.fold == 2:
            raise MemoryError("no more")
        return real(datas, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "train_stack", train_stack)
        with pytest.raises(SettingsError, match="1 stacks of models failed, the first with: .*MemoryError: no more"):
            study(fold="1-3", log=lines.append)
    assert any("MemoryError: no more" in line and "fold 2, summer" in line for line in lines)
    assert [row["fold"] for row in table(folder)] == ["1", "3"]
    assert study(fold="1-3").n_trained == 1
    monkeypatch.setattr(studies, "train_stack", lambda *given: folder.rename(tmp_path / "moved") and real(*given))
    with pytest.raises(SettingsError, match="study: was moved or removed"):
        study(fold="4")
    assert not folder.exists()


def test_too_many_models_are_refused_before_any_data_are_prepared(study, monkeypatch):
    monkeypatch.setattr("summer_train.studies.plan.FilmSamples", None)
    with pytest.raises(SettingsError, match="more than 100000 models"):
        study(label_name="all", fold="1-5", shifts=1000)


def test_a_study_trains_labels_and_the_preset_sets_what_is_not_given():
    assert inspect.signature(summer_train.study).parameters["task"].default == "label"
    (paper,) = studies.study_choices({"preset": "paper"})
    assert (paper.model, paper.bin_length_ms, paper.window_s, paper.batch_size) == ("lstm", 80, (0.8, 0.72), 128)
    own = settings_from(Choice, {"task": "label", "preset": "paper", "batch_size": 32})
    assert (own.model, own.batch_size) == ("lstm", 32)


@pytest.mark.parametrize("name", ["stacks", "predictions"])
def test_a_folder_that_cannot_be_written_is_one_line(name, study, folder):
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(SettingsError, match="another process is at work"):
        study()
    (folder / name).write_text("in the way")
    with pytest.raises(SettingsError, match=f"{name}: cannot be read|study: cannot be written"):
        study(keep_predictions=True)


def test_a_study_of_which_no_model_is_defined_is_a_table_with_the_reasons(study, folder):
    rows = study(label_name="summer", fold=1, lr=1e30).rows
    assert "diverged" in rows[0]["why_undefined"]
    facts = summarise(summer_train.report(folder))
    assert np.isnan(facts["groups"][0]["mean"]["kappa"])


def test_a_report_says_that_its_models_are_of_other_data(study, folder):
    lines = []
    study(label_name="summer", fold="1,2")
    stacks = read_stacks(folder, lines.append)
    for path, found in stacks.items():
        write_stack(folder, path.stem, [replace(one, data_digest=str(one.columns["fold"])) for one in found])
    read_models(folder, log=lines.append)
    assert any("2 states of the data" in line for line in lines)
