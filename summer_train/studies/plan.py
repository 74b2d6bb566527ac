"""The plan of a study: its models, which of them share their samples, which cannot be trained, what they need."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from summer_prep.cache.build import ensure_keys
from summer_prep.errors import SettingsError
from summer_prep.film.facts import BRAIN_REGION_GROUPS, BRAIN_REGIONS
from summer_train.data.batches import MAX_BLOCK_VALUES
from summer_train.data.film import FilmSamples
from summer_train.data.samples import NothingToLearnError
from summer_train.data.selection import NoUnitsError, Selection, open_described
from summer_train.models.linear import BYTES_PER_WEIGHT
from summer_train.models.networks import RECURRENT, n_weights
from summer_train.models.stack import stack_size
from summer_train.models.steps import SAMPLES_AT_ONCE
from summer_train.scores.shifts import shifts_of
from summer_train.settings.lists import ALL, MAX_MODELS
from summer_train.settings.options import SOLVED, Choice, Log, StudyRun, log_nothing
from summer_train.studies.records import Record, columns_of, digest_of, id_of

SECONDS_A_STEP, SECONDS_A_PRODUCT = 5e-5, 9e-11
"""Of a stack's optimizer step whatever its size, and for each weight and sample, on one processor
(docs/performance.md: right within about two for dense networks of 79 to 2,286 units and for the published LSTM)."""


class Model(NamedTuple):
    """One network to train: its settings, and its record, which has no scores yet."""

    choice: Choice
    record: Record

    def shifted(self, shift: int) -> "Model":
        """Return the model whose labels are shifted by so many bins, for a null."""
        shift_s = shift * self.choice.bin_length_ms / 1000
        return self._replace(record=replace(self.record, shift=shift, shift_s=shift_s))


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

    def stacks(self) -> list[Sequence[Model]]:
        """Return the models in stacks of about equal size."""
        n_stacks = -(-len(self.models) // self.stack_size)
        bounds = np.linspace(0, len(self.models), n_stacks + 1).round().astype(int)
        return [self.models[start:stop] for start, stop in pairwise(bounds)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study consists of.

    groups : of models to be trained
    data_digests : model id -> digest of the data that it is to be trained on, in the order of the lists
    cells : option -> its values in the models' columns of study.csv
    hopeless : the records of models that cannot be trained, with the reason
    """

    groups: Sequence[Group]
    data_digests: Mapping[str, str]
    cells: Mapping[str, set[Any]]
    hopeless: Sequence[Record]


def plan_study(choices: Sequence[Choice], run: StudyRun, log: Log = log_nothing) -> Plan:
    """Open the data of a study, building missing keys first, and return which models share their samples.

    Raises SummerError if data or settings do not allow the study.
    """
    groups: dict[str, Group] = {}
    hopeless: list[Record] = []
    digests, notes = dict[str, str](), dict[str, None]()
    cells: dict[str, set[Any]] = defaultdict(set)
    for selection, choice in _opened(choices, run, log):
        model_id, columns = id_of(choice, run), columns_of(choice, run)
        if model_id in digests:  # `14;all` where 14 is all there is
            continue
        for name, cell in columns.items():
            cells[name].add(cell)
        digests[model_id] = (
            "" if isinstance(selection, NoUnitsError) else digest_of(selection.provenance(*choice.decoded))
        )
        record = Record(id=model_id, shift=0, shift_s=0.0, data_digest=digests[model_id], columns=columns)
        try:
            if isinstance(selection, NoUnitsError):
                raise selection
            data = FilmSamples(selection, choice, run.device_memory_gb, log=notes.setdefault)
        except (NoUnitsError, NothingToLearnError) as reason:
            hopeless.append(replace(record, undefined={"train": str(reason)}))
            continue
        # Models that have these in common can be trained as one.
        parts = [hashlib.sha256(indices.tobytes()).hexdigest() for indices in vars(data.split).values()]
        own = {"label_name", "label_rule", "undefined", "fold", "buffer_s", "sequence_s", "min_recorded", "pauses"}
        shared = {name: value for name, value in choice.as_plain().items() if name not in own}
        key = digest_of([shared, parts, data.task.n_outputs, record.data_digest])
        if key not in groups:
            groups[key] = _group(data, run)
        # The data themselves are not kept: a study may have thousands of them.
        model = Model(choice, record)
        groups[key].models.extend([model, *map(model.shifted, shifts_of(data, run.shifts))])
    if hopeless and not groups:
        raise SettingsError(hopeless[0].undefined["train"])
    for note in notes:
        log(note)
    return Plan(groups=list(groups.values()), data_digests=digests, cells=cells, hopeless=hopeless)


def _opened(choices: Sequence[Choice], run: StudyRun, log: Log) -> list[tuple[Selection | NoUnitsError, Choice]]:
    """Return each choice, its patients and labels named, with its units or the reason why there are none."""

    @cache
    def keys_of(patient_ids: tuple[str, ...], length_ms: int) -> Any:
        places = run.data_dir, run.nwb_path, run.local_cache
        return ensure_keys(run.cache_dir, patient_ids, length_ms, *places, log, every_byte=run.verify)

    @cache
    def selection_of(
        patient_ids: tuple[str, ...], length_ms: int, brain_regions: tuple[str, ...], single_units: bool
    ) -> Selection | NoUnitsError:
        try:
            return open_described(keys_of(patient_ids, length_ms), brain_regions, single_units)
        except NoUnitsError as error:
            if set(brain_regions) - {*BRAIN_REGIONS, *BRAIN_REGION_GROUPS}:  # a slip; a patient may lack any other
                raise
            return error

    opened: list[tuple[Selection | NoUnitsError, Choice]] = []
    for choice in choices:
        key = choice.patient_ids, choice.bin_length_ms
        found, whole = selection_of(*key, choice.brain_regions, choice.single_units), selection_of(*key, (), False)
        names = [choice.label_name]
        assert isinstance(whole, Selection)  # all units
        if choice.task == "label":
            names = whole.label_names if choice.label_name == ALL else names
            whole.check_label(names[0])
        elif choice.task == "feature":
            whole.check_target(choice.target)
        if (len(opened) + len(names)) * (1 + run.shifts) > MAX_MODELS:
            null = f", each of them again on labels shifted --shifts {run.shifts} times" if run.shifts else ""
            raise SettingsError(f"more than {MAX_MODELS} models{null}: a study has no more. Split it into several")
        ids = tuple(patient.patient_id for patient in whole.patients)
        opened += [(found, replace(choice, patient_ids=ids, label_name=name)) for name in names]
    return opened


def _group(first: FilmSamples, run: StudyRun) -> Group:
    """Return an empty group for models that share the samples of some data."""
    size, weights = stack_size(first, first.choice), n_weights(first, first.choice)
    n_bins, n_values = first.selection.n_bins, first.n_inputs * first.window.n_bins
    is_mapped = first.selection.counts_if_mapped() is not None
    resident = 0 if is_mapped else min(first.selection.n_bytes, (run.device_memory_gb or np.inf) * 1e9)
    n_bytes = (
        resident
        # Weights, gradients, two averages or what solving takes, the best epoch's, a copy while some stop.
        + (BYTES_PER_WEIGHT + 8 if first.choice.model in SOLVED else 24) * size * weights
        + (32 * n_values**2 if first.choice.model == "ridge" else 0)
        + 5 * max(MAX_BLOCK_VALUES, first.choice.batch_size * n_values)  # a block, as counts and as floats
        + 12 * SAMPLES_AT_ONCE * size * weights / max(1, n_values)  # hidden layers
        + size * n_bins * (4 + 16 * first.task.n_outputs)  # labels, masks, predictions in double precision
    )
    n_passes = first.window.n_bins if first.choice.model in RECURRENT else 1
    n_steps, n_products = len(first.split.train) / first.choice.batch_size, len(first.split.train) * weights * n_passes
    cost = n_steps * SECONDS_A_STEP / size + n_products * SECONDS_A_PRODUCT
    return Group(models=[], stack_size=size, cost=cost, n_bytes=n_bytes)
