"""The plan of a study: its models, which of them share their samples, which cannot be trained, what they need."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from summer_prep.errors import SettingsError
from summer_train.data.batches import MAX_BLOCK_VALUES
from summer_train.data.film import FilmSamples
from summer_train.data.samples import NothingToLearnError
from summer_train.data.selection import NoUnitsError
from summer_train.models.linear import BYTES_PER_WEIGHT
from summer_train.models.networks import RECURRENT, n_weights
from summer_train.models.stack import stack_size, takes_masks
from summer_train.models.steps import SAMPLES_AT_ONCE
from summer_train.scores.left_out import N_ALIGNMENTS
from summer_train.scores.shifts import shifts_of
from summer_train.settings.options import NO_PATIENT, SOLVED, Choice, Log, StudyRun, log_nothing
from summer_train.studies.choices import OpenedChoices
from summer_train.studies.records import Record, columns_of, digest_of, id_of

SECONDS_A_STEP, SECONDS_A_PRODUCT = 5e-5, 9e-11
"""Of a stack's optimizer step whatever its size, and for each weight and sample, on one processor
(docs/performance.md: right within about two for dense networks of 79 to 2,286 units and for the published LSTM)."""

SECONDS_A_ROOT, SECONDS_A_SCORING = 2.5e-8, 0.1
"""Of a bin of a unit, for the map of a patient; of a network and its baselines, beside the products."""


class Model(NamedTuple):
    """One network to train: its settings, and its record, which has no scores yet."""

    choice: Choice
    record: Record


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models that share input and samples.

    stack_size : how many of them are best trained as one
    steps_s, products_s : of an epoch, in seconds of one processor, roughly: of a stack of any size, and of each model
    maps_s : what a stack's maps to a shared space take, those on shifted film included
    n_bytes : what a process needs to train a stack of them, beside PROCESS_BYTES
    """

    models: list[Model]
    stack_size: int
    steps_s: float
    products_s: float
    maps_s: float
    n_bytes: float

    def seconds(self, models: Sequence[Model], max_epochs: int) -> float:
        """Return what some of the models take as a stack on one processor, at most and roughly."""
        n_beside = sum(not one.record.shift and one.choice.leave_out != NO_PATIENT for one in models)
        # Beside each of those stands the patient alone, trained like it, and the network on N_ALIGNMENTS maps: each has
        # the products of half the training samples, and together, without baselines, they are two scorings.
        scored = n_beside * (2 * SECONDS_A_SCORING + N_ALIGNMENTS / 2 * self.products_s)
        each = self.products_s * max_epochs + SECONDS_A_SCORING
        steps_s = self.steps_s * max_epochs * (2 if n_beside else 1)
        return self.maps_s + steps_s + each * (len(models) + n_beside) + scored

    def stacks(self) -> list[Sequence[Model]]:
        """Return the models in stacks of about equal size."""
        n_stacks = -(-len(self.models) // self.stack_size)
        bounds = np.linspace(0, len(self.models), n_stacks + 1).round().astype(int)
        return [self.models[start:stop] for start, stop in pairwise(bounds)]


def plan_study(opened: OpenedChoices, run: StudyRun, log: Log = log_nothing) -> tuple[list[Group], dict[str, Record]]:
    """Return the models of opened choices in groups that share their samples, and the records of all, by id.

    Records are in the order of the lists, without scores yet, `undefined` of those that cannot be trained. Raises
    SettingsError if no model can be trained.
    """
    groups, records, notes = dict[str, Group](), dict[str, Record](), dict[str, None]()
    for selection, choice in opened:
        if (model_id := id_of(choice, run)) in records:  # `14;all` where 14 is all there is
            continue
        digest = "" if isinstance(selection, NoUnitsError) else digest_of(selection.provenance(*choice.decoded))
        records[model_id] = record = Record(id=model_id, data_digest=digest, columns=columns_of(choice, run))
        try:
            if isinstance(selection, NoUnitsError):
                raise selection
            data = FilmSamples(selection, choice, run.device_memory_gb, log=notes.setdefault)
            if choice.leave_out != NO_PATIENT:
                data.narrowed()  # units may be drawn of other patients alone
        except (NoUnitsError, NothingToLearnError) as reason:
            records[model_id] = replace(record, undefined={"train": str(reason)})
            continue
        # Models that have these in common can be trained as one.
        parts = [hashlib.sha256(indices.tobytes()).hexdigest() for indices in vars(data.split).values()]
        own = {"label_name", "label_rule", "undefined", "fold", "buffer_s", "sequence_s", "min_recorded", "pauses"}
        own -= {"label_rule"} if choice.task == "encode" else set()  # which decides its inputs
        own |= {"train_share", "threshold"}
        own |= {"n_units", "draw"} if takes_masks(choice) else set()
        shared = {name: value for name, value in choice.as_plain().items() if name not in own}
        key = digest_of([shared, parts, data.task.n_outputs, record.data_digest])
        if key not in groups:
            size, weights = stack_size(data, choice), n_weights(data, choice)
            n_bins, n_values, n_train = selection.n_bins, data.n_inputs * data.window.n_bins, len(data.split.train)
            if takes_masks(choice):  # all of its units are seen
                weights, n_values = (n * selection.n_units // data.n_units for n in (weights, n_values))
            is_mapped = selection.counts_if_mapped() is not None
            resident = min(selection.n_bytes, (run.device_memory_gb or np.inf) * 1e9)
            n_bytes = (
                (0 if is_mapped or choice.n_shared else resident)
                # Weights, gradients, two averages or what solving takes, the best epoch's, a copy while some stop.
                + (BYTES_PER_WEIGHT + 8 if choice.model in SOLVED else 24) * size * weights
                + (32 * n_values**2 if choice.model == "ridge" else 0)
                # Maps to a shared space, and what they give.
                + (40 * selection.n_units**2 + 12 * n_bins * n_values if choice.n_shared else 0)
                + (8 * n_bins * selection.n_units if choice.standardise else 0)
                + 5 * max(MAX_BLOCK_VALUES, choice.batch_size * n_values)  # a block, as counts and as floats
                + (12 * n_bins * data.n_inputs if choice.task == "encode" else 0)  # inputs: as read, scaled, shifted
                + 12 * SAMPLES_AT_ONCE * size * weights / max(1, n_values)  # hidden layers
                + size * n_bins * (4 + 16 * data.task.n_outputs)  # labels, masks, predictions in double precision
            )
            n_products = n_train * weights * (data.window.n_bins if choice.model in RECURRENT else 1)
            steps_s, products_s = n_train / choice.batch_size * SECONDS_A_STEP, n_products * SECONDS_A_PRODUCT
            maps_s = len(data.aligned) * selection.n_units**2 * SECONDS_A_PRODUCT if choice.n_shared else 0.0
            if choice.leave_out != NO_PATIENT:
                of_patient = n_bins * selection.n_units / len(selection.patients)
                maps_s += N_ALIGNMENTS * of_patient * SECONDS_A_ROOT
            costs = {"steps_s": steps_s, "products_s": products_s, "maps_s": maps_s}
            groups[key] = Group(models=[], stack_size=size, **costs, n_bytes=n_bytes)
        # The data themselves are not kept: a study may have thousands of them.
        for shift in (0, *shifts_of(data, run.shifts)):
            shifted = replace(record, shift=shift, shift_s=shift * choice.bin_length_ms / 1000)
            groups[key].models.append(Model(choice, shifted))
    if not groups:
        raise SettingsError(next(iter(records.values())).undefined["train"])
    for note in notes:
        log(note)
    return list(groups.values()), records
