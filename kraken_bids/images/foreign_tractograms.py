# SPDX-License-Identifier: MIT
"""Tractograms of other formats (``.trk``, ``.trx``) as MRtrix3's ``.tck``, a chunk at a time.

References
----------
``.trx``: a zip archive of ``header.json``, ``positions.3.<dtype>`` (points in mm, RAS) and
``offsets.<dtype>`` (the first point of each streamline). ``.trk``: read by nibabel.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ResourceError
from .tractograms import MAX_STREAMLINE_POINTS, MAX_UNPACKED_RATIO, unpack_tractogram

#: Points converted at a time.
CHUNK_POINTS = 1_000_000
#: Largest ``header.json`` of a ``.trx``.
MAX_HEADER_BYTES = 1 << 20
#: Types of numbers in ``.trx``, by the last part of a member's name.
POSITION_TYPES = ("float16", "float32", "float64")
OFFSET_TYPES = ("uint32", "uint64", "int32", "int64")
#: What a damaged file gives, by format and place of the damage.
DAMAGE = (
    EOFError, zlib.error, zipfile.BadZipFile, struct.error, ValueError, KeyError, TypeError,
    IndexError, OverflowError, RuntimeError, MemoryError,
    nib.streamlines.tractogram_file.HeaderError, nib.streamlines.tractogram_file.DataError,
)  # fmt: skip

#: A piece of a tractogram: points of whole streamlines, and where each streamline ends.
Piece = tuple[NDArray[np.float32], NDArray[np.intp]]


def convert_tractogram(file: Path, out_file: Path) -> Path:
    """Write a tractogram as uncompressed ``.tck``; one that is so already is left where it is.

    Parameters
    ----------
    file
        ``.tck``, ``.tck.gz``, ``.trk`` or ``.trx``; points in mm of the scanner's (RAS) frame, to
        which the affine in the header of ``.trk`` brings them.
    out_file
        Where to.

    Returns
    -------
    Path
        `out_file`, or `file` where nothing was to be done.

    Raises
    ------
    InputError
        If the file is damaged, cut short or empty.
    ResourceError
        If the disk is full.
    """
    readers = {".trk": _read_trk, ".trx": _read_trx}
    if file.suffix not in readers:
        return unpack_tractogram(file, out_file)
    try:
        _write_tck(readers[file.suffix](file), out_file, where=file)
    except DAMAGE as error:
        out_file.unlink(missing_ok=True)
        raise _refuse(file, f"is damaged or cut short: {error}") from error
    except OSError as error:
        out_file.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot convert the tractogram: {error.strerror or error}",
            where=str(file),
            fix="Look at the file, or give a --work-dir on a disk with more room.",
        ) from error
    except InputError:
        out_file.unlink(missing_ok=True)
        raise
    return out_file


def _refuse(file: Path, what: str) -> InputError:
    return InputError(f"tractogram {what}", where=str(file), fix="Copy or make the file again.")


def _write_tck(pieces: Iterator[Piece], out_file: Path, *, where: Path) -> None:
    """Write pieces one after the other; the number of streamlines is filled in at the end."""
    count = 0
    with out_file.open("wb") as stream:
        stream.write(_header(0))
        for points, ends in pieces:
            count += ends.size
            if not np.isfinite(points).all():
                raise _refuse(where, "holds points that are no numbers")
            marks = np.full((ends.size, 3), np.nan, dtype="<f4")
            np.insert(points.astype("<f4"), ends, marks, axis=0).tofile(stream)
        np.full(3, np.inf, dtype="<f4").tofile(stream)
        stream.seek(0)
        stream.write(_header(count))
    if count == 0:
        raise _refuse(where, "holds 0 streamlines")


def _header(count: int) -> bytes:
    text = f"mrtrix tracks\ndatatype: Float32LE\ncount: {count:010d}\nfile: . 80\nEND\n"
    return text.encode().ljust(80, b"\n")


def _read_trk(file: Path) -> Iterator[Piece]:
    """Pieces of a TrackVis file, in mm of the scanner's frame as its header says."""
    lazy = nib.streamlines.load(file, lazy_load=True)
    expected = int(lazy.header["nb_streamlines"])
    held: list[NDArray[np.float32]] = []
    n_points = n_streamlines = 0
    for streamline in lazy.streamlines:
        held.append(np.asarray(streamline, dtype=np.float32))
        n_points += len(streamline)
        n_streamlines += 1
        if n_points >= CHUNK_POINTS:
            yield _joined(held)
            held, n_points = [], 0
    if held:
        yield _joined(held)
    if expected and n_streamlines != expected:
        raise _refuse(file, f"holds {n_streamlines} of {expected} streamlines: it is cut short")


def _joined(streamlines: list[NDArray[np.float32]]) -> Piece:
    return np.concatenate(streamlines), np.cumsum([len(item) for item in streamlines])


def _read_trx(file: Path) -> Iterator[Piece]:
    """Pieces of a TRX archive."""
    with zipfile.ZipFile(file) as archive:
        if archive.getinfo("header.json").file_size > MAX_HEADER_BYTES:
            raise _refuse(file, "has a header of absurd size")
        header = json.loads(archive.read("header.json"))
        n_points, n_streamlines = int(header["NB_VERTICES"]), int(header["NB_STREAMLINES"])
        _check_sizes(archive, file)
        name, kind = _member(archive, r"offsets", OFFSET_TYPES)
        n_offsets = archive.getinfo(name).file_size // kind.itemsize
        if n_offsets not in {n_streamlines, n_streamlines + 1}:
            raise _refuse(file, "has offsets that do not fit its header")
        starts = np.frombuffer(archive.read(name), dtype=kind).astype(np.intp)
        if starts.size == n_streamlines:
            starts = np.append(starts, n_points)
        fits = starts.size == n_streamlines + 1 and (np.diff(starts) >= 0).all()
        if not fits or (n_streamlines and (starts[0], starts[-1]) != (0, n_points)):
            raise _refuse(file, "has offsets that do not fit its header")
        name, kind = _member(archive, r"positions\.3", POSITION_TYPES)
        if archive.getinfo(name).file_size != 3 * kind.itemsize * n_points:
            raise _refuse(file, "has another number of points than its header says")
        with archive.open(name) as stream:
            yield from _trx_pieces(stream, kind, starts)


def _check_sizes(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse an archive that unpacks to far more than coordinates can."""
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > MAX_UNPACKED_RATIO * file.stat().st_size:
        raise _refuse(file, f"claims to unpack to {unpacked} bytes")


def _member(
    archive: zipfile.ZipFile, stem: str, types: tuple[str, ...]
) -> tuple[str, np.dtype[Any]]:
    """Name and number type of an array at the top of the archive."""
    for name in archive.namelist():
        match = re.fullmatch(rf"{stem}\.(\w+)", name)
        if match and match[1] in types:
            return name, np.dtype(match[1]).newbyteorder("<")
    raise KeyError(f"no array {stem} of a known type in the archive")


def _trx_pieces(
    stream: IO[bytes], kind: np.dtype[Any], starts: NDArray[np.intp]
) -> Iterator[Piece]:
    """Points of so many whole streamlines as fit into a chunk, at least one."""
    first = 0
    while first < starts.size - 1:
        last = int(np.searchsorted(starts, starts[first] + CHUNK_POINTS, side="right")) - 1
        last = min(max(last, first + 1), starts.size - 1)
        n_points = int(starts[last] - starts[first])
        if n_points > MAX_STREAMLINE_POINTS:
            raise ValueError(f"a streamline of {n_points} points")
        points = np.frombuffer(stream.read(3 * kind.itemsize * n_points), dtype=kind)
        yield (
            points.reshape(-1, 3).astype(np.float32),
            starts[first + 1 : last + 1] - starts[first],
        )
        first = last
