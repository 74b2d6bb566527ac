"""What one training run is: a Choice decides its numbers, a Run says where and how.

Each field is an option of the command line and of the Python front door, named like the field without its unit.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from summer_prep.cache.settings import Places, patients_option, scheduler_option
from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BIN_LENGTH_MS, DEFAULT_BUFFER_S, MAX_SECONDS, LabelRule, check_bin_length
from summer_prep.options import as_bin_length, as_patient_ids, as_written
from summer_prep.settings import Settings, accepts, check_names, option, option_of, options_of, spelled

__all__ = ["accepts", "check_names", "options_of"]
"""Names of `summer_prep.settings` that modules import from here, together with Choice and Run."""

Task = Literal["next_bin", "label", "feature", "encode"]
Undefined = Literal["drop", "class"]
Pauses = Literal["keep", "drop"]
Split = Literal["blocked", "random"]
Model = Literal["mlp", "linear", "ridge", "lstm", "gru"]
Loss = Literal["mse", "poisson", "cosine"]
ClassWeight = Literal["none", "balanced"]
Threshold = Literal["validation", "train", "half"]
Preset = Literal["none", "paper"]
Logger = Literal["csv", "tensorboard", "wandb"]

DEFAULT_FOLD = 1
UNITS = "units"
"""The space of a network's inputs that needs no maps: units side by side."""
ALL_UNITS, BEST = "all", "best:"
"""Of `n_units`: every unit; and what stands before the number of those that are ranked highest."""
NO_PATIENT, EACH = "none", "each"
"""Of `leave_out`: no patient is left out; in a study, each in turn."""
OTHERS, ALONE, SHIFTED = "others", "alone", "shifted film"
"""What a patient that is left out is compared with: see `FilmSamples.beside`."""
SHIFTED_P = f"{SHIFTED} p"
WITH_TARGET: tuple[Task, ...] = ("feature", "encode")
"""Tasks that have a --target."""
OWN = "own:"  # and its name: the model of a network of a user's own
SOLVED: tuple[Model, ...] = ("linear", "ridge")
"""Models of one layer, which are solved over all training samples at once."""

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # 20 bins of 80 ms, from 800 ms before the frame's bin to 800 ms after its start (Gerken et al., LSTM decoder).
    "paper": {"model": "lstm", "bin_length": 80, "window": (0.8, 0.72), "batch_size": 128},
}
"""Preset -> options that it sets, where they are not given."""

Log = Callable[[str], None]  # takes lines of progress, for people

AnySettings = TypeVar("AnySettings", bound=Settings)

_seconds = partial(option, most=MAX_SECONDS, several="SECONDS")


def _as_left_out(value: object, option_name: str) -> str:
    ids = as_patient_ids(value, option_name)
    if len(ids) != 1:
        raise SettingsError(f"{option_name} {as_written(value)}: one patient is left out of a fit. For several: study")
    return ids[0]


def _as_n_units(value: object, option_name: str) -> str:
    text = str(value).replace(" ", "")
    if not re.fullmatch(rf"{ALL_UNITS}|({BEST})?[1-9]\d{{0,6}}", text):
        raise SettingsError(f"{option_name} {value}: must be all, a number like 200, or best:200")
    return text


@dataclass(frozen=True, kw_only=True)
class Choice(Settings):
    """What decides the numbers of a run; equal choices on equal data give equal scores."""

    task: Task = option("next_bin", "Predict the next bin's counts, a label, features, or (encode) counts from these.")
    label_name: str = option("summer", "The label to decode (task label) or an expression: 'a & !b'; your own, too.")
    target: str = option(
        "", "Features to decode, NAME or NAME:COLUMNS, like clip:0-9 or clip:a+b; to encode from, also labels, and A+B."
    )
    retrieve_s: float = option(2.0, "Features: length in s of the segments that are retrieved.", least=1)
    retrieve_within: str = option("", "Features: retrieve also among segments with the same value of this label.")
    patient_ids: tuple[str, ...] = patients_option("; units side by side")
    bin_length_ms: int = option(DEFAULT_BIN_LENGTH_MS, "Bin length in ms.", as_bin_length)
    space: str = option(UNITS, "Inputs: units side by side, or K dimensions that patients share: shared:K, cca:K.")
    leave_out: str = option(
        NO_PATIENT, "With --space, a patient to test whose labels are not used; each in turn in a study.", _as_left_out
    )
    align_share: float = option(
        1.0, "With --leave-out, the share of the film, in cycles, that its map is found on.", least=0.001, most=1
    )
    brain_regions: tuple[str, ...] = option(
        (), "Regions to keep, like A EC; H means AH MH PH, PHC also APH MPH PPH.  [default: all]", several="REGION"
    )
    single_units: bool = option(False, "Keep single units only.", off="--no-single-units")
    n_units: str = option(
        ALL_UNITS,
        "Of the chosen units all, N at random, or best:N, ranked one by one on training bins.",
        _as_n_units,
    )
    draw: int = option(0, "Number of the random draw of --n-units N, --train-share, --align-share.", least=0)
    label_rule: LabelRule = option("first", "Frames that decide a bin's label: the first, any that is on, or most.")
    undefined: Undefined = option("drop", "Leave bins with undefined labels out, or make them a class.")
    pauses: Pauses = option("keep", "Samples across a pause, a skip or a frame of over 200 ms: keep or drop.")
    min_recorded: float = option(0.0, "Leave out bins with a smaller share recorded, 0 to 1.", least=0, most=1)
    split: Split = option("blocked", "blocked, or random single bins, which shows the leak and is no valid result.")
    val_fraction: float | None = option(None, "Fraction split instead of blocked: this last part validates, no test.")
    buffer_s: float | None = option(None, f"Blocked split: seconds between parts.  [default: {DEFAULT_BUFFER_S:g}]")
    fold: int | None = option(None, f"Blocked split: the segment that validates, 1 to 5.  [default: {DEFAULT_FOLD}]")
    sequence_s: tuple[float, float] = _seconds((3.0, 1.0), "Past and future seconds added to the buffer.", least=0)
    window_s: tuple[float, float] = _seconds(
        (0.0, 0.0), "Past and future seconds that the network sees; negative ones leave bins out.", least=-MAX_SECONDS
    )
    train_share: float = option(1.0, "Share of the split's cycles that train, drawn whole.", least=0.001, most=1)
    model: Model = option(
        "mlp", "mlp (two layers), linear (logistic regression, least squares), ridge, lstm or gru.", prefix=OWN
    )
    loss: Loss = option("mse", "Squared error, poisson (likelihood; counts) or cosine (distance; features).")
    class_weight: ClassWeight = option("none", "balanced: the classes of a label weigh the same in the loss.")
    threshold: Threshold = option(
        "validation", "Part on which the probability is chosen from which on a bin is on; half: 0.5."
    )
    standardise: bool = option(False, "Scale each unit by its mean and SD in training.", off="--no-standardise")
    batch_size: int = option(32, "Samples per optimizer step.", least=1)
    hidden_size: int = option(64, "Width of the hidden layer.", least=1)
    lr: float = option(1e-3, "Learning rate of Adam.", above=0)
    weight_decay: float = option(0.0, "Penalty of Adam on squared weights.", least=0)
    dropout: float = option(0.0, "Of mlp, the share of the hidden layer that a step leaves out.", least=0, most=0.99)
    seed: int = option(0, "Equal seeds give equal runs of one process on a CPU.", least=0)

    def __post_init__(self) -> None:
        # NumPy, which --help does without
        from summer_prep.film.logic import normal_form
        from summer_prep.film.splits import check_buffer, check_fold, check_fraction, window_of

        super().__post_init__()
        for name in ("label_name", "retrieve_within"):
            object.__setattr__(self, name, normal_form(getattr(self, name), spelled(name)))
        words = [word.strip() for word in self.target.split("+")]
        parts = [normal_form(one, "--target") if {*"&|!"} & {*one} and ":" not in one else one for one in words]
        object.__setattr__(self, "target", "+".join(parts))
        given = {option_of(one): value for one in fields(self) if (value := getattr(self, one.name)) != one.default}
        check_given(given)
        if self.task in WITH_TARGET and not self.target:
            raise SettingsError(f"--task {self.task}: name the --target; summer-prep targets lists them")
        if self.task not in WITH_TARGET and self.model == "ridge":
            raise SettingsError("--model ridge: is of --task feature and encode. Name one of them, or choose linear")
        has_no_cosine = self.task != "feature" or self.model == "linear"
        has_no_counts = self.task not in ("next_bin", "encode")
        if (self.loss == "poisson" and has_no_counts) or (self.loss == "cosine" and has_no_cosine):
            rule = "poisson is of counts (next_bin, encode), cosine of features with mlp, lstm or gru"
            raise SettingsError(f"--loss {self.loss}: {rule}")
        if not re.fullmatch(r"units|(shared|cca):[1-9]\d{0,3}", self.space):
            raise SettingsError(f"--space {self.space}: must be units, shared:K or cca:K with K dimensions")
        is_blocked = self.val_fraction is None and self.split == "blocked"
        if self.leave_out != NO_PATIENT and not is_blocked:
            raise SettingsError(f"--leave-out {self.leave_out}: needs the blocked split, whose test bins lie apart")
        if self.train_share < 1 and not is_blocked:
            raise SettingsError(f"--train-share {self.train_share:g}: needs the blocked split, of whose cycles it is")
        if self.n_units.startswith(BEST) and (self.task not in ("label", "feature") or self.n_shared):
            raise SettingsError(f"--n-units {self.n_units}: ranks units by a label or features, with --space units")
        check_bin_length(self.bin_length_ms)
        window = window_of(self.window_s, self.bin_length_ms)
        if self.task == "next_bin" and window.last > 0:
            why = "next-bin prediction would see what it predicts. FUTURE must be 0 or less"
            raise SettingsError(f"--window {self.window_s[0]:g} {self.window_s[1]:g}: {why}")
        if self.val_fraction is not None:
            if self.buffer_s is not None or self.fold is not None or self.split != "blocked":
                both = "--val-fraction chooses the fraction split, --buffer, --fold and --split the others"
                raise SettingsError(f"two splits were asked for: {both}. Give only one of them")
            check_fraction(self.val_fraction)
            return
        # Recorded and compared is what was used, given or not.
        if self.split == "blocked":
            object.__setattr__(self, "buffer_s", DEFAULT_BUFFER_S if self.buffer_s is None else self.buffer_s)
        object.__setattr__(self, "fold", DEFAULT_FOLD if self.fold is None else self.fold)
        check_fold(self.fold or 0)
        check_buffer(self.buffer_s or 0)

    @property
    def decoded(self) -> tuple[str, ...]:
        """The label, of features that of the retrieval, and the features, as `Selection.provenance` takes them."""
        names = {"label": (self.label_name,), "encode": ("", self.target)}
        return {**names, "feature": (self.retrieve_within, self.target)}.get(self.task, ("",))

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain values; the rare ones only where used: others never had them."""
        plain, of_features = super().as_plain(), ("target", "retrieve_s", "retrieve_within")
        used = {"feature": of_features, "encode": ("target",)}.get(self.task, ())
        used += () if self.space == UNITS else ("space",) if self.leave_out == NO_PATIENT else OF_SPACE
        used += tuple(one.name for one in fields(self) if one.name in LATER and plain[one.name] != one.default)
        used += ("draw",) if self.is_drawn else ()
        rare = (*of_features, *OF_SPACE, *LATER)
        return {name: plain[name] for name in plain if name not in rare or (name in used and plain[name] != "")}

    @property
    def n_chosen(self) -> int | None:
        """How many of the units are used; None for all."""
        return None if self.n_units == ALL_UNITS else int(self.n_units.removeprefix(BEST))

    @property
    def is_drawn(self) -> bool:
        """Whether units or cycles are drawn at random."""
        return self.n_units.isdigit() or self.train_share < 1 or self.align_share < 1

    @property
    def n_shared(self) -> int:
        """The dimensions of the shared space; 0 where the inputs are units."""
        return int(self.space.partition(":")[2] or 0)


CAUSES = (
    "task",
    "model",
    "split",
    "space",
    "leave_out",
    "n_units",
    "train_share",
    "align_share",
)  # the options that make others idle

_OF_LABELS = ("label_name", "label_rule", "undefined", "class_weight", "threshold")
_OF_STEPS = ("hidden_size", "lr", "batch_size", "weight_decay", "dropout")
OF_FEATURES = ("target", "retrieve", "retrieve_within")
OF_SPACE = ("space", "leave_out", "align_share")
LATER = ("n_units", "draw", "train_share", "threshold", "standardise", "weight_decay", "dropout")
"""Options that a model's settings have only where they differ from the default: older models never had them."""
_IDLE: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("task", "next_bin", ". Add --task label", (*_OF_LABELS, *OF_SPACE, "standardise")),
    ("task", "next_bin", ". Add --task feature", OF_FEATURES),
    ("task", "label", ". Leave it out", ("loss",)),
    ("task", "label", ". Add --task feature", OF_FEATURES),
    ("task", "feature", ". Leave it out", _OF_LABELS),
    (
        "task",
        "encode",
        ". Leave it out",
        (
            "label_name",
            "undefined",
            "class_weight",
            "threshold",
            "retrieve",
            "retrieve_within",
            *OF_SPACE,
            "standardise",
        ),
    ),
    ("space", "shared", ", whose dimensions are scaled", ("standardise",)),
    ("space", "cca", ", whose dimensions are scaled", ("standardise",)),
    ("space", UNITS, ". Add --space shared:10", ("leave_out", "align_share")),
    ("leave_out", NO_PATIENT, ". Name a patient", ("align_share",)),
    ("model", "linear", ", which is solved over all samples at once", (*_OF_STEPS, "standardise")),
    ("model", "ridge", ", which is solved over all samples at once", (*_OF_STEPS, "loss")),
    ("model", OWN, ", whose layers are its own", ("hidden_size", "dropout")),
    ("model", "lstm", ". Choose mlp", ("dropout",)),
    ("model", "gru", ". Choose mlp", ("dropout",)),
    ("split", "random", ", which leaves no gaps", ("buffer", "sequence")),
)
"""A cause, its value, what to say of it, and the options that it makes idle."""


def idle_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a Choice that have no effect, and on what: the task, model, split, ... among some options.

    A list of several tasks, models or splits, of a study, makes nothing idle.
    """
    idle: dict[str, str] = {}
    for cause, value, more, names in _IDLE:
        given = options.get(cause) or options_of(Choice)[cause].default
        if (
            given == value
            or given in ([value], (value,))
            or (value in (OWN, "shared", "cca") and str(given).startswith(value))
        ):
            idle |= dict.fromkeys(names, f"{spelled(cause)} {value}{more}")
    n_units = options.get("n_units") or ALL_UNITS
    is_whole = all(options.get(name) in (None, 1) for name in ("train_share", "align_share"))
    if is_whole and str(n_units).startswith((ALL_UNITS, BEST)):
        idle["draw"] = f"--n-units {n_units}. Add --n-units 200, or --train-share 0.5"
    return idle


def check_given(options: Mapping[str, Any]) -> None:
    """Raise SettingsError if a given option has no effect: a forgotten --task label would train another model."""
    for name, rule in idle_options(options).items():
        if options.get(name) is not None:
            raise SettingsError(f"{spelled(name)}: has no effect on {rule}")


@dataclass(frozen=True, kw_only=True)
class Run(Places):
    """Where a run takes its data from and leaves its results, for how long it trains, and on what."""

    output_dir: Path = option(Path("lightning_logs"), "Where logs and checkpoints go.")
    max_epochs: int = option(20, "Passes over the training samples, at most; of linear 20 iterations each.", least=1)
    patience: int | None = option(None, "Epochs without lower validation loss that end it.  [default: never]", least=1)
    shifts: int = option(0, "Train so many networks on shifted labels or features, for a null and p-values.", least=0)
    preset: Preset = option("none", "paper: the published LSTM on windows of 20 bins of 80 ms, batches of 128.")
    devices: int | None = option(
        None, "GPUs, or CPU processes without; 1 is fastest at batches below some 8,000.  [default: all]", least=1
    )
    threads: int | None = option(None, "Threads of each process.  [default: 1; more for large nets]", least=1)
    device_memory_gb: float | None = option(
        None, "GB of device memory for counts; more than that streams.  [default: 80 % of what is free]", above=0
    )
    num_workers: int = option(0, "Accepted for old command lines; no worker processes load counts.", least=0)
    verify: bool = option(False, "Read every byte of the cache against its digests first.")
    logger: tuple[Logger, ...] = option(("csv",), "Also tensorboard, wandb, beside metrics.csv.", several="NAME")
    resume: bool = option(False, "Continue the newest run in --output-dir that has these settings.")


@dataclass(frozen=True, kw_only=True)
class StudyRun(Run):
    """Where a study takes its data from and leaves its table, for how long it trains, and on what."""

    output_dir: Path = option(Path("study"), "The study's folder; what is in it already is not trained again.")
    workers: int | None = option(None, "Processes, of one thread each.  [default: processors; 1 on a GPU]", least=1)
    keep_predictions: bool = option(False, "Keep each model's predictions, as fit does.")
    scheduler: str | None = scheduler_option()


STUDY_OPTIONS = (
    "data_dir", "nwb_path", "cache_dir", "local_cache", "output_dir", "max_epochs", "patience", "shifts", "preset",
    "workers", "device_memory", "verify", "keep_predictions", "scheduler", "logger",
)  # fmt: skip
"""Options of a study beside those of a Choice, of which it takes lists."""

STUDY_DEFAULTS = {"task": "label"}  # which is next_bin by default in a run


def settings_from(kind: type[AnySettings], options: Mapping[str, Any]) -> AnySettings:
    """Return settings from options as people write them, and from their preset; raises SettingsError."""
    return kind.from_options(with_preset(options))


def choice_of(plain: Mapping[str, Any], path: Path) -> Choice:
    """Return the choice that a checkpoint or run was trained with.

    Raises SettingsError if its settings are not those of this version.
    """
    idle = idle_options(plain)  # an older version stored some of them
    known = {name: one for name, one in options_of(Choice).items() if name not in idle and one.name in plain}
    stored = {name: plain[one.name] for name, one in known.items() if plain[one.name] != []}
    try:
        for name, value in stored.items():
            if value is None and known[name].default is not None:
                raise SettingsError(f"no {name}. Train again")
        return settings_from(Choice, stored)
    except SettingsError as error:
        raise SettingsError(f"{path}: its settings cannot be used: {error}") from error


def with_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of their preset, where they are not given; raises SettingsError if it is unknown."""
    name = str(options.get("preset") or "none")
    if name not in PRESETS:
        raise SettingsError(f"--preset {name}: choose one of {', '.join(PRESETS)}")
    preset = dict(PRESETS[name])
    if options.get("model") in SOLVED:
        preset.pop("batch_size", None)  # it would have no effect
    return {**preset, **options}


def log_nothing(_line: str) -> None:
    """Ignore a line of progress."""


FIRST_PROCESS = "SUMMER_TRAIN_FIRST_PROCESS"  # variable with the id of the process that started those of all devices


def is_first_process() -> bool:
    """Return whether this is the first process of a run on several devices, which alone prints and writes."""
    return os.environ.get(FIRST_PROCESS) in (None, str(os.getpid()))


def check_one_process() -> None:
    """Raise SettingsError if torchrun or srun started this process as one of several."""
    of_torchrun = os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    for launcher, n_processes in (("torchrun", of_torchrun), ("srun", os.environ.get("SLURM_STEP_NUM_TASKS"))):
        if n_processes not in (None, "1"):
            advice = f"Start it without {launcher} (--devices uses several devices of one machine)"
            nodes = "train on several nodes in a lightning.Trainer, as docs/examples/several_nodes.py does"
            raise SettingsError(f"{launcher} started {n_processes} processes, and fit is one. {advice}, or {nodes}")
