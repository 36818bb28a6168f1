# SPDX-License-Identifier: MIT
"""What no reader lets pass: infinite values, constant matrices, and a triangle that would be lost.

Rows of NaN stand for participants that lack a flavor, single values of NaN for missing edges:
both pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import n_edges
from ...errors import InputError

#: Largest difference of a matrix from its transpose, as a share of its largest value beside the
#: diagonal: ten times the rounding of text with five digits.
ASYMMETRY = 1e-4
#: Participants named in a message.
N_NAMED = 5


def name_some(names: Sequence[object]) -> str:
    """List the first few names, and say how many more there are.

    Examples
    --------
    >>> name_some(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    text = ", ".join(str(name) for name in names[:N_NAMED])
    return f"{text} and {len(names) - N_NAMED} more" if len(names) > N_NAMED else text


def check_rows(
    rows: NDArray[np.float32], participants: Sequence[str], *, name: str, where: str
) -> None:
    """Refuse rows that are no connectome.

    Parameters
    ----------
    rows
        (n, n_edges), NaN where an edge is missing.
    participants
        (n,) ids, for messages.
    name
        Flavor, or name of latents.
    where
        File or folder.

    Raises
    ------
    InputError
        If a row holds infinite values, or the same value everywhere (such as zero); all
        participants concerned are told.
    """
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        return
    low, high = rows.min(axis=1), rows.max(axis=1)
    for row in np.flatnonzero(np.isnan(low)):  # NaN spreads: look again without
        values = rows[row][~np.isnan(rows[row])]
        if values.size:
            low[row], high[row] = values.min(), values.max()
    is_infinite = np.isinf(low) | np.isinf(high)
    infinite = [participants[row] for row in np.flatnonzero(is_infinite).tolist()]
    if infinite:
        raise InputError(
            f"participants {name_some(infinite)}: infinite values",
            where=f"{name} in {where}",
            fix="Make these connectomes again; a missing edge is written as NaN.",
        )
    constant = [
        participants[row]
        for row in np.flatnonzero(low == high).tolist()
        if np.count_nonzero(~np.isnan(rows[row])) > 1
    ]
    if constant:
        raise InputError(
            f"participants {name_some(constant)}: all edges have the same value",
            where=f"{name} in {where}",
            fix="Leave these participants out, or make their connectomes again.",
        )


#: States of a matrix that `compare_triangles` tells apart.
SYMMETRIC, ASYMMETRIC, UPPER_ONLY, LOWER_ONLY = range(4)
_TOLD = {
    ASYMMETRIC: "the matrix is not symmetric",
    UPPER_ONLY: "only the upper triangle is filled",
    LOWER_ONLY: "only the lower triangle is filled",
}


def matrix_rows(
    matrices: NDArray, participants: Sequence[str], *, name: str, where: str
) -> NDArray[np.float32]:
    """Take the edges of square matrices that are symmetric.

    Parameters
    ----------
    matrices
        (n, R, R); the diagonal is not read.
    participants
        (n,) ids, for messages.
    name
        Flavor.
    where
        File or folder.

    Returns
    -------
    NDArray
        (n, R (R - 1) / 2), float32, upper triangle row by row.

    Raises
    ------
    InputError
        If a matrix is not symmetric, or has one triangle only; all participants concerned are
        told.
    """
    rows, states = take_triangles(matrices)
    refuse_asymmetric(states, participants, name=name, where=where)
    return rows


def take_triangles(matrices: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Take the upper triangles of square matrices, and compare them with the lower ones.

    Parameters
    ----------
    matrices
        (n, R, R), in any memory order: a row of all matrices is taken at a time, so that the
        pieces stay in a processor's cache whichever axis varies fastest.

    Returns
    -------
    rows
        (n, R (R - 1) / 2), float32, row by row. Values beyond float32 become infinite.
    states
        (n,) of `SYMMETRIC`, `ASYMMETRIC`, `UPPER_ONLY`, `LOWER_ONLY`.
    """
    n, size = matrices.shape[0], matrices.shape[-1]
    rows = np.empty((n, n_edges(size)), dtype=np.float32)
    differs = np.zeros(n, dtype=bool)
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(size - 1):
            upper = matrices[:, row, row + 1 :]
            stop = start + size - 1 - row
            differs |= (upper != matrices[:, row + 1 :, row]).any(axis=1)
            rows[:, start:stop] = upper
            start = stop
    states = np.full(n, SYMMETRIC, dtype=np.int8)
    for index in np.flatnonzero(differs):  # NaN differs from itself, too
        states[index] = _compare(np.asarray(matrices[index], dtype=np.float64))
    return rows, states


def _compare(matrix: NDArray[np.float64]) -> int:
    """Compare the triangles of one matrix; a value beside NaN is a difference."""
    rows, columns = np.triu_indices(len(matrix), k=1)
    upper, lower = matrix[rows, columns], matrix[columns, rows]
    missing = np.isnan(upper), np.isnan(lower)
    has_upper = bool(np.any(upper[~missing[0]]))
    has_lower = bool(np.any(lower[~missing[1]]))
    if has_upper != has_lower:
        return UPPER_ONLY if has_upper else LOWER_ONLY
    if np.array_equal(*missing):
        present = ~missing[0]
        upper, lower = upper[present], lower[present]
        same = upper == lower  # infinite values, too: they are told by `check_rows`
        difference = np.abs(upper[~same] - lower[~same]).max(initial=0.0)
        if difference <= ASYMMETRY * max(
            np.abs(upper).max(initial=0.0), np.abs(lower).max(initial=0.0)
        ):
            return SYMMETRIC
    return ASYMMETRIC


def refuse_asymmetric(
    states: NDArray[np.int8], participants: Sequence[str], *, name: str, where: str
) -> None:
    """Raise for matrices that are not symmetric.

    Raises
    ------
    InputError
        If any is not; participants are told by what is wrong with them.
    """
    told = [
        f"participants {name_some([participants[row] for row in rows])}: {text}"
        for state, text in _TOLD.items()
        if (rows := np.flatnonzero(states == state).tolist())
    ]
    if told:
        raise InputError(
            "; ".join(told),
            where=f"{name} in {where}",
            fix="Give full symmetric matrices; a triangle can be mirrored as A + A.T.",
        )
