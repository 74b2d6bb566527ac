"""The three label rules, by hand and against a plain loop."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from summer_prep.errors import RecordingError
from summer_prep.film.bins import BinGrid
from summer_prep.film.labels import align_labels


def rules(frames, grid, named=None):
    aligned = align_labels(np.array([frames], dtype=np.uint8), grid, named)
    return {rule: values[0].tolist() for rule, values in aligned.items()}


def test_one_frame_event_is_lost_by_first_and_kept_by_any():
    grid = BinGrid(first_frame=1, n_bins=2, frames_per_bin=2)
    assert rules([0, 0, 1, 0, 0], grid) == {"first": [0, 0], "any": [1, 0], "majority": [0, 0]}


@pytest.mark.parametrize(
    ("frames", "majority"),
    [([1, 0, 0], 0), ([0, 1, 1], 1), ([99, 99, 1], 99), ([0, 1, 99], 0), ([1, 0, 99], 1), ([99, 0, 1], 99)],
)
def test_majority_is_the_most_frequent_value_and_a_tie_goes_to_the_first_frame(frames, majority):
    assert rules(frames, BinGrid(first_frame=0, n_bins=1, frames_per_bin=3))["majority"] == [majority]


def test_any_keeps_undefined_where_no_frame_is_on():
    grid = BinGrid(first_frame=0, n_bins=3, frames_per_bin=2)
    assert rules([99, 0, 99, 1, 0, 99], grid)["any"] == [99, 1, 0]


def test_first_rule_follows_the_names_in_the_file():
    grid = BinGrid(first_frame=0, n_bins=2, frames_per_bin=2)
    assert rules([0, 1, 0, 0], grid, np.array([1, 2]))["first"] == [1, 0]


def test_parts_of_a_frame_share_its_label():
    grid = BinGrid(first_frame=1, n_bins=4, parts_per_frame=2)
    assert rules([0, 1, 0], grid) == {rule: [1, 1, 0, 0] for rule in ("first", "any", "majority")}


@given(
    hnp.arrays(np.uint8, (2, 40), elements=st.sampled_from([0, 1, 99])),
    st.integers(0, 5),
    st.integers(1, 7),
)
def test_rules_equal_a_plain_loop(indicators, first_frame, frames_per_bin):
    grid = BinGrid(first_frame=first_frame, n_bins=5, frames_per_bin=frames_per_bin)
    aligned = align_labels(indicators, grid)
    for row in range(2):
        for number in range(grid.n_bins):
            start = first_frame + number * frames_per_bin
            frames = indicators[row, start : start + frames_per_bin].tolist()
            (most, n_most), *others = Counter(frames).most_common()
            is_tie = bool(others) and others[0][1] == n_most
            assert aligned["first"][row, number] == frames[0]
            assert aligned["any"][row, number] == (1 if 1 in frames else frames[0])
            assert aligned["majority"][row, number] == (frames[0] if is_tie else most)


def test_annotation_shorter_than_the_film_is_refused():
    grid = BinGrid(first_frame=0, n_bins=3, frames_per_bin=2)
    with pytest.raises(RecordingError, match="bins of 80 ms reach film frame 5 .* covers frames 0 to 4"):
        align_labels(np.zeros((1, 5), dtype=np.uint8), grid)
