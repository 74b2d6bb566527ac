"""What a patient that is left out is compared with: the others, itself with its own labels, maps on shifted film."""

from collections.abc import Sequence

import numpy as np

from summer_prep.film.splits import cycles_of
from summer_train.data.batches import Outputs
from summer_train.data.film import FilmSamples
from summer_train.data.samples import choose_shifts
from summer_train.models.stack import train_stack
from summer_train.scores.nulls import SCORES, permutation_test
from summer_train.scores.scoring import Scored, score_networks
from summer_train.scores.shifts import score_stack
from summer_train.settings.options import ALONE, NO_PATIENT, OTHERS, OWN, SHIFTED, SHIFTED_P, Log, Run, log_nothing

N_ALIGNMENTS = 19  # maps on shifted film: the fewest of which the highest is exceeded by chance once in 20


def score_beside(
    datas: Sequence[FilmSamples], own: Sequence[Scored], outputs: Outputs, run: Run | None, log: Log = log_nothing
) -> list[dict[str, Scored]]:
    """Score what the networks of some data are compared with, by name; nothing where no patient is left out.

    Parameters
    ----------
    datas : those of the networks, which share their inputs
    own : the scores of the networks, in the same order
    outputs : of the networks
    run : how long networks of the patient alone are trained; without it none are

    Returns
    -------
    others : the same network on the test bins of the patients that it was trained on
    alone : a network that was trained on the patient's own bins in the shared space, with its own labels
    shifted film, shifted film 95 : the same network on the patient's test bins, by maps that were found on training
        bins moved along the film: the mean and the 95th percentile of their scores, the null of the alignment
    shifted film p : (1 + number of these maps at least as good) / (1 + N_ALIGNMENTS)
    """
    first, rows = datas[0], [dict[str, Scored]() for _ in datas]
    if first.choice.leave_out == NO_PATIENT:
        return rows
    found: dict[str, Sequence[Scored | None]] = {}
    found[OTHERS] = score_networks([data.beside(OTHERS) for data in datas], outputs)
    if run and not first.choice.model.startswith(OWN):  # which only its user can train
        alone = [data.beside(ALONE) for data in datas]
        found[ALONE] = score_stack(alone, *train_stack(alone, run.max_epochs, run.patience, log))
    n_train, n_bins = len(first.aligned), first.selection.n_bins
    cycle, _ = cycles_of(first.aligned, n_bins, first.choice.bin_length_ms, first.choice.buffer_s or 0)
    least = n_train // max(3, len(np.unique(cycle)))  # a cycle; a film of one moves by a third
    moved = [
        score_networks([data.beside(SHIFTED, n_moved) for data in datas], outputs)
        for n_moved in choose_shifts(n_train, least, N_ALIGNMENTS)
    ]
    for number, row in enumerate(rows):
        row.update({name: one for name, scored in found.items() if (one := scored[number])})
        scores = [one[number].scores["test"] for one in moved]
        values = {score: [one[score] for one in scores] for score in scores[0]}
        mean = {score: float(np.mean(one)) for score, one in values.items()}
        row[SHIFTED] = Scored(
            {"test": mean}, units={"test": {name: values[name] for name in SCORES[first.choice.task]}}
        )
        highest = {score: float(np.quantile(one, 0.95, method="higher")) for score, one in values.items()}
        row[f"{SHIFTED} 95"] = Scored({"test": highest})
        tested = {name: own[number].scores["test"][name] for name in SCORES[first.choice.task]}
        p = {name: permutation_test([one], [dict(enumerate(values[name]))]).p for name, one in tested.items()}
        row[SHIFTED_P] = Scored({"test": p})
    return rows
