"""Peak memory of a 29-patient run (2,286 units, 135 MB of counts at 80 ms) over that of `import torch, lightning`.

python benchmarks/memory.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from caches import UNITS_OF_29, write_cache

PEAK = """
from pathlib import Path
(line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(line.split()[1]) / 1024)
"""
RUN = """
import sys
from summer_train import fit
cache_dir, logs, task, memory, *patient_ids = sys.argv[1:]
fit(task=task, cache_dir=cache_dir, output_dir=logs, patient_ids=patient_ids, max_epochs=1, batch_size=512,
    device_memory=float(memory) or None)
"""


def peak_megabytes(code: str, *arguments: object) -> float:
    command = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(folder) / "cache"
        patient_ids = write_cache(cache_dir, UNITS_OF_29)
        counts = sum(UNITS_OF_29) * 59_080 / 2**20
        base = peak_megabytes("import torch, lightning")
        print(f"counts {counts:.0f} MB; import torch, lightning {base:.0f} MB")
        for task in ("next_bin", "label"):
            for memory, name in ((0, "resident"), (0.01, "streamed")):
                peak = peak_megabytes(RUN, cache_dir, Path(folder) / "logs", task, memory, *patient_ids)
                over = peak - base
                print(
                    f"{task:9} {name:9} peak {peak:.0f} MB, imports + {over:.0f}, imports + counts {over - counts:+.0f}"
                )


if __name__ == "__main__":
    main()
