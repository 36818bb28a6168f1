# SPDX-License-Identifier: MIT
"""How well predicted connectomes agree with measured ones, and tell participants apart.

Everything starts from one matrix of correlations, measured participants in rows and predicted
ones in columns. It comes from whole connectomes (`correlate_rows`), or, for cohorts whose
predictions do not fit into memory, from a few numbers a participant (`PredictionSpace`), exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .identification import Scan, draw_orders, identify, ranks

__all__ = [
    "EdgeSums",
    "Evaluation",
    "PredictionSpace",
    "correlate_rows",
    "evaluate",
    "evaluate_connectomes",
    "permutation_p_value",
    "ranks",
]


@dataclass(frozen=True)
class Evaluation:
    """Agreement of n predicted connectomes with the n measured ones.

    Parameters
    ----------
    n
        Participants (sessions) compared.
    correlation
        Mean Pearson correlation, over edges, of each measured connectome with its prediction.
    residual_correlation
        The same after taking the mean of the measured connectomes from both sides; NaN for n = 1.
    top1, top_n
        Share of measured connectomes whose own prediction correlates the most, or is among the
        `n_best` that do.
    average_rank
        ``1 - mean(rank) / n`` with rank 0 for the own prediction on top.
    p_permutation
        Chance of an average rank as high if predictions were dealt to participants at random;
        NaN for n = 1.
    n_best
        The N of `top_n`.
    """

    n: int
    correlation: float
    residual_correlation: float
    top1: float
    top_n: float
    average_rank: float
    p_permutation: float
    n_best: int = 2

    @property
    def top1_chance(self) -> float:
        """Expectation of `top1` for predictions dealt at random."""
        return 1 / self.n

    @property
    def top_n_chance(self) -> float:
        """Expectation of `top_n` for predictions dealt at random."""
        return min(1.0, self.n_best / self.n)

    @property
    def average_rank_chance(self) -> float:
        """Expectation of `average_rank` for predictions dealt at random: 1/2 + 1/(2n)."""
        return 0.5 + 0.5 / self.n


def correlate_rows(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Correlate every row of one array with every row of another.

    Parameters
    ----------
    first, second
        (n, n_edges) and (m, n_edges).

    Returns
    -------
    NDArray
        (n, m), Pearson correlations; NaN where a row is constant.
    """
    return _unit_rows(first) @ _unit_rows(second).T


def _unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Centre rows and scale them to length 1; constant ones become NaN."""
    centred = np.asarray(rows, dtype=np.float64)
    scale = np.abs(centred).max(axis=1, keepdims=True)
    centred = centred - centred.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # Rounding leaves a constant row not quite zero once its mean is taken away.
    length[length <= 1e-14 * scale * math.sqrt(rows.shape[1])] = np.nan
    return np.asarray(centred / length)


def evaluate(
    correlations: NDArray[np.floating],
    residual_correlations: NDArray[np.floating],
    *,
    n_best: int = 2,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Summarise how predictions agree with the connectomes that they predict.

    Parameters
    ----------
    correlations
        (n, n): measured connectomes in rows, predicted ones in columns, in the same order.
    residual_correlations
        (n,): each measured connectome with its own prediction, without the cohort's mean.
    n_best
        The N of ``top_n``.
    n_permutations, seed
        Random orders tried for the p value; up to seven participants all orders are.

    Returns
    -------
    Evaluation

    Notes
    -----
    As the reference program's ``top1acc``, ``topNacc``, ``avgrank`` and ``avgcorr``, save that
    ties count by their odds rather than as an unstable sort happens to leave them.
    """
    n = len(correlations)
    if correlations.shape != (n, n) or n == 0:
        raise ValueError(f"correlations of shape {correlations.shape} are not a square")
    found = identify(correlations, n_permutations=n_permutations, seed=seed)
    return Evaluation(
        n=n,
        correlation=float(found.own.mean()),
        residual_correlation=float(np.mean(residual_correlations)) if n > 1 else math.nan,
        top1=found.forward.share_within(1),
        top_n=found.forward.share_within(n_best),
        average_rank=found.forward.average_rank,
        p_permutation=found.p_permutation,
        n_best=n_best,
    )


def permutation_p_value(
    places: NDArray[np.floating], *, n_permutations: int = 10_000, seed: int = 0
) -> float:
    """Chance that predictions dealt at random rank as well as the right ones.

    Parameters
    ----------
    places
        (n, n), as `ranks` gives them.
    n_permutations, seed
        Random orders tried; up to `MAX_ENUMERATED` participants all orders are, once each.

    Returns
    -------
    float
        Share of orders, the right one among them, whose sum of places is as low; NaN for n = 1.
    """
    n = len(places)
    if n < 2:
        return math.nan
    scan = Scan(-np.diagonal(places), orders=draw_orders(n, n_permutations, seed=seed))
    scan.add(0, -np.asarray(places, np.float64))
    return scan.result().p_permutation


def evaluate_connectomes(
    measured: NDArray[np.floating],
    predicted: NDArray[np.floating],
    *,
    mean: NDArray[np.floating] | None = None,
    n_best: int = 2,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Compare whole connectomes.

    Parameters
    ----------
    measured, predicted
        (n, n_edges), the same participants in the same order.
    mean
        (n_edges,), what is taken from both sides for the residual correlation; the mean of
        `measured` if None.
    n_best, n_permutations, seed
        As for `evaluate`.

    Raises
    ------
    ModelError
        If the arrays differ in shape.
    """
    if measured.shape != predicted.shape:
        raise ModelError(
            f"{measured.shape} measured edges cannot be compared with {predicted.shape} predicted",
            fix="Give the same participants and the same flavor on both sides.",
        )
    centre = np.asarray(measured, dtype=np.float64).mean(axis=0) if mean is None else mean
    residual = np.einsum("ij,ij->i", _unit_rows(measured - centre), _unit_rows(predicted - centre))
    return evaluate(
        correlate_rows(measured, predicted),
        residual,
        n_best=n_best,
        n_permutations=n_permutations,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class EdgeSums:
    """What is kept of n connectomes instead of their edges.

    With ``d`` the connectome minus the space's origin:

    Parameters
    ----------
    projections
        (n, n_components): ``d`` on the space's components.
    totals, squares
        (n,): sum over edges of ``d``; of its squares.
    on_origin, on_mean
        (n,): ``d`` times the origin; ``d`` times the cohort's mean minus the origin.
    """

    projections: NDArray[np.float64]
    totals: NDArray[np.float64]
    squares: NDArray[np.float64]
    on_origin: NDArray[np.float64]
    on_mean: NDArray[np.float64]

    def as_array(self) -> NDArray[np.float64]:
        """(n, n_components + 4), one row a connectome."""
        sums = [self.totals, self.squares, self.on_origin, self.on_mean]
        return np.column_stack([self.projections, *sums])

    @classmethod
    def from_array(cls, array: NDArray[np.floating]) -> EdgeSums:
        """Read what `as_array` gave, batches of it stacked."""
        rows = np.asarray(array, np.float64)
        return cls(rows[:, :-4], *rows[:, -4:].T)


class PredictionSpace:
    """The affine space ``origin + weights @ components`` that predictions of a flavor lie in.

    Predictions that end in an inverse PCA lie in one. Every correlation between n predicted and n
    measured connectomes then follows, exactly, from `EdgeSums` of both: memory grows with n times
    the number of components, not with n times that of edges.

    Parameters
    ----------
    origin
        (n_edges,): the training mean.
    components
        (n_components, n_edges), linearly independent, not necessarily orthonormal.
    mean
        (n_edges,), mean of the measured connectomes, for residual correlations.
    """

    def __init__(
        self,
        origin: NDArray[np.floating],
        components: NDArray[np.floating],
        mean: NDArray[np.floating],
    ) -> None:
        self.origin = np.asarray(origin, np.float64)
        self.components = components
        self.centre = np.asarray(mean, np.float64) - self.origin

    def sum_up(self, connectomes: NDArray[np.floating]) -> EdgeSums:
        """Reduce connectomes (n, n_edges), measured or predicted."""
        deviations = np.asarray(connectomes, np.float64) - self.origin
        # In the components' float32: half the memory of the largest array by far.
        projections = deviations.astype(self.components.dtype) @ self.components.T
        return EdgeSums(
            projections=projections.astype(np.float64),
            totals=deviations.sum(axis=1),
            squares=np.einsum("ij,ij->i", deviations, deviations),
            on_origin=deviations @ self.origin,
            on_mean=deviations @ self.centre,
        )

    def explained(self, array: NDArray[np.floating]) -> NDArray[np.float64]:
        """Share of each connectome's deviation from the origin that lies in this space.

        Parameters
        ----------
        array
            (n, n_components + 4), see `EdgeSums.as_array`; rows of NaN give NaN.

        Returns
        -------
        NDArray
            (n,), 0 to 1.
        """
        sums = EdgeSums.from_array(array)
        weights = np.linalg.solve(self._gram(), sums.projections.T).T
        within = np.einsum("ij,ij->i", weights, sums.projections)
        return np.asarray(within / np.where(sums.squares > 0, sums.squares, np.nan))

    def correlate(
        self, measured: EdgeSums, predicted: EdgeSums
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Correlate measured connectomes (rows) with predicted ones (columns).

        Parameters
        ----------
        measured, predicted
            n and m connectomes; the predicted ones lie in this space.

        Returns
        -------
        correlations, residual_correlations
            (n, m) each: as `correlate_rows` would give them, as they are and after taking the
            mean from both sides.
        """
        common = measured.projections @ np.linalg.solve(self._gram(), predicted.projections.T)
        plain = _pearson(
            common + measured.on_origin[:, None] + predicted.on_origin + self.origin @ self.origin,
            *self._moments(measured),
            *self._moments(predicted),
            n_edges=len(self.origin),
        )
        residual = _pearson(
            common - measured.on_mean[:, None] - predicted.on_mean + self.centre @ self.centre,
            *self._residual_moments(measured),
            *self._residual_moments(predicted),
            n_edges=len(self.origin),
        )
        return plain, residual

    def _gram(self) -> NDArray[np.float64]:
        return (self.components @ self.components.T).astype(np.float64)

    def _moments(self, sums: EdgeSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums and sums of squares over edges."""
        squares = self.origin @ self.origin + 2 * sums.on_origin + sums.squares
        return self.origin.sum() + sums.totals, squares

    def _residual_moments(self, sums: EdgeSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums and sums of squares over edges, the mean taken away."""
        squares = sums.squares - 2 * sums.on_mean + self.centre @ self.centre
        return sums.totals - self.centre.sum(), squares


def _pearson(
    products: NDArray[np.float64],
    row_totals: NDArray[np.float64],
    row_squares: NDArray[np.float64],
    column_totals: NDArray[np.float64],
    column_squares: NDArray[np.float64],
    *,
    n_edges: int,
) -> NDArray[np.float64]:
    """Pearson correlations from sums over edges; NaN where a side is constant."""
    covariances = products - row_totals[:, None] * column_totals / n_edges
    row_variances = row_squares - row_totals**2 / n_edges
    column_variances = column_squares - column_totals**2 / n_edges
    # Below this share of the squares a variance is but rounding.
    row_variances[row_variances <= 1e-12 * row_squares] = np.nan
    column_variances[column_variances <= 1e-12 * column_squares] = np.nan
    return np.asarray(covariances / np.sqrt(row_variances[:, None] * column_variances))
