"""Checkpoints: plain, telling what they were trained on; interrupted runs continue to the same weights."""

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from summer_prep.cache.layout import key_path
from summer_prep.errors import CacheError, SettingsError
from summer_train import evaluate, fit, study
from summer_train.runs.folder import MetricsFile, find_results, new_folder
from tests.conftest import error_line, flip_a_byte, start


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def equal_checkpoints(one, other):
    """Whether two runs have the same weights in both of their checkpoints."""
    (best, last), (other_best, other_last) = (
        (weights(run.best_checkpoint), weights(run.last_checkpoint)) for run in (one, other)
    )
    return all(torch.equal(best[name], other_best[name]) and torch.equal(last[name], other_last[name]) for name in best)


def test_a_checkpoint_says_what_it_was_trained_on_and_is_evaluated_to_the_scores_of_its_run(options, places):
    result = fit(**options(task="label", brain_regions=("A", "H", "EC", "PHC")))
    again = evaluate(result.best_checkpoint, **places)
    assert again.differences == []
    assert again.scores == result.scores
    assert evaluate(result.log_dir, **places, fold=1).differences == []  # the default, named
    summer = torch.load(result.best_checkpoint, weights_only=True)["summer"]
    assert summer["config"]["label_name"] == "summer"
    assert summer["config"]["buffer_s"] == 10.0
    assert summer["data"]["bin_length_ms"] == 80
    assert [patient["patient_id"] for patient in summer["data"]["patients"]] == ["14", "20"]
    for patient in summer["data"]["patients"]:
        assert len(patient["digests"]["spike_counts"]) == 64
    assert sum(len(patient["units"]) for patient in summer["data"]["patients"]) == result.n_units


def test_evaluating_on_other_data_says_what_differs_and_on_other_units_is_refused(options, places, run):
    checkpoint = fit(**options(task="label", max_epochs=1)).best_checkpoint
    typed = ("--cache-dir", places["cache_dir"], "--data-dir", places["data_dir"], "--fold", "3")
    other = run("summer_train", "evaluate", checkpoint, *typed)
    assert other.returncode == 0, other.stderr
    assert "differs from training: fold 1 then, 3 now" in other.stderr
    assert "test samples were trained on: not a score on unseen data" in other.stderr
    then = "10 of patient 14, 10 of patient 20"
    for patient_ids in ([29, 8], [20, 14], [29]):  # as many units, in another order, fewer
        now = ", ".join(f"10 of patient {one}" for one in patient_ids)
        said = rf"other units \({then}\) than .* now \({now}\).*inputs of its network"
        with pytest.raises(SettingsError, match=said):
            evaluate(checkpoint, patient_ids=patient_ids, **places)


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", "other"])
def test_what_is_no_checkpoint_of_ours_is_refused(content, places, tmp_path):
    path = tmp_path / "a.ckpt"
    if content == "other":
        torch.save({"state_dict": {}}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="no such checkpoint|damaged|not a checkpoint of summer-train fit"):
        evaluate(path, **places)


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_resumed_run_reaches_the_weights_of_one_that_was_not_interrupted(task, options, tmp_path):
    whole = fit(**options(task=task, max_epochs=5, output_dir=tmp_path / "whole"))
    fit(**options(task=task, max_epochs=2))
    resumed = fit(**options(task=task, max_epochs=5, resume=True))
    assert equal_checkpoints(resumed, whole)
    assert resumed.scores == whole.scores
    epochs = [line.split(",")[0] for line in (resumed.log_dir / "metrics.csv").read_text().splitlines()[1:]]
    assert set(epochs) >= set("01234")


def test_the_best_epoch_is_kept_until_the_last_one_also_when_a_run_is_moved_and_continued(
    options, monkeypatch, tmp_path
):
    """The best epoch is far from the last, and the output folder is relative, as by default."""
    monkeypatch.chdir(tmp_path)
    overfitting = {"task": "label", "lr": 0.005}
    first = fit(**options(**overfitting, max_epochs=6, output_dir=Path("logs")))
    with (first.log_dir / "metrics.csv").open() as file:
        losses = {int(row["epoch"]): float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]}
    best = min(losses, key=losses.get)
    assert 0 < best < 5
    assert torch.load(first.last_checkpoint, weights_only=True)["epoch"] == 5
    assert torch.load(first.best_checkpoint, weights_only=True)["epoch"] == best
    assert not list(first.log_dir.rglob("*.staging"))
    Path("logs").rename("moved")
    resumed = fit(**options(**overfitting, max_epochs=7, output_dir=Path("moved"), resume=True))
    whole = fit(**options(**overfitting, max_epochs=7, output_dir=Path("whole")))
    assert resumed.scores == whole.scores
    assert equal_checkpoints(resumed, whole)
    assert (resumed.log_dir / "metrics.csv").read_text() == (whole.log_dir / "metrics.csv").read_text()


@pytest.mark.parametrize("content", ["", "epo", "epoch,val_loss\n0,0.5\n1,"])
def test_run_with_torn_metrics_is_resumed(content, options, trained_once):
    (path,) = shutil.copytree(trained_once, options()["output_dir"]).glob("dhv/version_0/metrics.csv")
    path.write_text(content)
    assert fit(**options(max_epochs=3, resume=True)).log_dir == path.parent


def test_the_fraction_split_has_no_test_part_and_no_fold_to_evaluate(options, places):
    result = fit(**options(val_fraction=0.2, buffer=None, max_epochs=1))
    assert set(result.scores["model"]) == {"train", "val"}
    with pytest.raises(SettingsError, match="was trained with the fraction split, which has no folds"):
        evaluate(result.best_checkpoint, **places, fold=2)


def test_error_of_a_run_in_two_processes_is_one_line(demo_cache, run, tmp_path):
    options = ("--cache-dir", demo_cache, "--patient-ids", "14", "--buffer", "10", "--lr", "1e30", "--devices", "2")
    result = run("summer_train", "fit", *options, "--data-dir", tmp_path, cwd=tmp_path)
    assert "training diverged" in error_line(result)


def test_a_run_in_two_processes_has_a_null(demo_cache, run, tmp_path):
    options = (
        "--task",
        "label",
        "--cache-dir",
        demo_cache,
        "--patient-ids",
        "14",
        "--buffer",
        "10",
        "--max-epochs",
        "1",
    )
    more = ("--devices", "2", "--shifts", "2", "--bin-length", "1000", "--data-dir", tmp_path, "--json")
    result = run("summer_train", "fit", *options, *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["null"]["kappa"]) == 2


def test_a_finished_run_gives_its_results_again_and_a_killed_one_gets_them_by_resuming(options, tmp_path):
    first = fit(**options())
    (tmp_path / "logs" / "dhv" / "version_old").mkdir()
    lines = []
    for max_epochs in (1, 2):
        assert fit(log=lines.append, **options(max_epochs=max_epochs, resume=True)) == first
    assert f"{first.log_dir}: is finished, 2 epochs; these are its results" in lines[-1]
    (first.log_dir / "results.json").unlink()
    resumed = fit(**options(resume=True, fold=1))  # the default, named
    assert (resumed.scores, resumed.best_epoch, resumed.n_epochs) == (first.scores, first.best_epoch, 2)


def test_a_run_is_continued_with_its_settings_by_one_process_at_a_time(options):
    with pytest.raises(SettingsError, match="no run to continue"):
        fit(**options(resume=True))
    result = fit(**options())
    with pytest.raises(SettingsError, match="lr 0.001 then, 0.01 now"):
        fit(**options(lr=0.01, resume=True))
    with pytest.raises(SettingsError, match="patients 14 20 then, 14 now"):
        fit(**options(patient_ids=("14",), resume=True))
    with FileLock(result.log_dir / ".lock"), pytest.raises(SettingsError, match="another process is continuing"):
        fit(**options(max_epochs=3, resume=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("summer_train.runs.fit.score_networks", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(**options(max_epochs=3, resume=True))
    assert not (result.log_dir / "results.json").exists()  # they were of two epochs
    assert fit(**options(max_epochs=3, resume=True)).n_epochs == 3
    assert not (result.log_dir / ".lock").exists()


@pytest.fixture(scope="module")
def trained_once(demo_cache, tmp_path_factory):
    """The output folder of a run of the options of `options`; to be copied."""
    folder = tmp_path_factory.mktemp("once") / "logs"
    fit(
        cache_dir=demo_cache, data_dir="none", patient_ids=("14", "20"), buffer=10, hidden_size=8, max_epochs=2,
        output_dir=folder,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("change", "is_evaluated"),
    [
        (lambda checkpoint: checkpoint.pop("optimizer_states"), True),
        (lambda checkpoint: checkpoint.pop("loops"), True),
        (lambda checkpoint: checkpoint.pop("callbacks"), True),
        (lambda checkpoint: checkpoint.update(state_dict=None), False),
        (lambda checkpoint: checkpoint["summer"]["data"].update(patients=[{}]), False),
        (lambda checkpoint: checkpoint["summer"]["data"].pop("bin_length_ms"), False),
        (lambda checkpoint: checkpoint["summer"]["data"]["patients"][0].update(digests=None), False),
        *(
            (lambda checkpoint, odd=odd: checkpoint["summer"]["config"].update(odd), False)
            for odd in ({"task": "other"}, {"buffer_s": "far"}, {"fold": 9}, {"hidden_size": None}, {"lr": True})
        ),
    ],
)
def test_a_checkpoint_with_missing_or_odd_content_is_one_line(change, is_evaluated, options, places, trained_once):
    (folder,) = shutil.copytree(trained_once, options()["output_dir"]).glob("dhv/version_0")
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(SettingsError) as caught:
        fit(**options(max_epochs=3, resume=True))
    assert "\n" not in str(caught.value)
    if is_evaluated:
        assert evaluate(path, **places).scores
    else:
        with pytest.raises(SettingsError, match="last.ckpt: "):
            evaluate(path, **places)


def test_a_damaged_checkpoint_of_another_run_is_skipped_with_a_line(options):
    first, other = fit(**options()), fit(**options(lr=0.01))
    other.last_checkpoint.write_bytes(b"damaged")
    lines = []
    assert fit(log=lines.append, **options(max_epochs=3, resume=True)).log_dir == first.log_dir
    assert [line for line in lines if str(other.last_checkpoint) in line]
    first.last_checkpoint.write_bytes(b"damaged, too")
    with pytest.raises(SettingsError, match=f"{other.last_checkpoint}: damaged"):
        fit(**options(max_epochs=4, resume=True))


@pytest.mark.parametrize(
    "damage", ['{"scores": {"model": 5}}', '{"config": []}', '{"n_epochs": "x"}', "[" * 100_000], ids=range(4)
)
def test_damaged_results_are_no_results(damage, options, trained_once):
    (path,) = shutil.copytree(trained_once, options()["output_dir"]).glob("dhv/version_0/results.json")
    (expected,), lines = find_results(path.parent, print), []
    path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads(damage)}) if "{" in damage else damage)
    assert find_results(path.parent.parent, lines.append) == []
    assert len(lines) == 1
    assert f"{path}: damaged" in lines[0]
    assert fit(**options(resume=True)).scores == expected.scores


def test_what_of_a_run_cannot_be_read_is_not_taken_for_killed_or_empty(options, monkeypatch):
    result = fit(**options())
    new_folder(result.log_dir.parent)
    metrics, lines = result.log_dir / "metrics.csv", []
    before, real = metrics.read_bytes(), io.open

    def broken(path, *arguments, **named):
        if Path(path).parent == result.log_dir:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("io.open", broken)
        assert find_results(result.log_dir.parent, lines.append) == []
        with pytest.raises(SettingsError, match="metrics.csv: cannot be read"):
            MetricsFile(metrics, (), 2)
    assert ["results.json: cannot be read" in line for line in lines] == [True, False]
    assert "killed, or still at work" in lines[1]
    assert metrics.read_bytes() == before


def test_interrupted_run_leaves_a_last_checkpoint_that_continues_to_the_same_weights(options, demo_cache, tmp_path):
    typed = f"--cache-dir {demo_cache} --patient-ids 14 20 --hidden-size 8 --max-epochs 100000 --buffer 10"
    process = start("-m", "summer_train", "fit", *typed.split(), "--data-dir", "none", cwd=tmp_path)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            break
    time.sleep(0.02)
    for _ in range(3):
        # Python drops an interrupt that falls into a finalizer; a person would press the keys again, too.
        process.send_signal(signal.SIGINT)
        try:
            rest = process.communicate(timeout=15)[1]
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        process.kill()
        pytest.fail(process.communicate()[1][-2000:])
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "last.ckpt holds the last whole epoch; the same command with --resume continues" in rest
    last = tmp_path / "lightning_logs" / "dhv" / "version_0" / "checkpoints" / "last.ckpt"
    n_epochs = torch.load(last, weights_only=True)["epoch"] + 3
    resumed = fit(**options(max_epochs=n_epochs, output_dir=tmp_path / "lightning_logs", resume=True))
    assert resumed.last_checkpoint == last
    whole = fit(**options(max_epochs=n_epochs))
    assert all(torch.equal(tensor, weights(last)[name]) for name, tensor in weights(whole.last_checkpoint).items())


def test_verify_finds_a_changed_byte_before_training(demo_cache, options, tmp_path):
    key = key_path(tmp_path / "cache", "14", 80)
    shutil.copytree(key_path(demo_cache, "14", 80), key)
    flip_a_byte(key / "spike_counts" / "c" / "0" / "0")
    settings = {"cache_dir": tmp_path / "cache", "patient_ids": 14, "verify": True}
    for train in (fit, study):
        said = "spike_counts/c/0/0: its bytes were changed. Rebuild it: summer-prep build --force"
        with pytest.raises(CacheError, match=said):
            train(**{**options(), **settings})
    assert not (tmp_path / "logs").exists()


def test_stale_key_is_rebuilt_before_training_and_refused_where_it_cannot_be(demo_dir, demo_cache, options, tmp_path):
    data_dir, cache_dir = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(demo_dir / "sub-14", data_dir / "sub-14")
    shutil.copytree(demo_cache / "sub-14", cache_dir / "sub-14")
    (path,) = data_dir.rglob("*.nwb")
    with path.open("ab") as file:
        file.write(b"\0")
    lines = []
    settings = options(data_dir=data_dir, cache_dir=cache_dir, patient_ids=("14",), max_epochs=1)
    fit(log=lines.append, **settings)
    assert lines[0] == f"building patient 14 at 80 ms: the content of {path.name} changed"
    lines.clear()
    fit(log=lines.append, **settings)
    assert not lines[0].startswith("building")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("summer_prep.cache.fresh.ALGORITHM_VERSION", 2)
        path.unlink()
        with pytest.raises(Exception, match=r"stale \(algorithm version 1, now 2\), and its recording is not in"):
            fit(**settings)
