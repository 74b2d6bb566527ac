"""One space for patients that share no neuron but saw the same film: a shared response model, without labels.

minimise   sum_i |X_i - S W_i'|^2  with W_i'W_i = I          X_i (n_bins, n_units_i) of patient i, S (n_bins, n_shared)
given W    S = mean_i X_i W_i                                given S    W_i = U V', where X_i'S = U D V'

X_i are square roots of counts, of each unit centred and scaled by the bins that the maps W_i are found on. Both steps
need no more of X = [X_1 X_2 ...] than the products of its units X'X, so the bins are read once. Products are those of
torch, whose number of threads a run sets: NumPy takes all processors, also where a process of a study beside it works.

A patient with fewer units than n_shared counts as if it had silent ones beside them: it has no say in the directions
that its units can not span, and pulls the mean there towards 0.

The simpler space (cca:K) has no iterations: generalised canonical correlation of each patient's principal components,

maximise   sum_i r(X_i V_i, s)^2  of each column s of S, all uncorrelated       V_i: n_shared components of patient i

Source: deterministic shared response model (Chen et al., NeurIPS 2015; DetSRM of BrainIAK); MAXVAR (Kettenring 1971).
The square root, the start from principal components, the silent units and n_shared components are our decisions.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from summer_prep.film.splits import Indices
from summer_train.data.selection import Selection

Matrix = NDArray[np.floating[Any]]
_BINS_AT_ONCE = 4096
_MAX_ITERATIONS, _TOLERANCE = 100, 1e-6


class Units(NamedTuple):
    """What some bins show of units, (n_units,) each: the mean square root of counts, and 1 / SD of it, 0 if silent.

    products : (n_units, n_units) X'X of the bins, centred and scaled
    """

    mean: Matrix
    scale: Matrix
    products: Matrix


def units_of(selection: Selection, bins: Indices) -> Units:
    """Return the means, scales and products of a selection's units over some bins, a few thousand at a time."""
    total, products = np.zeros(selection.n_units), np.zeros((selection.n_units, selection.n_units))
    for start in range(0, len(bins), _BINS_AT_ONCE):
        roots = _roots(selection, bins[start : start + _BINS_AT_ONCE])
        total += roots.sum(axis=0, dtype=np.float64)
        products += _product(roots.T, roots)
    mean = total / len(bins)
    products -= len(bins) * np.outer(mean, mean)
    variance = np.diag(products) / len(bins)
    scale = np.where(variance > 1e-6, 1 / np.sqrt(variance.clip(min=1e-6)), 0)
    return Units(mean, scale, products * np.outer(scale, scale))


def shared_maps(
    products: Matrix, n_units: Sequence[int], n_shared: int, n_iterations: int = _MAX_ITERATIONS
) -> tuple[Matrix, list[float]]:
    """Return the maps of all patients, one below the other, and the objective after each iteration.

    Parameters
    ----------
    products : (n_units, n_units) X'X of all patients' units side by side
    n_units : of each patient
    n_shared : dimensions of the shared space
    n_iterations : at most; fewer where the objective falls by less than a millionth of the variance

    Returns
    -------
    maps (n_units, n_shared), and the objective, which never rises
    """
    bounds, total, objective = np.cumsum(n_units)[:-1], float(np.trace(products)), list[float]()
    # It starts from the principal components of all units: the same for the same data.
    with_shared = _product(products, _components(products, n_shared)[1])
    for _ in range(n_iterations):
        maps = np.vstack([nearest_map(part) for part in np.split(with_shared, bounds)])
        with_shared = _product(products, maps) / len(n_units)
        objective.append(total - float((maps * with_shared).sum()))
        if len(objective) > 1 and objective[-2] - objective[-1] < _TOLERANCE * total:
            break
    return maps, objective


def canonical_maps(products: Matrix, n_units: Sequence[int], n_shared: int) -> Matrix:
    """Return the maps of all patients to the dimensions that correlate most with all of them, (n_units, n_shared).

    Parameters
    ----------
    products, n_units, n_shared : as of `shared_maps`
    """
    parts = [slice(*pair) for pair in pairwise(np.cumsum([0, *n_units]))]
    of_patients = (torch.from_numpy(whitening(products[part, part], n_shared)) for part in parts)
    white = torch.block_diag(*of_patients).numpy()
    return _product(white, _components(_product(_product(white.T, products), white), n_shared)[1])


def whitening(products: Matrix, n_shared: int) -> Matrix:
    """Return what makes the first principal components of a patient's units, of equal size, (n_units, n_components)."""
    variance, components = _components(products, min(n_shared, len(products)))
    return np.asarray(components * np.where(variance > 1e-6 * variance[0], 1 / np.sqrt(variance.clip(min=1e-12)), 0))


def _components(products: Matrix, n: int) -> tuple[Matrix, Matrix]:
    """Return the n largest eigenvalues and eigenvectors, (n_units, n), with 0 where there are fewer units."""
    values, vectors = (one.numpy() for one in torch.linalg.eigh(torch.from_numpy(products)))
    n_missing = max(0, n - len(values))
    return np.pad(values[::-1][:n], (0, n_missing)), np.pad(vectors[:, ::-1][:, :n], ((0, 0), (0, n_missing)))


def nearest_map(with_shared: Matrix) -> Matrix:
    """Return the orthogonal map W of least |X - S W'|^2 (Procrustes), (n_units, n_shared), from X'S of that shape."""
    left, _, right = torch.linalg.svd(torch.from_numpy(with_shared), full_matrices=False)
    found: Matrix = (left @ right).numpy()
    return found


def mapped(selection: Selection, units: Units, maps: Matrix) -> NDArray[np.float32]:
    """Return X W of every bin, (n_bins, n_shared)."""
    found = np.empty((selection.n_bins, maps.shape[1]), dtype=np.float32)
    scaled = (units.scale[:, None] * maps).astype(np.float32)
    for start in range(0, selection.n_bins, _BINS_AT_ONCE):
        bins = np.arange(start, min(start + _BINS_AT_ONCE, selection.n_bins))
        found[bins] = _product(_roots(selection, bins), scaled)
    found -= (units.mean @ scaled).astype(np.float32)
    return found


class SharedSpace:
    """The shared space of a selection's patients, or of all but one, whose map is found on the space of the others.

    Attributes
    ----------
    others : (n_bins, n_shared) mean over the patients without the one that is left out; of mean 0, SD 1 in training

    Parameters
    ----------
    selection : of all patients
    space : shared:K or cca:K, with K dimensions
    left_out : a patient, or "none"
    train : the training bins, on which all maps are found
    """

    def __init__(self, selection: Selection, space: str, left_out: str, train: Indices) -> None:
        self._is_cca, n_shared = space.startswith("cca"), int(space.partition(":")[2])
        parts = list(zip(selection.patients, selection.columns, strict=True))
        of_others = [(one, columns) for one, columns in parts if len(columns) and one.patient_id != left_out]
        others = Selection(*map(list, zip(*of_others, strict=True)))
        units, n_units = units_of(others, train), [len(columns) for columns in others.columns]
        if self._is_cca:
            maps = canonical_maps(units.products, n_units, n_shared)
        else:
            maps, _ = shared_maps(units.products, n_units, n_shared)
        self.train, self._response = train, mapped(others, units, maps / len(of_others))
        self.others = standard(self._response, train)
        self._left_out = [Selection([one], [columns]) for one, columns in parts if one.patient_id == left_out]

    def left_out(self, chosen: NDArray[np.bool_] | slice = slice(None), shift: int = 0) -> NDArray[np.float32]:
        """Return the patient that is left out in the space of the others, (n_bins, n_shared).

        Its mean is 0 and its SD is 1 in the bins that its map is found on, from counts alone.

        Parameters
        ----------
        chosen : (n_train,) the training bins on which the map is found; all by default
        shift : training bins by which its recording is moved along the film in a circle, for a null of the alignment
        """
        (selection,) = self._left_out
        bins, paired = np.roll(self.train, shift)[chosen], self.train[chosen]
        units, with_shared = units_of(selection, bins), np.zeros((selection.n_units, self.others.shape[1]))
        for start in range(0, len(bins), _BINS_AT_ONCE):
            here = slice(start, start + _BINS_AT_ONCE)
            scaled = (_roots(selection, bins[here]) - units.mean) * units.scale
            with_shared += _product(scaled.T.astype(np.float32), self._response[paired[here]])
        if self._is_cca:  # what regression on its components gives, as for the others
            white = whitening(units.products, with_shared.shape[1])
            return standard(mapped(selection, units, white @ (white.T @ with_shared)), bins)
        return standard(mapped(selection, units, nearest_map(with_shared)), bins)


def standard(values: NDArray[np.float32], bins: Indices) -> NDArray[np.float32]:
    """Return values, (n_bins, n_shared), of mean 0 and SD 1 in some bins; a dimension that does not vary is 0."""
    sd = values[bins].std(axis=0, dtype=np.float64)
    scale = np.where(sd > 1e-6, 1 / sd.clip(min=1e-6), 0)
    return np.asarray((values - values[bins].mean(axis=0, dtype=np.float64)) * scale, dtype=np.float32)


def _roots(selection: Selection, bins: Indices) -> NDArray[np.float32]:
    """Return the square roots of the counts of some bins, (n_bins, n_units)."""
    counts = np.empty((len(bins), selection.n_units), dtype=np.float32)
    selection.read_rows(bins, counts)
    return np.asarray(np.sqrt(counts, out=counts))


def _product(left: Matrix, right: Matrix) -> Matrix:
    product: Matrix = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
    return product
