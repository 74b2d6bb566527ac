"""What `inspect` shows of a key: facts as plain data, and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from summer_prep.layout import LABEL_RULES, LABEL_VALUES, check_files, read_attributes
from summer_prep.output import pyplot, save_picture

PICTURE_LABELS = ("summer", "tom", "tom-faces", "indoor-setting", "office", "park", "camera-cuts")
_MAX_COLUMNS = 1200


def describe_key(key: Path) -> dict[str, Any]:
    """Return what a key holds: arrays, rates (Hz of recorded time) per region, label shares per rule, pauses.

    Raises
    ------
    CacheError : the key is missing or damaged
    """
    attributes = read_attributes(key)
    check_files(key, attributes)
    group = zarr.open_group(key, mode="r")
    counts = _values(group, "spike_counts")
    recorded_s = _values(group, "recorded_s")
    return {
        "key": str(key),
        "patient_id": attributes["patient_id"],
        "bin_length_ms": attributes["bin_length_ms"],
        "n_bins": attributes["n_bins"],
        "n_units": attributes["n_units"],
        "n_unseen_bins": attributes["n_unseen_bins"],
        "codec": attributes["codec"],
        "source": attributes["source"],
        "spikes": attributes["spikes"],
        "pauses": attributes["pauses"],
        "arrays": [_describe_array(group, key, name) for name in sorted(attributes["digests"])],
        "regions": _rates_by_region(
            counts, float(recorded_s.sum(dtype=np.float64)), attributes["units"].get("brain_region")
        ),
        "labels": _label_shares(group, attributes["label_names"]),
    }


def _values(group: zarr.Group, name: str) -> NDArray[Any]:
    array: Any = group[name]
    return np.asarray(array[...])


def _describe_array(group: zarr.Group, key: Path, name: str) -> dict[str, Any]:
    array: Any = group[name]
    stored = sum(path.stat().st_size for path in (key / name).rglob("*") if path.is_file())
    return {
        "name": name,
        "dimensions": list(array.metadata.dimension_names),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "codec": ", ".join(type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors) or "none",
        "bytes": int(array.nbytes),
        "stored_bytes": stored,
    }


def _rates_by_region(counts: NDArray[Any], recorded_s: float, regions: list[str] | None) -> list[dict[str, Any]]:
    rates_hz = counts.sum(axis=0, dtype=np.int64) / recorded_s
    names = np.array(regions if regions is not None else ["unknown"] * len(rates_hz))
    return [
        {
            "region": str(name),
            "n_units": int((names == name).sum()),
            "median_rate_hz": float(np.median(rates_hz[names == name])),
            "max_rate_hz": float(rates_hz[names == name].max()),
        }
        for name in np.unique(names)
    ]


def _label_shares(group: zarr.Group, label_names: list[str]) -> list[dict[str, Any]]:
    """Return each label's percentage of bins with value 1 under every rule, and of undefined ones."""
    labels: dict[str, NDArray[Any]] = {}
    for rule in LABEL_RULES:
        labels[rule] = _values(group, f"labels_{rule}")
    undefined = (labels["first"] == LABEL_VALUES[-1]).mean(axis=1)
    return [
        {
            "label": name,
            **{rule: float((values[row] == 1).mean() * 100) for rule, values in labels.items()},
            "undefined": float(undefined[row] * 100),
        }
        for row, name in enumerate(label_names)
    ]


def draw_key(key: Path, picture: Path) -> None:
    """Write a picture: spike counts over film time, the population rate, some labels, pauses marked.

    Raises
    ------
    CacheError : the key is missing or damaged
    SettingsError : the picture cannot be written
    """
    plt = pyplot()
    attributes = read_attributes(key)
    check_files(key, attributes)
    group = zarr.open_group(key, mode="r")
    film_minutes = _values(group, "bin_start_s") / 60
    extent = (film_minutes[0], film_minutes[-1], attributes["n_units"] - 0.5, -0.5)
    counts = _values(group, "spike_counts")
    recorded_s = _downsample(counts, _values(group, "recorded_s"))
    with np.errstate(invalid="ignore"):  # bins that were never seen have no rate: a hole in the curve
        rates_hz = _downsample(counts, counts.sum(axis=1)) / recorded_s
    shown = [name for name in PICTURE_LABELS if name in attributes["label_names"]] or attributes["label_names"][:7]
    rows = [attributes["label_names"].index(name) for name in shown]
    labels = np.stack([_downsample(counts, on) for on in _values(group, "labels_any")[rows] == 1]) > 0

    figure, (heat, rate, strip) = plt.subplots(
        3, 1, figsize=(12, 8), sharex=True, height_ratios=[5, 1.5, 2], layout="constrained"
    )
    order = np.argsort(np.array(attributes["units"].get("brain_region", [""] * counts.shape[1])), kind="stable")
    image = np.stack([_downsample(counts, counts[:, unit]) for unit in order])
    mesh = heat.imshow(
        np.log1p(image), aspect="auto", extent=extent, cmap="magma", interpolation="nearest", rasterized=True
    )
    figure.colorbar(mesh, ax=heat, label="log(1 + spikes)", pad=0.01)
    heat.set_ylabel("unit (sorted by region)")
    heat.set_title(
        f"patient {attributes['patient_id']}: {attributes['n_units']} units, "
        f"{attributes['n_bins']} bins of {attributes['bin_length_ms']} ms; dashed: film paused"
    )
    rate.plot(np.linspace(film_minutes[0], film_minutes[-1], len(rates_hz)), rates_hz, lw=0.6, color="black")
    rate.set_ylabel("population\nrate (Hz)")
    strip.imshow(
        labels,
        aspect="auto",
        extent=(film_minutes[0], film_minutes[-1], len(rows) - 0.5, -0.5),
        cmap="Greys",
        interpolation="nearest",
    )
    strip.set_yticks(range(len(rows)), shown)
    strip.set_xlabel("film time (min)")
    for pause in attributes["pauses"]:
        for axes in (heat, rate, strip):
            axes.axvline(pause["frame"] / 1500, color="tab:cyan", ls="--", lw=1)
    strip.set_xlim(film_minutes[0], film_minutes[-1])
    save_picture(figure, picture)


def _downsample(counts: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum values over runs of bins, so that the picture has at most `_MAX_COLUMNS` columns."""
    n_bins = len(counts)
    starts = np.unique(np.linspace(0, n_bins, min(n_bins, _MAX_COLUMNS), endpoint=False).astype(int))
    return np.add.reduceat(values.astype(np.float64), starts)
