"""What people write for a path, ids or numbers, on the command line and in Python, as what the library takes."""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from summer_prep.cache.layout import is_patient_id
from summer_prep.errors import SettingsError
from summer_prep.urls import Place, Url, is_url

Value = TypeVar("Value")
Settings = TypeVar("Settings", bound=Any)

_LIKE_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+-]+:(/|$)|.*::")


def plain(value: object) -> object:
    """Return numbers, texts and flags of NumPy, pandas or torch as those of Python, and their arrays as lists."""
    to_plain = getattr(value, "tolist", None)
    if to_plain is not None:
        value = to_plain()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return tuple(plain(one) for one in value) if isinstance(value, tuple) else value


def as_path(value: object, option: str) -> Path:
    """Return a path that this system can have, whether or not something is there.

    Raises
    ------
    SettingsError : it is none
    """
    value = plain(value)
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingsError(f"{option} {value!r}: must be a path, as text or a Path")
    path = Path(value)
    if _LIKE_A_URL.match(str(path)):
        raise SettingsError(
            f"{option} {value}: is like a URL, but none that this option takes. Write a URL as text with both slashes, "
            "like s3://bucket/folder, where an option takes one"
        )
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError as error:
        raise SettingsError(f"{option} {path}: the folder that it is in may not be searched. Name another") from error
    except (OSError, ValueError) as error:
        reason = "embedded null byte" if "\0" in str(path) else getattr(error, "strerror", None) or error
        raise SettingsError(f"{option} {str(path)[:60]}...: no possible path ({reason}). Name another") from error
    return path


def as_place(value: object, option: str) -> Place:
    """Return a path, or the URL that a text is.

    Raises
    ------
    SettingsError : it is neither
    """
    value = plain(value)
    if isinstance(value, str) and is_url(value.lower()):
        scheme, rest = value.split("://", 1)
        return Url(f"{scheme.lower()}://{rest}".rstrip("/"))
    return as_path(value, option)


def with_absolute_paths(settings: Settings) -> Settings:
    """Return settings, a dataclass, whose paths mean the same in processes that work in other folders."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    changed: Settings = replace(
        settings, **{name: value.absolute() for name, value in values.items() if isinstance(value, Path)}
    )
    return changed


def as_patient_ids(value: object, option: str = "--patient-ids") -> tuple[str, ...]:
    """Return patient ids from `14`, `"14 20"`, `"14,20"` or `[14, "20"]`; none from None.

    Raises
    ------
    SettingsError : something else, none at all, or one of them twice
    """
    ids = _each_once(value, option, "patient ids, like 14 20", lambda part: as_patient_id(_as_name(part)))
    for patient_id in ids:
        if not is_patient_id(patient_id):
            raise SettingsError(
                f"{option}: {patient_id!r} is no patient id; letters and digits are allowed, like 14 20"
            )
    return ids


def as_patient_id(name: str) -> str:
    """Return a patient id from itself, or from `sub-14` as folders and files have it."""
    match = re.fullmatch(r"sub-?([A-Za-z0-9]+)", name)
    return match[1] if match else name


def as_names(value: object, option: str, example: str) -> tuple[str, ...]:
    """Return names (of regions, labels) from `"A EC"`, `"A,EC"` or `["A", "EC"]`; none from None.

    Raises
    ------
    SettingsError : something else, none at all, or one of them twice
    """
    return _each_once(value, option, example, _as_name)


def as_bin_lengths(value: object, option: str = "--bin-length") -> tuple[int, ...]:
    """Return bin lengths (ms) from `80`, `"80,200"` or `[80, 200]`; none from None.

    Raises
    ------
    SettingsError : something else, none at all, or one of them twice
    """
    return _each_once(value, option, "whole numbers are allowed, like 80 or 80,200", _as_whole_number)


def as_numbers(value: object, option: str, example: str) -> tuple[float, ...]:
    """Return numbers from `"3 1"`, `"3,1"` or `(3, 1)`.

    Raises
    ------
    SettingsError : something else
    """
    return tuple(_convert(part, option, value, example, _as_number) for part in _parts(value))


Number = TypeVar("Number", bool, int, float)


def as_number(value: object, kind: type[Number], option: str) -> Number:
    """Return a value as the number or flag that it stands for; 2.5 is no int, 1 no flag, and text no number.

    Raises
    ------
    SettingsError : it is none
    """
    value = plain(value)
    is_right = isinstance(value, bool) == (kind is bool) and not isinstance(value, str)
    try:
        number: Number = kind(value)  # type: ignore[arg-type,call-overload]  # whatever else it is raises TypeError
    except (TypeError, ValueError, OverflowError):
        is_right = False
    if not is_right or (number != value and number == number):  # noqa: PLR0124  # NaN is for those who ask for ranges
        names = {bool: "True or False", int: "a whole number", float: "a number"}
        raise SettingsError(f"{option} {value!r}: must be {names[kind]}")
    return number


def as_text(value: object, option: str) -> str:
    """Return a value that is text.

    Raises
    ------
    SettingsError : it is none
    """
    value = plain(value)
    if not isinstance(value, str):
        raise SettingsError(f"{option} {value!r}: must be text")
    return value


def finite(value: object) -> object:
    """Return plain values for JSON, in which a number that is none is null."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _each_once(value: object, option: str, example: str, convert: Callable[[object], Value]) -> tuple[Value, ...]:
    if value is None:
        return ()
    values = tuple(_convert(part, option, value, example, convert) for part in _parts(value))
    if not values:
        raise SettingsError(f"{option} {_as_written(value)!r}: names none. Leave it out, or name some: {example}")
    twice = [one for number, one in enumerate(values) if one in values[:number]]
    if twice:
        raise SettingsError(f"{option} {_as_written(value)}: {twice[0]} stands there twice. Name each once")
    return values


def _parts(value: object) -> list[object]:
    """Split text at spaces and commas, take a list apart, and leave one value alone."""
    value = plain(value)
    if isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part]
    if isinstance(value, Iterable) and not isinstance(value, bytes | dict):
        return [part for one in map(plain, value) for part in (_parts(one) if isinstance(one, str) else [one])]
    return [value]


def _convert(part: object, option: str, value: object, example: str, convert: Callable[[object], Value]) -> Value:
    try:
        return convert(part)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"{option} {_as_written(value)}: {example}") from error


def _as_name(part: object) -> str:
    if isinstance(part, str):
        return part
    return str(_as_whole_number(part))


def _as_whole_number(part: object) -> int:
    if isinstance(part, bool):
        raise TypeError(part)
    number = int(part)  # type: ignore[call-overload]  # whatever else it is raises TypeError
    if not isinstance(part, str) and number != part:
        raise ValueError(part)
    return int(number)


def _as_number(part: object) -> float:
    if isinstance(part, bool):
        raise TypeError(part)
    return float(part)  # type: ignore[arg-type]  # as above


def _as_written(value: object) -> object:
    if isinstance(value, list | tuple | set):
        return " ".join(map(str, value))
    return value
