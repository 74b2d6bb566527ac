"""The page of results in a real browser: it says what `--json` does, and rows show what is known of them."""

import base64
import csv
import json
import os
import shutil
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import summer_train
from summer_prep.errors import SettingsError
from summer_prep.options import finite
from summer_train.reports.findings import read_results_of
from summer_train.reports.published import KAPPA_BY_LABEL
from summer_train.reports.report import Report
from summer_train.reports.summary import answer, summarise
from summer_train.reports.tables import summary_table
from tests.browsers import findings
from tests.conftest import error_line


@pytest.fixture(scope="module")
def linear(demo_cache, tmp_path_factory):
    """A study of the label and folds of `studied` with another network."""
    folder = tmp_path_factory.mktemp("linear") / "linear"
    summer_train.study(
        cache_dir=demo_cache, data_dir="none", patient_ids=14, max_epochs=2, workers=1, output_dir=folder,
        label_name="summer", fold="1-2", buffer="5,10", brain_regions="all;A", model="linear",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def summary(studied, linear):
    return finite(Report.of([studied, linear], True, print).summary)


@pytest.fixture(scope="module")
def page_file(studied, linear, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    assert summer_train.report(studied, linear, published=True, html=page) == [page]
    return page


@pytest.fixture
def opened(open_page, page_file):
    return lambda width=1280, scheme="light": open_page(page_file, width, scheme)


def cells(row):
    return row.locator("th, td").all_text_contents()


def rows_of(page, table):
    header = page.locator(f"#{table} thead th").all_text_contents()
    return [dict(zip(header, cells(row), strict=True)) for row in page.locator(f"#{table} tbody tr").all()]


def shown(value, digits=3):
    return "n/a" if value is None else f"{value:.{digits}f}"


def test_the_table_has_the_numbers_of_json(opened, summary):
    labels = [group for group in summary["groups"] if group["task"] == "label"]
    with opened() as page:
        rows = rows_of(page, "groups-label")
        assert len(rows) == len(labels)
        for row, group in zip(rows, labels, strict=True):
            assert row["label name"] == group["settings"]["label_name"]
            assert row["folder"] == group["folder"]
            assert row["models"] == str(len(group["models"]))
            for column, name in {"kappa": "kappa", "AUROC": "auroc", "AP": "average_precision"}.items():
                assert row[column] == shown(group["mean"][name])
            assert row["time only (kappa)"] == shown(group["baselines"]["time only"]["kappa"])
            null = group["null"].get("kappa")
            assert row["p"] == (shown(null["p"]) if null else "-")
        (row,) = rows_of(page, "groups-next_bin")
        (counts,) = [group for group in summary["groups"] if group["task"] == "next_bin"]
        assert row["median R²"] == shown(counts["mean"]["r2"])
        assert row["mean count (sq. error)"] == shown(counts["baselines"]["mean count"]["mse"])


def test_the_summary_is_made_of_the_study_table(studied, summary):
    with (studied / "study.csv").open() as file:
        by_id = {row["id"]: row for row in csv.DictReader(file)}
    of_study = [group for group in summary["groups"] if group["folder"] == "study"]
    assert sum(len(group["models"]) for group in of_study) == len(by_id)
    for group in of_study:
        for model in group["models"]:
            row = by_id[model["id"]]
            for name, value in model["scores"].items():
                assert value == (None if row[f"test_{name}"] == "nan" else float(row[f"test_{name}"]))
        if group["confusion"]:
            total = sum(float(by_id[model["id"]]["test_tp"]) for model in group["models"])
            assert group["confusion"][1][1] == total


def texts_of(picture):
    """The texts of a figure in a page, which are texts in its SVG, too."""
    svg = base64.b64decode(picture.get_attribute("src").partition(",")[2])
    return [one.text for one in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_answer_comes_first_and_then_the_figure(opened):
    with opened() as page:
        answer = page.locator("main > p").first.text_content()
        assert answer.startswith("The highest kappa is 0.")
        assert "not known: only 4 shifts" in answer
        assert "kappa of linear minus that of study" in answer
        first = page.locator("main > :is(figure, h2)").first
        assert first.locator("img").get_attribute("alt").startswith("Kappa of each label")
        assert {"summer (study)", "summer (linear)", "tom (study)"} <= set(texts_of(first.locator("img")))
        captions = page.locator("figcaption").all_text_contents()
    for what in ("buffer", "brain region", "Loss by epoch", "Confusion", "ROC", "along the film", "R² of the next bin"):
        assert any(what in caption for caption in captions), what


def test_the_answer_names_what_is_above_chance_and_what_is_not(studied):
    null = {name: dict.fromkeys(range(1, 20), 0.1) for name in ("kappa", "auroc")}
    results = [replace(result_of(studied, name, kappa), null=null) for name, kappa in (("a", 0.5), ("b", 0.0))]
    first, second, *_ = answer(results, [])
    assert (first, second) == ("Above chance: a.", "Not above chance: b.")


def test_tables_are_sorted_by_a_click_on_a_head(opened):
    with opened() as page:
        page.click("#groups-label button:text-is('kappa')")
        kappas = [float(row["kappa"]) for row in rows_of(page, "groups-label")]
    assert kappas == sorted(kappas)


def test_all_models_are_in_a_table_that_unfolds(opened, summary):
    models = {model["id"]: model for group in summary["groups"] for model in group["models"]}
    with opened() as page:
        assert page.locator("#models").is_hidden()
        page.focus("summary:text-is('All models')")
        page.keyboard.press("Enter")
        assert page.locator("#models").is_visible()
        rows = rows_of(page, "models")
    assert sorted(row["id"] for row in rows) == sorted(models)
    for row in rows:
        scores = models[row["id"]]["scores"]
        assert row["AUROC"] == (shown(scores["auroc"]) if "auroc" in scores else "-")


def test_two_folders_stand_side_by_side(opened, summary):
    with opened() as page:
        rows = rows_of(page, "comparison")
        settings = {row["setting"]: row for row in rows_of(page, "differences")}
    assert settings["model"]["linear"] == "linear"
    assert "office" not in str(rows)
    assert len(rows) == len(summary["comparison"]) == 4  # summer at two buffers in two choices of regions
    for row, one in zip(rows, summary["comparison"], strict=True):
        assert row["gain"] == shown(one["difference"])
        assert one["n_models"] == 2
        assert one["difference"] == pytest.approx(one["means"][1] - one["means"][0])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_leaves_nobody_out(width, scheme, opened):
    with opened(width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert findings(page) == []


def test_published_values_stand_beside_equal_settings_only(demo_cache, tmp_path):
    summer_train.study(
        cache_dir=demo_cache, data_dir="none", patient_ids=14, max_epochs=1, workers=1, output_dir=tmp_path / "study",
        label_name="summer", fold=1, buffer="10,32",
    )  # fmt: skip
    groups = {
        group["settings"]["buffer"]: group for group in Report.of([tmp_path / "study"], True, print).summary["groups"]
    }
    assert groups[32]["published"] == {"kappa": KAPPA_BY_LABEL["summer"].mean, "sd": KAPPA_BY_LABEL["summer"].sd}
    assert groups[10]["published"] is None
    plain = Report.of([tmp_path / "study"], False, print).summary
    assert {group["published"] is None for group in plain["groups"]} == {True}


def result_of(study, label_name="summer", kappa=0.5, fold=1, **changes):
    """A result of a model of the study's kind, with other numbers."""
    first = next(one for one in read_results_of(study) if one.row["label_name"] == "summer" and one.row["fold"] == 1)
    columns = {**first.record.columns, "label_name": label_name, "fold": fold, **changes}
    scores = {part: {**values, "kappa": kappa} for part, values in first.record.scores.items()}
    model_id = f"{abs(hash((label_name, fold, *changes.values()))):016x}"[:16]
    record = replace(first.record, columns=columns, scores=scores, id=model_id)
    return replace(first, record=record, null={}, predictions=Path("none"), folder="a")


def test_undefined_folds_are_said_in_the_table(studied, open_page, tmp_path, monkeypatch):
    results = [result_of(studied, fold=1), result_of(studied, fold=2, kappa=float("nan")), result_of(studied, "tom")]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, log: results)
    summer_train.report(studied, html=tmp_path / "page.html")
    with open_page(tmp_path / "page.html") as page:
        assert [row["models"] for row in rows_of(page, "groups-label")] == ["1 of 2", "1"]


def test_scores_of_validation_are_told_from_those_of_test(studied):
    tested = result_of(studied)
    record = replace(tested.record, n_samples={"train": 9, "val": 9}, id="0" * 16)
    columns = {**tested.record.columns, "split": "", "val_fraction": 0.2}
    validated = replace(tested, record=replace(record, columns=columns))
    groups = summarise([tested, validated])["groups"]
    table = summary_table(groups)
    assert [row[list(table.header).index("part")] for row in table.rows] == [group["part"] for group in groups]
    assert {group["part"] for group in groups} == {"test", "val"}
    assert "part" not in summary_table(groups[:1]).header


def test_pairs_are_of_one_task_and_of_what_varies_in_a_folder(studied):
    counts = next(one for one in read_results_of(studied) if one.row["task"] == "next_bin")
    ours = [result_of(studied, kappa=0.5, buffer=5.0), result_of(studied, "tom", kappa=0.1, buffer=5.0)]
    ours.append(replace(counts, folder="a"))
    theirs = [replace(result_of(studied, kappa=0.7, buffer=10.0), folder="b")]
    facts = summarise([*ours, *theirs])
    (pair,) = facts["comparison"]
    assert (pair["n_models"], pair["means"], pair["difference"]) == (1, [0.5, 0.7], pytest.approx(0.2))
    assert {one["setting"] for one in facts["differences"]} == {"buffer", "label_name"}
    other = [replace(result_of(studied, kappa=0.7, model=model), folder="b") for model in ("lstm", "gru")]
    assert summarise([ours[0], *other])["comparison"] == []  # which of the two would be the partner?


def test_a_model_that_was_trained_again_counts_once(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "max_epochs": 1, "buffer": 10}
    for _ in range(2):
        newest = summer_train.fit(task="label", output_dir=tmp_path, **common)
    said = []
    facts = Report.of([tmp_path], False, said.append).summary
    assert facts["n_models"] == 1
    assert "1 models were trained more than once" in said[0]
    assert facts["groups"][0]["models"][0]["scores"]["kappa"] == newest.scores["model"]["test"]["kappa"]


def test_models_on_other_units_are_not_averaged_with_these(studied):
    counts = next(one for one in read_results_of(studied) if one.row["task"] == "next_bin")
    units = counts.record.units
    fewer = {part: {name: values[:4] for name, values in scores.items()} for part, scores in units.items()}
    record = replace(counts.record, units=fewer, data_digest="other")
    other = replace(counts, record=record)
    assert len(summarise([counts, other])["groups"][0]["units"]) == 10


@pytest.mark.parametrize("damage", ["short", "empty", "other"])
def test_damaged_predictions_are_one_line(damage, studied, tmp_path, run):
    shutil.copytree(studied, tmp_path / "study")
    for path in (tmp_path / "study" / "predictions").iterdir():
        content = {"short": path.read_bytes()[:500], "empty": b""}.get(damage)
        if content is None:
            np.savez(path, other=np.zeros(3))
        else:
            path.write_bytes(content)
    line = error_line(run("summer_train", "report", tmp_path / "study", "--html", tmp_path / "page.html"))
    assert "damaged" in line
    assert "Remove it" in line


def test_a_folder_whose_name_is_no_text_is_reported(studied, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/st\xff"))
    shutil.copytree(studied, folder)
    (page,) = summer_train.report(folder, html=tmp_path / "page.html")
    assert "st\\" in page.read_text()
    assert [path.name for path in tmp_path.glob("*.html")] == ["page.html"]


def test_more_rows_than_a_figure_draws_are_in_the_table(studied, tmp_path, open_page, monkeypatch):
    results = [result_of(studied, f"label {number:03}", kappa=0.5 - number / 1000) for number in range(250)]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, log: results)
    summer_train.report(studied, html=tmp_path / "page.html")
    with open_page(tmp_path / "page.html") as page:
        assert page.locator("#groups-label tbody tr").count() == 250
        first = page.locator("img").first
        assert "the first 60 of 250" in first.get_attribute("alt")
        assert len([text for text in texts_of(first) if text.startswith("label ")]) == 60


def test_several_folders_leave_the_report_of_each_alone(studied, linear, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, *_ = summer_train.report(studied, linear, published=True)
    assert page == Path("report/report.md")
    assert "## Side by side" in page.read_text()
    assert "What differs in their settings" in page.read_text()
    assert not (linear / "report").exists()


def test_the_command_shows_what_it_found(run, studied, linear, tmp_path):
    shown = run("summer_train", "report", studied, linear, "--html", tmp_path / "page.html")
    header, first, *_ = [line.split("\t") for line in shown.stdout.splitlines()]
    assert {"label name", "kappa", "shifted, 5 to 95 %", "p", "time only (kappa)"} <= set(header)
    assert len(first) == len(header)
    assert "\tgain\t" in shown.stdout
    assert f"wrote {tmp_path / 'page.html'}" in shown.stderr


def test_the_command_prints_what_it_wrote_and_found(run, studied, tmp_path):
    written = run("summer_train", "report", studied, "--html", tmp_path / "page.html", "--json")
    assert written.returncode == 0, written.stderr
    facts = json.loads(written.stdout)
    assert facts["written"] == [str(tmp_path / "page.html")]
    assert facts["n_models"] == sum(len(group["models"]) for group in facts["groups"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_a_page_that_cannot_be_is_one_line(studied, tmp_path):
    with pytest.raises(SettingsError, match="name a file that ends in .html"):
        summer_train.report(studied, html=tmp_path / "page")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        summer_train.report(studied, html=tmp_path / "file" / "page.html")


def test_text_of_files_is_no_markup(open_page, studied, tmp_path, monkeypatch):
    odd = "</script><script>document.title = 'caught'</script><b>"
    results = read_results_of(studied)
    for result in results:
        if result.record.columns["label_name"]:
            result.record.columns["label_name"] = odd + result.record.columns["label_name"]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, log: results)
    summer_train.report(studied, html=tmp_path / "odd.html")
    with open_page(tmp_path / "odd.html") as page:
        assert "Decoding report" in page.title()
        assert odd in page.locator("#groups-label tbody").text_content()
        assert odd in page.locator("main > p").first.text_content()
