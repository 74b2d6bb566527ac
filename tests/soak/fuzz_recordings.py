"""Read recordings with bytes changed at random; every one must end in a result or a SummerError.

    python tests/soak/fuzz_recordings.py --mutations 2000 --seed 0

Each mutation is read, binned and thrown away in a forked process, which may take 1 GB of memory and 10 s of
time; a traceback, a crash, a hang or a file outside the cache folder ends the run with an error.
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.recordings.demo import demo_data

LIMIT_S = 10
LIMIT_BYTES = 2**30


def outcome_of(path: Path, cache_dir: Path) -> str:
    """Build from a file in a process of its own; return how it ended."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        # Threads reserve much more address space than they use; what is used is looked at when the process has ended.
        resource.setrlimit(resource.RLIMIT_AS, (12 * LIMIT_BYTES, 12 * LIMIT_BYTES))
        try:
            config = BuildConfig(data_dir=path.parent, cache_dir=cache_dir, bin_lengths_ms=(1000,), n_workers=0)
            (result,) = build_keys(config)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0 if result.state == "built" else 1)
    _, status, usage = os.wait4(pid, 0)
    if usage.ru_maxrss * 1024 > LIMIT_BYTES:
        return f"memory ({usage.ru_maxrss / 1024:.0f} MB)"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGALRM:
        # HDF5 itself crashed. As the commands build, in a process of its own, that must end in one line.
        config = BuildConfig(data_dir=path.parent, cache_dir=cache_dir, bin_lengths_ms=(1000,), n_workers=1)
        (result,) = build_keys(config)
        return "refused after a crash of HDF5" if "crashed" in result.message else "crash"
    names = {0: "built", 1 << 8: "refused", 3 << 8: "traceback", signal.SIGALRM: "hang"}
    return names.get(status, f"crash (status {status})")


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Change, cut or repeat some bytes; half of the changes fall where the structure is."""
    changed = bytearray(content)
    if generator.random() < 0.1:
        return bytes(changed[: generator.randrange(len(changed))])
    target_offset = len(changed) if generator.random() < 0.5 else min(len(changed), 4096)
    for _ in range(generator.choice([1, 1, 2, 8, 64])):
        at = generator.randrange(target_offset)
        changed[at] = generator.choice([0, 255, changed[at] ^ (1 << generator.randrange(8)), generator.randrange(256)])
    return bytes(changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (original,) = demo_data(folder / "demo", patient_ids=("14",), units=3, minutes=1, layout="misc")
        content = original.read_bytes()
        path = folder / "data" / "sub14.nwb"
        path.parent.mkdir()
        before = {entry.name for entry in folder.iterdir()} | {"cache"}
        ends: Counter[str] = Counter()
        for number in range(options.mutations):
            path.write_bytes(mutate(content, generator))
            end = outcome_of(path, folder / "cache" / str(number))
            ends[end] += 1
            strangers = {entry.name for entry in folder.iterdir()} - before
            if not end.startswith(("built", "refused")) or strangers:
                kept = Path(f"fuzz-{options.seed}-{number}.nwb")
                kept.write_bytes(path.read_bytes())
                sys.exit(f"mutation {number}: {end} {strangers or ''}, kept as {kept}")
        print(f"{options.mutations} mutations: {dict(ends)}")


if __name__ == "__main__":
    main()
