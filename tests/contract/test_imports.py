"""How long --help may take to import, and that optional engines are loaded only where they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import summer_train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["summer_prep", "summer_train"])
def test_a_package_and_its_help_load_nothing_heavy(module):
    code = (
        f"import sys, {module}; dir({module}); from {module}.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'numpy', 'torch', 'lightning', 'zarr', 'pynwb', 'matplotlib'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip().endswith("set()")


REFUSED = """
import sys
from summer_prep.errors import SummerError
from summer_train.cli import app
command = [*sys.argv[1].split(), "--cache-dir", sys.argv[2], "--data-dir", "none", "--output-dir", "logs"]
wrong = ["--label-name sumer", "--patient-ids 99", "--brain-regions XYZ", "--buffer 500"]
for option in wrong:
    patient = [] if "patient" in option else ["--patient-ids", "14"]
    try: app([*command, *patient, *option.split()], standalone_mode=False)
    except SummerError as error: print(error)
assert not {"torch", "lightning"} & sys.modules.keys()
"""


@pytest.mark.parametrize("command", ["fit --task label", "study"])
def test_what_data_and_settings_do_not_allow_is_refused_before_torch_loads(command, demo_cache):
    given = [sys.executable, "-c", REFUSED, command, demo_cache]
    lines = subprocess.run(given, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    named = ["sumer", "99", "XYZ", "--buffer 500"]
    assert [name in line for name, line in zip(named, lines, strict=True)] == [True] * 4


SCRIPT = """
import pathlib, sys, summer_prep, summer_train
from summer_train.runs.folder import find_results
data, run, output = sys.argv[1:]
common = {"cache_dir": f"{output}/cache", "data_dir": data, "bin_length": 1000, "patient_ids": 14}
summer_prep.build(**common, workers=0)
summer_prep.open_key(common["cache_dir"], 14, 1000)
summer_train.study(**common, max_epochs=1, workers=1, output_dir=f"{output}/study")
summer_train.report(f"{output}/study")
summer_train.evaluate(run)
assert find_results(pathlib.Path(run), print)
assert "torch" in sys.modules
assert not {"lightning", "pytorch_lightning"} & sys.modules.keys()  # which only a trainer needs
summer_train.fit(**common, max_epochs=1, output_dir=f"{output}/runs")
assert not {"dask", "distributed", "dask_jobqueue", "obstore", "summer_prep.cache.bucket"} & sys.modules.keys()
"""


def test_a_folder_and_this_machine_need_no_optional_engine_and_only_fit_needs_lightning(demo_dir, demo_cache, tmp_path):
    places = {"cache_dir": demo_cache, "data_dir": "none", "output_dir": tmp_path / "logs"}
    trained = summer_train.fit(**places, task="label", patient_ids=14, buffer=10, max_epochs=1)
    command = [sys.executable, "-c", SCRIPT, demo_dir, trained.log_dir, tmp_path]
    subprocess.run(command, check=True, cwd=ROOT, timeout=200)
