# SPDX-License-Identifier: MIT
"""Single matrices, and names of regions, in small MAT files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ResourceError
from .checks import name_some
from .fields import Field
from .matlab import read_fields
from .records import Stored

#: Fields that hold the matrix of a file, in the order in which they are looked for.
MATRIX_FIELDS = ("data", "C", "SC", "FC")
#: Most regions of a matrix that is read without knowing its atlas.
MAX_REGIONS = 4096


def square_size(field: Field, *, size: int, where: str) -> int:
    """Number of regions of a field that is one square matrix; it is not read.

    Parameters
    ----------
    field
        As `read_fields` gives it.
    size
        Number of regions of the atlas, which must not be exceeded; 0 if it is not known.
    where
        File, for messages.

    Raises
    ------
    InputError
        If it is no such matrix.
    """
    shape = field.shape if isinstance(field, Stored) else ()
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] > (size or MAX_REGIONS):
        what = f"values of shape {shape}" if shape else str(field)[:80]
        regions = f"{size} regions" if size else f"at most {MAX_REGIONS} regions"
        raise InputError(
            f"holds {what}, not a square matrix of {regions}",
            where=where,
            fix="Give one matrix a participant, of this flavor's atlas.",
        )
    return int(shape[0])


def read_square(field: Field, *, size: int, where: str) -> NDArray[np.float64]:
    """Read a field that is one square matrix, as `square_size` allows it."""
    square_size(field, size=size, where=where)
    try:
        return np.asarray(field.load(), dtype=np.float64)
    except InputError as problem:
        raise InputError(problem.what, where=where, fix=problem.fix) from problem


def read_texts(field: Field) -> tuple[str, ...] | None:
    """Read names or numbers of regions as text: a cell array, lines of letters, or numbers.

    Returns
    -------
    tuple of str or None
        None for anything else.
    """
    if isinstance(field, Stored):
        field = np.atleast_1d(field.load()).ravel().tolist()
    if isinstance(field, str):
        field = [field]
    if not isinstance(field, list):
        return None
    return tuple(_text(item) for item in field)


def count_values(field: Field) -> int:
    """Number of values of a field of numbers, or of texts."""
    if isinstance(field, Stored):
        return math.prod(field.shape)
    return len(field) if isinstance(field, list) else 1


def _text(item: object) -> str:
    if isinstance(item, Stored):
        item = item.load().item() if math.prod(item.shape) == 1 else ""
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item).strip()


def parse_mat(
    content: bytes, *, size: int, where: str, names: Sequence[str] = MATRIX_FIELDS
) -> NDArray[np.float64]:
    """Read the one matrix of a MAT file that is in memory.

    The bytes go through a temporary file, whose name no one chooses.

    Parameters
    ----------
    content
        The file.
    size
        Number of regions, 0 if it is not known.
    where
        The file's name, for messages.
    names
        Names that the matrix may have, the likeliest first.

    Raises
    ------
    InputError
        If there is none, or it is no square matrix.
    ResourceError
        If the temporary folder is full or locked.
    """
    try:
        with tempfile.NamedTemporaryFile(suffix=".mat") as file:
            file.write(content)
            file.flush()
            return _read_one(Path(file.name), size, where, names)
    except OSError as error:
        raise ResourceError(
            f"no temporary file can be written: {error.strerror or error}",
            where=tempfile.gettempdir(),
            fix="Set TMPDIR to a folder with room.",
        ) from error


def _read_one(file: Path, size: int, where: str, names: Sequence[str]) -> NDArray[np.float64]:
    try:
        fields = read_fields(file)
    except InputError as problem:
        raise InputError(problem.what, where=where, fix=problem.fix) from problem
    field = next((fields[name] for name in names if name in fields), None)
    if field is None:
        raise InputError(
            f"holds {name_some(list(fields)) or 'nothing'}, not {', '.join(names)}",
            where=where,
            fix=f"Store the matrix as '{names[0]}'.",
        )
    return read_square(field, size=size, where=where)
