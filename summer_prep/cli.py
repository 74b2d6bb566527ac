"""The commands of `summer-prep`: parse, one library call, print."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from summer_prep import console
from summer_prep.cache.settings import CACHE_DIR, DATA_DIR, BuildConfig
from summer_prep.errors import CacheError, SettingsError, one_line
from summer_prep.files import check_folder
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, FileLayout, LabelRule
from summer_prep.options import as_bin_length, as_bin_lengths, as_names, as_patient_id, as_patient_ids, expressions
from summer_prep.settings import accepts
from summer_prep.show import tables

if TYPE_CHECKING:
    from summer_prep.cache.keys import Cache

BinLengths = Annotated[str | None, typer.Option(metavar="MS...", help="Bin lengths in ms.  [default: as cached]")]
BinLength = Annotated[int | None, typer.Option(parser=as_bin_length, metavar="MS", help="Length in ms.  [default: 80]")]
FoldLayout = Annotated[float | None, typer.Option(metavar="BUFFER", help="Show the labels of each fold; buffer in s.")]

app = console.new_app("Bin the SUMMER recordings into film bins and cache them as Zarr arrays.")


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
    drift: Annotated[float, typer.Option(min=0, max=2, help="How much firing rates wander; 1 is a lot.")] = 0.0,
    layout: Annotated[FileLayout, typer.Option(help="File names, and where the tables stand in the files.")] = "dandi",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal recordings.")] = 0,
) -> None:
    """Write SUMMER-shaped synthetic recordings, targets of their film, and in truth.json what units are tuned to."""
    from summer_prep.recordings.demo import demo_data as write

    with console.working("making recordings"):
        paths = write(
            folder, patients=patients, patient_ids=patient_ids, minutes=minutes, film_length=film_length, units=units,
            drift=drift, layout=layout, seed=seed,
        )  # fmt: skip
    console.show_result(paths, False, *map(str, paths))


@app.command()
@accepts(BuildConfig, as_parameter=console.typed_option)
def build(as_json: console.JsonOption = False, **options: Any) -> None:
    """Bin NWB recordings into the cache; what is fresh is skipped, and a killed build can simply be repeated."""
    from summer_prep.cache.build import build_keys
    from summer_prep.recordings.find import other_nwb_files

    config = BuildConfig.from_options(options)
    with console.progress_on_terminal() as bar:
        task = bar.add_task("binning", total=None)
        results = build_keys(config, lambda n_done, n_patients: bar.update(task, completed=n_done, total=n_patients))
    if config.nwb_path is None and not config.patient_ids:
        for path in other_nwb_files(config.data_dir):
            console.log(f"left out {path}: its name has no patient id, as sub14.nwb has")
    for result in results:
        if result.state == "built" and result.message:
            console.log(f"patient {result.patient_id}, {result.bin_length_ms} ms: {result.message}")
    good = [asdict(result) for result in results if result.state != "failed"]
    console.show_result(list(map(asdict, results)), as_json, *[tables.results_table(good)] * bool(good))
    _fail_if_any([result.message for result in results if result.state == "failed"], len(results))


@app.command()
def inspect(
    patient: Annotated[str | None, typer.Argument(help="A patient id.  [default: a list of all keys]")] = None,
    cache_dir: console.CacheDir = CACHE_DIR,
    bin_length: BinLength = None,
    picture: console.PictureOption = None,
    labels: Annotated[
        str | None, typer.Option(metavar="NAME...", help="Labels or expressions to draw.  [default: a few labels]")
    ] = None,
    unit: Annotated[int | None, typer.Option(help="Show one unit, by its column from 0: rates, Fano factor.")] = None,
    fold_layout: FoldLayout = None,
    html: Annotated[
        Path | None, console.path_option("Write a page to zoom into, with the folds of --fold-layout (32).", "--html")
    ] = None,
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """Show what is in the cache: all patients, or one's arrays, rates, labels and pauses, or one unit."""
    from summer_prep.cache.keys import facts_of_keys, open_cache
    from summer_prep.show.facts import describe_folds, describe_key, describe_unit
    from summer_prep.show.web import check_page

    of_one = {"--unit": unit, "--html": html, "--fold-layout": fold_layout, "--picture": picture}
    given = [option for option, value in of_one.items() if value is not None]
    if patient is None and given:
        raise SettingsError(f"{given[0]} is of one patient. Name it: summer-prep inspect PATIENT {given[0]} ...")
    if unit is not None and fold_layout is not None:
        raise SettingsError("--unit and --fold-layout show different things. Choose one of them")
    if picture is None and labels is not None:
        raise SettingsError(f"--labels {labels}: chooses what --picture draws. Name a picture, too")
    check_page(html, "bokeh")
    length_ms, cache = bin_length or DEFAULT_BIN_LENGTH_MS, open_cache(cache_dir, local_cache)
    if patient is None:
        keys, unlisted = _keys_of(cache, [], [] if bin_length is None else [length_ms])
        with console.working("reading keys"):
            found = facts_of_keys(cache, keys)
        listed = [one for one in found if isinstance(one, dict)]
        console.show_result(listed, as_json, tables.patients_table(listed))
        _fail_if_any([*(str(one) for one in found if not isinstance(one, dict)), *unlisted.values()], len(keys))
        return
    patient = as_patient_id(patient)
    _, unlisted = _keys_of(cache, [patient], [length_ms])
    _fail_if_any(list(unlisted.values()), 1)
    with console.working("reading the key"):
        key = cache.fetch(patient, length_ms, every_byte=True)  # what is shown of it is what was written
        if html is not None:
            from summer_prep.show.page import write_key_page

            write_key_page(key, html, fold_layout)
        if picture is not None:
            from summer_prep.show.picture import draw_key

            draw_key(key, picture, as_names(labels, "--labels", "labels", expressions))
        if unit is not None:
            facts, tables_of = describe_unit(key, unit), tables.unit_tables
        elif fold_layout is not None:
            facts, tables_of = describe_folds(key, fold_layout), tables.fold_tables
        else:
            facts, tables_of = describe_key(key), tables.key_tables
    for path in filter(None, (html, picture)):
        console.log(f"wrote {path}")
    console.show_result(facts, as_json, *tables_of(facts))


def _keys_of(
    cache: "Cache", patient_ids: Sequence[str], lengths_ms: Sequence[int]
) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Return the keys of patients and bin lengths, by default of all, and patient id -> why its keys are not listed.

    Raises SettingsError if a patient or a bin length has no key.
    """
    from summer_prep.cache.keys import check_known, keys_and_problems

    cached, unlisted = keys_and_problems(cache)
    if not cached and not unlisted:
        build = "Check --cache-dir, or build it: summer-prep build --data-dir DIR"
        raise SettingsError(f"{cache.place}: nothing in the cache. {build}")
    unlisted = {one: line for one, line in unlisted.items() if not patient_ids or one in patient_ids}
    every_key = [(one, length) for one in patient_ids or cached for length in cached.get(one, [])]
    keys = [key for key in every_key if not lengths_ms or key[1] in lengths_ms]
    at = f"at {' '.join(map(str, lengths_ms))} ms in" if lengths_ms else "in"
    check_known(patient_ids, {*unlisted, *(patient_id for patient_id, _ in keys)}, f"{at} {cache.place}", cached, None)
    for one in () if unlisted else lengths_ms:
        found = [patient_id for patient_id, length in keys if length == one]
        check_known((), found, f"at {one} ms in {cache.place}", cached, None)
    return keys, unlisted


def _fail_if_any(problems: Sequence[str], n_keys: int) -> None:
    """Log the problems of keys, one line each, and end with exit code 1; the only one of the only key in one line."""
    if len(problems) == n_keys == 1:
        raise CacheError(problems[0])
    for problem in problems:
        console.log(f"failed: {problem}")
    if problems:
        raise CacheError(f"{len(problems)} of {n_keys} failed, listed above")


@app.command()
def labels(
    cache_dir: console.CacheDir = CACHE_DIR,
    bin_length: BinLength = None,
    fold_layout: FoldLayout = None,
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """List the labels of the film: how often and how long each is on, and which folds lack it."""
    from summer_prep.cache.keys import open_cache
    from summer_prep.show.facts import labels_of_cache

    facts = labels_of_cache(open_cache(cache_dir, local_cache), bin_length or DEFAULT_BIN_LENGTH_MS, fold_layout)
    console.show_result(facts, as_json, tables.labels_table(facts["labels"]))
    if facts["patients_with_others"] and not as_json:
        others = ", ".join(facts["patients_with_others"])
        console.log(f"labels of patient {facts['patient_id']}; other annotations have {others}: see summer-prep diff")


@app.command()
def diff(
    first: Annotated[Path, console.place_argument("A cache, a patient's folder in it, or a key.", "A")],
    second: Annotated[Path, console.place_argument("Another one of that kind.", "B")],
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """Show which numbers of two caches, patients or keys differ, and from which bin on; exit code 1 if any does."""
    from summer_prep.show import diff as comparison

    with console.working("comparing"):
        differences = comparison.diff(first, second, local_cache)
    n_unequal = sum(not comparison.is_equal(pair) for pair in differences)
    console.show_result(differences, as_json, *tables.differences_tables(differences))
    if not as_json:
        compared = "keys and targets" if any("target" in pair for pair in differences) else "keys"
        console.log(f"{len(differences) - n_unequal} of {len(differences)} {compared} hold the same numbers")
    if n_unequal:
        raise typer.Exit(1)


@app.command()
def responses(
    label: Annotated[str, typer.Argument(help="A label, or an expression of labels.")],
    cache_dir: console.CacheDir = CACHE_DIR,
    patient_ids: console.PatientIds = None,
    bin_length: Annotated[int | None, typer.Option(parser=as_bin_length, metavar="MS", help="20, 10 or 5.")] = None,
    shifts: Annotated[int, typer.Option(min=1, help="How often onsets are moved, if the film is so long.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Draws the shifts, where the film has more.")] = 0,
    csv: Annotated[Path | None, console.path_option("Write a row for each unit.", "--csv")] = None,
    picture: console.PictureOption = None,
    html: Annotated[Path | None, console.path_option("Write a page with picture and tables.", "--html")] = None,
    published: Annotated[bool, typer.Option("--published", help="Set published numbers beside.")] = False,
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """Find the units whose rate changes when a label comes on: a table of regions; all units as CSV, picture, page."""
    from summer_prep.show import responses as of_label
    from summer_prep.show.web import check_page

    check_page(html)
    if csv is not None:
        check_folder(csv.parent, "--csv")
    with console.working("moving onsets"):
        keys: Any = {"cache_dir": cache_dir, "patient_ids": patient_ids, "bin_length": bin_length}
        facts = of_label.responses(label, **keys, shifts=shifts, seed=seed, local_cache=local_cache)
        facts |= {"published": of_label.PUBLISHED} if published else {}
        of_label.write_responses(facts, csv, picture, html)
    for path in filter(None, (csv, picture, html)):
        console.log(f"wrote {path}")
    console.show_result(facts, as_json, *tables.responses_tables(facts))


@app.command("export")
def export_key(
    patient: Annotated[str, typer.Argument(help="A patient id.")],
    target: Annotated[Path, typer.Argument(help="A folder for the Parquet tables.")],
    cache_dir: console.CacheDir = CACHE_DIR,
    bin_length: BinLength = None,
    label_rule: Annotated[LabelRule, typer.Option(help="Which frames decide a bin's label.")] = "first",
    force: Annotated[bool, typer.Option("--force", help="Replace the tables in the folder.")] = False,
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """Write a key for other tools: Parquet tables of bins, units, labels and features."""
    from summer_prep.show.export import export

    with console.working("exporting"):
        written = export(
            patient, target, cache_dir=cache_dir, bin_length=bin_length or DEFAULT_BIN_LENGTH_MS,
            label_rule=label_rule, force=force, local_cache=local_cache,
        )  # fmt: skip
    console.show_result(list(map(str, written)), as_json, *map(str, written))


@app.command()
def status(
    data_dir: console.DataDir = DATA_DIR,
    cache_dir: console.CacheDir = CACHE_DIR,
    patient_ids: console.PatientIds = None,
    bin_length: BinLengths = None,
    local_cache: console.LocalCache = None,
    as_json: console.JsonOption = False,
) -> None:
    """Report which keys are fresh, missing or stale, why, and their bytes; a build writes the missing and the stale.

    Nothing is written. A recording is read where its digest was not noted since it was changed.
    """
    from summer_prep.cache.fresh import cache_states
    from summer_prep.cache.keys import open_cache

    chosen = as_patient_ids(patient_ids), as_bin_lengths(bin_length)
    with console.working("comparing recordings and keys"):
        states = cache_states(data_dir, open_cache(cache_dir, local_cache), *chosen)
    names = ("patient_id", "bin_length_ms", "state", "reason", "n_bytes")
    facts = [{name: getattr(state, name) for name in names} for state in states]
    console.show_result(facts, as_json, tables.states_table(facts))
    if not as_json:
        n_to_build = sum(one.is_to_build and not (one.state == "missing" and one.reason) for one in states)
        console.log(f"of these {len(states)} keys, summer-prep build would write {n_to_build}: those missing or stale")
        console.log("files were measured, not read; summer-prep verify reads every byte")
    _fail_if_any(list(dict.fromkeys(one.reason for one in states if one.state == "failed")), len(states))


@app.command()
def verify(
    cache_dir: console.CacheDir = CACHE_DIR,
    patient_ids: console.PatientIds = None,
    bin_length: BinLengths = None,
    as_json: console.JsonOption = False,
) -> None:
    """Read every byte of the cache against its digests; exit code 1 if anything is wrong."""
    from summer_prep.cache.keys import open_cache
    from summer_prep.cache.layout import key_path, patient_path
    from summer_prep.cache.targets import film_targets

    cache = open_cache(cache_dir)
    keys, unlisted = _keys_of(cache, as_patient_ids(patient_ids), as_bin_lengths(bin_length))
    problems = {str(patient_path(cache_dir, patient_id)): [line] for patient_id, line in unlisted.items()}
    with console.progress_on_terminal() as bar:
        for key in bar.track(keys, description="reading"):
            path = key_path(cache_dir, *key)
            try:
                problems[str(path)] = cache.verify(*key)
            except Exception as error:
                problems[str(path)] = [one_line(error, path)]
    own = film_targets(cache_dir) if isinstance(cache_dir, Path) else {}  # a bucket has none
    problems |= {str(target.path): target.problems() for target in own.values()}
    lines = [line for found in problems.values() for line in found]
    good = f"{len(keys)} keys{f' and {len(own)} targets' if own else ''} verified: every byte is as it was written"
    console.show_result(problems, as_json, *[good] * (not lines))
    _fail_if_any(lines, len(keys) + len(own))


@app.command("add-target")
def add_target(
    file: Annotated[Path, typer.Argument(help="Intervals or an array: .csv, .tsv, .parquet, .npy or .npz.")],
    name: Annotated[str, typer.Option(help="Name of the target.")],
    start_s: Annotated[float | None, typer.Option(help="Film time of the first row in s.  [default: 0]")] = None,
    step_s: Annotated[float | None, typer.Option(help="From row to row in s.  [default: a row for each frame]")] = None,
    cache_dir: console.CacheDir = CACHE_DIR,
    as_json: console.JsonOption = False,
) -> None:
    """Store labels or features of your own in the cache, once for all patients and bin lengths."""
    from summer_prep.cache.targets import add_target as add

    with console.working("adding the target"):
        facts = add(file, name=name, cache_dir=cache_dir, start_s=start_s, step_s=step_s)
    console.show_result(facts, as_json, *tables.target_tables([facts]))


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="One of them.  [default: all]")] = None,
    cache_dir: console.CacheDir = CACHE_DIR,
    as_json: console.JsonOption = False,
) -> None:
    """List the labels and features of your own that the cache holds: kind, columns, share on, what is undefined."""
    from summer_prep.cache.targets import targets as describe

    with console.working("reading targets"):
        facts = describe(cache_dir, name)
    console.show_result(facts, as_json, *tables.target_tables(facts))


@app.command("remove-target")
def remove_target(
    name: Annotated[str, typer.Argument(help="Name of the target.")], cache_dir: console.CacheDir = CACHE_DIR
) -> None:
    """Remove labels or features of your own from the cache."""
    from summer_prep.cache.targets import remove_target as remove

    console.log(f"removed {remove(name, cache_dir)}")


@app.command()
def gc(
    cache_dir: console.CacheDir,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: console.JsonOption = False,
) -> None:
    """Remove from a bucket the data of replaced and unfinished keys, a day after they were written or replaced."""
    from summer_prep.cache.bucket import BucketCache
    from summer_prep.cache.keys import open_cache

    cache = open_cache(cache_dir)
    if not isinstance(cache, BucketCache):
        raise SettingsError(f"--cache-dir {cache_dir}: a folder has nothing to collect; builds clear it. Name a bucket")
    removed = cache.collect_garbage(may_remove=not dry_run)
    console.show_result(list(map(str, removed)), as_json, *map(str, removed))
    if not as_json:
        console.log(f"{'would remove' if dry_run else 'removed'} {len(removed)} replaced or unfinished keys")


@app.command("remove-copies")
def remove_local_copies(local_cache: console.LocalCache = None) -> None:
    """Remove the copies of keys in buckets from this machine; they are fetched again when they are needed."""
    from summer_prep.cache.bucket import remove_copies
    from summer_prep.cache.keys import default_local_cache

    folder = local_cache or default_local_cache()
    console.log(f"removed {len(remove_copies(folder))} copies of keys from {folder}")


def main() -> None:
    """Run `summer-prep`."""
    console.run(app, "summer-prep", sys.argv[1:])
