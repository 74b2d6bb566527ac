"""`--model linear` is solved: to scikit-learn's minimum, in a stack as alone, and the same after it was continued."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor

from summer_train import decoder, film_data, fit
from summer_train.data.batches import Block
from summer_train.data.targets import FilmLabel, NextBin, balanced_weights
from summer_train.models.linear import LinearSolver
from summer_train.settings.options import Choice, choice_of, settings_from

N_SAMPLES, N_UNITS = 2000, 12


@pytest.fixture
def counts():
    """Units of very different rates that go up and down together, and one that is silent."""
    generator = np.random.default_rng(0)
    together = np.exp(generator.normal(0, 0.5, (N_SAMPLES, 1)))
    counts = generator.poisson(together * np.geomspace(0.02, 20, N_UNITS))
    counts[:, 3] = 0
    return counts.astype(np.uint8)


def classes_of(counts, n_classes, seed=0):
    generator = np.random.default_rng(seed)
    weights = generator.normal(0, 1, (counts.shape[1], n_classes)) / np.sqrt(counts.mean(0) + 1)[:, None]
    return np.argmax(counts @ weights + generator.gumbel(0, 2, (len(counts), n_classes)), 1).astype(np.uint8)


def solved(counts, targets, tasks):
    """Return weights, biases and losses of a stack; targets of each network stand in a column."""
    shape = len(tasks), tasks[0].n_outputs
    weight, bias = parameters = torch.zeros(*shape, counts.shape[1]), torch.zeros(shape)

    def zipped(y, *others):
        return zip(tasks, [y] if isinstance(tasks[0], NextBin) else y.t(), *others, strict=True)

    def losses(predictions, y):
        return torch.stack([task.loss(made, own) for task, own, made in zipped(y, predictions)])

    solver = LinearSolver(
        parameters, tasks[0], lambda y: torch.stack([task.prepare(own) for task, own in zipped(y)]), losses
    )
    counts, targets = torch.from_numpy(counts), torch.from_numpy(targets)
    blocks = [
        Block(*pair) for pair in zip(*(one.split([900, 0, len(one) - 900]) for one in (counts, targets)), strict=True)
    ]
    while not solver.n_samples or not solver.is_solved.all():
        solver(blocks)
    return weight, bias, losses(counts.float() @ weight.transpose(1, 2) + bias[:, None], targets).tolist()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_labels_reach_the_loss_of_scikit_learn(n_classes, class_weight, counts):
    classes = classes_of(counts, n_classes)
    weights = balanced_weights(torch.from_numpy(np.bincount(classes))).tolist() if class_weight else ()
    task = FilmLabel(n_classes, tuple(weights))
    oracle = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000, class_weight=class_weight)
    log_odds = oracle.fit(counts, classes).decision_function(counts)
    if n_classes == 2:
        log_odds = np.stack([np.zeros(len(counts)), log_odds], 1)
    expected = float(task.loss(torch.from_numpy(log_odds).float(), torch.from_numpy(classes)))
    weight, _, losses = solved(counts, classes[:, None], [task])
    assert losses == pytest.approx([expected], abs=1e-5)
    assert not weight[:, :, 3].any()  # nothing is known of the silent unit


def test_next_bin_reaches_the_loss_of_scikit_learn_in_every_unit(counts):
    x, y = counts[:-1], counts[1:]
    weight, bias, losses = solved(x, y, [NextBin(N_UNITS)])
    expected = np.square(LinearRegression().fit(x, y).predict(x) - y).mean(0)
    assert losses == pytest.approx([expected.mean()], rel=1e-6)
    per_unit = np.square(x @ weight[0].numpy().T + bias[0].numpy() - y).mean(0)
    np.testing.assert_allclose(per_unit, expected, rtol=1e-3, atol=1e-9)


def test_the_poisson_likelihood_reaches_that_of_scikit_learn(counts):
    x, y = counts[:-1] / np.maximum(counts[:-1].std(0), 1e-9), counts[1:]
    expected = 0.0
    for target in np.delete(y, 3, axis=1).T:  # the best rate of the silent unit is 0, which has a loss of 0
        rate = PoissonRegressor(alpha=0, tol=1e-9, max_iter=10_000).fit(x, target).predict(x)
        expected += (rate - target * np.log(rate)).mean() / N_UNITS
    assert solved(counts[:-1], y, [NextBin(N_UNITS, "poisson")])[2] == pytest.approx([expected], abs=1e-4)


def test_a_stack_is_solved_as_each_of_its_networks_alone(counts):
    rare = (np.arange(N_SAMPLES) < 5).astype(np.uint8)
    columns = np.stack([classes_of(counts, 2, 1), classes_of(counts, 2, 2), rare], 1)
    alone = [solved(counts, columns[:, [number]], [FilmLabel(2)])[2][0] for number in range(3)]
    assert solved(counts, columns, [FilmLabel(2)] * 3)[2] == pytest.approx(alone, abs=1e-6)


@pytest.fixture
def options(demo_cache, tmp_path):
    return {
        "cache_dir": demo_cache, "data_dir": tmp_path, "patient_ids": 14, "buffer": 10, "task": "label",
        "model": "linear",
    }  # fmt: skip


def test_a_run_that_is_continued_equals_one_that_was_not_and_ends_when_it_is_solved(options, tmp_path, monkeypatch):
    monkeypatch.setattr("summer_train.models.linear.ITERATIONS", 3)
    whole = fit(**options, max_epochs=50, output_dir=tmp_path / "whole")
    assert 1 < whole.n_epochs < 50
    options["output_dir"] = tmp_path / "parts"
    fit(**options, max_epochs=1)
    continued = fit(**options, max_epochs=50, resume=True)
    assert continued.scores == whole.scores
    assert continued.n_epochs == whole.n_epochs
    assert fit(**options, max_epochs=50, resume=True).log_dir == continued.log_dir


def test_samples_that_stream_are_solved_to_the_same_loss(options, tmp_path):
    # In a trainer of your own the decoder takes a learning rate.
    assert decoder(film_data(**options), lr=0.5).configure_optimizers().param_groups[0]["lr"] == 0.5
    options |= {"max_epochs": 2, "output_dir": tmp_path}
    resident, streamed = fit(**options), fit(**options, device_memory=1e-6)
    for part, scores in resident.scores["model"].items():
        assert streamed.scores["model"][part]["loss"] == pytest.approx(scores["loss"], abs=1e-6)


def test_options_that_solving_does_without_are_left_out_of_presets_and_of_older_runs():
    choice = settings_from(Choice, {"preset": "paper", "model": "linear", "task": "label"})
    assert (choice.window_s, choice.batch_size) == ((0.8, 0.72), Choice().batch_size)
    assert choice_of({**choice.as_plain(), "lr": 0.02, "batch_size": 8}, Path("run")) == choice
