"""The commands of `summer-prep`: parse, one library call, print."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from summer_prep import completion
from summer_prep.console import (
    CacheDir,
    DataDir,
    JsonOption,
    LocalCache,
    NwbPath,
    PatientIds,
    PictureOption,
    SchedulerOption,
    Table,
    as_data,
    new_app,
    path_option,
    progress_on_terminal,
    run,
    say,
    show,
    show_json,
    show_table,
)
from summer_prep.dataset import DEFAULT_BUFFER_S, FileLayout
from summer_prep.errors import CacheError, SettingsError
from summer_prep.key import Codec, Description
from summer_prep.places import Place
from summer_prep.values import as_bin_lengths, as_names, as_patient_id, as_patient_ids

if TYPE_CHECKING:
    from summer_prep.building import KeyResult
    from summer_prep.caches import Cache

BinLengths = Annotated[
    str | None,
    typer.Option(
        metavar="MS...", help="Bin lengths in ms.  [default: those in the cache]", autocompletion=completion.bin_lengths
    ),
]

app = new_app("Bin the SUMMER recordings into film bins and cache them as Zarr arrays.")

CODEC_HELP = "How spike counts are stored: none can be memory-mapped; zstd and blosc are smaller, for archiving."


@app.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 2,
    patient_ids: Annotated[
        str | None, typer.Option(metavar="ID...", help="Their ids instead.  [default: 14, 20, 29, 8, 1, 2, ...]")
    ] = None,
    minutes: Annotated[float, typer.Option(min=1, help="Length of the film in minutes.")] = 10.0,
    film_length: Annotated[bool, typer.Option("--film-length", help="As long as the real film, 83.8 minutes.")] = False,
    units: Annotated[int, typer.Option(min=1, help="Units per patient.")] = 40,
    drift: Annotated[
        float, typer.Option(min=0, max=2, help="How much firing rates wander over the film; 1 is a lot.")
    ] = 0.0,
    layout: Annotated[FileLayout, typer.Option(help="File names and places of the tables.")] = "dandi",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal recordings.")] = 0,
) -> None:
    """Write SUMMER-shaped synthetic recordings, and which unit is tuned to what in truth.json."""
    from summer_prep.demo import demo_data as write

    paths = write(
        folder,
        patients=patients,
        patient_ids=patient_ids,
        minutes=minutes,
        film_length=film_length,
        units=units,
        drift=drift,
        layout=layout,
        seed=seed,
    )
    show("\n".join(as_data(path) for path in paths))


@app.command()
def build(
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    nwb_path: NwbPath = None,
    patient_ids: PatientIds = None,
    bin_length: Annotated[
        str | None,
        typer.Option(metavar="MS...", help="Bin lengths in ms, like 80 or 80,200.  [default: all that the files list]"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; one builds one patient at a time.")] = os.cpu_count()
    or 1,
    codec: Annotated[Codec, typer.Option(help=CODEC_HELP)] = "none",
    force: Annotated[bool, typer.Option("--force", help="Build also what is fresh.")] = False,
    local_cache: LocalCache = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bin NWB recordings into the cache; what is fresh is skipped, and a killed build can simply be repeated."""
    from summer_prep.building import build as build_cache
    from summer_prep.sources import other_nwb_files

    with progress_on_terminal() as bar:
        task = bar.add_task("binning", total=None)
        results = build_cache(
            data_dir=data_dir,
            cache_dir=cache_dir,
            local_cache=local_cache,
            nwb_path=nwb_path,
            patient_ids=patient_ids,
            bin_length=bin_length,
            workers=workers,
            codec=codec,
            force=force,
            scheduler=scheduler,
            progress=lambda n_done, n_patients: bar.update(task, completed=n_done, total=n_patients),
        )
    if nwb_path is None and patient_ids is None:
        for path in other_nwb_files(data_dir):
            say(f"left out {path}: its name has no patient id, as sub14.nwb has")
    failures = [result.message for result in results if result.state == "failed"]
    good = [result for result in results if result.state != "failed"]
    for result in good:
        if result.state == "built" and result.message:
            say(f"patient {result.patient_id}, {result.bin_length_ms} ms: {result.message}")
    if as_json:
        show_json([asdict(result) for result in results])
    elif good:
        show_table(_table_of_results(good))
    summary = f"{len(failures)} builds failed, listed above; {len(good)} keys are built or fresh"
    _fail_if_any(failures, "failed", len(results), summary)


def _table_of_results(results: "list[KeyResult]") -> Table:
    def row(result: "KeyResult") -> list[object]:
        tallies = [result.spikes.get(name, "") for name in ("counted", "in_pauses", "outside")]
        seconds = f"{result.seconds:.2f}" if result.state == "built" else ""
        sizes = [result.n_bins or "", result.n_units or ""]
        return [result.patient_id, result.bin_length_ms, result.state, *sizes, *tallies, seconds]

    header = ["patient", "ms", "state", "bins", "units", "counted", "pauses", "outside", "s"]
    return Table(header, [row(result) for result in results])


@app.command()
def inspect(
    patient: Annotated[
        str | None,
        typer.Argument(help="A patient id.  [default: a list of all keys]", autocompletion=completion.patients),
    ] = None,
    cache_dir: CacheDir = Path("data_cache"),
    bin_length: Annotated[
        str | None, typer.Option(help="Bin length in ms.  [default: 80]", autocompletion=completion.bin_lengths)
    ] = None,
    picture: PictureOption = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME...", help="Labels to draw.  [default: a few of them]", autocompletion=completion.labels
        ),
    ] = None,
    unit: Annotated[
        int | None, typer.Option(help="Show one unit, by its column from 0: rate, Fano factor, rate by label.")
    ] = None,
    fold_layout: Annotated[
        float | None,
        typer.Option(metavar="BUFFER", help="Show what the blocked split with this buffer (s) leaves of each label."),
    ] = None,
    html: Annotated[
        Path | None,
        path_option("Write a page to zoom into, with the folds of --fold-layout (32).", "--html"),
    ] = None,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in the cache: all patients, or one's arrays, rates, labels and pauses, or one unit."""
    from summer_prep.caches import open_cache
    from summer_prep.web import check_page

    lengths_ms = as_bin_lengths(bin_length)
    patient = None if patient is None else as_patient_id(patient)
    if len(lengths_ms) > 1:
        raise SettingsError(f"--bin-length {bin_length}: one key is shown at a time. Name one bin length")
    if patient is None and (unit is not None or fold_layout is not None or html is not None):
        option = "--unit" if unit is not None else "--html" if html is not None else "--fold-layout"
        raise SettingsError(f"{option} is of one patient. Name it: summer-prep inspect PATIENT {option} ...")
    if unit is not None and fold_layout is not None:
        raise SettingsError("--unit and --fold-layout show different things. Choose one of them")
    if picture is None and labels is not None:
        raise SettingsError(f"--labels {labels}: chooses what --picture draws. Name a picture, too")
    check_page(html)
    cache = open_cache(cache_dir, local_cache)
    cached = cache.keys()
    if patient is None:
        if picture is not None:
            raise SettingsError("--picture draws one patient. Name it: summer-prep inspect PATIENT --picture FILE")
        keys = [
            (found, length)
            for found, lengths in cached.items()
            for length in lengths
            if length in (lengths_ms or lengths)
        ]
        if not keys:
            which = f"no key at {bin_length} ms" if lengths_ms else "nothing"
            raise SettingsError(f"{cache_dir}: {which} in the cache. Build it: summer-prep build --data-dir DIR")
        _show_keys(cache, keys, as_json)
        return
    length_ms = lengths_ms[0] if lengths_ms else 80
    if length_ms not in cached.get(patient, []):
        found = ", ".join(f"{name} ({' '.join(map(str, lengths))} ms)" for name, lengths in cached.items())
        raise SettingsError(
            f"no key of patient {patient} at {length_ms} ms in {cache_dir}; found are {found or 'none'}. "
            "Choose one of these, or build it: summer-prep build --data-dir DIR"
        )
    key = cache.fetch(patient, length_ms, every_byte=True)  # what is shown of it is what was written
    if html is not None:
        from summer_prep.page import write_key_page

        write_key_page(key, html, DEFAULT_BUFFER_S if fold_layout is None else fold_layout)
        say(f"wrote {html}")
    if unit is not None:
        _show_unit(key, unit, as_json)
    elif fold_layout is not None:
        _show_folds(key, fold_layout, as_json)
    if picture is not None or (unit is None and fold_layout is None):
        _show_key(key, picture, as_names(labels, "--labels", "labels"), as_json)


def _show_keys(cache: "Cache", keys: list[tuple[str, int]], as_json: bool) -> None:
    from summer_prep.caches import facts_of_keys

    found = facts_of_keys(cache, keys, os.cpu_count() or 1)
    readable = [one for one in found if isinstance(one, dict)]
    problems = [one for one in found if isinstance(one, str)]
    if as_json:
        show_json(readable)
    else:
        show_table(_table_of_patients(readable))
    _fail_if_any(problems, "wrong", len(keys), f"{len(problems)} of {len(keys)} keys are damaged, listed above")


def _table_of_patients(keys: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each patient; spikes and rates are those of the shortest bins, which leave out fewest."""
    of_patient: dict[str, list[Mapping[str, Any]]] = {}
    for facts in keys:
        of_patient.setdefault(facts["patient_id"], []).append(facts)

    def row(facts: Mapping[str, Any], lengths_ms: list[int]) -> list[object]:
        regions = " ".join(f"{region} {number}" for region, number in facts["n_units_by_region"].items())
        spikes = facts["spikes"]["counted"]
        rate_hz = spikes / facts["n_units"] / facts["recorded_total_s"]
        where = [" ".join(map(str, lengths_ms)), facts["n_units"], regions]
        return [facts["patient_id"], *where, spikes, f"{rate_hz:.2f}", facts["n_pauses"], _file_name(facts)]

    header = ["patient", "bins (ms)", "units", "by region", "spikes", "rate (Hz)", "pauses", "source"]
    return Table(header, [row(found[0], [one["bin_length_ms"] for one in found]) for found in of_patient.values()])


def _file_name(facts: Mapping[str, Any]) -> str:
    return str(facts["source"]["file_name"])


def _fail_if_any(problems: list[str], word: str, n_keys: int, summary: str) -> None:
    """Say the problems of keys, one line each, and end with exit code 1; the only one of the only key in one line."""
    if len(problems) == 1 and n_keys == 1:
        raise CacheError(problems[0])
    for problem in problems:
        say(f"{word}: {problem}")
    if problems:
        raise CacheError(summary)


def _show_key(key: Description, picture: Path | None, labels: Sequence[str], as_json: bool) -> None:
    from summer_prep.report import describe_key, draw_key

    facts = describe_key(key)
    if picture is not None:
        draw_key(key, picture, labels)
        say(f"wrote {picture}")
    if as_json:
        show_json(facts)
        return
    show(as_data(key.folder))
    unseen = f", {facts['n_unseen_bins']} of them never seen" if facts["n_unseen_bins"] else ""
    show(as_data(f"{facts['n_bins']} bins{unseen}, {facts['n_units']} units from {_file_name(facts)}"))
    for note in facts["notes"]:
        show(as_data(f"note: {note}"))
    for table in _tables_of_key(facts):
        show("")
        show_table(table)


def _show_unit(key: Description, unit: int, as_json: bool) -> None:
    from summer_prep.report import describe_unit

    facts = describe_unit(key, unit)
    if as_json:
        show_json(facts)
        return
    rows = [[name.replace("_", " "), _rounded(value)] for name, value in facts.items() if name != "labels"]
    show_table(Table(["unit", facts["unit"]], rows[1:]))
    show("")
    rates = [[one["label"], *(_rounded(one[name]) for name in ("on_hz", "off_hz", "ratio"))] for one in facts["labels"]]
    show_table(Table(["label", "on (Hz)", "off (Hz)", "ratio"], rates))


def _show_folds(key: Description, buffer_s: float, as_json: bool) -> None:
    from summer_prep.report import describe_folds

    facts = describe_folds(key, buffer_s)
    if as_json:
        show_json(facts)
        return
    sizes = facts["n_bins"]
    show(f"folds of the blocked split, buffer {buffer_s:g} s: the test part's bins with the label on (%)")
    header = ["label", *(f"fold {fold}" for fold in sizes), "lacks"]
    rows = [
        [one["label"], *(_rounded(share["test"]) for share in one["on"].values()), ", ".join(one["lacks"])]
        for one in facts["labels"]
    ]
    show_table(Table(header, rows))
    show("")
    parts = [[fold, *(numbers[part] for part in ("train", "val", "test", "unused"))] for fold, numbers in sizes.items()]
    show_table(Table(["fold", "train (bins)", "validation", "test", "unused"], parts))


def _rounded(value: object) -> object:
    """Return a number as people read it; "-" where there is none."""
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else "-"
    return value


def _codec(name: str) -> list[str]:
    return [] if name == "none" else [name]


def _tables_of_key(facts: Mapping[str, Any]) -> list[Table]:
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
    labels = [
        [
            label["label"],
            *(f"{label[share]:.2f}" for share in ("first", "any", "majority", "undefined")),
            label["n_stretches"],
            f"{label['longest_s']:.1f}",
        ]
        for label in facts["labels"]
    ]
    pauses = [
        [
            pause["frame"],
            *(f"{time:.2f}" for time in (pause["film_time_s"], pause["start_ms"] / 1000, pause["duration_ms"] / 1000)),
        ]
        for pause in facts["pauses"]
    ]
    spikes = [[name.replace("_", " "), f"{value:,}"] for name, value in facts["spikes"].items()]
    return [
        Table(["spikes", "number"], spikes),
        Table(["array", "dimensions", "dtype", "bytes", "on disk"], arrays),
        Table(["region", "units", "median rate (Hz)", "highest rate (Hz)"], regions),
        Table(["label", "first %", "any %", "major. %", "undef. %", "runs", "longest"], labels),
        Table(["pause at frame", "film time (s)", "recording start (s)", "duration (s)"], pauses),
    ]


@app.command()
def status(
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = None,
    bin_length: BinLengths = None,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Say which keys are fresh, missing or stale, and why; nothing is changed, and files are not read."""
    from summer_prep.caches import open_cache
    from summer_prep.freshness import cache_states

    states = cache_states(
        data_dir, open_cache(cache_dir, local_cache), as_patient_ids(patient_ids), as_bin_lengths(bin_length)
    )
    if as_json:
        show_json([state.as_plain() for state in states])
        return
    show_table(Table(["patient", "bin (ms)", "state", "reason"], [list(state.as_plain().values()) for state in states]))
    say("files were counted and measured, not read: summer-prep verify reads every byte")


@app.command()
def verify(
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = None,
    bin_length: BinLengths = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of the cache against its digests; exit code 1 if anything is wrong."""
    from summer_prep.caches import open_cache
    from summer_prep.key import key_path

    cache = open_cache(cache_dir)
    cached = cache.keys()
    if not cached:
        raise SettingsError(f"{cache_dir}: nothing in the cache. Check --cache-dir")
    keys = _chosen_keys(cache_dir, cached, as_patient_ids(patient_ids), as_bin_lengths(bin_length))
    with progress_on_terminal() as bar:
        problems = {
            str(key_path(cache_dir, *key)): cache.verify(*key) for key in bar.track(keys, description="reading")
        }
    if as_json:
        show_json(problems)
    every_problem = [problem for found in problems.values() for problem in found]
    n_wrong = sum(bool(found) for found in problems.values())
    _fail_if_any(every_problem, "wrong", len(keys), f"{n_wrong} of {len(keys)} keys are damaged, listed above")
    if not as_json:
        show(f"{len(keys)} keys verified: every byte is as it was written")


def _chosen_keys(
    cache_dir: Place, cached: Mapping[str, Sequence[int]], patient_ids: Sequence[str], lengths_ms: Sequence[int]
) -> list[tuple[str, int]]:
    """Return the keys of patients and bin lengths, all that there are by default; every one named must have some."""
    unknown = [patient_id for patient_id in patient_ids if patient_id not in cached]
    if unknown:
        raise SettingsError(
            f"{cache_dir}: no keys of patient {', '.join(unknown)}; found are {', '.join(cached)}. Check --patient-ids"
        )
    chosen = {patient_id: cached[patient_id] for patient_id in patient_ids or cached}
    found = sorted({length for lengths in chosen.values() for length in lengths})
    missing = [length for length in lengths_ms if length not in found]
    if missing:
        raise SettingsError(
            f"--bin-length {' '.join(map(str, missing))}: no such keys; found are {', '.join(map(str, found))} ms"
        )
    return [
        (patient_id, length)
        for patient_id, lengths in chosen.items()
        for length in lengths
        if not lengths_ms or length in lengths_ms
    ]


@app.command()
def gc(
    cache_dir: CacheDir,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove from a bucket what is part of no key any more, an hour after it was at the earliest."""
    from summer_prep.bucket import BucketCache
    from summer_prep.caches import open_cache

    cache = open_cache(cache_dir)
    if not isinstance(cache, BucketCache):
        raise SettingsError(f"--cache-dir {cache_dir}: a folder has nothing to collect; builds clear it. Name a bucket")
    removed, problems = cache.collect_garbage(may_remove=not dry_run)
    if as_json:
        show_json([str(url) for url in removed])
    else:
        for url in removed:
            show(as_data(url))
        say(f"{'would remove' if dry_run else 'removed'} the data of {len(removed)} replaced or unfinished keys")
    _fail_if_any(problems, "left alone", len(problems), f"{len(problems)} keys have no pointer that can be read")


def main() -> None:
    """Run `summer-prep`."""
    run(app, sys.argv[1:])
