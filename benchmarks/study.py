"""The decoding study against the published way and against separate runs of our own `fit`, in one run.

    python benchmarks/study.py [--repeats 3] [--skip-whole]

Two film-length demo patients of 79 units at 80 ms, 53 labels, 5 folds, two-layer nets of 64 hidden units, batch 32.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from published import published_epochs
from ways import our_epochs

import summer_prep
import summer_train
from summer_train.models.stack import train_stack
from summer_train.scores.metrics import (
    best_thresholds,
    label_scores,
)

N_MODELS = 53 * 5
PUBLISHED_SETUP_S, PUBLISHED_EPOCHS = 6.0, 20
"""What a run of the published way spends before its first epoch (measured once, reading its files), and its epochs."""


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


class Timed:
    """Times studies, each in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.n = root, 0

    def study(self, **options: object) -> float:
        self.n += 1
        common = {"cache_dir": self.root / "cache", "data_dir": "none", "output_dir": self.root / f"study{self.n}"}
        return seconds_of(lambda: summer_train.study(**{**common, **options}))

    def epoch(self, **options: object) -> float:
        """Return the seconds of one epoch of all models: what more epochs take more."""
        few, many = (self.study(max_epochs=n, **options) for n in (1, 5))
        return (many - few) / 4


def film_data(root: Path, **options: object) -> summer_train.data.module.FilmData:
    common = {"task": "label", "label_name": "summer", "cache_dir": root / "cache", "data_dir": "none"}
    return summer_train.film_data(**{**common, **options})


def time_epochs(timed: Timed, n_repeats: int) -> tuple[float, float]:
    """Print an epoch of all 265 models in each way; return the medians of ours and of the published way per model."""
    data = film_data(timed.root)
    ours, fits, published = [], [], []
    for _ in range(n_repeats):
        ours.append(timed.epoch(label_name="all", fold="1-5"))
        torch.set_num_threads(1)  # as `fit` does for nets of this size
        fits.append(statistics.median(our_epochs(data, 3)[1:]))
        published.append(statistics.median(published_epochs(data, 2)[1:]))
    per_model = statistics.median(ours) / N_MODELS
    print(f"epoch of all {N_MODELS} models: {spread(ours)} s, {per_model * 1e3:.1f} ms per model")
    print(f"epoch of one model: fit {spread(fits)} s, published way {spread(published)} s")
    print(
        f"per model-epoch: published / study {statistics.median(published) / per_model:.0f}, "
        f"fit / study {statistics.median(fits) / per_model:.1f}"
    )
    return per_model, statistics.median(published)


def time_whole(root: Path, published_epoch_s: float) -> None:
    """Print the time of the whole study and its report, from typing the commands on."""
    places = ["--cache-dir", str(root / "cache"), "--data-dir", "none", "--output-dir", str(root / "whole")]
    study = ["study", "--label-name", "all", "--fold", "1-5", "--patience", "3", *places]
    times = [
        seconds_of(
            lambda c=command: subprocess.run(
                [sys.executable, "-m", "summer_train", *c], check=True, capture_output=True
            )
        )
        for command in (study, ["report", str(root / "whole")])
    ]
    published_s = N_MODELS * (PUBLISHED_SETUP_S + PUBLISHED_EPOCHS * published_epoch_s)
    print(
        f"whole study with --patience 3: {times[0]:.0f} s, report {times[1]:.0f} s; {N_MODELS} runs of the published "
        f"way ({PUBLISHED_SETUP_S:.0f} s and {PUBLISHED_EPOCHS} epochs of {published_epoch_s:.2f} s each): "
        f"{published_s:.0f} s, {published_s / sum(times):.0f} times as long"
    )


def time_shifts(timed: Timed, per_model_s: float, n_repeats: int) -> None:
    """Print an epoch of one label's 100 shifts in 5 folds, per model, beside the plain study's."""
    epochs = [timed.epoch(label_name="summer", fold="1-5", shifts=100) for _ in range(n_repeats)]
    per_shift_s = statistics.median(epochs) / (101 * 5)
    print(
        f"100 shifts x 5 folds: {per_shift_s * 1e3:.1f} ms per model-epoch, "
        f"{per_shift_s / per_model_s:.2f} of the plain study"
    )


def time_draws(timed: Timed, n_repeats: int) -> None:
    """Print whole studies of two epochs per model, of all units and of 10 draws of half of them, by turns."""
    plain, draws = [], []
    for _ in range(n_repeats):
        common = {"label_name": "all", "fold": "1-5", "max_epochs": 2}
        plain.append(timed.study(**common) / N_MODELS)
        draws.append(timed.study(**common, n_units=79, draw="0-9") / (10 * N_MODELS))
    print(
        f"10 draws of 79 of 158 units x 5 folds x 53 labels: {statistics.median(draws) * 1e3:.0f} ms per model, "
        f"{statistics.median(draws) / statistics.median(plain):.2f} of the plain study"
    )


def time_recurrent(root: Path, n_repeats: int) -> None:
    """Print an epoch of the published decoder's settings in `fit`, beside a map-style data set that cuts windows."""
    data = film_data(root, preset="paper")
    ours, mapped, bare = [], [], []
    for _ in range(n_repeats):
        torch.set_num_threads(2)
        ours.append(our_epochs(data, 2)[1])
        mapped.append(published_epochs(data, 2)[1])
        bare.append(seconds_of(lambda: train_stack([data], 1)))
    ratio = statistics.median(mapped) / statistics.median(ours)
    print(f"LSTM, windows of 20 bins: fit {spread(ours)} s, map-style {spread(mapped)} s per epoch: {ratio:.1f} times")
    print(f"the same as a study trains it, with validation and scores: {spread(bare)} s")


def time_scores() -> None:
    generator = np.random.default_rng(0)
    scores, is_on = generator.normal(size=(N_MODELS, 6864)), generator.random((N_MODELS, 6864)) < 0.1
    seconds = seconds_of(lambda: label_scores(scores, is_on, best_thresholds(scores, is_on)))
    print(f"all scores of {N_MODELS} models x 6,864 samples, thresholds chosen: {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-whole", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        summer_prep.demo_data(root / "nwb", film_length=True, units=79)
        summer_prep.build(data_dir=root / "nwb", cache_dir=root / "cache", bin_length=80)
        timed = Timed(root)
        time_scores()
        per_model_s, published_epoch_s = time_epochs(timed, options.repeats)
        time_shifts(timed, per_model_s, options.repeats)
        time_draws(timed, options.repeats)
        time_recurrent(root, options.repeats)
        if not options.skip_whole:
            time_whole(root, published_epoch_s)


if __name__ == "__main__":
    main()
