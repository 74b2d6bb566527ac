"""Which units respond to the onsets of a label: all patients of a cache tested together, as facts and as a picture."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng

from summer_prep.cache.keys import check_known, open_cache
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.files import as_data_url, new_figure, replace_file, save_picture, writing
from summer_prep.film.logic import evaluate, names_in
from summer_prep.film.responses import BIN_MS, ERRORS_95, Responses, false_discovery_rates, find_onsets, responses_to
from summer_prep.options import as_bin_lengths, as_number, as_path, as_patient_ids, as_place, as_text
from summer_prep.show.facts import broken_bins, labels_of
from summer_prep.show.picture import picture_text
from summer_prep.show.tables import responses_tables, table_of
from summer_prep.show.web import html_table, write_page

MAX_Q = 0.05
PUBLISHED = [
    {"label_name": label_name, "n_responsive": n_units, "mostly_in": region, "test": "ZETA, real film, 2,286 units"}
    for label_name, n_units, region in (("camera-cuts", 195, "PHC"), ("tom", 45, "A"), ("summer", 38, "A"))
]
"""Source: Gerken et al., Decoding movie content from neuronal population activity in the human medial temporal lobe."""


def responses(
    label_name: str,
    *,
    cache_dir: str | Path = "data_cache",
    patient_ids: object = None,
    bin_length: int | None = None,
    shifts: int = 10_000,
    seed: int = 0,
    local_cache: str | Path | None = None,
) -> dict[str, Any]:
    """Find the units whose rate changes at the onsets of a label, as `summer-prep responses` does.

    Parameters
    ----------
    label_name : of the recordings or of your own, or an expression, like `summer-speaking & !music`
    cache_dir : folder of the cache, or its URL in a bucket
    patient_ids : some of the patients, like 14 or [14, "20"]; all by default
    bin_length : ms, of the keys to read: 20, 10 or 5, which give the same numbers; by default the longest there is
    shifts : how often the onsets are moved along the film, at most as often as the film allows
    seed : draws the shifts where the film allows more
    local_cache : folder into which keys in a bucket are fetched

    Returns
    -------
    `label_name`, `n_units`, `n_shifts`; `n_needed`, how many units must have the smallest possible p before any is
    responsive; `patients` [`patient_id`, `n_onsets`, `n_left_out`]; `regions` [`region`, `n_units`, `n_responsive`,
    `share` in %, `n_up`, `n_down`], all of them last; `units` [`patient_id`, `unit`, `brain_region`, `before_hz`,
    `after_hz`, `change_hz`, `p`, `q`; `rates_hz` in steps of 100 ms around the onset, with standard `errors_hz`]

    Raises
    ------
    SettingsError : no such label or patient, no bins of 20, 10 or 5 ms, or fewer than two onsets
    CacheError : a key is missing or damaged
    """
    label_name, place = as_text(label_name, "LABEL"), as_place(cache_dir, "--cache-dir")
    n_shifts, seed = as_number(shifts, int, "--shifts"), as_number(seed, int, "--seed")
    if n_shifts < 1 or seed < 0:
        raise SettingsError(f"--shifts {n_shifts} --seed {seed}: must be 1 or more, and 0 or more")
    cache = open_cache(place, None if local_cache is None else as_path(local_cache, "--local-cache"))
    cached, chosen, chosen_ms = cache.keys(), as_patient_ids(patient_ids), as_bin_lengths(bin_length)
    check_known(chosen, cached, f"in {place}", cached, None)
    lengths = {
        one: [ms for ms in cached[one] if BIN_MS % ms == 0 and ms in (chosen_ms or cached[one])]
        for one in chosen or cached
    }
    if missing := " ".join(one for one, found in lengths.items() if not found):
        build = f"summer-prep build --bin-length {BIN_MS} --patient-ids {missing} --cache-dir {place} --data-dir DIR"
        named = f" of --bin-length {chosen_ms[0]}" if chosen_ms else ""
        needed = f"responses need bins of {BIN_MS}, 10 or 5 ms, and patient {missing} has none{named}"
        raise SettingsError(f"{place}: {needed}. Build them: {build}")

    def respond(patient_id: str) -> tuple[Mapping[str, Any], Responses]:
        """Return a key's attributes and its units' responses, in bins of 20 ms, into which shorter ones are summed."""
        key = cache.fetch(patient_id, max(lengths[patient_id]), every_byte=True)
        labels = dict(zip(*labels_of(key), strict=True))
        if unknown := [name for name in names_in(label_name) if name not in labels]:
            found = f"found are {', '.join(labels)}"
            raise SettingsError(f"{label_name}: no label {unknown[0]!r} of patient {patient_id}; {found}")
        counts, recorded_s = (read_array(key.folder, name) for name in ("spike_counts", "recorded_s"))
        is_broken = broken_bins(key)
        firsts = np.arange(0, len(counts), BIN_MS // key.attributes["bin_length_ms"])
        if len(firsts) < len(counts):
            counts = np.add.reduceat(counts, firsts, axis=0, dtype=np.uint16)
            recorded_s, is_broken = np.add.reduceat(recorded_s, firsts), np.logical_or.reduceat(is_broken, firsts)
        onsets, generator = find_onsets(evaluate(label_name, labels)[firsts]), default_rng([seed, *patient_id.encode()])
        try:
            return key.attributes, responses_to(onsets, counts, recorded_s, is_broken, n_shifts, generator)
        except SettingsError as error:
            raise SettingsError(f"{label_name}, patient {patient_id}: {error}") from error

    with ThreadPoolExecutor(2) as pool:  # each patient of the real film's length takes 300 MB
        of_patients = list(pool.map(respond, lengths))
    units: list[dict[str, Any]] = []
    q = iter(false_discovery_rates(np.concatenate([one.p for _, one in of_patients])).tolist())
    for attributes, one in of_patients:
        for unit, region in enumerate(attributes["units"].get("brain_region", ["unknown"] * len(one.p))):
            before, after = one.rates_hz[unit].reshape(2, -1).mean(axis=1).tolist()
            about = {"patient_id": attributes["patient_id"], "unit": unit, "brain_region": region}
            about |= {"before_hz": before, "after_hz": after, "change_hz": after - before}
            rates = {"rates_hz": one.rates_hz[unit].tolist(), "errors_hz": one.errors_hz[unit].tolist()}
            units.append({**about, "p": float(one.p[unit]), "q": next(q), **rates})
    regions: list[dict[str, Any]] = []
    for region in [*sorted({one["brain_region"] for one in units}), "all"]:
        of_region = [one for one in units if region in (one["brain_region"], "all")]
        changes = [one["change_hz"] for one in of_region if one["q"] <= MAX_Q]
        counts = {"n_units": len(of_region), "n_responsive": len(changes), "n_up": sum(one > 0 for one in changes)}
        counts["n_down"] = len(changes) - counts["n_up"]
        regions.append({"region": region, **counts, "share": 100 * len(changes) / len(of_region)})
    n_moved = min(one.n_shifts for _, one in of_patients)
    return {
        "label_name": label_name,
        "n_units": len(units),
        "n_shifts": n_moved,
        "n_needed": int(np.ceil(len(units) / (n_moved + 1) / MAX_Q)),
        "patients": [
            {"patient_id": attributes["patient_id"], "n_onsets": one.n_onsets, "n_left_out": one.n_left_out}
            for attributes, one in of_patients
        ],
        "regions": regions,
        "units": units,
    }


def write_responses(facts: Mapping[str, Any], csv: Path | None, picture: Path | None, page: Path | None) -> None:
    """Write what `responses` returned: a row for each unit, a figure, a page of all; raises SettingsError."""
    if csv is not None:
        import pandas as pd

        table = pd.DataFrame(facts["units"]).drop(columns=["rates_hz", "errors_hz"])
        with writing(csv, "Name another file"):
            replace_file(csv, table.to_csv(index=False).encode())
    if picture is not None:
        save_picture(draw_responses(facts), picture)
    if page is not None:
        write_page(page, _as_page(facts))


def _as_page(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment

    line, *of_regions = responses_tables(facts)
    rounded = [{**one, "p": f"{one['p']:.2g}", "q": f"{one['q']:.2g}"} for one in facts["units"]]
    of_units = table_of(
        rounded, patient_id="patient", unit="unit", brain_region="region", before_hz="before (Hz)",
        after_hz="after (Hz)", change_hz="change (Hz)", p="p", q="q",
    )  # fmt: skip
    page_html, style, script = (
        files(__package__).joinpath(name).read_text("utf-8") for name in ("responses.html", "web.css", "web.js")
    )
    return Environment(autoescape=True).from_string(page_html).render(
        label_name=facts["label_name"], line=line, of_regions=of_regions, of_units=of_units, html_table=html_table,
        picture=as_data_url(draw_responses(facts)), style=style, script=script,
    )  # fmt: skip


def draw_responses(facts: Mapping[str, Any]) -> Any:
    """Return a figure: rates of the clearest units with 95 % intervals, and changes of all units, by region."""
    units = facts["units"]
    rates_hz, errors_hz = (np.array([one[name] for one in units]) for name in ("rates_hz", "errors_hz"))
    change_hz = rates_hz - np.array([[one["before_hz"]] for one in units])
    in_errors = np.divide(change_hz, errors_hz, out=np.zeros_like(change_hz), where=errors_hz > 0)
    response = in_errors[:, in_errors.shape[1] // 2 :].mean(axis=1)
    clearest = sorted(range(len(units)), key=lambda unit: (units[unit]["p"], -abs(response[unit])))[:6]
    edges_s, regions = np.linspace(-1, 1, in_errors.shape[1] + 1), facts["regions"][:-1]
    figure = new_figure(12, 8)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 2])
    for unit, axes in zip(clearest, np.ravel(above.subplots(1, len(clearest))), strict=True):
        low, high = (rates_hz[unit] + sign * ERRORS_95 * errors_hz[unit] for sign in (-1, 1))
        axes.stairs(high, edges_s, baseline=low, fill=True, color="0.8")
        axes.stairs(rates_hz[unit], edges_s, baseline=None, color="black")
        axes.axvline(0, color="tab:red", lw=1)
        axes.set(ylim=(0, None), xticks=(-1, 0, 1))
        name = "patient {patient_id}, unit {unit}, {brain_region}".format_map(units[unit])
        axes.set_title(f"{picture_text(name)}\nq = {units[unit]['q']:.2g}", fontsize="small")
    above.supylabel("rate (Hz)", fontsize="medium")
    panels = np.ravel(below.subplots(1, len(regions)))
    for region, axes in zip(regions, panels, strict=True):
        in_region = [unit for unit, one in enumerate(units) if one["brain_region"] == region["region"]]
        rows = sorted(in_region, key=lambda unit: -response[unit])
        mesh = axes.imshow(
            in_errors[rows], vmin=-5, vmax=5, cmap="RdBu_r", extent=(-1, 1, len(rows), 0), aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        marked = [row + 0.5 for row, unit in enumerate(rows) if units[unit]["q"] <= MAX_Q]
        axes.axvline(0, color="black", lw=0.5)
        axes.set(xticks=(-1, 0, 1), yticks=marked, yticklabels=())
        title = f"{picture_text(region['region'])}\n{region['n_responsive']} of {region['n_units']}"
        axes.set_title(title, fontsize="small")
    panels[0].set_ylabel("units, sorted by response; a tick where q <= 0.05")
    below.colorbar(mesh, ax=panels, label="rate less that before the onset (standard errors)", pad=0.01)
    below.supxlabel(f"time from the onset of {picture_text(facts['label_name'])} (s)", fontsize="medium")
    return figure
