# SPDX-License-Identifier: MIT
"""Numbers that lie in a file, by participant, whatever way round they lie there.

`Stored` says where an array lies and in which order; `open_records` gives its rows some at a
time. Where a participant's numbers lie together they are read from the file each time; where they
do not, or are compressed, the first reading goes through all of them once and lays them down by
participant: in memory if they are small, else in a temporary file without a name (`Spool`).
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ResourceError
from .checks import SYMMETRIC, take_triangles

#: Bytes of float32 rows that are held in memory; more go to a temporary file.
HELD_BYTES = 64 << 20
#: Bytes taken at a time, and at most laid down together.
BLOCK_BYTES = 16 << 20
#: Bytes of an array that may be loaded whole: ids, masks, indices.
SMALL_BYTES = 64 << 20

#: Opens the bytes of an array: pieces in the order of the file.
OpenBytes = Callable[[], AbstractContextManager[Iterator[bytes | memoryview]]]


def damaged(file: Path, reason: object) -> InputError:
    """Make the error for a file that is cut short or altered."""
    return InputError(
        f"cannot be read ({reason})", where=str(file), fix="Make or copy the file again."
    )


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file.

    Parameters
    ----------
    file
        For messages.
    shape
        As NumPy and MATLAB users see it.
    dtype
        As stored, with its byte order.
    axes
        Axes from the slowest to the fastest in the file: (0, 1, 2) is C order, (2, 1, 0)
        MATLAB's, (0, 2, 1) a cell array of matrices.
    open
        Opens all bytes.
    offset
        Where in `file` they lie together, plain; None if they are compressed or in pieces.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[int, ...]
    open: OpenBytes
    offset: int | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self, *, limit: int = SMALL_BYTES) -> NDArray:
        """Read an array whole.

        Parameters
        ----------
        limit
            Most bytes to expect.

        Raises
        ------
        InputError
            If it is larger, or is cut short.
        """
        if self.n_bytes > limit:
            raise damaged(self.file, f"an array of {self.n_bytes} bytes where few are expected")
        buffer = np.empty(self.n_bytes, dtype=np.uint8)
        with self.open() as pieces:
            _fill(buffer, pieces, self.file)
        values = buffer.view(self.dtype).reshape([self.shape[axis] for axis in self.axes])
        return values.transpose(np.argsort(self.axes))


def _fill(buffer: NDArray[np.uint8], pieces: Iterator[bytes | memoryview], file: Path) -> None:
    """Copy all pieces into a buffer that they must fill."""
    start = 0
    for piece in pieces:
        stop = start + len(piece)
        if stop > len(buffer):
            raise damaged(file, "it holds more than it declares")
        buffer[start:stop] = np.frombuffer(piece, dtype=np.uint8)
        start = stop
    if start != len(buffer):
        raise damaged(file, "it is cut short")


class Records(Protocol):
    """Rows by participant.

    Attributes
    ----------
    n, n_columns
        Numbers of rows and of values in each.
    """

    n: int
    n_columns: int

    def read(self, positions: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Read rows.

        Parameters
        ----------
        positions
            Increasing.

        Returns
        -------
        rows
            (len(positions), n_columns), float32.
        states
            (len(positions),) of `checks.SYMMETRIC` and its like; `SYMMETRIC` for vectors.
        """


@dataclass(frozen=True)
class Layout:
    """How a participant's record becomes a row.

    Parameters
    ----------
    n
        Number of participants.
    shape
        Of a record, (R, R) or (n_columns,), in the file's order.
    is_flipped
        Whether the file has the matrix' columns where its rows are expected.
    is_by_participant
        Whether a participant's numbers lie together.
    """

    n: int
    shape: tuple[int, ...]
    is_flipped: bool
    is_by_participant: bool

    @property
    def width(self) -> int:
        """Number of values of a record."""
        return math.prod(self.shape)

    @property
    def n_columns(self) -> int:
        """Number of values of a row."""
        if len(self.shape) == 1:
            return self.shape[0]
        return self.shape[0] * (self.shape[0] - 1) // 2

    def rows(self, block: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Take rows from records: (k, width) in any memory order."""
        if len(self.shape) == 2:
            matrices = block.reshape(len(block), *self.shape)
            return take_triangles(matrices.transpose(0, 2, 1) if self.is_flipped else matrices)
        with np.errstate(over="ignore", invalid="ignore"):  # told as infinite by the checks
            rows = np.ascontiguousarray(block, dtype=np.float32)
        return rows, np.full(len(block), SYMMETRIC, dtype=np.int8)


def find_layout(stored: Stored, participants_axis: int | None) -> Layout:
    """Say how the records of an array lie.

    Parameters
    ----------
    stored
        Of one to three axes; those beside the participants' are (R, R) or (n_columns,).
    participants_axis
        None for an array of a single participant.
    """
    axes = stored.axes
    if participants_axis is None:
        shape, n = stored.shape, 1
    else:
        shape = tuple(size for axis, size in enumerate(stored.shape) if axis != participants_axis)
        n = stored.shape[participants_axis]
        if axes[0] != participants_axis != axes[-1]:
            raise damaged(stored.file, f"an array of shape {stored.shape} in an unknown order")
    inner = [axis for axis in axes if axis != participants_axis]
    return Layout(
        n=n,
        shape=shape,
        is_flipped=len(inner) == 2 and inner[0] > inner[1],
        is_by_participant=participants_axis is None or axes[0] == participants_axis,
    )


def open_records(stored: Stored, participants_axis: int | None) -> Records:
    """Make rows of an array, whichever way it lies in its file."""
    layout = find_layout(stored, participants_axis)
    if layout.is_by_participant and stored.offset is not None:
        return FileRecords(stored, layout)
    return StreamedRecords(stored, layout)


class FileRecords:
    """Records that lie one behind the other in a file; nothing is kept between readings."""

    def __init__(self, stored: Stored, layout: Layout) -> None:
        self._stored, self._layout = stored, layout
        self.n, self.n_columns = layout.n, layout.n_columns

    def read(self, positions: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Read rows."""
        stored, layout = self._stored, self._layout
        record = layout.width * stored.dtype.itemsize
        rows = np.empty((len(positions), self.n_columns), dtype=np.float32)
        states = np.full(len(positions), SYMMETRIC, dtype=np.int8)
        is_plain = stored.dtype == rows.dtype and len(layout.shape) == 1
        at_once = max(BLOCK_BYTES // max(record, 1), 1)
        with stored.file.open("rb", buffering=0) as stream:
            for start, first, count in _runs(positions, at_once):
                if is_plain:  # straight into their place
                    stream.seek((stored.offset or 0) + first * record)
                    _read_into(stream, rows[start : start + count], stored.file)
                    continue
                block = np.empty((count, layout.width), dtype=stored.dtype)
                stream.seek((stored.offset or 0) + first * record)
                _read_into(stream, block, stored.file)
                stop = start + count
                rows[start:stop], states[start:stop] = layout.rows(block)
        return rows, states


def _runs(positions: Sequence[int], at_once: int) -> Iterator[tuple[int, int, int]]:
    """Group positions that follow each other: (place in the result, first position, count)."""
    start = 0
    for place in range(1, len(positions) + 1):
        is_end = place == len(positions) or positions[place] != positions[place - 1] + 1
        if is_end or place - start == at_once:
            yield start, positions[start], place - start
            start = place


def _bytes_of(values: NDArray) -> memoryview:
    """View the bytes of an array in C order."""
    view: memoryview = values.reshape(-1).view(np.uint8).data
    return view


def _read_into(stream: object, block: NDArray, file: Path) -> None:
    """Fill an array from a file."""
    view = _bytes_of(block)
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise damaged(file, "it is cut short")
        view = view[count:]


class Spool:
    """A temporary file without a name, in TMPDIR: gone when it is no longer used."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        try:
            self._handle, name = tempfile.mkstemp(prefix="kraken-")
            Path(name).unlink()
        except OSError as error:
            raise self._refusal(error) from error
        weakref.finalize(self, os.close, self._handle)

    def _refusal(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"cannot hold {self._n_bytes / 1e6:.0f} MB for a time: {error.strerror or error}",
            where=tempfile.gettempdir(),
            fix="Set TMPDIR to a folder with room.",
        )

    def write(self, offset: int, values: NDArray) -> None:
        """Write values at a place, in bytes.

        Raises
        ------
        ResourceError
            If the disk is full.
        """
        view = _bytes_of(np.ascontiguousarray(values))
        try:
            while view:
                count = os.pwrite(self._handle, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise self._refusal(error) from error

    def read(self, offset: int, shape: tuple[int, ...], dtype: type) -> NDArray:
        """Read values from a place, in bytes."""
        values: NDArray = np.empty(shape, dtype=dtype)
        view = _bytes_of(values)
        while view:
            count = os.preadv(self._handle, [view], offset)
            if not count:
                raise self._refusal(OSError("the temporary file is cut short"))
            view, offset = view[count:], offset + count
        return values


class StreamedRecords:
    """Records gone through once, at the first reading, and laid down by participant."""

    def __init__(self, stored: Stored, layout: Layout) -> None:
        self._stored, self._layout = stored, layout
        self.n, self.n_columns = layout.n, layout.n_columns
        self._lock = threading.Lock()
        self._laid: Callable[[Sequence[int]], tuple[NDArray, NDArray]] | None = None

    def read(self, positions: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Read rows."""
        with self._lock:
            if self._laid is None:
                self._laid = self._lay_down()
        return self._laid(positions)

    def _lay_down(self) -> Callable[[Sequence[int]], tuple[NDArray, NDArray]]:
        layout, stored = self._layout, self._stored
        is_small = layout.n * layout.n_columns * 4 <= HELD_BYTES
        with stored.open() as pieces:
            if layout.is_by_participant:
                return _lay_rows(stored, layout, pieces, is_small=is_small)
            if is_small and stored.n_bytes <= 3 * HELD_BYTES:
                return _hold(stored, layout, pieces)
            return _lay_blocks(stored, layout, pieces)


def _hold(
    stored: Stored, layout: Layout, pieces: Iterator[bytes | memoryview]
) -> Callable[[Sequence[int]], tuple[NDArray, NDArray]]:
    """Take all, participants fastest, into memory, and keep the rows."""
    buffer = np.empty(stored.n_bytes, dtype=np.uint8)
    _fill(buffer, pieces, stored.file)
    rows, states = layout.rows(buffer.view(stored.dtype).reshape(layout.width, layout.n).T)
    return lambda positions: (_take(rows, positions), states[list(positions)])


def _take(rows: NDArray, positions: Sequence[int]) -> NDArray:
    """Take rows; without a copy where they follow each other."""
    if len(positions) and positions[-1] - positions[0] == len(positions) - 1:
        return rows[positions[0] : positions[-1] + 1]
    return rows[list(positions)]


def _lay_rows(
    stored: Stored,
    layout: Layout,
    pieces: Iterator[bytes | memoryview],
    *,
    is_small: bool,
) -> Callable[[Sequence[int]], tuple[NDArray, NDArray]]:
    """Turn records that come one behind the other into rows."""
    n, n_columns = layout.n, layout.n_columns
    record = layout.width * stored.dtype.itemsize
    states = np.empty(n, dtype=np.int8)
    held = np.empty((n, n_columns), dtype=np.float32) if is_small else None
    spool = None if is_small else Spool(n * n_columns * 4)
    start = 0
    for buffer in _regroup(pieces, record * max(BLOCK_BYTES // record, 1), n * record, stored):
        block = np.frombuffer(buffer, dtype=stored.dtype).reshape(-1, layout.width)
        stop = start + len(block)
        rows, states[start:stop] = layout.rows(block)
        if held is not None:
            held[start:stop] = rows
        elif spool is not None:
            spool.write(start * n_columns * 4, rows)
        start = stop

    def read(positions: Sequence[int]) -> tuple[NDArray, NDArray]:
        if held is not None:
            return _take(held, positions), states[list(positions)]
        rows = np.empty((len(positions), n_columns), dtype=np.float32)
        for place, first, count in _runs(positions, len(positions)):
            if spool is not None:
                offset = first * n_columns * 4
                rows[place : place + count] = spool.read(offset, (count, n_columns), np.float32)
        return rows, states[list(positions)]

    return read


def _regroup(
    pieces: Iterator[bytes | memoryview], size: int, total: int, stored: Stored
) -> Iterator[bytearray]:
    """Cut a stream into pieces of `size` bytes (the last may be smaller), `total` in all."""
    waiting = bytearray()
    left = total
    for piece in pieces:
        waiting += piece
        if len(waiting) > left:
            raise damaged(stored.file, "it holds more than it declares")
        while len(waiting) >= size:
            yield waiting[:size]
            del waiting[:size]
            left -= size
    if len(waiting) != left:
        raise damaged(stored.file, "it is cut short")
    if waiting:
        yield waiting


def _lay_blocks(
    stored: Stored, layout: Layout, pieces: Iterator[bytes | memoryview]
) -> Callable[[Sequence[int]], tuple[NDArray, NDArray]]:
    """Lay down numbers that come with participants fastest, in blocks of participants.

    Both triangles are kept: they can be compared only when a block is whole.
    """
    n, width = layout.n, layout.width
    together = min(max(BLOCK_BYTES // (width * 4), 1), n)
    spool = Spool(n * width * 4)
    size = n * stored.dtype.itemsize
    place = 0
    buffers = _regroup(pieces, size * max(BLOCK_BYTES // size, 1), width * size, stored)
    for buffer in buffers:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(buffer, dtype=stored.dtype).reshape(-1, n).astype(np.float32)
        for first in range(0, n, together):
            block = values[:, first : first + together]
            spool.write((first * width + place * block.shape[1]) * 4, block)
        place += len(values)

    def read(positions: Sequence[int]) -> tuple[NDArray, NDArray]:
        rows = np.empty((len(positions), layout.n_columns), dtype=np.float32)
        states = np.empty(len(positions), dtype=np.int8)
        numbers = np.asarray(positions, dtype=np.intp)
        for block in np.unique(numbers // together):
            first = int(block) * together
            count = min(together, n - first)
            values = spool.read(first * width * 4, (width, count), np.float32)
            here = np.flatnonzero(numbers // together == block)
            rows[here], states[here] = layout.rows(values[:, numbers[here] - first].T)
        return rows, states

    return read


@contextlib.contextmanager
def file_pieces(file: Path, offset: int, n_bytes: int) -> Iterator[Iterator[bytes]]:
    """Open a stretch of a file as pieces."""

    def pieces() -> Iterator[bytes]:
        left = n_bytes
        while left:
            piece = stream.read(min(left, 1 << 20))
            if not piece:
                raise damaged(file, "it is cut short")
            left -= len(piece)
            yield piece

    with file.open("rb") as stream:
        stream.seek(offset)
        yield pieces()
