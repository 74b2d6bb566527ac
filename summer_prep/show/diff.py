"""Two caches, patients or keys side by side: which numbers differ, and from which bin on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DIMENSIONS, Description, bin_length_of, is_patient_id, key_of_path, key_path
from summer_prep.cache.targets import FilmTarget, film_targets
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.options import as_place
from summer_prep.urls import Place

_SAID_BY_ARRAYS = {"digests", "files", "document_sha256", "coordinates", "column_descriptions", "units", "label_names"}
"""Attributes that follow from the arrays, or repeat them."""

_NUMBERS = {"n_bins", "n_units", "n_unseen_bins", "pauses", "long_frames", "spikes", "kind", "columns"}
"""Attributes that are numbers of the recording, as arrays are, or say what those of a target mean."""

Difference = dict[str, Any]


def diff(first: str | Path, second: str | Path, local_cache: Path | None = None) -> list[Difference]:
    """Return what differs between two caches, two patients of caches, or two keys, as `summer-prep diff` shows it.

    Parameters
    ----------
    first, second : both caches (keys of the same patient and bin length are compared), both folders of patients
        (`data_cache/sub-14`: keys of the same bin length) or both keys (`data_cache/sub-14/bin-80ms.zarr`); or URLs
    local_cache : folder into which keys in a bucket are fetched

    Returns
    -------
    For each pair of keys: `first`, `second` (None where one is missing), `arrays` and `attributes` that differ;
    of an array `name`, `shapes`, `n_different` values of `n_values` (those that both have), and the `first_difference`:
    where it is (`bin`, `film_s`, `unit`, `label`, `label_name` of the first) and both `values`; of an array that only
    one key has, `only_in` ("first", "second") instead. After the keys of caches in folders, their targets likewise:
    `target` is the name, and the first difference of `values` is at a `frame` and `column`

    Raises
    ------
    SettingsError : a cache and a key cannot be compared; nothing is there
    CacheError : a key is damaged
    """
    places = as_place(first, "A"), as_place(second, "B")
    (kind, ours), (other_kind, theirs) = (_keys_at(place, local_cache) for place in places)
    if kind != other_kind:
        raise SettingsError(f"{first} is a {kind}, {second} a {other_kind}. Name two of a kind")
    found: list[Difference] = []
    for name in sorted({*ours, *theirs}):
        ours_at, theirs_at = ours.get(name), theirs.get(name)
        pair: Difference = {"first": ours_at and str(ours_at), "second": theirs_at and str(theirs_at)}
        pair |= {"arrays": [], "attributes": []}
        if ours_at is not None and theirs_at is not None:
            one, other = (  # every byte is checked: what is compared is what was written
                open_cache(place.parent.parent, local_cache).fetch(*key_of_path(place), every_byte=True)
                for place in (ours_at, theirs_at)
            )
            pair["arrays"] = list(_different_arrays(one, other))
            pair["attributes"] = [
                {"name": name, "first": one.attributes.get(name), "second": other.attributes.get(name)}
                for name in {**one.attributes, **other.attributes}
                if name not in _SAID_BY_ARRAYS and one.attributes.get(name) != other.attributes.get(name)
            ]
        found.append(pair)
    targets = [film_targets(place) for place in places if isinstance(place, Path)]
    names = sorted({*targets[0], *targets[-1]}) if len(targets) == 2 else []  # a bucket has none
    found += [_target_pair(name, *(one.get(name) for one in targets)) for name in names]
    return found


def _target_pair(name: str, one: FilmTarget | None, other: FilmTarget | None) -> Difference:
    pair: Difference = {"target": name, "first": one and str(one.path), "second": other and str(other.path)}
    pair |= {"arrays": [], "attributes": []}
    if one is not None and other is not None:
        if one.sha256 != other.sha256:
            ours, theirs = (np.concatenate(list(target.blocks())) for target in (one, other))
            pair["arrays"] = [_compare_arrays("values", ours, theirs, ("frame", "column"))]
        sides = [(name, vars(one)[name], vars(other)[name]) for name in ("kind", "columns")]
        pair["attributes"] = [{"name": name, "first": a, "second": b} for name, a, b in sides if a != b]
    return pair


def is_equal(difference: Difference) -> bool:
    """Return whether both keys or targets are there and hold the same numbers; how they are stored may differ."""
    both = difference["first"] is not None and difference["second"] is not None
    return both and not difference["arrays"] and not _NUMBERS & {one["name"] for one in difference["attributes"]}


def _keys_at(place: Place, local_cache: Path | None) -> tuple[str, dict[tuple[str, int], Place]]:
    """Return whether a place is a cache, a patient or a key, and its keys by what they are compared by."""
    place = place.resolve() if isinstance(place, Path) else place
    patient_id = place.name.removeprefix("sub-")
    if bin_length_of(place.name) is not None and place.parent.name.startswith("sub-"):
        return "key", {("", 0): place}
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
    is_same_size = all(one.attributes[name] == other.attributes[name] for name in ("n_bins", "n_units", "label_names"))
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs:
            yield {"name": name, "only_in": "first" if name in ours else "second"}
        elif not is_same_size or ours[name] != theirs[name]:  # a digest is of the bytes alone
            different = _compare_arrays(name, read_array(one.folder, name), read_array(other.folder, name))
            first = different["first_difference"] or {}
            if "bin" in first:
                first["film_s"] = float(read_array(one.folder, "bin_start_s")[first["bin"]])
            if "label" in first:
                first["label_name"] = one.attributes["label_names"][first["label"]]
            if first or different["shapes"][0] != different["shapes"][1]:
                yield different


def _compare_arrays(name: str, ours: NDArray[Any], theirs: NDArray[Any], dimensions: Sequence[str] = ()) -> Difference:
    """Return how two arrays differ, over the part that both have."""
    shared = tuple(map(slice, np.minimum(ours.shape, theirs.shape)))
    one, other = ours[shared], theirs[shared]
    is_same_kind = (one.dtype.kind == "T") == (other.dtype.kind == "T")
    differs = one != other if is_same_kind else np.ones(one.shape, bool)
    if one.dtype.kind == other.dtype.kind == "f":
        differs &= ~(np.isnan(one) & np.isnan(other))
    first = None
    if differs.any():
        dimensions = dimensions or DIMENSIONS.get(name, ("unit",))
        by = dimensions.index("bin") if "bin" in dimensions else 0
        by_bin = np.moveaxis(differs, by, 0)  # the first is that of the lowest bin
        place = [int(at) for at in np.unravel_index(by_bin.argmax(), by_bin.shape)]
        place.insert(by, place.pop(0))
        values = [np.asarray(array[*place]).item() for array in (one, other)]
        first = {**dict(zip(dimensions, place, strict=True)), "values": values}
    shapes, n_different = [list(ours.shape), list(theirs.shape)], int(differs.sum())
    found = {"name": name, "shapes": shapes, "n_different": n_different, "n_values": int(differs.size)}
    return {**found, "first_difference": first}
