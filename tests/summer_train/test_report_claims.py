"""What a report claims: p over its rows, intervals of folds together, gains on the same bins, old studies without."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import summer_train
from summer_prep.errors import SettingsError
from summer_train import figures
from summer_train.reports.findings import models_table
from summer_train.reports.summary import _ranked, summarise
from summer_train.reports.tables import comparison_table
from summer_train.runs.folder import read_results
from summer_train.scores.claims import pooled_scores
from summer_train.studies.records import digest_of


@pytest.fixture(scope="module")
def folder(demo_cache, tmp_path_factory):
    """A study of ten minutes of film: ten cycles at a buffer of 2 s, four at 10 s."""
    folder = tmp_path_factory.mktemp("claims") / "study"
    summer_train.study(
        cache_dir=demo_cache, data_dir="none", patient_ids=14, max_epochs=2, workers=1, output_dir=folder,
        label_name="summer,tom", fold="1-2", buffer="2,10", brain_regions="all;A",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return figures.read_models(folder)


def test_sums_of_the_cycles_give_the_scores_of_each_model_and_intervals_hold_them(models, folder):
    rows = pd.read_csv(folder / "study.csv").set_index("id")
    of_cycles = models[models["buffer"] == 2]
    assert len(of_cycles) == 8
    for one in of_cycles["result"]:
        for row, scores in (("model", one.scores), ("time only", one.baselines["time only"])):
            found = pooled_scores([one.sums(row)], np.ones((1, 10)))
            assert [found[name][0] for name in ("kappa", "auroc")] == pytest.approx(
                [scores["test"][name] for name in ("kappa", "auroc")], nan_ok=True, abs=1e-9
            )
    defined = rows[rows["test_kappa_low"].notna()]
    assert len(defined) > 4
    assert (defined["test_kappa_low"] <= defined["test_kappa"]).all()
    assert (defined["test_kappa"] <= defined["test_kappa_high"]).all()
    assert rows.loc[rows["buffer"] == 10, "test_kappa_low"].isna().all()  # of four cycles there is none


def test_two_settings_are_compared_on_the_same_bins(models):
    facts = summarise(models, compare="brain_regions")
    of_2, of_10 = ([one for one in facts["comparison"] if one["settings"].get("buffer") == at] for at in (2, 10))
    assert [one["values"] for one in of_2] == [["all", "A"]] * 2
    assert all(one["together"] == {} for one in of_10)
    for one in of_2:
        of_label = models[(models["buffer"] == 2) & (models["label_name"] == one["settings"]["label_name"])]
        sums = {region: [one.sums() for one in of["result"]] for region, of in of_label.groupby("brain_regions")}
        values = [pooled_scores(sums[region], np.ones((1, 10))) for region in ("all", "A")]
        found = one["together"]["kappa"]
        assert found["gain"] == pytest.approx(values[1]["kappa"][0] - values[0]["kappa"][0])
        assert found["low"] <= found["gain"] <= found["high"]
        assert found["p"] <= found["q"] <= 1
    assert {"first", "second", "95 %", "q"} <= set(comparison_table(of_2).header)
    for wrong in ("model", "label_name", "nothing"):
        with pytest.raises(SettingsError, match=f"--compare {wrong}: .*Choose among .*brain_regions"):
            summarise(models, compare=wrong)


def test_a_report_corrects_over_the_rows_that_share_their_shifts(models):
    generator, results = np.random.default_rng(1), []
    for number in range(30):
        label = f"label {number}"
        null = {name: dict(enumerate(generator.normal(size=40))) for name in ("kappa", "auroc")}
        first = models["result"].iloc[0]
        scores = {"test": {**first.scores["test"], "kappa": 9.0 if number == 3 else generator.normal()}}
        columns = {**first.columns, "label_name": label}
        results.append(replace(first, id=label, columns=columns, scores=scores, null=null))
    more = {name: {**null, **dict.fromkeys(range(40, 80), 99.0)} for name, null in results[5].null.items()}
    results[5] = replace(results[5], null=more)  # trained on more shifts, but tested with the others all the same
    other = {name: {shift + 70: 0.0 for shift in range(40)} for name in ("kappa", "auroc")}
    results.append(replace(results[0], id="other", columns={**columns, "label_name": "other"}, null=other))
    table = models_table({"study": results}).set_index("label_name")
    assert table.loc["label 3", "p_kappa_corrected"] == 1 / 41
    assert set(table["n_kappa_tests"]) == {30, 1}
    assert (table["p_kappa_corrected"] >= table["p_kappa"] - 1e-12).drop("label 5").all()
    assert (table["p_kappa_corrected"] <= 0.05).sum() <= 2
    groups = {one["settings"]["label_name"]: one["null"]["kappa"] for one in summarise(table.reset_index())["groups"]}
    assert (groups["label 3"]["p_corrected"], groups["label 3"]["n_tests"]) == (1 / 41, 30)


def test_a_run_has_the_sums_of_a_study_and_a_study_of_an_earlier_version_no_intervals(models, options, tmp_path):
    given = options(task="label", label_name="summer", buffer=2.0, fold=2, patient_ids=("14",))
    run = summer_train.fit(**given)
    rows = summer_train.study(**{**given, "output_dir": tmp_path / "study"}, workers=1).rows
    (of_run,), (of_study,) = (figures.read_models(folder)["result"] for folder in (run.log_dir, tmp_path / "study"))
    for row in ("model", "time only"):
        for name in ("kappa", "auroc"):
            a, b = (pooled_scores([one.sums(row)], np.ones((1, 10)))[name] for one in (of_run, of_study))
            assert a == pytest.approx(b, abs=1e-4)
    assert read_results(run.log_dir).cycles == run.cycles
    (path,) = (tmp_path / "study" / "stacks").iterdir()
    content = json.loads(path.read_text())
    del content["models"][0]["cycles"]
    path.write_text(json.dumps({**content, "digest": digest_of(content["models"])}))
    (old,) = summarise(figures.read_models(tmp_path / "study"))["groups"]
    assert (old["interval"], old["over_time_only"]) == ({}, {})
    assert old["mean"]["kappa"] == rows[0]["test_kappa"]


def test_settings_that_are_tuned_are_ranked_by_validation_and_never_by_test(models):
    rows = [
        {"folder": "study", "label_name": label, "hidden_size": size, "fold": fold, "val_kappa": val, "kappa": test}
        for label, size, val, test in (("a", 8, 0.2, 0.9), ("a", 64, 0.5, 0.4), ("b", 8, 0.1, 0.8), ("b", 64, 0.0, 0.9))
        for fold in (1, 2)
    ]
    ranked = _ranked(pd.DataFrame(rows), ["folder", "label_name", "hidden_size"], "kappa")
    assert list(ranked["label_name"]) == ["b"] * 4 + ["a"] * 4
    assert list(ranked["hidden_size"][::2]) == [8, 64, 64, 8]
    assert list(ranked["chosen"][::2]) == [True, False, True, False]
    assert all(group["chosen"] is None for group in summarise(models)["groups"])
    fewer = pd.DataFrame([*rows, {**rows[0], "hidden_size": 4, "fold": 1, "val_kappa": 0.9, "kappa": 0.1}])
    ranked = _ranked(fewer, ["folder", "label_name", "hidden_size"], "kappa")  # of one fold alone
    assert set(ranked.loc[ranked["chosen"], "hidden_size"]) == {8, 64}
