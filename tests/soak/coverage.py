"""Do intervals and p-values of `summer_train.scores.claims` hold? Simulated films whose truth is known.

    python tests/soak/coverage.py --films 500

A film has a label and features that drift with a correlation time, and two decoders whose errors drift, too. Its test
bins are those of the five folds of the blocked split of the real film (80 ms, buffer 32 s: 12 cycles). Printed are the
shares of intervals that cover the truth, of all folds together and of a single one, and of gains without a
difference that are called one at 0.05.
"""

import argparse
from statistics import NormalDist

import numpy as np
from scipy.signal import lfilter

from summer_prep.film.splits import blocked_split, cycle_length
from summer_train.scores import claims
from summer_train.scores.metrics import label_scores

N_BINS, BIN_LENGTH_MS, BUFFER_S = 62_871, 80, 32.0
KINDS = {  # correlation times of label and errors (s), share of bins that are on, what the label adds to log-odds
    "fast": (5, 5, 0.3, 1.0), "rare, sure": (20, 5, 0.1, 2.0), "medium": (20, 20, 0.3, 1.0),
    "weak": (20, 20, 0.3, 0.3), "slow": (60, 20, 0.3, 1.0), "slow and rare": (60, 60, 0.15, 1.0),
}  # fmt: skip
MEAN_COUNTS = np.array([0.05, 1, 10]) * BIN_LENGTH_MS / 1000  # of units


def drifting(generator, seconds, shape):
    """Return stationary noise of unit variance with a correlation time, along the last axis."""
    kept = np.exp(-BIN_LENGTH_MS / 1000 / seconds)
    steps = generator.normal(size=shape)
    steps[..., 1:] *= np.sqrt(1 - kept**2)
    return lfilter([1], [1, -kept], steps, axis=-1)


def film(generator, kind, n_bins):
    """Return a label, the log-odds of two decoders, and a feature with a prediction that reach an R² of 0.2."""
    label_s, error_s, share, signal = KINDS[kind]
    is_on = drifting(generator, label_s, n_bins) > NormalDist().inv_cdf(1 - share)
    errors = 0.5 * drifting(generator, error_s, (3, n_bins)) + 0.7 * generator.normal(size=(3, n_bins))
    feature = drifting(generator, label_s, (2, n_bins))
    predicted = 0.2 * feature + 0.4 * drifting(generator, error_s, (2, n_bins))
    return is_on, signal * is_on + errors[:2] + 0.5 * errors[2], feature.T, predicted.T


def units(generator, seconds, n_bins):
    """Return counts of units, two of each rate, whose rates drift, and a prediction that knows a part of that."""
    drift = drifting(generator, seconds, (3, n_bins)).T
    knows = np.repeat(MEAN_COUNTS, 2) * np.exp(0.3 * np.tile(drift[:, :2], 3) - 0.045)
    return generator.poisson(knows * np.exp(0.3 * drift[:, 2:] - 0.045)), knows


def main_of_units(n_films, seed, folds, cycle, n_cycles):
    """Print how often intervals of a unit's gain over its mean count, and of the median R², cover the truth."""
    means = np.repeat(MEAN_COUNTS, 2)
    for seconds in (5, 20, 60):
        generator = np.random.default_rng(seed)
        counts, knows = units(generator, seconds, 5_000_000)
        error, of_mean = (((one - counts) ** 2).mean(axis=0) for one in (knows, means))
        truth = np.repeat((1 - error / of_mean).reshape(-1, 2).mean(axis=1), 2)
        median = np.median(1 - error / counts.var(axis=0))
        print(f"units, {seconds} s: gain {truth[::2].round(4)}, median R² {median:.4f}")
        found = {"folds together": [], "one fold": []}
        for _ in range(n_films):
            counts, knows = units(generator, seconds, N_BINS)
            sums = [claims.count_sums(knows[bins], counts[bins], bins // cycle, n_cycles) for bins in folds]
            sums = [claims.beside_mean_count(one, means) for one in sums]
            for what, models in {"folds together": sums, "one fold": sums[:1]}.items():
                low, high = np.array(list(claims.unit_gains(models).values()))
                of_r2 = claims.intervals(models)["r2"]
                ends = (
                    np.append(low, of_r2["low"]) - [*truth, median],
                    np.append(high, of_r2["high"]) - [*truth, median],
                )
                found[what].append(np.where(np.isnan(ends[0]), np.nan, [ends[0] > 0, ends[1] < 0]))
        for what, flags in found.items():
            of_all = np.nanmean(flags, axis=0)
            above, below = np.column_stack([of_all[:, :6].reshape(2, -1, 2).mean(axis=2), of_all[:, 6]])
            print(f"    {what}: covered {1 - above - below}, above the truth {above}: each rate, median R²", flush=True)


def main(n_films, seed):
    folds = [blocked_split(N_BINS, BIN_LENGTH_MS, BUFFER_S, fold).test for fold in range(1, 6)]
    cycle = cycle_length(N_BINS, BIN_LENGTH_MS, BUFFER_S)
    n_cycles = N_BINS // cycle
    main_of_units(n_films, seed, folds, cycle, n_cycles)
    for kind, (*_, signal) in KINDS.items():
        generator = np.random.default_rng(seed)
        is_on, log_odds, feature, predicted = film(generator, kind, 10_000_000)
        truth = {
            name: label_scores(log_odds[:1], is_on[None], np.array([signal / 2]))[name][0]
            for name in ("kappa", "auroc")
        }
        truth["r2"] = float(np.mean(1 - ((predicted - feature) ** 2).mean(axis=0) / feature.var(axis=0)))
        covered, found = {}, {}
        for _ in range(n_films):
            is_on, log_odds, feature, predicted = film(generator, kind, N_BINS)
            first, second = (
                [claims.label_sums(odds[bins], is_on[bins], signal / 2, bins // cycle, n_cycles) for bins in folds]
                for odds in log_odds
            )
            of_features = [
                claims.feature_sums(predicted[bins], feature[bins], bins // cycle, n_cycles) for bins in folds
            ]
            for what, models in {"folds together": slice(None), "one fold": slice(1)}.items():
                found_here = claims.intervals(first[models]) | claims.intervals(of_features[models])
                for name, one in found_here.items():
                    if np.isfinite(one["low"]):
                        covered.setdefault((what, name), []).append(one["low"] <= truth[name] <= one["high"])
                for name, one in claims.gains(list(zip(first[models], second[models], strict=True))).items():
                    if np.isfinite(one["p"]):
                        found.setdefault((what, name), []).append(one["p"] <= 0.05)
        print(f"{kind}: " + ", ".join(f"{name} {value:.3f}" for name, value in truth.items()))
        for key, flags in covered.items():
            called = f"; gains of 0 called {np.mean(found[key]):.1%}" if key in found else ""
            print(
                f"    {', '.join(key)}: {np.mean(flags):.1%} of {len(flags)} intervals cover the truth{called}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.films, options.seed)
