# SPDX-License-Identifier: MIT
"""All measures of how n predicted connectomes agree with the n measured, from sums over edges.

A connectome is kept as its deviation ``d`` from an origin (the training mean): the sum of ``d``
over edges, of its squares, and of its products with a few reference vectors and with each
connectome of the other side. Pearson correlations of connectomes shifted by any of the reference
vectors, and explained variance, follow exactly; edges are read in batches of participants and
forgotten. `kraken_bids.model.cohort_evaluation` makes the sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .identification import Identification, Scan, rows_per_block

#: Columns of `Sums.on` and of `References`: the origin itself; the cohort's mean, the training
#: mean, and the mean of the predictions, minus the origin.
ORIGIN, COHORT, TRAINING, PREDICTED = range(4)
N_REFERENCES = 4
#: Correlations worked on at a time: few enough to stay in a core's cache.
_CACHED_ENTRIES = 100_000
#: Below this share of the squares that it comes from, a variance is but rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class References:
    """Vectors that connectomes are shifted by, in sums over edges.

    Parameters
    ----------
    totals
        (4,), sum of each.
    products
        (4, 4), of each with each; NaN where there is no training mean.
    n_edges
        Length of the vectors.
    """

    totals: NDArray[np.float64]
    products: NDArray[np.float64]
    n_edges: int


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over edges of n deviations from the origin.

    Parameters
    ----------
    totals, squares
        (n,).
    on
        (n, 4), products with the reference vectors.
    """

    totals: NDArray[np.float64]
    squares: NDArray[np.float64]
    on: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairSums:
    """What is kept of the measured and predicted connectomes of one source and target.

    Parameters
    ----------
    measured, predicted
        Of the same n participants, in the same order.
    own_products
        (n,), products of measured and predicted deviations of the same participant.
    products
        (start, stop) -> (stop - start, n): those of measured ones with all predicted ones.
    references
        See there.
    mean_square
        Sum of the squares of the mean measured deviation of these n participants.
    """

    measured: Sums
    predicted: Sums
    own_products: NDArray[np.float64]
    products: Callable[[int, int], NDArray[np.float64]]
    references: References
    mean_square: float


@dataclass(frozen=True, eq=False)
class Agreement:
    """All measures of one source and target.

    Parameters
    ----------
    plain
        From correlations of connectomes as they are.
    residual
        From correlations once the cohort's (or the training) mean is taken from both sides.
    double_residual
        The same, the cohort's mean being taken from measured connectomes and their own mean
        from predicted ones.
    explained_variance
        ``1 - Σ_e var(x - p) / Σ_e var(x)``, variances over participants; NaN for n = 1. A bias
        that all participants share costs nothing.
    """

    plain: Identification
    residual: Identification
    double_residual: Identification
    explained_variance: float

    @property
    def n(self) -> int:
        """Number of participants compared."""
        return self.plain.n


@dataclass(frozen=True)
class _Shift:
    """Signed reference vectors that are added to measured and to predicted deviations."""

    measured: tuple[int, int]
    predicted: tuple[int, int]


def compare(
    sums: PairSums,
    *,
    residual_mean: int = COHORT,
    orders: NDArray[np.integer] | None = None,
) -> Agreement:
    """Take all measures.

    Parameters
    ----------
    sums
        Of one source and target.
    residual_mean
        `COHORT` or `TRAINING`: what residual correlations are free of.
    orders
        (n_orders, n), for the p value of plain correlations; None leaves it out.

    Returns
    -------
    Agreement
    """
    shifts = (
        _Shift((1, ORIGIN), (1, ORIGIN)),
        _Shift((-1, residual_mean), (-1, residual_mean)),
        _Shift((-1, COHORT), (-1, PREDICTED)),
    )
    n = len(sums.own_products)
    everyone = np.arange(n)
    scans = []
    for shift in shifts:
        own = _correlate(sums, shift, sums.own_products, everyone, everyone)
        scans.append(Scan(own, orders=orders if shift is shifts[0] else None))
    step = rows_per_block(n)
    for start in range(0, n, step):
        products = sums.products(start, min(start + step, n))
        small = max(1, _CACHED_ENTRIES // n)
        for first in range(0, len(products), small):
            part = products[first : first + small]
            rows = everyone[start + first : start + first + len(part), None]
            for shift, scan in zip(shifts, scans, strict=True):
                block = _correlate(sums, shift, part, rows, everyone[None, :])
                scan.add(start + first, block)
    plain, residual, double_residual = (scan.result() for scan in scans)
    return Agreement(plain, residual, double_residual, explained_variance(sums))


def _correlate(
    sums: PairSums,
    shift: _Shift,
    products: NDArray[np.float64],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Correlate measured `rows` with predicted `columns`, which are broadcast together."""
    references, n_edges = sums.references, sums.references.n_edges
    (sign, vector), (other_sign, other) = shift.measured, shift.predicted
    row_totals, row_variances = _moments(sums.measured, shift.measured, references)
    column_totals, column_variances = _moments(sums.predicted, shift.predicted, references)
    constant = sign * other_sign * references.products[vector, other]
    on_rows = other_sign * sums.measured.on[:, other] + constant
    on_columns = sign * sums.predicted.on[:, vector]
    # In place, for this is done for each pair of participants, source and target.
    result = products + on_rows[rows]
    result += on_columns[columns]
    result -= row_totals[rows] * (column_totals[columns] / n_edges)
    result /= np.sqrt(row_variances)[rows]
    result /= np.sqrt(column_variances)[columns]
    # Rounding may take a perfect correlation past 1.
    return np.asarray(np.clip(result, -1, 1, out=result))


def _moments(
    sums: Sums, shift: tuple[int, int], references: References
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over edges of shifted rows, and n_edges times their variances; NaN if constant."""
    sign, vector = shift
    length = references.products[vector, vector]
    totals = sums.totals + sign * references.totals[vector]
    squares = sums.squares + 2 * sign * sums.on[:, vector] + length
    variances = squares - totals**2 / references.n_edges
    variances[variances <= _ROUNDING * (sums.squares + length)] = np.nan
    return totals, variances


def explained_variance(sums: PairSums) -> float:
    """Share of the variance over participants, summed over edges, that predictions explain.

    Returns
    -------
    float
        ``1 - Σ_e var_s(x - p) / Σ_e var_s(x)``, at most 1, often below 0; NaN for n = 1.
    """
    n = len(sums.own_products)
    measured, predicted = sums.measured, sums.predicted
    total = measured.squares.sum() - n * sums.mean_square
    if n < 2 or total <= _ROUNDING * measured.squares.sum():
        return math.nan
    mean_product = measured.on[:, PREDICTED].mean()
    length = sums.references.products[PREDICTED, PREDICTED]
    left = (measured.squares - 2 * sums.own_products + predicted.squares).sum()
    left -= n * (sums.mean_square - 2 * mean_product + length)
    return float(1 - left / total)
