"""Kill workers of a Dask cluster at random moments of builds, and count what is lost.

python tests/soak/kill_cluster.py [--kills 32] [--seed 0]
"""

import argparse
import random
import tempfile
from pathlib import Path

import summer_prep
from summer_prep.cache.keys import FolderCache
from tests.clusters import build_under_kills, dask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, n_killed, n_builds = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summer_prep.demo_data(folder / "nwb", patients=8, minutes=10, units=40)
        places = {"data_dir": folder / "nwb", "cache_dir": folder / "cache", "bin_length": [80, 1000]}
        with dask(folder) as (scheduler, _):
            while n_killed < options.kills:
                results, n_more = build_under_kills(chance, 9, **places, scheduler=scheduler, force=True)
                n_killed, n_builds = n_killed + n_more, n_builds + 1
                assert [result.state for result in results] == ["built"] * 16, results
                cache = FolderCache(folder / "cache")
                problems = [line for id_, ms in cache.keys().items() for one in ms for line in cache.verify(id_, one)]
                assert not problems, problems
                assert not list((folder / "cache").rglob("*.staging"))
    print(f"{n_killed} workers killed in {n_builds} builds of 8 patients: all built, every byte right, no debris")


if __name__ == "__main__":
    main()
