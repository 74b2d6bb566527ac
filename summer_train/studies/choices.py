"""The choices of a study and their data, without torch: what cannot be trained is refused before torch loads."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from multiprocessing import current_process
from typing import Any

from summer_prep.cache.build import ensure_keys
from summer_prep.errors import SettingsError
from summer_prep.files import check_folder
from summer_prep.film.facts import BRAIN_REGION_GROUPS, BRAIN_REGIONS
from summer_prep.parallel import MAIN_GUARD
from summer_train.data.samples import NothingToLearnError, choose_samples
from summer_train.data.selection import NoUnitsError, Selection, open_described
from summer_train.settings.lists import ALL, MAX_MODELS, choices_of
from summer_train.settings.options import EACH, STUDY_DEFAULTS, Choice, Log, StudyRun, log_nothing, with_preset

OpenedChoices = Sequence[tuple[Selection | NoUnitsError, Choice]]
"""Choices, their patients and labels named, each with its units or the reason why there are none."""


def study_choices(options: Mapping[str, Any]) -> list[Choice]:
    """Return the choices of a study: of labels, unless another task is asked for."""
    return choices_of({**STUDY_DEFAULTS, **with_preset(options)})


def open_choices(choices: Sequence[Choice], run: StudyRun, log: Log = log_nothing) -> OpenedChoices:
    """Open the data of a study, building missing keys first, and try each kind of split once.

    Raises SummerError if data or settings do not allow the study.
    """
    if current_process().name != "MainProcess" and run.workers != 1:  # it has run the script once more
        raise SettingsError(f"study: started by a process that another one started. {MAIN_GUARD}")
    check_folder(run.output_dir, "--output-dir")

    places = run.data_dir, run.nwb_path, run.local_cache
    keys_of = cache(lambda ids, ms: ensure_keys(run.cache_dir, ids, ms, *places, log, every_byte=run.verify))

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
    splits: dict[tuple[object, ...], tuple[Selection, Choice]] = {}
    for choice in choices:
        key = choice.patient_ids, choice.bin_length_ms
        found, whole = selection_of(*key, choice.brain_regions, choice.single_units), selection_of(*key, (), False)
        assert isinstance(whole, Selection)  # all units
        names = whole.label_names if choice.label_name == ALL else [choice.label_name]
        if choice.task == "label":
            whole.check_label(names[0])
        elif choice.task == "feature":
            whole.check_target(choice.target)
        elif choice.task == "encode":
            whole.sources(choice.target)
        if choice.retrieve_within:
            whole.check_label(choice.retrieve_within)
        if (len(opened) + len(names)) * (1 + run.shifts) > MAX_MODELS:
            null = f", each of them again on labels shifted --shifts {run.shifts} times" if run.shifts else ""
            raise SettingsError(f"more than {MAX_MODELS} models{null}: a study has no more. Split it into several")
        ids = tuple(patient.patient_id for patient in whole.patients)
        left_out = ids if choice.leave_out == EACH else [choice.leave_out]
        each = product(names, left_out)
        opened += [(found, replace(choice, patient_ids=ids, label_name=name, leave_out=one)) for name, one in each]
        if isinstance(found, Selection):  # whether a split is possible depends on these alone
            sizes = found.n_bins, choice.bin_length_ms, choice.task, choice.window_s, choice.sequence_s
            splits.setdefault((*sizes, choice.split, choice.buffer_s, choice.val_fraction), (found, opened[-1][1]))
    for selection, choice in splits.values():
        with suppress(NothingToLearnError, NoUnitsError):  # in other folds, labels or patients there may be
            choose_samples(selection, choice)
    return opened
