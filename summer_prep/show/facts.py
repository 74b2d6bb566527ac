"""What `inspect` shows of a key: facts as plain data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import Cache
from summer_prep.cache.layout import Description
from summer_prep.cache.write import describe_array, read_array
from summer_prep.errors import SettingsError
from summer_prep.film.facts import FRAME_PERIOD_MS, LABEL_RULES, OFF, ON, UNDEFINED
from summer_prep.film.splits import N_SEGMENTS, Indices, blocked_split, check_buffer, stretches

_BINS_AT_ONCE = 2**14
"""All counts of a key of 5 ms as float64 would take a gigabyte."""


def describe_key(description: Description) -> dict[str, Any]:
    """Return what a checked key holds: arrays, rates (Hz of recorded time) per region, label shares per rule, pauses.

    Raises
    ------
    CacheError : an array cannot be decoded
    """
    key, attributes = description.folder, description.attributes
    counts, seconds = read_array(key, "spike_counts"), read_array(key, "recorded_s")
    recorded_s = float(seconds.sum(dtype=np.float64))
    names = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "source", "spikes")
    return {
        "key": str(key),
        **{name: attributes[name] for name in (*names, "notes")},
        "pauses": pauses_of(attributes),
        "arrays": [describe_array(description, name) for name in sorted(attributes["digests"])],
        "regions": _rates_by_region(counts, recorded_s, attributes["units"]),
        "units": [_unit_facts(description, unit, counts[:, unit], seconds) for unit in range(attributes["n_units"])],
        "labels": describe_labels(description),
    }


def pauses_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pauses of a key and its long frames, whether or not they count as pauses, in order."""
    long_frames = attributes["long_frames"]
    found = [(pause, False) for pause in attributes["pauses"] if pause not in long_frames]
    found += [(frame, True) for frame in long_frames]
    return [
        {**pause, "film_time_s": pause["frame"] * FRAME_PERIOD_MS / 1000, "is_long_frame": is_long}
        for pause, is_long in sorted(found, key=lambda one: one[0]["start_ms"])
    ]


def _rates_by_region(counts: NDArray[Any], recorded_s: float, units: dict[str, list[str]]) -> list[dict[str, Any]]:
    rates_hz = counts.sum(axis=0, dtype=np.int64) / recorded_s
    names = np.array(units.get("brain_region", ["unknown"] * len(rates_hz)))
    return [
        {
            "region": str(name),
            "n_units": int((names == name).sum()),
            "median_rate_hz": float(np.median(rates_hz[names == name])),
            "max_rate_hz": float(rates_hz[names == name].max()),
        }
        for name in np.unique(names)
    ]


def describe_labels(description: Description, buffer_s: float | None = None) -> list[dict[str, Any]]:
    """Return each label's percentage of bins with value 1 under every rule, of undefined ones, and its stretches.

    Stretches are runs of bins with value 1 under the rule `first`, and their length is in the film.

    Parameters
    ----------
    buffer_s : of the blocked split, to return which folds lack a label; without it nothing is said of folds

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : the buffer leaves no segment
    """
    key, attributes = description.folder, description.attributes
    # Row by row, and a rule at a time: at 5 ms all at once would take 250 MB.
    on = {rule: [(label == ON).mean() for label in read_array(key, f"labels_{rule}")] for rule in LABEL_RULES}
    folds = None if buffer_s is None else describe_folds(description, buffer_s)["labels"]
    found: list[dict[str, Any]] = []
    for row, (name, label) in enumerate(zip(attributes["label_names"], read_array(key, "labels_first"), strict=True)):
        starts, stops = stretches(label == ON)
        found.append(
            {
                "label": name,
                **{rule: float(shares[row] * 100) for rule, shares in on.items()},
                "undefined": float((label == UNDEFINED).mean() * 100),
                "n_stretches": len(starts),
                "longest_s": float((stops - starts).max(initial=0) * (attributes["bin_length_ms"] / 1000)),
            }
        )
        if folds is not None:
            found[row]["lacks"] = folds[row]["lacks"]
    return found


def labels_of_cache(cache: Cache, bin_length_ms: int, buffer_s: float | None = None) -> dict[str, Any]:
    """Return the labels of the film, as the first patient's key has them, and who has others.

    Returns
    -------
    patient_id, bin_length_ms, labels as `describe_labels`, patients_with_others

    Raises
    ------
    CacheError : a key is damaged
    SettingsError : no key has this bin length; the buffer leaves no segment
    """
    having = [patient_id for patient_id, lengths in cache.keys().items() if bin_length_ms in lengths]
    if not having:
        raise SettingsError(f"{cache.place}: no key at {bin_length_ms} ms. Build it: summer-prep build --data-dir DIR")
    key = cache.fetch(having[0], bin_length_ms, every_byte=True)
    names = ["label", *(f"labels_{rule}" for rule in LABEL_RULES)]

    def digests(description: Description) -> list[str]:
        return [description.attributes["digests"][name] for name in names]

    return {
        "patient_id": having[0],
        "bin_length_ms": bin_length_ms,
        "labels": describe_labels(key, buffer_s),
        "patients_with_others": [
            one for one in having[1:] if digests(cache.describe(one, bin_length_ms)) != digests(key)
        ],
    }


def describe_unit(description: Description, unit: int) -> dict[str, Any]:
    """Return one unit of a checked key: rate (Hz of recorded time), Fano factor, and its rate by label on and off.

    Parameters
    ----------
    unit : its column, from 0

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : no such unit
    """
    key, attributes = description.folder, description.attributes
    if not 0 <= unit < attributes["n_units"]:
        raise SettingsError(f"--unit {unit}: {key} has the units 0 to {attributes['n_units'] - 1}. Choose one of them")
    counts, seconds = read_array(key, "spike_counts")[:, unit].copy(), read_array(key, "recorded_s")
    on_hz, off_hz = rates_by_label(counts[:, None], seconds, read_array(key, "labels_first"))[:, :, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(off_hz > 0, on_hz / off_hz, np.nan)
    return {
        **_unit_facts(description, unit, counts, seconds),
        "labels": [
            {"label": name, "on_hz": float(on), "off_hz": float(off), "ratio": float(ratio)}
            for name, on, off, ratio in zip(attributes["label_names"], on_hz, off_hz, ratios, strict=True)
        ],
    }


def _unit_facts(
    description: Description, unit: int, counts: NDArray[Any], recorded_s: NDArray[np.float32]
) -> dict[str, Any]:
    texts = {name: values[unit] for name, values in description.attributes["units"].items()}
    return {
        "unit": unit,
        **texts,
        "spikes": int(counts.sum(dtype=np.int64)),
        "rate_hz": float(counts.sum(dtype=np.int64) / recorded_s.sum(dtype=np.float64)),
        "fano_factor": fano_factor(counts[recorded_s > 0]),
    }


def fano_factor(counts: NDArray[Any]) -> float:
    """Return the variance of a unit's counts, (n_bins,), over their mean; NaN for a unit that is silent."""
    if len(counts) < 2 or not counts.any():
        return float("nan")
    return float(counts.var(ddof=1, dtype=np.float64) / counts.mean(dtype=np.float64))


def rates_by_label(
    counts: NDArray[Any], recorded_s: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the rates (Hz) of units while labels are on and while they are off; undefined bins are in neither.

    Parameters
    ----------
    counts : (n_bins, n_units)
    labels : (n_labels, n_bins)

    Returns
    -------
    (2, n_labels, n_units), NaN where a label never is so
    """
    spikes, seconds = np.zeros((2, len(labels), counts.shape[1])), np.zeros((2, len(labels), 1))
    for start in range(0, len(counts), _BINS_AT_ONCE):
        bins = slice(start, start + _BINS_AT_ONCE)
        for row, value in enumerate((ON, OFF)):
            is_so = (labels[:, bins] == value).astype(np.float64)
            spikes[row] += is_so @ counts[bins].astype(np.float64)
            seconds[row] += is_so @ recorded_s[bins, None].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return spikes / seconds


def describe_folds(description: Description, buffer_s: float) -> dict[str, Any]:
    """Return what the blocked split of a checked key leaves of each label, under the rule `first`, bins undefined out.

    Parameters
    ----------
    buffer_s : seconds between training, validation and test, as `summer-train fit --buffer`

    Returns
    -------
    buffer_s; n_bins: fold -> part -> number of bins; labels: for each its name, on: fold -> part -> percentage of
    bins that are on, lacks: the parts of folds that lack it on or off, on which nothing can be learnt or scored

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : the buffer leaves no segment
    """
    attributes, splits = description.attributes, splits_of(description, buffer_s)
    sizes = {fold: {part: len(bins) for part, bins in parts.items()} for fold, parts in splits.items()}
    labels = []
    for name, label in zip(attributes["label_names"], read_array(description.folder, "labels_first"), strict=True):
        on = {fold: {part: _percent_on(label[bins]) for part, bins in parts.items()} for fold, parts in splits.items()}
        lacks = [f"{part} {fold}" for fold, parts in on.items() for part, share in parts.items() if not 0 < share < 100]
        labels.append({"label": name, "on": on, "lacks": lacks})
    return {
        "buffer_s": buffer_s,
        "n_bins": {
            fold: {**parts, "unused": attributes["n_bins"] - sum(parts.values())} for fold, parts in sizes.items()
        },
        "labels": labels,
    }


def _percent_on(label: NDArray[np.uint8]) -> float:
    defined = label[label != UNDEFINED]
    return float((defined == ON).mean()) * 100 if len(defined) else float("nan")


def splits_of(description: Description, buffer_s: float) -> dict[int, dict[str, Indices]]:
    """Return the bins of every part of every fold of a key's blocked split; errors as `describe_folds`."""
    n_bins, bin_length_ms = (description.attributes[name] for name in ("n_bins", "bin_length_ms"))
    try:
        check_buffer(buffer_s)
        return {fold: vars(blocked_split(n_bins, bin_length_ms, buffer_s, fold)) for fold in range(1, N_SEGMENTS + 1)}
    except SettingsError as error:
        raise SettingsError(f"--fold-layout {buffer_s:g}: {error}") from error
