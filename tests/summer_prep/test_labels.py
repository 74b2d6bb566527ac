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


@pytest.mark.parametrize(
    ("frames", "grid", "named", "expected"),
    [
        ([0, 0, 1, 0, 0], (1, 2, 2), None, {"first": [0, 0], "any": [1, 0], "majority": [0, 0]}),
        ([99, 0, 99, 1, 0, 99], (0, 3, 2), None, {"any": [99, 1, 0]}),
        ([0, 1, 0, 0], (0, 2, 2), [1, 2], {"first": [1, 0]}),
        ([0, 1, 0], (1, 4, 1, 2), None, {rule: [1, 1, 0, 0] for rule in ("first", "any", "majority")}),
        ([1, 0, 0, 0, 1, 1, 99, 99, 1], (0, 3, 3), None, {"majority": [0, 1, 99]}),
        ([0, 1, 99, 1, 0, 99, 99, 0, 1], (0, 3, 3), None, {"majority": [0, 1, 99]}),
    ],
    ids=[
        "an event of one frame is lost by first and kept by any", "any keeps undefined where no frame is on",
        "first follows the names in the file", "parts of a frame share its label",
        "majority is the most frequent value", "a tie goes to the first frame",
    ],
)  # fmt: skip
def test_hand_sized_case_is_reproduced(frames, grid, named, expected):
    first_frame, n_bins, frames_per_bin, *parts = grid
    bins = BinGrid(
        first_frame=first_frame, n_bins=n_bins, frames_per_bin=frames_per_bin, parts_per_frame=(*parts, 1)[0]
    )
    aligned = align_labels(np.array([frames], dtype=np.uint8), bins, None if named is None else np.array(named))
    assert {rule: aligned[rule][0].tolist() for rule in expected} == expected


@given(hnp.arrays(np.uint8, (2, 40), elements=st.sampled_from([0, 1, 99])), st.integers(0, 5), st.integers(1, 7))
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
