# SPDX-License-Identifier: MIT
"""Tables of the series of an atlas's regions: a row a volume, a column a region."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atlases import load_atlas
from ..errors import InputError
from .region_order import find_places

_log = logging.getLogger(__name__)

#: Cells that stand for a missing value, in lower case.
MISSING_CELLS = frozenset({"", "n/a", "na", "nan", "null", "none"})
#: Fewer volumes hold no correlation.
LEAST_VOLUMES = 3


@dataclass(frozen=True, eq=False)
class SeriesValues:
    """What a table of series holds.

    Parameters
    ----------
    atlas
        Name.
    values
        (n_volumes, n_regions), in the order of the atlas; columns of NaN for missing regions, rows
        of NaN for volumes without values.
    """

    atlas: str
    values: NDArray[np.float64]

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """(n_volumes,), volumes without any value."""
        return np.asarray(np.isnan(self.values).all(axis=1))


def read_series(path: Path, atlases: Sequence[str]) -> SeriesValues:
    """Read a table of series.

    Parameters
    ----------
    path
        Text, cells parted by tabs, commas or blanks, with a header of region names or none.
    atlases
        Names of the atlases that the table may be of; of several, the one whose regions it names,
        else the one that has as many.

    Raises
    ------
    InputError
        If the file is no such table, is of none of the atlases, or single values are missing.
    """
    header, rows = _read_cells(path)
    values = _numbers(rows, path)
    if header is not None and len(header) == values.shape[1] and header[0] == "":
        header, values = header[1:], values[:, 1:]  # numbers of rows, as pandas writes them
    if header is not None and len(header) != values.shape[1]:
        raise InputError(
            f"the header names {len(header)} columns, of {values.shape[1]}",
            where=str(path),
            fix="Make the file again.",
        )
    atlas = _atlas(header, values.shape, atlases, path)
    placed = _place(header, values, atlas, path)
    _check(placed, atlas, path)
    return SeriesValues(atlas, placed)


def _read_cells(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    """Header, if there is one, and cells of all rows."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read: {error}", where=str(path), fix="Give a table as UTF-8 text."
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise InputError("is empty", where=str(path), fix="Make the file again.")
    separator = next((mark for mark in ("\t", ",", ";") if mark in lines[0]), None)
    rows = [[cell.strip().strip("\"'") for cell in line.split(separator)] for line in lines]
    if len({len(row) for row in rows}) != 1:
        raise InputError(
            "has rows of different lengths", where=str(path),
            fix="Make the file again; it may have been cut short.",
        )  # fmt: skip
    return (rows[0], rows[1:]) if _is_header(rows[0], rows[1:]) else (None, rows)


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first row names columns: by text, or by numbers that count."""
    if any(not _is_number(cell) for cell in first if cell.lower() not in MISSING_CELLS):
        return True
    numbers = [cell for cell in first if cell.isdigit()]
    counts = len(numbers) == len(first) > 2 and bool(others)
    return counts and all(int(b) > int(a) for a, b in itertools.pairwise(numbers))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(rows: Sequence[Sequence[str]], path: Path) -> NDArray[np.float64]:
    if len(rows) < LEAST_VOLUMES:
        raise InputError(
            f"holds {len(rows)} volumes", where=str(path), fix="Give series of a whole run."
        )
    try:
        values = np.array([
            [float("nan" if cell.lower() in MISSING_CELLS else cell) for cell in row]
            for row in rows
        ])
    except ValueError as error:
        raise InputError(
            f"holds text where a number must be: {error}",
            where=str(path),
            fix="Write numbers with a point, and n/a where a region is missing.",
        ) from error
    if np.isinf(values).any():
        raise InputError("holds infinite values", where=str(path), fix="Make the file again.")
    return values


def _atlas(
    header: Sequence[str] | None, shape: tuple[int, ...], atlases: Sequence[str], path: Path
) -> str:
    """The atlas that a table is of."""
    if len(atlases) == 1:
        return atlases[0]
    labels = {label.strip().casefold() for label in header or ()}
    named = [
        atlas
        for atlas in atlases
        if labels & {name.casefold() for name in load_atlas(atlas).region_names}
    ]
    found = named or [atlas for atlas in atlases if load_atlas(atlas).n_regions == shape[1]]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{atlas} has {load_atlas(atlas).n_regions}" for atlas in atlases)
    raise InputError(
        f"nothing tells its atlas: {shape[1]} columns of {shape[0]} volumes ({listed})",
        where=str(path),
        fix="Put atlas-NAME into the file's name and names of regions into its header; a row is a "
        "volume.",
    )


def _place(
    header: Sequence[str] | None, values: NDArray[np.float64], atlas: str, path: Path
) -> NDArray[np.float64]:
    """Columns in the order of the atlas."""
    size = load_atlas(atlas).n_regions
    if header is None:
        if values.shape[1] != size:
            raise InputError(
                f"has {values.shape[1]} columns and no names of regions; {atlas} has {size}",
                where=str(path),
                fix="Give a table with a row a volume and a column a region, with a header.",
            )
        return values
    places, note = find_places(header, atlas=atlas, where=str(path))
    if note:
        _log.warning("%s: %s", path.name, note)
    if places is None:
        return values
    placed = np.full((len(values), size), np.nan)
    placed[:, places] = values
    return placed


def _check(values: NDArray[np.float64], atlas: str, path: Path) -> None:
    """Refuse gaps: a value is missing with its whole row or column only."""
    is_gap = np.isnan(values)
    rows, columns = is_gap.all(axis=1), is_gap.all(axis=0)
    if columns.all():
        raise InputError(
            f"no region of {atlas} has values", where=str(path), fix="Leave the run out."
        )
    n_gaps = int(is_gap[np.ix_(~rows, ~columns)].sum())
    if n_gaps:
        raise InputError(
            f"{n_gaps} single values are missing",
            where=str(path),
            fix="Give n/a in a region's whole column, or in a volume's whole row.",
        )
