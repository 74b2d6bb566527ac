"""Two caches, patients or keys side by side: which numbers differ, and from which bin on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DIMENSIONS, Description, bin_length_of, is_patient_id, key_of_path, key_path
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.options import as_place
from summer_prep.urls import Place

_TOLD_BY_ARRAYS = {"digests", "files", "document_sha256", "coordinates", "column_descriptions", "units", "label_names"}
"""Attributes that say what the arrays say."""

_NUMBERS = {"n_bins", "n_units", "n_unseen_bins", "pauses", "long_frames", "spikes"}
"""Attributes that are numbers of the recording, as arrays are."""

Difference = dict[str, Any]
Keys = dict[tuple[str, int], Place]


def diff(first: str | Path, second: str | Path, local_cache: Path | None = None) -> list[Difference]:
    """Return what differs between two caches, two patients of caches, or two keys, as `summer-prep diff` tells.

    Parameters
    ----------
    first, second : both caches (keys of the same patient and bin length are compared), both folders of patients
        (`data_cache/sub-14`: keys of the same bin length) or both keys (`data_cache/sub-14/bin-80ms.zarr`); or URLs
    local_cache : folder into which keys in a bucket are fetched

    Returns
    -------
    For each pair of keys: `first`, `second` (None where one is missing), `arrays` and `attributes` that differ;
    of an array `name`, `shapes`, `n_different` values of `n_values` (those that both have), and the `first_difference`:
    where it is (`bin`, `film_s`, `unit`, `label`, `label_name` of the first) and both `values`; an array that one
    of them has alone says so in `only_in` ("first", "second") instead

    Raises
    ------
    SettingsError : a cache and a key cannot be compared; nothing is there
    CacheError : a key is damaged
    """
    (kind, ours), (other_kind, theirs) = (
        _keys_at(as_place(place, name), local_cache) for place, name in ((first, "A"), (second, "B"))
    )
    if kind != other_kind:
        raise SettingsError(f"{first} is a {kind}, {second} a {other_kind}. Name two of a kind")
    found: list[Difference] = []
    for name in sorted({*ours, *theirs}):
        sides = {"first": ours.get(name), "second": theirs.get(name)}
        pair: Difference = {side: place and str(place) for side, place in sides.items()}
        pair |= {"arrays": [], "attributes": []}
        if name in ours and name in theirs:
            one, other = (
                open_cache(place.parent.parent, local_cache).fetch(*key_of_path(place), every_byte=True)
                for place in (ours[name], theirs[name])  # what is compared is what was written
            )
            pair["arrays"] = list(_different_arrays(one, other))
            for attribute in dict.fromkeys([*one.attributes, *other.attributes]):
                values = {"first": one.attributes.get(attribute), "second": other.attributes.get(attribute)}
                if attribute not in _TOLD_BY_ARRAYS and values["first"] != values["second"]:
                    pair["attributes"].append({"name": attribute, **values})
        found.append(pair)
    return found


def is_equal(difference: Difference) -> bool:
    """Return whether both keys are there and hold the same numbers; how they are stored may differ."""
    both = difference["first"] is not None and difference["second"] is not None
    return both and not difference["arrays"] and not _NUMBERS & {one["name"] for one in difference["attributes"]}


def _keys_at(place: Place, local_cache: Path | None) -> tuple[str, Keys]:
    """Return what a place is, and its keys by what they are compared by."""
    place = place.resolve() if isinstance(place, Path) else place
    if bin_length_of(place.name) is not None and place.parent.name.startswith("sub-"):
        return "key", {("", 0): place}
    patient_id = place.name.removeprefix("sub-")
    if patient_id != place.name and is_patient_id(patient_id):
        lengths = open_cache(place.parent, local_cache).bin_lengths(patient_id)
        kind, keys = "patient", {("", length): key_path(place.parent, patient_id, length) for length in lengths}
    else:
        cached = open_cache(place, local_cache).keys()
        kind = "cache"
        keys = {(one, length): key_path(place, one, length) for one, lengths in cached.items() for length in lengths}
    if not keys:
        raise SettingsError(f"{place}: no keys. Name a cache, a patient's folder in it (data_cache/sub-14), or a key")
    return kind, keys


def _different_arrays(one: Description, other: Description) -> Iterator[Difference]:
    ours, theirs = one.attributes["digests"], other.attributes["digests"]
    sizes = [
        (key.attributes["n_bins"], key.attributes["n_units"], len(key.attributes["label_names"]))
        for key in (one, other)
    ]
    for name in dict.fromkeys([*ours, *theirs]):
        if sizes[0] == sizes[1] and ours.get(name) == theirs.get(name):  # the digest is of the bytes alone
            continue
        if name not in ours or name not in theirs:
            yield {"name": name, "only_in": "first" if name in ours else "second"}
            continue
        different = _compare_arrays(name, read_array(one.folder, name), read_array(other.folder, name))
        first = different["first_difference"]
        if first and "bin" in first:
            first["film_s"] = float(read_array(one.folder, "bin_start_s")[first["bin"]])
        if first and "label" in first:
            first["label_name"] = one.attributes["label_names"][first["label"]]
        if different["n_different"] or different["shapes"][0] != different["shapes"][1]:
            yield different


def _compare_arrays(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> Difference:
    """Return how two arrays differ, over the part that both have."""
    shared = tuple(slice(min(sizes)) for sizes in zip(ours.shape, theirs.shape, strict=True))
    one, other = ours[shared], theirs[shared]
    is_same_kind = (one.dtype.kind == "T") == (other.dtype.kind == "T")
    differs = one != other if is_same_kind else np.ones(one.shape, bool)
    if one.dtype.kind == other.dtype.kind == "f":
        differs &= ~(np.isnan(one) & np.isnan(other))
    found: Difference = {
        "name": name,
        "shapes": [list(ours.shape), list(theirs.shape)],
        "n_different": int(differs.sum()),
        "n_values": int(differs.size),
        "first_difference": None,
    }
    if differs.any():
        dimensions = DIMENSIONS.get(name, ("unit",))
        places = np.argwhere(differs)
        by = dimensions.index("bin") if "bin" in dimensions else 0  # the first is that of the lowest bin
        place = tuple(places[places[:, by].argmin()].tolist())
        values = [value.item() if isinstance(value, np.generic) else str(value) for value in (one[place], other[place])]
        found["first_difference"] = {**dict(zip(dimensions, place, strict=True)), "values": values}
    return found
