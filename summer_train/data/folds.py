"""Our folds for scikit-learn: a cross-validator for `cross_val_score`, `GridSearchCV`, `permutation_test_score`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.film.facts import DEFAULT_BUFFER_S, UNDEFINED
from summer_prep.film.splits import N_SEGMENTS, blocked_split, window_of
from summer_train.data.samples import reaches_only
from summer_train.data.selection import Selection

Indices = NDArray[np.int64]


class Folds:
    """The five folds of the blocked split of a selection's bins, as scikit-learn takes them.

        counts, summer = selection.counts(), selection.labels("summer")
        cross_val_score(LogisticRegression(), counts, summer, cv=summer_train.folds(selection))

    Each fold trains on its three training segments and tests on its test segment. The segment that validates in `fit`
    is left out, so that scores are of the same bins; so are bins whose window reaches a bin that was never seen, or
    beyond the film, and those where `y` is undefined.
    """

    def __init__(self, selection: Selection, buffer: float, sequence: tuple[float, float], window: tuple[float, float]):
        self.bin_length_ms, self.buffer_s, self.sequence_s = selection.bin_length_ms, buffer, sequence
        self.window = window_of(window, selection.bin_length_ms)
        is_seen = selection.recorded_share() > 0
        self.is_usable = reaches_only(is_seen, len(is_seen), self.window.touched(0))

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Indices, Indices]]:  # noqa: N803
        """Yield the training and the test bins of each fold.

        Parameters
        ----------
        X : (n_bins, ...) a row for each bin of the selection
        y : (n_bins,) labels (99 is undefined) or (n_bins, n_dimensions) features (NaN is undefined)

        Raises
        ------
        ValueError : X has another number of rows
        """
        if len(X) != len(usable := self.is_usable):
            raise ValueError(f"X has {len(X)} rows; a row for each of the selection's {len(usable)} bins is needed")
        if y is not None:
            y = np.asarray(y)
            wrong = np.isnan(y) if y.dtype.kind == "f" else y == UNDEFINED
            usable = usable & ~wrong.reshape(len(y), -1).any(axis=1)
        for fold in range(1, N_SEGMENTS + 1):
            split = blocked_split(len(usable), self.bin_length_ms, self.buffer_s, fold, self.sequence_s, self.window)
            yield split.train[usable[split.train]], split.test[usable[split.test]]

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: N803
        """Return 5."""
        return N_SEGMENTS


def folds(
    selection: Selection,
    buffer: float = DEFAULT_BUFFER_S,
    sequence: tuple[float, float] = (3.0, 1.0),
    window: tuple[float, float] = (0.0, 0.0),
) -> Folds:
    """Return the blocked folds of a selection as a cross-validator for scikit-learn.

    Parameters
    ----------
    selection : as of `open_selection`
    buffer : seconds between training and test
    sequence, window : past and future seconds, as of `fit`

    Raises
    ------
    SettingsError : `selection` is none, or the buffer leaves no segment
    """
    if not isinstance(selection, Selection):
        raise SettingsError(f"selection {selection!r:.60}: must come from summer_train.open_selection")
    return Folds(selection, buffer, sequence, window)
