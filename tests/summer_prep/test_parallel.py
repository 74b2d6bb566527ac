"""Tasks side by side: those whose process crashes are named, and what a worker sees is what its caller has."""

import os
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest

from summer_prep.parallel import local_pool, processes, run_tasks


def crash_if(is_bad, name):
    if is_bad:
        os._exit(3)
    return name.upper()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_tasks_that_crash_are_named_and_the_others_done(n_workers):
    results = {}
    tasks = {f"task{number}": (number % 5 == 2, f"task{number}") for number in range(12)}
    crashed = run_tasks(partial(processes, n_workers), crash_if, tasks, results.__setitem__)
    assert sorted(crashed) == ["task2", "task7"]
    assert results == {name: name.upper() for name in tasks if name not in crashed}


def test_results_are_taken_under_their_names_also_without_processes():
    results = {}
    assert run_tasks(nullcontext, crash_if, {name: (False, name) for name in "abc"}, results.__setitem__) == []
    assert results == {"a": "A", "b": "B", "c": "C"}


def test_workers_have_the_environment_and_folder_of_now(tmp_path, monkeypatch):
    """The process that they are forked from is older than both."""
    found = {}
    for folder in (tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SUMMER_TEST", folder.name)
        tasks = {"value": ("SUMMER_TEST",)}
        run_tasks(partial(processes, 1), os.getenv, tasks, found.__setitem__)
        run_tasks(partial(processes, 1), os.getcwd, {"folder": ()}, found.__setitem__)
        assert found == {"value": folder.name, "folder": str(folder)}


def test_a_script_from_standard_input_runs_its_tasks_in_its_own_process(monkeypatch):
    """Other processes would have to run it once more, and cannot."""
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__="<stdin>", __spec__=None))
    assert local_pool(2, ()) is nullcontext
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=__file__, __spec__=None))
    assert local_pool(2, ()) is not nullcontext
    assert local_pool(0, ()) is nullcontext
