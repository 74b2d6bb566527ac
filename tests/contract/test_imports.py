"""How long --help may take to import, and that optional engines are loaded only where they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

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


OPTIONAL = """
import sys, summer_prep, summer_train
data, cache, output = sys.argv[1:]
summer_prep.build(data_dir=data, cache_dir=cache, bin_length=1000, patient_ids=14, workers=0)
summer_prep.open_key(cache, 14, 1000)
summer_train.fit(cache_dir=cache, data_dir=data, bin_length=1000, patient_ids=14, max_epochs=1, output_dir=output)
print({"dask", "distributed", "dask_jobqueue", "obstore", "summer_prep.cache.bucket"} & sys.modules.keys())
"""


def test_a_folder_and_this_machine_need_no_optional_engine(demo_dir, tmp_path):
    places = demo_dir, tmp_path / "cache", tmp_path / "runs"
    command = [sys.executable, "-c", OPTIONAL, *map(str, places)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip().endswith("set()")
