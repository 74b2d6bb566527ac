"""Some of the units, or of the cycles: drawn at random or ranked on training bins, alone or as masks of one stack."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import summer_train
from summer_prep.errors import SettingsError
from summer_train.data.film import FilmSamples
from summer_train.data.samples import best_units, drawn_units, unit_aurocs
from summer_train.data.selection import NoUnitsError, open_selection
from summer_train.reports.figures import draw_setting, read_models
from summer_train.reports.summary import summarise
from summer_train.settings.options import Choice, settings_from


@pytest.fixture
def study(demo_cache, tmp_path):
    """Runs a study of two patients in this process; options that are given go first."""
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": "14 20", "buffer": 10, "max_epochs": 2}
    common |= {"workers": 1, "output_dir": tmp_path / "study"}
    return lambda **options: pd.DataFrame(summer_train.study(**{**common, **options}).rows)


def choice_of(**options):
    return settings_from(Choice, {"task": "label", "patient_ids": "14 20", "buffer": 10, **options})


@pytest.mark.parametrize(
    ("changes", "n_units"),
    [
        ({"label_name": "summer,tom"}, ["7", "15", "best:7", "all"]),
        ({"window": (0.16, 0.08)}, ["7", "best:7"]),
        ({"model": "linear", "hidden_size": None, "label_name": "summer,office"}, ["7", "best:7"]),
        ({"model": "lstm", "batch_size": 128, "window": (0.16, 0.08), "max_epochs": 1}, ["7"]),
        ({"space": "shared:4"}, ["12"]),
        ({"standardise": True}, ["7", "all"]),
        (
            {"weight_decay": 0.01, "dropout": 0.3, "window": (0.8, 0.8), "max_epochs": 5, "patience": 1, "lr": 0.02},
            ["7", "15"],
        ),
    ],
    ids=["mlp", "windows", "linear", "lstm", "shared space", "standardised", "patience"],
)
def test_networks_of_some_units_in_one_stack_are_those_of_a_fit_on_these_units_alone(options, study, changes, n_units):
    rows = study(**{"hidden_size": 8, **changes}, n_units=n_units, draw=[0, 1], fold=[1, 2])
    for row in rows.to_dict("records"):
        own = {"fold": row["fold"], "label_name": row["label_name"]}
        own |= {} if pd.isna(row["chosen_units"]) else {"n_units": row["chosen_units"]}  # of all units
        own |= {} if pd.isna(row["draw"]) else {"draw": int(row["draw"])}
        result = summer_train.fit(**options(**{**changes, **own, "task": "label"}))
        assert result.n_units == row["n_units"]
        for name in ("loss", "kappa", "auroc"):
            np.testing.assert_allclose(row[f"test_{name}"], result.scores["model"]["test"][name], atol=1e-5)


def test_fits_of_some_units_evaluate_to_their_own_scores(options, places):
    for n_units in ("7", "best:7"):
        result = summer_train.fit(**options(task="label", n_units=n_units, buffer=10))
        again = summer_train.evaluate(result.log_dir, **places)
        assert again.scores["model"] == result.scores["model"]
        assert again.choice.n_units == n_units


@pytest.mark.parametrize("changes", [{"task": "next_bin"}, {"task": "encode", "target": "summer"}], ids=str)
def test_other_tasks_predict_the_units_that_are_drawn(study, changes):
    rows = study(**changes, n_units=5, draw="0,1", fold=1, model="linear")
    assert list(rows["n_units"]) == [5, 5]
    assert rows["test_r2"].nunique() == 2


def test_more_units_than_a_region_has_is_a_row_with_the_reason(study, options):
    rows = study(brain_regions="A;all", n_units=15, fold=1)
    assert list(rows["n_units"]) == [0, 15]
    assert "--n-units 15: the chosen patients and regions have only " in rows["why_undefined"][0]
    with pytest.raises(NoUnitsError, match="--n-units 1000: the chosen patients and regions have only 20"):
        summer_train.fit(**options(task="label", n_units=1000))


def test_growth_is_drawn_on_a_logarithmic_axis_with_a_dot_for_each_draw(study, tmp_path):
    study(n_units="5,10,best:5,all,500", draw="0-2", fold="1,2", label_name="summer")
    figure = draw_setting(read_models(tmp_path / "study"), "chosen_units")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert axes.get_xscale() == "log"
    assert list(lines["summer"].get_xdata()) == [5, 10, 20]
    assert list(lines["summer, ranked units"].get_xdata()) == [5]
    dots = next(line for line in axes.lines if line.get_marker() == ".")
    assert list(dots.get_xdata()).count(5) == 3


def test_draws_are_repeats_of_one_result_and_partners_of_what_is_not_drawn(study, tmp_path):
    study(n_units="5,all", draw="0-2", fold="1,2", label_name="summer")
    facts = summarise(read_models(tmp_path / "study"), compare="chosen_units")
    assert sorted(len(group["models"]) for group in facts["groups"]) == [2, 6]
    assert [one["n_models"] for one in facts["comparison"]] == [6]


def test_each_draw_has_one_partner_whatever_else_is_in_the_folder(study, tmp_path):
    study(patient_ids="14;20", n_units="5,all", draw="0-2", fold="1,2", max_epochs=1)
    facts = summarise(read_models(tmp_path / "study"), compare="patient_ids")
    assert sorted(one["n_models"] for one in facts["comparison"]) == [2, 6]


def test_thresholds_come_from_where_they_were_asked_for(study):
    rows = study(threshold="validation,train,half", fold=1, label_name="summer").fillna(
        {"threshold_from": "validation"}
    )
    rows = rows.set_index("threshold_from")
    assert rows["threshold_log_odds"]["half"] == 0
    assert rows["val_kappa"].idxmax() == "validation"
    assert rows["train_kappa"].idxmax() == "train"
    assert rows["test_auroc"].nunique() == 1


@given(n_units=st.integers(1, 60), n_chosen=st.integers(1, 60), draw=st.integers(0, 5))
def test_fewer_drawn_units_are_some_of_more(n_units, n_chosen, draw):
    n_chosen = min(n_chosen, n_units)
    more, fewer = drawn_units(n_units, n_chosen, draw), drawn_units(n_units, max(1, n_chosen // 2), draw)
    assert len({*more.tolist()}) == n_chosen
    assert {*fewer} <= {*more} <= {*range(n_units)}


def test_ranking_of_units_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    counts, is_on = rng.poisson(1, (80, 130)).astype(np.uint8), rng.random(80) < 0.3
    counts[is_on, 100] += 2
    counts[:, 5] = 3

    def auroc(unit):
        on, off = counts[is_on, unit].astype(int), counts[~is_on, unit].astype(int)
        return np.mean([(one > off).mean() + (one == off).mean() / 2 for one in on])

    expected = np.array([auroc(unit) for unit in range(130)])
    np.testing.assert_allclose(unit_aurocs(counts.astype(np.int64), is_on), expected)
    ranked = sorted(range(130), key=lambda unit: (-round(abs(expected[unit] - 0.5), 9), unit))
    assert best_units(counts, is_on, 9).tolist() == sorted(ranked[:9])
    features = np.stack([is_on + rng.normal(size=80), rng.normal(size=80)], axis=1)
    r = np.array([[np.corrcoef(counts[:, unit], one)[0, 1] for one in features.T] for unit in range(130) if unit != 5])
    strongest = np.insert((r**2).mean(axis=1), 5, 0)
    assert best_units(counts, features, 9).tolist() == sorted(np.argsort(-strongest)[:9].tolist())


def test_best_units_of_a_fold_know_nothing_of_its_test_bins(demo_cache, monkeypatch):
    selection = open_selection(demo_cache, [14, 20])
    data = FilmSamples(selection, choice_of(n_units="best:7"))
    counts = selection.counts().copy()
    others = np.setdiff1d(np.arange(len(counts)), data.split.train)
    counts[others] = np.random.default_rng(0).permutation(counts[others].ravel()).reshape(counts[others].shape)
    kept = data.kept
    monkeypatch.setattr(selection, "counts", lambda: counts)
    assert FilmSamples(selection, choice_of(n_units="best:7")).kept.tolist() == kept.tolist()


def test_a_null_of_best_units_ranks_them_by_its_own_shifted_label(demo_cache):
    data = FilmSamples(open_selection(demo_cache, [14, 20]), choice_of(n_units="best:7"))
    shifted = data.shifted(3000)
    assert data.kept.tolist() != shifted.kept.tolist()


def test_a_share_of_training_is_whole_cycles_and_leaves_validation_and_test(demo_cache):
    selection = open_selection(demo_cache, [14, 20])
    whole, some = (FilmSamples(selection, choice_of(train_share=share)) for share in (1.0, 0.5))
    assert {*some.split.train} < {*whole.split.train}
    for part in ("val", "test"):
        assert np.array_equal(getattr(some.split, part), getattr(whole.split, part))
    other = FilmSamples(selection, choice_of(train_share=0.5, draw=1))
    assert len({some.split.train.tobytes(), other.split.train.tobytes()}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_units": "0"}, "--n-units 0: must be all, a number like 200, or best:200"),
        ({"n_units": "worst:3"}, "--n-units worst:3: must be"),
        ({"draw": 2}, "--draw: has no effect on --n-units all"),
        ({"draw": 2, "n_units": "best:4"}, "--draw: has no effect on --n-units best:4"),
        ({"n_units": "best:4", "task": "next_bin"}, "--n-units best:4: ranks units by a label or features"),
        ({"n_units": "best:4", "space": "shared:2"}, "--n-units best:4: ranks units by a label or features"),
        ({"train_share": 0.5, "split": "random", "buffer": None}, "--train-share 0.5: needs the blocked split"),
        ({"train_share": 0.5, "val_fraction": 0.1, "buffer": None}, "--train-share 0.5: needs the blocked split"),
        ({"weight_decay": 0.1, "model": "linear"}, "--weight-decay: has no effect on --model linear"),
        ({"standardise": True, "space": "cca:3"}, "--standardise: has no effect on --space cca"),
        ({"standardise": True, "task": "next_bin"}, "--standardise: has no effect on --task next_bin"),
        ({"threshold": "train", "task": "next_bin"}, "--threshold: has no effect on --task next_bin"),
    ],
    ids=str,
)
def test_a_choice_of_units_that_means_nothing_is_refused(options, message):
    with pytest.raises(SettingsError) as refused:
        choice_of(**options)
    assert str(refused.value).startswith(message)
