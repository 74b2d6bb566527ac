"""The scores of a stack, and a null for one of its networks: others, trained on labels shifted along the film."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from summer_prep.errors import SettingsError
from summer_prep.film.splits import cycle_length
from summer_train.data.batches import Outputs
from summer_train.data.film import FilmSamples
from summer_train.data.samples import NothingToLearnError, choose_shifts
from summer_train.models.stack import Trained, stack_size, takes_masks, train_stack
from summer_train.scores.nulls import SCORES, p_of_units, permutation_test
from summer_train.scores.scoring import Scored, score_networks
from summer_train.settings.options import Log, Run, log_nothing


def score_stack(datas: Sequence[FilmSamples], trained: Sequence[Trained], outputs: Outputs) -> list[Scored | None]:
    """Score what `train_stack` gives for each of some data; None where training diverged."""
    fine = [data for data, one in zip(datas, trained, strict=True) if one.is_fine]
    if fine:
        fine[0].share_counts_of(datas[0])  # which alone has placed them on the device
    scored = iter(score_networks(fine, outputs) if fine else ())
    return [next(scored) if one.is_fine else None for one in trained]


def shifts_of(data: FilmSamples, n_shifts: int) -> list[int]:
    """Return the shifts of a null, in bins that may be used: the same for all labels, at least a cycle of the split.

    Raises SettingsError if the task or the split does not allow it, or there are not so many.
    """
    if not n_shifts:
        return []
    choice = data.choice
    if choice.task not in SCORES or choice.buffer_s is None:
        raise SettingsError(
            f"--shifts {n_shifts}: a null of shifted labels needs --task label, of features --task feature or encode, "
            "and the blocked split. Leave it out"
        )
    least = cycle_length(len(data.has_target), choice.bin_length_ms, choice.buffer_s)
    return choose_shifts(data.n_usable, least, n_shifts)


def shifted_null(data: FilmSamples, scored: Scored, run: Run, log: Log = log_nothing) -> dict[str, Any]:
    """Train networks on shifted labels as one was on the true ones.

    Returns
    -------
    part : whose scores are compared, test where there is one; shifts, in bins that may be used; kappa and auroc of
    each shift (r2 and r of features, r2 to encode), NaN where undefined; p_kappa and p_auroc (`nulls.Comparison`); to
    encode also p_r2_of_units
    """
    part = "test" if "test" in scored.scores else "val"
    shifts, size = shifts_of(data, run.shifts), stack_size(data, data.choice)
    found: dict[int, Scored | None] = dict.fromkeys(shifts)
    for start in range(0, len(shifts), size):
        datas = {}
        for shift in shifts[start : start + size]:
            with suppress(NothingToLearnError):
                shifted = data.shifted(shift)
                datas[shift] = shifted if takes_masks(data.choice) else shifted.narrowed()
        if datas:
            stack = list(datas.values())
            stack[0].share_counts_of(data)
            scores = score_stack(stack, *train_stack(stack, run.max_epochs, run.patience, log))
            found.update(zip(datas, scores, strict=True))
    null: dict[str, Any] = {"part": part, "shifts": shifts}
    for name in SCORES[data.choice.task]:
        values = {shift: one.scores[part][name] if one else np.nan for shift, one in found.items()}
        null[name], null[f"p_{name}"] = [*values.values()], permutation_test([scored.scores[part][name]], [values]).p
    if data.choice.task == "encode":
        of_units = [one.units[part]["r2"] for one in found.values() if one]
        null["p_r2_of_units"] = p_of_units(scored.units[part]["r2"], of_units)
    return null
