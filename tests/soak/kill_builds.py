"""Kill real builds with SIGKILL, at random moments and at every write point, and look at what is left.

    python tests/soak/kill_builds.py --kills 200 --seed 0 [--write-points [--every 1]]

Every build is a forked process that bins a small recording into a cache. First builds and rebuilds (the recording
has changed, so old and new key differ) take turns. After each kill another process checks that all that is visible
verifies and is wholly the old or the new key, that the next build completes, and that it clears the debris. The write
points are the operating-system calls that change files, seen through Python's audit hook, and the moments before and
after the exchange of two folders, which that hook does not see: the product has no hook.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pynwb  # noqa: F401  (loaded once, so that the forked builds start at once)

from summer_prep.cache import publish
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import cached_keys, describe, key_path
from summer_prep.cache.write import verify_key
from summer_prep.recordings.demo import demo_data

BIN_LENGTHS_MS = (200, 1000)
FEWEST_WRITE_POINTS = 100
"""A build of two keys writes 80 files and renames twice; fewer points would mean that the hook sees nothing."""

WRITE_EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}


def in_process(work: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run something in a forked process, perhaps killed; return its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def build_all(data_dir: Path, cache_dir: Path) -> None:
    config = BuildConfig(data_dir=data_dir, cache_dir=cache_dir, bin_lengths_ms=BIN_LENGTHS_MS, n_workers=0)
    results = build_keys(config)
    assert all(result.state in ("built", "fresh") for result in results), results


def check_and_finish(data_dir: Path, cache_dir: Path, must_exist: bool) -> None:
    """Check that every visible key is whole, and there if it was there before, and that the next build completes."""
    lengths = cached_keys(cache_dir).get("14", [])
    assert lengths == list(BIN_LENGTHS_MS) or not must_exist, lengths
    problems = [line for length in lengths for line in verify_key(key_path(cache_dir, "14", length))]
    build_all(data_dir, cache_dir)
    keys = [key_path(cache_dir, "14", length) for length in BIN_LENGTHS_MS]
    problems += [line for key in keys for line in verify_key(key)]
    leftovers = list(cache_dir.rglob("*.staging"))
    assert not problems + leftovers, problems + leftovers
    assert len({describe(key).attributes["source"]["sha256"] for key in keys}) == 1


def kill_self_at(write_point: int, cache_dir: Path) -> None:
    """Die at the n-th call that changes a file of the cache."""
    points = itertools.count(1)

    def pass_point() -> None:
        if next(points) == write_point:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        is_write = event in WRITE_EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3)
        if is_write and any(os.fspath(cache_dir) in path for path in paths_of(arguments)):
            pass_point()

    swap = publish._swap

    def swap_and_pass(staged: Path, key: Path) -> bool:
        pass_point()
        is_done = swap(staged, key)
        pass_point()
        return is_done

    publish._swap = swap_and_pass
    sys.addaudithook(hook)


def paths_of(arguments: tuple[object, ...]) -> list[str]:
    """Return the paths that a call names, those relative to an open folder included."""
    folders = [f"/proc/self/fd/{argument}" for argument in arguments if type(argument) is int and argument > 2]
    parents = [os.readlink(folder) for folder in folders if os.path.islink(folder)]
    return [str(argument) for argument in arguments] + parents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-points", action="store_true", help="also kill once at every write point")
    parser.add_argument("--every", type=int, default=1, help="take only every so many of the write points")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        data_dirs, old, cache_dir = (Path(name, "data-1"), Path(name, "data-2")), Path(name, "old"), Path(name, "cache")
        for seed, data_dir in enumerate(data_dirs):
            make = partial(demo_data, data_dir, patient_ids=("14",), units=4, minutes=1, seed=seed)
            assert in_process(make) == 0
        started = time.perf_counter()
        assert in_process(partial(build_all, data_dirs[0], old)) == 0
        longest = 1.3 * (time.perf_counter() - started)

        def attempt(is_rebuild: bool, write_point: int = 0, kill_after_s: float | None = None) -> bool:
            """Start a build, kill it, check what is left; return whether it was killed before it ended."""

            def build() -> None:
                if write_point:
                    kill_self_at(write_point, cache_dir)
                build_all(data_dirs[1], cache_dir)

            shutil.rmtree(cache_dir, ignore_errors=True)
            if is_rebuild:
                shutil.copytree(old, cache_dir)
            status = in_process(build, kill_after_s)
            assert status in (0, signal.SIGKILL), status
            finished = in_process(partial(check_and_finish, data_dirs[1], cache_dir, is_rebuild))
            assert finished == 0, f"after a kill ({'rebuild' if is_rebuild else 'first build'})"
            return status == signal.SIGKILL

        n_killed = n_tried = 0
        while n_killed < options.kills:
            n_killed += attempt(n_tried % 2 == 1, kill_after_s=generator.uniform(0, longest))
            n_tried += 1
        print(f"{n_killed} builds killed at random moments ({n_tried - n_killed} more had ended), nothing lost")
        for is_rebuild in (False, True) if options.write_points else ():
            points = itertools.count(1, options.every)
            killed = list(itertools.takewhile(partial(attempt, is_rebuild), points))
            assert killed[-1:] > [FEWEST_WRITE_POINTS], f"too few write points were seen: {killed}"
            kind = "rebuild" if is_rebuild else "first build"
            print(f"{len(killed)} kills at write points 1 to {killed[-1]} of a {kind}, nothing lost")


if __name__ == "__main__":
    main()
