"""Checkpoints of a run: loaded, and compared with the data at hand."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from summer_prep.errors import SettingsError
from summer_train.runs.folder import LAST, reading, run_folders
from summer_train.settings.options import Choice, Log, choice_of, log_nothing

_TO_CONTINUE = ("state_dict", "optimizer_states", "loops", "callbacks", "global_step", "pytorch-lightning_version")


def find_run(parent: Path, choice: Choice, data: Mapping[str, Any], log: Log = log_nothing) -> Path:
    """Return the folder of the newest run of this choice on these data; raises SettingsError if there is none.

    Runs whose checkpoint cannot be read are skipped and logged.
    """
    problems, plain = list[str](), choice.as_plain()  # patients are compared by their data
    paths = [folder / LAST for folder in reversed(run_folders(parent).values())]
    for path in filter(Path.exists, paths):
        try:
            then = load_checkpoint(path, to_continue=True)["summer"]
            settings = choice_of(then["config"], path).as_plain() | {"patient_ids": plain["patient_ids"]}
        except SettingsError as error:
            log(f"not continued: {error}")
            problems.append(str(error))
            continue
        changed = [name for name in {**settings, **plain} if settings.get(name) != plain.get(name)]
        differences = [f"{name} {settings.get(name)} then, {plain.get(name)} now" for name in changed]
        differences += data_differences(then["data"], data)
        if not differences:
            return path.parent.parent
        why = f"it was trained with other settings: {'; '.join(differences)}"
        problems.append(f"{path}: cannot be continued, {why}. Give the same ones, or leave --resume out")
    none = f"{parent}: no run to continue. Leave --resume out, or name its --output-dir"
    raise SettingsError(problems[0] if problems else none)


def load_checkpoint(path: Path, to_continue: bool = False) -> dict[str, Any]:
    """Load a checkpoint of ours, which to continue must hold the state of the training; raises SettingsError."""
    if not path.exists():
        raise SettingsError(f"{path}: no such checkpoint. fit prints where it leaves them")
    advice = "Leave --resume out to train anew" if to_continue else "Evaluate another checkpoint, or train again"
    with reading(path, advice):
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
        if "summer" not in checkpoint:
            why = "it does not say which data it was trained on. Train with summer_train.film_data, which notes that"
            raise SettingsError(f"{path}: not a checkpoint of summer-train fit: {why}")
        # Whatever evaluating or continuing uses of it fails here if it is missing.
        config, data = checkpoint["summer"]["config"], checkpoint["summer"]["data"]
        _ = config["task"], int(data["bin_length_ms"]), n_epochs_of(checkpoint)
        for patient in data["patients"]:
            _ = str(patient["patient_id"]), list(patient["units"]), patient["digests"].items()
        if not all(isinstance(weights, torch.Tensor) for weights in checkpoint["state_dict"].values()):
            raise TypeError("weights are not tensors")
        missing = [name for name in _TO_CONTINUE if not checkpoint.get(name)]
        if to_continue and missing:
            raise ValueError(f"without {', '.join(missing)}")
    return checkpoint


def n_epochs_of(checkpoint: Mapping[str, Any]) -> int:
    """Return for how many epochs a checkpoint's weights were trained: one saved after the end counts no further one."""
    if loops := checkpoint.get("loops"):
        return int(loops["fit_loop"]["epoch_progress"]["current"]["processed"])
    return int(checkpoint["epoch"]) + 1


def data_differences(trained_on: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how data differ from those that a checkpoint was trained on, one line each."""
    differences = []
    if trained_on["bin_length_ms"] != now["bin_length_ms"]:
        differences.append(f"bins of {trained_on['bin_length_ms']} ms then, {now['bin_length_ms']} ms now")
    then_ids, now_ids = ([patient["patient_id"] for patient in data["patients"]] for data in (trained_on, now))
    if then_ids != now_ids:
        return [*differences, f"patients {' '.join(then_ids)} then, {' '.join(now_ids)} now"]
    for then, current in zip(trained_on["patients"], now["patients"], strict=True):
        name = f"patient {then['patient_id']}"
        if then["units"] != current["units"]:
            differences.append(f"{name}: {len(then['units'])} units then, {len(current['units'])} now, or others")
        changed = [array for array, digest in then["digests"].items() if current["digests"].get(array) != digest]
        if changed:
            differences.append(f"{name}: other {', '.join(changed)}")
    then = trained_on.get("targets", {})
    changed = [name for name, digest in now.get("targets", {}).items() if then.get(name, digest) != digest]
    return differences + [f"target {name}: other values" for name in changed]
