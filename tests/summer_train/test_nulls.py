"""A result against shifted labels: one model, several folds and seeds, folds that are undefined."""

import numpy as np
import pytest

from summer_train.data.samples import choose_shifts
from summer_train.scores.nulls import permutation_test


def test_p_counts_the_observation_and_leaves_out_what_is_undefined():
    null = {1: 0.1, 2: 0.5, 3: 0.9, 4: np.nan}
    assert permutation_test([0.5], [null]).p == 3 / 4
    assert permutation_test([1.0], [dict.fromkeys(range(99), 0.0)]).p == 1 / 100
    assert np.isnan(permutation_test([np.nan], [null]).p)
    assert np.isnan(permutation_test([0.3], [{1: np.nan}]).p)
    assert np.isnan(permutation_test([0.3], [{}]).p)
    assert permutation_test([0.3], [{}]).band is None


def test_folds_are_compared_shift_by_shift_as_means_over_the_same_folds():
    nulls = [{7: 0.1, 9: 0.3, 11: 0.2}, {9: 0.5, 7: 0.0}, {7: 0.9, 9: 0.9}]
    found = permutation_test([0.4, 0.2, np.nan], nulls)
    assert found.mean == pytest.approx(0.3)
    assert found.null.tolist() == pytest.approx([0.05, 0.4])  # shifts 7 and 9, which both have; the third fold is out
    assert found.p == 2 / 3
    for second, expected in (({}, []), ({7: np.nan, 9: 0.1}, [0.2])):
        assert permutation_test([0.4, 0.2], [{7: 0.1, 9: 0.3}, second]).null.tolist() == pytest.approx(expected)


def test_the_p_of_means_over_folds_is_uniform_where_there_is_nothing():
    """Each shift has its own size in all folds, as a label has; the observed labelling is one more of them."""
    generator = np.random.default_rng(0)
    p = []
    for _ in range(400):
        of_shift = generator.normal(size=20)
        scores = of_shift[:, None] + 0.5 * generator.normal(size=(20, 5))
        p.append(permutation_test(scores[0], [dict(enumerate(fold)) for fold in scores[1:].T]).p)
    # Kolmogorov-Smirnov at 1 in 1,000: 0.0975 of 400 values, and p goes in steps of 0.05.
    assert np.abs(np.arange(1, 401) / 400 - np.sort(p)).max() < 0.0975 + 0.05
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_shifts_keep_at_least_a_cycle_away_and_more_of_them_contain_fewer():
    shifts = choose_shifts(1000, 100, 50)
    assert len(set(shifts)) == 50
    assert min(shifts) >= 100
    assert max(shifts) <= 900
    assert choose_shifts(1000, 100, 20) == shifts[:20]
