"""Dataclasses of options: each field states its option once, and commands, signatures and checks are made from it.

A field has the name of its option, or that name with a unit: `buffer_s` is `buffer` in Python, and `--buffer` typed.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, getdoc, signature
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from summer_prep.errors import SettingsError
from summer_prep.options import as_names, as_number, as_path, as_place, as_seconds, as_text, as_written, plain
from summer_prep.urls import Place, Url

Function = TypeVar("Function", bound=Callable[..., Any])

MOST = 2**63 - 1  # the greatest number of an option that names none


def option(
    default: Any,
    help_text: str,
    convert: Callable[[Any, str], Any] | None = None,
    *,
    least: float | None = None,
    most: float = MOST,
    above: float | None = None,
    name: str = "",
    several: str = "",
    off: str = "",
    prefix: str | tuple[()] = (),
    **typed: Any,
) -> Any:
    """Return a field of `Settings` that is an option.

    Parameters
    ----------
    default : a value, or a function that returns it
    convert : value as people write it, name of the option for errors -> value of the field; by default, by its type
    least, most, above : the numbers that are allowed: at least, at most, greater than; None always is
    name : of the option, where it is not the field's name without its unit
    several : of an option that takes a list, the name of one value in the help
    off : the flag that takes this flag back, if there is one
    prefix : of values that are allowed beside those that are chosen from, which only Python gives
    typed : further arguments of typer.Option
    """
    facts = {"help": help_text, "convert": convert, "name": name, "several": several, "off": off, "prefix": prefix}
    given: Any = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={**facts, "typed": typed, "least": least, "most": most, "above": above})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options as the library takes them, checked when they are made."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value, allowed = getattr(self, one.name), choices_among(one)
            least, most, above = one.metadata["least"], one.metadata["most"], one.metadata["above"]
            members = () if value is None else value if isinstance(value, tuple) else (value,)
            is_own = str(value).startswith(one.metadata["prefix"])
            if allowed and not is_own and not all(member in allowed for member in members):
                rule = f"choose one of {', '.join(allowed)}"
            elif least is not None and not all(least <= member <= most for member in members):
                is_bounded = most < MOST or any(member > most for member in members)
                rule = f"must lie between {least:g} and {most}" if is_bounded else f"must be {least:g} or more"
            elif above is not None and not all(above < member < float("inf") for member in members):
                rule = f"must be a number greater than {above:g}"
            else:
                continue
            raise SettingsError(f"{spelled(option_of(one))} {as_written(value)}: {rule}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return settings from options as people write them, without those of other kinds; raises SettingsError."""
        values = {}
        for name, one in options_of(cls).items():
            value, kind = plain(options.get(name)), kind_of(one)
            if value in (None, ()):
                continue
            if (convert := one.metadata["convert"]) is not None:
                values[one.name] = convert(value, spelled(name))
            elif one.metadata["several"]:
                values[one.name] = (as_seconds if kind is float else as_names)(value, spelled(name))
            elif kind in (bool, int, float):
                values[one.name] = as_number(value, kind, spelled(name))
            else:
                values[one.name] = {Path: as_path, Place: as_place}.get(kind, as_text)(value, spelled(name))
        return cls(**values)

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain values, for YAML, JSON and checkpoints."""
        return {
            name: str(value) if isinstance(value, Path | Url) else list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }


def option_of(one: "Field[Any]") -> str:
    """Return the name of a field's option in Python: the field's own without its unit."""
    return one.metadata["name"] or one.name.removesuffix("_ms").removesuffix("_s").removesuffix("_gb")


def spelled(name: str) -> str:
    """Return an option as on the command line."""
    return f"--{name.replace('_', '-')}"


def options_of(*kinds: type[Settings]) -> dict[str, "Field[Any]"]:
    """Return option -> field of some kinds of settings."""
    return {option_of(one): one for kind in kinds for one in fields(kind)}


def kind_of(one: "Field[Any]") -> Any:
    """Return the type of a field's values, or of the members of its list, other than None."""
    kinds = get_args(one.type)
    return kinds[0] if type(None) in kinds or get_origin(one.type) is tuple else one.type


def choices_among(one: "Field[Any]") -> tuple[str, ...]:
    """Return the values that a field, or each member of its list, is chosen from; empty if it is not chosen."""
    return get_args(kind_of(one)) if get_origin(kind_of(one)) is Literal else ()


def check_names(options: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raise SettingsError if an option is not known, and name those that are similar."""
    names = list(known)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=2) or names
            raise SettingsError(f"{where}no option {name!r}. Choose among {', '.join(near)}")


def python_parameter(name: str, one: "Field[Any]") -> Parameter:
    """Return an option as a parameter; its default is None where it is known only when the settings are made."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None if one.default is MISSING else one.default)


def accepts(
    *kinds: type[Settings],
    only: Sequence[str] = (),
    defaults: Mapping[str, Any] = {},
    as_parameter: Callable[[str, "Field[Any]"], Parameter] = python_parameter,
) -> Callable[[Function], Function]:
    """Say in a function's signature, and of a Python function in its docstring, which options its `**options` are.

    only : some of the options; all by default
    defaults : of options that have another one than their field
    as_parameter : name and field -> parameter, for a command line
    """

    def decorate(function: Function) -> Function:
        known = {name: one for name, one in options_of(*kinds).items() if not only or name in only}
        options = [as_parameter(name, one) for name, one in known.items()]
        options = [one.replace(default=defaults.get(one.name, one.default)) for one in options]
        own = [one for one in signature(function).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        options += [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own]
        function.__signature__ = signature(function).replace(parameters=options)  # type: ignore[attr-defined]
        if as_parameter is python_parameter:
            lines = [f"{name} : {one.metadata['help']}" for name, one in known.items()]
            function.__doc__ = "\n".join([getdoc(function) or "", "", "Options, as on the command line", "", *lines])
        return function

    return decorate
