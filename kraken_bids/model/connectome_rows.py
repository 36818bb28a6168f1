# SPDX-License-Identifier: MIT
"""Connectomes as rows of edges: what can be encoded, and how many rows at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..connectome.edges import matrix_to_edges, n_regions
from ..errors import ModelError

#: Bytes of connectomes computed at a time: bounds the memory of what lies between input and
#: output. Blocks of this size are reused by the allocator; larger ones are fetched anew each time.
BATCH_BYTES = 24 << 20
#: Largest difference of a matrix from its transpose, as a share of its largest value.
ASYMMETRY = 1e-4


def batch_rows(n_edges: int) -> int:
    """Participants computed at a time: 16 to 1024."""
    return int(np.clip(BATCH_BYTES // (4 * n_edges), 16, 1024))


def to_rows(x: NDArray[np.float32], n_edges: int, *, where: str) -> NDArray[np.float32]:
    """Take the triangles of matrices (n, R, R); anything else comes back as it is.

    Raises
    ------
    ModelError
        If a matrix is not symmetric.
    """
    if x.ndim != 3 or x.shape[1] != x.shape[2] or x.shape[1] != n_regions(n_edges):
        return x
    for row, matrix in enumerate(x):
        difference = np.nanmax(np.abs(matrix - matrix.T), initial=0.0)
        if difference > ASYMMETRY * np.nanmax(np.abs(matrix), initial=0.0):
            raise ModelError(
                f"matrix {row} is not symmetric (difference {difference:.3g})",
                where=where,
                fix="Give full symmetric matrices; a triangle can be mirrored as A + A.T.",
            )
    return np.asarray(matrix_to_edges(x), dtype=np.float32)


def check_connectomes(
    x: NDArray[np.floating], *, n_edges: int, where: str, may_miss_edges: bool = False
) -> None:
    """Refuse an array of connectomes that cannot be encoded.

    Parameters
    ----------
    x
        (n, n_edges); rows that are NaN throughout are allowed.
    n_edges
        What the flavor has.
    where
        Flavor, for messages.
    may_miss_edges
        Whether single NaN are allowed, too.

    Raises
    ------
    ModelError
        If the shape is another, or single values are NaN or infinite.
    """
    if x.ndim != 2 or x.shape[1] != n_edges:
        raise ModelError(
            f"an array of shape {x.shape} was given, (participants, {n_edges}) is needed",
            where=where,
            fix="Give matrices of this flavor's atlas, or their triangles, a row a participant.",
        )
    bad = np.isinf(x) if may_miss_edges else ~np.isfinite(x)
    bad[np.isnan(x).all(axis=1)] = False
    rows = np.flatnonzero(bad.any(axis=1))
    if rows.size:
        raise ModelError(
            f"{int(bad.sum())} values are NaN or infinite, in rows {_some(rows)}",
            where=where,
            fix="Fill missing edges first (Krakencoder.adapt does), or make the whole row NaN.",
        )


def _some(rows: NDArray[np.integer]) -> str:
    text = ", ".join(str(row) for row in rows[:5])
    return f"{text} and {rows.size - 5} more" if rows.size > 5 else text
