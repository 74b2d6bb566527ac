"""On a GPU: eager steps against graphs, epochs against the published way, samples per second at batch 4096.

    python benchmarks/gpu.py

Synthetic counts of two film-length patients (158 units), drawn on the spot; needs no cache and no recordings.
"""

import statistics
import time

import numpy as np
import torch

from summer_train.batches import ResidentSamples, ShuffledBlocks
from summer_train.models import LinearLabel, LinearNextBin
from summer_train.steps import AutogradSteps, GraphedSteps, Steps

N_BINS, N_UNITS, N_TRAIN = 59_080, 158, 30_492


def time_epochs(steps: Steps, loader: ShuffledBlocks, n_epochs: int = 10) -> float:
    """Return the median epoch in seconds, after three that warm up and capture."""
    times = []
    for _ in range(n_epochs + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for block in loader:
            steps(block)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is visible to torch")
    print(torch.cuda.get_device_name(), torch.__version__)
    generator = np.random.default_rng(0)
    counts = torch.from_numpy(generator.poisson(0.15, (N_BINS, N_UNITS)).astype(np.uint8)).cuda()
    labels = torch.from_numpy(generator.integers(0, 2, N_BINS).astype(np.uint8)).cuda()
    indices = generator.permutation(N_BINS - 1)[:N_TRAIN]
    print("task      batch  way                     epoch (ms)  us/step  samples/s")
    for task in ("next_bin", "label"):
        for batch_size in (32, 4096):
            for way in ("autograd", "written out", "autograd, graph", "written out, graph"):
                torch.manual_seed(0)
                model = (LinearNextBin(N_UNITS) if task == "next_bin" else LinearLabel(N_UNITS)).cuda()
                optimizer = model.configure_optimizers()
                assert isinstance(optimizer, torch.optim.Adam)
                steps: Steps = AutogradSteps(model.net, model.loss, optimizer)
                if way.startswith("written out"):
                    shortcut = model.written_out_steps(optimizer)
                    assert shortcut is not None
                    steps = shortcut
                if way.endswith("graph"):
                    steps = GraphedSteps(steps, print)
                samples = ResidentSamples(counts=counts, labels=None if task == "next_bin" else labels)
                loader = ShuffledBlocks(samples=samples, indices=indices, batch_size=batch_size, seed=0)
                epoch_s = time_epochs(steps, loader)
                n_steps = -(-N_TRAIN // batch_size)
                print(
                    f"{task:9} {batch_size:5}  {way:22} {epoch_s * 1e3:11.2f} {epoch_s / n_steps * 1e6:8.1f} "
                    f"{N_TRAIN / epoch_s:10.0f}"
                )


if __name__ == "__main__":
    main()
