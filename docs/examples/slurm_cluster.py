"""Build the cache and train a study on the nodes of a Slurm cluster, with dask-jobqueue.

    pip install distributed dask-jobqueue
    python docs/examples/slurm_cluster.py --recordings /shared/recordings --cache /shared/data_cache --jobs 16

Run it where `sbatch` is, in a folder that all nodes share. `--show-job` prints what would be submitted.
"""

import argparse
from typing import Any

from dask_jobqueue import SLURMCluster

import summer_prep
import summer_train

JOB: dict[str, Any] = {
    "cores": 1,  # a patient, or a stack of networks, is the work of one core
    "processes": 1,
    "memory": "4GB",
    "walltime": "01:00:00",
    "job_script_prologue": ["source .venv/bin/activate"],
    "scheduler_options": {"dashboard_address": None},
}
"""What one job asks for; add `queue=...` and `account=...` as your cluster wants them."""


def main() -> None:
    """Submit workers, build, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", default="recordings")
    parser.add_argument("--cache", default="data_cache")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--show-job", action="store_true")
    options = parser.parse_args()
    with SLURMCluster(**JOB) as cluster:
        if options.show_job:
            print(cluster.job_script())
            return
        cluster.scale(jobs=options.jobs)
        cluster.wait_for_workers(1)
        scheduler = cluster.scheduler_address
        for key in summer_prep.build(data_dir=options.recordings, cache_dir=options.cache, scheduler=scheduler):
            print(key.patient_id, key.bin_length_ms, key.state, key.message)
        result = summer_train.study(
            cache_dir=options.cache,
            data_dir=options.recordings,
            label_name="all",
            fold=range(1, 6),
            scheduler=scheduler,
        )
        print(f"{len(result.rows)} models in {result.folder}")


if __name__ == "__main__":
    main()
