"""What `inspect` shows of a key: facts as plain data, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.console import as_data
from summer_prep.dataset import FRAME_PERIOD_MS, FRAMES_PER_MINUTE, LABEL_RULES, UNDEFINED
from summer_prep.errors import SettingsError
from summer_prep.key import Description, check_files, describe
from summer_prep.output import pyplot, save_picture
from summer_prep.store import describe_array, read_array

PICTURE_LABELS = ("summer", "tom", "tom-faces", "indoor-setting", "office", "park", "camera-cuts")
_MAX_COLUMNS = 1200
_AS_IT_IS = {"aspect": "auto", "interpolation": "nearest"}


def checked_key(key: Path) -> Description:
    """Return what a key says of itself, every byte checked: what is shown of it is what was written.

    Raises
    ------
    CacheError : the key is missing or damaged
    """
    description = describe(key)
    check_files(description, every_byte=True)
    return description


def describe_key(description: Description) -> dict[str, Any]:
    """Return what a checked key holds: arrays, rates (Hz of recorded time) per region, label shares per rule, pauses.

    Raises
    ------
    CacheError : an array cannot be decoded
    """
    key, attributes = description.folder, description.attributes
    recorded_s = float(read_array(key, "recorded_s").sum(dtype=np.float64))
    names = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "source", "spikes")
    return {
        "key": str(key),
        **{name: attributes[name] for name in (*names, "notes")},
        "pauses": [{**pause, "film_time_s": pause["frame"] * FRAME_PERIOD_MS / 1000} for pause in attributes["pauses"]],
        "arrays": [describe_array(description, name) for name in sorted(attributes["digests"])],
        "regions": _rates_by_region(read_array(key, "spike_counts"), recorded_s, attributes["units"]),
        "labels": _label_shares(key, attributes["label_names"]),
    }


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


def _label_shares(key: Path, label_names: list[str]) -> list[dict[str, Any]]:
    """Return each label's percentage of bins with value 1 under every rule, and of undefined ones."""
    labels = {rule: read_array(key, f"labels_{rule}") for rule in LABEL_RULES}
    undefined = (labels["first"] == UNDEFINED).mean(axis=1)
    return [
        {
            "label": name,
            **{rule: float((values[row] == 1).mean() * 100) for rule, values in labels.items()},
            "undefined": float(undefined[row] * 100),
        }
        for row, name in enumerate(label_names)
    ]


def draw_key(description: Description, picture: Path, labels: Sequence[str] = ()) -> None:
    """Write a picture of a checked key: spike counts over film time, the population rate, some labels, pauses marked.

    Parameters
    ----------
    labels : the labels to draw; a few that most films have by default

    Raises
    ------
    CacheError : an array cannot be decoded
    SettingsError : no such label; the picture cannot be written
    """
    key, attributes = description.folder, description.attributes
    names = attributes["label_names"]
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise SettingsError(f"--labels {' '.join(unknown)}: no such label in {key}; found are {', '.join(names)}")
    shown = labels or [name for name in PICTURE_LABELS if name in names] or names[:7]
    counts = read_array(key, "spike_counts")
    film_minutes = read_array(key, "bin_start_s") / 60
    n_columns = min(len(counts), _MAX_COLUMNS)
    starts = np.unique(np.linspace(0, len(counts), n_columns, endpoint=False).astype(int))
    recorded_s = _sums(starts, read_array(key, "recorded_s"))
    with np.errstate(invalid="ignore"):  # bins that were never seen have no rate: a hole in the curve
        rates_hz = _sums(starts, counts.sum(axis=1)) / recorded_s
    values = read_array(key, "labels_any")[[names.index(name) for name in shown]]

    plt = pyplot()
    figure, (heat, rate, strip) = plt.subplots(
        3, 1, figsize=(12, 8), sharex=True, height_ratios=[5, 1.5, 2], layout="constrained"
    )
    start, stop = film_minutes[0], film_minutes[-1] + attributes["bin_length_ms"] / 60_000
    regions = np.array(attributes["units"].get("brain_region", [""] * counts.shape[1]))
    order = np.argsort(regions, kind="stable")
    mesh = heat.imshow(
        np.log1p(np.stack([_sums(starts, counts[:, unit]) for unit in order])),
        extent=(start, stop, len(order) - 0.5, -0.5),
        cmap="magma",
        rasterized=True,
        **_AS_IT_IS,
    )
    interval_s = (stop - start) * 60 / len(starts)
    figure.colorbar(mesh, ax=heat, label=f"log(1 + spikes in {interval_s:.3g} s of film)", pad=0.01)
    _name_regions(heat, regions[order])
    heat.set_title(
        f"patient {attributes['patient_id']}: {attributes['n_units']} units, "
        f"{attributes['n_bins']} bins of {attributes['bin_length_ms']} ms; dashed: film paused"
    )
    rate.plot(np.linspace(start, stop, len(rates_hz)), rates_hz, lw=0.6, color="black")
    rate.set_ylabel("population\nrate (Hz)")
    on, undefined = (np.stack([_sums(starts, row == value) for row in values]) > 0 for value in (1, UNDEFINED))
    shades = np.where(on, 1.0, np.where(undefined, 0.3, 0.0))
    strip.imshow(shades, vmin=0, vmax=1, extent=(start, stop, len(shown) - 0.5, -0.5), cmap="Greys", **_AS_IT_IS)
    strip.set_yticks(range(len(shown)), [_as_text(name) for name in shown])
    strip.set_xlabel("film time (min); labels: black on, grey undefined")
    for pause in attributes["pauses"]:
        for axes in (heat, rate, strip):
            axes.axvline(pause["frame"] / FRAMES_PER_MINUTE, color="tab:cyan", ls="--", lw=1)
    strip.set_xlim(start, stop)
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
