"""Training: blocks equal the plain loop, each sample once an epoch, runs repeat, decoding finds what is there."""

import csv
import json
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import summer_prep
from summer_prep.errors import SettingsError
from summer_prep.options import plain
from summer_train import decoder, evaluate, film_data, fit, open_selection
from summer_train.data.batches import OrderedBlocks, ResidentSamples, ShuffledBlocks
from summer_train.data.module import FilmData
from summer_train.runs.fit import run_fit
from summer_train.runs.folder import origin
from summer_train.settings.options import Choice, Run, settings_from


def data_of(options):
    choice = settings_from(Choice, options)
    selection = open_selection(options["cache_dir"], choice.patient_ids, choice.bin_length_ms)
    return FilmData(selection, choice)


def samples_of(n_bins, n_units=3, labels=False):
    counts = (torch.arange(n_bins * n_units).reshape(n_bins, n_units) % 251).to(torch.uint8)
    targets = torch.arange(n_bins, dtype=torch.uint8) if labels else counts
    return ResidentSamples(counts=counts, targets=targets, target_offset=0 if labels else 1)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 1000])
def test_every_training_sample_is_visited_once_per_epoch_in_an_order_of_seed_and_epoch(batch_size):
    indices = np.arange(3, 200, 2)
    first, again, second, other_seed = (order(indices, batch_size, *one) for one in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert sorted(first) == sorted(second) == indices.tolist()
    assert first == again
    assert first not in (second, other_seed)


def order(indices, batch_size, seed, epoch):
    common = {"samples": samples_of(256, labels=True), "indices": indices, "batch_size": batch_size}
    blocks = ShuffledBlocks(**common, seed=seed, current_epoch=lambda: epoch)
    return torch.cat([block.targets for block in blocks]).tolist()


def test_next_bin_target_is_the_following_row():
    samples = samples_of(50)
    for block in OrderedBlocks(samples=samples, indices=np.arange(0, 49, 3)):
        assert torch.equal(block.counts, samples.counts[0:49:3])
        assert torch.equal(block.targets, samples.counts[1:50:3])


def plain_loop(options, data):
    """Train as the published pipeline does: one sample batch, one step at a time, nothing clever."""
    torch.manual_seed(data.choice.seed)
    n_outputs = data.task.n_outputs
    net = nn.Sequential(
        nn.Linear(data.n_units, data.choice.hidden_size), nn.ReLU(), nn.Linear(data.choice.hidden_size, n_outputs)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=data.choice.lr)
    counts = data.samples.counts
    for epoch in range(options["max_epochs"]):
        order = np.random.default_rng([data.choice.seed, epoch]).permutation(data.split.train)
        for start in range(0, len(order), data.choice.batch_size):
            batch = order[start : start + data.choice.batch_size]
            prediction = net(counts[batch].float())
            if data.task.name == "next_bin":
                loss = nn.functional.mse_loss(prediction, counts[batch + 1].float())
            else:
                loss = nn.functional.cross_entropy(prediction, data.samples.targets[batch].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_blocks_of_steps_give_the_weights_of_the_plain_loop(task, options):
    settings = options(task=task, batch_size=19)
    result = fit(**settings)
    expected = plain_loop(settings, data_of(settings))
    last = torch.load(result.last_checkpoint, weights_only=True)
    n_steps = 2 * -(-result.n_samples["train"] // 19)
    assert last["global_step"] == n_steps
    for name, weights in expected.items():
        torch.testing.assert_close(last["state_dict"][f"net.{name}"], weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(task, options):
    def weights(seed):
        return torch.load(fit(**options(task=task, seed=seed)).last_checkpoint, weights_only=True)["state_dict"]

    first, second, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


def test_run_leaves_metrics_settings_and_both_checkpoints(options, monkeypatch):
    started = datetime.now(UTC).replace(microsecond=0)
    result = fit(**options(task="label"))
    assert result.log_dir.parent.name == "dhv_label"
    with (result.log_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train_loss", "val_loss", "test_loss", "train_accuracy", "val_accuracy", "test_accuracy"):
        assert [float(row[name]) for row in rows if row[name]], name
    assert "patient_ids:\n- '14'\n- '20'" in (result.log_dir / "hparams.yaml").read_text()
    for path in (result.best_checkpoint, result.last_checkpoint):
        assert torch.load(path, weights_only=True)["epoch"] in (0, 1)
    stored = json.loads((result.log_dir / "results.json").read_text())
    assert started <= datetime.fromisoformat(stored["date"]) <= datetime.now(UTC)
    assert stored["command"] == "python"
    assert re.fullmatch(rf"{summer_prep.__version__}(\+[0-9a-f]+)?", stored["software"]["summer"])
    said = ("label summer", "14 20", "20 units", f"{result.n_samples['test']} test", "test kappa", str(result.log_dir))
    assert all(part in repr(result) for part in said)
    assert "\n" not in repr(result)
    for program in ("/usr/bin/summer-train", "/somewhere/summer_train/__main__.py"):
        monkeypatch.setattr("sys.argv", [program, "fit", "--label-name", "two words"])
        assert origin()["command"] == "summer-train fit --label-name 'two words'"
    (line,) = repr(data_of(options())).splitlines()
    assert all(part in line for part in ("FilmData", "next bin", "14 20", "20 units", " train "))


def test_baselines_and_logged_losses_are_what_their_names_say(options):
    settings = options(task="next_bin", max_epochs=1)
    data = data_of(settings)
    result = fit(**settings)
    scores = result.scores
    with (result.log_dir / "metrics.csv").open() as file:
        (logged,) = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert logged == pytest.approx(scores["model"]["val"]["loss"], rel=1e-5)  # of the whole part
    counts = data.samples.counts.numpy().astype(float)
    test = data.split.test
    copied = ((counts[test] - counts[test + 1]) ** 2).mean()
    mean = ((counts[data.split.train + 1].mean(axis=0) - counts[test + 1]) ** 2).mean()
    assert scores["copy last bin"]["test"]["loss"] == pytest.approx(copied, rel=1e-5)
    assert scores["mean count"]["test"]["loss"] == pytest.approx(mean, rel=1e-5)
    settings = options(task="label", max_epochs=1)
    data = data_of(settings)
    labels = data.samples.targets.numpy()
    majority = np.bincount(labels[data.split.train]).argmax()
    accuracy = fit(**settings).scores["majority class"]["test"]["accuracy"]
    assert accuracy == pytest.approx((labels[data.split.test] == majority).mean(), rel=1e-5)


def test_undefined_bins_are_left_out_by_default_and_a_class_when_asked(options):
    dropped = data_of(options(task="label", label_name="indoor-setting"))
    kept = data_of(options(task="label", label_name="indoor-setting", undefined="class"))
    assert (dropped.task.n_outputs, kept.task.n_outputs) == (2, 3)
    used = np.concatenate(list(vars(dropped.split).values()))
    assert set(dropped.samples.targets[used].tolist()) == {0, 1}
    assert len(kept.split.train) > len(dropped.split.train)
    assert fit(**options(task="label", label_name="indoor-setting", undefined="class")).scores["model"]["train"]


@pytest.mark.parametrize(("changes", "is_said"), [({}, True), ({"batch_size": 8192}, False), ({"devices": 2}, False)])
def test_all_gpus_for_small_batches_are_said_to_be_slower_than_one(changes, is_said, options, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("summer_train.runs.processes.prepare_processes", lambda _n_devices: True)
    monkeypatch.setattr("summer_train.runs.fit.new_decoder", lambda *_: 1 / 0)
    lines = []
    options = options(**changes)
    with pytest.raises(ZeroDivisionError):
        run_fit(settings_from(Choice, options), settings_from(Run, options), lines.append)
    assert any("4 GPUs; --devices 1 is faster" in line for line in lines) == is_said


def test_settings_from_numpy_and_pandas_are_as_those_of_python(options, tmp_path):
    common = options(task="label", label_name="tom", single_units=True, max_epochs=1)
    own = fit(**common)
    names = {
        name: np.array([common[name]])[0] for name in ("task", "label_name", "single_units", "max_epochs", "buffer")
    }
    places = {name: np.str_(common[name]) for name in ("cache_dir", "output_dir")}
    numpys = {**common, **names, **places, "patient_ids": np.array([14, 20]), "model": pd.Series(["mlp"]).iloc[0]}
    result = fit(**numpys, sequence=np.array([3, 1]), logger=np.array(["csv"]))
    assert result.config == own.config
    assert evaluate(result.best_checkpoint).scores == own.scores
    assert fit(config=result.log_dir, output_dir=tmp_path / "again").scores == own.scores
    data = film_data(**{name: value for name, value in numpys.items() if name not in ("output_dir", "max_epochs")})
    assert decoder(data, hidden_size=np.int64(5), lr=np.float32(0.5)).lr == 0.5
    selection = open_selection(
        numpys["cache_dir"], pd.Index(["14", "20"]), np.int64(80), np.array(["A"]), np.bool_(False)
    )
    assert selection.labels(np.str_("tom")).any()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.str_("tom"), "tom"),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        ([np.int64(1), (np.str_("a"),)], [1, ("a",)]),
        (np.array([np.str_("a"), None], dtype=object), ["a", None]),
        (pd.Series(["a"]), ["a"]),
        (torch.tensor(3), 3),
        ("tom", "tom"),
        (None, None),
    ],
)
def test_what_numpy_pandas_and_torch_hold_becomes_plain(value, expected):
    made = plain(value)
    assert made == expected
    assert repr(made) == repr(expected)


def test_label_with_one_class_in_training_is_refused(options):
    settings = options(task="label", label_name="rhoda")
    labels = data_of(options(task="label")).samples.targets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("summer_train.data.selection.Selection.labels", lambda *_: np.zeros(len(labels), dtype=np.uint8))
        with pytest.raises(SettingsError, match="label rhoda has only the value 0 in the .* training bins"):
            data_of(settings)


def test_bins_that_were_never_seen_are_left_out(options, monkeypatch):
    recorded_share = np.ones(7047)
    recorded_share[[100, 3000]] = 0
    monkeypatch.setattr("summer_train.data.selection.Selection.recorded_share", lambda _: recorded_share)
    for task in ("next_bin", "label"):
        data = data_of(options(task=task))
        used = np.concatenate(list(vars(data.split).values()))
        touched = {100, 3000} if task == "label" else {99, 100, 2999, 3000}
        assert not touched & set(used.tolist())
        assert data.notes == ["left out 2 bins that a patient never saw"]


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_streamed_training_gives_the_weights_of_resident_training(task, options, monkeypatch):
    monkeypatch.setattr("summer_train.data.batches.BLOCK_SAMPLES", 512)  # many blocks, so that buffers are used again
    lines = []
    resident = fit(**options(task=task))
    streamed = fit(log=lines.append, **options(task=task, device_memory=1e-6))
    assert any("streaming" in line for line in lines)
    expected = torch.load(resident.last_checkpoint, weights_only=True)["state_dict"]
    weights = torch.load(streamed.last_checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert streamed.scores == resident.scores


def test_what_does_not_fit_into_memory_is_refused_before_the_work(options, tmp_path, monkeypatch):
    data = data_of({name: value for name, value in options().items() if name in ("cache_dir", "patient_ids", "buffer")})
    n_kept = data.n_samples["val"] + data.n_samples["test"]
    assert data.n_prediction_bytes == n_kept * data.n_units * 5  # a float32 and a uint8 each
    monkeypatch.setattr("summer_train.runs.fit.available_bytes", lambda: float(data.n_prediction_bytes))
    with pytest.raises(SettingsError, match=r"training takes .* of them predictions.*; .* are free"):
        fit(**options())
    assert not (tmp_path / "logs").exists()
