"""Features of the film: ridge beside scikit-learn's, an epoch of a network beside a bare loop, and the memory.

    python benchmarks/features.py [--repeats 3] [--dimensions 512]

Two film-length patients of 79 units at 80 ms, features that change once a second and to which units are tuned, five
folds, ten penalties, one thread. Both ways of ridge start from the open cache and end with the weights of the penalty
that is best on validation.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from caches import write_cache
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits
from ways import BARE, OURS, bare_epochs, our_epochs

import summer_prep
from summer_prep.film.facts import FILM_FRAMES, FIRST_ANALYSED
from summer_train import open_selection
from summer_train.data.film import FilmSamples
from summer_train.data.module import FilmData
from summer_train.data.selection import Selection
from summer_train.models.ridge import PENALTIES
from summer_train.models.stack import train_stack
from summer_train.runs.processes import quieten_lightning
from summer_train.settings.options import Choice

FOLDS = range(1, 6)
PEAK = """
import sys
from summer_train import open_selection
from summer_train.data.film import FilmSamples
from summer_train.models.stack import train_stack
from summer_train.settings.options import Choice
def peak_mb():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
selection = open_selection(sys.argv[1], ["1", "2"], 80)
before = peak_mb()
train_stack([FilmSamples(selection, Choice(task="feature", target="clip", model="ridge"))], 1)
print(f"{peak_mb() - before:.0f}")
"""


def choice_of(fold: int, model: str) -> Choice:
    return Choice(task="feature", target="clip", model=model, fold=fold)  # type: ignore[arg-type]


def our_ridge(selection: Selection) -> list[float]:
    """Solve five folds as `study` does; return the penalties."""
    found = [train_stack([FilmSamples(selection, choice_of(fold, "ridge"))], 1)[0][0] for fold in FOLDS]
    return [float(one.penalty or 0) for one in found]


def sklearn_ridge(selection: Selection) -> list[float]:
    """Fit scikit-learn's Ridge for each fold and penalty; return the penalties that are best on validation."""
    counts, features = selection.counts().astype(np.float32), selection.features("clip")
    penalties = []
    for fold in FOLDS:
        split = FilmSamples(selection, choice_of(fold, "ridge")).split
        mean, sd = features[split.train].mean(axis=0), features[split.train].std(axis=0)
        target = (features - mean) / sd
        errors = []
        for penalty in PENALTIES:
            model = Ridge(alpha=penalty).fit(counts[split.train], target[split.train])
            errors.append(np.square(model.predict(counts[split.val]) - target[split.val]).mean())
        penalties.append(PENALTIES[int(np.argmin(errors))])
    return penalties


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dimensions", type=int, default=512)
    options = parser.parse_args()
    quieten_lightning()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        cache = Path(folder) / "cache"
        write_cache(cache, [79, 79])
        generator = np.random.default_rng(0)
        selection = open_selection(cache, ["1", "2"], 80)
        tuning = generator.standard_normal((selection.n_units, options.dimensions), dtype=np.float32)
        seconds = generator.standard_normal((selection.n_bins // 12 + 1, options.dimensions), dtype=np.float32)
        of_bins = np.repeat(seconds, 12, axis=0)[: selection.n_bins] + 0.02 * selection.counts() @ tuning
        of_frames = np.zeros((FILM_FRAMES, options.dimensions), dtype=np.float32)
        of_frames[FIRST_ANALYSED : FIRST_ANALYSED + 2 * selection.n_bins] = np.repeat(of_bins, 2, axis=0)
        np.save(Path(folder) / "clip.npy", of_frames)
        started = time.perf_counter()
        summer_prep.add_target(Path(folder) / "clip.npy", name="clip", cache_dir=cache)
        print(f"add-target, {options.dimensions} dimensions: {time.perf_counter() - started:.1f} s")
        times: dict[str, list[float]] = {}
        found = {}
        for _ in range(options.repeats):
            for name, solve in (("ours", our_ridge), ("scikit-learn", sklearn_ridge)):
                started = time.perf_counter()
                found[name] = solve(selection)
                times.setdefault(name, []).append(time.perf_counter() - started)
        assert found["ours"] == found["scikit-learn"], found
        for name, values in times.items():
            print(f"ridge, {name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) s")
        print(
            f"  ours / scikit-learn: {statistics.median(times['ours']) / statistics.median(times['scikit-learn']):.2f}"
        )
        peak = subprocess.run([sys.executable, "-c", PEAK, str(cache)], check=True, capture_output=True, text=True)
        targets_mb = selection.n_bins * options.dimensions * 4 / 2**20
        print(f"  memory beyond imports: {float(peak.stdout):.0f} MiB; all targets are {targets_mb:.0f} MiB")
        data = FilmData(selection, choice_of(1, "mlp"))
        epochs: dict[str, list[float]] = {OURS: [], BARE: []}
        for _ in range(options.repeats):
            epochs[OURS] += our_epochs(data, 3)[1:]
            epochs[BARE] += bare_epochs(data, 3)[1:]
        for name, values in epochs.items():
            print(f"mlp, {name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) s an epoch")
        print(f"  ours / bare: {statistics.median(epochs[OURS]) / statistics.median(epochs[BARE]):.2f}")


if __name__ == "__main__":
    main()
