# SPDX-License-Identifier: MIT
"""MRtrix3 tractograms (``.tck``): headers, ends and lengths, in one pass and little memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ResourceError

MAGIC = b"mrtrix tracks"

#: Number types of the format, by the header's name.
DATATYPES = {"Float32LE": "<f4", "Float32BE": ">f4", "Float64LE": "<f8", "Float64BE": ">f8"}

#: Longest header that is read; those with a long history of commands have some kilobytes.
MAX_HEADER_BYTES = 1 << 20
#: Most points of a streamline; a step of 0.1 mm and MRtrix3's longest streamlines give 3000.
MAX_STREAMLINE_POINTS = 1 << 20
#: Coordinates shrink little when packed: what unpacks to more than so many times is no tractogram.
MAX_UNPACKED_RATIO = 100

#: Points read at a time: 0.8 MB of 32-bit triplets, which stay in the processor's cache.
CHUNK_POINTS = 1 << 16


def _refuse(file: Path, what: str) -> InputError:
    return InputError(
        f"tractogram {what}",
        where=str(file),
        fix="Copy or make the file again; streamlines must be in MRtrix3's .tck format.",
    )


def unpack_tractogram(file: Path, out_file: Path) -> Path:
    """Write the uncompressed tractogram; one that is not compressed is left where it is.

    Returns
    -------
    Path
        `out_file`, or `file` where nothing was to be done.

    Raises
    ------
    InputError
        If the compressed file is damaged or cut short.
    ResourceError
        If the disk is full.
    """
    if file.suffix != ".gz":
        return file
    try:
        with gzip.open(file, "rb") as packed, out_file.open("wb") as unpacked:
            most = MAX_UNPACKED_RATIO * file.stat().st_size
            while piece := packed.read(1 << 22):
                _require_room(unpacked.tell() + len(piece), most)
                unpacked.write(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        out_file.unlink(missing_ok=True)
        raise _refuse(file, f"is damaged or cut short: {error}") from error
    except OSError as error:
        out_file.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot unpack the tractogram: {error.strerror or error}",
            where=str(file),
            fix="Give a --work-dir on a disk with more room.",
        ) from error
    return out_file


def _require_room(n_bytes: int, most: int) -> None:
    if n_bytes > most:
        raise EOFError(f"it unpacks to more than {MAX_UNPACKED_RATIO} times its size")


def read_header(file: Path) -> dict[str, str]:
    """Read the header of a tractogram.

    Returns
    -------
    dict
        Its ``key: value`` lines; of a key that is met more than once, the last.

    Raises
    ------
    InputError
        If the file is missing or not a tractogram in this format.
    """
    header: dict[str, str] = {}
    try:
        with file.open("rb") as stream:
            if stream.readline(64).strip() != MAGIC:
                raise _refuse(file, "does not begin as a .tck file does")
            text, end, _ = stream.read(MAX_HEADER_BYTES).partition(b"\nEND")
    except OSError as error:
        raise _refuse(file, f"cannot be read: {error.strerror}") from error
    if not end:
        raise _refuse(file, "has a header without END")
    for line in text.decode("utf-8", errors="replace").split("\n"):
        key, _, value = line.partition(":")
        header[key.strip()] = value.strip()
    if header.get("datatype") not in DATATYPES or not header.get("file", "").startswith(". "):
        raise _refuse(file, "has a header without known 'datatype' and 'file'")
    return header


@dataclass(frozen=True)
class Streamlines:
    """Where some streamlines in a row begin and end, and how long they are.

    Parameters
    ----------
    ends
        (n_streamlines, 2, 3), first and last point, RAS mm; NaN for a streamline without points.
    lengths_mm
        (n_streamlines,); 0 for a streamline of one point or none.
    """

    ends: NDArray[np.float32]
    lengths_mm: NDArray[np.float32]


def iterate_streamlines(file: Path) -> Iterator[Streamlines]:
    """Go through the streamlines of a file in its order, some thousands at a time.

    Memory does not grow with the file, and every point is read once.

    Parameters
    ----------
    file
        ``.tck`` file.

    Raises
    ------
    InputError
        If the file is not a tractogram, is cut short, or holds no streamline.
    """
    header = read_header(file)
    buffer = np.empty((CHUNK_POINTS, 3), dtype=DATATYPES[header["datatype"]])
    n_kept, n_streamlines, ended = 0, 0, False
    with file.open("rb") as stream:
        stream.seek(data_offset(file, header))
        while not ended:
            if n_kept > MAX_STREAMLINE_POINTS:
                raise _refuse(file, f"has a streamline of more than {n_kept} points")
            if n_kept == len(buffer):  # one streamline fills it
                wider = np.empty((2 * n_kept, 3), dtype=buffer.dtype)  # byte order as in the file
                wider[:n_kept] = buffer
                buffer = wider
            n_bytes = stream.readinto(buffer[n_kept:].reshape(-1).view(np.uint8).data)
            if n_bytes == 0:
                raise _refuse(file, "is cut short: it has no end mark")
            points = buffer[: n_kept + n_bytes // (3 * buffer.itemsize)]
            marks = np.flatnonzero(~np.isfinite(points[:, 0]))
            ends = np.flatnonzero(np.isinf(points[marks, 0]))
            if ends.size:
                marks, ended = marks[: ends[0]], True
            n_whole = int(marks[-1]) + 1 if marks.size else 0
            if marks.size:
                n_streamlines += len(marks)
                yield _measure(points[:n_whole].astype(np.float32, copy=False), marks)
            n_kept = len(points) - n_whole
            buffer[:n_kept] = points[n_whole:].copy()
    if n_streamlines == 0:
        raise InputError(
            "the tractogram holds 0 streamlines",
            where=str(file),
            fix="Look at the FODs, the mask and the five-tissue image: nothing could be tracked.",
        )


def data_offset(file: Path, header: dict[str, str]) -> int:
    """Place of the first point in a file, as its header says.

    Raises
    ------
    InputError
        If the header says no place, or one beyond the file's end.
    """
    place = header["file"].split()[-1]
    if not place.isdecimal() or len(place) > 18 or int(place) > file.stat().st_size:
        raise _refuse(file, f"has a header without known 'file': '{header['file'][:80]}'")
    return int(place)


def _measure(points: NDArray[np.float32], marks: NDArray[np.intp]) -> Streamlines:
    """Ends and lengths of streamlines that rows of NaN at `marks` end."""
    firsts = np.concatenate([[0], marks[:-1] + 1])
    lasts = np.maximum(marks - 1, firsts)  # the mark itself where there is no point
    moves = points[1:] - points[:-1]
    moves *= moves
    steps = np.zeros(len(points), dtype=np.float32)
    np.sqrt(moves[:, 0] + moves[:, 1] + moves[:, 2], out=steps[:-1])
    steps[marks] = steps[lasts] = 0  # from the mark on, and to it
    return Streamlines(
        ends=points[np.stack([firsts, lasts], axis=1)],
        lengths_mm=np.add.reduceat(steps, firsts, dtype=np.float64).astype(np.float32),
    )


#: How the training tractograms were made: header key, value by algorithm, and what to say of
#: another value. A key that a header lacks is not told.
TRAINING_HEADER: tuple[tuple[str, dict[str, float], str], ...] = (
    ("min_dist", {"ifod2act": 2.5, "sdstream": 6.25}, "shortest streamline {:g} mm"),
    ("max_dist", {"ifod2act": 300.0, "sdstream": 300.0}, "longest streamline {:g} mm"),
    ("step_size", {"ifod2act": 0.625, "sdstream": 0.125}, "step {:g} mm"),
    ("max_angle", {"ifod2act": 45.0, "sdstream": 60.0}, "angle {:g} degrees"),
    ("threshold", {"ifod2act": 0.06, "sdstream": 0.06}, "cut-off {:g}"),
    ("fod_power", {"ifod2act": 0.25}, "FOD amplitudes to the power of {:g}"),
    ("backtrack", {"ifod2act": 0.0}, "backtracking"),
    ("crop_at_gmwmi", {"ifod2act": 0.0}, "ends cropped at the border of grey and white matter"),
)


def describe_bias(header: dict[str, str], *, algorithm: str) -> tuple[str, ...]:
    """Say in what a tractogram was made otherwise than those of the model's training.

    Parameters
    ----------
    header
        As `read_header` gives it.
    algorithm
        ``ifod2act`` or ``sdstream``.

    Returns
    -------
    tuple of str
        A phrase a difference.
    """
    phrases = []
    for key, values, phrase in TRAINING_HEADER:
        wanted = values.get(algorithm)
        met = _number(header.get(key, ""))
        if wanted is not None and met is not None and abs(met - wanted) > 1e-4:
            phrases.append(phrase.format(met))
    if algorithm == "ifod2act" and "act" not in header:
        phrases.append("no anatomical constraints noted")
    if "seed_dynamic" not in header:
        phrases.append("seeding not dynamic")
    return tuple(phrases)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
