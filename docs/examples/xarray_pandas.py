"""Cached arrays in xarray and pandas: rates by region around the onsets of a label.

pip install xarray pandas
python docs/examples/xarray_pandas.py CACHE_DIR
"""

import sys

import numpy as np
import xarray

# chunks=None: with Dask installed, coordinates would be chunked, and cannot be grouped by.
key = xarray.open_zarr(f"{sys.argv[1]}/sub-14/bin-80ms.zarr", chunks=None)

# Rates (Hz of recorded time) of each region while the label is on and off.
by_region = key["spike_counts"].groupby("brain_region").mean("unit")
summer = key["labels_first"].sel(label="summer")
table = (by_region.groupby(summer).sum("bin") / key["recorded_s"].groupby(summer).sum("bin")).to_pandas()
print(table.round(2))

# The same for each unit, as a pandas table with what is known of them.
units = key[["brain_region", "is_single_unit"]].to_dataframe()[["brain_region", "is_single_unit"]]
units["rate_hz"] = key["spike_counts"].sum("bin").values / float(key["recorded_s"].sum())
print(units.groupby("brain_region")["rate_hz"].describe().round(2))

# A second before to two seconds after each onset.
is_on = (summer == 1).values
onsets = np.flatnonzero(is_on[1:] & ~is_on[:-1]) + 1
around = np.arange(-12, 25)
inside = onsets[(onsets >= 12) & (onsets < len(is_on) - 25)]
spikes = key["spike_counts"].mean("unit").values[inside[:, None] + around].sum(axis=0)
response = spikes / key["recorded_s"].values[inside[:, None] + around].sum(axis=0)
print(f"{len(inside)} onsets, mean rate before {response[:12].mean():.2f} Hz and after {response[12:].mean():.2f} Hz")
