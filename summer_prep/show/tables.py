"""What people read of keys: tables of what was built, is in the cache, differs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from summer_prep.console import Table

if TYPE_CHECKING:
    from summer_prep.cache.build import KeyResult


def results_table(results: "Sequence[KeyResult]") -> Table:
    """Return a row for each key that was built, or is fresh."""

    def row(result: "KeyResult") -> list[object]:
        tallies = [result.spikes.get(name, "") for name in ("counted", "in_pauses", "outside")]
        seconds = f"{result.seconds:.2f}" if result.state == "built" else ""
        sizes = [result.n_bins or "", result.n_units or ""]
        return [result.patient_id, result.bin_length_ms, result.state, *sizes, *tallies, seconds]

    header = ["patient", "ms", "state", "bins", "units", "counted", "in pauses", "outside", "s"]
    return Table(header, [row(result) for result in results])


def patients_table(keys: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each patient; spikes and rates are those of the shortest bins, which leave out fewest."""
    of_patient: dict[str, list[Mapping[str, Any]]] = {}
    for facts in keys:
        of_patient.setdefault(facts["patient_id"], []).append(facts)

    def row(facts: Mapping[str, Any], lengths_ms: list[int]) -> list[object]:
        regions = " ".join(f"{region} {number}" for region, number in facts["n_units_by_region"].items())
        spikes = facts["spikes"]["counted"]
        rate_hz = spikes / facts["n_units"] / facts["recorded_total_s"]
        where = [" ".join(map(str, lengths_ms)), facts["n_units"], regions]
        return [facts["patient_id"], *where, spikes, f"{rate_hz:.2f}", facts["n_pauses"], file_name(facts)]

    header = ["patient", "bins (ms)", "units", "by region", "spikes", "rate (Hz)", "pauses", "source"]
    return Table(header, [row(found[0], [one["bin_length_ms"] for one in found]) for found in of_patient.values()])


def file_name(facts: Mapping[str, Any]) -> str:
    """Return the name of the recording that a key is of."""
    return str(facts["source"]["file_name"])


def rounded(value: object) -> object:
    """Return a number as people read it; "-" where there is none."""
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else "-"
    return value


def _codec(name: str) -> list[str]:
    return [] if name == "none" else [name]


def key_tables(facts: Mapping[str, Any]) -> list[Table]:
    """Return the tables of one key: spikes, arrays, regions, labels, pauses."""
    arrays = [
        [
            array["name"],
            " x ".join(f"{name} {size}" for name, size in zip(array["dimensions"], array["shape"], strict=True)),
            " ".join(["text" if "String" in array["dtype"] else array["dtype"], *_codec(array["codec"])]),
            f"{array['bytes']:,}",
            f"{array['stored_bytes']:,}",
        ]
        for array in facts["arrays"]
    ]
    regions = [
        [region["region"], region["n_units"], f"{region['median_rate_hz']:.2f}", f"{region['max_rate_hz']:.2f}"]
        for region in facts["regions"]
    ]
    pauses = [
        [
            pause["frame"],
            *(f"{time:.2f}" for time in (pause["film_time_s"], pause["start_ms"] / 1000, pause["duration_ms"] / 1000)),
            "long frame" if pause["is_long_frame"] else "",
        ]
        for pause in facts["pauses"]
    ]
    spikes = [[name.replace("_", " "), f"{value:,}"] for name, value in facts["spikes"].items()]
    return [
        Table(["spikes", "number"], spikes),
        Table(["array", "dimensions", "dtype", "bytes", "on disk"], arrays),
        Table(["region", "units", "median rate (Hz)", "highest rate (Hz)"], regions),
        labels_table(facts["labels"]),
        Table(["pause at frame", "film time (s)", "recording start (s)", "duration (s)", ""], pauses),
    ]


def labels_table(labels: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each label: shares of bins by rule, stretches, and what folds lack it where that is known."""
    rows = [
        [
            label["label"],
            *(f"{label[share]:.2f}" for share in ("first", "any", "majority", "undefined")),
            label["n_stretches"],
            f"{label['longest_s']:.1f}",
            *([", ".join(label["lacks"])] if "lacks" in label else []),
        ]
        for label in labels
    ]
    with_folds = ["lacks"] if labels and "lacks" in labels[0] else []
    return Table(["label", "first %", "any %", "major. %", "undef. %", "runs", "longest", *with_folds], rows)


def differences_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each array of each pair of keys that differs."""
    rows: list[list[object]] = []
    for pair in differences:
        if pair["first"] is None or pair["second"] is None:
            rows.append([pair["first"] or pair["second"], "", f"only in {'A' if pair['first'] else 'B'}", "", "", ""])
        for array in pair["arrays"]:
            rows.append([pair["first"], array["name"], *_difference_cells(array)])
    return Table(["key of A", "array", "differ", "first at", "A", "B"], rows)


def _difference_cells(array: Mapping[str, Any]) -> list[object]:
    if "only_in" in array:
        return [f"only in {'A' if array['only_in'] == 'first' else 'B'}", "", "", ""]
    shapes = [" x ".join(map(str, shape)) for shape in array["shapes"]]
    first = array["first_difference"]
    if first is None:
        return ["shape alone", "", *shapes]
    where = {"bin": first.get("bin"), "unit": first.get("unit"), "label": first.get("label_name")}
    place = ", ".join(f"{name} {value}" for name, value in where.items() if value is not None)
    place += f" ({first['film_s']:.2f} s)" if "film_s" in first else ""
    share = f"{array['n_different']:,} of {array['n_values']:,}"
    sizes = [f" ({shape})" if shapes[0] != shapes[1] else "" for shape in shapes]
    return [share, place, *(f"{value}{size}" for value, size in zip(first["values"], sizes, strict=True))]


def attributes_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each attribute that differs, with the number of pairs of keys in which it does."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for pair in differences:
        for attribute in pair["attributes"]:
            found.setdefault(attribute["name"], []).append(attribute)
    rows = [
        [name.replace("_", " "), len(pairs), *(_shortened(pairs[0][side]) for side in ("first", "second"))]
        for name, pairs in found.items()
    ]
    return Table(["attribute", "keys", "A (of the first)", "B"], rows)


def _shortened(value: object, length: int = 40) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
