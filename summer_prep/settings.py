"""Dataclasses of options: each field states its option once, and commands, signatures and checks are made from it.

A field has the name of its option, or that name with a unit: `buffer_s` is `buffer` in Python, and `--buffer` typed.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from summer_prep.errors import SettingsError
from summer_prep.options import as_number, as_path, as_place, as_text, as_written, plain
from summer_prep.urls import Place, Url

Function = TypeVar("Function", bound=Callable[..., Any])
Convert = Callable[[Any, str], Any]
"""Takes a value as people write it and the option's name for errors, and returns the value of the field."""

Must = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words that follow "must", and whether it is."""

_UNITS = ("_ms", "_s", "_gb")

POSITIVE: Must = ("be a number greater than 0", lambda value: 0 < value < float("inf"))


def at_least(least: int) -> Must:
    """Return the rule for whole numbers with a smallest value."""
    return f"be {least} or more", lambda value: least <= value < 2**63


def option(
    default: Any,
    help_text: str,
    convert: Convert | None = None,
    *,
    must: Must | None = None,
    name: str = "",
    several: str = "",
    off: str = "",
    **typed: Any,
) -> Any:
    """Return a field of `Settings` that is an option.

    Parameters
    ----------
    default : a value, or a function that returns it
    convert : by default, the field's type says how a value is understood
    must : the values that are allowed; None always is
    name : where it is not the field's name without its unit
    several : of an option that takes a list, the name of one value in the help
    off : the flag that takes this flag back, if there is one
    typed : further arguments of typer.Option
    """
    facts = {"help": help_text, "convert": convert, "must": must, "name": name, "several": several, "off": off}
    given: Any = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={**facts, "typed": typed})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options as the library takes them, checked when they are made."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value, must = getattr(self, one.name), one.metadata["must"]
            for member in value if isinstance(value, tuple) else (value,):
                if (allowed := choices_among(one)) and member not in allowed:
                    raise SettingsError(f"{spelled(option_of(one))} {member}: choose one of {', '.join(allowed)}")
            if value is not None and must is not None and not must[1](value):
                raise SettingsError(f"{spelled(option_of(one))} {as_written(value)}: must {must[0]}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return settings from options as people write them; those of other kinds are left alone.

        Raises
        ------
        SettingsError : a value that an option cannot have
        """
        known = options_of(cls)
        given = {name: plain(value) for name, value in options.items() if name in known}
        return cls(
            **{known[name].name: _value(known[name], value) for name, value in given.items() if value not in (None, ())}
        )

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain values, for YAML, JSON and checkpoints."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: str(value) if isinstance(value, Path | Url) else list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def option_of(one: "Field[Any]") -> str:
    """Return the name of a field's option in Python: the field's own without its unit."""
    without_unit = (one.name.removesuffix(unit) for unit in _UNITS if one.name.endswith(unit))
    return one.metadata["name"] or next(without_unit, one.name)


def spelled(name: str) -> str:
    """Return an option as on the command line."""
    return f"--{name.replace('_', '-')}"


def options_of(*kinds: type[Settings]) -> dict[str, "Field[Any]"]:
    """Return option -> field of some kinds of settings."""
    return {option_of(one): one for kind in kinds for one in fields(kind)}


def default_of(one: "Field[Any]") -> Any:
    """Return the default of an option; None where it is known only when the settings are made."""
    return None if one.default is MISSING else one.default


def kind_of(one: "Field[Any]") -> Any:
    """Return the type of a field's values, other than None."""
    kinds = get_args(one.type)
    return kinds[0] if type(None) in kinds else one.type


def choices_among(one: "Field[Any]") -> tuple[str, ...]:
    """Return the values that a field, or each member of its list, is chosen from; empty if it is not chosen."""
    kind = get_args(one.type)[0] if get_origin(one.type) is tuple else one.type
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value(one: "Field[Any]", value: Any) -> Any:
    """Return the value of a field from an option as people write it."""
    kind, convert = kind_of(one), one.metadata["convert"]
    if convert is None and kind in (bool, int, float):
        return as_number(value, kind, spelled(option_of(one)))
    convert = convert or {Path: as_path, Place: as_place}.get(kind, as_text)
    return convert(value, spelled(option_of(one)))


def check_names(options: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Refuse options that have no effect.

    Raises
    ------
    SettingsError : an unknown option
    """
    names = list(known)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=2) or names
            raise SettingsError(f"{where}no option {name!r}. Choose among {', '.join(near)}")


def accepts(
    *kinds: type[Settings],
    only: Sequence[str] = (),
    defaults: Mapping[str, Any] = {},
    as_parameter: Callable[[str, "Field[Any]"], inspect.Parameter] | None = None,
) -> Callable[[Function], Function]:
    """Say in a function's signature which options its `**options` are.

    Parameters
    ----------
    only : some of the options; all by default
    defaults : of options that have another one than their field
    as_parameter : name and field -> parameter, for a command line; by default it is for `help`, which then says more
    """

    def decorate(function: Function) -> Function:
        known = {name: one for name, one in options_of(*kinds).items() if not only or name in only}
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        if as_parameter is not None:
            in_order = [*(as_parameter(name, one) for name, one in known.items()), *own]
        else:
            in_order = own + [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, default_of(one)))
                for name, one in known.items()
            ]
            lines = [f"{name} : {one.metadata['help']}" for name, one in known.items()]
            described = [inspect.getdoc(function) or "", "", "Options, as on the command line", "", *lines]
            function.__doc__ = "\n".join(described)
        function.__signature__ = inspect.Signature(in_order)  # type: ignore[attr-defined]
        return function

    return decorate
