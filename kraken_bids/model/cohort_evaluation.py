# SPDX-License-Identifier: MIT
"""Measured connectomes of a target against its predictions, in batches of participants.

Predictions that end in an inverse PCA are ``origin + weights @ components``. They are never made:
one product of the measured connectomes with the components serves the predictions from all
sources, and what is kept grows with n times the number of components. Other predictions are
computed again for each block of measured connectomes. Either way memory grows neither with
n times edges nor with sources times edges.

Measured on one core: 1000 participants of 96,141 edges and 256 components take 4 s, and each
source 0.1 s to 0.15 s more, about half of it for 1000 random orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .agreement import (
    COHORT,
    N_REFERENCES,
    ORIGIN,
    PREDICTED,
    TRAINING,
    Agreement,
    PairSums,
    References,
    Sums,
    compare,
)
from .identification import draw_orders
from .transforms import Transform

#: Values of a batch of connectomes: 64 MB in float32.
BATCH_VALUES = 16_000_000
#: Values converted to float64 at a time.
_EXACT_VALUES = 2_000_000

#: (start, stop) -> (stop - start, n_edges), rows of NaN for participants without the flavor.
ReadRange = Callable[[int, int], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class TargetSpace:
    """What is known of a target's predictions before they are made.

    Parameters
    ----------
    origin
        (n_edges,), the training mean, or zeros where the transform keeps none.
    components
        (n_components, n_edges) if predictions are ``origin + weights @ components``, else None.
    has_training_mean
        Whether `origin` is the training mean.
    """

    origin: NDArray[np.float32]
    components: NDArray[np.float32] | None
    has_training_mean: bool = True

    @classmethod
    def of(cls, transform: Transform, n_edges: int) -> TargetSpace:
        """Take the space of a flavor's transform."""
        mean = transform.training_mean
        origin = np.zeros(n_edges, np.float32) if mean is None else np.asarray(mean)
        return cls(origin, transform.parameters.get("components"), mean is not None)


def weights_of(transform: Transform, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of the components that a decoder's output stands for.

    Parameters
    ----------
    transform
        One with components.
    features
        (n, n_components), as `Krakencoder.decode` gives them with ``to_edges=False``.

    Returns
    -------
    NDArray
        (n, n_components): ``transform.inverse(features) == mean + weights @ components``.
    """
    n_components = features.shape[1]
    small: dict[str, NDArray[np.float32]] = {"components": np.eye(n_components, dtype=np.float32)}
    if "mean" in transform.parameters:
        small["mean"] = np.zeros(n_components, np.float32)
    plain = Transform(transform.kind, {**transform.parameters, **small})
    return np.asarray(plain.inverse(features), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class SourcePredictions:
    """Predictions of one target from one source.

    Parameters
    ----------
    source
        Flavor, fusion, or a fusion's variant.
    present
        (n,), which participants have one.
    weights
        (n, n_components) where the target's space has components, else None.
    rows
        Increasing positions -> (len(positions), n_edges); called only if there are no weights.
    """

    source: str
    present: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None
    rows: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None


@dataclass(frozen=True, eq=False)
class PairResult:
    """Agreement of one source and target.

    Parameters
    ----------
    source
        What was predicted from.
    rows
        (n,) positions of the participants compared.
    agreement
        All measures; None if nobody has both the measured and the predicted connectome.
    """

    source: str
    rows: NDArray[np.int64]
    agreement: Agreement | None


class TargetEvaluation:
    """One target: its measured connectomes are read here, twice, when it is made.

    Parameters
    ----------
    read
        Adapted connectomes without single missing edges.
    n
        Number of participants, with or without the flavor.
    space
        Where predictions lie.
    sources
        What the target is predicted from.

    Notes
    -----
    The cohort's mean is that of all participants with the measured flavor, whatever the source:
    residual correlations of different sources are free of the same mean.
    """

    def __init__(
        self,
        read: ReadRange,
        n: int,
        space: TargetSpace,
        sources: Sequence[SourcePredictions],
    ) -> None:
        self._read, self._space, self._sources = read, space, sources
        self._n, self._n_edges = n, len(space.origin)
        self.present = np.zeros(n, dtype=bool)
        mean = self._mean_deviation()
        vectors = np.zeros((N_REFERENCES, self._n_edges))
        vectors[ORIGIN], vectors[COHORT] = space.origin, mean
        self._vectors = vectors
        self._components = _Components.of(space.components, vectors)
        self._groups = {
            _key(mask): mask
            for mask in (self.present & source.present for source in sources)
        }  # fmt: skip
        self._sum_up()

    def _batches(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All measured connectomes minus the origin, some at a time."""
        size = max(1, BATCH_VALUES // self._n_edges)
        for start in range(0, self._n, size):
            yield start, self._read(start, min(start + size, self._n)) - self._space.origin

    def _mean_deviation(self) -> NDArray[np.float64]:
        """Find who has the flavor, and their mean deviation from the origin; NaN for nobody."""
        total = np.zeros(self._n_edges)
        for start, deviations in self._batches():
            present = ~np.isnan(deviations).any(axis=1)
            self.present[start : start + len(deviations)] = present
            total += deviations[present].sum(axis=0, dtype=np.float64)
        n_present = int(self.present.sum())
        return total / n_present if n_present else np.full(self._n_edges, math.nan)

    def _sum_up(self) -> None:
        """Reduce all measured connectomes to sums over edges."""
        self._totals, self._squares = np.full((2, self._n), math.nan)
        self._on = np.full((self._n, N_REFERENCES), math.nan)
        n_components = 0 if self._components is None else len(self._components.totals)
        self._projections = np.full((self._n, n_components), math.nan)
        masks = np.array(list(self._groups.values()), dtype=np.float64).reshape(-1, self._n)
        group_sums = np.zeros((len(masks), self._n_edges))
        for start, deviations in self._batches():
            rows = np.arange(start, start + len(deviations))
            if self._components is not None:
                # In the components' float32: half the memory of the largest array by far.
                self._projections[rows] = deviations @ self._components.rows.T
            sums = sum_rows(deviations, self._vectors)
            self._totals[rows], self._squares[rows], self._on[rows] = (
                sums.totals, sums.squares, sums.on,
            )  # fmt: skip
            absent = ~self.present[rows]
            if absent.any():
                deviations[absent] = 0  # NaN times the mask's zero would be NaN
            group_sums += masks[:, rows].astype(np.float32) @ deviations
        counts = np.maximum(masks.sum(axis=1), 1)
        squares = np.einsum("ij,ij->i", group_sums, group_sums) / counts**2
        self._mean_squares = dict(zip(self._groups, squares.tolist(), strict=True))

    def results(
        self,
        *,
        residual_mean: int = COHORT,
        n_permutations: int = 0,
        seed: int = 0,
    ) -> Iterator[PairResult]:
        """Compare with the predictions from each source.

        Parameters
        ----------
        residual_mean
            `COHORT`, or `TRAINING` where the space has a training mean.
        n_permutations, seed
            See `kraken_bids.model.identification.draw_orders`; 0 leaves out p values.

        Raises
        ------
        ValueError
            If there is no training mean to take away.
        """
        if residual_mean == TRAINING and not self._space.has_training_mean:
            raise ValueError("the target's transform keeps no training mean")
        orders: dict[int, NDArray[np.int32]] = {}
        for source in self._sources:
            both = self.present & source.present
            rows = np.flatnonzero(both)
            if not rows.size:
                yield PairResult(source.source, rows, None)
                continue
            if n_permutations and rows.size not in orders:
                orders = {rows.size: draw_orders(rows.size, n_permutations, seed=seed)}
            pair = self._pair(source, rows, self._mean_squares[_key(both)])
            agreement = compare(pair, residual_mean=residual_mean, orders=orders.get(rows.size))
            yield PairResult(source.source, rows, agreement)

    def _measured(self, rows: NDArray[np.int64], on_predicted: NDArray[np.float64]) -> Sums:
        on = self._on[rows]
        on[:, PREDICTED] = on_predicted
        return Sums(self._totals[rows], self._squares[rows], on)

    def _pair(
        self, source: SourcePredictions, rows: NDArray[np.int64], mean_square: float
    ) -> PairSums:
        """Make the sums of one source."""
        if self._components is not None and source.weights is not None:
            return self._pair_of_weights(source.weights[rows], rows, mean_square)
        return self._pair_of_edges(source, rows, mean_square)

    def _pair_of_weights(
        self, weights: NDArray[np.float32], rows: NDArray[np.int64], mean_square: float
    ) -> PairSums:
        """Sums of predictions that lie in the space of the components."""
        components, projections = self._components, self._projections[rows]
        assert components is not None  # noqa: S101
        exact = weights.astype(np.float64)
        mean = exact.mean(axis=0)
        mapped = exact @ components.gram
        on = exact @ components.on
        on[:, PREDICTED] = mapped @ mean
        predicted = Sums(exact @ components.totals, np.einsum("ij,ij->i", mapped, exact), on)
        return PairSums(
            measured=self._measured(rows, projections @ mean),
            predicted=predicted,
            own_products=np.einsum("ij,ij->i", projections, exact),
            products=lambda start, stop: projections[start:stop] @ exact.T,
            references=self._references(
                total=float(components.totals @ mean),
                on=components.on.T @ mean,
                square=float(mean @ components.gram @ mean),
            ),
            mean_square=mean_square,
        )

    def _references(self, *, total: float, on: NDArray[np.float64], square: float) -> References:
        """Sums of the reference vectors, the predictions' mean among them."""
        totals = self._vectors.sum(axis=1)
        products = self._vectors @ self._vectors.T
        totals[PREDICTED] = total
        products[PREDICTED, :], products[:, PREDICTED] = on, on
        products[PREDICTED, PREDICTED] = square
        return References(totals, products, self._n_edges)

    def _pair_of_edges(
        self, source: SourcePredictions, rows: NDArray[np.int64], mean_square: float
    ) -> PairSums:
        """Sums of predictions that are made edge by edge, once and again."""
        predict = source.rows
        if predict is None:
            raise ValueError(f"{source.source} has neither weights nor rows")
        size = max(1, BATCH_VALUES // (2 * self._n_edges))
        blocks = [slice(first, first + size) for first in range(0, len(rows), size)]

        def deviations(block: slice) -> NDArray[np.float32]:
            return predict(rows[block]) - self._space.origin

        vectors = self._vectors.copy()
        for block in blocks:
            vectors[PREDICTED] += deviations(block).sum(axis=0, dtype=np.float64) / len(rows)
        mean = vectors[PREDICTED]
        parts, own, on_mean = [], np.empty(len(rows)), np.empty(len(rows))
        for block in blocks:
            there = deviations(block)
            measured = self._rows(rows[block])
            parts.append(sum_rows(there, vectors))
            own[block] = _dot_rows(measured, there)
            on_mean[block] = _apply(measured, lambda part: part @ mean)
        predicted = Sums(
            *(np.concatenate([getattr(part, name) for part in parts])
              for name in ("totals", "squares", "on"))
        )  # fmt: skip

        def products(start: int, stop: int) -> NDArray[np.float64]:
            result = np.empty((stop - start, len(rows)))
            for first in range(start, stop, size):
                last = min(first + size, stop)
                measured = self._rows(rows[first:last])
                for block in blocks:
                    found = _multiply(measured, deviations(block))
                    result[first - start : last - start, block] = found
            return result

        return PairSums(
            measured=self._measured(rows, on_mean),
            predicted=predicted,
            own_products=own,
            products=products,
            references=self._references(
                total=float(mean.sum()), on=vectors @ mean, square=float(mean @ mean)
            ),
            mean_square=mean_square,
        )

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Measured deviations of participants at increasing positions."""
        first = int(rows[0])
        read = self._read(first, int(rows[-1]) + 1)
        return read[rows - first] - self._space.origin


@dataclass(frozen=True, eq=False)
class _Components:
    """Components of a space, and their products with each other and with reference vectors.

    Parameters
    ----------
    rows
        (n_components, n_edges), float32.
    gram
        (n_components, n_components).
    totals
        (n_components,).
    on
        (n_components, 4).
    """

    rows: NDArray[np.float32]
    gram: NDArray[np.float64]
    totals: NDArray[np.float64]
    on: NDArray[np.float64]

    @classmethod
    def of(
        cls, components: NDArray[np.float32] | None, vectors: NDArray[np.float64]
    ) -> _Components | None:
        if components is None:
            return None
        rows = np.ascontiguousarray(components)
        sums = sum_rows(rows, vectors)
        return cls(rows, (rows @ rows.T).astype(np.float64), sums.totals, sums.on)


def sum_rows(deviations: NDArray[np.float32], vectors: NDArray[np.float64]) -> Sums:
    """Sum (n, n_edges) over edges, in float64; `vectors` is (4, n_edges)."""
    sums = _apply(
        deviations,
        lambda part: np.column_stack([
            part.sum(axis=1),
            np.einsum("ij,ij->i", part, part),
            part @ vectors.T,
        ]),
    )
    return Sums(sums[:, 0], sums[:, 1], sums[:, 2:])


def _dot_rows(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products of matching rows, (n,), in float64."""
    step = max(1, _EXACT_VALUES // first.shape[1])
    parts = [
        np.einsum("ij,ij->i", first[at : at + step].astype(np.float64), second[at : at + step])
        for at in range(0, len(first), step)
    ]
    return np.concatenate(parts)


def _multiply(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products of all rows with all, (n, m), in float64: predictions all alike must be ties."""
    exact = second.astype(np.float64)
    return _apply(first, lambda part: part @ exact.T)


def _apply(
    rows: NDArray[np.float32], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Apply a function to rows in float64, a few rows at a time."""
    step = max(1, _EXACT_VALUES // rows.shape[1])
    parts = [
        function(rows[first : first + step].astype(np.float64))
        for first in range(0, len(rows), step)
    ]
    return np.concatenate(parts)


def _key(mask: NDArray[np.bool_]) -> bytes:
    return np.packbits(mask).tobytes()
