"""--config: what a run wrote is what another one takes, and what is given beside it goes first. --logger."""

import json
import os
import shutil
import sys

import pytest
import yaml

import summer_train
from summer_prep.errors import SettingsError
from summer_train.settings.file import for_study, with_config
from summer_train.settings.options import Choice, Run, options_of, settings_from


def write(path, **settings):
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def common(demo_cache, tmp_path):
    return {"cache_dir": demo_cache, "data_dir": "none", "output_dir": tmp_path / "logs"}


def test_a_run_is_repeated_from_its_file_with_equal_scores(common, run, tmp_path):
    first = summer_train.fit(
        task="label", label_name="tom", patient_ids=[14, 20], buffer=10, fold=2, window=(0.16, 0.08), seed=3,
        brain_regions="A", max_epochs=2, **common,
    )  # fmt: skip
    again = summer_train.fit(config=first.log_dir)
    assert {**again.config} == {**first.config}
    assert again.scores["model"] == first.scores["model"]
    other = run("summer_train", "fit", "--config", first.log_dir / "hparams.yaml", "--seed", "4", "--max-epochs", "1")
    assert other.returncode == 0, other.stderr
    newest = first.log_dir.parent / "version_2"
    stored = yaml.safe_load((newest / "hparams.yaml").read_text())
    assert stored == {**first.config, "seed": 4, "max_epochs": 1}


def test_every_setting_of_a_run_is_one_that_a_file_may_hold(tmp_path):
    choice, run = Choice(task="label", val_fraction=0.2), Run(preset="paper", resume=True, patience=3)
    taken = with_config({"config": write(tmp_path / "run.yaml", **choice.as_plain(), **run.as_plain())})
    assert taken.keys() <= options_of(Choice, Run).keys()
    assert settings_from(Choice, taken) == choice
    assert settings_from(Run, taken) == Run(patience=3)  # a preset is in the other settings; to resume was said once


@pytest.mark.parametrize(
    ("stored", "given", "left"),
    [
        ({"buffer_s": 32.0, "fold": 2}, {"val_fraction": 0.2}, {"val_fraction": 0.2}),
        ({"val_fraction": 0.2}, {"fold": 3}, {"fold": 3}),
        ({"task": "label", "label_name": "tom"}, {"task": "next_bin"}, {"task": "next_bin"}),
        ({"hidden_size": 128}, {"model": "linear"}, {"model": "linear"}),
        ({"buffer_s": 20.0, "sequence_s": [5.0, 1.0]}, {"split": "random"}, {"split": "random"}),
        ({"patient_ids": ["14"]}, {"nwb_path": "x.nwb"}, {"nwb_path": "x.nwb"}),
        ({"patience": 3}, {"patience": None}, {"patience": None}),
        ({"task": "label", "lr": 0.1, "batch_size": 8}, {"preset": "paper"}, {"lr": 0.1, "batch_size": 128}),
        ({"task": "label", "preset": "paper"}, {}, {"model": "lstm", "batch_size": 128}),
        ({"nwb_path": "x.nwb", "patient_ids": ["14"]}, {"patient_ids": 20}, {"patient_ids": 20}),
        ({"split": "random"}, {"buffer": 10.0}, {"buffer": 10.0}),
        ({"hidden_size": 64, "model": "mlp"}, {"model": ["linear"]}, {"model": ["linear"]}),
        ({"lr": "1e-3"}, {}, {"lr": 0.001}),
    ],
)
def test_what_is_given_goes_first_and_leaves_behind_what_it_makes_idle(stored, given, left, tmp_path):
    taken = with_config({**given, "config": write(tmp_path / "run.yaml", **stored)})
    assert left.items() <= taken.items()
    assert not {"buffer", "sequence", "hidden_size", "label_name", "patient_ids"} & taken.keys() - left.keys()
    assert taken.get("split") != "random" or "buffer" not in given
    if "nwb_path" not in taken and not isinstance(taken.get("model"), list):
        settings_from(Choice, taken)


def test_a_run_on_one_file_is_repeated_on_that_file(demo_dir, tmp_path):
    (recording,) = demo_dir.glob("**/*sub14*.nwb")
    options = {"cache_dir": tmp_path / "cache", "output_dir": tmp_path / "logs", "data_dir": tmp_path / "none"}
    common = {**options, "buffer": 10, "max_epochs": 1, "bin_length": 200}
    first = summer_train.fit(nwb_path=recording, **common)
    shutil.rmtree(tmp_path / "cache")
    again = summer_train.fit(config=first.log_dir)
    assert again.scores["model"] == first.scores["model"]
    named = summer_train.fit(nwb_path="gone.nwb", patient_ids=14, **common)
    assert named.config["nwb_path"] is None  # it was not used


def test_only_a_plain_file_of_moderate_size_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").write_bytes(b"#" * 2_000_000)
    for path in (tmp_path / "fifo", tmp_path / "huge", "/dev/zero"):
        with pytest.raises(SettingsError, match="is not a file of settings"):
            with_config({"config": path})
    with pytest.raises(SettingsError, match=r"gone.yaml: cannot be read \(No such file.*\)\. Name the hparams.yaml of"):
        with_config({"config": tmp_path / "gone.yaml"})


def test_what_a_file_sets_can_be_taken_back(common, run, tmp_path):
    places = {name: str(path) for name, path in common.items()}
    config = write(tmp_path / "run.yaml", patient_ids=["14"], single_units=True, buffer_s=10.0, max_epochs=1, **places)
    assert with_config({"config": config})["single_units"] is True
    fitted = run("summer_train", "fit", "--config", config, "--no-single-units", "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["config"]["single_units"] is False


def test_a_study_takes_a_run_as_its_base(common, tmp_path):
    fitted = summer_train.fit(task="label", patient_ids=14, buffer=10, window=(0.08, 0.08), max_epochs=1, **common)
    taken = for_study({"label_name": "summer,tom"}, fitted.log_dir)
    assert "output_dir" not in taken
    study = summer_train.study(
        config=fitted.log_dir, label_name="summer,tom", fold="1-2", output_dir=tmp_path / "study", workers=1
    )
    assert len(study.rows) == 4
    assert {(row["buffer"], row["window"], row["max_epochs"], row["patient_ids"]) for row in study.rows} == {
        (10.0, "0.08 0.08", 1, "14")
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2", "it is not YAML"), ("- 1\n- 2", "not a file of settings"), ("buffers: 3", "no option 'buffers'"),
        ("!!python/object/apply:os.system ['true']", "it is not YAML"), ("logger: [mlflow]", "choose one of csv"),
        ("output_dir: {a: 1}", "--output-dir"), ("seed: !!int abc", "it is not YAML"),
        ("preset: papr", "choose one of"), ("preset: [paper]", "choose one of"),
        ("buffer: 4\nbuffer_s: 8", "buffer stands there twice"), ("task: label\nlr: fast", "--lr"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_one_line(content, says, tmp_path, demo_cache):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(SettingsError, match="^[^\n]*$") as raised:
        summer_train.fit(config=tmp_path / "run.yaml", cache_dir=demo_cache, data_dir="none")
    assert says in str(raised.value)


def test_tensorboard_gets_what_metrics_csv_gets(common):
    pytest.importorskip("tensorboard", reason="needs: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted = summer_train.fit(task="label", patient_ids=14, buffer=10, max_epochs=2, logger="csv,tensorboard", **common)
    events = EventAccumulator(str(fitted.log_dir / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("val_loss")]
    rows = summer_train.runs.folder.read_metrics(fitted.log_dir / "metrics.csv")
    assert losses == pytest.approx([float(row["val_loss"]) for row in rows])


def test_tensorboard_gets_a_run_for_each_model_of_a_study(common):
    pytest.importorskip("tensorboard", reason="needs: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    own = {"patient_ids": 14, "buffer": 10, "max_epochs": 2, "workers": 1, "fold": "1,2", "logger": "tensorboard"}
    summer_train.study(**common, **{**own, "logger": "csv"})
    rows = summer_train.study(**common, **own).rows  # also of models that were trained before
    for row in rows:
        events = EventAccumulator(str(common["output_dir"] / "tensorboard" / row["id"]))
        events.Reload()
        assert len(events.Scalars("val_loss")) == 2
        assert events.Scalars("test_kappa")[0].value == pytest.approx(row["test_kappa"])


def test_weights_and_biases_is_lightnings_own_or_one_line_where_it_is_not_installed(common, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(SettingsError, match=r"--logger wandb needs.*pip install wandb"):
            summer_train.fit(patient_ids=14, buffer=10, logger="wandb", **common)
    assert not common["output_dir"].exists()
    pytest.importorskip("wandb", reason="needs: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fitted = summer_train.fit(task="label", patient_ids=14, buffer=10, max_epochs=1, logger="wandb", **common)
    assert list((fitted.log_dir / "wandb").glob("offline-run-*/*.wandb"))
