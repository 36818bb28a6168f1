# SPDX-License-Identifier: MIT
"""NumPy's files of connectomes, ``.npy`` and ``.npz``, read some participants at a time.

Nothing pickled is loaded: only the headers are parsed, by NumPy, and refused if they say that
objects follow.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import InputError
from ..inputs import FlavorInput, Wanted
from .fields import open_fields
from .records import Stored, damaged, file_pieces

#: Bytes of a local header of a zip archive, before the name; `zipfile` does not tell them.
_ZIP_HEADER = struct.Struct("<4s22xHH")
_PIECE_BYTES = 1 << 20
#: Longest header of an array that NumPy takes.
_LONGEST_HEADER = 10_000
#: By version of the format: bytes of the header's length, and what parses length and header.
_HEADERS: dict[tuple[int, int], tuple[int, Callable[[IO[bytes]], Any]]] = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
_UNREADABLE = (
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile,
    zlib.error, SyntaxError, tokenize.TokenError, MemoryError,  # NumPy parses heads as Python
)  # fmt: skip


def open_npy(file: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open an ``.npy`` file, which has no ids. An `Opener`."""
    try:
        with file.open("rb") as stream:
            shape, is_fortran, dtype = _read_header(stream, file)
            offset = stream.tell()
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    n_bytes = math.prod(shape) * dtype.itemsize
    if file.stat().st_size - offset != n_bytes:
        raise damaged(file, f"{file.stat().st_size - offset} bytes in place of {n_bytes}")
    stored = Stored(
        file=file,
        shape=shape,
        dtype=dtype,
        axes=_axes(len(shape), is_fortran=is_fortran),
        open=lambda: file_pieces(file, offset, n_bytes),
        offset=offset,
    )
    return open_fields({"data": stored}, file, wanted)


def open_npz(file: Path, wanted: Wanted) -> dict[str, FlavorInput]:
    """Open an ``.npz`` file. An `Opener`."""
    return open_fields(read_members(file), file, wanted)


def read_members(file: Path) -> dict[str, Stored]:
    """Read the headers of the arrays of an ``.npz`` file, by name.

    Raises
    ------
    InputError
        If the file is damaged, or holds Python objects.
    """
    fields: dict[str, Stored] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    field = _open_member(archive, info, file)
                    fields[info.filename.removesuffix(".npy")] = field
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    return fields


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> Stored:
    """Read the header of one array of an ``.npz`` file."""
    with archive.open(info) as stream:
        shape, is_fortran, dtype = _read_header(stream, file)
        start = stream.tell()
    n_bytes = math.prod(shape) * dtype.itemsize
    if info.file_size - start != n_bytes:
        raise damaged(file, f"'{info.filename}' is cut short")
    offset = None
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        offset = _place(file, info) + start
    return Stored(
        file=file,
        shape=shape,
        dtype=dtype,
        axes=_axes(len(shape), is_fortran=is_fortran),
        open=lambda: _member_pieces(file, info.filename, start),
        offset=offset,
    )


def _read_header(stream: IO[bytes], file: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and type of an array."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise damaged(file, f"version {version} of the format")
    n_bytes, parse = _HEADERS[version]
    length = stream.read(n_bytes)
    if int.from_bytes(length, "little") > _LONGEST_HEADER:  # NumPy would read it first
        raise damaged(file, f"a header of {int.from_bytes(length, 'little')} bytes")
    text = stream.read(int.from_bytes(length, "little"))
    shape, is_fortran, dtype = parse(io.BytesIO(length + text))
    if any(size < 0 for size in shape):
        raise damaged(file, f"an array of shape {shape}")
    if dtype.hasobject or dtype.names is not None:
        raise InputError(
            "holds Python objects, which are not loaded",
            where=str(file),
            fix="Store plain numbers and texts.",
        )
    return shape, is_fortran, dtype


def _axes(n_axes: int, *, is_fortran: bool) -> tuple[int, ...]:
    """Axes from the slowest to the fastest."""
    return tuple(reversed(range(n_axes))) if is_fortran else tuple(range(n_axes))


def _place(file: Path, info: zipfile.ZipInfo) -> int:
    """Find where a member's bytes begin in the file."""
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(_ZIP_HEADER.size)
    if len(header) < _ZIP_HEADER.size or header[:4] != b"PK\3\4":
        raise damaged(file, f"'{info.filename}' is not where the archive says")
    _, n_name, n_extra = _ZIP_HEADER.unpack(header)
    return info.header_offset + _ZIP_HEADER.size + int(n_name) + int(n_extra)


@contextlib.contextmanager
def _member_pieces(file: Path, name: str, start: int) -> Iterator[Iterator[bytes]]:
    """Open the bytes of a compressed array."""

    def pieces(stream: IO[bytes]) -> Iterator[bytes]:
        try:
            _skip(stream, start)
            while piece := stream.read(_PIECE_BYTES):
                yield piece
        except _UNREADABLE as error:
            raise damaged(file, error) from error

    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
            stream: Any = stack.enter_context(archive.open(name))
        except _UNREADABLE as error:
            raise damaged(file, error) from error
        yield pieces(stream)


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        piece = stream.read(min(count, _PIECE_BYTES))
        if not piece:
            return
        count -= len(piece)
