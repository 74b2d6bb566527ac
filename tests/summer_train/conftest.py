"""Test processes share the processors, so each computes on one thread."""

import pytest
import torch

import summer_train


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two threads in each of two processes wait for each other most of the time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def studied(demo_cache, tmp_path_factory):
    """A study of two labels, two buffers, two folds and three regions, with predictions and shifts."""
    folder = tmp_path_factory.mktemp("report") / "study"
    common = {"cache_dir": demo_cache, "data_dir": "none", "patient_ids": 14, "max_epochs": 2, "workers": 1}
    common |= {"output_dir": folder, "keep_predictions": True}
    summer_train.study(**common, label_name="summer,tom", fold="1-2", buffer="5,10", brain_regions="all;A", shifts=4)
    summer_train.study(**common, label_name="summer,tom", fold="1-2", split="random")
    summer_train.study(**common, task="next_bin", fold=1, buffer=10)
    return folder


@pytest.fixture
def options(demo_cache, tmp_path):
    """Makes the options of a small run on the shared cache."""
    common = {
        "cache_dir": demo_cache, "data_dir": tmp_path / "none", "output_dir": tmp_path / "logs",
        "patient_ids": ("14", "20"), "buffer": 10.0, "hidden_size": 8, "max_epochs": 2,
    }  # fmt: skip
    return lambda **changes: {**common, **changes}


@pytest.fixture
def places(options):
    """Where evaluating finds the data of such a run."""
    return {name: options()[name] for name in ("cache_dir", "data_dir")}


@pytest.fixture(scope="session")
def linear(demo_cache, tmp_path_factory):
    """A study of a label and of the folds of `studied` with another network, without predictions."""
    folder = tmp_path_factory.mktemp("linear") / "linear"
    summer_train.study(
        cache_dir=demo_cache, data_dir="none", patient_ids=14, max_epochs=2, workers=1, output_dir=folder,
        label_name="summer", fold="1-2", buffer="5,10", brain_regions="all;A", model="linear",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def reported(studied, linear, tmp_path_factory):
    """The table of a report of both, with its files: a Markdown page, figures, and page.html."""
    target = tmp_path_factory.mktemp("reported")
    return summer_train.report(studied, linear, output_dir=target, html=target / "page.html", published=True)
