"""What the shell offers after Tab: patients, bin lengths, labels and regions of the cache that the command names."""

import shlex
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from summer_prep.dataset import BRAIN_REGION_GROUPS
from summer_prep.errors import SummerError

_ALL_WORDS, _WORD_NUMBER, _ALL_TEXT = "COMP_WORDS", "COMP_CWORD", "_TYPER_COMPLETE_ARGS"


Completer = Callable[[typer.Context, str], list[str]]


def patients(context: typer.Context, incomplete: str) -> list[str]:
    """Return the patients in the cache."""
    return _offered(incomplete, _keys(context))


def bin_lengths(context: typer.Context, incomplete: str) -> list[str]:
    """Return the bin lengths (ms) in the cache."""
    lengths = {length for found in _keys(context).values() for length in found}
    return _offered(incomplete, map(str, sorted(lengths)))


def labels(context: typer.Context, incomplete: str) -> list[str]:
    """Return the labels of the film."""
    return _offered(incomplete, _of_descriptions(context, lambda attributes: attributes["label_names"]))


def regions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the brain regions of the units in the cache, and the groups of them."""
    found = _of_descriptions(context, lambda attributes: attributes["units"].get("brain_region", ()))
    return _offered(incomplete, sorted({*found, *BRAIN_REGION_GROUPS}) if found else [])


def _keys(context: typer.Context) -> dict[str, list[int]]:
    from summer_prep.key import cached_keys

    place = _place(context)
    return cached_keys(place) if isinstance(place, Path) else {}  # nobody waits for a bucket after Tab


def _place(context: typer.Context) -> Any:
    return context.params.get("cache_dir") or Path("data_cache")


def _of_descriptions(context: typer.Context, texts: Callable[[Mapping[str, Any]], Iterable[str]]) -> list[str]:
    """Return the texts of one key of each patient, none of them twice."""
    from summer_prep.key import describe, key_path

    found: dict[str, None] = {}
    for patient_id, lengths in _keys(context).items():
        with suppress(SummerError):
            found |= dict.fromkeys(texts(describe(key_path(_place(context), patient_id, lengths[-1])).attributes))
    return list(found)


def _offered(incomplete: str, values: Iterable[str]) -> list[str]:
    """Return what may follow; in a list of several, after its last comma or semicolon."""
    cut = max(incomplete.rfind(mark) for mark in ",;") + 1
    before, begun = incomplete[:cut], incomplete[cut:]
    there = before.replace(";", ",").split(",")
    return [
        f"{before}{value}"
        for value in values
        # A shell splits words at spaces, and shows them as they are.
        if value.startswith(begun) and value not in there and value.isprintable() and " " not in value
    ]


def folds(context: typer.Context, incomplete: str) -> list[str]:
    """Return the folds of the blocked split."""
    from summer_prep.splits import N_SEGMENTS  # which needs NumPy

    return _offered(incomplete, map(str, range(1, N_SEGMENTS + 1)))


def among(values: Iterable[object]) -> Completer:
    """Return what offers some values."""
    words = [str(value) for value in values]

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        return _offered(incomplete, words)

    return offer


def join_list_values(
    environment: MutableMapping[str, str],
    normalise: Callable[[Sequence[str]], list[str]],
    several: Mapping[str, set[str]],
) -> None:
    """Let typer see `--patient-ids 14 2` as the list that it is: of its values only the one that is begun."""
    if _ALL_WORDS in environment:
        words = _split(environment[_ALL_WORDS])
        counted = environment.get(_WORD_NUMBER, "")
        number = int(counted) if counted.isdecimal() else len(words)
        before, incomplete = words[1:number], words[number] if number < len(words) else ""
    elif _ALL_TEXT in environment:
        words = _split(environment[_ALL_TEXT])
        is_new = environment[_ALL_TEXT].endswith(" ") or len(words) < 2
        before, incomplete = (words[1:], "") if is_new else (words[1:-1], words[-1])
    else:
        return
    normal = normalise(before)
    command = next((word for word in normal if not word.startswith("-")), "")
    if len(normal) > 2 and normal[-2] in several.get(command, ()) and not incomplete.startswith("-"):
        normal = normal[:-1]
    if _ALL_WORDS in environment:
        environment[_ALL_WORDS] = shlex.join([words[0], *normal, incomplete])
        environment[_WORD_NUMBER] = str(len(normal) + 1)
    else:
        environment[_ALL_TEXT] = f"{shlex.join([words[0], *normal])} {incomplete and shlex.quote(incomplete)}"


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text) or [""]
    except ValueError:  # a quote that is not closed yet
        return text.split() or [""]
