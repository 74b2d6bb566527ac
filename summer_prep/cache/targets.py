"""Labels and features of a user's own: stored once per film in the cache, `data_cache/film/NAME.zarr`, plain Zarr."""

import difflib
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep import __version__
from summer_prep.cache.keys import open_key
from summer_prep.cache.layout import cached_keys, file_sha256
from summer_prep.cache.publish import clear_debris, staging_name
from summer_prep.errors import CacheError, SettingsError
from summer_prep.files import check_folder, locked, writing
from summer_prep.film.bins import BinGrid
from summer_prep.film.facts import FILM_FRAMES, FIRST_ANALYSED, FRAME_PERIOD_MS, N_ANALYSED, ON, UNDEFINED
from summer_prep.film.targets import bins_of_frames
from summer_prep.options import as_number, as_path, as_text

FOLDER = "film"
"""Beside the patients' folders."""

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}")
_FRAMES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class FilmTarget:
    """A target of the cache."""

    name: str
    path: Path
    kind: str
    """labels (0, 1, 99) or features."""
    columns: tuple[str, ...]
    """Names of its labels or dimensions."""
    n_frames: int
    sha256: str
    """Of its values, (n_frames, n_columns) in C order: what a trained model depends on."""
    attributes: Mapping[str, Any]

    def column(self, name: str) -> NDArray[Any]:
        """Return one of its columns on every frame, (n_frames, 1); raises CacheError if the target is damaged."""
        number = self.columns.index(name)
        return np.concatenate([rows[:, number : number + 1] for rows in self.blocks()])

    def numbers_of(self, words: Sequence[str]) -> list[int]:
        """Return the numbers of columns, named or numbered as `3` or `0-9`, of all by default; raises SettingsError."""
        option, columns = f"--target {self.name}:{'+'.join(words)}", list[int]()
        for word in words:
            numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
            chosen = range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1) if numbers else range(0)
            if word in self.columns:
                columns.append(self.columns.index(word))
            elif chosen and chosen[-1] < len(self.columns):
                columns += chosen
            else:
                shown = ", ".join(difflib.get_close_matches(word, self.columns, n=3) or self.columns[:6])
                raise SettingsError(
                    f"{option}: no column {word!r} in {self.name}. Name some of its {len(self.columns)}, like {shown}, "
                    f"or numbers from 0 to {len(self.columns) - 1}, joined by + or as a range like 0-9"
                )
        if len({*columns}) < len(columns):
            raise SettingsError(f"{option}: names a column twice. Leave one out")
        return columns or list(range(len(self.columns)))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield its values, some thousand frames at a time, (n, n_columns): uint8 of labels, float32 of features.

        Raises CacheError if they are damaged.
        """
        import zarr
        from zarr.errors import BaseZarrError

        digest, problem = hashlib.sha256(), "its values were changed"
        try:
            array: Any = zarr.open_array(self.path / "values", mode="r")
            for start in range(0, self.n_frames, _FRAMES_AT_ONCE):
                rows = np.ascontiguousarray(array[start : start + _FRAMES_AT_ONCE])
                digest.update(rows.data)
                yield rows
        except (BaseZarrError, OSError, ValueError, RuntimeError, KeyError) as error:
            problem = str(error).split("\n")[0]
        if digest.hexdigest() != self.sha256:
            advice = f"Remove and add it again: summer-prep remove-target {self.name}"
            raise CacheError(f"{self.path}: damaged ({problem}). {advice}")

    def problems(self) -> list[str]:
        """Return what is wrong with its values, one line; an empty list if every byte is right."""
        try:
            deque(self.blocks(), maxlen=0)
        except CacheError as error:
            return [str(error)]
        return []

    def features(self, grid: BinGrid, columns: Sequence[int]) -> NDArray[np.float32]:
        """Return some columns in each bin, (n_bins, n_columns), NaN where a frame is undefined; errors as `blocks`."""
        first, n_frames = grid.first_frames, grid.frames_per_bin
        values = np.full((grid.n_bins, len(columns)), np.nan, dtype=np.float32)
        kept = np.empty((0, len(columns)), dtype=np.float32)
        is_whole = list(columns) == list(range(len(self.columns)))
        done = start = 0  # bins, and the frame of the first row that is kept
        for block in self.blocks():
            rows = np.concatenate([kept, block if is_whole else block[:, columns]])
            stop = int(np.searchsorted(first, start + len(rows) - n_frames, side="right"))
            values[done:stop] = bins_of_frames(rows, first[done:stop] - start, n_frames)
            next_frame = int(first[stop : stop + 1].min(initial=start + len(rows)))
            done, kept, start = stop, rows[next_frame - start :], next_frame
        return values


def film_targets(cache_dir: Path) -> dict[str, FilmTarget]:
    """Return name -> target of a cache, in the order of their names; raises CacheError if one cannot be read."""
    found = {}
    for path in sorted((cache_dir / FOLDER).glob("*.zarr")):
        try:
            attributes = json.loads((path / "zarr.json").read_text())["attributes"]
            found[path.stem] = FilmTarget(
                name=path.stem, path=path, kind=attributes["kind"], columns=tuple(attributes["columns"]),
                n_frames=attributes["n_frames"], sha256=attributes["sha256"], attributes=attributes,
            )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            advice = f"Remove it: summer-prep remove-target {path.stem}"
            raise CacheError(f"{path}: cannot be read ({error}). {advice}") from error
    return found


def feature_targets(cache_dir: Path) -> dict[str, FilmTarget]:
    """Return name -> target that holds features; raises CacheError as `film_targets`."""
    return {name: one for name, one in film_targets(cache_dir).items() if one.kind == "features"}


def label_targets(cache_dir: Path) -> dict[str, FilmTarget]:
    """Return label name -> target that holds it; raises CacheError as `film_targets`."""
    return {label: one for one in film_targets(cache_dir).values() if one.kind == "labels" for label in one.columns}


def check_target(cache_dir: Path, target: str) -> tuple[FilmTarget, list[int]]:
    """Return the features that NAME:COLUMNS names, and the numbers of their columns; raises SettingsError."""
    name, _, words = as_text(target, "--target").partition(":")
    found = feature_targets(cache_dir)
    if name not in found:
        nearest = ", ".join(difflib.get_close_matches(name, found, n=3, cutoff=0.4) or found)
        there = f"found are {nearest}" if nearest else "none found"
        raise SettingsError(
            f"--target {target}: no features {name!r} in {cache_dir}; {there}. See "
            "summer-prep targets; labels are decoded with --task label --label-name"
        )
    return found[name], found[name].numbers_of(words.split("+") if words else ())


def add_target(
    file: str | Path,
    *,
    name: str,
    cache_dir: str | Path = "data_cache",
    start_s: float | None = None,
    step_s: float | None = None,
) -> dict[str, Any]:
    """Store labels or features of your own in the cache, as `summer-prep add-target` does; whole or not at all.

    Parameters
    ----------
    file : intervals as CSV or TSV (`label,start_s,stop_s`, `label,start_frame,stop_frame`, or BIDS
        `onset,duration,trial_type`), or an array as .npy, .npz, .parquet, .csv: (n_frames,) or (n_frames, n_columns), a
        row for each film frame of 40 ms. Values 0, 1, 99 and booleans are labels, floats are features, NaN is undefined
    name : of the target; intervals name their labels themselves
    cache_dir : folder of the cache
    start_s, step_s : for arrays whose rows are regular samples: film time of the first, and from one to the next

    Returns
    -------
    Facts, as of `targets`

    Raises
    ------
    SettingsError : the file is not a target of this film, a name is taken, or the cache cannot be written; nothing is
        written then
    """
    from summer_prep.recordings.target_files import read_target

    path, cache = as_path(file, "FILE"), as_path(cache_dir, "--cache-dir")
    if not _NAME.fullmatch(as_text(name, "--name")):
        raise SettingsError(f"--name {name!r}: letters, digits, _, - and . are allowed, like loudness")
    check_folder(cache / FOLDER, "--cache-dir")
    if start_s is not None and step_s is None:
        raise SettingsError("--start-s has no effect without --step-s. Name both")
    start_s = None if start_s is None else as_number(start_s, float, "--start-s")
    step_s = None if step_s is None else as_number(step_s, float, "--step-s")
    taken, lengths = _film_of(cache)
    target = read_target(path, name, start_s, step_s, lengths)
    folder = cache / FOLDER / f"{name}.zarr"
    if folder.exists():
        advice = f"Remove it first: summer-prep remove-target {name}"
        raise SettingsError(f"--name {name}: the cache has it already. {advice}")
    for label in target.columns if target.kind == "labels" else (name,):
        if not _NAME.fullmatch(label):
            raise SettingsError(f"{path}: label {label!r}: letters, digits, _, - and . are allowed. Rename it")
        if label in taken:
            raise SettingsError(f"{path}: {label!r} is a name of {taken[label]} already. Choose another")

    import zarr

    staged = folder.with_name(staging_name(folder))
    with locked(folder.parent, timeout_s=60) as problem, writing(cache, "Name another folder with --cache-dir"):
        clear_debris(folder.parent, is_alone=problem is None)
        try:
            group = zarr.create_group(staged)
            shape, chunks = (target.n_frames, len(target.columns)), (_FRAMES_AT_ONCE, len(target.columns))
            stored: Any = {"dimension_names": ("frame", "column"), "config": {"write_empty_chunks": True}}
            stored |= {"dtype": "float32", "compressors": None} if target.kind == "features" else {"dtype": "uint8"}
            values = group.create_array("values", shape=shape, chunks=chunks, **stored)
            digest, sums = hashlib.sha256(), np.zeros((3, shape[1]))
            for start in range(0, target.n_frames, _FRAMES_AT_ONCE):
                rows = target.rows(range(start, min(start + _FRAMES_AT_ONCE, target.n_frames)))
                rows = np.ascontiguousarray(rows, dtype=values.dtype)
                if np.isinf(rows).any():
                    raise SettingsError(f"{path}: holds infinite values. Write NaN where a feature is undefined")
                values[start : start + len(rows)] = rows
                digest.update(rows.data)
                sums += _sums(rows, target.kind)
            seconds = np.arange(target.n_frames) * (FRAME_PERIOD_MS / 1000)
            group.create_array("frame_start_s", data=seconds, dimension_names=("frame",), attributes={"units": "s"})
            group.create_array("column", data=np.array(target.columns, dtype="T"), dimension_names=("column",))
            facts = {one: getattr(target, one) for one in ("kind", "columns", "n_frames", "form", "n_united")}
            facts |= {"coordinates": "frame_start_s column", "software_version": __version__}
            facts |= {"source": {"file_name": path.name, "sha256": file_sha256(path)}, "sha256": digest.hexdigest()}
            group.update_attributes({"name": name, **facts, "added": datetime.now(UTC).isoformat(timespec="seconds")})
            os.rename(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return _facts(film_targets(cache)[name], sums)


def targets(cache_dir: str | Path = "data_cache", name: str | None = None) -> list[dict[str, Any]]:
    """Describe the targets of a cache, or one of them: kind, columns, share on or mean and SD, and what is undefined.

    Raises
    ------
    SettingsError : no such target
    CacheError : one is damaged
    """
    cache = as_path(cache_dir, "--cache-dir")
    found = film_targets(cache)
    _check_known(name, found, cache)
    chosen = found.values() if name is None else [found[name]]
    return [_facts(one, sum(_sums(rows, one.kind) for rows in one.blocks())) for one in chosen]


def _sums(rows: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Return the number of defined frames, their sum, and that of their squares, (3, n_columns)."""
    values = np.where(rows == UNDEFINED, np.nan, rows == ON) if kind == "labels" else rows.astype(float)
    return np.array([(~np.isnan(values)).sum(axis=0), np.nansum(values, axis=0), np.nansum(values**2, axis=0)])


def _facts(one: FilmTarget, sums: Any) -> dict[str, Any]:
    """Return a target and its columns as plain values; `sums` are those of all its frames."""
    with np.errstate(invalid="ignore"):
        mean = sums[1] / sums[0]
        sd = np.sqrt(np.maximum(0, sums[2] / sums[0] - mean**2))
    shown = {"on": mean} if one.kind == "labels" else {"mean": mean, "sd": sd}
    shown["undefined"] = 1 - sums[0] / one.n_frames
    columns = [
        {"column": column, **{name: values[i] for name, values in shown.items()}}
        for i, column in enumerate(one.columns)
    ]
    about = {key: one.attributes[key] for key in ("kind", "n_frames", "form", "n_united", "source", "added", "sha256")}
    return {"target": one.name, **about, "columns": columns}


def remove_target(name: str, cache_dir: str | Path = "data_cache") -> Path:
    """Remove a target from the cache, and return the folder that it was in.

    Raises
    ------
    SettingsError : no such target, or it cannot be removed
    """
    cache = as_path(cache_dir, "--cache-dir")
    found = sorted(path.stem for path in (cache / FOLDER).glob("*.zarr"))
    _check_known(name, found, cache)
    folder = cache / FOLDER / f"{name}.zarr"
    gone = folder.with_name(staging_name(folder))
    with locked(folder.parent, timeout_s=60) as problem, writing(folder, "Check its permissions"):
        os.rename(folder, gone)  # in one step, then at leisure
        shutil.rmtree(gone)
        clear_debris(folder.parent, is_alone=problem is None)
    return folder


def _check_known(name: str | None, found: Collection[str], cache: Path) -> None:
    if name is not None and name not in found:
        known = f"it has {', '.join(found)}. Choose one" if found else "it has none. Add one: summer-prep add-target"
        raise SettingsError(f"{cache}: no target {name!r}; {known}")


def _film_of(cache: Path) -> tuple[dict[str, str], range]:
    """Return label name -> whose it is, and how many frames an array of the film may have.

    Demo recordings are of shorter films, whose last frames no key tells: about 6 % more than those that are analysed.
    """
    taken = {label: f"target {one.name!r}" for label, one in label_targets(cache).items()}
    taken |= dict.fromkeys(feature_targets(cache), "the targets")
    whole = range(FILM_FRAMES, FILM_FRAMES + 1)
    for patient_id, lengths_ms in cached_keys(cache).items():
        key: Any = open_key(cache, patient_id, lengths_ms[0])
        taken |= dict.fromkeys(key.attrs["label_names"], "the recordings")
        stop = int(key["first_frame"][-1]) + max(1, lengths_ms[0] // FRAME_PERIOD_MS)
        return taken, whole if stop > FIRST_ANALYSED + N_ANALYSED - 25 else range(stop, stop + stop // 16 + 2)
    return taken, whole
