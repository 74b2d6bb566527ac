"""Test processes share the processors, so each computes on one thread."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two threads in each of two processes wait for each other most of the time."""
    torch.set_num_threads(1)
