"""What `inspect` shows of a key: facts as plain data, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import Cache
from summer_prep.cache.layout import Description
from summer_prep.cache.write import describe_array, read_array
from summer_prep.console import as_data
from summer_prep.errors import SettingsError
from summer_prep.files import new_figure, save_picture
from summer_prep.film.facts import FRAME_PERIOD_MS, FRAMES_PER_MINUTE, LABEL_RULES, OFF, ON, UNDEFINED
from summer_prep.film.splits import N_SEGMENTS, Indices, blocked_split, check_buffer

PICTURE_LABELS = ("summer", "tom", "tom-faces", "indoor-setting", "office", "park", "camera-cuts")
_MAX_COLUMNS = 1200
_BINS_AT_ONCE = 2**14
"""All counts of a key of 5 ms as float64 would take a gigabyte."""
_AS_IT_IS = {"aspect": "auto", "interpolation": "nearest"}


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
        "labels": _label_shares(key, attributes["label_names"], attributes["bin_length_ms"] / 1000),
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


def _label_shares(key: Path, label_names: list[str], bin_s: float) -> list[dict[str, Any]]:
    """Return each label's percentage of bins with value 1 under every rule, and of undefined ones.

    Stretches are runs of bins with value 1 under the rule `first`, and their length is in the film.
    """
    # Row by row, and a rule at a time: at 5 ms all at once would take 250 MB.
    on = {rule: [(label == ON).mean() for label in read_array(key, f"labels_{rule}")] for rule in LABEL_RULES}
    labels = read_array(key, "labels_first")
    lengths = [stops - starts for starts, stops in (stretches(label == ON) for label in labels)]
    return [
        {
            "label": name,
            **{rule: float(shares[row] * 100) for rule, shares in on.items()},
            "undefined": float((labels[row] == UNDEFINED).mean() * 100),
            "n_stretches": len(lengths[row]),
            "longest_s": float(lengths[row].max(initial=0) * bin_s),
        }
        for row, name in enumerate(label_names)
    ]


def describe_labels(description: Description, buffer_s: float | None = None) -> list[dict[str, Any]]:
    """Return for each label of a checked key what `describe_key` does, and which folds lack it.

    Parameters
    ----------
    buffer_s : of the blocked split; without it nothing is said of folds

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : the buffer leaves no segment
    """
    attributes = description.attributes
    shares = _label_shares(description.folder, attributes["label_names"], attributes["bin_length_ms"] / 1000)
    if buffer_s is None:
        return shares
    folds = describe_folds(description, buffer_s)["labels"]
    return [{**share, "lacks": fold["lacks"]} for share, fold in zip(shares, folds, strict=True)]


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


def stretches(is_on: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where runs of bins that are on begin, and the bins after their last, (n_runs,) each."""
    edges = np.flatnonzero(np.diff(is_on.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


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
    labels, n_bins = read_array(description.folder, "labels_first"), description.attributes["n_bins"]
    splits = splits_of(description, buffer_s)
    sizes = {
        fold: {**(found := {part: len(bins) for part, bins in parts.items()}), "unused": n_bins - sum(found.values())}
        for fold, parts in splits.items()
    }
    return {
        "buffer_s": buffer_s,
        "n_bins": sizes,
        "labels": [
            {"label": name, **_label_in_folds(labels[row], splits)}
            for row, name in enumerate(description.attributes["label_names"])
        ],
    }


def splits_of(description: Description, buffer_s: float) -> dict[int, dict[str, Indices]]:
    """Return the bins of every part of every fold of a key's blocked split; errors as `describe_folds`."""
    check_buffer(buffer_s, "--fold-layout")
    n_bins, bin_length_ms = (description.attributes[name] for name in ("n_bins", "bin_length_ms"))
    folds = range(1, N_SEGMENTS + 1)
    try:
        return {fold: vars(blocked_split(n_bins, bin_length_ms, buffer_s, fold)) for fold in folds}
    except SettingsError as error:  # which names the option of training
        said = str(error).replace("--buffer", "--fold-layout").split(" with --sequence")[0]
        raise SettingsError(said.replace("none fits; use --val-fraction instead", "this film is too short")) from error


def _label_in_folds(label: NDArray[np.uint8], splits: dict[int, dict[str, Indices]]) -> dict[str, Any]:
    on: dict[int, dict[str, float]] = {}
    lacks = []
    for fold, parts in splits.items():
        on[fold] = {}
        for part, bins in parts.items():
            defined = label[bins][label[bins] != UNDEFINED]
            share = float((defined == ON).mean()) if len(defined) else float("nan")
            on[fold][part] = share * 100
            if not 0 < share < 1:
                lacks.append(f"{part} {fold}")
    return {"on": on, "lacks": lacks}


def draw_key(description: Description, picture: Path, labels: Sequence[str] = ()) -> None:
    """Write a picture of a checked key: rates of its units over film time, their sum, some labels, pauses marked.

    Each column of the picture holds equally many bins (the last one what is left), and rates are spikes in Hz of
    recorded time, so that columns can be compared.

    Parameters
    ----------
    labels : the labels to draw; a few that most films have by default

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : no such label; the picture cannot be written
    """
    from matplotlib.colors import PowerNorm

    key, attributes = description.folder, description.attributes
    names = attributes["label_names"]
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise SettingsError(f"--labels {' '.join(unknown)}: no such label in {key}; found are {', '.join(names)}")
    shown = labels or [name for name in PICTURE_LABELS if name in names] or names[:7]
    counts = read_array(key, "spike_counts")
    bin_minutes = attributes["bin_length_ms"] / 60_000
    start = float(read_array(key, "bin_start_s")[0] / 60)
    bins_per_column = -(-len(counts) // _MAX_COLUMNS)
    columns = np.arange(0, len(counts), bins_per_column)
    end = start + len(columns) * bins_per_column * bin_minutes  # of the last column, which may hold fewer bins
    recorded_s = _sums(columns, read_array(key, "recorded_s"))
    regions = np.array(attributes["units"].get("brain_region", [""] * counts.shape[1]))
    order = np.argsort(regions, kind="stable")
    with np.errstate(invalid="ignore"):  # what was never recorded has no rate: a hole in the picture
        rates_hz = np.stack([_sums(columns, counts[:, unit]) for unit in order]) / recorded_s
    values = read_array(key, "labels_any")[[names.index(name) for name in shown]]

    figure = new_figure(12, 8)
    heat, rate, strip = figure.subplots(3, 1, sharex=True, height_ratios=[5, 1.5, 2])
    mesh = heat.imshow(
        rates_hz,
        norm=PowerNorm(0.5, vmin=0),
        extent=(start, end, len(order) - 0.5, -0.5),
        cmap="magma",
        rasterized=True,
        **_AS_IT_IS,
    )
    column_s = bins_per_column * attributes["bin_length_ms"] / 1000
    figure.colorbar(mesh, ax=heat, label=f"rate (Hz), means over {column_s:.3g} s of film", pad=0.01)
    _name_regions(heat, regions[order])
    heat.set_title(
        f"patient {attributes['patient_id']}: {attributes['n_units']} units, "
        f"{attributes['n_bins']} bins of {attributes['bin_length_ms']} ms; dashed: film paused"
    )
    middles = start + (columns + bins_per_column / 2) * bin_minutes
    rate.plot(middles, rates_hz.sum(axis=0), lw=0.6, color="black")
    rate.set_ylabel("population\nrate (Hz)")
    on, undefined = (np.stack([_sums(columns, row == value) for row in values]) > 0 for value in (ON, UNDEFINED))
    shades = np.where(on, 1.0, np.where(undefined, 0.3, 0.0))
    strip.imshow(shades, vmin=0, vmax=1, extent=(start, end, len(shown) - 0.5, -0.5), cmap="Greys", **_AS_IT_IS)
    strip.set_yticks(range(len(shown)), [_as_text(name) for name in shown])
    strip.set_xlabel("film time (min); labels: black on, grey undefined")
    for pause in pauses_of(attributes):
        for axes in (heat, rate, strip):
            axes.axvline(pause["frame"] / FRAMES_PER_MINUTE, color="tab:cyan", ls="--", lw=1)
    strip.set_xlim(start, start + len(counts) * bin_minutes)
    save_picture(figure, picture)


def _name_regions(axes: Any, regions: NDArray[Any]) -> None:
    """Write each region's name beside its rows, and draw a line where the next begins."""
    names, firsts, sizes = np.unique(regions, return_index=True, return_counts=True)
    axes.set_yticks(firsts + (sizes - 1) / 2, [_as_text(name) for name in names])
    axes.tick_params(axis="y", length=0)
    for first in firsts[1:]:
        axes.axhline(first - 0.5, color="white", lw=0.5)
    axes.set_ylabel("units by region")


def _as_text(name: str) -> str:
    return as_data(name).replace("$", r"\$")  # matplotlib would read formulas


def _sums(starts: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum values over the runs of bins that begin at `starts`."""
    return np.add.reduceat(values.astype(np.float64), starts)
