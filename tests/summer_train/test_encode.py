"""Counts of each unit from features or labels of the film, beside NumPy and scikit-learn, and tables of units."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import PoissonRegressor, Ridge

import summer_train
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.targets import add_target
from summer_prep.errors import SettingsError
from summer_prep.recordings.demo import TUNED_LABELS, demo_data
from summer_train.reports.findings import unit_scores
from summer_train.reports.summary import summarise

N_UNITS = 24


@pytest.fixture(scope="module")
def tuned_cache(tmp_path_factory):
    """One patient, twenty minutes at 400 ms, with the targets of the demo and features that have gaps."""
    folder = tmp_path_factory.mktemp("encode")
    demo_data(folder / "nwb", patient_ids=("14",), units=N_UNITS, minutes=20, seed=1)
    cache = folder / "cache"
    build_keys(BuildConfig(data_dir=folder / "nwb", cache_dir=cache, bin_lengths_ms=(400,), n_workers=0))
    film = np.load(folder / "nwb" / "film_features.npy")
    add_target(folder / "nwb" / "film_features.npy", name="film", cache_dir=cache)
    add_target(folder / "nwb" / "events.tsv", name="events", cache_dir=cache)
    film[5000:5300, 1] = np.nan
    np.save(folder / "gaps.npy", film[:, :2])
    add_target(folder / "gaps.npy", name="gaps", cache_dir=cache)
    return cache


@pytest.fixture
def common(tuned_cache, tmp_path):
    places = {"cache_dir": tuned_cache, "data_dir": "none", "output_dir": tmp_path / "logs", "patient_ids": 14}
    return {**places, "task": "encode", "target": "film:0-7", "bin_length": 400, "buffer": 4, "window": (0.8, 0)}


def lagged(rows):
    """Windows of two bins before each bin and itself, flat; the first two wrap around."""
    return np.hstack([np.roll(rows, lag, axis=0) for lag in (2, 1, 0)])


def test_ridge_is_that_of_scikit_learn_on_lagged_standardised_inputs(common):
    result = summer_train.fit(**common, model="ridge")
    data = summer_train.film_data(config=result.log_dir)
    split, counts, values = data.split, data.selection.counts().astype(float), data.selection.features("film:0-7")
    own = values[split.train].astype(float)
    x = lagged((values - own.mean(axis=0)) / own.std(axis=0))
    theirs = Ridge(alpha=result.penalty).fit(x[split.train], counts[split.train])
    np.testing.assert_allclose(result.predictions()["test_score"], theirs.predict(x[split.test]), atol=1e-4)
    target, made = counts[split.test], theirs.predict(x[split.test])
    r2 = 1 - ((made - target) ** 2).sum(axis=0) / ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(result.units["test"]["r2"], r2, atol=1e-4)
    assert result.scores["model"]["test"]["r2"] == pytest.approx(np.median(r2), abs=1e-4)
    assert set(result.scores) == {"model", "mean count", "time only"}
    again = summer_train.score(data, {part: result.predictions()[f"{part}_score"] for part in ("val", "test")})
    assert again.scores["model"]["test"] == result.scores["model"]["test"]
    assert (data.task.name, data.n_inputs, data.n_units) == ("encode", 8, N_UNITS)
    x_batch, y_batch = next(iter(data.test_dataloader()))
    np.testing.assert_allclose(x_batch.flatten(1), x[split.test[:32]], atol=1e-4)
    assert np.array_equal(y_batch, counts[split.test[:32]])


def test_poisson_is_that_of_scikit_learn(common):
    result = summer_train.fit(**{**common, "window": (0, 0), "target": "office"}, model="linear", loss="poisson")
    data = summer_train.film_data(config=result.log_dir)
    counts, office = data.selection.counts(), (data.selection.labels("office") == 1).astype(float)[:, None]
    split, unit = data.split, int(np.argmax(counts.sum(axis=0)))
    theirs = PoissonRegressor(alpha=0, tol=1e-9).fit(office[split.train], counts[split.train, unit])
    expected = theirs.predict(office[split.test])
    np.testing.assert_allclose(result.predictions()["test_score"][:, unit], expected, rtol=1e-3)


def test_tuned_units_are_found_and_others_are_not(common, tuned_cache):
    truth = json.loads((tuned_cache.parent / "nwb" / "truth.json").read_text())["14"]["tuned_units"]
    labels = "+".join(dict.fromkeys(TUNED_LABELS))
    options = {**common, "model": "ridge", "shifts": 19, "target": labels, "fold": [1, 3], "workers": 1}
    folder = common["output_dir"] / "study"
    rows = summer_train.study(**{**options, "output_dir": folder}).rows
    assert [row["target"] for row in rows] == [labels] * 2
    with (folder / "units.csv").open() as file:
        units = [row for row in csv.DictReader(file) if row["part"] == "test"]
    p = np.array([float(row["p_r2"]) for row in units]).reshape(2, N_UNITS).mean(axis=0)
    is_tuned = np.isin(np.arange(N_UNITS), [one["unit"] for one in truth])
    together = unit_scores(summer_train.figures.read_models(folder))
    assert (together["p"][is_tuned] <= 0.05).mean() > 0.7
    assert (together["p"][~is_tuned] <= 0.05).mean() < 0.2
    n_driven = int((together["p"] <= 0.05).sum())
    summer_train.report(folder)
    said = (folder / "report" / "report.md").read_text()
    assert re.search(rf"Units with p .*by chance: .* {n_driven} of {N_UNITS}\.", said)
    own_p, own_q = ([float(row[name]) for row in units if row["fold"] == "1"] for name in ("p_r2", "q_r2"))
    assert own_q == pytest.approx(stats.false_discovery_control(own_p))
    assert together["q"].tolist() == pytest.approx(stats.false_discovery_control(together["p"]))
    assert together["gain_low"][is_tuned].median() > 0 > together["gain_low"][~is_tuned].median()
    assert p[is_tuned].mean() < 0.1
    assert p[~is_tuned].mean() > 0.3
    result = summer_train.fit(**{**common, "target": labels}, model="ridge", shifts=19)
    assert result.null["p_r2_of_units"] == pytest.approx(own_p, nan_ok=True)


def test_units_stand_beside_their_mean_and_the_last_bin_as_patient_and_region(common):
    del common["target"]
    folder = common["output_dir"] / "study"
    options = {**common, "task": "next_bin", "window": (0, 0), "max_epochs": 3, "lr": 0.01, "sequence": (1, 1)}
    rows = summer_train.study(**{**options, "output_dir": folder}, fold=[1, 2], keep_predictions=True, workers=1).rows
    units = pd.read_csv(folder / "units.csv")
    models = summer_train.report(folder)
    errors, own = np.zeros((3, N_UNITS)), units[units["part"] == "test"]
    for fold, result in zip((1, 2), models["result"], strict=True):
        of_fold = {name: value for name, value in options.items() if name not in ("output_dir", "max_epochs")}
        data = summer_train.film_data(**of_fold, fold=fold)
        counts, bins = data.selection.counts().astype(float), data.split.test
        mean = counts[data.split.train + 1].mean(axis=0)
        made = [result.arrays["score"], mean, counts[bins]]
        found = np.array([((one - counts[bins + 1]) ** 2).mean(axis=0) for one in made])
        errors += found / 2
        table = own[own["fold"] == fold]
        columns = ["mse", "mean_count_mse", "copy_last_bin_mse"]
        np.testing.assert_allclose(table[columns].to_numpy().T, found, rtol=1e-5)
        np.testing.assert_allclose(table["gain"], 1 - found[0] / found[1], atol=1e-5)
        known = table.dropna(subset="gain_low")  # not of a unit that spikes in fewer than five cycles
        assert ((known["gain_low"] < known["gain"]) & (known["gain"] < known["gain_high"])).all()
        assert len(known) > N_UNITS - 3
        assert table["region"].tolist() == data.selection.units()["brain_region"].tolist()
        assert table["column"].tolist() == list(range(N_UNITS))
        assert set(table["patient_id"]) == {14}
    assert units.loc[units["part"] == "val", "gain"].notna().all()
    assert units.loc[units["part"] == "val", "gain_low"].isna().all()
    assert rows[0]["test_r2_low"] < rows[0]["test_r2"] < rows[0]["test_r2_high"]
    (facts,) = summarise(models)["groups"]
    together = pd.DataFrame(facts["units"])
    np.testing.assert_allclose(together["gain"], 1 - errors[0] / errors[1], atol=1e-5)
    n_surely = int((together["gain_low"] > 0).sum())
    n = {"mean_count": int((errors[0] < errors[1]).sum()), "copy_last_bin": int((errors[0] < errors[2]).sum())}
    assert facts["n_better"] == {**n, "interval_above_0": n_surely}
    assert facts["interval"]["r2"]["low"] < facts["mean"]["r2"] < facts["interval"]["r2"]["high"]
    said = f"{n['mean_count']} of {N_UNITS} units are predicted better than by their mean count ({n_surely} with"
    assert said in (folder / "report" / "report.md").read_text().replace("\\", "")


@pytest.mark.parametrize(
    "changes",
    [{"model": "mlp"}, {"model": "linear", "loss": "poisson"}, {"model": "ridge", "fold": 3}, {"model": "gru"}],
)
def test_a_study_row_is_a_fit_and_evaluating_gives_it_again(changes, common):
    options = {**common, "max_epochs": 2, **changes}
    options["target"] = "film:0+3+office & !tom+at-work"
    result = summer_train.fit(**options)
    folder = common["output_dir"] / "study"
    row, other = summer_train.study(
        **{**options, "output_dir": folder, "fold": [options.get("fold", 1), 2]}, workers=1
    ).rows
    again = summer_train.evaluate(result.log_dir)
    assert again.differences == []
    for name, score in result.scores["model"]["test"].items():
        assert row[f"test_{name}"] == pytest.approx(score, rel=1e-4, abs=1e-4, nan_ok=True), name
        assert again.scores["model"]["test"][name] == pytest.approx(score, rel=1e-6, abs=1e-6, nan_ok=True), name
    streamed = summer_train.fit(**options, device_memory=1e-9)
    assert streamed.scores["model"]["test"]["mse"] == pytest.approx(result.scores["model"]["test"]["mse"], rel=1e-6)
    assert summer_train.evaluate(result.log_dir, fold=4).scores["time only"]["test"]["r2"] != row["time_only_test_r2"]
    assert other["test_mse"] != row["test_mse"]


def test_samples_whose_window_reaches_an_undefined_input_are_left_out(common):
    options = {name: value for name, value in common.items() if name != "output_dir"}
    data = summer_train.film_data(**{**options, "target": "gaps+summer"})
    values = data.selection.features("gaps")
    assert 20 < np.isnan(values).any(axis=1).sum() < 40
    assert np.isfinite(lagged(data.inputs)[np.concatenate(list(vars(data.split).values()))]).all()
    shifted = data.shifted(300).inputs
    assert np.array_equal(np.isnan(shifted), np.isnan(data.inputs))
    known = ~np.isnan(shifted).any(axis=1)
    assert np.array_equal(shifted[known], np.roll(data.inputs[known], round(300 * known.mean()), axis=0))


def test_alone_and_together_stand_side_by_side_in_a_report(common):
    folder = common["output_dir"] / "study"
    targets = "film:0-7,office & !tom,film:0-7+office & !tom"
    rows = summer_train.study(**{**common, "target": targets, "output_dir": folder}, model="ridge", workers=1).rows
    assert [row["target"] for row in rows] == ["film:0-7", "office & !tom", "film:0-7+office & !tom"]
    assert rows[2]["train_mse"] < min(rows[0]["train_mse"], rows[1]["train_mse"])
    own = summer_train.fit(
        **{**common, "output_dir": folder / "own"},
        network=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, N_UNITS)),
    )
    assert own.config["model"].startswith("own:Sequential-")
    models = summer_train.report(folder)
    assert sorted(models["name"]) == sorted(row["target"] for row in rows)
    assert {path.name for path in models.attrs["written"]} >= {"report.md", "encoding.png"}
    assert "The highest median R² over units is" in (folder / "report" / "report.md").read_text()


def test_the_rule_of_labels_decides_what_is_encoded_from(common):
    options = {**common, "target": "camera-cuts", "fold": 1, "workers": 1}
    data = {name: value for name, value in common.items() if name != "output_dir"} | {"target": "camera-cuts"}
    inputs = summer_train.film_data(**data, label_rule="any").selection
    shares = [(inputs.features("camera-cuts", rule) == 1).mean() for rule in ("first", "any")]
    assert shares[1] > 3 * shares[0]
    rows = summer_train.study(**options, label_rule=["first", "any"], model="ridge").rows
    assert rows[0]["train_mse"] != rows[1]["train_mse"]
    with pytest.raises(SettingsError, match="no label 'tmo'"):
        summer_train.study(**{**options, "target": "tom,tmo"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "--task encode: name the --target"),
        ({"target": "flim"}, "no label 'flim'"),
        ({"target": "flim:0"}, "no features 'flim'"),
        ({"target": "film:0+summer+flim"}, "no label 'flim'"),
        ({"target": "film:0+16"}, "no column '16' in film"),
        ({"target": "office+"}, "names a part twice, or none"),
        ({"target": "office+office"}, "names a part twice"),
        ({"target": "tom+office & "}, "--target 'office &'"),
        ({"label_name": "tom"}, "--label-name: has no effect on --task encode"),
        ({"retrieve": 4}, "--retrieve: has no effect on --task encode"),
        ({"loss": "cosine"}, "--loss cosine"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(options, message, common):
    given = {name: value for name, value in {**common, **options}.items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        summer_train.fit(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
