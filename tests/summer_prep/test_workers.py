"""Workers that crash at once: told by name, whatever their number, and never an exception."""

import os

import pytest

from summer_prep.workers import run_in_workers


def crash_if(is_bad, name):
    if is_bad:
        os._exit(3)
    return name.upper()


@pytest.mark.parametrize("n_workers", [1, 2, 8])
def test_crashes_are_returned_by_name(n_workers):
    results = {}
    tasks = {f"task{number}": (True, f"task{number}") for number in range(12)}
    assert sorted(run_in_workers(crash_if, tasks, results.__setitem__, n_workers=n_workers)) == sorted(tasks)
    assert results == {}


def test_results_are_taken_under_their_names():
    results = {}
    tasks = {name: (False, name) for name in "abc"}
    assert run_in_workers(crash_if, tasks, results.__setitem__, n_workers=2) == []
    assert results == {"a": "A", "b": "B", "c": "C"}
