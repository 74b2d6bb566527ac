"""A shared response model equals plain loops, finds a planted space, and uses neither labels nor bins of the test."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import summer_train
from summer_prep.cache.targets import add_target
from summer_prep.errors import SettingsError
from summer_prep.film.splits import cycle_length
from summer_train.data import shared
from summer_train.models.stack import train_stack
from summer_train.reports.findings import against_shifted_film
from summer_train.scores import left_out
from summer_train.scores.scoring import score_networks
from summer_train.settings.file import for_study
from summer_train.settings.options import StudyRun, settings_from
from summer_train.studies.choices import open_choices, study_choices
from summer_train.studies.plan import plan_study


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


def test_canonical_maps_are_those_of_principal_components_and_find_a_planted_space():
    activity, response = planted(noise=0.5)
    activity[2] = activity[2][:, :2]
    together, n_units = np.hstack(activity), [x.shape[1] for x in activity]
    maps = shared.canonical_maps(together.T @ together, n_units, 3)
    bases = [np.linalg.svd(x, full_matrices=False)[0][:, :3] for x in activity]  # plain: on bins, by projections
    values, vectors = np.linalg.eigh(sum(base @ base.T for base in bases))
    found = together @ maps
    np.testing.assert_allclose((found**2).sum(axis=0), values[::-1][:3], rtol=1e-8)
    found /= np.linalg.norm(found, axis=0)
    np.testing.assert_allclose(np.abs(found.T @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-8)
    residual = response - found @ (found.T @ response)
    assert (residual**2).sum() < 0.1 * (response**2).sum()


def test_dimensions_of_a_further_patient_are_regressed_on_its_components(selection):
    train = np.arange(20, 400)
    space = shared.SharedSpace(selection, "cca:3", "20", train)
    x = np.sqrt(selection.counts()[:, len(selection.columns[0]) :][:, : len(selection.columns[1])].astype(float))
    scaled = (x - x[train].mean(axis=0)) / np.where(x[train].std(axis=0) > 0, x[train].std(axis=0), np.inf)
    components = scaled @ np.linalg.svd(scaled[train], full_matrices=False)[2][:3].T
    own = components @ np.linalg.lstsq(components[train], space._response[train], rcond=None)[0]
    own = (own - own[train].mean(axis=0)) / own[train].std(axis=0)
    np.testing.assert_allclose(space.left_out(), own, atol=1e-3)


@pytest.fixture(scope="module")
def selection(demo_cache):
    return summer_train.open_selection(demo_cache, [14, 20, 29], 1000)


def test_counts_in_pieces_are_counts_at_once(selection, monkeypatch):
    train = np.arange(20, 400)
    x = np.sqrt(selection.counts()[train].astype(float))
    space = shared.SharedSpace(selection, "shared:3", "20", train).left_out()
    monkeypatch.setattr(shared, "_BINS_AT_ONCE", 7)
    units = shared.units_of(selection, train)
    np.testing.assert_allclose(units.mean, x.mean(axis=0), atol=1e-5)
    scaled = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    np.testing.assert_allclose(units.products, scaled.T @ scaled, atol=0.01)
    pieces = shared.SharedSpace(selection, "shared:3", "20", train).left_out()
    np.testing.assert_allclose(pieces, space, atol=1e-3)


def test_the_map_of_a_further_patient_is_procrustes_on_the_chosen_training_bins(selection):
    train = np.arange(20, 400)
    space = shared.SharedSpace(selection, "shared:3", "20", train)
    without = summer_train.open_selection(selection.patients[0].key.parents[1], [14, 29], 1000)
    np.testing.assert_array_equal(shared.SharedSpace(without, "shared:3", "none", train).others, space.others)
    x = np.sqrt(selection.counts()[:, len(selection.columns[0]) :][:, : len(selection.columns[1])].astype(float))
    for chosen, shift in ((train > 0, 0), (train % 200 < 50, 0), (train % 200 < 50, 100)):
        bins, paired = np.roll(train, shift)[chosen], train[chosen]
        scaled = (x - x[bins].mean(axis=0)) / np.where(x[bins].std(axis=0) > 0, x[bins].std(axis=0), np.inf)
        left, _, right = np.linalg.svd(scaled[bins].T @ space._response[paired], full_matrices=False)
        own = scaled @ left @ right
        own = (own - own[bins].mean(axis=0)) / own[bins].std(axis=0)
        np.testing.assert_allclose(space.left_out(chosen, shift), own, atol=1e-3)


SPACE = {"task": "label", "patient_ids": ("14", "20", "29"), "space": "shared:4", "leave_out": "20"}


@pytest.fixture(scope="module")
def with_film(demo_dir, demo_cache, tmp_path_factory):
    """A copy of the shared cache that has features of the film, too."""
    cache = tmp_path_factory.mktemp("film") / "cache"
    shutil.copytree(demo_cache, cache)
    add_target(demo_dir / "film_features.npy", name="film", cache_dir=cache)
    return cache


def samples_of(options, **changes):
    given, unused = options(**SPACE, **changes), ("output_dir", "max_epochs", "hidden_size")
    return summer_train.film_data(**{name: given[name] for name in given if name not in unused})


def test_only_tested_bins_are_those_of_the_patient_left_out(options):
    data = samples_of(options, window=(0.16, 0.08))
    tested = np.unique(data.split.test[:, None] + np.arange(-2, 2))
    assert np.array_equal(data.inputs[tested], data.space.left_out()[tested])
    rest = np.setdiff1d(np.arange(data.selection.n_bins), tested)
    assert np.array_equal(data.inputs[rest], data.space.others[rest])
    x, y = next(iter(data.test_dataloader()))
    assert (tuple(x.shape), data.n_inputs, data.n_units) == ((32, 4, 4), 4, 30)
    assert np.array_equal(x[0].numpy(), data.inputs[data.split.test[0] + np.arange(-2, 2)])
    assert np.array_equal(y.numpy(), data.classes[data.split.test[:32]])
    alone = data.beside("alone").inputs
    assert np.array_equal(alone, data.space.left_out())
    assert np.array_equal(data.beside("others").inputs, data.space.others)


def test_maps_know_neither_labels_nor_other_bins_of_the_patient_left_out(options):
    data = samples_of(options)
    inputs = data.inputs
    other = samples_of(options, label_name="indoor-setting")  # which is undefined in some bins
    assert len(other.split.train) < len(data.split.train)
    assert np.array_equal(other.space.left_out(), data.space.left_out())
    assert not np.array_equal(samples_of(options, fold=2).inputs, inputs)
    unseen = np.setdiff1d(np.arange(data.selection.n_bins), data.aligned)
    changed = samples_of(options)
    changed.selection.patients[1].chunks[0][unseen] = 7  # of a copy of the file in memory
    tested = data.split.test
    assert not np.array_equal(changed.inputs[tested], inputs[tested])
    rest = np.setdiff1d(np.arange(len(inputs)), tested)
    assert np.array_equal(changed.inputs[rest], inputs[rest])
    changed = samples_of(options)
    changed.selection.patients[1].chunks[0][np.setdiff1d(unseen, tested)] = 7
    assert np.array_equal(changed.inputs, inputs)


def test_a_share_of_the_film_is_whole_cycles_and_part_of_a_larger_share(options):
    found = {share: samples_of(options, align_share=share) for share in (0.001, 0.5, 0.8, 1)}
    data = found[1]
    length = cycle_length(data.selection.n_bins, 80, 10)
    used = {share: set(one.aligned[one._cycles_aligned()[0]]) for share, one in found.items()}
    assert used[0.001] < used[0.5] < used[0.8] < used[1] == set(data.aligned)
    for share, n_cycles in {0.001: 1, 0.5: 2, 0.8: 3, 1: 4}.items():
        assert used[share] == {one for one in data.aligned if one // length in {two // length for two in used[share]}}
        minutes = len(used[share]) * 0.08 / 60
        line = f"--align-share {share:g}: the map of the patient left out is found on {minutes:.1f} min of film"
        assert f"{line} (cycles of the split: {n_cycles})" in found[share].notes
    changed = samples_of(options, align_share=0.5)
    other = np.setdiff1d(data.aligned, [*used[0.5]])
    changed.selection.patients[1].chunks[0][other] = 7  # of a copy of the file in memory
    assert np.array_equal(changed.inputs, found[0.5].inputs)


def test_p_of_the_alignment_counts_the_maps_on_shifted_film_that_are_as_good(options, monkeypatch):
    data = samples_of(options, model="linear")
    _, outputs = train_stack([data], 3)
    own, values = score_networks([data], outputs)[0], iter((0.9, *[0.1] * 15, 0.3, np.nan, 0.4))

    def scored(datas, outputs):
        value = next(values) if datas[0]._beside == "shifted film" else 0.0
        return [replace(own, scores={"test": {**own.scores["test"], "kappa": value, "auroc": 0.2}})]

    monkeypatch.setattr(left_out, "score_networks", scored)
    own = replace(own, scores={"test": {"kappa": 0.4, "auroc": 0.5}})
    (rows,) = left_out.score_beside([data], [own], outputs, None)
    assert rows["shifted film p"].scores == {"test": {"kappa": 3 / 19, "auroc": 1 / 20}}  # one is undefined
    assert "alone" not in rows


def test_labels_of_tested_bins_change_no_prediction(options):
    data, other = samples_of(options, model="linear"), samples_of(options, model="linear")
    rng, tested = np.random.default_rng(0), data.split.test
    other.classes[tested] = rng.permutation(other.classes[tested])
    found = []
    for one in (data, other):
        _, outputs = train_stack([one], 3)
        found.append(score_networks([one], outputs)[0])
    assert np.array_equal(found[0].predictions["test_log_odds"], found[1].predictions["test_log_odds"])
    assert found[0].threshold_log_odds == found[1].threshold_log_odds
    assert found[0].scores["test"]["kappa"] != found[1].scores["test"]["kappa"]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_name": "summer", "threshold": "train"},
        {"leave_out": None, "model": "linear", "hidden_size": None, "window": (0.16, 0.08)},
        {"align_share": 0.3, "model": "gru"},
        {"space": "cca:4", "align_share": 0.5},
        {
            "task": "feature",
            "target": "film:0-3",
            "model": "ridge",
            "hidden_size": None,
            "retrieve": 4,
            "leave_out": "each",
        },
    ],
)
def test_a_row_of_a_study_is_a_fit_and_evaluating_gives_it_again(changes, options, with_film):
    given = {**options(**SPACE), "cache_dir": with_film, **changes}
    given = {name: value for name, value in given.items() if value is not None}
    folder = given["output_dir"] / "study"
    rows = summer_train.study(**{**given, "output_dir": folder}, fold=[1, 2], workers=1).rows
    wanted = "20" if given.get("leave_out") else None
    row = next(row for row in rows if row["fold"] == 2 and row.get("leave_out") == wanted)
    result = summer_train.fit(**{**given, **({"leave_out": wanted} if wanted else {})}, fold=2)
    again = summer_train.evaluate(result.log_dir)
    assert again.differences == []
    for name, score in result.scores["model"]["test"].items():
        assert row[f"test_{name}"] == pytest.approx(score, rel=1e-4, abs=1e-4, nan_ok=True), name
        assert again.scores["model"]["test"][name] == pytest.approx(score, rel=1e-6, abs=1e-6, nan_ok=True), name
    beside = {"others", "alone", "shifted film", "shifted film 95", "shifted film p"} if wanted else set()
    assert set(result.scores) >= beside
    assert set(again.scores) == set(result.scores) - {"alone"}
    for name in set(again.scores) & beside:  # evaluating finds the same maps
        assert again.scores[name]["test"] == pytest.approx(result.scores[name]["test"], rel=1e-6, abs=1e-6, nan_ok=True)
    for name in beside:
        for score in {"kappa", "r2"} & {*result.scores[name]["test"]}:
            column = f"{name.replace(' ', '_')}_test_{score}"
            assert row[column] == pytest.approx(result.scores[name]["test"][score], rel=1e-3, abs=1e-3), column
    assert summer_train.evaluate(result.log_dir, fold=1).differences != []


def test_spaces_and_shares_stand_side_by_side_in_a_report(options):
    given = {**options(**SPACE), "output_dir": options()["output_dir"] / "study"}
    given.pop("hidden_size")
    given |= {"space": ["units", "shared:3"], "leave_out": "none,20", "align_share": "0.2,1", "model": "linear"}
    rows = summer_train.study(**given, workers=1, shifts=2).rows
    settings = [tuple(row.get(name) for name in ("space", "leave_out", "align_share")) for row in rows]
    share = [("shared:3", "20", 0.2), ("shared:3", "20", 1.0)]
    assert settings == [(None, None, None), ("shared:3", None, None), *share]
    assert summer_train.study(**given, workers=1, shifts=2).n_trained == 0
    models = summer_train.report(given["output_dir"])
    assert models["space"].tolist() == ["units", "shared:3", "shared:3", "shared:3"]
    assert "| shared:3 | 20 | 0.2 |" in (given["output_dir"] / "report" / "report.md").read_text()
    of_space = {**given, "output_dir": given["output_dir"].parent / "curve", "space": "shared:3", "leave_out": "each"}
    assert len(summer_train.study(**of_space, workers=1).rows) == 6
    models = summer_train.report(of_space["output_dir"])
    group = models[(models["leave_out"] == "14") & (models["align_share"] == 1)]
    maps = np.mean([one.sums("shifted film")["kappa"][0] for one in group["result"]], axis=0)
    expected = (1 + (maps >= group["kappa"].mean()).sum()) / 20
    assert against_shifted_film(group, "kappa").p == pytest.approx(expected)
    assert "mean of 3 patients that were left out, p 0." in (of_space["output_dir"] / "report/report.md").read_text()
    assert "align_share.png" in {path.name for path in models.attrs["written"]}
    drawn = {name: (caption, figure) for name, caption, figure in summer_train.figures.draw_all(models, False)}
    for name, n_dots in (("labels", 3), ("align_share", 6)):  # three patients
        caption, figure = drawn[name]
        lines = [line for line in figure.axes[0].get_lines() if line.get_marker() in ("o", ".")]
        assert n_dots in [len(line.get_xdata()) for line in lines]
        assert "patients left out: 3" in caption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "shared:0"}, "--space shared:0: must be units, shared:K or cca:K"),
        ({"space": "units"}, "--leave-out: has no effect on --space units"),
        ({"leave_out": "none", "align_share": 0.5}, "--align-share: has no effect on --leave-out none"),
        ({"leave_out": "8"}, "--leave-out 8: must be one of several --patient-ids with units, here 14 20 29"),
        ({"leave_out": "each"}, "a study also takes each"),
        ({"leave_out": "14 20"}, "--leave-out 14 20: one patient is left out"),
        ({"patient_ids": "20"}, "--leave-out 20: must be one of several"),
        ({"split": "random", "buffer": None}, "--leave-out 20: needs the blocked split"),
        ({"val_fraction": 0.2, "buffer": None}, "--leave-out 20: needs the blocked split"),
        ({"align_share": 0}, "--align-share 0.0: must lie between 0.001 and 1"),
        ({"task": "next_bin"}, "--space: has no effect on --task next_bin"),
    ],
)
def test_what_cannot_be_mapped_is_one_line(changes, message, options):
    given = {name: value for name, value in {**options(**SPACE), **changes}.items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        summer_train.fit(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_in_another_space_is_not_continued(options):
    given = {name: value for name, value in options(**SPACE).items() if name != "leave_out"}
    summer_train.fit(**given)
    with pytest.raises(SettingsError, match="space shared:4 then, None now"):
        summer_train.fit(**{**given, "space": "units", "max_epochs": 3}, resume=True)
    assert summer_train.fit(**{**given, "max_epochs": 3}, resume=True).n_epochs == 3


def test_the_estimate_of_a_study_counts_what_a_left_out_patient_stands_beside(options):
    given = {**options(**SPACE), "shifts": 2, "max_epochs": 10}
    seconds = {}
    for leave_out in ("none", "20"):
        study_options = for_study({**given, "leave_out": leave_out}, None)
        run = settings_from(StudyRun, study_options)
        (group,), _ = plan_study(open_choices(study_choices(study_options), run), run)
        seconds[leave_out] = [group.seconds(group.models[:n], 10) - group.maps_s for n in (1, 2, 3)]
    assert np.diff(seconds["20"]) == pytest.approx(np.diff(seconds["none"]))  # networks of a null stand alone
    assert seconds["20"][0] > 2 * seconds["none"][0] > 0


def test_a_patient_without_such_units_is_a_row_with_that_reason(options, demo_cache):
    patients = summer_train.open_selection(demo_cache, SPACE["patient_ids"], 80).patients
    regions = {one.patient_id: set(one.unit_column("brain_region")) for one in patients}
    lacks = {
        region: one for region in sorted(set.union(*regions.values())) for one in regions if region not in regions[one]
    }
    region, patient_id = next(iter(lacks.items()))
    given = {**options(**SPACE), "output_dir": options()["output_dir"] / "study", "leave_out": patient_id}
    rows = summer_train.study(**given, brain_regions=[[region], None], workers=1).rows
    assert f"--leave-out {patient_id}" in rows[0]["why_undefined"]
    assert np.isfinite(rows[1]["test_kappa"])
    given["output_dir"] = options()["output_dir"] / "draws"
    *rows, _ = summer_train.study(**given, n_units="1,all", draw="0-3", workers=1).rows  # only one can have a unit
    assert all(f"--leave-out {patient_id}: must be one of several" in row["why_undefined"] for row in rows)


def test_a_network_of_ones_own_and_more_dimensions_than_units(options):
    given = {**options(**SPACE), "space": "shared:40"}
    given.pop("hidden_size")
    result = summer_train.fit(**given, network=torch.nn.Linear(40, 2))
    assert set(result.scores) >= {"others", "shifted film"}
    assert "alone" not in result.scores
    of_maps = result.scores["shifted film p"]["test"]
    assert of_maps.keys() == {"kappa", "auroc"}
    scores = [parts["test"]["loss"] for row, parts in result.scores.items() if row != "shifted film p"]
    assert np.isfinite([*scores, *of_maps.values()]).all()
    assert type(summer_train.decoder(samples_of(options))).__name__ == "Decoder"
