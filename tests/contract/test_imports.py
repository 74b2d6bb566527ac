"""Who may import whom, and how long --help may take to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = {
    f"summer_prep.{name}"
    for name in (
        "caches",
        "console",
        "dataset",
        "errors",
        "extras",
        "key",
        "machine",
        "output",
        "splits",
        "urls",
        "values",
        "web",
        "parallel",
    )
} | {"summer_prep"}
LATE = {"summer_prep.building"}
FORBIDDEN = {"summer_prep": {"torch", "lightning", "summer_train"}, "summer_train": {"pynwb", "hdmf", "h5py"}}


def imports(path):
    """Yield (module, whether it is imported when the file is)."""
    tree = ast.parse(path.read_text())
    late = {node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in late
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            yield node.module, node not in late


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_stay_apart(package):
    for path in (ROOT / package).glob("*.py"):
        for module, _ in imports(path):
            assert module.split(".")[0] not in FORBIDDEN[package], f"{path.name} imports {module}"


def test_training_knows_only_what_is_shared_of_prep_and_calls_build_late():
    for path in (ROOT / "summer_train").glob("*.py"):
        for module, at_import in imports(path):
            if module.startswith("summer_prep") and module not in SHARED:
                assert (module in LATE, at_import) == (True, False), f"{path.name} imports {module}"


@pytest.mark.parametrize("module", ["summer_prep", "summer_train"])
def test_help_loads_no_heavy_package(module):
    code = (
        f"import sys; from {module}.cli import app\n"
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
print({"dask", "distributed", "dask_jobqueue", "obstore", "summer_prep.bucket"} & sys.modules.keys())
"""


def test_a_folder_and_this_machine_need_no_optional_engine(demo_dir, tmp_path):
    places = demo_dir, tmp_path / "cache", tmp_path / "runs"
    command = [sys.executable, "-c", OPTIONAL, *map(str, places)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip().endswith("set()")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    """No file is reached from itself, late imports included."""
    reached = {
        path.stem: {m.split(".")[1] for m, _ in imports(path) if m.startswith(f"{package}.")}
        for path in (ROOT / package).glob("*.py")
        if not path.stem.startswith("__")
    }
    for _ in reached:
        reached = {name: found.union(*(reached[other] for other in found)) for name, found in reached.items()}
    assert [name for name, found in reached.items() if name in found] == []
