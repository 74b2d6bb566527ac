"""Checkpoints of a run: loaded, and compared with the data at hand."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from summer_prep.errors import SettingsError
from summer_train.runs.folder import last_checkpoint, run_folders
from summer_train.settings.options import Choice, Log, choice_of, log_nothing


def find_run(parent: Path, choice: Choice, data: Mapping[str, Any], log: Log = log_nothing) -> Path:
    """Return the folder of the newest run of this choice on these data.

    Runs whose checkpoint cannot be read are skipped with a line.

    Raises
    ------
    SettingsError : there is none
    """
    trained = [folder for folder in run_folders(parent).values() if last_checkpoint(folder).exists()]
    if not trained:
        raise SettingsError(f"{parent}: no run to continue. Leave --resume out, or name its --output-dir")
    unreadable: list[SettingsError] = []
    others: dict[Path, list[str]] = {}
    for folder in reversed(trained):
        path = last_checkpoint(folder)
        try:
            then = load_checkpoint(path, to_continue=True)["summer"]
            differences = choice.differences(choice_of(then["config"], path).as_plain())
        except SettingsError as error:
            unreadable.append(error)
            continue
        differences += data_differences(then["data"], data)
        if not differences:
            for problem in unreadable:
                log(f"not continued: {problem}")
            return folder
        others[path] = differences
    if unreadable:
        raise unreadable[0]  # perhaps the run that was meant
    path, differences = next(iter(others.items()))
    raise SettingsError(
        f"{path}: cannot be continued, it was trained with other settings: "
        f"{'; '.join(differences)}. Give the same ones, or leave --resume out"
    )


def load_checkpoint(path: Path, to_continue: bool = False) -> dict[str, Any]:
    """Load a checkpoint of ours, plain values and tensors only.

    Parameters
    ----------
    to_continue : whether it must hold the state of the training, too

    Raises
    ------
    SettingsError : the file is missing, unreadable, damaged, or no checkpoint of ours
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such checkpoint. fit prints where it leaves them") from error
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}). Name best.ckpt or last.ckpt of a run"
        ) from error
    try:
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise SettingsError(
            f"{path}: not a checkpoint of summer-train fit, or damaged. Name a run's folder or its best.ckpt"
        ) from error
    if not isinstance(checkpoint, dict) or "summer" not in checkpoint:
        raise SettingsError(
            f"{path}: not a checkpoint of summer-train fit: it does not say which data it was trained on. "
            "Train with summer_train.film_data, which notes that"
        )
    try:
        _check_whole(checkpoint, to_continue)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"{path}: damaged, or not as summer-train fit writes it ({error!r:.60}). Train again"
        ) from error
    return checkpoint


def _check_whole(checkpoint: dict[str, Any], to_continue: bool) -> None:
    """Raise what a checkpoint leads to that lacks something which evaluating or continuing it needs."""
    summer = checkpoint["summer"]
    _ = summer["config"]["task"], int(summer["data"]["bin_length_ms"]), n_epochs_of(checkpoint)
    for patient in summer["data"]["patients"]:
        _ = str(patient["patient_id"]), list(patient["units"]), patient["digests"].items()
    if not all(isinstance(weights, torch.Tensor) for weights in checkpoint["state_dict"].values()):
        raise TypeError("weights")
    needed = ("state_dict", "optimizer_states", "loops", "callbacks", "global_step", "pytorch-lightning_version")
    missing = [name for name in needed if not checkpoint.get(name)]
    if to_continue and missing:
        raise ValueError(f"without {', '.join(missing)}")


def n_epochs_of(checkpoint: Mapping[str, Any]) -> int:
    """Return for how many epochs a checkpoint's weights were trained: one saved after the end counts no further one."""
    loops = checkpoint.get("loops")
    if not loops:
        return int(checkpoint["epoch"]) + 1
    return int(loops["fit_loop"]["epoch_progress"]["current"]["processed"])


def data_differences(trained_on: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how data differ from those that a checkpoint was trained on, one line each."""
    differences = []
    if trained_on["bin_length_ms"] != now["bin_length_ms"]:
        differences.append(f"bins of {trained_on['bin_length_ms']} ms then, {now['bin_length_ms']} ms now")
    then_ids, now_ids = ([patient["patient_id"] for patient in data["patients"]] for data in (trained_on, now))
    if then_ids != now_ids:
        differences.append(f"patients {' '.join(then_ids)} then, {' '.join(now_ids)} now")
        return differences
    for then, current in zip(trained_on["patients"], now["patients"], strict=True):
        name = f"patient {then['patient_id']}"
        if then["units"] != current["units"]:
            differences.append(f"{name}: {len(then['units'])} units then, {len(current['units'])} now, or others")
        changed = [array for array, digest in then["digests"].items() if current["digests"].get(array) != digest]
        if changed:
            differences.append(f"{name}: other {', '.join(changed)}")
    return differences
