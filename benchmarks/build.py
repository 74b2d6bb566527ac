"""How long a build takes: a film-length patient at five bin lengths, and eight of them side by side.

    python benchmarks/build.py [--repeats 5] [--patients 8]

Recordings are synthetic (79 units, about 1.4 million spikes each). Every repeat is a process of its own; the time
is that of `build` alone, after imports, and the memory is the largest of the process that builds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from summer_prep.demo import DemoConfig, write_demo_data

ONE_BUILD = """
import json, sys, time
from pathlib import Path
import pynwb, summer_prep.store
from summer_prep.building import BuildConfig, build_keys
data, cache, n_workers, *patients = sys.argv[1:]
places = {"data_dir": Path(data), "cache_dir": Path(cache)}
config = BuildConfig(**places, patient_ids=tuple(patients), n_workers=int(n_workers))
before = time.perf_counter()
results = build_keys(config)
seconds = time.perf_counter() - before
assert all(result.state == "built" for result in results), results
status = Path("/proc/self/status").read_text()
(line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
megabytes = int(line.split()[1]) / 1024
print(json.dumps({"seconds": seconds, "megabytes": megabytes, "spikes": results[0].spikes["in_file"]}))
"""


def measure(code: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def median_and_range(runs: list[dict[str, float]]) -> str:
    values = [run["seconds"] for run in runs]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "nwb"
        config = DemoConfig(folder=data, n_patients=options.patients, n_units=79, film_length=True, median_rate_hz=1.2)
        write_demo_data(config)
        first = config.ids[0]
        one = [measure(ONE_BUILD, data, Path(folder) / f"cache-{i}", 0, first) for i in range(options.repeats)]
        print(f"one patient, {one[0]['spikes']:.0f} spikes, 5 bin lengths: {median_and_range(one)} s")
        print(f"  largest memory: {max(run['megabytes'] for run in one):.0f} MB")
        medians = {}
        for n_workers in (1, 2):
            runs = [measure(ONE_BUILD, data, Path(folder) / f"all-{n_workers}-{i}", n_workers) for i in range(3)]
            medians[n_workers] = statistics.median(run["seconds"] for run in runs)
            print(f"{options.patients} patients, {n_workers} processes: {median_and_range(runs)} s")
        print(f"  two processes are {medians[1] / medians[2]:.2f} times as fast as one")


if __name__ == "__main__":
    main()
