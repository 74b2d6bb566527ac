"""What demo data know: tuned labels are found with their lag, others are not, nulls are uniform, leaks are seen."""

import numpy as np
import pytest

import summer_train
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.film.facts import UNDEFINED
from summer_prep.recordings.demo import LAG_MS, demo_data
from summer_train.data.film import FilmSamples
from summer_train.data.selection import open_selection
from summer_train.models.stack import train_stack
from summer_train.scores.scoring import score_baselines
from summer_train.scores.shifts import score_stack, shifted_null, shifts_of
from summer_train.settings.options import Choice, Run, settings_from

TUNED, UNTUNED = "summer", "summer-presence"


def make_cache(folder, bin_lengths_ms, **options):
    demo_data(folder / "nwb", patient_ids=("14",), seed=1, **options)
    build_keys(
        BuildConfig(data_dir=folder / "nwb", cache_dir=folder / "cache", bin_lengths_ms=bin_lengths_ms, n_workers=0)
    )
    return folder / "cache"


@pytest.fixture(scope="module")
def tuned_cache(tmp_path_factory):
    """One patient, twenty minutes, 48 units, a third of them tuned; at 80 ms and, for speed, at 400 ms."""
    return make_cache(tmp_path_factory.mktemp("tuned"), (80, 400), units=48, minutes=20)


@pytest.fixture
def study(tuned_cache, tmp_path):
    def run(**options):
        common = {"cache_dir": tuned_cache, "data_dir": "none", "patient_ids": 14, "workers": 1, "fold": "1,3,5"}
        common |= {"buffer": 4, "max_epochs": 4, "batch_size": 128, "lr": 5e-3, "output_dir": tmp_path / "study"}
        return summer_train.study(**{**common, **options}).rows

    return run


def mean_of(score, rows, **settings):
    return np.mean([row[score] for row in rows if all(row[name] == value for name, value in settings.items())])


def test_a_scan_over_single_bins_peaks_at_the_lag_of_the_tuning(study):
    lags = [-160, 0, 160, 240, 320, 400, 480, 640]
    rows = study(label_name=TUNED, window=[(-lag / 1000, lag / 1000) for lag in lags])
    assert len(rows) == 3 * len(lags)
    aurocs = {lag: mean_of("test_auroc", rows, window=f"{-lag / 1000:g} {lag / 1000:g}") for lag in lags}
    assert max(aurocs, key=aurocs.get) == LAG_MS, aurocs
    assert aurocs[LAG_MS] > aurocs[0] > aurocs[-160], aurocs


def test_a_tuned_label_is_decoded_better_with_its_lag_in_the_window_and_another_not_at_all(study):
    rows = study(label_name=f"{TUNED},{UNTUNED}", window=[(0, 0), (0, 0.4)])
    without_lag = mean_of("test_kappa", rows, label_name=TUNED, window="0 0")
    assert without_lag > 0.3
    assert mean_of("test_kappa", rows, label_name=TUNED, window="0 0.4") > without_lag + 0.05
    assert abs(mean_of("test_kappa", rows, label_name=UNTUNED, window="0 0.4")) < 0.1


def test_a_random_split_leaks(study, tmp_path):
    """No unit knows of this label: drifting rates tell where in the film a bin lies, whose neighbours trained.

    docs/leak.md shows the same.
    """
    cache = make_cache(tmp_path, (1000,), units=40, minutes=40, drift=1.0)
    common = {"cache_dir": cache, "bin_length": 1000, "label_name": UNTUNED, "max_epochs": 20}
    common |= {"patience": 3, "batch_size": 32, "lr": 1e-3, "window": (3, 3), "hidden_size": 128}
    assert mean_of("test_kappa", study(split="random", **{**common, "buffer": None})) > 0.5
    assert abs(mean_of("test_kappa", study(**{**common, "buffer": 16}))) < 0.2


def data_of(cache, labels=None, **options):
    """The data of a choice, of labels of somebody's own if there are some."""
    choice = settings_from(Choice, {"task": "label", "buffer": 5, "bin_length": 400, **options})
    selection = open_selection(cache, 14, choice.bin_length_ms)
    with pytest.MonkeyPatch.context() as patch:
        if labels is not None:
            patch.setattr("summer_train.data.selection.Selection.labels", lambda *_: labels[: selection.n_bins])
        return FilmSamples(selection, choice)


def null_of(data, n_shifts):
    (scored,) = score_stack([data], *train_stack([data], 1))
    return shifted_null(data, scored, Run(max_epochs=1, shifts=n_shifts))


def random_stretches(generator, n_bins, mean_length):
    """A label that goes on and off at random, for about so many bins."""
    lengths = generator.geometric(1 / mean_length, n_bins)
    return (np.repeat(np.arange(len(lengths)) % 2, lengths)[:n_bins]).astype(np.uint8)


def test_p_values_are_uniform_where_neurons_know_nothing(tuned_cache):
    """40 labels of no neuron, 19 shifts each: p takes 0.05, 0.10, ... 1 equally often."""
    generator = np.random.default_rng(0)
    found = []
    for seed in range(40):
        data = data_of(tuned_cache, random_stretches(generator, 3000, 20), seed=seed, model="linear")
        found.append(null_of(data, 19))
    for name in ("p_kappa", "p_auroc"):
        p = np.array([null[name] for null in found])
        assert 0.35 < p.mean() < 0.65  # 0.5 + 1/40, standard error 0.046
        assert np.mean(p <= 0.05) <= 0.20
        # Kolmogorov-Smirnov at 1 in 1,000: 0.30 of 40 values.
        assert np.abs(np.arange(1, 41) / 40 - np.sort(p)).max() < 0.30 + 1 / 20


def test_an_untuned_label_lies_in_its_null_and_a_tuned_one_beyond(tuned_cache):
    p = {TUNED: [], UNTUNED: []}
    for seed in range(10):
        for label_name, values in p.items():
            own = {"bin_length": 400, "buffer": 4, "seed": seed, "fold": seed % 5 + 1, "model": "linear"}
            values.append(null_of(data_of(tuned_cache, label_name=label_name, **own), 9)["p_auroc"])
    assert max(p[TUNED]) == 0.1  # the least that nine shifts allow
    assert np.mean(p[UNTUNED]) > 0.3
    assert np.mean(np.array(p[UNTUNED]) <= 0.1) < 0.4


@pytest.mark.parametrize("mean_length", [300, 1])
def test_time_alone_beats_chance_on_slow_labels_and_not_on_labels_without_structure(tuned_cache, mean_length):
    generator = np.random.default_rng(0)
    kappas = []
    for seed in range(8):
        white = generator.integers(0, 2, 3000).astype(np.uint8)
        labels = random_stretches(generator, 3000, mean_length) if mean_length > 1 else white
        data = data_of(tuned_cache, labels, seed=seed, sequence=(0, 0))
        kappas.append(score_baselines(data)["time only"].scores["test"]["kappa"])
    assert np.nanmean(kappas) > 0.3 if mean_length == 300 else abs(np.nanmean(kappas)) < 0.1


def test_shifted_labels_keep_their_structure_and_bins_without_a_label(tuned_cache):
    data = data_of(tuned_cache, label_name="indoor-setting")
    shifted, usable = data.shifted(500), data.has_target
    before, after = data.classes, shifted.classes
    is_undefined = data.selection.labels("indoor-setting") == UNDEFINED
    assert np.array_equal(after[is_undefined], before[is_undefined])
    fewer = round(500 * usable.sum() / len(usable))  # all bins of this film may be used
    assert fewer < 490
    assert np.array_equal(after[usable], np.roll(before[usable], fewer))
    assert shifts_of(data, 5) == shifts_of(data_of(tuned_cache, label_name="summer"), 5)  # labels are tested together
    assert all(np.array_equal(getattr(data.split, part), getattr(shifted.split, part)) for part in vars(data.split))
    assert data.shifted(0).classes.tolist() == before.tolist()
