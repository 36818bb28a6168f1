# SPDX-License-Identifier: MIT
"""Decomposed matrices: what a search for lambda and means of precision matrices need of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Eigenvalues up to this share of the mean of the diagonal are not inverted without lambda. An
#: absolute number in the reference program, whose matrices have ones on the diagonal.
SMALLEST_EIGENVALUE = 1e-6
#: Below this share of its terms the closed form of the error has lost half of its digits.
CANCELLED = 1e-8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A symmetric matrix, decomposed.

    Parameters
    ----------
    values
        (R,) eigenvalues in increasing order.
    vectors
        (R, R), an eigenvector a column.
    scale
        Mean of the diagonal.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    scale: float

    def inverted(self, lambdas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Eigenvalues (R, n) of the precision for each lambda."""
        return inverted(self.values, self.scale, lambdas)


def inverted(
    values: NDArray[np.float64], scale: float, lambdas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Eigenvalues (R, n) of the precision for each lambda; 0 for those that are not inverted."""
    loaded = np.maximum(values, 0.0)[:, np.newaxis] + lambdas * scale
    is_large = loaded > SMALLEST_EIGENVALUE * scale
    return np.divide(1.0, loaded, out=np.zeros_like(loaded), where=is_large)


def decompose(matrix: NDArray[np.floating]) -> Spectrum:
    """Decompose a symmetric matrix (R, R)."""
    matrix = np.asarray(matrix, dtype=np.float64)
    values, vectors = np.linalg.eigh(matrix)
    return Spectrum(values, vectors, float(np.trace(matrix)) / len(matrix))


class MatrixMean:
    """Running mean of matrices: arithmetic, or ``expm(mean(logm(P)))`` of positive definite ones.

    Parameters
    ----------
    geometric
        Which of the two.
    """

    def __init__(self, *, geometric: bool = False) -> None:
        self._geometric = geometric
        self._total: NDArray[np.float64] = np.zeros(())
        self._count: NDArray[np.float64] = np.zeros(())
        self._n = 0

    def add(self, matrix: NDArray[np.floating]) -> None:
        """Add a matrix (R, R), NaN for missing regions.

        Raises
        ------
        InputError
            If sizes differ, or a geometric mean meets a matrix that is not positive definite or
            lacks regions.
        """
        value = np.asarray(matrix, dtype=np.float64)
        if self._geometric:
            if np.isnan(value).any():
                raise no_logarithm(self._n + 1, "lacks regions")
            w, V = np.linalg.eigh(value)
            if w[0] <= 0:
                raise no_logarithm(self._n + 1)
            value = (V * np.log(w)) @ V.T
        self._add(value)

    def add_inverse(self, spectrum: Spectrum) -> None:
        """Add the unregularised inverse of a decomposed matrix; raises as `add` does."""
        inverse = spectrum.inverted(np.zeros(1))[:, 0]
        if self._geometric and not inverse.all():
            raise no_logarithm(self._n + 1)
        diagonal = np.log(inverse) if self._geometric else inverse
        self._add((spectrum.vectors * diagonal) @ spectrum.vectors.T)

    def _add(self, value: NDArray[np.float64]) -> None:
        if self._n and self._total.shape != value.shape:
            raise other_size(self._n + 1, len(value), len(self._total))
        is_present = ~np.isnan(value)
        self._n += 1
        self._total = self._total + np.where(is_present, value, 0.0)
        self._count = self._count + is_present

    def result(self) -> NDArray[np.float64]:
        """Mean (R, R) of each value over the matrices that have it; NaN where none has.

        Raises
        ------
        InputError
            If no matrix was added.
        """
        if not self._n:
            raise no_matrix()
        mean = np.full(self._total.shape, np.nan)
        np.divide(self._total, self._count, out=mean, where=self._count > 0)
        if not self._geometric:
            return mean
        w, V = np.linalg.eigh(mean)
        return np.asarray((V * np.exp(w)) @ V.T)


def no_matrix() -> InputError:
    """Error of a mean of nothing."""
    return InputError(
        "there is no complete matrix", fix="Give at least one participant with all regions."
    )


def no_logarithm(number: int, why: str = "has eigenvalues of 0 or less") -> InputError:
    """Error of a geometric mean."""
    return InputError(
        f"matrix {number} {why}: there is no geometric mean",
        fix="Take the arithmetic mean, or leave participants with fewer volumes than regions out.",
    )


def other_size(number: int, size: int, first: int) -> InputError:
    """Error of matrices of several atlases."""
    return InputError(
        f"matrix {number} has {size} regions, the first one {first}",
        fix="Give matrices of one atlas.",
    )


class DecomposedCohort:
    """Decomposed matrices of a cohort, and their distance to a target.

    Parameters
    ----------
    stream
        Where the eigenvectors go, 8 R² bytes a matrix.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.values: list[NDArray[np.float64]] = []
        self.scales: list[float] = []

    def append(self, spectrum: Spectrum) -> None:
        """Keep one more."""
        if self.values and len(spectrum.values) != len(self.values[0]):
            number = len(self.values) + 1
            raise other_size(number, len(spectrum.values), len(self.values[0]))
        self.values.append(spectrum.values)
        self.scales.append(spectrum.scale)
        self._stream.write(np.ascontiguousarray(spectrum.vectors).tobytes())

    @property
    def smallest_eigenvalue(self) -> float:
        """Of all matrices, as a share of the mean of the diagonal."""
        pairs = zip(self.values, self.scales, strict=True)
        return min(float(values[0] / scale) for values, scale in pairs)

    def _vectors(self) -> Iterator[NDArray[np.float64]]:
        size = len(self.values[0])
        self._stream.seek(0)
        for _ in self.values:
            block = self._stream.read(8 * size * size)
            yield np.frombuffer(block, dtype=np.float64).reshape(size, size)

    def set_target(self, target: NDArray[np.float64]) -> None:
        """Keep of the target (R, R) what the errors need.

        Raises
        ------
        InputError
            If it has another size.
        """
        size = len(self.values[0])
        if target.shape != (size, size):
            raise InputError(
                f"the target has shape {target.shape}, the matrices have {size} regions",
                where="--target",
                fix="Give a target of the same atlas.",
            )
        self._target = (target + target.T) / 2
        self._products = [
            np.einsum("ik,ik->k", self._target @ vectors, vectors) for vectors in self._vectors()
        ]

    def errors(self, lambdas: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_lambdas,), mean distance to the target."""
        total = np.zeros(len(lambdas))
        parts = zip(self.values, self.scales, self._products, self._vectors(), strict=True)
        for values, scale, products, vectors in parts:
            diagonals = inverted(values, scale, lambdas)
            total += self._distances(diagonals, products, vectors)
        return total / len(self.values)

    def _distances(
        self,
        diagonals: NDArray[np.float64],
        products: NDArray[np.float64],
        vectors: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(n_lambdas,), distance of one matrix's upper triangle to the target's."""
        diagonal = np.diag(self._target)[:, np.newaxis]
        terms = (diagonals**2).sum(axis=0) + (self._target**2).sum()
        off_diagonal = (
            terms
            - 2 * products @ diagonals
            - ((vectors**2 @ diagonals - diagonal) ** 2).sum(axis=0)
        )
        squared = off_diagonal / 2
        for column in np.flatnonzero(squared < CANCELLED * terms):
            precision = (vectors * diagonals[:, column]) @ vectors.T
            difference = np.triu(precision - self._target, k=1)
            squared[column] = (difference**2).sum()
        return np.asarray(np.sqrt(squared))


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int
) -> Iterator[Result]:
    """Apply a function in threads; results come in the order of the items.

    No more than two items a thread are taken ahead, so that memory stays bounded.

    Parameters
    ----------
    function
        Should leave Python's lock alone for most of its time, as LAPACK does.
    items
        Read in the calling thread.
    n_threads
        1 does without threads.
    """
    if n_threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
