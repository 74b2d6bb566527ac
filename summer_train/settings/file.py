"""Settings from a file that a run wrote: what is given beside it goes first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from summer_prep.errors import SettingsError
from summer_prep.options import as_path, plain
from summer_train.settings.options import (
    PRESETS,
    STUDY_OPTIONS,
    Choice,
    Run,
    check_names,
    idle_options,
    options_of,
    with_preset,
)

_OF_THAT_RUN = ("preset", "resume", "verify")
"""What a run was told to do once; what a preset stands for is among the settings then."""

_SPLITS = (("val_fraction",), ("buffer", "fold", "split"))
"""Two ways to split: naming one of them leaves the other behind."""

SETTINGS = "hparams.yaml"
"""The file of settings in a run's folder."""

_MAX_BYTES = 1_000_000
_FLOATS = (float, float | None)

_SOURCES = (("nwb_path",), ("data_dir", "patient_ids"))
"""Two ways to name recordings."""


def with_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, and from the file named by `config` those that are not given.

    What the file says of another split, or of a network or task that is not trained, is left behind.

    Raises
    ------
    SettingsError : the file cannot be read, or holds what is no setting
    """
    options = {name: plain(value) for name, value in options.items()}
    config = options.pop("config", None)
    if config is None:
        return options
    stored, given = _read(as_path(config, "--config")), with_preset(options)
    if "nwb_path" in stored:
        stored.pop("patient_ids", None)  # that of the file, which goes first where patients are named
    for one, other in (_SPLITS, _SPLITS[::-1], _SOURCES, _SOURCES[::-1]):
        if any(given.get(name) is not None for name in one):
            stored = {name: value for name, value in stored.items() if name not in other}
    if stored.get("split") == "random" and any(given.get(name) is not None for name in ("buffer", "sequence")):
        del stored["split"]
    both = {**stored, **given}
    known = options_of(Choice)
    causes = {name: str(_only(both.get(name)) or known[name].default) for name in ("task", "model", "split")}
    idle = {name for names in idle_options(**causes).values() for name in names}
    return {
        **{name: value for name, value in stored.items() if name not in known or known[name].name not in idle},
        **given,
    }


def _only(value: Any) -> Any:
    """Return the one member of a list of a study; a list of several makes nothing idle."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def for_study(options: Mapping[str, Any], config: object) -> dict[str, Any]:
    """Return the options of a study with those of a run's file that a study has, too; its folder is its own."""
    known = {*options_of(Choice), *STUDY_OPTIONS} - {"output_dir"}
    both = with_config({**options, "config": config})
    return {name: value for name, value in both.items() if name in known or name in options}


def _read(path: Path) -> dict[str, Any]:
    """Return option -> value of a run's settings; those that are none are left out."""
    path = path / SETTINGS if path.is_dir() else path
    stored, known = _parsed(path, SETTINGS), options_of(Choice, Run)
    twice = [option for option, one in known.items() if option != one.name and {option, one.name} <= {*stored}]
    if twice:
        raise SettingsError(f"--config {path}: says {twice[0]} twice, with and without its unit. Leave one out")
    option_of_field = {one.name: option for option, one in known.items()}
    found = {option_of_field.get(name, name): value for name, value in stored.items() if value not in (None, [])}
    try:
        check_names(found, known)
    except SettingsError as error:
        raise SettingsError(f"--config {path}: {error}") from error
    found = {name: _number(value) if known[name].type in _FLOATS else value for name, value in found.items()}
    if str(found.get("preset", "none")) not in PRESETS:
        raise SettingsError(f"--config {path}: preset {found['preset']}: choose one of {', '.join(PRESETS)}")
    return {name: value for name, value in with_preset(found).items() if name not in _OF_THAT_RUN}


def _parsed(path: Path, usual: str) -> dict[str, Any]:
    """Return what a YAML file of moderate size says by name; nothing in it is run, and nothing is said by reference."""
    import yaml

    advice = f"Name the {usual} of a run"
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= _MAX_BYTES):
            raise SettingsError(f"--config {path}: is no file of settings, or a huge one. {advice}")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise SettingsError(f"--config {path}: holds references (*name). Write each value out")
        stored = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"--config {path}: cannot be read ({error.strerror}). {advice}, or its folder") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {path}: is no YAML of settings. {advice}") from error
    if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored):
        raise SettingsError(f"--config {path}: holds no settings by name. {advice}")
    return stored


def _number(value: Any) -> Any:
    """Return the number that a text is: YAML takes 1e-3 for one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
