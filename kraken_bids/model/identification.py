# SPDX-License-Identifier: MIT
"""Who is told apart: places of own predictions, from correlations that come in blocks of rows.

The matrix of correlations of n measured with n predicted connectomes is never needed whole: what
counts are how many entries of a row, and of a column, exceed the one on the diagonal.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Correlations nearer than this are ties: products of float32 numbers say nothing of the
#: difference, and predictions that are all alike must not be told apart by rounding.
TIE = 1e-10
#: Cohorts up to this size are small enough to try every order of participants (7! = 5040).
MAX_ENUMERATED = 7
#: Entries of a block of correlations; 32 MB in float64.
BLOCK_ENTRIES = 4_000_000
#: Stands for NaN. Not minus infinity, whose distance to itself is NaN.
_LOWEST = -float(np.finfo(np.float64).max)
#: Entries looked up at a time when orders are tried.
_LOOK_UPS = 2_000_000


@dataclass(frozen=True, eq=False)
class Places:
    """Place of each participant's own entry among the n of its row, or of its column.

    Parameters
    ----------
    higher
        (n,), number of entries above the own one; NaN counts as lower than any number.
    equal
        (n,), number of entries like it, itself included.
    """

    higher: NDArray[np.int64]
    equal: NDArray[np.int64]

    @property
    def rank(self) -> NDArray[np.float64]:
        """(n,), 0 for the own entry on top; equal entries share the mean of their places."""
        return self.higher + (self.equal - 1) / 2

    def share_within(self, n_best: int) -> float:
        """Share of participants whose own entry is among the `n_best`; ties by their odds."""
        return float(np.clip((n_best - self.higher) / self.equal, 0, 1).mean())

    @property
    def average_rank(self) -> float:
        """``1 - mean(rank) / n``: 1 is perfect, 1/2 + 1/(2n) is chance."""
        return float(1 - self.rank.mean() / len(self.higher))


@dataclass(frozen=True, eq=False)
class Identification:
    """What a matrix of correlations, measured in rows and predicted in columns, says.

    Parameters
    ----------
    own
        (n,), correlation of each measured connectome with its own prediction.
    forward
        Places of the own predictions among all predictions, for each measured connectome.
    reverse
        Places of the own measured connectomes among all measured, for each prediction.
    best
        (n,), position of the prediction that correlates most with each measured connectome: the
        own one where it shares the top, else the first; -1 where all correlations are NaN.
    best_correlation
        (n,), its correlation.
    other
        Mean of the correlations with others' predictions; NaN for n = 1.
    other_upper
        The same over the matrix's upper triangle alone; NaN for n = 1.
    p_permutation
        Chance of a mean rank as low if predictions were dealt to participants at random; NaN for
        n = 1 or where it was not asked for.
    """

    own: NDArray[np.float64]
    forward: Places
    reverse: Places
    best: NDArray[np.int64]
    best_correlation: NDArray[np.float64]
    other: float
    other_upper: float
    p_permutation: float

    @property
    def n(self) -> int:
        """Number of participants."""
        return len(self.own)


class Scan:
    """Reads a matrix of correlations from top to bottom, a block of rows at a time.

    Parameters
    ----------
    own
        (n,), the matrix's diagonal. It stands for the blocks' own entries, which differ from it
        by rounding.
    orders
        See `draw_orders`; None leaves out the p value.

    Examples
    --------
    >>> scan = Scan(np.array([0.9, 0.4]))
    >>> scan.add(0, np.array([[0.9, 0.2], [0.5, 0.4]]))
    >>> scan.result().forward.rank.tolist()
    [0.0, 1.0]
    """

    def __init__(
        self, own: NDArray[np.floating], *, orders: NDArray[np.integer] | None = None
    ) -> None:
        n = len(own)
        self.own = np.asarray(own, np.float64)
        self._orders = orders if n > 1 else None
        self._levels = _low(self.own)
        self._higher, self._equal = np.zeros((2, n), np.int64), np.zeros((2, n), np.int64)
        self._best = np.full(n, -1, np.int64)
        self._best_correlation = np.full(n, math.nan)
        self._sum, self._sum_upper = 0.0, 0.0
        self._order_sums = np.zeros(0 if orders is None else len(orders))

    def add(self, start: int, block: NDArray[np.floating]) -> None:
        """Take rows `start` to ``start + len(block)``, (b, n)."""
        rows = np.arange(len(block))
        own = rows + start
        values = np.array(block, dtype=np.float64)
        values[rows, own] = self.own[own]
        self._sum += float(values.sum() - self.own[own].sum())
        self._sum_upper += sum(
            float(row[at + 1 :].sum()) for row, at in zip(values, own.tolist(), strict=True)
        )
        values = _low(values)
        for axis, levels in ((1, self._levels[own, None]), (0, self._levels[None, :])):
            higher = np.count_nonzero(values > levels + TIE, axis=axis)
            not_lower = np.count_nonzero(values >= levels - TIE, axis=axis)
            place = (0, own) if axis else (1, slice(None))
            self._higher[place] += higher
            self._equal[place] += not_lower - higher
        self._find_best(own, values)
        if self._orders is not None:
            self._add_orders(own, values)

    def _find_best(self, own: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Note the highest correlation of each row."""
        rows = np.arange(len(own))
        best = values.argmax(axis=1)
        best = np.where(values[rows, own] >= values[rows, best] - TIE, own, best)
        known = values[rows, best] > _LOWEST
        self._best[own] = np.where(known, best, -1)
        self._best_correlation[own] = np.where(known, values[rows, best], math.nan)

    def _add_orders(self, own: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add the places that each order would give these rows."""
        assert self._orders is not None  # noqa: S101
        places = ranks(values)
        rows = np.arange(len(own))
        step = max(1, _LOOK_UPS // len(rows))
        for first in range(0, len(self._orders), step):
            dealt = self._orders[first : first + step, own]
            self._order_sums[first : first + step] += places[rows, dealt].sum(axis=1)

    def result(self) -> Identification:
        """Say what all rows together give."""
        n = len(self.own)
        others = n * (n - 1)
        forward, reverse = (Places(self._higher[i], self._equal[i]) for i in (0, 1))
        return Identification(
            own=self.own,
            forward=forward,
            reverse=reverse,
            best=self._best,
            best_correlation=self._best_correlation,
            other=self._sum / others if others else math.nan,
            other_upper=2 * self._sum_upper / others if others else math.nan,
            p_permutation=self._p_value(float(forward.rank.sum())),
        )

    def _p_value(self, observed: float) -> float:
        """Share of orders that rank as well; the right one is among them."""
        if self._orders is None or not len(self._orders):
            return math.nan
        # Places are multiples of 1/2: their sums are exact, hence comparable.
        as_low = int((self._order_sums <= observed).sum())
        if len(self.own) <= MAX_ENUMERATED:
            return as_low / len(self._orders)
        return (1 + as_low) / (1 + len(self._orders))


def _low(correlations: NDArray[np.floating]) -> NDArray[np.float64]:
    """Put the lowest number where there is none."""
    missing = np.isnan(correlations)
    if not missing.any():
        return np.asarray(correlations, dtype=np.float64)
    return np.where(missing, _LOWEST, correlations)


def identify(
    correlations: NDArray[np.floating], *, n_permutations: int = 0, seed: int = 0
) -> Identification:
    """Read a whole matrix of correlations.

    Parameters
    ----------
    correlations
        (n, n): measured connectomes in rows, predicted ones in columns, in the same order.
    n_permutations, seed
        See `draw_orders`; 0 leaves out the p value.
    """
    n = len(correlations)
    orders = draw_orders(n, n_permutations, seed=seed) if n_permutations else None
    scan = Scan(np.diagonal(correlations), orders=orders)
    step = rows_per_block(n)
    for start in range(0, n, step):
        scan.add(start, correlations[start : start + step])
    return scan.result()


def rows_per_block(n: int) -> int:
    """How many rows of an (n, n) matrix make a block."""
    return max(1, BLOCK_ENTRIES // max(1, n))


def draw_orders(n: int, n_permutations: int, *, seed: int = 0) -> NDArray[np.int32]:
    """Draw the orders in which predictions are dealt to participants.

    Parameters
    ----------
    n
        Participants.
    n_permutations, seed
        Random orders; up to `MAX_ENUMERATED` participants all n! orders are given instead.

    Returns
    -------
    NDArray
        (n_orders, n).
    """
    if n <= MAX_ENUMERATED:
        return np.array(list(itertools.permutations(range(n))), dtype=np.int32)
    random = np.random.default_rng(seed)
    orders = np.empty((n_permutations, n), dtype=np.int32)
    for order in orders:
        order[:] = random.permutation(n)
    return orders


def ranks(correlations: NDArray[np.floating]) -> NDArray[np.float64]:
    """Place of every prediction in the order of its row, 0 for the highest correlation.

    Parameters
    ----------
    correlations
        (n_measured, n_predicted); NaN counts as lower than any number.

    Returns
    -------
    NDArray
        (n_measured, n_predicted); equal correlations share the mean of their places, so that
        predictions that are all alike score as chance, whatever their order.

    Examples
    --------
    >>> ranks(np.array([[0.1, 0.9, 0.1]])).tolist()
    [[1.5, 0.0, 1.5]]
    """
    values = -_low(correlations)
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    n = values.shape[1]
    position = np.broadcast_to(np.arange(n), values.shape)
    begins = np.ones(values.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] - ordered[:, :-1] > TIE
    ends = np.ones(values.shape, dtype=bool)
    ends[:, :-1] = begins[:, 1:]
    first = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, position, n - 1)[:, ::-1], axis=1)[:, ::-1]
    places = np.empty(values.shape, dtype=np.float64)
    np.put_along_axis(places, order, (first + last) / 2, axis=1)
    return places
