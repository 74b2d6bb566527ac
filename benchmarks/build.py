"""How long a build takes: a film-length patient at five bin lengths, and eight of them side by side.

    python -m benchmarks.build [--repeats 5] [--patients 8] [--dask]

Recordings are synthetic (79 units, about 1.4 million spikes each). Every repeat is a process of its own; the time
is that of `build` alone, after imports, and the memory is the largest of the process that builds. With --dask, the same
patients on two workers of a Dask cluster on this machine, which has done a build before, in turn with two processes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from summer_prep.recordings import demo

ONE_BUILD = """
import json, sys, time
from pathlib import Path
import summer_prep.recordings.nwb, summer_prep.cache.write
from summer_prep.cache.build import BuildConfig, build_keys
data, cache, workers, *patients = sys.argv[1:]
places = {"data_dir": Path(data), "cache_dir": Path(cache)}
where = {"n_workers": int(workers)} if workers.isdigit() else {"scheduler": workers}
config = BuildConfig(**places, patient_ids=tuple(patients), **where)
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


def compare_with_dask(folder: Path, data: Path, repeats: int) -> None:
    """Build all patients on two Dask workers and in two processes of our own, in turn."""
    from tests.clusters import dask

    with dask(folder) as (address, _):
        measure(ONE_BUILD, data, folder / "warm", address)  # workers have imported what they need
        runs: dict[str, list[dict[str, float]]] = {"2": [], address: []}
        for number in range(repeats):
            for workers, measured in runs.items():
                measured.append(measure(ONE_BUILD, data, folder / f"{number}-{len(workers)}", workers))
    print(f"2 processes: {median_and_range(runs['2'])} s")
    print(f"2 Dask workers, connection included: {median_and_range(runs[address])} s")
    ratios = sorted(there["seconds"] / here["seconds"] for here, there in zip(*runs.values(), strict=True))
    print(f"  Dask takes {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--dask", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "nwb"
        demo.MEDIAN_RATE_HZ = 1.2
        demo.demo_data(data, patients=options.patients, units=79, film_length=True)
        if options.dask:
            compare_with_dask(Path(folder), data, options.repeats)
            return
        first = demo.PATIENTS_FIRST[0]
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
