"""The commands of `summer-train`: parse, one library call, print."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
)
from summer_prep.errors import SettingsError
from summer_train.config import FitConfig, is_first_process

app = new_app("Train decoders on the cached SUMMER arrays.")

Task = StrEnum("Task", ["next_bin", "label"])
LabelRule = StrEnum("LabelRule", ["first", "any", "majority"])
Undefined = StrEnum("Undefined", ["drop", "class"])

REGIONS_HELP = "Regions to keep, like A EC; H stands for AH MH PH, PHC also for APH MPH PPH.  [default: all]"
WORKERS_HELP = "Accepted for old command lines: counts come from the mapped cache, so no worker processes load them."
RULE_HELP = "Which frames decide a bin's label: the first, any that is on, or most of them."
UNDEFINED_HELP = "Leave bins with undefined labels out, or make them a class."
RESUME_HELP = "Continue the newest run in --output-dir, which must have these settings."
MEMORY_HELP = "GB of device memory that counts may take; more than that streams.  [default: 80 % of what is free]"
FRACTION_HELP = "Fraction split instead of the blocked one: this last part validates, no test."

TaskOption = Annotated[Task, typer.Option(help="Predict the next bin's counts, or a label.")]
BinLength = Annotated[int, typer.Option(help="Bin length in ms.")]
BatchSize = Annotated[int, typer.Option(help="Samples per optimizer step.")]
HiddenSize = Annotated[int, typer.Option(help="Width of the hidden layer.")]


@app.command()
def fit(
    task: TaskOption = Task.next_bin,
    label_name: Annotated[str, typer.Option(help="The label to decode (task label).")] = "summer",
    data_dir: DataDir = Path("/data"),
    nwb_path: NwbPath = None,
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = "",
    bin_length: BinLength = 80,
    brain_regions: Annotated[str, typer.Option(help=REGIONS_HELP)] = "",
    single_units: Annotated[bool, typer.Option("--single-units", help="Keep single units only.")] = False,
    label_rule: Annotated[LabelRule, typer.Option(help=RULE_HELP)] = LabelRule.first,
    undefined: Annotated[Undefined, typer.Option(help=UNDEFINED_HELP)] = Undefined.drop,
    val_fraction: Annotated[float | None, typer.Option(help=FRACTION_HELP)] = None,
    buffer: Annotated[
        float | None, typer.Option(help="Blocked split: seconds between training, validation, test.  [default: 32]")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Blocked split: fold, 1 to 5.  [default: 1]")] = None,
    sequence: Annotated[str, typer.Option(help="Past and future seconds added to the buffer.")] = "3 1",
    batch_size: BatchSize = 32,
    max_epochs: Annotated[int, typer.Option(help="Passes over the training samples.")] = 20,
    hidden_size: HiddenSize = 64,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    num_workers: Annotated[int, typer.Option(help=WORKERS_HELP)] = 0,
    output_dir: Annotated[Path, typer.Option(help="Where logs and checkpoints go.")] = Path("lightning_logs"),
    devices: Annotated[
        int | None, typer.Option(help="Number of GPUs (CPU processes without).  [default: all visible]")
    ] = None,
    device_memory: Annotated[float | None, typer.Option(help=MEMORY_HELP)] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte of the cache against its digests first.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME_HELP)] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Equal seeds give equal runs on one CPU.")] = 0,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate one model; keys that are missing or stale are built from --data-dir first."""
    config = FitConfig(
        task=task.value,
        label_name=label_name,
        data_dir=data_dir,
        nwb_path=nwb_path,
        cache_dir=cache_dir,
        patient_ids=split_list(patient_ids),
        bin_length_ms=bin_length,
        brain_regions=split_list(brain_regions),
        single_units=single_units,
        label_rule=label_rule.value,
        undefined=undefined.value,
        val_fraction=val_fraction,
        buffer_s=buffer,
        fold=fold,
        sequence_s=_two_seconds(sequence),
        batch_size=batch_size,
        max_epochs=max_epochs,
        hidden_size=hidden_size,
        lr=lr,
        num_workers=num_workers,
        output_dir=output_dir,
        devices=devices,
        device_memory_gb=device_memory,
        verify=verify,
        resume=resume,
        seed=seed,
    )
    from summer_train.fit import fit as fit_model

    result = fit_model(config, say=_say)
    if result is None:
        return
    from summer_train.report import draw_learning_curve, score_table

    if picture is not None:
        draw_learning_curve(result.log_dir, result.scores, picture)
        _say(f"wrote {picture}")
    if as_json:
        typer.echo(json.dumps(result.as_plain(), indent=1))
        return
    sizes = ", ".join(f"{n} {part}" for part, n in result.n_samples.items() if n)
    typer.echo(f"{config.task}: {result.n_units} units, samples: {sizes}")
    print_table(score_table(result.scores))
    typer.echo(f"logs: {result.log_dir}\nbest: {result.best_checkpoint}\nlast: {result.last_checkpoint}")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="best.ckpt or last.ckpt of a run.")],
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: Annotated[str, typer.Option(help="Other patients.  [default: those it was trained on]")] = "",
    fold: Annotated[int | None, typer.Option(help="Another fold.  [default: the one it was trained on]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint on the cache, saying how the data differ from those it was trained on."""
    from summer_train.evaluate import evaluate as evaluate_checkpoint

    result = evaluate_checkpoint(
        checkpoint,
        data_dir=data_dir,
        cache_dir=cache_dir,
        patient_ids=split_list(patient_ids),
        fold=fold,
        say=_say,
    )
    if as_json:
        typer.echo(json.dumps(result.as_plain(), indent=1))
        return
    from summer_train.report import score_table

    for difference in result.differences:
        _say(f"differs from training: {difference}")
    print_table(score_table(result.scores))


@app.command()
def bench(
    task: TaskOption = Task.next_bin,
    data_dir: DataDir = Path("/data"),
    cache_dir: CacheDir = Path("data_cache"),
    patient_ids: PatientIds = "",
    bin_length: BinLength = 80,
    batch_size: BatchSize = 32,
    hidden_size: HiddenSize = 64,
    repeats: Annotated[int, typer.Option(help="Turns; each trains a few epochs in every way.")] = 5,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time the stages of a run, and an epoch against the published way and a bare PyTorch loop."""
    config = FitConfig(
        task=task.value,
        data_dir=data_dir,
        cache_dir=cache_dir,
        patient_ids=split_list(patient_ids),
        bin_length_ms=bin_length,
        batch_size=batch_size,
        hidden_size=hidden_size,
    )
    from summer_train.bench import bench as run_bench
    from summer_train.report import bench_tables, draw_bench

    result = run_bench(config, repeats, say=_say)
    if picture is not None:
        draw_bench(result.epochs_s, picture)
        _say(f"wrote {picture}")
    if as_json:
        typer.echo(json.dumps(result.as_plain(), indent=1))
        return
    typer.echo(
        f"{result.n_units} units, {result.n_steps} steps of {result.batch_size} samples an epoch, {result.device}"
    )
    for table in bench_tables(result.stages_s, result.epochs_s):
        print_table(table)


def _say(line: str) -> None:
    """Tell people, beside the results that go to stdout."""
    typer.echo(line, err=True)


def _two_seconds(text: str) -> tuple[float, float]:
    try:
        past, future = (float(value) for value in split_list(text))
    except ValueError as error:
        raise SettingsError(f"--sequence {text}: must be two numbers of seconds, past and future, like 3 1") from error
    return past, future


def main() -> None:
    """Run `summer-train`."""
    if not is_first_process() and "--debug" not in sys.argv:  # the first one speaks for all, of errors too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    run(app, sys.argv[1:])
