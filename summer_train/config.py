"""What one training run is: checked when it is made, taken by the library, stored with the results."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from summer_prep.errors import SettingsError
from summer_prep.layout import LABEL_RULES

TASKS = ("next_bin", "label")
UNDEFINED_RULES = ("drop", "class")
DEFAULT_BUFFER_S = 32.0
DEFAULT_FOLD = 1

_WITHOUT_EFFECT_ON_RESULTS = {
    "data_dir", "nwb_path", "cache_dir", "output_dir", "max_epochs", "num_workers", "devices", "device_memory_gb",
    "verify", "resume", "patient_ids",
}  # fmt: skip
"""Patients are compared by what their keys hold, not by name."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of one run; the command line has one option for each field."""

    task: str = "next_bin"
    """next_bin (regression) or label (classification)."""
    label_name: str = "summer"
    """The label to decode."""
    data_dir: Path = Path("/data")
    """Folder with the NWB files."""
    nwb_path: Path | None = None
    """One NWB file; ignored when patient_ids are given."""
    cache_dir: Path = Path("data_cache")
    """Folder of the cache."""
    patient_ids: tuple[str, ...] = ()
    """Patients whose units stand side by side, in this order; empty for every one found."""
    bin_length_ms: int = 80
    """Nominal bin length on the film clock."""
    brain_regions: tuple[str, ...] = ()
    """Regions or groups of regions to keep; empty for all."""
    single_units: bool = False
    """Keep single units only."""
    label_rule: str = "first"
    """Which frames of a bin decide its label."""
    undefined: str = "drop"
    """Leave undefined bins out (drop), or make them a class of their own (class)."""
    val_fraction: float | None = None
    """Fraction split: the last part validates; cannot be combined with buffer_s and fold."""
    buffer_s: float | None = None
    """Blocked split: time between training, validation and test; 32 unless a fraction split is asked for."""
    fold: int | None = None
    """Blocked split: which of the five segments validates, 1 to 5; 1 unless a fraction split is asked for."""
    sequence_s: tuple[float, float] = (3.0, 1.0)
    """Past and future around a sample, added to the buffer."""
    batch_size: int = 32
    """Samples per optimizer step."""
    max_epochs: int = 20
    """Passes over the training samples."""
    hidden_size: int = 64
    """Width of the hidden layer."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    num_workers: int = 0
    """Accepted for old command lines; without effect while counts fit in memory."""
    output_dir: Path = Path("lightning_logs")
    """Where logs and checkpoints go."""
    devices: int | None = None
    """Number of GPUs, or of processes where there is none; by default all visible GPUs, or one process."""
    device_memory_gb: float | None = None
    """Memory that counts may take on the device; by default 80 % of what is free."""
    verify: bool = False
    """Read every byte of the cache against its digests first."""
    resume: bool = False
    """Continue the newest run with these settings in output_dir."""
    seed: int = 0
    """Equal seeds give equal runs on one CPU."""

    def __post_init__(self) -> None:
        _check_choice("--task", self.task, TASKS)
        _check_choice("--label-rule", self.label_rule, LABEL_RULES)
        _check_choice("--undefined", self.undefined, UNDEFINED_RULES)
        positive = {
            "--batch-size": self.batch_size,
            "--max-epochs": self.max_epochs,
            "--hidden-size": self.hidden_size,
            "--lr": self.lr,
            "--device-memory": 1 if self.device_memory_gb is None else self.device_memory_gb,
            "--devices": 1 if self.devices is None else self.devices,
        }
        for option, value in positive.items():
            if not 0 < value < float("inf"):
                raise SettingsError(f"{option} {value}: must be a number greater than 0")
        if self.val_fraction is None:
            # What is recorded and compared is what was used, named or not.
            object.__setattr__(self, "buffer_s", DEFAULT_BUFFER_S if self.buffer_s is None else self.buffer_s)
            object.__setattr__(self, "fold", DEFAULT_FOLD if self.fold is None else self.fold)
        self._check_split()

    def _check_split(self) -> None:
        if self.val_fraction is not None:
            if self.buffer_s is not None or self.fold is not None:
                raise SettingsError(
                    "two splits were asked for: --val-fraction chooses the fraction split, "
                    "--buffer and --fold the blocked one. Give only one of them"
                )
            if not 0 < self.val_fraction < 1:
                raise SettingsError(f"--val-fraction {self.val_fraction}: must lie between 0 and 1, 0.1 is usual")
        if self.fold is not None and not 1 <= self.fold <= 5:
            raise SettingsError(f"--fold {self.fold}: must be 1, 2, 3, 4 or 5")
        if self.buffer_s is not None and not 0 <= self.buffer_s < float("inf"):
            raise SettingsError(f"--buffer {self.buffer_s}: must be 0 or more seconds")
        if len(self.sequence_s) != 2 or not all(0 <= value < float("inf") for value in self.sequence_s):
            raise SettingsError(
                f"--sequence {' '.join(map(str, self.sequence_s))}: must be two numbers of seconds, past and future"
            )

    def differences(self, plain: dict[str, Any]) -> list[str]:
        """Return how the settings that decide a run's result differ from those of another, `as_plain`."""
        own = self.as_plain()
        return [
            f"{name} {plain.get(name)} then, {own[name]} now"
            for name in own
            if name not in _WITHOUT_EFFECT_ON_RESULTS and plain.get(name) != own[name]
        ]

    @property
    def log_name(self) -> str:
        """Folder below output_dir, as in the published pipeline."""
        return "dhv" if self.task == "next_bin" else "dhv_label"

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain values, for YAML and checkpoints."""
        return {
            name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def is_first_process() -> bool:
    """Return whether this is the first process of a run on several devices, which speaks for all of them."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_choice(
    option: Literal["--task", "--label-rule", "--undefined"], value: str, allowed: tuple[str, ...]
) -> None:
    if value not in allowed:
        raise SettingsError(f"{option} {value}: choose one of {', '.join(allowed)}")
