"""Which units respond to the onsets of a label: all patients of a cache tested together, as facts and as a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep.cache.keys import check_known, open_cache
from summer_prep.cache.layout import Description
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.files import new_figure, replace_file, writing
from summer_prep.film.logic import evaluate, names_in
from summer_prep.film.responses import (
    BIN_MS, MIN_SHIFT_S, Responses, false_discovery_rates, find_onsets, responses_to,
)  # fmt: skip
from summer_prep.options import as_bin_lengths, as_number, as_path, as_patient_ids, as_place, as_text
from summer_prep.show.facts import labels_of
from summer_prep.show.picture import picture_text

DEFAULT_SHIFTS, MAX_Q = 10_000, 0.05
_N_CLEAREST, _MAX_Z = 6, 5.0

_OF_REAL_FILM = "ZETA, another test; real film, 2,286 units; Gerken et al."

PUBLISHED = [
    {"label": label, "n_responsive": n_units, "mostly_in": region, "test": _OF_REAL_FILM}
    for label, n_units, region in (("camera-cuts", 195, "PHC"), ("tom", 45, "A"), ("summer", 38, "A"))
]
"""Units that respond. Source: Gerken et al., Decoding movie content from neuronal population activity in the human
medial temporal lobe."""


def responses(
    label: str,
    *,
    cache_dir: str | Path = "data_cache",
    patient_ids: object = None,
    bin_length: int | None = None,
    shifts: int = DEFAULT_SHIFTS,
    seed: int = 0,
    local_cache: str | Path | None = None,
) -> dict[str, Any]:
    """Find the units whose rate changes at the onsets of a label, as `summer-prep responses` does.

    Parameters
    ----------
    label : of the recordings or of your own, or an expression, like `summer-speaking & !music`
    cache_dir : folder of the cache, or its URL in a bucket
    patient_ids : some of the patients, like 14 or [14, "20"]; all by default
    bin_length : ms, of the keys to read: 20, 10 or 5, which give the same numbers; by default the longest there is
    shifts : how often the onsets are moved along the film; never more often than the film allows
    seed : draws the shifts, where there are fewer than the film allows
    local_cache : folder into which keys in a bucket are fetched

    Returns
    -------
    `label_name`; `n_units`, `n_shifts` (the fewest of a patient) and `n_needed`: how many units must have the smallest
    possible p before any is responsive; `patients` with `n_onsets` and `n_left_out`; `regions`, with all of them last;
    `units` with `before_hz`, `after_hz`, `change_hz`, `p`, `q`, and the rates in steps of 100 ms from 1 s before the
    onset to 1 s after it with their standard errors, `rates_hz` and `errors_hz`

    Raises
    ------
    SettingsError : no such label or patient, no bins that divide 100 ms, or fewer than two onsets
    CacheError : a key is missing or damaged
    """
    label, place = as_text(label, "LABEL"), as_place(cache_dir, "--cache-dir")
    n_shifts, seed = as_number(shifts, int, "--shifts"), as_number(seed, int, "--seed")
    if n_shifts < 1 or seed < 0:
        raise SettingsError(f"--shifts {n_shifts} --seed {seed}: must be 1 or more, and 0 or more")
    cache = open_cache(place, None if local_cache is None else as_path(local_cache, "--local-cache"))
    cached, chosen, asked_ms = cache.keys(), as_patient_ids(patient_ids), as_bin_lengths(bin_length)
    check_known(chosen, cached, f"in {place}", cached, None)
    ids = chosen or tuple(cached)
    lengths = {one: [ms for ms in cached[one] if BIN_MS % ms == 0 and ms in (asked_ms or (ms,))] for one in ids}
    missing = [one for one in ids if not lengths[one]]
    if missing:
        build = f"summer-prep build --bin-length {BIN_MS} --patient-ids {' '.join(missing)} --cache-dir {place}"
        wanted = " ".join(map(str, asked_ms)) or f"{BIN_MS}, 10 or 5"
        problem = (
            f"steps of 100 ms need bins of {wanted} ms, which divide {BIN_MS}; patient {', '.join(missing)} has none"
        )
        raise SettingsError(f"{place}: {problem}. Build them: {build} --data-dir DIR")

    def respond(patient_id: str) -> tuple[Description, Responses]:
        key = cache.fetch(patient_id, max(lengths[patient_id]), every_byte=True)
        try:
            return key, _responses_of(key, label, n_shifts, np.random.default_rng([seed, *patient_id.encode()]))
        except SettingsError as error:
            raise SettingsError(f"{label}, patient {patient_id}: {error}") from error

    with ThreadPoolExecutor(2) as pool:  # each patient of the film's length takes 300 MB
        found = list(pool.map(respond, ids))
    halves = [np.split(one.rates_hz, 2, axis=1) for _, one in found]
    before_hz, after_hz = (np.concatenate([half[side].mean(axis=1) for half in halves]) for side in (0, 1))
    keys, p = [key.attributes for key, _ in found], np.concatenate([one.p for _, one in found])
    columns: dict[str, Any] = {
        "patient_id": [key["patient_id"] for key in keys for _ in range(key["n_units"])],
        "unit": [unit for key in keys for unit in range(key["n_units"])],
        "brain_region": [one for key in keys for one in key["units"].get("brain_region", ["unknown"] * key["n_units"])],
        "before_hz": before_hz.tolist(),
        "after_hz": after_hz.tolist(),
        "change_hz": (after_hz - before_hz).tolist(),
        "p": p.tolist(),
        "q": false_discovery_rates(p).tolist(),
        "rates_hz": [rates for _, one in found for rates in one.rates_hz.tolist()],
        "errors_hz": [errors for _, one in found for errors in one.errors_hz.tolist()],
    }
    units = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    fewest = min(one.n_shifts for _, one in found)
    return {
        "label_name": label,
        "n_units": len(units),
        "n_shifts": fewest,
        "n_needed": int(np.ceil(len(units) / (fewest + 1) / MAX_Q)),
        "min_shift_s": MIN_SHIFT_S,
        "patients": [
            {"patient_id": key.attributes["patient_id"], "n_onsets": one.n_onsets, "n_left_out": one.n_left_out}
            for key, one in found
        ],
        "regions": _count_by_region(units),
        "units": units,
    }


def _responses_of(key: Description, label: str, n_shifts: int, generator: np.random.Generator) -> Responses:
    """Return the responses of a key's units, in bins of 20 ms, into which shorter ones are summed."""
    names, values = labels_of(key)
    unknown = [name for name in names_in(label) if name not in names]
    if unknown:
        raise SettingsError(f"no label {unknown[0]!r}; found are {', '.join(names)}")
    counts, recorded_s, long_frame_s, start_ms, stop_ms = (
        read_array(key.folder, name)
        for name in ("spike_counts", "recorded_s", "long_frame_s", "recording_start_ms", "recording_stop_ms")
    )
    # recorded_s is a float32 of seconds: half a millisecond tells noise from a pause. NaN stands for bins never seen.
    is_broken = ~(stop_ms - start_ms - recorded_s * 1000 <= 0.5) | (long_frame_s > 0)
    is_broken[1:] |= start_ms[1:] != stop_ms[:-1]
    firsts = np.arange(0, len(counts), BIN_MS // key.attributes["bin_length_ms"])
    onsets = find_onsets(evaluate(label, dict(zip(names, values[:, firsts], strict=True))))
    if len(firsts) < len(counts):
        counts = np.add.reduceat(counts, firsts, axis=0, dtype=np.uint16)
        recorded_s, is_broken = np.add.reduceat(recorded_s, firsts), np.logical_or.reduceat(is_broken, firsts)
    return responses_to(onsets, counts, recorded_s, is_broken, n_shifts, generator)


def _count_by_region(units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for region in [*sorted({one["brain_region"] for one in units}), "all"]:
        of_region = [one for one in units if region in (one["brain_region"], "all")]
        changes = [one["change_hz"] for one in of_region if one["q"] <= MAX_Q]
        counts = {"n_units": len(of_region), "n_responsive": len(changes)}
        counts |= {"share": 100 * len(changes) / len(of_region), "n_up": sum(change > 0 for change in changes)}
        rows.append({"region": region, **counts, "n_down": len(changes) - counts["n_up"]})
    return rows


def write_units(facts: Mapping[str, Any], file: Path) -> None:
    """Write a row for each unit as CSV; raises SettingsError."""
    text = io.StringIO()
    names = [name for name in facts["units"][0] if name not in ("rates_hz", "errors_hz")]
    rows = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(facts["units"])
    with writing(file, "Name another file"):
        replace_file(file, text.getvalue().encode())


def draw_responses(facts: Mapping[str, Any]) -> Any:
    """Return a figure: rates of the clearest units with standard errors, and changes of all units, by region."""
    units = facts["units"]
    rates_hz, errors_hz = (np.array([one[name] for one in units]) for name in ("rates_hz", "errors_hz"))
    n_steps = rates_hz.shape[1]
    step_s = np.linspace(-1, 1, n_steps + 1)
    from_before_hz = rates_hz - np.array([[one["before_hz"]] for one in units])
    in_errors = np.divide(from_before_hz, errors_hz, out=np.zeros_like(rates_hz), where=errors_hz > 0)
    response = in_errors[:, n_steps // 2 :].mean(axis=1)
    responsive, order = np.array([one["q"] <= MAX_Q for one in units]), np.argsort(-response, kind="stable")
    clearest = sorted(range(len(units)), key=lambda unit: (units[unit]["p"], -abs(response[unit])))[:_N_CLEAREST]

    figure = new_figure(12, 8)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 2])
    for unit, axes in zip(clearest, np.ravel(above.subplots(1, len(clearest), sharex=True)), strict=True):
        low, high = rates_hz[unit] - errors_hz[unit], rates_hz[unit] + errors_hz[unit]
        axes.stairs(high, step_s, baseline=low, fill=True, color="0.8")
        axes.stairs(rates_hz[unit], step_s, color="black")
        axes.axvline(0, color="tab:red", lw=1)
        one = units[unit]
        name = f"patient {one['patient_id']}, unit {one['unit']}, {picture_text(one['brain_region'])}"
        axes.set_title(f"{name}\nq = {one['q']:.2g}", fontsize="small")
        axes.set_ylim(bottom=0)
    above.supylabel("rate (Hz)", fontsize="medium")
    regions = facts["regions"][:-1]
    panels = np.ravel(below.subplots(1, len(regions), sharex=True))
    for region, axes in zip(regions, panels, strict=True):
        rows = [unit for unit in order if units[unit]["brain_region"] == region["region"]]
        mesh = axes.imshow(
            in_errors[rows], vmin=-_MAX_Z, vmax=_MAX_Z, cmap="RdBu_r", aspect="auto", interpolation="nearest",
            extent=(-1, 1, len(rows), 0),
        )  # fmt: skip
        marked = np.flatnonzero(responsive[rows]) + 0.5
        axes.plot(np.full(len(marked), -1.0), marked, "k>", ms=3, clip_on=False)
        axes.axvline(0, color="black", lw=0.5)
        axes.set_yticks([])
        name = picture_text(region["region"])
        axes.set_title(f"{name}\n{region['n_responsive']} of {region['n_units']}", fontsize="small")
    panels[0].set_ylabel("units, sorted by response")
    below.colorbar(mesh, ax=panels, label="rate less that before (standard errors)", pad=0.01)
    below.supxlabel(f"time from the onset of {picture_text(facts['label_name'])} (s)", fontsize="medium")
    return figure
