"""Caches of any size for the other benchmarks, written directly: film-length counts and labels drawn at random."""

from pathlib import Path

import numpy as np

from summer_prep.cache.layout import SCHEMA_VERSION, key_path
from summer_prep.cache.publish import publish
from summer_prep.cache.write import encode_key
from summer_prep.film.facts import FIRST_ANALYSED, FRAME_PERIOD_MS

UNITS_OF_29 = [79] * 24 + [78] * 5
"""2,286 units in 29 patients, as in the data set."""

BINS_OF_FILM = {5: 945_288, 40: 118_161, 80: 59_080, 1000: 4726}


def write_cache(
    cache_dir: Path, n_units: list[int], bin_length_ms: int = 80, film_share: float = 1.0, n_labels: int = 1
) -> list[str]:
    """Write a key per patient with the rates of the data set (1.93 Hz); return the patients' ids."""
    generator = np.random.default_rng(0)
    n_bins = int(BINS_OF_FILM[bin_length_ms] * film_share)
    labels = np.repeat(generator.random((n_labels, n_bins // 100 + 1)) < 0.5, 100, axis=1)[:, :n_bins].astype(np.uint8)
    names = ["summer", *(f"label-{number}" for number in range(1, n_labels))]
    start_ms = np.arange(n_bins) * bin_length_ms * 1.025
    patient_ids = [str(number + 1) for number in range(len(n_units))]
    for patient_id, units in zip(patient_ids, n_units, strict=True):
        rates = generator.lognormal(0, 1, units) * 1.93 / 1.65 * bin_length_ms / 1000
        counts = np.empty((n_bins, units), dtype=np.uint8)
        for start in range(0, n_bins, 50_000):
            rows = slice(start, start + 50_000)
            counts[rows] = generator.poisson(rates * (1 + labels[0, rows, None]), counts[rows].shape).clip(max=255)
        arrays = {
            "spike_counts": counts,
            **{f"labels_{rule}": labels for rule in ("first", "any", "majority")},
            "first_frame": (FIRST_ANALYSED + np.arange(n_bins) * bin_length_ms // FRAME_PERIOD_MS).astype(np.int32),
            "bin_start_s": np.arange(n_bins) * bin_length_ms / 1000,
            "recorded_s": np.full(n_bins, bin_length_ms * 1.025 / 1000, dtype=np.float32),
            "long_frame_s": np.zeros(n_bins, dtype=np.float32),
            "recording_start_ms": start_ms,
            "recording_stop_ms": start_ms + bin_length_ms * 1.025,
            "is_single_unit": np.ones(units, dtype=bool),
        }
        n_spikes = int(counts.sum(dtype=np.int64))
        attributes = {
            "schema_version": SCHEMA_VERSION,
            "algorithm_version": 1,
            "patient_id": patient_id,
            "bin_length_ms": bin_length_ms,
            "n_bins": n_bins,
            "n_units": units,
            "n_unseen_bins": 0,
            "label_names": names,
            "units": {"brain_region": ["A"] * units},
            "source": {"file_name": "simulated", "sha256": patient_id},
            "spikes": {"in_file": n_spikes, "counted": n_spikes, "in_pauses": 0, "outside": 0},
            "pauses": [],
            "long_frames": [],
            "notes": [],
        }
        publish(key_path(cache_dir, patient_id, bin_length_ms), encode_key(arrays, {**attributes, "codec": "none"}))
    return patient_ids
