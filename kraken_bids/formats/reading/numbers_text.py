# SPDX-License-Identifier: MIT
"""Lines of numbers, and square matrices of them, as text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from ...errors import InputError
from .regions import LabelledMatrix

#: Lines that start with one of these are no data.
COMMENTS = (b"#", b"!", b"%")
#: What stands for a missing value, in lower case.
MISSING = frozenset({"", "n/a", "na", "nan", "null", "none"})

#: Numbers are names of columns if there are so many of them, each greater than the one before:
#: a row of a matrix that does the same by chance would have to be small.
N_COUNTED = 8
#: What numbers are made of, besides separators: other text is read cell by cell.
_PLAIN = b"0123456789+-.eE "
#: Numbers as Python reads them, without its underscores.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)


def is_data(line: bytes) -> bool:
    """Whether a line holds more than blanks or a comment."""
    text = line.strip()
    return bool(text) and not text.startswith(COMMENTS)


def separator_of(line: bytes) -> bytes:
    """Tab, comma, or (as a space) any blanks: the first of them that a line has."""
    return next((mark for mark in (b"\t", b",") if mark in line), b" ")


def split_cells(line: bytes, separator: bytes) -> list[str]:
    """Cells of a line, without blanks and quotes around them."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    cells = text.split() if separator == b" " else text.split(separator.decode())
    return [cell.strip().strip("\"'").strip() for cell in cells]


def count_cells(line: bytes, separator: bytes) -> int:
    """Number of cells of a line."""
    return len(line.split()) if separator == b" " else line.count(separator) + 1


def without_cells(line: bytes, separator: bytes, n: int) -> bytes:
    """What follows the first `n` cells of a line."""
    if not n:
        return line
    parts = line.split(None, n) if separator == b" " else line.split(separator, n)
    return parts[n] if len(parts) > n else b""


def is_number(cell: str) -> bool:
    """Whether a cell is a number; missing values are none."""
    return _NUMBER.fullmatch(cell) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a missing value."""
    return cell.lower() in MISSING


def parse_numbers(line: bytes, separator: bytes, *, where: str) -> NDArray[np.float64]:
    """Read a line of numbers.

    Parameters
    ----------
    line
        Cells with one of the separators of `separator_of` between them.
    separator
        Which one.
    where
        File and line, for messages.

    Returns
    -------
    NDArray
        (n_cells,), NaN for missing values.

    Raises
    ------
    InputError
        If a cell is neither a number nor a missing value.
    """
    text = line.rstrip(b"\r\n")
    if not text.replace(b"n/a", b"").translate(None, _PLAIN + separator):
        cells = b",".join(text.split()) if separator == b" " else text.replace(separator, b",")
        try:
            # The parser of JSON takes 1e5 and -0.25, not 1. or +1 or nothing: those go below.
            parsed = orjson.loads(b"[" + cells.replace(b"n/a", b"null") + b"]")
            return np.array(parsed, dtype=np.float64)
        except orjson.JSONDecodeError:
            pass
    return np.array([_number(cell, where) for cell in split_cells(line, separator)])


def _number(cell: str, where: str) -> float:
    if is_missing(cell):
        return float("nan")
    if not is_number(cell):
        raise InputError(
            f"'{cell[:40]}' is no number",
            where=where,
            fix="Write numbers with a point, and n/a where a value is missing.",
        )
    return float(cell)


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first line names columns, with or without a cell for the column of names.

    Numbers are names where they count: 1 2 3, or 8 10 11.
    """
    rest = cells[1:] or cells
    if any(not is_number(cell) and not is_missing(cell) for cell in rest):
        return True
    if not is_number(cells[0]) and not is_missing(cells[0]) and not _counts(rest):
        return False  # a name, then its values
    return _counts(rest) and (not is_number(cells[0]) or _counts(cells))


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are whole numbers that grow."""
    if len(cells) < N_COUNTED - 1 or not all(cell.isdigit() for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    return all(here < there for here, there in itertools.pairwise(numbers))


def parse_matrix(content: bytes, *, where: str) -> LabelledMatrix:
    """Read a square matrix from text: bare, with a header, with names before each row, or both.

    Parameters
    ----------
    content
        The file. Lines of comments (``#``, ``!``, ``%``) are passed over.
    where
        File, for messages.

    Returns
    -------
    LabelledMatrix
        The names of its rows, or of its columns.

    Raises
    ------
    InputError
        If it is no square matrix of numbers, or has other names in rows than in columns.
    """
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").splitlines() if is_data(line)]
    if not lines or b"\x00" in content[:4096]:
        raise InputError(
            "is empty or no plain text", where=where, fix="Give a matrix as UTF-8 text."
        )
    separator = separator_of(lines[-1])
    first = split_cells(lines[0], separator)
    header = first if is_header(first) else None
    rows = lines[1:] if header else lines
    widths = {count_cells(line, separator) for line in rows}
    n_named = max(widths, default=0) - len(rows)
    if len(widths) != 1 or n_named not in {0, 1}:
        raise InputError(
            f"is no whole square matrix: {len(rows)} rows of {_range(widths)} values",
            where=where,
            fix="Give as many rows as columns; make the file again if it was cut short.",
        )
    values = [
        parse_numbers(without_cells(line, separator, n_named), separator, where=where)
        for line in rows
    ]
    names = [split_cells(line[:4096], separator)[0] for line in rows] if n_named else None
    return LabelledMatrix(np.stack(values), _labels(header, names, len(rows), where))


def _range(widths: set[int]) -> str:
    if not widths:
        return "no"
    low, high = min(widths), max(widths)
    return str(low) if low == high else f"{low} to {high}"


def _labels(
    header: Sequence[str] | None, names: Sequence[str] | None, size: int, where: str
) -> tuple[str, ...] | None:
    """The one set of names that header and rows agree on."""
    columns = header[-size:] if header and len(header) in {size, size + 1} else None
    if header and columns is None:
        raise InputError(
            f"its header names {len(header)} columns, of {size}",
            where=where,
            fix="Make the file again.",
        )
    if columns and names and list(columns) != list(names):
        raise InputError(
            "has other names in its first column than in its header",
            where=where,
            fix="Make the file again.",
        )
    labels = columns or names
    return tuple(labels) if labels else None
