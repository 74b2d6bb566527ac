"""Networks of one's own: our scores for their outputs, our `fit` for their training, bins for what users look up."""

import copy
import re
import runpy
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from torch import nn

import summer_train
from summer_prep.errors import SettingsError
from summer_train import decoder
from summer_train.runs.folder import find_results, read_results


@pytest.fixture
def data(options):
    """Makes the data of a task, without the options of a run."""
    of_run = ("output_dir", "max_epochs", "hidden_size")
    return lambda **changes: summer_train.film_data(
        **{name: value for name, value in options(**changes).items() if name not in of_run}
    )


@pytest.mark.parametrize(("task", "output"), [("label", "log_odds"), ("next_bin", "score")])
def test_predictions_of_fit_get_its_scores_to_the_bit(task, output, options, data):
    result = summer_train.fit(**options(task=task))
    stored = result.predictions()
    again = summer_train.score(data(task=task), {part: stored[f"{part}_{output}"] for part in ("test", "val")})
    for part, scores in again.scores["model"].items():
        expected = dict(result.scores["model"][part])
        assert scores.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-12)  # of log-odds in place of logits
        assert scores == expected
        assert again.units.get(part) == result.units.get(part)
    assert again.thresholds == result.thresholds
    for name, parts in result.scores.items():
        assert name == "model" or again.scores[name] == parts
    assert ", in " not in repr(again)


def test_logistic_regression_of_scikit_learn_is_a_run_beside_others(options, data, tmp_path):
    of_label, folder = data(task="label"), tmp_path / "logs"
    counts, summer, split = of_label.selection.counts(), of_label.classes, of_label.split
    theirs = LogisticRegression(max_iter=1000).fit(counts[split.train], summer[split.train])
    outputs = {part: theirs.decision_function(counts[getattr(split, part)]) for part in ("train", "val", "test")}
    result = summer_train.score(of_label, outputs, name="sklearn", output_dir=folder)
    called_on = outputs["test"] >= result.thresholds["model"]
    kappa = cohen_kappa_score(summer[split.test], called_on)
    assert result.scores["model"]["test"]["kappa"] == pytest.approx(kappa, abs=1e-12)
    ours = summer_train.fit(**options(task="label"))
    assert ours.scores["majority class"] == result.scores["majority class"]
    summer_train.score(of_label, outputs, name="again", output_dir=folder)
    assert [one.config["model"] for one in find_results(folder, print)] == ["own:sklearn", "mlp", "own:again"]
    assert read_results(result.log_dir).scores == result.scores
    assert np.array_equal(result.predictions()["test_log_odds"], outputs["test"])
    models = summer_train.report(folder, output_dir=tmp_path / "report")
    assert models.set_index("model").loc["own:sklearn", "kappa"] == pytest.approx(kappa)
    assert sorted(models["model"]) == ["mlp", "own:again", "own:sklearn"]
    with pytest.raises(SettingsError, match="no such checkpoint"):
        summer_train.evaluate(result.log_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: {"val": one["val"]}, "outputs of val: give val and test"),
        (lambda one: {**one, "tset": 1}, "outputs of val test tset: give"),
        (lambda one: {**one, "val": one["val"][1:]}, r"outputs\['val'\]: .* of the shape"),
        (lambda one: {**one, "val": np.full_like(one["val"], np.nan)}, "values are not finite"),
        (lambda one: {**one, "val": one["val"].astype(str)}, "numbers of the shape"),
        (lambda one: {**one, "val": np.linspace(0, 1, len(one["val"]))}, "as probabilities do. Give log-odds"),
    ],
)
def test_outputs_that_do_not_fit_are_one_line(change, message, data):
    of_label = data(task="label")
    outputs = {part: np.zeros(of_label.n_samples[part]) for part in ("val", "test")}
    with pytest.raises(SettingsError, match=message) as caught:
        summer_train.score(of_label, change(outputs))
    assert "\n" not in str(caught.value)


class Wide(nn.Module):
    """A network with dropout, whose width is known when it sees its first inputs."""

    def __init__(self, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, n_outputs))

    def forward(self, x):
        return self.layers(x)


def test_fit_trains_a_network_of_ones_own_and_stores_it_as_any_run(options, data, tmp_path):
    own, folder = Wide(2), tmp_path / "logs"
    again = copy.deepcopy(own)
    result = summer_train.fit(network=own, **options(task="label", hidden_size=None))
    assert summer_train.fit(network=again, **options(task="label", hidden_size=None)).scores == result.scores
    assert re.fullmatch("own:Wide-[0-9a-f]{6}", model := result.config["model"])
    assert f"model: {model}" in (result.log_dir / "hparams.yaml").read_text()
    assert read_results(result.log_dir).scores == result.scores
    of_label = data(task="label")
    with torch.no_grad():  # it has the weights of the best epoch
        logits = {part: own(next(iter(of_label.blocks(part))).counts.float()) for part in ("val", "test")}
    again = summer_train.score(of_label, logits).scores["model"]["test"]
    assert again["kappa"] == pytest.approx(result.scores["model"]["test"]["kappa"], abs=1e-6)
    ours = summer_train.fit(**options(task="label"))
    same = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))
    same.load_state_dict(decoder(of_label, hidden_size=8).net.state_dict())
    theirs = summer_train.fit(network=same, **options(task="label", hidden_size=None))
    for name, value in ours.scores["model"]["test"].items():  # the same network, one step at a time
        assert theirs.scores["model"]["test"][name] == pytest.approx(value, abs=1e-4), name
    models = summer_train.report(folder, output_dir=tmp_path / "report")
    other = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 2))
    assert len(models) == 3  # of equal ones the newest
    assert (
        summer_train.fit(network=other, **options(task="label", hidden_size=None)).config["model"]
        not in models["model"]
    )
    assert len(summer_train.report(folder, output_dir=tmp_path / "report")) == 4
    with pytest.raises(SettingsError, match=r"was trained as .*Wide, which only your own code knows") as caught:
        summer_train.evaluate(result.log_dir)
    assert "\n" not in str(caught.value)
    for function in (summer_train.fit, summer_train.study):
        with pytest.raises(SettingsError, match="--model own:Wide-.*: only your own code knows it"):
            function(config=result.log_dir, output_dir=tmp_path / "other")
    summer_train.fit(network=Wide(2), config=result.log_dir, max_epochs=1, output_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lstm"}, "--model: works with built-in models only"),
        ({"resume": True}, "--resume: works with"),
        ({"shifts": 3}, "--shifts: works with"),
        ({"network": nn.Linear(7, 2)}, r"network Linear: fails on inputs of \(2, 20\) \(RuntimeError"),
        ({"hidden_size": 8}, "--hidden-size: has no effect on --model own"),
        ({"network": Wide(3)}, r"network Wide: gives outputs of the shape \(2, 3\) from .*; \(2, 2\) is needed"),
        ({"network": nn.ReLU()}, "must be a torch.nn.Module with weights"),
        ({"network": len}, "must be a torch.nn.Module with weights"),
    ],
)
def test_what_a_network_of_ones_own_does_not_take_is_one_line(changes, message, options):
    with pytest.raises(SettingsError, match=message) as caught:
        summer_train.fit(**{"network": Wide(2), **options(task="label", hidden_size=None), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [None, 1e-9])
def test_batches_carry_the_bins_of_their_samples_where_asked(memory, options, data):
    plain, with_bins = (
        data(task="label", device_memory=memory),
        data(task="label", device_memory=memory, with_bins=True),
    )
    counts, seen = plain.selection.counts(), []
    for (x, y), (same_x, same_y, bins) in zip(plain.train_dataloader(), with_bins.train_dataloader(), strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)
        assert np.array_equal(x, counts[bins])
        seen += bins.tolist()
    assert sorted(seen) == plain.split.train.tolist()
    (x, y, bins), *_ = with_bins.test_dataloader()
    assert bins.tolist() == plain.split.test[:32].tolist()
    lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
        decoder(with_bins), with_bins
    )


def test_a_loop_of_ones_own_runs(demo_cache, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["own_loop.py", str(demo_cache)])
    runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "own_loop.py"), run_name="__main__")
    assert re.search(r"epoch 5: loss \d\.\d+\ntest kappa 0\.\d+", capsys.readouterr().out)
