"""Lists of settings -> the choices of a study: every combination of the values given."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from itertools import product
from typing import Any

from summer_prep.errors import SettingsError
from summer_prep.options import plain
from summer_train.settings.options import Choice, idle_options, option_of, options_of, settings_from

ALL = "all"
"""Every label; every patient; every region."""

MAX_MODELS = 100_000

NUMBER_SETTINGS = (*options_of(Choice), "max_epochs", "patience")
"""Options that decide a model's numbers: columns of study.csv."""

_RANGE = re.compile(r"(\d+)-(\d+)")
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}
_CAUSES = ("task", "model", "split")
"""Options that make others idle: in a study of several of them, each takes what concerns it."""


def choices_of(options: Mapping[str, Any]) -> list[Choice]:
    """Return every combination of the options' values, each once, in the order given.

    Parameters
    ----------
    options : option -> a value, or several: text as people write it (`summer,tom`, `1-5`, groups as `A;H;all`), or
        Python values (`["summer", "tom"]`, `range(1, 6)`; groups `["A", "H"]` are one, `[["A"], ["H"], []]` three)

    Raises
    ------
    SettingsError : a value that the option cannot have, or too many combinations
    """
    known = options_of(Choice)
    several = {name: _values(known[name], value) for name, value in options.items() if name in known}
    n_models = 1
    for values in several.values():
        n_models *= len(values)
    if n_models > MAX_MODELS:
        raise SettingsError(f"{n_models} combinations: a study has at most {MAX_MODELS}. Split it into several")
    varied = {name for name in _CAUSES if len(several.get(name, ())) > 1}
    choices: dict[Choice, None] = {}
    for chosen in product(*several.values()):
        combination = dict(zip(several, chosen, strict=True))
        choices[settings_from(Choice, _without_idle(combination, varied))] = None
    return list(choices)


def _without_idle(combination: Mapping[str, Any], varied: Iterable[str]) -> dict[str, Any]:
    """Leave out what has no effect on this combination, where it has on others of the study."""
    if not varied:
        return dict(combination)
    now = {name: combination.get(name, options_of(Choice)[name].default) for name in _CAUSES}
    idle = {name for names in idle_options(**now).values() for name in names}
    return {name: value for name, value in combination.items() if options_of(Choice)[name].name not in idle}


def _values(one: "Field[Any]", value: Any) -> list[Any]:
    """Return the values of an option, none of them twice."""
    option = f"--{option_of(one).replace('_', '-')}"
    value = plain(value)
    values = _groups(value) if one.metadata["several"] else _scalars(one, value, option)
    if not values:
        raise SettingsError(f"{option} {value!r}: names none. Leave it out, or name some")
    if any(isinstance(one, str) and not one.strip(" ,") for one in values):
        raise SettingsError(f"{option} {value!r}: names none between two separators. Leave one of them out")
    for number, first in enumerate(values):
        if first in values[:number]:
            raise SettingsError(f"{option} {value}: {first} stands there twice. Name each once")
    return values


def _groups(value: Any) -> list[Any]:
    """Return groups: of patients, regions, or pairs of seconds."""
    if isinstance(value, str):
        return [_group(part) for part in value.replace(",;", ";").replace(";,", ";").split(";")]
    if isinstance(value, Iterable):
        value = parts = list(value)
        if any(part is None or (isinstance(part, Iterable) and not isinstance(part, str)) for part in parts):
            return [_group(part) for part in parts]
        if any(isinstance(part, str) and ";" in part for part in parts):
            return [group for part in parts for group in _groups(str(part))]
    return [_group(value)]


def _group(part: Any) -> Any:
    if part is None or part in ([], ()) or (isinstance(part, str) and part.strip(" ,") == ALL):
        return None
    return tuple(part) if isinstance(part, list) else part


def _scalars(one: "Field[Any]", value: Any, option: str) -> list[Any]:
    if value is None:
        return [None]
    if isinstance(value, str):
        parts = [part for part in value.replace(",", " ").split() if part]
        return [single for part in parts for single in _as_written(one, part, option)]
    if isinstance(value, Iterable):
        return [single for part in value for single in _scalars(one, part, option)]
    return [value]


def _as_written(one: "Field[Any]", part: str, option: str) -> list[Any]:
    """Return what a word stands for: a number, several (`1-5`), a flag, or itself."""
    kinds: dict[Any, type[int] | type[float]] = {int: int, float: float, int | None: int, float | None: float}
    try:
        if one.type is bool:
            return [_FLAGS[part.lower()]]
        if one.type not in kinds:
            return [part]
        if (match := _RANGE.fullmatch(part)) and kinds[one.type] is int:
            first, last = int(match[1]), int(match[2])
            if not 0 <= last - first < MAX_MODELS:
                raise ValueError(part)
            return list(range(first, last + 1))
        return [kinds[one.type](part)]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{option} {part}: must be like {_EXAMPLES.get(option_of(one), '1 or 1,2')}") from error


_EXAMPLES = {"fold": "3 or 1-5", "seed": "0 or 0-4", "buffer": "32 or 4,8,16", "single_units": "yes, no or yes,no"}


def as_columns(choice: Choice) -> dict[str, Any]:
    """Return a choice as cells of a table, named like its options; empty where one has no effect."""
    idle = {name for names in idle_options(choice.task, choice.model, choice.split).values() for name in names}
    return {option_of(one): "" if one.name in idle else _cell(getattr(choice, one.name)) for one in fields(choice)}


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        words = " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
        return words or ALL
    return "" if value is None else value
