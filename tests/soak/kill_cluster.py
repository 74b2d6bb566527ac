"""Kill workers of a Dask cluster at random moments of builds, and count what is lost.

python tests/soak/kill_cluster.py [--kills 32] [--seed 0]
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import summer_prep
from summer_prep.cache.keys import FolderCache
from tests.clusters import dask, processes_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, killed, n_builds = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summer_prep.demo_data(folder / "nwb", patients=8, minutes=10, units=40)
        with dask(folder) as (scheduler, (_, workers)):
            while killed < options.kills:
                is_over, hits = Event(), []

                def kill_workers(is_over=is_over, hits=hits):
                    while not is_over.wait(chance.uniform(0.1, 1.5)):
                        found = processes_of(workers)
                        if found:
                            os.kill(chance.choice(found), signal.SIGKILL)
                            hits.append(time.monotonic())

                thread = Thread(target=kill_workers)
                thread.start()
                try:
                    results = summer_prep.build(
                        data_dir=folder / "nwb", cache_dir=folder / "cache", bin_length=[80, 1000], scheduler=scheduler,
                        force=True,
                    )  # fmt: skip
                finally:
                    is_over.set()
                    thread.join()
                assert [result.state for result in results] == ["built"] * 16, results
                cache = FolderCache(folder / "cache")
                problems = [line for id_, ms in cache.keys().items() for one in ms for line in cache.verify(id_, one)]
                assert not problems, problems
                assert not list((folder / "cache").rglob("*.staging"))
                killed, n_builds = killed + len(hits), n_builds + 1
    print(f"{killed} workers killed in {n_builds} builds of 8 patients: all built, every byte right, no debris")


if __name__ == "__main__":
    main()
