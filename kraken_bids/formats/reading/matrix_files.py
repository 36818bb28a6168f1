# SPDX-License-Identifier: MIT
"""Inputs of one file a participant: matrices read when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import n_edges, n_regions
from ...errors import InputError, KrakenBIDSError, Problems
from ..inputs import FlavorInput, ReadRows, Wanted
from .checks import check_rows, matrix_rows, name_some
from .regions import LabelledMatrix, atlas_of_flavor, order_regions

_log = logging.getLogger(__name__)

#: Problems of one kind told one by one; the rest are counted.
N_TOLD = 20


@dataclass(frozen=True, eq=False)
class MatrixFile:
    """Where one participant's matrix of one flavor lies.

    Parameters
    ----------
    participant
        Id without ``sub-``, with ``_ses-`` where there are sessions.
    where
        File, for messages.
    load
        Reads it; raises `InputError`.
    """

    participant: str
    where: str
    load: Callable[[], LabelledMatrix]


def open_matrices(
    files: Mapping[str, Sequence[MatrixFile]], *, where: str, wanted: Wanted
) -> dict[str, FlavorInput]:
    """Make inputs of matrices by flavor.

    A participant may lack any flavor. Flavors that are not wanted are left out, with a line in
    the log.

    Parameters
    ----------
    files
        By flavor, in the order of the rows to be.
    where
        File or folder that holds them all.
    wanted
        Flavors of the model; with a name, that flavor alone.

    Returns
    -------
    dict
        By flavor; may be empty.

    Raises
    ------
    InputError
        If a flavor has several files of one participant; `Problems` if there are more such.
    """
    left_out = [name for name in files if not is_wanted(name, wanted)]
    if left_out and not wanted.name:
        _log.info("%s: left out, the model lacks them: %s", where, name_some(left_out))
    inputs, problems = {}, []
    for name, matrices in files.items():
        if name in left_out or not matrices:
            continue
        problems += list(_duplicates(name, matrices))
        inputs[name] = _input(name, where, tuple(matrices), wanted)
    raise_together(problems)
    return inputs


def is_wanted(name: str, wanted: Wanted) -> bool:
    """Whether a flavor was asked for; any is, if the model's flavors are not known yet."""
    if wanted.name:
        return name == wanted.name
    return not wanted.n_edges or name in wanted.n_edges


def raise_together(problems: Sequence[KrakenBIDSError]) -> None:
    """Raise nothing, the one problem, or all of them.

    Raises
    ------
    KrakenBIDSError
        If there are any; `Problems` if there are several.
    """
    if len(problems) > N_TOLD:
        more = InputError(f"{len(problems) - N_TOLD} more problems of this kind")
        problems = [*problems[:N_TOLD], more]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems)


def _duplicates(name: str, matrices: Iterable[MatrixFile]) -> Iterable[InputError]:
    first: dict[str, str] = {}
    for matrix in matrices:
        if matrix.participant in first:
            yield InputError(
                f"participant {matrix.participant} has {name} twice: "
                f"{first[matrix.participant]} and {matrix.where}",
                where=matrix.where,
                fix="Leave one of them.",
            )
        first.setdefault(matrix.participant, matrix.where)


def _input(name: str, where: str, matrices: tuple[MatrixFile, ...], wanted: Wanted) -> FlavorInput:
    """Input of one flavor; its size is the model's, else that of the first matrix that is one."""
    size = wanted.n_edges.get(name)
    if size is None:
        size = _first_size(name, matrices)
    return FlavorInput(
        name=name,
        where=where,
        participants=tuple(matrix.participant for matrix in matrices),
        n=len(matrices),
        n_columns=size,
        read=_reader(name, matrices, size),
        files=tuple(matrix.where for matrix in matrices),
        read_square=lambda position: _checked(matrices[position], name, size)[0],
    )


def _first_size(name: str, matrices: Iterable[MatrixFile]) -> int:
    """Number of edges of the first matrix that can be read; the others are told when read."""
    problem: InputError | None = None
    for matrix in matrices:
        try:
            return n_edges(len(_ordered(matrix, name)[0]))
        except InputError as error:
            problem = problem or error
    raise problem or InputError(f"there is no matrix of {name}")


def _reader(name: str, matrices: tuple[MatrixFile, ...], n_columns: int) -> ReadRows:
    told: set[str] = set()

    def read(positions: Sequence[int]) -> NDArray[np.float32]:
        rows = np.empty((len(positions), n_columns), dtype=np.float32)
        problems: list[KrakenBIDSError] = []
        for row, position in enumerate(positions):
            matrix = matrices[position]
            try:
                rows[row], note = _row(matrix, name, n_columns)
            except InputError as problem:
                problems.append(problem)
                continue
            if note and note not in told:
                _log.warning("%s, participant %s: %s", name, matrix.participant, note)
                told.add(note)
        raise_together(problems)
        return rows

    return read


def _row(matrix: MatrixFile, name: str, n_columns: int) -> tuple[NDArray[np.float32], str]:
    """Edges of one participant: (n_columns,), and what the log should say."""
    _, rows, note = _checked(matrix, name, n_columns)
    return rows, note


def _checked(
    matrix: MatrixFile, name: str, n_columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], str]:
    """Matrix of one participant, its edges, and what the log should say."""
    values, note = _ordered(matrix, name)
    if n_edges(len(values)) != n_columns:
        size = n_regions(n_columns)
        raise InputError(
            f"the matrix of participant {matrix.participant} has {len(values)} regions, "
            f"{name} has {size}",
            where=matrix.where,
            fix=f"Give matrices of {size} regions, of this flavor's atlas.",
        )
    who = (matrix.participant,)
    rows = matrix_rows(values[np.newaxis], who, name=name, where=matrix.where)
    check_rows(rows, who, name=name, where=matrix.where)
    return values, rows[0], note


def _ordered(matrix: MatrixFile, name: str) -> tuple[NDArray[np.float64], str]:
    where = f"{name} of participant {matrix.participant}, {matrix.where}"
    return order_regions(matrix.load(), atlas=atlas_of_flavor(name), where=where)
