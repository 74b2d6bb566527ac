"""Decode a left-out patient of demo data: above the null of its alignment only where units have common tuning.

    python tests/soak/left_out.py --seeds 20

Each seed makes a film and three patients. The one that is left out is decoded twice: by all of its units, a third of
which have the tuning of the others, and by those of its units alone that have none. The script ends with an error if
the first is not above the null, maps that were found on shifted film, or the second is.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import summer_train
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.recordings.demo import demo_data
from summer_train.data.film import FilmSamples
from summer_train.data.selection import Selection
from summer_train.models.stack import train_stack
from summer_train.scores.left_out import score_beside
from summer_train.scores.scoring import score_networks
from summer_train.settings.options import SHIFTED, Choice

LEFT_OUT, IDS = "20", ("14", "20", "29")


def kappas_of(selection: Selection, space: str) -> tuple[float, float, float]:
    """Return the kappa of the left-out patient, and the mean and the 95th percentile of its alignment's null."""
    choice = Choice(
        task="label", patient_ids=IDS, bin_length_ms=200, buffer_s=5.0, sequence_s=(0, 0), window_s=(-0.4, 0.4),
        model="linear", space=space, leave_out=LEFT_OUT,
    )  # fmt: skip
    data = FilmSamples(selection, choice)
    _, outputs = train_stack([data], 20)
    (own,) = score_networks([data], outputs)
    (beside,) = score_beside([data], [own], outputs, None)
    return tuple(one.scores["test"]["kappa"] for one in (own, beside[SHIFTED], beside[f"{SHIFTED} 95"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--space", default="shared:6")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {"with common tuning": [], "without": []}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as name:
            nwb, cache = Path(name, "nwb"), Path(name, "cache")
            demo_data(nwb, patient_ids=IDS, units=24, minutes=20, seed=seed)
            build_keys(BuildConfig(data_dir=nwb, cache_dir=cache, bin_lengths_ms=(200,), n_workers=0))
            tuned = [one["unit"] for one in json.loads((nwb / "truth.json").read_text())[LEFT_OUT]["tuned_units"]]
            selection = summer_train.open_selection(cache, IDS, 200)
            found["with common tuning"].append(kappas_of(selection, options.space))
            columns = [*selection.columns]
            columns[1] = np.setdiff1d(columns[1], tuned)
            found["without"].append(kappas_of(Selection(selection.patients, columns), options.space))
        print(f"seed {seed}: " + "; ".join(f"{what} {np.round(one[-1], 3)}" for what, one in found.items()), flush=True)
    limits = {"with common tuning": (0.75, 1.0), "without": (0.0, 0.2)}  # of the seeds; 5 % of those by chance
    for what, (least, most) in limits.items():
        own, null, high = np.array(found[what]).T
        share, gain = float((own > high).mean()), own - null
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        print(f"{what}: kappa {own.mean():.3f}, null {null.mean():.3f}, above its 95 % in {share:.0%} of the seeds")
        print(f"  kappa minus null {gain.mean():.3f}, standard error {error:.3f}")
        if not least <= share <= most or (gain.mean() > 3 * error) != (least > 0):
            sys.exit(f"{what}: not as expected")


if __name__ == "__main__":
    main()
