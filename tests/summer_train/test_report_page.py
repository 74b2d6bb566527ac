"""The page of results in a real browser: it says what `--json` does, and rows show what is known of them."""

import csv
import json
import os
import shutil
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
from summer_train.reports.summary import summarise
from summer_train.reports.tables import summary_table
from tests.browsers import findings
from tests.conftest import error_line

pytest.importorskip("bokeh", reason="pages need: pip install bokeh")


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
    return finite(Report.of([studied, linear], True, print).as_plain())


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


def data_of(page, name):
    return page.evaluate(
        "name => Object.fromEntries(Object.entries(window.summer.model(name).data).map(([k, v]) => [k, [...v]]))", name
    )


def shown(value, digits=3):
    return "n/a" if value is None else f"{value:.{digits}f}"


def test_what_is_printed_as_json_stands_in_the_page(opened, summary):
    with opened() as page:
        stands = json.loads(page.locator("#facts").text_content())
    assert {name: stands[name] for name in summary} == json.loads(json.dumps(summary))


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


def test_every_fold_is_a_dot(opened, summary):
    labels = [group for group in summary["groups"] if group["task"] == "label"]
    with opened() as page:
        dots = data_of(page, "folds_label")
        means = data_of(page, "means_label")
    assert dots["x"] == [model["scores"]["kappa"] for group in labels for model in group["models"]]
    assert means["x"] == [group["mean"]["kappa"] for group in labels]


def test_a_chosen_row_shows_its_curves_confusion_film_and_models(opened, summary, studied):
    groups = summary["groups"]
    number = next(
        place for place, group in enumerate(groups)
        if group["rank_curves"] and (group["settings"]["label_name"], group["settings"]["split"]) == ("tom", "blocked")
    )  # fmt: skip
    group = groups[number]
    with opened() as page:
        page.focus(f"tr[data-group='{number}'] button")
        page.keyboard.press("Enter")
        assert page.locator("#group-title").text_content().startswith("study, tom, ")
        lines = data_of(page, "curve_lines")
        assert lines["ys"][0] == pytest.approx([epoch["train"] for epoch in group["models"][0]["curve"]])
        assert lines["ys"][1] == pytest.approx([epoch["val"] for epoch in group["models"][0]["curve"]])
        assert data_of(page, "roc_lines")["ys"][0] == pytest.approx(group["rank_curves"][0]["tpr"])
        assert data_of(page, "recall_lines")["ys"][0] == pytest.approx(group["rank_curves"][0]["precision"])
        confusion = page.locator("#confusion td").all_text_contents()
        for text, value in zip(confusion, np.ravel(group["confusion"]), strict=True):
            assert text.startswith(f"{value:,.0f} (")
        rows = rows_of(page, "models")
        assert [row["id"] for row in rows] == [model["id"] for model in group["models"]]
        assert [row["kappa"] for row in rows] == [shown(model["scores"]["kappa"], 4) for model in group["models"]]
        film = data_of(page, "film_columns")
        spans = data_of(page, "shown_spans")
    results = {one.record.id: one for one in read_results_of(studied)}
    models = [results[model["id"]] for model in group["models"]]
    arrays = [one.arrays() for one in models]
    probability = np.concatenate([one["test_score"] for one in arrays])
    n_per_column = round(film["width"][0] * 60 / 0.08)
    defined = np.array([value for value in film["probability"] if value is not None and not np.isnan(value)])
    assert len(defined) <= -(-len(probability) // n_per_column) + 100
    assert defined.mean() == pytest.approx(probability.mean(), abs=0.02)
    assert set(spans["part"]) == {"val", "test"}
    first = f"fold {models[0].row['fold']}"
    assert min(
        left for y, part, left in zip(spans["y"], spans["part"], spans["left"], strict=True)
        if part == "test" and y == first
    ) == pytest.approx(arrays[0]["test_film_s"].min() / 60)  # fmt: skip


def test_zoom_samples_the_predictions_anew(opened, summary, studied):
    (first, *_) = [
        group for group in summary["groups"] if group["rank_curves"] and group["settings"]["split"] == "blocked"
    ]
    number = summary["groups"].index(first)
    with opened() as page:
        page.evaluate(f"window.summer.choose({number})")
        arrays = {one.record.id: one for one in read_results_of(studied)}[first["models"][0]["id"]].arrays()
        start_min = float(arrays["test_film_s"][0]) / 60
        page.evaluate(f"window.summer.model('film').setv({{start: {start_min}, end: {start_min + 0.1}}})")
        page.wait_for_function("document.body.dataset.columns.endsWith(' x 1')")
        film = data_of(page, "film_columns")
    drawn = dict(zip((round(x * 60, 3) for x in film["x"]), film["probability"], strict=True))
    for film_s, score in zip(arrays["test_film_s"][1:40], arrays["test_score"][1:40], strict=True):
        middle_s = round(float(film_s) + 0.04, 3)
        assert drawn[min(drawn, key=lambda x: abs(x - middle_s))] == pytest.approx(score, abs=1e-6)
        assert min(abs(x - middle_s) for x in drawn) < 0.002


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


def test_next_bin_models_show_their_units(opened, summary):
    (number,) = [place for place, group in enumerate(summary["groups"]) if group["task"] == "next_bin"]
    with opened() as page:
        page.click(f"tr[data-group='{number}'] button")
        dots = data_of(page, "unit_dots")
        assert page.locator("#confusion-box").is_hidden()
        assert page.locator("#film").is_hidden()
    units = summary["groups"][number]["units"]
    assert dots["unit"] == [unit["unit"] for unit in units] == list(range(10))
    assert dots["x"] == pytest.approx([max(1e-3, unit["rate_hz"]) for unit in units])


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
        group["settings"]["buffer"]: group
        for group in Report.of([tmp_path / "study"], True, print).as_plain()["groups"]
    }
    assert groups[32]["published"] == {"kappa": KAPPA_BY_LABEL["summer"].mean, "sd": KAPPA_BY_LABEL["summer"].sd}
    assert groups[10]["published"] is None
    plain = Report.of([tmp_path / "study"], False, print).as_plain()
    assert {group["published"] is None for group in plain["groups"]} == {True}


def result_of(study, label_name="summer", kappa=0.5, fold=1, **changes):
    """A result of a model of the study's kind, with other numbers."""
    first = next(one for one in read_results_of(study) if one.row["label_name"] == "summer" and one.row["fold"] == 1)
    row = {**first.row, "label_name": label_name, "fold": fold, **changes}
    scores = {part: {**values, "kappa": kappa} for part, values in first.record.scores.items()}
    record = replace(first.record, scores=scores, id=f"{abs(hash((label_name, fold, *changes.values()))):016x}"[:16])
    return replace(first, row=row, record=record, null={}, predictions=None)


def test_undefined_folds_are_said_in_the_table(studied, open_page, tmp_path, monkeypatch):
    results = [result_of(studied, fold=1), result_of(studied, fold=2, kappa=float("nan")), result_of(studied, "tom")]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, say: results)
    summer_train.report(studied, html=tmp_path / "page.html")
    with open_page(tmp_path / "page.html") as page:
        assert [row["models"] for row in rows_of(page, "groups-label")] == ["1 of 2", "1"]


def test_scores_of_validation_are_told_from_those_of_test(studied):
    tested = result_of(studied)
    record = replace(tested.record, n_samples={"train": 9, "val": 9}, id="0" * 16)
    validated = replace(tested, row={**tested.row, "split": "", "val_fraction": 0.2}, record=record)
    groups = summarise({"a": [tested, validated]})[0]["groups"]
    table = summary_table(groups)
    assert [row[list(table.header).index("part")] for row in table.rows] == [group["part"] for group in groups]
    assert {group["part"] for group in groups} == {"test", "val"}
    assert "part" not in summary_table(groups[:1]).header


def test_pairs_are_of_one_task_and_of_what_varies_in_a_folder(studied):
    counts = next(one for one in read_results_of(studied) if one.row["task"] == "next_bin")
    ours = [result_of(studied, kappa=0.5, buffer=5.0), result_of(studied, "tom", kappa=0.1, buffer=5.0), counts]
    theirs = [result_of(studied, kappa=0.7, buffer=10.0)]
    facts, _ = summarise({"a": ours, "b": theirs})
    (pair,) = facts["comparison"]
    assert (pair["n_models"], pair["means"], pair["difference"]) == (1, [0.5, 0.7], pytest.approx(0.2))
    assert {one["setting"] for one in facts["differences"]} == {"buffer", "label_name"}
    other = [result_of(studied, kappa=0.7, model=model) for model in ("lstm", "gru")]
    assert summarise({"a": ours[:1], "b": other})[0]["comparison"] == []  # which of the two would be the partner?


def test_a_model_that_was_trained_again_counts_once(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "max_epochs": 1, "buffer": 10}
    for _ in range(2):
        newest = summer_train.fit(task="label", output_dir=tmp_path, **common)
    said = []
    facts = Report.of([tmp_path], False, said.append).as_plain()
    assert facts["n_models"] == 1
    assert "1 models were trained more than once" in said[0]
    assert facts["groups"][0]["models"][0]["scores"]["kappa"] == newest.scores["model"]["test"]["kappa"]


def test_models_on_other_units_are_not_averaged_with_these(studied):
    counts = next(one for one in read_results_of(studied) if one.row["task"] == "next_bin")
    units = counts.record.units
    fewer = {part: {name: values[:4] for name, values in scores.items()} for part, scores in units.items()}
    record = replace(counts.record, units=fewer, data_digest="other")
    other = replace(counts, row=dict(counts.row), record=record)
    assert len(summarise({"a": [counts, other]})[0]["groups"][0]["units"]) == 10


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


def test_more_rows_than_a_browser_draws_are_in_the_table(studied, tmp_path, open_page, monkeypatch):
    results = [result_of(studied, f"label {number:03}", kappa=0.5 - number / 1000) for number in range(250)]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, say: results)
    summer_train.report(studied, html=tmp_path / "page.html")
    with open_page(tmp_path / "page.html") as page:
        assert page.locator("#groups-label tbody tr").count() == 250
        assert len(data_of(page, "folds_label")["x"]) == 200


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
        result.row["label_name"] = result.row["label_name"] and odd + result.row["label_name"]
    monkeypatch.setattr("summer_train.reports.report.read_results_of", lambda path, say: results)
    summer_train.report(studied, html=tmp_path / "odd.html")
    with open_page(tmp_path / "odd.html") as page:
        assert "Decoding report" in page.title()
        assert odd in page.locator("#groups-label tbody").text_content()
        assert odd in page.locator("#group-title").text_content()
