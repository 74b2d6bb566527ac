"""What people read about keys: facts as tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from summer_prep.console import Table

Facts = Mapping[str, Any]


def table_of(rows: Iterable[Facts], **columns: str) -> Table:
    """Return a row for each of some facts, which name=header chooses; a fact that is missing leaves a cell empty."""
    return _table(list(columns.values()), ([row.get(name, "") for name in columns] for row in rows))


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table of values as people read them; "-" for a number that is undefined."""

    def readable(value: object) -> object:
        if isinstance(value, float):
            return f"{value:.2f}" if math.isfinite(value) else "-"
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    return Table(header, [list(map(readable, row)) for row in rows])


def results_table(results: Iterable[Facts]) -> Table:
    """Return a row for each key that was built, or is fresh."""
    rows = ({**result, **result["spikes"]} for result in results)
    return table_of(
        rows, patient_id="patient", bin_length_ms="ms", state="state", n_bins="bins", n_units="units",
        counted="counted", in_pauses="in pauses", outside="outside", seconds="s",
    )  # fmt: skip


def patients_table(keys: Iterable[Facts]) -> Table:
    """Return a row for each patient; spikes and rates are those of the shortest bins, which leave out fewest."""
    rows = []
    for patient_id, (facts, *longer) in groupby(keys, itemgetter("patient_id")):
        spikes = facts["spikes"]["counted"]
        lengths = " ".join(str(one["bin_length_ms"]) for one in (facts, *longer))
        regions = " ".join(f"{region} {number}" for region, number in facts["n_units_by_region"].items())
        rate_hz = spikes / facts["n_units"] / facts["recorded_total_s"]
        file = facts["source"]["file_name"]
        rows.append([patient_id, lengths, facts["n_units"], regions, spikes, rate_hz, facts["n_pauses"], file])
    return _table(["patient", "bins (ms)", "units", "by region", "spikes", "rate (Hz)", "pauses", "source"], rows)


def target_tables(targets: Sequence[Facts]) -> list[Table | str]:
    """Return a row for each target of the cache, and of a single one a row for each column."""
    if not targets:
        return ["no targets; add one: summer-prep add-target FILE --name NAME"]
    shown = [{**one, "n": len(one["columns"]), "file": one["source"]["file_name"]} for one in targets]
    listed = table_of(shown, target="target", kind="kind", n="columns", n_frames="frames", form="rows", file="file")
    if len(targets) > 1:
        return [listed]
    kind = {"labels": {"on": "share on"}, "features": {"mean": "mean", "sd": "SD"}}[targets[0]["kind"]]
    return [listed, table_of(targets[0]["columns"], column="column", **kind, undefined="undefined")]


def states_table(states: Iterable[Facts]) -> Table:
    """Return a row for each key of recordings and cache: whether it is fresh, and why not."""
    rows = ({**state, "n_bytes": f"{state['n_bytes']:,}"} for state in states)
    titles = {"bin_length_ms": "bin (ms)", "state": "state", "reason": "reason", "n_bytes": "bytes"}
    return table_of(rows, patient_id="patient", **titles)


def key_tables(facts: Facts) -> list[Table | str]:
    """Return what is read of one key: a few lines, and tables of spikes, arrays, regions, labels, pauses."""
    unseen = f", {facts['n_unseen_bins']} of them never seen" if facts["n_unseen_bins"] else ""
    arrays = []
    for array in facts["arrays"]:
        sizes = zip(array["dimensions"], array["shape"], strict=True)
        dtype = "text" if "String" in array["dtype"] else array["dtype"]
        dimensions = " x ".join(f"{dimension} {size}" for dimension, size in sizes)
        codec = f"{dtype} {array['codec']}".removesuffix(" none")
        arrays.append([array["name"], dimensions, codec, f"{array['bytes']:,}", f"{array['stored_bytes']:,}"])
    pauses = []
    for pause in facts["pauses"]:
        times_s = (pause["film_time_s"], pause["start_ms"] / 1000, pause["duration_ms"] / 1000)
        pauses.append([pause["frame"], *times_s, "long frame" if pause["is_long_frame"] else ""])
    return [
        facts["key"],
        f"{facts['n_bins']} bins{unseen}, {facts['n_units']} units from {facts['source']['file_name']}",
        *(f"note: {note}" for note in facts["notes"]),
        Table(["spikes", "number"], [[name.replace("_", " "), f"{n:,}"] for name, n in facts["spikes"].items()]),
        Table(["array", "dimensions", "dtype", "bytes", "on disk"], arrays),
        table_of(
            facts["regions"], region="region", n_units="units", median_rate_hz="median rate (Hz)",
            max_rate_hz="highest rate (Hz)",
        ),
        labels_table(facts["labels"]),
        *[table_of(facts["features"], target="features", n_dimensions="dimensions", undefined="undef. %")]
        * bool(facts["features"]),
        _table(["pause at frame", "film time (s)", "recording start (s)", "duration (s)", ""], pauses),
    ]  # fmt: skip


def labels_table(labels: Sequence[Facts]) -> Table:
    """Return a row for each label: shares of bins by rule, stretches, and the folds that lack it if those are known."""
    target, lacks = ({name: name} if any(name in one for one in labels) else {} for name in ("target", "lacks"))
    return table_of(
        labels, label="label", **target, first="first %", any="any %", majority="major. %", undefined="undef. %",
        n_stretches="runs", longest_s="longest", **lacks,
    )  # fmt: skip


def unit_tables(facts: Facts) -> list[Table | str]:
    """Return what is read of one unit: its numbers, and its rates by label."""
    numbers = [(name.replace("_", " "), value) for name, value in facts.items() if name not in ("unit", "labels")]
    rates = table_of(facts["labels"], label="label", on_hz="on (Hz)", off_hz="off (Hz)", ratio="ratio")
    return [_table(["unit", str(facts["unit"])], numbers), rates]


def fold_tables(facts: Facts) -> list[Table | str]:
    """Return what is read of folds: how often a label is on in the test part of each, and the sizes of parts."""
    shares = [[one["label"], *(parts["test"] for parts in one["on"].values()), one["lacks"]] for one in facts["labels"]]
    sizes = [(fold, *parts.values()) for fold, parts in facts["n_bins"].items()]
    return [
        f"folds of the blocked split, buffer {facts['buffer_s']:g} s: the test part's bins with the label on (%)",
        _table(["label", *(f"fold {fold}" for fold, *_ in sizes), "lacks"], shares),
        Table(["fold", "train (bins)", "validation", "test", "unused"], sizes),
    ]


def responses_tables(facts: Facts) -> list[Table | str]:
    """Return what is read of responses to a label: a line, the units of each region, and published numbers if asked."""
    onsets, p = [one["n_onsets"] for one in facts["patients"]], 1 / (facts["n_shifts"] + 1)
    n_onsets = " to ".join(dict.fromkeys(map(str, (min(onsets), max(onsets)))))
    tested = f"{facts['n_units']} units, {n_onsets} onsets, moved {facts['n_shifts']} times"
    published = {"label_name": "published", "n_responsive": "responsive", "mostly_in": "mostly in", "test": "test"}
    return [
        f"{facts['label_name']}: {tested}: q <= 0.05 needs {facts['n_needed']} units with the smallest p, {p:.2g}",
        table_of(
            facts["regions"], region="region", n_units="units", n_responsive="responsive", share="%", n_up="up",
            n_down="down",
        ),
        *[table_of(facts.get("published", []), **published)] * ("published" in facts),
    ]  # fmt: skip


def differences_tables(differences: Iterable[Facts]) -> list[Table]:
    """Return a row for each array of each pair of keys that differs, and for each attribute; nothing if none does."""
    arrays: list[Sequence[object]] = []
    attributes: dict[str, list[Any]] = {}
    for pair in differences:
        if None in (pair["first"], pair["second"]):
            arrays.append([pair["first"] or pair["second"], "", f"only in {'A' if pair['first'] else 'B'}", "", "", ""])
        for array in pair["arrays"]:
            differ, where, values = f"only in {'A' if array.get('only_in') == 'first' else 'B'}", "", ["", ""]
            if "shapes" in array:
                shapes = [" x ".join(map(str, shape)) for shape in array["shapes"]]
                differ, values, first = "shape alone", shapes, array["first_difference"]
                if first is not None:
                    differ = f"{array['n_different']:,} of {array['n_values']:,}"
                    names = {name: name.split("_")[0] for name in ("bin", "frame", "unit", "column", "label_name")}
                    where = ", ".join(f"{word} {first[name]}" for name, word in names.items() if name in first)
                    where += f" ({first['film_s']:.2f} s)" if "film_s" in first else ""
                    has_one_shape = shapes[0] == shapes[1]
                    sides = zip(first["values"], shapes, strict=True)
                    values = [str(value) if has_one_shape else f"{value} ({shape})" for value, shape in sides]
            arrays.append([pair["first"], array["name"], differ, where, *values])
        for one in pair["attributes"]:
            values = [f"{one[side]!s:.40}" for side in ("first", "second")]
            attributes.setdefault(one["name"], [one["name"].replace("_", " "), 0, *values])[1] += 1
    tables = [
        Table(["key of A", "array", "differ", "first at", "A", "B"], arrays),
        Table(["attribute", "keys", "A (of the first)", "B"], list(attributes.values())),
    ]
    return [table for table in tables if table.rows]
