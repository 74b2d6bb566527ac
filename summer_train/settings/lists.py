"""Lists of settings -> the choices of a study: every combination of the values given."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from itertools import product
from typing import Any

from summer_prep.errors import SettingsError
from summer_prep.options import as_written, check_once, expressions, number, parts, plain, words
from summer_prep.settings import kind_of, option_of, options_of, spelled
from summer_train.settings.options import (
    CAUSES,
    LATER,
    OF_FEATURES,
    OF_SPACE,
    Choice,
    idle_options,
    settings_from,
)

ALL = "all"  # every label; every patient; every region
MAX_MODELS = 100_000


def column_of(option: str) -> str:
    """Return the column of an option in study.csv."""
    return {"n_units": "chosen_units", "threshold": "threshold_from"}.get(option, option)  # what was found has theirs


NUMBER_SETTINGS = (*(column_of(name) for name in options_of(Choice)), "max_epochs", "patience")
"""What decides a model's numbers: columns of study.csv."""
RARE = {column_of(name): options_of(Choice)[name].default for name in (*OF_FEATURES, *OF_SPACE, *LATER)}
"""Columns that not all models have -> what those have that lack them."""
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}
_EXAMPLES = {"fold": "3 or 1-5", "seed": "0 or 0-4", "buffer": "32 or 4,8,16", "single_units": "yes, no or yes,no"}


def choices_of(options: Mapping[str, Any]) -> list[Choice]:
    """Return every combination of the options' values, each once, in the order given; raises SettingsError.

    options : option -> a value, or several: text as people write it (`summer,tom`, `1-5`, groups as `A;H;all`), or
        Python values (`["summer", "tom"]`, `range(1, 6)`; groups `["A", "H"]` are one, `[["A"], ["H"], []]` three)
    """
    known = options_of(Choice)
    several = {name: _values(known[name], plain(value)) for name, value in options.items() if name in known}
    n_models = math.prod(map(len, several.values()))
    if n_models > MAX_MODELS:
        raise SettingsError(f"{n_models} combinations: a study has at most {MAX_MODELS}. Split it into several")
    is_varied = any(len(several.get(name, ())) > 1 for name in CAUSES)
    choices: dict[Choice, None] = {}
    for chosen in product(*several.values()):
        combination = dict(zip(several, chosen, strict=True))
        # What has no effect on this combination may have one on others; in a study of one kind it is an error.
        idle = idle_options(combination) if is_varied else {}
        choices[settings_from(Choice, {name: combination[name] for name in combination if name not in idle})] = None
    return list(choices)


def _values(one: "Field[Any]", value: Any) -> list[Any]:
    """Return the values of an option, none of them twice."""
    option = spelled(option_of(one))
    if one.metadata["several"]:
        values = _groups(value)
    else:
        split = expressions if one.name in ("label_name", "target", "retrieve_within") else words
        values = [single for part in parts(value, split) for single in _as_typed(one, part, option)]
    if not values or any(isinstance(single, str) and not single.strip(" ,") for single in values):
        raise SettingsError(f"{option} {value!r}: has an empty item. Name something for each")
    check_once(values, option, value)
    return values


def _groups(value: Any) -> list[Any]:
    """Return groups of patients or regions, or pairs of seconds; None stands for all."""
    if isinstance(value, str):
        groups: list[Any] = value.split(";")
    else:
        groups = list(value) if isinstance(value, Iterable) else [value]
        if not any(group is None or (isinstance(group, Iterable) and not isinstance(group, str)) for group in groups):
            groups = [groups]
    named = [None if group in (None, [], ()) or str(group).strip(" ,") == ALL else group for group in groups]
    return [tuple(group) if isinstance(group, list) else group for group in named]


def _as_typed(one: "Field[Any]", part: Any, option: str) -> list[Any]:
    """Return what a word stands for: a number, several (`1-5`), a flag, or itself; other values are left alone."""
    kind = kind_of(one)
    if not isinstance(part, str) or kind not in (bool, int, float):
        return [part]
    try:
        if kind is bool:
            return [_FLAGS[part.lower()]]
        if kind is int and (match := re.fullmatch(r"(\d+)-(\d+)", part)):
            numbers = range(int(match[1]), int(match[2]) + 1)
            if not 1 <= len(numbers) <= MAX_MODELS:
                raise ValueError(part)
            return list(numbers)
        return [number(part, kind)]
    except (ValueError, KeyError, OverflowError) as error:
        raise SettingsError(f"{option} {part}: must be like {_EXAMPLES.get(option_of(one), '1 or 1,2')}") from error


def as_columns(choice: Choice) -> dict[str, Any]:
    """Return a choice as cells of a table, named like its options; empty where one has no effect.

    Rare options have no column where they are not used.
    """
    idle, kept = idle_options(vars(choice)), choice.as_plain()
    values = {option_of(one): getattr(choice, one.name) for one in fields(choice) if one.name in kept}
    cells = {name: as_written(value) or ALL if isinstance(value, tuple) else value for name, value in values.items()}
    return {column_of(name): "" if name in idle or cell is None else cell for name, cell in cells.items()}
