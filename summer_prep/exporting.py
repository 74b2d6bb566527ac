"""A key in formats of other tools: Parquet tables, or an NWB file with the extension for binned spikes."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from summer_prep import __version__
from summer_prep.caches import open_cache
from summer_prep.dataset import DEFAULT_BIN_LENGTH_MS, LABEL_RULES, ON, UNDEFINED, LabelRule
from summer_prep.errors import SettingsError
from summer_prep.extras import load_extra
from summer_prep.key import DIMENSIONS, Description
from summer_prep.output import staged
from summer_prep.places import Place
from summer_prep.store import ARRAY_ATTRIBUTES, read_array
from summer_prep.values import as_bin_lengths, as_number, as_path, as_patient_ids, as_place

_OF_BINS = ("bin_start_s", "first_frame", "recorded_s", "recording_start_ms", "recording_stop_ms")
_FILM, _LABELS = "film_bins", "film_labels"
_ADVICE = "Name another place"
_TABLES = ("bins", "labels", "units")
_OF_EXPORT = "Spike counts of patient"
"""Begins what an NWB file of ours says of itself."""


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
    """Write a key in a format of other tools, as `summer-prep export` does.

    Parameters
    ----------
    target : an NWB file (ends in .nwb), or a folder for Parquet tables: bins.parquet, units.parquet, labels.parquet
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
    is_nwb = path.suffix.lower() == ".nwb"
    load_extra("ndx_binned_spikes" if is_nwb else "pyarrow", f"export to {path}")
    place = as_place(cache_dir, "--cache-dir")
    _check_target(path, is_nwb, force, place)
    cache = open_cache(place, None if local_cache is None else as_path(local_cache, "--local-cache"))
    key = cache.fetch(patient, length, every_byte=True)
    return _write_nwb(key, path, label_rule) if is_nwb else _write_parquet(key, path, label_rule)


def _check_target(path: Path, is_nwb: bool, force: bool, cache_dir: Place) -> None:
    """Refuse to write over what may be somebody's recording, or into a cache."""
    if not path.name:
        raise SettingsError(f"{path}: is the root of the file system. Name a folder in it, or a file that ends in .nwb")
    if isinstance(cache_dir, Path) and path.resolve().is_relative_to(cache_dir.resolve()):
        raise SettingsError(f"{path}: lies in the cache, which holds keys alone. Name another place")
    if is_nwb and path.is_dir():
        raise SettingsError(f"{path}: is a folder. Name a file that ends in .nwb, or a folder of another name")
    if not is_nwb and path.exists() and not path.is_dir():
        raise SettingsError(f"{path}: is a file. Name a folder for Parquet tables, or a file that ends in .nwb")
    if not is_nwb and path.suffix and not path.exists():
        raise SettingsError(
            f"{path}: ends in {path.suffix}. Name a file that ends in .nwb, or a folder for Parquet tables"
        )
    if not force and path.exists() and (is_nwb or any(path.iterdir())):
        raise SettingsError(f"{path}: is there already. Name another place, or replace it with --force")
    if is_nwb and path.exists() and not _is_export(path):
        raise SettingsError(f"{path}: is no export, and is not replaced. Name another file")
    for name in _TABLES:
        if not is_nwb and (path / f"{name}.parquet").is_dir():
            raise SettingsError(f"{path / name}.parquet: is a folder. Name another place")


def _is_export(path: Path) -> bool:
    """Return whether a file was written by this command."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return bytes(file["session_description"][()]).startswith(_OF_EXPORT.encode())
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _write_parquet(key: Description, folder: Path, label_rule: LabelRule) -> list[Path]:
    import pyarrow
    import pyarrow.parquet

    about = {name: str(value) for name, value in _about(key, label_rule).items()}
    with staged(folder, _ADVICE) as place:
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


def _write_nwb(key: Description, path: Path, label_rule: LabelRule) -> list[Path]:
    from pynwb import NWBHDF5IO

    with staged(path, _ADVICE) as place:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NWBHDF5IO(place, "w") as io:
            io.write(_nwb_file(key, label_rule))
        os.replace(place, path)
    return [path]


def _nwb_file(key: Description, label_rule: LabelRule) -> Any:
    """Return the film as one event: counts of its bins on the film clock, in a file of units, bins and labels."""
    from ndx_binned_spikes import BinnedAlignedSpikes
    from pynwb import NWBFile
    from pynwb.file import Subject

    about, attributes = _about(key, label_rule), key.attributes
    nwb_file = NWBFile(
        session_description=(
            f"{_OF_EXPORT} {about['patient_id']} in film bins of {about['bin_length_ms']} ms, from "
            f"{about['source_file']} (SHA-256 {about['source_sha256']}), by {about['written_by']}. "
            "The date of the session is not known here."
        ),
        identifier=f"{attributes['source']['nwb_identifier']}-bin-{about['bin_length_ms']}ms-{label_rule}",
        session_start_time=datetime(1970, 1, 1, tzinfo=UTC),
        subject=Subject(subject_id=about["patient_id"], species="Homo sapiens"),
    )
    _add_units(nwb_file, key)
    module = nwb_file.create_processing_module("film", "Spike counts and annotations along the film")
    starts_ms, counts = read_array(key.folder, "recording_start_ms"), read_array(key.folder, "spike_counts")
    film_starts_s = read_array(key.folder, "bin_start_s")
    first = int(np.flatnonzero(np.isfinite(starts_ms))[0])  # of the first bin that was seen
    units = nwb_file.units.create_region("units_region", slice(0, len(nwb_file.units)), "all units, in order")
    module.add(
        BinnedAlignedSpikes(
            description=(
                "Counts of every unit in consecutive bins of the film, the only event. bin_width_in_ms is film time: "
                "on the recording clock a bin takes about 2.5 % longer, and pauses come on top (see film_bins)."
            ),
            bin_width_in_ms=float(about["bin_length_ms"]),
            event_to_bin_offset_in_ms=float((film_starts_s[0] - film_starts_s[first]) * 1000),
            data=np.ascontiguousarray(counts.T[:, None, :]),
            event_timestamps=np.array([starts_ms[first] / 1000]),
            units_region=units,
        )
    )
    module.add(_bin_table(key))
    module.add(_label_table(key, label_rule))
    return nwb_file


def _add_units(nwb_file: Any, key: Description) -> None:
    descriptions = key.attributes.get("column_descriptions", {})
    columns = {name: values for name, values in _unit_columns(key).items() if name not in _COLUMNS_OF_NWB}
    for name in columns:
        nwb_file.add_unit_column(name, descriptions.get(name) or name)
    for unit in range(key.attributes["n_units"]):
        nwb_file.add_unit(id=unit, **{name: values[unit] for name, values in columns.items()})


_COLUMNS_OF_NWB = ("id", "spike_times", "obs_intervals", "electrodes", "electrode_group", "waveforms")
"""Columns of the unit table that NWB gives another meaning or shape."""


def _bin_table(key: Description) -> Any:
    from hdmf.common import DynamicTable, VectorData

    columns = [
        VectorData(name=name, description=f"{about['long_name']} ({about['units']})", data=read_array(key.folder, name))
        for name, about in ((name, ARRAY_ATTRIBUTES[name]) for name in _OF_BINS)
    ]
    return DynamicTable(name=_FILM, description="The bins of the film, a row each", columns=columns)


def _label_table(key: Description, label_rule: LabelRule) -> Any:
    from hdmf.common import DynamicTable, VectorData

    names = VectorData(
        name="label_name", description="name of the annotation", data=list(key.attributes["label_names"])
    )
    values = VectorData(
        name="bin_values",
        description=f"the label in every bin, rule {label_rule}: 0 off, 1 on, {UNDEFINED} undefined; (label, bin)",
        data=read_array(key.folder, f"labels_{label_rule}"),
    )
    return DynamicTable(name=_LABELS, description="Annotations of the film, a row each", columns=[names, values])
