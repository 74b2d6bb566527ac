"""`build --dry-run`: what is said is what is built, and nothing is written."""

import json
import shutil

import pytest

import summer_prep
from tests.conftest import error_line


def planned(run, *options):
    result = run("summer_prep", "build", "--dry-run", "--json", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("lengths", ["", "80", "5,120"])
def test_the_keys_that_are_named_are_built_with_those_sizes(lengths, demo_dir, tmp_path, run):
    options = ["--data-dir", demo_dir, "--cache-dir", tmp_path / "cache", "--patient-ids", "14", "20"]
    options += ["--bin-length", lengths] if lengths else []
    plan, said = planned(run, *options)
    assert "nothing was written" in said
    assert not (tmp_path / "cache").exists()
    built = summer_prep.build(
        data_dir=demo_dir, cache_dir=tmp_path / "cache", patient_ids="14 20", bin_length=lengths or None, workers=0
    )
    expected = [(one.patient_id, one.bin_length_ms, one.n_bins, one.n_units) for one in built]
    assert [
        (key["patient_id"], key["bin_length_ms"], key["n_bins"], key["n_units"]) for key in plan["keys"]
    ] == expected
    for key in plan["keys"]:
        folder = tmp_path / "cache" / f"sub-{key['patient_id']}" / f"bin-{key['bin_length_ms']}ms.zarr"
        taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert key["n_bytes"] == pytest.approx(taken, rel=0.1, abs=20_000)
    again, _ = planned(run, *options)
    assert {key["state"] for key in again["keys"]} == {"fresh"}
    assert again["seconds"] == 0


def test_a_plan_changes_nothing_of_a_cache_that_is_there(demo_dir, tmp_path, run):
    shutil.copytree(demo_dir, tmp_path / "nwb")
    places = {"data_dir": tmp_path / "nwb", "cache_dir": tmp_path / "cache"}
    summer_prep.build(**places, patient_ids=14, bin_length=200, workers=0)
    (recording,) = (tmp_path / "nwb").glob("**/*sub14*.nwb")
    recording.touch()

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "cache").rglob("*")}

    before = state()
    options = ("--data-dir", tmp_path / "nwb", "--cache-dir", tmp_path / "cache", "--patient-ids", "14")
    plan, _ = planned(run, *options, "--bin-length", "80,200")
    assert [(key["bin_length_ms"], key["state"]) for key in plan["keys"]] == [(200, "fresh"), (80, "build")]
    assert state() == before


def test_a_place_that_is_no_cache_is_refused_as_a_build_does(demo_dir, tmp_path, run):
    (tmp_path / "file").write_text("")
    options = ("--data-dir", demo_dir, "--cache-dir", tmp_path / "file")
    lines = [error_line(run("summer_prep", "build", *options, *flag)) for flag in ((), ("--dry-run",))]
    assert lines[0] == lines[1]


def test_what_would_fail_is_told(demo_dir, tmp_path, run):
    shutil.copytree(demo_dir, tmp_path / "nwb")
    (broken,) = (tmp_path / "nwb").glob("**/*sub14*.nwb")
    broken.write_bytes(b"no HDF5")
    options = ("--data-dir", tmp_path / "nwb", "--cache-dir", tmp_path / "cache")
    result = run("summer_prep", "build", "--dry-run", *options)
    assert "1 patients would fail, listed above" in error_line(result)
    assert f"would fail: {broken}" in result.stderr or str(broken) in result.stderr
    assert result.stdout.count("\tbuild\t") == 3 * 5
    assert not (tmp_path / "cache").exists()
