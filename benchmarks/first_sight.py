"""How long people wait at first sight: --help of every command, and pages until their pictures are drawn.

python -m benchmarks.first_sight
python -m benchmarks.first_sight patient-14.html study.html     # pages, too; needs playwright and chromium
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from summer_prep import cli as prep
from summer_prep.console import list_options
from summer_train import cli as train
from tests.browsers import opened, started_browser

PROGRAMS = {"summer_prep": prep.app, "summer_train": train.app}


def seconds_of(repeats: int, *arguments: str) -> list[float]:
    """Time Python with some arguments."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - started)
    return found


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:28} {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


def main() -> None:
    import typer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    show("python alone", seconds_of(options.repeats, "-c", "pass"))
    for module, app in PROGRAMS.items():
        for command in list_options(typer.main.get_command(app)):
            show(f"{module} {command} --help", seconds_of(options.repeats, "-m", module, command, "--help"))
    if options.pages:
        with started_browser() as browser:
            for page in options.pages:
                seconds = []
                for _ in range(options.repeats):
                    started = time.perf_counter()
                    with opened(browser, page.resolve()):
                        seconds.append(time.perf_counter() - started)
                show(f"{page.name} ({page.stat().st_size / 1e6:.1f} MB)", seconds)


if __name__ == "__main__":
    main()
