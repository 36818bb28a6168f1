# SPDX-License-Identifier: MIT
"""MATLAB's files of format 7.3, which are HDF5 with MATLAB's words on it.

Arrays have their axes turned round; cells are references, texts code points, structures groups.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import InputError
from ...storage import MAX_DEFLATE_RATIO
from .fields import Field, Unread
from .records import BLOCK_BYTES, HELD_BYTES, SMALL_BYTES, Stored, damaged

#: What h5py raises for files that are damaged.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
_MAX_DEPTH = 8


def read_fields(file: Path, *, cell_type: str = "f4") -> dict[str, Field]:
    """Read what a file holds; numbers stay in the file.

    Parameters
    ----------
    file
        Of format 7.3.
    cell_type
        NumPy's name of the type that matrices in cells become.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        with h5py.File(file, "r") as stored:
            return _group(stored, _Root(stored, file, cell_type), 0)
    except _UNREADABLE as error:
        raise damaged(file, error) from error


@dataclass(frozen=True)
class _Root:
    """The open file, and what is asked of it."""

    stored: Any
    file: Path
    cell_type: str


def _group(group: Any, root: _Root, depth: int) -> dict[str, Field]:
    """Read a structure."""
    if depth > _MAX_DEPTH:
        raise damaged(root.file, "structures in structures without end")
    return {
        name: _field(group[name], root, depth + 1)
        for name in group
        # What begins with '#' is what cells refer to; links into other files are not followed.
        if not name.startswith("#") and isinstance(group.get(name, getlink=True), h5py.HardLink)
    }


def _field(item: Any, root: _Root, depth: int) -> Field:
    """Read one variable."""
    if isinstance(item, h5py.Group):
        return _group(item, root, depth)
    if not isinstance(item, h5py.Dataset) or item.shape is None or item.name is None:
        return Unread("no values")
    if item.external or item.is_virtual:
        return Unread("values in another file")
    kind = bytes(item.attrs.get("MATLAB_class", b"")).decode("ascii", "replace")
    if item.attrs.get("MATLAB_empty"):
        return Unread("an empty array")
    if kind == "char":
        return _text(item, root.file)
    if item.dtype == h5py.ref_dtype:
        return _cells(item, root, depth)
    if item.dtype.kind not in "fiub":
        return Unread(f"values of kind {item.dtype}")
    return _numbers(item, root.file)


def _small(item: Any, file: Path) -> Any:
    """Load all of a variable that is known to be small."""
    if item.dtype.itemsize * math.prod(item.shape) > SMALL_BYTES:
        raise damaged(file, f"'{item.name}' of shape {item.shape} where little is expected")
    return item[()]


def _text(item: Any, file: Path) -> str | list[str]:
    """Read text: one, or one a row."""
    letters = np.atleast_2d(np.asarray(_small(item, file), dtype=np.uint32))
    rows = ["".join(map(chr, row)) for row in letters.reshape(len(letters), -1).T.tolist()]
    return rows[0] if len(rows) == 1 else rows


def _cells(item: Any, root: _Root, depth: int) -> Field:
    """Read a cell array: one array of all if it holds matrices, else a list."""
    references = np.asarray(_small(item, root.file)).T.ravel(order="F")
    cells = [root.stored[reference] for reference in references]
    first = _field(cells[0], root, depth) if cells else None
    if isinstance(first, Stored) and math.prod(first.shape) > 1:
        return _stack(cells, first, root, depth)
    return [_field(cell, root, depth) for cell in cells]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """MATLAB's shape of a dataset, without axes of length one."""
    return tuple(size for size in reversed(shape) if size != 1)


def _numbers(item: Any, file: Path) -> Stored:
    """Find where the numbers of an array lie."""
    name, shape = item.name, _squeezed(item.shape)
    n_bytes = item.dtype.itemsize * math.prod(item.shape)
    if n_bytes > file.stat().st_size * MAX_DEFLATE_RATIO:
        raise damaged(file, f"'{name}' declares {n_bytes} bytes")
    slab = item.dtype.itemsize * math.prod(item.shape[1:]) * (item.chunks or (1,))[0]
    axes = tuple(reversed(range(len(shape))))
    is_square = len(shape) == 3 and shape[1] == shape[2] != shape[0]
    if is_square and item.chunks and slab > HELD_BYTES:
        # Chunks reach through whole matrices: taking them so reads each chunk once.
        axes = (0, 2, 1)

    @contextlib.contextmanager
    def pieces() -> Iterator[Iterator[bytes]]:
        with _opened(file) as stored:
            yield _slabs(stored[name], file, turned=axes == (0, 2, 1))

    return Stored(file=file, shape=shape, dtype=item.dtype, axes=axes, open=pieces)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a file again."""
    try:
        stored = h5py.File(file, "r")
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    with stored:
        yield stored


def _slabs(item: Any, file: Path, *, turned: bool) -> Iterator[bytes]:
    """Read an array in pieces along the slowest axis, or `turned`, along MATLAB's first."""
    axis = len(item.shape) - 1 if turned else 0
    step = (item.chunks or item.shape)[axis] if item.shape else 1
    record = item.dtype.itemsize * math.prod(item.shape) // max(item.shape[axis], 1)
    step = max(step, BLOCK_BYTES // max(record, 1) // max(step, 1) * step, 1)
    if not item.chunks:
        step = max(BLOCK_BYTES // max(record, 1), 1)
    try:
        for start in range(0, item.shape[axis], step):
            if turned:
                yield np.moveaxis(item[..., start : start + step], -1, 0).tobytes()
            else:
                yield item[start : start + step].tobytes()
    except _UNREADABLE as error:
        raise damaged(file, error) from error


def _stack(cells: list[Any], first: Stored, root: _Root, depth: int) -> Stored:
    """Make one array of a cell array of matrices of one size."""
    file = root.file
    dtype = np.dtype(root.cell_type if len(first.shape) > 1 else "f8")
    names = []
    for number, cell in enumerate(cells):
        field = _field(cell, root, depth)
        if not isinstance(field, Stored) or field.shape != first.shape:
            found = f"has shape {field.shape}" if isinstance(field, Stored) else "has no numbers"
            raise InputError(
                f"cells differ: the first has shape {first.shape}, number {number + 1} {found}",
                where=str(file),
                fix="Use one atlas for all participants, and leave out those without data.",
            )
        names.append(cell.name)

    def go(stored: Any) -> Iterator[bytes]:
        try:
            for name in names:
                with np.errstate(over="ignore", invalid="ignore"):
                    yield np.asarray(stored[name][()]).astype(dtype).tobytes()
        except _UNREADABLE as error:
            raise damaged(file, error) from error

    @contextlib.contextmanager
    def pieces() -> Iterator[Iterator[bytes]]:
        with _opened(file) as stored:
            yield go(stored)

    return Stored(
        file=file,
        shape=(len(cells), *first.shape),
        dtype=dtype,
        axes=(0, *reversed(range(1, len(first.shape) + 1))),
        open=pieces,
    )
