# SPDX-License-Identifier: MIT
"""Between a symmetric matrix and the vector of its edges.

Order: the upper triangle without the diagonal, row by row, as `numpy.triu_indices` gives it; the
order in which the Krakencoder was trained.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def n_edges(n_regions: int) -> int:
    """Number of edges of a matrix, ``R (R - 1) / 2``.

    Examples
    --------
    >>> n_edges(86)
    3655
    """
    return n_regions * (n_regions - 1) // 2


def n_regions(n_edges: int) -> int:
    """Number of regions of a vector of edges.

    Raises
    ------
    InputError
        If no symmetric matrix has so many edges.

    Examples
    --------
    >>> n_regions(96141)
    439
    """
    regions = (1 + math.isqrt(1 + 8 * n_edges)) // 2
    if n_edges < 1 or regions * (regions - 1) // 2 != n_edges:
        raise InputError(
            f"{n_edges} values are not the upper triangle of a square matrix",
            fix="Give matrices without their diagonal: R (R - 1) / 2 values for R regions.",
        )
    return regions


def matrix_to_edges(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Take the upper triangle, row by row, without the diagonal.

    Parameters
    ----------
    matrix
        (..., R, R); the lower triangle is not read.

    Returns
    -------
    NDArray
        (..., R (R - 1) / 2), of the matrix's type.
    """
    rows, columns = np.triu_indices(matrix.shape[-1], k=1)
    return matrix[..., rows, columns]


def edges_to_matrix(edges: NDArray[np.floating], *, diagonal: float = 0.0) -> NDArray[np.floating]:
    """Fill both triangles of symmetric matrices.

    Parameters
    ----------
    edges
        (..., R (R - 1) / 2).
    diagonal
        Value on the diagonal.

    Returns
    -------
    NDArray
        (..., R, R), of the edges' type.

    Raises
    ------
    InputError
        If the last axis is not that of an upper triangle.
    """
    size = n_regions(edges.shape[-1])
    rows, columns = np.triu_indices(size, k=1)
    matrix = np.full((*edges.shape[:-1], size, size), diagonal, dtype=edges.dtype)
    matrix[..., rows, columns] = edges
    matrix[..., columns, rows] = edges
    return matrix
