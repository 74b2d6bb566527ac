"""What a study consists of: its models, which of them share their samples, which cannot be trained, what they need."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from summer_prep.errors import SettingsError
from summer_prep.film.facts import BRAIN_REGION_GROUPS, BRAIN_REGIONS
from summer_train.data.batches import MAX_BLOCK_VALUES
from summer_train.data.film import FilmSamples
from summer_train.data.selection import NoUnitsError, Selection, open_described
from summer_train.data.targets import NothingToLearnError
from summer_train.models.linear import BYTES_PER_WEIGHT
from summer_train.models.networks import n_weights
from summer_train.models.stack import stack_size
from summer_train.models.steps import SAMPLES_AT_ONCE
from summer_train.scores.shifts import shifts_of
from summer_train.settings.lists import ALL, MAX_MODELS
from summer_train.settings.options import Choice, Log, StudyRun, log_nothing
from summer_train.studies.records import Record, columns_of, digest_of, id_of

SECONDS_A_STEP, SECONDS_A_PRODUCT = 5e-5, 9e-11
"""Of a stack's optimizer step whatever its size, and for each weight and sample, on one processor
(docs/performance.md: right within about two for dense networks of 79 to 2,286 units and for the published LSTM)."""


class Model(NamedTuple):
    """One network to train: its settings, and by how many bins its labels are shifted for a null (0: not at all)."""

    choice: Choice
    id: str
    shift: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models that share input and samples.

    stack_size : how many of them are best trained as one
    cost : of a model's epoch, in seconds of one processor, roughly
    n_bytes : what a process needs to train a stack of them, beside PROCESS_BYTES
    """

    models: list[Model]
    stack_size: int
    cost: float
    n_bytes: float

    def without(self, records: Mapping[tuple[str, int], Record]) -> "Group":
        """Return the models that have no record yet."""
        return replace(self, models=[model for model in self.models if (model.id, model.shift) not in records])

    def stacks(self) -> list[Sequence[Model]]:
        """Return the models in stacks of about equal size."""
        n_stacks = -(-len(self.models) // self.stack_size)
        bounds = np.linspace(0, len(self.models), n_stacks + 1).round().astype(int)
        return [self.models[start:stop] for start, stop in pairwise(bounds)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study consists of.

    data_digests : model id -> digest of the data that it is to be trained on, in the order of the lists
    hopeless : of models that cannot be trained, and why
    """

    groups: Sequence[Group]
    data_digests: Mapping[str, str]
    hopeless: Sequence[Record]

    @property
    def n_models(self) -> int:
        """How many there are, those of nulls included."""
        return sum(len(group.models) for group in self.groups) + len(self.hopeless)


def plan_study(choices: Sequence[Choice], run: StudyRun, log: Log = log_nothing) -> Plan:
    """Open the data of a study, building missing keys first, and say which models share their samples.

    Raises
    ------
    SummerError : data or settings do not allow the study
    """
    groups: dict[str, Group] = {}
    hopeless: list[Record] = []
    digests, reasons, notes = {}, list[SettingsError](), dict[str, None]()
    for selection, choice in _with_selections(choices, run, log):
        model_id = id_of(choice, run)
        if model_id in digests:  # `14;all` where 14 is all there is
            continue
        try:
            if isinstance(selection, NoUnitsError):
                raise selection
            data = FilmSamples(selection, choice, run.device_memory_gb, log=notes.setdefault)
        except (NoUnitsError, NothingToLearnError) as reason:
            unknown = [name for name in choice.brain_regions if name not in (*BRAIN_REGIONS, *BRAIN_REGION_GROUPS)]
            if isinstance(reason, NoUnitsError) and unknown:  # no region that a patient happens to lack: a slip
                raise
            reasons.append(reason)
            digest = "" if isinstance(selection, NoUnitsError) else digest_of(selection.provenance())
            hopeless.append(hopeless_record(choice, run, digest, str(reason)))
            digests[model_id] = digest
            continue
        digests[model_id] = digest_of(selection.provenance())
        key = _sample_key(data)
        if key not in groups:
            groups[key] = _group(data, run)
        # Of the data themselves nothing is kept: a study may have thousands of them.
        groups[key].models.extend(Model(choice, model_id, shift) for shift in (0, *shifts_of(data, run.shifts)))
    if reasons and len(hopeless) == len(digests):
        raise reasons[0]
    for note in notes:
        log(note)
    return Plan(groups=list(groups.values()), data_digests=digests, hopeless=hopeless)


def _with_selections(
    choices: Sequence[Choice], run: StudyRun, log: Log
) -> Iterator[tuple[Selection | NoUnitsError, Choice]]:
    """Yield each choice with its selection of units, or why there is none; patients and labels named.

    All are opened, and their number is checked, before the first is yielded: what is done with them takes longer.
    """
    from summer_prep.cache.build import ensure_keys

    _check_number(len(choices), run)  # at least: `all` labels are not known yet
    named: list[tuple[Selection | NoUnitsError, Choice, Sequence[str]]] = []
    opened: dict[Any, Any] = {}
    for choice in choices:
        of_keys = choice.patient_ids, choice.bin_length_ms
        if of_keys not in opened:
            opened[of_keys] = ensure_keys(run.cache_dir, *of_keys, run.data_dir, run.nwb_path, run.local_cache, log)
        of_units = *of_keys, choice.brain_regions, choice.single_units
        if of_units not in opened:
            try:
                opened[of_units] = open_described(opened[of_keys], choice.brain_regions, choice.single_units)
                if run.verify:
                    opened[of_units].verify()
            except NoUnitsError as error:
                opened[of_units] = error
        selection = opened[of_units]
        ids = tuple(str(description.attributes["patient_id"]) for description in opened[of_keys])
        whole = open_described(opened[of_keys]) if isinstance(selection, NoUnitsError) else selection
        labels: Sequence[str] = [choice.label_name]
        if choice.task == "label" and choice.label_name == ALL:
            labels = whole.label_names
        elif choice.task == "label":
            whole.check_label(choice.label_name)
        named.append((selection, replace(choice, patient_ids=ids), labels))
    _check_number(sum(len(labels) for _, _, labels in named), run)
    for selection, choice, labels in named:
        for label_name in labels:
            yield selection, replace(choice, label_name=label_name)


def _check_number(n_choices: int, run: StudyRun) -> None:
    n_models = n_choices * (1 + run.shifts)
    if n_models > MAX_MODELS:
        null = f" ({n_choices}, each of them again on labels shifted --shifts {run.shifts} times)" if run.shifts else ""
        raise SettingsError(f"{n_models} models{null}: a study has at most {MAX_MODELS}. Split it into several")


def _sample_key(data: FilmSamples) -> str:
    """Return what two models must have in common to be trained as one."""
    choice = data.choice
    parts = [hashlib.sha256(indices.tobytes()).hexdigest() for indices in vars(data.split).values()]
    own = {"label_name", "label_rule", "undefined", "fold", "buffer_s", "sequence_s", "min_recorded", "pauses"}
    shared = {name: value for name, value in choice.as_plain().items() if name not in own}
    return digest_of([shared, parts, data.task.n_outputs])


def _group(first: FilmSamples, run: StudyRun) -> Group:
    """Return a group of models, none in it yet, that share the samples of some data."""
    size, weights = stack_size(first, first.choice), n_weights(first, first.choice)
    n_bins, n_values = first.selection.n_bins, first.n_units * first.window.n_bins
    is_mapped = first.selection.counts_if_mapped() is not None
    resident = 0 if is_mapped else min(first.selection.n_bytes, (run.device_memory_gb or np.inf) * 1e9)
    n_bytes = (
        resident
        # Weights, gradients, two averages or what solving takes, the best epoch's, a copy while some stop.
        + (BYTES_PER_WEIGHT + 8 if first.choice.model == "linear" else 24) * size * weights
        + 5 * max(MAX_BLOCK_VALUES, first.choice.batch_size * n_values)  # a block, as counts and as floats
        + 12 * SAMPLES_AT_ONCE * size * weights / max(1, n_values)  # hidden layers
        + size * n_bins * (4 + 16 * first.task.n_outputs)  # labels, masks, predictions in double precision
    )
    n_passes = first.window.n_bins if first.choice.model in ("lstm", "gru") else 1
    n_steps, n_products = len(first.split.train) / first.choice.batch_size, len(first.split.train) * weights * n_passes
    cost = n_steps * SECONDS_A_STEP / size + n_products * SECONDS_A_PRODUCT
    return Group(models=[], stack_size=size, cost=cost, n_bytes=n_bytes)


def hopeless_record(choice: Choice, run: StudyRun, data_digest: str, reason: str, shift: int = 0) -> Record:
    """Return the record of a model that cannot be trained, with the reason."""
    return Record(
        id=id_of(choice, run), shift=shift, shift_s=shift * choice.bin_length_ms / 1000, data_digest=data_digest,
        columns=columns_of(choice, run), n_units=0, n_samples={}, scores={}, threshold_log_odds=None,
        undefined={"train": reason}, baselines={}, curve=[], best_epoch=0, units={}, seconds=0.0,
    )  # fmt: skip
