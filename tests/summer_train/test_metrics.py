"""Scores: equal to scikit-learn's, undefined where a class is missing, right by hand; losses equal to autograd."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.utils.class_weight import compute_class_weight

from summer_train.data.targets import FilmLabel, NextBin, balanced_weights, cross_entropies
from summer_train.reports.tables import notes_on_scores
from summer_train.runs.folder import probability_of
from summer_train.scores.metrics import LABEL_SCORES, CountSums, best_thresholds, curves, label_scores, log_odds_of_on

samples = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        # Few distinct values, so that ties are common.
        st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-40, 40)), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


def has_both(is_on):
    return is_on.any() and not is_on.all()


def scores_of(score, is_on, threshold=0.0):
    found = label_scores(np.array([score], dtype=float), np.array([is_on]), np.array([threshold]))
    return {name: values[0] for name, values in found.items()}


@given(samples, st.floats(-4, 4))
def test_label_scores_equal_those_of_scikit_learn(drawn, threshold):
    score, is_on = np.array(drawn[0]), np.array(drawn[1])
    found = scores_of(score, is_on, threshold)
    expected = {"base_rate": is_on.mean()}
    for at, suffix in ((threshold, ""), (0.0, "_at_half")):
        called = score >= at
        expected["accuracy" if suffix else "accuracy_at_threshold"] = oracle.accuracy_score(is_on, called)
        if has_both(is_on):
            rarer = bool(is_on.mean() <= 0.5)
            expected["kappa" + suffix] = oracle.cohen_kappa_score(is_on, called)
            expected["f1" + suffix] = oracle.f1_score(is_on, called, zero_division=0)
            expected["f1_rarer" + suffix] = oracle.f1_score(is_on, called, pos_label=rarer, zero_division=0)
            expected["balanced_accuracy" + suffix] = oracle.balanced_accuracy_score(is_on, called)
    if has_both(is_on):
        expected["auroc"] = oracle.roc_auc_score(is_on, score)
        expected["average_precision"] = oracle.average_precision_score(is_on, score)
    matrix = oracle.confusion_matrix(is_on, score >= threshold, labels=[False, True])
    expected |= dict(zip(("tn", "fp", "fn", "tp"), matrix.ravel(), strict=True))
    assert found == pytest.approx(dict.fromkeys(LABEL_SCORES, np.nan) | expected, abs=1e-12, nan_ok=True)


@given(samples)
def test_no_threshold_has_a_higher_kappa_than_the_chosen_one(drawn):
    score, is_on = np.array(drawn[0]), np.array(drawn[1])
    (chosen,) = best_thresholds(score[None], is_on[None])
    thresholds = np.array([chosen, *score, 0.0])
    shape = len(thresholds), 1
    chosen_kappa, *kappas = label_scores(np.tile(score, shape), np.tile(is_on, shape), thresholds)["kappa"]
    if max(kappas) > 0:
        assert chosen_kappa == pytest.approx(max(kappas), abs=1e-12)
    else:  # no threshold beats chance, or a class is missing
        assert chosen == 0


@pytest.mark.parametrize(("scores", "expected"), [([-2.0, -1.0, 1.0, 2.0], 0), ([1.0, 2.0, 3.0, 5.0], 2.5)])
def test_half_is_kept_where_it_is_as_good_as_any_threshold(scores, expected):
    assert best_thresholds(np.array([scores]), np.array([[False, False, True, True]])).tolist() == [expected]


def test_sure_predictions_do_not_tie_and_those_that_are_no_numbers_have_no_scores():
    # Float32 sigmoids of log-odds beyond 17 are all 1, so their AUROC would be 0.5.
    assert scores_of([18.0, 20.0, 22.0, 24.0], [False, False, True, True])["auroc"] == 1
    found = scores_of([0.0, np.nan, 1.0], [True, False, True])
    assert all(np.isnan(value) for name, value in found.items() if name != "base_rate")


def test_scores_of_265_models_at_once_are_those_of_each_alone():
    """A quadratic way would take hours."""
    generator = np.random.default_rng(0)
    scores, is_on = generator.normal(size=(265, 6864)), generator.random((265, 6864)) < 0.1
    thresholds = best_thresholds(scores, is_on)
    together = label_scores(scores, is_on, thresholds)
    for model in (0, 7, 264):
        assert best_thresholds(scores[[model]], is_on[[model]]) == thresholds[model]
        alone = scores_of(scores[model], is_on[model], thresholds[model])
        assert {name: values[model] for name, values in together.items()} == alone


@given(samples)
def test_curves_are_those_of_scikit_learn(drawn):
    score, is_on = np.array(drawn[0]), np.array(drawn[1])
    if has_both(is_on):
        found = curves(score, is_on)
        fpr, tpr, _ = oracle.roc_curve(is_on, score, drop_intermediate=False)
        np.testing.assert_allclose((found["fpr"], found["tpr"]), (fpr, tpr))
        precision, recall, _ = oracle.precision_recall_curve(is_on, score)
        np.testing.assert_allclose(np.interp(recall, found["tpr"], found["tpr"]), recall)
        assert found["precision"][-1] == pytest.approx(precision[0])


def test_log_odds_of_on_are_against_all_other_classes():
    logits = torch.randn(5, 3, dtype=torch.float64)
    probability = torch.softmax(logits, dim=1)[:, 1]
    torch.testing.assert_close(log_odds_of_on(logits), torch.logit(probability))
    torch.testing.assert_close(log_odds_of_on(logits[:, :2]), logits[:, 1] - logits[:, 0])


def sums_of(predicted, target):
    sums = CountSums()
    sums.add(torch.as_tensor(predicted), torch.as_tensor(target))
    return sums


def test_scores_of_counts_equal_a_plain_computation_and_do_not_depend_on_blocks():
    generator = np.random.default_rng(0)
    target, predicted = generator.poisson(0.7, (101, 4)), generator.gamma(2, 0.4, (101, 4))
    target[:, 2] = 0
    scores, units = sums_of(predicted, target).scores()
    for unit in (0, 1, 3):
        truth, guess = target[:, unit], predicted[:, unit]
        assert units["r2"][unit] == pytest.approx(oracle.r2_score(truth, guess), abs=1e-12)
        assert units["mse"][unit] == pytest.approx(oracle.mean_squared_error(truth, guess), abs=1e-12)
        gain = np.sum(truth * np.log(guess) - guess) - np.sum(truth * np.log(truth.mean()) - truth.mean())
        assert units["bits_per_spike"][unit] == pytest.approx(gain / truth.sum() / np.log(2), abs=1e-12)
    assert np.isnan([units["r2"][2], units["bits_per_spike"][2]]).all()
    assert scores["r2"] == np.median(units["r2"][[0, 1, 3]])
    null = np.sum(target * np.log(np.where(target.mean(0) > 0, target.mean(0), 1)) - target.mean(0))
    likelihood = np.sum(target * np.log(predicted) - predicted)
    assert scores["bits_per_spike"] == pytest.approx((likelihood - null) / target.sum() / np.log(2), abs=1e-12)
    assert scores["poisson"] == pytest.approx(-likelihood / target.size, abs=1e-12)
    by_block = sums_of(predicted[:50], target[:50])
    by_block.add(torch.from_numpy(predicted[50:]), torch.from_numpy(target[50:]))
    for name, value in by_block.scores()[0].items():
        assert value == pytest.approx(scores[name], abs=1e-12)
    means = sums_of(np.broadcast_to(target.mean(0), target.shape).copy(), target).scores()[0]
    assert [means["bits_per_spike"], means["r2"]] == pytest.approx([0, 0], abs=1e-12)


def test_a_unit_that_spikes_where_none_was_predicted_has_no_bits_per_spike():
    sums = sums_of([[0.5, 0.5, -0.1], [1.0, 0.2, 1.5]], [[0, 1, 0], [2, 0, 3]])
    # A count of 0 or less is no error where there are no spikes.
    assert np.isfinite(sums.scores()[1]["bits_per_spike"]).all()
    sums.add(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1, 1, 1]]))
    scores, units = sums.scores()
    assert np.isnan(units["bits_per_spike"]).tolist() == [False, True, False]
    assert np.isnan([scores["bits_per_spike"], scores["poisson"]]).all()
    assert np.isfinite(scores["mse"])


def test_balanced_weights_are_those_of_scikit_learn():
    classes = np.repeat([0, 1, 2], [10, 3, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=classes)
    assert balanced_weights(torch.from_numpy(np.bincount(classes))).tolist() == pytest.approx(expected.tolist())
    assert balanced_weights(torch.tensor([4, 4, 0])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "task",
    [NextBin(3), NextBin(3, "poisson"), FilmLabel(2), FilmLabel(3), FilmLabel(3, (0.5, 4.0, 1.5))],
    ids=["squared error", "poisson", "two classes", "three classes", "weighted"],
)
def test_written_out_gradients_are_those_of_autograd(task):
    generator = torch.Generator().manual_seed(0)
    shape = (20,) if isinstance(task, FilmLabel) else (20, 3)
    prediction = torch.randn(20, task.n_outputs, generator=generator)
    target = torch.randint(0, task.n_outputs, shape, generator=generator).to(torch.uint8)
    prediction.requires_grad_()
    task.loss(prediction, target).backward()
    gradient = task.loss_gradient(prediction.detach(), task.prepare(target)) / 20
    torch.testing.assert_close(gradient, prediction.grad, rtol=0, atol=1e-6)
    across = task.loss_gradient(prediction.detach().t(), task.prepare(target).t(), 0) / 20
    torch.testing.assert_close(across.t(), gradient)


def test_class_weights_weigh_samples_of_one_network_and_of_many():
    logits, targets, weights = torch.randn(3, 11, 2), torch.randint(0, 2, (3, 11)), [(0.5, 2.0), (1.0, 1.0), (3.0, 0.6)]
    for class_weights in (weights, [(), (), ()]):
        expected = [
            torch.nn.functional.cross_entropy(*one, weight=torch.tensor(own or (1.0, 1.0)), reduction="sum") / 11
            for *one, own in zip(logits, targets, class_weights, strict=True)
        ]
        alone = [FilmLabel(2, own).loss(*one) for *one, own in zip(logits, targets, class_weights, strict=True)]
        torch.testing.assert_close(alone, expected)
        torch.testing.assert_close(cross_entropies(logits, targets, class_weights), torch.stack(expected))
    log_rate, counts = torch.randn(7, 2), torch.randint(0, 4, (7, 2))
    likelihood = torch.distributions.Poisson(log_rate.exp()).log_prob(counts) + torch.lgamma(counts + 1.0)
    torch.testing.assert_close(NextBin(2, "poisson").loss(log_rate, counts), -likelihood.mean())


@pytest.mark.parametrize("log_odds", [-1e6, -800.0, -3.0, 0.0, 2.5, 800.0])
def test_any_threshold_is_a_probability(log_odds):
    expected = float(torch.sigmoid(torch.tensor(log_odds, dtype=torch.float64)))
    assert probability_of(log_odds) == pytest.approx(expected, abs=1e-15)
    result = SimpleNamespace(thresholds={"model": log_odds}, undefined={}, scores={}, config={})
    assert notes_on_scores(result)[0].startswith('"on" from a probability of ')
