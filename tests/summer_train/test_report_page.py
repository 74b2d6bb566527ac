"""The page of results in a real browser: it says what `--json` does, and rows show what is known of them."""

import base64

import pytest

import summer_train
from summer_prep.options import finite
from summer_train.reports.findings import read_results_of
from summer_train.reports.summary import summarise
from tests.browsers import findings


@pytest.fixture(scope="module")
def summary(reported):
    return finite(summarise(reported, published=True))


@pytest.fixture
def opened(open_page, reported):
    return lambda width=1280, scheme="light": open_page(reported.attrs["written"][-1], width, scheme)


def rows_of(page, table):
    header = page.locator(f"#{table} thead th").all_text_contents()
    rows = page.locator(f"#{table} tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


def shown(value, digits=3):
    return "n/a" if value is None else f"{value:.{digits}f}"


def test_the_tables_have_the_numbers_of_json(opened, summary):
    labels = [group for group in summary["groups"] if group["task"] == "label"]
    models = {model["id"]: model for group in summary["groups"] for model in group["models"]}
    with opened() as page:
        rows, of_models, of_counts = (rows_of(page, name) for name in ("groups-label", "models", "groups-next_bin"))
        compared, differences = rows_of(page, "comparison"), rows_of(page, "differences")
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
    (row,), counts = of_counts, summary["groups"][-1]
    assert row["median R²"] == shown(counts["mean"]["r2"])
    assert row["mean count (sq. error)"] == shown(counts["baselines"]["mean count"]["mse"])
    assert sorted(row["id"] for row in of_models) == sorted(models)
    for row in of_models:
        assert row["AUROC"] == shown(models[row["id"]]["scores"].get("auroc"))
    assert {row["setting"]: row for row in differences}["model"]["linear"] == "linear"
    assert len(compared) == len(summary["comparison"]) == 4  # summer at two buffers in two choices of regions
    for row, one in zip(compared, summary["comparison"], strict=True):
        assert row["gain"] == shown(one["difference"])
        assert one["n_models"] == 2
        assert one["difference"] == pytest.approx(one["means"][1] - one["means"][0])


def test_the_answer_comes_first_and_then_the_figure(opened):
    with opened() as page:
        answer = page.locator("main > p").first.text_content()
        assert answer.startswith("The highest kappa is 0.")
        assert "not known: only 4 shifts" in answer
        assert "kappa of linear minus that of study" in answer
        first = page.locator("main > :is(figure, h2)").first
        assert first.locator("img").get_attribute("alt").startswith("Kappa of each label")
        svg = base64.b64decode(first.locator("img").get_attribute("src").partition(",")[2]).decode()
        assert all(f">{name}<" in svg for name in ("summer (study)", "summer (linear)", "tom (study)"))
        captions = page.locator("figcaption").all_text_contents()
    for what in ("buffer", "brain region", "Loss by epoch", "Confusion", "ROC", "along the film", "R² of the next bin"):
        assert any(what in caption for caption in captions), what


def test_tables_sort_by_a_click_unfold_and_show_rare_columns_on_request(opened):
    with opened() as page:
        page.click("#groups-label button:text-is('kappa')")
        kappas = [float(row["kappa"]) for row in rows_of(page, "groups-label")]
        assert kappas == sorted(kappas)
        rare, usual = (page.locator(f"#groups-label button:text-is('{title}')") for title in ("AP", "AUROC"))
        assert usual.is_visible()
        assert rare.is_hidden()
        page.get_by_label("all columns").first.check()
        assert rare.is_visible()
        assert page.locator("#models").is_hidden()
        page.focus("summary:text-is('All models')")
        page.keyboard.press("Enter")
        assert page.locator("#models").is_visible()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_fits_the_screen_and_leaves_nobody_out(width, scheme, opened):
    with opened(width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert findings(page) == []


def test_text_of_files_is_no_markup(open_page, studied, tmp_path, monkeypatch):
    odd = "</script><script>document.title = 'caught'</script>*a|b*<b>$x_1$[i](j)"
    results = [one for one in read_results_of(studied) if one.columns["buffer"] == 10]
    for result in results:
        if result.columns["label_name"]:
            result.columns["label_name"] = odd + result.columns["label_name"]
    monkeypatch.setattr("summer_train.reports.findings.read_results_of", lambda path, log: results)
    page_file = tmp_path / "odd.html"
    markdown, *_ = summer_train.report(studied, html=page_file, output_dir=tmp_path).attrs["written"]
    text = markdown.read_text()
    assert "\\*a\\|b\\*\\<b\\>$x\\_1$\\[i\\](j)" in text
    assert "<script>" not in text.replace("\\<script\\>", "")
    with open_page(page_file) as page:
        assert "Decoding report" in page.title()
        assert odd in page.locator("#groups-label tbody").text_content()
        assert odd in page.locator("main > p").first.text_content()
