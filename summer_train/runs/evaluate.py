"""A trained checkpoint evaluated on the data of a cache, which may differ from those that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from summer_prep.errors import SettingsError
from summer_prep.options import as_number, as_path, as_patient_ids
from summer_prep.urls import is_url
from summer_train.data.film import FilmSamples
from summer_train.data.selection import open_chosen
from summer_train.models.networks import decoder_name, flops_per_step, untrained_net
from summer_train.runs.checkpoints import data_differences, load_checkpoint, n_epochs_of
from summer_train.runs.folder import BEST, Scores, read_results
from summer_train.runs.processes import process_restored, use_threads
from summer_train.scores.left_out import score_beside
from summer_train.scores.scoring import score_baselines, score_networks, thresholds_of
from summer_train.settings.options import Choice, Log, Run, choice_of, log_nothing, settings_from


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scores as in `FitResult`, the epoch (from 1), and how the data differ from those of training, one line each."""

    checkpoint: Path
    epoch: int
    choice: Choice
    n_samples: Mapping[str, int]
    scores: Scores
    thresholds: Mapping[str, float]
    undefined: Mapping[str, str]
    differences: list[str]

    def as_plain(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {**vars(self), "checkpoint": str(self.checkpoint), "choice": self.choice.as_plain()}


def evaluate(
    checkpoint: str | Path,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    local_cache: str | Path | None = None,
    patient_ids: object = None,
    fold: int | None = None,
    log: Log = log_nothing,
) -> EvaluationResult:
    """Evaluate a checkpoint with the settings it was trained with, on the fold given or its own.

    Parameters
    ----------
    checkpoint : best.ckpt or last.ckpt of a run, or the run's folder, which stands for its best epoch
    data_dir, cache_dir : by default those of the run, if they still exist
    local_cache : folder into which keys in a bucket are fetched; that of the run by default
    patient_ids : must have the units that it was trained on; its patients by default
    log : takes lines of progress, for people

    Raises
    ------
    SummerError : the checkpoint or the data cannot be read, or the units or the network differ
    """
    path = as_path(checkpoint, "checkpoint")
    path = path / BEST if path.is_dir() else path
    fold = None if fold is None else as_number(fold, int, "--fold")
    loaded = load_checkpoint(path)
    trained = loaded["summer"]
    ids = as_patient_ids(patient_ids) or tuple(patient["patient_id"] for patient in trained["data"]["patients"])
    own = choice_of(trained["config"], path)
    if fold is not None and own.val_fraction is not None:
        raise SettingsError(f"--fold {fold}: {path} was trained with the fraction split, which has no folds")
    choice = replace(own, patient_ids=ids, fold=own.fold if fold is None else fold)
    given = {"data_dir": data_dir, "cache_dir": cache_dir, "local_cache": local_cache}
    stored = result.config if (result := read_results(path.parent.parent)) else {}
    for name, named in given.items():
        place = str(stored.get(name) or "")
        if place and named is None and (name == "local_cache" or is_url(place) or Path(place).is_dir()):
            given[name] = place  # a local cache is made where it is missing
    run = settings_from(Run, given)
    if stored.get("cache_dir") and given["cache_dir"] is None:
        log(f"{stored['cache_dir']}, the cache of the run, cannot be found from here; {run.cache_dir} is used")
    then = FilmSamples(open_chosen(choice, run, log)[0], own).narrowed()  # of the units that it was trained on
    data = FilmSamples(then.selection, choice, log=log)
    data.scaling, data.aligned = trained.get("scaling", {}), then.aligned  # what the network was trained with
    now = data.selection.provenance(*choice.decoded)
    differences = data_differences(trained["data"], now)
    units = [[(one["patient_id"], one["units"]) for one in of["patients"]] for of in (trained["data"], now)]
    if units[0] != units[1]:
        sizes = [", ".join(f"{len(columns)} of patient {one}" for one, columns in found) for found in units]
        others = f"was trained on other units ({sizes[0]}) than {run.cache_dir} gives now ({sizes[1]})"
        advice = "Give the patients and --cache-dir of its training, or train on these"
        raise SettingsError(f"{path}: {others}, and units are the inputs of its network. {advice}")
    if choice.fold != own.fold:
        differences.append(f"fold {own.fold} then, {choice.fold} now")
        differences += [
            f"{n} of {data.n_samples[part]} {part} samples {what}: not a score on unseen data"
            for part in ("val", "test")
            for seen, what in ((then.split.train, "were trained on"), (then.split.val, "chose the best epoch"))
            if (n := int(np.isin(getattr(data.split, part), seen).sum()))
        ]
    if trained.get("decoder") not in (None, f"summer_train.models.{decoder_name(data, data.choice)}"):
        own_code = f"{trained['decoder']}, which only your own code knows"
        raise SettingsError(f"{path}: was trained as {own_code}. Test it with your lightning.Trainer")
    net = untrained_net(data, data.choice)
    try:
        nn.ModuleDict({"net": net}).load_state_dict(loaded["state_dict"])  # under the names that a decoder has them
    except RuntimeError as error:
        why = "; ".join(differences) or "which are those it was trained on, so it is another network"
        advice = "Give the patients, regions and label that it was trained on"
        raise SettingsError(f"{path}: its network does not fit these data ({why}). {advice}") from error
    data.place(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    net.eval().to(data.device)
    with process_restored():
        use_threads(None, flops_per_step(data))

        (scored,) = score_networks([data], lambda block: net(block.counts.float())[None])
        (beside,) = score_beside([data], [scored], lambda block: net(block.counts.float())[None], None)
        rows = {"model": scored, **score_baselines(data), **beside}
    return EvaluationResult(
        checkpoint=path,
        epoch=n_epochs_of(loaded),
        choice=data.choice,
        n_samples=data.n_samples,
        scores={row: one.scores for row, one in rows.items()},
        thresholds=thresholds_of(rows),
        undefined=scored.undefined,
        differences=differences,
    )
