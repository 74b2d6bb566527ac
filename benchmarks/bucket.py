"""What a cache in a bucket costs over the bare client: the same objects written and read by both, in turn.

    python -m benchmarks.bucket [--repeats 5] [--patients 4] [--url s3://bucket/prefix]

Keys are film-length ones (79 units at 80 ms). Ours also writes a pointer, and checks what it gets and writes it to the
disk; obstore alone puts bytes, and gets them into memory. Without --url, a server is started on
the loopback (make s3-server); with it, credentials come from the environment, as for the cache.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore

from summer_prep import build, demo_data
from summer_prep.cache.bucket import BucketCache
from summer_prep.urls import CLIENT, Url
from tests.s3 import CREDENTIALS, S3

N_AT_ONCE = 16


@contextmanager
def bucket_url(named: str | None, folder: Path) -> Iterator[Url]:
    """Yield the URL of a new place in a bucket."""
    if named:
        yield Url(named) / uuid.uuid4().hex[:8]
        return
    server = S3(folder / "log")
    try:
        server.new_bucket("lab")
        os.environ.update(CREDENTIALS, AWS_ENDPOINT=f"http://127.0.0.1:{server.port}")
        yield Url("s3://lab/summer")
    finally:
        server.close()


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--url")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, bucket_url(options.url, Path(name)) as url:
        folder = Path(name)
        demo_data(folder / "nwb", patients=options.patients, units=79, film_length=True)
        build(data_dir=folder / "nwb", cache_dir=folder / "cache", bin_length=80, workers=2)
        keys = {}
        for key in sorted((folder / "cache").glob("sub-*/bin-80ms.zarr")):
            keys[key.parent.name.removeprefix("sub-")] = {
                path.relative_to(key).as_posix(): path.read_bytes() for path in key.rglob("*") if path.is_file()
            }
        bare = {f"bare/{one}/{path}": content for one, files in keys.items() for path, content in files.items()}
        n_mb = sum(map(len, bare.values())) / 1e6
        cache = BucketCache(url, folder / "local")
        store = obstore.store.from_url(url, **CLIENT)

        def put_bare() -> None:
            with ThreadPoolExecutor(N_AT_ONCE) as pool:
                list(pool.map(lambda path: obstore.put(store, path, bare[path]), bare))

        def get_bare() -> None:
            with ThreadPoolExecutor(N_AT_ONCE) as pool:
                list(pool.map(lambda path: obstore.get(store, path).bytes(), bare))

        def publish() -> None:
            for patient_id, files in keys.items():
                cache.publish(patient_id, 80, files)

        def fetch() -> None:
            for patient_id in keys:
                cache.fetch(patient_id, 80)

        seconds: dict[str, list[float]] = {"put": [], "publish": [], "get": [], "fetch": []}
        for _ in range(options.repeats):
            shutil.rmtree(folder / "local", ignore_errors=True)
            for work, way in ((put_bare, "put"), (publish, "publish"), (get_bare, "get"), (fetch, "fetch")):
                seconds[way].append(seconds_of(work))
        print(f"{len(bare)} objects, {n_mb:.0f} MB, {options.repeats} repeats")
        for ours, theirs in (("publish", "put"), ("fetch", "get")):
            ratios = sorted(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True))
            rates = [f"{way} {n_mb / statistics.median(seconds[way]):.0f} MB/s" for way in (theirs, ours)]
            share = f"{statistics.median(ratios):.0%} of bare obstore ({ratios[0]:.0%} to {ratios[-1]:.0%})"
            print(f"{', '.join(rates)}: {share}")


if __name__ == "__main__":
    main()
