"""A key as Parquet tables, for other tools."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep import __version__
from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DIMENSIONS
from summer_prep.cache.write import read_array
from summer_prep.errors import SettingsError, load_extra
from summer_prep.files import replacing, writing
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, LABEL_RULES, ON, UNDEFINED, LabelRule
from summer_prep.options import as_bin_lengths, as_number, as_path, as_patient_ids, as_place
from summer_prep.show.facts import features_of, labels_of

_OF_BINS = ("bin_start_s", "first_frame", "recorded_s", "long_frame_s", "recording_start_ms", "recording_stop_ms")


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
    target : the folder for bins.parquet, labels.parquet, units.parquet, and features.parquet if the cache has any
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
    if not path.name or path.is_file() or (path.suffix and not path.exists()):
        raise SettingsError(f"{path}: name a folder for the Parquet tables (NWB: docs/howto.md)")
    if isinstance(place, Path) and path.resolve().is_relative_to(place.resolve()):
        raise SettingsError(f"{path}: lies in the cache, which holds only keys. Name another folder")
    if not force and path.exists() and any(path.iterdir()):
        raise SettingsError(f"{path}: is not empty. Name another folder, or replace the tables in it with --force")
    cache = open_cache(place, None if local_cache is None else as_path(local_cache, "--local-cache"))
    key = cache.fetch(patient, length, every_byte=True)

    import pyarrow
    import pyarrow.parquet

    attributes = key.attributes
    about = {
        **{name: str(attributes[name]) for name in ("patient_id", "bin_length_ms", "n_bins", "n_units")},
        "label_rule": label_rule,
        "source_file": attributes["source"]["file_name"],
        "source_sha256": attributes["source"]["sha256"],
        "written_by": f"summer-pipeline {__version__}",
    }
    bins = np.arange(attributes["n_bins"], dtype=np.int32)
    counts = read_array(key.folder, "spike_counts")
    of_units = {name: read_array(key.folder, name) for name in attributes["digests"] if name not in DIMENSIONS}
    tables: dict[str, dict[str, Any]] = {
        "bins": {"bin": bins, **{name: read_array(key.folder, name) for name in _OF_BINS}},
        "labels": {"bin": bins},
        "units": {"unit": np.arange(counts.shape[1], dtype=np.int32)},
    }
    for unit in range(counts.shape[1]):
        tables["bins"][f"unit_{unit}"] = np.ascontiguousarray(counts[:, unit])
    for name, values in zip(*labels_of(key, label_rule), strict=True):
        on = pyarrow.array(values == ON, mask=values == UNDEFINED)
        tables["labels"]["bin_of_file" if name == "bin" else name] = on
    for name, values in of_units.items():
        tables["units"][name] = values.tolist() if values.dtype.kind == "T" else values
    for one, values in features_of(key):
        named = {f"{one.name}:{column}": values[:, number] for number, column in enumerate(one.columns)}
        tables.setdefault("features", {"bin": bins}).update(named)
    written = [path / f"{name}.parquet" for name in tables]
    with writing(path, "Name another folder"):
        (path / "features.parquet").unlink(missing_ok=True)  # of targets that may be gone
        for file, columns in zip(written, tables.values(), strict=True):
            with replacing(file) as stream:  # pyarrow would take a path in UTF-8 only
                pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), stream)
    return written
