"""A shared response model equals plain loops, finds a planted space, and uses neither labels nor bins of the test."""

import numpy as np
import pytest

import summer_train
from summer_train.data import shared


def planted(n_units=(12, 9, 20), n_shared=3, n_bins=400, noise=0.1, seed=0):
    """Return each patient's activity, centred and scaled, and the response that they share."""
    rng = np.random.default_rng(seed)
    response = rng.normal(size=(n_bins, n_shared)) * [3, 2, 1.5]
    maps = [np.linalg.qr(rng.normal(size=(n, n_shared)))[0] for n in n_units]
    activity = [response @ one.T + noise * rng.normal(size=(n_bins, len(one))) for one in maps]
    return [(x - x.mean(axis=0)) / x.std(axis=0) for x in activity], response


def objective_of(activity, maps):
    """Return sum_i |X_i - S W_i'|^2 where S is the mean of X_i W_i: bin after bin, patient after patient."""
    response = np.mean([x @ w for x, w in zip(activity, maps, strict=True)], axis=0)
    return sum(float(((x - response @ w.T) ** 2).sum()) for x, w in zip(activity, maps, strict=True))


def plain_loop(activity, n_shared, n_iterations):
    """Return maps by alternating between S and W_i as it is written, on bins, from the same start."""
    together = np.hstack(activity)
    response = together @ np.linalg.svd(together, full_matrices=False)[2][:n_shared].T
    for _ in range(n_iterations):
        maps = []
        for x in activity:
            left, _, right = np.linalg.svd(x.T @ response, full_matrices=False)
            maps.append(left @ right)
        response = np.mean([x @ w for x, w in zip(activity, maps, strict=True)], axis=0)
    return maps


@pytest.mark.parametrize("n_iterations", [1, 2, 7])
def test_maps_and_objective_are_those_of_plain_loops(n_iterations, monkeypatch):
    monkeypatch.setattr(shared, "_TOLERANCE", -1)
    activity, _ = planted(noise=1.0)
    together, n_units = np.hstack(activity), [x.shape[1] for x in activity]
    maps, objective = shared.shared_maps(together.T @ together, n_units, 3, n_iterations)
    own = np.split(maps, np.cumsum(n_units)[:-1])
    theirs = plain_loop(activity, 3, n_iterations)
    assert objective[-1] == pytest.approx(objective_of(activity, own), rel=1e-9)
    assert objective[-1] == pytest.approx(objective_of(activity, theirs), rel=1e-9)
    for mine, other in zip(own, theirs, strict=True):  # up to the signs of the principal components
        np.testing.assert_allclose(np.abs(mine), np.abs(other), atol=1e-8)
        np.testing.assert_allclose(mine.T @ mine, np.eye(3), atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_rises_and_a_planted_space_is_found(seed):
    activity, response = planted(seed=seed)
    together, n_units = np.hstack(activity), [x.shape[1] for x in activity]
    maps, objective = shared.shared_maps(together.T @ together, n_units, 3)
    assert np.all(np.diff(objective) <= 1e-9 * objective[0])
    found = together @ maps
    residual = response - found @ np.linalg.lstsq(found, response, rcond=None)[0]
    assert (residual**2).sum() < 0.02 * (response**2).sum()


def test_a_patient_with_fewer_units_counts_as_if_it_had_silent_ones():
    activity, _ = planted(n_units=(12, 9, 6), noise=0.5)
    few = [*activity[:2], activity[2][:, :2]]
    padded = [*few[:2], np.pad(few[2], ((0, 0), (0, 4)))]
    found = []
    for one in (few, padded):
        together, n_units = np.hstack(one), [x.shape[1] for x in one]
        maps, objective = shared.shared_maps(together.T @ together, n_units, 3, 5)
        found.append((together @ maps, objective))
        assert np.all(np.diff(objective) <= 1e-9 * objective[0])
    assert found[0][1] == pytest.approx(found[1][1])
    np.testing.assert_allclose(np.abs(found[0][0]), np.abs(found[1][0]), atol=1e-8)


@pytest.fixture(scope="module")
def selection(demo_cache):
    return summer_train.open_selection(demo_cache, [14, 20, 29], 1000)


def test_counts_in_pieces_are_counts_at_once(selection, monkeypatch):
    train = np.arange(20, 400)
    x = np.sqrt(selection.counts()[train].astype(float))
    space = shared.SharedSpace(selection, 3, "20", train).left_out()
    monkeypatch.setattr(shared, "_BINS_AT_ONCE", 7)
    units = shared.units_of(selection, train)
    np.testing.assert_allclose(units.mean, x.mean(axis=0), atol=1e-5)
    scaled = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    np.testing.assert_allclose(units.products, scaled.T @ scaled, atol=0.01)
    pieces = shared.SharedSpace(selection, 3, "20", train).left_out()
    np.testing.assert_allclose(pieces, space, atol=1e-3)


def test_the_map_of_a_further_patient_is_procrustes_on_its_first_training_bins(selection):
    train = np.arange(20, 400)
    space = shared.SharedSpace(selection, 3, "20", train)
    without = summer_train.open_selection(selection.patients[0].key.parents[1], [14, 29], 1000)
    np.testing.assert_array_equal(shared.SharedSpace(without, 3, "none", train).others, space.others)
    x = np.sqrt(selection.counts()[:, len(selection.columns[0]) :][:, : len(selection.columns[1])].astype(float))
    for share, shift in ((1, 0), (0.25, 0), (0.25, 100)):
        bins, paired = np.roll(train, shift)[: round(share * 380)], train[: round(share * 380)]
        scaled = (x - x[bins].mean(axis=0)) / np.where(x[bins].std(axis=0) > 0, x[bins].std(axis=0), np.inf)
        left, _, right = np.linalg.svd(scaled[bins].T @ space._response[paired], full_matrices=False)
        own = scaled @ left @ right
        own = (own - own[bins].mean(axis=0)) / own[bins].std(axis=0)
        np.testing.assert_allclose(space.left_out(share, shift), own, atol=1e-3)
