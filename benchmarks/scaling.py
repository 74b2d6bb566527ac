"""How opening and epochs grow with patients, bins and batch size.

    python benchmarks/scaling.py [--folder DIR]

1, 2, 8 and 29 patients (2,286 units) and ten times 29 by simulation, at 80 ms; 1 patient at 5 ms; batch 32 to 4096.
The largest cache takes 1.4 GB of disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from caches import UNITS_OF_29, write_cache

from summer_train import open_selection
from summer_train.data.batches import ShuffledBlocks
from summer_train.data.module import FilmData
from summer_train.models.decoder import new_decoder
from summer_train.settings.options import Choice


def measure(cache_dir: Path, patient_ids: list[str], bin_length_ms: int, batch_size: int, task: Any) -> list[float]:
    """Return seconds to open, to build the tensor and to train an epoch (steps only), and its steps."""
    choice = Choice(task=task, bin_length_ms=bin_length_ms, batch_size=batch_size)
    started = time.perf_counter()
    selection = open_selection(cache_dir, patient_ids, bin_length_ms)
    opened = time.perf_counter()
    data = FilmData(selection, choice)
    blocks = ShuffledBlocks(samples=data.samples, indices=data.split.train, batch_size=batch_size, seed=0)
    placed = time.perf_counter()
    model = new_decoder(data)
    model.expect_blocks()
    steps = model.steps_with(model.configure_optimizers())
    epochs = []
    for _ in range(3):
        before = time.perf_counter()
        for block in blocks:
            steps(block)
        epochs.append(time.perf_counter() - before)
    return [opened - started, placed - opened, statistics.median(epochs), -(-len(data.split.train) // batch_size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the caches go; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        many, fine = Path(folder) / "many", Path(folder) / "fine"
        patients = write_cache(many, UNITS_OF_29 * 10)
        write_cache(fine, [79], bin_length_ms=5)
        print("task      patients  units  bin (ms)  batch  counts (MB)  open (ms)  tensor (ms)  epoch (s)  us/step")
        rows = [("label", many, n, 80, 32) for n in (1, 2, 8, 29, 290)]
        rows += [("next_bin", many, n, 80, 32) for n in (1, 2, 8)]
        rows += [("label", many, 2, 80, batch_size) for batch_size in (128, 512, 1024, 4096)]
        rows += [("next_bin", many, 2, 80, batch_size) for batch_size in (128, 512, 1024, 4096)]
        rows += [("label", fine, 1, 5, 32), ("label", fine, 1, 5, 4096)]
        for task, cache_dir, n, bin_length_ms, batch_size in rows:
            chosen = patients[:n]
            opened, placed, epoch, n_steps = measure(cache_dir, chosen, bin_length_ms, batch_size, task)
            n_units = sum((UNITS_OF_29 * 10)[:n])
            n_bins = 945_288 if bin_length_ms == 5 else 59_080
            print(
                f"{task:9} {n:8} {n_units:6} {bin_length_ms:9} {batch_size:6} {n_units * n_bins / 1e6:12.0f} "
                f"{opened * 1e3:10.1f} {placed * 1e3:12.1f} {epoch:10.3f} {epoch / n_steps * 1e6:8.0f}"
            )


if __name__ == "__main__":
    main()
