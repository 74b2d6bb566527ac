"""The results of a run, made and left in its folder: of our networks, or of outputs that a user computed."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.files import check_folder, replace_file, replacing, writing
from summer_prep.options import as_text, finite
from summer_train.data.film import FilmSamples
from summer_train.data.targets import FilmLabel
from summer_train.runs import folder
from summer_train.runs.folder import FitResult
from summer_train.scores.scoring import (
    Scored,
    cycle_sums,
    samples_per_class,
    score_baselines,
    score_outputs,
    thresholds_of,
    units_beside,
)
from summer_train.settings.options import OWN, Run, settings_from


def write_result(
    data: FilmSamples, own: Scored, log_dir: Path | None, beside: Mapping[str, Scored] = {}, **of_run: Any
) -> FitResult:
    """Return the scores of a network beside those of the baselines, and write them to its folder if it has one.

    beside : further rows
    of_run : the other fields of `FitResult`
    """
    rows, made = {"model": own, **score_baselines(data), **beside}, folder.origin()
    result = FitResult(
        data=data.provenance["data"],
        n_units=data.n_units,
        n_samples=data.n_samples,
        n_per_class={part: samples_per_class(data, part) for part in folder.PARTS},
        scores={row: scored.scores for row, scored in rows.items()},
        thresholds=thresholds_of(rows),
        undefined=own.undefined,
        units=units_beside(data, rows),
        cycles=cycle_sums(data, rows),
        software={"summer": made["version"], "torch": torch.__version__, "lightning": version("lightning")},
        log_dir=log_dir or Path(),
        date=made["date"],
        command=made["command"],
        **of_run,
    )
    if log_dir is not None:
        with replacing(log_dir / folder.PREDICTIONS) as file:
            np.savez(file, **own.predictions)  # type: ignore[arg-type]  # numpy's stub takes them for flags
        replace_file(log_dir / folder.RESULTS, json.dumps(finite(result.as_plain()), indent=1).encode())
    return result


def score(
    data: FilmSamples, outputs: Mapping[str, Any], *, name: str = "outputs", output_dir: str | Path | None = None
) -> FitResult:
    """Score outputs of a network of your own, or of any other method, as `fit` scores its networks.

    Parameters
    ----------
    data : of `film_data`
    outputs : "val", "test" and, if you like, "train" -> an array with a row for each of `data.split.val`, ...: log-odds
        of "on", (n,), or logits, (n, n_classes); expected counts of each unit, (n, n_units); or standardised features,
        (n, n_dimensions)
    name : of the network, by which tables tell it from others: its `model` is own:NAME
    output_dir : leaves a run's folder there that `runs` and `report` read, without checkpoints

    Returns
    -------
    Scores, thresholds and baselines, as of `fit`, without epochs; without `output_dir` it has no folder

    Raises
    ------
    SettingsError : a part is missing, or an array has another shape or a value that is not finite
    """
    if not isinstance(data, FilmSamples):
        raise SettingsError(f"data {data!r:.60}: must come from summer_train.film_data")
    optional = () if data.choice.threshold == "train" else ("train",)
    needed = [part for part in folder.PARTS if data.n_samples[part] and (part not in optional or part in outputs)]
    if set(outputs) != set(needed):
        raise SettingsError(f"outputs of {' '.join(outputs) or 'no part'}: give {' and '.join(needed)}")
    own = score_outputs(data, {part: _as_rows(data, part, outputs[part]) for part in needed})
    places = {"cache_dir": data.selection.patients[0].key.parents[1], "output_dir": output_dir}
    run, log_dir = settings_from(Run, places), None
    config = {**data.choice.as_plain(), **run.as_plain(), "model": OWN + as_text(name, "name")}
    with writing(run.output_dir):
        if output_dir is not None:
            check_folder(run.output_dir, "output_dir")
            log_dir = folder.new_folder(run.output_dir / data.task.log_name)
        return write_result(data, own, log_dir, config=config, best_epoch=0, n_epochs=0, seconds=0.0)


def _as_rows(data: FilmSamples, part: str, values: Any) -> NDArray[Any]:
    """Return the outputs of a part as an array, of two classes as logits; raises SettingsError if they are not that."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    shape = data.n_samples[part], data.task.n_outputs
    shapes = [shape[:1], shape] if isinstance(data.task, FilmLabel) and shape[1] == 2 else [shape]
    if array.shape not in shapes or array.dtype.kind not in "fiu":
        wanted = " or ".join(map(str, shapes))
        raise SettingsError(f"outputs[{part!r}]: {array.shape} {array.dtype}; numbers of the shape {wanted} are needed")
    if n_wrong := int((~np.isfinite(array)).sum()):
        raise SettingsError(f"outputs[{part!r}]: {n_wrong} values are not finite. Give a number for each sample")
    if isinstance(data.task, FilmLabel) and array.min() >= 0 and 0 < array.max() <= 1:
        why = "all values lie between 0 and 1, as probabilities do. Give log-odds, log(p / (1 - p)), or logits"
        raise SettingsError(f"outputs[{part!r}]: {why}")
    array = array.astype(np.float64) if array.dtype.kind != "f" else array
    return array if array.ndim == 2 else np.stack([np.zeros_like(array), array], axis=1)
