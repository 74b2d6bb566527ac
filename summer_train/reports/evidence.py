"""What can be claimed of results: p corrected over rows, and gains over `time only` or another setting."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from summer_prep.film.responses import false_discovery_rates
from summer_train.reports.tables import varied_options
from summer_train.scores import claims, nulls


def against_null(models: pd.DataFrame, score: str) -> nulls.Comparison:
    """Return how the mean score of some models compares with that of their nulls."""
    return nulls.permutation_test(models[score].tolist(), [one.null.get(score, {}) for one in models["result"]])


def with_corrected_p(models: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `read_models` with p corrected over its rows, q, and the number of tests of each score.

    The columns are `p_<score>_corrected`, `q_<score>` and `n_<score>_tests`, the same in all folds and seeds of a
    result. Results are tested together that share half of their shifts, over the shifts that half of them have.
    """
    families: list[tuple[str, list[set[int]], list[tuple[pd.Index, nulls.Comparison]]]] = []
    for task, of_task in models.groupby("task"):
        for score in nulls.SCORES.get(str(task), ()):
            for _, group in of_task.groupby(["folder", *varied_options(of_task)], sort=False):
                compared = against_null(group, score)
                if np.isfinite(compared.p):
                    own = set[int]().union(*(one.null.get(score, {}) for one in group["result"]))
                    alike = [
                        family for family in families
                        if family[0] == score and 2 * len(own & family[1][0]) >= min(len(own), len(family[1][0]))
                    ]  # fmt: skip
                    if not alike:
                        families += (alike := [(score, [], [])])
                    alike[0][1].append(own)
                    alike[0][2].append((group.index, compared))
    models = models.copy()
    for score, shifts, family in families:
        tested = [compared for _, compared in family]
        usual = [one for one, n in Counter(chain(*shifts)).items() if 2 * n >= len(family)]
        by_shift = [dict(zip(one.shifts, one.null, strict=True)) for one in tested]
        null = np.array([[one.get(shift, np.nan) for shift in usual] for one in by_shift])
        p = claims.corrected_p(np.array([one.mean for one in tested]), null)
        q = false_discovery_rates(np.array([one.p for one in tested]))
        for (rows, _), *values in zip(family, p, q, strict=True):
            models.loc[rows, [f"p_{score}_corrected", f"q_{score}", f"n_{score}_tests"]] = *values, len(family)
    return models


def with_q(facts: Sequence[Mapping[str, dict[str, float]]]) -> None:
    """Add `q` to what `claims.gains` returned for several results, over all of them for each score."""
    for score in {name for one in facts for name in one}:
        tested = [one[score] for one in facts if score in one]
        for one, q in zip(tested, false_discovery_rates(np.array([one["p"] for one in tested])), strict=True):
            one["q"] = q
