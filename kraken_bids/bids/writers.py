# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all, and the tables that we write and read."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ResourceError

#: What BIDS writes where there is no value.
MISSING = "n/a"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, put in its place when the block ends well.

    The temporary file is hidden, unique to the process, and removed when the block fails.

    Raises
    ------
    ResourceError
        If the folder cannot be made or written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ResourceError(
            f"cannot write: {error.strerror}",
            where=str(path),
            fix="Give an output folder that you may write to, on a disk with room.",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            fix="Look for a full disk or a folder that you may not write to.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def format_rows(values: NDArray[np.floating], *, digits: int = 6) -> list[str]:
    """Write rows of numbers as tab-separated text, NaN as ``n/a``.

    Parameters
    ----------
    values
        (n_rows, n_columns).
    digits
        Significant digits.
    """
    # One format call a row is some ten times faster than one a value.
    pattern = "\t".join([f"%.{digits}g"] * values.shape[1])
    rows = []
    for row, broken in zip(values, np.isnan(values).any(axis=1), strict=True):
        text = pattern % tuple(row)
        rows.append(text.replace("nan", MISSING) if broken else text)
    return rows


def write_connectome(
    path: Path, matrix: NDArray[np.floating], region_names: Sequence[str], *, digits: int = 7
) -> None:
    """Write a labelled matrix: header and first column are the names of the regions.

    Parameters
    ----------
    path
        TSV file.
    matrix
        (n_regions, n_regions), symmetric; NaN where a region is missing.
    region_names
        (n_regions,), in the atlas's order.
    digits
        Significant digits.
    """
    if matrix.shape != (len(region_names),) * 2:
        raise ValueError(f"matrix {matrix.shape} for {len(region_names)} regions: {path}")
    lines = ["\t".join(["region", *region_names])]
    rows = format_rows(np.asarray(matrix, dtype=np.float64), digits=digits)
    lines += [f"{name}\t{row}" for name, row in zip(region_names, rows, strict=True)]
    write_text(path, "\n".join(lines) + "\n")


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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read: {error}", where=str(path), fix="Make the file again."
        ) from error
    lines = text.splitlines()
    names = tuple(lines[0].split("\t")[1:]) if lines else ()
    rows = [line.split("\t") for line in lines[1:]]
    if not names or not text.endswith("\n") or any(len(row) != len(names) + 1 for row in rows):
        raise InputError(
            "is not a whole labelled matrix", where=str(path), fix="Make the file again."
        )
    if tuple(row[0] for row in rows) != names:
        raise InputError(
            "has other names in its first column than in its header",
            where=str(path),
            fix="Make the file again.",
        )
    if region_names is not None and names != tuple(region_names):
        raise InputError(
            f"has {len(names)} regions that are not those of the atlas ({len(region_names)})",
            where=str(path),
            fix="Use one version of the atlas for all participants.",
        )
    try:
        matrix = np.array(
            [np.array([MISSING_TO_NAN.get(cell, cell) for cell in row[1:]], dtype=np.float64)
             for row in rows]
        )  # fmt: skip
    except ValueError as error:
        raise InputError(
            f"holds text where a number must be: {error}",
            where=str(path),
            fix="Make the file again.",
        ) from error
    return matrix, names


MISSING_TO_NAN = {MISSING: "nan", "": "nan"}


def write_table(
    path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, digits: int = 6
) -> None:
    """Write a table with a header; None and NaN become ``n/a``."""

    def cell(value: Any) -> str:
        if value is None:
            return MISSING
        if isinstance(value, (float, np.floating)):
            return f"{value:.{digits}g}" if np.isfinite(value) else MISSING
        return str(value)

    lines = ["\t".join(columns)]
    lines += ["\t".join(cell(value) for value in row) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
