"""An epoch against the published way and a bare loop, the start of a run, and what validation and checkpoints cost.

    python benchmarks/epoch.py [--repeats 5]

Two film-length patients of 79 units at 80 ms, hidden size 64; all ways take turns in one process.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning
import torch
from caches import UNITS_OF_29, write_cache
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from summer_train.fit import make_model

from summer_train.bench import AUTOGRAD, BARE, OURS, PUBLISHED, EpochClock, bench
from summer_train.cache import open_selection
from summer_train.config import FitConfig
from summer_train.data import FilmData

BASE = "import os, torch, lightning; os._exit(0)"
UNTIL_FIRST_STEP = """
import os, sys
import summer_train.tasks
summer_train.tasks.Decoder.training_step = lambda *_: os._exit(0)
from summer_train.cli import app
app(sys.argv[1:])
"""


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True)
    return time.perf_counter() - started


def time_start(cache_dir: Path, patient_ids: list[str], n_repeats: int) -> None:
    fit = ["fit", "--cache-dir", str(cache_dir), "--patient-ids", ",".join(patient_ids)]
    with tempfile.TemporaryDirectory() as logs:
        pairs = [(seconds(BASE), seconds(UNTIL_FIRST_STEP, *fit, "--output-dir", logs)) for _ in range(n_repeats + 1)][
            1:
        ]
    base, whole = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{len(patient_ids)} patients: first step {whole:.2f} s after typing, "
        f"{whole - base:.2f} s more than `import torch, lightning` ({base:.2f} s)"
    )


def time_extras(config: FitConfig, n_repeats: int) -> None:
    """Print what validation and checkpoints add to an epoch, all combinations by turns."""
    data = FilmData(open_selection(config.cache_dir, ["1", "2"], config.bin_length_ms), config)
    data.place(torch.device("cpu"))
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(n_repeats):
            for has_extras, epochs in times.items():
                clock = EpochClock()
                saver = [ModelCheckpoint(monitor="val_loss", save_last=True)] if has_extras else []
                trainer = lightning.Trainer(
                    accelerator="cpu",
                    devices=1,
                    max_epochs=6,
                    logger=CSVLogger(logs),
                    callbacks=[clock, *saver],
                    enable_checkpointing=has_extras,
                    limit_val_batches=1.0 if has_extras else 0,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                    log_every_n_steps=1,
                )
                trainer.fit(make_model(config, data), datamodule=data)
                epochs.extend(clock.seconds[1:])
    with_extras, without = (statistics.median(epochs) * 1e3 for epochs in times.values())
    share = (with_extras - without) / with_extras
    print(
        f"{config.task}: epoch {with_extras:.1f} ms, without validation and checkpoints {without:.1f} ms: {share:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        two, all_patients = Path(folder) / "two", Path(folder) / "all"
        patient_ids = write_cache(two, [79, 79])
        for task in ("next_bin", "label"):
            for batch_size in (32, 1024):
                config = FitConfig(task=task, cache_dir=two, data_dir=Path(folder) / "none", batch_size=batch_size)
                result = bench(config, options.repeats)
                print(f"{task}, batch {batch_size}, {result.n_steps} steps, {result.n_units} units")
                for way, times in result.epochs_s.items():
                    low, high = min(times) * 1e3, max(times) * 1e3
                    print(f"  {way:48} {statistics.median(times) * 1e3:8.1f} ms ({low:.1f} to {high:.1f})")
                print(
                    f"  published / ours {result.ratio(PUBLISHED, OURS):.1f}, published / autograd "
                    f"{result.ratio(PUBLISHED, AUTOGRAD):.1f}, autograd / bare {result.ratio(AUTOGRAD, BARE):.2f}, "
                    f"published / bare {result.ratio(PUBLISHED, BARE):.1f}"
                )
        for task in ("next_bin", "label"):
            time_extras(FitConfig(task=task, cache_dir=two, data_dir=Path(folder) / "none"), options.repeats)
        time_start(two, patient_ids, options.repeats)
        time_start(all_patients, write_cache(all_patients, UNITS_OF_29), options.repeats)


if __name__ == "__main__":
    main()
