# SPDX-License-Identifier: MIT
"""MRtrix3 tractograms (``.tck``): headers and lengths, in one pass and little memory."""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ResourceError

MAGIC = b"mrtrix tracks"

#: Number types of the format, by the header's name.
DATATYPES = {"Float32LE": "<f4", "Float32BE": ">f4", "Float64LE": "<f8", "Float64BE": ">f8"}

#: Points read at a time: 48 MB of 32-bit triplets.
CHUNK_POINTS = 4_000_000


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
            shutil.copyfileobj(packed, unpacked, 1 << 22)
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
            for line in stream:
                text = line.decode("utf-8", errors="replace").strip()
                if text == "END":
                    break
                key, _, value = text.partition(":")
                header[key.strip()] = value.strip()
    except OSError as error:
        raise _refuse(file, f"cannot be read: {error.strerror}") from error
    if header.get("datatype") not in DATATYPES or not header.get("file", "").startswith(". "):
        raise _refuse(file, "has a header without known 'datatype' and 'file'")
    return header


def measure_streamlines(file: Path) -> NDArray[np.float32]:
    """Length of every streamline.

    Parameters
    ----------
    file
        ``.tck`` file.

    Returns
    -------
    NDArray
        (n_streamlines,), mm; 0 for a streamline of one point or none.

    Raises
    ------
    InputError
        If the file is not a tractogram, is cut short, or holds no streamline.
    """
    header = read_header(file)
    number = np.dtype(DATATYPES[header["datatype"]])
    lengths: list[NDArray[np.float32]] = []
    rest = np.empty((0, 3), dtype=number)
    ended = False
    with file.open("rb") as stream:
        stream.seek(int(header["file"].split()[-1]))
        while not ended:
            values = np.fromfile(stream, dtype=number, count=3 * CHUNK_POINTS)
            if values.size == 0:
                raise _refuse(file, "is cut short: it has no end mark")
            points = np.concatenate([rest, values[: values.size // 3 * 3].reshape(-1, 3)])
            ends = np.flatnonzero(np.isinf(points[:, 0]))
            if ends.size:
                points, ended = points[: ends[0]], True
            breaks = np.flatnonzero(np.isnan(points[:, 0]))
            whole = breaks[-1] + 1 if breaks.size else 0
            lengths.append(_lengths(points[:whole], breaks))
            rest = points[whole:]
    result = np.concatenate(lengths)
    if result.size == 0:
        raise InputError(
            "the tractogram holds 0 streamlines",
            where=str(file),
            fix="Look at the FODs, the mask and the five-tissue image: nothing could be tracked.",
        )
    return result


def _lengths(points: NDArray[np.floating], breaks: NDArray[np.intp]) -> NDArray[np.float32]:
    """Lengths of streamlines that are separated by rows of NaN at `breaks`."""
    if breaks.size == 0:
        return np.empty(0, dtype=np.float32)
    steps = np.linalg.norm(np.diff(points.astype(np.float32), axis=0), axis=1)
    # Steps to and from a separator are NaN; sums run from one separator to the next.
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(steps), dtype=np.float64)])
    starts = np.concatenate([[0], breaks[:-1]])
    lengths: NDArray[np.float32] = (sums[breaks] - sums[starts]).astype(np.float32)
    return lengths


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
