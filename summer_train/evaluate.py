"""A trained checkpoint on the data of a cache: the same as it was trained on, or others, which is said."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from summer_prep.errors import SettingsError
from summer_train.checkpoints import data_differences, load_checkpoint
from summer_train.config import FitConfig
from summer_train.data import FilmData
from summer_train.fit import Say, make_model, open_data, score


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scores as in `FitResult`, and how the data differ from those of training, one line each."""

    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    differences: list[str]

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        scores = {row: {part: dict(values) for part, values in parts.items()} for row, parts in self.scores.items()}
        return {"scores": scores, "differences": self.differences}


def evaluate(
    checkpoint_path: Path,
    data_dir: Path,
    cache_dir: Path,
    patient_ids: tuple[str, ...] = (),
    fold: int | None = None,
    say: Say = lambda _line: None,
) -> EvaluationResult:
    """Evaluate a checkpoint with the settings it was trained with, on the patients and fold given or its own.

    Raises
    ------
    SummerError : the checkpoint or the data cannot be read, or its network does not fit the data
    """
    checkpoint = load_checkpoint(checkpoint_path)
    trained = checkpoint["summer"]
    ids = patient_ids or tuple(patient["patient_id"] for patient in trained["data"]["patients"])
    changes = {"data_dir": data_dir, "cache_dir": cache_dir, "patient_ids": ids, "nwb_path": None, "resume": False}
    if fold is not None and trained["config"]["val_fraction"] is not None:
        raise SettingsError(f"--fold {fold}: {checkpoint_path} was trained with the fraction split, which has no folds")
    config = config_of(trained["config"], {**changes, **({} if fold is None else {"fold": fold})})
    data = open_data(config, say)
    differences = data_differences(trained["data"], data.selection.provenance())
    if config.fold != trained["config"]["fold"]:
        differences.append(f"fold {trained['config']['fold']} then, {config.fold} now")
        differences += _seen_in_training(data, config_of(trained["config"], changes))
    data.place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    model = make_model(config, data)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise SettingsError(
            f"{checkpoint_path}: its network does not fit these data "
            f"({'; '.join(differences) or 'nothing differs, so the file was changed'}). "
            "Give the patients, regions and label that it was trained on"
        ) from error
    if _units(data.selection.provenance()) != _units(trained["data"]):
        differences.append(
            "the network's inputs are other units than it was trained on: its scores are those of chance"
        )
    return EvaluationResult(scores=score(model, data), differences=differences)


def _units(provenance: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return [(patient["patient_id"], patient["units"]) for patient in provenance["patients"]]


def _seen_in_training(data: FilmData, trained: FitConfig) -> list[str]:
    """Return a line for each part to be evaluated that holds samples of the training part of another fold."""
    training = FilmData(data.selection, trained).split.train
    n_seen = {part: int(np.isin(getattr(data.split, part), training).sum()) for part in ("val", "test")}
    return [
        f"{n} of {len(getattr(data.split, part))} {part} samples were trained on: not a score on unseen data"
        for part, n in n_seen.items()
        if n
    ]


def config_of(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> FitConfig:
    """Return settings from a checkpoint's plain values, with changes."""
    values = {field.name: plain[field.name] for field in fields(FitConfig) if field.name in plain}
    for name in ("data_dir", "cache_dir", "output_dir"):
        values[name] = Path(values[name])
    for name in ("patient_ids", "brain_regions", "sequence_s"):
        values[name] = tuple(values[name])
    return FitConfig(**{**values, **changes})
