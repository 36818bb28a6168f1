# SPDX-License-Identifier: MIT
"""Regularised partial correlation (FCpcorr), and the search for its lambda.

Tikhonov regularisation: lambda times the mean of the diagonal is added to the diagonal before a
matrix is inverted. For correlations that mean is 1.

How to choose lambda. The published model's connectomes were made with 0.06 for fs86. For shen268
and coco439 the value is not published, but the mean unregularised precision matrices of the
training participants are (``kraken-model fetch regtarget-shen268`` and its like): lambda is then
what `search_lambda` finds for a cohort against them, one value for all its participants. It
depends on the number of volumes, hence is searched once for a study, not once a participant.
Without a target the mean unregularised precision of the cohort itself takes its place, which
makes sense only where there are far more volumes than regions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from ..errors import InputError, UsageError
from .spectra import DecomposedCohort, MatrixMean, decompose, in_order, no_matrix

#: Eigenvectors of a cohort beyond this size are kept in a temporary file.
SPOOL_BYTES = 256_000_000


def regularized_precision(
    correlations: NDArray[np.floating],
    lambda_: float,
    *,
    allow_indefinite: bool = False,
    where: str = "--lambda",
) -> NDArray[np.float64]:
    """Invert correlations or covariances with a ridge on their diagonal.

    Parameters
    ----------
    correlations
        (R, R) or (n, R, R), symmetric, finite. The lower triangle is read.
    lambda_
        Not negative; in units of the mean of the matrix's diagonal.
    allow_indefinite
        Whether a matrix that has negative eigenvalues even with the ridge is inverted
        nevertheless.
    where
        Told in errors: option, file or participant.

    Returns
    -------
    NDArray
        As `correlations`, exactly symmetric.

    Raises
    ------
    InputError
        If lambda is negative, or a matrix with its ridge is singular or has negative eigenvalues.

    Notes
    -----
    ``P = (C + lambda trace(C) / R I)^-1``, by Cholesky decomposition.
    """
    stack = np.asarray(correlations, dtype=np.float64)
    if stack.ndim == 2:
        return _invert(stack, lambda_, allow_indefinite=allow_indefinite, where=where)
    return np.stack([
        _invert(matrix, lambda_, allow_indefinite=allow_indefinite, where=f"{where}, matrix {row}")
        for row, matrix in enumerate(stack, start=1)
    ])


def _invert(
    matrix: NDArray[np.float64], lambda_: float, *, allow_indefinite: bool, where: str
) -> NDArray[np.float64]:
    """Invert one matrix with its ridge."""
    size = len(matrix)
    loaded = matrix.copy()
    loaded.flat[:: size + 1] += lambda_ * np.trace(matrix) / size
    if lambda_ < 0 or not np.isfinite(lambda_):
        raise _singular(size, lambda_, where)
    factor, failed = lapack.dpotrf(loaded, lower=1)
    if not failed:
        # The estimate in the 1-norm costs next to nothing; eigenvalues cost six inversions.
        reciprocal, _ = lapack.dpocon(factor, np.abs(loaded).sum(axis=0).max(), uplo="L")
        if reciprocal < size * np.finfo(float).eps:
            raise _singular(size, lambda_, where)
        lower = np.tril(lapack.dpotri(factor, lower=1)[0])
        return np.asarray(lower + np.tril(lower, -1).T)
    eigenvalues = np.abs(np.linalg.eigvalsh(loaded))
    is_singular = eigenvalues.min() < size * np.finfo(float).eps * max(eigenvalues.max(), 1.0)
    if is_singular or not allow_indefinite:
        raise _singular(size, lambda_, where)
    inverse = np.linalg.inv(loaded)
    return np.asarray((inverse + inverse.T) / 2)  # symmetric up to rounding only


def _singular(size: int, lambda_: float, where: str) -> InputError:
    return InputError(
        f"the correlation of {size} regions cannot be inverted with lambda {lambda_:g}",
        where=where,
        fix="Give a larger lambda; 0.06 is the published model's.",
    )


def partial_correlation(precision: NDArray[np.floating]) -> NDArray[np.float64]:
    """Turn precision matrices into partial correlations.

    Parameters
    ----------
    precision
        (..., R, R), symmetric.

    Returns
    -------
    NDArray
        (..., R, R), symmetric, diagonal 0.

    Notes
    -----
    ``pcorr_ij = -P_ij / sqrt(|P_ii| |P_jj|)``.

    Examples
    --------
    >>> partial_correlation(np.array([[2.0, -1.0], [-1.0, 2.0]])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    precision = np.asarray(precision, dtype=np.float64)
    scale = np.sqrt(np.abs(np.diagonal(precision, axis1=-2, axis2=-1)))
    partial = -precision / (scale[..., :, np.newaxis] * scale[..., np.newaxis, :])
    rows = np.arange(precision.shape[-1])
    partial[..., rows, rows] = 0.0
    return np.asarray(partial)


@dataclass(frozen=True)
class LambdaSearch:
    """What a search for lambda found.

    Parameters
    ----------
    lambda_
        Lambda to use: `raw`, rounded if that was asked for.
    raw
        Lambda with the smallest error of those tried.
    tried, errors
        (n,) in increasing order of lambda; the mean over matrices of the distance to the target.
        A lambda that two loops tried comes twice.
    target
        (R, R), the precision that was searched for.
    n_matrices
        Number of matrices searched on.
    smallest_eigenvalue
        Of all matrices, as a share of the mean of the diagonal.
    """

    lambda_: float
    raw: float
    tried: NDArray[np.float64] = field(repr=False)
    errors: NDArray[np.float64] = field(repr=False)
    target: NDArray[np.float64] = field(repr=False)
    n_matrices: int
    smallest_eigenvalue: float

    @property
    def error(self) -> float:
        """Smallest error."""
        return float(self.errors.min())


def search_lambda(
    correlations: Iterable[NDArray[np.floating]],
    target: NDArray[np.floating] | None = None,
    *,
    grid_size: int = 10,
    n_loops: int = 3,
    bounds: tuple[float, float] = (0.0, 1.0),
    decimals: int | None = None,
    geometric: bool = False,
    n_threads: int = 1,
    spool_dir: str | None = None,
) -> LambdaSearch:
    """Find the lambda that brings a cohort's precision matrices nearest to a target.

    The matrices are read once, one at a time; each is decomposed once.

    Parameters
    ----------
    correlations
        (R, R) each, symmetric, finite: one a participant.
    target
        (R, R), a precision matrix; None for the mean unregularised precision of these matrices.
    grid_size, n_loops
        Number of lambdas that a loop tries, and of loops.
    bounds
        Smallest and largest lambda of the first loop.
    decimals
        Round the lambda found to so many decimals; None to use it as found.
    geometric
        Whether the mean that takes the place of a target is the geometric one.
    n_threads
        Threads for the decompositions. The BLAS should then be held to one thread itself.
    spool_dir
        Folder for the eigenvectors of cohorts beyond `SPOOL_BYTES`; that of temporary files if
        None.

    Raises
    ------
    UsageError
        If the grid has fewer than three points, or `bounds` are no interval above 0.
    InputError
        If there is no matrix, sizes differ, or a geometric mean meets a singular matrix.

    Notes
    -----
    For a matrix ``C = V diag(w) V'`` the candidate is ``P = V diag(d) V'`` with
    ``d_k = 1 / (max(w_k, 0) + lambda s)``, ``s = trace(C) / R``, and ``d_k = 0`` where the
    denominator is no larger than ``1e-6 s``. Its error is the norm of the strict upper triangle
    of ``P - T``; the errors of all matrices are averaged. Each loop tries points at equal
    distances; the next one goes from the left to the right neighbour of its best (from the lower
    bound, or to the upper one, if that is its first or last point). The result is the best of
    all points.

    After one decomposition every lambda costs R² operations:
    ``2 error² = |d|² - 2 d·q + |T|² - |V² d - diag(T)|²`` with ``q_k = v_k' T v_k`` and ``V²``
    squared by element.

    The reference program leaves ``s`` out here and has it in the final step, so that for matrices
    that are no correlations the lambda that it finds is not the one that it applies. Here ``s``
    is in both; for correlations ``s = 1`` and both programs agree.

    References
    ----------
    Jamison et al. (2025) Nature Methods; kjamison/krakencoder, ``regularize_fc_precision.py``,
    commit d8db718. With `decimals` 2 its results are had.
    """
    check_grid(grid_size, n_loops, bounds)
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=spool_dir) as stream:
        cohort = DecomposedCohort(stream)
        mean = MatrixMean(geometric=geometric)
        for spectrum in in_order(decompose, correlations, n_threads=n_threads):
            cohort.append(spectrum)
            if target is None:
                mean.add_inverse(spectrum)
        if not cohort.values:
            raise no_matrix()
        target = mean.result() if target is None else np.asarray(target, dtype=np.float64)
        cohort.set_target(target)
        tried, errors = _search_grid(cohort.errors, grid_size, n_loops, bounds)
    raw = float(tried[np.argmin(errors)])
    return LambdaSearch(
        lambda_=raw if decimals is None else round(raw, decimals),
        raw=raw,
        tried=tried,
        errors=errors,
        target=target,
        n_matrices=len(cohort.values),
        smallest_eigenvalue=cohort.smallest_eigenvalue,
    )


def check_grid(grid_size: int, n_loops: int, bounds: tuple[float, float]) -> None:
    """Refuse a grid that cannot be searched; parameters as for `search_lambda`.

    Raises
    ------
    UsageError
        If it has no loop, fewer than three points a loop, or no interval above 0.
    """
    low, high = bounds
    if grid_size < 3 or n_loops < 1:
        raise UsageError(
            f"a search in {n_loops} loops of {grid_size} lambdas cannot be done",
            fix="Give at least one loop and three lambdas.",
        )
    if not 0 <= low < high < np.inf:
        raise UsageError(
            f"lambda cannot be searched for from {low:g} to {high:g}",
            fix="Give a lower bound of at least 0 and a larger upper bound.",
        )


def _search_grid(
    errors_of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    grid_size: int,
    n_loops: int,
    bounds: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All lambdas tried and their errors, in increasing order of lambda."""
    low, high = bounds
    tried, errors = [], []
    for _ in range(n_loops):
        grid = np.linspace(low, high, grid_size)
        tried.append(grid)
        errors.append(errors_of(grid))
        best = int(np.argmin(errors[-1]))
        low = float(grid[best - 1]) if best > 0 else bounds[0]
        high = float(grid[best + 1]) if best < grid_size - 1 else bounds[1]
    order = np.argsort(np.concatenate(tried), kind="stable")
    return np.concatenate(tried)[order], np.concatenate(errors)[order]


def mean_precision(
    correlations: Iterable[NDArray[np.floating]], *, geometric: bool = False, n_threads: int = 1
) -> NDArray[np.float64]:
    """Mean of the unregularised precision matrices of a cohort: a target for `search_lambda`.

    Parameters
    ----------
    correlations
        (R, R) each, symmetric, finite.
    geometric
        Take ``expm(mean(logm(P)))`` instead of the arithmetic mean.
    n_threads
        Threads for the decompositions.

    Returns
    -------
    NDArray
        (R, R). Eigenvalues of the input up to ``1e-6 trace(C) / R``, negative ones included, are
        left out of the inverse.

    Raises
    ------
    InputError
        If there is no matrix, sizes differ, or a geometric mean meets a singular matrix.
    """
    mean = MatrixMean(geometric=geometric)
    for spectrum in in_order(decompose, correlations, n_threads=n_threads):
        mean.add_inverse(spectrum)
    return mean.result()
