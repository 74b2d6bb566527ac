"""The splits against the published table and reference vectors, and their guarantees."""

import json
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from summer_prep.errors import SettingsError
from summer_prep.film.splits import blocked_split, cycles_of_share, fraction_split, random_split, window_of

CASES = json.loads((Path(__file__).parents[1] / "data" / "vectors" / "splits.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['n_samples']}-{c['buffer_s']}s-fold{c['fold']}")
def test_reference_split_is_reproduced(case):
    split = blocked_split(
        case["n_samples"], case["bin_length_ms"], case["buffer_s"], case["fold"], tuple(case["sequence_s"])
    )
    for part, indices in vars(split).items():
        assert indices.dtype == np.int64
        assert np.array_equal(indices, np.concatenate([np.arange(*bins) for bins in case[part]])), part


@pytest.mark.parametrize(
    ("buffer_s", "n_cycles"),
    [(4, 59), (8, 36), (12, 26), (16, 21), (20, 17), (24, 14), (28, 12), (32, 11), (36, 10), (40, 9), (44, 8)],
)
def test_film_length_session_has_the_published_number_of_cycles_and_five_different_folds(buffer_s, n_cycles):
    splits = [blocked_split(59_080, 80, buffer_s, fold) for fold in range(1, 6)]
    assert all((np.diff(split.val) > 1).sum() + 1 == n_cycles for split in splits)
    validated = np.concatenate([split.val for split in splits])  # on five different segments
    assert len(np.unique(validated)) == len(validated)
    assert all(np.array_equal(splits[fold].test, splits[fold - 1].val) for fold in range(5))


@given(
    n_samples=st.integers(10, 20_000),
    bin_length_ms=st.sampled_from([5, 40, 80, 200, 480, 1000, 2000]),
    buffer_s=st.floats(0, 40),
    fold=st.integers(1, 5),
    sequence_s=st.sampled_from([(0.0, 0.0), (0.0, 0.5), (2.52, 2.52), (3.0, 1.0)]),
    window_s=st.sampled_from([(0.0, 0.0), (0.5, 0.0), (2.52, 2.52), (0.0, 1.0), (-2.0, 4.0), (4.0, -2.0)]),
    target_offset=st.sampled_from([0, 1]),
)
def test_parts_are_disjoint_and_what_samples_touch_never_comes_within_the_buffer(
    n_samples, bin_length_ms, buffer_s, fold, sequence_s, window_s, target_offset
):
    try:
        window = window_of(window_s, bin_length_ms)
        split = blocked_split(n_samples, bin_length_ms, buffer_s, fold, sequence_s, window, target_offset=target_offset)
    except SettingsError:
        assume(False)
    part_of_sample = np.full(n_samples, -1)
    for number, indices in enumerate(vars(split).values()):
        assert len(indices)
        assert (np.diff(indices) > 0).all()
        assert (part_of_sample[indices] == -1).all()
        part_of_sample[indices] = number
    used = np.flatnonzero(part_of_sample >= 0)
    changes = np.flatnonzero(np.diff(part_of_sample[used]))
    # Bins from the end of one sample's own to the start of the other's, of which what they touch takes some.
    between = used[changes + 1] - used[changes] - 1
    touched = [*range(window.first, window.last + 1), 0, target_offset]
    assert ((between - max(touched) + min(touched)) * bin_length_ms / 1000 >= buffer_s - 1e-5).all()
    assert (between * bin_length_ms / 1000 - sum(sequence_s) >= buffer_s - 1e-5).all()


@pytest.mark.parametrize(("sequence_s", "gaps"), [((0.0, 0.0), [32, 33]), ((3.0, 1.0), [36, 36])])
def test_a_target_in_the_next_bin_lengthens_the_gap_only_where_the_sequence_does_not_cover_it(sequence_s, gaps):
    for target_offset, gap in enumerate(gaps):
        split = blocked_split(4725, 1000, 32, 2, sequence_s, target_offset=target_offset)
        assert split.val[0] - split.test[split.test < split.val[0]].max() - 1 == gap


@pytest.mark.parametrize(
    ("sequence_s", "window_s", "same_as_sequence_s"),
    [
        ((3.0, 1.0), (0.8, 0.72), (3.0, 1.0)),
        ((3.0, 1.0), (6, 2), (6.0, 2.0)),
        ((0, 0), (-8, 8), (0.0, 8.0)),
        # 2.52 s are 32 bins of 80 ms before and as many after, together one more than the bins of 5.04 s.
        ((0, 0), (2.52, 2.52), (0.0, 5.12)),
    ],
)
def test_the_gap_covers_the_longer_of_sequence_and_window(sequence_s, window_s, same_as_sequence_s):
    found = blocked_split(59_080, 80, 32, 2, sequence_s, window_of(window_s, 80))
    assert np.array_equal(found.train, blocked_split(59_080, 80, 32, 2, same_as_sequence_s).train)


@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_share_of_the_cycles_is_part_of_a_larger_one_and_never_none(seed):
    kept = [cycles_of_share(11, share, np.random.default_rng(seed)) for share in (0.001, 0.1, 0.25, 0.5, 0.9, 1)]
    assert list(map(len, kept)) == [1, 1, 3, 6, 10, 11]
    assert all(set(few) <= set(more) for few, more in pairwise(kept))
    assert all((np.diff(one) > 0).all() for one in kept)
    assert np.array_equal(kept[-1], np.arange(11))


@pytest.mark.parametrize(("fold", "sizes"), [(1, [602, 201, 200]), (5, [603, 200, 200])])
def test_random_split_gives_every_sample_to_one_part_and_repeats(fold, sizes):
    split, again = (list(vars(random_split(1003, fold, seed=7)).values()) for _ in range(2))
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(1003))
    assert list(map(len, split)) == sizes
    assert all(map(np.array_equal, split, again))
    assert np.array_equal(random_split(1003, 2, 7).test, random_split(1003, 1, 7).val)
    with pytest.raises(SettingsError, match="3 samples make no 5 parts"):
        random_split(3, 1, 0)


@pytest.mark.parametrize(("n_samples", "bin_length_ms", "refused_s"), [(2000, 80, 40), (4726, 1000, 950), (97, 480, 9)])
def test_buffer_that_leaves_no_segment_names_all_whole_seconds_that_fit(n_samples, bin_length_ms, refused_s):
    with pytest.raises(SettingsError, match=f"--buffer {refused_s} leaves no segment") as error:
        blocked_split(n_samples, bin_length_ms, refused_s, 1)
    ranges = re.search(r"buffers of (.*) s fit", str(error.value))[1].split(", ")
    edges = [[int(edge) for edge in one.split(" to ")] for one in ranges]
    named = {second for one in edges for second in range(one[0], one[-1] + 1)}
    fitting = set()
    for second in range(max(named) + 100):
        with suppress(SettingsError):
            blocked_split(n_samples, bin_length_ms, second, 1)
            fitting.add(second)
    assert named == fitting


def test_fraction_split_validates_on_the_last_part_and_what_makes_no_split_is_refused():
    for n_samples, fraction, n_val in ((100, 0.1, 10), (7, 0.01, 1), (2, 0.5, 1)):
        split = fraction_split(n_samples, fraction)
        assert np.array_equal(np.concatenate([split.train, split.val]), np.arange(n_samples))
        assert (len(split.val), len(split.test)) == (n_val, 0)
    for fold in (0, 6):
        with pytest.raises(SettingsError, match="must be 1, 2, 3, 4 or 5"):
            blocked_split(59_080, 80, 32, fold)
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="between 0 and 1"):
            fraction_split(100, fraction)
    with pytest.raises(SettingsError, match="leaves none of 1 samples"):
        fraction_split(1, 0.5)
