"""What the benchmarks compare still trains."""

from pathlib import Path

import pytest

from summer_train import film_data


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on data loaders, which the published way does not take
def test_every_way_of_the_epoch_benchmark_trains(demo_cache, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from published import PUBLISHED, published_epochs
    from ways import WAYS, by_turns, ratio

    data = film_data(patient_ids=14, bin_length=1000, cache_dir=demo_cache, buffer=10)
    epochs_s = by_turns({**WAYS, PUBLISHED: published_epochs}, data, n_repeats=1)
    assert {name: len(times) for name, times in epochs_s.items()} == dict.fromkeys([*WAYS, PUBLISHED], 2)
    assert all(ratio(epochs_s, name, PUBLISHED) > 0 for name in WAYS)
