# SPDX-License-Identifier: MIT
"""Inputs from ``.csv``, ``.tsv`` and ``.txt``: a row a participant, or one participant's matrix.

A table has the ids in its first column (or no ids at all) and then a column an edge, or a column
a value of a latent (``z000`` …), with a header or without. A matrix may be bare or carry the names
of its regions. Which one a file is follows from its shape; where both fit, the header decides, and
where it does not, the file is refused.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...connectome.edges import n_regions
from ...errors import InputError, UsageError, suggest
from ..inputs import FlavorInput, ReadRows, Wanted
from .bids_labels import flavor_of_name, participant_of_name
from .checks import check_rows, name_some
from .matrix_files import MatrixFile, open_matrices, raise_together
from .naming import canonical_flavor, is_latent_name
from .numbers_text import (
    count_cells,
    is_data,
    is_header,
    is_missing,
    is_number,
    parse_matrix,
    parse_numbers,
    separator_of,
    split_cells,
    without_cells,
)

_log = logging.getLogger(__name__)

#: Headers of columns of ids, in lower case.
ID_COLUMNS = frozenset({"participant_id", "participant", "participants", "subject", "subjects",
                        "subject_id", "sub", "id"})  # fmt: skip
SESSION_COLUMNS = frozenset({"session_id", "session"})
SOURCE_COLUMN = "source"
#: Headers of columns before the numbers.
LEADING = ID_COLUMNS | SESSION_COLUMNS | {SOURCE_COLUMN, "n_inputs", "site"}
#: Longest line that is read, bytes: a million edges, generously.
MAX_LINE = 64 << 20
#: How many bytes a first cell may have.
_FIRST_CELLS = 4096
#: How many first cells of a line are kept: as many as `LEADING` has meanings.
_N_HEADS = 6


@dataclass(frozen=True, eq=False)
class _Lines:
    """Lines of data of a file: where they start, how many cells they have, the first cells."""

    separator: bytes
    first: bytes
    starts: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Shape:
    """How the lines are to be read.

    `n_leading` cells come before the numbers, `n_header` lines before the rows.
    """

    n_header: int
    n_leading: int
    n_columns: int


def open_text(path: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a text file of connectomes or latents.

    Parameters
    ----------
    path
        File; its separator is a tab, a comma or blanks.
    wanted
        The model's flavors, and the name that the file was given for, if any; without one the
        file's name must tell the flavor.

    Returns
    -------
    dict
        One input.

    Raises
    ------
    InputError
        If the file is no text, of another size, ambiguous, or names a participant twice.
    UsageError
        If nothing tells the flavor.
    """
    name = wanted.name or _told_by(path, wanted)
    lines = _scan(path)
    is_latent = is_latent_name(name)
    expected = wanted.latent_size if is_latent else wanted.n_edges.get(name, 0)
    where = f"{name} in {path}"
    if is_latent and not expected:
        raise UsageError(
            f"latents ('{name}') are no input here", where=where, fix="Give connectomes."
        )
    shape = _shape_of(lines, expected, is_latent=is_latent, where=where)
    if shape is None:
        return _open_one_matrix(path, name, wanted)
    return {name: _open_table(path, name, lines, shape)}


def _told_by(path: Path, wanted: Wanted) -> str:
    """Flavor, or latents, that the name of a file tells."""
    stem = path.name.partition(".")[0]
    latent = re.search(r"(?:^|_)(?:desc-)?(encoded|fusion[A-Za-z0-9]*)(?:_|$)", stem)
    if wanted.latent_size and latent:
        return latent.group(1)
    known = tuple(wanted.n_edges)
    flavor = flavor_of_name(path.name, known) or canonical_flavor(stem, known)
    if flavor is None or is_latent_name(flavor):
        raise UsageError(
            "the name does not tell which flavor the file holds",
            where=str(path),
            fix=f"Say it: FLAVOR={path}.",
        )
    if known and flavor not in known:
        raise UsageError(
            f"the file's name tells flavor {flavor}, which the model lacks",
            where=str(path),
            fix=f"{suggest(flavor, known)}. Say which it is: FLAVOR={path}.",
        )
    return flavor


def _scan(path: Path) -> _Lines:
    """Go through a file once, keeping no more of a line than its first cells."""
    starts, widths, heads = [], [], []
    first, separator, offset = b"", b"", 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                start, offset = offset, offset + len(line)
                if start == 0 and line.startswith(b"\xef\xbb\xbf"):
                    start, line = 3, line[3:]
                if b"\x00" in line or (len(line) == MAX_LINE and not line.endswith(b"\n")):
                    raise InputError(
                        "is no plain text", where=str(path), fix="Save it as UTF-8 text."
                    )
                if not is_data(line):
                    continue
                if not first:
                    first, separator = line, separator_of(line)
                starts.append(start)
                widths.append(count_cells(line, separator))
                heads.append(tuple(split_cells(line[:_FIRST_CELLS], separator)[:_N_HEADS]))
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}",
            where=str(path),
            fix="Give the path of a file that you may read.",
        ) from error
    if not starts:
        raise InputError("is empty", where=str(path), fix="Make the file again.")
    return _Lines(separator, first, tuple(starts), tuple(widths), tuple(heads))


def _shape_of(lines: _Lines, expected: int, *, is_latent: bool, where: str) -> _Shape | None:
    """How to read a table, or None for one square matrix.

    Raises
    ------
    InputError
        If the lines are neither, or could be both.
    """
    cells = split_cells(lines.first, lines.separator)
    has_header = cells[0].lower() in LEADING or is_header(cells)
    if has_header and len(lines.widths) == 1:
        raise InputError("holds a header and no row", where=where, fix="Make the file again.")
    widths = set(lines.widths[1:] if has_header else lines.widths)
    if len(widths) != 1:
        raise _uneven(lines, has_header, where)
    width, n_rows = widths.pop(), len(lines.widths) - has_header
    header = cells if has_header else []
    n_named = _n_leading(lines, header, width, expected=expected, is_latent=is_latent)
    n_columns = width - n_named
    size = n_regions(expected) if expected and not is_latent else 0
    is_table = n_columns == expected if expected else _is_triangular(n_columns)
    is_matrix = not is_latent and _is_square(n_rows, width, has_header, size)
    if is_table and is_matrix:
        is_table = bool(header) and header[0].lower() in ID_COLUMNS
        is_matrix = not is_table and [head[0] for head in lines.heads[1:]] == header[-n_rows:]
    if is_table:
        return _Shape(int(has_header), n_named, n_columns)
    if is_matrix:
        return None
    raise _wrong_shape(n_rows, n_columns, expected, is_latent=is_latent, where=where)


def _n_leading(
    lines: _Lines, header: Sequence[str], width: int, *, expected: int, is_latent: bool
) -> int:
    """Number of cells before the numbers of a row."""
    if header and len(header) == width:
        named = next((i for i, cell in enumerate(header) if cell.lower() not in LEADING), width)
        if named or (is_latent and header[0].lower() == "z000"):
            return named
    if width - expected in {0, 1}:
        return width - expected
    rows = lines.heads[1:] if header else lines.heads
    has_names = any(not is_number(head[0]) and not is_missing(head[0]) for head in rows)
    counted = not _is_triangular(width) and _is_triangular(width - 1)
    return int(has_names or len(header) == width - 1 or counted)


def _is_square(n_rows: int, width: int, has_header: bool, size: int) -> bool:
    """Whether rows are those of one matrix, of `size` regions if that is known."""
    square = width == n_rows or width == n_rows + 1
    return square and (not size or n_rows == size or (has_header and n_rows < size))


def _is_triangular(n_columns: int) -> bool:
    """Whether so many values are the edges of a matrix of three regions or more."""
    if n_columns < 3:
        return False
    try:
        n_regions(n_columns)
    except InputError:
        return False
    return True


def _uneven(lines: _Lines, has_header: bool, where: str) -> InputError:
    """Name the rows that have another number of cells than most."""
    rows = list(zip(lines.heads, lines.widths, strict=True))[int(has_header) :]
    numbers = [width for _, width in rows]
    usual = max(set(numbers), key=numbers.count)
    odd = [f"{head[0]} ({width})" for head, width in rows if width != usual]
    return InputError(
        f"rows differ in their number of cells: {usual} in most, not in {name_some(odd)}",
        where=where,
        fix="Make the file again: it may be cut short, or have separators within cells.",
    )


def _wrong_shape(
    n_rows: int, n_columns: int, expected: int, *, is_latent: bool, where: str
) -> InputError:
    if not expected:
        what = f"{n_rows} rows of {n_columns} values are neither edges nor one square matrix"
        return InputError(
            what, where=where, fix="Give R (R - 1) / 2 edges a row, or one matrix of R rows."
        )
    if is_latent:
        return InputError(
            f"holds rows of {n_columns} values, the model's latents have {expected}",
            where=where,
            fix="Give latents of this model, a row a participant.",
        )
    size = n_regions(expected)
    if n_rows == n_columns == size:
        return InputError(
            f"could be one matrix of {size} regions, or {n_rows} participants of {expected} edges",
            where=where,
            fix="Give a header: participant_id first, or the regions as in the first column.",
        )
    return InputError(
        f"holds {n_rows} rows of {n_columns} values, the flavor has {size} regions "
        f"({expected} edges)",
        where=where,
        fix=f"Give a row of {expected} edges a participant, or one matrix {size} x {size}.",
    )


def _open_one_matrix(path: Path, name: str, wanted: Wanted) -> dict[str, FlavorInput]:
    """Input of one participant, whose id the file's name tells."""
    participant = participant_of_name(path.name) or path.name.partition(".")[0]
    _log.info("%s is taken as the matrix of participant %s", path, participant)
    matrix = MatrixFile(participant, str(path), lambda: parse_matrix(_read(path), where=str(path)))
    only = Wanted(wanted.n_edges, wanted.latent_size, name)
    return open_matrices({name: [matrix]}, where=str(path), wanted=only)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}",
            where=str(path),
            fix="Give the path of a file that you may read.",
        ) from error


def _open_table(path: Path, name: str, lines: _Lines, shape: _Shape) -> FlavorInput:
    """Input of a table, a row a participant."""
    header = split_cells(lines.first, lines.separator)[: shape.n_leading]
    keys = [cell.lower() for cell in header] if shape.n_header else []
    rows = range(shape.n_header, len(lines.starts))
    ids: tuple[str, ...] | None
    where = f"{name} in {path}"
    if SOURCE_COLUMN in keys:
        rows, ids = _row_of_source(path, name, lines, keys.index(SOURCE_COLUMN), where)
    else:
        ids = _ids(lines, rows, keys) if shape.n_leading else None
    if ids is not None:
        _refuse_bad_ids(ids, where)
    starts = tuple(lines.starts[row] for row in rows)
    return FlavorInput(
        name=name,
        where=str(path),
        participants=ids,
        n=len(starts),
        n_columns=shape.n_columns,
        read=_row_reader(path, name, starts, ids, lines=lines, shape=shape),
    )


def _row_of_source(
    path: Path, name: str, lines: _Lines, column: int, where: str
) -> tuple[range, tuple[str, ...]]:
    """The one row of a session's latents, and the session's id, from the file's name."""
    sources = [head[column] for head in lines.heads[1:]]
    found = [row for row, source in enumerate(sources, start=1) if source == name]
    if not found and len(sources) == 1:
        found = [1]
    if len(found) != 1:
        raise InputError(
            f"holds latents of {name_some(sources)}: which one is meant?",
            where=where,
            fix=f"Say it: {sources[-1]}={path}.",
        )
    participant = participant_of_name(path.name) or path.name.partition(".")[0]
    return range(found[0], found[0] + 1), (participant,)


def _ids(lines: _Lines, rows: range, keys: Sequence[str]) -> tuple[str, ...]:
    """Ids of the rows, with the session where there is a column of it."""
    column = next((i for i, key in enumerate(keys) if key in ID_COLUMNS), 0)
    session = next((i for i, key in enumerate(keys) if key in SESSION_COLUMNS), None)
    ids = []
    for row in rows:
        head = lines.heads[row]
        label = clean_id(head[column])
        if session is not None and not is_missing(head[session]):
            label += f"_ses-{head[session].removeprefix('ses-')}"
        ids.append(label)
    return tuple(ids)


def clean_id(text: str) -> str:
    """Id without ``sub-``; a whole number without its decimals.

    Examples
    --------
    >>> clean_id("sub-01"), clean_id("100307.0")
    ('01', '100307')
    """
    text = text.strip().removeprefix("sub-")
    return text.partition(".")[0] if re.fullmatch(r"\d+\.0+", text) else text


def _refuse_bad_ids(ids: Sequence[str], where: str) -> None:
    """Refuse ids that are missing or come twice."""
    problems = []
    twice = [label for label, times in Counter(ids).items() if times > 1]
    if any(is_missing(label) for label in ids):
        problems.append(
            InputError("some rows have no id", where=where, fix="Fill in the first column.")
        )
    if twice:
        problems.append(
            InputError(
                f"participants {name_some(twice)} come more than once",
                where=where,
                fix="Give each participant once.",
            )
        )
    raise_together(problems)


def _row_reader(
    path: Path,
    name: str,
    starts: Sequence[int],
    ids: Sequence[str] | None,
    *,
    lines: _Lines,
    shape: _Shape,
) -> ReadRows:
    """Read rows by their place in the file."""

    def read(positions: Sequence[int]) -> NDArray[np.float32]:
        who = [ids[row] if ids else f"number {row + 1}" for row in positions]
        rows = np.empty((len(positions), shape.n_columns), dtype=np.float32)
        with path.open("rb") as file:
            for row, position in enumerate(positions):
                file.seek(starts[position])
                line = without_cells(file.readline(), lines.separator, shape.n_leading)
                where = f"{name} of participant {who[row]} in {path}"
                rows[row] = _checked(
                    parse_numbers(line, lines.separator, where=where), rows, where
                )
        check_rows(rows, who, name=name, where=str(path))
        return rows

    return read


def _checked(values: NDArray, rows: NDArray, where: str) -> NDArray:
    """Values of a row, which the file had when it was opened."""
    if len(values) != rows.shape[1]:
        raise InputError("has changed since it was opened", where=where, fix="Run again.")
    return values
