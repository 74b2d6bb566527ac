"""Reports: pictures of what is there, a page whose numbers are the table's, names that are no markup."""

import csv
import re
import shutil
import xml.etree.ElementTree
from itertools import pairwise

import numpy as np
import pytest

import summer_train
from summer_prep.errors import SettingsError
from summer_train.reports.findings import against_null, others_equal, read_results_of, usual_first
from summer_train.reports.published import KAPPA_BY_BUFFER, KAPPA_BY_LABEL


@pytest.fixture(scope="module")
def written(studied, tmp_path_factory):
    target = tmp_path_factory.mktemp("pages")
    return summer_train.report(studied, output_dir=target, published=True)


def test_every_picture_is_there_as_png_and_svg_and_shown_on_the_page(written):
    page, *pictures = written
    names = {path.stem for path in pictures}
    assert names == {
        "labels", "buffer", "brain_regions", "learning_curves", "confusion", "roc_and_precision", "film", "units"
    }  # fmt: skip
    shown = re.findall(r"\]\((.*?)\.png\)", page.read_text())
    assert set(shown) == names
    for path in pictures:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")


def test_tables_of_the_page_are_means_of_the_study_table(studied, written):
    with (studied / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    page = written[0].read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| summer")]
    assert lines
    header = next(line for line in page.splitlines() if line.startswith("| label name")).strip("| ").split(" | ")
    for line in lines[:4]:
        cells = dict(zip(header, (cell.strip("| ") for cell in line), strict=True))
        group = [
            float(row["test_auroc"]) for row in rows
            if row["label_name"] == "summer" and row["brain_regions"] == cells["brain regions"]
            and row["split"] == cells["split"]
            and cells["buffer"] == (f"{float(row['buffer']):g}" if row["buffer"] else "none")
        ]  # fmt: skip
        assert len(group) == int(cells["models"]) == 2
        assert float(cells["AUROC"]) == pytest.approx(np.mean(group), abs=6e-4)
    assert "Published: Gerken et al." in page


def test_a_report_leaves_matplotlib_of_a_notebook_as_it_was(studied, tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    plt.switch_backend("svg")  # stands for that of a notebook
    mine = plt.figure()
    settings = dict(matplotlib.rcParams)
    summer_train.report(studied, output_dir=tmp_path)
    assert (dict(matplotlib.rcParams), plt.get_fignums()) == (settings, [mine.number])
    plt.close(mine)
    plt.switch_backend("agg")


def test_equal_studies_give_equal_files(studied, written, tmp_path):
    again = summer_train.report(studied, output_dir=tmp_path, published=True)
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_null_of_several_folds_and_seeds_is_of_the_same_shifts(studied):
    results = [one for one in read_results_of(studied) if one.row["label_name"] == "summer" and one.null]
    group = [one for one in results if one.row["buffer"] == 10 and one.row["brain_regions"] == "all"]
    assert len(group) == 2
    assert len({tuple(one.null["auroc"]) for one in group}) == 1  # the shifts
    found = against_null(group, "auroc")
    expected = np.mean([list(one.null["auroc"].values()) for one in group], axis=0)
    assert found.null == pytest.approx(expected)
    assert found.p == (1 + np.sum(expected >= np.mean([one.score("auroc") for one in group]))) / 5


def test_usual_settings_are_what_is_shown_and_never_a_random_split(studied):
    results = usual_first(read_results_of(studied))
    labels = [one for one in results if one.row["task"] == "label"]
    shown, fixed = others_equal(labels)
    assert {one.row["split"] for one in shown} == {"blocked"}
    assert {one.row["brain_regions"] for one in shown} == {"all"}
    assert "split blocked" in fixed
    assert "brain regions all" in fixed
    with_random, _ = others_equal(labels, "buffer", "split", "sequence")
    assert {one.row["brain_regions"] for one in with_random} == {"all"}
    assert {one.row["split"] for one in with_random} == {"blocked", "random"}


def test_runs_are_reported_like_a_study(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "max_epochs": 2, "buffer": 10}
    common |= {"output_dir": tmp_path / "logs"}
    run = summer_train.fit(task="label", shifts=4, **common)
    summer_train.fit(task="label", fold=2, **common)
    page, *pictures = summer_train.report(tmp_path / "logs" / "dhv_label")
    assert page == tmp_path / "logs" / "dhv_label" / "report" / "report.md"
    assert {"labels", "film", "roc_and_precision"} <= {path.stem for path in pictures}
    (result,) = read_results_of(run.log_dir)
    assert result.score("kappa") == run.scores["model"]["test"]["kappa"]
    assert result.row["p_kappa"] == run.null["p_kappa"]
    assert len(result.record.curve) == 2
    study = summer_train.study(task="label", fold=1, **{**common, "output_dir": tmp_path / "study"}, workers=1)
    assert study.rows[0]["id"] == result.row["id"]


def test_names_from_files_are_no_markup(demo_cache, tmp_path, monkeypatch):
    odd = "*a|b*<script>$x_1$[i](j)"
    real = summer_train.data.selection.Selection.labels
    names = property(lambda self: [odd, *self.patients[0].label_names])
    monkeypatch.setattr("summer_train.data.selection.Selection.label_names", names)
    monkeypatch.setattr(
        "summer_train.data.selection.Selection.labels", lambda self, name, rule="first": real(self, "summer", rule)
    )
    summer_train.study(
        cache_dir=demo_cache, data_dir="none", patient_ids=14, buffer=10, max_epochs=1, workers=1,
        label_name=[odd, "tom"], output_dir=tmp_path / "study", keep_predictions=True,
    )  # fmt: skip
    page, *_ = summer_train.report(tmp_path / "study")
    text = page.read_text()
    assert "\\*a\\|b\\*\\<script\\>$x\\_1$\\[i\\](j)" in text
    assert "<script>" not in text.replace("\\<script\\>", "")


def test_equal_models_of_two_folders_are_both_drawn(studied, tmp_path):
    shutil.copytree(studied, tmp_path / "copy")
    lines = []
    page, *_ = summer_train.report(studied, tmp_path / "copy", output_dir=tmp_path / "both", log=lines.append)
    n_models = len(read_results_of(studied))
    assert f"{2 * n_models} models" in page.read_text()
    assert not any("trained more than once" in line for line in lines)


@pytest.mark.parametrize("what", ["nothing", "empty", "a file"])
def test_what_is_no_study_is_one_line(what, tmp_path):
    place = tmp_path / "place"
    if what == "empty":
        place.mkdir()
    elif what == "a file":
        place.write_text("")
    with pytest.raises(SettingsError, match="place"):
        summer_train.report(place)
    assert not (tmp_path / "place" / "report").exists()


def test_published_figures_are_those_of_the_paper():
    assert KAPPA_BY_LABEL["summer"] == (0.309, 0.110)
    assert KAPPA_BY_LABEL["days-of-summer"] == (0.762, None)
    assert KAPPA_BY_BUFFER["summer"]["32"].mean == KAPPA_BY_LABEL["summer"].mean
    seconds = [int(buffer) for buffer in KAPPA_BY_BUFFER["summer"] if buffer != "random"]
    assert all(second - first == 4 for first, second in pairwise(seconds))
