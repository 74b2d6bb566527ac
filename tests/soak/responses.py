"""Test units that ignore the label, and find those of demo recordings that do not.

    python tests/soak/responses.py --seeds 20

p of units that are not tuned must be uniform (Kolmogorov-Smirnov), whatever the course of their rates; of the tuned
units of demo recordings at least 80 % must be found at 50 onsets, with at most 5 % false ones among what is found.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import kstest

import summer_prep
from summer_prep.film.responses import BINS_PER_SECOND, responses_to

N_BINS, N_UNITS, N_ONSETS = 40 * 60 * BINS_PER_SECOND, 60, 50


def rates_of(course: str, generator: np.random.Generator) -> np.ndarray:
    """Return rates in Hz, (n_bins, n_units), that have nothing to do with any label."""
    rates = np.repeat(generator.uniform(2, 20, (1, N_UNITS)), N_BINS, axis=0)
    time_s = np.arange(N_BINS) / BINS_PER_SECOND
    for unit in range(N_UNITS):
        if course.startswith("drift"):
            knots_s = np.arange(0, time_s[-1] + 600, float(course.split()[1]))
            rates[:, unit] *= np.exp(np.interp(time_s, knots_s, generator.normal(0, 1, len(knots_s))))
        if course == "silences":
            for start in generator.integers(0, N_BINS, 6):
                rates[start : start + generator.integers(1500, 12000), unit] = 0
        if course == "lost":  # half of the units fall nearly silent when the label begins to come on, half wake up then
            rates[(time_s < 1200) == unit % 2, unit] *= 0.1
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    n_seeds = parser.parse_args().seeds
    wrong = []
    for course in ("drift 10", "drift 300", "silences", "lost"):
        p = []
        for seed in range(n_seeds):
            generator = np.random.default_rng([seed, *course.encode()])
            counts = generator.poisson(rates_of(course, generator) / BINS_PER_SECOND)
            is_broken = np.zeros(N_BINS, dtype=bool)
            is_broken[generator.integers(0, N_BINS, 8)] = True  # pauses of the film
            onsets = N_BINS // 2 + np.sort(generator.choice(N_BINS // 2 // 150 - 1, N_ONSETS, replace=False)) * 150
            recorded_s = np.full(N_BINS, 0.0205)
            p.append(responses_to(onsets, counts, recorded_s, is_broken, 1000, generator).p)
        uniform = kstest(np.concatenate(p), "uniform").pvalue
        below = {level: float((np.concatenate(p) <= level).mean()) for level in (0.05, 0.01)}
        print(f"{course}: {n_seeds * N_UNITS} units that ignore the label: KS p = {uniform:.3f}; p below {below}")
        wrong += [course] if uniform < 0.001 else []
    with tempfile.TemporaryDirectory() as name:
        found, tuned, true = 0, 0, 0
        for seed in range(max(1, n_seeds // 5)):
            folder, cache = Path(name) / f"recordings-{seed}", Path(name) / f"cache-{seed}"
            summer_prep.demo_data(folder, patients=3, units=60, minutes=48, drift=0.5, seed=seed)
            summer_prep.build(data_dir=folder, cache_dir=cache, bin_length=20, workers=0)
            truth = json.loads((folder / "truth.json").read_text())
            facts = summer_prep.responses("summer", cache_dir=cache)
            for one in facts["units"]:
                of_patient = truth[one["patient_id"]]["tuned_units"]
                is_tuned = any(unit["unit"] == one["unit"] and unit["label_name"] == "summer" for unit in of_patient)
                tuned, found, true = (
                    tuned + is_tuned,
                    found + (one["q"] <= 0.05),
                    true + (is_tuned and one["q"] <= 0.05),
                )
            onsets = [one["n_onsets"] for one in facts["patients"]]
            print(
                f"demo, seed {seed}, onsets {onsets}: so far {true} of {tuned} tuned units found, {found - true} others"
            )
        wrong += ["power"] * (true < 0.8 * tuned) + ["false ones"] * (found - true > 0.05 * found)
    if wrong:
        raise SystemExit(f"not as it must be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
