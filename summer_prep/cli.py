"""The commands of `summer-prep`: parse, one library call, print."""

import json
import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from summer_prep.command_line import (
    CacheDir,
    DataDir,
    JsonOption,
    NwbPath,
    PatientIds,
    PictureOption,
    new_app,
    print_table,
    run,
    split_list,
    split_numbers,
)
from summer_prep.errors import CacheError, SettingsError

if TYPE_CHECKING:
    from summer_prep.build import BuildConfig, KeyResult

app = new_app("Bin the SUMMER recordings into film bins and cache them as Zarr arrays.")

CODEC_HELP = "How spike counts are stored: none can be memory-mapped; zstd and blosc are smaller, for archiving."
Codec = StrEnum("Codec", ["none", "zstd", "blosc"])
Layout = StrEnum("Layout", ["dandi", "flat", "misc", "separate", "stimulus"])


@app.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 2,
    patient_ids: Annotated[str, typer.Option(help="Their ids instead.  [default: 14, 20, 29, 8, 1, 2, ...]")] = "",
    minutes: Annotated[float, typer.Option(min=1, help="Length of the film in minutes.")] = 10.0,
    film_length: Annotated[bool, typer.Option("--film-length", help="As long as the real film, 83.8 minutes.")] = False,
    units: Annotated[int, typer.Option(min=1, help="Units per patient.")] = 40,
    layout: Annotated[Layout, typer.Option(help="File names and places of the tables.")] = Layout.dandi,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal recordings.")] = 0,
) -> None:
    """Write SUMMER-shaped synthetic recordings, and which unit is tuned to what in truth.json."""
    from summer_prep.demo import DemoConfig, write_demo_data

    config = DemoConfig(
        folder=folder,
        n_patients=patients,
        patient_ids=split_list(patient_ids),
        minutes=minutes,
        film_length=film_length,
        n_units=units,
        layout=layout.value,
        seed=seed,
    )
    for path in write_demo_data(config):
        typer.echo(str(path))


@app.command()
def build(
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    nwb_path: NwbPath = None,
    patient_ids: PatientIds = "",
    bin_length: Annotated[
        str, typer.Option(help="Bin lengths in ms, like 80 or 80,200.  [default: all that the files list]")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes; one builds one patient at a time.")] = os.cpu_count()
    or 1,
    codec: Annotated[Codec, typer.Option(help=CODEC_HELP)] = Codec.none,
    force: Annotated[bool, typer.Option("--force", help="Build also what is fresh.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bin NWB recordings into the cache; what is fresh is skipped, and a killed build can simply be repeated."""
    from summer_prep.build import BuildConfig

    config = BuildConfig(
        data_dir=data_dir,
        cache_dir=cache_dir,
        nwb_path=nwb_path,
        patient_ids=split_list(patient_ids),
        bin_lengths_ms=split_numbers(bin_length, "--bin-length"),
        n_workers=workers,
        codec=codec.value,
        force=force,
    )
    results = build_with_progress(config)
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        _print_results(results)
    failures = [result.message for result in results if result.state == "failed"]
    n_good = len(results) - len(failures)
    summary = f"{len(failures)} builds failed, listed above; {n_good} keys are built or fresh"
    _fail_if_any(failures, "failed", len(results), summary)


def build_with_progress(config: "BuildConfig") -> "list[KeyResult]":
    """Build with a progress bar on stderr; remarks go there too."""
    from rich.console import Console
    from rich.progress import Progress

    from summer_prep.build import build as build_keys
    from summer_prep.recordings import other_nwb_files, select_recordings

    n_patients = len(select_recordings(config.data_dir, config.nwb_path, config.patient_ids))
    if config.nwb_path is None and not config.patient_ids:
        for path in other_nwb_files(config.data_dir):
            typer.echo(f"left out {path}: its name has no patient id, as sub14.nwb has", err=True)
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("binning", total=n_patients)
        results = build_keys(config, report=lambda _patient_id, _path: progress.advance(task))
    for result in results:
        if result.state == "built" and result.message:
            typer.echo(f"patient {result.patient_id}, {result.bin_length_ms} ms: {result.message}", err=True)
    return results


def _print_results(results: "list[KeyResult]") -> None:
    from rich.table import Table

    table = Table("patient", "bin (ms)", "state", "bins", "units", "counted", "in pauses", "outside", "seconds")
    for result in results:
        if result.state == "failed":
            continue
        tallies = [str(result.spikes.get(name, "")) for name in ("counted", "in_pauses", "outside")]
        sizes = [str(result.n_bins or ""), str(result.n_units or "")]
        seconds = f"{result.seconds:.2f}" if result.state == "built" else ""
        word = "built" if result.state == "built" else result.message
        table.add_row(result.patient_id, str(result.bin_length_ms), word, *sizes, *tallies, seconds)
    if table.row_count:
        print_table(table)


@app.command()
def inspect(
    patient: Annotated[str | None, typer.Argument(help="A patient id.  [default: a list of all keys]")] = None,
    cache_dir: CacheDir = Path("data_cache"),
    bin_length: Annotated[str, typer.Option(help="Bin length in ms.")] = "80",
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in the cache: all keys, or one patient's arrays, rates, labels and pauses."""
    from summer_prep.layout import cached_keys, key_path

    if patient is None:
        if picture is not None:
            raise SettingsError("--picture draws one patient. Name it: summer-prep inspect PATIENT --picture FILE")
        keys = [
            key_path(cache_dir, found, length)
            for found, lengths in cached_keys(cache_dir).items()
            for length in lengths
        ]
        if not keys:
            raise SettingsError(f"{cache_dir}: nothing in the cache. Build it: summer-prep build --data-dir DIR")
        _print_keys(keys, as_json)
        return
    length_ms, *others = split_numbers(bin_length, "--bin-length") or (80,)
    if others:
        raise SettingsError(f"--bin-length {bin_length}: one key is shown at a time. Name one bin length")
    cached = cached_keys(cache_dir)
    if length_ms not in cached.get(patient, []):
        found = ", ".join(f"{name} ({' '.join(map(str, lengths))} ms)" for name, lengths in cached.items())
        raise SettingsError(
            f"no key of patient {patient} at {length_ms} ms in {cache_dir}; found are {found or 'none'}. "
            "Choose one of these, or build it: summer-prep build --data-dir DIR"
        )
    _print_key(key_path(cache_dir, patient, length_ms), picture, as_json)


def _print_keys(keys: list[Path], as_json: bool) -> None:
    from rich.table import Table

    from summer_prep.layout import read_attributes

    readable, problems = [], []
    for key in keys:
        try:
            readable.append(read_attributes(key))
        except CacheError as error:
            problems.append(str(error))
    if as_json:
        names = ("patient_id", "bin_length_ms", "n_bins", "n_units", "n_unseen_bins", "codec", "spikes", "source")
        typer.echo(json.dumps([{name: facts[name] for name in names} for facts in readable], indent=1))
    else:
        table = Table("patient", "bin (ms)", "bins", "units", "spikes counted", "codec", "source")
        for facts in readable:
            cells = [facts[name] for name in ("patient_id", "bin_length_ms", "n_bins", "n_units")]
            cells += [facts["spikes"]["counted"], facts["codec"], facts["source"]["file_name"]]
            table.add_row(*map(str, cells))
        print_table(table)
    _fail_if_any(problems, "wrong", len(keys), f"{len(problems)} of {len(keys)} keys are damaged, listed above")


def _fail_if_any(problems: list[str], word: str, n_keys: int, summary: str) -> None:
    """Say the problems of keys, one line each, and end with exit code 1; the only one of the only key in one line."""
    if len(problems) == 1 and n_keys == 1:
        raise CacheError(problems[0])
    for problem in problems:
        typer.echo(f"{word}: {problem}", err=True)
    if problems:
        raise CacheError(summary)


def _print_key(key: Path, picture: Path | None, as_json: bool) -> None:
    from rich.table import Table

    from summer_prep.report import describe_key, draw_key

    facts = describe_key(key)
    if picture is not None:
        draw_key(key, picture)
        typer.echo(f"wrote {picture}", err=True)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    spikes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts["spikes"].items())
    typer.echo(f"{key}\n{facts['n_bins']} bins, {facts['n_units']} units from {facts['source']['file_name']}")
    typer.echo(f"spikes: {spikes}; bins never seen: {facts['n_unseen_bins']}")
    arrays = Table("array", "dimensions", "shape", "dtype", "chunks", "codec", "bytes", "on disk")
    for array in facts["arrays"]:
        shapes = [" x ".join(map(str, array[name])) for name in ("dimensions", "shape")]
        chunks = " x ".join(map(str, array["chunks"]))
        sizes = [f"{array['bytes']:,}", f"{array['stored_bytes']:,}"]
        arrays.add_row(array["name"], *shapes, array["dtype"], chunks, array["codec"], *sizes)
    regions = Table("region", "units", "median rate (Hz)", "highest rate (Hz)")
    for region in facts["regions"]:
        rates = f"{region['median_rate_hz']:.2f}", f"{region['max_rate_hz']:.2f}"
        regions.add_row(region["region"], str(region["n_units"]), *rates)
    labels = Table("label", "first (%)", "any (%)", "majority (%)", "undefined (%)")
    for label in facts["labels"]:
        shares = [f"{label[rule]:.2f}" for rule in ("first", "any", "majority", "undefined")]
        labels.add_row(label["label"], *shares)
    pauses = Table("pause at frame", "film time (s)", "recording start (s)", "duration (s)")
    for pause in facts["pauses"]:
        times = [pause["frame"] * 0.04, pause["start_ms"] / 1000, pause["duration_ms"] / 1000]
        pauses.add_row(str(pause["frame"]), *(f"{time:.2f}" for time in times))
    for table in (arrays, regions, labels, pauses):
        print_table(table)


@app.command()
def status(
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = "",
    bin_length: Annotated[str, typer.Option(help="Bin lengths in ms.  [default: those in the cache]")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say which keys are built, missing or stale, and why; nothing is changed."""
    from rich.table import Table

    from summer_prep.freshness import key_status

    keys = key_status(data_dir, cache_dir, split_list(patient_ids), split_numbers(bin_length, "--bin-length"))
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys], indent=1))
        return
    table = Table("patient", "bin (ms)", "state", "reason")
    for key in keys:
        table.add_row(key.patient_id, str(key.bin_length_ms), key.state, key.reason)
    print_table(table)


@app.command()
def verify(
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = "",
    bin_length: Annotated[str, typer.Option(help="Bin lengths in ms.  [default: all in the cache]")] = "",
    as_json: JsonOption = False,
) -> None:
    """Read every byte of the cache against its digests; exit code 1 if anything is wrong."""
    from summer_prep.layout import cached_keys, key_path
    from summer_prep.store import verify_key

    cached = cached_keys(cache_dir)
    chosen = split_list(patient_ids) or tuple(cached)
    lengths_ms = split_numbers(bin_length, "--bin-length")
    unknown = [patient_id for patient_id in chosen if patient_id not in cached]
    if not cached:
        raise SettingsError(f"{cache_dir}: nothing in the cache. Check --cache-dir")
    if unknown:
        raise SettingsError(
            f"{cache_dir}: no keys of patient {', '.join(unknown)}; found are {', '.join(cached)}. Check --patient-ids"
        )
    keys = [
        key_path(cache_dir, patient_id, length)
        for patient_id in chosen
        for length in cached[patient_id]
        if not lengths_ms or length in lengths_ms
    ]
    if not keys:
        found = sorted({length for patient_id in chosen for length in cached[patient_id]})
        raise SettingsError(f"--bin-length {bin_length}: no such keys; found are {', '.join(map(str, found))} ms")
    problems = {str(key): verify_key(key) for key in keys}
    if as_json:
        typer.echo(json.dumps(problems, indent=1))
    every_problem = [problem for found in problems.values() for problem in found]
    n_wrong = sum(bool(found) for found in problems.values())
    _fail_if_any(every_problem, "wrong", len(keys), f"{n_wrong} of {len(keys)} keys are damaged, listed above")
    if not as_json:
        typer.echo(f"{len(keys)} keys verified: every byte is as it was written")


def main() -> None:
    """Run `summer-prep`."""
    run(app, sys.argv[1:])
