"""Film bins in pynapple: rates of every unit while a label is on.

pip install pynapple
python docs/examples/pynapple_rates.py CACHE_DIR
"""

import sys

import pynapple as nap

import summer_prep

key = summer_prep.open_key(sys.argv[1], 14, 80)
summer = list(key.attrs["label_names"]).index("summer")

# The three lines: rates along the film (Hz of recorded time), when the label is on, and their means then.
rates_hz = nap.TsdFrame(t=key["bin_start_s"][:], d=key["spike_counts"][:] / key["recorded_s"][:][:, None])
on = nap.Tsd(t=key["bin_start_s"][:], d=key["labels_first"][summer] == 1).threshold(0.5).time_support
rate_hz = rates_hz.restrict(on).mean(axis=0)

print(f"summer is on in {len(on)} stretches, {on.tot_length() / 60:.1f} minutes")
print(" ".join(f"{rate:.2f}" for rate in rate_hz))
