"""Settings from a file that a run wrote; options that are given beside it replace those of the file."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from summer_prep.errors import SettingsError
from summer_prep.options import as_path, check_once, number, plain
from summer_prep.settings import check_names, kind_of, options_of
from summer_train.settings.options import STUDY_OPTIONS, Choice, Run, idle_options, with_preset

SETTINGS = "hparams.yaml"  # the file of settings in a run's folder
_MAX_BYTES = 1_000_000
_ONCE = ("preset", "resume", "verify")  # what a run was asked to do once; its preset's options are in its file, too

_REPLACES = {
    "val_fraction": ("buffer", "fold", "split"), "buffer": ("val_fraction",), "fold": ("val_fraction",),
    "split": ("val_fraction",), "nwb_path": ("data_dir", "patient_ids"), "data_dir": ("nwb_path",),
    "patient_ids": ("nwb_path",),
}  # fmt: skip
"""Option that is given -> options of the file that it replaces: there are two ways to split, and to name recordings."""


def with_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, and from the file named by `config` those that are not given.

    Options of the file for another split, or for a network or task that is not trained, are left out. Raises
    SettingsError if the file cannot be read, or holds something other than settings.
    """
    options = {name: plain(value) for name, value in options.items()}
    config = options.pop("config", None)
    if config is None:
        return options
    stored, given = _read(as_path(config, "--config")), with_preset(options)
    named = [name for name, value in given.items() if value is not None]
    left_out = {other for name in named for other in _REPLACES.get(name, ())}
    if "nwb_path" in stored:
        left_out.add("patient_ids")  # the one of the file; patients that are named replace the file
    if stored.get("split") == "random" and {"buffer", "sequence"} & {*named}:
        left_out.add("split")
    stored = {name: value for name, value in stored.items() if name not in left_out}
    idle = idle_options({**stored, **given})
    return {**{name: value for name, value in stored.items() if name not in idle}, **given}


def for_study(options: Mapping[str, Any], config: object) -> dict[str, Any]:
    """Return the options of a study with those of a run's file that a study has, too; its folder is its own."""
    known = {*options_of(Choice), *STUDY_OPTIONS} - {"output_dir"}
    both = with_config({**options, "config": config})
    return {name: value for name, value in both.items() if name in known or name in options}


def _read(path: Path) -> dict[str, Any]:
    """Return option -> value of the settings in a YAML file of moderate size, in which nothing is run."""
    import yaml

    path = path / SETTINGS if path.is_dir() else path
    try:
        is_file = not path.exists() or (path.is_file() and path.stat().st_size <= _MAX_BYTES)
        stored = yaml.safe_load(path.read_text(encoding="utf-8")) if is_file else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        advice = f"Name the {SETTINGS} of a run, or its folder"
        raise SettingsError(f"--config {path}: cannot be read ({reason}). {advice}") from error
    if not isinstance(stored, dict):
        raise SettingsError(f"--config {path}: is not a file of settings by name. Name the {SETTINGS} of a run")
    known = options_of(Choice, Run)
    option_of_field = {one.name: name for name, one in known.items()}
    names = [option_of_field.get(name, str(name)) for name in stored]
    check_names(names, known, f"--config {path}: ")
    check_once(names, "--config", path)  # with and without its unit
    found = {name: value for name, value in zip(names, stored.values(), strict=True) if value not in (None, [])}
    for name, value in found.items():
        if isinstance(value, str) and kind_of(known[name]) is float:
            with suppress(ValueError):  # YAML takes 1e-3 for text
                found[name] = number(value, float)
    return {name: value for name, value in with_preset(found).items() if name not in _ONCE}
