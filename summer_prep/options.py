"""Values as people write them, on the command line and in Python, as what the library takes.

Functions that take the name of an option raise SettingsError for a value that it cannot have.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from summer_prep.cache.layout import is_patient_id
from summer_prep.errors import SettingsError
from summer_prep.urls import Place, Url, is_url

Value = TypeVar("Value")
Split = Callable[[str], list[str]]
Number = TypeVar("Number", bool, int, float)
AnySettings = TypeVar("AnySettings", bound=Any)

_NO_NUMBER = (TypeError, ValueError, OverflowError)  # what `number` raises


def plain(value: object) -> object:
    """Return numbers, texts and flags of NumPy, pandas or torch as those of Python, and their arrays as lists."""
    to_plain = getattr(value, "tolist", None)
    if to_plain is not None:
        value = to_plain()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return tuple(plain(one) for one in value) if isinstance(value, tuple) else value


def words(text: str) -> list[str]:
    """Split text at spaces and commas."""
    return text.replace(",", " ").split()


def expressions(text: str) -> list[str]:
    """Split names and expressions of labels: `a & !b` holds spaces, so only commas stand between expressions."""
    return [part.strip() for part in text.split(",")] if re.search("[&|!]", text) else words(text)


def parts(value: object, split: Split = words) -> list[object]:
    """Split text, take a list apart, and leave one value alone."""
    value = plain(value)
    if isinstance(value, str):
        return [*split(value)]
    if isinstance(value, Iterable) and not isinstance(value, bytes | dict):
        return [part for one in map(plain, value) for part in (parts(one, split) if isinstance(one, str) else [one])]
    return [value]


def as_written(value: object) -> str:
    """Return a value for an error, as a person would write it."""
    if isinstance(value, list | tuple | set):
        return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return repr(value) if value == "" else str(value)


def as_path(value: object, option: str) -> Path:
    """Return a path that this system can have, whether or not something is there."""
    value = plain(value)
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingsError(f"{option} {value!r}: must be a path, as text or a Path")
    path = Path(value)
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:(/|$)|.*::", str(path)):
        advice = "Write a URL as text with both slashes, like s3://bucket/folder, where an option takes one"
        raise SettingsError(f"{option} {value}: looks like a URL that this option does not take. {advice}")
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = getattr(error, "strerror", None) or "embedded null byte"
            if isinstance(error, PermissionError):
                reason = "the folder that it is in may not be searched"
            raise SettingsError(f"{option} {str(path)[:60]}: no possible path ({reason}). Name another") from error
    return path


def as_place(value: object, option: str) -> Place:
    """Return a path, or the URL that a text is."""
    value = plain(value)
    if isinstance(value, str) and is_url(value.lower()):
        scheme, rest = value.split("://", 1)
        return Url(f"{scheme.lower()}://{rest}".rstrip("/"))
    return as_path(value, option)


def with_absolute_paths(settings: AnySettings) -> AnySettings:
    """Return settings, a dataclass, whose paths mean the same in processes that work in other folders."""
    paths = {name: value.absolute() for name, value in vars(settings).items() if isinstance(value, Path)}
    changed: AnySettings = replace(settings, **paths)
    return changed


def as_patient_id(name: str) -> str:
    """Return a patient id from itself, or from `sub-14` as folders and files have it."""
    return re.sub(r"\Asub-?([A-Za-z0-9]+)\Z", r"\1", name)


def as_patient_ids(value: object, option: str = "--patient-ids") -> tuple[str, ...]:
    """Return patient ids from `14`, `"14 20"`, `"14,20"` or `[14, "20"]`; none from None."""
    ids = _each(value, option, "must be patient ids, like 14 20", lambda part: as_patient_id(_as_name(part)))
    for patient_id in ids:
        if not is_patient_id(patient_id):
            raise SettingsError(f"{option} {patient_id!r}: a patient id has letters and digits only, like 14")
    return ids


def as_names(
    value: object, option: str, example: str = "must be names, like A EC", split: Split = words
) -> tuple[str, ...]:
    """Return names (of regions, labels) from `"A EC"`, `"A,EC"` or `["A", "EC"]`; none from None."""
    return _each(value, option, example, _as_name, split)


def as_bin_lengths(value: object, option: str = "--bin-length") -> tuple[int, ...]:
    """Return bin lengths (ms) from `80`, `"80,200"` or `[80, 200]`; none from None."""
    return _each(value, option, "must be whole numbers, like 80 or 80,200", lambda part: number(part, int))


def as_bin_length(value: object, option: str = "--bin-length") -> int:
    """Return the one bin length (ms) that is named."""
    lengths_ms = as_bin_lengths(value, option)
    if len(lengths_ms) != 1:
        raise SettingsError(f"{option} {as_written(value)}: only one is possible. Name one bin length, like 80")
    return lengths_ms[0]


def as_seconds(value: object, option: str) -> tuple[float, float]:
    """Return past and future seconds from `"3 1"`, `"3,1"` or `(3, 1)`."""
    try:
        past, future = (number(part, float) + 0.0 for part in parts(value))  # -0 is 0
    except _NO_NUMBER as error:
        example = "must be two numbers of seconds, past and future, like 3 1"
        raise SettingsError(f"{option} {as_written(value)}: {example}") from error
    return past, future


def number(value: object, kind: type[Number]) -> Number:
    """Return the number that a value or a text is, or the flag that a flag is; 2.5 is no int.

    Raises TypeError, ValueError or OverflowError as Python's own conversions do.
    """
    result: Number = kind(value)  # type: ignore[arg-type,call-overload]  # whatever else it is raises TypeError
    is_rounded = not isinstance(value, str) and result != value and result == result  # noqa: PLR0124  # NaN stays
    if isinstance(value, bool) != (kind is bool) or is_rounded:
        raise ValueError(value)
    return result


def as_number(value: object, kind: type[Number], option: str) -> Number:
    """Return the number or flag that a Python value is; text is no number here."""
    value = plain(value)
    try:
        return number(None if isinstance(value, str) else value, kind)
    except _NO_NUMBER as error:
        names = {bool: "True or False", int: "a whole number", float: "a number"}
        raise SettingsError(f"{option} {value!r}: must be {names[kind]}") from error


def as_text(value: object, option: str) -> str:
    """Return a value that is text."""
    value = plain(value)
    if not isinstance(value, str):
        raise SettingsError(f"{option} {value!r}: must be text")
    return value


def finite(value: object) -> object:
    """Return plain values for JSON, in which a number that is not finite is null."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _each(
    value: object, option: str, example: str, convert: Callable[[object], Value], split: Split = words
) -> tuple[Value, ...]:
    if value is None:
        return ()
    try:
        values = tuple(map(convert, parts(value, split)))
    except _NO_NUMBER as error:
        raise SettingsError(f"{option} {as_written(value)}: {example}") from error
    if not values:
        raise SettingsError(f"{option} {as_written(value)}: names none. Leave it out, or name some: {example}")
    check_once(values, option, value)
    return values


def check_once(values: Sequence[object], option: str, value: object) -> None:
    """Raise SettingsError if something stands twice in a list; `value` is the list as it was written."""
    for one in values:
        if values.count(one) > 1:
            raise SettingsError(f"{option} {as_written(value)}: {as_written(one)} stands there twice. Name each once")


def _as_name(part: object) -> str:
    return part if isinstance(part, str) else str(number(part, int))
