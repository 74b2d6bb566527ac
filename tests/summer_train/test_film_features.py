"""Features from a film to scores: bins, scaling, ridge regression, and what demo data know of their features."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import PredefinedSplit, cross_val_score

import summer_train
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.targets import add_target, film_targets, remove_target
from summer_prep.errors import SettingsError
from summer_prep.recordings.demo import demo_data
from summer_train import figures
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmFeatures
from summer_train.models.ridge import PENALTIES
from summer_train.scores.baselines import SMOOTHING_WIDTHS_S, time_only_features
from summer_train.scores.claims import pooled_scores
from summer_train.settings.options import Choice

TUNED, UNTUNED = "film:0-7", "film:8-15"


@pytest.fixture(scope="module")
def feature_cache(tmp_path_factory):
    """One patient, twenty minutes, 48 units at 20, 80 and 400 ms, with the features of the demo, and some with gaps."""
    folder = tmp_path_factory.mktemp("features")
    demo_data(folder / "nwb", patient_ids=("14",), units=48, minutes=20, seed=1)
    cache = folder / "cache"
    build_keys(BuildConfig(data_dir=folder / "nwb", cache_dir=cache, bin_lengths_ms=(20, 80, 400), n_workers=0))
    add_target(folder / "nwb" / "film_features.npy", name="film", cache_dir=cache)
    add_target(folder / "nwb" / "loudness.csv", name="loudness", cache_dir=cache, start_s=0, step_s=0.01)
    add_target(folder / "nwb" / "events.tsv", name="events", cache_dir=cache)
    gaps = np.load(folder / "nwb" / "film_features.npy")[:, :2]
    gaps[5000:5003, 1] = np.nan
    np.save(folder / "gaps.npy", gaps)
    add_target(folder / "gaps.npy", name="gaps", cache_dir=cache)
    return cache


@pytest.fixture
def common(feature_cache, tmp_path):
    places = {"cache_dir": feature_cache, "data_dir": "none", "output_dir": tmp_path / "logs", "patient_ids": 14}
    return {**places, "task": "feature", "target": TUNED, "bin_length": 400, "buffer": 4, "window": (0, 0.4)}


def test_targets_of_the_demo_are_what_its_truth_says(feature_cache):
    truth = json.loads((feature_cache.parent / "nwb" / "truth.json").read_text())["film"]
    selection = summer_train.open_selection(feature_cache, 14, 400)
    for own, label_name in truth["events.tsv"].items():
        if label_name:
            assert np.array_equal(selection.labels(own) == 1, selection.labels(label_name) == 1)
    features, facts = selection.features("film"), truth["film_features.npy"]
    tracks = np.array([selection.labels(name, "majority") == 1 for name in facts["labels"]], dtype=float)
    mixed = (np.array(facts["weights"]) @ ((tracks.T - tracks.mean(1)) / tracks.std(1)).T).T
    r = [np.corrcoef(mixed[:, one], features[:, one])[0, 1] for one in range(8)]
    assert min(r) > 0.8  # the smoothed tracks are seen here without their smoothing
    assert facts["untuned"] == list(range(8, 16))


@pytest.mark.parametrize("bin_length", [20, 80, 400])
def test_features_of_a_bin_are_the_mean_of_its_frames(bin_length, feature_cache):
    selection = summer_train.open_selection(feature_cache, 14, bin_length)
    frames = np.concatenate(list(film_targets(feature_cache)["gaps"].blocks()))
    n_frames = max(1, bin_length // 40)
    first = selection.grid().first_frames
    expected = np.stack([frames[start : start + n_frames].mean(axis=0) for start in first])
    np.testing.assert_allclose(selection.features("gaps"), expected, atol=1e-6)
    data = FilmSamples(selection, Choice(task="feature", target="gaps", bin_length_ms=bin_length, buffer_s=4))
    assert np.array_equal(data.has_target, ~np.isnan(expected).any(axis=1))
    assert 1 <= (~data.has_target).sum() <= 6
    train = data.targets[data.split.train]
    np.testing.assert_allclose(train.mean(axis=0, dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0, dtype=float), 1, atol=1e-5)


def test_ridge_is_that_of_scikit_learn_with_the_penalty_that_validation_chooses(common):
    result = summer_train.fit(**{**common, "window": (0, 0)}, model="ridge")
    data = summer_train.film_data(config=result.log_dir)
    counts, features, split = data.selection.counts().astype(float), data.targets.astype(float), data.split
    both = np.concatenate([split.train, split.val])
    folds = PredefinedSplit(np.where(np.isin(both, split.val), 0, -1))
    chosen = RidgeCV(PENALTIES, cv=folds, scoring="neg_mean_squared_error").fit(counts[both], features[both])
    assert result.penalty == chosen.alpha_
    theirs = Ridge(alpha=result.penalty).fit(counts[split.train], features[split.train])
    weights = torch.load(result.best_checkpoint, weights_only=True)["state_dict"]
    np.testing.assert_allclose(weights["net.0.weight"], theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(weights["net.0.bias"], theirs.intercept_, atol=1e-6)
    stored = result.predictions()
    in_units = theirs.predict(counts[split.test]) * data.scaling["sd"] + data.scaling["mean"]
    np.testing.assert_allclose(stored["test_score"], in_units, atol=1e-5)
    np.testing.assert_allclose(stored["test_target"], data.selection.features(TUNED)[split.test], atol=1e-5)
    assert json.loads((result.log_dir / "results.json").read_text())["penalty"] == result.penalty
    outputs = {part: torch.from_numpy(theirs.predict(counts[getattr(split, part)])) for part in ("val", "test")}
    scores = summer_train.score(data, outputs).scores["model"]["test"]
    assert scores == pytest.approx(result.scores["model"]["test"], abs=1e-5)


def test_tuned_dimensions_are_decoded_and_others_are_not(common):
    rows = summer_train.study(
        **{**common, "target": [TUNED, UNTUNED], "output_dir": common["output_dir"] / "study"},
        model="ridge", fold=[1, 3], shifts=9, workers=1,
    ).rows  # fmt: skip
    tuned, untuned = ([row for row in rows if row["target"] == target] for target in (TUNED, UNTUNED))
    assert all(row["test_r2"] > 0.3 and row["p_r2"] == row["p_r"] == 0.1 for row in tuned), tuned
    assert all(row["test_top_10"] > 3 * row["test_top_10_chance"] for row in tuned), tuned
    assert all(row["test_r2"] > row["time_only_test_r2"] + 0.2 for row in tuned), tuned
    assert all(row["test_r2"] < 0.05 for row in untuned), untuned
    assert np.mean([row["p_r2"] for row in untuned]) > 0.1, untuned
    for one in figures.read_models(common["output_dir"] / "study")["result"]:
        scores, together = one.scores["test"], pooled_scores([one.sums()], np.ones((1, len(one.sums()["n"]))))
        assert {name: values[0] for name, values in together.items()} == pytest.approx(
            {name: scores[name] for name in ("r2", "top_10")}, abs=1e-5
        )


def test_all_labels_as_one_target_give_what_each_gives_alone(common, feature_cache, tmp_path):
    cache = shutil.copytree(feature_cache, tmp_path / "cache")
    selection = summer_train.open_selection(cache, 14, 400)
    names = [name for name in selection.label_names if 0.02 < (selection.labels(name) == 1).mean() < 0.98]
    labels = np.zeros((len(np.load(feature_cache.parent / "gaps.npy")), len(names)), dtype=np.float32)
    of_bins = np.stack([selection.labels(name) == 1 for name in names], axis=1)
    for frame, row in zip(selection.grid().first_frames, of_bins, strict=True):
        labels[frame : frame + 10] = row
    np.save(tmp_path / "labels.npy", labels)
    add_target(tmp_path / "labels.npy", name="labels", cache_dir=cache)
    targets = ["labels", *(f"labels:{number}" for number in range(len(names)))]
    options = {**common, "cache_dir": cache, "model": "linear", "window": (0, 0), "output_dir": tmp_path / "study"}
    together, *alone = summer_train.study(**{**options, "target": targets}, workers=1).rows
    assert len(names) > 10
    assert together["test_r2"] == pytest.approx(np.mean([row["test_r2"] for row in alone]), abs=1e-4)
    assert together["test_mse"] == pytest.approx(np.mean([row["test_mse"] for row in alone]), abs=1e-4)


@pytest.mark.parametrize("model", ["mlp", "linear", "ridge", "gru"])
def test_a_study_row_is_a_fit_and_evaluating_gives_it_again(model, common):
    options = {**common, "max_epochs": 2, "model": model, "target": "film:0+3"}
    result = summer_train.fit(**options)
    (row,) = summer_train.study(**{**options, "output_dir": common["output_dir"] / "study"}, workers=1).rows
    scores = result.scores["model"]["test"]
    assert len(scores) == 16
    for name, score in scores.items():
        assert row[f"test_{name}"] == pytest.approx(score, rel=1e-4, abs=1e-4), name
    assert row.get("penalty") == result.penalty
    again = summer_train.evaluate(result.log_dir)
    assert again.differences == []
    for name, score in again.scores["model"]["test"].items():
        assert score == pytest.approx(scores[name], rel=1e-6, abs=1e-6), name
    elsewhere = summer_train.evaluate(result.log_dir, fold=3).scores["mean"]["train"]
    assert elsewhere["mse"] != pytest.approx(1, abs=1e-4)  # still scaled by what it was trained on


def test_other_values_under_the_name_of_a_target_are_seen(common, feature_cache, tmp_path):
    options = {**common, "cache_dir": shutil.copytree(feature_cache, tmp_path / "cache"), "model": "ridge"}
    result = summer_train.fit(**options)
    remove_target("film", options["cache_dir"])
    values = np.load(feature_cache.parent / "nwb" / "film_features.npy")
    np.save(tmp_path / "other.npy", values[:, ::-1])
    add_target(tmp_path / "other.npy", name="film", cache_dir=options["cache_dir"])
    assert summer_train.evaluate(result.log_dir).differences == [f"target {TUNED}: other values"]
    with pytest.raises(SettingsError, match=f"target {TUNED}: other values"):
        summer_train.fit(**options, resume=True)


def test_cosine_loss_has_the_gradient_of_autograd_and_trains(common):
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(7, 5, generator=generator) for _ in range(2))
    task = FilmFeatures(5, "cosine")
    prediction.requires_grad_()
    task.loss(prediction, target).backward()
    torch.testing.assert_close(task.loss_gradient(prediction.detach(), target) / 7, prediction.grad)
    result = summer_train.fit(**common, loss="cosine", max_epochs=3)
    assert result.scores["model"]["test"]["top_10"] > 2 * result.scores["model"]["test"]["top_10_chance"]


def test_batches_of_a_trainer_of_ones_own_and_streamed_ones_have_standardised_features(common):
    options = {name: value for name, value in common.items() if name != "output_dir"}
    data, streamed = summer_train.film_data(**options), summer_train.film_data(**options, device_memory=1e-9)
    for (x, y), (x_streamed, y_streamed) in zip(data.train_dataloader(), streamed.train_dataloader(), strict=True):
        assert (x.dtype, y.dtype, y.shape[1]) == (torch.float32, torch.float32, 8)
        assert torch.equal(x, x_streamed)
        assert torch.equal(y, y_streamed)
    assert repr(data).startswith(f"<FilmData: feature {TUNED}, ")


def test_scikit_learn_decodes_features_on_our_folds(feature_cache):
    selection = summer_train.open_selection(feature_cache, 14, 400)
    scores = cross_val_score(
        Ridge(alpha=100), selection.counts(), selection.features(TUNED), cv=summer_train.folds(selection, buffer=4)
    )
    assert (scores > 0.2).all()


def test_time_only_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 3)).cumsum(axis=0).astype("f4")
    train, val = np.arange(60), np.arange(70, 90)
    predicted, lowest = None, np.inf
    for width in SMOOTHING_WIDTHS_S[:7]:  # 64 s of a film of 120
        near = np.exp(-0.5 * (np.subtract.outer(np.arange(120), train) / width) ** 2)
        found = near @ features[train] / (near.sum(axis=1, keepdims=True) + 1)
        error = ((found[val] - features[val]) ** 2).sum()
        if error < lowest:
            predicted, lowest = found, error
    np.testing.assert_allclose(time_only_features(features, train, val, 1000), predicted, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "flim"}, "no features 'flim'"),
        ({"target": "film:x"}, "no column 'x' in film"),
        ({"target": "film:0-16"}, "no column '0-16' in film"),
        ({"target": "film:0+0-2"}, "names a column twice"),
        ({"target": None}, "name the --target"),
        ({"label_name": "tom"}, "--label-name: has no effect on --task feature"),
        ({"task": "label"}, "--target: has no effect on --task label"),
        ({"model": "ridge", "lr": 0.1}, "--lr: has no effect on --model ridge"),
        ({"model": "linear", "loss": "cosine"}, "--loss cosine"),
        ({"loss": "poisson"}, "--loss poisson"),
        (
            {"task": "next_bin", "target": None, "model": "ridge", "window": (0, 0)},
            "--model ridge: is of --task feature and encode",
        ),
        ({"retrieve": 0.1}, "--retrieve 0.1: must be 1 or more"),
        ({"retrieve_within": "sumer"}, "no label 'sumer'"),
    ],
)
def test_what_cannot_be_decoded_is_one_line(options, message, common):
    given = {name: value for name, value in {**common, **options}.items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        summer_train.fit(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_has_features(common):
    folder = common["output_dir"] / "study"
    options = {**common, "target": "film:0-1,loudness", "output_dir": folder, "model": "ridge", "workers": 1}
    row, _ = summer_train.study(**options, retrieve_within="at-work & !summer").rows
    assert row["retrieve_within"] == "at-work & !summer"
    assert row["test_within_top_10"] > row["test_within_top_10_chance"]
    models = summer_train.report(folder)
    assert models["name"].tolist() == ["film:0-1", "loudness"]
    assert {path.name for path in models.attrs["written"]} >= {"report.md", "features.png"}
    assert "The highest R² of features is" in (folder / "report" / "report.md").read_text()
