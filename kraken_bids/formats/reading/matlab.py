# SPDX-License-Identifier: MIT
"""MATLAB's files, formats 5 and 7, read as a stream; format 7.3 goes to `matlab_hdf5`.

A file is a chain of elements, each with a tag (type, number of bytes), mostly compressed by
itself. Opening reads the heads of the variables: classes, sizes and names, ids and structures;
the numbers are gone through when they are asked for, some at a time. Everything that the file
declares is held against the bytes that are there before memory is taken.

References
----------
MathWorks, MAT-File Format, version 5: tables 1-1 to 1-3 (types, classes), figures 1-1 to 1-9.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from zlib_ng import zlib_ng

from ...errors import InputError
from ...storage import MAX_DEFLATE_RATIO
from ..inputs import FlavorInput, Wanted
from .fields import Field, Fields, Unread, open_fields
from .records import SMALL_BYTES, Stored, damaged

_HEADER_BYTES = 128
_UNREADABLE = (OSError, UnicodeDecodeError, cast("type[Exception]", zlib_ng.error))
#: Types of elements that hold other than numbers.
_MATRIX, _COMPRESSED = 14, 15
#: Types of numbers, as NumPy calls them.
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
#: Types of text, beside numbers, which are code points.
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
#: Classes of numbers in memory, whatever type they are stored as.
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
_COMPLEX = 0x08
_MAX_DEPTH = 8
_MAX_AXES = 8
#: Compressed bytes of a cell array up to which its sizes are checked when it is opened.
_EAGER_BYTES = 4 << 20
_INPUT_BYTES = 1 << 16
#: Pieces that stay in the processor's cache are faster than large ones (measured: 64 to 256 KB).
_OUTPUT_BYTES = 1 << 18


def open_mat(file: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open a ``.mat`` file. An `Opener`."""
    return open_fields(read_fields(file), file, wanted)


def read_fields(file: Path, *, cell_type: str = "f4") -> Fields:
    """Read what a ``.mat`` file holds; numbers stay in the file.

    Parameters
    ----------
    file
        Of format 5, 7 or 7.3.
    cell_type
        NumPy's name of the type that matrices in cells become.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        with file.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except OSError as error:
        raise damaged(file, error) from error
    if len(header) < _HEADER_BYTES:
        raise damaged(file, "it is cut short")
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    version = int.from_bytes(header[124:126], "little" if order == "<" else "big")
    if header.startswith(b"\x89HDF\r\n\x1a\n") or (order and version == 0x0200):
        from . import matlab_hdf5

        return matlab_hdf5.read_fields(file, cell_type=cell_type)
    if order is None or version != 0x0100:
        raise damaged(file, "it is no MATLAB file of format 5, 7 or 7.3")
    try:
        return dict(_variables(file, order, cell_type))
    except _UNREADABLE as error:
        raise damaged(file, error) from error


@dataclass(frozen=True)
class _Element:
    """A variable's place in the file.

    Parameters
    ----------
    file, order
        File and its byte order, ``<`` or ``>``.
    offset, n_bytes
        Of the compressed bytes, or of the plain ones.
    is_compressed
        Whether the bytes are deflated.
    cell_type
        What matrices in cells become.
    """

    file: Path
    order: str
    offset: int
    n_bytes: int
    is_compressed: bool
    cell_type: str = "f4"

    @property
    def limit(self) -> int:
        """Most bytes that it can hold."""
        return self.n_bytes * (MAX_DEFLATE_RATIO if self.is_compressed else 1)

    @contextlib.contextmanager
    def open(self) -> Iterator[_Reader]:
        """Open its plain bytes from the start."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            yield _Reader(self, stream)


class _Reader:
    """The plain bytes of an element, in order."""

    def __init__(self, element: _Element, stream: IO[bytes]) -> None:
        self.element, self.position = element, 0
        self._stream, self._left = stream, element.n_bytes
        self._inflate = zlib_ng.decompressobj() if element.is_compressed else None
        self._waiting = b""  # inflated, not yet given out

    def read(self, count: int) -> bytes:
        """Read so many bytes, few: not more than `SMALL_BYTES`."""
        if count > SMALL_BYTES:
            raise damaged(self.element.file, f"{count} bytes where few are expected")
        return b"".join(self.pieces(count))

    def skip(self, count: int) -> None:
        """Go on by so many bytes."""
        if self._inflate is None and count > len(self._waiting):
            further = count - len(self._waiting)
            self._stream.seek(further, 1)
            self._waiting = b""
            self._left -= further
            self.position += count
            if self._left < 0:
                raise damaged(self.element.file, "it is cut short")
            return
        for _ in self.pieces(count):
            pass

    def pieces(self, count: int) -> Iterator[bytes]:
        """Read so many bytes, some at a time."""
        while count > 0:
            piece = self._waiting or self._next()
            if not piece:
                raise damaged(self.element.file, "it is cut short")
            self._waiting = piece[count:]
            piece = piece[:count]
            count -= len(piece)
            self.position += len(piece)
            yield piece

    def _next(self) -> bytes:
        if self._inflate is None:
            return self._input()
        piece = b""
        while not piece and not self._inflate.eof:
            given = self._inflate.unconsumed_tail or self._input()
            piece = self._inflate.decompress(given, _OUTPUT_BYTES)
            if not given and not piece:
                break
        return piece

    def _input(self) -> bytes:
        piece = self._stream.read(min(_INPUT_BYTES, self._left))
        self._left -= len(piece)
        return piece

    def check_end(self) -> None:
        """Go on to the end of a compressed element, where its checksum is held against it."""
        if self._inflate is None:
            return
        while self._waiting or not self._inflate.eof:
            self._waiting = b""
            if not self._next() and not self._inflate.eof:
                raise damaged(self.element.file, "it is cut short")

    def tag(self) -> tuple[int, int, bytes | None]:
        """Read a tag: type, number of bytes, and the bytes themselves if they lie in the tag."""
        words = np.frombuffer(self.read(8), dtype=f"{self.element.order}u4")
        kind, count = int(words[0]), int(words[1])
        if kind >> 16:  # small element: up to four bytes in place of their number
            count = kind >> 16
            if count > 4:
                raise damaged(self.element.file, f"a small element of {count} bytes")
            return kind & 0xFFFF, count, words[1:].tobytes()[:count]
        return kind, count, None

    def element_bytes(self) -> tuple[int, bytes]:
        """Read a whole element that is small: type and bytes."""
        kind, count, inside = self.tag()
        if inside is not None:
            return kind, inside
        content = self.read(count)
        self.skip(-count % 8)
        return kind, content

    def integers(self) -> list[int]:
        """Read a whole element of integers."""
        kind, content = self.element_bytes()
        dtype = _NUMBERS.get(kind, "")
        if dtype[:1] not in {"i", "u"} or len(content) % int(dtype[1]):
            raise damaged(self.element.file, f"numbers of type {kind}")
        values: list[int] = np.frombuffer(content, dtype=f"{self.element.order}{dtype}").tolist()
        return values


def _variables(file: Path, order: str, cell_type: str) -> Iterator[tuple[str, Field]]:
    """Go through the variables of a file: name and field."""
    size = file.stat().st_size
    offset = _HEADER_BYTES
    while offset + 8 <= size:
        with file.open("rb") as stream:
            stream.seek(offset)
            kind, count = np.frombuffer(stream.read(8), dtype=f"{order}u4").tolist()
        if kind not in {_MATRIX, _COMPRESSED}:
            raise damaged(file, f"an element of type {kind}")
        if offset + 8 + count > size:
            raise damaged(file, "it is cut short")
        # The tag of a plain element is read again: so both begin alike.
        element = (
            _Element(file, order, offset + 8, count, True, cell_type)
            if kind == _COMPRESSED
            else _Element(file, order, offset, count + 8, False, cell_type)
        )
        with element.open() as reader:
            name, field, _ = _parse(reader, depth=0)
        if name:  # what MATLAB adds for its own use has none
            yield name, field
        offset += 8 + count


@dataclass(frozen=True)
class _Head:
    """What stands before the content of an array."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    end: int

    @property
    def n(self) -> int:
        """Number of values, cells or structures."""
        return math.prod(self.shape)


def _parse(reader: _Reader, *, depth: int) -> tuple[str, Field, int]:
    """Read one array: its name, its field and where it ends; its numbers are not gone through."""
    file = reader.element.file
    kind, count, _ = reader.tag()
    end = reader.position + count
    if kind != _MATRIX or end > reader.element.limit or depth > _MAX_DEPTH:
        raise damaged(file, f"an element of type {kind} with {count} bytes")
    if count == 0:
        return "", Unread("an empty array"), end
    head = _read_head(reader, end)
    if head.kind in _CLASSES and not head.is_complex:
        return head.name, _numbers(reader, head), end
    if head.kind == _CHAR:
        return head.name, _texts(reader, head), end
    if head.kind == _CELL:
        return head.name, _cells(reader, head, depth), end
    if head.kind == _STRUCT and head.n == 1:
        return head.name, _group(reader, depth), end
    what = "complex numbers" if head.is_complex else f"class {head.kind}"
    return head.name, Unread(what), end


def _read_head(reader: _Reader, end: int) -> _Head:
    """Read class, shape and name."""
    flags = reader.integers()
    if not flags:
        raise damaged(reader.element.file, "an array without a class")
    kind = flags[0] & 0xFF
    if kind not in {*_CLASSES, _CELL, _STRUCT, _CHAR, 3, 5, 16}:
        return _Head(kind, is_complex=False, shape=(), name="", end=end)
    shape = tuple(reader.integers())
    _, name = reader.element_bytes()
    if not 2 <= len(shape) <= _MAX_AXES or min(shape) < 0 or reader.position > end:
        raise damaged(reader.element.file, f"an array of shape {shape}")
    return _Head(
        kind=kind,
        is_complex=bool(flags[0] >> 8 & _COMPLEX),
        shape=shape,
        name=name.decode("utf-8"),
        end=end,
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out axes of length one: MATLAB knows no vectors."""
    return tuple(size for size in shape if size != 1)


def _numbers(reader: _Reader, head: _Head) -> Stored:
    """Find where the numbers of an array lie."""
    element = reader.element
    kind, count, inside = reader.tag()
    dtype = np.dtype(element.order + _NUMBERS.get(kind, "V1"))
    start = reader.position - (4 if inside is not None else 0)
    is_whole = head.n * dtype.itemsize == count and start + count <= head.end
    if kind not in _NUMBERS or not is_whole or start + count > element.limit:
        raise damaged(element.file, f"{count} bytes of type {kind} for shape {head.shape}")
    shape = _squeezed(head.shape)

    @contextlib.contextmanager
    def pieces() -> Iterator[Iterator[bytes]]:
        def go(reader: _Reader) -> Iterator[bytes]:
            try:
                reader.skip(start)
                yield from reader.pieces(count)
                if head.end - reader.position < 8:  # nothing else in this element
                    reader.check_end()
            except _UNREADABLE as error:
                raise damaged(element.file, error) from error

        with element.open() as again:
            yield go(again)

    return Stored(
        file=element.file,
        shape=shape,
        dtype=dtype,
        axes=tuple(reversed(range(len(shape)))),
        open=pieces,
        offset=None if element.is_compressed else element.offset + start,
    )


def _texts(reader: _Reader, head: _Head) -> str | list[str]:
    """Read text: one, or one a row."""
    kind, content = reader.element_bytes()
    order = reader.element.order
    if kind in _TEXTS:
        suffix = {"<": "-le", ">": "-be"}[order] if kind != 16 else ""
        text = content.decode(_TEXTS[kind] + suffix)
    elif kind in {1, 2, 4}:
        text = "".join(map(chr, np.frombuffer(content, dtype=order + f"u{min(kind, 2)}").tolist()))
    else:
        raise damaged(reader.element.file, f"text of type {kind}")
    n_rows = head.shape[0]
    if len(text) != head.n:
        raise damaged(reader.element.file, f"{len(text)} letters for shape {head.shape}")
    if n_rows == 1 or not text:
        return text
    return [text[row::n_rows] for row in range(n_rows)]  # column by column


def _cells(reader: _Reader, head: _Head, depth: int) -> Field:
    """Read a cell array: one array of all if it holds matrices, else a list."""
    file = reader.element.file
    if head.n * 8 > head.end - reader.position:
        raise damaged(file, f"{head.n} cells in {head.end - reader.position} bytes")
    start = reader.position
    cells: list[Field] = []
    for _ in range(head.n):
        _, field, end = _parse(reader, depth=depth + 1)
        if not cells and isinstance(field, Stored) and math.prod(field.shape) > 1:
            return _stack(reader.element, field, start, head.n)
        cells.append(field)
        _go_on(reader, end)
    return cells


def _go_on(reader: _Reader, end: int) -> None:
    """Go to the end of an array."""
    if end < reader.position:
        raise damaged(reader.element.file, "an array is longer than it declares")
    reader.skip(end - reader.position)


def _group(reader: _Reader, depth: int) -> dict[str, Field]:
    """Read a structure."""
    length = (reader.integers() or [0])[0]
    _, names = reader.element_bytes()
    if length < 1 or len(names) % length:
        raise damaged(reader.element.file, f"names of {length} letters")
    group: dict[str, Field] = {}
    for start in range(0, len(names), length):
        name = names[start : start + length].split(b"\0")[0].decode("utf-8")
        _, group[name], end = _parse(reader, depth=depth + 1)
        _go_on(reader, end)
    return group


def _stack(element: _Element, first: Stored, start: int, n: int) -> Stored:
    """Make one array of a cell array of matrices of one size.

    MATLAB stores each cell in the smallest type that holds its values; all of them become the
    element's `cell_type`.
    """
    shape = first.shape
    dtype = np.dtype(element.cell_type if len(shape) > 1 else "f8")
    if not element.is_compressed or element.n_bytes <= _EAGER_BYTES:
        with element.open() as reader:
            reader.skip(start)
            for _ in _each_cell(reader, n, shape):
                pass

    def go(reader: _Reader) -> Iterator[bytes]:
        try:
            reader.skip(start)
            for cell in _each_cell(reader, n, shape):
                if cell.n_bytes <= 4:  # it may lie in its tag
                    values = cell.load().T
                else:
                    values = np.frombuffer(reader.read(cell.n_bytes), dtype=cell.dtype)
                with np.errstate(over="ignore", invalid="ignore"):
                    yield np.ascontiguousarray(values, dtype=dtype).tobytes()
        except _UNREADABLE as error:
            raise damaged(element.file, error) from error

    @contextlib.contextmanager
    def pieces() -> Iterator[Iterator[bytes]]:
        with element.open() as reader:
            yield go(reader)

    return Stored(
        file=element.file,
        shape=(n, *shape),
        dtype=dtype,
        axes=(0, *reversed(range(1, len(shape) + 1))),
        open=pieces,
    )


def _each_cell(reader: _Reader, n: int, shape: tuple[int, ...]) -> Iterator[Stored]:
    """Go through cells of numbers; each is given with the reader before its values."""
    for number in range(n):
        _, field, end = _parse(reader, depth=0)
        if not isinstance(field, Stored) or field.shape != shape:
            found = f"shape {field.shape}" if isinstance(field, Stored) else "no numbers"
            raise InputError(
                f"cells differ: the first has shape {shape}, number {number + 1} has {found}",
                where=str(reader.element.file),
                fix="Use one atlas for all participants, and leave out those without data.",
            )
        yield field
        _go_on(reader, end)
