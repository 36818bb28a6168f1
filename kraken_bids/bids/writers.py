# SPDX-License-Identifier: MIT
"""The tables and sidecars that we write and read; files appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..errors import InputError
from ..storage import atomic_path

#: What BIDS writes where there is no value.
MISSING = "n/a"
#: What ends a cell or a line, for whoever reads a table; blanks take their place.
CELL_ENDS = dict.fromkeys(map(ord, "\t\n\r\v\f\x00\x1c\x1d\x1e\x85\u2028\u2029"), " ")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON sidecar, whole or not at all; NaN becomes ``n/a``."""
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """Values that JSON has: numpy scalars and arrays, paths and NaN are turned into such."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return MISSING
    if isinstance(value, Path):
        return str(value)
    return value


def format_rows(values: NDArray[np.floating]) -> list[bytes]:
    r"""Write rows of numbers as tab-separated text: every digit of their float32 value.

    Parameters
    ----------
    values
        (n_rows, n_columns), at least one column. Numbers are rounded to float32; the text is the
        shortest that reads back as the same float32 (6 to 9 significant digits), whole numbers
        without decimals, NaN as ``n/a``. Infinity is written as ``inf``: who reads it must learn
        of it.

    Examples
    --------
    >>> format_rows(np.array([[0.1, 5, np.nan], [1 / 3, -2e-9, 0.25]]))
    [b'0.1\t5\tn/a', b'0.33333334\t-2e-9\t0.25']
    """
    if not len(values):
        return []
    with np.errstate(over="ignore"):  # infinity is what is written then
        single = np.ascontiguousarray(values, dtype=np.float32)
    if np.isinf(single).any():
        return [b"\t".join(map(_format_number, row)) for row in single]
    if np.array_equal(single, np.rint(single)) and np.abs(single).max() < 2**24:
        # Streamline counts: written as integers they need no decimals taken off.
        text = orjson.dumps(single.astype(np.int32), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2]
        return text.replace(b",", b"\t").split(b"]\t[")
    text = orjson.dumps(single, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2]
    rows = text.replace(b".0,", b",").replace(b".0]", b"]").replace(b"null", MISSING.encode())
    return rows.removesuffix(b".0").replace(b",", b"\t").split(b"]\t[")


def _format_number(value: np.float32) -> bytes:
    if np.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    return format_rows(np.array([[value]]))[0]


def write_connectome(
    path: Path, matrix: NDArray[np.floating], region_names: Sequence[str]
) -> None:
    """Write a labelled matrix: header and first column are the names of the regions.

    Parameters
    ----------
    path
        TSV file.
    matrix
        (n_regions, n_regions), symmetric; NaN where a region is missing. It is written as
        float32 (see `format_rows`), which the model works with: at least 7 of the 16 digits of
        a measured float64 correlation, and whole streamline counts exactly, up to 2^24.
    region_names
        (n_regions,), in the atlas's order.
    """
    if matrix.shape != (len(region_names),) * 2:
        raise ValueError(f"matrix {matrix.shape} for {len(region_names)} regions: {path}")
    if any(name != name.translate(CELL_ENDS) for name in region_names):
        raise ValueError(f"a region's name would end its cell: {path}")
    labels = [name.encode() for name in region_names]
    lines = [b"\t".join([b"region", *labels])]
    lines += map(b"\t".join, zip(labels, format_rows(matrix), strict=True))
    write_bytes(path, b"\n".join(lines) + b"\n")


def read_connectome(
    path: Path, region_names: Sequence[str] | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Read a labelled matrix.

    Parameters
    ----------
    path
        TSV file as `write_connectome` makes it.
    region_names
        What the names must be, or None to accept any.

    Returns
    -------
    matrix
        (n_regions, n_regions), NaN where the file says ``n/a``.
    region_names
        (n_regions,).

    Raises
    ------
    InputError
        If the file is cut short, not square, not labelled alike in row and column, or labelled
        otherwise than `region_names`.
    """
    try:
        content = path.read_bytes()
        names, matrix = _parse_plain(content) or _parse_any(content.decode("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read: {error}", where=str(path), fix="Make the file again."
        ) from error
    if region_names is not None and names != tuple(region_names):
        raise InputError(
            f"has {len(names)} regions that are not those of the atlas ({len(region_names)})",
            where=str(path),
            fix="Use one version of the atlas for all participants.",
        )
    return matrix, names


def _parse_plain(content: bytes) -> tuple[tuple[str, ...], NDArray[np.float64]] | None:
    """Read a table as `write_connectome` makes it, as if it were JSON; None if it is none.

    That is several times faster than Python's own reading of numbers. Whatever is unusual is
    left to `_parse_any`, which also finds the words for what is wrong.
    """
    header, *lines = content.split(b"\n")
    labels = header.split(b"\t")[1:]
    if not lines or lines.pop() or not lines:
        return None
    cells = [line.partition(b"\t") for line in lines]
    if [label for label, _, _ in cells] != labels:
        return None
    rows = [row for _, _, row in cells]
    if any(row.count(b"\t") != len(labels) - 1 for row in rows):
        return None
    text = b"\t".join(rows)
    # Else a cell that holds a comma, quotes or brackets would count as several or as text.
    if text.translate(None, NUMBER_BYTES):
        return None
    try:
        matrix = _parse_numbers(text).reshape(len(labels), len(labels))
    except (ValueError, TypeError, OverflowError):  # what orjson raises is a ValueError
        return None
    return tuple(label.decode("utf-8") for label in labels), matrix


def _parse_numbers(text: bytes) -> NDArray[np.float64]:
    """Read numbers between tabs."""
    is_missing = MISSING.encode() in text
    if is_missing:
        text = text.replace(MISSING.encode(), b"null")
    numbers = orjson.loads(b"[" + text.replace(b"\t", b",") + b"]")
    if is_missing:
        return np.array(numbers, dtype=np.float64)
    kind = np.float64 if b"." in text or b"e" in text.lower() else np.int64
    return np.fromiter(numbers, kind, len(numbers)).astype(np.float64, copy=False)


def _parse_any(text: str, path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Read a labelled table with any spelling of numbers that Python knows."""
    lines = text.splitlines()
    names = tuple(lines[0].split("\t")[1:]) if lines else ()
    rows = [line.split("\t") for line in lines[1:]]
    whole = names and text.endswith("\n") and len(rows) == len(names)
    if not whole or any(len(row) != len(names) + 1 for row in rows):
        raise InputError(
            "is not a whole labelled matrix", where=str(path), fix="Make the file again."
        )
    if tuple(row[0] for row in rows) != names:
        raise InputError(
            "has other names in its first column than in its header",
            where=str(path),
            fix="Make the file again.",
        )
    try:
        matrix = np.array([
            [float(MISSING_TO_NAN.get(cell, cell)) for cell in row[1:]] for row in rows
        ])
    except ValueError as error:
        raise InputError(
            f"holds text where a number must be: {error}",
            where=str(path),
            fix="Make the file again.",
        ) from error
    return names, matrix


#: What numbers are written with, and ``n/a``, and what parts them.
NUMBER_BYTES = b"0123456789+-.eE\tn/a"
MISSING_TO_NAN = {MISSING: "nan", "": "nan"}


def write_table(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    digits: int = 6,
    numbers: NDArray[np.floating] | None = None,
) -> None:
    """Write a table with a header; None and NaN become ``n/a``, tabs and line ends blanks.

    Parameters
    ----------
    path
        TSV file.
    columns
        Names of all columns.
    rows
        Cells of each row.
    digits
        Significant digits of the numbers among them.
    numbers
        (n_rows, k), the last k columns where they are many: written as `format_rows` does,
        which is some twenty times faster.
    """

    def cell(value: Any) -> str:
        if value is None:
            return MISSING
        if isinstance(value, (float, np.floating)):
            return f"{value:.{digits}g}" if np.isfinite(value) else MISSING
        return str(value).translate(CELL_ENDS)

    lines = ["\t".join(cell(value) for value in row).encode() for row in rows]
    if numbers is not None:
        lines = [b"\t".join(pair) for pair in zip(lines, format_rows(numbers), strict=True)]
    write_bytes(path, b"\n".join(["\t".join(columns).encode(), *lines]) + b"\n")
