"""On a GPU: eager steps against graphs, epochs against the published way, samples per second at batch 4096.

    python benchmarks/gpu.py

Synthetic counts of two film-length patients (158 units), drawn on the spot; needs no cache and no recordings.
"""

import statistics
import time

import numpy as np
import torch

from summer_train.data.batches import ResidentSamples, ShuffledBlocks
from summer_train.data.targets import FilmLabel, NextBin, Task
from summer_train.models.networks import two_layer_net
from summer_train.models.steps import AutogradSteps, GraphedSteps, Steps, written_out_steps

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
    for name in ("next_bin", "label"):
        for batch_size in (32, 4096):
            for way in ("autograd", "written out", "autograd, graph", "written out, graph"):
                torch.manual_seed(0)
                task: Task = FilmLabel() if name == "label" else NextBin(N_UNITS)
                net = two_layer_net(N_UNITS, 64, task.n_outputs).cuda()
                optimizer = torch.optim.Adam(net.parameters(), fused=True, capturable=True)
                steps: Steps = AutogradSteps(net, task.loss, optimizer)
                if way.startswith("written out"):
                    shortcut = written_out_steps(net, task, optimizer)
                    assert shortcut is not None
                    steps = shortcut
                if way.endswith("graph"):
                    steps = GraphedSteps(steps, print)
                targets = labels if name == "label" else counts
                samples = ResidentSamples(counts=counts, targets=targets, target_offset=task.target_offset)
                loader = ShuffledBlocks(samples=samples, indices=indices, batch_size=batch_size, seed=0)
                epoch_s = time_epochs(steps, loader)
                n_steps = -(-N_TRAIN // batch_size)
                print(
                    f"{name:9} {batch_size:5}  {way:22} {epoch_s * 1e3:11.2f} {epoch_s / n_steps * 1e6:8.1f} "
                    f"{N_TRAIN / epoch_s:10.0f}"
                )


if __name__ == "__main__":
    main()
