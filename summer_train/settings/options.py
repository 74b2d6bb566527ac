"""What one training run is: a Choice decides its numbers, a Run says where and how.

Each field is an option of the command line and of the Python front door, named like the field without its unit.
"""

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, DEFAULT_BUFFER_S, MAX_SECONDS, LabelRule, check_bin_length
from summer_prep.options import (
    as_bin_lengths,
    as_names,
    as_number,
    as_numbers,
    as_path,
    as_patient_ids,
    as_place,
    as_text,
    plain,
)
from summer_prep.urls import Place, Url

Task = Literal["next_bin", "label"]
Undefined = Literal["drop", "class"]
Pauses = Literal["keep", "drop"]
Split = Literal["blocked", "random"]
Model = Literal["mlp", "linear", "lstm", "gru"]
Loss = Literal["mse", "poisson"]
ClassWeight = Literal["none", "balanced"]
Preset = Literal["none", "paper"]
Logger = Literal["csv", "tensorboard", "wandb"]

DEFAULT_FOLD = 1

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # 20 bins of 80 ms, from 800 ms before the frame's bin to 800 ms after its start (Gerken et al., LSTM decoder).
    "paper": {"model": "lstm", "bin_length": 80, "window": (0.8, 0.72), "batch_size": 128},
}
"""Preset -> options that it sets, where they are not given."""

_UNITS = ("_ms", "_s", "_gb")
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY

Log = Callable[[str], None]
"""Takes lines of progress, for people."""

Convert = Callable[[Any, str], Any]
AnySettings = TypeVar("AnySettings", bound="Settings")
Function = TypeVar("Function", bound=Callable[..., Any])


def _option(default: Any, help_text: str, convert: Convert | None = None, several: str = "") -> Any:
    """Return a field with what a person is told of it; `several` names the values of an option that takes a list."""
    return field(default=default, metadata={"help": help_text, "convert": convert, "several": several})


def _seconds_pair(value: object, option: str) -> tuple[float, float]:
    return _pair(value, option, "must be two numbers of seconds, past and future, like 3 1", least=0)


def _window(value: object, option: str) -> tuple[float, float]:
    example = "must be two numbers of seconds, past and future, like 0.8 0.72; negative ones leave bins out"
    return _pair(value, option, example, least=-MAX_SECONDS)


def _pair(value: object, option: str, example: str, least: float) -> tuple[float, float]:
    numbers = as_numbers(value, option, example)
    if len(numbers) != 2 or not all(least <= number <= MAX_SECONDS for number in numbers):
        written = " ".join(f"{number:g}" for number in numbers)
        raise SettingsError(f"{option} {written}: {example}, at most {MAX_SECONDS:g}")
    return numbers[0] + 0.0, numbers[1] + 0.0  # -0 is 0


def _bin_length(value: object, option: str) -> int:
    lengths = as_bin_lengths(value, option)
    if len(lengths) != 1:
        raise SettingsError(f"{option} {value}: a run has one bin length, like 80")
    return lengths[0]


def _loggers(value: object, option: str) -> tuple[str, ...]:
    names = as_names(value, option, "loggers, like csv tensorboard")
    unknown = [name for name in names if name not in get_args(Logger)]
    if unknown:
        raise SettingsError(f"{option} {' '.join(unknown)}: choose among {', '.join(get_args(Logger))}")
    return names


def _regions(value: object, option: str) -> tuple[str, ...]:
    return as_names(value, option, "regions, like A EC")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Choice and Run have in common."""

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain values, for YAML, JSON and checkpoints."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Choice(Settings):
    """What decides the numbers of a run; equal choices on equal data give equal scores."""

    task: Task = _option("next_bin", "Predict the next bin's counts, or a label.")
    label_name: str = _option("summer", "The label to decode (task label).")
    patient_ids: tuple[str, ...] = _option(
        (), "Patients, like 14 20 or 14,20; units side by side.  [default: every one found]", as_patient_ids, "ID"
    )
    bin_length_ms: int = _option(DEFAULT_BIN_LENGTH_MS, "Bin length in ms.", _bin_length)
    brain_regions: tuple[str, ...] = _option(
        (),
        "Regions to keep, like A EC; H stands for AH MH PH, PHC also for APH MPH PPH.  [default: all]",
        _regions,
        "REGION",
    )
    single_units: bool = _option(False, "Keep single units only.")
    label_rule: LabelRule = _option(
        "first", "Which frames decide a bin's label: the first, any that is on, or most of them."
    )
    undefined: Undefined = _option("drop", "Leave bins with undefined labels out, or make them a class.")
    pauses: Pauses = _option(
        "keep", "Samples that reach across a pause, a skip or a frame of over 200 ms: keep or drop."
    )
    min_recorded: float = _option(0.0, "Leave out bins of which less than this share was recorded, 0 to 1.")
    split: Split = _option(
        "blocked", "blocked, or random single bins: neighbours leak, so this shows the leak and is no result."
    )
    val_fraction: float | None = _option(
        None, "Fraction split instead of the blocked one: this last part validates, no test."
    )
    buffer_s: float | None = _option(
        None, f"Blocked split: seconds between training, validation, test.  [default: {DEFAULT_BUFFER_S:g}]"
    )
    fold: int | None = _option(None, f"Blocked split: the segment that validates, 1 to 5.  [default: {DEFAULT_FOLD}]")
    sequence_s: tuple[float, float] = _option(
        (3.0, 1.0), "Past and future seconds added to the buffer.", _seconds_pair, "SECONDS"
    )
    window_s: tuple[float, float] = _option(
        (0.0, 0.0),
        "Past and future seconds around a bin that the network sees; negative ones leave bins out.",
        _window,
        "SECONDS",
    )
    model: Model = _option(
        "mlp", "mlp (two layers), linear (solved logistic regression or least squares), lstm or gru."
    )
    loss: Loss = _option("mse", "Loss of next-bin prediction: mean squared error, or Poisson likelihood.")
    class_weight: ClassWeight = _option("none", "balanced: the classes of a label weigh the same in the loss.")
    batch_size: int = _option(32, "Samples per optimizer step.")
    hidden_size: int = _option(64, "Width of the hidden layer.")
    lr: float = _option(1e-3, "Learning rate of Adam.")
    seed: int = _option(0, "Equal seeds give equal runs of one process on a CPU.")

    def __post_init__(self) -> None:
        # NumPy, which --help does without
        from summer_prep.film.splits import check_buffer, check_fold, check_fraction, window_of

        _check_literals(self)
        self._check_idle_options()
        check_bin_length(self.bin_length_ms)
        window = window_of(self.window_s, self.bin_length_ms)
        if self.task == "next_bin" and window.last > 0:
            raise SettingsError(
                f"--window {self.window_s[0]:g} {self.window_s[1]:g}: next-bin prediction would see what it predicts. "
                "FUTURE must be 0 or less"
            )
        _check_range(self, {"batch_size": 1, "hidden_size": 1, "seed": 0})
        if not 0 < self.lr < float("inf"):
            raise SettingsError(f"--lr {self.lr}: must be a number greater than 0")
        if not 0 <= self.min_recorded <= 1:
            raise SettingsError(f"--min-recorded {self.min_recorded}: must lie between 0 and 1, 0.5 is usual")
        if self.val_fraction is not None:
            if self.buffer_s is not None or self.fold is not None or self.split != "blocked":
                raise SettingsError(
                    "two splits were asked for: --val-fraction chooses the fraction split, "
                    "--buffer, --fold and --split the others. Give only one of them"
                )
            check_fraction(self.val_fraction)
            return
        # What is recorded and compared is what was used, named or not.
        if self.split == "blocked":
            object.__setattr__(self, "buffer_s", DEFAULT_BUFFER_S if self.buffer_s is None else self.buffer_s)
        object.__setattr__(self, "fold", DEFAULT_FOLD if self.fold is None else self.fold)
        check_fold(self.fold or 0)
        check_buffer(self.buffer_s or 0)

    def _check_idle_options(self) -> None:
        """Refuse options that have no effect on the others: a forgotten --task label trains another model."""
        for rule, names in idle_options(self.task, self.model, self.split).items():
            mine = [one for one in fields(self) if one.name in names]
            given = [f"--{option_of(one).replace('_', '-')}" for one in mine if getattr(self, one.name) != one.default]
            if given:
                raise SettingsError(f"{', '.join(given)}: has no effect on {rule}")

    def differences(self, plain: Mapping[str, Any]) -> list[str]:
        """Return how these settings differ from others, `as_plain`; patients are compared by their data elsewhere."""
        own = self.as_plain()
        return [
            f"{name} {plain.get(name)} then, {own[name]} now"
            for name in own
            if name != "patient_ids" and plain.get(name) != own[name]
        ]


def idle_options(task: str, model: str, split: str) -> dict[str, tuple[str, ...]]:
    """Return the fields of a Choice that have no effect, by what makes them idle."""
    idle: dict[str, tuple[str, ...]] = {}
    if task != "label":
        idle[f"--task {task}. Add --task label"] = ("label_name", "label_rule", "undefined", "class_weight")
    else:
        idle["--task label. Leave it out"] = ("loss",)
    if model == "linear":
        idle["--model linear, which has no hidden layer and is solved over all samples at once"] = (
            "hidden_size", "lr", "batch_size",
        )  # fmt: skip
    if split == "random":
        idle["--split random, which leaves no gaps"] = ("buffer_s", "sequence_s")
    return idle


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """Where a run takes its data from and leaves its results, for how long it trains, and on what."""

    data_dir: Place = _option(Path("/data"), "Folder with the NWB files, or a URL.", as_place)
    nwb_path: Path | None = _option(None, "One NWB file; ignored when --patient-ids is given.", as_path)
    cache_dir: Place = _option(Path("data_cache"), "Folder of the cache, or its URL in a bucket.", as_place)
    local_cache: Path | None = _option(
        None, "Where keys in a bucket are fetched to.  [default: ~/.cache/summer-pipeline]", as_path
    )
    output_dir: Path = _option(Path("lightning_logs"), "Where logs and checkpoints go.", as_path)
    max_epochs: int = _option(20, "Passes over the training samples, at most; of linear 20 iterations each.")
    patience: int | None = _option(
        None, "Stop after so many epochs without a lower validation loss.  [default: train all epochs]"
    )
    shifts: int = _option(
        0, "Labels: train so many more networks on labels shifted along the film, for a null and p-values."
    )
    preset: Preset = _option(
        "none", "paper: the published decoder, an LSTM on windows of 20 bins of 80 ms, batches of 128."
    )
    devices: int | None = _option(
        None,
        "Number of GPUs (CPU processes without); 1 is fastest at batches below some 8,000.  [default: all visible]",
    )
    threads: int | None = _option(None, "Processor threads of each process.  [default: 1; more for large nets]")
    device_memory_gb: float | None = _option(
        None, "GB of device memory that counts may take; more than that streams.  [default: 80 % of what is free]"
    )
    num_workers: int = _option(
        0, "Accepted for old command lines: counts come from the mapped cache, so no worker processes load them."
    )
    verify: bool = _option(False, "Read every byte of the cache against its digests first.")
    logger: tuple[str, ...] = _option(
        ("csv",), "Also log to tensorboard, wandb; metrics.csv is always written.", _loggers, "NAME"
    )
    resume: bool = _option(False, "Continue the newest run in --output-dir that has these settings.")

    def __post_init__(self) -> None:
        _check_literals(self)
        _check_range(self, {"max_epochs": 1, "patience": 1, "shifts": 0, "devices": 1, "threads": 1, "num_workers": 0})
        if self.device_memory_gb is not None and not 0 < self.device_memory_gb < float("inf"):
            raise SettingsError(f"--device-memory {self.device_memory_gb}: must be a number greater than 0")


@dataclass(frozen=True, kw_only=True)
class StudyRun(Run):
    """Where a study takes its data from and leaves its table, for how long it trains, and on what."""

    output_dir: Path = _option(
        Path("study"), "The study's folder; what is in it already is not trained again.", as_path
    )
    workers: int | None = _option(None, "Processes, of one thread each.  [default: as many as processors; 1 on a GPU]")
    keep_predictions: bool = _option(False, "Keep each model's predictions, as fit does.")
    scheduler: str | None = _option(
        None, "Train on a Dask cluster: its scheduler's address, or local.  [default: processes of this machine]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self, {"workers": 1})


STUDY_OPTIONS = (
    "data_dir", "nwb_path", "cache_dir", "local_cache", "output_dir", "max_epochs", "patience", "shifts", "preset",
    "workers", "device_memory", "verify", "keep_predictions", "scheduler",
)  # fmt: skip
"""Options of a study beside those of a Choice, of which it takes lists."""

STUDY_DEFAULTS = {"task": "label"}
"""Options that are something else by default in a study."""


def option_of(one: "Field[Any]") -> str:
    """Return the name of a field's option in Python: the field's own without its unit."""
    return next((one.name.removesuffix(unit) for unit in _UNITS if one.name.endswith(unit)), one.name)


def options_of(*kinds: type[Settings]) -> dict[str, "Field[Any]"]:
    """Return option -> field of some kinds of settings."""
    return {option_of(one): one for kind in kinds for one in fields(kind)}


def settings_from(kind: type[AnySettings], options: Mapping[str, Any]) -> AnySettings:
    """Return settings from options as people write them; those that are not this kind's are left alone.

    Raises
    ------
    SettingsError : a value that no such option can have
    """
    known = options_of(kind)
    options = with_preset({name: plain(value) for name, value in options.items()})
    return kind(
        **{known[name].name: _converted(known[name], value) for name, value in options.items() if name in known}
    )


def choice_of(plain: Mapping[str, Any], path: Path, **changes: Any) -> Choice:
    """Return the choice that a checkpoint or run was trained with, with changes.

    Raises
    ------
    SettingsError : its settings are none that this version knows
    """
    causes = {name: str(plain.get(name)) for name in ("task", "model", "split")}
    idle = {name for names in idle_options(**causes).values() for name in names}  # an older version took some of them
    known = {
        name: field
        for name, field in options_of(Choice).items()
        if plain.get(field.name, []) != [] and field.name not in idle
    }
    missing = [name for name, field in known.items() if plain[field.name] is None and field.default is not None]
    if missing:
        raise SettingsError(f"{path}: its settings cannot be used: no {', '.join(missing)}. Train again")
    try:
        return replace(settings_from(Choice, {name: plain[field.name] for name, field in known.items()}), **changes)
    except SettingsError as error:
        raise SettingsError(f"{path}: its settings cannot be used: {error}") from error


def check_given(options: Mapping[str, Any]) -> None:
    """Refuse options that were given and have no effect, also where they say what is the default.

    Raises
    ------
    SettingsError : one of them
    """
    known = options_of(Choice)
    causes = {name: str(options.get(name) or known[name].default) for name in ("task", "model", "split")}
    for rule, names in idle_options(**causes).items():
        given = [name for name, one in known.items() if one.name in names and options.get(name) is not None]
        if given:
            raise SettingsError(f"--{given[0].replace('_', '-')}: has no effect on {rule}")


def with_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of their preset, where they are not given."""
    preset = PRESETS.get(str(options.get("preset")), {})
    if options.get("model") == "linear":
        preset = {name: value for name, value in preset.items() if name != "batch_size"}  # it would have no effect
    return {**preset, **options}


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options that have no effect.

    Raises
    ------
    SettingsError : an unknown option
    """
    names = list(known)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=2) or names
            raise SettingsError(f"no option {name!r}. Choose among {', '.join(near)}")


def accepts(
    *kinds: type[Settings],
    only: Sequence[str] = (),
    defaults: Mapping[str, Any] = {},
    as_parameter: Callable[[str, "Field[Any]"], inspect.Parameter] | None = None,
) -> Callable[[Function], Function]:
    """Say in a function's signature which options its `**options` are.

    Parameters
    ----------
    only : some of the options; all by default
    defaults : of options that have another one than their field
    as_parameter : name and field -> parameter, for a command line; by default it is for `help`, which then says more
    """

    def decorate(function: Function) -> Function:
        known = {name: one for name, one in options_of(*kinds).items() if not only or name in only}
        own = [
            parameter.replace(kind=_KEYWORD_ONLY) if as_parameter else parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [
            as_parameter(name, one)
            if as_parameter
            else inspect.Parameter(name, _KEYWORD_ONLY, default=defaults.get(name, one.default))
            for name, one in known.items()
        ]
        in_order = [*options, *own] if as_parameter else [*own, *options]
        function.__signature__ = inspect.Signature(in_order)  # type: ignore[attr-defined]
        if as_parameter is None:
            lines = [f"{name} : {one.metadata['help']}" for name, one in known.items()]
            described = [inspect.getdoc(function) or "", "", "Options, as of `summer-train fit`", "", *lines]
            function.__doc__ = "\n".join(described)
        return function

    return decorate


def log_nothing(_line: str) -> None:
    """Keep a line of progress from people."""


FIRST_PROCESS = "SUMMER_TRAIN_FIRST_PROCESS"
"""Variable that holds the id of the process that started this one to train on a further device."""


def is_first_process() -> bool:
    """Return whether this is the first process of a run on several devices, which alone prints and writes."""
    return os.environ.get(FIRST_PROCESS) in (None, str(os.getpid()))


def check_one_process() -> None:
    """Refuse to be one of several processes that torchrun or srun started.

    Raises
    ------
    SettingsError : this is one of several
    """
    started = {
        "torchrun": os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None,
        "srun": os.environ.get("SLURM_STEP_NUM_TASKS"),
    }
    for launcher, n_processes in started.items():
        if n_processes not in (None, "1"):
            raise SettingsError(
                f"{launcher} started {n_processes} processes, and fit is one. Start it without {launcher} "
                "(--devices uses several devices of one machine), or train on several nodes with film_data and decoder "
                "in a lightning.Trainer, as docs/examples/several_nodes.py does"
            )


def _converted(one: "Field[Any]", value: Any) -> Any:
    option = f"--{option_of(one).replace('_', '-')}"
    if value is None or value is one.default or (isinstance(value, tuple) and not value):
        return one.default
    convert: Convert | None = one.metadata["convert"]
    if convert is not None:
        return convert(value, option)
    for kind in (bool, int, float):
        if one.type in (kind, kind | None):
            return as_number(value, kind, option)
    return as_text(value, option)


def _check_literals(settings: Settings) -> None:
    for one in fields(settings):
        value, allowed = getattr(settings, one.name), get_args(one.type)
        if get_origin(one.type) is Literal and value not in allowed:
            raise SettingsError(f"--{one.name.replace('_', '-')} {value}: choose one of {', '.join(allowed)}")


def _check_range(settings: Settings, least: Mapping[str, int]) -> None:
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not smallest <= value < 2**63:
            raise SettingsError(f"--{name.replace('_', '-')} {value}: must be {smallest} or more")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path | Url) else list(value) if isinstance(value, tuple) else value
