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
from summer_prep.film.logic import evaluate, names_in
from summer_prep.show.facts import labels_of, pauses_of

PICTURE_LABELS = ("summer", "tom", "tom-faces", "indoor-setting", "office", "park", "camera-cuts")
_MAX_COLUMNS = 1200


def draw_key(description: Description, picture: Path, labels: Sequence[str] = ()) -> None:
    """Write a picture of a checked key, with some labels or expressions of them; by default a few that most films have.

    Each column holds equally many bins (the last one what is left), and rates are in Hz of recorded time, so that
    columns can be compared. Raises SettingsError if there is no such label, or if the picture cannot be written.
    """
    from matplotlib.colors import PowerNorm

    key, attributes = description.folder, description.attributes
    n_bins, (names, values) = attributes["n_bins"], labels_of(description, "any")
    unknown = [name for label in labels for name in names_in(label) if name not in names]
    if unknown:
        raise SettingsError(f"--labels {' '.join(unknown)}: no such label in {key}; found are {', '.join(names)}")
    shown = labels or [name for name in PICTURE_LABELS if name in names] or names[:7]
    bins_per_column = -(-n_bins // _MAX_COLUMNS)
    columns = np.arange(0, n_bins, bins_per_column)

    def sums(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.add.reduceat(values.astype(np.float64), columns)

    counts, recorded_s = read_array(key, "spike_counts"), sums(read_array(key, "recorded_s"))
    regions = np.array(attributes["units"].get("brain_region", [""] * counts.shape[1]))
    order = np.argsort(regions, kind="stable")
    with np.errstate(invalid="ignore"):  # what was never recorded has no rate: a hole in the picture
        rates_hz = np.stack([sums(counts[:, unit]) for unit in order]) / recorded_s
    rows = [evaluate(label, dict(zip(names, values, strict=True))) for label in shown]
    on, undefined = (np.stack([sums(row == value) for row in rows]) > 0 for value in (ON, UNDEFINED))
    start, bin_s = float(read_array(key, "bin_start_s")[0] / 60), attributes["bin_length_ms"] / 1000
    column_min = bins_per_column * bin_s / 60
    end = start + len(columns) * column_min  # of the last column, which may hold fewer bins

    figure = new_figure(12, 8)
    heat, rate, strip = figure.subplots(3, 1, sharex=True, height_ratios=[5, 1.5, 2])
    options = {"aspect": "auto", "interpolation": "nearest"}
    mesh = heat.imshow(
        rates_hz, norm=PowerNorm(0.5, vmin=0), extent=(start, end, len(order) - 0.5, -0.5), cmap="magma",
        rasterized=True, **options,
    )  # fmt: skip
    figure.colorbar(mesh, ax=heat, label=f"rate (Hz), means over {bins_per_column * bin_s:.3g} s of film", pad=0.01)
    names_of_regions, firsts, sizes = np.unique(regions[order], return_index=True, return_counts=True)
    heat.set_yticks(firsts + (sizes - 1) / 2, [picture_text(name) for name in names_of_regions])
    heat.tick_params(axis="y", length=0)
    heat.hlines(firsts[1:] - 0.5, start, end, color="white", lw=0.5)
    heat.set_ylabel("units by region")
    heat.set_title(
        f"patient {attributes['patient_id']}: {attributes['n_units']} units, "
        f"{n_bins} bins of {attributes['bin_length_ms']} ms; dashed: film paused"
    )
    rate.plot(start + (np.arange(len(columns)) + 0.5) * column_min, rates_hz.sum(axis=0), lw=0.6, color="black")
    rate.set_ylabel("population\nrate (Hz)")
    shades = np.where(on, 1.0, np.where(undefined, 0.3, 0.0))
    strip.imshow(shades, vmin=0, vmax=1, extent=(start, end, len(shown) - 0.5, -0.5), cmap="Greys", **options)
    strip.set_yticks(range(len(shown)), [picture_text(name) for name in shown])
    strip.set_xlabel("film time (min); labels: black on, grey undefined")
    for pause in pauses_of(attributes):
        for axes in (heat, rate, strip):
            axes.axvline(pause["frame"] / FRAMES_PER_MINUTE, color="tab:cyan", ls="--", lw=1)
    strip.set_xlim(start, start + n_bins * bin_s / 60)
    save_picture(figure, picture)


def picture_text(name: str) -> str:
    """Return a name as matplotlib draws it, which would read formulas."""
    return printable(name).replace("$", r"\$")
