"""The README's commands and code run as they stand there, on demo recordings in place of the download."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_commands_of_the_readme_run(demo_dir, run, tmp_path):
    (block,) = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    download, *commands = block.splitlines()
    assert download.startswith("dandi download --output-dir recordings ")
    shutil.copytree(demo_dir, tmp_path / "recordings" / "001616")
    in_one_process = {"build": ["--workers", "1"], "study": ["--workers", "1", "--max-epochs", "1"]}
    for command in commands:
        program, *arguments = shlex.split(command)
        arguments += in_one_process.get(arguments[0], ())
        result = run(program.replace("-", "_"), *arguments, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)
    for picture in ("sub-14.png", "curve.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings(
    "ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*", "ignore:.*LeafSpec.*", "ignore:.*tensorboardX.*"
)
def test_python_of_the_readme_runs(demo_cache, tmp_path, monkeypatch):
    (training,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (cache,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cache.md").read_text(), re.DOTALL)
    (tmp_path / "data_cache").symlink_to(demo_cache)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(training, names)
    assert names["kappa"] > 0.1
    assert names["counts"].shape == (len(names["summer"]), 20) == (len(names["film_s"]), len(names["regions"]))
    exec(cache, names)
    assert set(names["summer"].values.tolist()) == {0, 1}
    assert names["spikes_by_region"].dims == ("bin", "brain_region")
    assert names["second_minute"].sizes["bin"] == 750


def test_every_option_of_fit_is_in_its_page(run):
    options = set(re.findall(r"--[a-z-]+", run("summer_train", "fit", "--help").stdout))
    assert options - {"--help", "--debug", "--no-debug"} <= set(
        re.findall(r"--[a-z-]+", (ROOT / "docs" / "fit.md").read_text())
    )
