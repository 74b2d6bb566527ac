"""Checkpoints of a run: written whole after every epoch, found again, loaded, and compared with the data at hand."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from summer_prep.errors import SettingsError
from summer_train.config import FitConfig

_VERSION = re.compile(r"version_(\d+)")


def best_checkpoint(log_dir: Path) -> Path:
    """Return the checkpoint of the epoch with the lowest validation loss."""
    return log_dir / "checkpoints" / "best.ckpt"


def last_checkpoint(log_dir: Path) -> Path:
    """Return the checkpoint of the last whole epoch."""
    return log_dir / "checkpoints" / "last.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch, also when its run is continued from where the folder has been moved to."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far; Lightning forgets it where a path is spelt in another way."""
        best = str(Path(str(self.dirpath)) / "best.ckpt")
        score = state_dict["best_model_score"]
        here = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
        super().load_state_dict({**state_dict, **here, "best_k_models": {best: score}})


def checkpoint_callbacks() -> list[Callback]:
    """Return what writes best.ckpt, and after it last.ckpt, which so knows the best score."""
    common: dict[str, Any] = {"enable_version_counter": False, "auto_insert_metric_name": False}
    # Lightning's own save_last writes only when the best one is written, too.
    return [
        BestCheckpoint(monitor="val_loss", filename="best", **common),
        ModelCheckpoint(filename="last", **common),
    ]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed run leaves a whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; raises OSError if the disk does not allow it."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        staged = Path(path).with_suffix(".staging")
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_bytes(content.getbuffer())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)


def find_run(config: FitConfig, provenance: dict[str, Any]) -> Path:
    """Return the newest run's folder, checked to be a run with these settings on these data, and not yet complete.

    Raises
    ------
    SettingsError : there is none, it differs, or it has had its epochs
    """
    folder = config.output_dir / config.log_name
    runs = {int(match[1]): path for path in folder.glob("version_*") if (match := _VERSION.fullmatch(path.name))}
    trained = [number for number in sorted(runs) if last_checkpoint(runs[number]).exists()]
    if not trained:
        raise SettingsError(f"{folder}: no run to continue. Leave --resume out, or name its --output-dir")
    newest = last_checkpoint(runs[trained[-1]])
    checkpoint = load_checkpoint(newest)
    differences = config.differences(checkpoint["summer"]["config"])
    differences += data_differences(checkpoint["summer"]["data"], provenance["data"])
    if differences:
        raise SettingsError(
            f"{newest}: cannot be continued, it was trained with other settings: {'; '.join(differences)}. "
            "Give the same ones, or leave --resume out"
        )
    n_epochs = checkpoint["epoch"] + 1
    if n_epochs >= config.max_epochs:
        raise SettingsError(
            f"{newest}: has been trained for {n_epochs} epochs, so with --max-epochs {config.max_epochs} nothing is "
            "left to do. Evaluate it with summer-train evaluate, give more epochs, or leave --resume out"
        )
    return runs[trained[-1]]


def metrics_of_whole_epochs(log_dir: Path) -> list[str]:
    """Return the lines of a run's metrics.csv up to its last checkpoint, header first; none if it was damaged."""
    path = log_dir / "metrics.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    columns = lines[0].split(",") if lines else []
    if "epoch" not in columns:
        return []
    n_epochs = load_checkpoint(last_checkpoint(log_dir))["epoch"] + 1
    cells = (line.split(",") for line in lines[1:])
    kept = [row for row in cells if len(row) == len(columns) and int(row[columns.index("epoch")]) < n_epochs]
    return [lines[0], *(",".join(row) for row in kept)]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours, plain values and tensors only.

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
        _ = checkpoint["summer"]["config"], checkpoint["summer"]["data"], checkpoint["state_dict"]
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise SettingsError(f"{path}: not a checkpoint of summer-train fit, or damaged. Train again") from error
    return checkpoint


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
