"""A key as an NWB file: counts of every unit in film bins (extension ndx-binned-spikes), labels, and times of the bins.

pip install ndx-binned-spikes
python docs/examples/nwb_file.py CACHE_DIR 14.nwb
"""

import sys
from datetime import UTC, datetime

import numpy as np
from ndx_binned_spikes import BinnedAlignedSpikes
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

import summer_prep

key = summer_prep.open_key(sys.argv[1], 14, 80)
counts, film_s, recording_s = key["spike_counts"][:], key["bin_start_s"][:], key["recording_start_ms"][:] / 1000
first = int(np.flatnonzero(np.isfinite(recording_s))[0])  # a bin that was never seen has no time on the recording clock

# A key does not hold the date of the session.
nwb = NWBFile("Spike counts of patient 14 in film bins of 80 ms", "sub-14-80ms", datetime(1970, 1, 1, tzinfo=UTC))
nwb.add_unit_column("unit_id", "number of the unit in the recording")
nwb.add_unit_column("brain_region", "region of the electrode")
for unit_id, region in zip(key["unit_id"][:], key["brain_region"][:], strict=True):
    nwb.add_unit(unit_id=int(unit_id), brain_region=str(region))

# The whole film is one event. Its bins last 80 ms on the film clock and 2.5 % longer on the recording clock, which also
# counts pauses: the series `recording_start` has the time of every bin.
film = nwb.create_processing_module("film", "counts and labels along the film")
film.add(
    BinnedAlignedSpikes(
        data=counts.T[:, None, :],  # (unit, event, bin)
        bin_width_in_ms=80.0,
        event_timestamps=recording_s[[first]],
        event_to_bin_offset_in_ms=(film_s[0] - film_s[first]) * 1000,
        units_region=nwb.units.create_region("units_region", slice(0, counts.shape[1]), "all units"),
    )
)
film.add(TimeSeries(name="recording_start", data=recording_s, unit="s", timestamps=film_s))
names = " ".join(key.attrs["label_names"])
film.add(
    TimeSeries(
        name="labels", data=key["labels_first"][:].T, unit="0, 1, 99: undefined", timestamps=film_s, comments=names
    )
)
with NWBHDF5IO(sys.argv[2], "w") as io:
    io.write(nwb)
