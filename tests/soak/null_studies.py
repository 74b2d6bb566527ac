"""Do corrected p and q hold where nothing is decoded? Simulated studies of labels that no unit knows.

    python tests/soak/null_studies.py --studies 200

A study has 20 labels that drift with correlation times of 5 to 60 s, decoded from 10 drifting signals that all decoders
share, as labels share neurons: 5,000 bins of 1 s. The null is that of `--shifts`: the same decoders on labels moved
along the film by at least 200 s. Printed are the shares of studies in which any label is found at 0.05.
"""

import argparse

import numpy as np
from coverage import BIN_LENGTH_MS, drifting

from summer_prep.film.responses import false_discovery_rates
from summer_train.data.samples import choose_shifts
from summer_train.scores.claims import corrected_p
from summer_train.scores.metrics import label_scores

N_BINS, N_LABELS = 5000, 20
SHORTER = BIN_LENGTH_MS / 1000  # `drifting` takes bins of 80 ms, these have 1 s


def study(generator, shifts):
    """Return kappa of each label as it is and under each shift, (n_labels, 1 + n_shifts)."""
    signals = drifting(generator, 20 * SHORTER, (10, N_BINS))
    found = []
    for seconds, share in zip(generator.uniform(5, 60, N_LABELS), generator.uniform(0.05, 0.5, N_LABELS), strict=True):
        label = drifting(generator, seconds * SHORTER, N_BINS)
        is_on = label > np.quantile(label, 1 - share)
        score = generator.normal(size=10) @ signals + generator.normal(size=N_BINS)
        moved = np.stack([np.roll(is_on, shift) for shift in (0, *shifts)])
        scores = np.broadcast_to(score - np.quantile(score, 1 - share), moved.shape)
        found.append(label_scores(scores, moved, np.zeros(len(moved)))["kappa"])
    return np.array(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    options = parser.parse_args()
    for n_shifts in (19, 199):
        generator, shifts = np.random.default_rng(0), choose_shifts(N_BINS, 200, n_shifts)
        found, p_low = [], []
        for _ in range(options.studies):
            kappa = study(generator, shifts)
            p = (1 + (kappa[:, 1:] >= kappa[:, :1]).sum(axis=1)) / (1 + n_shifts)
            p_low.append((p <= 0.05).mean())
            found.append(
                [(one <= 0.05).any() for one in (corrected_p(kappa[:, 0], kappa[:, 1:]), false_discovery_rates(p))]
            )
        corrected, q = np.mean(found, axis=0)
        print(
            f"{n_shifts} shifts: p <= 0.05 of {np.mean(p_low):.1%} of labels; of {options.studies} studies "
            f"{corrected:.1%} have a corrected p, {q:.1%} a q of 0.05 or less",
            flush=True,
        )
