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
from published import PUBLISHED, published_epochs
from ways import AUTOGRAD, BARE, OURS, WAYS, EpochClock, by_turns, ratio

from summer_train import open_selection
from summer_train.data.module import FilmBlocks, FilmData
from summer_train.models.decoder import new_decoder
from summer_train.models.networks import flops_per_step
from summer_train.runs.processes import quieten_lightning, use_threads
from summer_train.runs.trainer import BlockSteps, new_trainer
from summer_train.settings.options import Choice, Run

BASE = "import os, torch, lightning; os._exit(0)"
UNTIL_FIRST_STEP = """
import os, sys
import summer_train.models.decoder
summer_train.models.decoder.Decoder.training_step = lambda *_: os._exit(0)
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


def time_extras(task: str, cache_dir: Path, n_repeats: int) -> None:
    """Print what validation, logs and checkpoints add to an epoch, both by turns."""
    data = FilmData(open_selection(cache_dir, ["1", "2"], 80), Choice(task=task))  # type: ignore[arg-type]
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(n_repeats):
            for has_extras, epochs in times.items():
                clock = EpochClock()
                model = new_decoder(data)
                model.expect_blocks()
                trainer = new_trainer(Run(max_epochs=6, devices=1), model, Path(logs), lambda _line: None)
                if not has_extras:
                    trainer = lightning.Trainer(
                        accelerator="cpu",
                        devices=1,
                        max_epochs=6,
                        logger=False,
                        callbacks=[BlockSteps(lambda _line: None)],
                        enable_checkpointing=False,
                        limit_val_batches=0,
                        enable_progress_bar=False,
                        enable_model_summary=False,
                        num_sanity_val_steps=0,
                    )
                trainer.callbacks[:0] = [clock]
                trainer.fit(model, datamodule=FilmBlocks(data))
                epochs.extend(clock.seconds[1:])
    with_extras, without = (statistics.median(epochs) * 1e3 for epochs in times.values())
    share = (with_extras - without) / with_extras
    print(f"{task}: epoch {with_extras:.1f} ms, without validation and checkpoints {without:.1f} ms: {share:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    quieten_lightning()
    with tempfile.TemporaryDirectory() as folder:
        two, all_patients = Path(folder) / "two", Path(folder) / "all"
        patient_ids = write_cache(two, [79, 79])
        for task in ("next_bin", "label"):
            for batch_size in (32, 1024):
                choice = Choice(task=task, batch_size=batch_size)  # type: ignore[arg-type]
                data = FilmData(open_selection(two, patient_ids, 80), choice)
                use_threads(None, flops_per_step(data))
                epochs_s = by_turns({**WAYS, PUBLISHED: published_epochs}, data, options.repeats)
                n_steps = -(-data.n_samples["train"] // batch_size)
                print(f"{task}, batch {batch_size}, {n_steps} steps, {data.n_units} units")
                for way, times in epochs_s.items():
                    low, high = min(times) * 1e3, max(times) * 1e3
                    print(f"  {way:48} {statistics.median(times) * 1e3:8.1f} ms ({low:.1f} to {high:.1f})")
                pairs = ((PUBLISHED, OURS), (PUBLISHED, AUTOGRAD), (AUTOGRAD, BARE), (PUBLISHED, BARE))
                for way, to in pairs:
                    print(f"  {way} / {to}: {ratio(epochs_s, way, to):.2f}")
        torch.set_num_threads(1)  # as `fit` does for nets of this size
        for task in ("next_bin", "label"):
            time_extras(task, two, options.repeats)
        time_start(two, patient_ids, options.repeats)
        time_start(all_patients, write_cache(all_patients, UNITS_OF_29), options.repeats)


if __name__ == "__main__":
    main()
