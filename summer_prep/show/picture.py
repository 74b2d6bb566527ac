"""A picture of one key: rates of its units over film time, their sum, some labels, pauses marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.layout import Description
from summer_prep.cache.write import read_array
from summer_prep.console import printable
from summer_prep.errors import SettingsError
from summer_prep.files import new_figure, save_picture
from summer_prep.film.facts import FRAMES_PER_MINUTE, ON, UNDEFINED
from summer_prep.show.facts import pauses_of

PICTURE_LABELS = ("summer", "tom", "tom-faces", "indoor-setting", "office", "park", "camera-cuts")
_MAX_COLUMNS = 1200
_AS_IT_IS = {"aspect": "auto", "interpolation": "nearest"}


def draw_key(description: Description, picture: Path, labels: Sequence[str] = ()) -> None:
    """Write a picture of a checked key.

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
        rates_hz, norm=PowerNorm(0.5, vmin=0), extent=(start, end, len(order) - 0.5, -0.5), cmap="magma",
        rasterized=True, **_AS_IT_IS,
    )  # fmt: skip
    column_s = bins_per_column * attributes["bin_length_ms"] / 1000
    figure.colorbar(mesh, ax=heat, label=f"rate (Hz), means over {column_s:.3g} s of film", pad=0.01)
    names_of_regions, firsts, sizes = np.unique(regions[order], return_index=True, return_counts=True)
    heat.set_yticks(firsts + (sizes - 1) / 2, [_as_text(name) for name in names_of_regions])
    heat.tick_params(axis="y", length=0)
    for first in firsts[1:]:
        heat.axhline(first - 0.5, color="white", lw=0.5)
    heat.set_ylabel("units by region")
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


def _as_text(name: str) -> str:
    return printable(name).replace("$", r"\$")  # matplotlib would read formulas


def _sums(starts: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum values over the runs of bins that begin at `starts`."""
    return np.add.reduceat(values.astype(np.float64), starts)
