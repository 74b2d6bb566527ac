"""Ridge regression and the scores of features, beside scikit-learn, SciPy and plain loops."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from summer_train.models.ridge import PENALTIES, Moments, solve_ridge
from summer_train.scores.features import (
    feature_scores,
    mean_of_stretches,
    pearson_of_dimensions,
    r2_of_dimensions,
    retrieval_ranks,
    retrieval_scores,
)


@pytest.fixture(scope="module")
def regression():
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.5, size=(2000, 30)).astype("f4")
    features = counts @ generator.normal(size=(30, 6)) * 0.3 + generator.normal(size=(2000, 6))
    return counts, features.astype("f4")


def test_ridge_is_scikit_learns_for_every_penalty(regression):
    counts, features = regression
    blocks = [
        (torch.from_numpy(counts[i : i + 300]), torch.from_numpy(features[i : i + 300])) for i in range(0, 2000, 300)
    ]
    weights, biases = solve_ridge(Moments.of(blocks), PENALTIES)
    for number, penalty in enumerate(PENALTIES):
        theirs = Ridge(alpha=penalty).fit(counts.astype(float), features.astype(float))
        np.testing.assert_allclose(weights[number], theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(biases[number], theirs.intercept_, atol=1e-8)


def test_r2_and_pearson_are_those_of_scikit_learn_and_scipy(regression):
    _, target = regression
    prediction = target + np.random.default_rng(1).normal(size=target.shape)
    np.testing.assert_allclose(
        r2_of_dimensions(prediction, target), r2_score(target, prediction, multioutput="raw_values"), atol=1e-12
    )
    expected = [pearsonr(prediction[:, i], target[:, i])[0] for i in range(6)]
    np.testing.assert_allclose(pearson_of_dimensions(prediction, target), expected, atol=1e-12)
    constant = np.zeros((5, 1))
    assert np.isnan(r2_of_dimensions(constant, constant)).all()
    assert np.isnan(pearson_of_dimensions(constant, constant)).all()


def test_stretches_have_no_gap():
    bins = np.array([0, 1, 2, 3, 4, 7, 8, 10])
    means, starts = mean_of_stretches(np.arange(8.0)[:, None], bins, 2)
    assert starts.tolist() == [0, 2, 7]
    assert means[:, 0].tolist() == [0.5, 2.5, 5.5]


def test_retrieval_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    target = generator.normal(size=(40, 5))
    prediction = target + generator.normal(size=(40, 5))
    far = abs(np.subtract.outer(np.arange(40), np.arange(40))) > 3
    for candidates in (None, far):
        ranks, n_candidates = retrieval_ranks(prediction, target, candidates)
        for row in range(40):
            similar = [x @ prediction[row] / np.linalg.norm(x) / np.linalg.norm(prediction[row]) for x in target]
            rivals = [i for i in range(40) if i != row and (candidates is None or candidates[row, i])]
            assert ranks[row] == 1 + sum(similar[i] >= similar[row] for i in rivals)
            assert n_candidates[row] == 1 + len(rivals)


def test_retrieval_at_chance_is_at_its_chance_levels():
    generator = np.random.default_rng(0)
    ranks, n = retrieval_ranks(generator.normal(size=(500, 8)), generator.normal(size=(500, 8)))
    scores = retrieval_scores(ranks, n)
    assert scores["top_10"] == pytest.approx(scores["top_10_chance"], abs=0.02)
    assert scores["top_10_chance"] == 10 / 500
    assert scores["median_rank_percent"] == pytest.approx(50, abs=8)


def test_retrieval_within_a_label_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    bins, target = np.arange(400), generator.normal(size=(400, 5))
    prediction = target + generator.normal(size=(400, 5))
    within = generator.choice([0, 1, 99], p=[0.3, 0.6, 0.1], size=400).astype("u1")
    scores, _, _ = feature_scores(prediction, target, bins, 5, 10, within)
    stretches = [range(start, start + 5) for start in range(0, 400, 5)]
    values = [[value for value in (0, 1) if (within[one] == value).mean() > 0.5] for one in stretches]
    found, chance = [], []
    for one, value in zip(stretches, values, strict=True):
        if value:
            rivals = [of for of, own in zip(stretches, values, strict=True) if own == value]
            mean = prediction[one].mean(axis=0)
            similar = {of: mean @ (y := target[of].mean(axis=0)) / np.linalg.norm(y) for of in rivals}
            found.append(sum(similar[of] >= similar[one] for of in rivals) <= 10)
            chance.append(10 / len(rivals))
    assert 40 < len(found) < 80
    assert scores["within_top_10"] == np.mean(found)
    assert scores["within_top_10_chance"] == pytest.approx(np.minimum(1, chance).mean())
    assert "within_top_10" not in feature_scores(prediction, target, bins, 5, 10)[0]
