"""A key as Parquet tables, for other tools."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep import __version__
from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DIMENSIONS, Description
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError
from summer_prep.files import staged
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, LABEL_RULES, ON, UNDEFINED, LabelRule
from summer_prep.optional import load_extra
from summer_prep.options import as_bin_lengths, as_number, as_path, as_patient_ids, as_place
from summer_prep.urls import Place

_OF_BINS = ("bin_start_s", "first_frame", "recorded_s", "long_frame_s", "recording_start_ms", "recording_stop_ms")
_TABLES = ("bins", "labels", "units")


def export(
    patient_id: str | int,
    target: str | Path,
    *,
    cache_dir: str | Path = "data_cache",
    bin_length: int = DEFAULT_BIN_LENGTH_MS,
    label_rule: LabelRule = "first",
    force: bool = False,
    local_cache: str | Path | None = None,
) -> list[Path]:
    """Write a key as Parquet tables, as `summer-prep export` does.

    Parameters
    ----------
    target : the folder for bins.parquet, labels.parquet and units.parquet
    bin_length : ms
    label_rule : which frames decide a bin's label
    force : replace what is there

    Returns
    -------
    The files that were written

    Raises
    ------
    SettingsError : the extra for exports is missing, or something stands in the way
    CacheError : the key is missing or damaged
    """
    (patient,) = as_patient_ids([patient_id], "patient_id")
    (length,) = as_bin_lengths([bin_length], "--bin-length")
    path, force = Path(os.path.abspath(as_path(target, "TARGET"))), as_number(force, bool, "--force")
    if label_rule not in LABEL_RULES:
        raise SettingsError(f"--label-rule {label_rule}: choose one of {', '.join(LABEL_RULES)}")
    load_extra("pyarrow", f"export to {path}")
    place = as_place(cache_dir, "--cache-dir")
    _check_target(path, force, place)
    cache = open_cache(place, None if local_cache is None else as_path(local_cache, "--local-cache"))
    return _write_parquet(cache.fetch(patient, length, every_byte=True), path, label_rule)


def _check_target(path: Path, force: bool, cache_dir: Place) -> None:
    """Refuse what is no folder, one that is not empty unless `force` is given, and the cache."""
    if not path.name:
        raise SettingsError(f"{path}: is the root of the file system. Name a folder in it")
    if isinstance(cache_dir, Path) and path.resolve().is_relative_to(cache_dir.resolve()):
        raise SettingsError(f"{path}: lies in the cache, which holds only keys. Name another folder")
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{path}: is a file. Name a folder for the Parquet tables")
    if path.suffix and not path.exists():
        raise SettingsError(f"{path}: ends in {path.suffix}. Name a folder for the Parquet tables (NWB: docs/howto.md)")
    if not force and path.exists() and any(path.iterdir()):
        raise SettingsError(f"{path}: is not empty. Name another folder, or replace the tables in it with --force")
    for table in (path / f"{name}.parquet" for name in _TABLES):
        if table.is_dir():
            raise SettingsError(f"{table}: is a folder. Name another folder for the tables")


def _write_parquet(key: Description, folder: Path, label_rule: LabelRule) -> list[Path]:
    import pyarrow
    import pyarrow.parquet

    about = {name: str(value) for name, value in _about(key, label_rule).items()}
    with staged(folder, "Name another folder") as place:
        place.mkdir(parents=True)
        for name, columns in _tables(key, label_rule).items():
            table = pyarrow.table(columns).replace_schema_metadata(about)
            with (place / f"{name}.parquet").open("wb") as file:  # by a path, only one in UTF-8
                pyarrow.parquet.write_table(table, file)
        folder.mkdir(exist_ok=True)
        written = [folder / path.name for path in sorted(place.iterdir())]
        for path in written:
            os.replace(place / path.name, path)
    return written


def _tables(key: Description, label_rule: LabelRule) -> dict[str, dict[str, Any]]:
    """Return name -> column -> values: a row for each bin, unit, and bin."""
    import pyarrow

    counts, bins = read_array(key.folder, "spike_counts"), np.arange(key.attributes["n_bins"], dtype=np.int32)
    labels = read_array(key.folder, f"labels_{label_rule}")
    of_labels = {
        name: pyarrow.array(values == ON, mask=values == UNDEFINED)
        for name, values in zip(key.attributes["label_names"], labels, strict=True)
    }
    return {
        "bins": {
            "bin": bins,
            **{name: read_array(key.folder, name) for name in _OF_BINS},
            **{f"unit_{unit}": np.ascontiguousarray(counts[:, unit]) for unit in range(counts.shape[1])},
        },
        "units": {
            "unit": np.arange(counts.shape[1], dtype=np.int32),
            **_named_beside("unit", _unit_columns(key)),
        },
        "labels": {"bin": bins, **_named_beside("bin", of_labels)},
    }


def _named_beside(ours: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns of a recording, of which one that is called like ours gets a name that none has."""
    name = ours
    while name in columns or name == ours:
        name += "_of_file"
    return {name if column == ours else column: values for column, values in columns.items()}


def _unit_columns(key: Description) -> dict[str, Any]:
    """Return the columns of the recording's unit table, texts as a list."""
    names = [name for name in key.attributes["digests"] if name not in DIMENSIONS]
    columns = {name: read_array(key.folder, name) for name in names}
    return {name: values.tolist() if values.dtype.kind == "T" else values for name, values in columns.items()}


def _about(key: Description, label_rule: LabelRule) -> dict[str, Any]:
    """Return what a reader of an export must know of its origin."""
    source = key.attributes["source"]
    return {
        **{name: key.attributes[name] for name in ("patient_id", "bin_length_ms", "n_bins", "n_units")},
        "label_rule": label_rule,
        "source_file": source["file_name"],
        "source_sha256": source["sha256"],
        "written_by": f"summer-pipeline {__version__}",
    }
