"""The benchmark command: every way and stage is timed, and the result is written as JSON and picture."""

import json


def test_bench_times_every_way_and_stage(demo_cache, run, tmp_path):
    options = "--patient-ids 14 --bin-length 1000 --batch-size 8 --repeats 1 --picture bench.png --json"
    result = run("summer_train", "bench", "--cache-dir", demo_cache, *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report["stages_s"]) >= {
        "open the cache",
        "build the tensor",
        "one step",
        "evaluate all parts and baselines",
    }
    assert len(report["epochs_s"]) == 3
    assert all(seconds > 0 for times in report["epochs_s"].values() for seconds in times)
    assert report["ours_over_bare"] > 0
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
