"""How fast counts that do not fit into memory reach training: a pass over shuffled samples against the bare disk.

    python -m benchmarks.streaming [--folder DIR] [--patients 290]

290 patients have 22,860 units and 1.35 GB of counts at 80 ms. Given more memory than that, the system keeps the files:

    mkdir /sys/fs/cgroup/memory/small; echo 800M > /sys/fs/cgroup/memory/small/memory.limit_in_bytes
    sh -c 'echo $$ > /sys/fs/cgroup/memory/small/cgroup.procs; exec python -m benchmarks.streaming --folder DIR'

What was read is what the kernel says that this process had from the disk. The cache is written in a first call, with
the same folder and all memory.
"""

import argparse
import os
import time
from pathlib import Path

from benchmarks.caches import UNITS_OF_29, write_cache
from summer_prep.resources import available_bytes
from summer_train import open_selection
from summer_train.data.batches import ShuffledBlocks, StreamedSamples
from summer_train.data.module import FilmData
from summer_train.settings.options import Choice


def gigabytes_read() -> float:
    lines = Path("/proc/self/io").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("read_bytes")]
    return int(line.split()[1]) / 1e9


def forget(files: list[Path]) -> None:
    """Let the system drop what it keeps of files."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the cache is, and stays")
    parser.add_argument("--patients", type=int, default=290)
    options = parser.parse_args()
    units = (UNITS_OF_29 * 10)[: options.patients]
    patients = [str(number + 1) for number in range(len(units))]
    if not options.folder.exists():
        write_cache(options.folder, units)
        print("the cache is written: now again, with less memory")
        return
    files = [path for path in options.folder.rglob("*") if path.is_file()]
    choice = Choice(task="label", batch_size=512)
    data = FilmData(open_selection(options.folder, patients, 80), choice, 0.001)
    samples = data.samples
    assert isinstance(samples, StreamedSamples)
    free = available_bytes()
    print(f"{data.selection.n_bytes / 1e9:.2f} GB of counts, {free / 1e9:.2f} GB free, {len(data.split.train)} samples")
    forget(files)
    started, before = time.perf_counter(), gigabytes_read()
    for path in files:
        path.read_bytes()
    seconds, read = time.perf_counter() - started, gigabytes_read() - before
    print(f"files one after the other: {read:.2f} GB in {seconds:.1f} s, {read / seconds:.2f} GB/s")
    ways = {"many blocks at a time": samples.read_ahead_bytes, "a block at a time": 0}
    for way, read_ahead_bytes in ways.items():
        forget(files)
        streamed = StreamedSamples(**{**vars(samples), "read_ahead_bytes": read_ahead_bytes})
        # A block at a time takes too long for a whole epoch.
        indices = data.split.train if read_ahead_bytes else data.split.train[:: len(data.split.train) // 1000]
        started, before = time.perf_counter(), gigabytes_read()
        for _ in ShuffledBlocks(samples=streamed, indices=indices, batch_size=512, seed=0):
            pass
        seconds, read = time.perf_counter() - started, gigabytes_read() - before
        wanted = len(indices) * data.selection.n_units / 1e9
        print(
            f"{way}, {read_ahead_bytes / 1e9:.2f} GB ahead: {wanted:.2f} GB of samples in {seconds:.1f} s, "
            f"{read:.2f} GB read at {read / seconds:.2f} GB/s"
        )


if __name__ == "__main__":
    main()
