"""What `inspect` and `labels` show of a key: facts as plain data.

All functions of a key raise CacheError where one of its arrays cannot be decoded.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import Cache
from summer_prep.cache.layout import Description
from summer_prep.cache.targets import FilmTarget, film_targets, label_targets
from summer_prep.cache.write import describe_array, read_array
from summer_prep.errors import SettingsError
from summer_prep.film.bins import BinGrid, find_breaks, grid_from
from summer_prep.film.facts import FRAME_PERIOD_MS, LABEL_RULES, OFF, ON, UNDEFINED, LabelRule
from summer_prep.film.labels import align_labels
from summer_prep.film.splits import N_SEGMENTS, Indices, blocked_split, check_buffer, stretches

_BINS_AT_ONCE = 2**14  # all counts of a key of 5 ms as float64 would take a gigabyte


def describe_key(description: Description) -> dict[str, Any]:
    """Return what a key holds: arrays, rates (Hz of recorded time), units, labels, features, pauses."""
    key, attributes = description.folder, description.attributes
    counts, seconds = read_array(key, "spike_counts"), read_array(key, "recorded_s")
    n_spikes = counts.sum(axis=0, dtype=np.int64)
    rates_hz = n_spikes / seconds.sum(dtype=np.float64)
    regions = np.array(attributes["units"].get("brain_region", ["unknown"] * len(rates_hz)))
    names = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "source", "spikes", "notes")
    of_regions = []
    for region in np.unique(regions).tolist():
        rates = rates_hz[regions == region]
        median, highest = float(np.median(rates)), float(rates.max())
        of_regions.append({"region": region, "n_units": len(rates), "median_rate_hz": median, "max_rate_hz": highest})
    units = []
    for unit, (spikes, rate_hz) in enumerate(zip(n_spikes.tolist(), rates_hz.tolist(), strict=True)):
        known = {name: values[unit] for name, values in attributes["units"].items()}
        fano = fano_factor(counts[seconds > 0, unit])
        units.append({"unit": unit, **known, "spikes": spikes, "rate_hz": rate_hz, "fano_factor": fano})
    features = []
    for one, values in features_of(description):
        undefined = float(np.isnan(values).any(axis=1).mean() * 100)
        features.append({"target": one.name, "n_dimensions": len(one.columns), "undefined": undefined})
    return {
        "key": str(key),
        **{name: attributes[name] for name in names},
        "pauses": pauses_of(attributes),
        "arrays": [describe_array(description, name) for name in sorted(attributes["digests"])],
        "regions": of_regions,
        "units": units,
        "labels": describe_labels(description),
        "features": features,
    }


def labels_of(description: Description, rule: LabelRule = "first") -> tuple[list[str], NDArray[np.uint8]]:
    """Return the labels of a key and those of targets: names, and values in each bin, (n_labels, n_bins)."""
    names = list(description.attributes["label_names"])
    values = [read_array(description.folder, f"labels_{rule}")]
    for one, grid in _targets_of(description, "labels"):
        own = [number for number, column in enumerate(one.columns) if column not in names]  # recordings come first
        names += [one.columns[number] for number in own]
        values.append(align_labels(np.concatenate(list(one.blocks())).T[own], grid)[rule])
    return names, np.concatenate(values)


def features_of(description: Description, n: int | None = None) -> Iterator[tuple[FilmTarget, NDArray[np.float32]]]:
    """Yield each target with features, and its first `n` columns, or all, in each bin, (n_bins, n_columns)."""
    for one, grid in _targets_of(description, "features"):
        yield one, one.features(grid, range(len(one.columns))[:n])


def _targets_of(description: Description, kind: str) -> list[tuple[FilmTarget, BinGrid]]:
    """Return the targets of a key's cache, with the bins of the key."""
    n_bins, bin_length_ms = (description.attributes[name] for name in ("n_bins", "bin_length_ms"))
    grid = grid_from(int(read_array(description.folder, "first_frame")[0]), n_bins, bin_length_ms)
    return [(one, grid) for one in film_targets(description.folder.parents[1]).values() if one.kind == kind]


def broken_bins(description: Description) -> NDArray[np.bool_]:
    """Return of each bin whether it was never seen, or recording time does not run on within it or up to it."""
    names = ("recording_start_ms", "recording_stop_ms", "recorded_s", "long_frame_s")
    start_ms, *others = (read_array(description.folder, name) for name in names)
    inside, after = find_breaks(start_ms, *others)
    is_unseen = np.isnan(start_ms)
    is_broken: NDArray[np.bool_] = inside | is_unseen
    is_broken[1:] |= after[:-1] | is_unseen[:-1]
    return is_broken


def pauses_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pauses of a key and its long frames, whether or not they count as pauses, in order."""
    long_frames = attributes["long_frames"]
    standstills = [pause for pause in attributes["pauses"] if pause not in long_frames]
    return [
        {**pause, "film_time_s": pause["frame"] * FRAME_PERIOD_MS / 1000, "is_long_frame": pause in long_frames}
        for pause in sorted([*standstills, *long_frames], key=lambda pause: pause["start_ms"])
    ]


def describe_labels(description: Description) -> list[dict[str, Any]]:
    """Return each label's percentage of bins with value 1 under every rule, of undefined ones, and its stretches.

    Stretches are runs of bins with value 1 under the rule `first`; their length is film time.
    """
    own, bin_s = label_targets(description.folder.parents[1]), description.attributes["bin_length_ms"] / 1000
    own = {name: one for name, one in own.items() if name not in description.attributes["label_names"]}
    found: list[dict[str, Any]] = []
    for rule in LABEL_RULES:  # one after the other: at 5 ms all at once would take 250 MB
        names, labels = labels_of(description, rule)
        found = found or [{"label": name} | ({"target": own[name].name} if name in own else {}) for name in names]
        for facts, label in zip(found, labels, strict=True):
            facts[rule] = float((label == ON).mean() * 100)
            if rule == "first":
                starts, stops = stretches(label == ON)
                of_runs = {"undefined": float((label == UNDEFINED).mean() * 100), "n_stretches": len(starts)}
                facts |= {**of_runs, "longest_s": float((stops - starts).max(initial=0) * bin_s)}
    return found


def labels_of_cache(cache: Cache, bin_length_ms: int, buffer_s: float | None = None) -> dict[str, Any]:
    """Return the labels of the film as the first patient's key has them, and the patients whose labels differ.

    With the buffer of a blocked split, each label also has the parts of folds that lack it. Raises SettingsError if no
    key has this bin length, or if the buffer leaves no segment.
    """
    patients = [patient_id for patient_id, lengths in cache.keys().items() if bin_length_ms in lengths]
    if not patients:
        raise SettingsError(f"{cache.place}: no key at {bin_length_ms} ms. Build it: summer-prep build --data-dir DIR")
    first = cache.fetch(patients[0], bin_length_ms, every_byte=True)
    keys = [first, *(cache.describe(one, bin_length_ms) for one in patients[1:])]
    names = ["label", *(f"labels_{rule}" for rule in LABEL_RULES)]
    digests = [[key.attributes["digests"][name] for name in names] for key in keys]
    others = [one for one, own in zip(patients, digests, strict=True) if own != digests[0]]
    labels = describe_labels(first)
    if buffer_s is not None:
        for label, folds in zip(labels, describe_folds(first, buffer_s)["labels"], strict=True):
            label["lacks"] = folds["lacks"]
    about = {"patient_id": patients[0], "bin_length_ms": bin_length_ms}
    return {**about, "labels": labels, "patients_with_others": others}


def describe_unit(description: Description, unit: int) -> dict[str, Any]:
    """Return what `describe_key` has of one unit (column from 0), and its rates with each label on and off.

    Raises SettingsError if there is no such unit.
    """
    key, attributes = description.folder, description.attributes
    if not 0 <= unit < attributes["n_units"]:
        raise SettingsError(f"--unit {unit}: {key} has the units 0 to {attributes['n_units'] - 1}. Choose one of them")
    counts, seconds = (read_array(key, name) for name in ("spike_counts", "recorded_s"))
    names, labels = labels_of(description)
    on_hz, off_hz = rates_by_label(counts[:, [unit]], seconds, labels)[:, :, 0]
    ratios = np.divide(on_hz, off_hz, out=np.full_like(on_hz, np.nan), where=off_hz > 0)
    rates = zip(names, on_hz.tolist(), off_hz.tolist(), ratios.tolist(), strict=True)
    by_label = [{"label": name, "on_hz": on, "off_hz": off, "ratio": ratio} for name, on, off, ratio in rates]
    return {**describe_key(description)["units"][unit], "labels": by_label}


def fano_factor(counts: NDArray[Any]) -> float:
    """Return the variance of a unit's counts, (n_bins,), over their mean; NaN for a unit that is silent."""
    if len(counts) < 2 or not counts.any():
        return float("nan")
    return float(counts.var(ddof=1, dtype=np.float64) / counts.mean(dtype=np.float64))


def rates_by_label(
    counts: NDArray[Any], recorded_s: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the rates (Hz) of units while labels are on and while they are off; undefined bins are in neither.

    Counts are (n_bins, n_units) and labels (n_labels, n_bins). The rates are (2, n_labels, n_units), and NaN where a
    label is never on, or never off.
    """
    spikes, seconds = np.zeros((2, len(labels), counts.shape[1])), np.zeros((2, len(labels), 1))
    for start in range(0, len(counts), _BINS_AT_ONCE):
        bins = slice(start, start + _BINS_AT_ONCE)
        for row, value in enumerate((ON, OFF)):
            has_value = (labels[:, bins] == value).astype(np.float64)
            spikes[row] += has_value @ counts[bins].astype(np.float64)
            seconds[row] += has_value @ recorded_s[bins, None].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return spikes / seconds


def describe_folds(description: Description, buffer_s: float) -> dict[str, Any]:
    """Return what the blocked split of a key leaves of each label under the rule `first`, without undefined bins.

    Returns
    -------
    buffer_s; n_bins: fold -> part -> number of bins; labels: for each its name, on: fold -> part -> percentage of
    bins that are on, lacks: the parts of folds in which it is never on, or never off, so that nothing can be scored
    """
    n_bins, splits, labels = description.attributes["n_bins"], splits_of(description, buffer_s), []
    for name, label in zip(*labels_of(description), strict=True):
        on: dict[int, dict[str, float]] = {fold: {} for fold in splits}
        lacks = []
        for fold, parts in splits.items():
            for part, bins in parts.items():
                defined = label[bins][label[bins] != UNDEFINED]
                on[fold][part] = float((defined == ON).mean()) * 100 if len(defined) else float("nan")
                if not 0 < on[fold][part] < 100:
                    lacks.append(f"{part} {fold}")
        labels.append({"label": name, "on": on, "lacks": lacks})
    sizes = {fold: {part: len(bins) for part, bins in parts.items()} for fold, parts in splits.items()}
    all_sizes = {fold: {**parts, "unused": n_bins - sum(parts.values())} for fold, parts in sizes.items()}
    return {"buffer_s": buffer_s, "n_bins": all_sizes, "labels": labels}


def splits_of(description: Description, buffer_s: float) -> dict[int, dict[str, Indices]]:
    """Return the bins of every part of every fold of a key's blocked split; errors as `describe_folds`."""
    n_bins, bin_length_ms = (description.attributes[name] for name in ("n_bins", "bin_length_ms"))
    try:
        check_buffer(buffer_s)
        return {fold: vars(blocked_split(n_bins, bin_length_ms, buffer_s, fold)) for fold in range(1, N_SEGMENTS + 1)}
    except SettingsError as error:
        raise SettingsError(f"--fold-layout {buffer_s:g}: {error}") from error
