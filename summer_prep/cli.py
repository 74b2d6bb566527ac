"""The commands of `summer-prep`: parse, one library call, print."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from summer_prep.cache.layout import Codec, Description
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
    place_argument,
    progress_on_terminal,
    run,
    say,
    show,
    show_json,
    show_table,
    working,
)
from summer_prep.errors import CacheError, SettingsError, SummerError, UnreachableError, one_line
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, FileLayout, LabelRule, LongFrames
from summer_prep.options import as_bin_lengths, as_names, as_patient_id, as_patient_ids
from summer_prep.show.tables import (
    attributes_table,
    differences_table,
    file_name,
    key_tables,
    labels_table,
    patients_table,
    results_table,
    rounded,
)
from summer_prep.urls import Place

if TYPE_CHECKING:
    from summer_prep.cache.build import BuildConfig
    from summer_prep.cache.keys import Cache

BinLengths = Annotated[
    str | None, typer.Option(metavar="MS...", help="Bin lengths in ms.  [default: those in the cache]")
]
BinLength = Annotated[str | None, typer.Option(help="Bin length in ms.  [default: 80]")]
FoldLayout = Annotated[
    float | None,
    typer.Option(metavar="BUFFER", help="Show what the blocked split with this buffer (s) leaves of each label."),
]

app = new_app("Bin the SUMMER recordings into film bins and cache them as Zarr arrays.")

CODEC_HELP = "How spike counts are stored: none can be memory-mapped; zstd and blosc are smaller, for archiving."

LONG_FRAMES_HELP = "Frames that took more than 200 ms: count their spikes, as published, or take them as pauses."


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
    from summer_prep.recordings.demo import demo_data as write

    with working("making recordings"):
        paths = write(
            folder, patients=patients, patient_ids=patient_ids, minutes=minutes, film_length=film_length, units=units,
            drift=drift, layout=layout, seed=seed,
        )  # fmt: skip
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one builds one patient at a time.  [default: processors]")
    ] = None,
    codec: Annotated[Codec, typer.Option(help=CODEC_HELP)] = "none",
    long_frames: Annotated[LongFrames, typer.Option(help=LONG_FRAMES_HELP)] = "count",
    force: Annotated[bool, typer.Option("--force", help="Build also what is fresh.")] = False,
    unusual_clocks: Annotated[
        bool,
        typer.Option("--unusual-clocks", help="Build also where spike times or watch log seem to be in another unit."),
    ] = False,
    local_cache: LocalCache = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bin NWB recordings into the cache; what is fresh is skipped, and a killed build can simply be repeated."""
    from summer_prep.cache.build import build_config, build_keys

    config = build_config(
        data_dir=data_dir, cache_dir=cache_dir, local_cache=local_cache, nwb_path=nwb_path, patient_ids=patient_ids,
        bin_length=bin_length, workers=workers, codec=codec, long_frames=long_frames, force=force,
        unusual_clocks=unusual_clocks, scheduler=scheduler,
    )  # fmt: skip
    with progress_on_terminal() as bar:
        task = bar.add_task("binning", total=None)
        results = build_keys(config, lambda n_done, n_patients: bar.update(task, completed=n_done, total=n_patients))
    _say_left_out(config)
    failures = [result.message for result in results if result.state == "failed"]
    good = [result for result in results if result.state != "failed"]
    for result in good:
        if result.state == "built" and result.message:
            say(f"patient {result.patient_id}, {result.bin_length_ms} ms: {result.message}")
    if as_json:
        show_json([asdict(result) for result in results])
    elif good:
        show_table(results_table(good))
    summary = f"{len(failures)} builds failed, listed above; {len(good)} keys are built or fresh"
    _fail_if_any(failures, "failed", len(results), summary)


def _say_left_out(config: "BuildConfig") -> None:
    from summer_prep.recordings.find import other_nwb_files

    if config.nwb_path is None and not config.patient_ids:
        for path in other_nwb_files(config.data_dir):
            say(f"left out {path}: its name has no patient id, as sub14.nwb has")


@app.command()
def inspect(
    patient: Annotated[str | None, typer.Argument(help="A patient id.  [default: a list of all keys]")] = None,
    cache_dir: CacheDir = Path("data_cache"),
    bin_length: BinLength = None,
    picture: PictureOption = None,
    labels: Annotated[
        str | None, typer.Option(metavar="NAME...", help="Labels to draw.  [default: a few of them]")
    ] = None,
    unit: Annotated[
        int | None, typer.Option(help="Show one unit, by its column from 0: rate, Fano factor, rate by label.")
    ] = None,
    fold_layout: FoldLayout = None,
    html: Annotated[
        Path | None,
        path_option("Write a page to zoom into, with the folds of --fold-layout (32).", "--html"),
    ] = None,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in the cache: all patients, or one's arrays, rates, labels and pauses, or one unit."""
    from summer_prep.cache.keys import open_cache
    from summer_prep.show.web import check_page

    length_ms = one_bin_length(bin_length)
    patient = None if patient is None else as_patient_id(patient)
    of_one = {"--unit": unit, "--html": html, "--fold-layout": fold_layout, "--picture": picture}
    given = [option for option, value in of_one.items() if value is not None]
    if patient is None and given:
        raise SettingsError(f"{given[0]} is of one patient. Name it: summer-prep inspect PATIENT {given[0]} ...")
    if unit is not None and fold_layout is not None:
        raise SettingsError("--unit and --fold-layout show different things. Choose one of them")
    if picture is None and labels is not None:
        raise SettingsError(f"--labels {labels}: chooses what --picture draws. Name a picture, too")
    check_page(html)
    cache = open_cache(cache_dir, local_cache)
    if patient is None:
        _show_keys(cache, None if bin_length is None else length_ms, as_json)
        return
    key = _key_to_show(cache, patient, length_ms)
    if html is not None:
        _write_key_page(key, html, fold_layout)
    if unit is not None:
        _show_unit(key, unit, as_json)
    elif fold_layout is not None:
        _show_folds(key, fold_layout, as_json)
    if picture is not None or (unit is None and fold_layout is None):
        _show_key(key, picture, as_names(labels, "--labels", "labels"), as_json)


def _key_to_show(cache: "Cache", patient: str, length_ms: int) -> Description:
    from summer_prep.cache.keys import keys_and_problems

    cached, unlisted = keys_and_problems(cache)
    if patient in unlisted:
        raise UnreachableError(unlisted[patient])
    if length_ms not in cached.get(patient, []):
        found = ", ".join(f"{name} ({' '.join(map(str, lengths))} ms)" for name, lengths in cached.items())
        raise SettingsError(
            f"no key of patient {patient} at {length_ms} ms in {cache.place}; found are {found or 'none'}. "
            "Choose one of these, or build it: summer-prep build --data-dir DIR"
        )
    return cache.fetch(patient, length_ms, every_byte=True)  # what is shown of it is what was written


def _write_key_page(key: Description, html: Path, fold_layout: float | None) -> None:
    from summer_prep.show.page import usual_buffer_s, write_key_page

    buffer_s = usual_buffer_s(key) if fold_layout is None else fold_layout
    with working("drawing"):
        write_key_page(key, html, buffer_s)
    say(f"wrote {html}")
    if buffer_s is None:
        say("the film is too short for the usual buffer, so no folds are drawn: name one with --fold-layout")


def one_bin_length(text: str | None) -> int:
    """Return the one bin length (ms) of a command that shows one key.

    Raises
    ------
    SettingsError : several, or none that can be
    """
    lengths_ms = as_bin_lengths(text)
    if len(lengths_ms) > 1:
        raise SettingsError(f"--bin-length {text}: one key is shown at a time. Name one bin length")
    return lengths_ms[0] if lengths_ms else DEFAULT_BIN_LENGTH_MS


def _show_keys(cache: "Cache", length_ms: int | None, as_json: bool) -> None:
    """Show all keys, or those of one bin length."""
    from summer_prep.cache.keys import facts_of_keys, keys_and_problems

    cached, unlisted = keys_and_problems(cache)
    keys = [
        (patient, length)
        for patient, lengths in cached.items()
        for length in lengths
        if length_ms is None or length == length_ms
    ]
    if not keys and not unlisted:
        which = "nothing" if length_ms is None else f"no key at {length_ms} ms"
        raise SettingsError(f"{cache.place}: {which} in the cache. Build it: summer-prep build --data-dir DIR")
    with working("reading keys"):
        found = facts_of_keys(cache, keys)
    readable = [one for one in found if isinstance(one, dict)]
    problems = [one for one in found if isinstance(one, SummerError)]
    if as_json:
        show_json(readable)
    else:
        show_table(patients_table(readable))
    problems += map(UnreachableError, unlisted.values())
    _fail_if_wrong([[problem] for problem in problems], len(keys))


def _fail_if_wrong(problems: Sequence[Sequence[SummerError]], n_keys: int) -> None:
    """End with exit code 1 where a key has problems, one sequence of them a key: damaged, or cannot be read."""
    wrong = [found for found in problems if found]
    n_unreachable = sum(isinstance(found[0], UnreachableError) for found in wrong)
    n_damaged = len(wrong) - n_unreachable
    counts = {f"{n_damaged} of {n_keys} keys are damaged": n_damaged, f"{n_unreachable} cannot be read": n_unreachable}
    summary = " and ".join(text for text, number in counts.items() if number)
    lines = [str(problem) for found in wrong for problem in found]
    _fail_if_any(lines, "wrong", max(n_keys, len(lines)), f"{summary}, listed above")


def _fail_if_any(problems: list[str], word: str, n_keys: int, summary: str) -> None:
    """Say the problems of keys, one line each, and end with exit code 1; the only one of the only key in one line."""
    if len(problems) == 1 and n_keys == 1:
        raise CacheError(problems[0])
    for problem in problems:
        say(f"{word}: {problem}")
    if problems:
        raise CacheError(summary)


def _show_key(key: Description, picture: Path | None, labels: Sequence[str], as_json: bool) -> None:
    from summer_prep.show.facts import describe_key, draw_key

    with working("reading the key"):
        facts = describe_key(key)
        if picture is not None:
            draw_key(key, picture, labels)
    if picture is not None:
        say(f"wrote {picture}")
    if as_json:
        show_json(facts)
        return
    show(as_data(key.folder))
    unseen = f", {facts['n_unseen_bins']} of them never seen" if facts["n_unseen_bins"] else ""
    show(as_data(f"{facts['n_bins']} bins{unseen}, {facts['n_units']} units from {file_name(facts)}"))
    for note in facts["notes"]:
        show(as_data(f"note: {note}"))
    for table in key_tables(facts):
        show("")
        show_table(table)


def _show_unit(key: Description, unit: int, as_json: bool) -> None:
    from summer_prep.show.facts import describe_unit

    facts = describe_unit(key, unit)
    if as_json:
        show_json(facts)
        return
    rows = [[name.replace("_", " "), rounded(value)] for name, value in facts.items() if name != "labels"]
    show_table(Table(["unit", facts["unit"]], rows[1:]))
    show("")
    rates = [[one["label"], *(rounded(one[name]) for name in ("on_hz", "off_hz", "ratio"))] for one in facts["labels"]]
    show_table(Table(["label", "on (Hz)", "off (Hz)", "ratio"], rates))


def _show_folds(key: Description, buffer_s: float, as_json: bool) -> None:
    from summer_prep.show.facts import describe_folds

    facts = describe_folds(key, buffer_s)
    if as_json:
        show_json(facts)
        return
    sizes = facts["n_bins"]
    show(f"folds of the blocked split, buffer {buffer_s:g} s: the test part's bins with the label on (%)")
    header = ["label", *(f"fold {fold}" for fold in sizes), "lacks"]
    rows = [
        [one["label"], *(rounded(share["test"]) for share in one["on"].values()), ", ".join(one["lacks"])]
        for one in facts["labels"]
    ]
    show_table(Table(header, rows))
    show("")
    parts = [[fold, *(numbers[part] for part in ("train", "val", "test", "unused"))] for fold, numbers in sizes.items()]
    show_table(Table(["fold", "train (bins)", "validation", "test", "unused"], parts))


@app.command()
def labels(
    cache_dir: CacheDir = Path("data_cache"),
    bin_length: BinLength = None,
    fold_layout: FoldLayout = None,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """List the labels of the film: how often and how long each is on, and which folds lack it."""
    from summer_prep.cache.keys import open_cache
    from summer_prep.show.facts import labels_of_cache

    facts = labels_of_cache(open_cache(cache_dir, local_cache), one_bin_length(bin_length), fold_layout)
    if as_json:
        show_json(facts)
        return
    show_table(labels_table(facts["labels"]))
    if facts["patients_with_others"]:
        others = ", ".join(facts["patients_with_others"])
        say(f"these are of patient {facts['patient_id']}; other annotations have {others}: summer-prep diff tells")


@app.command()
def diff(
    first: Annotated[Path, place_argument("A cache, a patient's folder in it, or a key.", "A")],
    second: Annotated[Path, place_argument("Another one of that kind.", "B")],
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which numbers of two caches, patients or keys differ, and from which bin on; exit code 1 if any does."""
    from summer_prep.show.compare import compare, is_equal

    with working("comparing"):
        differences = compare(first, second, local_cache)
    n_unequal = sum(not is_equal(pair) for pair in differences)
    if as_json:
        show_json(differences)
    else:
        if n_unequal:
            show_table(differences_table(differences))
        attributes = attributes_table(differences)
        if attributes.rows:
            show("")
            show_table(attributes)
        say(f"{len(differences) - n_unequal} of {len(differences)} keys hold the same numbers")
    if n_unequal:
        raise typer.Exit(1)


@app.command("export")
def export_key(
    patient: Annotated[str, typer.Argument(help="A patient id.")],
    target: Annotated[Path, typer.Argument(help="A folder for the Parquet tables.")],
    cache_dir: CacheDir = Path("data_cache"),
    bin_length: BinLength = None,
    label_rule: Annotated[LabelRule, typer.Option(help="Which frames decide a bin's label.")] = "first",
    force: Annotated[bool, typer.Option("--force", help="Replace the tables in the folder.")] = False,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Write a key for other tools: Parquet tables of bins, units and labels."""
    from summer_prep.show.export import export

    length_ms = one_bin_length(bin_length)
    with working("exporting"):
        written = export(
            patient, target, cache_dir=cache_dir, bin_length=length_ms, label_rule=label_rule, force=force,
            local_cache=local_cache,
        )  # fmt: skip
    if as_json:
        show_json([str(path) for path in written])
        return
    for path in written:
        show(as_data(path))


@app.command()
def status(
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = None,
    bin_length: BinLengths = None,
    local_cache: LocalCache = None,
    as_json: JsonOption = False,
) -> None:
    """Report which keys are fresh, missing or stale, why, and their bytes; a build writes the missing and the stale.

    Nothing is written. A recording is read where its digest was not noted since it was changed.
    """
    from summer_prep.cache.fresh import cache_states
    from summer_prep.cache.keys import open_cache

    chosen = as_patient_ids(patient_ids), as_bin_lengths(bin_length)
    with working("comparing recordings and keys"):
        states = cache_states(data_dir, open_cache(cache_dir, local_cache), *chosen)
    if as_json:
        show_json([state.as_plain() for state in states])
    else:
        rows = [
            [one.patient_id, one.bin_length_ms, one.state, one.reason, f"{one.n_bytes:,}" if one.n_bytes else ""]
            for one in states
        ]
        show_table(Table(["patient", "bin (ms)", "state", "reason", "bytes"], rows))
        say(f"summer-prep build would write {sum(one.is_to_build for one in states)} of {len(states)} keys")
        say("files were counted and measured, not read: summer-prep verify reads every byte")
    failed = [one.reason for one in states if one.state == "failed"]
    summary = f"{len(failed)} of {len(states)} keys could not be compared, listed above"
    _fail_if_any(list(dict.fromkeys(failed)), "failed", len(states), summary)


@app.command()
def verify(
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = None,
    bin_length: BinLengths = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of the cache against its digests; exit code 1 if anything is wrong."""
    from summer_prep.cache.keys import keys_and_problems, open_cache
    from summer_prep.cache.layout import key_path, patient_path

    cache = open_cache(cache_dir)
    chosen = as_patient_ids(patient_ids)
    cached, unlisted = keys_and_problems(cache)
    cached |= {patient_id: [] for patient_id in unlisted}
    if not cached:
        raise SettingsError(f"{cache_dir}: nothing in the cache. Check --cache-dir")
    keys = _chosen_keys(cache_dir, cached, chosen, as_bin_lengths(bin_length))
    problems: dict[str, list[SummerError]] = {
        str(patient_path(cache_dir, patient_id)): [UnreachableError(line)]
        for patient_id, line in unlisted.items()
        if not chosen or patient_id in chosen
    }
    with progress_on_terminal() as bar:
        for key in bar.track(keys, description="reading"):
            path = key_path(cache_dir, *key)
            try:
                problems[str(path)] = list(map(CacheError, cache.verify(*key)))
            except Exception as error:
                problems[str(path)] = [UnreachableError(one_line(error, path))]
    if as_json:
        show_json({path: list(map(str, found)) for path, found in problems.items()})
    _fail_if_wrong(list(problems.values()), len(keys))
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
    if missing and found:
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove from a bucket the data of replaced and unfinished keys, a day after they were written or replaced."""
    from summer_prep.cache.bucket import BucketCache
    from summer_prep.cache.keys import open_cache

    cache = open_cache(cache_dir)
    if not isinstance(cache, BucketCache):
        raise SettingsError(f"--cache-dir {cache_dir}: a folder has nothing to collect; builds clear it. Name a bucket")
    removed = cache.collect_garbage(may_remove=not dry_run)
    if as_json:
        show_json([str(url) for url in removed])
        return
    for url in removed:
        show(as_data(url))
    say(f"{'would remove' if dry_run else 'removed'} the data of {len(removed)} replaced or unfinished keys")


@app.command("remove-copies")
def remove_local_copies(local_cache: LocalCache = None) -> None:
    """Remove the copies of keys in buckets from this machine; they are fetched again when they are needed."""
    from summer_prep.cache.bucket import remove_copies
    from summer_prep.cache.keys import default_local_cache

    folder = local_cache or default_local_cache()
    say(f"removed {len(remove_copies(folder))} copies of keys from {folder}")


def main() -> None:
    """Run `summer-prep`."""
    run(app, "summer-prep", sys.argv[1:])
