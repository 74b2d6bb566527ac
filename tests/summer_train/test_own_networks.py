"""Networks of one's own: our scores for their outputs, our `fit` for their training, bins for what users look up."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

import summer_train
from summer_prep.errors import SettingsError
from summer_train.runs.folder import find_results, read_results


@pytest.fixture
def data(options):
    """Makes the data of a task, without the options of a run."""
    of_run = ("output_dir", "max_epochs", "hidden_size")
    return lambda **changes: summer_train.film_data(
        **{name: value for name, value in options(**changes).items() if name not in of_run}
    )


@pytest.mark.parametrize(("task", "output"), [("label", "log_odds"), ("next_bin", "score")])
def test_predictions_of_fit_get_its_scores_to_the_bit(task, output, options, data):
    result = summer_train.fit(**options(task=task))
    stored = result.predictions()
    again = summer_train.score(data(task=task), {part: stored[f"{part}_{output}"] for part in ("test", "val")})
    for part, scores in again.scores["model"].items():
        expected = dict(result.scores["model"][part])
        assert scores.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-12)  # of log-odds in place of logits
        assert scores == expected
        assert again.units.get(part) == result.units.get(part)
    assert again.thresholds == result.thresholds
    for name, parts in result.scores.items():
        assert name == "model" or again.scores[name] == parts
    assert ", in " not in repr(again)


def test_logistic_regression_of_scikit_learn_is_a_run_beside_others(options, data, tmp_path):
    of_label, folder = data(task="label"), tmp_path / "logs"
    counts, summer, split = of_label.selection.counts(), of_label.classes, of_label.split
    theirs = LogisticRegression(max_iter=1000).fit(counts[split.train], summer[split.train])
    outputs = {part: theirs.decision_function(counts[getattr(split, part)]) for part in ("train", "val", "test")}
    result = summer_train.score(of_label, outputs, name="sklearn", output_dir=folder)
    called_on = outputs["test"] >= result.thresholds["model"]
    kappa = cohen_kappa_score(summer[split.test], called_on)
    assert result.scores["model"]["test"]["kappa"] == pytest.approx(kappa, abs=1e-12)
    ours = summer_train.fit(**options(task="label"))
    assert ours.scores["majority class"] == result.scores["majority class"]
    summer_train.score(of_label, outputs, name="again", output_dir=folder)
    assert [one.config["model"] for one in find_results(folder, print)] == ["own:sklearn", "mlp", "own:again"]
    assert read_results(result.log_dir).scores == result.scores
    assert np.array_equal(result.predictions()["test_log_odds"], outputs["test"])
    models = summer_train.report(folder, output_dir=tmp_path / "report")
    assert models.set_index("model").loc["own:sklearn", "kappa"] == pytest.approx(kappa)
    assert sorted(models["model"]) == ["mlp", "own:again", "own:sklearn"]
    with pytest.raises(SettingsError, match="no such checkpoint"):
        summer_train.evaluate(result.log_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: {"val": one["val"]}, "outputs of val: give val and test"),
        (lambda one: {**one, "tset": 1}, "outputs of val test tset: give"),
        (lambda one: {**one, "val": one["val"][1:]}, r"outputs\['val'\]: .* of the shape"),
        (lambda one: {**one, "val": np.full_like(one["val"], np.nan)}, "values are not finite"),
        (lambda one: {**one, "val": one["val"].astype(str)}, "numbers of the shape"),
    ],
)
def test_outputs_that_do_not_fit_are_one_line(change, message, data):
    of_label = data(task="label")
    outputs = {part: np.zeros(of_label.n_samples[part]) for part in ("val", "test")}
    with pytest.raises(SettingsError, match=message) as caught:
        summer_train.score(of_label, change(outputs))
    assert "\n" not in str(caught.value)
