"""Studies on a real Dask cluster: the same table row by row, whatever becomes of workers."""

import os
import shutil
import signal
import time
from dataclasses import replace
from threading import Event, Thread

import h5py
import pytest

from summer_prep.cache.build import build
from summer_prep.errors import CacheError
from summer_train.settings.options import StudyRun, settings_from
from summer_train.studies import study as studies
from summer_train.studies.study import study
from tests.clusters import dask, processes_of
from tests.summer_train.test_study import scores_of, table

pytest.importorskip("distributed", reason="studies on a cluster need: pip install distributed dask-jobqueue")
pytestmark = pytest.mark.xdist_group("cluster")


def test_table_equals_the_local_one_also_when_workers_are_killed(demo_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(studies.Group, "stacks", lambda group: [group.models[n::3] for n in range(3)])
    choices = studies.study_choices({
        "label_name": "summer,tom,office", "fold": [1, 2], "patient_ids": [[14], [20]], "buffer": 10,
    })  # fmt: skip
    places = {"cache_dir": demo_cache, "data_dir": tmp_path / "none", "max_epochs": 2, "keep_predictions": True}
    here = settings_from(StudyRun, {**places, "output_dir": tmp_path / "here", "workers": 1, "shifts": 1})
    studies.run_study(studies.open_choices(choices, here), here)
    is_over, killed = Event(), []
    monkeypatch.chdir(tmp_path)  # workers are elsewhere
    with dask(tmp_path) as (address, (_, workers)):

        def kill_workers():
            while not is_over.is_set() and len(killed) < 3:
                for pid in processes_of(workers)[:1]:
                    if list((tmp_path / "there").glob("stacks/*.json")):  # the study is under way
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                time.sleep(0.05 if len(killed) < 1 else 0.7)

        thread = Thread(target=kill_workers)
        thread.start()
        try:
            there = settings_from(StudyRun, {**places, "output_dir": "there", "scheduler": address, "shifts": 1})
            result = studies.run_study(studies.open_choices(choices, there), there)
        finally:
            is_over.set()
            thread.join()
    assert killed
    assert result.n_trained == 24
    assert scores_of(table(tmp_path / "there")) == scores_of(table(tmp_path / "here"))
    for name in ("curves.csv", "shifts.csv"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()
    kept = {path.name for path in (tmp_path / "here" / "predictions").iterdir()}
    assert {path.name for path in (tmp_path / "there" / "predictions").iterdir()} == kept
    assert len(kept) == 12


def test_a_worker_that_outlives_a_study_trains_on_the_data_of_the_next(demo_dir, tmp_path):
    """The cache is rebuilt between two studies, from a recording with other spikes; the workers stay."""
    recordings, cache_dir = tmp_path / "nwb", tmp_path / "cache"
    (source,) = demo_dir.rglob("*sub-14*.nwb")
    copy = recordings / source.name
    recordings.mkdir()
    shutil.copy(source, copy)
    options = {"data_dir": recordings, "cache_dir": cache_dir, "label_name": "summer,tom", "buffer": 10}
    options |= {"patient_ids": 14, "max_epochs": 1, "bin_length": 1000}
    with dask(tmp_path, n_workers=1) as (address, _):
        build(data_dir=recordings, cache_dir=cache_dir, bin_length=1000, workers=0)
        before = study(**options, output_dir=tmp_path / "before", scheduler=address).rows
        with h5py.File(copy, "r+") as file:
            file["units/spike_times"][...] += 5000.0
        build(data_dir=recordings, cache_dir=cache_dir, bin_length=1000, workers=0)
        after = study(**options, output_dir=tmp_path / "after", scheduler=address).rows
    here = study(**options, output_dir=tmp_path / "here", workers=1).rows
    names = ("test_kappa", "test_loss", "data_digest")
    assert [[row[name] for name in names] for row in after] == [[row[name] for name in names] for row in here]
    assert before[0]["test_loss"] != after[0]["test_loss"]


def test_data_that_change_after_the_plan_are_refused(demo_cache, tmp_path):
    choices = studies.study_choices({"label_name": "summer", "patient_ids": 14, "buffer": 10})
    run = settings_from(StudyRun, {"cache_dir": demo_cache, "data_dir": tmp_path / "none", "output_dir": tmp_path})
    ((group,), _) = studies.plan_study(studies.open_choices(choices, run), run)
    with pytest.raises(CacheError, match="not those that the study was planned with"):
        studies.train_models(
            [one._replace(record=replace(one.record, data_digest="other")) for one in group.models], run
        )
