"""Peak memory of `inspect` of a film-length key at 5 ms: 137 units, 130 MB of counts, 50 MB of labels per rule.

python benchmarks/inspect_memory.py [units]
"""

import sys
import tempfile
import time
from pathlib import Path

from caches import BINS_OF_FILM, write_cache
from memory import peak_megabytes

INSPECT = """
import sys
from summer_prep.cli import app
app(sys.argv[1:], standalone_mode=False)
"""


def main(n_units: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_cache(Path(folder), [n_units], 5, n_labels=53)
        base = peak_megabytes("import summer_prep.show.facts, summer_prep.show.page, zarr, bokeh.embed, bokeh.plotting")
        counts = n_units * BINS_OF_FILM[5] / 2**20
        print(f"counts {counts:.0f} MB; imports {base:.0f} MB")
        page = Path(folder) / "page.html"
        for options in ([], ["--unit", "3"], ["--html", page]):
            started = time.perf_counter()
            arguments = ["inspect", "1", "--bin-length", 5, "--cache-dir", folder, *options]
            peak = peak_megabytes(INSPECT, *arguments)
            name = f"inspect {options[0] if options else ''}"
            print(f"{name:16} peak {peak:.0f} MB, imports + {peak - base:.0f}, {time.perf_counter() - started:.0f} s")
        print(f"page {page.stat().st_size / 2**20:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 137)
