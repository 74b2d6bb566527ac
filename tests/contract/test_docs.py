"""The tutorial and the how-tos run as they stand there; their tables are those of the code."""

import csv
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import summer_prep
from summer_train import open_selection
from summer_train.reports.published import KAPPA_BY_LABEL, KAPPA_BY_REGION

DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text()
PUBLISHED = (DOCS / "published.md").read_text()
SHORTER = {
    "--film-length --units 79": "--minutes 10 --units 6", "--label-name all": "--label-name summer",
    "summer-train study ": "summer-train study --buffer 10 --workers 1 ", "--task label ": "--task label --buffer 10 ",
    "summer-prep build ": "summer-prep build --workers 1 ",
    "--fold 1-5 --patience 3 --shifts 20": "--fold 1 --patience 1 --shifts 2",
    "summer,tom,office --fold 1-5": "summer --fold 1",
}  # fmt: skip
"""What takes minutes in the tutorial, and what stands for it here."""


def test_the_tutorial_runs(run, tmp_path, monkeypatch):
    text = TUTORIAL
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    for command in "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines():
        program, *arguments = shlex.split(command)
        result = run(program.replace("-", "_"), *arguments, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)
    pages = {path.name for path in tmp_path.glob("*.html")}
    assert pages == set(re.findall(r"--html (\S+\.html)", TUTORIAL))
    with (tmp_path / "linear" / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"linear"}
    assert {row["max_epochs"] for row in rows} == {"10"}  # of the run whose settings were taken
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["spikes_per_bin"].shape == (12,)


@pytest.mark.parametrize("page", ["howto.md", "claims.md"])
def test_commands_of_the_how_tos_run(page, run, demo_cache, tmp_path):
    (tmp_path / "data_cache").symlink_to(demo_cache)
    for command in "".join(re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)).splitlines():
        program, *arguments = shlex.split(command)
        if arguments[0] in ("fit", "study"):  # smaller: what stands last on the command line counts
            arguments += ["--data-dir", "none", "--patient-ids", "14", "--max-epochs", "1", "--buffer", "10"]
        if arguments[0] == "study":
            arguments += ["--fold", "1", "--workers", "1", *(["--shifts", "2"] * ("--shifts" in arguments))]
            arguments += ["--n-units", "1,best:1,all"] * ("--n-units" in arguments)
        result = run(program.replace("-", "_"), *arguments, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)


@pytest.fixture
def example(capsys, monkeypatch):
    """Runs a script, and returns what it prints."""

    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(DOCS / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_xarray_and_pandas(demo_cache, example):
    pytest.importorskip("xarray", reason="needs: pip install xarray")
    assert re.search(r"\d+ onsets, mean rate before \d", example("xarray_pandas.py", demo_cache))


@pytest.mark.filterwarnings("ignore")  # of pynapple's own requirements
def test_pynapple(demo_cache, example):
    pytest.importorskip("pynapple", reason="needs: pip install pynapple")
    rates_hz = [float(word) for word in example("pynapple_rates.py", demo_cache).splitlines()[-1].split()]
    key = summer_prep.open_key(demo_cache, 14, 80)
    on = key["labels_first"][list(key.attrs["label_names"]).index("summer")] == 1
    expected = key["spike_counts"][:][on].sum(axis=0) / key["recorded_s"][:][on].sum(dtype=float)
    assert rates_hz == pytest.approx(expected, abs=0.02 * max(expected))


@pytest.mark.filterwarnings("ignore")  # of namespaces that the file has with it
def test_an_nwb_file(demo_cache, example, tmp_path):
    pytest.importorskip("ndx_binned_spikes", reason="needs: pip install ndx-binned-spikes")
    from pynwb import NWBHDF5IO, validate

    example("nwb_file.py", demo_cache, tmp_path / "14.nwb")
    key = summer_prep.open_key(demo_cache, 14, 80)
    with NWBHDF5IO(tmp_path / "14.nwb", "r", load_namespaces=True) as io:
        assert validate(io=io) == []
        nwb = io.read()
        film = nwb.processing["film"]
        assert np.array_equal(film["BinnedAlignedSpikes"].data[:, 0, :], key["spike_counts"][:].T)
        assert np.array_equal(film["labels"].data[:].T, key["labels_first"][:])
        assert list(nwb.units["brain_region"][:]) == key["brain_region"][:].tolist()


def test_logistic_regression_of_scikit_learn_is_the_linear_model_within_its_spread(demo_cache, example, tmp_path):
    shown = example("logistic_regression.py", demo_cache, tmp_path / "figure.png")
    theirs, ours, spread = map(float, re.findall(r"\d\.\d{3}", shown))
    assert ours > 0.6
    assert abs(theirs - ours) < spread
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_features_of_a_video_become_a_target(demo_cache, example, tmp_path):
    av = pytest.importorskip("av", reason="needs: pip install av")
    cache = shutil.copytree(demo_cache, tmp_path / "cache")
    with av.open(tmp_path / "film.mp4", "w") as video:
        stream = video.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(50):
            image = np.full((16, 32, 3), 255 * (number // 25), np.uint8)  # a cut from black to white
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        video.mux(stream.encode())
    assert "50 frames, 3 features" in example("video_features.py", tmp_path / "film.mp4", tmp_path / "features.npy")
    luminance, _, change = np.load(tmp_path / "features.npy").T
    assert luminance[:25].max() < 0.2
    assert luminance[25:].min() > 0.8
    assert change.argmax() == 25
    summer_prep.add_target(tmp_path / "features.npy", name="film", cache_dir=cache, start_s=0, step_s=0.04)
    values = open_selection(cache, 14, 80).features("film:0")
    assert np.isnan(values[25:]).all()


@pytest.mark.xdist_group("bucket")
def test_buckets(demo_dir, bucket, tmp_path):
    """In a process of its own: those that build keep the environment of when the first of them was started."""
    command = [sys.executable, DOCS / "examples" / "buckets.py", demo_dir, str(bucket)]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "14 80 built" in shown
    assert "test kappa " in shown


@pytest.mark.parametrize("script", sorted((DOCS / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_shown_in_the_how_tos_and_run_by_a_test(script):
    assert f"examples/{script.name}" in (DOCS / "howto.md").read_text()
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert f'"{script.name}"' in tests


ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "data_cache" / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:  # as GitHub and Sphinx make it of a heading
            text = re.sub(r"```.*?```", "", target.read_text(), flags=re.DOTALL)
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, path


def test_examples_read_plain_arrays_with_xarray_whether_or_not_dask_is_installed():
    pages = [page for page in (*PAGES, *(DOCS / "examples").glob("*.py")) if page.name != "CHANGELOG.md"]
    opened = re.findall(r"open_zarr\(.*", "\n".join(page.read_text() for page in pages))
    assert len(opened) > 3
    assert all("chunks=None" in call for call in opened)


def test_published_figures_are_those_of_the_code():
    rows = re.findall(r"\| `([\w-]+)` \| ([\d.]+)(?: \(([\d.]+)\))? \|", PUBLISHED)
    assert {name: (float(mean), float(sd) if sd else None) for name, mean, sd in rows} == KAPPA_BY_LABEL
    for label in ("summer", "scenes"):
        text = re.sub(r"\s+", " ", PUBLISHED)
        shown = re.search(rf"`{label}`(?: at 32 s)?: ([^;]*?0\.\d+[^;]*?)[;.]\s", text + " ")[1]
        numbers = [float(number) for number in re.findall(r"0\.\d+", shown)]
        assert numbers == [KAPPA_BY_REGION[label][region].mean for region in ("A", "EC", "PHC", "H")]


def test_the_citation_names_this_version():
    citation = (DOCS.parent / "CITATION.cff").read_text()
    assert f"version: {summer_prep.__version__}\n" in citation
