"""A call of the library leaves its caller's process as it was."""

import logging
import os
import random
import signal
import warnings

import lightning  # noqa: F401  # its import sets variables and logs
import matplotlib
import numpy as np
import pytest
import torch

import summer_prep
import summer_train
from summer_prep.film.facts import FILM_FRAMES


def state():
    """What of a process a call could change, by name."""
    loggers = {name: logging.getLogger(name) for name in ("root", "lightning.pytorch", "lightning.fabric", "hdmf")}
    return {
        **{f"environment {name}": value for name, value in os.environ.items()},
        **{f"logs {name}": (one.level, one.disabled, len(one.handlers)) for name, one in loggers.items()},
        **{f"signal {number}": signal.getsignal(number) for number in signal.valid_signals()},
        **{f"matplotlib {name}": repr(value) for name, value in matplotlib.rcParams.items() if name != "backend"},
        "matplotlib backend": matplotlib.get_backend(auto_select=False),
        "warnings": list(warnings.filters),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
        "random": (random.getstate(), repr(np.random.get_state()), bytes(torch.get_rng_state())),
        "folder": os.getcwd(),
        "umask": (mask := os.umask(0), os.umask(mask))[0],
    }


def train(demo_cache, tmp_path, **options):
    places = {"cache_dir": demo_cache, "data_dir": "none", "output_dir": tmp_path / "logs"}
    return summer_train.fit(**places, patient_ids=14, buffer=10, max_epochs=1, task="label", **options)


def study(demo_cache, tmp_path):
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "buffer": 10, "max_epochs": 1}
    return summer_train.study(**common, task="label", workers=1, output_dir=tmp_path / "study")


def evaluated(demo_cache, tmp_path):
    torch.set_num_threads(2)  # a number that evaluating would not choose
    run = train(demo_cache, tmp_path)
    return lambda: summer_train.evaluate(run.best_checkpoint)


def reported(demo_cache, tmp_path):
    done = study(demo_cache, tmp_path)
    return lambda: summer_train.report(done.folder)


def of_data(demo_cache, function):
    return lambda: function(summer_train.film_data(cache_dir=demo_cache, data_dir="none", patient_ids=14, buffer=10))


def of_network(demo_cache, tmp_path):
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(10, 2))
    return lambda: train(demo_cache, tmp_path, network=network)


def scored(data):
    return summer_train.score(data, {part: np.ones((data.n_samples[part], 10)) for part in ("val", "test")})


def of_target(folder, function):
    np.save(folder / "one.npy", np.zeros(FILM_FRAMES))
    if function is not summer_prep.add_target:
        summer_prep.add_target(folder / "one.npy", name="one", cache_dir=folder)
        return lambda: function(name="one", cache_dir=folder)
    return lambda: function(folder / "one.npy", name="one", cache_dir=folder)


def responded(folder, demo):
    summer_prep.build(data_dir=demo, cache_dir=folder, patient_ids=14, bin_length=20, workers=0)
    return lambda: summer_prep.responses("summer", cache_dir=folder, shifts=20)


CALLS = {
    "blocked_split": lambda *_: lambda: summer_prep.blocked_split(10_000, 80, 4, 1),
    "demo_data": lambda cache, folder, _: lambda: summer_prep.demo_data(folder, patients=1, units=3, minutes=2),
    "build": lambda _, folder, demo: (
        lambda: summer_prep.build(data_dir=demo, cache_dir=folder, patient_ids=14, bin_length=1000, workers=0)
    ),
    "build, 2 processes": lambda _, folder, demo: (
        lambda: summer_prep.build(data_dir=demo, cache_dir=folder, patient_ids=[14, 20], bin_length=1000, workers=2)
    ),
    "open_key": lambda cache, *_: lambda: summer_prep.open_key(cache, 14),
    "diff": lambda cache, *_: lambda: summer_prep.diff(cache / "sub-14", cache / "sub-20"),
    "export": lambda cache, folder, _: (
        lambda: summer_prep.export(14, folder / "tables", cache_dir=cache, bin_length=80)
    ),
    "responses": lambda _, folder, demo: responded(folder, demo),
    "add_target": lambda _, folder, __: of_target(folder, summer_prep.add_target),
    "targets": lambda _, folder, __: of_target(folder, summer_prep.targets),
    "remove_target": lambda _, folder, __: of_target(folder, summer_prep.remove_target),
    "folds": lambda cache, *_: of_data(cache, lambda data: summer_train.folds(data.selection, 10).get_n_splits()),
    "open_selection": lambda cache, *_: lambda: summer_train.open_selection(cache, 14).counts(),
    "film_data": lambda cache, *_: of_data(cache, lambda data: next(iter(data.train_dataloader()))),
    "decoder": lambda cache, *_: of_data(cache, summer_train.decoder),
    "fit": lambda cache, folder, _: lambda: train(cache, folder, shifts=2),
    "fit, own network": lambda cache, folder, _: of_network(cache, folder),
    "score": lambda cache, *_: of_data(cache, scored),
    "evaluate": lambda cache, folder, _: evaluated(cache, folder),
    "study": lambda cache, folder, _: lambda: study(cache, folder),
    "report": lambda cache, folder, _: reported(cache, folder),
}


def test_every_public_function_is_called():
    classes = {"Decoder", "LinearLabel", "LinearNextBin", "SummerError"}
    functions = {*summer_prep.__all__, *summer_train.__all__} - classes
    assert functions == {name.partition(",")[0] for name in CALLS}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_its_process_as_it_was(name, demo_cache, demo_dir, tmp_path):
    n_threads = torch.get_num_threads()
    try:
        call = CALLS[name](demo_cache, tmp_path, demo_dir)
        before = state()
        call()
        after = state()
    finally:
        torch.set_num_threads(n_threads)
    changed = {
        what: (before.get(what), after.get(what)) for what in {*before, *after} if before.get(what) != after.get(what)
    }
    assert changed == {}
