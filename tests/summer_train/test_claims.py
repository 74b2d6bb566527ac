"""What can be claimed: p over rows, q, and intervals by loops, SciPy and scikit-learn; no claims where nothing is."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from summer_prep.film.responses import false_discovery_rates
from summer_train.scores import claims
from summer_train.scores.features import r2_of_dimensions

N_CYCLES = 12


def drawn(seed=0, n=6000, n_dimensions=3):
    """Return log-odds with ties, truth, features, their prediction, and the cycle of each of some samples."""
    generator = np.random.default_rng(seed)
    is_on = np.repeat(generator.random(n // 50) < 0.3, 50)
    target = generator.normal(size=(n, n_dimensions))
    predicted = target + generator.normal(size=target.shape)
    return (is_on + generator.normal(size=n)).round(2), is_on, target, predicted, np.arange(n) * N_CYCLES // n


def test_p_over_rows_counts_the_best_row_of_each_shift_and_leaves_out_what_is_undefined():
    scores = np.array([9.0, 0.25, np.nan, 0.0, 5.0])
    nulls = np.array([
        [1.0, 2.0, 3.0, np.nan], [0.1, 0.3, 0.2, np.nan], [99.0, 99.0, 99.0, 99.0], [0.0, 0.0, 0.0, np.nan],
        [np.nan] * 4,
    ])  # fmt: skip
    found = claims.corrected_p(scores, nulls)
    assert found == pytest.approx([1 / 4, 2 / 4, np.nan, 1, np.nan], nan_ok=True)  # three shifts are valid
    assert np.isnan(claims.corrected_p(scores[2:3], nulls[2:3])).all()


def test_of_rows_without_information_one_in_twenty_studies_has_any_below_0_05_and_a_tuned_row_is_found():
    generator = np.random.default_rng(0)
    scales, lowest, lowest_q, tuned = np.logspace(-2, 2, 20)[:, None], [], [], []
    for _ in range(400):
        values = generator.normal(size=(20, 40)) * scales
        lowest.append(claims.corrected_p(values[:, 0], values[:, 1:]).min())
        lowest_q.append(false_discovery_rates((values[:, 1:] >= values[:, :1]).mean(axis=1) + 1 / 40).min())
        values[7, 0] += 8 * scales[7, 0]
        tuned.append(claims.corrected_p(values[:, 0], values[:, 1:])[7] <= 0.05)
    assert 0.02 < np.mean(np.array(lowest) <= 0.05) < 0.08
    assert np.mean(np.array(lowest_q) <= 0.05) < 0.08
    assert np.mean(tuned) > 0.95


def test_p_corrected_holds_where_rows_have_few_valid_shifts_and_is_never_below_their_own():
    generator = np.random.default_rng(0)
    for valid in ([20] + [5] * 19, [20, 10], [40] + [20] * 19):
        lowest = []
        for _ in range(300):
            values = generator.normal(size=(len(valid), 1 + valid[0]))
            for row, n in zip(values, valid, strict=True):
                row[1 + generator.permutation(valid[0])[n:]] = np.nan
            p = claims.corrected_p(values[:, 0], values[:, 1:])
            own = (1 + (values[:, 1:] >= values[:, :1]).sum(axis=1)) / (1 + np.array(valid))
            assert (p >= own - 1e-12).all()
            lowest.append(p.min() <= 0.05)
        assert np.mean(lowest) < 0.08, valid


def test_q_equals_scipys():
    p = np.random.default_rng(0).random(40) ** 3
    p[3] = p[5]
    assert false_discovery_rates(p) == pytest.approx(stats.false_discovery_control(p))
    with_gap = false_discovery_rates(np.insert(p, 7, np.nan))
    assert np.delete(with_gap, 7) == pytest.approx(stats.false_discovery_control(p))
    assert np.isnan(with_gap[7])


def test_scores_of_resamples_are_those_of_the_samples_of_their_cycles():
    log_odds, is_on, target, predicted, cycle = drawn()
    sums = {
        **claims.label_sums(log_odds, is_on, 0.4, cycle, N_CYCLES),
        **claims.feature_sums(predicted, target, cycle, N_CYCLES),
    }
    weights = np.vstack([np.ones(N_CYCLES), claims.resample_weights(N_CYCLES)[:5]])
    found = claims.pooled_scores([sums], weights)
    for row, counts in enumerate(weights.astype(int)):
        at = np.concatenate([np.tile(np.flatnonzero(cycle == one), n) for one, n in enumerate(counts)])
        assert found["kappa"][row] == pytest.approx(oracle.cohen_kappa_score(is_on[at], log_odds[at] >= 0.4))
        assert found["auroc"][row] == pytest.approx(oracle.roc_auc_score(is_on[at], log_odds[at]))
        assert found["r2"][row] == pytest.approx(r2_of_dimensions(predicted[at], target[at]).mean())


def test_folds_are_taken_together_but_only_samples_that_one_model_ranks_are_compared():
    first, second = (claims.label_sums(*drawn(seed)[:2], 0.0, drawn(seed)[4], N_CYCLES) for seed in (1, 2))
    once = np.ones((1, N_CYCLES))
    alone = [claims.pooled_scores([one], once)["auroc"][0] for one in (first, second)]
    pairs = [
        np.prod(one["confusion"].sum(axis=0)[[0, 1]] + one["confusion"].sum(axis=0)[[2, 3]]) for one in (first, second)
    ]
    assert claims.pooled_scores([first, second], once)["auroc"][0] == pytest.approx(np.average(alone, weights=pairs))
    of_nothing = claims.label_sums(np.ones(9), np.zeros(9, bool), 0.0, np.arange(9), N_CYCLES)
    assert np.isnan(claims.pooled_scores([of_nothing], once)["auroc"]).all()
    read = claims.from_text(claims.as_text(first))
    assert all(np.array_equal(read[name], first[name]) for name in first)


def test_gains_of_units_and_their_median_r2_are_those_of_a_plain_loop_over_resamples():
    generator = np.random.default_rng(3)
    rates = np.array([0.05, 0.5, 2.0, 0.0, 0.3]) * generator.gamma(4, 0.25, size=(3000, 1))
    counts = generator.poisson(rates).astype(np.uint8)
    cycle = np.arange(3000) * N_CYCLES // 3000
    counts[cycle >= 4, 4] = 0  # this unit spikes in fewer than MIN_CYCLES
    predicted = (rates * generator.gamma(9, 1 / 9, size=counts.shape)).astype(np.float32)
    fold = np.arange(3000) // 9 % 2
    means = np.array([[0.06, 0.45, 2.1, 0.0, 0.1], [0.04, 0.55, 1.9, 0.0, 0.1]])
    sums = [claims.count_sums(*(one[fold == of] for one in (predicted, counts, cycle)), N_CYCLES) for of in (0, 1)]
    models = [claims.beside_mean_count(*pair) for pair in zip(sums, means, strict=True)]
    error, of_mean = ((made - counts.astype(float)) ** 2 for made in (predicted.astype(float), means[fold]))
    gains, r2 = [], []
    for drawn_times in claims.resample_weights(N_CYCLES):
        weights = drawn_times[cycle]
        variation = weights @ (counts - np.average(counts, axis=0, weights=weights)) ** 2
        with np.errstate(all="ignore"):
            gains.append(1 - (weights @ error) / (weights @ of_mean))
            r2.append(np.nanmedian(np.where(variation > 0, 1 - (weights @ error) / variation, np.nan)))
    found = claims.unit_gains(models)
    expected = np.array([claims.score_interval(one, N_CYCLES) for one in np.transpose(gains)])
    expected[3:] = np.nan
    assert np.transpose([found["gain_low"], found["gain_high"]]) == pytest.approx(expected, nan_ok=True)
    of_r2 = claims.intervals(models)["r2"]
    assert (of_r2["low"], of_r2["high"]) == pytest.approx(claims.score_interval(np.array(r2), N_CYCLES))
    read = [claims.from_text(claims.as_text(one)) for one in sums]
    again = claims.unit_gains([claims.beside_mean_count(*pair) for pair in zip(read, means, strict=True)])
    assert again["gain_low"] == pytest.approx(found["gain_low"], abs=1e-6, nan_ok=True)
    fewer = {name: one[:4] for name, one in models[0].items()}
    assert claims.unit_gains([fewer]) == claims.unit_gains([models[0], {}]) == claims.unit_gains([]) == {}


@pytest.mark.parametrize("n_cycles", [5, 12, 60])
def test_intervals_of_a_mean_are_students(n_cycles):
    values = np.random.default_rng(1).normal(0.3, 0.4, size=n_cycles)
    resampled = claims.resample_weights(n_cycles) @ values / n_cycles
    expected = stats.ttest_1samp(values, 0)
    exact = tuple(expected.confidence_interval())
    low, high, p = claims.gain_interval(values.mean(), resampled, n_cycles)
    scale = exact[1] - values.mean()
    assert (low, high) == pytest.approx(exact, abs=0.06 * scale)
    assert p == pytest.approx(expected.pvalue, rel=0.25, abs=1e-3)
    assert claims.score_interval(resampled, n_cycles) == pytest.approx(exact, abs=0.5 * scale)


def test_there_is_no_interval_of_few_cycles_or_of_a_label_that_is_in_few():
    log_odds, is_on, *_, cycle = drawn()
    for held, is_known in ((4, False), (5, True)):
        sums = claims.label_sums(log_odds, is_on & (cycle < held), 0.4, cycle, N_CYCLES)
        assert np.isfinite(claims.intervals([sums])["kappa"]["low"]) == is_known
        assert np.isfinite(claims.gains([(sums, sums)])["auroc"]["p"]) == is_known
    fewer = {name: one[:4, ..., :4] for name, one in sums.items()}
    assert claims.intervals([fewer]) == claims.intervals([{}]) == claims.gains([(sums, {})]) == {}
    assert claims.gain_interval(0.0, np.zeros(9), 12) == (0, 0, 1)


def test_draws_of_one_setting_do_not_differ_more_often_than_by_chance():
    rng, cycle, called, n_films = np.random.default_rng(0), np.arange(600) // 50, 0, 60
    for _ in range(n_films):
        is_on, sums = rng.random(600) < 0.3, []
        for of_draw in rng.normal(1, 0.6, 20):  # draws of units differ more than cycles do
            sums.append(claims.label_sums(of_draw * is_on + rng.normal(size=600), is_on, 0.5, cycle, 12))
        pairs = list(zip(sums[:10], sums[10:], strict=True))
        called += claims.gains(pairs, range(10))["auroc"]["p"] <= 0.05
        of_any_units, of_these = claims.intervals(sums[:10], range(10))["auroc"], claims.intervals(sums[:10])["auroc"]
        assert of_any_units["low"] < of_these["low"] < of_these["value"] == of_any_units["value"]
    assert called <= 0.1 * n_films
    assert np.isnan(claims.gains(pairs[:4], range(4))["auroc"]["p"])  # too few draws to tell
