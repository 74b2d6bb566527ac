"""What the shell offers after Tab, asked as bash and zsh ask."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from summer_prep.key import describe
from tests.keys import rewrite_key

PROGRAMS = Path(sys.executable).parent


def environment(cwd, **more):
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return {
        "env": {**os.environ, "PATH": path, **more},
        "cwd": cwd,
        "capture_output": True,
        "text": True,
        "timeout": 60,
    }


@pytest.fixture(scope="module")
def place(demo_cache, tmp_path_factory):
    """A folder whose data_cache is the demo cache."""
    if not (PROGRAMS / "summer-prep").exists():
        pytest.skip("needs the programs: make test installs them")
    folder = tmp_path_factory.mktemp("place")
    (folder / "data_cache").symlink_to(demo_cache)
    return folder


def offered(place, line):
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    asked |= {"_SUMMER_PREP_COMPLETE": "complete_bash", "_SUMMER_TRAIN_COMPLETE": "complete_bash"}
    result = subprocess.run([words[0]], **environment(place, **asked), check=True)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("summer-prep insp", ["inspect"]),
        ("summer-prep inspect ", ["8", "14", "20", "29"]),
        ("summer-prep inspect 2", ["20", "29"]),
        ("summer-prep build --patient-ids 14 2", ["20", "29"]),  # a list by spaces ...
        ("summer-prep build --patient-ids 14,2", ["14,20", "14,29"]),  # ... and by commas
        ("summer-prep verify --patient_ids ", ["8", "14", "20", "29"]),
        ("summer-prep verify --bin-length ", ["80", "1000"]),
        ("summer-train fit --task la", ["label"]),
        ("summer-train fit --label-name summer-s", ["summer-speaking"]),
        ("summer-train study --label-name summer,summer-s", ["summer,summer-speaking"]),
        ("summer-train study --patient-ids 14;2", ["14;20", "14;29"]),
        ("summer-train fit --cache-dir nowhere --patient-ids ", []),
        ("summer-train fit --cache-dir s3://lab/cache --patient-ids ", []),  # nobody waits for a bucket
        ("summer-train fit --patient-ids 'un", []),
        ("summer-train study --model l", ["linear", "lstm"]),
        ("summer-train study --model mlp,l", ["mlp,linear", "mlp,lstm"]),
        ("summer-train fit --fold ", ["1", "2", "3", "4", "5"]),
    ],
)
def test_tab_offers_what_is_in_the_cache(line, words, place):
    assert offered(place, line) == words


def test_regions_are_those_of_units_and_their_groups(place):
    found = offered(place, "summer-train fit --brain-regions ")
    assert {"A", "H", "PHC"} <= set(found)
    assert offered(place, "summer-train fit --brain-regions A,AH ") == [one for one in found if one not in ("A,AH",)]


def test_what_files_say_moves_no_cursor(demo_cache, tmp_path):
    copy = shutil.copytree(demo_cache / "sub-14", tmp_path / "data_cache" / "sub-14")
    odd = ["\x1b]0;caught\x07t", "t\nt", "t t", "\x08\x08ts", "tt"]
    names = [*odd, *describe(copy / "bin-80ms.zarr").attributes["label_names"][len(odd) :]]
    shutil.rmtree(copy / "bin-1000ms.zarr")
    rewrite_key(tmp_path / "data_cache", "14", 80, label_names=names)
    assert offered(tmp_path, "summer-train fit --label-name tt") == ["tt"]
    assert not any("caught" in word for word in offered(tmp_path, "summer-train fit --label-name "))


def test_a_damaged_key_is_passed_over(demo_cache, tmp_path):
    (tmp_path / "data_cache" / "sub-14" / "bin-80ms.zarr").mkdir(parents=True)
    (tmp_path / "data_cache" / "sub-14" / "bin-80ms.zarr" / "zarr.json").write_text("{")
    assert offered(tmp_path, "summer-train fit --label-name s") == []
    assert offered(tmp_path, "summer-prep inspect ") == ["14"]


def test_bash_takes_the_script_that_is_printed(place):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    script = (
        'eval "$(_SUMMER_PREP_COMPLETE=source_bash summer-prep)"; COMP_WORDS=(summer-prep inspect 2); COMP_CWORD=2; '
        "name=$(complete -p summer-prep | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); $name summer-prep; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run([bash, "--norc", "-c", script], check=False, **environment(place))
    assert result.stdout.split() == ["20", "29"], result.stderr


def test_zsh_is_offered_the_same(place):
    asked = {"_TYPER_COMPLETE_ARGS": "summer-prep build --patient-ids 14 ", "_SUMMER_PREP_COMPLETE": "complete_zsh"}
    result = subprocess.run(["summer-prep"], check=False, **environment(place, **asked))
    assert [word in result.stdout for word in ('"8"', '"20"', '"29"')] == [True] * 3
