# SPDX-License-Identifier: MIT
"""What can be told of an image without reading it: that it is whole, and its repetition time."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import check_content

#: Seconds in the time units of NIfTI headers other than seconds.
TIME_UNITS_S = {"msec": 1e-3, "usec": 1e-6}
#: Bytes inflated at a time where a whole file must be looked at.
CHUNK_BYTES = 1 << 22

_RESTORE = "Copy the file again, or run the program that wrote it again."


def check_image(path: Path) -> None:
    """Make sure that an image is here and not cut short.

    The size that the header promises is compared with that of the file, or, of a gzipped file,
    with the uncompressed size in its last four bytes (RFC 1952). Only where these differ, which a
    file of several gzip members does too, is the file inflated to find out.

    Raises
    ------
    InputError
        If the file is missing, empty, no image, or shorter than its header promises.
    """
    check_content(path)
    image = _load(path)
    promised = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    is_whole, there = True, _stored_bytes(path)
    if path.suffix == ".gz" and there == promised % (1 << 32):
        return
    if path.suffix == ".gz":
        is_whole, there = _inflate(path, promised)
    if not is_whole or there < promised:
        sizes = " x ".join(str(size) for size in image.shape)
        raise InputError(
            f"the image is cut short or damaged: its header promises {sizes} values ({promised} "
            f"bytes), {there} bytes can be read",
            where=str(path),
            fix=_RESTORE,
        )


def header_repetition_time(path: Path) -> float:
    """Fourth voxel size of a header in seconds; 0 if there is none.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    check_content(path)
    header: Any = _load(path).header
    zooms, (_, unit) = header.get_zooms(), header.get_xyzt_units()
    return round(float(zooms[3]) * TIME_UNITS_S.get(unit, 1.0), 6) if len(zooms) > 3 else 0.0


def _load(path: Path) -> Any:
    """Open a NIfTI image; its values are not read."""
    import nibabel as nb

    from ..image_loading import UNREADABLE, load_image

    try:
        image = load_image(path)
    except UNREADABLE as error:
        raise InputError(
            "the image is cut short or damaged: its header cannot be read",
            where=str(path),
            fix=_RESTORE,
        ) from error
    if not isinstance(image, nb.Nifti1Image):
        raise InputError(
            f"the image is of type {type(image).__name__}, not a NIfTI volume",
            where=str(path),
            fix="Give the volumetric series: fMRIPrep --output-spaces MNI152NLin6Asym:res-2 T1w.",
        )
    return image


def _stored_bytes(path: Path) -> int:
    """Size of a file; of a gzipped one the uncompressed size that it tells, modulo 2^32."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        end = file.read(4)
    return int(struct.unpack("<I", end)[0]) if len(end) == 4 else 0


def _inflate(path: Path, wanted: int) -> tuple[bool, int]:
    """Whether a gzipped file can be read to its end, or beyond what is wanted, and bytes read."""
    n_bytes = 0
    try:
        with gzip.open(path) as stream:
            while n_bytes <= wanted and (chunk := stream.read1(CHUNK_BYTES)):
                n_bytes += len(chunk)
    except (OSError, EOFError, zlib.error):
        return False, n_bytes
    return True, n_bytes
