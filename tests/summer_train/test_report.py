"""Reports: one table of models, figures of what is there, a page whose numbers are the table's."""

import json
import os
import re
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import summer_train
from summer_prep.errors import SettingsError
from summer_prep.options import finite
from summer_train import figures
from summer_train.cli import app
from summer_train.reports.evidence import against_null
from summer_train.reports.findings import models_table, most_usual, read_models, read_results_of, sums_of
from summer_train.reports.published import KAPPA_BY_BUFFER, KAPPA_BY_LABEL
from summer_train.reports.summary import answer, summarise, summary_table
from summer_train.scores import claims

read_once = cache(read_results_of)


def result_of(study, label_name="summer", kappa=0.5, fold=1, **changes):
    """Return a result of a model of the study's kind, with other numbers."""
    first = next(one for one in read_once(study) if one.columns["label_name"] == "summer")
    columns = {**first.columns, "label_name": label_name, "fold": fold, **changes}
    scores = {part: {**values, "kappa": kappa} for part, values in first.scores.items()}
    made_up = {"id": f"{label_name} {fold} {changes}", "null": {}, "predictions": Path("none")}
    return replace(first, columns=columns, scores=scores, **made_up)


def column_of(table, name):
    return [row[table.header.index(name)] for row in table.rows]


def test_every_figure_is_there_as_png_svg_and_pdf_and_shown_on_the_page(reported):
    page, *drawn, html = reported.attrs["written"]
    names = {path.stem for path in drawn}
    assert (page.name, html.name) == ("report.md", "page.html")
    assert names == {
        "labels", "buffer", "brain_regions", "learning_curves", "confusion", "roc_and_precision", "film", "units"
    }  # fmt: skip
    assert set(re.findall(r"\]\((.*?)\.png\)", page.read_text())) == names
    assert {path.name for path in drawn} == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")}
    for path in drawn:
        content = path.read_bytes()
        if path.suffix == ".svg":
            texts = ElementTree.fromstring(content).iter("{http://www.w3.org/2000/svg}text")
            assert len(list(texts)) > 3  # text is text
        elif path.suffix == ".pdf":
            assert content.startswith(b"%PDF")
        else:
            assert abs(int.from_bytes(content[16:20], "big") - 180 / 25.4 * 300) <= 1  # 180 mm at 300 dpi


def test_tables_of_the_page_are_means_of_the_study_table(studied, reported):
    page = reported.attrs["written"][0].read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| label", "| summer"))]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if len(line) == len(lines[0])]
    keys = ["brain regions", "split", "buffer"]
    found = {tuple(row[key] for key in keys): row["AUROC"] for row in rows if row["folder"] == "study"}
    known = pd.read_csv(studied / "study.csv").rename(columns={"brain_regions": "brain regions"})
    known["buffer"] = known["buffer"].map("{:g}".format).replace("nan", "none")
    means = known[known["label_name"] == "summer"].groupby(keys)["test_auroc"].mean()
    assert found == means.map("{:.3f}".format).to_dict()
    assert len(found) == 5
    for part in ("Published: Gerken et al.", "## Side by side", "What differs in their settings"):
        assert part in page


def test_the_returned_table_has_a_row_for_each_model_and_is_what_figures_draw(studied, linear, reported):
    assert isinstance(reported, pd.DataFrame)
    assert reported["folder"].tolist() == ["study"] * len(read_once(studied)) + ["linear"] * len(read_once(linear))
    known = pd.read_csv(studied / "study.csv").set_index("id")
    ours = reported[reported["folder"] == "study"].set_index("id").loc[known.index]
    labels = ours["task"] == "label"
    for column, name in (("kappa", "test_kappa"), ("time_only_kappa", "time_only_test_kappa"), ("p_kappa", "p_kappa")):
        assert ours.loc[labels, column].tolist() == pytest.approx(known.loc[labels, name].tolist(), nan_ok=True)
    one = reported[(reported["buffer"] == 10) & (reported["brain_regions"] == "all") & (reported["task"] == "label")]
    figure = figures.draw_labels(one, width_mm=85)
    assert figure.get_figwidth() == pytest.approx(85 / 25.4)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert sorted(shown) == ["summer (linear)", "summer (study)", "tom (study)"]
    assert {text.get_fontsize() for text in figure.axes[0].get_yticklabels()} == {7}


def test_means_by_a_setting_have_the_interval_of_their_folds_together(studied):
    models = figures.read_models(studied)
    models = models[(models["split"] == "blocked") & (models["brain_regions"] == "all") & (models["name"] == "summer")]
    drawn = [
        line
        for line in figures.draw_setting(models, "buffer").axes[0].get_lines()
        if len({*line.get_xdata()}) == 1 and len(line.get_xdata()) == 2
    ]
    sums = [one.sums() for one in models[models["buffer"] == 5]["result"]]
    of_folds = claims.intervals(sums)["kappa"]
    (line,) = [line for line in drawn if line.get_xdata()[0] == 0]
    assert line.get_ydata() == pytest.approx([of_folds["low"], of_folds["high"]], nan_ok=True)
    assert len(drawn) == 1  # a buffer of 10 s leaves too few cycles


def test_a_report_has_the_width_that_is_asked_for(linear, tmp_path):
    options = ["--output-dir", str(tmp_path), "--width-mm", "85", "--json"]
    facts = json.loads(CliRunner().invoke(app, ["report", str(linear), *options]).stdout)
    assert [Path(path).name for path in facts["written"]][:2] == ["report.md", "labels.png"]
    assert facts["n_models"] == sum(len(group["models"]) for group in facts["groups"]) == 8
    for path in tmp_path.glob("*.svg"):
        assert float(ElementTree.parse(path).getroot().get("width")[:-2]) == pytest.approx(85 / 25.4 * 72)
    for wrong in (3, 5000):
        with pytest.raises(SettingsError, match=f"--width-mm {wrong}: must be 50 to 500"):
            summer_train.report(linear, output_dir=tmp_path, width_mm=wrong)


def test_the_command_shows_what_it_found(studied, linear, tmp_path):
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["report", str(studied), str(linear), "--html", str(page)])
    header, first, *_ = [line.split("\t") for line in shown.stdout.splitlines()]
    assert {"label name", "kappa", "shifted, 5 to 95 %", "p", "time only (kappa)"} <= set(header)
    assert len(first) == len(header)
    assert "\tgain\t" in shown.stdout
    assert f"wrote {page}" in shown.stderr
    assert list(tmp_path.iterdir()) == [page]


def test_a_report_leaves_matplotlib_of_a_notebook_as_it_was(linear, tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    plt.switch_backend("svg")  # stands for that of a notebook
    mine = plt.figure()
    settings = dict(matplotlib.rcParams)
    first = summer_train.report(linear, output_dir=tmp_path / "first").attrs["written"]
    assert (dict(matplotlib.rcParams), plt.get_fignums()) == (settings, [mine.number])
    plt.close(mine)
    plt.switch_backend("agg")
    again = summer_train.report(linear, output_dir=tmp_path / "again").attrs["written"]
    for one, other in zip(first, again, strict=True):  # equal studies give equal files
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_null_of_several_folds_and_seeds_is_of_the_same_shifts(studied):
    models = read_models(studied)
    group = models[(models["label_name"] == "summer") & (models["buffer"] == 10) & (models["brain_regions"] == "all")]
    assert len(group) == 2
    nulls = [one.null["auroc"] for one in group["result"]]
    assert len({tuple(null) for null in nulls}) == 1  # the shifts
    expected, found = np.mean([list(null.values()) for null in nulls], axis=0), against_null(group, "auroc")
    assert found.null == pytest.approx(expected)
    assert found.p == (1 + np.sum(expected >= group["auroc"].mean())) / 5


def test_usual_settings_are_what_is_shown_and_never_a_random_split(studied):
    models = read_models(studied)
    labels = models[models["task"] == "label"]
    shown, fixed = most_usual(labels)
    assert (set(shown["split"]), set(shown["brain_regions"])) == ({"blocked"}, {"all"})
    assert "split blocked" in fixed
    assert "brain regions all" in fixed
    with_random, _ = most_usual(labels, "buffer", "split", "sequence")
    assert (set(with_random["split"]), set(with_random["brain_regions"])) == ({"blocked", "random"}, {"all"})


def test_the_summary_is_made_of_the_study_table(studied):
    by_id = pd.read_csv(studied / "study.csv", dtype=str, keep_default_na=False).set_index("id").T
    groups = finite(summarise(read_models(studied), published=True))["groups"]
    assert sum(len(group["models"]) for group in groups) == len(by_id.columns)
    for group in groups:
        for model in group["models"]:
            row = by_id[model["id"]]
            for name, value in model["scores"].items():
                assert value == (None if row[f"test_{name}"] == "nan" else float(row[f"test_{name}"]))
        if group["confusion"]:
            total = sum(float(by_id[model["id"]]["test_tp"]) for model in group["models"])
            assert group["confusion"][1][1] == total


def test_runs_are_reported_like_a_study_and_of_equal_ones_the_newest(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "max_epochs": 2, "buffer": 10}
    common |= {"output_dir": tmp_path / "logs", "task": "label"}
    run = summer_train.fit(shifts=4, **common)
    (row,) = read_models(run.log_dir).to_dict("records")
    assert (row["kappa"], row["p_kappa"]) == (run.scores["model"]["test"]["kappa"], run.null["p_kappa"])
    assert len(row["result"].curve) == 2
    study = summer_train.study(fold=1, **{**common, "output_dir": tmp_path / "study"}, workers=1)
    assert study.rows[0]["id"] == row["id"]
    newest = summer_train.fit(**common)
    lines = []
    models = summer_train.report(tmp_path / "logs" / "dhv_label", log=lines.append)
    page, *drawn = models.attrs["written"]
    assert page == tmp_path / "logs" / "dhv_label" / "report" / "report.md"
    assert {"labels", "film", "roc_and_precision"} <= {path.stem for path in drawn}
    assert models["kappa"].tolist() == [newest.scores["model"]["test"]["kappa"]]
    assert "1 models were trained more than once" in lines[0]
    results = run.log_dir / "results.json"
    results.write_text(results.read_text().replace(run.date, "2999-01-01T00:00:00+00:00"))  # a moved folder, say
    assert read_models(tmp_path / "logs")["date"].tolist() == ["2999-01-01T00:00:00+00:00"]


def test_equal_models_of_two_folders_are_both_drawn_and_their_own_reports_stay(linear, tmp_path, monkeypatch):
    shutil.copytree(linear, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    lines = []
    models = summer_train.report(linear, tmp_path / "copy", log=lines.append)
    assert models.attrs["written"][0] == Path("report/report.md")
    assert f"{2 * len(read_once(linear))} models" in Path("report/report.md").read_text()
    assert not any("trained more than once" in line for line in lines)
    assert not any(path.exists() for path in (linear / "report", Path("copy/report")))


def test_what_is_no_study_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("nothing", "empty", "file"):
        with pytest.raises(SettingsError, match=name):
            summer_train.report(tmp_path / name)
        assert not (tmp_path / name / "report").exists()


def test_damaged_predictions_are_one_line(studied, tmp_path):
    shutil.copytree(studied, tmp_path / "study")
    first, *_ = paths = list((tmp_path / "study" / "predictions").iterdir())
    np.savez(tmp_path / "other.npz", other=np.zeros(3))
    for content in (first.read_bytes()[:500], b"", (tmp_path / "other.npz").read_bytes()):
        for path in paths:
            path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"damaged .*Remove it"):
            summer_train.report(tmp_path / "study", html=tmp_path / "page.html")


def test_a_folder_whose_name_is_no_text_is_reported_and_a_page_that_cannot_be_is_one_line(linear, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/st\xff"))
    shutil.copytree(linear, folder)
    (page,) = summer_train.report(folder, html=tmp_path / "page.html").attrs["written"]
    assert "st\\" in page.read_text()
    for wrong, error in (("page", "name a file that ends in .html"), ("page.html/page.html", "cannot be written")):
        with pytest.raises(SettingsError, match=error):
            summer_train.report(folder, html=tmp_path / wrong)
    assert [path.name for path in tmp_path.glob("*.html")] == ["page.html"]


def test_published_values_are_those_of_the_paper_and_stand_beside_equal_settings_only(studied):
    assert KAPPA_BY_LABEL["summer"] == (0.309, 0.110)
    assert KAPPA_BY_LABEL["days-of-summer"] == (0.762, None)
    assert KAPPA_BY_BUFFER["summer"]["32"].mean == KAPPA_BY_LABEL["summer"].mean
    seconds = [int(buffer) for buffer in KAPPA_BY_BUFFER["summer"] if buffer != "random"]
    assert all(second - first == 4 for first, second in pairwise(seconds))
    models = models_table({"a": [result_of(studied, buffer=buffer, brain_regions="all") for buffer in (10.0, 32.0)]})
    groups = {group["settings"]["buffer"]: group for group in summarise(models, published=True)["groups"]}
    assert groups[32]["published"] == {"kappa": KAPPA_BY_LABEL["summer"].mean, "sd": KAPPA_BY_LABEL["summer"].sd}
    assert groups[10]["published"] is None
    assert {group["published"] is None for group in summarise(models)["groups"]} == {True}


def test_the_answer_names_what_is_above_chance_and_what_is_not(studied):
    null = {name: dict.fromkeys(range(1, 20), 0.1) for name in ("kappa", "auroc")}
    results = [replace(result_of(studied, name, kappa), null=null) for name, kappa in (("a", 0.5), ("b", 0.0))]
    fewer = {name: dict.fromkeys(range(1, 6), 0.1) for name in null}
    results.append(replace(result_of(studied, "c", -0.1), null=fewer))  # must not hide the verdict on the others
    first, second, third, *_ = answer(models_table({"study": results}), [])
    assert (first, second) == ("Above chance: a.", "Not above chance: b.")
    assert third == "Fewer than 19 valid shifts: c."


def test_undefined_folds_and_scores_of_validation_are_told_in_the_table(studied):
    results = [result_of(studied), result_of(studied, fold=2, kappa=float("nan")), result_of(studied, "tom")]
    groups = summarise(models_table({"a": results}))["groups"]
    assert column_of(summary_table(groups), "models") == ["1 of 2", "1"]
    assert "part" not in summary_table(groups).header
    columns = {**results[0].columns, "split": "", "val_fraction": 0.2}
    of_val = replace(results[0], n_samples={"train": 9, "val": 9}, id="0" * 16, columns=columns)
    groups = summarise(models_table({"a": [results[0], of_val]}))["groups"]
    assert column_of(summary_table(groups), "part") == [group["part"] for group in groups]
    assert {group["part"] for group in groups} == {"test", "val"}


def test_pairs_are_of_one_task_and_of_what_varies_in_a_folder(studied):
    counts = next(one for one in read_once(studied) if one.columns["task"] == "next_bin")
    ours = [result_of(studied, buffer=5.0), result_of(studied, "tom", kappa=0.1, buffer=5.0), counts]
    facts = summarise(models_table({"a": ours, "b": [result_of(studied, kappa=0.7, buffer=10.0)]}))
    (pair,) = facts["comparison"]
    assert (pair["n_models"], pair["means"], pair["difference"]) == (1, [0.5, 0.7], pytest.approx(0.2))
    assert {one["setting"] for one in facts["differences"]} == {"buffer", "label_name"}
    other = [result_of(studied, kappa=0.7, model=model) for model in ("lstm", "gru")]
    unclear = summarise(models_table({"a": ours[:1], "b": other}))  # which of the two would be the partner?
    assert unclear["comparison"] == []


def test_models_on_other_units_are_not_averaged_with_these(studied):
    counts = next(one for one in read_once(studied) if one.columns["task"] == "next_bin")
    fewer = {"test": {name: values[:4] for name, values in counts.units["test"].items()}}
    sums = {name: [" ".join(line.split()[:4]) for line in lines] for name, lines in counts.cycles["model"].items()}
    other = replace(counts, units=fewer, cycles={"model": sums}, data_digest="other")
    (facts,) = summarise(models_table({"a": [counts, other]}))["groups"]
    assert (len(facts["units"]), facts["interval"]) == (10, {})
    moved = [number + 1 for number in counts.units["test"]["column"]]  # a draw of other units
    drawn = replace(counts, units={**counts.units, "test": {**counts.units["test"], "column": moved}})
    assert [len(sums_of(one)) for one in ([counts, counts], [counts, drawn])] == [2, 0]
    (found,) = summarise(models_table({"a": [drawn, counts]}))["groups"]
    assert [one["column"] for one in found["units"]] == moved
    diverged = models_table({"a": [replace(counts, units={}, scores={}, cycles={})]})
    assert answer(diverged, []) == ["The highest median R² of the next bin is n/a."]


def test_more_rows_than_a_figure_draws_are_in_the_table(studied):
    results = [result_of(studied, f"label {number:03}", 0.5 - number / 1000) for number in range(250)]
    models = models_table({"a": results})
    assert len(summary_table(summarise(models)["groups"]).rows) == 250
    name, caption, figure = next(figures.draw_all(models, published=False))
    assert name == "labels"
    assert "the first 60 of 250" in caption
    assert len(figure.axes[0].get_yticklabels()) == 60


@pytest.mark.parametrize("name", [name for name in dir(figures) if name.startswith("draw_")])
def test_a_table_without_results_is_one_line(name, studied):
    if name in ("draw_all", "draw_learning_curve"):
        return
    rows = pd.read_csv(studied / "study.csv")
    for models in (rows, rows.to_dict("records")):
        with pytest.raises(SettingsError, match=r"figures\.read_models\(folder\)"):
            getattr(figures, name)(models, **({"setting": "buffer"} if name == "draw_setting" else {}))


def test_folders_in_a_list_are_one_line(studied):
    with pytest.raises(SettingsError, match="each an argument"):
        summer_train.report([studied, studied])
