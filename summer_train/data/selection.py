"""Chosen units of several patients side by side: counts, labels, units and film seconds of one bin grid."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DIMENSIONS, Description, key_path
from summer_prep.cache.targets import FilmTarget, check_target, feature_targets, label_targets
from summer_prep.errors import CacheError, SettingsError
from summer_prep.film.bins import BinGrid, find_breaks, grid_from
from summer_prep.film.facts import BRAIN_REGION_GROUPS, LABEL_RULES, LabelRule, check_bin_length
from summer_prep.film.labels import align_labels
from summer_prep.film.logic import evaluate, names_in
from summer_prep.options import as_bin_length, as_names, as_number, as_path, as_patient_ids, as_place, as_text
from summer_train.data.mapped import CachedPatient, open_patient, read_file
from summer_train.settings.options import Choice, Log, Run, log_nothing

_ROWS_AT_ONCE = 4096
_CHOOSING_COLUMNS = ("brain_region", "is_single_unit")  # of the unit table


class NoUnitsError(SettingsError):
    """No unit of these patients is of the kind that was asked for."""


class Selection:
    """Chosen units of several patients on one bin grid, side by side in the order of the patients.

    Attributes
    ----------
    patients : open keys
    columns : for each patient the columns of its counts that are used
    n_bins, n_units : the same bins for every patient; units of all patients
    bin_length_ms : nominal length of a bin on the film clock
    shape, dtype, n_bytes : of the chosen counts, (n_bins, n_units), of the smallest dtype that holds every patient's
    """

    def __init__(self, patients: list[CachedPatient], columns: list[NDArray[np.int64]]) -> None:
        self.patients, self.columns = patients, columns
        self.n_bins, self.n_units = patients[0].n_bins, sum(map(len, columns))
        self.bin_length_ms = int(patients[0].attributes["bin_length_ms"])
        self.shape = self.n_bins, self.n_units
        self.dtype: np.dtype[Any] = np.result_type(*(patient.chunks[0].dtype for patient in patients))
        self.n_bytes = self.n_bins * self.n_units * self.dtype.itemsize
        self.spaces: dict[Any, Any] = {}  # what was asked for last: the patients' shared space, or scaled counts
        self._some: dict[bytes, Selection] = {}  # the units that were asked for last
        self._has_features: dict[tuple[str, LabelRule], NDArray[np.bool_]] = {}
        # Of the features asked for last: a study has folds of them.
        self._read: dict[tuple[str, LabelRule], NDArray[np.float32]] = {}

    def __repr__(self) -> str:
        ids = ", ".join(patient.patient_id for patient in self.patients)
        return f"<Selection: patient {ids}, {self.n_units} units, {self.n_bins} bins of {self.bin_length_ms} ms>"

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, the same for every patient."""
        return self.patients[0].label_names

    def counts(self) -> NDArray[Any]:
        """Return the chosen counts, (n_bins, n_units): the mapped file itself where it is exactly that."""
        mapped = self.counts_if_mapped()
        if mapped is not None:
            return mapped
        counts = np.empty(self.shape, dtype=self.dtype)
        for patient, chosen, place in self._side_by_side():
            start = 0
            for chunk in patient.chunks:
                rows = chunk[: self.n_bins - start]  # the last one may be longer than needed
                counts[start : start + len(rows), place] = rows[:, chosen]
                start += len(rows)
        return counts

    def counts_if_mapped(self) -> NDArray[Any] | None:
        """Return the chosen counts without a copy if they are all units in one patient's only chunk; else None."""
        patient, columns = self.patients[0], self.columns[0]
        if len(self.patients) == 1 and len(patient.chunks) == 1 and len(columns) == patient.chunks[0].shape[1]:
            return patient.chunks[0][: self.n_bins]
        return None

    def read_rows(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Fill `out`, (n_rows, n_units), with the counts of the bins named, in that order.

        They are read in the order of the files: a disk is as slow with shuffled rows as it is fast with rows in turn.
        """
        order = np.argsort(indices, kind="stable")
        for patient, chosen, place in self._side_by_side():
            for start in range(0, len(order), _ROWS_AT_ONCE):
                out_rows = order[start : start + _ROWS_AT_ONCE]
                chunk_numbers, rows = np.divmod(indices[out_rows], len(patient.chunks[0]))
                for number in np.unique(chunk_numbers):
                    in_chunk = chunk_numbers == number
                    out[out_rows[in_chunk], place] = patient.chunks[number][rows[in_chunk]][:, chosen]

    def _side_by_side(self) -> Iterator[tuple[CachedPatient, Any, slice]]:
        """Yield each patient, the chosen columns of its counts (a slice for all), and their place among all units."""
        stop = 0
        for patient, columns in zip(self.patients, self.columns, strict=True):
            start, stop = stop, stop + len(columns)
            yield patient, slice(None) if len(columns) == patient.n_units else columns, slice(start, stop)

    def labels(self, label_name: str, rule: LabelRule = "first") -> NDArray[np.uint8]:
        """Return a label's raw value in each bin, (n_bins,), 0, 1 or 99 (undefined).

        Parameters
        ----------
        label_name : of the recordings or of a target of the cache, or an expression of such names with &, | and !

        Raises
        ------
        SettingsError : no such label
        CacheError : its file cannot be read, or was changed since it was opened
        """
        label_name = as_text(label_name, "label_name")
        if rule not in LABEL_RULES:
            raise SettingsError(f"rule {rule!r}: choose one of {', '.join(LABEL_RULES)}")
        own = self.check_label(label_name)
        values = {name: self.patients[0].label(name, rule) for name in names_in(label_name) if name not in own}
        if own:
            grid = self.grid()
            values |= {name: align_labels(one.column(name).T, grid)[rule][0] for name, one in own.items()}
        return evaluate(label_name, values)

    def features(self, target: str, rule: LabelRule = "first") -> NDArray[np.float32]:
        """Return features in each bin, (n_bins, n_dimensions): the mean of its frames; NaN where one is undefined.

        Parameters
        ----------
        target : NAME or NAME:COLUMNS, columns by name or number, joined by +, or a range like 0-9; or several of these
            and of labels or expressions of them (0 or 1), joined by +
        rule : of labels among them

        Raises
        ------
        SettingsError : no such features or labels
        CacheError : they are damaged
        """
        if (target, rule) not in self._read:
            parts = []
            for part, source in self.sources(target).items():
                if source is None:
                    labels = self.labels(part, rule)
                    parts.append(np.where(labels <= 1, labels, np.nan).astype(np.float32)[:, None])
                else:
                    parts.append(source[0].features(self.grid(), source[1]))
            self._read = {(target, rule): parts[0] if len(parts) == 1 else np.hstack(parts)}
        return self._read[target, rule].copy()

    def has_features(self, target: str, rule: LabelRule = "first") -> NDArray[np.bool_]:
        """Return whether features are defined in each bin, (n_bins,); they are read once. Errors as `features`."""
        if (target, rule) not in self._has_features:
            self._has_features[target, rule] = np.asarray(~np.isnan(self.features(target, rule)).any(axis=1))
        return self._has_features[target, rule]

    def sources(self, target: str) -> dict[str, tuple[FilmTarget, list[int]] | None]:
        """Return the parts of A+B with what `check_target` returns of features, None for a label; raises SettingsError.

        A word after NAME:COLUMNS is one of its columns if it has such a column.
        """
        features, parts = feature_targets(self.patients[0].key.parents[1]), list[str]()
        for word in as_text(target, "--target").split("+"):
            name = parts[-1].partition(":")[0] if parts and ":" in parts[-1] else ""
            is_column = name in features and (word in features[name].columns or word[:1].isdigit())
            parts = [*parts[:-1], f"{parts[-1]}+{word}"] if is_column else [*parts, word]
        if len({*parts}) < len(parts) or "" in parts:
            raise SettingsError(f"--target {target}: names a part twice, or none beside a +. Leave one out")
        found = {part: self.check_target(part) if ":" in part or part in features else None for part in parts}
        for part in [part for part, source in found.items() if source is None]:
            self.check_label(part)
        return found

    def check_target(self, target: str) -> tuple[FilmTarget, list[int]]:
        """Return the features that NAME:COLUMNS names, and the numbers of their columns; raises SettingsError."""
        return check_target(self.patients[0].key.parents[1], target)

    def grid(self) -> BinGrid:
        """Return the bins as frames of the film."""
        first_frames = np.frombuffer(read_file(self.patients[0].description, "first_frame/c/0"), dtype="<i4")
        return grid_from(int(first_frames[0]), self.n_bins, self.bin_length_ms)

    def check_label(self, label_name: str) -> dict[str, FilmTarget]:
        """Return the targets of the cache that hold labels of an expression; raises SettingsError if none holds one."""
        patient, names = self.patients[0], [one for one in names_in(label_name) if one not in self.label_names]
        cache = patient.key.parents[1]
        found, features = (label_targets(cache), feature_targets(cache)) if names else ({}, {})
        for name in names:
            if name in features:
                raise SettingsError(f"label {name!r}: these are features. Decode them: --task feature --target {name}")
            if name not in found:
                known = [*self.label_names, *found, *features]
                nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
                raise SettingsError(
                    f"no label {name!r} in {patient.key}; nearest are {', '.join(nearest)}. "
                    f"All {len(known)}: summer-prep inspect {patient.patient_id}, summer-prep targets"
                )
        return {name: found[name] for name in names}

    def units(self) -> dict[str, NDArray[Any]]:
        """Return the chosen units, (n_units,) each: patient_id, column in the key, and what the files of all have."""
        chosen = list(zip(self.patients, self.columns, strict=True))
        names = set.intersection(*(set(patient.unit_columns) for patient in self.patients))
        of_all = {
            name: np.concatenate([patient.unit_column(name)[columns] for patient, columns in chosen])
            for name in sorted(names)
        }
        ids = np.repeat([patient.patient_id for patient in self.patients], [len(columns) for columns in self.columns])
        return {**of_all, "patient_id": ids, "column": np.concatenate(self.columns)}

    def with_units(self, units: NDArray[np.int64]) -> "Selection":
        """Return some of the units, by their numbers here, ascending; the same object while the same are asked for."""
        if (key := units.tobytes()) not in self._some:
            starts = np.cumsum([0, *map(len, self.columns)])
            of_patients = np.split(units, np.searchsorted(units, starts[1:-1]))
            columns = [own[one - start] for own, one, start in zip(self.columns, of_patients, starts, strict=False)]
            self._some = {key: Selection(self.patients, columns)}
        return self._some[key]

    def film_s(self) -> NDArray[np.float64]:
        """Return the start of each bin on the film clock, (n_bins,) seconds."""
        return self.patients[0].bin_times("bin_start_s")

    def recorded_share(self, long_frames: bool = True) -> NDArray[np.float64]:
        """Return the recorded share of each bin's nominal length, (n_bins,), of the patient with the least.

        long_frames : whether frames that took longer than 200 ms count
        """
        recorded_s = [
            patient.bin_times("recorded_s") - (0 if long_frames else patient.bin_times("long_frame_s"))
            for patient in self.patients
        ]
        share: NDArray[np.float64] = np.min(recorded_s, axis=0) * 1000 / self.bin_length_ms
        return share

    def breaks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return where recording time does not run on, for any patient.

        Returns
        -------
        inside : (n_bins,) whether a pause, a skip or a frame that took longer than 200 ms lies within the bin
        after : (n_bins,) whether the next bin is no neighbour in recording time
        """
        inside, after = np.zeros(self.n_bins, dtype=bool), np.zeros(self.n_bins, dtype=bool)
        for patient in self.patients:
            names = "recording_start_ms", "recording_stop_ms", "recorded_s", "long_frame_s"
            own_inside, own_after = find_breaks(*map(patient.bin_times, names))
            inside |= own_inside
            after |= own_after
        return inside, after

    def provenance(self, label_name: str = "", target: str = "") -> dict[str, Any]:
        """Return what these data are, as plain values: patients, their units, bins, and the digests of the data.

        The digests are those of every array that a setting may use, so that no change of one goes unseen, and of the
        targets of the cache that a label is made of, or features are from.
        """
        patients = []
        for patient, columns in zip(self.patients, self.columns, strict=True):
            digests = patient.attributes["digests"]
            used = {name: digests[name] for name in digests if name in (*DIMENSIONS, *_CHOOSING_COLUMNS)}
            patients.append({"patient_id": patient.patient_id, "units": columns.tolist(), "digests": used})
        own = self.check_label(label_name) if label_name else {}
        for part, one in self.sources(target).items() if target else ():
            own |= {part: one[0]} if one else self.check_label(part)
        targets = {"targets": {name: one.sha256 for name, one in own.items()}} if own else {}
        return {"bin_length_ms": self.bin_length_ms, "n_bins": self.n_bins, "patients": patients, **targets}


def open_selection(
    cache_dir: str | Path,
    patient_ids: object,
    bin_length: int = 80,
    brain_regions: object = None,
    single_units: bool = False,
    local_cache: str | Path | None = None,
) -> Selection:
    """Open the keys of several patients and choose their units.

    Parameters
    ----------
    patient_ids : like 14, "14 20" or [14, "20"]
    bin_length : ms
    brain_regions : like "A EC" or ["H"]; all by default
    local_cache : folder into which keys in a bucket are fetched

    Raises
    ------
    CacheError : a key is missing, damaged or of another schema; bin grids or annotations differ
    SettingsError : an unknown region, or no unit left
    """
    ids = as_patient_ids(patient_ids, "patient_ids")
    if not ids:
        raise SettingsError("patient_ids: name at least one patient, like 14 or [14, 20]")
    length = as_bin_length(bin_length, "bin_length")
    check_bin_length(length)
    place = as_place(cache_dir, "cache_dir")
    if isinstance(place, Path):
        keys = [key_path(place, patient_id, length) for patient_id in ids]
    else:
        cache = open_cache(place, None if local_cache is None else as_path(local_cache, "local_cache"))
        keys = [cache.fetch(patient_id, length).folder for patient_id in ids]
    regions = as_names(brain_regions, "brain_regions", "regions, like A EC")
    return _select([open_patient(key) for key in keys], regions, as_number(single_units, bool, "single_units"))


def open_chosen(choice: Choice, run: Run, log: Log = log_nothing) -> tuple[Selection, Choice]:
    """Return the units of a run, and its choice with all patients named; missing or stale keys are built first."""
    from summer_prep.cache.build import ensure_keys

    descriptions = ensure_keys(
        run.cache_dir, choice.patient_ids, choice.bin_length_ms, run.data_dir, run.nwb_path, run.local_cache, log,
        every_byte=run.verify,
    )  # fmt: skip
    selection = open_described(descriptions, choice.brain_regions, choice.single_units)
    for patient in selection.patients:
        spikes = patient.attributes["spikes"]
        if spikes["counted"] < spikes["in_file"] / 2:
            counted = f"{spikes['counted']} of the file's {spikes['in_file']} spikes are in the film's bins"
            advice = f"if that is few, see summer-prep inspect {patient.patient_id} --cache-dir {run.cache_dir}"
            log(f"patient {patient.patient_id}: {counted}; {advice}")
    if not all(patient.is_mapped for patient in selection.patients):
        log("the cache is compressed: counts are decompressed into memory instead of mapped")
    return selection, replace(choice, patient_ids=tuple(patient.patient_id for patient in selection.patients))


def open_described(
    descriptions: Sequence[Description], brain_regions: Sequence[str] = (), single_units: bool = False
) -> Selection:
    """Open keys that have just been described and checked, and choose their units; errors as `open_selection`."""
    patients = [open_patient(description.folder, description) for description in descriptions]
    return _select(patients, brain_regions, single_units)


def _select(patients: list[CachedPatient], brain_regions: Sequence[str], single_units: bool) -> Selection:
    """Choose units of open patients of one film; errors as `open_selection`."""
    _check_one_film(patients)
    texts = [patient.attributes["units"] for patient in patients]
    for column, chosen, known, option in (
        ("brain_region", brain_regions, texts, "--brain-regions"),
        ("is_single_unit", single_units, [patient.unit_columns for patient in patients], "--single-units"),
    ):
        missing = [one.patient_id for one, columns in zip(patients, known, strict=True) if column not in columns]
        if chosen and missing:
            raise SettingsError(f"patient {missing[0]} has no {column} column to choose by. Leave {option} out")
    columns = [np.ones(patient.n_units, dtype=bool) for patient in patients]
    if brain_regions:
        of_units = [patient.unit_column("brain_region") for patient in patients]
        found = sorted(set(np.concatenate(of_units).tolist()))
        unknown = [name for name in brain_regions if name not in (*found, *BRAIN_REGION_GROUPS)]
        if unknown:
            groups = ", ".join(f"{name} ({' '.join(members)})" for name, members in BRAIN_REGION_GROUPS.items())
            raise NoUnitsError(
                f"--brain-regions {' '.join(unknown)}: no unit is there; found are {', '.join(found)}, "
                f"and the groups {groups}"
            )
        wanted = [member for name in brain_regions for member in (name, *BRAIN_REGION_GROUPS.get(name, ()))]
        columns = [np.isin(regions, wanted) for regions in of_units]
    if single_units:
        columns = [keep & (one.unit_column("is_single_unit") == 1) for keep, one in zip(columns, patients, strict=True)]
    if not any(keep.any() for keep in columns):
        filters = ", ".join([*brain_regions, *(["single units"] if single_units else [])])
        ids = ", ".join(patient.patient_id for patient in patients)
        raise NoUnitsError(
            f"no unit left after selecting {filters} of patient {ids}. Loosen --brain-regions or --single-units"
        )
    return Selection(patients, [np.flatnonzero(keep) for keep in columns])


def _check_one_film(patients: Sequence[CachedPatient]) -> None:
    """Refuse patients of different films or annotations, and one recording under two names."""
    first, digests = patients[0], patients[0].attributes["digests"]
    source_of: dict[str, tuple[str, str]] = {}
    for patient in patients:
        differing = [name for name in digests if digests[name] != patient.attributes["digests"].get(name)]
        where = f"patients {first.patient_id} and {patient.patient_id} ({first.key} and {patient.key})"
        advice = "Train them apart, or rebuild both from recordings of one film"
        if "first_frame" in differing:
            raise CacheError(f"the bin grids of {where} differ: {first.n_bins} and {patient.n_bins} bins. {advice}")
        if first.label_names != patient.label_names or any(name.startswith("labels_") for name in differing):
            raise CacheError(f"the annotations of {where} differ. {advice}")
        source = patient.attributes["source"]
        other_id, other_name = source_of.setdefault(source["sha256"], (patient.patient_id, source["file_name"]))
        if other_id != patient.patient_id:
            raise SettingsError(
                f"patients {other_id} and {patient.patient_id} are one recording under two names, {other_name} and "
                f"{source['file_name']}. Leave one of them out"
            )
